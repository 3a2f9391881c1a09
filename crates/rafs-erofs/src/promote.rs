//! From a complete cache to files of our own that are verified.

use crate::error::{Error, Result, io};
use crate::image::{Image, hex, regular};
use crate::native::{BOOTSTRAP, Device, Identity, Native, Placement, Record};
use crate::{Cache, place, verify};
use std::collections::BTreeSet;
use std::fs::{DirBuilder, File};
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

/// What a promotion is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Reading the bootstrap.
    Reading,
    /// Copying data, which only some file systems need.
    Copying,
    /// Computing digests.
    Verifying,
}

/// A piece of work that is done; at most 16 MiB since the last.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// What is being done.
    pub phase: Phase,
    /// Bytes done in this phase.
    pub done: u64,
    /// Bytes of the image.
    pub total: u64,
}

/// What to promote.
#[derive(Clone, Copy, Debug)]
pub struct Promotion<'a> {
    /// The bootstrap. It is copied.
    pub bootstrap: &'a Path,
    /// nydusd's cache.
    pub cache: &'a Path,
    /// The directory to make, on the same file system as the cache. What is there and has no
    /// record, as after a crash, is removed first.
    pub into: &'a Path,
    /// Enable fs-verity where the file system has it. Where that cannot make reflinks, the data is
    /// copied, as nydusd could not open a file with fs-verity.
    pub verity: bool,
    /// Blobs that other daemons than this image's may yet write to, and be it the same bytes: these
    /// get a reflink or a copy, too.
    pub shared: &'a BTreeSet<String>,
}

impl Promotion<'_> {
    /// Gives every file a name, or a copy, below `into`, verifies every chunk, enables fs-verity,
    /// and writes the record last: whenever this is killed, either the record is there and true, or
    /// [`Native::load`] finds nothing.
    ///
    /// `step` is called again and again; it may sleep, to keep a rate, and ends the promotion with
    /// `Break`.
    ///
    /// # Errors
    /// As [`Error`] says; what was made is removed.
    pub fn run(&self, step: &mut dyn FnMut(Step) -> ControlFlow<()>) -> Result<Native> {
        let into = &std::path::absolute(self.into).map_err(io("promote into", self.into))?;
        Promotion { into, ..*self }.run_in(step)
    }

    /// The same, `into` an absolute path.
    fn run_in(&self, step: &mut dyn FnMut(Step) -> ControlFlow<()>) -> Result<Native> {
        let mut work = Work::new(step, 0);
        let bootstrap = &regular(self.bootstrap)?;
        let (image, _) = Image::digested(bootstrap, self.bootstrap, &mut || work.reading())?;
        work.total = image.bytes();
        let progress = Cache::new(self.cache).progress(&image)?;
        if !progress.complete() {
            return Err(Error::Incomplete(progress));
        }
        if Native::load(self.into)?.is_some() {
            return Err(io("promote into", self.into)(ErrorKind::AlreadyExists.into()));
        }
        Native::remove(self.into)?;
        let made = DirBuilder::new().mode(0o700).create(self.into);
        made.map_err(io("make directory", self.into))?;
        let done = self.fill(&mut work);
        if done.is_err() {
            // The error that counts is the first.
            let _ = Native::remove(self.into);
        }
        done
    }

    fn fill(&self, work: &mut Work<'_>) -> Result<Native> {
        let path = self.into.join(BOOTSTRAP);
        place::whole(self.bootstrap, &path)?;
        let verity = self.verity && place::guard(&path)?;
        // From here on the copy is what counts.
        let bootstrap = synced(&path)?;
        let (image, digest) = Image::digested(&bootstrap, &path, &mut || work.reading())?;
        let mut devices = Vec::with_capacity(image.blobs.len());
        for number in 0..image.blobs.len() {
            devices.push(self.device(&image, number, verity, work)?);
        }
        let record = Record {
            version: 0,
            digest: hex(&digest),
            bootstrap: Identity::of(&bootstrap, false).map_err(io("look at", &path))?,
            devices,
            samples: image.samples,
        };
        Native::save(self.into, record)
    }

    fn device(
        &self,
        image: &Image,
        number: usize,
        verity: bool,
        work: &mut Work<'_>,
    ) -> Result<(Device, Identity)> {
        let (blob, chunks) = (&image.blobs[number], image.chunks_of(number));
        let path = self.into.join(number.to_string());
        let cache = Cache::new(self.cache);
        let own = verity || self.shared.contains(&blob.id);
        let placement = place::place((&cache, blob, chunks), &path, own, work)?;
        if verity {
            place::guard(&path)?;
        }
        let file = synced(&path)?;
        let identity = || {
            let identity = Identity::of(&file, placement == Placement::Link);
            identity.map_err(io("look at", &path))
        };
        let before = identity()?;
        verify::verify((blob, chunks), (&path, &file), work)?;
        if identity()? != before {
            return Err(Error::Busy(path));
        }
        let (blob, size) = (blob.id.clone(), blob.uncompressed_size);
        Ok((Device { blob, placement, size, verity: before.has_verity() }, before))
    }
}

/// The file at `path`, which is on the disk.
fn synced(path: &Path) -> Result<File> {
    let file = File::open(path).map_err(io("open", path))?;
    file.sync_all().map_err(io("sync", path))?;
    Ok(file)
}

/// Counts what is done, for the caller's hook.
pub(crate) struct Work<'a> {
    step: &'a mut dyn FnMut(Step) -> ControlFlow<()>,
    copied: u64,
    verified: u64,
    total: u64,
}

impl<'a> Work<'a> {
    pub(crate) fn new(step: &'a mut dyn FnMut(Step) -> ControlFlow<()>, total: u64) -> Self {
        Self { step, copied: 0, verified: 0, total }
    }

    fn reading(&mut self) -> ControlFlow<()> {
        (self.step)(Step { phase: Phase::Reading, done: 0, total: self.total })
    }

    pub(crate) fn done(&mut self, phase: Phase, bytes: u64) -> Result<()> {
        let sum = match phase {
            Phase::Copying => &mut self.copied,
            Phase::Reading | Phase::Verifying => &mut self.verified,
        };
        *sum += bytes;
        match (self.step)(Step { phase, done: *sum, total: self.total }) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Stopped),
        }
    }
}
