//! Keys that are not built: refused where they would change what runs, else named in a warning.

use super::Error;
use super::file::File;
use std::fs;
use toml::{Table, Value};

/// Keys and sections without effect.
const IGNORED: [&str; 11] = [
    "cache_manager.disable",
    "cache_manager.gc_period",
    "daemon.nydusimage_path",
    "experimental",
    "image.public_key_file",
    "log.log_rotation_local_time",
    "log.log_rotation_max_age",
    "metrics.hung_io_interval",
    "remote.auth",
    "remote.mirrors_config",
    "system",
];

const KEYS: &str = "credentials are taken from labels and Docker's configuration";

/// Keys that must not be true, and what is expected instead. A dot at the end: all below.
const REFUSED: [(&str, &str); 6] = [
    ("experimental.", "expected false"),
    ("image.validate_signature", "expected false"),
    ("remote.auth.enable_cri_keychain", KEYS),
    ("remote.auth.enable_kubeconfig_keychain", KEYS),
    ("remote.auth.enable_kubelet_credential_providers", KEYS),
    ("remote.convert_vpc_registry", "expected false"),
];

/// What would run otherwise than the operator wants is not started at all.
pub(super) fn refuse(file: &File) -> Result<(), Error> {
    let mirrors = fs::read_dir(&file.remote.mirrors_config.dir);
    if mirrors.is_ok_and(|mut entries| entries.next().is_some()) {
        let instead = "expected an empty directory or none; name mirrors in nydusd's configuration";
        return Err(Error::NotBuilt("remote.mirrors_config.dir".to_owned(), instead));
    }
    let all = values("", &Table::try_from(file).unwrap_or_default());
    for (key, _) in all.into_iter().filter(|(_, value)| *value == Value::Boolean(true)) {
        let is_it = |known: &str| key == known || known.ends_with('.') && key.starts_with(known);
        if let Some((_, instead)) = REFUSED.iter().find(|(known, _)| is_it(known)) {
            return Err(Error::NotBuilt(key, instead));
        }
    }
    Ok(())
}

/// Warnings of harmless keys that a file sets to something.
pub(super) fn without_effect(file: &Table) -> Vec<String> {
    let set = |value: &Value| !matches!(value, Value::Boolean(false) | Value::Integer(0));
    values("", file)
        .into_iter()
        .filter(|(key, value)| is_ignored(key) && set(value))
        .map(|(key, _)| format!("{key} has no effect"))
        .collect()
}

/// Leaves out the keys that have no effect.
pub(super) fn drop_ignored(file: &mut Table) {
    drop_below(file, "");
}

fn drop_below(table: &mut Table, section: &str) {
    table.retain(|key, value| {
        let key = format!("{section}{key}");
        match value {
            _ if is_ignored(&key) => false,
            Value::Table(inner) => {
                drop_below(inner, &format!("{key}."));
                !inner.is_empty()
            }
            _ => true,
        }
    });
}

fn is_ignored(key: &str) -> bool {
    let below = |name| key.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'));
    IGNORED.into_iter().any(|name| key == name || below(name))
}

/// All values, by their keys with the `section`s before them.
fn values(section: &str, table: &Table) -> Vec<(String, Value)> {
    let below = |(name, value): (&String, &Value)| {
        let key = format!("{section}{name}");
        match value {
            Value::Table(inner) => values(&format!("{key}."), inner),
            value => vec![(key, value.clone())],
        }
    };
    table.iter().flat_map(below).collect()
}
