//! Command lines of `nydusd`, in the order in which the Go snapshotter writes them.

use crate::{Binary, Error, Help};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

const NOFILE: &str = "--rlimit-nofile";

/// What a daemon is for.
#[derive(Clone, Debug)]
pub enum Mode {
    /// A FUSE server of one image.
    Dedicated {
        /// File with its configuration.
        config: PathBuf,
        /// The image's bootstrap.
        bootstrap: PathBuf,
        /// Where it is mounted.
        mountpoint: PathBuf,
    },
    /// A FUSE server of many images, mounted through the API.
    Shared {
        /// Where it is mounted.
        mountpoint: PathBuf,
    },
    /// A vhost-user server for one virtual machine.
    Virtiofs {
        /// The vhost-user socket.
        sock: PathBuf,
        /// `--hybrid-mode`: only after [`Binary::hybrid_mode`]. No version needs it.
        hybrid: bool,
    },
}

/// Where a daemon logs.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// `trace`, `debug`, `info`, `warn` or `error`; empty for `nydusd`'s own default.
    pub level: String,
    /// File; `None` for standard error.
    pub file: Option<PathBuf>,
    /// Size in MiB at which the file is rotated; 0 for never.
    pub rotation: u32,
}

/// A daemon to be.
#[derive(Clone, Debug)]
pub struct Spec {
    /// What it is for.
    pub mode: Mode,
    /// Socket of its HTTP API.
    pub apisock: PathBuf,
    /// Threads of the FUSE server; 0 for `nydusd`'s own default.
    pub threads: u32,
    /// Its name; `nydusd` wants one with a supervisor.
    pub id: Option<String>,
    /// Socket where its FUSE session is kept for a successor.
    pub supervisor: Option<PathBuf>,
    /// Whether it shall take over from a live predecessor.
    pub upgrade: bool,
    /// `none`, `resend` or `flush`; empty or `none` are left out where they are not known.
    pub failover_policy: String,
    /// Where it logs.
    pub log: Log,
    /// File for its standard error, truncated at start: what our errors quote. A file and not a
    /// pipe, because the daemon outlives us. `None`: ours is inherited and nothing is quoted.
    pub stderr: Option<PathBuf>,
    /// More arguments, put last.
    pub extra: Vec<OsString>,
}

impl Spec {
    /// A daemon with nothing but its mode and socket.
    pub fn new(mode: Mode, apisock: impl Into<PathBuf>) -> Self {
        Self {
            mode,
            apisock: apisock.into(),
            threads: 0,
            id: None,
            supervisor: None,
            upgrade: false,
            failover_policy: String::new(),
            log: Log::default(),
            stderr: None,
            extra: Vec::new(),
        }
    }

    /// Where the host sees the file system, if it does.
    pub fn mountpoint(&self) -> Option<&Path> {
        match &self.mode {
            Mode::Dedicated { mountpoint, .. } | Mode::Shared { mountpoint } => Some(mountpoint),
            Mode::Virtiofs { .. } => None,
        }
    }

    /// Sockets that the daemon makes.
    pub fn sockets(&self) -> Vec<&Path> {
        match &self.mode {
            Mode::Virtiofs { sock, .. } => vec![&self.apisock, sock],
            _ => vec![&self.apisock],
        }
    }

    /// Arguments for a program; `nofile` is the value of `--rlimit-nofile`,
    /// left out if not known or given in `extra`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] names what the program does not know.
    pub fn args(&self, binary: &Binary, nofile: Option<u64>) -> Result<Vec<OsString>, Error> {
        let (name, help) = match self.mode {
            Mode::Virtiofs { .. } => ("virtiofs", &binary.virtiofs),
            _ => ("fuse", &binary.fuse),
        };
        let mut args = Args { program: &binary.program, help, list: vec![name.into()] };
        args.flag("--upgrade", self.upgrade)?;
        match &self.mode {
            Mode::Virtiofs { sock, hybrid } => self.virtiofs(&mut args, sock, *hybrid)?,
            _ => self.fuse(&mut args)?,
        }
        let nofile = nofile.filter(|_| help.knows(NOFILE) && !self.gives(NOFILE));
        args.value(NOFILE, nofile.map(|limit| limit.to_string()))?;
        args.list.extend(self.extra.iter().cloned());
        Ok(args.list)
    }

    /// Whether the extra arguments hold an option, which must not come twice.
    fn gives(&self, option: &str) -> bool {
        let is =
            |arg: &OsString| arg.to_str().is_some_and(|arg| arg.split('=').next() == Some(option));
        self.extra.iter().any(is)
    }

    fn fuse(&self, args: &mut Args<'_>) -> Result<(), Error> {
        // 2.2 hides the name that upstream uses.
        let threads = ["--thread-num", "--fuse-threads"].into_iter().find(|o| args.help.knows(o));
        args.value(threads.unwrap_or("--thread-num"), number(self.threads))?;
        args.value("--id", self.id.as_ref())?;
        if let Mode::Dedicated { config, bootstrap, .. } = &self.mode {
            args.value("--config", Some(config))?;
            args.value("--bootstrap", Some(bootstrap))?;
        }
        args.value("--mountpoint", self.mountpoint())?;
        args.value("--apisock", Some(&self.apisock))?;
        self.logging(args)?;
        args.policy(&self.failover_policy)
    }

    fn virtiofs(&self, args: &mut Args<'_>, sock: &Path, hybrid: bool) -> Result<(), Error> {
        args.flag("--hybrid-mode", hybrid)?;
        args.value("--id", self.id.as_ref())?;
        self.logging(args)?;
        args.value("--apisock", Some(&self.apisock))?;
        args.value("--sock", Some(sock))
    }

    fn logging(&self, args: &mut Args<'_>) -> Result<(), Error> {
        let level = Some(&self.log.level).filter(|level| !level.is_empty());
        args.value("--log-level", level)?;
        args.value("--log-rotation-size", number(self.log.rotation))?;
        args.value("--supervisor", self.supervisor.as_ref())?;
        args.value("--log-file", self.log.file.as_ref())
    }
}

fn number(value: u32) -> Option<String> {
    (value != 0).then(|| value.to_string())
}

/// A command line that holds only what the program knows.
struct Args<'a> {
    program: &'a Path,
    help: &'a Help,
    list: Vec<OsString>,
}

impl Args<'_> {
    fn flag(&mut self, option: &str, set: bool) -> Result<(), Error> {
        if set {
            self.push(option)?;
        }
        Ok(())
    }

    fn value(&mut self, option: &str, value: Option<impl Into<OsString>>) -> Result<(), Error> {
        if let Some(value) = value {
            self.push(option)?;
            self.list.push(value.into());
        }
        Ok(())
    }

    fn policy(&mut self, policy: &str) -> Result<(), Error> {
        const OPTION: &str = "--failover-policy";
        let values = self.help.values(OPTION);
        let known = values.iter().any(|value| value == policy);
        match policy {
            "" => Ok(()),
            "none" if !known => Ok(()),
            _ if known || values.is_empty() => self.value(OPTION, Some(policy)),
            _ => Err(self.unsupported(&format!("{OPTION} {policy}"), values)),
        }
    }

    fn push(&mut self, option: &str) -> Result<(), Error> {
        if !self.help.knows(option) {
            return Err(self.unsupported(option, &[]));
        }
        self.list.push(option.into());
        Ok(())
    }

    fn unsupported(&self, option: &str, values: &[String]) -> Error {
        let (program, values) = (self.program.to_owned(), values.to_vec());
        Error::Unsupported { program, option: option.to_owned(), values }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FUSE: &str = "--upgrade\n--fuse-threads\n--id\n--config\n--bootstrap\n--mountpoint\n--apisock\n\
        --log-level\n--log-rotation-size\n--log-file\n--supervisor\n--rlimit-nofile\n\
        --failover-policy <p> [possible values: resend, flush]";

    fn binary(more: &str) -> Binary {
        let fuse = Help::parse(&format!("{FUSE}\n{more}"));
        let virtiofs = Help::parse(&format!("{FUSE}\n--sock\n{more}"));
        Binary { program: "nydusd".into(), fuse, virtiofs, git_commit: String::new() }
    }

    fn spec(mode: &str) -> Spec {
        let mountpoint = "/m".into();
        let mode = match mode {
            "dedicated" => {
                Mode::Dedicated { config: "/c".into(), bootstrap: "/b".into(), mountpoint }
            }
            "shared" => Mode::Shared { mountpoint },
            _ => Mode::Virtiofs { sock: "/s".into(), hybrid: mode == "hybrid" },
        };
        let log = Log { level: "info".into(), file: Some("/l".into()), rotation: 100 };
        Spec { failover_policy: "resend".into(), log, threads: 4, ..Spec::new(mode, "/a") }
    }

    fn check(spec: &Spec, more: &str, nofile: Option<u64>, want: &str) {
        let got = match spec.args(&binary(more), nofile) {
            Ok(args) => args.join(" ".as_ref()).into_string().unwrap(),
            Err(error) => error.to_string(),
        };
        assert_eq!(got, want);
    }

    #[test]
    fn order_is_upstreams() {
        let log = "--log-level info --log-rotation-size 100 --log-file /l";
        let shared = format!("--mountpoint /m --apisock /a {log} --failover-policy resend");
        let dedicated = format!("--config /c --bootstrap /b {shared}");
        for (mode, more, nofile, want) in [
            ("dedicated", "", None, format!("fuse --fuse-threads 4 {dedicated}")),
            ("dedicated", "--thread-num", None, format!("fuse --thread-num 4 {dedicated}")),
            ("shared", "", Some(7), format!("fuse --fuse-threads 4 {shared} --rlimit-nofile 7")),
            ("virtiofs", "", None, format!("virtiofs {log} --apisock /a --sock /s")),
            (
                "hybrid",
                "--hybrid-mode",
                None,
                format!("virtiofs --hybrid-mode {log} --apisock /a --sock /s"),
            ),
            ("hybrid", "", None, "nydusd does not know --hybrid-mode".to_owned()),
        ] {
            check(&spec(mode), more, nofile, &want);
        }
    }

    #[test]
    fn only_what_is_known_is_passed() {
        let with = |policy: &str| Spec {
            failover_policy: policy.into(),
            threads: 0,
            log: Log::default(),
            ..spec("shared")
        };
        let plain = "fuse --mountpoint /m --apisock /a";
        let refusal = "nydusd does not know --failover-policy x (knows resend, flush)";
        let none = "--failover-policy [possible values: none]";
        for (spec, more, want) in [
            (with(""), "", plain.to_owned()),
            (with("none"), "", plain.to_owned()),
            (with("none"), none, format!("{plain} --failover-policy none")),
            (with("flush"), "", format!("{plain} --failover-policy flush")),
            (with("x"), "", refusal.to_owned()),
        ] {
            check(&spec, more, None, want.as_str());
        }
    }

    #[test]
    fn supervised_successors_and_extra_arguments() {
        let plain = Spec { threads: 0, log: Log::default(), ..spec("shared") };
        let successor = Spec {
            upgrade: true,
            id: Some("d".into()),
            supervisor: Some("/v".into()),
            ..plain.clone()
        };
        let extra = |args: &[&str]| Spec {
            extra: args.iter().map(Into::into).collect(),
            failover_policy: String::new(),
            ..plain.clone()
        };
        for (spec, want) in [
            (
                successor,
                "fuse --upgrade --id d --mountpoint /m --apisock /a --supervisor /v --failover-policy resend --rlimit-nofile 7",
            ),
            (
                extra(&["--rlimit-nofile", "0"]),
                "fuse --mountpoint /m --apisock /a --rlimit-nofile 0",
            ),
            (extra(&["--rlimit-nofile=0"]), "fuse --mountpoint /m --apisock /a --rlimit-nofile=0"),
            (extra(&["-x"]), "fuse --mountpoint /m --apisock /a --rlimit-nofile 7 -x"),
        ] {
            check(&spec, "", Some(7), want);
        }
    }
}
