//! What the helper may do, and what it says where it may not.

use nydus_e2e::mounts::mount_at;
use nydus_e2e::programs::{self, BUILDS};
use nydus_e2e::run::run;
use nydus_e2e::stage::Stage;
use nydus_e2e::{lacks, linux, not_run};
use std::fs;
use std::os::unix::fs::PermissionsExt;

const OPTIONS: &str = "lowerdir=l1:l2,extraoption=c2Vj";
const NOBODY: [&str; 3] = ["--reuid=65534", "--regid=65534", "--clear-groups"];

fn stage() -> Stage {
    let stage = Stage::with(&["l1", "l2", "t"]);
    fs::set_permissions(stage.path(), PermissionsExt::from_mode(0o755)).expect("a mode");
    stage
}

#[test]
fn refused_without_privilege() {
    for (build, how) in BUILDS
        .into_iter()
        .flat_map(|build| [(build, NOBODY.to_vec()), (build, vec!["--bounding-set=-sys_admin"])])
    {
        let stage = stage();
        let copy = stage.join("helper");
        fs::copy(programs::ours(build), &copy).expect("a copy");
        let helper = ["./helper", "overlay", "t", "-o", OPTIONS];
        let ran = run(stage.command("setpriv").args(how).args(helper));
        let expected = "nydus-overlayfs: cannot mount overlay on 't': must be root (CAP_SYS_ADMIN): operation not permitted\n";
        assert!(ran.code() == Some(1) && ran.said() == expected, "{ran}");
        assert!(mount_at(&stage.join("t")).is_none());
    }
}

#[test]
fn root_of_a_user_namespace_may() {
    if !linux(5, 11) {
        return lacks!("overlays in user namespaces (5.11)");
    }
    for build in BUILDS {
        let stage = stage();
        let copy = stage.join("helper");
        fs::copy(programs::ours(build), &copy).expect("a copy");
        let unshare = ["unshare", "-Urm", "sh", "-c"];
        let script =
            format!("./helper overlay t -o {OPTIONS} && grep -c \" $PWD/t \" /proc/self/mountinfo");
        let probe = run(stage.command("setpriv").args(NOBODY).args(unshare).arg("true"));
        if !probe.ok() {
            return not_run!("no user namespaces for ordinary users: {}", probe.said().trim());
        }
        let ran = run(stage.command("setpriv").args(NOBODY).args(unshare).arg(&script));
        assert_eq!(ran.stdout, b"1\n", "{ran}");
    }
}
