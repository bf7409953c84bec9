//! Votes to leave a view. They expire unless they are repeated, so that a withdrawn vote cannot complete a quorum
//! later.

use crate::ids::{Instant, MemberId, View};
use std::collections::BTreeMap;
use std::time::Duration;

#[derive(Debug)]
pub(super) struct Votes {
    lifetime: Duration,
    held: BTreeMap<MemberId, (View, Instant)>,
}

impl Votes {
    pub(super) fn new(lifetime: Duration) -> Self {
        Self { lifetime, held: BTreeMap::new() }
    }

    /// The latest vote of a member replaces its earlier one.
    pub(super) fn insert(&mut self, from: MemberId, view: View, now: Instant) {
        self.held.insert(from, (view, now));
    }

    /// A member follows a primary again.
    pub(super) fn withdraw(&mut self, from: MemberId) {
        self.held.remove(&from);
    }

    /// The greatest view that a live vote wants.
    pub(super) fn greatest(&self, now: Instant) -> Option<View> {
        self.held.values().filter(|(_, at)| now.since(*at) <= self.lifetime).map(|(view, _)| *view).max()
    }

    /// The greatest view that at least `quorum` live votes, `own` included, want or exceed.
    pub(super) fn agreed(&self, own: Option<View>, quorum: usize, now: Instant) -> Option<View> {
        let live =
            self.held.values().filter(|(_, at)| now.since(*at) <= self.lifetime).map(|(view, _)| *view);
        let mut views: Vec<View> = live.chain(own).collect();
        views.sort_unstable_by(|a, b| b.cmp(a));
        views.get(quorum - 1).copied()
    }
}
