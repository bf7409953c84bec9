//! What a replica is doing, and the data for it.

use super::backup::{Backup, CatchingUp};
use super::detector::{PrimaryMonitor, Suspicion};
use super::formation::Forming;
use super::install::Install;
use super::primary::Primary;
use super::view_change::ViewChange;
use crate::ids::{Instant, View};

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
}

impl ReplicaState {
    pub(super) fn next_timeout(&self) -> Instant {
        match self {
            Self::Forming(forming) => forming.ask_at,
            Self::Primary(primary) => primary.next_timeout(),
            Self::Backup(backup) => backup.next_timeout(),
            Self::ViewChange(change) => change.next_timeout(),
            Self::CatchingUp(catching) => catching.next_timeout(),
        }
    }

    pub(super) fn install_mut(&mut self) -> Option<&mut Install> {
        match self {
            Self::ViewChange(change) => change.install.as_mut(),
            Self::CatchingUp(catching) => catching.install.as_mut(),
            Self::Forming(_) | Self::Primary(_) | Self::Backup(_) => None,
        }
    }

    /// The monitor of the primary, if there is a primary to follow.
    pub(super) fn watch_mut(&mut self) -> Option<&mut PrimaryMonitor> {
        match self {
            Self::Backup(backup) => Some(&mut backup.watch),
            Self::CatchingUp(catching) => Some(&mut catching.watch),
            Self::Forming(_) | Self::Primary(_) | Self::ViewChange(_) => None,
        }
    }

    /// Where this member's vote to leave the view is stored, if it can vote without being primary.
    pub(super) fn suspicion_mut(&mut self) -> Option<&mut Option<Suspicion>> {
        match self {
            Self::Backup(backup) => Some(&mut backup.watch.suspicion),
            Self::CatchingUp(catching) => Some(&mut catching.watch.suspicion),
            Self::ViewChange(change) => Some(&mut change.suspicion),
            Self::Forming(_) | Self::Primary(_) => None,
        }
    }

    /// This member's vote to leave the view.
    pub(super) fn own_vote(&self) -> Option<View> {
        match self {
            Self::Backup(backup) => backup.watch.suspicion.map(|suspicion| suspicion.target),
            Self::CatchingUp(catching) => catching.watch.suspicion.map(|suspicion| suspicion.target),
            Self::ViewChange(change) => change.suspicion.map(|suspicion| suspicion.target),
            Self::Primary(primary) => primary.abdication().map(|suspicion| suspicion.target),
            Self::Forming(_) => None,
        }
    }
}
