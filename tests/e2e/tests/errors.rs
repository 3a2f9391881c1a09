//! Every mistake gets one line that names its culprit, and leaves no more behind than the kernel does.

use nydus_e2e::linux;
use nydus_e2e::mounts::mounts;
use nydus_e2e::programs::{self, BUILDS};
use nydus_e2e::run::run;
use nydus_e2e::stage::Stage;
use nydus_e2e::trace::trace;
use nydus_e2e::tree::{changes, tree};
use std::fs;

/// Upper and work directory that are right.
const UPPER: &str = "upperdir=u,workdir=w";

/// Options after `-o`, exit code, and what the line says after `cannot mount overlay on 't': `,
/// or after the program's name where the options are refused: ` … ` stands for anything. `@`
/// stands for nothing, or for the stage.
const TABLE: &[(&str, u8, &str)] = &[
    ("lowerdir=@l1:@l2,foo", 32, "option 'foo': Unknown parameter 'foo': invalid argument"),
    ("lowerdir=@l1:@l2,foo=bar", 32, "option 'foo=bar': Unknown parameter 'foo': invalid argument"),
    ("lowerdir=@l1:@l2,xino=bad", 32, "option 'xino=bad': Bad value for 'xino': invalid argument"),
    (
        "lowerdir=@l1:@l2,volatile=1",
        32,
        "option 'volatile=1': Unexpected value for 'volatile': invalid argument",
    ),
    ("lowerdir=@l1:@l2,index", 32, "option 'index': Bad value for 'index': invalid argument"),
    (
        "lowerdir=@l1:@l2,lowerdir+=@l3",
        32,
        "option 'lowerdir+=@l3': lowerdir+ and datadir+ cannot follow lowerdir: invalid argument",
    ),
    ("lowerdir=@l1:@file", 32, "lower layer 2 of 2 '@file' is not a directory: invalid argument"),
    ("lowerdir=@l1:@missing:@l2", 32, "lower layer 2 of 3 '@missing': no such file or directory"),
    (
        "lowerdir=@l1:@new\nline",
        32,
        "lower layer 2 of 2 '@new\\012line': no such file or directory",
    ),
    (
        "lowerdir+=@l1,lowerdir+=@missing",
        32,
        "lower layer 2 of 2 '@missing': no such file or directory",
    ),
    ("lowerdir=@l1:@l2:", 32, "lowerdir: a colon after the last layer: invalid argument"),
    ("lowerdir=:@l1:@l2", 32, "lowerdir: a colon before the first layer: invalid argument"),
    ("lowerdir=@l1:::@l2", 32, "lowerdir: only ':' or '::' separates layers: invalid argument"),
    ("lowerdir=@l1::@l2:@l3", 32, "lowerdir: a layer after data-only ones: invalid argument"),
    (
        "lowerdir=@l1",
        32,
        "one lower layer without upperdir, at least 2 layers are needed: invalid argument",
    ),
    ("lowerdir=@l1,upperdir=@u", 32, "upperdir needs a workdir: invalid argument"),
    (
        "lowerdir=@l1,upperdir=@missing,workdir=@w",
        32,
        "upperdir '@missing': no such file or directory",
    ),
    (
        "lowerdir=@l1,upperdir=@u,workdir=@missing",
        32,
        "workdir '@missing': no such file or directory",
    ),
    ("lowerdir=@l1,upperdir=@file,workdir=@w", 32, "upperdir '@file' is not a directory: "),
    ("lowerdir=@l1,upperdir=@u,workdir=@u/in", 32, NESTED),
    ("lowerdir=@l1,upperdir=@u/in,workdir=@u", 32, NESTED),
    ("lowerdir=@l1,upperdir=@u,workdir=@u", 32, NESTED),
    (
        "lowerdir=@l1,upperdir=@u,workdir=@tmpfs/w",
        32,
        "upperdir and workdir must be on the same mount: invalid argument",
    ),
    (
        "lowerdir=@l1,upperdir=@u,workdir=@bind/w",
        32,
        "upperdir and workdir must be on the same mount: invalid argument",
    ),
    (
        "lowerdir=@l1,upperdir=@readonly/u,workdir=@readonly/w",
        32,
        "upperdir '@readonly/u' is on a read-only file system: ",
    ),
    (
        "lowerdir=@l1,upperdir=@overlay/u,workdir=@overlay/w",
        32,
        "option 'upperdir=@overlay/u': filesystem on @overlay/u not supported as upperdir: invalid argument",
    ),
    (
        "lowerdir=@l1,upperdir=@l1,workdir=@w",
        32,
        "lower layer 1 of 1 '@l1' overlaps with upperdir '@l1': too many levels of symbolic links",
    ),
    (
        "lowerdir=@u/in,upperdir=@u,workdir=@w",
        32,
        "lower layer 1 of 1 '@u/in' overlaps with upperdir '@u': too many levels of symbolic links",
    ),
    (
        "lowerdir=@w,upperdir=@u,workdir=@w",
        32,
        "lower layer 1 of 1 '@w' overlaps with workdir '@w': too many levels of symbolic links",
    ),
    (
        "lowerdir=@l1:@l2:@l1",
        32,
        "lower layer 1 of 3 '@l1' overlaps with lower layer 3 of 3 '@l1': too many levels of symbolic links",
    ),
    (
        "lowerdir=@l1:@l2:@l1,upperdir=@u,workdir=@w",
        32,
        "lower layer 1 of 3 '@l1' overlaps with lower layer 3 of 3 '@l1': too many levels of symbolic links",
    ),
    (
        "lowerdir=@l1/sub:@l1",
        32,
        "lower layer 1 of 2 '@l1/sub' overlaps with lower layer 2 of 2 '@l1': too many levels of symbolic links",
    ),
    (
        "lowerdir=@x:@z",
        32,
        "lower layer 2 of 2 '@z' overlaps with lower layer 1 of 2 '@x': too many levels of symbolic links",
    ),
    (
        "lowerdir=@l1,upperdir=@busy/u,workdir=@busy/w,index=on",
        32,
        "upperdir '@busy/u' … in use … device or resource busy",
    ),
    (
        "lowerdir=@l1,upperdir=@u,workdir=@busy/w,index=on",
        32,
        "upperdir '@u' or its workdir … in use … device or resource busy",
    ),
    (
        "lowerdir=@busy/u,upperdir=@u,workdir=@w,index=on",
        32,
        "lower layer … in use … device or resource busy",
    ),
    (
        "lowerdir=@l1,upperdir=@vol/u,workdir=@vol/w",
        32,
        "workdir '@vol/w' was in use by a volatile mount that was not unmounted cleanly: remove its work/incompat/volatile",
    ),
    ("lowerdir=@overlay2:@l1", 32, "lower layer 1 of 2 '@overlay2' … stack … invalid argument"),
    (
        "lowerdir=@overlay2,upperdir=@u,workdir=@w",
        32,
        "lower layer 1 of 1 '@overlay2' … stack … invalid argument",
    ),
    (
        "lowerdir=@l1,upperdir=@u,workdir=@w,userxattr,redirect_dir=on",
        32,
        "userxattr … redirect_dir=on … invalid argument",
    ),
    ("lowerdir=@l1:@l2,userxattr,metacopy=on", 32, "userxattr … metacopy=on … invalid argument"),
    (
        "lowerdir=@l1,upperdir=@u,workdir=@w,redirect_dir=off,metacopy=on",
        32,
        "metacopy=on … redirect_dir=off … invalid argument",
    ),
    (
        "lowerdir=@l1:@l2,metacopy=on,redirect_dir=nofollow",
        32,
        "metacopy=on … redirect_dir=nofollow … invalid argument",
    ),
    (
        "lowerdir=@l1,upperdir=@u,workdir=@w,metacopy=on,redirect_dir=follow",
        32,
        "metacopy=on … redirect_dir=follow … invalid argument",
    ),
    (
        "lowerdir=@l1,upperdir=@u,workdir=@w,nfs_export=on,metacopy=on",
        32,
        "nfs_export=on … metacopy=on … invalid argument",
    ),
    (
        "lowerdir=@l1,upperdir=@u,workdir=@w,nfs_export=on,index=off",
        32,
        "nfs_export=on … index=off … invalid argument",
    ),
    // Not every option that others would exclude is why.
    (
        "lowerdir=@l1:@missing,userxattr,redirect_dir=on",
        32,
        "lower layer 2 of 2 '@missing': no such file or directory",
    ),
    (
        "lowerdir=@l1:@l2,nfs_export=on,index=off,foo",
        32,
        "option 'foo': Unknown parameter 'foo': invalid argument",
    ),
    (
        "lowerdir=@l1:@l1,metacopy=on,redirect_dir=off",
        32,
        "lower layer 1 of 2 '@l1' overlaps with lower layer 2 of 2 '@l1': too many levels of symbolic links",
    ),
    (
        "lowerdir=@l1\\,extraoption=c2Vj:@l2",
        32,
        "lower layer 1 of 2 '@l1\\134,extraoption=...': no such file or directory",
    ),
    (
        "upperdir=@u,workdir=@w",
        1,
        "no lower layer: expected lowerdir=, lowerdir+= or datadir+= among the options",
    ),
    (
        "lowerdir=@l1:@l2,remount",
        1,
        "option 'remount' is not supported: only new overlay mounts are supported",
    ),
    (
        "lowerdir=@l1:@l2,bind",
        1,
        "option 'bind' is not supported: only new overlay mounts are supported",
    ),
    (
        "lowerdir=@l1:@l2,move",
        1,
        "option 'move' is not supported: only new overlay mounts are supported",
    ),
    ("lowerdir=@l1:@l2,X-containerd.mkfs=1", 1, "option 'X-containerd.mkfs=1' is not supported: "),
    ("lowerdir=@l1:@l2,X-mount.idmap=0:0:1", 1, "option 'X-mount.idmap=0:0:1' is not supported: "),
    ("lowerdir=@l1:@l2,X-mount.subdir=a", 1, "option 'X-mount.subdir=a' is not supported: "),
    ("X-mount.owner=7,lowerdir=@l1:@l2", 1, "option 'X-mount.owner=7' is not supported: "),
    ("lowerdir=@l1:@l2,X-mount.group=users", 1, "option 'X-mount.group=users' is not supported: "),
    ("lowerdir=@l1:@l2,X-mount.mode=0700", 1, "option 'X-mount.mode=0700' is not supported: "),
    ("=x,lowerdir=@l1:@l2", 1, "option '=x' has no name"),
];

const NESTED: &str =
    "upperdir and workdir must not be the same or inside each other: invalid argument";

/// The directory that the kernel makes in the work directory before it looks at the layers.
const WORK: &str = "+ 40000 0:0 /w/work ";

/// The options of [`TABLE`] with which the kernel changes something before it refuses, and what:
/// it does not undo that.
const LEAVE: &[(&str, &[&str])] = &[
    ("lowerdir=@l1,upperdir=@l1,workdir=@w", &[WORK]),
    (
        "lowerdir=@u/in,upperdir=@u,workdir=@w",
        &[WORK, "+ 40755 0:0 /u  trusted.overlay.uuid=", "- 40755 0:0 /u "],
    ),
    ("lowerdir=@w,upperdir=@u,workdir=@w", &[WORK]),
    ("lowerdir=@l1:@l2:@l1,upperdir=@u,workdir=@w", &[WORK]),
    ("lowerdir=@busy/u,upperdir=@u,workdir=@w,index=on", &[WORK]),
    ("lowerdir=@overlay2,upperdir=@u,workdir=@w", &[WORK]),
];

fn stage() -> Stage {
    let stage = Stage::with(&[
        "l1/sub",
        "l2",
        "l3",
        "u/in",
        "w",
        "t",
        "tmpfs",
        "bind",
        "same/w",
        "readonly",
        "overlay",
        "overlay2",
        "busy/u",
        "busy/w",
        "busy/t",
        "x/y",
        "z",
        "vol/u",
        "vol/w/work/incompat/volatile",
        "ou",
        "ow",
    ]);
    fs::write(stage.join("file"), "").expect("a file");
    let script = "set -e
        mount -t tmpfs x tmpfs; mkdir tmpfs/w
        mount --bind same bind
        mount -t tmpfs x readonly; mkdir readonly/u readonly/w; mount -o remount,ro readonly
        mount -i -t overlay x overlay -o lowerdir=l2,upperdir=ou,workdir=ow; mkdir overlay/u overlay/w
        mount -i -t overlay x overlay2 -o lowerdir=overlay:l3
        mount -i -t overlay x busy/t -o lowerdir=l2,upperdir=busy/u,workdir=busy/w
        mount --bind x/y z";
    let ran = run(stage.command("/bin/sh").args(["-c", script]));
    assert!(ran.ok(), "{ran}");
    stage
}

#[test]
fn every_mistake_names_its_culprit() {
    for build in BUILDS {
        let stage = stage();
        let base = format!("{}/", stage.path().display());
        let target = format!("{base}t");
        for (prefix, target) in [("", "t"), (&base, "t"), (&base, &*target)] {
            for row in TABLE {
                check(&stage, build, prefix, target, row);
            }
        }
    }
}

fn check(stage: &Stage, build: &str, prefix: &str, target: &str, row: &(&str, u8, &str)) {
    let (options, code, text) = row;
    let (mounts_before, before) = (mounts(), tree(stage.path()));
    let whole = format!("{},extraoption=c2VjcmV0", options.replace('@', prefix));
    let ran = run(stage.command(programs::ours(build)).args(["overlay", target, "-o", &whole]));
    let start = match code {
        1 => "nydus-overlayfs: ".to_owned(),
        _ => format!("nydus-overlayfs: cannot mount overlay on '{target}': "),
    };
    let said = ran.said();
    // 5.10 answers some mistakes with ENOMEM, which is the system's failure.
    let codes = if linux(5, 15) { vec![i32::from(*code)] } else { vec![2, i32::from(*code)] };
    assert!(ran.code().is_some_and(|code| codes.contains(&code)), "{ran}");
    let text = text.replace('@', prefix);
    let told = ran.tells(&text) || !linux(6, 5) && says_in_other_words(&said, &text);
    assert!(said.starts_with(&start) && told, "{ran}, expected {text}");
    assert!(!said.contains("': overlay: "), "{ran}");
    assert!(said.lines().count() == 1 && said.ends_with('\n'), "{ran}");
    assert!(!ran.shows(b"c2Vj") && ran.stdout.is_empty(), "{ran}");
    assert_eq!(mounts(), mounts_before, "{ran}");
    let leaves = LEAVE.iter().find(|(leave, _)| leave == options).map_or(&[][..], |row| row.1);
    // The kernel marks upper directories from 6.7 on.
    let leaves = if linux(6, 7) { leaves } else { leaves.get(..1).unwrap_or_default() };
    assert_eq!(changes(&before, &tree(stage.path())), leaves, "{ran}");
    if !leaves.is_empty() {
        empty(stage);
    }
}

/// Makes upper and work directory anew.
fn empty(stage: &Stage) {
    for name in ["u", "w"] {
        fs::remove_dir_all(stage.join(name)).expect(name);
    }
    for name in ["u/in", "w"] {
        fs::create_dir_all(stage.join(name)).expect(name);
    }
}

/// Older kernels have other words, and other error numbers: what is quoted must be told all the
/// same, or the kernel's log.
fn says_in_other_words(said: &str, text: &str) -> bool {
    let (text, _) = text.rsplit_once(": ").unwrap_or((text, ""));
    let quoted = text.split('\'').nth(1);
    let tells =
        |word: &str| said.contains(&format!("'{word}'")) || said.contains(&format!("\"{word}"));
    said.contains("kernel log: ") || said.contains(text) || quoted.is_some_and(tells)
}

/// Where the target is at fault, the words are not even shown to the kernel.
#[test]
fn a_bad_target_is_told_without_a_look_at_the_words() {
    for (build, target, text) in BUILDS.into_iter().flat_map(|build| {
        [
            (build, "missing", "target: no such file or directory"),
            (build, "file", "target: not a directory"),
            (build, "l1/sub/x", "target: no such file or directory"),
        ]
    }) {
        let stage = Stage::with(&["l1/sub", "l2", "u", "w"]);
        fs::write(stage.join("file"), "").expect("a file");
        let before = tree(stage.path());
        let options = format!("lowerdir=l1:l2,{UPPER}");
        let ran =
            run(stage.command(programs::ours(build)).args(["overlay", target, "-o", &options]));
        let expected = format!("nydus-overlayfs: cannot mount overlay on '{target}': {text}\n");
        assert!(ran.code() == Some(32) && ran.said() == expected, "{ran}");
        let mut calls = Vec::new();
        let mut command = stage.command(programs::ours(build));
        trace(command.args(["overlay", target, "-o", &options]), |_, stop| {
            calls.push(stop.call);
            true
        });
        for call in [libc::SYS_fsopen, libc::SYS_fsconfig, libc::SYS_mount] {
            assert!(!calls.contains(&call.cast_unsigned()), "{build} {target}: {calls:?}");
        }
        assert_eq!(tree(stage.path()), before);
    }
}
