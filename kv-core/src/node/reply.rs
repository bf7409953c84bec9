//! The way back to a client: answers queue at its connection, within bounds.

use super::sync::lock;
use crate::message::{Answer, Record, ServerMessage};
use bytes::Bytes;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;

/// Calls of one connection that may be unanswered, or answered and not yet written.
const CALLS_PER_CONNECTION: usize = 1024;
/// Bytes of answers that may wait at one connection.
const ANSWERS_PER_CONNECTION: usize = 16 << 20;
/// Calls of all connections that may be unanswered.
const CALLS: usize = 64 << 10;
/// Bytes of requests of all connections that may be unanswered.
const REQUEST_BYTES: usize = 64 << 20;
/// Bytes of answers of all connections that may wait.
const ANSWER_BYTES: usize = 256 << 20;

/// What all connections of a node together may hold.
#[derive(Debug, Default)]
pub(super) struct Admission {
    calls: AtomicUsize,
    request_bytes: AtomicUsize,
    answer_bytes: AtomicUsize,
}

/// One admitted call; gives its share back when dropped.
#[derive(Debug)]
pub(super) struct Permit {
    admission: Arc<Admission>,
    bytes: usize,
}

impl Admission {
    /// Admits a call of so many bytes, or says that there is too much already.
    pub(super) fn admit(self: &Arc<Self>, bytes: usize) -> Option<Permit> {
        // Counted first: of two calls that race for the last place, one or both are turned away, never none.
        let permit = Permit { admission: self.clone(), bytes };
        let calls = self.calls.fetch_add(1, Ordering::Relaxed);
        let held = self.request_bytes.fetch_add(bytes, Ordering::Relaxed);
        (calls < CALLS && held + bytes <= REQUEST_BYTES).then_some(permit)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.admission.calls.fetch_sub(1, Ordering::Relaxed);
        self.admission.request_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The answers of one connection, until its writer takes them.
#[derive(Debug)]
pub(super) struct Outbox {
    admission: Arc<Admission>,
    state: Mutex<State>,
    ready: Notify,
    room: Notify,
}

#[derive(Debug, Default)]
struct State {
    answers: Vec<ServerMessage>,
    /// Bytes of `answers`.
    bytes: usize,
    /// Calls without an answer.
    open: usize,
    /// The connection is gone: answers go nowhere.
    closed: bool,
}

impl Outbox {
    pub(super) fn new(admission: Arc<Admission>) -> Arc<Self> {
        Arc::new(Self { admission, state: Mutex::default(), ready: Notify::new(), room: Notify::new() })
    }

    /// Waits until the connection may have one more call. Cancel safe.
    pub(super) async fn room(&self) {
        loop {
            {
                let state = lock(&self.state);
                if state.open + state.answers.len() < CALLS_PER_CONNECTION {
                    return;
                }
            }
            self.room.notified().await;
        }
    }

    /// Takes the answers that wait, once there are some. Cancel safe.
    pub(super) async fn take(&self) -> Vec<ServerMessage> {
        loop {
            let answers = {
                let mut state = lock(&self.state);
                self.admission.answer_bytes.fetch_sub(state.bytes, Ordering::Relaxed);
                state.bytes = 0;
                std::mem::take(&mut state.answers)
            };
            if !answers.is_empty() {
                self.room.notify_one();
                return answers;
            }
            self.ready.notified().await;
        }
    }

    /// Whether every call has been answered and every answer taken.
    pub(super) fn is_idle(&self) -> bool {
        let state = lock(&self.state);
        state.open == 0 && state.answers.is_empty()
    }

    /// The connection is gone.
    pub(super) fn close(&self) {
        let mut state = lock(&self.state);
        self.admission.answer_bytes.fetch_sub(state.bytes, Ordering::Relaxed);
        *state = State { open: state.open, closed: true, ..State::default() };
    }

    fn answer(&self, call: u64, answer: Answer) {
        let mut size = weight(&answer);
        let mut answer = answer;
        let mut state = lock(&self.state);
        if state.closed {
            return;
        }
        let held = self.admission.answer_bytes.load(Ordering::Relaxed);
        if is_read(&answer) && (state.bytes + size > ANSWERS_PER_CONNECTION || held + size > ANSWER_BYTES) {
            // A read can be asked for again; what was written cannot be taken back, and its answer is small.
            answer = Answer::Overloaded;
            size = weight(&answer);
        }
        self.admission.answer_bytes.fetch_add(size, Ordering::Relaxed);
        state.bytes += size;
        state.answers.push(ServerMessage { call, answer });
        drop(state);
        self.ready.notify_one();
    }
}

/// Who waits for the answer to one call. Dropped unanswered, it leaves the client to its own time-out.
#[derive(Debug)]
pub(super) struct Reply {
    outbox: Arc<Outbox>,
    call: u64,
    _permit: Option<Permit>,
}

impl Reply {
    /// The way back for `call`. Without a permit only for calls that are answered on the spot.
    pub(super) fn new(outbox: Arc<Outbox>, call: u64, permit: Option<Permit>) -> Self {
        lock(&outbox.state).open += 1;
        Self { outbox, call, _permit: permit }
    }

    /// Answers.
    pub(super) fn send(self, answer: Answer) {
        self.outbox.answer(self.call, answer);
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        lock(&self.outbox.state).open -= 1;
        self.outbox.room.notify_one();
    }
}

fn is_read(answer: &Answer) -> bool {
    matches!(answer, Answer::Value { .. } | Answer::Records { .. })
}

/// About how much memory an answer holds.
fn weight(answer: &Answer) -> usize {
    const FIXED: usize = 128;
    let record = |record: &Record| FIXED + record.value.len();
    FIXED
        + match answer {
            Answer::Value { record: Some(it), .. } => record(it),
            Answer::Records { records, .. } => {
                records.iter().map(|(key, it): &(Bytes, Record)| key.len() + record(it)).sum()
            }
            Answer::Refused(text) => text.len(),
            Answer::Status(_)
            | Answer::Value { record: None, .. }
            | Answer::Written(_)
            | Answer::Done
            | Answer::NotPrimary { .. }
            | Answer::Abandoned
            | Answer::Overloaded => 0,
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Revision;

    fn value(bytes: usize) -> Answer {
        let record = Record {
            value: vec![0; bytes].into(),
            created: Revision::ZERO,
            modified: Revision::ZERO,
            version: 1,
        };
        Answer::Value { record: Some(record), revision: Revision::ZERO }
    }

    /// L5: what a client does not read does not pile up.
    #[tokio::test]
    async fn reads_beyond_the_connection_budget_are_shed() {
        let admission = Arc::<Admission>::default();
        let outbox = Outbox::new(admission.clone());
        for call in 0..20 {
            Reply::new(outbox.clone(), call, None).send(value(1 << 20));
        }
        let answers = outbox.take().await;
        let shed = answers.iter().filter(|it| it.answer == Answer::Overloaded).count();
        assert_eq!(answers.len(), 20);
        assert_eq!(shed, 5, "15 answers of a little over 1 MiB fit 16 MiB");
        assert_eq!(admission.answer_bytes.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_connection_waits_for_room_when_too_many_calls_are_open() {
        let outbox = Outbox::new(Arc::default());
        let mut open: Vec<_> =
            (0..CALLS_PER_CONNECTION as u64).map(|call| Reply::new(outbox.clone(), call, None)).collect();
        let mut room = Box::pin(outbox.room());
        assert!(futures::poll!(&mut room).is_pending());
        drop(open.pop());
        assert!(futures::poll!(&mut room).is_ready());
    }

    #[test]
    fn a_permit_gives_its_share_back() {
        let admission = Arc::<Admission>::default();
        let most = admission.admit(REQUEST_BYTES).expect("all of it is free");
        assert!(admission.admit(1).is_none());
        drop(most);
        assert!(admission.admit(REQUEST_BYTES).is_some());
        assert_eq!(admission.calls.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_closed_connection_takes_no_answers() {
        let admission = Arc::<Admission>::default();
        let outbox = Outbox::new(admission.clone());
        let waiting = Reply::new(outbox.clone(), 1, None);
        Reply::new(outbox.clone(), 2, None).send(Answer::Done);
        outbox.close();
        waiting.send(Answer::Done);
        assert!(outbox.is_idle());
        assert_eq!(admission.answer_bytes.load(Ordering::Relaxed), 0);
    }
}
