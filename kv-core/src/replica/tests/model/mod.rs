//! A small model of the view change with crashes, restarts and damage, explored exhaustively within bounds. The states
//! are abstract; the decision is the real one (`decide`), given what `DoViewChange` would contain.
//!
//! What is left out: votes (any member may move to the next view at any time), time, read rounds, checkpoints, the
//! pipeline's bound (no more ops than it allows). Messages are never removed: they may be late, lost, doubled and
//! reordered.

mod checks;
mod epochs;
mod state;

use crate::ids::{Anchor, Hash, MemberId, Op, View};
use crate::message::{Extent, LogSummary, Slot};
use crate::replica::decide::{DecidedLog, LogDecision, Quorums, decide};
use state::{Entry, Held, Member, Mode, ModelState, Started, Vote};
use stateright::{Model, Property};
use std::collections::BTreeMap;

/// The bounds of the model, and its seeded bugs.
#[derive(Clone, Debug)]
struct ViewChange {
    members: u8,
    last_view: u8,
    last_op: u8,
    restarts: u8,
    damages: u8,
    mistake: Option<Mistake>,
}

/// A protocol that is known to be wrong, so that the model is known to notice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mistake {
    /// Rule V5: a damaged entry is reported as one that was never held.
    FaultyIsAbsent,
    /// Rule D6: a damaged member continues as if its log were intact.
    ForgetDamage,
    /// Rule V9: a restarted primary resumes its view.
    ResumeView,
    /// Rule V7: `log_view` becomes durable before the log does.
    LogViewEarly,
    /// Rule V7: entries above the head of `StartView` are kept.
    KeepSuffix,
    /// Rule N4: the acknowledgement is sent before the entry is durable.
    AckBeforeSync,
}

/// A step. Members are named by their index.
#[derive(Clone, PartialEq, Eq, Debug)]
enum ModelStep {
    /// The primary orders a request.
    Propose { primary: u8 },
    /// A backup takes an entry that follows its head.
    Append { backup: u8, entry: Entry },
    /// What was appended becomes durable, and is acknowledged.
    Sync { member: u8 },
    /// The primary learns the commit point.
    LearnCommit { primary: u8 },
    /// Enough votes: the view is durable, and `DoViewChange` is sent.
    NextView { member: u8 },
    /// A restarted member that is between views sends `DoViewChange` again.
    SayAgain { member: u8 },
    /// The primary of a view decides on these (at most one from each member) and installs the decided log. With `stop`,
    /// it installs only that many entries, and then crashes.
    Decide { primary: u8, others: Vec<Vote>, stop: Option<u8> },
    /// A backup installs the log of `StartView`.
    Follow { backup: u8, view: u8, stop: Option<u8> },
    /// A member asks a primary, with a nonce, and installs the log that the primary has now.
    Ask { member: u8, primary: u8, stop: Option<u8> },
    /// A crash that leaves the first `keep` entries, and then damage to one of them.
    Restart { member: u8, keep: u8, damaged: Option<u8> },
}

impl Model for ViewChange {
    type State = ModelState;
    type Action = ModelStep;

    fn init_states(&self) -> Vec<ModelState> {
        vec![ModelState::new(self.members)]
    }

    fn actions(&self, state: &ModelState, steps: &mut Vec<ModelStep>) {
        for (at, member) in (0..).zip(&state.members) {
            self.normal_steps(state, at, member, steps);
            self.view_change_steps(state, at, member, steps);
            self.install_steps(state, at, member, steps);
            self.restart_steps(state, at, member, steps);
        }
    }

    fn next_state(&self, last: &ModelState, step: ModelStep) -> Option<ModelState> {
        let mut state = last.clone();
        self.take(&mut state, step);
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        checks::properties()
    }
}

/// Which steps there are.
impl ViewChange {
    fn primary_of(&self, view: u8) -> u8 {
        view % self.members
    }

    fn majority(&self) -> usize {
        usize::from(self.members) / 2 + 1
    }

    fn normal_steps(&self, state: &ModelState, at: u8, member: &Member, steps: &mut Vec<ModelStep>) {
        if member.mode != Mode::Normal {
            return;
        }
        if self.primary_of(member.view) == at {
            if member.log.len() < usize::from(self.last_op) {
                steps.push(ModelStep::Propose { primary: at });
            }
            if state.acknowledged(member.view, self.majority()) > member.commit {
                steps.push(ModelStep::LearnCommit { primary: at });
            }
        } else {
            let next =
                |entry: &&Entry| entry.view == member.view && usize::from(entry.op) == member.log.len() + 1;
            let entries = state.parents.keys().filter(next);
            steps.extend(entries.map(|entry| ModelStep::Append { backup: at, entry: *entry }));
        }
        let acked = state.acks.get(&(member.view, at)).copied().unwrap_or(0);
        if usize::from(acked) < member.log.len() {
            steps.push(ModelStep::Sync { member: at });
        }
    }

    fn view_change_steps(&self, state: &ModelState, at: u8, member: &Member, steps: &mut Vec<ModelStep>) {
        if member.view < self.last_view {
            steps.push(ModelStep::NextView { member: at });
        }
        if member.mode != Mode::Between || member.log_view == member.view {
            return;
        }
        let own = self.vote(at, member);
        if !state.votes.contains(&own) {
            steps.push(ModelStep::SayAgain { member: at });
        }
        if self.primary_of(member.view) != at {
            return;
        }
        // Every choice of one `DoViewChange` or none from each other member.
        let mut choices: Vec<Vec<Vote>> = vec![Vec::new()];
        for other in (0..self.members).filter(|other| *other != at) {
            let theirs: Vec<&Vote> =
                state.votes.iter().filter(|votes| votes.from == other && votes.view == member.view).collect();
            let with: Vec<Vec<Vote>> = choices
                .iter()
                .flat_map(|choice| {
                    theirs.iter().map(move |votes| [choice.clone(), vec![(*votes).clone()]].concat())
                })
                .collect();
            choices.extend(with);
        }
        for others in choices {
            let Some(log) = self.decided(state, &own, &others) else { continue };
            if !state.can_fetch(&log) {
                continue;
            }
            for stop in self.stops(state, member, &log) {
                steps.push(ModelStep::Decide { primary: at, others: others.clone(), stop });
            }
        }
    }

    fn install_steps(&self, state: &ModelState, at: u8, member: &Member, steps: &mut Vec<ModelStep>) {
        for started in &state.started {
            let later = started.view > member.log_view && started.view >= member.view;
            if later
                && self.primary_of(started.view) != at
                && member.is_certain()
                && state.can_fetch(&started.log)
            {
                for stop in self.stops(state, member, &started.log) {
                    steps.push(ModelStep::Follow { backup: at, view: started.view, stop });
                }
            }
        }
        if member.is_certain() {
            return;
        }
        for (other, primary) in (0..).zip(&state.members) {
            let serves =
                primary.mode == Mode::Normal && self.primary_of(primary.view) == other && other != at;
            if serves && primary.view >= member.view {
                for stop in self.stops(state, member, &primary.entries()) {
                    steps.push(ModelStep::Ask { member: at, primary: other, stop });
                }
            }
        }
    }

    /// Where an installation may be interrupted: before its end, while crashes are left.
    fn stops(&self, state: &ModelState, member: &Member, log: &[Entry]) -> Vec<Option<u8>> {
        let mut stops = vec![None];
        if state.restarts < self.restarts {
            let agreed = member.agrees_with(log);
            stops.extend((agreed..log.len()).filter_map(|stop| u8::try_from(stop).ok()).map(Some));
        }
        stops
    }

    fn restart_steps(&self, state: &ModelState, at: u8, member: &Member, steps: &mut Vec<ModelStep>) {
        if state.restarts == self.restarts {
            return;
        }
        let most = u8::try_from(member.log.len()).expect("few ops");
        for keep in member.synced..=most {
            steps.push(ModelStep::Restart { member: at, keep, damaged: None });
            if state.damages < self.damages {
                steps.extend((1..=keep).map(|op| ModelStep::Restart { member: at, keep, damaged: Some(op) }));
            }
        }
    }
}

/// What a step does.
impl ViewChange {
    fn take(&self, state: &mut ModelState, step: ModelStep) {
        match step {
            ModelStep::Propose { primary } => {
                let member = &mut state.members[usize::from(primary)];
                let op = u8::try_from(member.log.len() + 1).expect("few ops");
                let entry = Entry { view: member.view, op, life: member.life };
                let parent = member.log.last().and_then(Held::entry);
                member.log.push(Held::Intact(entry));
                state.parents.insert(entry, parent);
            }
            ModelStep::Append { backup, entry } => {
                let member = &mut state.members[usize::from(backup)];
                member.log.push(Held::Intact(entry));
                if self.mistake == Some(Mistake::AckBeforeSync) {
                    let (view, op) = (member.view, entry.op);
                    state.acknowledge(view, backup, op, self.majority());
                }
            }
            ModelStep::Sync { member: at } => {
                let member = &mut state.members[usize::from(at)];
                member.synced = u8::try_from(member.log.len()).expect("few ops");
                let (view, op) = (member.view, member.synced);
                state.acknowledge(view, at, op, self.majority());
            }
            ModelStep::LearnCommit { primary } => {
                let view = state.members[usize::from(primary)].view;
                state.members[usize::from(primary)].commit = state.acknowledged(view, self.majority());
            }
            ModelStep::NextView { member: at } => {
                let member = &mut state.members[usize::from(at)];
                member.view += 1;
                member.synced = u8::try_from(member.log.len()).expect("few ops");
                member.mode = Mode::Between;
                self.send(state, at);
            }
            ModelStep::SayAgain { member } => self.send(state, member),
            ModelStep::Decide { primary, others, stop } => {
                self.decide_and_install(state, primary, &others, stop)
            }
            ModelStep::Follow { backup, view, stop } => {
                let log = state
                    .started
                    .iter()
                    .find(|started| started.view == view)
                    .map(|started| started.log.clone());
                self.install(state, backup, view, &log.unwrap_or_default(), stop);
            }
            ModelStep::Ask { member, primary, stop } => {
                let (view, log) = {
                    let primary = &state.members[usize::from(primary)];
                    (primary.view, primary.entries())
                };
                self.install(state, member, view, &log, stop);
            }
            ModelStep::Restart { member, keep, damaged } => {
                if let Some(op) = damaged {
                    state.damages += 1;
                    state.members[usize::from(member)].log[usize::from(op) - 1] = Held::Bad(None);
                }
                self.restart(state, member, keep);
            }
        }
    }

    fn send(&self, state: &mut ModelState, at: u8) {
        let votes = self.vote(at, &state.members[usize::from(at)]);
        state.votes.insert(votes);
    }

    fn decide_and_install(&self, state: &mut ModelState, primary: u8, others: &[Vote], stop: Option<u8>) {
        let member = &state.members[usize::from(primary)];
        let (own, view) = (self.vote(primary, member), member.view);
        let Some(log) = self.decided(state, &own, others) else { return };
        self.install(state, primary, view, &log, stop);
        if stop.is_none() {
            state.started.insert(Started { view, log });
        }
    }

    /// Rule V7: entry by entry; what differs goes, with everything above.
    fn install(&self, state: &mut ModelState, at: u8, view: u8, log: &[Entry], stop: Option<u8>) {
        let member = &mut state.members[usize::from(at)];
        member.view = view;
        if self.mistake == Some(Mistake::LogViewEarly) {
            member.log_view = view;
        }
        for (index, entry) in log.iter().enumerate().take(stop.map_or(log.len(), usize::from)) {
            match member.log.get(index) {
                Some(Held::Intact(own)) if own == entry => {}
                Some(Held::Bad(_)) => member.log[index] = Held::Intact(*entry),
                Some(Held::Intact(_)) => {
                    member.log.truncate(index);
                    member.log.push(Held::Intact(*entry));
                }
                None => member.log.push(Held::Intact(*entry)),
            }
        }
        if let Some(stop) = stop {
            member.synced = stop.max(member.synced).min(u8::try_from(member.log.len()).expect("few ops"));
            let keep = u8::try_from(member.log.len()).expect("few ops");
            member.mode = Mode::Between;
            return self.restart(state, at, keep);
        }
        if self.mistake != Some(Mistake::KeepSuffix) {
            member.log.truncate(log.len());
        }
        member.synced = u8::try_from(member.log.len()).expect("few ops");
        member.log_view = view;
        member.open = false;
        member.mode = Mode::Normal;
        let op = u8::try_from(log.len()).expect("few ops");
        state.acknowledge(view, at, op, self.majority());
    }

    /// A restart: only the contents of the disk are left.
    fn restart(&self, state: &mut ModelState, at: u8, keep: u8) {
        state.restarts += 1;
        let member = &mut state.members[usize::from(at)];
        member.log.truncate(usize::from(keep));
        member.synced = keep;
        member.commit = 0;
        member.recover();
        if self.mistake == Some(Mistake::ForgetDamage) && !member.is_certain() {
            let intact = member.log.iter().take_while(|held| matches!(held, Held::Intact(_))).count();
            member.log.truncate(intact);
            member.synced = u8::try_from(intact).expect("few ops");
            member.open = false;
        }
        let mut was_primary = self.primary_of(member.view) == at;
        if self.mistake == Some(Mistake::ResumeView) {
            // The two lives give out the same op: only here must they be distinguished.
            was_primary = false;
            member.life += 1;
        }
        member.mode = if !member.is_certain() {
            Mode::Damaged
        } else if member.log_view < member.view || was_primary {
            Mode::Between
        } else {
            Mode::Normal
        };
    }
}

/// `DoViewChange`, as the real code would send and decide it.
impl ViewChange {
    fn vote(&self, from: u8, member: &Member) -> Vote {
        let mut log = member.log.clone();
        let mut open = member.open;
        if self.mistake == Some(Mistake::FaultyIsAbsent) {
            let intact = log.iter().take_while(|held| matches!(held, Held::Intact(_))).count();
            log.truncate(intact);
            open = false;
        }
        Vote { from, view: member.view, log_view: member.log_view, commit: member.commit, log, open }
    }

    /// The log that the real decision makes of these.
    fn decided(&self, state: &ModelState, own: &Vote, others: &[Vote]) -> Option<Vec<Entry>> {
        let members = usize::from(self.members);
        let quorums = Quorums { members, view_change: self.majority(), nack: members - self.majority() + 1 };
        let votes: BTreeMap<MemberId, LogSummary> = others
            .iter()
            .chain([own])
            .map(|votes| (MemberId::new(votes.from), summary(state, votes)))
            .collect();
        let LogDecision::Log(DecidedLog { base, suffix }) = decide(&votes, quorums) else { return None };
        let known: BTreeMap<Hash, Entry> = state.parents.keys().map(|entry| (entry.hash(), *entry)).collect();
        let head = suffix.last().copied().unwrap_or(base.hash);
        Some(state.prefix(known.get(&head).copied()))
    }
}

fn summary(state: &ModelState, votes: &Vote) -> LogSummary {
    let committed = usize::from(votes.commit);
    let commit = state.prefix(votes.log.iter().take(committed).rev().find_map(Held::entry));
    let hash = commit.last().map_or(Hash::ZERO, Entry::hash);
    let slot = |held: &Held| match held {
        Held::Intact(entry) => Slot::Present(entry.hash()),
        Held::Bad(entry) => Slot::Faulty(entry.map(|entry| entry.hash())),
    };
    LogSummary {
        log_view: View::new(u64::from(votes.log_view)),
        checkpoint: Anchor::ZERO,
        commit: Anchor::new(Op::new(u64::from(votes.commit)), hash),
        lacks: Vec::new(),
        head: Op::new(votes.log.len() as u64),
        suffix: votes.log.iter().skip(committed).map(slot).collect(),
        tail: Vec::new(),
        extent: if votes.open { Extent::Open } else { Extent::Through(Op::new(votes.log.len() as u64)) },
    }
}
