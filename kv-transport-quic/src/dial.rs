//! The connecting end: two connections to each address, one for the streams of the Bulk lane and one for all others.
//!
//! Streams of one connection do not wait for each other's lost bytes. But they share a congestion window, and one task
//! processes their datagrams one by one. With a single connection, a heartbeat would wait behind a window of bulk data.

use crate::socket::Socket;
use crate::stream::{self, lost};
use crate::{Quic, settings};
use kv_transport::tls::SERVER_NAME;
use kv_transport::{Connection, Lane, Peer, preface};
use quinn::{Endpoint, TokioRuntime, VarInt};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

/// How many streams share a connection. For more streams, another connection is opened.
const STREAMS: usize = settings::MAX_STREAMS / 2;
/// The pause before the first probe of a silent connection.
const SHORTEST_PAUSE: Duration = Duration::from_millis(25);
/// The longest pause between probes: a third of the shortest idle time-out. While nobody has anything to send, the
/// pause doubles after each probe, up to this value.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// A connection that has not answered for this long is not used for new streams.
const SILENT: Duration = Duration::from_millis(500);

/// The open connections in use, by address, and by whether they are for the Bulk lane.
#[derive(Debug, Default)]
pub(crate) struct Pool(Mutex<HashMap<(SocketAddr, bool), Arc<Slot>>>);

/// The holder of the lock opens a connection. Others wait for the result.
#[derive(Debug, Default)]
struct Slot(tokio::sync::Mutex<Opened>);

/// The connections to one address, and how the last attempt failed.
#[derive(Debug, Default)]
struct Opened {
    links: Vec<Weak<Link>>,
    failed: Option<(Instant, io::ErrorKind, String)>,
}

impl Pool {
    /// Opens a stream to `address`, on a connection that is open or on a new one.
    pub(crate) async fn open(
        &self,
        quic: &Quic,
        address: SocketAddr,
        lane: Lane,
        remote: &str,
    ) -> io::Result<Connection> {
        let link = self.slot(address, lane).link(quic, address).await?;
        let (mut send, receive) = link.connection.open_bi().await.map_err(|e| lost(&e))?;
        send.write_all(&preface::encode(lane)).await?;
        let peer = link.peer.clone();
        Ok(stream::connection((send, receive), lane, peer, remote.to_owned(), Arc::new(link)))
    }

    /// Makes later streams use new connections, because the open connections were opened with other certificates.
    pub(crate) fn begin_anew(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn slot(&self, address: SocketAddr, lane: Lane) -> Arc<Slot> {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slots.retain(|_, slot| !slot.is_unused());
        slots.entry((address, lane == Lane::Bulk)).or_default().clone()
    }
}

impl Slot {
    fn is_unused(self: &Arc<Self>) -> bool {
        let nobody_waits = Arc::strong_count(self) == 1;
        nobody_waits
            && self.0.try_lock().is_ok_and(|opened| opened.links.iter().all(|it| it.strong_count() == 0))
    }

    /// A connection with room for a stream. Callers that ask while a connection is being opened share that connection,
    /// or the error.
    async fn link(&self, quic: &Quic, address: SocketAddr) -> io::Result<Arc<Link>> {
        let asked = Instant::now();
        let mut opened = self.0.lock().await;
        opened.links.retain(|link| link.strong_count() > 0);
        let has_room = |link: &Arc<Link>| link.is_good() && Arc::strong_count(link) <= STREAMS;
        if let Some(link) = opened.links.iter().filter_map(Weak::upgrade).find(has_room) {
            return Ok(link);
        }
        if let Some((when, kind, text)) = &opened.failed
            && *when >= asked
        {
            return Err(io::Error::new(*kind, text.clone()));
        }
        let link = Link::open(quic, address).await;
        opened.failed = link.as_ref().err().map(|error| (Instant::now(), error.kind(), error.to_string()));
        let link = link?;
        opened.links.push(Arc::downgrade(&link));
        Ok(link)
    }
}

/// An open connection. It is closed when its last stream is dropped and the data written on it has arrived.
#[derive(Debug)]
struct Link {
    connection: quinn::Connection,
    peer: Peer,
    silent: Arc<AtomicBool>,
    watch: AbortHandle,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.watch.abort();
        self.connection.close(VarInt::from_u32(0), b"");
    }
}

impl Link {
    async fn open(quic: &Quic, address: SocketAddr) -> io::Result<Arc<Self>> {
        let socket = Socket::connect(address)?;
        let mut refusals = socket.refusals();
        let endpoint = quic.trust.endpoint();
        let endpoint =
            Endpoint::new_with_abstract_socket(endpoint, None, socket.clone(), Arc::new(TokioRuntime))?;
        let config = quic.client_config()?;
        let connecting = endpoint.connect_with(config, address, SERVER_NAME).map_err(io::Error::other)?;
        let connection = tokio::select! {
            connection = connecting => connection.map_err(|e| lost(&e))?,
            // A forged notification only costs this attempt.
            Ok(()) = refusals.changed() => {
                return Err(io::Error::new(io::ErrorKind::ConnectionRefused, "nobody listens there"));
            }
        };
        let peer = quic.trust.peer(&connection)?;
        // The accepting end verifies the certificates last, and sends nothing before that.
        let greeted = connection.accept_uni().await.map_err(|e| lost(&e))?;
        drop(greeted);
        let silent = Arc::new(AtomicBool::new(false));
        let watch = Watch { connection: connection.clone(), refusals, silent: silent.clone() };
        let watch = tokio::spawn(watch.run()).abort_handle();
        Ok(Arc::new(Self { connection, peer, silent, watch }))
    }

    fn is_good(&self) -> bool {
        self.connection.close_reason().is_none() && !self.silent.load(Ordering::Relaxed)
    }
}

/// Notices that the process at the other end is gone. QUIC notices this only after the idle time-out. But the other
/// machine's kernel answers datagrams to a port that nobody uses, so a ping shows it at once.
struct Watch {
    connection: quinn::Connection,
    refusals: tokio::sync::watch::Receiver<u64>,
    silent: Arc<AtomicBool>,
}

/// How much a connection has carried.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Carried {
    datagrams_received: u64,
    stream_frames: u64,
}

impl Watch {
    async fn run(mut self) {
        let mut pause = SHORTEST_PAUSE;
        let mut last = self.carried();
        let mut asked: Option<Instant> = None;
        loop {
            tokio::select! {
                _ = self.connection.closed() => return,
                Ok(()) = self.refusals.changed() => {
                    if self.is_gone().await {
                        // The streams report the cause: see `stream::lost`.
                        return self.connection.close(VarInt::from_u32(0), b"");
                    }
                }
                () = sleep(pause) => {}
            }
            let carried = self.carried();
            if carried.datagrams_received != last.datagrams_received {
                asked = None;
            }
            let is_idle = carried.stream_frames == last.stream_frames;
            pause = if is_idle { (pause * 2).min(LONGEST_PAUSE) } else { SHORTEST_PAUSE };
            last = carried;
            self.silent.store(asked.is_some_and(|asked| asked.elapsed() > SILENT), Ordering::Relaxed);
            asked = asked.or_else(|| Some(Instant::now()));
            self.ask();
        }
    }

    /// Checks a report that the other end is gone, and returns whether it is. A live peer answers a probe, so a forged
    /// report alone ends no connection.
    async fn is_gone(&mut self) -> bool {
        let before = self.carried().datagrams_received;
        self.ask();
        sleep((self.connection.rtt() * 2).max(SHORTEST_PAUSE / 2)).await;
        self.refusals.mark_unchanged();
        self.ask();
        let said_again = timeout(SILENT, self.refusals.changed()).await.is_ok_and(|changed| changed.is_ok());
        said_again && self.carried().datagrams_received == before
    }

    /// Sends a datagram that must be acknowledged.
    fn ask(&self) {
        // If too much is in flight, no probe is needed.
        let _ = self.connection.send_datagram(bytes::Bytes::new());
    }

    fn carried(&self) -> Carried {
        let stats = self.connection.stats();
        Carried {
            datagrams_received: stats.udp_rx.datagrams,
            stream_frames: stats.frame_rx.stream + stats.frame_tx.stream,
        }
    }
}
