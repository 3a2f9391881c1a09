//! The kit itself: images, registry and proxy, without containerd.

use nydus_e2e::image::{self, MANIFEST, Rafs, digest_of};
use nydus_e2e::proxy::{Fault, Proxy};
use nydus_e2e::registry::{Registry, basic};
use nydus_e2e::{not_run, rootfs};
use std::time::Duration;
use ureq::{Agent, Error};

const BIG: usize = 1 << 20;

#[test]
fn a_pushed_image_comes_back() {
    let place = tempfile::tempdir().expect("a directory");
    let Some(registry) = Registry::start(&place.path().join("registry"), Some(("u", "p"))) else {
        return not_run!("no docker-registry");
    };
    let Some(layers) = rootfs::layers(place.path(), BIG) else { return not_run!("no busybox") };
    let proxy = Proxy::start(registry.address());
    let get = |path: &str, password: &str| {
        let agent: Agent = Agent::config_builder().proxy(None).build().into();
        let url = format!("http://{}/v2/t/{path}", proxy.host());
        let request = agent.get(url).header("Accept", MANIFEST);
        let answer = request.header("Authorization", basic("u", password)).call();
        answer.map(|mut answer| answer.body_mut().read_to_vec().expect("a body"))
    };
    for version in [Rafs::V5, Rafs::V6] {
        let directory = place.path().join(format!("{version:?}"));
        let Some(image) = image::nydus(&directory, &layers, version) else {
            return not_run!("no nydus-image");
        };
        check(&image, &registry, &proxy, &get);
        assert_eq!(image.data().count(), 2);
    }
    let image = image::plain(&place.path().join("plain"), &layers, true);
    check(&image, &registry, &proxy, &get);
    assert!(matches!(get("manifests/tag", "wrong"), Err(Error::StatusCode(401))));
    proxy.fail(Fault::Missing(image.config.digest.clone()));
    let blob = format!("blobs/{}", image.config.digest);
    assert!(matches!(get(&blob, "p"), Err(Error::StatusCode(404))));
    proxy.fail(Fault::Unauthorized);
    assert!(matches!(get("manifests/tag", "p"), Err(Error::StatusCode(401))));
    proxy.fail(Fault::Stall);
    std::thread::scope(|scope| {
        let stalled = scope.spawn(|| get(&blob, "p").expect("in the end, a blob").len() as u64);
        std::thread::sleep(Duration::from_millis(100));
        assert!(!stalled.is_finished());
        proxy.fail(Fault::None);
        assert_eq!(stalled.join().expect("no panic"), image.config.size);
    });
}

fn check(
    image: &image::Image,
    registry: &Registry,
    proxy: &Proxy,
    get: &impl Fn(&str, &str) -> Result<Vec<u8>, Error>,
) {
    registry.push(image, "t", "tag");
    assert_eq!(get("manifests/tag", "p").expect("a manifest"), image.manifest);
    for blob in image.blobs() {
        let content = get(&format!("blobs/{}", blob.digest), "p").expect("a blob");
        assert_eq!(digest_of(&content), blob.digest);
        assert_eq!(proxy.served(&blob.digest), blob.size);
    }
}
