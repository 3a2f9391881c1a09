//! `nydusd`'s configuration for one image: the operator's template with what the image needs.
//! Keys that are not known here stay as they are.

use crate::registry::credentials::Credential;
use crate::registry::reference::{self, host_and_repository};
use nydus_mount_slice::Secret;
use serde_json::{Map, Value, json};
use std::path::Path;

/// What makes a template the configuration of one image.
#[derive(Clone, Copy, Debug)]
pub(super) struct TemplateInputs<'a> {
    /// Number of the snapshot with the bootstrap: the cache's name in `nydusd`'s metrics.
    pub id: u64,
    /// The image's reference; a registry backend needs it.
    pub reference: Option<&'a str>,
    /// Where blobs are cached.
    pub cache: &'a Path,
    /// Whether the registry's certificate is not verified.
    pub skip_verify: bool,
    /// Whether the template decides on prefetching; else there is none. Releases of `nydusd`
    /// abort, with all images, when one that prefetches is unmounted early.
    pub prefetch: bool,
}

/// A template or reference that makes no configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The template lacks a part.
    #[error("nydusd configuration: expected an object at {0}")]
    NoObject(&'static str),
    /// The image's reference.
    #[error(transparent)]
    Reference(#[from] reference::Error),
}

/// Whether the template reads blobs from a registry.
pub(super) fn is_registry(template: &Value) -> bool {
    template.pointer("/device/backend/type").and_then(Value::as_str) == Some("registry")
}

/// The configuration of `image`, as JSON.
///
/// # Errors
/// A template without `device.backend.config` or `device.cache`, or a bad reference.
pub(super) fn render(
    template: &Value,
    image: TemplateInputs<'_>,
    credential: Option<&Credential>,
) -> Result<Secret, Error> {
    let mut config = template.clone();
    object(&mut config, "/device")?.insert("id".into(), json!(format!("/{}", image.id)));
    object(&mut config, "/device/cache")?
        .entry("config")
        .or_insert_with(|| json!({}))
        .as_object_mut()
        .ok_or(Error::NoObject("/device/cache/config"))?
        .insert("work_dir".into(), json!(image.cache));
    if let Some(prefetch) = config.pointer_mut("/fs_prefetch/enable").filter(|_| !image.prefetch) {
        *prefetch = json!(false);
    }
    if is_registry(template) {
        let (host, repository) = host_and_repository(image.reference)?;
        let backend = object(&mut config, "/device/backend/config")?;
        backend.insert("host".into(), json!(host));
        backend.insert("repo".into(), json!(repository));
        if image.skip_verify {
            backend.insert("skip_verify".into(), json!(true));
        }
        if let Some(credential) = credential {
            let (key, other, secret) = match credential {
                Credential::Basic(secret) => ("auth", "registry_token", secret),
                Credential::Token(secret) => ("registry_token", "auth", secret),
            };
            backend.remove(other);
            backend.insert(key.into(), json!(secret.expose()));
        }
    }
    Ok(config.to_string().into())
}

fn object<'v>(
    config: &'v mut Value,
    path: &'static str,
) -> Result<&'v mut Map<String, Value>, Error> {
    config.pointer_mut(path).and_then(Value::as_object_mut).ok_or(Error::NoObject(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(reference: Option<&'static str>) -> TemplateInputs<'static> {
        let (cache, skip_verify, prefetch) = (Path::new("/c"), false, true);
        TemplateInputs { id: 7, reference, cache, skip_verify, prefetch }
    }

    #[test]
    fn rendered() {
        let registry = json!({"device": {"backend": {"type": "registry", "config": {"scheme": "http", "auth": "old"}}, "cache": {"type": "blobcache"}}, "unknown": 1});
        let text = render(
            &registry,
            image(Some("127.0.0.1:5000/t/img:1")),
            Some(&Credential::Token("t".into())),
        )
        .unwrap();
        let expected = json!({"device": {"id": "/7", "backend": {"type": "registry", "config": {"scheme": "http", "host": "127.0.0.1:5000", "repo": "t/img", "registry_token": "t"}}, "cache": {"type": "blobcache", "config": {"work_dir": "/c"}}}, "unknown": 1});
        assert_eq!(serde_json::from_str::<Value>(text.expose()).unwrap(), expected);
        let localfs = json!({"device": {"backend": {"type": "localfs", "config": {"dir": "/b"}}, "cache": {"type": "blobcache", "config": {}}}});
        let text = render(&localfs, image(None), None).unwrap();
        assert!(text.expose().contains(r#""work_dir":"/c""#) && !text.expose().contains("host"));
        for prefetch in [true, false] {
            let mut eager = localfs.clone();
            eager["fs_prefetch"] = json!({"enable": true, "threads_count": 4});
            let text = render(&eager, TemplateInputs { prefetch, ..image(None) }, None).unwrap();
            let rendered: Value = serde_json::from_str(text.expose()).unwrap();
            let expected = json!({"enable": prefetch, "threads_count": 4});
            assert_eq!(rendered["fs_prefetch"], expected);
        }
        assert!(matches!(render(&json!({}), image(None), None), Err(Error::NoObject("/device"))));
    }
}
