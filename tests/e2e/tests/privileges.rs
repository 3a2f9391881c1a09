//! What the helper may do, and what it says where it may not.

use nix::errno::Errno;
use nydus_e2e::mounts::mount_at;
use nydus_e2e::programs::{self, BUILDS};
use nydus_e2e::run::{Ran, run};
use nydus_e2e::stage::Stage;
use nydus_e2e::{lacks, linux, not_run, seccomp};
use rustix::mount::mount_bind;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};

const OPTIONS: &str = "lowerdir=l1:l2,extraoption=c2Vj";
const MAPS: &str = "lowerdir=l1:l2,uidmap=0:0:1,gidmap=0:0:1";
const UPPER: &str = "redirect_dir=off,lowerdir=l1,redirect_dir=on,upperdir=u,workdir=w";
const NOBODY: [&str; 3] = ["--reuid=65534", "--regid=65534", "--clear-groups"];
const ROOT: &str = "must be root (CAP_SYS_ADMIN): operation not permitted";
const DATA: &str =
    "data-only layers need root of the initial user namespace: operation not permitted";
const CHROOT: &str = "a process in a chroot cannot create the user namespace that uidmap= and \
    gidmap= need: operation not permitted";
const FILTER: &str = "a seccomp filter of this process may forbid it: operation not permitted";

/// With a copy of each build, which other users may run.
fn stage() -> Stage {
    let stage = Stage::with(&["l1", "l2", "l3", "u", "w", "t"]);
    fs::set_permissions(stage.path(), PermissionsExt::from_mode(0o755)).expect("a mode");
    for build in BUILDS {
        fs::copy(programs::ours(build), stage.join(build)).expect("a copy");
    }
    for name in ["u", "w"] {
        chown(stage.join(name), Some(65_534), Some(65_534)).expect("an owner");
    }
    stage
}

fn refused(ran: &Ran, code: i32, why: &str) {
    let expected = format!("nydus-overlayfs: cannot mount overlay on 't': {why}\n");
    assert!(ran.code() == Some(code) && ran.said() == expected, "{ran}, expected {why}");
}

#[test]
fn refused_without_privilege() {
    let hows: [&[&str]; 5] = [
        &NOBODY,
        &["--bounding-set=-sys_admin"],
        &["--reuid=65534", "--regid=65534", "--clear-groups", "unshare", "-Um"],
        &["unshare", "-Urm", "setpriv", "--bounding-set=-sys_admin"],
        // Root of a user namespace, in a mount namespace that belongs to another one.
        &["unshare", "-Ur"],
    ];
    for (build, how) in BUILDS.into_iter().flat_map(|build| hows.map(|how| (build, how))) {
        let stage = stage();
        let probe = run(stage.command("setpriv").args(how).arg("true"));
        if !probe.ok() {
            not_run!("no user namespaces for ordinary users: {}", probe.said().trim());
            continue;
        }
        for options in [OPTIONS, MAPS, UPPER] {
            let helper = [&format!("./{build}"), "overlay", "t", "-o", options];
            let ran = run(stage.command("setpriv").args(how).args(helper));
            refused(&ran, 1, ROOT);
            assert!(mount_at(&stage.join("t")).is_none());
        }
    }
}

/// Whoever became root of a user namespace, but for what only root of the initial one may.
#[test]
fn root_of_a_user_namespace_may() {
    if !linux(5, 11) {
        return lacks!("overlays in user namespaces (5.11)");
    }
    let need = |option: &str| {
        let needs = "needs root of the initial user namespace: operation not permitted";
        Some(format!("option '{option}' {needs}"))
    };
    let table = [
        (OPTIONS, None),
        ("lowerdir=l1,upperdir=u,workdir=w,userxattr", None),
        ("lowerdir=l1:l2,redirect_dir=on", need("redirect_dir=on")),
        (UPPER, need("redirect_dir=on")),
        ("lowerdir=l1:l2,metacopy=on", need("metacopy=on")),
        ("lowerdir=l1:l2::l3", Some(DATA.to_owned()).filter(|_| linux(6, 5))),
        ("lowerdir+=l1,lowerdir+=l2,datadir+=l3", Some(DATA.to_owned()).filter(|_| linux(6, 8))),
    ];
    for (build, (options, why)) in
        BUILDS.into_iter().flat_map(|build| table.iter().map(move |row| (build, row)))
    {
        if options.contains("l3") && why.is_none() {
            continue;
        }
        let stage = stage();
        let run = |program: &[&str]| {
            let mut command = stage.command("setpriv");
            run(command.args(NOBODY).args(["unshare", "-Urm"]).args(program))
        };
        let probe = run(&["true"]);
        if !probe.ok() {
            return not_run!("no user namespaces for ordinary users: {}", probe.said().trim());
        }
        let helper = format!("./{build} overlay t -o {options}");
        let script = format!("{helper} && grep -c \" $PWD/t \" /proc/self/mountinfo");
        let ran = run(&["sh", "-c", &script]);
        match why {
            None => assert!(ran.stdout == b"1\n" && ran.stderr.is_empty(), "{ran}"),
            Some(why) => refused(&ran, 32, why),
        }
    }
}

#[test]
fn chroot_with_id_maps() {
    if !linux(5, 19) {
        return lacks!("id-mapped layers (5.19)");
    }
    for build in BUILDS {
        let stage = stage();
        fs::create_dir(stage.join("proc")).expect("a directory");
        mount_bind("/proc", stage.join("proc")).expect("/proc");
        let run = |options: &str| {
            let helper = [".", &format!("/{build}"), "overlay", "t", "-o", options];
            run(stage.command("chroot").args(helper))
        };
        refused(&run(MAPS), 32, CHROOT);
        assert!(run(OPTIONS).ok());
    }
}

/// Filters as container runtimes set them, for a root that has the capability.
#[test]
fn behind_a_filter() {
    let missing = "lower layer 2 of 2 'missing': no such file or directory";
    let mut table = vec![
        (libc::SYS_mount, "lowerdir=l1:l2", FILTER),
        (libc::SYS_mount, "lowerdir=l1,upperdir=u,workdir=w", FILTER),
        (libc::SYS_mount, "lowerdir=l1:missing", missing),
    ];
    if linux(6, 8) {
        let attach = "cannot attach the mount to the target: operation not permitted";
        table.extend([
            (libc::SYS_fsopen, "lowerdir=l1MANY", FILTER),
            (libc::SYS_fsconfig, "lowerdir=l1MANY", FILTER),
            (libc::SYS_fsmount, "lowerdir=l1MANY", FILTER),
            (libc::SYS_move_mount, "lowerdir=l1MANY", attach),
        ]);
    }
    for (build, (call, options, why)) in
        BUILDS.into_iter().flat_map(|build| table.iter().map(move |row| (build, row)))
    {
        let stage = stage();
        let mut many = String::new();
        // More than fit into one mount(2).
        for number in 0..60 {
            let name = format!("{}{number}", "n".repeat(100));
            fs::create_dir(stage.join(&name)).expect("a layer");
            many += &format!(":{name}");
        }
        let helper = format!("/{build}");
        let mut command = match options.contains("MANY") {
            false => stage.command(stage.join(build)),
            // Without /proc the layers have no shorter names.
            true => stage.command("chroot"),
        };
        command.args([".", &helper].into_iter().filter(|_| options.contains("MANY")));
        command.args(["overlay", "t", "-o", &options.replace("MANY", &many)]);
        seccomp::refuse(&mut command, *call, Errno::EPERM);
        refused(&run(&mut command), 32, why);
        assert!(mount_at(&stage.join("t")).is_none(), "{call}");
    }
}
