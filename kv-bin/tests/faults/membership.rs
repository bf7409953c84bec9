//! Members come, go and are replaced while clients write and read.

use crate::bench::{Bench, FLAGS, Row};
use crate::harness::{self, Cluster, LIMIT};
use kv_core::Client;
use kv_core::config::MemberId;
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::{JoinHandle, block_in_place};

/// The journals keep so little that a newcomer needs the state, and the state takes a moment to send.
const TRANSFERS: [&str; 6] = [
    "--checkpoint-bytes",
    "1MiB",
    "--journal-retention-bytes",
    "1MiB",
    "--transfer-bytes-per-second",
    "16MiB",
];
/// What is in the state besides the keys of the writers.
const FILL: usize = 256;
const VALUE: usize = 32 << 10;
/// The file of a snapshot that is being received.
const STAGING: &str = "state.transfer";

/// Each of three members is replaced by a new one with an empty disk: the first loses its disk, the second newcomer is
/// killed while it receives the state, and the primary is killed in the third change. No call fails.
pub(crate) async fn replace(rounds: u32) -> Row {
    let flags = [&FLAGS[..], &TRANSFERS].concat();
    let mut bench = Bench::on(Cluster::start(&["data", "data", "data"], &flags)).await;
    let readers = Readers::start(&bench).await;
    fill(&bench.client).await;
    let mut voters = vec![0, 1, 2];
    for round in 1..=rounds {
        for (turn, old) in voters.clone().into_iter().enumerate() {
            let new = bench.cluster.newcomer();
            let lost = turn == 0;
            if lost {
                bench.cluster.kill(old);
                std::fs::remove_dir_all(bench.cluster.data(old)).unwrap();
                bench.cluster.update_join(old);
                let words = match block_in_place(|| bench.cluster.try_restart(old)) {
                    Ok(()) => bench.ended(old).await,
                    Err(words) => words,
                };
                let remedy = format!("kv member replace {old} NEW=");
                assert!(words.contains(&remedy), "it says what to do: {words}");
            }
            // It adds the newcomer, waits until it has caught up, and gives it the vote.
            let mut command = Running::start(&bench, &replacement(&bench, old, new));
            until_listed(&bench.client, new).await;
            block_in_place(|| bench.cluster.restart(new));
            match turn {
                0 => {}
                1 => {
                    let staging = bench.cluster.data(new).join(STAGING);
                    until("the newcomer receives the state", || staging.exists()).await;
                    bench.cluster.kill(new);
                    block_in_place(|| bench.cluster.restart(new));
                }
                _ => {
                    // At any moment of the change.
                    tokio::time::sleep(Duration::from_millis(fastrand::u64(..400))).await;
                    let chief = bench.primary().await;
                    bench.cluster.kill(chief);
                    block_in_place(|| bench.cluster.restart(chief));
                }
            }
            let blow = Instant::now();
            command.ended();
            voters[turn] = new;
            bench.progress().await;
            harness::level(&bench.client, &voters).await;
            if !lost {
                assert!(bench.ended(old).await.contains("was removed"), "the old member says why it ends");
            }
            bench.survived(blow);
            report(&bench, &format!("round {round}: member {old} replaced by {new}"), blow);
        }
    }
    end(bench, readers, "each member replaced; no call failed").await
}

/// From one member to three and five, and back to one; and each of the three gets another address.
pub(crate) async fn resize(rounds: u32) -> Row {
    let mut bench = Bench::on(Cluster::start(&["data"], &FLAGS)).await;
    let readers = Readers::start(&bench).await;
    let mut voters = vec![0];
    for round in 1..=rounds {
        let note = |bench: &Bench, what: &str, blow| report(bench, &format!("round {round}: {what}"), blow);
        while voters.len() < 5 {
            let new = bench.cluster.newcomer();
            let address = bench.cluster.address(new).to_owned();
            let blow = Instant::now();
            member(&bench, &["add", &format!("{new}={address}")]);
            block_in_place(|| bench.cluster.restart(new));
            member(&bench, &["promote", &new.to_string()]);
            voters.push(new);
            bench.progress().await;
            harness::level(&bench.client, &voters).await;
            bench.survived(blow);
            note(&bench, &format!("member {new} added and promoted"), blow);
        }
        while voters.len() > 1 {
            // The primary goes, too; but a member that is to be left alone must be the primary before.
            let chief = bench.primary().await;
            let backup = *voters.iter().find(|id| **id != chief).expect("there is another one");
            let gone = if voters.len() == 4 { chief } else { backup };
            let blow = Instant::now();
            member(&bench, &["remove", &gone.to_string()]);
            voters.retain(|id| *id != gone);
            assert!(bench.ended(gone).await.contains("was removed"), "the removed member says why it ends");
            bench.progress().await;
            harness::level(&bench.client, &voters).await;
            bench.survived(blow);
            let role = if gone == chief { "the primary" } else { "a backup" };
            note(&bench, &format!("member {gone}, {role}, removed"), blow);
        }
    }
    end(bench, readers, "1 to 5 members and back; no call failed").await
}

/// Each of three members moves to another port: it is restarted there, and the cluster is told. Then it restarts by its
/// old configuration, and is still found.
pub(crate) async fn move_each(rounds: u32) -> Row {
    let mut bench = Bench::on(Cluster::start(&["data", "data", "data"], &FLAGS)).await;
    let readers = Readers::start(&bench).await;
    for round in 1..=rounds {
        let chief = bench.primary().await;
        for id in [1, 2, 0].map(|next| (chief + next) % 3) {
            let blow = Instant::now();
            assert_eq!(block_in_place(|| bench.cluster.terminate(id)).code(), Some(0));
            let address = bench.cluster.relocate(id);
            block_in_place(|| bench.cluster.restart(id));
            member(&bench, &["address", &format!("{id}={address}")]);
            bench.progress().await;
            bench.level().await;
            assert_eq!(block_in_place(|| bench.cluster.terminate(id)).code(), Some(0));
            bench.cluster.settle(id);
            block_in_place(|| bench.cluster.restart(id));
            bench.progress().await;
            bench.level().await;
            bench.survived(blow);
            report(&bench, &format!("round {round}: member {id} moved"), blow);
        }
    }
    end(bench, readers, "each member moved; no call failed").await
}

async fn fill(client: &Client) {
    for number in 0..FILL {
        // Values that a compression does not shrink.
        let value: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(VALUE).collect();
        client.put(format!("fill/{number}"), value).await.expect("the cluster serves");
    }
}

fn replacement(bench: &Bench, old: usize, new: usize) -> Vec<String> {
    let place = format!("{new}={}", bench.cluster.address(new));
    ["member", "replace", &old.to_string(), &place, "--wait", "2min"].map(str::to_owned).to_vec()
}

/// Runs `kv member`, which must succeed.
fn member(bench: &Bench, arguments: &[&str]) {
    Running::start(bench, &["member"].iter().chain(arguments).map(ToString::to_string).collect::<Vec<_>>())
        .ended();
}

/// A command that runs beside the load.
struct Running {
    child: Child,
    what: String,
}

impl Running {
    fn start(bench: &Bench, arguments: &[String]) -> Self {
        let what = arguments.join(" ");
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let mut command = bench.cluster.kv(&[&arguments[..], &["--timeout", "60s"]].concat());
        command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
        Self { child: command.spawn().expect("the program starts"), what }
    }

    fn ended(&mut self) {
        // The load goes on meanwhile.
        let status = block_in_place(|| harness::wait(&mut self.child));
        assert!(status.success(), "kv {}: {status}", self.what);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until the cluster has a member with this id.
async fn until_listed(client: &Client, id: usize) {
    let id = MemberId::new(u8::try_from(id).expect("a small number"));
    let start = Instant::now();
    loop {
        let list = client.members().await.expect("a member answers");
        if list.members.iter().any(|member| member.id == id) {
            return;
        }
        assert!(start.elapsed() < LIMIT, "member {id} is never added");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn until(what: &str, check: impl Fn() -> bool) {
    let start = Instant::now();
    while !check() {
        assert!(start.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn report(bench: &Bench, what: &str, blow: Instant) {
    let [p99, worst] = bench.gaps_since(blow).map(|gap| gap.as_millis());
    println!("  {what}: gaps between writes: p99 {p99} ms, longest {worst} ms");
}

async fn end(bench: Bench, readers: Readers, remark: &str) -> Row {
    let (reads, longest) = readers.stop().await;
    let list = bench.client.members().await.expect("a member answers");
    for number in 0..FILL {
        bench.client.delete(format!("fill/{number}")).await.expect("the cluster serves");
    }
    let row = bench.end(format!(
        "{remark}; {reads} reads, the slowest {} ms; epoch {}",
        longest.as_millis(),
        list.epoch
    ));
    let row = row.await;
    assert_eq!(row.verdict.acknowledged, row.verdict.writes, "no client sees an error");
    row
}

/// A client that only reads, and never asks for the member list.
struct Readers {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    task: JoinHandle<Duration>,
}

impl Readers {
    async fn start(bench: &Bench) -> Self {
        let client = bench.cluster.client().await;
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (end, read) = (stop.clone(), count.clone());
        let task = tokio::spawn(async move {
            let mut longest = Duration::ZERO;
            while !end.load(Ordering::Relaxed) {
                let start = Instant::now();
                client.get("a key that nobody writes").await.expect("no read fails");
                longest = longest.max(start.elapsed());
                read.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            longest
        });
        Self { stop, count, task }
    }

    async fn stop(self) -> (u64, Duration) {
        self.stop.store(true, Ordering::Relaxed);
        let longest = self.task.await.expect("no read fails");
        (self.count.load(Ordering::Relaxed), longest)
    }
}
