//! Draws the plots of `cargo xtask bench`. A package of its own, so that the other tasks start
//! without it.

mod helper;
mod native;

use anyhow::{Context, Result, bail};
use std::fs;
use std::path::Path;

fn main() -> Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [what, json] = arguments.as_slice() else { bail!("expected helper|native JSON") };
    let json = Path::new(json);
    let text = fs::read_to_string(json).with_context(|| json.display().to_string())?;
    match what.as_str() {
        "helper" => helper::plot(&serde_json::from_str(&text)?, json),
        "native" => native::plot(&serde_json::from_str(&text)?, &json.with_file_name("native.svg")),
        _ => bail!("unknown {what:?}, expected helper or native"),
    }
}
