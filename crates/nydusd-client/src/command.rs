//! Command lines of `nydusd`, in the order in which the Go snapshotter writes them.

use crate::{Binary, Error, Help, HybridMode};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

const NOFILE: &str = "--rlimit-nofile";
const POLICY: &str = "--failover-policy";

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
        /// `--hybrid-mode`. No version needs it.
        hybrid: Option<HybridMode>,
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

impl Log {
    /// The file that is written: with rotation, `nydusd` puts `_rCURRENT` before the extension.
    pub fn current(&self) -> Option<PathBuf> {
        let file = self.file.as_ref()?;
        let name = if self.rotation == 0 { "" } else { "_rCURRENT" };
        let extension = file.extension().unwrap_or("log".as_ref());
        let mut current = file.with_extension("").into_os_string();
        current.push(name);
        current.push(".");
        current.push(extension);
        Some(current.into())
    }
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
    /// Directory with a directory for each instance that is mounted through the API, in that its
    /// `config.json`: of their credentials our errors quote none.
    pub instances: Option<PathBuf>,
    /// Control group (its directory) that the daemon is put into as soon as it is started.
    pub cgroup: Option<PathBuf>,
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
            instances: None,
            cgroup: None,
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

    /// Files with its configurations, as far as they are known.
    pub(crate) fn configs(&self) -> Vec<PathBuf> {
        if let Mode::Dedicated { config, .. } = &self.mode {
            return vec![config.clone()];
        }
        let entries = self.instances.iter().filter_map(|path| fs::read_dir(path).ok()).flatten();
        entries.flatten().map(|entry| entry.path().join("config.json")).collect()
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
        let nofile = nofile.filter(|_| help.knows(NOFILE) && !self.gives(NOFILE));
        let mut options = self.options(help);
        options.value(NOFILE, nofile.map(|limit| limit.to_string()));
        let unknown = |what: String| Error::Unsupported(binary.program.clone(), what);
        let mut args = vec![name.into()];
        for (option, value) in options.0 {
            known(help, option, value.as_ref()).map_err(unknown)?;
            args.push(option.into());
            args.extend(value);
        }
        args.extend(self.extra.iter().cloned());
        Ok(args)
    }

    fn options(&self, help: &Help) -> Options {
        let mut options = Options(Vec::new());
        options.flag("--upgrade", self.upgrade);
        if let Mode::Virtiofs { sock, hybrid } = &self.mode {
            options.flag("--hybrid-mode", hybrid.is_some());
            options.value("--id", self.id.as_ref());
            self.logging(&mut options);
            options.value("--apisock", Some(&self.apisock));
            options.value("--sock", Some(sock));
            return options;
        }
        // 2.2 hides the name that upstream uses.
        let old = help.knows("--fuse-threads") && !help.knows("--thread-num");
        options.value(if old { "--fuse-threads" } else { "--thread-num" }, number(self.threads));
        options.value("--id", self.id.as_ref());
        if let Mode::Dedicated { config, bootstrap, .. } = &self.mode {
            options.value("--config", Some(config));
            options.value("--bootstrap", Some(bootstrap));
        }
        options.value("--mountpoint", self.mountpoint());
        options.value("--apisock", Some(&self.apisock));
        self.logging(&mut options);
        let left_out = |policy: &String| {
            policy.is_empty() || policy == "none" && !help.values(POLICY).contains(policy)
        };
        options.value(POLICY, Some(&self.failover_policy).filter(|policy| !left_out(policy)));
        options
    }

    /// Whether the extra arguments hold an option, which must not come twice.
    fn gives(&self, option: &str) -> bool {
        let is =
            |arg: &OsString| arg.to_str().is_some_and(|arg| arg.split('=').next() == Some(option));
        self.extra.iter().any(is)
    }

    fn logging(&self, options: &mut Options) {
        options.value("--log-level", Some(&self.log.level).filter(|level| !level.is_empty()));
        options.value("--log-rotation-size", number(self.log.rotation));
        options.value("--supervisor", self.supervisor.as_ref());
        options.value("--log-file", self.log.file.as_ref());
    }
}

fn number(value: u32) -> Option<String> {
    (value != 0).then(|| value.to_string())
}

/// Options in order, with their values.
struct Options(Vec<(&'static str, Option<OsString>)>);

impl Options {
    fn flag(&mut self, option: &'static str, set: bool) {
        self.0.extend(set.then_some((option, None)));
    }

    fn value(&mut self, option: &'static str, value: Option<impl Into<OsString>>) {
        self.0.extend(value.map(|value| (option, Some(value.into()))));
    }
}

/// Whether a program takes the option with that value; else what it does not know.
fn known(help: &Help, option: &str, value: Option<&OsString>) -> Result<(), String> {
    let allowed = help.values(option);
    match value {
        _ if !help.knows(option) => Err(option.to_owned()),
        Some(value)
            if !allowed.is_empty() && !allowed.iter().any(|known| value == known.as_str()) =>
        {
            let allowed = allowed.join(", ");
            Err(format!("{option} {} (knows {allowed})", value.display()))
        }
        _ => Ok(()),
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
            _ => Mode::Virtiofs {
                sock: "/s".into(),
                hybrid: (mode == "hybrid").then_some(HybridMode(())),
            },
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
    fn current_log_file() {
        for (file, rotation, want) in [
            ("/l/nydusd.log", 0, "/l/nydusd.log"),
            ("/l/nydusd.log", 100, "/l/nydusd_rCURRENT.log"),
            ("/l.d/nydusd", 1, "/l.d/nydusd_rCURRENT.log"),
        ] {
            let log = Log { level: String::new(), file: Some(file.into()), rotation };
            assert_eq!(log.current(), Some(want.into()));
        }
        assert_eq!(Log::default().current(), None);
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
