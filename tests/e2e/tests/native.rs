//! Complete RAFS v6 images by the kernel: the same as by nydusd, and never anything else.

use nydus_e2e::facts::{differences, facts};
use nydus_e2e::rafs::{Form, Fuse, Rafs, Recipe};
use nydus_e2e::service::until;
use nydus_e2e::specimens;
use nydus_e2e::stage::Stage;
use nydus_e2e::not_run;
use rafs_erofs::{Cache, Image, Native, Placement, Promotion, Way};
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

const WAYS: [Way; 2] = [Way::File, Way::Loop];
/// How long nydusd may take to write to its cache what it has read.
const SETTLED: Duration = Duration::from_secs(60);

/// An image and a complete cache of it.
struct World {
    stage: Stage,
    rafs: Rafs,
    cache: PathBuf,
}

impl World {
    /// One of the layers that `make` makes; `None`, which is said, if a program is missing.
    fn of(recipe: &Recipe, layers: usize, make: impl Fn(usize, &Path)) -> Option<Self> {
        let Some(stage) = Stage::of_a_node() else {
            not_run!("needs root");
            return None;
        };
        let layers: Vec<_> = (0..layers).map(|number| stage.join(format!("layer-{number}"))).collect();
        for (number, layer) in layers.iter().enumerate() {
            fs::create_dir(layer).expect("a layer");
            make(number, layer);
        }
        let Some(rafs) = Rafs::build(&stage.join("image"), &layers, recipe) else {
            not_run!("no nydus-image");
            return None;
        };
        let cache = stage.join("cache");
        Some(Self { stage, rafs, cache })
    }

    fn fuse(&self) -> Fuse {
        Fuse::start(self.stage.path(), &self.rafs, &self.cache, false).expect("nydusd")
    }

    fn image(&self) -> Image {
        Image::open(&self.rafs.bootstrap).expect("an image")
    }

    /// Waits until all that was read is in the cache.
    fn settle(&self) {
        let image = self.image();
        let cache = Cache::new(&self.cache);
        let complete = || cache.progress(&image).expect("a cache").complete();
        assert!(until(SETTLED, complete), "{:?}", cache.progress(&image));
    }

    fn promote(&self, name: &str) -> rafs_erofs::Result<Native> {
        let (bootstrap, into) = (&self.rafs.bootstrap, &self.stage.join(name));
        let promotion = Promotion { bootstrap, cache: &self.cache, into, verity: true };
        promotion.run(&mut |_| ControlFlow::Continue(()))
    }

    fn mount(&self, native: &Native, way: Way) -> PathBuf {
        let target = self.stage.join(format!("{way:?}"));
        fs::create_dir_all(&target).expect("a directory");
        native.mount(way, &target).expect("a mount");
        target
    }

    /// Compares the tree by FUSE and by the kernel, in each way.
    fn check_equal(&self, case: &str) -> Native {
        let fuse = self.fuse();
        let expected = facts(&fuse.mount).expect(case);
        self.settle();
        let native = self.promote("native").expect(case);
        for way in WAYS {
            let target = self.mount(&native, way);
            assert!(native.is_mounted(&target).expect("mounts"), "{case}");
            let found = facts(&target).expect(case);
            let differences = differences(&expected, &found);
            assert!(differences.is_empty(), "{case} {way:?}:\n{}", differences.join("\n"));
            rafs_erofs::unmount(&target).expect(case);
            assert!(!native.is_mounted(&target).expect("mounts"), "{case}");
        }
        fuse.stop();
        println!("{case}: {} files, {:?}", expected.len(), native.devices().collect::<Vec<_>>());
        native
    }
}

#[test]
fn equal_whatever_packs_it() {
    for compressor in ["none", "lz4_block", "zstd"] {
        for chunk in [4 << 10, 64 << 10, 1 << 20, 4 << 20] {
            let recipe = Recipe { compressor, chunk, ..Recipe::of(Form::Directory) };
            let world = World::of(&recipe, 1, |number, layer| specimens::tree(layer, number as u64));
            let Some(world) = world else { return };
            world.check_equal(&format!("{compressor} {chunk}"));
        }
    }
    let _ = Placement::Link;
}
