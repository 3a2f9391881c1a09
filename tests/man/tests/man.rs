//! The man pages against what they describe; `UPDATE_GOLDEN=1 cargo test` writes the parts of
//! them that are generated.

use std::fs;
use std::process::Command;

use clap::CommandFactory;
use clap_mangen::Man;
use nydus_overlayfs::HELP;
use nydus_slice::cli::Cli;
use overlay_mount::table::{Effect, Entry, Form, TABLE};

const MAN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../man");

/// Its tables with a column "why" are the differences from mount(8).
const DIFFERENCES: &str = include_str!("../../../docs/differences.md");

/// What clap does not know of the snapshotter.
const SERVICE: &str = r#".SH DESCRIPTION
A snapshotter for
.BR containerd (8):
it provides the root file systems of containers.
For a container of a Nydus image it starts
.BR nydusd ,
which reads the image's files from the registry when they are needed, and gives containerd one mount
that both
.BR runc (8)
and Kata Containers can use.
It also provides ordinary images.
.PP
When all of an image (RAFS v6) is cached and verified, the kernel serves it to new containers, as
EROFS and without
.BR nydusd ,
if the kernel supports that; see the section
.B [native]
of the configuration.
.B warm
fetches all of an image, with a progress bar; if it is interrupted, the service continues the work.
.B status
shows who serves each image, how much of it is cached, and why the kernel does not serve it.
.PP
Without a command, the program serves until it gets SIGTERM or SIGINT; a second signal ends it at once.
The
.B nydusd
processes continue, and so do containers; the next start takes them over.
Flags override keys of the configuration file.
They may begin with a single dash.
"#;

/// The same, behind the options and commands.
const SERVICE_END: &str = r#".SH EXIT STATUS
0 after a signal or a successful command, 1 for an error, 2 for wrong usage.
.SH FILES
.TP
.I /etc/nydus/config.toml
The usual configuration file, which is read only if
.B \-\-config
names it.
.TP
.I /etc/nydus/nydusd\-config.json
Template of nydusd's configuration.
.TP
.I /run/containerd\-nydus/containerd\-nydus\-grpc.sock
The socket.
.TP
.I /var/lib/containerd/io.containerd.snapshotter.v1.nydus
Everything that is stored: snapshots, their records, sockets, configurations with credentials, logs,
cache.
.TP
.I ~/.docker/config.json
Credentials for registries, unless
.B DOCKER_CONFIG
names another directory.
.SH SEE ALSO
.BR nydus\-overlayfs (8),
.BR nydus\-slice (1)
"#;

/// What clap does not know.
const EXAMPLES: &str = r#".SH EXAMPLES
Show what the mounts in a log carry, without credentials:
.PP
.in +4n
.EX
journalctl \-u containerd | grep extraoption= | nydus\-slice decode
.EE
.in
.PP
Find out why a mount fails, and what the helper would do on an older kernel. The options are read
from standard input:
.PP
.in +4n
.EX
nydus\-slice check \-o \- /mnt <options
nydus\-slice plan \-o \- \-\-pretend no\-lowerdir\-plus /mnt <options
.EE
.in
.SH SEE ALSO
.BR nydus\-overlayfs (8),
.BR mount (8),
.BR strace (1)
"#;

#[test]
fn slice_page_is_what_clap_says() {
    let cli = built(Cli::command().version(env!("CARGO_PKG_VERSION")));
    let page = Man::new(cli.clone()).manual("User Commands");
    let usages = cli.get_subcommands().map(usage).collect();
    let description = part(|out| page.render_description_section(out));
    let text = head(&page, usages) + &description + &commands(&cli) + EXAMPLES;
    assert_current("nydus-slice.1", &text);
}

#[test]
fn snapshotter_page_is_what_clap_says() {
    let cli = built(nydus_snapshotter::cli::Cli::command());
    let page = Man::new(cli.clone()).section("8").manual("System Administration");
    let options = part(|out| page.render_options_section(out));
    let (mut usages, text) = (vec![usage(&cli)], SERVICE.to_owned() + &options);
    let leaves = |command: &clap::Command| match command.has_subcommands() {
        true => command.get_subcommands().map(usage).collect(),
        false => vec![usage(command)],
    };
    usages.extend(cli.get_subcommands().flat_map(leaves));
    assert_current("containerd-nydus-grpc.8", &(head(&page, usages) + &text + SERVICE_END));
}

fn built(cli: clap::Command) -> clap::Command {
    let mut cli = cli.disable_help_subcommand(true);
    cli.build();
    cli
}

fn usage(command: &clap::Command) -> String {
    let usage = command.clone().render_usage().to_string();
    roff(usage.lines().next().unwrap_or_default().trim_start_matches("Usage: "))
}

fn head(page: &Man, usages: Vec<String>) -> String {
    let mut out = part(|out| page.render_title(out)) + &part(|out| page.render_name_section(out));
    out += ".SH SYNOPSIS\n";
    out + &usages.into_iter().map(|usage| format!("{usage}\n.br\n")).collect::<String>()
}

fn commands(cli: &clap::Command) -> String {
    let mut out = ".SH COMMANDS\n".to_owned();
    for command in cli.get_subcommands() {
        let about = command.get_about().expect("a description");
        let options = part(|out| Man::new(command.clone()).render_options_section(out));
        out += &format!(".SS {}\n{about}.\n", command.get_name());
        out += &options.replace(".SH OPTIONS\n", "");
    }
    out
}

/// Each part comes with a preamble, as if it were a page.
fn part(render: impl Fn(&mut Vec<u8>) -> std::io::Result<()>) -> String {
    let mut out = Vec::new();
    render(&mut out).expect("written to memory");
    let text = String::from_utf8(out).expect("UTF-8");
    let lines = text.lines().filter(|line| !line.contains(".ds Aq"));
    // The string is the preamble's.
    let tidy = |line: &str| line.replace("\\*(Aq", "\\(aq") + "\n";
    lines.map(tidy).collect()
}

#[test]
fn helper_page_has_the_tables() {
    let file = "nydus-overlayfs.8";
    let page = read(file);
    let page = replace_part(&page, "words", &words());
    assert_current(file, &replace_part(&page, "differences", &differences()));
}

/// Groups of the table: how a group begins, and which effects are in it.
type Group = (&'static str, fn(&Effect) -> bool);

const GROUPS: &[Group] = &[
    ("Set or clear flags of the mount; of contradictory options the last one counts", |effect| {
        matches!(effect, Effect::Set(_) | Effect::Clear(_))
    }),
    ("Imply other options, which later ones can undo", |effect| {
        matches!(effect, Effect::Implies(_))
    }),
    ("Change the propagation type of the new mount, in order", |effect| {
        matches!(effect, Effect::Propagation(_))
    }),
    ("Map the owners of the lower layers", |effect| *effect == Effect::IdMap),
    ("Carried for other readers, dropped and never shown", |effect| *effect == Effect::Carried),
    ("For user space, dropped", |effect| *effect == Effect::Ignore),
    ("For the kernel where SELinux is on, else dropped", |effect| *effect == Effect::SeLinux),
    ("For the kernel where Smack is on, else dropped", |effect| *effect == Effect::Smack),
    ("Refused", |effect| matches!(effect, Effect::Refuse(_))),
];

fn words() -> String {
    let mut text = String::new();
    let mut count = 0;
    for (title, belongs) in GROUPS {
        let words: Vec<_> = TABLE.iter().filter(|entry| belongs(&entry.effect)).map(word).collect();
        count += words.len();
        text += &format!(".TP\n{title}:\n{}\n", words.join(",\n"));
    }
    assert_eq!(count, TABLE.len(), "an option is in no group");
    text
}

fn word(entry: &Entry) -> String {
    let name = roff(entry.name);
    match entry.form {
        Form::Bare => format!("\\fB{name}\\fR"),
        Form::Value => format!("\\fB{name}\\fR[=\\fIvalue\\fR]"),
        Form::Prefix => format!("\\fB{name}\\fR*"),
    }
}

fn differences() -> String {
    let tables = DIFFERENCES.split("\n\n").filter(|block| block.starts_with('|'));
    let text: String = tables.filter_map(|table| entries(&cells(table))).collect();
    assert!(text.matches(".TP\n").count() > 10, "{text}");
    text
}

/// A table as entries of the page, if its columns are the option, mount(8), here and why.
fn entries(rows: &[Vec<String>]) -> Option<String> {
    let [head, _, rows @ ..] = rows else { return None };
    let [_, mount8, here, why] = &head[..] else { return None };
    if !mount8.starts_with("mount(8)") || here != "here" || why != "why" {
        return None;
    }
    let mount8 = mount8.trim_start_matches("mount(8)");
    let entry = |row: &Vec<String>| {
        let [option, theirs, ours, why] = &row[..] else { panic!("{row:?}: expected four cells") };
        let [option, theirs, ours, why] = [option, theirs, ours, why].map(|text| roff(text));
        format!(
            ".TP\n.B {option}\n.BR mount (8){mount8}:\n{theirs}.\nHere: {ours}.\nReason: {why}.\n"
        )
    };
    Some(rows.iter().map(entry).collect())
}

/// The cells of each line of a table, without the marks of code.
fn cells(table: &str) -> Vec<Vec<String>> {
    let cell = |cell: &str| cell.trim().replace('`', "");
    let row = |line: &str| line.trim_matches('|').split('|').map(cell).collect();
    table.lines().map(row).collect()
}

fn roff(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq")
}

#[test]
fn helper_page_has_what_help_says() {
    let page = plain(&read("nydus-overlayfs.8"));
    let missing: Vec<_> = help_flags().into_iter().filter(|flag| !page.contains(flag)).collect();
    assert_eq!(missing, Vec::<String>::new());
    let status = HELP.rsplit("Exit status: ").next().expect("the last line");
    for (code, _) in status.split(", ").filter_map(|part| part.split_once(' ')) {
        assert!(page.contains(&format!("\n{code}\n")), "exit status {code} is missing");
    }
}

/// Every flag of --help as an entry of the page has it: a line that begins with it.
fn help_flags() -> Vec<String> {
    let entries = HELP.lines().filter_map(|line| line.strip_prefix("  -"));
    let flags: Vec<String> = entries
        .flat_map(|line| line.split("  ").next().unwrap_or_default().split(", -"))
        .map(|flag| format!("\n-{}", flag.trim_start_matches(", ")))
        .collect();
    assert!(flags.len() >= 9, "{flags:?}");
    flags
}

/// A page without its roff, one macro or text line a line.
fn plain(page: &str) -> String {
    let unescaped = page.replace("\\-", "-").replace("\\fB", "").replace("\\fI", "");
    let unescaped = unescaped.replace("\\fR", "").replace(" \" ", " ");
    let text = |line: &str| {
        let macros = [".B ", ".I ", ".BI ", ".BR ", ".TP ", ".SH "];
        let rest = macros.iter().find_map(|name| line.strip_prefix(name)).unwrap_or(line);
        format!("\n{rest}")
    };
    unescaped.lines().map(text).collect::<String>() + "\n"
}

#[test]
fn pages_are_clean_roff() {
    for file in ["nydus-slice.1", "nydus-overlayfs.8", "containerd-nydus-grpc.8"] {
        let path = format!("{MAN}/{file}");
        let groff = ["-man", "-ww", "-z", "-Tutf8", "-rLL=80n", &path];
        let Ok(output) = Command::new("groff").args(groff).output() else {
            println!("NOT RUN: no groff to check {file} with (Debian package groff)");
            continue;
        };
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && errors.is_empty(), "{file}: {errors}");
    }
}

/// `page` with `part` between the lines that say that it is generated.
fn replace_part(page: &str, name: &str, part: &str) -> String {
    let begin = format!(".\\\" BEGIN {name}, generated by tests/man\n");
    let end = format!(".\\\" END {name}\n");
    let (before, rest) = page.split_once(&begin).expect(&begin);
    let (_, after) = rest.split_once(&end).expect(&end);
    format!("{before}{begin}{part}{end}{after}")
}

fn read(file: &str) -> String {
    let path = format!("{MAN}/{file}");
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn assert_current(file: &str, page: &str) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        // Other tests read the file at the same time: they must see the old page or the new one.
        let new = format!("{MAN}/.{file}.new");
        fs::write(&new, page).expect(&new);
        fs::rename(&new, format!("{MAN}/{file}")).expect(file);
    }
    assert_eq!(read(file), page, "{file} is stale: UPDATE_GOLDEN=1 writes it anew");
}
