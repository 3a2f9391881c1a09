//! What records say of daemons and images, and what is made of a damaged one.

use super::{DAEMONS, DaemonRecord, Error, Fuse, INSTANCES, InstanceRecord, SHARED, files};
use crate::store::{Lookup, Page};

impl Fuse {
    /// The name of an image's daemon of its own: one that was taken over may have another than
    /// ours, which its successor keeps, so that there is one record of the two.
    pub(super) fn recorded_daemon(&self, image: u64) -> Result<String, Error> {
        let read = self.store.read()?;
        let recorded = read.item(&INSTANCES, &image.to_string()).ok().flatten();
        let is_own = |id: &String| {
            read.item(&DAEMONS, id).is_ok_and(|daemon| daemon.is_some_and(|it| !it.shared))
        };
        let recorded = recorded.map(|instance| instance.daemon).filter(is_own);
        Ok(recorded.unwrap_or_else(|| files::dedicated(image)))
    }

    /// All daemons; of one whose record is damaged, what its name says.
    pub(super) fn daemons_recorded(
        &self,
        page: Page<(String, DaemonRecord)>,
    ) -> Vec<(String, DaemonRecord)> {
        let named = page.damaged.iter().filter_map(|key| {
            let id = key.split_once('/')?.1;
            let spec = match files::image_of(id) {
                Some(image) => self.dedicated_spec(id, image),
                None if id == SHARED => self.shared_spec(id),
                None => return None,
            };
            Some((id.to_owned(), DaemonRecord::of(&spec)))
        });
        page.found.into_iter().chain(named).collect()
    }

    /// All images that are served, likewise.
    pub(super) fn instances_recorded(
        &self,
        page: Page<(String, InstanceRecord)>,
        daemons: &[(String, DaemonRecord)],
    ) -> Vec<(String, InstanceRecord)> {
        let named = page.damaged.iter().filter_map(|key| {
            let number = key.split_once('/')?.1;
            let image = number.parse().ok()?;
            let own = self.layout.dedicated_mount(image);
            let is_its =
                |(_, daemon): &&(String, DaemonRecord)| daemon.shared || daemon.mountpoint == own;
            let (id, daemon) = daemons.iter().find(is_its)?;
            let lower = match daemon.shared {
                true => daemon.mountpoint.join(number),
                false => daemon.mountpoint.clone(),
            };
            Some((number.to_owned(), InstanceRecord { daemon: id.clone(), lower }))
        });
        page.found.into_iter().chain(named).collect()
    }
}
