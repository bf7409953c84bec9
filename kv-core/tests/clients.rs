//! Clients and their handles under a clock that nobody waits for: locks, leases, deadlines, and futures that are
//! dropped at every point.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use kv_core::client::{FencingToken, LeaseId, Lifetime, Lock, Revision};
use kv_core::error::Cause;
use kv_core::error::{AdminError, LockError, ReadError, RequestError, WatchError, WriteError};
use kv_core::testing::TestCluster;
use kv_core::transport::Fault;
use kv_core::{Client, Options};
use std::cell::Cell;
use std::fmt::Debug;
use std::future::{IntoFuture, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

/// Longer than any lease here, with a failover besides.
const LONG: Duration = Duration::from_secs(60);

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

async fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let until = Instant::now() + LONG;
    while !check().await {
        assert!(Instant::now() < until, "not within {LONG:?}: {what}");
        sleep(Duration::from_millis(1)).await;
    }
}

/// The keys of the clients that wait for the lock `lock`.
async fn waiting(client: &Client) -> usize {
    client.scan("lock\0").keys_only().await.unwrap().len()
}

/// Starts to wait for the lock, behind the existing waiters.
async fn wait_for_lock(client: &Client, name: String) -> JoinHandle<(String, Lock)> {
    wait_for_lock_with(client, name, secs(10)).await
}

async fn wait_for_lock_with(client: &Client, name: String, ttl: Duration) -> JoinHandle<(String, Lock)> {
    let before = waiting(client).await;
    let lock = client.lock("lock").ttl(ttl).value(name.clone());
    let task = tokio::spawn(async move { (name, lock.await.unwrap()) });
    eventually("it waits", async || waiting(client).await > before).await;
    task
}

/// Each waiter watches only the one ahead of it, and the watch continues at another member.
#[tokio::test(start_paused = true)]
async fn waiters_acquire_a_lock_in_turn_across_failovers() {
    let mut cluster = TestCluster::in_memory(3).seed(1).start().await;
    let client = cluster.client().await;
    let mut held = client.lock("lock").ttl(secs(10)).await.unwrap();
    let mut tasks = Vec::new();
    for number in 0..6 {
        let client = cluster.client().await;
        tasks.push(wait_for_lock(&client, number.to_string()).await);
    }
    for (number, task) in tasks.into_iter().enumerate() {
        assert!(held.is_held().await.unwrap());
        if number % 2 == 1 {
            let killed = cluster.kill_primary().await;
            cluster.restart(killed).await;
            cluster.settle().await;
        }
        let token = held.token();
        held.release().await.unwrap();
        let (name, lock) = task.await.unwrap();
        assert_eq!(name, number.to_string());
        assert!(lock.token() > token);
        held = lock;
    }
    held.release().await.unwrap();
    assert_eq!(client.scan("lock").await.unwrap(), [], "nothing is left");
}

/// However many wait, a release wakes the first, and that one's going the second.
#[tokio::test(start_paused = true)]
async fn a_released_lock_wakes_only_the_next_waiter() {
    let cluster = TestCluster::in_memory(3).start().await;
    let client = cluster.client().await;
    let held = client.lock("lock").ttl(secs(600)).await.unwrap();
    let mut tasks = Vec::new();
    for number in 0..20 {
        tasks.push(wait_for_lock_with(&client, number.to_string(), secs(600)).await);
    }
    let before = client.put("before", "").await.unwrap().revision;
    held.release().await.unwrap();
    let (name, _lock) = tasks.remove(0).await.unwrap();
    assert_eq!(name, "0");
    // Signs of life are far apart.
    sleep(secs(5)).await;
    let after = client.put("after", "").await.unwrap().revision;
    let writes = after.get() - before.get() - 1;
    assert_eq!(writes, 3, "the release, and two looks");
    tasks.iter().for_each(JoinHandle::abort);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_gives_up_leaves_the_queue_at_once() {
    let cluster = TestCluster::in_memory(3).start().await;
    let client = cluster.client().await;
    let held = client.lock("lock").await.unwrap();
    let gone = wait_for_lock(&client, "gone".to_owned()).await;
    let next = wait_for_lock(&client, "next".to_owned()).await;
    let begun = Instant::now();
    gone.abort();
    let late = client.lock("lock").wait(Duration::from_millis(50)).await.unwrap_err();
    assert_eq!(late, LockError::Held);
    eventually("its place is free", async || waiting(&client).await == 1).await;
    held.release().await.unwrap();
    let (name, lock) = next.await.unwrap();
    assert_eq!(name, "next");
    assert!(begun.elapsed() < secs(5), "nobody had to wait for a lease to end: {:?}", begun.elapsed());
    let at_once = client.lock("lock").wait(Duration::ZERO).await.unwrap_err();
    assert!(at_once.is_held());
    lock.release().await.unwrap();
    assert_eq!(client.scan("lock").await.unwrap(), []);
}

/// As a program does that must end while it waits.
#[tokio::test(start_paused = true)]
async fn a_closed_client_leaves_no_waiter_behind() {
    let cluster = TestCluster::in_memory(3).start().await;
    let client = cluster.client().await;
    let held = client.lock("lock").ttl(secs(600)).await.unwrap();
    let other = cluster.client().await;
    let mut acquire = other.lock("lock").ttl(secs(600)).into_future();
    eventually("it waits", async || {
        assert!(polled(&mut acquire, 1).await.is_none());
        waiting(&client).await == 1
    })
    .await;
    drop(acquire);
    other.close().await;
    assert_eq!(waiting(&client).await, 0);
    held.release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_lock_of_a_dead_holder_passes_on_when_its_lease_expires() {
    let cluster = TestCluster::in_memory(3).start().await;
    let client = cluster.client().await;
    let held = client.lock("lock").ttl(secs(3)).await.unwrap();
    let first = held.token();
    let next = wait_for_lock(&cluster.client().await, "next".to_owned()).await;
    sleep(secs(30)).await;
    assert!(held.is_held().await.unwrap() && !next.is_finished(), "it is kept alive");
    let begun = Instant::now();
    drop(held);
    let (_, lock) = next.await.unwrap();
    assert!(lock.token() > first);
    // From the last sign of life on, which may have been a third of the time ago.
    assert!(begun.elapsed() > secs(1) && begun.elapsed() < secs(8), "{:?}", begun.elapsed());
}

/// A client that waits for longer than history is kept reads the queue again.
#[tokio::test(start_paused = true)]
async fn a_lock_can_be_awaited_longer_than_history_is_kept() {
    let mut options = Options::default();
    (options.history_revisions, options.checkpoint_bytes) = (0, 64 << 10);
    options.segment_bytes = 4 << 20;
    let mut cluster = TestCluster::in_memory(3).options(options).start().await;
    let client = cluster.client().await;
    let held = client.lock("lock").await.unwrap();
    let next = wait_for_lock(&cluster.client().await, "next".to_owned()).await;
    for round in 0..3 {
        for number in 0..100 {
            client.put(format!("other/{number}"), vec![round; 4 << 10]).await.unwrap();
        }
        let killed = cluster.kill_primary().await;
        cluster.restart(killed).await;
        cluster.settle().await;
        sleep(secs(40)).await;
    }
    assert!(!next.is_finished());
    let begun = Instant::now();
    held.release().await.unwrap();
    next.await.unwrap().1.release().await.unwrap();
    assert!(begun.elapsed() < secs(5), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_held_lease_stays_and_a_dropped_one_expires() {
    let mut cluster = TestCluster::in_memory(3).seed(4).start().await;
    let client = cluster.client().await;
    let lease = client.lease(secs(5)).await.unwrap();
    let id = lease.id();
    client.put("worker", "here").lease(id).await.unwrap();
    for minute in 0..3 {
        sleep(LONG).await;
        assert!(lease.is_alive(), "after {minute} minutes");
        assert_eq!(lease.info().await.unwrap().unwrap().keys, 1);
        let killed = cluster.kill_primary().await;
        cluster.restart(killed).await;
        cluster.settle().await;
    }
    let begun = Instant::now();
    drop(lease);
    let by_id = client.lease_by_id(id);
    eventually("it ends", async || by_id.info().await.unwrap().is_none()).await;
    assert_eq!(client.get("worker").await.unwrap(), None);
    // Its last sign of life was up to a third of its time ago; a late one may have been under way.
    assert!(begun.elapsed() > secs(3) && begun.elapsed() < secs(8), "{:?}", begun.elapsed());
    let ended = by_id.keep_alive().await.unwrap_err();
    assert!(ended.is_lease_ended(), "{ended}");
}

#[tokio::test(start_paused = true)]
async fn a_manually_renewed_lease_lasts_while_it_is_renewed() {
    let cluster = TestCluster::in_memory(3).start().await;
    let client = cluster.client().await;
    let lease = client.lease(secs(5)).detached().await.unwrap();
    for _ in 0..10 {
        sleep(secs(4)).await;
        lease.keep_alive().await.unwrap();
    }
    sleep(secs(8)).await;
    assert_eq!(lease.info().await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_lease_has_ended_when_the_cluster_reports_it_and_not_when_its_client_is_closed() {
    let cluster = TestCluster::in_memory(3).start().await;
    let (client, other) = (cluster.client().await, cluster.client().await);
    let lease = client.lease(secs(5)).await.unwrap();
    assert!(timeout(LONG, lease.ended()).await.is_err(), "it is kept alive");
    other.lease_by_id(lease.id()).revoke().await.unwrap();
    // It learns that at its next sign of life.
    timeout(secs(3), lease.ended()).await.expect("it has ended");
    assert!(!lease.is_alive());
    timeout(secs(1), lease.ended()).await.expect("it stays so for whoever asks later");

    let lease = client.lease(secs(5)).await.unwrap();
    client.close().await;
    timeout(secs(6), lease.at_risk()).await.expect("nobody shows life for it");
    assert!(timeout(LONG, lease.ended()).await.is_err(), "nobody learns how it ended");
    assert_eq!(other.lease_by_id(lease.id()).info().await.unwrap(), None, "though it has");
}

/// Polls a future as often as it asks for it, but no more than so often; then it is dropped.
async fn polled<F: Future>(future: F, mut times: usize) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| {
        if times == 0 {
            return Poll::Ready(None);
        }
        times -= 1;
        // Woken for nothing it may be polled at once: every await point is met.
        future.as_mut().poll(cx).map(Some)
    })
    .await
}

/// Drops the future of `make` at every point, and checks each time that the client still works.
struct Dropper<'a> {
    client: &'a Client,
    alive: Cell<i64>,
}

impl Dropper<'_> {
    async fn drop_at_every_point<F, T, E>(&self, name: &str, make: impl Fn() -> F)
    where
        F: IntoFuture<Output = Result<T, E>>,
        E: Debug,
    {
        for times in 0.. {
            let ended = polled(make().into_future(), times).await;
            self.goes_on(&format!("{name}, dropped after {times} polls")).await;
            if let Some(result) = ended {
                result.unwrap_or_else(|error| panic!("{name}: {error:?}"));
                assert!(times > 1, "{name} waits for something");
                return;
            }
            assert!(times < 1000, "{name} never ends");
        }
    }

    async fn goes_on(&self, at: &str) {
        let added = self.client.add("alive", 1).await.unwrap_or_else(|error| panic!("{at}: {error}"));
        self.alive.set(self.alive.get() + 1);
        assert_eq!(added.sum, self.alive.get(), "{at}: the session's calls are done once");
        eventually(at, async || self.client.in_flight_bytes() == 0).await;
    }
}

/// For a call with one attempt at one member, a broken connection is a valid result if messages are lost.
fn asked_once<T>(result: Result<T, AdminError>) -> Result<(), AdminError> {
    match result {
        Ok(_) | Err(AdminError::Unavailable(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

async fn drop_everything(cluster: &TestCluster) {
    let client = &cluster.client().await;
    let all = Dropper { client, alive: Cell::new(0) };
    client.put("key", "1").await.unwrap();
    all.drop_at_every_point("get", || client.get("key")).await;
    all.drop_at_every_point("get_many", || client.get_many(["key", "other"])).await;
    all.drop_at_every_point("scan", || client.scan("k")).await;
    all.drop_at_every_point("put", || client.put("key", "2")).await;
    all.drop_at_every_point("put and previous", || client.put("key", "3").previous()).await;
    all.drop_at_every_point("delete", || client.delete("key")).await;
    all.drop_at_every_point("add", || client.add("count", 1)).await;
    all.drop_at_every_point("transaction", || client.transaction().put("a", "1").get("b")).await;
    all.drop_at_every_point("batch", || client.batch().puts([("a", "1"), ("b", "2")])).await;
    all.drop_at_every_point("delete_prefix", || client.delete_prefix("key")).await;
    all.drop_at_every_point("status", || async {
        asked_once(client.member_status(cluster.node(0).id()).await)
    })
    .await;
    let typed = client.typed::<u32>("typed/");
    all.drop_at_every_point("update", || typed.update("n", |n| Some(n.unwrap_or_default() + 1))).await;
    all.drop_at_every_point("lease", || client.lease(secs(2))).await;
    let lease = client.lease(secs(600)).detached().await.unwrap();
    all.drop_at_every_point("keep_alive", || lease.keep_alive()).await;
    all.drop_at_every_point("look", || lease.info()).await;
    all.drop_at_every_point("revoke", || async {
        let lease = client.lease(secs(2)).detached().await?;
        lease.revoke().await
    })
    .await;
    all.drop_at_every_point("connect", || async { Ok::<_, ()>(cluster.client().await) }).await;
    all.drop_at_every_point("cluster_status", || async { Ok::<_, ()>(client.cluster_status().await) }).await;
    all.drop_at_every_point("handover", || async { asked_once(client.handover().await) }).await;
    let election = client.election("leader");
    all.drop_at_every_point("leader", || election.leader()).await;
    all.drop_at_every_point("lock", || client.lock("lock").ttl(secs(2))).await;
    let held = client.lock("lock").ttl(secs(2)).await.unwrap();
    all.drop_at_every_point("lock that is held", || async {
        let got = client.lock("lock").ttl(secs(2)).wait(secs(1)).await;
        got.map_or_else(|error| if error.is_held() { Ok(()) } else { Err(error) }, |_| panic!("it is held"))
    })
    .await;
    eventually("no place is kept", async || waiting(client).await == 0).await;
    all.drop_at_every_point("is_held", || held.is_held()).await;
    let mut held = Some(held);
    for times in 0.. {
        let lock = match held.take() {
            Some(lock) => lock,
            None => client.lock("lock").ttl(secs(2)).await.unwrap(),
        };
        let ended = polled(lock.release(), times).await;
        all.goes_on(&format!("release, dropped after {times} polls")).await;
        eventually("it is let go", async || client.get("lock").await.unwrap().is_none()).await;
        if ended.is_some() {
            break;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn any_future_may_be_dropped_at_any_point() {
    drop_everything(&TestCluster::in_memory(3).start().await).await;
}

#[tokio::test(start_paused = true)]
async fn any_future_may_be_dropped_at_any_point_while_messages_are_lost() {
    let cluster = TestCluster::in_memory(3).seed(2).start().await;
    cluster.faults(&Fault::new().loss(0.05).duplication(0.1));
    drop_everything(&cluster).await;
}

/// The dropped calls took effect at most once.
#[tokio::test(start_paused = true)]
async fn a_dropped_add_is_applied_at_most_once() {
    for seed in 0..3 {
        let mut cluster = TestCluster::in_memory(3).seed(seed).start().await;
        let client = cluster.client().await;
        cluster.faults(&Fault::new().loss(0.1).duplication(0.2));
        let (mut done, mut dropped, mut last) = (0, 0, 0);
        for number in 0..60 {
            match polled(client.add("count", 1).into_future(), number % 4).await {
                Some(added) => {
                    let sum = added.unwrap().sum;
                    assert!(sum > last);
                    (done, last) = (done + 1, sum);
                }
                None => dropped += 1,
            }
            if number == 30 {
                let killed = cluster.kill_primary().await;
                cluster.restart(killed).await;
            }
        }
        assert!(done > 0 && dropped > 0);
        cluster.heal();
        let sum = client.add("count", 0).await.unwrap().sum;
        assert!((done..=done + dropped).contains(&sum), "{sum}: {done} done, {dropped} dropped");
        eventually("nothing is in flight", async || client.in_flight_bytes() == 0).await;
    }
}

#[tokio::test(start_paused = true)]
async fn dropping_a_wait_for_an_event_loses_no_event() {
    let mut cluster = TestCluster::in_memory(3).seed(6).start().await;
    let client = cluster.client().await;
    let begin = client.put("begin", "").await.unwrap().revision;
    let mut events = client.watch("k/").after(begin).stream();
    let mut follow = client.watch("k/").follow();
    let (mut seen, mut followed) = (Vec::new(), Vec::new());
    let writer = tokio::spawn({
        let client = cluster.client().await;
        async move {
            for number in 0..40 {
                client.put(format!("k/{number:02}"), "").await.unwrap();
            }
        }
    });
    for round in 0.. {
        if round == 20 {
            cluster.kill_primary().await;
        }
        if let Some(event) = polled(events.next(), round % 3).await {
            seen.push(event.unwrap().unwrap().key);
        }
        if let Some(update) = polled(follow.next(), round % 3).await {
            followed.extend(match update.unwrap().unwrap() {
                kv_core::client::Update::Present { key, .. } => Some(key),
                kv_core::client::Update::Event(event) => Some(event.key),
                _ => None,
            });
        }
        if seen.len() == 40 && followed.len() == 40 {
            break;
        }
        assert!(round < 100_000, "{} and {} of 40", seen.len(), followed.len());
        tokio::task::yield_now().await;
    }
    writer.await.unwrap();
    let keys: Vec<String> = (0..40).map(|number| format!("k/{number:02}")).collect();
    assert!(seen.iter().eq(keys.iter().map(String::as_bytes)), "{seen:?}");
    assert!(followed.iter().eq(keys.iter().map(String::as_bytes)), "{followed:?}");
    drop((events, follow));
    eventually("no watch is left", async || client.in_flight_bytes() == 0).await;
}

/// Closing continues when its future is dropped, and ends all calls in progress.
#[tokio::test(start_paused = true)]
async fn a_client_closes_even_if_the_call_is_dropped() {
    let cluster = TestCluster::in_memory(3).start().await;
    for times in 0..4 {
        let client = cluster.client().await;
        client.put("key", "1").await.unwrap();
        let ended = polled(client.close(), times).await.is_some();
        match client.put("key", "2").await {
            Err(WriteError::Closed) => {}
            Ok(_) if times == 0 => {}
            other => panic!("{other:?} after {times} polls, ended: {ended}"),
        }
        client.close().await;
    }
}

/// The position of a watch advances even if nothing in its range has changed: a client that continues there misses
/// nothing, and needs no history that may be compacted.
#[tokio::test(start_paused = true)]
async fn a_watch_reports_progress_without_events() {
    let cluster = TestCluster::in_memory(3).seed(6).start().await;
    let client = cluster.client().await;
    let before = client.put("key", "1").await.unwrap().revision;
    let mut now = client.watch("key").stream();
    let mut past = client.watch("key").after(before).stream();
    assert!(timeout(secs(1), now.next()).await.is_err());
    assert!(now.complete() >= before, "it is complete from where it began: {:?}", now.complete());
    let quiet = client.put("other", "1").await.unwrap().revision;
    for watch in [&mut now, &mut past] {
        assert!(timeout(secs(100), watch.next()).await.is_err());
        assert!(watch.complete() >= quiet, "{:?}", watch.complete());
    }
    let first = client.batch().put("key", "2").put("key/2", "2").await.unwrap().revision;
    for watch in [&mut now, &mut past] {
        let mut take = async |key: &str| {
            let event = watch.next().await.unwrap().unwrap();
            assert_eq!((&event.key[..], event.revision), (key.as_bytes(), first));
            watch.complete()
        };
        let part = take("key").await;
        assert!(part >= quiet && part < first, "there is more of it");
        assert_eq!(take("key/2").await, first, "a watch begun anew from here repeats nothing");
    }
}

/// Members close a connection over which more comes than may; nobody else's calls are to suffer from that.
#[tokio::test(start_paused = true)]
async fn extreme_requests_are_answered_and_break_no_connection() {
    let cluster = TestCluster::in_memory(1).seed(6).start().await;
    let client = cluster.client().await;
    client.put("key", "value").await.unwrap();
    let never = Revision::new(u64::MAX);
    let future = |result: Option<ReadError>| matches!(result, Some(ReadError::Future { .. }));
    assert!(future(client.get("key").at(never).await.err()));
    assert!(future(client.get_many(["key"]).at(never).await.err()));
    assert!(future(client.scan("key").at(never).await.err()));
    let failed = |result: Option<WriteError>| matches!(result, Some(WriteError::ConditionFailed { .. }));
    assert!(failed(client.put("key", "other").if_revision(never).await.err()));
    assert!(failed(client.delete("key").if_revision(never).await.err()));
    let transaction = || client.transaction().put("key", "other");
    assert!(!transaction().if_revision("key", never).await.unwrap().succeeded);
    assert!(!transaction().if_created("key", never).await.unwrap().succeeded);
    let lost = transaction().fenced("key", FencingToken::new(never)).await.unwrap_err();
    assert!(matches!(lost, WriteError::LockLost { .. }), "{lost}");
    let nobody = LeaseId::new(u64::MAX);
    assert_eq!(client.lease_by_id(nobody).info().await.unwrap(), None);
    let put = client.put("key", "other").lease(nobody).await.unwrap_err();
    assert!(matches!(put, WriteError::Lease(_)), "{put}");
    let life = Lifetime::lease(nobody);
    assert!(client.transaction().put_for("key", "other", life).await.is_err());
    let behind = client.get("key").at_least(never).deadline(secs(3)).await.unwrap_err();
    assert!(matches!(behind, ReadError::Unavailable(Cause::Deadline(_))), "{behind}");
    let mut quiet = client.watch("").after(never).stream();
    assert!(timeout(secs(100), quiet.next()).await.is_err());

    let long = vec![b'x'; 4 << 20];
    let scan = client.scan(&long).await.unwrap_err();
    assert!(matches!(scan, ReadError::Key { len, .. } if len == long.len()), "{scan}");
    let range = client.scan_range("a"..).deadline(secs(3)).await;
    assert_eq!(range.unwrap().len(), 1, "no end is no long one");
    let watch = client.watch(&long).stream().next().await.unwrap().unwrap_err();
    assert!(matches!(watch, WatchError::Malformed(RequestError::Key { .. })), "{watch}");
    let follow = client.watch(&long).follow().next().await.unwrap().unwrap_err();
    assert!(matches!(follow, WatchError::Read(ReadError::Key { .. })), "{follow}");
    let many = |count: usize, len: usize| (0..count).map(move |n| format!("{n:0len$}"));
    for (count, len) in [(1000, 4000), (1001, 4)] {
        let error = client.get_many(many(count, len)).await.unwrap_err();
        assert!(
            matches!(error, ReadError::Malformed(RequestError::Keys { .. })),
            "{count} of {len}: {error}"
        );
    }
    assert_eq!(client.get_many(many(1000, 2000)).await.unwrap(), vec![None; 1000]);
}

/// A result, *not applied*, or *outcome unknown*: by the deadline.
#[tokio::test(start_paused = true)]
async fn every_call_ends_at_its_deadline() {
    let mut cluster = TestCluster::in_memory(3).start().await;
    let client = cluster.client().await;
    client.put("key", "1").await.unwrap();
    let lease = client.lease(secs(5)).detached().await.unwrap();
    (0..3).for_each(|id| cluster.kill(id));
    let limit = secs(3);
    let begun = Instant::now();
    let write = |error: Option<WriteError>, what: &str| {
        let error = error.unwrap_or_else(|| panic!("{what}: nobody is there"));
        assert!(error.is_retryable() || error.outcome_unknown(), "{what}: {error}");
    };
    let (put, previous, delete, add, transaction, batch, range, grant, get, many) = tokio::join!(
        client.put("key", "2").deadline(limit).into_future(),
        client.put("key", "2").deadline(limit).previous().into_future(),
        client.delete("key").deadline(limit).into_future(),
        client.add("n", 1).deadline(limit).into_future(),
        client.transaction().put("key", "2").deadline(limit).into_future(),
        client.batch().put("key", "2").deadline(limit).into_future(),
        client.delete_prefix("k").deadline(limit).into_future(),
        client.lease(secs(5)).deadline(limit).into_future(),
        client.get("key").deadline(limit).into_future(),
        client.get_many(["key"]).deadline(limit).into_future(),
    );
    write(put.err(), "put");
    write(previous.err(), "previous");
    write(delete.err(), "delete");
    write(add.err(), "add");
    write(transaction.err(), "transaction");
    write(batch.err(), "batch");
    write(range.err(), "delete_prefix");
    write(grant.err(), "lease");
    assert!(get.unwrap_err().is_retryable());
    assert!(many.unwrap_err().is_retryable());
    let scan = client.scan("k").deadline(limit).await.unwrap_err();
    assert!(scan.is_retryable());
    assert!(begun.elapsed() <= 2 * limit + secs(1), "{:?}", begun.elapsed());

    // What has no deadline of its own has the client's: here two minutes.
    let begun = Instant::now();
    write(lease.keep_alive().await.err(), "keep_alive");
    let lock = client.lock("lock").wait(secs(1)).await.unwrap_err();
    assert!(!lock.is_held(), "{lock}");
    assert!(begun.elapsed() <= secs(241), "{:?}", begun.elapsed());
    eventually("nothing is in flight", async || client.in_flight_bytes() == 0).await;
}
