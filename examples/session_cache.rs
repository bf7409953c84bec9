//! Sessions of a web application: one key each, with a time to live that every visit renews. Expired sessions need no
//! cleanup.

use kv_core::{Client, tokio};
use kv_examples::{Failure, Three};
use std::time::Duration;
use tokio::time::sleep;

const IDLE: Duration = Duration::from_secs(1);

/// Handles a visit. Returns the number of visits in this session.
async fn visit(client: &Client, session: &str) -> Result<u64, Failure> {
    let key = format!("session/{session}");
    loop {
        let seen = client.get(&key).await?;
        let visits = seen.as_ref().map_or(0, |record| record.version) + 1;
        let put = client.put(&key, format!("visit {visits}")).ttl(IDLE);
        // Two concurrent visits count as two.
        let done = match seen {
            Some(record) => put.if_revision(record.modified).await,
            None => put.if_absent().await,
        };
        match done {
            Ok(_) => return Ok(visits),
            Err(kv_core::error::WriteError::ConditionFailed { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[tokio::main(crate = "kv_core::tokio")]
async fn main() -> Result<(), Failure> {
    let mut three = Three::start("session-cache").await?;
    let client = three.client();
    println!("ann: visit {}", visit(&client, "ann").await?);
    three.kill_one(); // deadlines are part of the replicated state, so they survive the member
    println!("ann: visit {}", visit(&client, "ann").await?);
    println!("ben: visit {}", visit(&client, "ben").await?);

    // The sessions were idle for longer than their time to live: they expire, never early.
    while !client.scan("session/").keys_only().await?.is_empty() {
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(visit(&client, "ann").await?, 1);
    println!("ann: visit 1 again, in a new session");
    Ok(())
}
