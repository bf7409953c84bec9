//! A small model of epochs: changes of the list of members, view changes before and after them, laggards, snapshots,
//! crashes, and a wiped newcomer, explored exhaustively within bounds. The states are abstract; the decision about the
//! log of a view is the real one (`decide`). Of the rules about epochs, only M1 and M4 are built. The model shows what
//! the others must be; [`Mistake`] lists them.
//!
//! A *stop* is the last entry of its epoch, and names the next list. When the old voters have committed it, whoever
//! knows that *enters* the next epoch: in one durable write, the member takes over the list and the first view, and
//! has the log through the stop (or a state that covers it). It takes part in the new epoch only. A removed member
//! retires: it answers questions, and does nothing else. A member that is behind goes epoch by epoch.
//!
//! An entry is durable and acknowledged in the step that appends it, because the model without epochs has the steps in
//! between. Whoever has a committed entry may act as one who knows that it is committed: this stands for all ways to
//! be told, however late. But votes contain only what is known for ever. What is left out: votes to leave a view (any
//! voter may move to the next view at any time), time, leases, witnesses, damage, addresses.

mod checks;
mod finish;
mod state;
mod take;

use crate::config::MemberId;
use crate::ids::{Anchor, Epoch, Hash, Op, View};
use crate::message::{Extent, LogSummary, Slot};
use crate::replica::decide::{DecidedLog, LogDecision, Quorums, decide};
use state::{Entry, Member, Mode, ModelState, Vote};
use stateright::{Model, Property};
use std::collections::BTreeMap;

/// A list of members.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Config {
    voters: &'static [u8],
    standbys: &'static [u8],
}

impl Config {
    fn majority(&self) -> usize {
        self.voters.len() / 2 + 1
    }

    fn has(&self, id: u8) -> bool {
        self.voters.contains(&id) || self.standbys.contains(&id)
    }

    fn primary_of(&self, view: View) -> u8 {
        self.voters[usize::try_from(view.number()).expect("few views") % self.voters.len()]
    }
}

/// The bounds of the model, and its seeded bugs.
#[derive(Clone, Debug)]
struct Epochs {
    members: u8,
    /// The first one is that of epoch 0.
    configs: &'static [Config],
    /// Which lists a stop may name, in each epoch.
    next: &'static [&'static [u8]],
    /// How many stops are proposed in all.
    stops: u8,
    /// How many views each epoch has beyond its first.
    views: [u8; 3],
    /// Whether the very first view orders anything but stops.
    usual_first: bool,
    last_op: u8,
    restarts: u8,
    /// How often the newcomer loses its disk.
    wipes: u8,
    newcomer: u8,
    /// Whether states are transferred.
    snapshots: bool,
    /// Nobody learns anything from messages of the past: only from members that are there.
    only_the_living: bool,
    /// Whether states are checked for being dead ends.
    finishes: bool,
    mistake: Option<Mistake>,
}

/// A protocol that is known to be wrong, so that the model is known to notice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mistake {
    /// A member enters the next epoch on a stop that is merely in its log.
    EnterUncommitted,
    /// Views are compared by their numbers, whatever their epochs.
    NumbersNotPairs,
    /// A member appends entries of a later epoch than its own, and orders behind them.
    AppendPastStop,
    /// A state is adopted without the list of members that belongs to it.
    AdoptWithoutConfiguration,
    /// The checkpoint passes the stop, which is then dropped, before the next epoch is durable.
    CheckpointPastStop,
    /// A member that fetches a state makes the view of its source durable before it has the log of that epoch.
    JoinViewOfSource,
    /// A member that adopts a state of a later epoch begins in the first view of that epoch, not in the view of its
    /// source.
    AdoptOlderView,
    /// Members that were removed go on voting and acknowledging, and count.
    RemovedVotes,
    /// A member that was removed ends when it enters the epoch without it.
    ExitAtEnter,
    /// Members do not compare the disk that a list names with their own.
    WipedVoterReturns,
    /// A stop is also committed by a quorum of the members that it names.
    StopJudgedTwice,
}

/// A step. Members are named by their ids.
#[derive(Clone, PartialEq, Eq, Debug)]
enum ModelStep {
    /// The primary orders a request: a usual one, or a stop that names this list.
    Propose { primary: u8, config: Option<u8> },
    /// A backup takes an entry that follows its head.
    Append { backup: u8, entry: Entry },
    /// Enough votes: the view is durable, and `DoViewChange` is sent.
    NextView { member: u8 },
    /// A member that is between views sends `DoViewChange` again.
    SayAgain { member: u8 },
    /// The primary of a view decides on these (at most one from each member) and installs the decided log.
    Decide { primary: u8, others: Vec<Vote> },
    /// A backup installs the log of `StartView`.
    Follow { backup: u8, view: View },
    /// A member asks a primary, and installs the log that the primary has now.
    Ask { member: u8, primary: u8 },
    /// A member that knows that the stop of its epoch is committed enters the next epoch.
    Enter { member: u8 },
    /// A member takes the next entry that another one knows to be committed.
    Fetch { member: u8, from: u8 },
    /// A member replaces its state and the beginning of its log with the state of another.
    Adopt { member: u8, from: u8 },
    /// By mistake: it joins the view of the source before it has the state.
    Join { member: u8, from: u8 },
    /// By mistake: the state contains the stop, which is dropped.
    Checkpoint { member: u8 },
    /// A crash.
    Restart { member: u8 },
    /// The newcomer loses its disk, and is started again as what this member takes it for.
    Wipe { through: u8 },
}

impl Model for Epochs {
    type State = ModelState;
    type Action = ModelStep;

    fn init_states(&self) -> Vec<ModelState> {
        vec![ModelState::new(self.members)]
    }

    fn actions(&self, state: &ModelState, steps: &mut Vec<ModelStep>) {
        for (at, member) in (0..).zip(&state.members) {
            match member.mode {
                Mode::Normal | Mode::Between => {
                    self.normal_steps(state, at, member, steps);
                    self.view_change_steps(state, at, member, steps);
                    self.catch_up_steps(state, at, member, steps);
                    self.epoch_steps(state, at, member, steps);
                }
                Mode::Retired | Mode::Out => {}
            }
            if state.restarts < self.restarts && member.mode != Mode::Out {
                steps.push(ModelStep::Restart { member: at });
            }
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
impl Epochs {
    fn is(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }

    fn config_of(&self, member: &Member) -> Config {
        self.configs[usize::from(member.config)]
    }

    fn is_primary(&self, at: u8, member: &Member) -> bool {
        self.config_of(member).primary_of(member.view) == at
    }

    /// Whether it counts in the quorums of its own list.
    fn votes(&self, at: u8, member: &Member) -> bool {
        self.config_of(member).voters.contains(&at) || self.is(Mistake::RemovedVotes)
    }

    /// Rule M1: whether an entry of this epoch may follow `op` in the log of this member.
    fn may_follow(&self, member: &Member, op: u8, epoch: Epoch) -> bool {
        if self.is(Mistake::AppendPastStop) {
            return member.entry(op).is_none_or(|head| head.stop.is_none() || epoch != head.view.epoch());
        }
        member.next_epoch(op) == epoch && epoch <= member.epoch()
    }

    fn normal_steps(&self, state: &ModelState, at: u8, member: &Member, steps: &mut Vec<ModelStep>) {
        if member.mode != Mode::Normal {
            return;
        }
        let head = member.head();
        if self.is_primary(at, member) {
            if head < self.last_op && self.may_follow(member, head, member.epoch()) {
                if member.view > View::ZERO || self.usual_first {
                    steps.push(ModelStep::Propose { primary: at, config: None });
                }
                let epoch = usize::try_from(member.epoch().get()).expect("few epochs");
                let next = self.next.get(epoch).copied().unwrap_or_default();
                // Rule M1: everything before it is applied.
                let next =
                    next.iter().filter(|_| state.stops < self.stops && state.committed_in(member) == head);
                let level = next.filter(|config| self.is_level(state, member, **config));
                steps.extend(level.map(|next| ModelStep::Propose { primary: at, config: Some(*next) }));
            }
            return;
        }
        let follows = |entry: &&Entry| {
            entry.view == member.view
                && entry.op == head + 1
                && state.parents.get(entry).copied().flatten() == member.entry(head)
                && self.may_follow(member, head, entry.view.epoch())
                && (!self.only_the_living || self.is_offered(state, member, entry))
        };
        let entries = state.parents.keys().filter(follows);
        steps.extend(entries.map(|entry| ModelStep::Append { backup: at, entry: *entry }));
    }

    /// Whether the primary of this member's view is there and has this entry.
    fn is_offered(&self, state: &ModelState, member: &Member, entry: &Entry) -> bool {
        let primary = state.member(self.config_of(member).primary_of(member.view));
        let stands = primary.mode == Mode::Normal && primary.view == member.view;
        stands && primary.entry(entry.op) == Some(*entry)
    }

    /// Rule M7: whether the standbys that this list makes voters have the whole log.
    fn is_level(&self, state: &ModelState, primary: &Member, config: u8) -> bool {
        let (now, next) = (self.config_of(primary), self.configs[usize::from(config)]);
        let new = next.voters.iter().filter(|id| !now.voters.contains(id));
        new.map(|id| state.member(*id))
            .all(|new| new.mode == Mode::Normal && new.view == primary.view && new.log == primary.log)
    }

    /// Whether this member may know that its entry at `op` is committed.
    fn may_know(&self, state: &ModelState, member: &Member, op: u8) -> bool {
        let Some(entry) = member.entry(op) else { return false };
        if !self.only_the_living {
            return state.is_committed(entry);
        }
        (0..).zip(&state.members).any(|(id, teller)| {
            let there = teller.mode != Mode::Out && teller.entry(op) == Some(entry);
            there && (teller.commit() >= op || self.counts(state, id, teller, entry))
        })
    }

    /// Whether this is a primary that a quorum of its view acknowledges this entry to.
    fn counts(&self, state: &ModelState, at: u8, primary: &Member, entry: Entry) -> bool {
        let has = |id: &&u8| {
            let voter = state.member(**id);
            let stands = voter.mode == Mode::Normal && voter.view == primary.view;
            stands && voter.entry(entry.op) == Some(entry)
        };
        let config = self.config_of(primary);
        self.is_primary(at, primary) && config.voters.iter().filter(has).count() >= config.majority()
    }

    fn first_number(&self, member: &Member) -> u64 {
        member.entry(member.began).and_then(|entry| entry.stop).map_or(0, |stop| u64::from(stop.first))
    }

    fn view_change_steps(&self, state: &ModelState, at: u8, member: &Member, steps: &mut Vec<ModelStep>) {
        if !self.votes(at, member) {
            return;
        }
        let first = self.first_number(member);
        let epoch = usize::try_from(member.epoch().get()).expect("few epochs");
        if member.view.number() < first + u64::from(self.views[epoch]) {
            steps.push(ModelStep::NextView { member: at });
        }
        if member.mode != Mode::Between || member.log_view == member.view {
            return;
        }
        let own = Self::vote(at, member);
        if !state.votes.contains(&own) && member.view.number() > first {
            steps.push(ModelStep::SayAgain { member: at });
        }
        // Nobody starts the first view of an epoch: it begins with the stop.
        if !self.is_primary(at, member) || member.view.number() == first {
            return;
        }
        // Every choice of one `DoViewChange` or none from each other voter.
        let mut choices: Vec<Vec<Vote>> = vec![Vec::new()];
        let counts = |id: &u8| self.config_of(member).voters.contains(id) || self.is(Mistake::RemovedVotes);
        let is_there = |id: &u8| !self.only_the_living || state.member(*id).mode != Mode::Out;
        for other in (0..self.members).filter(|other| *other != at && is_there(other)).filter(counts) {
            let theirs: Vec<&Vote> =
                state.votes.iter().filter(|vote| vote.from == other && vote.view == member.view).collect();
            let with: Vec<Vec<Vote>> = choices
                .iter()
                .flat_map(|choice| {
                    theirs.iter().map(move |vote| [choice.clone(), vec![(*vote).clone()]].concat())
                })
                .collect();
            choices.extend(with);
        }
        for others in choices {
            let Some(log) = self.decided(state, member, &own, &others) else { continue };
            if self.can_fetch(state, member, &log) {
                steps.push(ModelStep::Decide { primary: at, others });
            }
        }
    }

    /// Whether the entries that this member lacks are somewhere.
    fn can_fetch(&self, state: &ModelState, member: &Member, log: &[Entry]) -> bool {
        let lacks = log.iter().skip(usize::from(member.agrees_with(log)));
        let has = |entry: &Entry, other: &Member| {
            other.mode != Mode::Out && entry.op > other.base && other.entry(entry.op) == Some(*entry)
        };
        lacks.into_iter().all(|entry| state.members.iter().any(|other| has(entry, other)))
    }

    /// Rules N6, V7 and T4: how a member that is behind gets further within its epoch, or up to its end.
    fn catch_up_steps(&self, state: &ModelState, at: u8, member: &Member, steps: &mut Vec<ModelStep>) {
        for started in state.started.iter().filter(|_| !self.only_the_living) {
            let (view, log) = (started.view, &started.log);
            let later = view.epoch() == member.epoch() && view >= member.view && view > member.log_view;
            let ends = u8::try_from(log.len()).expect("few ops");
            let stands = member.mode == Mode::Normal && member.view == view;
            if later
                && !stands
                && ends >= member.commit()
                && self.config_of(member).primary_of(view) != at
                && self.can_fetch(state, member, log)
            {
                steps.push(ModelStep::Follow { backup: at, view });
            }
        }
        for (id, other) in (0..).zip(&state.members) {
            if id == at || other.mode == Mode::Out {
                continue;
            }
            let leads = other.mode == Mode::Normal && other.config == member.config;
            let leads = leads && self.is_primary(id, other);
            let started = state.started.iter().find(|started| started.view == other.view);
            let suffices = started.is_some_and(|it| it.log.len() >= usize::from(member.commit()));
            if leads
                && (!suffices || self.only_the_living)
                && other.view >= member.view
                && other.view > member.log_view
                && other.head() >= member.commit()
                && self.can_fetch(state, member, &other.log)
            {
                steps.push(ModelStep::Ask { member: at, primary: id });
            }
            if self.next_to_fetch(state, member, other).is_some() {
                steps.push(ModelStep::Fetch { member: at, from: id });
            }
            let through = state.committed_in(other);
            if self.snapshots && through > state.committed_in(member) && through >= other.began {
                steps.push(ModelStep::Adopt { member: at, from: id });
                if self.is(Mistake::JoinViewOfSource) && other.epoch() > member.epoch() {
                    steps.push(ModelStep::Join { member: at, from: id });
                }
            }
        }
    }

    /// The next entry that `other` knows to be committed and `member` does not have. It asks without a hash, as members
    /// do that are told of a later epoch.
    fn next_to_fetch(&self, state: &ModelState, member: &Member, other: &Member) -> Option<Entry> {
        let op = member.agrees_with(&other.log) + 1;
        let entry = other.entry(op).filter(|entry| op > other.base && state.is_committed(*entry))?;
        let behind = other.epoch() > member.epoch();
        let allowed = self.may_follow(member, op - 1, entry.view.epoch());
        (behind && allowed && op > member.commit()).then_some(entry)
    }

    fn epoch_steps(&self, state: &ModelState, at: u8, member: &Member, steps: &mut Vec<ModelStep>) {
        if let Some((op, _)) = member.stop() {
            let known = self.may_know(state, member, op);
            if known || self.is(Mistake::EnterUncommitted) {
                steps.push(ModelStep::Enter { member: at });
            }
            if known && self.is(Mistake::CheckpointPastStop) {
                steps.push(ModelStep::Checkpoint { member: at });
            }
        }
        let names = self.config_of(member).standbys.contains(&self.newcomer);
        if state.wipes < self.wipes && names && at != self.newcomer {
            steps.push(ModelStep::Wipe { through: at });
        }
    }
}

/// `DoViewChange`, as the real code would send and decide it.
impl Epochs {
    fn vote(from: u8, member: &Member) -> Vote {
        let Member { view, log_view, .. } = *member;
        Vote { from, view, log_view, commit: member.commit(), log: member.log.clone() }
    }

    /// The log that the real decision makes of these.
    fn decided(
        &self,
        state: &ModelState,
        member: &Member,
        own: &Vote,
        others: &[Vote],
    ) -> Option<Vec<Entry>> {
        let config = self.config_of(member);
        let (members, majority) = (config.voters.len(), config.majority());
        let quorums = Quorums { members, view_change: majority, nack: members - majority + 1 };
        let votes: BTreeMap<MemberId, LogSummary> =
            others.iter().chain([own]).map(|vote| (MemberId::new(vote.from), self.summary(vote))).collect();
        let LogDecision::Log(DecidedLog { base, suffix }) = decide(&votes, quorums) else { return None };
        let known: BTreeMap<Hash, Entry> = state.parents.keys().map(|entry| (entry.hash(), *entry)).collect();
        let head = suffix.last().copied().unwrap_or(base.hash);
        Some(state.prefix(known.get(&head).copied()))
    }

    fn summary(&self, vote: &Vote) -> LogSummary {
        let committed = usize::from(vote.commit);
        let hash = committed.checked_sub(1).map_or(Hash::ZERO, |last| vote.log[last].hash());
        let log_view = match self.is(Mistake::NumbersNotPairs) {
            true => View::of(Epoch::ZERO, vote.log_view.number()),
            false => vote.log_view,
        };
        let head = Op::new(vote.log.len() as u64);
        LogSummary {
            log_view,
            checkpoint: Anchor::ZERO,
            commit: Anchor::new(Op::new(u64::from(vote.commit)), hash),
            lacks: Vec::new(),
            head,
            suffix: vote.log.iter().skip(committed).map(|entry| Slot::Present(entry.hash())).collect(),
            tail: Vec::new(),
            extent: Extent::Through(head),
        }
    }
}
