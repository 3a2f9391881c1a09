//! The programs, called by hand.

use std::process::{Command, Output};

fn run(program: &str, args: &[&str]) -> Output {
    Command::new(program).args(args).output().unwrap_or_else(|error| panic!("{program}: {error}"))
}

#[test]
fn the_agent_is_not_a_command() {
    let ran = run(env!("CARGO_BIN_EXE_nydusvm-agent"), &[]);
    let said = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert_eq!(ran.status.code(), Some(2), "{said}");
    assert!(said.starts_with("nydusvm-agent: this is the first process of a guest"), "{said}");
}

#[test]
fn the_shim_says_its_version() {
    let mut shim = Command::new(env!("CARGO_BIN_EXE_containerd-shim-nydusvm-v2"));
    // containerd always sets it.
    let ran = shim.arg("-v").env("TTRPC_ADDRESS", "").output().expect("it runs");
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert!(ran.status.success() && said.contains("Version:"), "{ran:?}");
}
