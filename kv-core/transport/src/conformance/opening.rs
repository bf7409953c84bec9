//! Claims about listening, connecting and accepting.

use super::Subject;
use crate::{Connection, Lane, TransportError, check_host_port};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// How often a test is repeated if another process may have taken the port that was just freed.
const TRIES: usize = 5;

/// Each lane can be opened. Both ends report the lane and the other end's address.
pub async fn each_lane_is_reported_to_the_acceptor(subject: Subject) {
    let mut listener = subject.listen().await;
    for lane in Lane::ALL {
        let near = subject.connect(&*listener, lane).await;
        let far = listener.accept().await.expect("the connection is accepted");
        assert_eq!((near.lane, far.lane), (lane, lane));
        assert_eq!(near.remote, listener.local_address());
        assert!(!far.remote.is_empty());
    }
}

/// Port 0 gives each listener a port of its own, at which callers reach it.
pub async fn port_zero_gives_a_usable_address(subject: Subject) {
    let mut one = subject.listen().await;
    let mut two = subject.listen().await;
    assert_ne!(one.local_address(), two.local_address());
    for listener in [&mut one, &mut two] {
        assert!(!listener.local_address().ends_with(":0"));
        let _near = subject.connect(&**listener, Lane::Client).await;
        listener.accept().await.expect("the connection is accepted");
    }
}

/// Connecting fails if nobody listens at the address, and the error names the address.
pub async fn connecting_to_nobody_is_refused(subject: Subject) {
    for _ in 0..TRIES {
        let address = subject.listen().await.local_address();
        match subject.client.connect(&address, Lane::Control).await {
            Ok(_) => {}
            Err(error) => {
                assert!(matches!(error, TransportError::Connect { .. }), "{error:?}");
                assert!(error.to_string().contains(&address), "{error}");
                return;
            }
        }
    }
    panic!("connecting to where nobody listens succeeds");
}

/// Listening on an address that is in use fails, and the error names the address. The first listener is not affected.
pub async fn listening_twice_on_an_address_is_refused(subject: Subject) {
    let mut listener = subject.listen().await;
    let address = listener.local_address();
    let error = subject.server.bind(&address).await.expect_err("the address is taken");
    assert!(matches!(error, TransportError::Bind { .. }), "{error:?}");
    assert!(error.to_string().contains(&address), "{error}");
    let _near = subject.connect(&*listener, Lane::Log).await;
    listener.accept().await.expect("the first listener goes on");
}

/// Text that cannot be an address is distinguished from an address that cannot be reached.
pub async fn what_is_no_address_is_refused_as_such(subject: Subject) {
    // If addresses have another form than HOST:PORT, the empty text is the only one known to be invalid.
    let mut wrong = vec![""];
    if check_host_port(&subject.address).is_ok() {
        wrong.extend([":7000", "host:", "host:port", "host:70000", "host:-1"]);
    }
    for address in wrong {
        let bound = subject.server.bind(address).await.map(|_| ());
        let connected = subject.client.connect(address, Lane::Log).await.map(|_| ());
        for result in [bound, connected, subject.client.check_address(address)] {
            assert!(matches!(result, Err(TransportError::Address { .. })), "{address:?}: {result:?}");
        }
    }
    let listener = subject.listen().await;
    subject.client.check_address(&listener.local_address()).expect("it is an address");
}

/// A dropped listener frees its address for another listener. The connections that it has accepted stay open.
pub async fn a_dropped_listener_frees_its_address_and_leaves_connections_open(subject: Subject) {
    for _ in 0..TRIES {
        let (listener, mut near, mut far) = subject.pair(Lane::Log).await;
        let address = listener.local_address();
        drop(listener);
        ping(&mut near, &mut far, 1).await;
        let Ok(mut second) = subject.server.bind(&address).await else { continue };
        let mut late = subject.connect(&*second, Lane::Log).await;
        let mut accepted = second.accept().await.expect("the connection is accepted");
        ping(&mut late, &mut accepted, 2).await;
        ping(&mut near, &mut far, 3).await;
        return;
    }
    panic!("the address of a dropped listener stays taken");
}

/// A connection that was opened but not yet accepted breaks when the listener is dropped.
pub async fn a_dropped_listener_breaks_what_it_had_not_accepted(subject: Subject) {
    let listener = subject.listen().await;
    let mut near = subject.connect(&*listener, Lane::Log).await;
    drop(listener);
    let read = near.reader.read_u8().await;
    assert!(read.is_err(), "{read:?}");
}

/// Many connections can be opened at once, in all lanes, each with its own bytes.
pub async fn many_connections_open_at_once(subject: Subject) {
    const MANY: u8 = 100;
    let mut listener = subject.listen().await;
    let address = listener.local_address();
    let echo = tokio::spawn(async move {
        let mut far = Vec::new();
        for _ in 0..MANY {
            let mut connection = listener.accept().await.expect("the connection is accepted");
            far.push(tokio::spawn(async move {
                let byte = connection.reader.read_u8().await.expect("a byte comes");
                connection.writer.write_all(&[byte, byte]).await.expect("the echo goes");
                connection.writer.shutdown().await.expect("and ends");
            }));
        }
        for connection in far {
            connection.await.expect("each is echoed");
        }
    });
    let mut openers = Vec::new();
    for i in 0..MANY {
        let (client, address) = (subject.client.clone(), address.clone());
        openers.push(tokio::spawn(async move {
            let lane = Lane::ALL[usize::from(i) % Lane::ALL.len()];
            let mut near = client.connect(&address, lane).await.expect("the listener can be reached");
            near.writer.write_all(&[i]).await.expect("a byte goes");
            near.writer.flush().await.expect("a byte is sent");
            let mut answer = Vec::new();
            near.reader.read_to_end(&mut answer).await.expect("the echo comes");
            assert_eq!(answer, [i, i]);
        }));
    }
    for opener in openers {
        opener.await.expect("each is answered");
    }
    echo.await.expect("all are accepted");
}

/// However often `accept` is cancelled, before or while a connection arrives, each connection is returned once.
pub async fn a_cancelled_accept_loses_no_connection(subject: Subject) {
    const MANY: u8 = 40;
    let mut listener = subject.listen().await;
    let (mut near, mut far) = (Vec::new(), Vec::new());
    for i in 0..MANY {
        let patience = Duration::from_micros(u64::from(i % 4) * 100);
        far.extend(timeout(patience, listener.accept()).await.map(|c| c.expect("accepting works")));
        let mut connection = subject.connect(&*listener, Lane::Log).await;
        connection.writer.write_all(&[i]).await.expect("a byte goes");
        connection.writer.flush().await.expect("a byte is sent");
        near.push(connection);
        far.extend(timeout(patience, listener.accept()).await.map(|c| c.expect("accepting works")));
    }
    while far.len() < usize::from(MANY) {
        far.push(listener.accept().await.expect("accepting works"));
    }
    let mut seen = BTreeSet::new();
    for connection in &mut far {
        seen.insert(connection.reader.read_u8().await.expect("a byte comes"));
    }
    assert_eq!(seen, (0..MANY).collect());
}

/// Cancelling `connect` at any moment does not affect the listener for other callers.
pub async fn a_cancelled_connect_harms_no_other(subject: Subject) {
    let mut listener = subject.listen().await;
    let address = listener.local_address();
    for micros in 0..20 {
        let patience = Duration::from_micros(micros * 10);
        drop(timeout(patience, subject.client.connect(&address, Lane::Bulk)).await);
    }
    let mut near = subject.connect(&*listener, Lane::Control).await;
    // Cancelled connections may be accepted first. They end at once.
    let mut far = loop {
        let connection = listener.accept().await.expect("accepting works");
        if connection.lane == Lane::Control {
            break connection;
        }
    };
    ping(&mut near, &mut far, 1).await;
}

/// Openers that are silent or send garbage delay no other caller, and `accept` does not return them.
pub async fn garbage_openers_hold_up_nobody(subject: Subject) {
    let Some(open) = &subject.garbage else { return };
    let mut listener = subject.listen().await;
    let mut held = Vec::new();
    for i in 0..20 {
        held.push(open(listener.local_address()).await);
        let mut near = subject.connect(&*listener, Lane::Client).await;
        let mut far = listener.accept().await.expect("the connection is accepted");
        ping(&mut near, &mut far, i).await;
    }
    drop(held);
}

async fn ping(near: &mut Connection, far: &mut Connection, byte: u8) {
    for (from, to) in [(&mut near.writer, &mut far.reader), (&mut far.writer, &mut near.reader)] {
        from.write_all(&[byte]).await.expect("a byte goes");
        from.flush().await.expect("a byte is sent");
        assert_eq!(to.read_u8().await.expect("a byte comes"), byte);
    }
}
