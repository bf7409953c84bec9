//! The answers to a client: they wait, within bounds, until its connection sends them.

use super::budget::{Budget, Share, Use};
use super::meter::Meter;
use super::metrics::RequestKind;
use super::pool::JobOwner;
use super::quota::{Account, COUNTED, Quota, REQUESTS};
use super::sync::lock;
use crate::message::{Answer, Event, Record, ServerMessage};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How many calls of one connection may be unanswered, or answered and not yet written.
const CALLS_PER_CONNECTION: usize = 1024;
/// How many bytes of answers may wait at one connection.
const ANSWERS_PER_CONNECTION: usize = 16 << 20;
/// The same if the results of transactions are among them.
const WRITTEN_PER_CONNECTION: usize = 64 << 20;
/// About the largest answer to a read, in bytes.
const ONE_ANSWER: usize = 1 << 20;
/// How many calls of all connections may be unanswered.
const CALLS: usize = 64 << 10;
/// How many watches of all connections may be unanswered. They do not count as calls.
const WATCHES: usize = 64 << 10;

/// The kinds of calls for admission. Each has a limit of its own: a watch may wait forever, and must take no room
/// from calls that are answered soon.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum CallClass {
    /// A write or a read.
    Call,
    Watch,
}

/// What all connections of a node together may hold.
#[derive(Debug)]
pub(super) struct Admission {
    calls: Quota,
    call_bytes: Quota,
    watches: Quota,
    watch_bytes: Quota,
    /// The memory of all clients, of which requests are a part.
    pub(super) budget: Arc<Budget>,
    pub(super) meter: Meter,
}

/// One admitted call. Dropping it releases its place.
#[derive(Debug)]
pub(super) struct Permit {
    admission: Arc<Admission>,
    account: Arc<Account>,
    place: CallClass,
    share: Share,
}

impl Admission {
    /// Creates an admission for connections that hold up to `memory` bytes.
    pub(super) fn new(memory: usize) -> Arc<Self> {
        Arc::new(Self {
            calls: Quota::new(CALLS, COUNTED),
            call_bytes: Quota::new(memory / 4, REQUESTS),
            watches: Quota::new(WATCHES, COUNTED),
            watch_bytes: Quota::new(memory / 8, REQUESTS),
            budget: Budget::new(memory),
            meter: Meter::default(),
        })
    }

    /// Admits a call of this client that holds `share`, or refuses it if there is too much already. A quarter of the
    /// memory is for requests in flight, an eighth for parked watches.
    pub(super) fn admit(
        self: &Arc<Self>,
        account: &Arc<Account>,
        place: CallClass,
        share: Share,
    ) -> Option<Permit> {
        let (places, own, memory, own_memory) = self.of(account, place);
        if !places.take(own, 1) {
            return None;
        }
        if !memory.take(own_memory, share.bytes()) {
            places.give_back(own, 1);
            return None;
        }
        Some(Permit { admission: self.clone(), account: account.clone(), place, share })
    }

    fn of<'a>(
        &'a self,
        account: &'a Account,
        place: CallClass,
    ) -> (&'a Quota, &'a AtomicUsize, &'a Quota, &'a AtomicUsize) {
        match place {
            CallClass::Call => (&self.calls, &account.calls, &self.call_bytes, &account.call_bytes),
            CallClass::Watch => (&self.watches, &account.watches, &self.watch_bytes, &account.watch_bytes),
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let (places, own, memory, own_memory) = self.admission.of(&self.account, self.place);
        places.give_back(own, 1);
        memory.give_back(own_memory, self.share.bytes());
    }
}

/// Answers with the memory that they hold.
pub(super) type Answers = Vec<(ServerMessage, Share)>;

/// The answers of one connection, until its writer takes them.
#[derive(Debug)]
pub(super) struct Outbox {
    admission: Arc<Admission>,
    account: Arc<Account>,
    state: Mutex<OutboxState>,
    ready: Notify,
    room: Notify,
}

#[derive(Debug, Default)]
struct OutboxState {
    answers: VecDeque<(ServerMessage, Share)>,
    /// The number of answers that were taken and are being written.
    writing: usize,
    /// The bytes of all these answers.
    bytes: usize,
    /// The number of calls without an answer.
    open: usize,
    /// The unanswered watches, and whether the client has cancelled them.
    watching: BTreeMap<u64, bool>,
    /// The connection is closed: answers are dropped.
    closed: bool,
}

impl Outbox {
    pub(super) fn new(admission: Arc<Admission>, account: Arc<Account>) -> Arc<Self> {
        admission.meter.clients.fetch_add(1, Ordering::Relaxed);
        let (state, ready, room) = (Mutex::default(), Notify::new(), Notify::new());
        Arc::new(Self { admission, account, state, ready, room })
    }

    /// The account of the client.
    pub(super) fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// Identifies this connection among others, for as long as it lives.
    pub(super) fn name(self: &Arc<Self>) -> usize {
        Arc::as_ptr(self).addr()
    }

    /// Waits until the connection may have one more call. Cancel safe.
    pub(super) async fn wait_for_room(&self) {
        loop {
            {
                let state = lock(&self.state);
                if state.open + state.answers.len() + state.writing < CALLS_PER_CONNECTION {
                    return;
                }
            }
            self.room.notified().await;
        }
    }

    /// Takes waiting answers, once there are some: about this many bytes. Report them with [`written`](Self::written)
    /// afterwards. Cancel safe.
    pub(super) async fn take(&self, bytes: usize) -> Answers {
        loop {
            let mut taken = Answers::new();
            {
                let mut state = lock(&self.state);
                let mut held = 0;
                while held < bytes
                    && let Some(answer) = state.answers.pop_front()
                {
                    held += answer.1.bytes();
                    taken.push(answer);
                }
                state.writing += taken.len();
            }
            if !taken.is_empty() {
                return taken;
            }
            self.ready.notified().await;
        }
    }

    /// This many answers with this many bytes have been sent.
    pub(super) fn written(&self, answers: usize, bytes: usize) {
        let mut state = lock(&self.state);
        assert!(answers <= state.writing && bytes <= state.bytes, "only what was taken has been sent");
        state.writing -= answers;
        state.bytes -= bytes;
        drop(state);
        self.room.notify_one();
    }

    /// Returns whether every call has been answered and every answer taken.
    pub(super) fn is_idle(&self) -> bool {
        let state = lock(&self.state);
        state.open == 0 && state.answers.is_empty()
    }

    /// The connection is gone.
    pub(super) fn close(&self) {
        let mut state = lock(&self.state);
        let OutboxState { answers, open, watching, .. } = std::mem::take(&mut *state);
        *state = OutboxState { open, watching, closed: true, ..OutboxState::default() };
        drop(state);
        drop(answers);
    }

    /// The client has cancelled this watch.
    pub(super) fn unwatch(&self, call: u64) {
        if let Some(taken_back) = lock(&self.state).watching.get_mut(&call) {
            *taken_back = true;
        }
    }

    /// Whether the answer to a read would be dropped, because the connection is closed or too much waits already.
    fn is_full(&self) -> bool {
        let state = lock(&self.state);
        state.closed || state.bytes > ANSWERS_PER_CONNECTION - ONE_ANSWER
    }

    /// Queues the answer, or another one if there is no room for it, and counts what is queued. If the connection is
    /// closed, the answer is dropped.
    fn answer(&self, call: u64, kind: RequestKind, took: Duration, mut answer: Answer) {
        let budget = &self.admission.budget;
        let mut state = lock(&self.state);
        if state.closed {
            return;
        }
        let mut size = weight(&answer);
        let instead = substitute_for(&answer, size);
        let share = match &instead {
            None => Some(Share::force_reserve(budget, &self.account, size)),
            // An answer that is larger than the limit alone is queued if nothing else waits. Otherwise no client
            // could ever get it.
            Some((_, most)) if state.bytes > 0 && state.bytes + size > *most => None,
            Some(_) => Share::of(budget, &self.account, size, Use::Answer),
        };
        let share = share.unwrap_or_else(|| {
            if let Some((instead, _)) = instead {
                answer = instead;
            }
            size = weight(&answer);
            Share::force_reserve(budget, &self.account, size)
        });
        // Before the client has the answer, so that it finds it counted.
        self.admission.meter.note(kind, &answer, took);
        state.bytes += size;
        state.answers.push_back((ServerMessage { call, answer }, share));
        drop(state);
        self.ready.notify_one();
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.admission.meter.clients.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The way to answer one call. If it is dropped without an answer, the client waits until its own time-out.
#[derive(Debug)]
pub(super) struct Responder {
    outbox: Arc<Outbox>,
    call: u64,
    kind: RequestKind,
    begun: Instant,
    _permit: Option<Permit>,
}

impl Responder {
    /// Creates the responder for `call`. Only a call that is answered at once needs no permit.
    pub(super) fn new(outbox: Arc<Outbox>, call: u64, kind: RequestKind, permit: Option<Permit>) -> Self {
        lock(&outbox.state).open += 1;
        Self { outbox, call, kind, begun: Instant::now(), _permit: permit }
    }

    /// The owner of the job that answers this call.
    pub(super) fn owner(&self) -> JobOwner {
        JobOwner::client(self.outbox.account())
    }

    /// Returns whether the answer to a read would be dropped, so that it need not be computed.
    pub(super) fn is_backlogged(&self) -> bool {
        self.outbox.is_full()
    }

    /// Identifies the connection among others, for as long as this lives.
    pub(super) fn connection(&self) -> usize {
        self.outbox.name()
    }

    /// Counts the call as a watch; `None` if the connection has too many.
    pub(super) fn watching(&self) -> Option<WatchSlot> {
        let mut state = lock(&self.outbox.state);
        let fits = state.watching.len() < WatchSlot::MOST;
        if fits {
            state.watching.insert(self.call, false);
        }
        drop(state);
        fits.then(|| WatchSlot { outbox: self.outbox.clone(), call: self.call })
    }

    pub(super) fn send(self, answer: Answer) {
        self.outbox.answer(self.call, self.kind, self.begun.elapsed(), answer);
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        lock(&self.outbox.state).open -= 1;
        self.outbox.room.notify_one();
    }
}

/// One watch of a connection.
#[derive(Debug)]
pub(super) struct WatchSlot {
    outbox: Arc<Outbox>,
    call: u64,
}

impl WatchSlot {
    /// The most watches of one connection. Beside them, it has room for calls.
    pub(super) const MOST: usize = CALLS_PER_CONNECTION / 2;

    /// Returns whether nobody wants the answer: the client has cancelled the watch, or the connection is closed.
    pub(super) fn is_taken_back(&self) -> bool {
        let state = lock(&self.outbox.state);
        state.closed || state.watching.get(&self.call).copied().unwrap_or_default()
    }
}

impl Drop for WatchSlot {
    fn drop(&mut self) {
        lock(&self.outbox.state).watching.remove(&self.call);
    }
}

/// The answer that replaces this one if there is no room for it, and how much may wait at the connection; `None` for
/// a small answer.
fn substitute_for(answer: &Answer, size: usize) -> Option<(Answer, usize)> {
    /// A write cannot be undone, and there is always room for a small answer.
    const SMALL: usize = 4 << 10;
    match answer {
        // The client can ask again.
        Answer::Value { .. } | Answer::Records { .. } | Answer::Counted { .. } | Answer::Watched { .. } => {
            Some((Answer::Overloaded, ANSWERS_PER_CONNECTION))
        }
        // The write was applied. A retry gets the stored result, if it is still kept.
        Answer::Written(_) => (size > SMALL).then_some((Answer::Abandoned, WRITTEN_PER_CONNECTION)),
        Answer::Compacted { .. }
        | Answer::Future { .. }
        | Answer::Status(_)
        | Answer::Members(_)
        | Answer::Done
        | Answer::HandoverRefused(_)
        | Answer::ChangeRefused { .. }
        | Answer::NotPrimary { .. }
        | Answer::Abandoned
        | Answer::Overloaded
        | Answer::Refused(_) => None,
    }
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
            Answer::Watched { events, .. } => {
                let records =
                    |event: &Event| event.record.iter().chain(&event.previous).map(record).sum::<usize>();
                events.iter().map(|event| FIXED + event.key.len() + records(event)).sum()
            }
            Answer::Counted { next, .. } => next.as_ref().map_or(0, Bytes::len),
            Answer::Refused(text) | Answer::ChangeRefused { reason: text, .. } => text.len(),
            Answer::Members(_) => 4 << 10,
            Answer::Written(Ok(outcome)) => outcome.effect.weight(),
            Answer::Status(_)
            | Answer::Value { record: None, .. }
            | Answer::Compacted { .. }
            | Answer::Future { .. }
            | Answer::Written(Err(_))
            | Answer::Done
            | Answer::HandoverRefused(_)
            | Answer::NotPrimary { .. }
            | Answer::Abandoned
            | Answer::Overloaded => 0,
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Revision, Timestamp};
    use crate::message::{Effect, Outcome, StepResult};
    use crate::node::metrics::RequestOutcome;

    fn value(bytes: usize) -> Answer {
        let record = Record {
            value: vec![0; bytes].into(),
            created: Revision::ZERO,
            modified: Revision::ZERO,
            version: 1,
            expires: None,
            lease: None,
        };
        Answer::Value { record: Some(record), revision: Revision::ZERO }
    }

    fn admission() -> Arc<Admission> {
        Admission::new(64 << 20)
    }

    fn share(admission: &Admission, bytes: usize) -> Share {
        Share::of(&admission.budget, &Arc::default(), bytes, Use::Frame).expect("there is room")
    }

    /// F-load-5: answers that a client does not read do not pile up.
    #[tokio::test]
    async fn f_load_5_reads_beyond_the_connection_budget_are_shed() {
        let admission = admission();
        let outbox = Outbox::new(admission.clone(), Arc::default());
        for call in 0..20 {
            Responder::new(outbox.clone(), call, RequestKind::Read, None).send(value(1 << 20));
        }
        assert!(Responder::new(outbox.clone(), 20, RequestKind::Read, None).is_backlogged());
        let answers = outbox.take(usize::MAX).await;
        let shed = answers.iter().filter(|(it, _)| it.answer == Answer::Overloaded).count();
        assert_eq!(answers.len(), 20);
        assert_eq!(shed, 5, "15 answers of a little over 1 MiB fit 16 MiB");
        let counted = |outcome| {
            let all = admission.meter.requests();
            all.iter().find(|it| (it.kind, it.outcome) == (RequestKind::Read, outcome)).map(|it| it.count)
        };
        let counts = [RequestOutcome::Done, RequestOutcome::Overloaded].map(counted);
        assert_eq!(counts, [Some(15), Some(5)], "what the client gets is counted");
        // Answers count until they have been sent.
        Responder::new(outbox.clone(), 20, RequestKind::Read, None).send(value(1 << 20));
        assert_eq!(outbox.take(usize::MAX).await[0].0.answer, Answer::Overloaded);
        let bytes = answers.iter().map(|(_, share)| share.bytes()).sum();
        assert_eq!(admission.budget.held(), bytes);
        outbox.written(answers.len(), bytes);
        drop(answers);
        assert_eq!(admission.budget.held(), 0);
    }

    /// F-load-5: the largest event, with the largest previous value, is still sent.
    #[tokio::test]
    async fn f_load_5_an_answer_beyond_the_connection_budget_is_sent_alone() {
        let admission = Admission::new(256 << 20);
        let outbox = Outbox::new(admission.clone(), Arc::default());
        // An event with the largest value, and the largest one before it.
        let event = |bytes: usize| {
            let Answer::Value { record, .. } = value(bytes) else { unreachable!("it is a value") };
            let (key, previous) = (vec![1; 4 << 10].into(), record.clone());
            Event { revision: Revision::ZERO, key, kind: crate::message::EventKind::Put, record, previous }
        };
        let watched = || Answer::Watched {
            events: vec![event(8 << 20)],
            next: crate::message::Position::after(Revision::ZERO),
            more: false,
        };
        Responder::new(outbox.clone(), 0, RequestKind::Read, None).send(watched());
        Responder::new(outbox.clone(), 1, RequestKind::Read, None).send(watched());
        let answers = outbox.take(usize::MAX).await;
        assert!(matches!(answers[0].0.answer, Answer::Watched { .. }), "where nothing else waits");
        assert_eq!(answers[1].0.answer, Answer::Overloaded);
    }

    /// F-load-5: they do not pile up over many connections either.
    #[tokio::test]
    async fn f_load_5_reads_beyond_the_budget_of_all_connections_are_shed_and_writes_are_answered() {
        let admission = admission();
        let crowd: Vec<_> = (0..10).map(|_| Outbox::new(admission.clone(), Arc::default())).collect();
        for outbox in &crowd {
            (0..10).for_each(|call| {
                Responder::new(outbox.clone(), call, RequestKind::Read, None).send(value(1 << 20))
            });
        }
        assert!(admission.budget.held() <= 49 << 20, "three quarters of 64 MiB are for answers");
        Responder::new(crowd[9].clone(), 10, RequestKind::Read, None).send(Answer::Done);
        let last = crowd[9].take(usize::MAX).await;
        assert_eq!(last[0].0.answer, Answer::Overloaded);
        assert_eq!(last[10].0.answer, Answer::Done);
    }

    /// F-load-5: the results of reading transactions do not pile up either, but a client that has written gets an
    /// answer.
    #[tokio::test]
    async fn f_load_5_large_results_beyond_the_budget_are_abandoned_and_small_ones_sent() {
        let written = |results: Vec<StepResult>| {
            let effect = Effect::Transacted { succeeded: true, results };
            Answer::Written(Ok(Outcome { revision: Revision::ZERO, timestamp: Timestamp::ZERO, effect }))
        };
        let Answer::Value { record, .. } = value(1 << 20) else { unreachable!() };
        let large = written(vec![StepResult::Got(record.map(Box::new))]);
        let admission = Admission::new(256 << 20);
        let outbox = Outbox::new(admission.clone(), Arc::default());
        for call in 0..70 {
            Responder::new(outbox.clone(), call, RequestKind::Read, None).send(large.clone());
        }
        Responder::new(outbox.clone(), 70, RequestKind::Read, None).send(written(vec![StepResult::Put; 64]));
        let answers = outbox.take(usize::MAX).await;
        let abandoned = answers.iter().filter(|(it, _)| it.answer == Answer::Abandoned).count();
        assert_eq!((answers.len(), abandoned), (71, 7), "63 of a little over 1 MiB fit 64 MiB");
        assert!(matches!(answers[70].0.answer, Answer::Written(_)));
    }

    #[tokio::test]
    async fn a_connection_waits_for_room_when_too_many_calls_are_open() {
        let outbox = Outbox::new(admission(), Arc::default());
        let mut open: Vec<_> = (0..CALLS_PER_CONNECTION as u64)
            .map(|call| Responder::new(outbox.clone(), call, RequestKind::Read, None))
            .collect();
        let mut room = Box::pin(outbox.wait_for_room());
        assert!(futures::poll!(&mut room).is_pending());
        drop(open.pop());
        assert!(futures::poll!(&mut room).is_ready());
    }

    #[test]
    fn a_permit_returns_its_share() {
        let (admission, me) = (admission(), Arc::default());
        let admit = |bytes| admission.admit(&me, CallClass::Call, share(&admission, bytes));
        let most = admit(16 << 20).expect("all of it is free");
        assert!(admit(1).is_none());
        drop(most);
        assert!(admit(16 << 20).is_some());
        assert_eq!((admission.calls.held(), me.calls.load(Ordering::Relaxed)), (0, 0));
        assert_eq!((admission.call_bytes.held(), admission.budget.held()), (0, 0));
    }

    /// F-load-9: the watches of one client, on any number of connections, take no room from calls, not even from its
    /// own. Its calls and watches leave room for other clients.
    #[test]
    fn f_load_9_parked_watches_take_no_calls_and_one_client_leaves_room_for_others() {
        let admission = Admission::new(256 << 20);
        let (greedy, other) = (Arc::default(), Arc::default());
        let take = |who, place| admission.admit(who, place, share(&admission, 256));
        let watches: Vec<_> = (0..134 * 500).map_while(|_| take(&greedy, CallClass::Watch)).collect();
        assert_eq!(watches.len(), WATCHES * COUNTED / (COUNTED + 1) + 1);
        assert!(take(&greedy, CallClass::Call).is_some(), "it can still write");
        assert!(take(&other, CallClass::Watch).is_some() && take(&other, CallClass::Call).is_some());
        let calls: Vec<_> = (0..CALLS).map_while(|_| take(&greedy, CallClass::Call)).collect();
        assert!(calls.len() < CALLS && take(&greedy, CallClass::Call).is_none());
        let others: Vec<_> = (0..1000).map_while(|_| take(&other, CallClass::Call)).collect();
        assert_eq!(others.len(), 1000);
    }

    /// F-load-9: the same if each watch comes from another client.
    #[test]
    fn f_load_9_watches_of_many_clients_leave_room_for_another_client() {
        let admission = Admission::new(256 << 20);
        let crowd: Vec<Arc<Account>> = std::iter::repeat_with(Arc::default).take(134).collect();
        let mut held = Vec::new();
        for _ in 0..500 {
            let next = |who| admission.admit(who, CallClass::Watch, share(&admission, 256));
            held.extend(crowd.iter().filter_map(next));
        }
        let late = Arc::default();
        assert!(admission.admit(&late, CallClass::Watch, share(&admission, 256)).is_some());
        assert!(admission.admit(&late, CallClass::Call, share(&admission, 256)).is_some());
    }

    #[test]
    fn a_closed_connection_takes_no_answers() {
        let admission = admission();
        let outbox = Outbox::new(admission.clone(), Arc::default());
        let waiting = Responder::new(outbox.clone(), 1, RequestKind::Read, None);
        Responder::new(outbox.clone(), 2, RequestKind::Read, None).send(Answer::Done);
        outbox.close();
        assert!(waiting.is_backlogged());
        waiting.send(Answer::Done);
        assert!(outbox.is_idle());
        assert_eq!(admission.meter.reads.latencies().count(), 1, "the client gets no second answer");
        assert_eq!(admission.budget.held(), 0);
    }
}
