//! Members are killed under load: nothing acknowledged is lost, nothing is applied twice.

use crate::harness::{self, Cluster, level, primary, see, successor, verify};
use crate::ledger::Ledger;
use crate::writers::Writers;
use kv_core::Client;
use kv_core::node::MemberState;
use std::slice;
use std::time::Duration;

const WRITERS: usize = 8;
const PACE: Duration = Duration::from_millis(2);
/// How many writes there are between two blows.
const STEP: u64 = 400;

fn load(client: &Client) -> Writers {
    Writers::start(slice::from_ref(client), WRITERS, PACE)
}

async fn progress(writers: &Writers) {
    harness::progress(writers, STEP).await;
}

async fn stop(writers: Writers) -> Vec<Ledger> {
    writers.stop().await.expect("the writers are well")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_primary_is_replaced_and_returns() {
    let mut cluster = Cluster::of_three();
    let client = cluster.client().await;
    let writers = load(&client);
    progress(&writers).await;
    for _ in 0..3 {
        let old = primary(&client).await;
        cluster.kill(old);
        successor(&client, old).await;
        progress(&writers).await;
        cluster.restart(old);
        level(&client, &[0, 1, 2]).await;
        progress(&writers).await;
    }
    let ledgers = stop(writers).await;
    let verdict = verify(&client, &ledgers).await;
    assert_eq!(verdict.acknowledged, verdict.writes, "every write came through");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_backup_interrupts_nothing() {
    let mut cluster = Cluster::of_three();
    let client = cluster.client().await;
    let writers = load(&client);
    progress(&writers).await;
    let chief = primary(&client).await;
    for id in (0..3).filter(|id| *id != chief) {
        cluster.kill(id);
        progress(&writers).await;
        cluster.restart(id);
        level(&client, &[0, 1, 2]).await;
    }
    let ledgers = stop(writers).await;
    let verdict = verify(&client, &ledgers).await;
    assert_eq!(verdict.acknowledged, verdict.writes, "every write came through");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_survives_the_kill_of_all_members() {
    let mut cluster = Cluster::of_three();
    let client = cluster.client().await;
    let writers = load(&client);
    for round in 0..3 {
        progress(&writers).await;
        for id in 0..3 {
            cluster.kill((id + round) % 3);
        }
        for id in 0..3 {
            cluster.restart((id + 2 * round) % 3);
        }
    }
    progress(&writers).await;
    let ledgers = stop(writers).await;
    level(&client, &[0, 1, 2]).await;
    verify(&client, &ledgers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_and_a_witness_survive_the_loss_of_each() {
    let mut cluster = Cluster::start(&["data", "data", "witness"], &[]);
    let client = cluster.client().await;
    let writers = load(&client);
    progress(&writers).await;
    for id in [0, 1, 2, 1, 0] {
        cluster.kill(id);
        progress(&writers).await;
        cluster.restart(id);
        level(&client, &[0, 1, 2]).await;
    }
    let ledgers = stop(writers).await;
    let verdict = verify(&client, &ledgers).await;
    assert_eq!(verdict.acknowledged, verdict.writes, "every write came through");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_member_killed_during_writes_recovers_all_data() {
    let mut cluster = Cluster::start(&["data"], &[]);
    let client = cluster.client().await;
    let writers = load(&client);
    for _ in 0..3 {
        progress(&writers).await;
        cluster.kill(0);
        cluster.restart(0);
    }
    progress(&writers).await;
    let ledgers = stop(writers).await;
    verify(&client, &ledgers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_quorum_nothing_is_acknowledged_until_it_returns() {
    let mut cluster = Cluster::of_three();
    let client = cluster.client().await;
    let writers = load(&client);
    progress(&writers).await;
    let chief = primary(&client).await;
    let others: Vec<_> = (0..3).filter(|id| *id != chief).collect();
    for id in &others {
        cluster.kill(*id);
    }
    // What was under way may still be printed; then there is silence.
    see(&client, "the primary gives up", |seen| {
        seen.iter().all(|status| status.state != MemberState::Primary).then_some(())
    })
    .await;
    let silent = writers.acknowledged();
    assert!(
        client.get("k").deadline(Duration::from_millis(500)).await.is_err(),
        "no linearizable read either"
    );
    assert_eq!(writers.acknowledged(), silent);
    for id in others {
        cluster.restart(id);
    }
    progress(&writers).await;
    let ledgers = stop(writers).await;
    level(&client, &[0, 1, 2]).await;
    verify(&client, &ledgers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_hands_over_before_it_stops() {
    let mut cluster = Cluster::of_three();
    let client = cluster.client().await;
    let writers = load(&client);
    progress(&writers).await;
    let old = primary(&client).await;
    let ended = cluster.terminate(old);
    assert_eq!(ended.code(), Some(0), "a member that was asked to stop has not failed");
    assert!(cluster.log(old).contains("handed over"), "it did not just leave");
    progress(&writers).await;
    cluster.restart(old);
    level(&client, &[0, 1, 2]).await;
    let ledgers = stop(writers).await;
    let verdict = verify(&client, &ledgers).await;
    assert_eq!(verdict.acknowledged, verdict.writes, "no client saw an error");
}
