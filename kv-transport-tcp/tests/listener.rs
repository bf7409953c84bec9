//! Tests of TCP beyond the conformance suite: slow and hostile openers, a lack of descriptors, and mistakes in an
//! address.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use kv_transport::{Lane, Listener, Transport, TransportError};
use kv_transport_tcp::Tcp;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const LONG: Duration = Duration::from_secs(30);

async fn listen(tcp: &Tcp) -> Box<dyn Listener> {
    tcp.bind("127.0.0.1:0").await.unwrap()
}

/// Accepts in the background, and counts.
fn keep_accepting(mut listener: Box<dyn Listener>) -> tokio::task::JoinHandle<usize> {
    tokio::spawn(async move {
        let mut accepted = Vec::new();
        while let Ok(connection) = timeout(LONG, listener.accept()).await {
            let last = connection.as_ref().is_ok_and(|c| c.lane == Lane::Bulk);
            accepted.push(connection.unwrap());
            if last {
                break;
            }
        }
        accepted.len()
    })
}

async fn is_closed(socket: &mut TcpStream) -> bool {
    // A reset where garbage was not read, an end of file otherwise.
    !matches!(timeout(LONG, socket.read(&mut [0; 1])).await.unwrap(), Ok(1..))
}

#[tokio::test]
async fn an_opener_that_does_not_send_its_lane_in_time_is_closed() {
    let tcp = Tcp::new().preface_timeout(Duration::from_millis(50));
    let listener = listen(&tcp).await;
    let address = listener.local_address();
    let accepting = keep_accepting(listener);
    let mut silent = TcpStream::connect(&address).await.unwrap();
    let mut slow = TcpStream::connect(&address).await.unwrap();
    slow.write_all(b"kvt").await.unwrap();
    assert!(is_closed(&mut silent).await);
    assert!(is_closed(&mut slow).await);
    tcp.connect(&address, Lane::Bulk).await.unwrap();
    assert_eq!(accepting.await.unwrap(), 1);
}

#[tokio::test]
async fn garbage_and_other_versions_are_closed_at_once() {
    let tcp = Tcp::new().preface_timeout(LONG * 2);
    let listener = listen(&tcp).await;
    let address = listener.local_address();
    let accepting = keep_accepting(listener);
    for opening in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"kvt\n\x02\x01\x00\x00", b"kvt\n\x01\x09\x00\x00"] {
        let mut socket = TcpStream::connect(&address).await.unwrap();
        socket.write_all(opening).await.unwrap();
        assert!(is_closed(&mut socket).await, "{opening:?}");
    }
    tcp.connect(&address, Lane::Bulk).await.unwrap();
    assert_eq!(accepting.await.unwrap(), 1);
}

#[tokio::test]
async fn the_oldest_of_too_many_half_open_sockets_is_closed() {
    let tcp = Tcp::new().preface_timeout(LONG * 2).max_half_open(8);
    let listener = listen(&tcp).await;
    let address = listener.local_address();
    let accepting = keep_accepting(listener);
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(TcpStream::connect(&address).await.unwrap());
    }
    for socket in silent.iter_mut().take(12) {
        assert!(is_closed(socket).await);
    }
    for socket in silent.iter_mut().skip(13) {
        let mut byte = [0];
        assert_eq!(socket.try_read(&mut byte).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    }
    tcp.connect(&address, Lane::Bulk).await.unwrap();
    assert_eq!(accepting.await.unwrap(), 1);
}

#[tokio::test]
async fn a_lane_sent_byte_by_byte_is_understood() {
    let tcp = Tcp::new();
    let mut listener = listen(&tcp).await;
    let mut socket = TcpStream::connect(listener.local_address()).await.unwrap();
    socket.set_nodelay(true).unwrap();
    for byte in *b"kvt\n\x01\x02\x00\x00!" {
        socket.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut connection = timeout(LONG, listener.accept()).await.unwrap().unwrap();
    assert_eq!((connection.lane, connection.reader.read_u8().await.unwrap()), (Lane::Log, b'!'));
}

#[tokio::test]
async fn a_port_in_use_is_refused_in_one_line_with_what_to_do() {
    let tcp = Tcp::new();
    let listener = listen(&tcp).await;
    let address = listener.local_address();
    let error = tcp.bind(&address).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot listen on {address}: ")), "{error}");
    assert!(error.contains("stop it, or choose another port"), "{error}");
    assert!(!error.contains('\n'), "{error}");
    let error = tcp.bind("192.0.2.1:7000").await.unwrap_err().to_string();
    assert!(error.contains("this machine has no such address"), "{error}");
}

#[tokio::test]
async fn a_mistake_in_an_address_is_reported() {
    let tcp = Tcp::new();
    for (address, reason) in [
        ("127.0.0.1", "expected HOST:PORT"),
        ("127.0.0.1:70000", "\"70000\" is not a port"),
        ("::1:7000", "[::1]:7000"),
        ("ho st:7000", "expected HOST:PORT"),
    ] {
        for result in [tcp.bind(address).await.map(drop), tcp.connect(address, Lane::Log).await.map(drop)] {
            let error = result.unwrap_err();
            assert!(matches!(error, TransportError::Address { .. }), "{error:?}");
            assert!(error.to_string().contains(reason), "{error}");
        }
    }
}

#[tokio::test]
async fn a_name_is_resolved_and_all_its_addresses_are_tried() {
    let tcp = Tcp::new();
    let mut listener = tcp.bind("localhost:0").await.unwrap();
    let port = listener.local_address().rsplit_once(':').unwrap().1.to_owned();
    let near = tcp.connect(&format!("localhost:{port}"), Lane::Log).await.unwrap();
    assert_eq!(near.remote, format!("localhost:{port}"));
    listener.accept().await.unwrap();
}

#[tokio::test]
async fn nobody_listening_is_distinguished_as_refused() {
    let address = listen(&Tcp::new()).await.local_address();
    let error = Tcp::new().connect(&address, Lane::Log).await.unwrap_err();
    assert!(error.is_refused(), "{error}");
}

/// Runs [`starve`] in a process of its own, since a limit on descriptors is a process's.
#[test]
#[cfg(unix)]
fn running_out_of_descriptors_does_not_end_the_listener() {
    let child = std::process::Command::new("sh")
        .args(["-c", r#"ulimit -n 40 && exec "$0" --exact starve --ignored --nocapture"#])
        .arg(std::env::current_exe().unwrap())
        .output()
        .unwrap();
    assert!(child.status.success(), "{child:?}");
    assert!(String::from_utf8_lossy(&child.stdout).contains("1 passed"), "{child:?}");
}

#[tokio::test]
#[ignore = "starves its process of descriptors: run by running_out_of_descriptors_does_not_end_the_listener"]
async fn starve() {
    let tcp = Tcp::new().preface_timeout(LONG * 2);
    let mut listener = listen(&tcp).await;
    let address = listener.local_address();
    let mut old = tcp.connect(&address, Lane::Control).await.unwrap();
    let mut old_far = listener.accept().await.unwrap();
    let mut openers = Vec::new();
    let exhausted = loop {
        match TcpStream::connect(&address).await {
            Ok(socket) => openers.push(socket),
            Err(error) => break error,
        }
    };
    assert_eq!(exhausted.raw_os_error(), Some(24), "{exhausted}");
    // Nothing can be accepted now. This is not an error, and open connections continue.
    assert!(timeout(Duration::from_millis(100), listener.accept()).await.is_err());
    old.writer.write_all(&[7]).await.unwrap();
    assert_eq!(old_far.reader.read_u8().await.unwrap(), 7);
    drop(openers);
    let accepting = keep_accepting(listener);
    let last = timeout(LONG, async {
        loop {
            // The listener takes a moment to drop the closed sockets.
            match tcp.connect(&address, Lane::Bulk).await {
                Ok(connection) => break connection,
                Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
    });
    last.await.unwrap();
    assert_eq!(accepting.await.unwrap(), 1);
}
