//! Fault injection for any transport.

mod fate;
mod fault;
mod faults;
mod framing;
mod link;
mod queue;

pub use fault::{Direction, Fault, Scope};
pub use faults::{Counts, Faults};
pub use framing::Framing;

use crate::{Connection, Lane, Listener, Peer, Transport, TransportError};
use async_trait::async_trait;
use std::io;
use std::time::Duration;

/// Any transport, with faults between the transport and its user. A [`Faults`] handle controls the faults.
///
/// The faults act at one end of a connection. They affect outgoing data after it is written, and incoming data before
/// it is read. [`Scope`] distinguishes the two directions. One `Faulty` with one `Faults` at each node can produce
/// every fault of a network.
///
/// Without faults it forwards everything, with a delay of one scheduling of its task. Frames in flight are held in
/// memory, up to 4 MiB in each direction of a connection; beyond that, writing waits. A `Faulty` needs a tokio runtime.
/// It uses tokio's clock, which may be paused.
///
/// ```
/// use kv_transport::{Fault, Faults, Faulty, Framing, Lane, Memory, Scope, Transport};
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let network = Memory::new();
/// let mut listener = network.bind("server:1").await?;
///
/// let faults = Faults::new(42);
/// let faulty = Faulty::new(network, faults.clone(), Framing::raw());
/// let mut client = faulty.connect("server:1", Lane::Client).await?;
/// let mut server = listener.accept().await?;
///
/// faults.set(Scope::all().lane(Lane::Client).outgoing(), Fault::new().loss(1.0));
/// client.writer.write_all(b"lost").await?;
/// faults.heal();
/// client.writer.write_all(b"came").await?;
/// let mut got = [0; 4];
/// server.reader.read_exact(&mut got).await?;
/// assert_eq!(&got, b"came");
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Faulty<T> {
    inner: T,
    settings: Settings,
}

#[derive(Clone, Debug)]
struct Settings {
    faults: Faults,
    framing: Framing,
    spare_first: bool,
}

impl<T: Transport> Faulty<T> {
    /// Inserts `faults` between `inner` and its user. `framing` finds the frames, which are lost, delayed or duplicated
    /// as a whole. `T` may be any transport, including an `Arc<dyn Transport>`.
    pub fn new(inner: T, faults: Faults, framing: Framing) -> Self {
        Self { inner, settings: Settings { faults, framing, spare_first: false } }
    }

    /// Protects the first frame in each direction of each connection, which is the hello or its answer. That frame may
    /// be delayed, but is never lost at random, duplicated, reordered or corrupted. Cuts and clogs still affect it. By
    /// default, the first frame is treated like any other.
    #[must_use]
    pub fn spare_first(mut self) -> Self {
        self.settings.spare_first = true;
        self
    }

    /// The handle that controls the faults.
    pub fn faults(&self) -> &Faults {
        &self.settings.faults
    }
}

#[async_trait]
impl<T: Transport> Transport for Faulty<T> {
    fn check_address(&self, address: &str) -> Result<(), TransportError> {
        self.inner.check_address(address)
    }

    async fn bind(&self, address: &str) -> Result<Box<dyn Listener>, TransportError> {
        let inner = self.inner.bind(address).await?;
        Ok(Box::new(FaultyListener { inner, settings: self.settings.clone() }))
    }

    async fn connect(&self, address: &str, lane: Lane) -> Result<Connection, TransportError> {
        let mut path = self.settings.faults.path(address, lane);
        loop {
            let fault = path.fault_either_way();
            if fault.refuse {
                let source = io::Error::new(io::ErrorKind::ConnectionRefused, "refused by an injected fault");
                return Err(TransportError::connect(address, source));
            }
            if !fault.cut {
                break;
            }
            path.changed().await;
        }
        let connection = self.inner.connect(address, lane).await?;
        Ok(link::interpose(connection, path, true, &self.settings))
    }

    fn identity(&self) -> Peer {
        self.inner.identity()
    }

    fn refresh(&self) -> Result<bool, TransportError> {
        self.inner.refresh()
    }

    fn expires(&self) -> Option<Duration> {
        self.inner.expires()
    }
}

#[derive(Debug)]
struct FaultyListener {
    inner: Box<dyn Listener>,
    settings: Settings,
}

#[async_trait]
impl Listener for FaultyListener {
    async fn accept(&mut self) -> Result<Connection, TransportError> {
        loop {
            let connection = self.inner.accept().await?;
            let mut path = self.settings.faults.path(&connection.remote, connection.lane);
            if !path.fault_either_way().refuse {
                return Ok(link::interpose(connection, path, true, &self.settings));
            }
        }
    }

    fn local_address(&self) -> String {
        self.inner.local_address()
    }

    fn keep_places_for(&mut self, members: Vec<String>) {
        self.inner.keep_places_for(members);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Memory;
    use crate::conformance::Subject;
    use std::sync::Arc;

    mod without_faults {
        use super::*;
        crate::conformance!(Subject::new(
            Faulty::new(Memory::new(), Faults::new(1), Framing::raw()),
            "server:0"
        ));
    }

    mod over_any_transport {
        use super::*;
        crate::conformance!(Subject::new(
            Arc::new(Faulty::new(
                Arc::new(Memory::new()) as Arc<dyn Transport>,
                Faults::new(1),
                Framing::raw(),
            )),
            "server:0"
        ));
    }
}
