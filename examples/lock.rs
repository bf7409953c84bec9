//! Leader election, and a fencing lock: a former leader that does not know that it was replaced cannot do harm.

use kv_core::tokio;
use kv_examples::{Failure, Three};
use std::time::Duration;
use tokio::time::sleep;

#[tokio::main(crate = "kv_core::tokio")]
async fn main() -> Result<(), Failure> {
    let mut three = Three::start("lock").await?;
    let client = three.client();
    let election = client.election("reports/leader");

    let ann = election.campaign("ann").ttl(Duration::from_secs(1)).await?;
    println!("the leader is {:?}", election.leader().await?);
    // Waits for its turn: until ann steps down, or has not renewed her lease for a second.
    let ben = tokio::spawn({
        let election = election.clone();
        async move { election.campaign("ben").ttl(Duration::from_secs(1)).await }
    });

    three.kill_one(); // a member dies: the lease continues, because ann is alive
    ann.transaction().put("reports/today", "by ann").await?;

    // Ann freezes: for example, her process is stopped. Her next write is prepared with her token...
    let late = ann.transaction().put("reports/today", "by ann, much later");
    client.lease_by_id(ann.lease().id()).revoke().await?; // (the cluster does this after a second without renewal)
    let ben = ben.await??;
    ben.transaction().put("reports/today", "by ben").await?;
    // ... and she wakes up, and believes that she is still the leader.
    let error = late.await.err().ok_or("a former leader has written")?;
    println!("ann's late report was refused: {error}");
    assert!(error.is_lock_lost() && ben.token() > ann.token());
    let today = client.get("reports/today").await?.ok_or("there is a report")?;
    assert_eq!(&today.value[..], b"by ben");

    ben.release().await?;
    while election.leader().await?.is_some() {
        sleep(Duration::from_millis(10)).await;
    }
    println!("nobody leads any more");
    Ok(())
}
