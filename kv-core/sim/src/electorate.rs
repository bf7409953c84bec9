//! What must hold across changes of the member list: who may speak in an epoch, and who may leave (rules M2, M6, M9).

use super::checker::{Checker, Shown};
use super::report::Checked;
use kv_core::config::Configuration;
use kv_core::ids::{Anchor, Epoch, MemberId, Op, View};
use kv_core::message::{Message, Recovered};

impl Checker {
    /// The primary of a view, if anyone has entered its epoch.
    pub(super) fn primary(&self, view: View) -> Option<MemberId> {
        self.rosters.of(view.epoch()).map(|roster| roster.cluster.primary(view))
    }

    /// A member has entered an epoch: what ended the epoch before is committed (rule M2), and all that enter have the
    /// same list.
    pub(super) fn on_entered(&mut self, member: usize, configuration: &Configuration) -> Checked {
        let (epoch, stop) = (configuration.epoch, configuration.stop);
        let known = self.hash(stop.op);
        if known.is_some_and(|hash| hash != stop.hash) {
            let found = format!("m{member} enters {epoch:?} after {stop:?}; committed is {known:?}");
            return Err(("an epoch begins when what ends the last one is committed", found));
        }
        self.count("epochs entered");
        if self.rosters.add(configuration)? {
            self.count("epochs");
            self.stamps.quorum_may_be(self.rosters.smallest_quorum());
        }
        Ok(())
    }

    /// A standby was formatted, or is found formatted although its process ended meanwhile.
    pub(super) fn on_joined(&mut self, member: usize, recovered: &Recovered) {
        self.shown[member] = Shown { view: recovered.view, log_view: recovered.log_view, commit: Op::ZERO };
        self.mirrors[member].joined(recovered.formation, recovered.view);
    }

    /// Who is not on the list of an epoch says nothing in it, and who has no vote does not vote.
    pub(super) fn check_sender(&self, member: usize, message: &Message) -> Checked {
        let Some(view) = message.view().filter(|_| !matches!(message, Message::SnapshotChunk { .. })) else {
            return Ok(());
        };
        let Some(roster) = self.rosters.of(view.epoch()) else {
            return Err(("an epoch begins before its messages", format!("m{member} sends {message:?}")));
        };
        let votes = matches!(message, Message::StartViewChange { .. } | Message::DoViewChange { .. });
        let may_speak = if votes { roster.voters.contains(&member) } else { roster.lists(member) };
        if may_speak {
            return Ok(());
        }
        let found = format!("m{member} sends {message:?} to {:?}", roster.configuration.members);
        Err(("only members of an epoch take part in it", found))
    }

    /// The first op that could only be committed in this epoch, if that has happened.
    pub(super) fn is_settled(&self, epoch: Epoch) -> bool {
        let stop = self.rosters.of(epoch).map_or(Op::ZERO, |roster| roster.configuration.stop.op);
        epoch == Epoch::ZERO || self.reported > stop
    }

    /// The last epoch in which something has been committed.
    pub(super) fn settled_epoch(&self) -> Epoch {
        let epochs = self.rosters.all().map(|roster| roster.configuration.epoch);
        epochs.filter(|epoch| self.is_settled(*epoch)).max().unwrap_or_default()
    }

    /// Rules M9 and M12: a removed member goes when the epoch goes on without it.
    pub(super) fn on_removed(&mut self, member: usize, epoch: Epoch) -> Checked {
        self.count("members retired");
        let is_listed = self.rosters.of(epoch).is_none_or(|roster| roster.lists(member));
        if is_listed || !self.is_settled(epoch) {
            let found = format!("m{member} in {epoch:?}; committed is {:?}", self.reported);
            return Err(("only a removed member goes, when its epoch goes on without it", found));
        }
        Ok(())
    }

    /// Whether some disk has an entry that would end the last epoch.
    pub(super) fn may_change(&self) -> bool {
        let last = self.rosters.newest().configuration.stop;
        let later = Anchor::new(last.op.next(), kv_core::ids::Hash::ZERO)..;
        self.stops.range(later).any(|stop| self.mirrors.iter().any(|mirror| mirror.has(*stop)))
    }
}
