//! A client against a random cluster: its reports are true even if messages are lost or delayed and outcomes forgotten.

use super::*;
use bytes::Bytes;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Something that is on its way.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Event {
    /// A client begins or drops a call.
    Begin,
    Drop(CallId),
    /// A message reaches a member, or an answer the client, over the connection of that generation.
    ToMember(MemberId, u64, ClientMessage),
    ToClient(MemberId, u64, ServerMessage),
    /// The connection breaks; the client notices.
    Break(MemberId),
    Noticed(MemberId, u64, bool),
    /// What is proposed is committed and applied, or another member becomes primary.
    Commit(u64),
    Elect,
    /// All sessions are forgotten.
    Forget,
}

/// A proposal in the log.
struct Proposal {
    from: Option<(MemberId, u64, u64)>,
    request: Request,
}

/// What the members know of one session.
#[derive(Default)]
struct Known {
    acked_through: u64,
    results: BTreeMap<u64, Outcome>,
}

/// A connection as the client sees it; absent if there is none.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Link {
    Open,
    /// Being opened, in vain.
    Refused,
}

/// One client, one cluster, one seed.
struct World {
    protocol: ClientProtocol,
    rng: fastrand::Rng,
    now: Instant,
    events: BinaryHeap<Reverse<(Instant, u64)>>,
    bodies: BTreeMap<u64, Event>,
    scheduled: u64,
    /// Whether faults still happen.
    chaos: bool,
    loss: f64,
    // The cluster.
    primary: MemberId,
    epoch: u64,
    log: BTreeMap<u64, Proposal>,
    proposed: u64,
    revision: u64,
    sessions: BTreeMap<u64, Known>,
    applied: BTreeMap<u64, Vec<u64>>,
    // The connections, by member: generation, and the greatest call number that came.
    generations: BTreeMap<MemberId, (u64, u64)>,
    down: BTreeSet<MemberId>,
    links: BTreeMap<MemberId, Link>,
    /// When the last message on its way to the member, or from it, arrives: connections keep the order.
    arrivals: BTreeMap<(MemberId, bool), Instant>,
    // The calls.
    begun: u64,
    live: BTreeMap<CallId, Instant>,
    ended: BTreeMap<u64, Result<u64, bool>>,
    /// When each success came.
    successes: Vec<Instant>,
}

const MEMBERS: [MemberId; 3] = [A, B, C];

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let options = ProtocolOptions { window: rng.u32(1..8), ..ProtocolOptions::default() };
        Self {
            protocol: ClientProtocol::new(seed, MEMBERS.to_vec(), options, Instant::ZERO),
            now: Instant::ZERO,
            events: BinaryHeap::new(),
            bodies: BTreeMap::new(),
            scheduled: 0,
            chaos: true,
            loss: rng.f64() * 0.3,
            primary: A,
            epoch: 0,
            log: BTreeMap::new(),
            proposed: 0,
            revision: 0,
            sessions: BTreeMap::new(),
            applied: BTreeMap::new(),
            generations: MEMBERS.iter().map(|member| (*member, (0, 0))).collect(),
            down: BTreeSet::new(),
            links: BTreeMap::new(),
            arrivals: BTreeMap::new(),
            begun: 0,
            live: BTreeMap::new(),
            ended: BTreeMap::new(),
            successes: Vec::new(),
            rng,
        }
    }

    fn chance(&mut self, probability: f64) -> bool {
        self.chaos && self.rng.f64() < probability
    }

    /// Lets an event happen within `max_ms`.
    fn later(&mut self, max_ms: u64, event: Event) {
        let delay = Duration::from_micros(self.rng.u64(1..=max_ms * 1_000));
        let mut due = self.now.after(delay);
        let direction = match &event {
            Event::ToMember(member, ..) => Some((*member, true)),
            Event::ToClient(member, ..) => Some((*member, false)),
            _ => None,
        };
        if let Some(direction) = direction {
            due = due.max(self.arrivals.get(&direction).copied().unwrap_or_default());
            self.arrivals.insert(direction, due);
        }
        self.scheduled += 1;
        self.bodies.insert(self.scheduled, event);
        self.events.push(Reverse((due, self.scheduled)));
    }

    fn input(&mut self, input: ProtocolInput) {
        self.protocol.handle(self.now, input);
        self.protocol.check_invariants();
        while let Some(output) = self.protocol.poll_output() {
            match output {
                ProtocolOutput::Send { member, message } => self.on_send(member, message),
                ProtocolOutput::Done { id, result } => self.on_done(id, result),
            }
        }
    }

    fn on_send(&mut self, member: MemberId, message: ClientMessage) {
        let (generation, _) = self.generations[&member];
        let link = self.links.get(&member).copied().unwrap_or_else(|| {
            if self.down.contains(&member) {
                self.later(5, Event::Noticed(member, generation, false));
                Link::Refused
            } else {
                Link::Open
            }
        });
        self.links.insert(member, link);
        if link == Link::Refused {
            return;
        }
        if !self.chance(self.loss) {
            let copies = if self.chance(0.1) { 2 } else { 1 };
            for _ in 0..copies {
                self.later(20, Event::ToMember(member, generation, message.clone()));
            }
        }
    }

    fn on_done(&mut self, id: CallId, result: Result<Reply, CallError>) {
        let deadline = self.live.remove(&id).expect("a call ends once");
        assert!(self.now <= deadline, "{id:?} ended after its deadline");
        let result = match result {
            Ok(Reply::Written(outcome)) => {
                self.successes.push(self.now);
                Ok(outcome.revision.get())
            }
            Ok(other) => panic!("a write got {other:?}"),
            Err(CallError::NotApplied(_)) => Err(false),
            Err(CallError::OutcomeUnknown(_)) => Err(true),
        };
        assert!(self.ended.insert(id.get(), result).is_none());
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Begin => self.begin(),
            Event::Drop(id) => {
                if self.live.remove(&id).is_some() {
                    self.ended.insert(id.get(), Err(true));
                    self.input(ProtocolInput::Cancel { id });
                }
            }
            Event::ToMember(member, generation, message) => {
                let (current, last) = self.generations[&member];
                if generation == current && message.call > last && !self.down.contains(&member) {
                    self.generations.insert(member, (current, message.call));
                    self.on_call(member, generation, message);
                }
            }
            Event::ToClient(member, generation, message) => {
                if self.generations[&member].0 == generation {
                    self.input(ProtocolInput::Answer { member, message });
                }
            }
            Event::Break(member) => {
                let (generation, _) = self.generations[&member];
                if self.rng.bool() {
                    self.down.insert(member);
                }
                self.later(50, Event::Noticed(member, generation, true));
            }
            Event::Noticed(member, generation, lost) => {
                // What still travels on the old connection reaches nobody.
                if self.generations[&member].0 == generation {
                    self.generations.insert(member, (generation + 1, 0));
                    self.links.remove(&member);
                    self.input(if lost {
                        ProtocolInput::ConnectionLost { member }
                    } else {
                        ProtocolInput::Unreachable { member }
                    });
                }
            }
            Event::Commit(at) => self.commit(at),
            Event::Elect => self.elect(),
            Event::Forget => self.sessions.clear(),
        }
    }

    fn begin(&mut self) {
        let deadline = self.now.after(Duration::from_millis(self.rng.u64(1..3_000)));
        let id = self.begin_until(deadline);
        if self.chance(0.05) {
            self.later(300, Event::Drop(id));
        }
    }

    fn begin_until(&mut self, deadline: Instant) -> CallId {
        self.begun += 1;
        let id = id(self.begun);
        // A delete of a key of its own: what runs is known by its key.
        let key = Bytes::copy_from_slice(&self.begun.to_be_bytes());
        let call = Call::Write(Command::Delete { key, condition: None });
        self.live.insert(id, deadline);
        self.input(ProtocolInput::Call { id, call, deadline });
        id
    }

    /// A member takes in a call.
    fn on_call(&mut self, member: MemberId, generation: u64, message: ClientMessage) {
        let bytes = match &message.what {
            ClientCall::Write(bytes) => bytes,
            // A search that lasts asks for the member list, which never changes here.
            ClientCall::Members => return,
            other => panic!("only writes are made, not {other:?}"),
        };
        let request = Request::decode(bytes).unwrap();
        let answer = if self.chance(0.1) {
            Answer::Overloaded
        } else if member != self.primary {
            let primary = Some(self.primary).filter(|_| !self.chance(0.5));
            let stale = MEMBERS[self.rng.usize(..3)];
            Answer::NotPrimary { hint: if self.chance(0.2) { Some(stale) } else { primary } }
        } else {
            self.proposed += 1;
            let from = Some((member, generation, message.call));
            self.log.insert(self.proposed, Proposal { from, request });
            return self.later(30, Event::Commit(self.proposed));
        };
        self.answer(member, generation, message.call, answer);
    }

    fn answer(&mut self, member: MemberId, generation: u64, call: u64, answer: Answer) {
        if !self.chance(self.loss) && !self.down.contains(&member) {
            self.later(20, Event::ToClient(member, generation, ServerMessage { call, answer }));
        }
    }

    /// Another primary: each uncommitted proposal stays in the log or is cut.
    fn elect(&mut self) {
        self.epoch += 1;
        self.primary = MEMBERS[self.rng.usize(..3)];
        let mut abandoned = Vec::new();
        let mut cut = Vec::new();
        for (at, proposal) in &mut self.log {
            abandoned.extend(proposal.from.take());
            if self.rng.bool() {
                cut.push(*at);
            }
        }
        cut.iter().for_each(|at| drop(self.log.remove(at)));
        for (member, generation, call) in abandoned {
            self.answer(member, generation, call, Answer::Abandoned);
        }
    }

    fn commit(&mut self, at: u64) {
        let Some(Proposal { from, request }) = self.log.remove(&at) else { return };
        self.revision += 1;
        let result = self.apply(&request);
        if let Some((member, generation, call)) = from {
            self.answer(member, generation, call, Answer::Written(result));
        }
    }

    fn apply(&mut self, request: &Request) -> Result<Outcome, Rejection> {
        let revision = self.revision;
        let Operation::Command(Command::Delete { key, .. }) = &request.operation else {
            self.sessions.insert(revision, Known::default());
            let session = SessionId::new(revision);
            return Ok(outcome(revision, Effect::SessionOpened(session)));
        };
        let window = u64::from(self.protocol.options.window);
        let known = self.sessions.get_mut(&request.session.get()).ok_or(Rejection::SessionExpired)?;
        known.acked_through = known.acked_through.max(request.acked_through.get());
        let (acked, number) = (known.acked_through, request.number.get());
        known.results.retain(|number, _| *number > acked);
        if number <= acked {
            return Err(Rejection::Forgotten);
        }
        assert!(number <= acked + window, "the client keeps the window");
        if let Some(stored) = known.results.get(&number) {
            return Ok(stored.clone());
        }
        let mut call = [0; 8];
        call.copy_from_slice(key);
        self.applied.entry(u64::from_be_bytes(call)).or_default().push(revision);
        let outcome = outcome(revision, Effect::Deleted { existed: false });
        known.results.insert(number, outcome.clone());
        Ok(outcome)
    }

    /// Runs what is due until `end`, adding faults if there is chaos.
    fn run_until(&mut self, end: Instant) {
        loop {
            let event = self.events.peek().map(|Reverse((at, _))| *at);
            let timer = self.protocol.poll_timeout();
            let Some(next) = event.into_iter().chain(timer).min().filter(|at| *at <= end) else { break };
            self.now = self.now.max(next);
            if event == Some(next) {
                let Reverse((_, number)) = self.events.pop().expect("it was looked at");
                let event = self.bodies.remove(&number).expect("each event has a body");
                self.step(event);
            } else {
                self.input(ProtocolInput::Timeout);
            }
        }
        self.now = end;
    }

    fn chaos(&mut self) {
        for round in 1..60 {
            for _ in 0..self.rng.usize(..6) {
                self.later(100, Event::Begin);
            }
            if self.chance(0.3) {
                self.later(100, Event::Elect);
            }
            if self.chance(0.2) {
                let member = MEMBERS[self.rng.usize(..3)];
                self.later(100, Event::Break(member));
            }
            if self.chance(0.05) {
                self.later(100, Event::Forget);
            }
            if self.chance(0.5) {
                self.down.clear();
            }
            self.run_until(at(round * 100));
        }
    }

    /// Without faults every new write succeeds at once.
    fn heal(&mut self) {
        self.chaos = false;
        self.down.clear();
        let start = self.now;
        self.run_until(start.after(Duration::from_secs(30)));
        assert_eq!(self.protocol.pending(), 0);
        let soon = self.now.after(Duration::from_secs(5));
        self.begin_until(soon); // May find out that the session was forgotten.
        self.run_until(soon);
        let soon = self.now.after(Duration::from_secs(5));
        let late: Vec<_> = (0..20).map(|_| self.begin_until(soon)).collect();
        self.run_until(soon);
        for id in late {
            assert!(self.ended[&id.get()].is_ok(), "{id:?} after the cluster has healed");
        }
    }

    fn check(&self) {
        assert!(self.live.is_empty(), "every call ends: {:?}", self.live);
        for (id, result) in &self.ended {
            let applied = self.applied.get(id).map_or(&[][..], |revisions| revisions);
            assert!(applied.len() <= 1, "call {id} ran {} times", applied.len());
            match result {
                Ok(revision) => assert_eq!(applied, [*revision], "call {id} has the outcome of its run"),
                Err(false) => assert!(applied.is_empty(), "call {id} ran, and was reported as not applied"),
                Err(true) => {}
            }
        }
    }
}

/// Runs one seed; the ends of its calls, if all of them are true.
fn run(seed: u64) -> Option<Vec<Result<u64, bool>>> {
    let run = || {
        let mut world = World::new(seed);
        world.chaos();
        world.heal();
        world.check();
        world.ended.into_values().collect()
    };
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).ok()
}

#[test]
fn reported_outcomes_are_always_true() {
    let mut ends = Vec::new();
    for seed in 0..100 {
        ends.extend(run(seed).unwrap_or_else(|| panic!("seed {seed} fails")));
    }
    // Each kind of end is common: the test is not about nothing.
    let count = |wanted: fn(&Result<u64, bool>) -> bool| ends.iter().filter(|end| wanted(end)).count();
    let counts = [count(|end| end.is_ok()), count(|end| *end == Err(false)), count(|end| *end == Err(true))];
    assert!(counts.iter().all(|count| *count > 1_000), "{counts:?}");
}

#[test]
fn lost_messages_never_stop_everyone() {
    // The demo's omission: a steady primary, 15 % of all messages lost, 32 callers that each make the next call at
    // once.
    for seed in 0..4 {
        let mut world = World::new(seed);
        world.protocol.options = ProtocolOptions::default();
        world.loss = 0.15;
        let callers = 32;
        while world.now < at(8_000) {
            while world.live.len() < callers {
                let deadline = world.now.after(Duration::from_secs(10));
                world.begin_until(deadline);
            }
            let next = world.now.after(Duration::from_millis(1));
            world.run_until(next);
        }
        let gaps = world.successes.windows(2).map(|pair| pair[1].since(pair[0]));
        let longest = gaps.max().expect("there are successes");
        assert!(longest < Duration::from_millis(500), "seed {seed}: nothing for {longest:?}");
        assert!(world.ended.values().all(Result::is_ok), "seed {seed}");
    }
}
