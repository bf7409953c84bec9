//! The messages and results of writes and other single calls.

use super::*;

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

async fn answer_skip(cluster: &mut Cluster, to: u64, revision: u64) {
    let incoming = cluster.next().await;
    let to = Revision::new(to);
    assert_eq!(incoming.request().operation, Operation::Command(Command::SkipRevisions { to }));
    incoming.written(revision, Effect::RevisionsSkipped { kept: 1_000 });
}

/// Others write at the same time: the target is named, so no more is dropped for that.
#[tokio::test(start_paused = true)]
async fn a_compaction_skips_as_many_revisions_as_needed() {
    let (mut cluster, client) = ready().await;
    for (before, oldest) in [(None, 5_000), (Some(4_600), 4_600), (Some(9_000), 5_000)] {
        let compact = before.into_iter().fold(client.compact(), |it, at| it.before(Revision::new(at)));
        let compact = tokio::spawn(compact.into_future());
        answer_skip(&mut cluster, 0, 5_000).await;
        answer_skip(&mut cluster, oldest + 1_000, oldest + 1_000).await;
        let done = compact.await.unwrap().unwrap();
        assert_eq!((done.oldest.get(), done.revision.get()), (oldest, oldest + 1_000));
    }
    // It was dropped long ago.
    let compact = tokio::spawn(client.compact().before(Revision::new(3)).into_future());
    answer_skip(&mut cluster, 0, 5_000).await;
    assert_eq!(compact.await.unwrap().unwrap().oldest, Revision::new(4_000));
}

#[tokio::test(start_paused = true)]
async fn the_revision_is_raised_to_the_greatest_one_at_most() {
    let (mut cluster, client) = ready().await;
    let max = Command::MAX_SKIP_TO;
    for (to, revision) in [(max.get(), max.get()), (5, 7)] {
        let raise = tokio::spawn(client.raise_revision(Revision::new(to)).into_future());
        answer_skip(&mut cluster, to, revision).await;
        let raised = raise.await.unwrap().unwrap();
        assert_eq!(raised.revision, Revision::new(revision), "it is not lowered");
        assert_eq!(raised.timestamp, Timestamp::new(77), "by the clock of the cluster");
    }
    for to in [max.next(), Revision::new(u64::MAX)] {
        let refused = client.raise_revision(to).await;
        assert_eq!(refused, Err(WriteError::Malformed(crate::message::RequestError::Skip { to, max })));
    }
}

/// Rule E2, F-net-7: the answers are lost. Each retry is the same request bit for bit, so it runs once, and its outcome
/// is the first one, whatever others have written since.
#[tokio::test(start_paused = true)]
async fn a_skip_whose_answer_is_lost_is_sent_again_with_the_same_number() {
    async fn lose_and_answer(cluster: &mut Cluster, to: u64, revision: u64) {
        let lost = cluster.next().await;
        let broken = cluster.next().await;
        broken.hang_up();
        let retried = cluster.next().await;
        let to = Revision::new(to);
        assert_eq!(lost.request().operation, Operation::Command(Command::SkipRevisions { to }));
        assert!([&broken, &retried].iter().all(|it| it.message.what == lost.message.what), "bit for bit");
        retried.written(revision, Effect::RevisionsSkipped { kept: 1_000 });
    }
    let (mut cluster, client) = ready().await;
    let compact = tokio::spawn(client.compact().deadline(Duration::from_secs(60)).into_future());
    lose_and_answer(&mut cluster, 0, 5_000).await;
    lose_and_answer(&mut cluster, 6_000, 6_000).await;
    let done = compact.await.unwrap().unwrap();
    assert_eq!((done.oldest.get(), done.revision.get()), (5_000, 6_000));
    let raise = client.raise_revision(Revision::new(9_000)).deadline(Duration::from_secs(60));
    let raise = tokio::spawn(raise.into_future());
    lose_and_answer(&mut cluster, 9_000, 9_000).await;
    assert_eq!(raise.await.unwrap().unwrap().revision, Revision::new(9_000));
    cluster.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_skip_whose_answer_is_lost_until_the_deadline_may_have_taken_effect() {
    let (mut cluster, client) = ready().await;
    let short = Duration::from_millis(700);
    let raise = tokio::spawn(client.raise_revision(Revision::new(9_000)).deadline(short).into_future());
    cluster.next().await;
    assert!(raise.await.unwrap().unwrap_err().outcome_unknown());
    let compact = tokio::spawn(client.compact().deadline(short).into_future());
    let mut incoming = cluster.next().await;
    while incoming.request().operation != Operation::Command(Command::SkipRevisions { to: Revision::ZERO }) {
        incoming = cluster.next().await;
    }
    assert!(compact.await.unwrap().unwrap_err().outcome_unknown());
}

#[tokio::test(start_paused = true)]
async fn a_touch_sends_no_value_and_returns_whether_the_key_existed() {
    let (mut cluster, client) = ready().await;
    let secs = Duration::from_secs;
    for (touch, ttl_ms, existed) in
        [(client.touch("x", secs(2)), Some(2_000), true), (client.persist("x"), None, false)]
    {
        let touch = tokio::spawn(touch.if_revision(Revision::new(3)).into_future());
        let incoming = cluster.next().await;
        let condition = Some(Condition::Revision(Revision::new(3)));
        assert_eq!(
            incoming.request().operation,
            Operation::Command(Command::Touch { key: "x".into(), ttl_ms, condition })
        );
        incoming.written(12, Effect::Touched { existed });
        let touched = touch.await.unwrap().unwrap();
        assert_eq!((touched.existed, touched.revision), (existed, Revision::new(12)));
    }
    let touch = tokio::spawn(client.touch("x", secs(1)).if_value("v").into_future());
    cluster.next().await.written(13, Effect::ConditionFailed { found: Some(Revision::new(7)) });
    assert!(touch.await.unwrap().unwrap_err().is_condition_failed());
    let error = client.touch("x", Duration::ZERO).await.unwrap_err();
    assert!(
        matches!(error, WriteError::Malformed(crate::message::RequestError::Ttl { ms: 0, .. })),
        "{error}"
    );
    cluster.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn limits_are_reported_without_asking_anyone() {
    let (mut cluster, client) = ready().await;
    assert_eq!((client.max_key_bytes(), client.max_value_bytes()), (100, 1000));
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
    let refusal = SuccessorRefusal::Behind(C);
    for (states, expected, to, answer) in [
        ([(Primary, 3), (Primary, 4), (Backup, 4)], Some(B), None, Answer::Done),
        ([(Primary, 3), (Primary, 4), (Backup, 4)], Some(B), Some(C), Answer::Done),
        ([(Primary, 3), (Primary, 4), (Backup, 4)], Some(B), Some(C), Answer::HandoverRefused(refusal)),
        ([(Backup, 3), (ViewChange, 4), (Backup, 4)], None, None, Answer::Done),
    ] {
        let asking = tokio::spawn({
            let client = client.clone();
            async move {
                match to {
                    Some(successor) => client.handover_to(successor).await,
                    None => client.handover().await,
                }
            }
        });
        for _ in 0..3 {
            let incoming = cluster.next().await;
            let (state, view) = states[usize::from(incoming.member.get())];
            incoming.answer(Answer::Status(Box::new(status(incoming.member, state, view))));
        }
        if let Some(primary) = expected {
            let incoming = cluster.next().await;
            assert_eq!((incoming.member, &incoming.message.what), (primary, &ClientCall::Handover { to }));
            let is_refused = answer != Answer::Done;
            incoming.answer(answer);
            let expected = if is_refused { Err(AdminError::Successor(refusal)) } else { Ok(()) };
            assert_eq!(asking.await.unwrap(), expected);
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
