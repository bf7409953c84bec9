//! A member under attack: thousands of silent connections, and floods of garbage. The load continues, and the memory of
//! the member stays within its bound.

use crate::bench::{Bench, FLAGS, Row};
use crate::harness::{Cluster, LIMIT};
use crate::siege::{self, Flood, PREFACE, Siege};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Connections of a storm at full length.
pub(crate) const STORM: usize = 10_000;
/// What an attack may add.
pub(crate) const ADDED_MIB: u64 = 32;
/// The number of concurrent senders of garbage.
const THROWERS: u32 = 64;
/// Opens this many connections, and sends `first` on each. Returns those that could be opened.
async fn crowd(address: SocketAddr, count: usize, first: &'static [u8]) -> Vec<TcpStream> {
    let mut opening = JoinSet::new();
    let mut open = Vec::new();
    for _ in 0..count {
        opening.spawn(async move {
            let mut stream = timeout(Duration::from_secs(5), TcpStream::connect(address)).await.ok()?.ok()?;
            // A member that closes at once is within its rights.
            stream.write_all(first).await.ok()?;
            Some(stream)
        });
        if opening.len() >= 256
            && let Some(Ok(Some(stream))) = opening.join_next().await
        {
            open.push(stream);
        }
    }
    while let Some(opened) = opening.join_next().await {
        open.extend(opened.ok().flatten());
    }
    open
}

/// Whether the member has closed it. One that the system took for open while the member's queue was full, and dropped
/// there later, notices when something is sent on it.
async fn is_closed(stream: &mut TcpStream) -> bool {
    let mut byte = [0];
    let open = matches!(timeout(Duration::ZERO, stream.read(&mut byte)).await, Err(_) | Ok(Ok(1)));
    !open || stream.try_write(&byte).is_err()
}

/// F-load-4, F-proc-9: ten thousand connections in one go, half of which do not even send their lane, and again. The
/// member has fewer descriptors than that. All of them are closed at their deadlines.
pub(crate) async fn storm(rounds: u32) -> Row {
    let mut cluster = Cluster::prepare(&["data", "data", "data"], &FLAGS);
    let limit = "ulimit -n 2048; exec \"$@\"";
    for id in 0..3 {
        cluster.under[id] = ["bash", "-c", limit, "bash"].map(str::to_owned).to_vec();
        cluster.restart(id);
    }
    let mut siege = Siege::of(Bench::on(cluster).await);
    let mut opened = 0;
    for _ in 0..rounds {
        let address = siege.aim().await.parse().unwrap();
        let mut silent = crowd(address, STORM / 2, b"").await;
        silent.extend(crowd(address, STORM / 2, &PREFACE).await);
        opened += silent.len();
        siege.progress().await;
        let start = Instant::now();
        while let Some(mut last) = silent.pop() {
            while !is_closed(&mut last).await {
                assert!(start.elapsed() < LIMIT, "{} connections are never closed", silent.len() + 1);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        siege.survived().await;
    }
    assert!(opened > STORM / 2 * rounds as usize, "there is a storm: {opened} connections");
    siege.end(ADDED_MIB, format!("{opened} connections, 2048 descriptors")).await
}

/// F-input-1, F-input-2: as much garbage as goes through, on every lane and none, before and behind good beginnings.
pub(crate) async fn garbage(rounds: u32) -> Row {
    let mut siege = Siege::of(Bench::of_three().await);
    let begin = async |round: u32, address: &str, flood: &Flood| {
        let address = address.parse().unwrap();
        let seeds = (0..THROWERS).map(|number| u64::from(round << 8 | number));
        seeds.map(|seed| throw(address, seed, flood.clone())).collect()
    };
    let thrown = siege.flood(rounds, begin).await;
    assert!(thrown > THROWERS as usize, "only {thrown} times garbage was thrown");
    siege.end(ADDED_MIB, format!("{thrown} throws by {THROWERS}")).await
}

/// Connects, throws garbage for as long as it is taken, and begins again.
async fn throw(address: SocketAddr, seed: u64, flood: Flood) {
    let mut random = fastrand::Rng::with_seed(seed);
    while !flood.is_over() {
        let Ok(Ok(mut stream)) = timeout(Duration::from_secs(1), TcpStream::connect(address)).await else {
            continue;
        };
        flood.count();
        let bytes = siege::garbage(&mut random);
        for _ in 0..16 {
            let written = timeout(Duration::from_millis(200), stream.write_all(&bytes)).await;
            if !matches!(written, Ok(Ok(()))) {
                break;
            }
        }
    }
}
