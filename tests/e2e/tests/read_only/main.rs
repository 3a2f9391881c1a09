//! A second mount of what is mounted already, with the same options and `ro` somewhere: it shows the
//! same files, and the first mount does not notice.

mod scene;

use nydus_e2e::mounts::{mount_at, mounts};
use nydus_e2e::tree::tree;
use nydus_e2e::{lacks, linux, not_run};
use scene::{Scene, Way, directories, state, ways};
use std::fs;
use std::path::PathBuf;

const PLAIN: &str = "lowerdir=l1:l\\:2,upperdir=u,workdir=w";
const MAPS: &str = "uidmap=0:100000:65536,gidmap=0:100000:65536";

/// What a row needs.
#[derive(Clone, Copy, PartialEq)]
enum Needs {
    Nothing,
    /// This version of Linux, for what is named.
    Linux(u32, u32, &'static str),
    /// Root of the machine, for id-mapped mounts.
    Mapping,
}

/// The options of the first mount, with PLAIN and MAPS for the constants; those of the second, with
/// `@` for the first's; and the layers of the second as mountinfo must show them.
struct Row {
    first: &'static str,
    second: &'static str,
    lower: &'static [&'static str],
    data: &'static [&'static str],
    needs: Needs,
}

const fn row(first: &'static str, lower: &'static [&'static str]) -> Row {
    Row { first, second: "@,ro", lower, data: &[], needs: Needs::Nothing }
}

const fn ordered(second: &'static str) -> Row {
    Row { second, ..row("PLAIN", USUAL) }
}

const fn separate(row: Row) -> Row {
    Row { needs: Needs::Linux(6, 7, "lowerdir+= and datadir+= (6.7)"), ..row }
}

const fn mapped(row: Row) -> Row {
    Row { needs: Needs::Mapping, ..row }
}

const fn with_data(row: Row) -> Row {
    Row { data: &["d1"], needs: Needs::Linux(6, 7, "data-only layers in all forms (6.7)"), ..row }
}

const USUAL: &[&str] = &["u", "l1", "l:2"];

const ROWS: &[Row] = &[
    row("PLAIN", USUAL),
    row("PLAIN,extraoption=e30=,dev,suid", USUAL),
    row(
        "lowerdir=HERE/l1:HERE/l\\:2,upperdir=HERE/u,workdir=HERE/w",
        &["HERE/u", "HERE/l1", "HERE/l:2"],
    ),
    row("workdir=./w/,upperdir=./u/,lowerdir=./l1/:l\\:2", &["./u/", "./l1/", "l:2"]),
    row("upperdir=u,workdir=w,lowerdir=l1", &["u", "l1"]),
    row("lowerdir=l1:l\\:2,upperdir=u:c\\,m,workdir=w:c\\,m", &["u:c,m", "l1", "l:2"]),
    row("lowerdir=l1:l\\:2,upperdir=u\\:c\\,m,workdir=w\\:c\\,m", &["u:c,m", "l1", "l:2"]),
    row("lowerdir=l1:l\\:2,upperdir=u\\\\b,workdir=w\\\\b", &["u\\b", "l1", "l:2"]),
    separate(row("lowerdir+=l1,lowerdir+=l:2,upperdir=u,workdir=w", USUAL)),
    separate(row("upperdir=u,lowerdir+=l1,workdir=w,lowerdir+=l:2", USUAL)),
    separate(row("lowerdir+=l:2,lowerdir=,lowerdir+=l1,lowerdir+=l:2,upperdir=u,workdir=w", USUAL)),
    separate(row(
        "lowerdir+=l1,lowerdir+=l:2,upperdir=u:c\\,m,workdir=w:c\\,m",
        &["u:c,m", "l1", "l:2"],
    )),
    with_data(row("lowerdir=l1:l\\:2::d1,upperdir=u,workdir=w,DATA", USUAL)),
    with_data(row("lowerdir=l1::d1,upperdir=u:c\\,m,workdir=w:c\\,m,DATA", &["u:c,m", "l1"])),
    with_data(row("lowerdir+=l1,lowerdir+=l:2,datadir+=d1,upperdir=u,workdir=w,DATA", USUAL)),
    mapped(row("PLAIN,uidmap=0:100000:65536,gidmap=0:100000:65536", USUAL)),
    mapped(row("MAPS,lowerdir=l1:l\\:2,upperdir=u:c\\,m,workdir=w:c\\,m", &["u:c,m", "l1", "l:2"])),
    mapped(row(
        "lowerdir=HERE/l1:HERE/l\\:2,upperdir=HERE/u,workdir=HERE/w,MAPS",
        &["HERE/u", "HERE/l1", "HERE/l:2"],
    )),
    row("PLAIN,volatile", USUAL),
    row("volatile,PLAIN", USUAL),
    row("PLAIN,index=on", USUAL),
    row("PLAIN,index=on,nfs_export=on", USUAL),
    row("PLAIN,redirect_dir=on", USUAL),
    row("PLAIN,redirect_dir=on,metacopy=on,index=on,volatile", USUAL),
    Row { needs: Needs::Linux(5, 11, "userxattr (5.11)"), ..row("PLAIN,userxattr", USUAL) },
    row("PLAIN,xino=off", USUAL),
    ordered("ro,@"),
    ordered("rw,@,ro"),
    ordered("@,ro,noatime,nodev"),
    ordered("lowerdir=l1:l\\:2,ro,upperdir=u,nosuid,workdir=w"),
    ordered("@,defaults,ro"),
    // `ro=1` makes only the superblock read-only; `rw=1` leaves only the mount read-only.
    Row { needs: Needs::Linux(6, 5, "ro=1 and rw=1 (6.5)"), ..ordered("@,ro=1") },
    Row { needs: Needs::Linux(6, 5, "ro=1 and rw=1 (6.5)"), ..ordered("@,ro,rw=1") },
];

impl Row {
    fn is_possible(&self) -> bool {
        let ids = fs::read_to_string("/proc/self/uid_map").expect("a map");
        let is_root = ids.split_whitespace().eq(["0", "0", "4294967295"]);
        match self.needs {
            Needs::Mapping if !is_root => not_run!("id-mapped layers need root of the machine"),
            Needs::Mapping if !linux(5, 19) => lacks!("id-mapped layers (5.19)"),
            Needs::Linux(major, minor, what) if !linux(major, minor) => lacks!("{what}"),
            _ => return true,
        }
        false
    }

    /// The options of both mounts. Before Linux 6.15, data-only layers need `metacopy=on`.
    fn options(&self) -> [String; 2] {
        let data = if linux(6, 15) { "xino=off" } else { "metacopy=on" };
        let first = self.first.replace("PLAIN", PLAIN).replace("MAPS", MAPS).replace("DATA", data);
        [first.clone(), self.second.replace('@', &first)]
    }
}

#[test]
fn a_look_touches_nothing() {
    let rows = ROWS.iter().filter(|row| row.is_possible());
    let ways = ways();
    let cases = rows.flat_map(|row| ways.iter().map(move |way| (row, *way)));
    let failed: Vec<_> = cases.filter_map(|(row, way)| failure(row, way)).collect();
    assert!(failed.is_empty(), "{} failed:\n{}", failed.len(), failed.join("\n"));
}

/// Runs a row by itself, so that a failure does not hide others.
fn failure(row: &Row, way: Way) -> Option<String> {
    let done = std::panic::catch_unwind(|| look(row, way)).err()?;
    let text = done.downcast_ref::<String>().map_or("a panic", String::as_str);
    Some(format!("{way:?} {:?}: {text}", row.options()[1]))
}

fn look(row: &Row, way: Way) {
    let scene = Scene::new(way);
    if !row.data.is_empty() {
        scene.point_to_data();
    }
    let base = scene.stage.path();
    let [first, second] = row.options();
    let [upper, work] = directories(&scene.mounted("t", &first), base);
    scene.write_before(first.contains("redirect_dir=on"));
    let before = [&upper, &work].map(|path| state(path));
    let mount = scene.mounted("look", &second);
    let after = [&upper, &work].map(|path| state(path));
    let trees = ["look", "t"].map(|name| tree(&base.join(name)));
    scene.write_after(&upper);
    assert_eq!(after, before, "the upper and the work directory");
    assert_eq!(trees[0], trees[1]);

    let layers = mount.overlay();
    let named = |names: &[&str]| -> Vec<PathBuf> {
        names.iter().map(|name| name.replace("HERE", &base.to_string_lossy()).into()).collect()
    };
    let shown = mount.superblock.to_string_lossy();
    assert_eq!((layers.upper, layers.work), (None, None), "{shown}");
    assert_eq!(layers.lower, named(row.lower), "{shown}");
    assert_eq!(layers.data, named(row.data), "{shown}");
    assert_eq!(layers.options.first().map(String::as_str), Some("ro"), "{shown}");
    assert!(second.ends_with("ro=1") || mount.options.starts_with("ro,"), "{}", mount.options);

    let refused = fs::write(base.join("look/one"), "").map_err(|error| error.raw_os_error());
    assert_eq!(refused, Err(Some(libc::EROFS)));
    scene.unmount("look");
    fs::write(base.join("t/dir/file"), "upper").expect("a file to copy up");
    scene.unmount("t");
}

/// With these options the kernel refuses a lower layer that is another mount's upper directory. The
/// first mount does not suffer from the attempt.
#[test]
fn an_exported_index() {
    for way in ways() {
        let scene = Scene::new(way);
        let base = scene.stage.path();
        let options = format!("{PLAIN},index=on,nfs_export=on,redirect_dir=nofollow");
        let [upper, work] = directories(&scene.mounted("t", &options), base);
        scene.write_before(false);
        let (before, mounted) = ([&upper, &work].map(|path| state(path)), mounts());
        let ran = scene.mount("look", &format!("{options},ro"));
        assert!(ran.code() == Some(32) && ran.said().contains("resource busy"), "{ran}");
        assert_eq!(([&upper, &work].map(|path| state(path)), mounts()), (before, mounted), "{ran}");
        scene.write_after(&upper);
        scene.unmount("t");
    }
}

/// Options that end up read-write mount what a container writes to.
#[test]
fn not_read_only_in_the_end() {
    let mut all = vec!["PLAIN", "PLAIN,ro,rw", "ro,PLAIN,rw"];
    // Before, the kernel does not know `ro=1`.
    all.extend(linux(6, 5).then_some("PLAIN,ro=1,rw=1"));
    for (way, options) in ways().into_iter().flat_map(|way| all.iter().map(move |o| (way, *o))) {
        let scene = Scene::new(way);
        let mount = scene.mounted("t", &options.replace("PLAIN", PLAIN));
        let layers = mount.overlay();
        assert_eq!([layers.upper, layers.work], [Some("u".into()), Some("w".into())], "{options}");
        scene.write_before(false);
        scene.write_after(&scene.stage.join("u"));
        scene.unmount("t");
    }
}

/// Options without an upper directory are mounted as they are.
#[test]
fn views() {
    for (way, options) in ways()
        .into_iter()
        .flat_map(|way| ["lowerdir=l1:l\\:2", "ro,lowerdir=l1:l\\:2,volatile"].map(|o| (way, o)))
    {
        let scene = Scene::new(way);
        scene.mounted("t", PLAIN);
        let layers = scene.mounted("look", options).overlay();
        assert_eq!((layers.upper, layers.lower), (None, ["l1", "l:2"].map(PathBuf::from).into()));
        scene.write_before(false);
        scene.write_after(&scene.stage.join("u"));
    }
}

/// overlayfs takes 500 lower layers: with as many, there is no room for the upper directory.
#[test]
fn as_many_layers_as_there_may_be() {
    for (way, count) in ways().into_iter().flat_map(|way| [(way, 499), (way, 500)]) {
        let scene = Scene::new(way);
        let base = scene.stage.path();
        let names: Vec<_> = (2..=count).map(|number| format!("layer-{number}")).collect();
        for name in &names {
            fs::create_dir(base.join(name)).expect("a layer");
        }
        let options = format!("lowerdir=l1:{},upperdir=u,workdir=w", names.join(":"));
        scene.mounted("t", &options);
        fs::write(base.join("t/copied"), "upper").expect("a file to copy up");
        let states = || ["u", "w"].map(|name| state(&base.join(name)));
        let (before, mounted) = (states(), mounts());
        let ran = scene.mount("look", &format!("{options},ro"));
        assert_eq!(states(), before, "{ran}");
        let look = mount_at(&base.join("look")).map(|mount| mount.overlay());
        if count < 500 {
            let look = look.unwrap_or_else(|| panic!("{ran}"));
            assert_eq!((look.upper, look.work, look.lower.len()), (None, None, count + 1), "{ran}");
            // Older kernels are told shorter names.
            assert!(!linux(6, 7) || look.lower[0].as_os_str() == "u", "{ran}");
            assert_eq!(tree(&base.join("look")), tree(&base.join("t")));
            scene.unmount("look");
        } else {
            // 5.10 answers with ENOMEM, which is the system's failure.
            let codes = if linux(5, 15) { [32, 32] } else { [32, 2] };
            assert!(ran.code().is_some_and(|code| codes.contains(&code)), "{ran}");
            assert_eq!(mounts(), mounted, "{ran}");
            let said = ran.said();
            let all = ["upper", "501", "at most 500"].iter().all(|part| said.contains(part));
            assert!(all && said.lines().count() == 1, "{ran}");
        }
        fs::write(base.join("t/dir/file"), "upper").expect("a file to copy up");
        scene.unmount("t");
    }
}
