//! Namespaces in which tests and demonstrations run, so that a kill, Ctrl-C or a crash leaves no
//! mount and no process behind.

use crate::cmd::{Cmd, End};
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
}
