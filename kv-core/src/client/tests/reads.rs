//! The messages and results of reads, of one key and of ranges.

use super::*;
use futures::StreamExt;

/// All steps count at the revision of the first one.
#[tokio::test(start_paused = true)]
async fn a_count_adds_up_its_steps_at_one_revision() {
    let (mut cluster, client) = ready().await;
    let count = tokio::spawn(client.count("a/").local().with_revision());
    let revision = Revision::new(9);
    let mut expected = Query::Count { from: "a/".into(), to: Some("a0".into()), at: None };
    for (found, next) in [(40, Some("a/m")), (2, None)] {
        let incoming = cluster.next().await;
        let ClientCall::Read { mode, query } = &incoming.message.what else { panic!("it reads") };
        assert_eq!(*query, expected);
        assert_eq!(*mode, if next.is_some() { ReadMode::Local } else { ReadMode::AtLeast(revision) });
        incoming.answer(Answer::Counted { count: found, next: next.map(Into::into), revision });
        expected = Query::Count { from: "a/m".into(), to: Some("a0".into()), at: Some(revision) };
    }
    let counted = count.await.unwrap().unwrap();
    assert_eq!((counted.found, counted.revision), (42, revision));
    // A member that makes no progress is not asked forever.
    let count = tokio::spawn(client.count("a/").into_future());
    cluster.next().await.answer(Answer::Counted { count: 1, next: Some("a/".into()), revision });
    assert!(matches!(count.await.unwrap().unwrap_err(), ReadError::Unavailable(_)));
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
