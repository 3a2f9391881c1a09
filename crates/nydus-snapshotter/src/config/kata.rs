//! What containerd's configuration says of Kata Containers, as far as it is a matter of ours.

use super::{Config, KernelNative};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// Longest file that is read, bytes.
const LONGEST: u64 = 1 << 20;
/// Files that are read at most, with those that are imported.
const FILES: usize = 64;

impl Config {
    /// A warning where `containerd` (its configuration, which need not be there) names a runtime
    /// of Kata's that could not run an image which the kernel serves: with mounts of type
    /// `overlay`, Kata's Go runtime takes a lower directory that is EROFS for another snapshotter's
    /// (`IsErofsRootFS`), and refuses the container.
    pub fn kata_warning(&self, containerd: &Path) -> Option<String> {
        let may_meet = !self.file.snapshot.enable_nydus_overlayfs
            && self.kernel_native != KernelNative::Off
            && !self.file.snapshot.enable_kata_volume;
        let (file, runtime) = may_meet.then(|| kata_runtime(containerd)).flatten()?;
        Some(format!(
            "{} has the runtime {runtime:?}, and snapshot.enable_nydus_overlayfs is false: Kata's \
             Go runtime refuses a container once the kernel serves its image; expected \
             enable_nydus_overlayfs = true, or native.kernel_native = \"off\"",
            file.display()
        ))
    }
}

/// The first runtime of Kata's in this file and those that it imports, and where it is.
fn kata_runtime(containerd: &Path) -> Option<(PathBuf, String)> {
    let (mut wanted, mut seen) = (vec![containerd.to_owned()], BTreeSet::new());
    while let Some(path) = wanted.pop() {
        if seen.len() >= FILES || !seen.insert(path.clone()) {
            continue;
        }
        let Some(table) = read(&path) else { continue };
        if let Some(runtime) = find(&table) {
            return Some((path, runtime.to_owned()));
        }
        let imports = table.get("imports").and_then(Value::as_array).into_iter().flatten();
        let directory = path.parent().unwrap_or(Path::new("/"));
        wanted.extend(imports.filter_map(Value::as_str).flat_map(|text| imported(directory, text)));
    }
    None
}

fn read(path: &Path) -> Option<Table> {
    let small = path.metadata().is_ok_and(|file| file.is_file() && file.len() <= LONGEST);
    fs::read_to_string(path).ok().filter(|_| small)?.parse().ok()
}

/// The files of an import, in which the name may have one `*`.
fn imported(directory: &Path, text: &str) -> Vec<PathBuf> {
    let path = directory.join(text);
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Some((start, end)) = name.split_once('*') else { return vec![path] };
    let entries = path.parent().and_then(|parent| fs::read_dir(parent).ok()).into_iter().flatten();
    let matches = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.strip_prefix(start).is_some_and(|rest| rest.ends_with(end))
    };
    entries.flatten().map(|entry| entry.path()).filter(matches).collect()
}

/// The first `runtime_type` of Kata's, in whichever version of the file: `io.containerd.kata.v2`,
/// `io.containerd.kata-qemu.v2`, or the path of such a shim.
fn find(table: &Table) -> Option<&str> {
    table.iter().find_map(|(key, value)| match value {
        Value::Table(table) => find(table),
        Value::String(text) if key == "runtime_type" => {
            let mut words = text.split(['.', '-', '/']);
            words.any(|word| word == "kata").then_some(text.as_str())
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    const PLAIN: &str = "";
    const OVERLAYFS: &str = "[snapshot]\nenable_nydus_overlayfs = true";
    const RUNC: &str = "[plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.runc]\n\
        runtime_type = 'io.containerd.runc.v2'";
    const KATA: &str = "version = 2\n[plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.k]\n\
        runtime_type = 'io.containerd.kata-qemu.v2'";
    const KATA3: &str = "version = 3\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.k]\n\
        runtime_type = 'io.containerd.kata.v2'";

    #[test]
    fn a_warning_where_both_meet() {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir(place.path().join("conf.d")).unwrap();
        fs::write(place.path().join("conf.d/kata-deploy.toml"), KATA).unwrap();
        let file = place.path().join("config.toml");
        let named = "io.containerd.kata";
        for (ours, containerd, expected) in [
            (PLAIN, KATA, named),
            (PLAIN, KATA3, named),
            (PLAIN, "imports = ['conf.d/*.toml']", "conf.d/kata-deploy.toml"),
            (PLAIN, "imports = ['conf.d/kata-deploy.toml', 'config.toml']", named),
            (PLAIN, RUNC, ""),
            (PLAIN, "imports = ['conf.d/*.yaml', 'missing', '/']", ""),
            (PLAIN, "no TOML", ""),
            (OVERLAYFS, KATA, ""),
            ("[native]\nkernel_native = 'off'", KATA, ""),
            ("daemon_mode = 'none'", KATA, ""),
            ("[native]\nkernel_native = 'required'", KATA, named),
        ] {
            fs::write(&file, containerd).unwrap();
            let config = parse(ours).unwrap().check().unwrap();
            let warning = config.kata_warning(&file).unwrap_or_default();
            assert_eq!(warning.is_empty(), expected.is_empty(), "{ours} {containerd}: {warning}");
            assert!(warning.contains(expected) && !warning.contains('\n'), "{warning}");
            assert_eq!(config.kata_warning(&place.path().join("missing")), None);
        }
    }
}
