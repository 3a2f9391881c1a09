#![allow(missing_docs)]
use rafs_erofs::*;
use std::ops::ControlFlow;
use std::path::Path;
fn main() {
    let args: Vec<_> = std::env::args().collect();
    let arg = |n: usize| Path::new(&args[n]);
    let way = |s: &str| if s == "loop" { Way::Loop } else { Way::File };
    match &*args[1] {
        "probe" => println!(
            "{:?} {:?} {:?}",
            probe(arg(2)),
            try_way(&arg(2).join(".p"), Way::File),
            try_way(&arg(2).join(".p"), Way::Loop)
        ),
        "image" => match Image::open(arg(2)) {
            Ok(i) => println!("{:#?} chunks {} bytes {}", i.blobs, i.chunks.len(), i.bytes()),
            Err(e) => println!("{e}"),
        },
        "progress" => {
            println!("{:?}", Image::open(arg(2)).and_then(|i| Cache::new(arg(3)).progress(&i)))
        }
        "promote" => {
            let p = Promotion { bootstrap: arg(2), cache: arg(3), into: arg(4), verity: true };
            let t = std::time::Instant::now();
            match p.run(&mut |_| ControlFlow::Continue(())) {
                Ok(n) => println!("{:#?} {:?}", n.devices().collect::<Vec<_>>(), t.elapsed()),
                Err(e) => println!("{e}"),
            }
        }
        "mount" => println!(
            "{:?}",
            Native::load(arg(2))
                .unwrap()
                .unwrap()
                .mount(way(&args[4]), arg(3))
                .map_err(|e| e.to_string())
        ),
        "mounted" => println!("{:?}", Native::load(arg(2)).unwrap().unwrap().is_mounted(arg(3))),
        "umount" => println!("{:?}", unmount(arg(2))),
        _ => {}
    }
}
