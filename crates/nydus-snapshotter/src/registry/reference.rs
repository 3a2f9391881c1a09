//! References of images.

use oci_spec::distribution::{ParseError, Reference};

/// A reference that names no registry's repository.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A registry backend without a reference.
    #[error(
        "the image's reference is not known: label containerd.io/snapshot/cri.image-ref is \
         missing; is disable_snapshot_annotations = false set in containerd's configuration?"
    )]
    NoReference,
    /// A reference that cannot be understood.
    #[error("image reference {0:?} is not of the form HOST/REPOSITORY[:TAG][@DIGEST]: {1}")]
    BadReference(String, ParseError),
}

/// Host and repository of a reference, as a registry backend takes them.
///
/// # Errors
/// No reference, or one that cannot be understood.
pub fn host_and_repository(reference: Option<&str>) -> Result<(String, String), Error> {
    let text = reference.ok_or(Error::NoReference)?;
    let parsed: Reference =
        text.parse().map_err(|error| Error::BadReference(text.to_owned(), error))?;
    Ok((parsed.resolve_registry().to_owned(), parsed.repository().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries() {
        let table = [
            ("127.0.0.1:5000/t/img:1", Ok(("127.0.0.1:5000", "t/img"))),
            ("docker.io/library/busybox", Ok(("index.docker.io", "library/busybox"))),
            ("busybox:1.36", Ok(("index.docker.io", "library/busybox"))),
            (
                "ghcr.io/a/b@sha256:0000000000000000000000000000000000000000000000000000000000000000",
                Ok(("ghcr.io", "a/b")),
            ),
            ("a b", Err("is not of the form")),
        ];
        for (text, expected) in table {
            match (host_and_repository(Some(text)), expected) {
                (Ok((host, repo)), Ok(expected)) => assert_eq!((&*host, &*repo), expected),
                (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
                (got, _) => panic!("{text}: {got:?}"),
            }
        }
        assert!(matches!(host_and_repository(None), Err(Error::NoReference)));
    }
}
