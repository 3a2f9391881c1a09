//! A kernel that does nothing but note the calls, as strace(1) would show them.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::rc::Rc;

use overlay_mount::Kernel;
use overlay_mount::sys::DIRECTORY;
use overlay_mount::table::ms;
use rustix::fs::OFlags;
use rustix::io::{Errno, Result};

use crate::cli::Pretend;

/// The kernel that a mount is rehearsed on.
pub(crate) struct Recorder {
    pretend: Vec<Pretend>,
    string_limit: usize,
    log: Rc<RefCell<Log>>,
}

#[derive(Default)]
struct Log {
    calls: Vec<String>,
    open: BTreeSet<u32>,
}

/// A number that was never opened.
pub(crate) struct Descriptor {
    number: u32,
    log: Rc<RefCell<Log>>,
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        let mut log = self.log.borrow_mut();
        log.open.remove(&self.number);
        log.calls.push(format!("close({}) = 0", self.number));
    }
}

impl Recorder {
    pub(crate) fn new(pretend: Vec<Pretend>, string_limit: usize) -> Self {
        Self { pretend, string_limit, log: Rc::default() }
    }

    pub(crate) fn into_calls(self) -> Vec<String> {
        std::mem::take(&mut self.log.borrow_mut().calls)
    }

    fn pretends(&self, feature: Pretend) -> bool {
        self.pretend.contains(&feature)
    }

    fn done(&self, call: String, fails: Option<Errno>) -> Result<()> {
        let result = match fails {
            Some(Errno::NOSYS) => " = -1 ENOSYS",
            Some(Errno::NOENT) => " = -1 ENOENT",
            Some(Errno::ACCESS) => " = -1 EACCES",
            Some(_) => " = -1 EINVAL",
            None => " = 0",
        };
        self.log.borrow_mut().calls.push(call + result);
        fails.map_or(Ok(()), Err)
    }

    /// The lowest number that is free, as the kernel does.
    fn opened(&self, call: String) -> Descriptor {
        let mut log = self.log.borrow_mut();
        let number = (3..).find(|number| !log.open.contains(number)).unwrap_or(u32::MAX);
        log.open.insert(number);
        log.calls.push(format!("{call} = {number}"));
        Descriptor { number, log: self.log.clone() }
    }

    fn text(&self, text: &CStr) -> String {
        let bytes = text.to_bytes();
        match bytes.get(..self.string_limit) {
            Some(start) if start.len() < bytes.len() => {
                format!("\"{}\"... ({} bytes)", start.escape_ascii(), bytes.len())
            }
            _ => format!("\"{}\"", bytes.escape_ascii()),
        }
    }

    fn fsconfig(&self, context: &Descriptor, rest: &str, fails: Option<Errno>) -> Result<()> {
        self.done(format!("fsconfig({}, FSCONFIG_{rest})", context.number), fails)
    }
}

impl Kernel for Recorder {
    type Fd = Descriptor;

    fn openat(&self, dir: Option<&Descriptor>, path: &CStr, flags: OFlags) -> Result<Descriptor> {
        let dir = dir.map_or("AT_FDCWD".to_owned(), |dir| dir.number.to_string());
        let flags = if flags == DIRECTORY { "O_PATH|O_DIRECTORY" } else { "O_RDONLY" };
        Ok(self.opened(format!("openat({dir}, {}, {flags}|O_CLOEXEC)", self.text(path))))
    }

    fn number(&self, fd: &Descriptor) -> u32 {
        fd.number
    }

    fn fstat_nlink(&self, fd: &Descriptor) -> Result<u64> {
        self.done(format!("fstat({})", fd.number), None).map(|()| 1)
    }

    fn statfs_type(&self, path: &CStr) -> Result<u32> {
        let (there, kind) = match path.to_bytes() {
            b"/sys/fs/selinux" => (self.pretends(Pretend::Selinux), 0xf97c_ff8c),
            b"/sys/fs/smackfs" => (self.pretends(Pretend::Smack), 0x4341_5d53),
            _ => (!self.pretends(Pretend::NoProc), 0x9fa0),
        };
        let call = format!("statfs({})", self.text(path));
        self.done(call, (!there).then_some(Errno::NOENT)).map(|()| kind)
    }

    fn fchdir(&self, dir: &Descriptor) -> Result<()> {
        let fails = self.pretends(Pretend::NoChdir).then_some(Errno::ACCESS);
        self.done(format!("fchdir({})", dir.number), fails)
    }

    fn mkdirat(&self, dir: &Descriptor, path: &CStr) -> Result<()> {
        self.done(format!("mkdirat({}, {}, 0700)", dir.number, self.text(path)), None)
    }

    fn mount(&self, source: &CStr, target: &CStr, flags: u32, data: &CStr) -> Result<()> {
        let (source, target, data) = (self.text(source), self.text(target), self.text(data));
        let flags = names(flags, MOUNT_FLAGS);
        self.done(format!("mount({source}, {target}, \"overlay\", {flags}, {data})"), None)
    }

    fn mount_change(&self, target: &CStr, propagation: u32) -> Result<()> {
        let (target, flags) = (self.text(target), names(propagation, MOUNT_FLAGS));
        self.done(format!("mount(NULL, {target}, NULL, {flags}, NULL)"), None)
    }

    fn umount2_detach(&self, target: &CStr) -> Result<()> {
        self.done(format!("umount2({}, MNT_DETACH)", self.text(target)), None)
    }

    fn unshare_newns(&self) -> Result<()> {
        self.done("unshare(CLONE_NEWNS)".to_owned(), None)
    }

    fn setns_newns(&self, namespace: &Descriptor) -> Result<()> {
        self.done(format!("setns({}, CLONE_NEWNS)", namespace.number), None)
    }

    /// Five calls of this process; the child's are its own.
    fn user_namespace(&self, proc: &Descriptor, uids: &CStr, gids: &CStr) -> Result<Descriptor> {
        self.done("clone(CLONE_NEWUSER|SIGCHLD)".to_owned(), None)?;
        for (name, map) in [("uid_map", uids), ("gid_map", gids)] {
            let file = self.openat(Some(proc), &path_of_child(name), OFlags::WRONLY)?;
            self.done(format!("write({}, {})", file.number, self.text(map)), None)?;
        }
        self.openat(Some(proc), &path_of_child("ns/user"), OFlags::RDONLY)
    }

    fn open_tree(&self, dir: &Descriptor, path: &CStr) -> Result<Descriptor> {
        let (dir, path) = (dir.number, self.text(path));
        let flags = "OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC|AT_EMPTY_PATH";
        Ok(self.opened(format!("open_tree({dir}, {path}, {flags})")))
    }

    fn mount_setattr_idmap(&self, mount: &Descriptor, users: &Descriptor) -> Result<()> {
        let attributes = format!("{{MOUNT_ATTR_IDMAP, userns_fd={}}}", users.number);
        let fails = self.pretends(Pretend::NoIdMap).then_some(Errno::INVAL);
        let mount = mount.number;
        self.done(format!("mount_setattr({mount}, \"\", AT_EMPTY_PATH, {attributes})"), fails)
    }

    fn fsopen(&self, kind: &CStr) -> Result<Descriptor> {
        let call = format!("fsopen({}, FSOPEN_CLOEXEC)", self.text(kind));
        if self.pretends(Pretend::NoFsopen) {
            self.done(call.clone(), Some(Errno::NOSYS))?;
        }
        Ok(self.opened(call))
    }

    fn fsconfig_set_flag(&self, context: &Descriptor, key: &CStr) -> Result<()> {
        let rest = format!("SET_FLAG, {}, NULL, 0", self.text(key));
        self.fsconfig(context, &rest, None)
    }

    fn fsconfig_set_string(&self, context: &Descriptor, key: &CStr, value: &CStr) -> Result<()> {
        let rest = format!("SET_STRING, {}, {}, 0", self.text(key), self.text(value));
        let unknown = self.pretends(Pretend::NoLowerdirPlus) && key.to_bytes().ends_with(b"dir+");
        self.fsconfig(context, &rest, unknown.then_some(Errno::INVAL))
    }

    fn fsconfig_set_fd(&self, context: &Descriptor, key: &CStr, fd: &Descriptor) -> Result<()> {
        let rest = format!("SET_FD, {}, NULL, {}", self.text(key), fd.number);
        let unknown = self.pretends(Pretend::NoFd) || self.pretends(Pretend::NoLowerdirPlus);
        self.fsconfig(context, &rest, unknown.then_some(Errno::INVAL))
    }

    fn fsconfig_create(&self, context: &Descriptor) -> Result<()> {
        self.fsconfig(context, "CMD_CREATE, NULL, NULL, 0", None)
    }

    fn fsmount(&self, context: &Descriptor, attributes: u32) -> Result<Descriptor> {
        let attributes = names(attributes, ATTRIBUTES);
        Ok(self.opened(format!("fsmount({}, FSMOUNT_CLOEXEC, {attributes})", context.number)))
    }

    fn move_mount(&self, mount: &Descriptor, target: &Descriptor) -> Result<()> {
        let flags = "MOVE_MOUNT_F_EMPTY_PATH|MOVE_MOUNT_T_EMPTY_PATH";
        let (mount, target) = (mount.number, target.number);
        self.done(format!("move_mount({mount}, \"\", {target}, \"\", {flags})"), None)
    }
}

fn path_of_child(name: &str) -> CString {
    CString::new(format!("CHILD/{name}")).unwrap_or_default()
}

const MOUNT_FLAGS: &[(u32, &str)] = &[
    (ms::RDONLY, "MS_RDONLY"),
    (ms::NOSUID, "MS_NOSUID"),
    (ms::NODEV, "MS_NODEV"),
    (ms::NOEXEC, "MS_NOEXEC"),
    (ms::SYNCHRONOUS, "MS_SYNCHRONOUS"),
    (ms::MANDLOCK, "MS_MANDLOCK"),
    (ms::DIRSYNC, "MS_DIRSYNC"),
    (ms::NOSYMFOLLOW, "MS_NOSYMFOLLOW"),
    (ms::NOATIME, "MS_NOATIME"),
    (ms::NODIRATIME, "MS_NODIRATIME"),
    (ms::REC, "MS_REC"),
    (ms::SILENT, "MS_SILENT"),
    (ms::UNBINDABLE, "MS_UNBINDABLE"),
    (ms::PRIVATE, "MS_PRIVATE"),
    (ms::SLAVE, "MS_SLAVE"),
    (ms::SHARED, "MS_SHARED"),
    (ms::RELATIME, "MS_RELATIME"),
    (ms::I_VERSION, "MS_I_VERSION"),
    (ms::STRICTATIME, "MS_STRICTATIME"),
    (ms::LAZYTIME, "MS_LAZYTIME"),
];

const ATTRIBUTES: &[(u32, &str)] = &[
    (0x1, "MOUNT_ATTR_RDONLY"),
    (0x2, "MOUNT_ATTR_NOSUID"),
    (0x4, "MOUNT_ATTR_NODEV"),
    (0x8, "MOUNT_ATTR_NOEXEC"),
    (0x10, "MOUNT_ATTR_NOATIME"),
    (0x20, "MOUNT_ATTR_STRICTATIME"),
    (0x80, "MOUNT_ATTR_NODIRATIME"),
    (0x20_0000, "MOUNT_ATTR_NOSYMFOLLOW"),
];

fn names(bits: u32, table: &[(u32, &str)]) -> String {
    let named: Vec<_> = table.iter().filter(|(bit, _)| bits & bit != 0).collect();
    let known = named.iter().fold(0, |all, (bit, _)| all | bit);
    let mut names: Vec<_> = named.iter().map(|(_, name)| (*name).to_owned()).collect();
    if bits != known || bits == 0 {
        names.push(format!("{:#x}", bits & !known));
    }
    names.join("|")
}
