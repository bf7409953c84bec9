use super::*;
use crate::config::{ClusterId, FixedOptions, Options};
use crate::ids::{Epoch, Hash, MemberId, Revision, Timestamp, View};
use crate::journal::Identity;
use crate::journal::location::{EntryLocation, SegmentNumber};
use crate::message::{EntryHeader, EntryMeta};

/// The epoch of an entry, and whether it is a stop.
type Kind = (u32, bool);

/// The third entry is the first of the second epoch.
const TWO_EPOCHS: [Kind; 4] = [(0, false), (0, true), (1, false), (1, false)];
/// The same, and nothing ends the first epoch.
const NO_STOP: [Kind; 4] = [(0, false), (0, false), (1, false), (1, false)];
/// The same, and the first epoch goes on behind its stop.
const GOES_ON: [Kind; 4] = [(0, false), (0, true), (0, false), (0, false)];
/// The same, and an epoch is left out.
const LEAVES_OUT: [Kind; 4] = [(0, false), (0, true), (2, false), (2, false)];
/// Everything belongs to one epoch.
const ONE_EPOCH: [Kind; 4] = [(0, false); 4];

/// Intact entries from op 1 on. Each contains the hash of the one before it, so only their epochs may be wrong.
fn entries(kinds: &[Kind]) -> Vec<Found> {
    let mut head = Anchor::ZERO;
    let found = (1..).zip(kinds).map(|(block, (epoch, is_stop))| {
        let header = EntryHeader {
            cluster: ClusterId::of_name("test"),
            view: View::of(Epoch::new(*epoch), 3),
            op: head.op.next(),
            parent: head.hash,
            first_revision: Revision::new(1),
            timestamp: Timestamp::ZERO,
            request_count: 1 | if *is_stop { 1 << 31 } else { 0 },
            revision_count: 0,
            body_len: 0,
            body_hash: Hash::ZERO,
        };
        assert_eq!(header.is_stop(), *is_stop);
        head = header.anchor();
        Found {
            op: header.op,
            parent: header.parent,
            first_revision: header.first_revision,
            meta: EntryMeta::of(&header),
            place: EntryLocation {
                segment: SegmentNumber::new(0),
                generation: Generation::ZERO,
                block,
                blocks: 1,
                incarnation: Incarnation::ZERO,
            },
        }
    });
    found.collect()
}

fn live(entries: &[Found]) -> Live {
    entries.iter().map(|found| (found.op, *found)).collect()
}

/// The log up to the `count`th entry.
fn mark(entries: &[Found], count: usize) -> Mark {
    let last = count.checked_sub(1).map(|last| &entries[last]);
    let anchor = last.map_or(Anchor::ZERO, |found| Anchor::new(found.op, found.meta.hash));
    Mark { anchor, ..Mark::ZERO }
}

#[test]
fn m1_the_entry_after_a_stop_belongs_to_the_next_epoch() {
    for (kinds, taken) in [(TWO_EPOCHS, 4), (NO_STOP, 2), (GOES_ON, 2), (LEAVES_OUT, 2), (ONE_EPOCH, 4)] {
        let entries = entries(&kinds);
        assert_eq!(above(mark(&entries, 0), &live(&entries)).len(), taken, "{kinds:?}");
        // The entry of the checkpoint shows the epoch too.
        assert_eq!(above(mark(&entries, 2), &live(&entries)).len(), taken - 2, "{kinds:?}");
        // Without it, only the later entries do.
        assert_eq!(above(mark(&entries, 2), &live(&entries[2..])).len(), 2, "{kinds:?}");
    }
}

#[test]
fn m1_below_the_checkpoint_an_entry_of_another_epoch_is_no_part_of_the_log() {
    for (kinds, floor) in [(TWO_EPOCHS, 0), (NO_STOP, 2), (GOES_ON, 2), (LEAVES_OUT, 2), (ONE_EPOCH, 0)] {
        let entries = entries(&kinds);
        let identity = Identity {
            cluster: ClusterId::of_name("test"),
            cluster_name: "test".into(),
            fingerprint: Hash::ZERO,
            member: MemberId::new(0),
            options: FixedOptions::from(&Options::default()),
        };
        let superblock = Superblock { checkpoint: mark(&entries, 4), ..Superblock::new(&identity) };
        let (found, chain) = below(&superblock, &live(&entries));
        assert_eq!((found.anchor, chain.len()), (mark(&entries, floor).anchor, 4 - floor), "{kinds:?}");
    }
}

#[test]
fn m1_behind_a_gap_an_entry_of_another_epoch_is_no_part_of_the_log() {
    for (kinds, kept) in [
        (TWO_EPOCHS, &[2, 3, 4][..]),
        (NO_STOP, &[3, 4]),
        (GOES_ON, &[3, 4]),
        (LEAVES_OUT, &[3, 4]),
        (ONE_EPOCH, &[2, 3, 4]),
    ] {
        let entries = entries(&kinds);
        let past_gap = damage::past_gap(&live(&entries[1..]), Mark::ZERO);
        let ops: Vec<u64> = past_gap.keys().map(|op| op.get()).collect();
        assert_eq!(ops, kept, "{kinds:?}");
    }
}
