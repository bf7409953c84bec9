//! Tests of QUIC beyond the conformance suite: slow, silent and greedy openers, and floods.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod raw;

use kv_transport::{Connection, Lane, Listener, Transport, TransportError, preface};
use kv_transport_quic::Quic;
use raw::{dial, dial_as, endpoint, first_datagram, first_datagrams};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UdpSocket;
use tokio::time::timeout;

const LONG: Duration = Duration::from_secs(30);
const NEVER: Duration = Duration::from_secs(3600);

async fn listen(quic: &Quic) -> (Box<dyn Listener>, String) {
    let listener = quic.bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_address();
    (listener, address)
}

/// Accepts until a Bulk lane arrives, and counts the accepted streams.
fn keep_accepting(mut listener: Box<dyn Listener>) -> tokio::task::JoinHandle<usize> {
    tokio::spawn(async move {
        let mut accepted: Vec<Connection> = Vec::new();
        while accepted.last().is_none_or(|last| last.lane != Lane::Bulk) {
            accepted.push(timeout(LONG, listener.accept()).await.unwrap().unwrap());
        }
        accepted.len()
    })
}

async fn ping(near: &mut Connection, far: &mut Connection) {
    near.writer.write_all(b"?").await.unwrap();
    assert_eq!(timeout(LONG, far.reader.read_u8()).await.unwrap().unwrap(), b'?');
    far.writer.write_all(b"!").await.unwrap();
    assert_eq!(timeout(LONG, near.reader.read_u8()).await.unwrap().unwrap(), b'!');
}

#[tokio::test]
async fn f_input_3_a_caller_that_does_not_send_its_lane_in_time_is_closed() {
    let quic = Quic::insecure().preface_timeout(Duration::from_millis(50));
    let (listener, address) = listen(&quic).await;
    let accepting = keep_accepting(listener);
    let endpoint = endpoint();
    let silent = dial(&endpoint, &address).await.unwrap();
    timeout(LONG, silent.closed()).await.unwrap();
    let slow = dial(&endpoint, &address).await.unwrap();
    let (mut send, mut receive) = slow.open_bi().await.unwrap();
    send.write_all(b"kvt").await.unwrap();
    let read = timeout(LONG, receive.read(&mut [0; 1])).await.unwrap();
    assert!(!matches!(read, Ok(Some(_))), "{read:?}");
    timeout(LONG, slow.closed()).await.unwrap();
    quic.connect(&address, Lane::Bulk).await.unwrap();
    assert_eq!(accepting.await.unwrap(), 1);
}

#[tokio::test]
async fn streams_that_begin_with_garbage_are_closed_at_once() {
    let quic = Quic::insecure().preface_timeout(NEVER);
    let (listener, address) = listen(&quic).await;
    let accepting = keep_accepting(listener);
    let endpoint = endpoint();
    let caller = dial(&endpoint, &address).await.unwrap();
    for opening in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"kvt\n\x02\x01\x00\x00", b"kvt\n\x01\x09\x00\x00"] {
        let (mut send, mut receive) = caller.open_bi().await.unwrap();
        send.write_all(opening).await.unwrap();
        let read = timeout(LONG, receive.read(&mut [0; 1])).await.unwrap();
        assert!(!matches!(read, Ok(Some(_))), "{opening:?}: {read:?}");
    }
    quic.connect(&address, Lane::Bulk).await.unwrap();
    assert_eq!(accepting.await.unwrap(), 1);
}

#[tokio::test]
async fn a_quic_peer_that_does_not_speak_kv_is_refused() {
    let (_listener, address) = listen(&Quic::insecure()).await;
    dial_as(&endpoint(), &address, b"h3").await.unwrap_err();
}

#[tokio::test]
async fn the_oldest_of_too_many_half_open_connections_is_closed() {
    let quic = Quic::insecure().preface_timeout(NEVER).max_half_open(8);
    let (listener, address) = listen(&quic).await;
    let accepting = keep_accepting(listener);
    let endpoint = endpoint();
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(dial(&endpoint, &address).await.unwrap());
    }
    for one in &silent[..12] {
        timeout(LONG, one.closed()).await.unwrap();
    }
    for one in &silent[12..] {
        assert!(one.close_reason().is_none());
    }
    quic.connect(&address, Lane::Bulk).await.unwrap();
    assert_eq!(accepting.await.unwrap(), 1);
}

#[tokio::test]
async fn f_input_6_callers_must_show_that_they_can_be_reached_once_many_are_half_open() {
    let quic = Quic::insecure().preface_timeout(NEVER).max_half_open(8);
    let (listener, address) = listen(&quic).await;
    let accepting = keep_accepting(listener);
    // Each begins a handshake and never continues it.
    let mut retries = 0;
    for _ in 0..40 {
        let first = first_datagram().await;
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(&address).await.unwrap();
        socket.send(&first).await.unwrap();
        let mut answer = [0; 2000];
        let length = timeout(LONG, socket.recv(&mut answer)).await.unwrap().unwrap();
        retries += usize::from(length > 0 && answer[0] & 0xf0 == 0xf0);
    }
    assert_eq!(retries, 38, "all but the first quarter of eight");
    quic.connect(&address, Lane::Bulk).await.unwrap();
    assert_eq!(accepting.await.unwrap(), 1);
}

/// F-load-4: a source that begins far too many handshakes is answered only at its rate, and members are accepted.
#[tokio::test]
async fn f_load_4_a_storm_of_handshakes_over_quic_is_bounded_and_does_not_block_members() {
    const CROWD: usize = 200;
    // So many may be half-open that nobody has to show first that it can be reached.
    let quic = Quic::insecure().preface_timeout(NEVER).max_half_open(8 * CROWD).max_handshakes_per_second(4);
    let (mut listener, address) = listen(&quic).await;
    listener.keep_places_for(vec!["127.0.0.1:1".to_owned()]);
    let accepting = keep_accepting(listener);
    let mut crowd = Vec::new();
    for first in first_datagrams(CROWD).await {
        let socket = UdpSocket::bind("127.0.0.2:0").await.unwrap();
        socket.send_to(&first, &address).await.unwrap();
        crowd.push(socket);
    }
    timeout(LONG, quic.connect(&address, Lane::Bulk)).await.unwrap().unwrap();
    assert_eq!(accepting.await.unwrap(), 1);
    // The others have heard nothing. In every second there may be two.
    let answered = crowd.iter().filter(|socket| socket.try_recv(&mut [0; 2000]).is_ok()).count();
    assert!((1..64).contains(&answered), "{answered} of {CROWD} were let in");
}

/// What one connection from there makes a listener hold, on four streams that nobody reads.
async fn held_for(listener: &mut Box<dyn Listener>, address: &str) -> usize {
    let endpoint = endpoint();
    let caller = dial(&endpoint, address).await.unwrap();
    let (mut written, mut streams) = (0, Vec::new());
    for _ in 0..4 {
        let (mut send, receive) = caller.open_bi().await.unwrap();
        send.write_all(&preface::encode(Lane::Client)).await.unwrap();
        let accepted = timeout(LONG, listener.accept()).await.unwrap().unwrap();
        while let Ok(count) = timeout(Duration::from_millis(100), send.write(&[7; 10_000])).await {
            written += count.unwrap();
        }
        streams.push((send, receive, accepted));
    }
    written
}

#[tokio::test]
async fn a_stranger_can_buffer_64_kib_per_stream_and_a_member_more() {
    const STRANGERS: usize = 4 * (64 << 10);
    let quic = Quic::insecure();
    let (mut listener, address) = listen(&quic).await;
    let strangers = held_for(&mut listener, &address).await;
    assert!((STRANGERS / 2..=STRANGERS).contains(&strangers), "{strangers}");
    listener.keep_places_for(vec!["127.0.0.1:1".to_owned()]);
    let members = held_for(&mut listener, &address).await;
    assert!(members > 2 * STRANGERS, "{members}");
}

#[tokio::test]
async fn f_input_1_a_flood_of_garbage_does_no_harm() {
    let quic = Quic::insecure();
    let (mut listener, address) = listen(&quic).await;
    let mut near = quic.connect(&address, Lane::Log).await.unwrap();
    let mut far = listener.accept().await.unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut rng = fastrand::Rng::with_seed(1);
    for round in 0..5_000 {
        let mut noise = vec![0; rng.usize(0..1500)];
        rng.fill(&mut noise);
        if let Some(first) = noise.first_mut() {
            *first = [0x40, 0xc0, 0xd0, 0xe0, 0xf0, *first][round % 6];
        }
        if noise.len() > 5 && round % 2 == 0 {
            noise[1..5].copy_from_slice(&[0, 0, 0, 1]);
        }
        socket.send_to(&noise, &address).await.unwrap();
        if round % 500 == 0 {
            ping(&mut near, &mut far).await;
        }
    }
    ping(&mut near, &mut far).await;
}

#[tokio::test]
async fn streams_of_a_connection_are_bounded() {
    let quic = Quic::insecure().preface_timeout(NEVER);
    let (_listener, address) = listen(&quic).await;
    let endpoint = endpoint();
    let caller = dial(&endpoint, &address).await.unwrap();
    let mut open = Vec::new();
    while let Ok(stream) = timeout(Duration::from_millis(300), caller.open_bi()).await {
        open.push(stream.unwrap());
        assert!(open.len() <= 128);
    }
    assert_eq!(open.len(), 128);
    let uni = timeout(Duration::from_millis(100), caller.open_uni()).await;
    assert!(uni.is_err(), "nobody reads those");
}

#[tokio::test]
async fn memory_that_a_caller_can_use_is_bounded() {
    const WINDOW: u32 = 64 << 10;
    let quic = Quic::insecure().preface_timeout(NEVER).stream_window(WINDOW);
    let (mut listener, address) = listen(&quic).await;
    let endpoint = endpoint();
    let caller = dial(&endpoint, &address).await.unwrap();
    let mut held = Vec::new();
    let mut written = 0;
    for _ in 0..10 {
        let (mut send, receive) = caller.open_bi().await.unwrap();
        send.write_all(&preface::encode(Lane::Client)).await.unwrap();
        let accepted = timeout(LONG, listener.accept()).await.unwrap().unwrap();
        while let Ok(count) = timeout(Duration::from_millis(50), send.write(&[7; 10_000])).await {
            written += count.unwrap();
        }
        held.push((send, receive, accepted));
    }
    assert!(written <= 10 * WINDOW as usize, "{written}");
    // Room is left for streams whose reader is stopped only because of this end.
    assert!(written >= 9 * WINDOW as usize, "{written}");
}

#[tokio::test]
async fn more_streams_than_a_connection_takes_go_over_another_one() {
    let quic = Quic::insecure();
    let (mut listener, address) = listen(&quic).await;
    let mut near = Vec::new();
    let mut remotes = std::collections::BTreeSet::new();
    let mut far = Vec::new();
    for _ in 0..130 {
        near.push(timeout(LONG, quic.connect(&address, Lane::Client)).await.unwrap().unwrap());
        let accepted = timeout(LONG, listener.accept()).await.unwrap().unwrap();
        remotes.insert(accepted.remote.clone());
        far.push(accepted);
    }
    assert_eq!(remotes.len(), 3);
    let (last, its) = (near.last_mut().unwrap(), far.last_mut().unwrap());
    ping(last, its).await;
}

/// Nothing is left of connections that come and go: no descriptor, and no task.
#[tokio::test(flavor = "multi_thread")]
async fn closed_connections_leave_nothing_behind() {
    let quic = Quic::insecure();
    let (mut listener, address) = listen(&quic).await;
    let echo = tokio::spawn(async move {
        while let Ok(mut connection) = listener.accept().await {
            let _ = connection.writer.write_all(b"!").await;
            // Halves are dropped one by one, and in either order.
            if fastrand::bool() { drop(connection.writer) } else { drop(connection.reader) }
        }
    });
    let sockets = || {
        let open = std::fs::read_dir("/proc/self/fd").unwrap();
        open.filter(|fd| {
            fd.as_ref().is_ok_and(|fd| {
                std::fs::read_link(fd.path()).is_ok_and(|it| it.to_string_lossy().starts_with("socket:"))
            })
        })
        .count()
    };
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = (tasks(), sockets());
    for round in 0..150_u64 {
        let lane = Lane::ALL[usize::try_from(round % 4).unwrap()];
        // Some are given up halfway.
        let patience = if round % 3 == 0 { Duration::from_micros(round * 20) } else { LONG };
        if let Ok(connection) = timeout(patience, quic.connect(&address, lane)).await {
            let mut connection = connection.unwrap();
            let _ = connection.reader.read_u8().await;
        }
    }
    let mut now = (tasks(), sockets());
    let done = timeout(LONG, async {
        while now.0 > before.0 || now.1 > before.1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            now = (tasks(), sockets());
        }
    });
    assert!(done.await.is_ok(), "tasks and sockets: {before:?} before, {now:?} after");
    echo.abort();
}

#[tokio::test]
async fn a_port_in_use_is_refused_in_one_line_with_what_to_do() {
    let quic = Quic::insecure();
    let (_listener, address) = listen(&quic).await;
    let error = Quic::insecure().bind(&address).await.unwrap_err();
    assert!(matches!(error, TransportError::Bind { .. }));
    assert!(error.to_string().contains("stop it, or choose another port"), "{error}");
}
