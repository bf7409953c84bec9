//! A job queue: each job is done once, even when members and workers die. The job of a dead worker is handed out again.

use kv_core::client::LeaseId;
use kv_core::client::Lifetime;
use kv_core::{Client, tokio};
use kv_examples::{Failure, Three};
use std::time::Duration;

const JOBS: usize = 30;

/// Claims the first free job. The claim is a key that belongs to the worker's lease, so it disappears when the worker
/// dies.
async fn claim(client: &Client, lease: LeaseId) -> Result<Option<String>, Failure> {
    for (job, _) in client.scan("jobs/open/").keys_only().await? {
        let name = String::from_utf8_lossy(&job).replace("jobs/open/", "");
        let claim = format!("jobs/claim/{name}");
        let taken = client.transaction().if_present(&job).if_absent(&claim).put_for(
            &claim,
            "",
            Lifetime::lease(lease),
        );
        if taken.await?.succeeded {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// Completes the job: at one revision, the job leaves the queue and its result appears. A worker that has lost its
/// claim changes nothing.
async fn finish(client: &Client, job: &str, worker: &str) -> Result<bool, Failure> {
    let (open, claim) = (format!("jobs/open/{job}"), format!("jobs/claim/{job}"));
    let done = client.transaction().if_present(&open).if_present(&claim);
    Ok(done.delete(&open).delete(&claim).put(format!("jobs/done/{job}"), worker.to_owned()).await?.succeeded)
}

async fn work(client: Client, worker: String) -> Result<usize, Failure> {
    let lease = client.lease(Duration::from_secs(1)).await?;
    let mut done = 0;
    // Look again whenever a job changes.
    let mut changes = client.watch("jobs/").stream();
    loop {
        while let Some(job) = claim(&client, lease.id()).await? {
            if worker == "worker 0" && done == 2 {
                return Ok(done); // dies while it holds a job
            }
            done += usize::from(finish(&client, &job, &worker).await?);
        }
        if client.scan("jobs/done/").keys_only().await?.len() == JOBS {
            return Ok(done);
        }
        changes.next().await.ok_or("a watch goes on for ever")??;
    }
}

#[tokio::main(crate = "kv_core::tokio")]
async fn main() -> Result<(), Failure> {
    let mut three = Three::start("job-queue").await?;
    let client = three.client();
    for job in 0..JOBS {
        client.put(format!("jobs/open/{job:02}"), "").await?;
    }
    let workers: Vec<_> =
        (0..3).map(|number| tokio::spawn(work(client.clone(), format!("worker {number}")))).collect();
    three.kill_one();
    let mut total = 0;
    for (number, worker) in workers.into_iter().enumerate() {
        let done = worker.await??;
        println!("worker {number}: {done} jobs");
        total += done;
    }
    let results = client.scan("jobs/done/").await?;
    assert!(results.len() == JOBS && total == JOBS, "each job was done once: {total}");
    assert!(results.iter().all(|(_, record)| record.version == 1));
    println!("{JOBS} jobs, each done once");
    Ok(())
}
