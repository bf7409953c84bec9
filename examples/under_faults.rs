//! Tests an application with failovers and lost messages, in one process: without ports, files or waiting, because the
//! clock is paused. In your own tests, this is a function with `#[tokio::test(start_paused = true)]`.

use kv_core::error::WriteError;
use kv_core::testing::TestCluster;
use kv_core::transport::Fault;
use kv_core::{Client, tokio};
use std::error::Error;
use tokio::time::{Instant, pause};

const STOCK: usize = 20;

/// The application: sells a seat, unless all are sold. Each seat is a key. The first buyer that creates the key gets
/// the seat.
async fn buy(client: &Client, buyer: &str) -> Result<Option<usize>, WriteError> {
    for seat in 0..STOCK {
        match client.put(format!("seat/{seat:02}"), buyer.to_owned()).if_absent().await {
            Ok(_) => return Ok(Some(seat)),
            Err(WriteError::ConditionFailed { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// The invariant: every seat is sold once, to the buyer that got the confirmation.
async fn sells_each_seat_once(seed: u64) -> Result<(), Box<dyn Error>> {
    let mut cluster = TestCluster::in_memory(3).seed(seed).start().await;
    cluster.faults(&Fault::new().loss(0.05).duplication(0.1));
    let mut buyers = Vec::new();
    for name in ["ann", "ben", "cem"] {
        let client = cluster.client().await;
        buyers.push(tokio::spawn(async move {
            let mut bought = Vec::new();
            while let Some(seat) = buy(&client, name).await? {
                bought.push((format!("seat/{seat:02}"), name));
            }
            Ok::<_, WriteError>(bought)
        }));
    }
    let killed = cluster.kill_primary().await;
    cluster.restart(killed).await;
    cluster.partition(&[cluster.primary().await]);
    let mut sold = Vec::new();
    for buyer in buyers {
        sold.extend(buyer.await??);
    }
    cluster.heal();
    cluster.settle().await;
    sold.sort();
    let records = cluster.client().await.scan("seat/").await?;
    let there: Vec<_> = records.iter().map(|(key, record)| (&key[..], &record.value[..])).collect();
    let confirmed: Vec<_> = sold.iter().map(|(seat, name)| (seat.as_bytes(), name.as_bytes())).collect();
    assert_eq!(there, confirmed, "seed {seed}");
    Ok(())
}

#[tokio::main(crate = "kv_core::tokio", flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    pause();
    for seed in 0..10 {
        let start = Instant::now();
        sells_each_seat_once(seed).await?;
        println!("seed {seed}: {STOCK} seats, each sold once, in {:?} of simulated time", start.elapsed());
    }
    Ok(())
}
