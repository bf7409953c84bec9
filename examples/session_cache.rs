//! Sessions of a web application: a key each, with a time to live that every visit begins anew. Nobody has to clean up.

use kv_core::{Client, tokio};
use kv_examples::{Failure, Three};
use std::time::Duration;
use tokio::time::sleep;

const IDLE: Duration = Duration::from_secs(1);

/// A visitor comes, with a session or for a new one. Returns how often it was here in this session.
async fn visit(client: &Client, session: &str) -> Result<u64, Failure> {
    let key = format!("session/{session}");
    loop {
        let seen = client.get(&key).await?;
        let visits = seen.as_ref().map_or(0, |record| record.version) + 1;
        let put = client.put(&key, format!("visit {visits}")).ttl(IDLE);
        // Two visits at once count as two.
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
    three.kill_one(); // deadlines are in the replicated state: they outlive the member
    println!("ann: visit {}", visit(&client, "ann").await?);
    println!("ben: visit {}", visit(&client, "ben").await?);

    // Idle for longer than the time to live: the sessions go by themselves, never early.
    while !client.scan("session/").keys_only().await?.is_empty() {
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(visit(&client, "ann").await?, 1);
    println!("ann: visit 1 again, in a new session");
    Ok(())
}
