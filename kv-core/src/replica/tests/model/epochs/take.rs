//! What a step of the model does.

use super::state::{Entry, Member, Mode, ModelState, Started, Stop, Vote};
use super::{Epochs, Mistake, ModelStep};
use crate::ids::View;

impl Epochs {
    pub(super) fn take(&self, state: &mut ModelState, step: ModelStep) {
        match step {
            ModelStep::Propose { primary, config } => self.propose(state, primary, config),
            ModelStep::Append { backup, entry } => {
                state.member_mut(backup).log.push(entry);
                self.acknowledge(state, backup);
            }
            ModelStep::NextView { member: at } => {
                let member = state.member_mut(at);
                member.view = member.view.next();
                member.mode = Mode::Between;
                state.votes.insert(Self::vote(at, state.member(at)));
            }
            ModelStep::SayAgain { member } => {
                state.votes.insert(Self::vote(member, state.member(member)));
            }
            ModelStep::Decide { primary, others } => self.decide_and_install(state, primary, &others),
            ModelStep::Follow { backup, view } => {
                let started = state.started.iter().find(|started| started.view == view);
                let log = started.map(|started| started.log.clone()).unwrap_or_default();
                self.install(state, backup, view, &log);
            }
            ModelStep::Ask { member, primary } => {
                let (view, log) = (state.member(primary).view, state.member(primary).log.clone());
                self.install(state, member, view, &log);
            }
            ModelStep::Enter { member } => self.enter(state, member),
            ModelStep::Fetch { member, from } => self.fetch(state, member, from),
            ModelStep::Adopt { member, from } => self.adopt(state, member, from),
            ModelStep::Join { member, from } => {
                let (view, config) = (state.member(from).view, state.member(from).config);
                let joins = state.member_mut(member);
                (joins.view, joins.config, joins.mode) = (view, config, Mode::Between);
            }
            ModelStep::Checkpoint { member } => {
                let member = state.member_mut(member);
                member.base = member.head();
            }
            ModelStep::Restart { member } => self.restart(state, member),
            ModelStep::Wipe { through } => self.wipe(state, through),
        }
    }

    fn propose(&self, state: &mut ModelState, at: u8, config: Option<u8>) {
        let disk = state.member(self.newcomer).disk;
        let member = state.member_mut(at);
        let stop = config.map(|config| {
            let stays = self.configs[usize::from(config)].voters.iter().position(|id| *id == at);
            let first = u8::try_from(stays.unwrap_or_default()).expect("few members");
            Stop { config, first, disk }
        });
        let entry = Entry { view: member.view, op: member.head() + 1, stop };
        let parent = member.log.last().copied();
        member.log.push(entry);
        state.parents.insert(entry, parent);
        state.stops += u8::from(stop.is_some());
        self.acknowledge(state, at);
    }

    /// The log of a member is durable, and is that of its view.
    fn acknowledge(&self, state: &mut ModelState, at: u8) {
        let member = state.member(at).clone();
        let view = member.view;
        state.acks.insert((view, at), member.head());
        let acked = |id: u8| state.acks.get(&(view, id)).copied().unwrap_or(0);
        let counted = |entry: &Entry, config: u8| {
            let config = self.configs[usize::from(config)];
            let all: Vec<u8> = (0..self.members).collect();
            let voters = if self.is(Mistake::RemovedVotes) { &all[..] } else { config.voters };
            voters.iter().filter(|id| acked(**id) >= entry.op).count() >= config.majority()
        };
        let is_committed = |entry: &&Entry| {
            let next = entry.stop.filter(|_| self.is(Mistake::StopJudgedTwice));
            counted(entry, member.config) || next.is_some_and(|stop| counted(entry, stop.config))
        };
        let Some(last) = member.log.iter().rev().find(is_committed) else { return };
        for entry in &member.log[..usize::from(last.op)] {
            if !state.is_committed(*entry) {
                state.committed.insert((view, *entry));
            }
        }
    }

    fn decide_and_install(&self, state: &mut ModelState, primary: u8, others: &[Vote]) {
        let member = state.member(primary);
        let (own, view) = (Self::vote(primary, member), member.view);
        let Some(log) = self.decided(state, member, &own, others) else { return };
        self.install(state, primary, view, &log);
        state.started.insert(Started { view, log });
    }

    /// Rule V7, in one step: what differs goes, with everything above.
    fn install(&self, state: &mut ModelState, at: u8, view: View, log: &[Entry]) {
        let member = state.member_mut(at);
        if member.agrees_with(log) < member.commit() {
            // The real member halts.
            state.diverged = true;
            state.member_mut(at).mode = Mode::Out;
            return;
        }
        (member.view, member.log_view, member.mode) = (view, view, Mode::Normal);
        member.log = log.to_vec();
        self.acknowledge(state, at);
    }

    /// Rules M2 and M3.
    fn enter(&self, state: &mut ModelState, at: u8) {
        let Some((op, stop)) = state.member(at).stop() else { return };
        let member = state.member_mut(at);
        let epoch = member.epoch().next();
        let first = View::of(epoch, u64::from(stop.first));
        member.log.truncate(usize::from(op));
        let log = member.log.clone();
        member.view = first;
        if !self.is(Mistake::NumbersNotPairs) || member.log_view.number() <= first.number() {
            member.log_view = first;
        }
        member.began = op;
        self.stand(member, at, stop, Mode::Normal);
        state.started.insert(Started { view: first, log });
    }

    /// A member takes over the list that a stop names.
    fn stand(&self, member: &mut Member, at: u8, stop: Stop, mode: Mode) {
        let config = self.configs[usize::from(stop.config)];
        member.config = stop.config;
        let another_disk = at == self.newcomer && config.voters.contains(&at) && member.disk != stop.disk;
        member.mode = match config.has(at) {
            true if another_disk && !self.is(Mistake::WipedVoterReturns) => Mode::Out,
            false if self.is(Mistake::ExitAtEnter) => Mode::Out,
            false if !self.is(Mistake::RemovedVotes) => Mode::Retired,
            true | false => mode,
        };
    }

    /// Rule N6: what is fetched without a hash is committed. What differs goes, with everything above.
    fn fetch(&self, state: &mut ModelState, at: u8, from: u8) {
        let Some(entry) = self.next_to_fetch(state, state.member(at), state.member(from)) else { return };
        let member = state.member_mut(at);
        member.log.truncate(usize::from(entry.op) - 1);
        member.log.push(entry);
        // Its log is not that of its view any more.
        member.mode = Mode::Between;
    }

    /// Rules T3, T4 and M3: one write adopts the state, the list of members in force there, and the view.
    fn adopt(&self, state: &mut ModelState, at: u8, from: u8) {
        let source = state.member(from).clone();
        let through = state.committed_in(&source);
        // The state at the stop itself contains the next list.
        let (epoch, began) = match source.stop() {
            Some((op, _)) if op == through => (source.epoch().next(), op),
            Some(_) | None => (source.epoch(), source.began),
        };
        let member = state.member_mut(at);
        let stays = member.agrees_with(&source.log) >= through;
        let kept = if stays { member.log[usize::from(through)..].to_vec() } else { Vec::new() };
        member.log = source.log[..usize::from(through)].to_vec();
        (member.base, member.mode) = (through, Mode::Between);
        if self.is(Mistake::AdoptWithoutConfiguration) {
            return;
        }
        if epoch == member.epoch() {
            member.log.extend(kept);
        } else if let Some(stop) = member.entry(began).and_then(|entry| entry.stop) {
            member.began = began;
            member.view = View::of(epoch, u64::from(stop.first));
            self.stand(member, at, stop, Mode::Between);
        }
        if source.epoch() == member.epoch() && !self.is(Mistake::AdoptOlderView) {
            member.view = member.view.max(source.view);
        }
    }

    /// A restart: only the contents of the disk are left.
    fn restart(&self, state: &mut ModelState, at: u8) {
        state.restarts += 1;
        let member = state.member_mut(at);
        if member.mode == Mode::Retired {
            return;
        }
        let was_primary = self.config_of(member).primary_of(member.view) == at;
        let stands = member.log_view == member.view && !was_primary;
        member.mode = if stands { Mode::Normal } else { Mode::Between };
    }

    /// Rule M11: the newcomer begins again, as the standby that this member takes it for.
    fn wipe(&self, state: &mut ModelState, through: u8) {
        state.wipes += 1;
        let (config, epoch) = (state.member(through).config, state.member(through).epoch());
        let disk = state.member(self.newcomer).disk + 1;
        let view = View::of(epoch, 0);
        // In epoch 0, an empty log is the beginning of the log of the first view.
        let mode = if view == View::ZERO { Mode::Normal } else { Mode::Between };
        *state.member_mut(self.newcomer) = Member { config, view, disk, mode, ..Member::new() };
    }
}
