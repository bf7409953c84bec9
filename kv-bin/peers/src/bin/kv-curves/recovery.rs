//! How long a member takes until it is level again: after a restart, and after it was away.

use crate::Args;
use crate::cluster::{Cluster, Network};
use crate::load::bytes;
use crate::table::Table;
use kv_peers::Result;
use tokio::time::Instant;

const VALUE: u64 = 1024;

/// One cluster grows from size to size. All of the data is written again each time, while one backup is down, so that
/// what the backup has missed is as much as the cluster holds.
pub(crate) async fn restart(args: &Args) -> Result<()> {
    let sizes: &[u64] = if args.quick { &[1, 16] } else { &[1, 64, 256, 1024] };
    let mut table = Table::begin(
        "Restart and catch-up",
        "Three members without load; values of 1 KiB. *Catch-up*: a backup was down while all of the data was written. \
         *Restart*: the same backup, when it was level, was killed and started again. Each is the time from the start \
         of the process until the backup has applied everything that was committed.",
        &["data", "catch-up", "restart", "memory of the backup"],
    );
    let mut cluster = Cluster::start::<3>(&args.kv, Network::Tcp, &[]).await?;
    for mib in sizes {
        let size = mib << 20;
        let backup = (cluster.primary().await? + 1) % 3;
        cluster.kill(backup).await?;
        cluster.fill(size / VALUE, VALUE).await?;
        let caught_up = level(&mut cluster, backup).await?;
        cluster.kill(backup).await?;
        let restarted = level(&mut cluster, backup).await?;
        let memory = cluster.process(backup)?.memory()?;
        table.row(&[bytes(size), caught_up, restarted, format!("{} MiB", memory >> 20)]);
    }
    Ok(())
}

/// Starts a member, and measures the time until all are level.
async fn level(cluster: &mut Cluster, id: usize) -> Result<String> {
    let begun = Instant::now();
    cluster.start_member(id)?;
    cluster.level().await?;
    Ok(format!("{:.2} s", begun.elapsed().as_secs_f64()))
}
