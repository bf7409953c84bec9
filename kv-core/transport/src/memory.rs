//! A network inside the process.

use crate::pipe::pipe;
use crate::{Connection, Lane, Listener, Peer, Transport, TransportError};
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;

/// How many connections a listener queues before they are accepted. Further connections wait.
const BACKLOG: usize = 128;
/// The buffer of a connection in each direction, in bytes.
const BUFFER_BYTES: usize = 64 * 1024;
/// The first port that is assigned for port 0.
const FIRST_FREE_PORT: u16 = 40_000;

/// A network inside the process. Nodes that use the same `Memory`, or clones of it, reach each other.
///
/// - An address is `NAME` or `NAME:PORT`, with any name. Port 0 takes a free port. Names are not resolved: two
///   addresses are the same if their text is the same.
/// - A connection buffers up to 64 KiB in each direction; further writes wait. A listener queues up to 128 connections
///   that it has not accepted yet; further calls of `connect` wait.
/// - The network adds no delay: no operation sleeps or uses a timer. Under tokio's paused clock on one thread, the same
///   program runs the same way each time.
/// - A connection ends when either side drops it. If you drop a listener, further connections to its address are
///   refused at once. Connections that the listener has not accepted yet are closed.
///
/// ```
/// use kv_transport::{Lane, Memory, Transport};
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let network = Memory::new();
/// let mut listener = network.bind("server:0").await?;
/// let mut client = network.connect(&listener.local_address(), Lane::Client).await?;
/// let mut server = listener.accept().await?;
/// client.writer.write_all(b"hello").await?;
/// let mut greeting = [0; 5];
/// server.reader.read_exact(&mut greeting).await?;
/// assert_eq!((server.lane, &greeting), (Lane::Client, b"hello"));
/// # Ok(()) }
/// ```
#[derive(Clone, Default)]
pub struct Memory {
    network: Arc<Mutex<Network>>,
    name: Option<Arc<str>>,
}

#[derive(Default)]
struct Network {
    /// The listeners by address.
    listeners: BTreeMap<String, mpsc::Sender<Connection>>,
    /// The number of connections opened by nodes without a name.
    opened: u64,
}

impl Memory {
    /// Creates a new, empty network.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns a handle to this network for one node, A. When A opens a connection through the handle, the accepting
    /// node sees `name` as [`Connection::remote`]. As `name`, pass the address at which A listens. Then, if
    /// another node B sets a [`Fault`](crate::Fault) with A's address as [`Scope::peer`](crate::Scope::peer), the fault
    /// affects all connections between A and B, no matter which of them opened the connection.
    #[must_use]
    pub fn named(&self, name: &str) -> Self {
        Self { network: Arc::clone(&self.network), name: Some(name.into()) }
    }

    fn network(&self) -> MutexGuard<'_, Network> {
        self.network.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listeners: Vec<String> = self.network().listeners.keys().cloned().collect();
        f.debug_struct("Memory").field("name", &self.name).field("listeners", &listeners).finish()
    }
}

/// Splits an address into the name and the port.
fn parse(address: &str) -> Result<(&str, Option<u16>), TransportError> {
    let reason = "expected NAME or NAME:PORT, for example member-0:7000";
    let (name, port) = match address.rsplit_once(':') {
        None => (address, None),
        Some((name, port)) => {
            let port = port.parse().map_err(|_| TransportError::address(address, reason))?;
            (name, Some(port))
        }
    };
    if name.is_empty() {
        return Err(TransportError::address(address, reason));
    }
    Ok((name, port))
}

impl Network {
    fn free_address(&self, name: &str) -> Option<String> {
        (FIRST_FREE_PORT..=u16::MAX)
            .map(|port| format!("{name}:{port}"))
            .find(|address| !self.listeners.contains_key(address))
    }
}

#[async_trait]
impl Transport for Memory {
    fn check_address(&self, address: &str) -> Result<(), TransportError> {
        parse(address).map(drop)
    }

    async fn bind(&self, address: &str) -> Result<Box<dyn Listener>, TransportError> {
        let (name, port) = parse(address)?;
        let mut network = self.network();
        let taken = match port {
            Some(0) => network.free_address(name),
            _ => (!network.listeners.contains_key(address)).then(|| address.to_owned()),
        };
        let Some(taken) = taken else {
            let source = io::Error::new(io::ErrorKind::AddrInUse, "the address is in use");
            return Err(TransportError::bind(address, source));
        };
        let (sender, arrivals) = mpsc::channel(BACKLOG);
        network.listeners.insert(taken.clone(), sender);
        Ok(Box::new(MemoryListener { memory: self.clone(), address: taken, arrivals }))
    }

    async fn connect(&self, address: &str, lane: Lane) -> Result<Connection, TransportError> {
        parse(address)?;
        let refused = || {
            let source = io::Error::new(io::ErrorKind::ConnectionRefused, "nobody listens there");
            TransportError::connect(address, source)
        };
        let (listener, name) = {
            let mut network = self.network();
            let listener = network.listeners.get(address).cloned().ok_or_else(refused)?;
            let name = self.name.as_ref().map(|name| name.to_string()).unwrap_or_else(|| {
                network.opened += 1;
                format!("anonymous-{}", network.opened)
            });
            (listener, name)
        };
        let (near, far) = pair(lane, address.to_owned(), name);
        listener.send(far).await.map_err(|_| refused())?;
        Ok(near)
    }
}

/// Both ends of a connection: first the end that opens it to `remote`, then the end that accepts it from `name`.
fn pair(lane: Lane, remote: String, name: String) -> (Connection, Connection) {
    let (near_writer, far_reader) = pipe(BUFFER_BYTES);
    let (far_writer, near_reader) = pipe(BUFFER_BYTES);
    let end = |remote, reader, writer| Connection {
        lane,
        peer: Peer::Unauthenticated,
        remote,
        reader: Box::new(reader),
        writer: Box::new(writer),
    };
    (end(remote, near_reader, near_writer), end(name, far_reader, far_writer))
}

struct MemoryListener {
    memory: Memory,
    address: String,
    arrivals: mpsc::Receiver<Connection>,
}

impl Debug for MemoryListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryListener").field("address", &self.address).finish_non_exhaustive()
    }
}

#[async_trait]
impl Listener for MemoryListener {
    async fn accept(&mut self) -> Result<Connection, TransportError> {
        self.arrivals.recv().await.ok_or(TransportError::Closed)
    }

    fn local_address(&self) -> String {
        self.address.clone()
    }
}

impl Drop for MemoryListener {
    fn drop(&mut self) {
        self.memory.network().listeners.remove(&self.address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::Subject;

    crate::conformance!(Subject::new(Memory::new(), "server:0"));

    #[tokio::test(start_paused = true)]
    async fn an_address_may_be_a_bare_name_and_belongs_to_one_network() {
        let network = Memory::new();
        let mut listener = network.bind("server").await.unwrap();
        assert_eq!(listener.local_address(), "server");
        network.connect("server", Lane::Log).await.unwrap();
        listener.accept().await.unwrap();
        let elsewhere = Memory::new().connect("server", Lane::Log).await.unwrap_err();
        assert!(elsewhere.is_refused(), "{elsewhere}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_named_node_is_reported_to_the_acceptor() {
        let network = Memory::new();
        let mut listener = network.bind("server:1").await.unwrap();
        network.named("member:2").connect("server:1", Lane::Log).await.unwrap();
        network.connect("server:1", Lane::Log).await.unwrap();
        assert_eq!(listener.accept().await.unwrap().remote, "member:2");
        assert_eq!(listener.accept().await.unwrap().remote, "anonymous-1");
    }

    #[tokio::test(start_paused = true)]
    async fn connecting_waits_for_the_backlog_and_fails_without_a_listener() {
        let network = Memory::new();
        let mut listener = network.bind("server").await.unwrap();
        for _ in 0..BACKLOG {
            network.connect("server", Lane::Log).await.unwrap();
        }
        let client = network.clone();
        let waiting = tokio::spawn(async move { client.connect("server", Lane::Control).await });
        let client = network.clone();
        let refused = tokio::spawn(async move { client.connect("server", Lane::Control).await });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        listener.accept().await.unwrap();
        waiting.await.unwrap().unwrap();
        drop(listener);
        assert!(refused.await.unwrap().unwrap_err().is_refused());
    }
}
