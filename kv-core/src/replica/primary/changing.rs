//! Changes of the member list: what the primary checks before it orders a stop (rules M1 and M7).

use super::{Leaving, Primary, without_session};
use crate::config::{Change, ChangeRequest, Cluster, Configuration, DiskId, HistoryId, Role};
use crate::ids::{Anchor, Epoch, Hash, Instant, MemberId};
use crate::message::Operation;
use crate::replica::ChangeRefusal;
use crate::replica::context::{Context, Flow};
use tracing::info;

impl Primary {
    /// Rule M7: the configuration that this change leads to, or why it is not ordered now.
    pub(in crate::replica) fn check_change(
        &self,
        cx: &Context,
        change: &ChangeRequest,
        now: Instant,
    ) -> Result<Configuration, ChangeRefusal> {
        if !self.is_serving() {
            return Err(ChangeRefusal::Busy);
        }
        // The hash of the stop is not known yet. It decides nothing here.
        let stop = Anchor::new(cx.log.head().op.next(), Hash::new(1));
        let next = cx.epochs.configuration.after(change, stop).map_err(ChangeRefusal::Impossible)?;
        if matches!(change.change, Change::Role { .. }) {
            return Err(ChangeRefusal::Role);
        }
        if !cx.epochs.is_own_disk(&next, cx.me) {
            return Err(ChangeRefusal::OtherDisk(cx.me));
        }
        if let Some((id, disk)) = disk_named(&change.change) {
            match cx.epochs.disks.get(&id) {
                Some(told) if *told == disk => {}
                Some(_) => return Err(ChangeRefusal::OtherDisk(id)),
                // It has not come yet.
                None => return Err(ChangeRefusal::NotLevel(id)),
            }
        }
        let level = |id: MemberId| match id == cx.me {
            true => !cx.transfer.stateless && !cx.transfer.is_running() && !cx.log.has_faulty(),
            // What it lacks is still in the log here.
            false => self.check_level(cx, id, now).is_ok() && self.acknowledged(id) >= cx.trimmed(),
        };
        if let Some(id) = disk_named(&change.change)
            .map(|(id, _)| id)
            .into_iter()
            .chain([change.first])
            .find(|id| !level(*id))
        {
            return Err(ChangeRefusal::NotLevel(id));
        }
        let cluster = next.cluster(cx.cluster.name()).expect("the next list is valid");
        if cluster.voter_count() == 1 && !cluster.is_voter(cx.me) {
            // What it cannot read, it does not know, and nobody is left who could.
            return Err(ChangeRefusal::LeftAlone(change.first));
        }
        let needed = cluster.replication_quorum();
        let count = cluster.voters().filter(|voter| level(voter.id)).count();
        if count < needed {
            return Err(ChangeRefusal::TooFewLevel { level: count, needed });
        }
        // A witness may lack what only the log of another member has: no data member may need it (rule T8). With the
        // same voters, it needs nothing that it does not need now.
        let votes = |cluster: &Cluster| -> Vec<_> { cluster.voters().map(|it| (it.id, it.role)).collect() };
        let has_witness = cluster.voters().any(|voter| voter.role == Role::Witness);
        let matters = has_witness && votes(&cluster) != votes(&cx.cluster);
        let trimmed = self.trimmed_by_witnesses(cx);
        let has_rest = |id: MemberId| level(id) && (id == cx.me || self.acknowledged(id) >= trimmed);
        let behind = cluster.voters().find(|voter| voter.role == Role::Data && !has_rest(voter.id));
        match behind.filter(|_| matters) {
            Some(behind) => Err(ChangeRefusal::NotLevel(behind.id)),
            None => Ok(Configuration { stop: Anchor::ZERO, ..next }),
        }
    }

    /// The request for this change: it names the disks of members that stay, and the first primary of the next epoch,
    /// which is this member if it stays.
    pub(in crate::replica) fn change_request(
        &self,
        cx: &Context,
        (ends, nonce, history): (Epoch, u128, HistoryId),
        mut change: Change,
    ) -> ChangeRequest {
        let disk_of = |id: MemberId| match id == cx.me {
            // In epoch 0 it is durable only with the change.
            true => Some(cx.epochs.disk).filter(|_| cx.epoch() > Epoch::ZERO),
            false => cx.epochs.disks.get(&id).copied(),
        };
        let mut gone = None;
        match &mut change {
            Change::Promote { id, disk } => *disk = disk_of(*id).unwrap_or(*disk),
            Change::Replace { old, new, disk } => {
                *disk = disk_of(*new).unwrap_or(*disk);
                gone = Some(*old);
            }
            Change::Remove { id } => gone = Some(*id),
            Change::Add { .. } | Change::Address { .. } | Change::Role { .. } => {}
        }
        let stay = || cx.cluster.voters().filter(|voter| Some(voter.id) != gone);
        let data = stay().filter(|voter| voter.role == Role::Data).map(|voter| voter.id);
        // The one that has most, if this member goes.
        let first = data.max_by_key(|id| (*id == cx.me, self.acknowledged(*id))).or(match &change {
            Change::Replace { new, .. } => Some(*new),
            _ => None,
        });
        let disks = stay().filter_map(|voter| Some((voter.id, disk_of(voter.id)?))).collect();
        ChangeRequest { ends, nonce, change, first: first.unwrap_or(cx.me), history, disks }
    }

    /// Rule M1: orders the last entry of the epoch.
    pub(in crate::replica) fn on_change(&mut self, cx: &mut Context, change: &ChangeRequest) -> Flow {
        let Ok(configuration) = self.check_change(cx, change, cx.now.monotonic) else {
            return Flow::Continue(());
        };
        info!(view = %cx.view, change = ?change.change, "changing the member list");
        // Rule M5: a quorum of this epoch may soon not be one any more.
        self.rounds.refuse(cx);
        let stop = without_session(Operation::Reconfigure(Box::new(configuration)));
        self.leaving = Leaving::Stopping { pending: Some(stop) };
        self.seal_entries(cx);
        self.maybe_commit(cx)
    }
}

/// The member that the change gives a vote, and its disk.
const fn disk_named(change: &Change) -> Option<(MemberId, DiskId)> {
    match change {
        Change::Promote { id, disk } | Change::Replace { new: id, disk, .. } => Some((*id, *disk)),
        Change::Add { .. } | Change::Remove { .. } | Change::Address { .. } | Change::Role { .. } => None,
    }
}
