//! The load of the demo: several concurrent writers, each of which records the outcomes that it received.

use super::ledger::{Ending, Ledger};
use crate::failure::Failure;
use bytes::Bytes;
use kv_core::Client;
use kv_core::error::WriteError;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Running writers. Dropping this stops them.
#[derive(Debug)]
pub(crate) struct Writers {
    tasks: JoinSet<Ledger>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    acknowledged: AtomicU64,
}

impl Writers {
    /// Starts `count` writers. Each begins a write every `pace`, unless the one before still runs. They share the
    /// clients, each of which has a session of its own.
    ///
    /// A writer alternates between putting a new key of its own and incrementing a counter of its own. Odd writers
    /// increment their counter only from the revision that they received last. So if one of their writes were applied
    /// twice, the next one would be refused.
    pub(crate) fn start(clients: &[Client], count: usize, pace: Duration) -> Self {
        let shared = Arc::new(Shared { stop: AtomicBool::new(false), acknowledged: AtomicU64::new(0) });
        let mut tasks = JoinSet::new();
        for number in 0..count {
            let client = clients[number % clients.len()].clone();
            let writer = Writer { client, number, ledger: Ledger::default(), shared: shared.clone() };
            tasks.spawn(writer.run(pace));
        }
        Self { tasks, shared }
    }

    /// The number of acknowledged writes so far.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until `most` more writes have been acknowledged or, if that takes longer than `span`, until `least` have.
    pub(crate) async fn work(
        &self,
        least: u64,
        most: u64,
        span: Duration,
        limit: Duration,
    ) -> Result<(), Failure> {
        let (before, start) = (self.acknowledged(), Instant::now());
        loop {
            let seen = self.acknowledged() - before;
            if seen >= most || (seen >= least && start.elapsed() >= span) {
                return Ok(());
            }
            if start.elapsed() > limit {
                return Err(Failure::failed(format!(
                    "only {seen} of {least} writes were acknowledged in {limit:?}"
                )));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Lets each writer finish its last write, and collects the ledgers.
    pub(crate) async fn stop(mut self) -> Result<Vec<Ledger>, Failure> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut ledgers = Vec::new();
        while let Some(ended) = self.tasks.join_next().await {
            ledgers.push(ended.map_err(|error| Failure::failed(format!("a writer failed: {error}")))?);
        }
        Ok(ledgers)
    }
}

struct Writer {
    client: Client,
    number: usize,
    ledger: Ledger,
    shared: Arc<Shared>,
}

impl Writer {
    async fn run(mut self, pace: Duration) -> Ledger {
        let mut clock = tokio::time::interval(pace);
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut counter = Counter::first(self.number);
        let mut round = 0u64;
        while !self.shared.stop.load(Ordering::Relaxed) {
            clock.tick().await;
            if round.is_multiple_of(2) {
                let key = Bytes::from(format!("once/{}/{round:08}", self.number));
                let value = Bytes::from(format!("value {round} of writer {}", self.number));
                let result = self.client.put(&key, value.clone()).await.map(|written| written.revision);
                self.note(key, value, result);
            } else {
                counter = self.raise(counter).await;
            }
            round += 1;
        }
        self.ledger
    }

    /// Puts the counter's next value, and returns the counter to continue with.
    async fn raise(&mut self, mut counter: Counter) -> Counter {
        let key = Bytes::from(format!("counter/{}/{:04}", self.number, counter.generation));
        counter.value += 1;
        let value = Bytes::from(counter.value.to_string());
        let mut put = self.client.put(&key, value.clone());
        if counter.guarded {
            put = match counter.revision {
                Some(revision) => put.if_revision(revision),
                None => put.if_absent(),
            };
        }
        let result = put.await.map(|written| written.revision);
        let known = result.as_ref().ok().copied();
        self.note(key, value, result);
        match known {
            Some(revision) => Counter { revision: Some(revision), ..counter },
            None => counter.next(),
        }
    }

    fn note(&mut self, key: Bytes, value: Bytes, result: Result<kv_core::client::Revision, WriteError>) {
        let ending = match result {
            Ok(revision) => {
                let at = (!self.shared.stop.load(Ordering::Relaxed)).then(Instant::now);
                self.shared.acknowledged.fetch_add(1, Ordering::Relaxed);
                Ending::Acknowledged { revision, at }
            }
            Err(error) if error.outcome_unknown() => Ending::Unknown,
            Err(error) if error.is_retryable() => Ending::NotApplied,
            Err(error) => {
                self.ledger.note_refused(format!("the write of {value:?} to {key:?} was refused: {error}"));
                Ending::NotApplied
            }
        };
        self.ledger.note(key, value, ending);
    }
}

/// A counter of one writer. After a write with an unknown outcome, a new counter is begun.
#[derive(Clone, Copy, Debug)]
struct Counter {
    generation: u32,
    value: u64,
    revision: Option<kv_core::client::Revision>,
    guarded: bool,
}

impl Counter {
    fn first(writer: usize) -> Self {
        Self { generation: 0, value: 0, revision: None, guarded: writer % 2 == 1 }
    }

    fn next(self) -> Self {
        Self { generation: self.generation + 1, value: 0, revision: None, guarded: self.guarded }
    }
}
