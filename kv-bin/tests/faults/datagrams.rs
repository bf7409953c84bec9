//! Faults that only QUIC has: a killed process whose connections nothing resets, half-open connections without a socket
//! each, and datagrams from anyone.

use crate::bench::{Bench, Row};
use crate::harness::LIMIT;
use crate::hostile::{ADDED_MIB, STORM};
use crate::processes;
use crate::raw::{dial, endpoint, first_datagram};
use crate::siege::{self, Flood, PREFACE, Siege};
use quinn::{Connection, Endpoint, RecvStream, SendStream};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// The number of concurrent senders of garbage: datagrams, and streams of well-formed connections.
const THROWERS: u64 = 16;
/// What a storm may add: the connections that are let in, that shake hands and that were just closed each hold the
/// state of TLS and of QUIC. It does not grow with the number of callers.
const STORM_ADDED_MIB: u64 = 64;

/// F-proc-1, F-proc-2: as on TCP.
pub(crate) async fn kill(rounds: u32) -> Row {
    processes::kill_on(Bench::of_three_over_quic().await, rounds).await
}

/// A connection that sends nothing more; with the stream that it has opened, if it has.
type Silent = (Connection, Option<(SendStream, RecvStream)>);

/// Opens this many connections, every other one with a stream that sends its lane. Returns those that could be opened.
async fn crowd(address: &str, count: usize) -> Vec<Silent> {
    // Each endpoint is one task; several share the work.
    let endpoints: Vec<Endpoint> = (0..8).map(|_| endpoint()).collect();
    let mut opening: JoinSet<Option<Silent>> = JoinSet::new();
    let mut open = Vec::new();
    for number in 0..count {
        let (endpoint, address) = (endpoints[number % endpoints.len()].clone(), address.to_owned());
        opening.spawn(async move {
            let connection = timeout(Duration::from_secs(5), dial(&endpoint, &address)).await.ok()?.ok()?;
            if number % 2 == 0 {
                return Some((connection, None));
            }
            // A member that closes at once is within its rights.
            let mut stream = timeout(Duration::from_secs(5), connection.open_bi()).await.ok()?.ok()?;
            stream.0.write_all(&PREFACE).await.ok()?;
            Some((connection, Some(stream)))
        });
        if opening.len() >= 256
            && let Some(Ok(Some(silent))) = opening.join_next().await
        {
            open.push(silent);
        }
    }
    while let Some(opened) = opening.join_next().await {
        open.extend(opened.ok().flatten());
    }
    open
}

/// F-load-4, F-proc-9: ten thousand connections in one go, half of which do not even send their lane. All of them are
/// closed.
pub(crate) async fn storm(rounds: u32) -> Row {
    let mut siege = Siege::of(Bench::of_three_over_quic().await);
    let mut opened = 0;
    for _ in 0..rounds {
        let address = siege.aim().await;
        let silent = crowd(&address, STORM).await;
        opened += silent.len();
        siege.progress().await;
        for (number, (connection, _stream)) in silent.iter().enumerate() {
            let closed = timeout(LIMIT, connection.closed()).await;
            assert!(closed.is_ok(), "connection {number} of {} is never closed", silent.len());
        }
        siege.survived().await;
    }
    assert!(opened > STORM / 2 * rounds as usize, "there is a storm: {opened} connections");
    siege.end(STORM_ADDED_MIB, format!("{opened} connections")).await
}

/// F-input-1, F-input-2, F-input-6: datagrams of garbage; first datagrams, intact and damaged, of handshakes that never
/// continue; and garbage on the streams of valid connections.
pub(crate) async fn garbage(rounds: u32) -> Row {
    let mut siege = Siege::of(Bench::of_three_over_quic().await);
    let begin = async |round: u32, address: &str, flood: &Flood| {
        let first = first_datagram().await;
        let mut throwers = JoinSet::new();
        for number in 0..THROWERS {
            let random = fastrand::Rng::with_seed(u64::from(round) << 8 | number);
            let (address, flood) = (address.to_owned(), flood.clone());
            if number % 2 == 0 {
                throwers.spawn(throw_datagrams(address, random, first.clone(), flood));
            } else {
                throwers.spawn(throw_on_streams(address, random, flood));
            }
        }
        throwers
    };
    let thrown = siege.flood(rounds, begin).await;
    assert!(thrown > 1000 * rounds as usize, "only {thrown} times garbage was thrown");
    siege.end(ADDED_MIB, format!("{thrown} throws by {THROWERS}")).await
}

async fn throw_datagrams(address: String, mut random: fastrand::Rng, first: Vec<u8>, flood: Flood) {
    while !flood.is_over() {
        // Each from another port: another stranger.
        let Ok(socket) = UdpSocket::bind("127.0.0.1:0").await else { continue };
        for _ in 0..64 {
            let mut bytes = first.clone();
            match random.u8(0..4) {
                // Whole: the beginning of a connection, again and again.
                0 => {}
                // Of another connection.
                1 => random.fill(&mut bytes[6..14]),
                // Damaged somewhere.
                2 => {
                    let at = random.usize(..bytes.len());
                    bytes[at] ^= 1 << random.u8(..8);
                }
                _ => {
                    bytes.truncate(random.usize(1..1400).min(bytes.len()));
                    random.fill(&mut bytes);
                }
            }
            if socket.send_to(&bytes, &address).await.is_ok() {
                flood.count();
            }
        }
        // The load has to live on the same two processors.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Connects, throws garbage on streams for as long as it is taken, and begins again.
async fn throw_on_streams(address: String, mut random: fastrand::Rng, flood: Flood) {
    let endpoint = endpoint();
    while !flood.is_over() {
        let Ok(Ok(connection)) = timeout(Duration::from_secs(1), dial(&endpoint, &address)).await else {
            continue;
        };
        for _ in 0..8 {
            let bytes = siege::garbage(&mut random);
            let Ok(Ok((mut send, _receive))) =
                timeout(Duration::from_millis(200), connection.open_bi()).await
            else {
                break;
            };
            flood.count();
            if !matches!(timeout(Duration::from_millis(200), send.write_all(&bytes)).await, Ok(Ok(()))) {
                break;
            }
        }
    }
}
