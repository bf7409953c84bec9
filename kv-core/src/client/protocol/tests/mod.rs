//! The client's decisions, output by output.

mod random;
mod watches;

use super::*;
use crate::ids::{Revision, Timestamp};
use crate::message::{Answer, Command, Effect, Outcome, Query, Rejection, ServerMessage, SuccessorRefusal};

const A: MemberId = MemberId::new(0);
const B: MemberId = MemberId::new(1);
const C: MemberId = MemberId::new(2);

/// A core with a clock in milliseconds, and its outputs.
struct Bench {
    protocol: ClientProtocol,
    now: Instant,
}

fn at(ms: u64) -> Instant {
    Instant::new(ms * 1_000_000)
}

fn id(value: u64) -> CallId {
    CallId::new(value)
}

fn put(key: &'static str) -> Command {
    Command::Put { key: key.into(), value: "value".into(), condition: None, life: Default::default() }
}

fn get(key: &'static str) -> Call {
    Call::Read {
        mode: ReadMode::Linearizable,
        query: Query::Get { key: key.into(), at: None },
        prefer: None,
        only: None,
    }
}

fn request(session: u64, number: u64, acked: u64, operation: Operation) -> ClientCall {
    let request = Request {
        session: SessionId::new(session),
        number: RequestNumber::new(number),
        acked_through: RequestNumber::new(acked),
        operation,
    };
    ClientCall::Write(request.encode())
}

fn write(session: u64, number: u64, acked: u64, key: &'static str) -> ClientCall {
    request(session, number, acked, Operation::Command(put(key)))
}

fn outcome(revision: u64, effect: Effect) -> Outcome {
    Outcome { revision: Revision::new(revision), timestamp: Timestamp::new(1), effect }
}

fn written(revision: u64) -> Answer {
    Answer::Written(Ok(outcome(revision, Effect::Put)))
}

fn done(id: CallId, revision: u64) -> ProtocolOutput {
    ProtocolOutput::Done { id, result: Ok(Reply::Written(outcome(revision, Effect::Put))) }
}

fn send(member: MemberId, call: u64, what: ClientCall) -> ProtocolOutput {
    ProtocolOutput::Send { member, message: ClientMessage { call, what } }
}

fn not_applied(id: CallId, cause: Cause) -> ProtocolOutput {
    ProtocolOutput::Done { id, result: Err(CallError::NotApplied(cause)) }
}

fn unknown(id: CallId, cause: Cause) -> ProtocolOutput {
    ProtocolOutput::Done { id, result: Err(CallError::OutcomeUnknown(cause)) }
}

fn no_hint() -> Answer {
    Answer::NotPrimary { hint: None }
}

fn hint(member: MemberId) -> Answer {
    Answer::NotPrimary { hint: Some(member) }
}

impl Bench {
    fn new() -> Self {
        Self::with(ProtocolOptions::default())
    }

    /// Members A, B, C; A is asked first.
    fn with(options: ProtocolOptions) -> Self {
        let seed = (0..).find(|seed| fastrand::Rng::with_seed(*seed).usize(..3) == 0).expect("one of a few");
        let protocol = ClientProtocol::new(seed, vec![A, B, C], options, Instant::ZERO);
        Self { protocol, now: Instant::ZERO }
    }

    /// A session with id 9 is open, A is primary, and the next attempt is number 2.
    fn open() -> Self {
        let mut bench = Self::new();
        bench.open_session(A, 1, 9);
        bench
    }

    /// Opens the session `session` by a write that is cancelled at once: attempt `attempt` goes to `member`.
    fn open_session(&mut self, member: MemberId, attempt: u64, session: u64) {
        let first = id(1_000_000 + attempt);
        let outputs = self.call(first, Call::Write(put("first")), 60_000);
        assert!(
            matches!(&outputs[..], [ProtocolOutput::Send { member: m, message }]
                if *m == member && message.call == attempt && opens(&message.what)),
            "{outputs:?}"
        );
        assert_eq!(self.input(ProtocolInput::Cancel { id: first }), []);
        let opened = Answer::Written(Ok(outcome(1, Effect::SessionOpened(SessionId::new(session)))));
        assert_eq!(self.answer(member, attempt, opened), []);
    }

    fn input(&mut self, input: ProtocolInput) -> Vec<ProtocolOutput> {
        self.protocol.handle(self.now, input);
        self.protocol.check_invariants();
        std::iter::from_fn(|| self.protocol.poll_output()).collect()
    }

    fn call(&mut self, id: CallId, call: Call, deadline_ms: u64) -> Vec<ProtocolOutput> {
        let deadline = self.now.after(Duration::from_millis(deadline_ms));
        self.input(ProtocolInput::Call { id, call, deadline })
    }

    fn put(&mut self, id: CallId, key: &'static str) -> Vec<ProtocolOutput> {
        self.call(id, Call::Write(put(key)), 10_000)
    }

    fn answer(&mut self, member: MemberId, call: u64, answer: Answer) -> Vec<ProtocolOutput> {
        self.input(ProtocolInput::Answer { member, message: ServerMessage { call, answer } })
    }

    /// Advances the clock to `ms`, and fires all timers on the way.
    fn run_until(&mut self, ms: u64) -> Vec<ProtocolOutput> {
        let mut outputs = Vec::new();
        while let Some(due) = self.protocol.poll_timeout().filter(|due| *due <= at(ms)) {
            self.now = self.now.max(due);
            outputs.extend(self.input(ProtocolInput::Timeout));
        }
        self.now = at(ms);
        outputs
    }

    /// Advances the clock to the next timer.
    fn next_timer(&mut self) -> Vec<ProtocolOutput> {
        let due = self.protocol.poll_timeout().expect("a timer is set");
        assert!(due >= self.now);
        self.now = due;
        self.input(ProtocolInput::Timeout)
    }
}

fn opens(what: &ClientCall) -> bool {
    let ClientCall::Write(bytes) = what else { return false };
    matches!(Request::decode(bytes).unwrap().operation, Operation::OpenSession { .. })
}

#[test]
fn the_first_write_opens_a_session_first() {
    let mut bench = Bench::new();
    let outputs = bench.put(id(1), "x");
    let [ProtocolOutput::Send { member: A, message }] = &outputs[..] else { panic!("{outputs:?}") };
    assert!(opens(&message.what));
    assert_eq!(bench.put(id(2), "y"), [], "one session is opened for all");
    let opened = Answer::Written(Ok(outcome(1, Effect::SessionOpened(SessionId::new(7)))));
    assert_eq!(
        bench.answer(A, 1, opened),
        [send(A, 2, write(7, 1, 0, "x")), send(A, 3, write(7, 2, 0, "y"))]
    );
    assert_eq!(bench.answer(A, 2, written(8)), [done(id(1), 8)]);
    assert_eq!(bench.put(id(3), "z"), [send(A, 4, write(7, 3, 1, "z"))], "1 is acknowledged, 2 in flight");
    assert_eq!(bench.answer(A, 4, written(10)), [done(id(3), 10)]);
    assert_eq!(bench.answer(A, 3, written(9)), [done(id(2), 9)]);
    assert_eq!(bench.put(id(4), "z"), [send(A, 5, write(7, 4, 3, "z"))]);
    assert_eq!(bench.protocol.pending(), 1);
}

#[test]
fn a_hint_is_followed_at_once_with_the_same_number() {
    let mut bench = Bench::open();
    assert_eq!(bench.put(id(1), "x"), [send(A, 2, write(9, 1, 0, "x"))]);
    assert_eq!(bench.answer(A, 2, hint(C)), [send(C, 3, write(9, 1, 0, "x"))]);
    assert_eq!(bench.protocol.primary(), Some(C));
    assert_eq!(bench.answer(C, 3, written(10)), [done(id(1), 10)]);
    assert_eq!(bench.put(id(2), "y"), [send(C, 4, write(9, 2, 1, "y"))]);
}

/// The hint names a member of a newer list. Its list is fetched once, and then the hint is followed.
#[test]
fn a_hint_to_an_unknown_member_leads_to_a_question_for_the_list() {
    const D: MemberId = MemberId::new(3);
    let mut bench = Bench::open();
    bench.put(id(1), "x");
    bench.put(id(2), "y");
    let outputs = bench.answer(A, 2, hint(D));
    assert_eq!(outputs[0], send(A, 4, ClientCall::Members));
    assert_eq!(outputs[1..], [send(B, 5, write(9, 1, 0, "x"))], "meanwhile the search goes on");
    assert_eq!(bench.answer(A, 3, hint(D)), [], "the list was just asked for");
    let outputs = bench.input(ProtocolInput::Members(vec![B, C, D]));
    assert_eq!(outputs, [send(D, 6, write(9, 2, 0, "y"))]);
    assert_eq!(bench.answer(B, 5, hint(D)), [send(D, 7, write(9, 1, 0, "x"))]);
}

/// No member names one that is primary: the addresses may be old ones.
#[test]
fn a_long_search_asks_for_the_list_now_and_then() {
    let mut bench = Bench::open();
    bench.put(id(1), "x");
    let mut outputs = bench.answer(A, 2, no_hint());
    let (mut asked, mut searched) = (0, 0);
    while asked < 2 {
        for output in std::mem::take(&mut outputs) {
            let ProtocolOutput::Send { member, message } = output else { panic!("{output:?}") };
            if message.what == ClientCall::Members {
                asked += 1;
                assert!(searched >= 16, "{searched}");
            } else {
                searched += 1;
                outputs.extend(bench.answer(member, message.call, no_hint()));
            }
        }
        if outputs.is_empty() {
            outputs = bench.next_timer();
        }
        assert!(searched < 100, "it does not ask");
    }
}

#[test]
fn members_that_hint_at_each_other_are_asked_with_pauses() {
    let mut bench = Bench::open();
    let mut outputs = bench.put(id(1), "x");
    let mut immediate = 0;
    for attempt in 2.. {
        let [ProtocolOutput::Send { member, .. }] = outputs[..] else { break };
        immediate += 1;
        outputs = bench.answer(member, attempt, hint(if member == A { B } else { A }));
    }
    assert_eq!(
        immediate,
        2 * (1 + 3),
        "a question and one hop per member, twice; then at the pace of the search"
    );
    let due = bench.protocol.poll_timeout().unwrap();
    assert!(due <= bench.now || due.since(bench.now) <= Duration::from_millis(50));
}

#[test]
fn while_no_primary_is_known_members_are_asked_in_turn_with_growing_pauses() {
    let mut bench = Bench::open();
    for call in 1..=5 {
        bench.put(id(call), "x");
    }
    // All five learn that A is no longer primary: one continues to search, the others wait.
    let mut asked = Vec::new();
    for attempt in 2..=6 {
        asked.extend(bench.answer(A, attempt, no_hint()));
    }
    assert_eq!(asked, [send(B, 7, write(9, 1, 0, "x"))]);
    assert_eq!(bench.answer(B, 7, no_hint()), []);
    let mut members = Vec::new();
    let mut pauses = Vec::new();
    for attempt in 8..14 {
        let before = bench.now;
        let outputs = bench.next_timer();
        let [ProtocolOutput::Send { member, .. }] = outputs[..] else { panic!("{outputs:?}") };
        members.push(member);
        pauses.push(bench.now.since(before).as_millis());
        assert_eq!(bench.answer(member, attempt, no_hint()), []);
    }
    assert_eq!(members, [C, A, B, C, A, B]);
    assert!(pauses.iter().all(|pause| *pause <= 25), "{pauses:?}");
    assert!(pauses[5] >= 12, "{pauses:?}");
    // The call that finds the primary wakes the others.
    let outputs = bench.next_timer();
    assert_eq!(outputs, [send(C, 14, write(9, 1, 0, "x"))]);
    let outputs = bench.answer(C, 14, written(20));
    let expected: Vec<_> = [done(id(1), 20)]
        .into_iter()
        .chain((2..=5).map(|call| send(C, 13 + call, write(9, call, 0, "x"))))
        .collect();
    assert_eq!(outputs, expected);
}

#[test]
fn a_silent_member_is_replaced_by_another_with_the_same_number() {
    let mut bench = Bench::open();
    bench.put(id(1), "x");
    assert_eq!(bench.run_until(199), []);
    assert_eq!(bench.run_until(200), [send(B, 3, write(9, 1, 0, "x"))]);
    // B still takes A for the primary. So soon after A's silence that is in doubt: one call tries, the others do not.
    bench.put(id(2), "y");
    assert_eq!(bench.answer(B, 3, hint(A)), [send(A, 4, write(9, 1, 0, "x"))]);
    assert_eq!(bench.protocol.primary(), None);
    assert_eq!(bench.next_timer(), [send(C, 5, write(9, 2, 0, "y"))]);
    assert_eq!(bench.answer(C, 5, no_hint()), []);
    // An answer to the first attempt still counts, however late.
    assert_eq!(bench.answer(A, 2, written(10)), [done(id(1), 10), send(A, 6, write(9, 2, 0, "y"))]);
    assert_eq!(bench.protocol.primary(), Some(A));
    assert_eq!(bench.answer(A, 4, written(10)), [], "the call has ended");
}

#[test]
fn one_lost_message_is_no_reason_to_leave_a_primary_that_answers_others() {
    let mut bench = Bench::open();
    bench.put(id(1), "x");
    bench.run_until(100);
    bench.put(id(2), "y");
    assert_eq!(bench.answer(A, 3, written(11)), [done(id(2), 11)]);
    assert_eq!(bench.run_until(200), [send(A, 4, write(9, 1, 0, "x"))]);
    bench.run_until(300);
    bench.put(id(3), "z");
    assert_eq!(bench.answer(A, 5, written(12)), [done(id(3), 12)]);
    // Nor to wait longer: with a number that does not end, the window stops everyone.
    assert_eq!(bench.run_until(400), [send(A, 6, write(9, 1, 0, "x"))]);
}

#[test]
fn the_time_out_grows_while_nobody_answers() {
    let mut bench =
        Bench::with(ProtocolOptions { attempt_max: Duration::from_secs(1), ..ProtocolOptions::default() });
    bench.call(id(1), get("x"), 20_000);
    let mut times = vec![];
    while bench.now < at(5_000) {
        let outputs = bench.next_timer();
        if let [ProtocolOutput::Send { .. }] = outputs[..] {
            times.push(bench.now.get() / 1_000_000);
        }
    }
    assert_eq!(times[..7], [200, 400, 800, 1600, 2600, 3600, 4600]);
}

#[test]
fn a_slow_cluster_gets_more_time() {
    let mut bench = Bench::open();
    let mut sent = 1;
    for call in 1..20 {
        let outputs = bench.put(id(call), "x");
        sent += outputs.len() as u64;
        let latest = sent;
        sent += bench.run_until(call * 1_000 - 600).len() as u64;
        sent += bench
            .answer(A, latest, written(call))
            .iter()
            .filter(|o| !matches!(o, ProtocolOutput::Done { .. }))
            .count() as u64;
        bench.run_until(call * 1_000);
    }
    // 400 ms each: the first few are repeated, the later ones are not.
    let outputs = bench.put(id(100), "x");
    assert_eq!(outputs.len(), 1);
    assert_eq!(bench.run_until(19_400), []);
}

/// Rule E6.
#[test]
fn an_abandoned_call_is_retried_with_its_number_and_stays_unknown() {
    let mut bench = Bench::open();
    bench.call(id(1), Call::Write(put("x")), 100);
    assert_eq!(bench.answer(A, 2, Answer::Abandoned), [send(B, 3, write(9, 1, 0, "x"))]);
    assert_eq!(bench.answer(B, 3, Answer::Overloaded), []);
    // An Overloaded on a retry proves nothing about the first try.
    let outputs = bench.run_until(100);
    let (sends, last) = outputs.split_at(outputs.len() - 1);
    let cause = if sends.is_empty() { FailureReason::Overloaded } else { FailureReason::Silent };
    assert_eq!(last, [unknown(id(1), Cause::Deadline(cause))]);
}

/// Rule E6.
#[test]
fn a_deadline_without_any_proposal_is_not_applied() {
    let mut bench = Bench::open();
    bench.call(id(1), Call::Write(put("x")), 100);
    let mut outputs = bench.answer(A, 2, Answer::Overloaded);
    // Every attempt is shed.
    while outputs.iter().all(|output| matches!(output, ProtocolOutput::Send { .. })) {
        for output in std::mem::take(&mut outputs) {
            let ProtocolOutput::Send { member, message } = output else { unreachable!() };
            assert_eq!(message.what, write(9, 1, 0, "x"));
            assert_eq!(bench.answer(member, message.call, Answer::Overloaded), []);
        }
        outputs = bench.next_timer();
    }
    assert_eq!(outputs, [not_applied(id(1), Cause::Deadline(FailureReason::Overloaded))]);
    assert_eq!(bench.now, at(100));
    assert_eq!(bench.put(id(2), "y").len(), 1);
}

#[test]
fn a_deadline_while_an_attempt_is_open_is_unknown() {
    let mut bench = Bench::open();
    bench.call(id(1), Call::Write(put("x")), 100);
    assert_eq!(bench.run_until(100), [unknown(id(1), Cause::Deadline(FailureReason::Silent))]);
    // The number counts as ended: it may run late, but no more once this request has.
    assert_eq!(bench.put(id(2), "y"), [send(A, 3, write(9, 2, 1, "y"))]);
    assert_eq!(bench.answer(A, 2, written(10)), [], "too late");
}

#[test]
fn a_lost_connection_makes_the_outcome_unknown_and_an_unreachable_member_does_not() {
    for (lost, expected) in [
        (ProtocolInput::ConnectionLost { member: A }, true),
        (ProtocolInput::Unreachable { member: A }, false),
    ] {
        let mut bench = Bench::open();
        bench.call(id(1), Call::Write(put("x")), 100);
        assert_eq!(bench.input(lost), [send(B, 3, write(9, 1, 0, "x"))]);
        let mut outputs = bench.answer(B, 3, no_hint());
        // From now on every member is unreachable.
        while !matches!(outputs[..], [ProtocolOutput::Done { .. }]) {
            outputs = match outputs[..] {
                [ProtocolOutput::Send { member, .. }] => bench.input(ProtocolInput::Unreachable { member }),
                _ => bench.next_timer(),
            };
        }
        let cause = Cause::Deadline(FailureReason::Unreachable);
        let ended = if expected { unknown(id(1), cause) } else { not_applied(id(1), cause) };
        assert_eq!(outputs, [ended]);
    }
}

#[test]
fn a_refusal_of_the_only_attempt_is_not_applied() {
    let mut bench = Bench::open();
    bench.put(id(1), "x");
    let refused = Answer::Refused("too long".into());
    let cause = Cause::Refused("too long".into());
    assert_eq!(bench.answer(A, 2, refused.clone()), [not_applied(id(1), cause.clone())]);
    bench.put(id(2), "x");
    bench.answer(A, 3, Answer::Abandoned);
    assert_eq!(bench.answer(B, 4, refused), [unknown(id(2), cause)]);
    bench.put(id(3), "x");
    let outputs = bench.answer(C, 5, Answer::Written(Err(Rejection::Invalid)));
    assert!(outputs.is_empty(), "C was not asked: {outputs:?}");
}

/// Rule E5: what surely was not done is sent again under a new session, when nothing is in flight under the old one.
#[test]
fn e5_an_expired_session_is_replaced_for_calls_that_certainly_did_not_run() {
    let expired = Answer::Written(Err(Rejection::SessionExpired));
    for (last, ends) in [
        (written(30), vec![done(id(3), 30)]), // It had run before the session went.
        (expired.clone(), vec![]),
        (Answer::Overloaded, vec![]),
        (Answer::Refused("no".into()), vec![not_applied(id(3), Cause::Refused("no".into()))]),
    ] {
        let mut bench = Bench::with(ProtocolOptions { window: 3, ..ProtocolOptions::default() });
        bench.open_session(A, 1, 9);
        bench.put(id(1), "a");
        bench.put(id(2), "b");
        bench.put(id(3), "c");
        assert_eq!(bench.put(id(4), "d"), [], "the window is full");
        assert_eq!(bench.answer(A, 3, Answer::Overloaded), [], "b was surely not proposed");
        assert_eq!(bench.answer(A, 2, expired.clone()), [], "a ran nowhere; c may have run");
        assert_eq!(bench.put(id(5), "e"), [], "nothing new goes out under the old session");
        let again = last == Answer::Overloaded;
        let mut outputs = bench.answer(A, 4, last);
        if again {
            // It is sent once more as it was, and finds out.
            assert_eq!(outputs, []);
            outputs = bench.next_timer();
            let Some(ProtocolOutput::Send { message, .. }) = outputs.first() else { panic!("{outputs:?}") };
            assert_eq!(message.what, write(9, 3, 0, "c"));
            outputs = bench.answer(A, message.call, expired.clone());
        }
        let Some(ProtocolOutput::Send { member: A, message }) = outputs.pop() else { panic!("{outputs:?}") };
        assert!(opens(&message.what), "nothing is in flight any more");
        assert_eq!(outputs, ends);
        let opened = Answer::Written(Ok(outcome(1, Effect::SessionOpened(SessionId::new(50)))));
        let sent = bench.answer(A, message.call, opened);
        let values = if ends.is_empty() { ["a", "b", "c"] } else { ["a", "b", "d"] };
        let expected: Vec<_> = (1..).zip(values).map(|(number, value)| write(50, number, 0, value)).collect();
        let sent: Vec<_> = sent
            .into_iter()
            .map(|output| match output {
                ProtocolOutput::Send { message, .. } => message.what,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(sent, expected);
        // Late answers under the old session reach nobody.
        assert_eq!(bench.answer(A, 4, expired.clone()), []);
        assert_eq!(bench.answer(A, 2, written(7)), []);
    }
}

/// Rule E5: of two attempts one found no session, and the other may have run before.
#[test]
fn e5_an_attempt_that_is_not_answered_makes_the_outcome_unknown() {
    let expired = Answer::Written(Err(Rejection::SessionExpired));
    let mut bench = Bench::open();
    bench.put(id(1), "x");
    // It is silent, and asked again.
    let sent = bench.run_until(2_000);
    let retry = sent.iter().find_map(|output| match output {
        ProtocolOutput::Send { member, message } if matches!(message.what, ClientCall::Write(_)) => {
            Some((*member, message.call))
        }
        _ => None,
    });
    let (member, call) = retry.expect("it is sent again");
    assert_eq!(bench.answer(member, call, expired), [unknown(id(1), Cause::SessionExpired)]);
}

/// Rule E5.
#[test]
fn a_retry_that_finds_its_session_expired_is_unknown() {
    let mut bench = Bench::open();
    bench.put(id(1), "x");
    bench.answer(A, 2, Answer::Abandoned);
    let expired = Answer::Written(Err(Rejection::SessionExpired));
    assert_eq!(bench.answer(B, 3, expired), [unknown(id(1), Cause::SessionExpired)]);
}

#[test]
fn a_session_that_was_idle_for_long_is_replaced_before_it_is_used() {
    let mut bench = Bench::open();
    bench.put(id(1), "x");
    bench.answer(A, 2, written(10));
    bench.run_until(299_000);
    assert_eq!(bench.put(id(2), "x"), [send(A, 3, write(9, 2, 1, "x"))], "not that long");
    bench.answer(A, 3, written(11));
    bench.run_until(599_000);
    let outputs = bench.put(id(3), "x");
    assert!(
        matches!(&outputs[..], [ProtocolOutput::Send { message, .. }] if opens(&message.what)),
        "{outputs:?}"
    );
}

#[test]
fn a_cancelled_call_ends_and_releases_its_number() {
    let mut bench = Bench::open();
    bench.put(id(1), "x");
    assert_eq!(bench.input(ProtocolInput::Cancel { id: id(1) }), []);
    assert_eq!(bench.put(id(2), "y"), [send(A, 3, write(9, 2, 1, "y"))]);
    assert_eq!(bench.answer(A, 2, written(10)), []);
    assert_eq!(bench.protocol.pending(), 1);
}

#[test]
fn the_window_holds_new_requests_back_until_the_oldest_has_ended() {
    let mut bench = Bench::with(ProtocolOptions { window: 2, ..ProtocolOptions::default() });
    bench.open_session(A, 1, 9);
    bench.put(id(1), "a");
    bench.put(id(2), "b");
    assert_eq!(bench.put(id(3), "c"), []);
    assert_eq!(bench.answer(A, 3, written(11)), [done(id(2), 11)], "number 1 is still in flight");
    assert_eq!(bench.answer(A, 2, written(10)), [done(id(1), 10), send(A, 4, write(9, 3, 2, "c"))]);
    // A full window at the member is no result either: the request has not run, and is tried again.
    assert_eq!(bench.answer(A, 4, Answer::Written(Err(Rejection::WindowExceeded))), []);
    assert_eq!(bench.next_timer(), [send(A, 5, write(9, 3, 2, "c"))]);
}

#[test]
fn a_refused_session_ends_the_writes_that_wait_for_it() {
    let mut bench = Bench::new();
    bench.put(id(1), "x");
    bench.put(id(2), "y");
    let cause = Cause::Refused("no sessions here".into());
    assert_eq!(
        bench.answer(A, 1, Answer::Refused("no sessions here".into())),
        [not_applied(id(1), cause.clone()), not_applied(id(2), cause)]
    );
}

#[test]
fn a_write_that_waits_for_a_session_ends_by_its_deadline_with_the_reason() {
    let mut bench = Bench::new();
    bench.call(id(1), Call::Write(put("x")), 100);
    bench.answer(A, 1, Answer::Overloaded);
    bench.protocol.search.serves(A);
    let outputs = bench.run_until(100);
    let ended = outputs.last().unwrap();
    assert!(
        matches!(ended, ProtocolOutput::Done { result: Err(CallError::NotApplied(Cause::Deadline(_))), .. }),
        "{ended:?}"
    );
    // The session that was asked for may still come, and is then used.
    let opening = bench.protocol.next_attempt - 1;
    let opened = Answer::Written(Ok(outcome(1, Effect::SessionOpened(SessionId::new(7)))));
    assert_eq!(bench.answer(A, opening, opened), []);
    assert_eq!(bench.put(id(2), "y"), [send(A, opening + 1, write(7, 1, 0, "y"))]);
}

#[test]
fn reads_need_no_session_and_are_retried_freely() {
    let mut bench = Bench::new();
    let read =
        ClientCall::Read { mode: ReadMode::Linearizable, query: Query::Get { key: "x".into(), at: None } };
    assert_eq!(bench.call(id(1), get("x"), 1_000), [send(A, 1, read.clone())]);
    assert_eq!(bench.input(ProtocolInput::ConnectionLost { member: A }), []);
    assert_eq!(bench.next_timer(), [send(B, 2, read.clone())]);
    assert_eq!(bench.answer(B, 2, hint(C)), [send(C, 3, read)]);
    let revision = Revision::new(4);
    assert_eq!(
        bench.answer(C, 3, Answer::Value { record: None, revision }),
        [ProtocolOutput::Done { id: id(1), result: Ok(Reply::Value { record: None, revision }) }]
    );
    bench.call(id(2), get("x"), 100);
    bench.now = bench.now.after(Duration::from_millis(100));
    let outputs = bench.input(ProtocolInput::Timeout);
    assert_eq!(
        outputs,
        [not_applied(id(2), Cause::Deadline(FailureReason::Silent))],
        "a read changes nothing"
    );
}

#[test]
fn local_reads_go_to_the_preferred_member_and_then_to_the_others() {
    let mut bench = Bench::new();
    let query = Query::Get { key: "x".into(), at: None };
    let call = |prefer| Call::Read { mode: ReadMode::Local, query: query.clone(), prefer, only: None };
    let read = ClientCall::Read { mode: ReadMode::Local, query: query.clone() };
    assert_eq!(bench.call(id(1), call(Some(B)), 10_000), [send(B, 1, read.clone())]);
    assert_eq!(bench.input(ProtocolInput::Unreachable { member: B }), [send(C, 2, read.clone())]);
    assert_eq!(bench.input(ProtocolInput::ConnectionLost { member: C }), [send(A, 3, read.clone())]);
    assert_eq!(bench.answer(A, 3, Answer::Overloaded), []);
    assert_eq!(bench.next_timer(), [send(B, 4, read)], "after a pause, round again");
    assert_eq!(bench.protocol.primary(), None, "a local read does not look for the primary");
    let revision = Revision::new(4);
    let outputs = bench.answer(B, 4, Answer::Value { record: None, revision });
    assert_eq!(
        outputs,
        [ProtocolOutput::Done { id: id(1), result: Ok(Reply::Value { record: None, revision }) }]
    );
}

#[test]
fn reads_of_bounded_staleness_move_on_when_a_member_cannot_prove_it() {
    let mut bench = Bench::new();
    let query = Query::Get { key: "x".into(), at: None };
    let mode = ReadMode::MaxStaleness(Duration::from_secs(1));
    let read = ClientCall::Read { mode, query: query.clone() };
    let call = Call::Read { mode, query, prefer: Some(B), only: None };
    assert_eq!(bench.call(id(1), call, 10_000), [send(B, 1, read.clone())]);
    assert_eq!(bench.answer(B, 1, Answer::NotPrimary { hint: None }), [send(C, 2, read)]);
    let revision = Revision::new(4);
    let outputs = bench.answer(C, 2, Answer::Value { record: None, revision });
    assert_eq!(
        outputs,
        [ProtocolOutput::Done { id: id(1), result: Ok(Reply::Value { record: None, revision }) }]
    );
}

#[test]
fn a_read_of_one_member_is_asked_of_no_other() {
    let modes = [
        ReadMode::Linearizable,
        ReadMode::Local,
        ReadMode::AtLeast(Revision::new(9)),
        ReadMode::MaxStaleness(Duration::from_secs(1)),
    ];
    for mode in modes {
        let mut bench = Bench::new();
        let query = Query::Get { key: "x".into(), at: None };
        let read = ClientCall::Read { mode, query: query.clone() };
        let call = Call::Read { mode, query, prefer: Some(A), only: Some(B) };
        assert_eq!(bench.call(id(1), call, 60_000), [send(B, 1, read.clone())]);
        let behind = Answer::Future { newest: Revision::new(8) };
        let answers = [no_hint(), hint(C), behind, Answer::Overloaded];
        let answers = answers.into_iter().filter(|answer| {
            matches!(mode, ReadMode::AtLeast(_)) || !matches!(answer, Answer::Future { .. })
        });
        let mut attempt = 1;
        for answer in answers {
            assert_eq!(bench.answer(B, attempt, answer), [], "it pauses");
            attempt += 1;
            assert_eq!(bench.next_timer(), [send(B, attempt, read.clone())], "{mode:?}");
        }
        assert_eq!(bench.input(ProtocolInput::ConnectionLost { member: B }), []);
        assert_eq!(bench.next_timer(), [send(B, attempt + 1, read)]);
        let revision = Revision::new(9);
        let outputs = bench.answer(B, attempt + 1, Answer::Value { record: None, revision });
        assert_eq!(
            outputs,
            [ProtocolOutput::Done { id: id(1), result: Ok(Reply::Value { record: None, revision }) }]
        );
    }
}

#[test]
fn calls_to_one_member_have_one_attempt() {
    let mut bench = Bench::new();
    assert_eq!(bench.call(id(1), Call::Status { member: C }, 500), [send(C, 1, ClientCall::Status)]);
    assert_eq!(
        bench.input(ProtocolInput::Unreachable { member: C }),
        [not_applied(id(1), Cause::Failed(FailureReason::Unreachable))]
    );
    assert_eq!(bench.call(id(2), Call::Status { member: C }, 500), [send(C, 2, ClientCall::Status)]);
    assert_eq!(bench.run_until(1_000), [not_applied(id(2), Cause::Deadline(FailureReason::Silent))]);
    let handover = |to| Call::Handover { member: A, to };
    let wire = |to| ClientCall::Handover { to };
    assert_eq!(bench.call(id(3), handover(None), 500), [send(A, 3, wire(None))]);
    assert_eq!(
        bench.input(ProtocolInput::ConnectionLost { member: A }),
        [unknown(id(3), Cause::Failed(FailureReason::ConnectionLost))]
    );
    bench.call(id(4), handover(None), 500);
    assert_eq!(
        bench.answer(A, 4, Answer::Done),
        [ProtocolOutput::Done { id: id(4), result: Ok(Reply::Done) }]
    );
    assert_eq!(bench.call(id(5), handover(Some(C)), 500), [send(A, 5, wire(Some(C)))]);
    let refusal = SuccessorRefusal::Behind(C);
    assert_eq!(
        bench.answer(A, 5, Answer::HandoverRefused(refusal)),
        [ProtocolOutput::Done { id: id(5), result: Ok(Reply::HandoverRefused(refusal)) }]
    );
}

#[test]
fn closing_waits_for_what_is_in_flight_and_nothing_overtakes_it() {
    let mut bench = Bench::open();
    bench.put(id(1), "x");
    assert_eq!(bench.call(id(2), Call::CloseSession, 1_000), []);
    assert_eq!(bench.put(id(3), "y"), []);
    let close = request(9, 2, 1, Operation::CloseSession);
    assert_eq!(bench.answer(A, 2, written(10)), [done(id(1), 10), send(A, 3, close.clone())]);
    assert_eq!(bench.answer(A, 3, hint(B)), [send(B, 4, close)]);
    let outputs = bench.answer(B, 4, Answer::Written(Err(Rejection::SessionExpired)));
    let [ProtocolOutput::Done { result: Ok(Reply::Done), .. }, ProtocolOutput::Send { message, .. }] =
        &outputs[..]
    else {
        panic!("{outputs:?}")
    };
    assert!(opens(&message.what), "y goes to a session of its own");
}

#[test]
fn closing_needs_no_session() {
    let mut bench = Bench::new();
    let closed = |id| ProtocolOutput::Done { id, result: Ok(Reply::Done) };
    assert_eq!(bench.call(id(1), Call::CloseSession, 1_000), [closed(id(1))]);
    // One that is being opened is left alone.
    bench.call(id(2), Call::Write(put("x")), 1_000);
    bench.input(ProtocolInput::Cancel { id: id(2) });
    assert_eq!(bench.call(id(3), Call::CloseSession, 1_000), [closed(id(3))]);
    assert_eq!(bench.protocol.poll_timeout(), None);
}

#[test]
fn unexpected_answers_are_ignored() {
    let mut bench = Bench::open();
    bench.put(id(1), "x");
    assert_eq!(bench.answer(A, 77, written(1)), [], "no such attempt");
    assert_eq!(bench.answer(B, 2, written(1)), [], "not asked of B");
    let nonsense = Answer::Value { record: None, revision: Revision::new(1) };
    assert_eq!(bench.answer(A, 2, nonsense), []);
    assert_eq!(bench.next_timer(), [send(A, 3, write(9, 1, 0, "x"))]);
    assert_eq!(bench.answer(A, 3, written(10)), [done(id(1), 10)]);
    let read = bench.call(id(2), get("x"), 1_000);
    assert_eq!(read.len(), 1);
    assert_eq!(bench.answer(A, 4, written(1)), []);
    assert_eq!(bench.next_timer().len(), 1);
}

#[test]
fn a_call_whose_deadline_has_passed_ends_at_once() {
    let mut bench = Bench::open();
    for (call, what) in [Call::Write(put("x")), get("x"), Call::Status { member: A }].into_iter().zip(1..) {
        let outputs = bench.call(id(what), call, 0);
        assert_eq!(outputs, [not_applied(id(what), Cause::Deadline(FailureReason::Waiting))]);
    }
}

#[test]
fn the_same_seed_decides_the_same() {
    let run = |seed| {
        let mut protocol =
            ClientProtocol::new(seed, vec![A, B, C], ProtocolOptions::default(), Instant::ZERO);
        let call = Call::Write(put("x"));
        protocol.handle(Instant::ZERO, ProtocolInput::Call { id: id(1), call, deadline: at(2_000) });
        let mut trace = Vec::new();
        while let Some(due) = protocol.poll_timeout() {
            while let Some(output) = protocol.poll_output() {
                if let ProtocolOutput::Send { member, message } = &output {
                    let message = ServerMessage { call: message.call, answer: no_hint() };
                    protocol.handle(due, ProtocolInput::Answer { member: *member, message });
                }
                trace.push((due, output));
            }
            protocol.handle(due, ProtocolInput::Timeout);
            if trace.len() > 500 {
                break;
            }
        }
        trace
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5), run(6));
}
