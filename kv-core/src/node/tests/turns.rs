//! The driver, turn by turn of the runtime: how long calls wait for more calls, and what does not wait with them.

use super::*;
use crate::ids::View;
use crate::message::{FormationStep, Query, Recovered};
use crate::node::driver::Driver;
use crate::node::inbox::InboxCall;
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
        let config = ReplicaConfig::new(shared.cluster.clone(), ME, Options::default(), 1);
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
        let reply = Responder::new(self.outbox.clone(), self.calls, None);
        let query = Query::Get { key: "key".into(), at: None };
        self.bench.shared.inbox.call(InboxCall::Read { query, reply });
    }

    /// The peers vote for the next view.
    fn vote(&mut self) {
        self.view += 1;
        for peer in [PEER, MemberId::new(2)] {
            let vote = Message::StartViewChange { view: View::new(self.view) };
            self.bench.shared.inbox.message(peer, vote, true).now_or_never().expect("there is room");
        }
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
    turns.call();
    turns.turn();
    assert_eq!(turns.waiting(), 1, "another task may have more");
    turns.call();
    turns.turn();
    assert_eq!(turns.waiting(), 2, "and another");
    turns.turn();
    assert_eq!(turns.waiting(), 0, "the last turn brought none");
    assert_eq!(turns.outbox.take(usize::MAX).await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn calls_do_not_wait_for_ever_while_more_come() {
    let mut turns = Turns::new();
    for _ in 0..10 {
        turns.call();
        turns.turn();
        if turns.waiting() == 0 {
            return;
        }
    }
    panic!("{} calls wait", turns.waiting());
}

/// Votes and acknowledgements decide who is primary: they do not wait for calls.
#[tokio::test(start_paused = true)]
async fn the_control_lane_does_not_wait_for_calls() {
    let mut turns = Turns::new();
    turns.vote();
    turns.turn();
    assert!(!turns.has_control(), "nothing else is there");
    turns.call();
    turns.vote();
    turns.turn();
    assert!(!turns.has_control() && turns.waiting() == 0, "it came together with a call");
    turns.call();
    turns.turn();
    assert_eq!(turns.waiting(), 1, "it waits for more");
    turns.call();
    turns.vote();
    turns.turn();
    assert!(!turns.has_control() && turns.waiting() == 0, "it came while calls were gathered");
}

/// A timer sends heartbeats: it does not wait for calls.
#[tokio::test(start_paused = true)]
async fn a_timer_does_not_wait_for_calls() {
    let mut turns = Turns::new();
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
