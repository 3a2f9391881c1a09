//! An image that was promoted: files and the record of what was verified.

use crate::error::{Changed, Error, How, Result, io};
use crate::image::{Sample, hex};
use crate::{Way, ioctl, mount};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The bootstrap in the directory; the blobs are `0`, `1` and so on.
pub(crate) const BOOTSTRAP: &str = "image.boot";
const RECORD: &str = "verified.json";
const VERSION: u32 = 1;

/// How a blob's data came to its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Placement {
    /// A reflink: a file of its own, which shares the cache file's space.
    Clone,
    /// Another name of nydusd's cache file: all of it is there, and no other daemon had begun to
    /// write to it before that.
    Link,
    /// A copy. The cache file takes space for nothing once no nydusd needs it.
    Copy,
}

/// A blob of a promoted image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// The blob's id.
    pub blob: String,
    /// How its data came here.
    pub placement: Placement,
    /// Length of its file.
    pub size: u64,
    /// fs-verity guards it.
    pub verity: bool,
}

/// What tells whether a file is still the one that was verified.
///
/// Without the number of its device, which another boot may change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    inode: u64,
    size: u64,
    modified: (i64, i64),
    /// Not of a link: it changes when nydusd's name of the file comes or goes.
    changed: Option<(i64, i64)>,
    /// fs-verity's digest, in hex.
    verity: Option<String>,
}

impl Identity {
    /// The identity of `file`, which is its owner's alone unless `linked`.
    pub(crate) fn of(file: &File, linked: bool) -> std::io::Result<Self> {
        let found = file.metadata()?;
        let verity = match ioctl::verity_measure(file.as_fd()) {
            Ok(digest) => Some(hex(&digest)),
            Err(Errno::NODATA | Errno::NOTTY | Errno::OPNOTSUPP) => None,
            Err(error) => return Err(error.into()),
        };
        Ok(Self {
            inode: found.ino(),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (!linked).then(|| (found.ctime(), found.ctime_nsec())),
            verity,
        })
    }

    fn compare(&self, found: &Self) -> Result<(), How> {
        if found.size != self.size {
            return Err(How::Size(found.size, self.size));
        }
        if self.verity.is_some() && found.verity != self.verity {
            return Err(How::Verity);
        }
        if found.inode != self.inode {
            return Err(How::Replaced);
        }
        match (found.modified, found.changed) == (self.modified, self.changed) {
            true => Ok(()),
            false => Err(How::Modified),
        }
    }

    pub(crate) fn has_verity(&self) -> bool {
        self.verity.is_some()
    }
}

/// What was verified. Written once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) version: u32,
    /// SHA-256 of the bootstrap, in hex.
    pub(crate) digest: String,
    pub(crate) bootstrap: Identity,
    pub(crate) devices: Vec<(Device, Identity)>,
    pub(crate) samples: Vec<Sample>,
}

/// A promoted image.
#[derive(Clone, Debug)]
pub struct Native {
    directory: PathBuf,
    record: Record,
}

impl Native {
    /// The promoted image in `directory`; `None` if there is no record, so no promotion ended.
    ///
    /// # Errors
    /// The record is damaged or cannot be read.
    pub fn load(directory: &Path) -> Result<Option<Self>> {
        let directory = std::path::absolute(directory).map_err(io("look at", directory))?;
        let path = directory.join(RECORD);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            bytes => bytes.map_err(io("read", &path))?,
        };
        let record = serde_json::from_slice::<Record>(&bytes).map_err(std::io::Error::from);
        let record = record.map_err(io("read record", &path))?;
        match record.version {
            VERSION => Ok(Some(Self { directory, record })),
            other => {
                let what = format!("expected version {VERSION}, got {other}");
                Err(io("read record", &path)(std::io::Error::other(what)))
            }
        }
    }

    /// Writes the record of files in `directory`, which are on the disk when it is.
    pub(crate) fn save(directory: &Path, mut record: Record) -> Result<Self> {
        record.version = VERSION;
        let (path, new) = (directory.join(RECORD), directory.join("verified.new"));
        let json = serde_json::to_vec_pretty(&record).map_err(std::io::Error::from);
        let write = || {
            let mut file = File::create(&new)?;
            file.write_all(&json?)?;
            file.sync_all()?;
            // The names of the other files, then the record's.
            let names = File::open(directory)?;
            names.sync_all()?;
            fs::rename(&new, &path)?;
            names.sync_all()?;
            directory.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
        };
        write().map_err(io("write record", &path))?;
        Ok(Self { directory: directory.to_owned(), record })
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// SHA-256 of the bootstrap, in hex.
    pub fn digest(&self) -> &str {
        &self.record.digest
    }

    /// Its blobs, in the order of the kernel's devices.
    pub fn devices(&self) -> impl Iterator<Item = &Device> + '_ {
        self.record.devices.iter().map(|(device, _)| device)
    }

    /// Whether every file is still the one that was verified. Cheap: it reads no data.
    ///
    /// # Errors
    /// The first file that is not.
    pub fn check(&self) -> Result<(), Changed> {
        self.open().map(drop)
    }

    /// The blobs whose file is not the one that was verified.
    pub fn changed(&self) -> impl Iterator<Item = &Device> + '_ {
        let devices = self.record.devices.iter().enumerate();
        let changed = |(number, (_, identity)): &(usize, &(Device, Identity))| {
            opened(&self.directory.join(number.to_string()), identity).is_err()
        };
        devices.filter(changed).map(|(_, (device, _))| device)
    }

    /// The bootstrap and the blobs, opened and each the one that was verified.
    fn open(&self) -> Result<Vec<(PathBuf, File)>, Changed> {
        let devices = self.record.devices.iter().enumerate();
        let devices = devices.map(|(number, (_, identity))| (number.to_string(), identity));
        let all = std::iter::once((BOOTSTRAP.to_owned(), &self.record.bootstrap)).chain(devices);
        let open = |(name, identity): (String, &Identity)| {
            let path = self.directory.join(name);
            match opened(&path, identity) {
                Ok(file) => Ok((path, file)),
                Err(how) => Err(Changed { file: path, how }),
            }
        };
        all.map(open).collect()
    }

    /// Mounts it read-only at the directory `target`. What is opened is what is checked; before the
    /// mount is seen at `target`, a chunk of every device was read through it and had its digest.
    ///
    /// # Errors
    /// [`Error::Changed`]: back to nydusd. Or the kernel refused. Nothing is mounted and no loop
    /// device is left.
    pub fn mount(&self, way: Way, target: &Path) -> Result<()> {
        let files = self.open()?;
        let refused = |what| Error::Mount { target: target.to_owned(), what };
        let made = mount::make(&files, way).map_err(refused)?;
        // The kernel opened the files by their names.
        self.check()?;
        for sample in &self.record.samples {
            let file = files[sample.blob + 1].0.clone();
            self::sample(&made, sample).map_err(|how| Changed { file, how })?;
        }
        mount::attach(&made, target).map_err(refused)
    }

    /// Whether the topmost mount at `target` is this image's, by whichever way and process. If the
    /// image's own path is too long for a mount to tell it, any EROFS that is mounted from such a
    /// path counts: to be asked of a target at which no other image is ever mounted.
    ///
    /// # Errors
    /// The table of mounts cannot be read.
    pub fn is_mounted(&self, target: &Path) -> Result<bool> {
        let table = Path::new("/proc/thread-self/mountinfo");
        let source = mount::source_at(target).map_err(io("read", table))?;
        Ok(source.is_some_and(|source| mount::is_of(&source, &self.directory.join(BOOTSTRAP))))
    }

    /// Removes the directory, the record first. Mounts keep the files until they are unmounted.
    ///
    /// # Errors
    /// Something is left.
    pub fn remove(directory: &Path) -> Result<()> {
        for (what, done) in [
            ("remove", fs::remove_file(directory.join(RECORD))),
            ("remove", fs::remove_dir_all(directory)),
        ] {
            match done {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                done => done.map_err(io(what, directory))?,
            }
        }
        Ok(())
    }
}

fn opened(path: &Path, identity: &Identity) -> Result<File, How> {
    let unreadable = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => How::Missing,
        _ => How::Reads(error.to_string()),
    };
    let file = File::open(path).map_err(unreadable)?;
    let found = Identity::of(&file, identity.changed.is_none()).map_err(unreadable)?;
    identity.compare(&found).map(|()| file)
}

/// Reads a chunk through the mount.
fn sample(mount: &mount::Made, sample: &Sample) -> Result<(), How> {
    let mut data = vec![0; sample.size as usize];
    let mut read = || mount.open(&sample.path)?.read_exact_at(&mut data, sample.at);
    read().map_err(|error| How::Reads(format!("{:?}: {error}", sample.path)))?;
    match hex(&sample.digester.digest(&data)) == sample.digest {
        true => Ok(()),
        false => Err(How::Reads(format!("{:?} at byte {}", sample.path, sample.at))),
    }
}
