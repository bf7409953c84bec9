//! TCP does what every transport has to do.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use kv_transport::conformance::{self, Held, Subject};
use kv_transport_tcp::Tcp;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

kv_transport::conformance!(
    Subject::new(Tcp::new().preface_timeout(Duration::from_secs(3600)), "127.0.0.1:0").garbage(open_garbage)
);

/// Silent, half a preface, an HTTP request, or another version, by turns.
async fn open_garbage(address: String) -> Held {
    static TURN: AtomicUsize = AtomicUsize::new(0);
    let openings: [&[u8]; 4] = [b"", b"kvt", b"GET / HTTP/1.1\r\n\r\n", b"kvt\n\x02\x01\x00\x00"];
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(openings[TURN.fetch_add(1, Ordering::Relaxed) % 4]).await.unwrap();
    Box::new(socket)
}

/// `cargo test --release -p kv-transport-tcp --test conformance -- --ignored --nocapture`
#[test]
#[ignore = "a measurement: it prints, and claims nothing"]
fn delays_beside_a_full_lane() {
    let subject = || Subject::new(Tcp::new(), "127.0.0.1:0");
    conformance::run("delays", subject, conformance::delays_beside_a_full_lane);
}
