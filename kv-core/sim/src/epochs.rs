//! Epochs in the driver: stops are read from the journal, and the disks have ids.

use super::world::World;
use kv_core::config::{Configuration, DiskId};
use kv_core::ids::Anchor;
use kv_core::replica::Input;

/// The id of a member's disk.
pub(super) fn disk_of(member: usize) -> DiskId {
    DiskId(1000 + member as u128)
}

impl World {
    /// A stop is read from the journal.
    pub(super) fn read_stop(&mut self, member: usize, stop: Anchor) {
        let entry = self.read_entry(member, stop.op).filter(|entry| entry.header.anchor() == stop);
        if let Some(configuration) = entry.and_then(|entry| entry.next_configuration()) {
            self.input(member, Input::Stop { stop, configuration });
        }
    }

    /// A member is in another epoch.
    pub(super) fn entered(&mut self, member: usize, configuration: Configuration) {
        self.checker.count("epochs entered");
        let epoch = configuration.epoch;
        let known = self.configurations.entry(epoch).or_insert_with(|| configuration.clone());
        if *known != configuration {
            let detail =
                format!("m{member} enters {epoch:?} with {configuration:?}, another one with {known:?}");
            self.fail(("an epoch has one configuration", detail));
        }
    }
}
