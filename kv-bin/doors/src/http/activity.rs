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
    /// While a request is processed: `None`. Otherwise when the next one must have arrived.
    next_head: Option<Instant>,
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
        self.state().write = None;
    }

    /// A request has arrived. The result is dropped when its answer is complete.
    pub(super) fn begin(self: &Arc<Self>) -> Busy {
        self.state().next_head = None;
        Busy(self.clone())
    }

    /// How well it can be closed for the sake of another connection: the smallest value first. `None` while it has a
    /// request. A head that is incomplete is worth less than a client that has been served.
    pub(super) fn worth(&self) -> Option<(bool, Instant)> {
        let state = self.state();
        (state.next_head.is_some() && !state.is_given_up).then_some((!state.has_begun, state.since))
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

/// The time while a request is processed and answered.
#[derive(Debug)]
pub(super) struct Busy(Arc<Activity>);

impl Drop for Busy {
    fn drop(&mut self) {
        let idle = self.0.limits.idle;
        let mut state = self.0.state();
        state.since = Instant::now();
        (state.next_head, state.has_begun) = (Some(state.since + idle), false);
    }
}
