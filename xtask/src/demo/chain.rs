//! The chain of processes behind one mount, as strace sees it.

use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

/// The calls that tell the story: programs started, and what mounts.
const CALLS: &str = "trace=execve,mount,fsopen,fsmount,move_mount";

/// Runs the command once more under strace, which leaves it mounted, and prints the chain.
pub(super) fn show(command: &Command, log: &Path) -> Result<()> {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-e", "signal=none", "-e", CALLS, "-s", "4096", "-o"]).arg(log);
    strace.arg("--").arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        strace.env(name, value.unwrap_or_default());
    }
    let status = strace.status().context("cannot run strace")?;
    ensure!(status.success(), "strace of the mount: {status}");
    println!("  processes, and the system calls that mount:");
    let text = fs::read_to_string(log)?;
    text.lines().filter(|line| line.ends_with(" = 0")).for_each(print_call);
    Ok(())
}

/// `PID execve("PATH", ["WORD", …], …) = 0` as the words, another call as it is.
fn print_call(line: &str) {
    let (pid, call) = line.split_once(' ').unwrap_or(("", line));
    let call = call.trim().trim_end_matches(" = 0");
    let shown = match call.strip_prefix("execve(").and_then(|rest| rest.split_once(", [")) {
        Some((_path, rest)) => {
            let words = rest.rsplit_once("], ").map_or(rest, |(words, _environment)| words);
            words.replace("\", \"", " ").replace('"', "")
        }
        None => format!("  {call}"),
    };
    println!("    {pid:>6}  {}", readable(shown));
}

/// Shortens what carried options hold: it may be secret, and it is long.
pub(super) fn readable(text: String) -> String {
    let values: BTreeSet<_> = text.split("extraoption=").skip(1).map(value).collect();
    values.into_iter().filter(|value| value.len() > 8).fold(text.clone(), |text, value| {
        text.replace(value, &format!("{}…({} bytes)", &value[..4], value.len()))
    })
}

fn value(text: &str) -> &str {
    let end = text.find(|letter: char| !letter.is_ascii_alphanumeric() && !"+/=".contains(letter));
    &text[..end.unwrap_or(text.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shortened_wherever_they_are() {
        let shown = readable("-o extraoption=QUJDREVGRw== x 'extraoption=QUJDREVGRw==',dev".into());
        assert_eq!(shown, "-o extraoption=QUJD…(12 bytes) x 'extraoption=QUJD…(12 bytes)',dev");
    }
}
