//! What the program prints, by golden files; `UPDATE_GOLDEN=1 cargo test` writes them anew.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use nydus_mount_slice::{ExtraOption, FsVersion, KataVirtualVolume};

/// In every carried value; no output may show it, nor the base64 that it becomes.
const SECRET: &str = "hunter2hunter2hunter2";

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");

/// Name of the golden file, arguments separated by spaces, standard input.
type Case = (&'static str, String, String);

fn extra() -> ExtraOption {
    ExtraOption {
        source: "/snapshots/9/fs/image/image.boot".into(),
        config: format!(r#"{{"device":{{"auth":"{SECRET}"}}}}"#).into(),
        snapshotdir: "/snapshots/12".into(),
        fs_version: Some(FsVersion::V6),
    }
}

fn option() -> String {
    extra().to_option().expect("valid")
}

fn volume() -> String {
    let mut volume = KataVirtualVolume::try_from(&extra()).expect("valid");
    volume.options = vec![format!("password={SECRET}").into()];
    volume.to_option().expect("valid")
}

/// Without `fs_version`, as older snapshotters write it.
fn old_option() -> &'static str {
    "extraoption=eyJzb3VyY2UiOiIvcyIsImNvbmZpZyI6InsgfSIsInNuYXBzaG90ZGlyIjoiL2QifQ=="
}

/// So many layers whose paths have this form.
fn layers(count: usize, path: impl Fn(usize) -> String) -> String {
    (1..=count).map(path).collect::<Vec<_>>().join(":")
}

fn decode_cases() -> Vec<Case> {
    let (option, volume) = (option(), volume());
    let old = old_option();
    let log = format!(
        "time=\"…\" level=error msg=\"mount helper [mount.fuse [overlay /t -o lowerdir=/a:/b -o {option} \
         -t nydus-overlayfs]] failed with: \\\"exit status 1\\\"\" args=\"[-o {option}]\""
    );
    let table = [
        ("decode-option", "decode", option.clone()),
        ("decode-option-file", "decode option", String::new()),
        ("decode-string", "decode", format!("lowerdir=/a:/b,upperdir=/u,{option},dev,suid")),
        ("decode-log", "decode -", log.clone()),
        ("decode-volume", "decode", volume.clone()),
        ("decode-both", "decode", format!("{option},{volume}")),
        ("decode-several", "decode", format!("{option},{option}\n{volume},{volume}")),
        ("decode-old", "decode", old.into()),
        ("decode-cut", "decode", option[..option.len() - 9].into()),
        ("decode-blanked", "decode", format!("extraoption={}", "*".repeat(40))),
        ("decode-empty", "decode", "extraoption=,dev".into()),
        ("decode-nothing", "decode", "lowerdir=/a:/b".into()),
        ("decode-json", "decode --json", format!("{log}\n{volume}")),
        ("decode-json-error", "decode --json", "extraoption=e30=".into()),
        ("decode-terminal", "decode", "extraoption=eyJzb3VyY2UiOiJcdTAwMWJbMzFtIiwiY29uZmlnIjoieCIsInNuYXBzaG90ZGlyIjoiXG4iLCJmc192ZXJzaW9uIjoidjYifQ==".into()),
    ];
    let mut cases: Vec<Case> = table.map(|(name, args, input)| (name, args.into(), input)).into();
    cases.push(("decode-no-file", format!("decode {option}"), String::new()));
    cases.push(("decode-too-many", format!("decode - {option}"), String::new()));
    // Not base64, with a comma in it; misspelt; where no option belongs.
    let json = format!("{{\"a\":1,\"auth\":\"{SECRET}\"}}");
    cases.push(("decode-no-file-json", format!("decode /x,extraoption={json}"), String::new()));
    cases.push(("decode-misspelt", format!("decode - ro,ExtraOptions={json}"), String::new()));
    cases.push(("decode-flag", format!("decode --IO.katacontainers.volume={json}"), String::new()));
    cases
}

fn encode_cases() -> Vec<Case> {
    let args = |source: &str, config: &str, version: &str| {
        format!(
            "encode --source={source} --config={config} --snapshotdir=/snapshots/12 --fs-version={version}"
        )
    };
    vec![
        ("encode-not-json", args("/s", "-", "v6"), format!("{{\"auth\":{SECRET}}}")),
        ("encode-empty", args("", "-", "v5"), "{}".into()),
        ("encode-carried", args(&format!("extraoption={{{SECRET}"), "-", "v5"), "{}".into()),
        ("encode-relative", args("s", "-", "v5"), "{}".into()),
        ("encode-no-object", args("/s", "-", "v6"), format!("[\"{SECRET}\"]")),
        ("encode-text", args("/s", "-", "v6"), format!("\"{{\\\"auth\\\":\\\"{SECRET}\\\"}}\"")),
        ("encode-no-file", args("/s", "missing", "v5"), String::new()),
        ("encode-version", args("/s", "-", "rafsv6"), "{}".into()),
        ("encode-plain", args("/s", "-", "v5"), " {}\n".into()),
    ]
}

fn check_cases() -> Vec<Case> {
    let option = option();
    let long = layers(20, long_name);
    let case = |name, args: &str, input: &str| (name, format!("check {args}"), input.into());
    vec![
        case("check-good", "-o lowerdir=l1:l2,upperdir=u,workdir=w t", ""),
        case("check-input", "-o - t", &format!("lowerdir=l1:l2,{option}\n")),
        case("check-refused", "-o lowerdir=l1:l2,remount", ""),
        case("check-no-lower", &format!("-o {option}"), ""),
        case("check-missing", "-o lowerdir=l1:gone,upperdir=file,workdir=w", ""),
        case("check-target", "-o lowerdir=l1:l2 file", ""),
        case("check-no-work", "-o lowerdir=l1,upperdir=u", ""),
        case("check-nested", "-o lowerdir=l1,upperdir=u,workdir=u/work", ""),
        case("check-overlap", "-o lowerdir=l1:l1/inner", ""),
        case("check-one", "-o lowerdir=l1", ""),
        case("check-colons", "-o lowerdir=l1:::l2", ""),
        case("check-long", "-o -", &format!("lowerdir={long}")),
        case("check-too-long", "-o -", &format!("lowerdir=l1:l2,future={}", "x".repeat(4096))),
        case("check-too-many", "-o -", &format!("lowerdir={}", layers(501, |_| "l1".into()))),
    ]
}

fn plan_cases() -> Vec<Case> {
    let option = option();
    let common = layers(40, |n| format!("/var/lib/nydus/snapshots/{}/{n}/fs", "x".repeat(80)));
    let apart = layers(40, |n| format!("/{n}{}/fs", "y".repeat(120)));
    let long = layers(3, |n| format!("/{n}/{}", ["z".repeat(200), "z".repeat(200)].join("/")));
    let many = format!("{common}:{long}");
    let case = |name, args: &str, input: &str| (name, format!("plan {args}"), input.into());
    let upper = "upperdir=/u,workdir=/w";
    vec![
        case("plan-classic", &format!("-o lowerdir=/a:/b,{upper},{option},dev,suid /t"), ""),
        case("plan-flags", "-o ro,noatime,nosymfollow,sync,lowerdir=/a:/b --source=none /t", ""),
        case("plan-relative", "-o lowerdir=a:/b t", ""),
        case("plan-relative-no-proc", "-o lowerdir=a:/b --pretend=no-proc t", ""),
        case("plan-no-chdir", "-o lowerdir=/a:/b,ro,nodev --pretend=no-chdir /t", ""),
        case("plan-propagation", "-o lowerdir=/a:/b,rshared,slave /t", ""),
        case("plan-propagation-old", "-o lowerdir=/a:/b,private --pretend=no-fsopen /t", ""),
        case("plan-context", "-o - /t", &format!("lowerdir={common},{upper},{option}")),
        case("plan-fd", "-o - /t", &format!("lowerdir={many}")),
        case(
            "plan-common-dir",
            "-o - --pretend=no-lowerdir-plus /t",
            &format!("lowerdir={common}"),
        ),
        case("plan-no-fd", "-o - --pretend=no-fd -s 20 /t", &format!("lowerdir={many},{upper}")),
        case("plan-numbers", "-o - --pretend=no-fsopen /t", &format!("lowerdir={apart}")),
        case("plan-no-way", "-o - --pretend=no-fsopen,no-proc /t", &format!("lowerdir={apart}")),
        case("plan-selinux", "-o lowerdir=/a:/b,context=\"x,y\",private --pretend=selinux /t", ""),
        case("plan-no-selinux", "-o lowerdir=/a:/b,context=\"x,y\" /t", ""),
        case("plan-refused", "-o lowerdir=/a:/b,X-containerd.x=1 /t", ""),
        case("plan-no-lower", &format!("-o {option} /t"), ""),
        case("plan-unknown-flag", &format!("-o lowerdir=/a /t --{option}"), ""),
    ]
}

#[test]
fn outputs() {
    let directory = stage();
    let cases = [decode_cases(), encode_cases(), check_cases(), plan_cases()].concat();
    let mut wrong = Vec::new();
    for (name, args, input) in &cases {
        let output = run(directory.path(), args, input);
        assert_secret_is_hidden(name, &output);
        wrong.extend(differs(name, &format!("{}\n{output}", first_line(args))));
    }
    let files = fs::read_dir(GOLDEN).expect(GOLDEN).count();
    assert_eq!(files, cases.len(), "golden files without a case, or the reverse");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn long_name(n: usize) -> String {
    format!("layers/{}{n}", "x".repeat(240))
}

/// Directories for `check`, and a file with a carried option.
fn stage() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    let names = ["l1/inner", "l2", "u/work", "w", "t"].map(String::from);
    for name in names.into_iter().chain((1..=20).map(long_name)) {
        fs::create_dir_all(directory.path().join(&name)).expect(&name);
    }
    fs::write(directory.path().join("file"), "").expect("file");
    fs::write(directory.path().join("option"), option() + "\n").expect("option");
    directory
}

/// The command line of a golden file, cut: carried values are told apart by others.
fn first_line(args: &str) -> String {
    let line: String = args.chars().take(100).collect();
    let line = match line.to_lowercase().find("extraoption").or(line.find("--IO.")) {
        Some(start) => line[..start].to_owned(),
        None => line,
    };
    format!("$ nydus-slice {line}{}", if line.len() < args.len() { "…" } else { "" })
}

fn run(directory: &Path, args: &str, input: &str) -> String {
    let mut child = Command::new(env!("CARGO_BIN_EXE_nydus-slice"))
        .args(args.split(' '))
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("nydus-slice starts");
    // It may have ended without reading.
    let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
    let output = child.wait_with_output().expect("nydus-slice ends");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    let errors: String = stderr.lines().map(|line| format!("stderr: {line}\n")).collect();
    format!("{stdout}{errors}{}\n", output.status)
}

fn assert_secret_is_hidden(name: &str, output: &str) {
    let (option, volume) = (option(), volume());
    let pieces = [option, volume].map(|option| option[option.len() / 2..][..24].to_owned());
    for secret in [SECRET].into_iter().chain(pieces.iter().map(String::as_str)) {
        assert!(!output.contains(secret), "{name} shows {secret}:\n{output}");
    }
}

fn differs(name: &str, output: &str) -> Option<String> {
    let file = format!("{GOLDEN}/{name}.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&file, output).expect(&file);
    }
    let expected = fs::read_to_string(&file).unwrap_or_default();
    (expected != output).then(|| format!("== {name}, expected:\n{expected}== got:\n{output}"))
}

#[test]
fn secrets_are_shown_when_asked_for() {
    let directory = stage();
    for args in ["decode --show-secrets", "decode --show-secrets --json"] {
        for input in [option(), volume()] {
            let output = run(directory.path(), args, &input);
            assert!(output.contains(SECRET), "{args}: {output}");
        }
    }
}

#[test]
fn what_is_encoded_is_decoded() {
    let directory = stage();
    let args = "encode --source=/s --config=- --snapshotdir=/d --fs-version=v5";
    let encoded = run(directory.path(), args, r#"{"auth":"x"}"#);
    let decoded = run(directory.path(), "decode --show-secrets --json", &encoded);
    for part in [r#"{\"auth\":\"x\"}"#, r#""findings": []"#, r#""/d""#, r#""v5""#] {
        assert!(decoded.contains(part), "{part}: {decoded}");
    }
}

/// What is printed for `--help` has the options' names in it, and is no secret.
#[test]
fn help_is_whole() {
    let directory = stage();
    for args in ["--help", "help", "-h", "decode --help", "--version"] {
        let output = run(directory.path(), args, "");
        assert!(!output.contains("stderr: ") && !output.contains("extraoption=..."), "{output}");
        assert!(output.ends_with("exit status: 0\n"), "{output}");
    }
    assert!(run(directory.path(), "--help", "").contains("Pass the options on standard input"));
}

#[test]
fn every_shell_has_completions() {
    let directory = stage();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = run(directory.path(), &format!("completions {shell}"), "");
        assert!(script.contains("decode") && script.ends_with("exit status: 0\n"), "{script}");
    }
}
