//! What holds for every input; the fuzz targets and the tests call the same functions.

use crate::{check, mountinfo};
use nydus_mount_slice::FsVersion;
use std::os::unix::ffi::OsStrExt;

/// Takes the bytes as `nydusd`'s configuration in a slice.
///
/// # Panics
/// If the answer is not one line, shows the configuration, or depends on anything but the text.
pub fn config(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let [v5, v6] = [FsVersion::V5, FsVersion::V6].map(|version| {
        let error = check::config(text, version).err()?.to_string();
        assert!(!error.contains('\n'), "{error:?}");
        Some(error)
    });
    // Version 6 is refused for one thing more, and nothing less.
    let says_why = |error: &Option<String>| {
        error.as_ref().is_some_and(|error| error.contains("expected false for RAFS v6"))
    };
    assert!(v5 == v6 || says_why(&v6), "{v5:?}, {v6:?}");
    let is_object = serde_json::from_str::<serde_json::Value>(text).is_ok_and(|it| it.is_object());
    assert!(is_object || v5.is_some(), "no object, but taken");
}

/// Takes the bytes as a line of mountinfo, and as a path in one.
///
/// # Panics
/// If a line is read that has no five fields, or a path is not what was written.
pub fn mountinfo(data: &[u8]) {
    if let Some(entry) = mountinfo::parse(data) {
        let mut fields = data.split(|&byte| byte == b' ');
        let id = fields.next().and_then(|field| str::from_utf8(field).ok()?.parse().ok());
        assert_eq!(id, Some(entry.id));
        let point = fields.nth(3).expect("a fifth field");
        assert!(entry.point.as_os_str().len() <= point.len());
    }
    // As the kernel writes it (mangle in fs/proc_namespace.c).
    let written: Vec<u8> = data
        .iter()
        .flat_map(|byte| match byte {
            b' ' | b'\t' | b'\n' | b'\\' | b'#' => format!("\\{byte:03o}").into_bytes(),
            byte => vec![*byte],
        })
        .collect();
    assert_eq!(mountinfo::unescaped(&written).as_os_str().as_bytes(), data);
}
