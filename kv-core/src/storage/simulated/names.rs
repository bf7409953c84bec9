//! The names of a simulated directory: what a process sees, and what a power cut would leave.

use std::collections::BTreeMap;

/// A file, whatever its name.
pub(super) type FileId = u64;

#[derive(Clone, Default, Debug)]
pub(super) struct Names {
    seen: BTreeMap<String, FileId>,
    durable: BTreeMap<String, FileId>,
    unsynced: Vec<DirectoryChange>,
}

#[derive(Clone, Debug)]
enum DirectoryChange {
    Create(String, FileId),
    /// The file id: a directory remembers which file got the name, not which name it had.
    Rename(String, String, FileId),
    Remove(String),
}

impl Names {
    pub(super) fn get(&self, name: &str) -> Option<FileId> {
        self.seen.get(name).copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, FileId)> {
        self.seen.iter().map(|(name, file)| (name.as_str(), *file))
    }

    /// Whether a process or, after a power cut, the disk may still refer to this file.
    pub(super) fn may_name(&self, file: FileId) -> bool {
        self.seen.values().chain(self.durable.values()).any(|named| *named == file)
            || self.unsynced.iter().any(|change| matches!(change, DirectoryChange::Create(_, made) | DirectoryChange::Rename(_, _, made) if *made == file))
    }

    pub(super) fn create(&mut self, name: &str, file: FileId) {
        self.change(DirectoryChange::Create(name.to_owned(), file));
    }

    pub(super) fn rename(&mut self, from: &str, to: &str) {
        let Some(file) = self.get(from) else { return };
        self.change(DirectoryChange::Rename(from.to_owned(), to.to_owned(), file));
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.change(DirectoryChange::Remove(name.to_owned()));
    }

    fn change(&mut self, change: DirectoryChange) {
        apply(&mut self.seen, &change);
        self.unsynced.push(change);
    }

    /// Makes the names durable. Returns whether a name was removed.
    pub(super) fn sync(&mut self) -> bool {
        let gave_up = self.unsynced.iter().any(|change| !matches!(change, DirectoryChange::Create(..)));
        if !self.unsynced.is_empty() {
            self.unsynced.clear();
            self.durable.clone_from(&self.seen);
        }
        gave_up
    }

    pub(super) fn lose_all(&mut self) {
        self.unsynced.clear();
        self.seen.clone_from(&self.durable);
    }

    /// A power cut. Half of the time the changes up to some point survive, as in a journaling file system; otherwise
    /// any subset that is possible.
    pub(super) fn crash(&mut self, rng: &mut fastrand::Rng) {
        let in_order = rng.bool();
        let kept = rng.usize(..=self.unsynced.len());
        for (at, change) in std::mem::take(&mut self.unsynced).iter().enumerate() {
            if if in_order { at < kept } else { rng.bool() } {
                apply(&mut self.durable, change);
            }
        }
        self.seen.clone_from(&self.durable);
    }
}

fn apply(names: &mut BTreeMap<String, FileId>, change: &DirectoryChange) {
    match change {
        DirectoryChange::Create(name, file) => {
            names.insert(name.clone(), *file);
        }
        DirectoryChange::Rename(from, to, file) => {
            if names.get(from) == Some(file) {
                names.remove(from);
            }
            names.insert(to.clone(), *file);
        }
        DirectoryChange::Remove(name) => {
            names.remove(name);
        }
    }
}
