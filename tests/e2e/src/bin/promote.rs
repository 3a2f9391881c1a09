//! Promotes an image, or mounts a promoted one: a process of its own, to be killed.
//! `promote BOOTSTRAP CACHE INTO`, or `promote DIRECTORY file|loop TARGET`.

use rafs_erofs::{Native, Promotion, Way};
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    let [_, first, second, third] = &args[..] else { return ExitCode::from(2) };
    let (first, third) = (Path::new(first), Path::new(third));
    let way = match second.to_str() {
        Some("file") => Some(Way::File),
        Some("loop") => Some(Way::Loop),
        _ => None,
    };
    let done = match way {
        Some(way) => Native::load(first).and_then(|native| match native {
            Some(native) => native.mount(way, third),
            None => Err(rafs_erofs::Error::Stopped),
        }),
        None => {
            let (cache, into) = (Path::new(second), third);
            let promotion =
                Promotion { bootstrap: first, cache, into, verity: true, shared: &BTreeSet::new() };
            promotion.run(&mut |_| ControlFlow::Continue(())).map(drop)
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
