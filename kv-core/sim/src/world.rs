//! The world of one run: members, clients, the network, and the queue of events.

use super::checker::Checker;
use super::clients::{Client, Holder, Watcher};
use super::clock::{SECOND, Time};
use super::events::{Due, Event};
use super::history::History;
use super::kind::Kind;
use super::member::Member;
use super::network::Network;
use super::operator::Operator;
use super::plan::{Plan, Scale};
use super::report::{EXCUSED, Finding, Options, Report, STATELESS, Violation};
use super::trace::Trace;
use super::{Bug, perkey};
use fastrand::Rng;
use kv_core::config::Cluster;
use kv_core::ids::{Anchor, Op};
use kv_core::message::{ChunkEnd, Message};
use kv_core::replica::StallReason;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

/// A healed cluster has this many times its usual bound while a transfer of a state goes on.
const TRANSFER_SETTLES: u64 = 4;

#[derive(Debug)]
struct Scheduled {
    at: Time,
    seq: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.seq == other.seq
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.seq).cmp(&(other.at, other.seq))
    }
}

/// The state of the world.
#[derive(Debug)]
pub(super) struct World {
    pub(super) seed: u64,
    pub(super) plan: Plan,
    pub(super) bug: Option<Bug>,
    pub(super) cluster: Cluster,
    pub(super) rng: Rng,
    pub(super) now: Time,
    queue: BinaryHeap<Reverse<Scheduled>>,
    scheduled: u64,
    pub(super) trace: Trace,
    pub(super) network: Network<Event>,
    pub(super) members: Vec<Member>,
    pub(super) clients: Vec<Client>,
    pub(super) watchers: Vec<Watcher>,
    /// Counts their calls.
    pub(super) next_watch: u64,
    pub(super) checker: Checker,
    pub(super) history: History,
    /// When the last disk was lost.
    pub(super) lost_at: Option<Time>,
    /// Counts disk ids.
    pub(super) disks: u64,
    pub(super) violation: Option<(Finding, Time)>,
    /// When the world was healed.
    pub(super) healed: Option<Time>,
    /// What members have stored of snapshots, and when that last grew; see [`World::transfer_goes_on`].
    staged: Vec<Option<(Anchor, ChunkEnd)>>,
    staged_at: Time,
    /// When everything that expires must have expired, once nothing else is missing.
    pub(super) ends_by: Option<Time>,
    converged: bool,
}

impl World {
    pub(super) fn new(seed: u64, options: &Options) -> Self {
        let mut rng = Rng::with_seed(seed);
        let plan = if options.long { Plan::draw_long(&mut rng) } else { Plan::draw(&mut rng) };
        Self::with_plan(seed, plan, rng, options)
    }

    /// The world of this plan, before anything has happened.
    pub(super) fn with_plan(seed: u64, plan: Plan, mut rng: Rng, options: &Options) -> Self {
        let mut builder = Cluster::builder("simulated");
        for (index, role) in plan.roles.iter().enumerate() {
            let id = u8::try_from(index).expect("a cluster has at most 15 members");
            let address = format!("member:{}", 1000 + index);
            let is_standby = index + plan.standbys >= plan.roles.len();
            builder = match is_standby {
                true => builder.standby(id, address, *role),
                false => builder.with(id, address, *role),
            };
        }
        let cluster = builder.build().expect("the plans are valid configurations");
        let mut members: Vec<Member> =
            (0..plan.machines()).map(|index| Member::new(index, &plan, &mut rng)).collect();
        if options.bug == Some(Bug::ClocksTooWrong) {
            let rates = [400_000].into_iter().chain(std::iter::repeat(1_600_000));
            members.iter_mut().zip(rates).for_each(|(member, rate)| member.clock.set_rate(0, rate));
        }
        let mut checker = Checker::new(&cluster, &plan);
        members.iter().for_each(|member| checker.stamps.goes_at(member.clock.rate()));
        let mut clients: Vec<Client> =
            (0..plan.load.clients + plan.holders).map(|_| Client::new(&plan, &mut rng)).collect();
        clients[plan.load.clients..].iter_mut().for_each(|client| client.holder = Some(Holder::default()));
        for _ in 0..plan.changes.operators {
            let operator = Operator::new(&cluster);
            clients.push(Client { operator: Some(operator), ..Client::new(&plan, &mut rng) });
        }
        Self {
            seed,
            bug: options.bug,
            network: Network::new(plan.network, plan.machines() + clients.len()),
            checker,
            cluster,
            rng,
            now: 0,
            queue: BinaryHeap::new(),
            scheduled: 0,
            trace: Trace::new(options.trace),
            members,
            watchers: (0..plan.watching.watchers).map(|it| Watcher::new(it % clients.len())).collect(),
            next_watch: 0,
            clients,
            history: History::default(),
            lost_at: None,
            disks: 0,
            violation: None,
            healed: None,
            staged: Vec::new(),
            staged_at: 0,
            ends_by: None,
            converged: false,
            plan,
        }
    }

    /// Runs until convergence, a violation, or the time limit.
    pub(super) fn run(&mut self) {
        for member in 0..self.members.len() {
            let at = self.rng.u64(0..SECOND / 2);
            self.schedule(at, Event::Start { member });
        }
        for client in 0..self.clients.len() {
            self.schedule(0, Event::ClientCall { client });
        }
        for watcher in 0..self.watchers.len() {
            self.schedule_watcher(watcher, 0);
        }
        self.schedule(self.plan.fault_gap, Event::Fault);
        self.schedule(self.plan.chaos, Event::Heal);
        while self.violation.is_none() && !self.converged {
            self.step();
        }
        if self.violation.is_none() {
            self.check_history();
        }
    }

    /// Processes the next event.
    pub(super) fn step(&mut self) {
        let Some(Reverse(next)) = self.queue.pop() else {
            return self.fail(("the world goes on", "nothing is scheduled".into()));
        };
        self.now = next.at;
        self.checker.now = next.at;
        self.dispatch(next.event);
        let most = self.plan.scale.most_events;
        if self.trace.events() > most {
            self.fail(("a run is finite", format!("{most} events")));
        }
    }

    /// The time of the next event.
    pub(super) fn next_at(&self) -> Time {
        self.queue.peek().map_or(Time::MAX, |Reverse(next)| next.at)
    }

    /// Checks what all clients received.
    pub(super) fn check_history(&mut self) {
        let replayed = self.history.calls().iter().try_for_each(|call| self.checker.model().check(call));
        let found = replayed.and_then(|()| perkey::check(&self.history).map(|_| ()));
        if let Err(found) = found {
            self.fail(found);
        }
    }

    /// The result of the run.
    pub(super) fn into_report(self) -> Report {
        let (hash, events) = (self.trace.hash(), self.trace.events());
        let words = self.trace.into_words();
        Report {
            seed: self.seed,
            trace_hash: hash,
            operations: self.clients.iter().map(|client| client.ended).sum(),
            simulated: Duration::from_nanos(self.now),
            events,
            counts: self.checker.counts(),
            violation: self.violation.map(|((invariant, detail), at)| Violation {
                invariant,
                detail,
                at: Duration::from_nanos(at),
                events: words,
            }),
        }
    }

    /// An invariant was violated: the run ends.
    pub(super) fn fail(&mut self, finding: Finding) {
        if self.violation.is_none() {
            self.violation = Some((finding, self.now));
        }
    }

    /// Ends the run if a check failed.
    pub(super) fn check(&mut self, checked: Result<(), Finding>) {
        if let Err(finding) = checked {
            self.fail(finding);
        }
    }

    /// Schedules an event at `at`.
    pub(super) fn schedule(&mut self, at: Time, event: Event) {
        self.scheduled += 1;
        self.queue.push(Reverse(Scheduled { at: at.max(self.now), seq: self.scheduled, event }));
    }

    /// Schedules an event in the present life of a member.
    pub(super) fn schedule_due(&mut self, at: Time, member: usize, what: Due) {
        let life = self.members[member].life;
        self.schedule(at, Event::Due { member, life, what });
    }

    fn dispatch(&mut self, event: Event) {
        if let Some(member) = event.of_process()
            && self.members[member].is_paused()
        {
            self.members[member].inbox.push(event);
            return;
        }
        match event {
            Event::Deliver { from, to, message } => self.deliver(from, to, *message),
            Event::ToMember { client, member, life, epoch, message } => {
                self.on_client_message(client, member, life, epoch, *message);
            }
            Event::ToClient { member, client, epoch, message } => {
                self.on_answer(member, client, epoch, *message)
            }
            Event::ConnectionGone { client, member, epoch } => self.on_connection_gone(client, member, epoch),
            Event::Due { member, life, what } => self.on_due(member, life, what),
            Event::Start { member } => self.start_member(member),
            Event::Resume { member } => self.resume(member),
            Event::ClientTimer { client, at } => self.on_client_timer(client, at),
            Event::ClientCall { client } => self.next_call(client),
            Event::Watcher { watcher, at } => self.on_watcher(watcher, at),
            Event::Fault => self.next_fault(),
            Event::Undo(undo) => self.undo(undo),
            Event::Heal => self.heal(),
            Event::Probe => self.probe(),
        }
    }

    /// Sends a message between members.
    pub(super) fn send(&mut self, from: usize, to: usize, message: Message) {
        let checked = self.checker.on_send(from, self.members[to].id, &message);
        self.check(checked);
        if !self.calls(from, to) {
            return;
        }
        let (lane, kind) = (message.lane(), Some(Kind::of(&message)));
        let route = self.network.route(&mut self.rng, self.now, (from, to), lane, kind);
        let event = Event::Deliver { from, to, message: Box::new(message) };
        self.carry(route, from, to, event);
    }

    /// Schedules what was routed between two nodes of the network.
    pub(super) fn carry(&mut self, route: super::network::Route, from: usize, to: usize, event: Event) {
        use super::network::Route;
        match route {
            Route::Lost => {}
            Route::At(at) => self.schedule(at, event),
            Route::Held => self.network.hold(from, to, event),
            Route::Duplicated(at, again) => {
                if let Some(copy) = event.copied() {
                    self.schedule(again, copy);
                }
                self.schedule(at, event);
            }
        }
    }

    /// The node of a client in the network.
    pub(super) fn client_node(&self, client: usize) -> usize {
        self.members.len() + client
    }

    /// The returned members rightly wait for others.
    fn excuse_with(&mut self, excuse: StallReason) {
        self.trace.note(64, 0, 0, || format!("{:?} excused: {excuse:?}", self.now));
        self.checker.count(EXCUSED);
        self.check_digests();
        self.converged = true;
    }

    /// No state is left, and the intact parts cannot be combined: the run ends.
    pub(super) fn excuse_without_a_state(&mut self) {
        self.trace.note(65, 0, 0, || format!("{:?} excused: no state is left", self.now));
        self.checker.count(STATELESS);
        self.converged = true;
    }

    /// Checks whether the cluster has recovered after the healing; the run ends when it has.
    fn probe(&mut self) {
        let since = self.healed.unwrap_or(self.now);
        let Scale { settle, probe, .. } = self.plan.scale;
        let goes_on = self.transfer_goes_on() && self.now <= since + TRANSFER_SETTLES * settle;
        match self.unsettled() {
            None => {
                self.check_digests();
                self.converged = true;
            }
            Some(_) if self.now <= since + settle || goes_on => {
                self.schedule(self.now + probe, Event::Probe);
            }
            Some(_) if self.no_state_is_left(Op::ZERO) => self.excuse_without_a_state(),
            Some(reason) => match self.stall_reason() {
                Some(excuse) if self.plan.damage.is_some() => self.excuse_with(excuse),
                Some(_) | None => self.fail(("a healed cluster converges", reason)),
            },
        }
    }

    /// Whether a member has stored another piece of a snapshot not long ago. A large state from a slow source takes
    /// longer than everything else.
    fn transfer_goes_on(&mut self) -> bool {
        let progress = |member: &Member| member.process.as_ref()?.transfers.receiver.as_ref()?.progress();
        let staged: Vec<_> = self.members.iter().map(progress).collect();
        if staged != self.staged {
            (self.staged, self.staged_at) = (staged, self.now);
        }
        self.now <= self.staged_at + self.plan.scale.settle / 3
    }
}
