//! Decisions drawn from bytes; when they run out, always the first choice.

use kv_core::ids::{Anchor, ClusterId, Hash, Op, Revision, Timestamp, View};
use kv_core::message::{Entry, EntryHeader, body_of, revisions_of};

/// See the module.
pub(crate) struct Dice<'a>(pub(crate) &'a [u8]);

impl Dice<'_> {
    /// Whether nothing is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// Below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        let wide = if end > 256 { u64::from(self.byte()) << 8 } else { 0 };
        (wide | u64::from(self.byte())) % end
    }

    /// Below `end`, rarely as far away as the wire lets through.
    pub(crate) fn counter(&mut self, end: u64) -> u64 {
        match self.byte() {
            0xff => (1 << 62) - 1,
            byte => u64::from(byte) % end,
        }
    }

    pub(crate) fn chance(&mut self) -> bool {
        self.byte() & 1 == 1
    }
}

/// Which cluster all of this is about.
pub(crate) const CLUSTER: &str = "fuzz";

/// The entry after `last`, with one request of these bytes.
pub(crate) fn entry_after(last: Option<&Entry>, view: u64, request: Vec<u8>) -> Entry {
    let request = request.into();
    let body = body_of([&request]);
    let parent = last.map_or(Anchor::ZERO, |entry| entry.header.anchor());
    let first_revision = last.map_or(Revision::new(1), |entry| entry.header.next_revision());
    let header = EntryHeader {
        cluster: ClusterId::of_name(CLUSTER),
        view: View::new(view),
        op: Op::new(parent.op.get() + 1),
        parent: parent.hash,
        first_revision,
        timestamp: Timestamp::new(last.map_or(1, |entry| entry.header.timestamp.get() + 1)),
        request_count: 1,
        revision_count: revisions_of([&request], first_revision),
        body_len: u32::try_from(body.len()).expect("short"),
        body_hash: Hash::of(&body),
    };
    Entry { header, body }
}
