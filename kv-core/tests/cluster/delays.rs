//! One-way delays jump while keys and leases expire: none expires early on the clock of the client that requested it.

use super::harness::{Harness, Net};
use kv_core::message::Lifetime;
use kv_core::transport::{Fault, Lane, Scope};
use kv_core::{Client, ids::LeaseId};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How many keys are under way at once.
const TASKS: u64 = 12;
/// The longest delay, one way.
const MOST_DELAY_MS: u64 = 400;
/// A key is removed within this time after its deadline, including failovers and the delays of the removal.
const LATE: Duration = Duration::from_secs(30);

/// How long delays jump: `KV_DELAYS=600` for the drill of ten minutes.
fn seconds() -> u64 {
    std::env::var("KV_DELAYS").ok().and_then(|text| text.parse().ok()).unwrap_or(8)
}

/// What a key depends on.
async fn lifetime(client: &Client, ttl: Duration, on_a_lease: bool) -> Option<Lifetime> {
    if !on_a_lease {
        return Some(Lifetime::ttl(ttl));
    }
    let lease = client.lease(ttl).detached().await.ok()?;
    Some(Lifetime::lease(LeaseId::new(lease.id().get())))
}

/// Rule X1: each member is asked for its own state, so that the delay of an answer hides nothing.
pub(crate) async fn x1_nothing_expires_early_while_delays_jump_one_way(net: Net) {
    let harness = Arc::new(Harness::three(net).await);
    let ends = Instant::now() + Duration::from_secs(seconds());
    let (stop, gone, late) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut tasks = Vec::new();
    for task in 0..TASKS {
        let (client, harness, stop) = (harness.client().await, harness.clone(), stop.clone());
        let (gone, late) = (gone.clone(), late.clone());
        tasks.push(tokio::spawn(async move {
            let here: Vec<Client> = (0..3).map(|member| harness.node(member).client()).collect();
            let mut rng = fastrand::Rng::with_seed(task);
            for round in 0.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let (key, ttl) = (format!("{task}/{round}"), Duration::from_millis(rng.u64(300..2_000)));
                let begun = Instant::now();
                let Some(life) = lifetime(&client, ttl, task.is_multiple_of(2)).await else { continue };
                if client.transaction().put_for(&key, "value", life).await.is_err() {
                    continue;
                }
                let mut seen = [false; 3];
                let mut over = [false; 3];
                while over.iter().zip(seen).any(|(over, seen)| seen && !*over) || seen == [false; 3] {
                    for (member, client) in here.iter().enumerate() {
                        let is_there = client.get(&key).local().await.is_ok_and(|found| found.is_some());
                        let passed = begun.elapsed();
                        seen[member] |= is_there;
                        over[member] |= seen[member] && !is_there;
                        assert!(
                            !over[member] || passed >= ttl,
                            "{key}: gone after {passed:?} of {ttl:?} at {member}"
                        );
                        assert!(passed < ttl + LATE, "{key}: there after {passed:?} of {ttl:?}");
                    }
                    if seen == [false; 3] && begun.elapsed() > ttl {
                        break;
                    }
                    sleep(Duration::from_millis(3)).await;
                }
                let lag = u64::try_from(begun.elapsed().saturating_sub(ttl).as_millis()).unwrap_or(u64::MAX);
                late.fetch_max(lag, Ordering::Relaxed);
                gone.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    let mut rng = fastrand::Rng::with_seed(7);
    while Instant::now() < ends && !tasks.iter().any(|task| task.is_finished()) {
        let faults = &harness.faults[rng.usize(0..3)];
        let delay = Duration::from_millis(if rng.bool() { 0 } else { rng.u64(0..MOST_DELAY_MS) });
        for lane in [Lane::Control, Lane::Log, Lane::Bulk] {
            faults.set(Scope::all().lane(lane).outgoing(), Fault::new().delay(delay..=delay));
        }
        sleep(Duration::from_millis(rng.u64(20..500))).await;
    }
    harness.faults.iter().for_each(|faults| faults.heal());
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.expect("nothing ended early");
    }
    let (gone, late) = (gone.load(Ordering::Relaxed), late.load(Ordering::Relaxed));
    println!("{gone} keys ended, none early, the latest by {late} ms");
    assert!(gone >= TASKS, "{gone} keys ended");
}
