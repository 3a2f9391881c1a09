//! An image, and a complete cache of it.

use nydus_e2e::facts::{Facts, differences, facts};
use nydus_e2e::not_run;
use nydus_e2e::rafs::{Fuse, Rafs, Recipe};
use nydus_e2e::service::until;
use nydus_e2e::stage::Stage;
use rafs_erofs::{Cache, Image, Native, Progress, Promotion, Way};
use std::collections::BTreeSet;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(crate) const WAYS: [Way; 2] = [Way::File, Way::Loop];
/// How long nydusd may take to write to its cache what it has read.
const SETTLED: Duration = Duration::from_secs(60);

pub(crate) struct World {
    pub(crate) stage: Stage,
    pub(crate) rafs: Rafs,
    pub(crate) cache: PathBuf,
    /// The trees that it was made of, the lowest first.
    pub(crate) layers: Vec<PathBuf>,
}

impl World {
    /// One of the layers that `make` makes; `None`, which is said, if a program is missing.
    pub(crate) fn of(recipe: &Recipe, layers: usize, make: fn(usize, &Path)) -> Option<Self> {
        let Some(stage) = Stage::of_a_node() else {
            not_run!("needs root");
            return None;
        };
        let layer = |number| stage.join(format!("layer-{number}"));
        let layers: Vec<_> = (0..layers).map(layer).collect();
        for (number, layer) in layers.iter().enumerate() {
            fs::create_dir(layer).expect("a layer");
            make(number, layer);
        }
        let Some(rafs) = Rafs::build(&stage.join("image"), &layers, recipe) else {
            not_run!("no nydus-image");
            return None;
        };
        let cache = stage.join("cache");
        Some(Self { stage, rafs, cache, layers })
    }

    pub(crate) fn fuse(&self) -> Fuse {
        Fuse::start(self.stage.path(), &self.rafs, &self.cache, false).expect("nydusd")
    }

    pub(crate) fn image(&self) -> Image {
        Image::open(&self.rafs.bootstrap).expect("an image")
    }

    pub(crate) fn progress(&self) -> Progress {
        Cache::new(&self.cache).progress(&self.image()).expect("a cache")
    }

    /// Waits until all that was read is in the cache.
    pub(crate) fn settle(&self) {
        assert!(until(SETTLED, || self.progress().complete()), "{:?}", self.progress());
    }

    /// Reads everything through nydusd, which then ends; what it showed.
    pub(crate) fn fill(&self) -> Facts {
        let fuse = self.fuse();
        let mut facts = facts(&fuse.mount).expect("a tree");
        self.settle();
        fuse.stop();
        self.correct(&mut facts);
        facts
    }

    /// Puts digests into `facts` as they are in the lowest layer, of all files if it is the only
    /// one: nydusd 2.2 gets confused where equal chunks follow each other. The files where it did.
    pub(crate) fn correct(&self, facts: &mut Facts) -> Vec<String> {
        let truth = self::facts(&self.layers[0]).expect("a tree");
        let only = self.layers.len() == 1;
        let mut wrong = Vec::new();
        for (name, about) in facts.iter_mut().filter(|(name, _)| only || *name == "/sizes/sparse") {
            let digest = truth[name].iter().find(|(fact, _)| fact == "content");
            let found = about.iter_mut().find(|(fact, _)| fact == "content");
            assert_eq!(digest.is_some(), found.is_some(), "{name}");
            if let (Some(digest), Some(found)) = (digest, found)
                && digest != found
            {
                wrong.push(name.clone());
                found.clone_from(digest);
            }
        }
        wrong
    }

    pub(crate) fn promote(&self, name: &str) -> rafs_erofs::Result<Native> {
        self.promote_beside(name, &BTreeSet::new())
    }

    /// While other daemons may write to the blobs `shared`.
    pub(crate) fn promote_beside(
        &self,
        name: &str,
        shared: &BTreeSet<String>,
    ) -> rafs_erofs::Result<Native> {
        let (bootstrap, cache, into) = (&self.rafs.bootstrap, &self.cache, &self.stage.join(name));
        let promotion = Promotion { bootstrap, cache, into, verity: true, shared };
        promotion.run(&mut |_| ControlFlow::Continue(()))
    }
}

/// Mounts `native` in each way and compares what is seen.
pub(crate) fn check_equal(case: &str, native: &Native, expected: &Facts, ways: &[Way]) {
    for &way in ways {
        let target = native.directory().with_file_name(format!("{way:?}"));
        fs::create_dir_all(&target).expect("a directory");
        native.mount(way, &target).unwrap_or_else(|error| panic!("{case} {way:?}: {error}"));
        assert!(native.is_mounted(&target).expect("mounts"), "{case}");
        let found = facts(&target).unwrap_or_else(|error| panic!("{case} {way:?}: {error}"));
        let differences = differences(expected, &found);
        assert!(differences.is_empty(), "{case} {way:?}:\n{}", differences.join("\n"));
        rafs_erofs::unmount(&target).expect(case);
        assert!(!native.is_mounted(&target).expect("mounts"), "{case}");
    }
}

/// The backing files below `place` of loop devices: other tests have others.
pub(crate) fn loops(place: &Path) -> Vec<PathBuf> {
    let devices = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let backing = devices.map(|device| device.path().join("loop/backing_file"));
    let files = backing.filter_map(|path| fs::read_to_string(path).ok());
    let files = files.map(|file| PathBuf::from(file.trim_end()));
    files.filter(|file| file.starts_with(place)).collect()
}
