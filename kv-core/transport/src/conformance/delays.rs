//! Measures how long small messages take in one lane while another lane is full. This is a measurement, not a claim.

use super::Subject;
use crate::{Connection, Lane};
use std::fmt::{self, Display};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::sleep;

/// How many messages are sent, and the pause between them.
const ROUNDS: usize = 500;
const PACE: Duration = Duration::from_millis(1);
/// The size of a small message, in bytes: that of a heartbeat.
const SMALL_BYTES: usize = 64;
const BLOCK_BYTES: usize = 256 << 10;

/// The round-trip times of messages.
#[derive(Clone, Copy, Debug)]
pub struct RoundTrips {
    /// Half of the messages were faster.
    pub median: Duration,
    /// One message in a hundred was slower.
    pub p99: Duration,
    /// The slowest message.
    pub slowest: Duration,
}

impl Display for RoundTrips {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { median, p99, slowest } = self;
        write!(f, "median {median:.0?}, p99 {p99:.0?}, slowest {slowest:.0?}")
    }
}

/// Prints how long small messages take on the Control lane: alone, and while the Bulk lane is full.
pub async fn delays_beside_a_full_lane(subject: Subject) {
    let (mut listener, mut near, far) = subject.pair(Lane::Control).await;
    let echo = tokio::spawn(echo(far));
    let alone = round_trips(&mut near).await;
    println!("alone:       {alone}");

    let full = subject.connect(&*listener, Lane::Bulk).await;
    let drain = listener.accept().await.expect("the connection is accepted");
    let (filling, draining) = (tokio::spawn(fill(full)), tokio::spawn(count(drain)));
    let started = Instant::now();
    let beside = round_trips(&mut near).await;
    filling.abort();
    let bytes = draining.await.expect("the rest comes");
    let rate = bytes as f64 / started.elapsed().as_secs_f64() / f64::from(1 << 20);
    println!("beside bulk: {beside}; {rate:.0} MiB/s of bulk");
    echo.abort();
}

async fn round_trips(connection: &mut Connection) -> RoundTrips {
    let mut times = Vec::with_capacity(ROUNDS);
    let mut message = [7; SMALL_BYTES];
    for _ in 0..ROUNDS {
        sleep(PACE).await;
        let sent = Instant::now();
        connection.writer.write_all(&message).await.expect("bytes go");
        connection.writer.flush().await.expect("bytes are sent");
        connection.reader.read_exact(&mut message).await.expect("they come back");
        times.push(sent.elapsed());
    }
    times.sort_unstable();
    RoundTrips { median: times[ROUNDS / 2], p99: times[ROUNDS * 99 / 100], slowest: times[ROUNDS - 1] }
}

async fn echo(mut connection: Connection) {
    let mut message = [0; SMALL_BYTES];
    while connection.reader.read_exact(&mut message).await.is_ok() {
        connection.writer.write_all(&message).await.expect("bytes go");
        connection.writer.flush().await.expect("bytes are sent");
    }
}

async fn fill(mut connection: Connection) {
    let block = vec![7; BLOCK_BYTES];
    while connection.writer.write_all(&block).await.is_ok() {}
}

async fn count(mut connection: Connection) -> u64 {
    let (mut bytes, mut block) = (0, vec![0; BLOCK_BYTES]);
    while let Ok(read @ 1..) = connection.reader.read(&mut block).await {
        bytes += read as u64;
    }
    bytes
}
