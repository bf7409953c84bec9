//! What a replica is doing, and the data that belongs to it.

use super::backup::{Backup, CatchingUp};
use super::detector::{Suspicion, Watch};
use super::formation::Forming;
use super::install::Install;
use super::primary::Primary;
use super::view_change::ViewChange;
use crate::ids::{Instant, View};

#[derive(Debug)]
pub(super) enum State {
    /// Waiting until all members have been seen once.
    Forming(Forming),
    /// Primary of the view, in normal status.
    Primary(Primary),
    /// Backup of the view, in normal status: its log is a prefix of the primary's.
    Backup(Backup),
    /// Between views. At the primary of the view it ends with the decided log, elsewhere with `StartView`.
    ViewChange(ViewChange),
    /// In a view whose log is not yet installed here.
    CatchingUp(CatchingUp),
}

impl State {
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

    /// The watch over the primary, where there is one to follow.
    pub(super) fn watch_mut(&mut self) -> Option<&mut Watch> {
        match self {
            Self::Backup(backup) => Some(&mut backup.watch),
            Self::CatchingUp(catching) => Some(&mut catching.watch),
            Self::Forming(_) | Self::Primary(_) | Self::ViewChange(_) => None,
        }
    }

    /// The place of the own vote to leave the view, where one can be cast without being primary.
    pub(super) fn suspicion_mut(&mut self) -> Option<&mut Option<Suspicion>> {
        match self {
            Self::Backup(backup) => Some(&mut backup.watch.suspicion),
            Self::CatchingUp(catching) => Some(&mut catching.watch.suspicion),
            Self::ViewChange(change) => Some(&mut change.suspicion),
            Self::Forming(_) | Self::Primary(_) => None,
        }
    }

    /// The own vote to leave the view.
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
