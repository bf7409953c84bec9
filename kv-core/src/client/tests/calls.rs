//! The messages and results of single calls.

use super::*;
use futures::StreamExt;

/// A client of A whose session 9 is open, with its first put done.
async fn ready() -> (Cluster, Client) {
    let mut cluster = Cluster::start().await;
    let client = cluster.client().await;
    let write = spawn_put(&client, "first", "1");
    cluster.open_session(9).await;
    let first = cluster.next().await;
    first.assert_write(A, 9, 1, 0, put("first", "1"));
    first.written(10, Effect::Put);
    assert_eq!(write.await.unwrap().unwrap().revision, Revision::new(10));
    (cluster, client)
}

fn spawn_put(
    client: &Client,
    key: &'static str,
    value: &'static str,
) -> JoinHandle<Result<Written, WriteError>> {
    tokio::spawn(client.put(key, value).into_future())
}

#[tokio::test(start_paused = true)]
async fn a_hint_is_followed_with_the_same_number() {
    let (mut cluster, client) = ready().await;
    let write = spawn_put(&client, "x", "1");
    let first = cluster.next().await;
    first.assert_write(A, 9, 2, 1, put("x", "1"));
    first.answer(Answer::NotPrimary { hint: Some(C) });
    let second = cluster.next().await;
    second.assert_write(C, 9, 2, 1, put("x", "1"));
    assert_eq!(first.message.what, second.message.what, "bit for bit");
    second.written(12, Effect::Put);
    let written = write.await.unwrap().unwrap();
    assert_eq!((written.revision, written.timestamp), (Revision::new(12), Timestamp::new(77)));
}

#[tokio::test(start_paused = true)]
async fn after_silence_or_a_broken_connection_the_next_member_gets_the_same_number() {
    let (mut cluster, client) = ready().await;
    let write = spawn_put(&client, "x", "1");
    let first = cluster.next().await;
    // F-net-7: A has it, and its answer is lost.
    let second = cluster.next().await;
    second.assert_write(B, 9, 2, 1, put("x", "1"));
    second.hang_up();
    let third = cluster.next().await;
    third.assert_write(C, 9, 2, 1, put("x", "1"));
    assert_eq!(first.message.what, third.message.what);
    third.written(12, Effect::Put);
    assert_eq!(write.await.unwrap().unwrap().revision, Revision::new(12));
}

#[tokio::test(start_paused = true)]
async fn calls_move_from_a_killed_primary_to_the_next() {
    let (mut cluster, client) = ready().await;
    let write = spawn_put(&client, "x", "1");
    cluster.next().await.assert_write(A, 9, 2, 1, put("x", "1"));
    cluster.kill(A).await;
    let mut retry = cluster.next().await;
    while retry.member == B {
        // B believes in A for a while.
        retry.answer(Answer::NotPrimary { hint: Some(A) });
        retry = cluster.next().await;
    }
    retry.assert_write(C, 9, 2, 1, put("x", "1"));
    retry.written(12, Effect::Put);
    assert!(write.await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_deadline_ends_as_unknown_if_the_write_may_have_been_proposed() {
    let (mut cluster, client) = ready().await;
    let write = tokio::spawn(client.put("x", "1").deadline(Duration::from_millis(700)).into_future());
    let start = tokio::time::Instant::now();
    let error = write.await.unwrap().unwrap_err();
    assert_eq!(start.elapsed(), Duration::from_millis(700));
    assert!(error.outcome_unknown() && !error.is_retryable(), "{error}");
    assert_eq!(error.to_string(), "the outcome is unknown: the deadline passed: no answer arrived");
    let first = cluster.next().await;
    first.written(12, Effect::Put); // Too late for anyone.
    while let Ok(retry) = cluster.calls.try_recv() {
        assert_eq!(retry.message.what, first.message.what);
    }
    // Its number counts as ended: from here on it does not run any more.
    let _next = spawn_put(&client, "y", "1");
    let next = cluster.next().await;
    next.assert_write(next.member, 9, 3, 2, put("y", "1"));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_ends_as_not_applied_if_no_member_accepted_the_write() {
    let (mut cluster, client) = ready().await;
    for id in [A, B, C] {
        cluster.kill(id).await;
    }
    let error = client.put("x", "1").deadline(Duration::from_secs(1)).await.unwrap_err();
    assert!(error.is_retryable() && !error.outcome_unknown(), "{error}");
    assert_eq!(error.to_string(), "not applied: the deadline passed: no member could be reached");
    let error = client.get("x").deadline(Duration::from_secs(1)).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_dropped_future_releases_its_number() {
    let (mut cluster, client) = ready().await;
    let write = spawn_put(&client, "x", "1");
    cluster.next().await.assert_write(A, 9, 2, 1, put("x", "1"));
    write.abort();
    assert!(write.await.unwrap_err().is_cancelled());
    let next = spawn_put(&client, "y", "1");
    let incoming = cluster.next().await;
    incoming.assert_write(A, 9, 3, 2, put("y", "1"));
    incoming.written(12, Effect::Put);
    assert!(next.await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn conditions_are_sent_and_their_failure_has_its_own_error() {
    let (mut cluster, client) = ready().await;
    let put = |client: &Client| client.put("x", "1");
    let cases = [
        (put(&client).if_absent(), Condition::Absent),
        (put(&client).if_present(), Condition::Present),
        (put(&client).if_revision(Revision::new(5)), Condition::Revision(Revision::new(5))),
        (put(&client).if_value("old"), Condition::Value("old".into())),
    ];
    for (write, expected) in cases {
        let write = tokio::spawn(write.into_future());
        let incoming = cluster.next().await;
        let Operation::Command(Command::Put { condition, .. }) = incoming.request().operation else {
            panic!("{incoming:?}")
        };
        assert_eq!(condition, Some(expected));
        incoming.written(12, Effect::ConditionFailed { found: Some(Revision::new(7)) });
        let error = write.await.unwrap().unwrap_err();
        assert_eq!(
            error,
            WriteError::ConditionFailed { found: Some(Revision::new(7)), revision: Revision::new(12) }
        );
        assert!(error.is_condition_failed() && !error.is_retryable() && !error.outcome_unknown());
        assert_eq!(
            error.to_string(),
            "the condition did not hold at revision 12: the key was last changed at revision 7"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_delete_returns_whether_the_key_existed() {
    let (mut cluster, client) = ready().await;
    for existed in [true, false] {
        let delete = tokio::spawn(client.delete("x").if_present().into_future());
        let incoming = cluster.next().await;
        let condition = Some(Condition::Present);
        assert_eq!(
            incoming.request().operation,
            Operation::Command(Command::Delete { key: "x".into(), condition })
        );
        incoming.written(12, Effect::Deleted { existed });
        let deleted = delete.await.unwrap().unwrap();
        assert_eq!((deleted.existed, deleted.revision), (existed, Revision::new(12)));
    }
}

#[tokio::test(start_paused = true)]
async fn limits_are_reported_without_asking_anyone() {
    let (mut cluster, client) = ready().await;
    let long = "k".repeat(101);
    assert_eq!(client.put("", "v").await.unwrap_err(), WriteError::Key { len: 0, max: 100 });
    assert_eq!(client.put(&long, "v").await.unwrap_err(), WriteError::Key { len: 101, max: 100 });
    assert_eq!(client.delete(&long).await.unwrap_err(), WriteError::Key { len: 101, max: 100 });
    let value = vec![0; 1001];
    assert_eq!(client.put("x", value.clone()).await.unwrap_err(), WriteError::Value { len: 1001, max: 1000 });
    let error = client.delete("x").if_value(value).await.unwrap_err();
    assert_eq!(error, WriteError::Value { len: 1001, max: 1000 });
    assert_eq!(client.get("").await.unwrap_err(), ReadError::Key { len: 0, max: 100 });
    cluster.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_contains_the_members_reason() {
    let (mut cluster, client) = ready().await;
    let write = spawn_put(&client, "x", "1");
    cluster.next().await.answer(Answer::Refused("not today".into()));
    assert_eq!(write.await.unwrap().unwrap_err(), WriteError::Refused("not today".into()));
    let read = tokio::spawn(client.get("x").into_future());
    cluster.next().await.answer(Answer::Refused("not today".into()));
    assert_eq!(read.await.unwrap().unwrap_err(), ReadError::Refused("not today".into()));
}

#[tokio::test(start_paused = true)]
async fn reads_return_the_revision_at_which_they_were_read() {
    let mut cluster = Cluster::start().await;
    let client = cluster.client().await;
    let read = tokio::spawn({
        let get = client.get("x");
        async move { get.with_revision().await }
    });
    let revision = Revision::new(12);
    cluster.next().await.answer(Answer::Value { record: None, revision });
    let read = read.await.unwrap().unwrap();
    assert_eq!((read.found, read.revision), (None, revision), "also of what does not exist");
    let read = tokio::spawn({
        let get = client.get_many(["x", "y"]).at_least(revision).member(B);
        async move { get.with_revision().await }
    });
    let asked = cluster.next().await;
    assert_eq!(asked.member, B);
    let records = vec![("y".into(), record("1", 7))];
    asked.answer(Answer::Records { records, next: None, revision });
    let read = read.await.unwrap().unwrap();
    assert_eq!((read.found, read.revision), (vec![None, Some(record("1", 7))], revision));
    let error = client.get("x").member(MemberId::new(9)).await.unwrap_err();
    assert_eq!(error.to_string(), "the cluster has no member 9: kv status lists its members");
}

#[tokio::test(start_paused = true)]
async fn reads_return_the_stored_records() {
    let mut cluster = Cluster::start().await;
    let client = cluster.client().await;
    for expected in [Some(record("value", 4)), None] {
        let read = tokio::spawn(client.get("x").into_future());
        let incoming = cluster.next().await;
        let query = Query::Get { key: "x".into(), at: None };
        assert_eq!(incoming.message.what, ClientCall::Read { mode: ReadMode::Linearizable, query });
        incoming.answer(Answer::Value { record: expected.clone(), revision: Revision::new(9) });
        assert_eq!(read.await.unwrap().unwrap(), expected);
    }
}

fn page(keys: &[&'static str], next: Option<&'static str>) -> Answer {
    let records = keys.iter().map(|key| (Bytes::from(*key), record("v", 1))).collect();
    Answer::Records { records, next: next.map(Into::into), revision: Revision::new(9) }
}

fn scan(from: &'static str, to: Option<&'static str>, limit: u32) -> ClientCall {
    let query = Query::Scan {
        from: from.into(),
        to: to.map(Into::into),
        limit,
        reverse: false,
        keys_only: false,
        at: None,
    };
    ClientCall::Read { mode: ReadMode::Linearizable, query }
}

/// A later page: at the revision of the first.
fn later(from: &'static str, to: Option<&'static str>, limit: u32) -> ClientCall {
    let ClientCall::Read { mode, query: Query::Scan { from, to, limit, reverse, keys_only, .. } } =
        scan(from, to, limit)
    else {
        unreachable!("it is a scan")
    };
    let at = Some(Revision::new(9));
    ClientCall::Read { mode, query: Query::Scan { from, to, limit, reverse, keys_only, at } }
}

/// Rule R2, of the pages.
#[tokio::test(start_paused = true)]
async fn a_scan_reads_all_pages_at_one_revision() {
    let mut cluster = Cluster::start().await;
    let client = cluster.client().await;
    let reading = tokio::spawn(client.scan("a/").into_future());
    // One of the pages is empty: so many keys were stepped over.
    let pages = [
        ("a/", &["a/1", "a/2"][..], Some("a/21")),
        ("a/21", &[], Some("a/3")),
        ("a/3", &["a/3"], Some("a/3\0")),
        ("a/3\0", &[], None),
    ];
    for (from, keys, next) in pages {
        let incoming = cluster.next().await;
        let asks = if from == "a/" { scan } else { later };
        assert_eq!(incoming.message.what, asks(from, Some("a0"), 1000));
        incoming.answer(page(keys, next));
    }
    let keys: Vec<_> = reading.await.unwrap().unwrap().into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["a/1", "a/2", "a/3"]);
}

#[tokio::test(start_paused = true)]
async fn a_limit_ends_a_scan() {
    let mut cluster = Cluster::start().await;
    let client = cluster.client().await;
    assert_eq!(client.scan("").limit(0).await.unwrap(), []);
    let reading = tokio::spawn(client.scan("").limit(3).into_future());
    let incoming = cluster.next().await;
    assert_eq!(incoming.message.what, scan("", None, 3));
    incoming.answer(page(&["a", "b"], Some("b\0")));
    let incoming = cluster.next().await;
    assert_eq!(incoming.message.what, later("b\0", None, 1));
    incoming.answer(page(&["c"], Some("c\0")));
    assert_eq!(reading.await.unwrap().unwrap().len(), 3);
    cluster.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn ranges_take_every_kind_of_bound() {
    use std::ops::Bound::{Excluded, Included};
    let mut cluster = Cluster::start().await;
    let client = cluster.client().await;
    for (reading, expected) in [
        (client.scan_range("b".."d"), scan("b", Some("d"), 1000)),
        (client.scan_range("b"..), scan("b", None, 1000)),
        (client.scan_range(.."d"), scan("", Some("d"), 1000)),
        (client.scan_range("b"..="d"), scan("b", Some("d\0"), 1000)),
        (client.scan_range::<&str>((Excluded("b"), Included("d"))), scan("b\0", Some("d\0"), 1000)),
        (client.scan_range::<&str>(..), scan("", None, 1000)),
        (client.scan([0xff, 0xff]), {
            let query = Query::Scan {
                from: Bytes::from_static(&[0xff, 0xff]),
                to: None,
                limit: 1000,
                reverse: false,
                keys_only: false,
                at: None,
            };
            ClientCall::Read { mode: ReadMode::Linearizable, query }
        }),
        (client.scan([7, 0xff]), {
            let (from, to) = (Bytes::from_static(&[7, 0xff]), Some(Bytes::from_static(&[8])));
            ClientCall::Read {
                mode: ReadMode::Linearizable,
                query: Query::Scan { from, to, limit: 1000, reverse: false, keys_only: false, at: None },
            }
        }),
    ] {
        let reading = tokio::spawn(reading.into_future());
        let incoming = cluster.next().await;
        assert_eq!(incoming.message.what, expected);
        incoming.answer(page(&[], None));
        assert_eq!(reading.await.unwrap().unwrap(), []);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_asks_for_a_page_when_the_last_one_is_used_up() {
    let mut cluster = Cluster::start().await;
    let client = cluster.client().await;
    let mut stream = Box::pin(client.scan("").local().stream());
    let (first, incoming) = tokio::join!(stream.next(), async {
        let incoming = cluster.next().await;
        incoming.answer(page(&["a", "b"], Some("b\0")));
        incoming
    });
    assert!(matches!(incoming.message.what, ClientCall::Read { mode: ReadMode::Local, .. }));
    assert_eq!(first.unwrap().unwrap().0, "a");
    assert_eq!(stream.next().await.unwrap().unwrap().0, "b");
    cluster.quiet().await;
    let (third, incoming) = tokio::join!(stream.next(), async {
        let incoming = cluster.next().await;
        incoming.answer(Answer::Refused("no".into()));
        incoming
    });
    // Whoever is asked now may lag behind.
    let least = ReadMode::AtLeast(Revision::new(9));
    assert!(matches!(incoming.message.what, ClientCall::Read { mode, .. } if mode == least));
    assert_eq!(third.unwrap().unwrap_err(), ReadError::Refused("no".into()));
    assert!(stream.next().await.is_none(), "an error is the end");
}

#[tokio::test(start_paused = true)]
async fn the_status_of_every_member_is_shown_even_if_one_is_dead() {
    let mut cluster = Cluster::start().await;
    let client = cluster.client().await;
    cluster.kill(B).await;
    let asking = tokio::spawn({
        let client = client.clone();
        async move { client.cluster_status().await }
    });
    for _ in 0..2 {
        let incoming = cluster.next().await;
        assert_eq!(incoming.message.what, ClientCall::Status);
        incoming.answer(Answer::Status(Box::new(status(incoming.member, MemberState::Backup, 3))));
    }
    let reports = asking.await.unwrap();
    let found: Vec<_> = reports.iter().map(|report| (report.id, report.status.is_ok())).collect();
    assert_eq!(found, [(A, true), (B, false), (C, true)]);
    assert_eq!(reports[1].status.as_ref().unwrap_err().to_string(), "no member could be reached");
    assert_eq!(reports[1].address, address(B));
    let error = client.member_status(MemberId::new(9)).await.unwrap_err();
    assert_eq!(error.to_string(), "the cluster has no member 9");
}

#[tokio::test(start_paused = true)]
async fn a_handover_is_requested_from_the_newest_primary() {
    let mut cluster = Cluster::start().await;
    let client = cluster.client().await;
    use MemberState::{Backup, Primary, ViewChange};
    for (states, expected) in [
        ([(Primary, 3), (Primary, 4), (Backup, 4)], Some(B)),
        ([(Backup, 3), (ViewChange, 4), (Backup, 4)], None),
    ] {
        let asking = tokio::spawn({
            let client = client.clone();
            async move { client.handover().await }
        });
        for _ in 0..3 {
            let incoming = cluster.next().await;
            let (state, view) = states[usize::from(incoming.member.get())];
            incoming.answer(Answer::Status(Box::new(status(incoming.member, state, view))));
        }
        if let Some(primary) = expected {
            let incoming = cluster.next().await;
            assert_eq!((incoming.member, &incoming.message.what), (primary, &ClientCall::Handover));
            incoming.answer(Answer::Done);
            asking.await.unwrap().unwrap();
        } else {
            assert_eq!(asking.await.unwrap().unwrap_err(), AdminError::NoPrimary);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn closing_waits_for_what_is_in_flight_and_ends_the_session() {
    let (mut cluster, client) = ready().await;
    let write = spawn_put(&client, "x", "1");
    let incoming = cluster.next().await;
    let closing = tokio::spawn({
        let client = client.clone();
        async move { client.close().await }
    });
    cluster.quiet().await;
    assert_eq!(client.clone().put("y", "1").await.unwrap_err(), WriteError::Closed);
    assert_eq!(client.get("y").await.unwrap_err(), ReadError::Closed);
    incoming.written(12, Effect::Put);
    assert!(write.await.unwrap().is_ok());
    let close = cluster.next().await;
    assert_eq!(close.request().operation, Operation::CloseSession);
    close.written(13, Effect::SessionClosed);
    closing.await.unwrap();
    client.close().await; // Once more does no harm.
    tokio::time::timeout(Duration::from_secs(1), close.answers.closed()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn closing_ends_without_a_cluster() {
    let (mut cluster, client) = ready().await;
    for id in [A, B, C] {
        cluster.kill(id).await;
    }
    let start = tokio::time::Instant::now();
    client.close().await;
    assert!(start.elapsed() <= Duration::from_secs(2), "{:?}", start.elapsed());
}

#[tokio::test]
async fn many_calls_at_once_each_get_their_own_result() {
    let mut cluster = Cluster::start().await;
    let client = cluster.client().await;
    let calls: Vec<_> = (0..2_000u64)
        .map(|n| {
            tokio::spawn(client.put(n.to_be_bytes(), "v").deadline(Duration::from_secs(60)).into_future())
        })
        .collect();
    cluster.open_session(9).await;
    let mut numbers = std::collections::BTreeSet::new();
    while numbers.len() < calls.len() {
        let incoming = cluster.next().await;
        let request = incoming.request();
        let Operation::Command(Command::Put { key, .. }) = &request.operation else { panic!("{request:?}") };
        let in_flight = request.number.distance_from(request.acked_through);
        assert!(in_flight <= 16, "the members' window is kept: {in_flight}");
        numbers.insert(request.number);
        let mut n = [0; 8];
        n.copy_from_slice(key);
        incoming.written(100 + u64::from_be_bytes(n), Effect::Put);
    }
    for (n, call) in (0..).zip(calls) {
        assert_eq!(call.await.unwrap().unwrap().revision, Revision::new(100 + n));
    }
}

#[tokio::test(start_paused = true)]
async fn a_read_of_another_revision_returns_why_it_cannot_be_read() {
    let mut cluster = Cluster::start().await;
    let client = cluster.client().await;
    let (oldest, newest) = (Revision::new(5), Revision::new(9));
    for (answer, error) in [
        (Answer::Compacted { oldest }, ReadError::Compacted { oldest }),
        (Answer::Future { newest }, ReadError::Future { newest }),
    ] {
        let reading = tokio::spawn(client.get("x").at(Revision::new(3)).into_future());
        let incoming = cluster.next().await;
        let query = Query::Get { key: "x".into(), at: Some(Revision::new(3)) };
        assert_eq!(incoming.message.what, ClientCall::Read { mode: ReadMode::Linearizable, query });
        incoming.answer(answer);
        assert_eq!(reading.await.unwrap().unwrap_err(), error);
    }
}

/// A member that has not come so far is no answer: another one is asked.
#[tokio::test(start_paused = true)]
async fn a_read_at_least_at_a_revision_asks_the_next_member_when_one_lags() {
    let mut cluster = Cluster::start().await;
    let client = cluster.client().await;
    let least = Revision::new(9);
    let reading = tokio::spawn(client.get("x").at_least(least).into_future());
    for _ in 0..2 {
        let incoming = cluster.next().await;
        assert!(
            matches!(incoming.message.what, ClientCall::Read { mode, .. } if mode == ReadMode::AtLeast(least))
        );
        incoming.answer(Answer::Future { newest: Revision::new(8) });
    }
    cluster.next().await.answer(Answer::Value { record: None, revision: least });
    assert_eq!(reading.await.unwrap().unwrap(), None);
}

/// The longest times there are mean a year, for every kind of call.
#[tokio::test(start_paused = true)]
async fn endless_deadlines_are_accepted() {
    let mut cluster = Cluster::start().await;
    let builder = cluster.builder().deadline(Duration::MAX).connect_timeout(Duration::MAX);
    let client = builder.connect().await.unwrap();
    let update = tokio::spawn(async move {
        let updated = client.typed::<u32>("n/").update("a", |_| None).await;
        client.close().await;
        updated
    });
    let read = cluster.next().await;
    read.answer(Answer::Value { record: None, revision: Revision::new(1) });
    assert_eq!(update.await.unwrap().unwrap(), None);
}
