//! `decode`: what carried options hold, and what their readers make of it.

use std::fmt::Write;

use nydus_mount_slice::{
    DecodeError, Decoded, ExtraOption, KataVirtualVolume, Secret, VolumeMetadata,
};
use serde::Serialize;
use serde_json::{Value, json};

use crate::cli::Decode;
use crate::{BAD, DOUBTFUL, HEADING, Report, find, input};

/// One carried option, read.
struct Item {
    line: usize,
    option: &'static str,
    reading: Result<(Value, Vec<String>), DecodeError>,
}

pub(crate) fn run(args: &Decode) -> anyhow::Result<Report> {
    let bytes = input::read(&args.file)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines = text.lines().zip(1..);
    let items: Vec<_> =
        lines.flat_map(|(line, number)| read(line, number, args.show_secrets)).collect();
    anyhow::ensure!(
        !items.is_empty(),
        "no extraoption or io.katacontainers.volume option found in the text"
    );
    let good = items.iter().all(|item| item.reading.is_ok());
    let text = if args.json { to_json(&items)? } else { items.iter().map(to_text).collect() };
    Ok(Report { text, good })
}

fn read(line: &str, number: usize, show_secrets: bool) -> Vec<Item> {
    let options = find::carried(line);
    let extra = match ExtraOption::from_options(&options) {
        Err(DecodeError::NotFound(_)) => None,
        read => Some(item(number, "extraoption", read, show_secrets)),
    };
    let volumes = KataVirtualVolume::from_options(&options).into_iter();
    let volumes = volumes.map(|read| item(number, "io.katacontainers.volume", read, show_secrets));
    extra.into_iter().chain(volumes).collect()
}

fn item<T: Hide + Serialize>(
    line: usize,
    option: &'static str,
    read: Result<Decoded<T>, DecodeError>,
    show_secrets: bool,
) -> Item {
    let reading = read.map(|Decoded { mut value, findings }| {
        if !show_secrets {
            value.hide();
        }
        let findings = findings.iter().map(ToString::to_string).collect();
        (json!(value), findings)
    });
    Item { line, option, reading }
}

/// Puts its length in the place of each secret.
trait Hide {
    fn hide(&mut self);
}

impl Hide for Secret {
    fn hide(&mut self) {
        *self = self.to_string().into();
    }
}

impl Hide for ExtraOption {
    fn hide(&mut self) {
        self.config.hide();
    }
}

impl Hide for KataVirtualVolume {
    fn hide(&mut self) {
        self.options.iter_mut().for_each(Hide::hide);
        self.nydus_image.iter_mut().for_each(|image| image.config.hide());
        for VolumeMetadata { metadata } in self.direct_volume.iter_mut().chain(&mut self.image_pull)
        {
            metadata.iter_mut().flat_map(|map| map.values_mut()).for_each(Hide::hide);
        }
    }
}

fn to_json(items: &[Item]) -> serde_json::Result<String> {
    let one = |Item { line, option, reading }: &Item| match reading {
        Ok((value, findings)) => {
            json!({"line": line, "option": option, "value": value, "findings": findings})
        }
        Err(error) => json!({"line": line, "option": option, "error": error.to_string()}),
    };
    Ok(serde_json::to_string_pretty(&items.iter().map(one).collect::<Vec<_>>())? + "\n")
}

fn to_text(Item { line, option, reading }: &Item) -> String {
    let mut text = format!("{HEADING}line {line}: {option}{HEADING:#}\n");
    match reading {
        Ok((value, findings)) => {
            fields(&mut text, value, "  ");
            if findings.is_empty() {
                text.push_str("  both of Kata's runtimes accept it\n");
            }
            for finding in findings {
                let _ = writeln!(text, "  {DOUBTFUL}warning:{DOUBTFUL:#} {finding}");
            }
        }
        Err(error) => {
            let _ = writeln!(text, "  {BAD}error:{BAD:#} {error}");
        }
    }
    text
}

/// A line for each field, those inside others by a dotted name.
fn fields(text: &mut String, value: &Value, prefix: &str) {
    let members: Vec<(String, &Value)> = match value {
        Value::Object(object) => object.iter().map(|(key, value)| (key.clone(), value)).collect(),
        Value::Array(list) => (1..).zip(list).map(|(at, value)| (at.to_string(), value)).collect(),
        _ => vec![],
    };
    for (key, value) in members {
        let name = format!("{prefix}{}", printable(&key));
        match value {
            Value::Object(_) | Value::Array(_) => fields(text, value, &format!("{name}.")),
            Value::String(string) => {
                let _ = writeln!(text, "{name}: {}", printable(string));
            }
            other => {
                let _ = writeln!(text, "{name}: {other}");
            }
        }
    }
}

/// With control characters escaped, which a terminal would obey.
fn printable(text: &str) -> String {
    let mut shown = String::new();
    for character in text.chars() {
        match character.is_control() {
            true => shown.extend(character.escape_default()),
            false => shown.push(character),
        }
    }
    shown
}
