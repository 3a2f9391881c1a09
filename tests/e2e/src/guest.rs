//! Programs of this machine in a guest with another kernel: an ext4 disk with copies of them at the
//! same paths, under QEMU.

use crate::machines::{self, Kernel};
use crate::programs::busybox;
use crate::run::{Ran, run, run_for};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use vm_shim::initramfs;

/// What the guest loads before its disk is mounted; `overlay` and the like for the tests.
const MODULES: [&str; 7] = ["virtio_pci", "virtio_blk", "ext4", "overlay", "fuse", "erofs", "loop"];

/// The guest's first program: it goes on from the disk.
const FIRST: &str = "#!/busybox sh
/busybox mount -t devtmpfs dev /dev
for module in $(/busybox cat /modules/order); do /busybox insmod /modules/$module; done
while [ ! -b /dev/vda ]; do /busybox sleep 0.1; done
/busybox mount -t ext4 /dev/vda /run
exec /busybox switch_root /run /init
";

/// What runs there then; what it prints goes to the second serial port.
const INIT: &str = "#!/bin/sh
mount -n -t proc proc /proc
mount -n -t sysfs sys /sys
mount -n -t devtmpfs dev /dev
mount -n -t tmpfs run /run
mount -n -t securityfs sec /sys/kernel/security
exec > /dev/ttyS1 2>&1 < /dev/null
export PATH=/usr/sbin:/usr/bin:/sbin:/bin RUST_BACKTRACE=0 HOME=/root
cd /
echo \"kernel $(cat /proc/sys/kernel/osrelease)\"
. /script
sync
echo o > /proc/sysrq-trigger
sleep 100
";

/// The tree of a disk, before it becomes one.
#[derive(Debug)]
pub struct Disk {
    directory: PathBuf,
}

impl Disk {
    /// One with what every script needs; `directory` is for its files. `None` if there is no
    /// busybox.
    ///
    /// # Panics
    /// It cannot be written.
    pub fn new(directory: &Path) -> Option<Self> {
        busybox()?;
        let disk = Self { directory: directory.to_owned() };
        for name in [
            "dev",
            "proc",
            "sys",
            "run",
            "tmp",
            "root",
            "etc",
            "usr/bin",
            "usr/sbin",
            "usr/lib",
            "usr/lib64",
        ] {
            fs::create_dir_all(disk.path(Path::new(name))).expect(name);
        }
        for name in ["bin", "sbin", "lib", "lib64"] {
            symlink(format!("usr/{name}"), disk.path(Path::new(name))).expect(name);
        }
        let users = "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n";
        disk.write("etc/passwd", users, 0o644);
        disk.write("etc/group", "root:x:0:\nnogroup:x:65534:\n", 0o644);
        disk.write("etc/fstab", "", 0o644);
        disk.write("init", INIT, 0o755);
        Some(disk)
    }

    fn path(&self, path: &Path) -> PathBuf {
        self.directory.join("root").join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Writes a file.
    ///
    /// # Panics
    /// It cannot be written.
    pub fn write(&self, name: &str, text: &str, mode: u32) {
        let path = self.path(Path::new(name));
        fs::create_dir_all(path.parent().expect("a directory")).expect(name);
        fs::write(&path, text).expect(name);
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect(name);
    }

    /// Copies a program to `name`, without its debug information, and the libraries that it needs
    /// to where they are here.
    ///
    /// # Panics
    /// It cannot be copied.
    pub fn program_as(&self, program: &Path, name: &Path) {
        self.copy(program, name);
        let _ = Command::new("strip").arg(self.path(name)).output();
        let mut ldd = Command::new("ldd");
        let ran = run(ldd.arg(program).env("LD_LIBRARY_PATH", crate::programs::libraries()));
        let text = String::from_utf8_lossy(&ran.stdout).into_owned();
        for library in text.split_whitespace().filter(|word| word.starts_with('/')) {
            let library = PathBuf::from(library);
            if !self.path(&library).exists() {
                self.copy(&library, &library);
            }
        }
    }

    /// The same, where it is here.
    ///
    /// # Panics
    /// It cannot be copied.
    pub fn program(&self, program: &Path) {
        self.program_as(program, program);
    }

    /// Programs by their names, as they are found here; false for one that is not.
    ///
    /// # Panics
    /// One cannot be copied.
    pub fn programs(&self, names: &[&str]) -> bool {
        let found = |name: &str| {
            let directories = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"];
            directories.iter().map(|dir| Path::new(dir).join(name)).find(|path| path.exists())
        };
        names.iter().all(|name| {
            let Some(program) = found(name) else { return false };
            self.program_as(&program, &Path::new("/usr/bin").join(name));
            true
        })
    }

    /// Copies a file.
    ///
    /// # Panics
    /// It cannot be copied.
    pub fn copy(&self, from: &Path, to: &Path) {
        let to = self.path(to);
        fs::create_dir_all(to.parent().expect("a directory")).expect("a directory");
        let _ = fs::remove_file(&to);
        fs::copy(from, &to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    }

    /// Copies a directory with all that is in it.
    ///
    /// # Panics
    /// It cannot be copied.
    pub fn tree(&self, from: &Path, to: &Path) {
        let ran =
            run(Command::new("cp").args(["-a", "--sparse=always"]).arg(from).arg(self.path(to)));
        assert!(ran.ok(), "{ran}");
    }

    /// The disk itself; nothing is written to the tree any more.
    ///
    /// # Panics
    /// It cannot be made.
    pub fn finish(&self) -> PathBuf {
        let image = self.directory.join("disk");
        let root = self.directory.join("root");
        let mut command = Command::new("mke2fs");
        command.args(["-q", "-t", "ext4", "-O", "^has_journal", "-d"]).arg(&root).arg(&image);
        let ran = run(command.arg("2G"));
        assert!(ran.ok(), "{ran}");
        fs::remove_dir_all(root).expect("the tree");
        image
    }
}

/// Runs `script` (of sh) in a guest with this disk, which it does not change for others; what it
/// printed. `words` are added to the kernel's command line.
///
/// # Panics
/// The guest does not end in time.
pub fn run_in(
    kernel: &Kernel,
    disk: &Path,
    words: &str,
    place: &Path,
    limit: i64,
) -> (String, Ran) {
    fs::create_dir_all(place).expect("a directory");
    let (first, initrd) = (place.join("first"), place.join("initramfs"));
    fs::write(&first, FIRST).expect("a script");
    let archive = initramfs::build(
        &first,
        &kernel.modules,
        &MODULES,
        &[("busybox", &busybox().expect("busybox"))],
    );
    fs::write(&initrd, archive.expect("an archive")).expect("an initramfs");
    let (console, output) = (place.join("console"), place.join("output"));
    let file = |path: &Path| format!("file:{}", path.display());
    let mut qemu = Command::new(machines::QEMU);
    qemu.args(["-accel", "tcg,thread=multi", "-machine", "q35", "-cpu", "max", "-smp", "2"]);
    qemu.args(["-m", "1024", "-nodefaults", "-display", "none", "-no-reboot"]);
    qemu.args(["-serial", &file(&console), "-serial", &file(&output)]);
    qemu.arg("-drive").arg(format!("file={},if=virtio,format=raw,snapshot=on", disk.display()));
    qemu.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(&initrd).env("TMPDIR", place);
    let line = format!("console=ttyS0 loglevel=4 panic=-1 mitigations=off {words}");
    let ran = run_for(qemu.args(["-append", line.trim_end()]), limit);
    let read = |path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
    let text = read(output).replace('\r', "");
    if !text.contains("kernel ") {
        println!("{}", read(console));
    }
    (text, ran)
}
