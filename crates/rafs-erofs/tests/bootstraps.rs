//! Properties of many bootstraps, sound and damaged.

use rafs_erofs::properties::{bootstrap, damage, draft, seen};

#[test]
fn sound_ones_are_taken() {
    for seed in 0..200 {
        let image = draft(seed).build();
        if let Err(what) = seen(&image) {
            panic!("seed {seed}: {what}");
        }
        bootstrap(&image);
    }
}

#[test]
fn damaged_ones_are_refused_or_read_as_the_kernel_does() {
    let mut taken = 0;
    for seed in 0..600 {
        let mut image = draft(seed % 100).build();
        damage(seed, &mut image);
        bootstrap(&image);
        taken += u32::from(seen(&image).is_ok());
    }
    assert!((20..580).contains(&taken), "{taken} are taken: the damage is all or nothing");
}

/// Committed seeds of the fuzz target.
#[test]
fn the_seeds_hold() {
    let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/seeds/bootstrap");
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let small: Vec<_> =
        (0..).filter(|&seed| draft(seed).build().len() <= 12 << 10).take(6).collect();
    for seed in small {
        let (path, image) = (format!("{seeds}/draft-{seed}"), draft(seed).build());
        if update {
            std::fs::create_dir_all(seeds).unwrap();
            std::fs::write(&path, &image).unwrap();
        }
        assert!(std::fs::read(&path).unwrap() == image, "{path} (UPDATE_GOLDEN=1 writes it)");
        bootstrap(&image);
    }
}
