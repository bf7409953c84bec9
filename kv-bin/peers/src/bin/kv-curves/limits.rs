//! What a group cannot do: each limit with the command that shows it, and the answer of kv.

use crate::Args;
use crate::cluster::{Cluster, Network};
use crate::table::Table;
use kv_peers::{Result, bench};

/// The longest answer that is shown.
const SHOWN: usize = 180;

/// Runs a command with the options of a client, and adds a row.
async fn show(
    table: &mut Table,
    cluster: &Cluster,
    limit: &str,
    shown: &str,
    arguments: &[&str],
) -> Result<()> {
    let (good, stdout, stderr) = cluster.run(arguments).await?;
    let answer = if good {
        format!("works: `{}`", String::from_utf8_lossy(&stdout).lines().last().unwrap_or("nothing printed"))
    } else {
        bench::complaint(&stderr)
    };
    table.row(&[limit.to_owned(), shown.to_owned(), clean(&answer, cluster)]);
    Ok(())
}

/// Without what differs from run to run, and without what would break the table.
fn clean(answer: &str, cluster: &Cluster) -> String {
    // In a line of a log, what matters follows the reason.
    let answer = answer.split_once(" halt=").map_or(answer, |(_, reason)| reason);
    let mut text = answer.replace('|', "/").replace('\n', " ");
    for (id, address) in cluster.addresses.iter().enumerate() {
        text = text.replace(&cluster.data(id).display().to_string(), &format!("DATA/{id}"));
        text = text.replace(address, &format!("HOST{id}:7000"));
    }
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

pub(crate) async fn limits(args: &Args) -> Result<()> {
    let mut table = Table::begin(
        "Limits",
        "Three members with the default settings. `kv` finds them by `KV_ADDRESS`.",
        &["limit", "command", "answer"],
    );
    let mut cluster = Cluster::start::<3>(&args.kv, Network::Tcp, &[]).await?;
    requests(&mut table, &cluster).await?;
    connections(&mut table, &cluster).await?;
    let backup = (cluster.primary().await? + 1) % 3;
    membership(&mut table, &mut cluster, backup).await?;
    cluster.kill(backup).await?;
    cluster.kill((backup + 1) % 3).await?;
    let limit = "Without a majority there are no writes.";
    let command = ["put", "key", "value", "--timeout", "3s"];
    show(&mut table, &cluster, limit, "`kv put key value --timeout 3s`", &command).await?;
    let limit = "Without a majority there are no linearizable reads.";
    show(&mut table, &cluster, limit, "`kv get key --timeout 3s`", &["get", "key", "--timeout", "3s"])
        .await?;
    let limit = "A stale read needs one member only.";
    show(&mut table, &cluster, limit, "`kv get key --local`", &["get", "key", "--local"]).await
}

async fn requests(table: &mut Table, cluster: &Cluster) -> Result<()> {
    show(table, cluster, "A put works within the limits.", "`kv put key value`", &["put", "key", "value"])
        .await?;
    let long = "k".repeat(4097);
    let limit = "A key has at most 4 KiB (`--max-key-bytes`).";
    show(table, cluster, limit, "`kv put $(4,097 bytes) value`", &["put", &long, "value"]).await?;
    let limit = "A value has at most 1 MiB (`--max-value-bytes`).";
    let bench = ["bench", "--value-size", "1048577", "--clients", "1", "--time", "1s"];
    show(table, cluster, limit, "`kv bench --value-size 1048577 --clients 1`", &bench).await?;
    for _ in 0..2 {
        cluster.fill(100, 1 << 20).await?;
    }
    let limit = "Past values are kept up to 64 MiB (`--history-bytes`).";
    let command = "`kv get key --revision 1`, after 100 MiB of values were replaced";
    show(table, cluster, limit, command, &["get", "key", "--revision", "1"]).await
}

/// More clients than a member accepts.
async fn connections(table: &mut Table, cluster: &Cluster) -> Result<()> {
    let limit = "A member accepts at most 1,024 connections of clients (`--max-connections`).";
    let command = "bench --op get --no-fill --clients 4000 --time 1s --timeout 5s";
    let arguments: Vec<&str> = command.split(' ').collect();
    show(table, cluster, limit, &format!("`kv {command}`"), &arguments).await
}

/// The members are fixed, and none may lose its data.
async fn membership(table: &mut Table, cluster: &mut Cluster, backup: usize) -> Result<()> {
    cluster.kill(backup).await?;
    let (folder, more) = (cluster.data(backup), format!("{},3=127.0.0.1:7003", cluster.members()));
    let (id, data) = (backup.to_string(), folder.display().to_string());
    let arguments = ["serve", "--id", &id, "--members", &more, "--data", &data];
    let answer = cluster.serve_briefly(&arguments).await?;
    table.row(&[
        "The members are fixed when the cluster forms.".to_owned(),
        "`kv serve`, with one more member in the list".to_owned(),
        clean(&answer, cluster),
    ]);
    std::fs::remove_dir_all(&folder)?;
    let answer = cluster.complaint(backup).await?;
    table.row(&[
        "A member cannot rejoin when it has lost its data folder.".to_owned(),
        "`rm -r DATA`, then `kv serve`".to_owned(),
        clean(&answer, cluster),
    ]);
    Ok(())
}
