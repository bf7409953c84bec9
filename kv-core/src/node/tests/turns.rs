//! The driver, turn by turn of the runtime: how long calls wait for more calls, and what does not wait with them.

use super::in_process::set_state;
use super::*;
use crate::ids::{Anchor, RequestNumber, Round, SessionId, View, WriteSeq};
use crate::message::{Age, Answer, Extent, FormationStep, LogSummary, Moment, Query, Recovered};
use crate::message::{Command, Operation, Request};
use crate::node::driver::Driver;
use crate::node::inbox::{InboxCall, RequestKey};
use crate::node::lanes::{Outgoing, Queue};
use crate::node::metrics::RequestKind;
use crate::node::reply::{Admission, Outbox, Responder};
use crate::replica::{Replica, ReplicaConfig};
use futures::FutureExt;
use futures::future::LocalBoxFuture;

/// A driver that runs only when the test gives it a turn.
struct Turns {
    bench: Bench,
    outbox: Arc<Outbox>,
    driver: LocalBoxFuture<'static, ()>,
    calls: u64,
    view: u64,
}

impl Turns {
    fn new() -> Self {
        let bench = Bench::new();
        let shared = bench.shared.clone();
        let config = ReplicaConfig::new(shared.members.now().cluster.clone(), ME, Options::default(), 1);
        let recovered = Recovered { formation: FormationStep::Formed, ..Recovered::empty() };
        let replica = Replica::new(config, recovered, shared.clock.now());
        let driver = Driver::new(shared, replica, Op::ZERO).run().boxed_local();
        let outbox = Outbox::new(Admission::new(64 << 20), Arc::default());
        let mut turns = Self { bench, outbox, driver, calls: 0, view: 1 };
        turns.turn();
        turns
    }

    /// Runs the driver until it lets others run.
    fn turn(&mut self) {
        assert!(self.driver.as_mut().now_or_never().is_none(), "it has halted");
    }

    fn call(&mut self) {
        self.calls += 1;
        let reply = Responder::new(self.outbox.clone(), self.calls, RequestKind::Read, None);
        let query = Query::Get { key: "key".into(), at: None };
        self.bench.shared.inbox.call(InboxCall::Read { query, reply });
    }

    /// A client puts a value of this size.
    fn put(&mut self, bytes: usize) {
        self.calls += 1;
        let (session, number) = (SessionId::new(self.calls), RequestNumber::new(1));
        let (key, value) = ("key".into(), vec![0; bytes].into());
        let put = Command::Put { key, value, condition: None, life: Default::default() };
        let operation = Operation::Command(put);
        let request = Request { session, number, acked_through: RequestNumber::ZERO, operation }.encode();
        let reply = Responder::new(self.outbox.clone(), self.calls, RequestKind::Write, None);
        let key = RequestKey::Numbered(session, number);
        self.bench.shared.inbox.call(InboxCall::Write { key, request, reply });
    }

    /// The peer answers a round of this primary that has long been confirmed.
    fn acknowledge(&mut self) {
        let (view, sent) = (View::new(3), Moment { life: 1, at: crate::ids::Instant::ZERO });
        let round = Round::default();
        let ok = Message::CommitOk { view, round, log: None, checkpoint: Op::ZERO, sent };
        self.bench.shared.inbox.message(PEER, ok, true).now_or_never().expect("there is room");
    }

    /// The peers vote for the next view.
    fn vote(&mut self) {
        self.view += 1;
        for peer in [PEER, MemberId::new(2)] {
            let vote = Message::StartViewChange { view: View::new(self.view) };
            self.bench.shared.inbox.message(peer, vote, true).now_or_never().expect("there is room");
        }
    }

    fn message(&mut self, message: Message) {
        let arrives = self.bench.shared.inbox.message(PEER, message, true);
        arrives.now_or_never().expect("there is room");
        self.turn();
    }

    /// All writes are durable.
    fn durable(&mut self) {
        let writes = self.bench.shared.writes.with(|writes| writes.len());
        self.bench.shared.inbox.durable(WriteSeq::new(writes as u64));
        self.turn();
    }

    /// Makes this member the primary of view 3, with an empty log.
    fn lead(&mut self) {
        self.to_peer().set_connected(true);
        self.view = 2;
        self.vote();
        self.turn();
        self.durable();
        let log = LogSummary {
            log_view: View::ZERO,
            checkpoint: Anchor::ZERO,
            commit: Anchor::ZERO,
            lacks: Vec::new(),
            head: Op::ZERO,
            suffix: Vec::new(),
            tail: Vec::new(),
            extent: Extent::Through(Op::ZERO),
        };
        let age = Age { least: Duration::ZERO, followed: false, moved: None };
        self.message(Message::DoViewChange { view: View::new(3), log, ages: vec![age] });
        self.durable();
    }

    /// The newest round that this primary has begun since the last call.
    fn round(&self) -> Round {
        let queue = self.to_peer();
        let rounds = std::iter::from_fn(|| queue.pop()).filter_map(|it| match it {
            Outgoing::Message(Message::Commit { round, .. }) => Some(round),
            _ => None,
        });
        rounds.last().expect("it has begun a round")
    }

    fn to_peer(&self) -> Arc<Queue> {
        self.bench.shared.lanes.set(&[PEER].into());
        self.bench.shared.lanes.one(PEER, Lane::Control).expect("it is a peer")
    }

    /// The peer answers this round.
    fn confirm(&mut self, round: Round) {
        let (view, sent) = (View::new(3), Moment { life: 1, at: crate::ids::Instant::ZERO });
        self.message(Message::CommitOk { view, round, log: None, checkpoint: Op::ZERO, sent });
    }

    /// The calls that were answered with a record.
    fn answered(&self) -> Vec<u64> {
        let answers = self.outbox.take(usize::MAX).now_or_never().unwrap_or_default();
        let answers = answers.into_iter().map(|(it, _)| it);
        answers
            .map(|it| {
                assert!(matches!(it.answer, Answer::Value { .. }), "{it:?}");
                it.call
            })
            .collect()
    }

    /// The calls that the driver has not taken.
    fn waiting(&self) -> usize {
        self.bench.shared.inbox.waiting().0
    }

    fn has_control(&self) -> bool {
        self.bench.shared.inbox.waiting().1
    }
}

#[tokio::test(start_paused = true)]
async fn calls_wait_for_more_as_long_as_each_turn_brings_some() {
    let mut turns = Turns::new();
    turns.lead();
    set_state(&turns.bench, 1);
    turns.call();
    turns.turn();
    assert_eq!(turns.waiting(), 1, "another task may have more");
    turns.call();
    turns.turn();
    assert_eq!(turns.waiting(), 2, "and another");
    turns.turn();
    assert_eq!(turns.waiting(), 0, "the last turn brought none");
    let round = turns.round();
    turns.confirm(round);
    assert_eq!(turns.answered(), [1, 2]);
}

/// A batch may hold more than the replica takes at once.
#[tokio::test(start_paused = true)]
async fn no_call_is_refused_because_many_were_gathered() {
    let mut turns = Turns::new();
    turns.lead();
    (0..100).for_each(|_| turns.put(60 << 10));
    while turns.waiting() > 0 {
        turns.turn();
    }
    assert_eq!(turns.answered(), [0; 0]);
}

/// What other members wait for does not wait for calls that gain nothing by it.
#[tokio::test(start_paused = true)]
async fn a_member_that_is_not_primary_takes_calls_at_once() {
    let mut turns = Turns::new();
    turns.call();
    turns.turn();
    assert_eq!(turns.waiting(), 0);
    assert_eq!(turns.outbox.take(usize::MAX).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn calls_do_not_wait_for_ever_while_more_come() {
    let mut turns = Turns::new();
    turns.lead();
    for _ in 0..10 {
        turns.call();
        turns.turn();
        if turns.waiting() == 0 {
            return;
        }
    }
    panic!("{} calls wait", turns.waiting());
}

/// Votes and answers to heartbeats decide who is primary: they do not wait for calls.
#[tokio::test(start_paused = true)]
async fn the_control_lane_does_not_wait_for_calls() {
    let mut turns = Turns::new();
    turns.lead();
    turns.acknowledge();
    turns.turn();
    assert!(!turns.has_control(), "nothing else is there");
    turns.call();
    turns.acknowledge();
    turns.turn();
    assert!(!turns.has_control() && turns.waiting() == 0, "it came together with a call");
    turns.call();
    turns.turn();
    assert_eq!(turns.waiting(), 1, "it waits for more");
    turns.call();
    turns.acknowledge();
    turns.turn();
    assert!(!turns.has_control() && turns.waiting() == 0, "it came while calls were gathered");
}

/// A timer sends heartbeats: it does not wait for calls.
#[tokio::test(start_paused = true)]
async fn a_timer_does_not_wait_for_calls() {
    let mut turns = Turns::new();
    turns.lead();
    turns.call();
    turns.turn();
    assert_eq!(turns.waiting(), 1);
    turns.call();
    tokio::time::advance(Duration::from_secs(60)).await;
    turns.turn();
    assert_eq!(turns.waiting(), 0);
}

/// The journal thread begins to write before other tasks run. Calls that cannot be taken are not gathered.
#[tokio::test(start_paused = true)]
async fn the_journal_does_not_wait_for_other_tasks() {
    let mut turns = Turns::new();
    let writes = |turns: &Turns| turns.bench.shared.writes.with(|writes| (writes.len(), writes.has_room()));
    while writes(&turns).1 {
        let (before, _) = writes(&turns);
        (0..100).for_each(|_| turns.vote());
        turns.turn();
        assert!(writes(&turns).0 > before, "each view is written");
    }
    turns.call();
    turns.turn();
    assert_eq!(turns.waiting(), 1, "there is no room for what it may lead to");
    let (before, _) = writes(&turns);
    turns.vote();
    turns.turn();
    assert!(!turns.has_control(), "it does not wait for calls that cannot be taken");
    assert!(writes(&turns).0 > before, "it waits for the turn of others");
    assert_eq!(turns.waiting(), 1);
}

/// A watchdog must not restart a member because its disk hangs.
#[tokio::test(start_paused = true)]
async fn a_ping_is_answered_while_the_journal_has_no_room() {
    let mut turns = Turns::new();
    while turns.bench.shared.writes.with(|writes| writes.has_room()) {
        (0..100).for_each(|_| turns.vote());
        turns.turn();
    }
    let answered = turns.bench.shared.pings_answered.subscribe();
    turns.bench.shared.inbox.ping();
    assert!(!answered.has_changed().unwrap(), "the driver has not run");
    turns.turn();
    assert!(answered.has_changed().unwrap());
}

/// Rule R1: reads that arrive together share a round. A read that arrives after a round has begun waits for the next
/// one, because the answers to the first may be older than the read.
#[tokio::test(start_paused = true)]
async fn r1_a_read_does_not_share_the_round_of_an_earlier_read() {
    let mut turns = Turns::new();
    turns.lead();
    set_state(&turns.bench, 1);
    let read = |turns: &mut Turns, count: usize| {
        (0..count).for_each(|_| turns.call());
        while turns.waiting() > 0 {
            turns.turn();
        }
    };
    read(&mut turns, 2);
    let first = turns.round();
    read(&mut turns, 1);
    assert_eq!(turns.answered(), [0; 0]);
    turns.confirm(first);
    assert_eq!(turns.answered(), [1, 2]);
    let second = turns.round();
    assert!(second > first);
    turns.confirm(second);
    assert_eq!(turns.answered(), [3]);
}
