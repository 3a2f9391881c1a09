//! Images that say of another one's blob what is not so.

use crate::wrong::bootstraps;
use nydus_e2e::bare::{MODES, Node, check_files, names_in, unmount};
use nydus_e2e::client::Labels;
use nydus_e2e::image::Rafs;
use std::fs;
use std::os::unix::fs::MetadataExt;

/// An image that names another one's blob with other numbers: it is refused, and the other one's
/// cached data stays where it is, for its daemon and for the next.
#[test]
fn a_lie_costs_the_liar() {
    for node in MODES.into_iter().filter_map(|mode| Node::start(mode, Rafs::V6)) {
        let top = node.unpack();
        let root = node.mount(&node.container("c1", &top), "m1");
        check_files(&root);
        let cache = node.snapshotter.root().join("cache");
        let map = |name: &String| name.ends_with(".chunk_map");
        let maps: Vec<_> = names_in(&cache).into_iter().filter(map).collect();
        let inodes = || -> Vec<_> {
            let all = names_in(&cache).into_iter().filter(|name| {
                maps.iter().any(|map| name.starts_with(&map[..64])) && !name.ends_with("meta")
            });
            all.map(|name| (fs::metadata(cache.join(&name)).map(|file| file.ino()).ok(), name))
                .collect()
        };
        let before = inodes();
        let honest = bootstraps(&node);
        let liar = node.unpack_another();
        let path = bootstraps(&node).into_iter().find(|path| !honest.contains(path));
        let path = path.expect("another bootstrap");
        let sound = fs::read(&path).expect("a bootstrap");
        // Behind the id and six numbers of the blob table: chunks, and the length unpacked.
        for (behind, by) in [(72, 4096_u32), (96, 4096)] {
            let mut bytes = sound.clone();
            let table = u64::from_le_bytes(bytes[1160..1168].try_into().expect("a place"));
            let length = u32::from_le_bytes(bytes[1168..1172].try_into().expect("a length"));
            for blob in (0..length as usize).step_by(256) {
                let at = table as usize + blob + behind;
                let number = u32::from_le_bytes(bytes[at..at + 4].try_into().expect("a number"));
                bytes[at..at + 4].copy_from_slice(&(number + by).to_le_bytes());
            }
            fs::write(&path, bytes).expect("a bootstrap");
            let told = node.client.prepare("c2", &liar, &Labels::new());
            assert!(told.is_err(), "{behind}: {told:?}\n{}", node.snapshotter.said());
            assert_eq!(inodes(), before, "{behind}\n{}", node.snapshotter.said());
            check_files(&root);
        }
        fs::write(&path, sound).expect("a bootstrap");
        node.expect(node.client.prepare("c2", &liar, &Labels::new()));
        assert_eq!(inodes(), before);
        unmount(&root);
        node.clear();
    }
}
