//! Namespaces in which tests and demonstrations run, so that a kill, Ctrl-C or a crash leaves no
//! mount and no process behind.

use crate::cmd::{Cmd, End};
use crate::paths;
use rustix::process::geteuid;
use std::ffi::OsStr;

/// What this machine lets us have.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sandbox {
    /// Root: mount and process namespaces.
    Root,
    /// Not root: the same, in a user namespace where we are root.
    User,
    /// Not root, and no user namespaces either.
    None,
}

impl Sandbox {
    /// Tries them.
    pub(crate) fn detect() -> Self {
        let wanted = if geteuid().is_root() { Self::Root } else { Self::User };
        let tried = wanted.cmd("sandbox", 20, "true").end();
        match tried {
            Ok(End::Exited(status)) if status.success() => wanted,
            _ => Self::None,
        }
    }

    /// A command inside; all that it started ends when it ends, or when we do.
    pub(crate) fn cmd(self, name: &str, limit: u64, program: impl AsRef<OsStr>) -> Cmd {
        let mut words = vec!["setpriv", "--pdeathsig", "KILL"];
        if self != Self::None {
            words.extend(["unshare", "--mount", "--propagation", "private"]);
            words.extend(["--pid", "--fork", "--kill-child", "--mount-proc"]);
        }
        if self == Self::User {
            words.extend(["--user", "--map-root-user"]);
        }
        let mut cmd = Cmd::new(name, limit, words[0]);
        cmd.args(&words[1..]).arg("--").arg(program);
        cmd
    }

    /// The same with a loopback device of its own and no other network, so that a port is only
    /// taken by those that run in it. Without a busybox to bring the device up, the host's network
    /// stays.
    pub(crate) fn offline(self, name: &str, limit: u64, program: impl AsRef<OsStr>) -> Cmd {
        let busybox = paths::tools().join("busybox/bin/busybox");
        if self == Self::None || !busybox.exists() {
            return self.cmd(name, limit, program);
        }
        let mut cmd = self.cmd(name, limit, "unshare");
        cmd.args(["--net", "sh", "-c", "\"$0\" ip link set lo up && exec \"$@\""]);
        cmd.arg(busybox).arg(program);
        cmd
    }
}
