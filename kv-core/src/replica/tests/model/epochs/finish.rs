//! Whether a state is no dead end: if nobody fails any more, the newest epoch commits another entry.

use super::state::{Entry, Member, Mode, ModelState};
use super::{Epochs, ModelStep};
use crate::ids::Epoch;
use stateright::Model;
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

/// A search that takes so many steps has lost its way. A few dozen are usual.
const MOST_STEPS: usize = 20_000;

/// Every so many states one is tried.
const SAMPLE: u64 = 61;

impl ModelState {
    fn newest(&self) -> Epoch {
        self.members.iter().map(Member::epoch).max().unwrap_or_default()
    }

    /// How many entries the newest epoch has committed.
    fn commits(&self) -> usize {
        let newest = self.newest();
        let committed: HashSet<Entry> = self.committed.iter().map(|(_, entry)| *entry).collect();
        committed.iter().filter(|entry| entry.view.epoch() == newest).count()
    }

    fn is_sampled(&self) -> bool {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish().is_multiple_of(SAMPLE)
    }
}

impl Epochs {
    /// Whether members that learn nothing from messages of the past, and do not fail, commit an entry in the newest
    /// epoch: a new one, or the first one of a later epoch. Only some states are tried.
    pub(super) fn can_finish(&self, state: &ModelState) -> bool {
        if !self.finishes || !state.is_sampled() || !self.has_quorum(state) {
            return true;
        }
        let calm = Self {
            stops: 0,
            views: self.views.map(|views| views + 4),
            last_op: self.last_op + 4,
            restarts: 0,
            wipes: 0,
            only_the_living: true,
            ..self.clone()
        };
        calm.search(state)
    }

    /// Whether a quorum of the newest list is there.
    fn has_quorum(&self, state: &ModelState) -> bool {
        let newest = state.newest();
        let Some(member) = state.members.iter().find(|member| member.epoch() == newest) else { return true };
        let config = self.config_of(member);
        let there = |id: &&u8| state.member(**id).mode != Mode::Out;
        config.voters.iter().filter(there).count() >= config.majority()
    }

    fn search(&self, from: &ModelState) -> bool {
        let goal = (from.newest(), from.commits() + 1);
        let mut seen = HashSet::new();
        let mut stack = vec![from.clone()];
        while let Some(state) = stack.pop() {
            let (newest, commits) = (state.newest(), state.commits());
            if (newest == goal.0 && commits >= goal.1) || (newest > goal.0 && commits > 0) {
                return true;
            }
            if seen.len() > MOST_STEPS || !seen.insert(state.clone()) {
                continue;
            }
            let mut steps = Vec::new();
            self.actions(&state, &mut steps);
            // The last one is taken first.
            steps.sort_by_key(|step| std::cmp::Reverse(rank(step)));
            stack.extend(steps.into_iter().filter_map(|step| self.next_state(&state, step)));
        }
        false
    }
}

/// What brings the members together comes first.
const fn rank(step: &ModelStep) -> u8 {
    match step {
        ModelStep::Enter { .. } => 0,
        ModelStep::Fetch { .. } => 2,
        ModelStep::Ask { .. } | ModelStep::Follow { .. } => 3,
        ModelStep::Append { .. } => 4,
        ModelStep::Decide { .. } => 5,
        ModelStep::Adopt { .. } => 6,
        ModelStep::Propose { .. } => 7,
        ModelStep::SayAgain { .. } => 8,
        ModelStep::NextView { .. } => 9,
        ModelStep::Join { .. }
        | ModelStep::Checkpoint { .. }
        | ModelStep::Restart { .. }
        | ModelStep::Wipe { .. } => 10,
    }
}
