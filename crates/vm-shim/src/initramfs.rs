//! The guest's first file system: the agent as `/init`, and the kernel modules that it loads.
//!
//! A cpio archive of the kind "newc" (the kernel's
//! Documentation/driver-api/early-userspace/buffer-format.rst), not packed: to unpack it would
//! take the guest longer than reading it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the agent cannot do without.
pub const MODULES: [&str; 4] = ["virtio_pci", "virtio_console", "virtiofs", "overlay"];

const FILE: u32 = 0o100_755;
const DIRECTORY: u32 = 0o040_755;

/// An archive with `init` as the first program, the modules of these names and those that they
/// depend on, and more programs by the names that they get. `modules` is the directory of the
/// kernel's: `/lib/modules/RELEASE`.
///
/// # Errors
/// A file cannot be read, a module is not there.
pub fn build(
    init: &Path,
    modules: &Path,
    names: &[&str],
    more: &[(&str, &Path)],
) -> io::Result<Vec<u8>> {
    let mut archive = Archive::default();
    for directory in ["dev", "proc", "sys", "run", "modules"] {
        archive.add(directory, DIRECTORY, &[]);
    }
    for (name, program) in more.iter().copied().chain([("init", init)]) {
        archive.add(name, FILE, &fs::read(program).map_err(|error| named(program, &error))?);
    }
    let loaded = Tree::open(modules)?.load(names)?;
    let order: Vec<_> = loaded.iter().map(|(name, _)| name.as_str()).collect();
    archive.add("modules/order", FILE, order.join("\n").as_bytes());
    for (name, module) in &loaded {
        archive.add(&format!("modules/{name}"), FILE, module);
    }
    Ok(archive.finish())
}

#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let length = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        // inode, mode, uid, gid, links, time, size, device (2), of the node (2), name, checksum
        let (size, name_size) = (length(content.len()), length(name.len() + 1));
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        let fields = fields.map(|field| format!("{field:08x}")).concat();
        self.bytes.extend(format!("070701{fields}{name}\0").bytes());
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

/// The modules of one kernel, by their names.
struct Tree {
    root: PathBuf,
    files: BTreeMap<String, PathBuf>,
    builtin: BTreeSet<String>,
}

impl Tree {
    fn open(root: &Path) -> io::Result<Self> {
        let text = fs::read_to_string(root.join("modules.builtin")).unwrap_or_default();
        let builtin = text.lines().filter_map(|line| name(Path::new(line))).collect();
        let mut tree = Self { root: root.to_owned(), files: BTreeMap::new(), builtin };
        tree.collect(&root.join("kernel"))?;
        Ok(tree)
    }

    fn collect(&mut self, directory: &Path) -> io::Result<()> {
        for entry in fs::read_dir(directory).map_err(|error| named(directory, &error))? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                self.collect(&entry.path())?;
            } else if let Some(name) = name(&entry.path()) {
                self.files.insert(name, entry.path());
            }
        }
        Ok(())
    }

    /// What is needed, in the order of loading.
    fn load(&self, names: &[&str]) -> io::Result<Vec<(String, Vec<u8>)>> {
        let mut loaded = Vec::new();
        names.iter().try_for_each(|name| self.load_one(name, &mut loaded))?;
        Ok(loaded)
    }

    fn load_one(&self, name: &str, loaded: &mut Vec<(String, Vec<u8>)>) -> io::Result<()> {
        if self.builtin.contains(name) || loaded.iter().any(|(other, _)| other == name) {
            return Ok(());
        }
        let Some(file) = self.files.get(name) else {
            let error = io::Error::new(io::ErrorKind::NotFound, format!("no module {name}"));
            return Err(named(&self.root, &error));
        };
        let module = unpacked(file)?;
        for name in depends(&module) {
            self.load_one(&name, loaded)?;
        }
        loaded.push((name.to_owned(), module));
        Ok(())
    }
}

/// The name under which a module is known. In file names `-` stands for `_`.
fn name(file: &Path) -> Option<String> {
    let (name, _) = file.file_name()?.to_str()?.split_once(".ko")?;
    Some(name.replace('-', "_"))
}

/// The module itself: some distributions pack them.
fn unpacked(file: &Path) -> io::Result<Vec<u8>> {
    let program = match file.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return fs::read(file).map_err(|error| named(file, &error)),
    };
    let failed = |why: &str| named(file, &io::Error::other(format!("{program}: {why}")));
    let ran = Command::new(program).arg("-dc").arg(file).output();
    let ran = ran.map_err(|error| failed(&error.to_string()))?;
    match ran.status.success() {
        true => Ok(ran.stdout),
        false => Err(failed(String::from_utf8_lossy(&ran.stderr).trim())),
    }
}

/// The modules that this one says it depends on: `depends=a,b`, between zeros.
fn depends(module: &[u8]) -> Vec<String> {
    let words = module.split(|byte| *byte == 0);
    let mut found = words.filter_map(|word| word.strip_prefix(b"depends="));
    let list = found.next().map(String::from_utf8_lossy).unwrap_or_default();
    list.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree in which `virtiofs` needs `fuse`, and `overlay` is part of the kernel.
    fn tree(without: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(root.path().join("kernel/deep")).expect("a directory");
        fs::write(root.path().join("modules.builtin"), "kernel/overlay.ko\n").expect("a file");
        for (name, needs) in [
            ("virtio", ""),
            ("virtio_pci", "virtio"),
            ("virtio_console", "virtio"),
            ("virtiofs", "fuse,virtio-ring"),
            ("fuse", ""),
            ("virtio-ring", ""),
        ] {
            if name != without {
                let file = root.path().join(format!("kernel/deep/{name}.ko"));
                fs::write(file, format!("ELF\0a=b\0depends={needs}\0")).expect("a module");
            }
        }
        root
    }

    #[test]
    fn modules_come_after_what_they_need() {
        let root = tree("");
        let loaded = Tree::open(root.path()).and_then(|tree| tree.load(&MODULES)).expect("modules");
        let names: Vec<_> = loaded.iter().map(|(name, _)| name.as_str()).collect();
        let expected =
            ["virtio", "virtio_pci", "virtio_console", "fuse", "virtio_ring", "virtiofs"];
        assert_eq!(names, expected);
    }

    #[test]
    fn what_is_missing_is_named() {
        let root = tree("fuse");
        let (there, missing) = (root.path().to_owned(), root.path().join("missing"));
        let agent = there.join("modules.builtin");
        for (agent, modules, expected) in [
            (&agent, &there, format!("{}: no module fuse", there.display())),
            (&agent, &missing, format!("{}/kernel: No such file", missing.display())),
            (&missing, &there, format!("{}: No such file", missing.display())),
        ] {
            let error =
                build(agent, modules, &MODULES, &[]).expect_err("something is missing").to_string();
            assert!(error.starts_with(&expected), "{error}");
        }
    }

    /// The machine's own `cpio` format reader is the kernel; here the fields are read by hand.
    #[test]
    fn entries_are_padded() {
        let mut archive = Archive::default();
        archive.add("a", FILE, b"12345");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        let head = "0707010000000100008".to_owned() + "1ed";
        assert!(bytes.starts_with(head.as_bytes()), "{}", String::from_utf8_lossy(&bytes));
        assert_eq!(&bytes[110..120], b"a\x0012345\0\0\0");
        assert_eq!(&bytes[120..126], b"070701");
    }
}
