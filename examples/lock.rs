//! Leader election, and a lock that fences: whoever was the leader once and does not know that it is none any more
//! cannot do harm.

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
    // Waits for its turn, which comes when ann steps down, or when nothing has been heard of her for a second.
    let ben = tokio::spawn({
        let election = election.clone();
        async move { election.campaign("ben").ttl(Duration::from_secs(1)).await }
    });

    three.kill_one(); // a member dies: the lease goes on, since ann is well
    ann.transaction().put("reports/today", "by ann").await?;

    // Ann freezes: for example, her process is stopped. What she was about to write is written down with her token...
    let late = ann.transaction().put("reports/today", "by ann, much later");
    client.lease_by_id(ann.lease().id()).revoke().await?; // (what the cluster does when her second is over)
    let ben = ben.await??;
    ben.transaction().put("reports/today", "by ben").await?;
    // ... and she wakes up, in the belief that she leads.
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
