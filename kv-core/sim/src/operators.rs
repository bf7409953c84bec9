//! The operators: clients that change the member list, as `Client::change_members` does. Each lists the members, asks
//! the primary for a change until it is ordered or refused, and then lists the members until the change is done.

use super::clock::{MS, SECOND, Time};
use super::events::Event;
use super::operator::{Doing, Job};
use super::plan::{around, pick};
use super::world::World;
use kv_core::client::{Call, CallError, CallId, ProtocolInput, Reply};
use kv_core::config::{Change, Configuration, DiskId};
use kv_core::ids::{Epoch, MemberId, Op};
use kv_core::message::{ChangeCall, MembersAnswer};
use std::time::Duration;

/// The numbers of their calls begin here, far beyond those of others.
pub(super) const CALLS: u64 = 1 << 41;
/// How long a call waits for one member.
const ATTEMPT: Duration = Duration::from_secs(2);
/// How long operators wait after a disk was lost. A primary takes a member for level that it has heard recently, and
/// nobody can take a change back that relies on a member that is gone.
const CAUTION: Time = 3 * SECOND;
/// How often an operator with a change under way acts.
const TURN: Time = 50 * MS;
/// How long an operator waits for the last change, when everything is healed.
const LAST_PATIENCE: Time = 20 * SECOND;

impl World {
    /// An operator's turn.
    pub(super) fn operator_turn(&mut self, client: usize) {
        let (now, healed) = (self.now, self.healed.is_some());
        let pause = around(&mut self.rng, self.plan.changes.pause);
        let Some(operator) = &mut self.clients[client].operator else { return };
        match std::mem::replace(&mut operator.doing, Doing::Resting) {
            Doing::Resting if !healed && now >= operator.rests_until => {
                operator.rests_until = now + pause;
                self.begin_listing(client, None);
            }
            Doing::Pausing(job) if now >= job.until => {
                self.end_change(client, job, "changes of unknown outcome")
            }
            Doing::Pausing(job) if job.is_ordered => self.begin_listing(client, Some(job)),
            Doing::Pausing(job) => self.ask_for_change(client, job),
            doing => operator.doing = doing,
        }
        let turn = TURN * u64::from(self.plan.load.patience);
        self.schedule(self.now + turn, Event::ClientCall { client });
    }

    /// A client whose members have all been removed while it did not call is given the list.
    pub(super) fn help_lost_clients(&mut self) {
        let newest = self.checker.rosters.newest().configuration.clone();
        if newest.epoch == Epoch::ZERO {
            return;
        }
        for client in 0..self.clients.len() {
            let known = self.checker.rosters.of(self.clients[client].list).map(super::rosters::Roster::data);
            let stays = |id: &MemberId| self.is_needed(super::member::index(*id));
            if !known.is_some_and(|known| known.iter().any(stays)) {
                self.checker.count("clients that knew only removed members");
                self.take_list(client, &newest);
                self.core_input(client, ProtocolInput::Timeout);
            }
        }
    }

    /// Everything is healed, and the clients have made their last calls: one more change must succeed.
    pub(super) fn begin_last_changes(&mut self) {
        for member in 0..self.members.len() {
            // A member without a checkpoint does not count as level if the primary has one.
            let process = self.members[member].process.as_deref();
            if process
                .is_some_and(|process| process.state.is_some() && process.replica.checkpoint() == Op::ZERO)
            {
                self.make_checkpoint(member);
            }
        }
        for client in 0..self.clients.len() {
            let operator = self.clients[client].operator.as_ref();
            if operator.is_some_and(|operator| operator.is_idle() && !operator.finished) {
                return self.begin_listing(client, None);
            }
        }
    }

    fn operator_call(&mut self, client: usize, call: Call) -> u64 {
        let number = CALLS + self.next_watch;
        self.next_watch += 1;
        let deadline = self.client_now(client).after(ATTEMPT * self.plan.load.patience);
        self.trace.note(67, client as u64, number, || {
            format!("{:?} operator c{client} asks as {number}: {call:?}", self.now)
        });
        self.core_input(client, ProtocolInput::Call { id: CallId::new(number), call, deadline });
        number
    }

    fn begin_listing(&mut self, client: usize, job: Option<Job>) {
        let Some(operator) = &mut self.clients[client].operator else { return };
        let members: Vec<MemberId> = operator.known.members.keys().copied().collect();
        // Calls may end at once.
        let first = CALLS + self.next_watch;
        let waiting = (first..first + members.len() as u64).collect();
        operator.doing = Doing::Listing { waiting, newest: None, job };
        for member in members {
            self.operator_call(client, Call::Members { member });
        }
    }

    fn ask_for_change(&mut self, client: usize, mut job: Job) {
        let serving = self.serving_member().map(|member| self.members[member].id);
        let Some(operator) = &self.clients[client].operator else { return };
        let known: Vec<MemberId> = operator.known.members.keys().copied().collect();
        let any = *pick(&mut self.rng, &known);
        let member = serving.filter(|id| known.contains(id) && self.rng.u32(0..4) > 0).unwrap_or(any);
        let before = std::mem::replace(&mut job.may_be_done, true);
        let change = Box::new(job.call.clone());
        if let Some(operator) = &mut self.clients[client].operator {
            operator.doing = Doing::Asking { call: CALLS + self.next_watch, before, job };
        }
        self.operator_call(client, Call::Change { member, change });
    }

    /// A call of an operator has ended.
    pub(super) fn operator_done(&mut self, client: usize, number: u64, result: Result<Reply, CallError>) {
        self.trace.note(68, client as u64, number, || {
            format!("{:?} operator c{client} call {number} ends: {result:?}", self.now)
        });
        if let Ok(Reply::Members(list)) = &result {
            self.take_list(client, &list.configuration);
        }
        let Some(operator) = &mut self.clients[client].operator else { return };
        match std::mem::replace(&mut operator.doing, Doing::Resting) {
            Doing::Listing { mut waiting, mut newest, job } if waiting.contains(&number) => {
                waiting.remove(&number);
                if let Ok(Reply::Members(list)) = result {
                    let age = |list: &MembersAnswer| (list.configuration.epoch, list.settled);
                    if newest.as_ref().is_none_or(|known| age(&list) > age(known)) {
                        newest = Some(list);
                    }
                }
                if !waiting.is_empty() {
                    operator.doing = Doing::Listing { waiting, newest, job };
                } else if let Some(list) = newest.as_deref() {
                    if list.configuration.epoch >= operator.known.epoch {
                        operator.known = list.configuration.clone();
                    }
                    match job {
                        None => self.begin_change(client, &list.configuration),
                        Some(job) => self.judge(client, list, job),
                    }
                } else if let Some(job) = job {
                    operator.doing = Doing::Pausing(job);
                }
            }
            Doing::Asking { call, before, mut job } if call == number => match result {
                Ok(Reply::ChangeRefused { .. }) if !before => self.end_change(client, job, "changes refused"),
                // An earlier attempt may have succeeded, which the list shows.
                Ok(_) => {
                    job.is_ordered = true;
                    operator.doing = Doing::Pausing(job);
                }
                Err(_) => operator.doing = Doing::Pausing(job),
            },
            doing => operator.doing = doing,
        }
    }

    fn begin_change(&mut self, client: usize, list: &Configuration) {
        let rest = CAUTION * u64::from(self.plan.load.patience);
        if self.lost_at.is_some_and(|at| self.now < at + rest) {
            return;
        }
        let is_last = self.healed.is_some();
        let change = if is_last { self.new_address(list) } else { self.draw_change(list) };
        let mut call = ChangeCall { ends: list.epoch, nonce: self.rng.u128(1..), change };
        let patience = if is_last { LAST_PATIENCE } else { self.plan.changes.patience };
        let again = !is_last && self.rng.u32(0..8) == 0;
        let Some(operator) = &mut self.clients[client].operator else { return };
        if again && let Some(old) = self.rng.choice(&operator.old) {
            // An attempt that was given up was under way for long, and arrives only now.
            call = old.clone();
        } else {
            operator.old.push(call.clone());
        }
        let until = self.now + patience * u64::from(self.plan.load.patience);
        operator.doing = Doing::Pausing(Job { call, until, may_be_done: false, is_ordered: false, is_last });
    }

    /// Whether the change is done, by the newest list of the members.
    fn judge(&mut self, client: usize, list: &MembersAnswer, job: Job) {
        let MembersAnswer { configuration: Configuration { epoch, nonce, .. }, settled, .. } = *list;
        let is_next = epoch == job.call.ends.next();
        if nonce == job.call.nonce && settled {
            return self.end_change(client, job, "changes done");
        }
        if epoch > job.call.ends && nonce != job.call.nonce && (settled || !is_next) {
            let how =
                if is_next { "changes refused: another was faster" } else { "changes of unknown outcome" };
            return self.end_change(client, job, how);
        }
        if let Some(operator) = &mut self.clients[client].operator {
            operator.doing = Doing::Pausing(job);
        }
    }

    fn end_change(&mut self, client: usize, job: Job, how: &'static str) {
        self.checker.count(how);
        let pause = around(&mut self.rng, self.plan.changes.pause);
        // With members away, the rest may not be enough for a change.
        let newest = self.checker.rosters.newest();
        let all_are_there = (0..self.members.len()).all(|it| self.is_needed(it) || !newest.lists(it));
        let excused = how != "changes done" && !all_are_there;
        let Some(operator) = &mut self.clients[client].operator else { return };
        (operator.doing, operator.rests_until) = (Doing::Resting, self.now + pause);
        operator.finished |= job.is_last && (how == "changes done" || excused);
    }

    /// A client was sent the list of an epoch. It keeps the newest.
    pub(super) fn take_list(&mut self, client: usize, configuration: &Configuration) {
        let now = self.client_now(client);
        let one = &mut self.clients[client];
        if configuration.epoch > one.list {
            one.list = configuration.epoch;
            let data = self.checker.rosters.of(configuration.epoch).map(super::rosters::Roster::data);
            one.protocol.handle(now, ProtocolInput::Members(data.unwrap_or_default()));
        }
    }

    fn new_address(&mut self, list: &Configuration) -> Change {
        let all: Vec<MemberId> = list.members.keys().copied().collect();
        let id = *pick(&mut self.rng, &all);
        Change::Address { id, address: format!("moved:{}", self.rng.u16(1..)) }
    }

    /// A change, usually a possible one.
    fn draw_change(&mut self, list: &Configuration) -> Change {
        let disk = DiskId(0);
        let ids = |is_standby: bool| -> Vec<MemberId> {
            let all = list.members.iter().filter(|(_, member)| member.is_standby == is_standby);
            all.map(|(id, _)| *id).collect()
        };
        let (voters, standbys) = (ids(false), ids(true));
        let machines: Vec<MemberId> = self.members.iter().map(|member| member.id).collect();
        let unused: Vec<MemberId> = machines.iter().copied().filter(|id| !list.used.contains(*id)).collect();
        let lost = voters.iter().copied().find(|id| self.members[super::member::index(*id)].wiped);
        let add = |world: &Self, id: MemberId| {
            let member = &world.members[super::member::index(id)];
            Change::Add { id, address: format!("member:{}", 1000 + u16::from(id.get())), role: member.role }
        };
        let (standby, new) = (self.rng.choice(&standbys).copied(), self.rng.choice(&unused).copied());
        let voter = lost.filter(|_| self.rng.u32(0..4) > 0).unwrap_or(*pick(&mut self.rng, &voters));
        let again = *pick(&mut self.rng, &machines);
        match (self.rng.u32(0..20), standby, new) {
            // Usually the id was used before.
            (0, ..) => add(self, again),
            (1, ..) => Change::Promote { id: voter, disk },
            (2 | 3, ..) => self.new_address(list),
            (4, Some(standby), _) => Change::Remove { id: standby },
            (5..=9, None, Some(new)) | (5, _, Some(new)) => add(self, new),
            (6..=11, Some(id), _) => Change::Promote { id, disk },
            (12..=17, Some(new), _) => Change::Replace { old: voter, new, disk },
            // Not too often: with fewer voters, less can go wrong.
            (18.., ..) if voters.len() > 2 || lost.is_some() || self.rng.bool() => {
                Change::Remove { id: voter }
            }
            (_, _, Some(new)) => add(self, new),
            _ => self.new_address(list),
        }
    }
}
