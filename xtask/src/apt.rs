//! Debian packages of any suite by the machine's own apt, in a configuration, state and cache of
//! our own: neither the host's lists nor its packages change. Signatures are verified.

use crate::cmd::Cmd;
use crate::ui;
use anyhow::{Context, Result, anyhow, ensure};
use rustix::process::geteuid;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

const PUBLIC_MIRROR: &str = "http://deb.debian.org/debian";

/// One suite of Debian, at the first mirror that answers.
pub(crate) struct Suite {
    name: String,
    dir: PathBuf,
}

impl Suite {
    /// Fetches the suite's package list into `dir`, checked against `keyring`.
    pub(crate) fn open(name: &str, dir: &Path, keyring: &Path) -> Result<Self> {
        let suite = Self { name: name.to_owned(), dir: dir.join(name) };
        let mut failure = anyhow!("no mirror");
        for mirror in mirrors() {
            suite.configure(&mirror, keyring)?;
            match suite.apt("update", 300).arg("update").run() {
                Ok(()) => return Ok(suite),
                Err(error) => failure = error,
            }
        }
        Err(failure.context(format!("cannot read Debian {name}")))
    }

    /// Downloads `packages` into `to`, an empty directory.
    pub(crate) fn download(&self, packages: &[&str], to: &Path) -> Result<()> {
        let packages = packages.iter().map(|package| format!("{package}/{}", self.name));
        self.apt("download", 600).arg("download").args(packages).dir(to).run()
    }

    /// `packages` and, of what they depend on, the packages whose names begin with `prefix`.
    pub(crate) fn with_dependencies(&self, packages: &[&str], prefix: &str) -> Result<Vec<String>> {
        let named = packages.iter().map(|package| format!("{package}/{}", self.name));
        let mut apt = self.apt("dependencies", 120);
        let plan = apt.args(["-s", "--no-install-recommends", "install"]).args(named).output()?;
        let planned = plan.lines().filter_map(|line| line.strip_prefix("Inst ")?.split(' ').next());
        let wanted = |name: &&str| name.starts_with(prefix) || packages.contains(name);
        Ok(planned.filter(wanted).map(str::to_owned).collect())
    }

    fn apt(&self, verb: &str, limit: u64) -> Cmd {
        let mut apt = Cmd::new(&format!("apt-{verb}-{}", self.name), limit, "apt-get");
        // `-c` is read after the host's own settings, which keep a proxy working.
        apt.arg("-c").arg(self.dir.join("apt.conf")).env("LC_ALL", "C");
        apt
    }

    fn configure(&self, mirror: &str, keyring: &Path) -> Result<()> {
        for dir in ["lists/partial", "cache/archives/partial", "none"] {
            fs::create_dir_all(self.dir.join(dir))?;
        }
        let (dir, keyring, name) = (self.dir.display(), keyring.display(), &self.name);
        fs::write(self.dir.join("status"), "")?;
        let source = format!("deb [signed-by={keyring}] {mirror} {name} main\n");
        fs::write(self.dir.join("sources.list"), source)?;
        let conf = CONFIGURATION.replace("DIR", &dir.to_string());
        fs::write(self.dir.join("apt.conf"), conf).context("cannot write apt.conf")
    }
}

const CONFIGURATION: &str = r#"
Dir::Etc::sourcelist "DIR/sources.list";
Dir::Etc::sourceparts "DIR/none";
Dir::Etc::preferences "DIR/none/preferences";
Dir::Etc::preferencesparts "DIR/none";
Dir::State "DIR";
Dir::State::status "DIR/status";
Dir::Cache "DIR/cache";
APT::Sandbox::User "";
APT::Update::Error-Mode "any";
Acquire::Retries "3";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
"#;

/// Installs `package` on this machine, if `program` is missing; for what cannot run unpacked.
pub(crate) fn need(program: &str, package: &str) -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&path).any(|dir| dir.join(program).exists()) {
        return Ok(());
    }
    ensure!(geteuid().is_root(), "{program} is missing: install {package}");
    install(package)
}

/// Installs `package` on this machine.
pub(crate) fn install(package: &str) -> Result<()> {
    /// One at a time: apt-get does not wait for another.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock();
    let apt = |verb: &str| {
        let mut apt = Cmd::new(&format!("apt-{verb}"), 600, "apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive").args(["-q", "-y", verb]);
        apt
    };
    ui::step(&format!("apt-get install {package}"), || {
        apt("update").run()?;
        apt("install").args(["--no-install-recommends", package]).run()
    })
}

/// The host's own mirrors of Debian, then the public one.
pub(crate) fn mirrors() -> Vec<String> {
    let uris = Cmd::new("apt-uris", 60, "apt-get").args(["update", "--print-uris"]).output();
    let mut mirrors = debian_mirrors(&uris.unwrap_or_default());
    mirrors.push(PUBLIC_MIRROR.to_owned());
    mirrors.dedup();
    mirrors
}

/// Other people's archives have suites of the same names; Debian's has `-updates` beside them. A
/// wrong one would do no harm: it fails the signature check.
fn debian_mirrors(uris: &str) -> Vec<String> {
    let known: BTreeSet<_> = uris.lines().filter_map(base_and_suite).collect();
    let has_updates =
        |(base, suite): &&(&str, &str)| known.contains(&(*base, &*format!("{suite}-updates")));
    known.iter().filter(has_updates).map(|(base, _)| (*base).to_owned()).collect()
}

/// `'BASE/dists/SUITE/InRelease' …`
fn base_and_suite(line: &str) -> Option<(&str, &str)> {
    let uri = line.strip_prefix('\'')?.split('\'').next()?;
    let (base, rest) = uri.split_once("/dists/")?;
    Some((base, rest.strip_suffix("/InRelease")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_are_those_with_updates() {
        let uris = "\
'https://download.example.com/linux/debian/dists/bookworm/InRelease' a_InRelease 0
'http://mirror.example.org/debian/dists/bookworm/InRelease' b_InRelease 0
'http://mirror.example.org/debian/dists/bookworm-updates/InRelease' c_InRelease 0
'http://mirror.example.org/debian/dists/bookworm/main/binary-amd64/Packages.xz' d 0
'http://mirror.example.org/debian-security/dists/bookworm-security/InRelease' e_InRelease 0
";
        assert_eq!(debian_mirrors(uris), ["http://mirror.example.org/debian"]);
    }
}
