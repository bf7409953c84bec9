//! What a connection waits for, and how long it may.

use super::HttpOptions;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// A client that reads slowly must take at least so many bytes of an answer per second.
const MIN_BYTES_PER_SECOND: u64 = 16 << 10;

/// What a connection waits for. Its stream and its requests report what happens.
#[derive(Debug)]
pub(super) struct Activity {
    limits: Limits,
    state: Mutex<State>,
    given_up: Notify,
}

#[derive(Debug)]
struct Limits {
    head: Duration,
    idle: Duration,
    write: Duration,
}

#[derive(Clone, Copy, Debug)]
struct State {
    /// While a request is processed or its answer is written: `None`. Otherwise when the next one must have arrived.
    next_head: Option<Instant>,
    /// How many requests are processed. A further one can begin a moment before the last one is dropped.
    requests: u32,
    /// Whether the body of the request is incomplete.
    reads_body: bool,
    /// Whether a part of the next head has arrived.
    has_begun: bool,
    /// When it began to wait for the next head.
    since: Instant,
    /// Whether it is being closed for the sake of another connection.
    is_given_up: bool,
    /// While the client does not take what is there to be written: when it must have.
    write: Option<Instant>,
}

impl Activity {
    pub(super) fn new(options: &HttpOptions) -> Arc<Self> {
        let limits =
            Limits { head: options.head_timeout, idle: options.idle_timeout, write: options.write_timeout };
        let since = Instant::now();
        // The first head is expected at once.
        let state = State {
            next_head: Some(since + limits.head),
            requests: 0,
            reads_body: false,
            has_begun: true,
            since,
            is_given_up: false,
            write: None,
        };
        Arc::new(Self { limits, state: Mutex::new(state), given_up: Notify::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes have arrived.
    pub(super) fn on_read(&self) {
        let mut state = self.state();
        if state.next_head.is_some() && !state.has_begun {
            state.has_begun = true;
            state.next_head = Some(Instant::now() + self.limits.head);
        }
    }

    /// The client does not take anything at the moment.
    pub(super) fn on_blocked(&self) {
        self.state().write.get_or_insert_with(|| Instant::now() + self.limits.write);
    }

    /// The client has taken bytes; there may be more.
    pub(super) fn on_written(&self, bytes: usize) {
        let mut state = self.state();
        if let Some(end) = &mut state.write {
            let earned = Duration::from_micros(bytes as u64 * 1_000_000 / MIN_BYTES_PER_SECOND);
            *end = (*end + earned).min(Instant::now() + self.limits.write);
        }
    }

    /// The client has taken everything.
    pub(super) fn on_flushed(&self) {
        let mut state = self.state();
        state.write = None;
        if state.requests == 0 && state.next_head.is_none() {
            state.since = Instant::now();
            (state.next_head, state.has_begun) = (Some(state.since + self.limits.idle), false);
        }
    }

    /// The head of a request has arrived. The result is dropped when its answer has been handed out.
    pub(super) fn begin(self: &Arc<Self>) -> Busy {
        let mut state = self.state();
        (state.next_head, state.reads_body) = (None, true);
        state.since = Instant::now();
        state.requests += 1;
        Busy(self.clone())
    }

    /// How well it can be closed for the sake of another connection: the smallest value first. `None` while it has a
    /// request. A request that is incomplete is worth less than a client that has been served.
    pub(super) fn worth(&self) -> Option<(bool, Instant)> {
        let state = self.state();
        let is_waiting = state.next_head.is_some() || state.reads_body;
        (is_waiting && !state.is_given_up).then_some((!state.has_begun && !state.reads_body, state.since))
    }

    /// Closes the connection.
    pub(super) fn give_up(&self) {
        self.state().is_given_up = true;
        self.given_up.notify_one();
    }

    /// Waits until the connection must be closed, and returns why.
    pub(super) async fn expired(&self) -> &'static str {
        loop {
            let state = *self.state();
            let now = Instant::now();
            if state.write.is_some_and(|end| end <= now) {
                return "the client does not take its answer";
            }
            if state.next_head.is_some_and(|end| end <= now) {
                return if state.has_begun { "the head of a request is incomplete" } else { "it was idle" };
            }
            // A new deadline cannot be earlier than this.
            let soonest = now + self.limits.head.min(self.limits.write).min(self.limits.idle);
            let known = [state.write, state.next_head].into_iter().flatten().min();
            tokio::select! {
                () = self.given_up.notified() => return "another connection needs its place",
                () = sleep_until(known.map_or(soonest, |known| known.min(soonest))) => {}
            }
        }
    }
}

/// The time while a request is processed and answered. The connection waits for the next one when it has also written
/// what was handed to it.
#[derive(Debug)]
pub(super) struct Busy(Arc<Activity>);

impl Busy {
    /// The request is complete, or nothing more of it is read.
    pub(super) fn received(&self) {
        self.0.state().reads_body = false;
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.requests -= 1;
        state.reads_body = false;
    }
}
