//! The programs, called by hand.

use std::process::Command;

#[test]
fn the_agent_is_not_a_command() {
    let ran = Command::new(env!("CARGO_BIN_EXE_nydusvm-agent")).output().expect("the agent");
    let said = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert_eq!(ran.status.code(), Some(2), "{said}");
    assert!(said.starts_with("nydusvm-agent: this is the first process of a guest"), "{said}");
}

#[test]
fn the_shim_is_not_a_command() {
    let mut shim = Command::new(env!("CARGO_BIN_EXE_containerd-shim-nydusvm-v2"));
    // Where containerd listens.
    let ran = shim.env_remove("TTRPC_ADDRESS").output().expect("the shim");
    let said = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert_eq!(ran.status.code(), Some(1), "{said}");
    assert!(said.starts_with("io.containerd.nydusvm.v2: "), "{said}");
}
