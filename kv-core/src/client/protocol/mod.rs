//! The decisions of the client, as a pure state machine: no clock, no I/O, and no randomness except its seed.
//!
//! Exactly once depends on a few rules. Each is implemented in one place:
//! 1. a request is numbered when it is first sent, and every retry sends the same bytes (`send`);
//! 2. a number counts as acknowledged when its call has ended, with a result or without (`OpenSession::end`). Members
//!    never run it after that, so a late copy of a call that was given up is harmless;
//! 3. a call ends as *not applied* only if each of its attempts was answered with "not proposed", or never left this
//!    process (`Pending::error`). This assumes that a connection delivers a message at most once: members ignore a
//!    message whose call number is not above all earlier ones of its connection;
//! 4. a request that was sent under one session is sent under another only if each of its attempts was answered, with
//!    "not proposed" or "no such session". A new session is opened only when nothing is in flight
//!    (`on_session_expired`).

mod answers;
mod pending;
mod search;
mod session;
#[cfg(test)]
mod tests;

use self::pending::{Body, Kind, Pending, Phase};
use self::search::{Delays, Search, pause};
use self::session::{OpenSession, Session};
use super::call::{
    Call, CallError, CallId, Cause, FailureReason, ProtocolInput, ProtocolOptions, ProtocolOutput, Reply,
};
use crate::ids::{Instant, MemberId, RequestNumber, SessionId};
use crate::message::{ClientCall, ClientMessage, Effect, Operation, Outcome, ReadMode, Request};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// The protocol's own call, which opens the session.
const OPEN: CallId = CallId::new(u64::MAX);

/// How long one attempt to open a session lasts before the next begins.
const OPEN_PATIENCE: Duration = Duration::from_secs(10);

/// The protocol state machine of a client. Call [`handle`](Self::handle), then [`poll_output`](Self::poll_output) until
/// it returns `None`, and carry out each output in order. Then call [`poll_timeout`](Self::poll_timeout), and call
/// `handle(now, ProtocolInput::Timeout)` at that time.
#[derive(Debug)]
pub struct ClientProtocol {
    options: ProtocolOptions,
    rng: fastrand::Rng,
    search: Search,
    delays: Delays,
    session: Session,
    calls: BTreeMap<CallId, Pending>,
    /// Requests in [`Phase::Queued`]; the oldest is sent first.
    queue: BTreeSet<CallId>,
    /// Calls in [`Phase::Parked`].
    parked: BTreeSet<CallId>,
    /// Each call's [`Pending::timer`].
    timers: BTreeSet<(Instant, CallId)>,
    /// The attempts that may still be answered, by the number in the answer.
    attempts: BTreeMap<u64, Attempt>,
    next_attempt: u64,
    outputs: VecDeque<ProtocolOutput>,
}

/// One attempt of a call.
#[derive(Clone, Copy, Debug)]
struct Attempt {
    call: CallId,
    member: MemberId,
    sent_at: Instant,
}

impl ClientProtocol {
    /// Creates a client of these data members (witnesses answer no calls).
    ///
    /// # Panics
    /// If `members` is empty.
    #[must_use]
    pub fn new(seed: u64, members: Vec<MemberId>, options: ProtocolOptions, now: Instant) -> Self {
        assert!(!members.is_empty(), "a client needs a member");
        assert!(options.window > 0, "a window of no requests sends none");
        let _ = now;
        let mut rng = fastrand::Rng::with_seed(seed);
        let first = rng.usize(..members.len());
        Self {
            options,
            rng,
            search: Search::new(members, first),
            delays: Delays::default(),
            session: Session::Closed,
            calls: BTreeMap::new(),
            queue: BTreeSet::new(),
            parked: BTreeSet::new(),
            timers: BTreeSet::new(),
            attempts: BTreeMap::new(),
            next_attempt: 1,
            outputs: VecDeque::new(),
        }
    }

    /// Processes an input.
    ///
    /// # Panics
    /// If a new call has the id of an unfinished call.
    pub fn handle(&mut self, now: Instant, input: ProtocolInput) {
        match input {
            ProtocolInput::Call { id, call, deadline } => self.on_call(now, id, call, deadline),
            ProtocolInput::Cancel { id } => drop(self.remove(id)),
            ProtocolInput::Answer { member, message } => self.on_answer(now, member, message),
            ProtocolInput::AskForList { member } => self.ask_for_list(member),
            ProtocolInput::Members(members) if members.is_empty() => {}
            ProtocolInput::Members(members) => self.search.set_members(members),
            ProtocolInput::ConnectionLost { member } => {
                self.on_lost(now, member, FailureReason::ConnectionLost)
            }
            ProtocolInput::Unreachable { member } => self.on_lost(now, member, FailureReason::Unreachable),
            ProtocolInput::Timeout => {}
        }
        self.fire_timers(now);
        self.drive_session(now);
        self.send_what_may_go(now);
    }

    /// Takes the next output.
    pub fn poll_output(&mut self) -> Option<ProtocolOutput> {
        self.outputs.pop_front()
    }

    /// The time at which to call [`handle`](Self::handle) with [`ProtocolInput::Timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let timer = self.timers.first().map(|(at, _)| *at);
        let searching = self.search.primary().is_none() && self.next_to_send().is_some();
        let ask = searching.then(|| self.search.next_at());
        timer.into_iter().chain(ask).min()
    }

    /// The member that this client believes to be primary.
    #[cfg(feature = "internals")]
    #[must_use]
    pub const fn primary(&self) -> Option<MemberId> {
        self.search.primary()
    }

    /// Returns whether the answer to the message with this number is still awaited.
    #[must_use]
    pub fn awaits(&self, call: u64) -> bool {
        self.attempts.contains_key(&call)
    }

    /// The number of unfinished calls.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.calls.len() - usize::from(self.calls.contains_key(&OPEN))
    }

    fn on_call(&mut self, now: Instant, id: CallId, call: Call, deadline: Instant) {
        assert!(id != OPEN, "the last id is the core's own");
        let request = |operation, closes| Kind::Request { closes, body: Body::New(operation) };
        let (kind, phase) = match call {
            Call::Write(command) => (request(Operation::Command(command), false), Phase::Queued),
            Call::CloseSession => (request(Operation::CloseSession, true), Phase::Queued),
            Call::Read { mode: ReadMode::Linearizable, query, only: None, .. } => {
                (Kind::Linearizable(query), Phase::Parked)
            }
            Call::Read { mode, query, prefer, only } => {
                let start = self.first_to_ask(prefer);
                (Kind::Anywhere { mode, query, start, only }, Phase::Parked)
            }
            Call::Watch { query, prefer } => {
                (Kind::Watch { query, start: self.first_to_ask(prefer) }, Phase::Parked)
            }
            Call::Status { member } => (Kind::Status(member), Phase::Parked),
            Call::Handover { member, to } => (Kind::Handover { member, to }, Phase::Parked),
            Call::Members { member } => (Kind::Members(member), Phase::Parked),
            Call::Change { member, change } => (Kind::Change { member, change }, Phase::Parked),
        };
        self.begin(id, Pending::new(kind, deadline, phase));
        if deadline > now {
            self.retry(now, id, false);
        }
    }

    /// The index of the member to ask first, for a call that any member can answer.
    fn first_to_ask(&mut self, prefer: Option<MemberId>) -> usize {
        let members = self.search.members();
        let preferred = members.iter().position(|member| Some(*member) == prefer);
        preferred.unwrap_or_else(|| self.rng.usize(..members.len()))
    }

    fn begin(&mut self, id: CallId, call: Pending) {
        self.index(id, &call);
        let replaced = self.calls.insert(id, call);
        assert!(replaced.is_none(), "{id:?} begins twice");
    }

    /// Adds a call to the sets of its phase.
    fn index(&mut self, id: CallId, call: &Pending) {
        self.timers.insert((call.timer(), id));
        match call.phase {
            Phase::Queued => drop(self.queue.insert(id)),
            Phase::Parked => drop(self.parked.insert(id)),
            Phase::Pausing { .. } | Phase::Sent { .. } => {}
        }
    }

    fn unindex(&mut self, id: CallId, timer: Instant) {
        self.timers.remove(&(timer, id));
        self.queue.remove(&id);
        self.parked.remove(&id);
    }

    fn set_phase(&mut self, id: CallId, phase: Phase) {
        let Some(mut call) = self.calls.remove(&id) else { return };
        self.unindex(id, call.timer());
        call.phase = phase;
        self.index(id, &call);
        self.calls.insert(id, call);
    }

    /// Ends a call and all its attempts. If it has a number, that number will never run from now on.
    fn remove(&mut self, id: CallId) -> Option<Pending> {
        let call = self.calls.remove(&id)?;
        self.unindex(id, call.timer());
        for number in &call.attempts {
            let attempt = self.attempts.remove(number);
            if let (Kind::Watch { .. }, Some(Attempt { member, .. })) = (&call.kind, attempt) {
                self.unwatch(member, *number);
            }
        }
        if let (Some(number), Session::Open(session)) = (call.kind.number(), &mut self.session) {
            session.end(number);
            if session.is_over() {
                self.session = Session::Closed;
            }
        }
        Some(call)
    }

    /// Cancels a watch at a member, because its answer, which may take long, is no longer awaited.
    fn unwatch(&mut self, member: MemberId, call: u64) {
        let message = ClientMessage { call: self.next_attempt, what: ClientCall::Unwatch { call } };
        self.next_attempt += 1;
        self.outputs.push_back(ProtocolOutput::Send { member, message });
    }

    fn finish(&mut self, now: Instant, id: CallId, result: Result<Reply, CallError>) {
        if self.remove(id).is_none() {
            return;
        }
        if id == OPEN {
            self.on_open_ended(now, result);
        } else {
            self.outputs.push_back(ProtocolOutput::Done { id, result });
        }
    }

    /// Ends a call without a result.
    fn fail(&mut self, now: Instant, id: CallId, cause: Cause) {
        if let Some(call) = self.calls.get(&id) {
            let error = call.error(cause);
            self.finish(now, id, Err(error));
        }
    }

    fn fire_timers(&mut self, now: Instant) {
        while let Some((at, id)) = self.timers.first().copied() {
            if at > now {
                return;
            }
            let call = self.calls.get(&id).expect("a timer belongs to a call");
            if call.deadline <= now {
                let reason = self.reason_of(call);
                self.fail(now, id, Cause::Deadline(reason));
            } else if let Phase::Sent { attempt, .. } = call.phase {
                self.on_silence(now, id, attempt);
            } else {
                self.retry(now, id, false);
            }
        }
    }

    /// Why a call has not succeeded yet.
    fn reason_of(&self, call: &Pending) -> FailureReason {
        let queued = call.phase == Phase::Queued;
        match self.calls.get(&OPEN) {
            Some(open) if queued && open.reason == FailureReason::Waiting => FailureReason::NoSession,
            Some(open) if queued => open.reason,
            _ => call.reason,
        }
    }

    /// The latest attempt was not answered in time. The attempt stays open, because the answer may still arrive.
    fn on_silence(&mut self, now: Instant, id: CallId, attempt: u64) {
        let Attempt { member, sent_at, .. } = self.attempts[&attempt];
        // One lost message is no reason to leave a member that answers others, or to wait longer for it.
        if !self.search.heard_after(member, sent_at) {
            self.search.failed(now, member);
            let call = self.calls.get_mut(&id).expect("an attempt belongs to a call");
            call.silences = call.silences.saturating_add(1);
        }
        self.retry(now, id, false);
    }

    /// The connection to a member broke, or could not be opened.
    fn on_lost(&mut self, now: Instant, member: MemberId, reason: FailureReason) {
        self.search.failed(now, member);
        let lost: Vec<u64> =
            self.attempts.iter().filter(|(_, a)| a.member == member).map(|(number, _)| *number).collect();
        for number in lost {
            let Attempt { call: id, .. } = self.attempts[&number];
            let call = self.calls.get_mut(&id).expect("an attempt belongs to a call");
            if reason == FailureReason::ConnectionLost {
                call.maybe_proposed = true; // The message may have arrived.
            }
            self.unsuccessful(now, number, reason, false);
        }
    }

    /// An attempt ended without a result: the call needs another one, unless a later attempt is in progress.
    fn unsuccessful(&mut self, now: Instant, number: u64, reason: FailureReason, pausing: bool) {
        let Some(Attempt { call: id, .. }) = self.attempts.remove(&number) else { return };
        let call = self.calls.get_mut(&id).expect("an attempt belongs to a call");
        let was_latest = call.resolve(number);
        if was_latest {
            call.reason = reason;
            if call.kind.is_single() {
                self.fail(now, id, Cause::Failed(reason));
            } else {
                self.retry(now, id, pausing);
            }
        }
    }

    /// Prepares a call for its next attempt, after a pause if `pausing`.
    fn retry(&mut self, now: Instant, id: CallId, pausing: bool) {
        let call = self.calls.get_mut(&id).expect("only a call is retried");
        if pausing {
            let (min, max) = (self.options.backoff_min, self.options.backoff_max);
            let until = now.after(pause(min, max, call.pauses, &mut self.rng));
            call.pauses = call.pauses.saturating_add(1);
            return self.set_phase(id, Phase::Pausing { until });
        }
        match call.kind {
            Kind::Request { body: Body::New(_), .. } => self.set_phase(id, Phase::Queued),
            Kind::Request { .. } | Kind::Open(_) | Kind::Linearizable(_) => {
                self.set_phase(id, Phase::Parked);
            }
            Kind::Status(member)
            | Kind::Members(member)
            | Kind::Handover { member, .. }
            | Kind::Change { member, .. } => self.send(now, id, member),
            Kind::Anywhere { start, .. } | Kind::Watch { start, .. } => {
                let (members, tries) = (self.search.members(), call.tries as usize);
                let (round, member) = match call.kind {
                    Kind::Anywhere { only: Some(only), .. } => (1, only),
                    _ => (members.len(), members[(start + tries % members.len()) % members.len()]),
                };
                let went_round = tries > 0 && tries.is_multiple_of(round);
                if went_round && matches!(call.phase, Phase::Sent { .. }) {
                    return self.retry(now, id, true);
                }
                self.send(now, id, member);
            }
        }
    }

    /// The call to send next when there is a member to ask: retries and reads first, then new requests.
    fn next_to_send(&self) -> Option<CallId> {
        self.parked.first().copied().or_else(|| {
            let Session::Open(session) = &self.session else { return None };
            let first = self.queue.first().copied()?;
            let closes = matches!(self.calls[&first].kind, Kind::Request { closes: true, .. });
            let may_go =
                if closes { session.outstanding() == 0 } else { session.has_room(self.options.window) };
            (may_go && !session.closing && !session.expired).then_some(first)
        })
    }

    fn send_what_may_go(&mut self, now: Instant) {
        while let Some(id) = self.next_to_send() {
            let primary = self.search.primary();
            let Some(member) = primary.or_else(|| self.search.ask(now, &self.options, &mut self.rng)) else {
                return;
            };
            self.send(now, id, member);
        }
    }

    fn send(&mut self, now: Instant, id: CallId, member: MemberId) {
        self.number_if_new(now, id);
        let attempt = self.next_attempt;
        self.next_attempt += 1;
        let call = self.calls.get_mut(&id).expect("only a call is sent");
        let what = match &call.kind {
            Kind::Open(bytes) | Kind::Request { body: Body::Numbered(_, bytes), .. } => {
                ClientCall::Write(bytes.clone())
            }
            Kind::Request { body: Body::New(_), .. } => {
                unreachable!("a request is numbered before it is sent")
            }
            Kind::Linearizable(query) => {
                ClientCall::Read { mode: ReadMode::Linearizable, query: query.clone() }
            }
            Kind::Anywhere { mode, query, .. } => ClientCall::Read { mode: *mode, query: query.clone() },
            Kind::Watch { query, .. } => ClientCall::Watch(query.clone()),
            Kind::Status(_) => ClientCall::Status,
            Kind::Handover { to, .. } => ClientCall::Handover { to: *to },
            Kind::Members(_) => ClientCall::Members,
            Kind::Change { change, .. } => ClientCall::Change(change.clone()),
        };
        call.tries = call.tries.saturating_add(1);
        call.reason = FailureReason::Silent;
        call.attempts.push(attempt);
        let until = if call.kind.is_single() {
            call.deadline
        } else if matches!(call.kind, Kind::Watch { .. }) {
            now.after(self.options.watch_patience)
        } else {
            now.after(self.delays.timeout(&self.options, call.silences))
        };
        self.attempts.insert(attempt, Attempt { call: id, member, sent_at: now });
        self.set_phase(id, Phase::Sent { attempt, until });
        let message = ClientMessage { call: attempt, what };
        self.outputs.push_back(ProtocolOutput::Send { member, message });
    }

    /// Gives a request its number and its bytes, which never change afterwards.
    fn number_if_new(&mut self, now: Instant, id: CallId) {
        let call = self.calls.get_mut(&id).expect("only a call is sent");
        let Kind::Request { closes, body } = &mut call.kind else { return };
        let Body::New(operation) = body else { return };
        let Session::Open(session) = &mut self.session else {
            unreachable!("a request is sent only in an open session")
        };
        let number = session.take_number(now);
        let request = Request {
            session: session.id,
            number,
            acked_through: session.acked_through(),
            operation: operation.clone(),
        };
        session.closing |= *closes;
        *body = Body::Numbered(number, request.encode());
    }

    /// Opens a session when a request waits for one, and replaces an old one that may have expired.
    fn drive_session(&mut self, now: Instant) {
        while let Some(first) = self.queue.first().copied() {
            let closes = matches!(self.calls[&first].kind, Kind::Request { closes: true, .. });
            match &self.session {
                Session::Closed if closes => self.finish(now, first, Ok(Reply::Done)),
                Session::Opening if closes => {
                    drop(self.remove(OPEN));
                    self.session = Session::Closed;
                }
                Session::Closed => return self.open_session(now),
                Session::Open(session)
                    if session.outstanding() == 0
                        && now.since(session.last_used) >= self.options.session_idle =>
                {
                    self.session = Session::Closed;
                }
                Session::Opening | Session::Open(_) => return,
            }
        }
    }

    fn open_session(&mut self, now: Instant) {
        let request = Request {
            session: SessionId::ZERO,
            number: RequestNumber::ZERO,
            acked_through: RequestNumber::ZERO,
            operation: Operation::OpenSession { nonce: self.rng.u128(..) },
        };
        let kind = Kind::Open(request.encode());
        self.session = Session::Opening;
        self.begin(OPEN, Pending::new(kind, now.after(OPEN_PATIENCE), Phase::Parked));
    }

    fn on_open_ended(&mut self, now: Instant, result: Result<Reply, CallError>) {
        self.session = Session::Closed;
        match result {
            Ok(Reply::Written(Outcome { effect: Effect::SessionOpened(session), .. })) => {
                self.session = Session::Open(OpenSession::new(session, now));
            }
            Err(error) if matches!(error.cause(), Cause::Refused(_)) => {
                while let Some(id) = self.queue.first().copied() {
                    self.fail(now, id, error.cause().clone());
                }
            }
            Ok(_) | Err(_) => {} // If a request still waits for a session, the client opens another one.
        }
    }

    /// Asserts what must hold between two inputs. Call it after each step in tests and simulation.
    ///
    /// # Panics
    /// If the protocol has a bug.
    #[cfg(feature = "internals")]
    pub fn check_invariants(&self) {
        for (id, call) in &self.calls {
            assert!(self.timers.contains(&(call.timer(), *id)));
            assert_eq!(self.queue.contains(id), call.phase == Phase::Queued);
            assert_eq!(self.parked.contains(id), call.phase == Phase::Parked);
            let unsent = matches!(call.kind, Kind::Request { body: Body::New(_), .. });
            assert_eq!(unsent, call.phase == Phase::Queued, "{id:?}: new requests wait in the queue");
            assert!(call.attempts.iter().all(|attempt| self.attempts[attempt].call == *id));
            if let Phase::Sent { attempt, .. } = call.phase {
                assert!(call.attempts.contains(&attempt), "{id:?} waits for an attempt that has ended");
            }
        }
        let attempts: usize = self.calls.values().map(|call| call.attempts.len()).sum();
        assert_eq!(self.attempts.len(), attempts);
        assert_eq!(self.timers.len(), self.calls.len());
        assert_eq!(self.calls.contains_key(&OPEN), matches!(self.session, Session::Opening));
        let live: BTreeSet<_> = self.calls.values().filter_map(|call| call.kind.number()).collect();
        match &self.session {
            Session::Open(session) => session.check_invariants(self.options.window, live),
            Session::Closed | Session::Opening => assert!(live.is_empty(), "in flight without a session"),
        }
    }
}
