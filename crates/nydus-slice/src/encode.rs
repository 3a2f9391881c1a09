//! `encode`: the option that carries an image.

use anyhow::{anyhow, ensure};
use nydus_mount_slice::{ExtraOption, FsVersion};
use serde::de::IgnoredAny;
use std::collections::BTreeMap;

use crate::cli::{self, Encode};
use crate::{Report, find, input};

pub(crate) fn run(args: &Encode) -> anyhow::Result<Report> {
    // The readers have other working directories.
    for (name, path) in [("--source", &args.source), ("--snapshotdir", &args.snapshotdir)] {
        let shown = find::redact(path);
        ensure!(path.starts_with('/'), "{name} {shown:?}: expected an absolute path");
    }
    let extra = ExtraOption {
        source: args.source.clone(),
        config: config(args)?.into(),
        snapshotdir: args.snapshotdir.clone(),
        fs_version: Some(match args.fs_version {
            cli::FsVersion::V5 => FsVersion::V5,
            cli::FsVersion::V6 => FsVersion::V6,
        }),
    };
    Ok(Report { text: extra.to_option()? + "\n", good: true })
}

/// The configuration, without white space around it. It must be JSON: no reader of the slice checks
/// that, and nydusd would fail much later.
fn config(args: &Encode) -> anyhow::Result<String> {
    let file = input::name(&args.config);
    let text = String::from_utf8(input::read(&args.config)?);
    // The errors themselves may quote the text.
    let text = text.map_err(|_| anyhow!("{file} is not UTF-8"))?;
    let text = text.trim();
    serde_json::from_str::<BTreeMap<String, IgnoredAny>>(text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        anyhow!("{file}, line {line}, column {column}: expected a JSON object, the configuration of nydusd")
    })?;
    Ok(text.to_owned())
}
