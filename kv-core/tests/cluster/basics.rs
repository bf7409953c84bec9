//! What a healthy cluster does.

use super::harness::{Harness, Net, eventually, id, options, patient_options};
use futures::FutureExt;
use kv_core::client::Revision;
use kv_core::config::Role;
use kv_core::error::{ReadError, WriteError};
use kv_core::message::{MemberState, RequestError, StepFailure, StepResult};
use std::future::IntoFuture;
use std::pin::pin;
use std::time::Duration;

pub(crate) async fn three_members_form_and_serve(net: Net) {
    let harness = Harness::three(net).await;
    let client = harness.client().await;
    assert_eq!(client.get("colour").await.expect("a read"), None);
    let first = client.put("colour", "red").await.expect("a put");
    let second = client.put("colour", "blue").await.expect("a put");
    assert!(second.revision > first.revision);

    let record = client.get("colour").await.expect("a read").expect("it exists");
    assert_eq!(record.value, "blue");
    assert_eq!((record.created, record.modified, record.version), (first.revision, second.revision, 2));

    assert!(client.delete("colour").await.expect("a delete").existed);
    assert!(!client.delete("colour").await.expect("a delete").existed);
    assert_eq!(client.get("colour").await.expect("a read"), None);
}

/// One durable node is a cluster, too.
pub(crate) async fn one_member_alone_is_a_durable_store(net: Net) {
    let mut harness = Harness::with(net, &[Role::Data], options()).await;
    harness.client().await.put("key", "value").await.expect("a put");
    harness.kill(0);
    harness.start_all().await;
    let record = harness.client().await.get("key").await.expect("a read").expect("it exists");
    assert_eq!(record.value, "value");
}

pub(crate) async fn guards_decide(net: Net) {
    let harness = Harness::three(net).await;
    let client = harness.client().await;
    let made = client.put("key", "1").if_absent().await.expect("it is absent");
    let again = client.put("key", "2").if_absent().await.expect_err("it is there");
    let WriteError::ConditionFailed { found, revision } = again else { panic!("{again:?}") };
    assert_eq!(found, Some(made.revision));
    assert!(revision > made.revision, "it failed later than that");
    let changed = client.put("key", "2").if_revision(made.revision).await.expect("it is that revision");
    client.put("key", "3").if_revision(made.revision).await.expect_err("it is another revision");
    client.delete("key").if_value("1").await.expect_err("it has another value");
    client.delete("key").if_value("2").await.expect("it has this value");
    let gone = client.put("key", "3").if_present().await.expect_err("it is gone");
    assert!(matches!(gone, WriteError::ConditionFailed { found: None, .. }), "{gone:?}");
    assert!(changed.revision > made.revision);
}

pub(crate) async fn transactions_are_atomic(net: Net) {
    let harness = Harness::three(net).await;
    let client = harness.client().await;
    let start = client.put("account/a", "100").await.expect("a put");
    assert_eq!(client.add("account/b", 5).await.expect("an addition").sum, 5);
    let transfer = client.transaction().if_revision("account/a", start.revision);
    let transfer = transfer.add("account/a", -30).add("account/b", 30).otherwise().put("refused", "yes");
    let done = transfer.clone().await.expect("a transaction");
    assert!(done.succeeded);
    assert_eq!(done.results, [StepResult::Added { sum: 70 }, StepResult::Added { sum: 35 }]);
    for key in ["account/a", "account/b"] {
        let record = client.get(key).await.expect("a read").expect("it is there");
        assert_eq!(record.modified, done.revision, "{key}");
    }
    let again = transfer.await.expect("a transaction");
    assert_eq!((again.succeeded, &again.results[..]), (false, &[StepResult::Put][..]));
    assert!(client.get("refused").await.expect("a read").is_some());

    client.put("text", "no number").await.expect("a put");
    let failed = client.transaction().delete("account/a").add("text", 1).await;
    assert!(
        matches!(failed, Err(WriteError::StepFailed { step: 1, why: StepFailure::NotANumber, .. })),
        "{failed:?}"
    );
    assert!(client.get("account/a").await.expect("a read").is_some(), "nothing of it was done");
    let twice = client.transaction().put("x", "1").delete("x").await;
    assert_eq!(twice, Err(WriteError::Malformed(RequestError::DuplicateKey { key: "x".into() })));
}

pub(crate) async fn transactions_and_writes_return_previous_values(net: Net) {
    let harness = Harness::with(net, &[Role::Data; 3], patient_options()).await;
    let client = harness.client().await;
    let first = client.put("key", "1").previous().await.expect("a put");
    assert_eq!(first.previous, None);
    let second = client.put("key", "2").if_revision(first.revision).previous().await.expect("a put");
    let before = second.previous.expect("it was there");
    assert_eq!((&before.value[..], before.modified), (&b"1"[..], first.revision));
    let failed = client.delete("key").if_value("1").previous().await;
    assert!(
        matches!(failed, Err(WriteError::ConditionFailed { found, .. }) if found == Some(second.revision)),
        "{failed:?}"
    );

    let read = client.transaction().get("key").delete("key").scan("k", 9).await.expect("a transaction");
    let [StepResult::Got(Some(got)), StepResult::Deleted { existed: true }, StepResult::Scanned(scanned)] =
        &read.results[..]
    else {
        panic!("{read:?}")
    };
    assert_eq!((&got.value[..], &scanned.records[0].1, scanned.more), (&b"2"[..], &**got, false));
    assert_eq!(client.delete("key").previous().await.expect("a delete").previous, None);

    // The largest values, many at once: nobody keeps more of it than there is room for, and nobody waits for ever.
    let large = |number: u8| vec![number; 1 << 20];
    for number in 0..20 {
        client.put(format!("large/{number:02}"), large(number)).await.expect("a put");
    }
    let gets = (0..20).map(|number| client.delete(format!("large/{number:02}")).previous().into_future());
    for (number, got) in (0..).zip(futures::future::join_all(gets).await) {
        match got {
            Ok(got) => assert_eq!(got.previous.expect("it was there").value, large(number)),
            Err(error) => assert!(error.is_retryable(), "{error}"),
        }
    }
    client.put("large/00", large(0)).await.expect("a put");
    let twice = client.transaction().get("large/00").scan("large/00", 1).await;
    assert!(matches!(
        twice,
        Err(WriteError::StepFailed { step: 1, why: StepFailure::ResponseTooLarge { .. }, .. })
    ));
}

pub(crate) async fn ranges_are_deleted_and_many_keys_read_at_once(net: Net) {
    let harness = Harness::three(net).await;
    let client = harness.client().await;
    let key = |number: usize| format!("range/{number:04}");
    let batch = |numbers: std::ops::Range<usize>| client.batch().puts(numbers.map(|it| (key(it), "value")));
    let first = batch(0..1000).await.expect("a batch");
    batch(1000..1200).await.expect("a batch");
    let record = client.get(key(7)).await.expect("a read").expect("it is there");
    assert_eq!(record.modified, first.revision);
    let parts = RequestError::TooManyOps { what: "steps", len: 1001, max: 1000 };
    assert_eq!(batch(0..1001).await, Err(WriteError::Malformed(parts)));
    client.put("other", "value").await.expect("a put");
    let found = client.get_many([key(3), "nothing".to_owned(), key(1)]).await.expect("a read");
    assert_eq!(found.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, true]);
    let some = client.delete_range(key(10)..key(20)).await.expect("a removal");
    assert_eq!(some.count, 10);
    // More than goes in one step.
    assert_eq!(client.delete_prefix("range/").await.expect("a removal").count, 1190);
    assert_eq!(client.delete_prefix("range/").await.expect("a removal").count, 0);
    let left = client.scan("").await.expect("a scan");
    assert_eq!(left.iter().map(|(key, _)| &key[..]).collect::<Vec<_>>(), [b"other"]);

    for number in 0..3 {
        client.put(key(number), vec![0; 600 << 10]).await.expect("a put");
    }
    let too_much = client.get_many((0..3).map(key)).await.expect_err("it is too much at once");
    assert!(matches!(&too_much, ReadError::Refused(why) if why.contains("1024 KiB together")), "{too_much}");
}

pub(crate) async fn scans_go_through_everything_in_order(net: Net) {
    let harness = Harness::three(net).await;
    let client = harness.client().await;
    let keys: Vec<String> = (0..50).map(|number| format!("scan/{number:03}")).collect();
    for key in keys.iter().rev() {
        client.put(key, "value").await.expect("a put");
    }
    client.put("scam", "before").await.expect("a put");
    client.put("scan0", "after").await.expect("a put");

    let found = client.scan("scan/").await.expect("a scan");
    let found: Vec<&str> = found.iter().map(|(key, _)| std::str::from_utf8(key).expect("text")).collect();
    assert_eq!(found, keys);
    let few = client.scan("scan/").limit(7).await.expect("a scan");
    assert_eq!(few.len(), 7);
}

/// An embedded node's client works whichever member is primary.
pub(crate) async fn a_client_of_a_backup_works_like_any_other(net: Net) {
    let harness = Harness::three(net).await;
    for member in 0..3 {
        let client = harness.node(member).client();
        let key = format!("of member {member}");
        client.put(&key, "value").await.expect("a put");
        assert!(client.get(&key).await.expect("a read").is_some());
    }
}

pub(crate) async fn local_reads_are_answered_by_backups_and_not_by_witnesses(net: Net) {
    let harness = Harness::with(net, &[Role::Data, Role::Data, Role::Witness], options()).await;
    let client = harness.client().await;
    client.put("key", "value").await.expect("a put");
    harness.level().await;
    let backup = harness.backup().await;
    let local = harness.node(backup).client().get("key").local().await.expect("a local read");
    assert_eq!(local.expect("it is applied").value, "value");
    // A client never asks a witness for data: it knows the roles.
    let through_witness = harness.node(2).client().get("key").local().await;
    assert!(!matches!(through_witness, Err(ReadError::Refused(_))), "{through_witness:?}");
}

/// Only what the member in this process may answer, and can answer from its memory, is answered without a message.
pub(crate) async fn an_embedded_client_reads_what_is_in_memory_at_once(net: Net) {
    let harness = Harness::three(net).await;
    let written = harness.client().await.put("key", "value").await.expect("a put");
    harness.level().await;
    let backup = harness.backup().await;
    let client = harness.node(backup).client();
    let reads = harness.status(backup).load.reads;
    for get in [client.get("key").local(), client.get("key").at_least(written.revision)] {
        let at_once = get.clone().into_future().now_or_never().expect("it is in memory").expect("a read");
        assert_eq!(at_once.expect("it is applied").value, "value");
        assert!(get.member(id(backup)).into_future().now_or_never().is_some());
    }
    assert_eq!(harness.status(backup).load.reads, reads, "they took no time that says anything about others");

    // On a thread of its own, where the client can receive nothing between the poll and its result.
    let node = harness.node(backup);
    let poll_others = || {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("it can start");
        runtime.block_on(async {
            let client = node.client();
            let later = Revision::new(written.revision.get() + 1000);
            let others = [
                client.get("key"),
                client.get("key").max_staleness(Duration::from_secs(60)),
                client.get("key").at_least(later),
                client.get("key").local().member(id((backup + 1) % 3)),
                client.get("key").local().at(written.revision),
                client.get("absent").local(),
            ];
            for get in others {
                assert!(get.clone().into_future().now_or_never().is_none(), "{get:?}");
            }
        });
    };
    std::thread::scope(|threads| threads.spawn(poll_others).join()).expect("each takes a message");
    assert!(client.get("absent").local().await.expect("a read").is_none());
    let too_long = client.get(vec![0; 1 << 20]).local().await;
    assert!(matches!(too_long, Err(ReadError::Key { .. })), "{too_long:?}");

    // A task that only reads lets others run.
    let mut reading = pin!(async {
        loop {
            client.get("key").local().await.expect("a read");
        }
    });
    assert!(futures::poll!(&mut reading).is_pending());
    client.close().await;
    assert!(matches!(client.get("key").local().await, Err(ReadError::Closed)));
}

pub(crate) async fn the_status_shows_the_state_of_members(net: Net) {
    let harness = Harness::with(net, &[Role::Data, Role::Data, Role::Witness], options()).await;
    let client = harness.client().await;
    for number in 0..10 {
        client.put("key", number.to_string()).await.expect("a put");
    }
    harness.level().await;
    let primary = harness.primary().await;
    let status = harness.status(primary);
    assert_eq!((status.id, status.primary), (id(primary), Some(id(primary))));
    assert_eq!((status.head, status.commit), (status.applied, status.applied));
    assert!(status.revision.get() >= 10);
    eventually("the primary sees its peers level", async || {
        let peers = harness.status(primary).peers;
        peers.len() == 2 && peers.iter().all(|peer| peer.alive && peer.acknowledged == status.head)
    })
    .await;
    let witness = harness.status(2);
    assert_eq!((witness.role, witness.state), (Role::Witness, MemberState::Backup));

    let reports = client.cluster_status().await;
    assert_eq!(reports.len(), 3);
    for report in reports {
        let status = report.status.expect("it answers");
        assert_eq!((status.id, status.head), (report.id, witness.head));
    }
}
