//! What a replica is doing, and the data for it.

use super::backup::Backup;
use super::catching_up::CatchingUp;
use super::context::{Context, Flow, Suspicion};
use super::formation::Forming;
use super::install::Install;
use super::monitor::PrimaryMonitor;
use super::outside::{Entering, Retired};
use super::primary::Primary;
use super::view_change::ViewChange;
use crate::ids::{Instant, MemberId, View};
use crate::message::Message;
use tracing::debug;

#[derive(Debug)]
pub(super) enum ReplicaState {
    /// Waiting until all members have been seen once.
    Forming(Forming),
    /// Primary of the view, in normal status.
    Primary(Primary),
    /// Backup of the view, in normal status: its log is a prefix of the primary's.
    Backup(Backup),
    /// In between two views. At the primary of the new view this ends with the decided log, elsewhere with
    /// `StartView`.
    ViewChange(ViewChange),
    /// In a view whose log is not yet installed here.
    CatchingUp(CatchingUp),
    /// Between two epochs.
    Entering(Entering),
    /// Removed from the cluster.
    Retired(Retired),
}

impl ReplicaState {
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        Some(match self {
            Self::Forming(forming) => forming.ask_at,
            Self::Primary(primary) => primary.next_timeout(),
            Self::Backup(backup) => backup.watch.next_timeout(),
            Self::ViewChange(change) => change.next_timeout(),
            Self::CatchingUp(catching) => catching.next_timeout(),
            Self::Entering(_) => return None,
            Self::Retired(retired) => retired.ask_at,
        })
    }

    pub(super) fn install_mut(&mut self) -> Option<&mut Install> {
        match self {
            Self::ViewChange(change) => change.install.as_mut(),
            Self::CatchingUp(catching) => catching.install.as_mut(),
            Self::Forming(_) | Self::Primary(_) | Self::Backup(_) | Self::Entering(_) | Self::Retired(_) => {
                None
            }
        }
    }

    /// The monitor of the primary, if there is a primary to follow.
    pub(super) fn watch_mut(&mut self) -> Option<&mut PrimaryMonitor> {
        match self {
            Self::Backup(backup) => Some(&mut backup.watch),
            Self::CatchingUp(catching) => Some(&mut catching.watch),
            Self::Forming(_)
            | Self::Primary(_)
            | Self::ViewChange(_)
            | Self::Entering(_)
            | Self::Retired(_) => None,
        }
    }

    /// Whether a message is processed in this state. Between two epochs and after its removal, a member only answers
    /// those that lack something.
    pub(super) const fn hears(&self, message: &Message) -> bool {
        match self {
            // Whoever tells of a later epoch is in a cluster that is formed.
            Self::Forming(_) => matches!(message, Message::Epoch { .. }),
            Self::Entering(_) | Self::Retired(_) => matches!(
                message,
                Message::Fetch { .. }
                    | Message::GetSnapshot { .. }
                    | Message::AskEpoch { .. }
                    | Message::Epoch { .. }
            ),
            Self::Primary(_) | Self::Backup(_) | Self::ViewChange(_) | Self::CatchingUp(_) => true,
        }
    }

    // -- votes to leave the view (rules V1, V2)

    /// This member's vote to leave the view.
    pub(super) fn own_vote(&self) -> Option<View> {
        let vote = match self {
            Self::Backup(backup) => backup.watch.suspicion,
            Self::CatchingUp(catching) => catching.watch.suspicion,
            Self::ViewChange(change) => change.suspicion,
            Self::Primary(primary) => primary.abdication(),
            Self::Forming(_) | Self::Entering(_) | Self::Retired(_) => None,
        };
        vote.map(|suspicion| suspicion.target)
    }

    /// Where this member's vote to leave the view is stored, if it can vote without being primary.
    fn vote_mut(&mut self) -> Option<&mut Option<Suspicion>> {
        match self {
            Self::ViewChange(change) => Some(&mut change.suspicion),
            following => following.watch_mut().map(|watch| &mut watch.suspicion),
        }
    }

    /// Votes to leave the view. The member stays in its state until a quorum agrees.
    pub(super) fn suspect(&mut self, cx: &mut Context, target: View) -> Flow {
        match self.vote_mut() {
            Some(vote) => cx.suspect(vote, target),
            None => Flow::Continue(()),
        }
    }

    /// Another member votes for a higher view.
    pub(super) fn on_vote(&mut self, cx: &mut Context, from: MemberId, view: View) -> Flow {
        if let Self::Primary(primary) = self {
            return primary.on_vote(cx, view);
        }
        // One answer is enough. Otherwise two members that are each the primary of the other's view would answer each
        // other without end.
        let own = self.own_vote();
        let is_asked = from == cx.primary() && own.is_none_or(|own| own < view);
        if is_asked {
            debug!(view = %cx.view, target = %view, "the primary asks to be replaced");
        }
        // A member that leaves anyway leaves for the view that others want. Otherwise a member that was away would
        // climb view by view.
        if is_asked || own.is_some_and(|own| own < view) {
            return self.suspect(cx, view);
        }
        cx.count_votes(own)
    }

    /// The connection to a peer broke: a hint that it may be dead.
    pub(super) fn on_peer_lost(&mut self, cx: &mut Context, peer: MemberId) -> Flow {
        match self.vote_mut() {
            Some(vote @ None) if peer == cx.primary() => {
                debug!(view = %cx.view, "the connection to the primary broke");
                cx.suspect(vote, cx.view.next())
            }
            Some(_) | None => Flow::Continue(()),
        }
    }
}
