//! What must hold for everything that a member sends, whatever happens.

use super::group::Disk;
use crate::ids::{Anchor, MemberId, Op, View};
use crate::message::{Message, Slot};
use std::collections::BTreeMap;

/// Far more than any step needs.
pub(super) const MOST_OUTPUTS: usize = 2_000;

#[derive(Debug, Default)]
pub(super) struct Checks {
    /// Which member, in which of its lives, served as primary of a view.
    served: BTreeMap<View, (MemberId, u64)>,
    /// The greatest view that a member has bound itself to, in any life.
    bound: BTreeMap<MemberId, View>,
}

impl Checks {
    /// Rules V3 and V9: a view has one primary, in one life of it.
    pub(super) fn serves(&mut self, id: MemberId, life: u64, view: View) {
        let first = *self.served.entry(view).or_insert((id, life));
        assert_eq!(first, (id, life), "two primaries served {view:?}");
    }

    /// Rules D1, N4, V3 and V6: what is reported is durable, and nothing is sent in a view that was left.
    pub(super) fn sends(&mut self, from: MemberId, disk: &Disk, message: &Message) {
        if let Message::CommitOk { checkpoint, .. } = message {
            assert!(*checkpoint <= disk.checkpoint.op, "{from:?} reports a checkpoint that is not durable");
        }
        match message {
            Message::PrepareOk { view, log } | Message::CommitOk { view, log: Some(log), .. } => {
                assert_eq!(
                    disk.log_view, *view,
                    "{from:?} acknowledges in a view whose log is not installed"
                );
                self.stands(from, disk, *view, *log);
            }
            Message::DoViewChange { view, log, .. } => {
                self.speaks(from, disk, *view);
                assert_eq!(disk.log_view, log.log_view, "{from:?} reports its log_view");
                // If the view's primary repeats it, it may report entries that the decision has cut since.
                let first = self.bound.insert(from, *view) != Some(*view);
                let is_held = disk.damaged.is_some() || holds(disk, log.head);
                assert!(!first || is_held, "{from:?} reports a head that is not durable");
                for (op, slot) in (1..).map(|above| log.commit.op.advance(above)).zip(&log.suffix) {
                    let intact = disk.entries.get(&op).map(|entry| entry.header.hash());
                    let is_so = match slot {
                        Slot::Present(hash) => intact == Some(*hash) || op <= disk.floor.0.op,
                        Slot::Faulty(_) => true,
                    };
                    assert!(!first || is_so, "{from:?} reports {slot:?} at {op:?}");
                }
            }
            Message::StartView { view, hashes, .. } => {
                assert!(disk.log_view >= *view, "{from:?} starts a view before its log is durable");
                let inherited = hashes.iter().filter(|(op, _)| holds(disk, *op));
                for (op, hash) in inherited {
                    let entry = disk.entries.get(op);
                    assert!(entry.is_none_or(|entry| entry.header.hash() == *hash), "{from:?}: {op:?}");
                }
            }
            _ => {}
        }
    }

    fn speaks(&self, from: MemberId, disk: &Disk, view: View) {
        assert_eq!(disk.view, view, "{from:?} speaks in a view that is not durable");
        let bound = self.bound.get(&from).copied().unwrap_or_default();
        assert!(bound <= view, "{from:?} speaks in {view:?}, and has left it for {bound:?}");
    }

    fn stands(&self, from: MemberId, disk: &Disk, view: View, log: Anchor) {
        self.speaks(from, disk, view);
        assert!(disk.damaged.is_none(), "{from:?} is damaged and acknowledges");
        assert!(holds(disk, log.op), "{from:?} speaks of {log:?}, which is not durable");
        let entry = disk.entries.get(&log.op).map(|entry| entry.header.hash());
        assert!(entry.is_none_or(|hash| hash == log.hash), "{from:?} speaks of {log:?}, and holds {entry:?}");
    }
}

/// Whether the log of this disk reaches `op`.
fn holds(disk: &Disk, op: Op) -> bool {
    op <= disk.floor.0.op || disk.entries.contains_key(&op)
}
