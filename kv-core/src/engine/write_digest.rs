//! A digest of writes, in order.

use super::change::KeyChange;
use crate::ids::{Hash, Revision};
use std::fmt;
use xxhash_rust::xxh3::Xxh3;

/// A digest of what was written since it was last taken.
#[derive(Default)]
pub(super) struct WriteDigest(Xxh3);

impl WriteDigest {
    pub(super) fn note(&mut self, key: &[u8], revision: Revision, change: &KeyChange) {
        let (value, length) = match change {
            KeyChange::Set(value) => (&value[..], value.len() as u64),
            KeyChange::Delete => (&[][..], u64::MAX),
            KeyChange::Expire => (&[][..], u64::MAX - 1),
        };
        self.0.update(&(key.len() as u64).to_le_bytes());
        self.0.update(&length.to_le_bytes());
        self.0.update(&revision.get().to_le_bytes());
        self.0.update(key);
        self.0.update(value);
    }

    pub(super) fn take(&mut self) -> Hash {
        let digest = Hash::new(self.0.digest128());
        self.0.reset();
        digest
    }
}

impl fmt::Debug for WriteDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WriteDigest({:032x})", self.0.digest128())
    }
}
