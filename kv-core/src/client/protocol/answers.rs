//! How an answer affects its call.

use super::pending::{Body, Kind, Phase};
use super::session::Session;
use super::{Attempt, ClientProtocol, ProtocolOutput};
use crate::client::call::{CallError, CallId, Cause, FailureReason, Reply};
use crate::ids::{Instant, MemberId};
use crate::message::{
    Answer, ClientCall, ClientMessage, Outcome, ReadMode, Rejection, Request, ServerMessage,
};

impl ClientProtocol {
    /// A member answered. Answers to earlier attempts of a call count too; answers to ended calls do not.
    pub(super) fn on_answer(&mut self, now: Instant, member: MemberId, message: ServerMessage) {
        self.search.note_answer(now, member);
        let number = message.call;
        let Some(attempt) = self.attempts.get(&number).copied().filter(|a| a.member == member) else {
            return;
        };
        let id = attempt.call;
        match message.answer {
            Answer::Written(result) => self.on_written(now, number, attempt, result),
            Answer::Value { record, revision } => {
                self.on_result(now, number, attempt, Reply::Value { record, revision });
            }
            Answer::Records { records, next, revision } => {
                self.on_result(now, number, attempt, Reply::Records { records, next, revision });
            }
            Answer::Counted { count, next, revision } => {
                self.on_result(now, number, attempt, Reply::Counted { count, next, revision });
            }
            Answer::Compacted { oldest } => {
                self.on_result(now, number, attempt, Reply::Compacted { oldest });
            }
            Answer::Future { newest } => match self.calls[&id].kind {
                Kind::Anywhere { mode: ReadMode::AtLeast(wanted), .. } if newest < wanted => {
                    self.unsuccessful(now, number, FailureReason::Behind, true);
                }
                _ => self.on_result(now, number, attempt, Reply::Future { newest }),
            },
            Answer::Watched { events, next, .. } => {
                self.on_result(now, number, attempt, Reply::Watched { member, events, next });
            }
            Answer::Status(status) => self.on_result(now, number, attempt, Reply::Status(status)),
            Answer::Done => self.on_result(now, number, attempt, Reply::Done),
            Answer::HandoverRefused(refusal) => {
                self.on_result(now, number, attempt, Reply::HandoverRefused(refusal));
            }
            Answer::Members(members) => self.on_result(now, number, attempt, Reply::Members(members)),
            Answer::ChangeRefused { kind, reason } => {
                self.on_result(now, number, attempt, Reply::ChangeRefused { kind, reason });
            }
            Answer::NotPrimary { hint } => {
                if self.search.wants_list(now, hint) {
                    self.ask_for_list(member);
                }
                let doubtful = self.search.not_primary(now, member, hint);
                self.unsuccessful(now, number, FailureReason::NoPrimary, false);
                if let Some(hint) = doubtful.filter(|_| self.parked.contains(&id)) {
                    self.send(now, id, hint);
                }
            }
            Answer::Abandoned => {
                let _ = self.search.not_primary(now, member, None);
                self.mark_maybe_proposed(id);
                self.unsuccessful(now, number, FailureReason::PrimaryChanged, false);
            }
            Answer::Overloaded => self.unsuccessful(now, number, FailureReason::Overloaded, true),
            Answer::Refused(reason) => {
                self.resolve(number);
                self.fail(now, id, Cause::Refused(reason));
            }
        }
    }

    /// Asks for the member list. The answer comes back as [`ProtocolInput::Members`]. It belongs to no call: if it is
    /// lost, it is asked for again later.
    pub(super) fn ask_for_list(&mut self, member: MemberId) {
        let message = ClientMessage { call: self.next_attempt, what: ClientCall::Members };
        self.next_attempt += 1;
        self.outputs.push_back(ProtocolOutput::Send { member, message });
    }

    /// An attempt of the call may have been proposed and will not be answered.
    fn mark_maybe_proposed(&mut self, id: CallId) {
        if let Some(call) = self.calls.get_mut(&id) {
            call.maybe_proposed = true;
        }
    }

    /// An attempt was answered: it can have no further effect.
    fn resolve(&mut self, number: u64) {
        if let Some(attempt) = self.attempts.remove(&number)
            && let Some(call) = self.calls.get_mut(&attempt.call)
        {
            call.resolve(number);
        }
    }

    /// Processes a result of any call except a write.
    fn on_result(&mut self, now: Instant, number: u64, attempt: Attempt, reply: Reply) {
        let kind = &self.calls[&attempt.call].kind;
        let is_read = matches!(
            reply,
            Reply::Value { .. }
                | Reply::Records { .. }
                | Reply::Counted { .. }
                | Reply::Compacted { .. }
                | Reply::Future { .. }
        );
        let fits = match (kind, &reply) {
            (Kind::Linearizable(_), _) if is_read => {
                self.served(now, attempt);
                true
            }
            (Kind::Anywhere { .. }, _) if is_read => true,
            (Kind::Watch { .. }, Reply::Watched { .. } | Reply::Compacted { .. }) => true,
            (Kind::Status(_), Reply::Status(_)) => true,
            (Kind::Handover { .. }, Reply::Done | Reply::HandoverRefused(_)) => true,
            (Kind::Members(_), Reply::Members(_)) => true,
            (Kind::Change { .. }, Reply::Done | Reply::ChangeRefused { .. }) => true,
            _ => false,
        };
        if fits {
            self.resolve(number);
            self.finish(now, attempt.call, Ok(reply));
        } else {
            self.on_nonsense(now, number, attempt);
        }
    }

    /// The answer to a request of the session, or to its opening.
    fn on_written(
        &mut self,
        now: Instant,
        number: u64,
        attempt: Attempt,
        result: Result<Outcome, Rejection>,
    ) {
        let id = attempt.call;
        let closes = match self.calls[&id].kind {
            Kind::Open(_) => false,
            Kind::Request { closes, .. } => closes,
            Kind::Linearizable(_)
            | Kind::Anywhere { .. }
            | Kind::Watch { .. }
            | Kind::Status(_)
            | Kind::Handover { .. }
            | Kind::Members(_)
            | Kind::Change { .. } => {
                return self.on_nonsense(now, number, attempt);
            }
        };
        self.served(now, attempt);
        match result {
            Ok(_) | Err(Rejection::SessionExpired) if closes => self.finish(now, id, Ok(Reply::Done)),
            Ok(outcome) => self.finish(now, id, Ok(Reply::Written(outcome))),
            Err(Rejection::SessionExpired) => {
                self.resolve(number);
                self.on_session_expired(now, id);
            }
            // The same bytes are invalid each time, so no attempt has run.
            Err(rejection @ Rejection::Invalid) => {
                let error = CallError::NotApplied(Cause::Refused(rejection.to_string()));
                self.finish(now, id, Err(error));
            }
            Err(Rejection::WindowExceeded) => self.unsuccessful(now, number, FailureReason::Overloaded, true),
            // The request has run, but its result is no longer stored.
            Err(Rejection::ResultDropped) => {
                self.finish(now, id, Err(CallError::OutcomeUnknown(Cause::ResultDropped)));
            }
            // Members never send this for a number that has not ended here.
            Err(rejection @ Rejection::Forgotten) => {
                self.resolve(number);
                self.fail(now, id, Cause::Refused(rejection.to_string()));
            }
        }
    }

    /// The member answered as a primary.
    fn served(&mut self, now: Instant, attempt: Attempt) {
        self.search.serves(attempt.member);
        self.delays.observe(now.since(attempt.sent_at));
    }

    /// The answer is of the wrong kind, so the outcome of the attempt is unknown.
    fn on_nonsense(&mut self, now: Instant, number: u64, attempt: Attempt) {
        self.mark_maybe_proposed(attempt.call);
        self.unsuccessful(now, number, FailureReason::Silent, true);
    }

    /// The members no longer know the session, and never will: no new request is sent under it. Requests that were sent
    /// wait for their own answers, because they may have run before the session was forgotten. A call of which no
    /// attempt can have run is sent again, under the next session. A call whose outcome is unknown ends (rule E5).
    fn on_session_expired(&mut self, now: Instant, first: CallId) {
        let sent = self.calls.iter().filter(|(_, call)| call.kind.number().is_some());
        let sent: Vec<CallId> = sent.map(|(id, _)| *id).collect();
        if let Session::Open(session) = &mut self.session {
            session.expired = true;
        }
        for id in sent {
            let call = &self.calls[&id];
            if call.is_surely_undone() {
                self.requeue(id);
            } else if id == first || call.attempts.is_empty() {
                self.fail(now, id, Cause::SessionExpired);
            }
        }
    }

    /// A request of which no attempt has run, or can still run, becomes a new request.
    fn requeue(&mut self, id: CallId) {
        let Some(mut call) = self.remove(id) else { return };
        if let Kind::Request { body: body @ Body::Numbered(..), .. } = &mut call.kind {
            if let Body::Numbered(_, bytes) = &*body {
                *body = Body::New(Request::decode(bytes).expect("it was encoded here").operation);
            }
            call.phase = Phase::Queued;
            self.begin(id, call);
        }
    }
}
