//! QUIC does what every transport has to do.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use kv_transport::conformance::{self, Held, Subject};
use kv_transport_quic::Quic;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::UdpSocket;

kv_transport::conformance!(
    Subject::new(Quic::insecure().preface_timeout(Duration::from_secs(3600)), "127.0.0.1:0")
        .garbage(open_garbage)
);

/// Silent, or noise that looks like the first datagram of a connection, like a later one, or like neither, by turns.
async fn open_garbage(address: String) -> Held {
    static TURN: AtomicUsize = AtomicUsize::new(0);
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(address).await.unwrap();
    let turn = TURN.fetch_add(1, Ordering::Relaxed) % 4;
    let mut noise = vec![0; 1200];
    fastrand::Rng::with_seed(7).fill(&mut noise);
    match turn {
        0 => noise.clear(),
        1 => noise[..6].copy_from_slice(&[0xc0, 0, 0, 0, 1, 8]),
        2 => noise[0] = 0x40,
        _ => noise.truncate(7),
    }
    socket.send(&noise).await.unwrap();
    Box::new(socket)
}

/// `cargo test --release -p kv-transport-quic --test conformance -- --ignored --nocapture`
#[test]
#[ignore = "a measurement: it prints, and claims nothing"]
fn delays_beside_a_full_lane() {
    let subject = || Subject::new(Quic::insecure(), "127.0.0.1:0");
    conformance::run("delays", subject, conformance::delays_beside_a_full_lane);
}
