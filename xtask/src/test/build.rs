//! Builds the test programs and what they test, by one cargo with one set of features, and says
//! where they are. They are run without cargo.

use super::tiers::{self, How, Tier};
use crate::cmd::{self, Cmd};
use crate::{dist, paths, ui};
use anyhow::{Context, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// Our programs besides the helper, and a test of the same package: cargo builds a package's
/// programs for its tests.
const PROGRAMS: &[(&str, &str)] = &[
    ("nydus-slice", "golden"),
    ("containerd-nydus-grpc", "import"),
    ("containerd-shim-nydusvm-v2", "programs"),
    ("nydusvm-agent", "programs"),
];

/// A test program.
pub(super) struct TestProgram {
    /// The directory of its package, in which it is run.
    pub(super) package: PathBuf,
    /// `None` for the tests that are in the source of a library or a program.
    pub(super) test: Option<String>,
    /// Of its library, program or test.
    pub(super) name: String,
    pub(super) path: PathBuf,
}

impl TestProgram {
    pub(super) fn is_of(&self, package: &str) -> bool {
        self.package.file_name().is_some_and(|name| name == package)
    }
}

/// All that was built.
#[derive(Default)]
pub(crate) struct Built {
    pub(super) tests: Vec<TestProgram>,
    programs: BTreeMap<String, PathBuf>,
}

impl Built {
    /// A program.
    pub(crate) fn program(&self, name: &str) -> Result<&Path> {
        let path = self.programs.get(name).map(PathBuf::as_path);
        path.with_context(|| format!("cargo built no program {name}"))
    }

    /// Our programs besides the helper.
    pub(crate) fn programs(&self) -> impl Iterator<Item = (&str, &Path)> {
        let path = |name| self.programs.get(name).map(PathBuf::as_path);
        PROGRAMS.iter().filter_map(move |(name, _)| Some((*name, path(*name)?)))
    }
}

/// Directory and name of the package whose tests are the end-to-end ones.
pub(super) const END_TO_END: &str = "e2e";

/// The directory in which each end-to-end test has a link by its name.
pub(super) fn links() -> PathBuf {
    paths::target().join("test-programs")
}

/// Builds what these tiers need.
pub(super) fn run(chosen: &[Tier]) -> Result<Built> {
    let words = wanted(chosen)?.unwrap_or_else(|| vec!["--tests".to_owned()]);
    let built = targets("build tests", words)?;
    link(&built).context("cannot link to test programs")?;
    Ok(built)
}

/// Builds the targets that these words of cargo's choose.
pub(crate) fn targets<W: AsRef<OsStr>>(
    what: &str,
    words: impl IntoIterator<Item = W>,
) -> Result<Built> {
    let mut cargo = cargo(&what.replace(' ', "-"))?;
    cargo.args(["--no-run", "--message-format", "json-render-diagnostics"]).args(words);
    ui::step(what, || cargo.run())?;
    Ok(read(&String::from_utf8_lossy(&fs::read(cargo.log())?)))
}

/// `cargo test`, in the way that is the same for all that is built. Linked statically, the programs
/// are like those that are released.
pub(super) fn cargo(log: &str) -> Result<Cmd> {
    let mut cargo = Cmd::new(log, 1800, cmd::cargo());
    cargo.args(["test", "--workspace", "--locked", "--quiet", "--target", &dist::host()?]);
    cargo.env("CARGO_ENCODED_RUSTFLAGS", dist::STATIC);
    Ok(cargo)
}

/// The words that choose targets; `None` for all of them.
fn wanted(chosen: &[Tier]) -> Result<Option<Vec<String>>> {
    let mut tests = Vec::new();
    let mut words = Vec::new();
    for tier in chosen {
        match tier.how {
            _ if tier.name == "kernels" => return Ok(None),
            How::Unit if chosen.iter().any(|tier| tier.how == How::Programs) => return Ok(None),
            How::Unit => {
                words.extend(["--lib", "--bins"].map(str::to_owned));
                tests.extend(tiers::unit_files()?);
            }
            How::Of(_) | How::Helper => tests.push(tier.name.clone()),
            How::Programs => {
                tests.push(tier.name.clone());
                tests.extend(PROGRAMS.iter().map(|(_, test)| (*test).to_owned()));
            }
            How::Fuzz => {}
        }
    }
    tests.sort();
    tests.dedup();
    words.extend(tests.into_iter().flat_map(|test| ["--test".to_owned(), test]));
    Ok(Some(words))
}

/// A line of cargo's: <https://doc.rust-lang.org/cargo/reference/external-tools.html>.
#[derive(Deserialize)]
struct Message {
    manifest_path: Option<PathBuf>,
    target: Option<Target>,
    profile: Option<Profile>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

fn read(output: &str) -> Built {
    let mut built = Built::default();
    for line in output.lines().filter(|line| line.starts_with('{')) {
        let Ok(message) = serde_json::from_str(line) else { continue };
        let Message {
            manifest_path: Some(manifest),
            target: Some(Target { name, kind }),
            profile: Some(profile),
            executable: Some(path),
        } = message
        else {
            continue;
        };
        if !profile.test {
            built.programs.insert(name, path);
            continue;
        }
        let test = kind.iter().any(|kind| kind == "test").then(|| name.clone());
        let package = manifest.parent().unwrap_or(&manifest).to_owned();
        built.tests.push(TestProgram { package, test, name, path });
    }
    built.tests.sort_by(|one, other| (&one.package, &one.name).cmp(&(&other.package, &other.name)));
    built
}

fn link(built: &Built) -> Result<()> {
    let links = links();
    fs::create_dir_all(&links)?;
    for program in built.tests.iter().filter(|program| program.is_of(END_TO_END)) {
        let Some(test) = &program.test else { continue };
        let _ = fs::remove_file(links.join(test));
        symlink(&program.path, links.join(test))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_programs() {
        let output = r#"   Compiling a v0.1.0
{"reason":"compiler-artifact","manifest_path":"/w/tests/e2e/Cargo.toml","target":{"kind":["test"],"name":"plan"},"profile":{"test":true},"executable":"/t/plan-1"}
{"reason":"compiler-artifact","manifest_path":"/w/crates/a/Cargo.toml","target":{"kind":["lib"],"name":"a"},"profile":{"test":true},"executable":"/t/a-2"}
{"reason":"compiler-artifact","manifest_path":"/w/crates/a/Cargo.toml","target":{"kind":["lib"],"name":"a"},"profile":{"test":false},"executable":null}
{"reason":"compiler-artifact","manifest_path":"/w/crates/a/Cargo.toml","target":{"kind":["bin"],"name":"nydus-slice"},"profile":{"test":false},"executable":"/t/nydus-slice"}
{"reason":"build-finished","success":true}
"#;
        let built = read(output);
        let found = |program: &TestProgram| (program.test.clone(), program.path.clone());
        let tests: Vec<_> = built.tests.iter().map(found).collect();
        assert_eq!(tests, [(None, "/t/a-2".into()), (Some("plan".into()), "/t/plan-1".into())]);
        assert!(built.tests[1].is_of(END_TO_END) && built.tests[0].is_of("a"));
        let programs: Vec<_> = built.programs().collect();
        assert_eq!(programs, [("nydus-slice", Path::new("/t/nydus-slice"))]);
    }
}
