//! Accepts connections and hears their hello.

use super::shared::Shared;
use super::sync::lock;
use super::{connection, incoming};
use crate::config::Options;
use crate::wire::{
    self, Caller, DEFAULT_MAX_FRAME, FrameReader, FrameWriter, Hello, HelloReply, Refusal, Welcome, WireError,
};
use kv_transport::{Connection, Lane, Listener, Peer, Reader, TransportError, Writer};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// How long a caller may take to say hello, and to take the answer.
const HELLO_WITHIN: Duration = Duration::from_secs(3);
/// Callers that have not said hello yet: members and clients each, so that a flood of clients keeps no member out.
const HALF_OPEN: usize = 128;
/// Open files that are not for clients: peers, journal and state, and callers that have not said hello yet.
const OTHER_FILES: usize = 512;
/// So many clients are let in however few files the process may open.
const FEWEST_CLIENTS: usize = 16;
/// The pause after a failure to accept.
const PAUSE: Duration = Duration::from_millis(20);

/// How many connections there are.
#[derive(Debug, Default)]
struct Counts {
    half_open_members: Arc<AtomicUsize>,
    half_open_clients: Arc<AtomicUsize>,
    /// The last refusal of a member, so that one that keeps coming is told of once.
    told: Mutex<String>,
}

/// One connection of those that are counted.
#[derive(Debug)]
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn one(count: &Arc<AtomicUsize>, limit: usize) -> Option<Self> {
        let counted = Self(count.clone());
        (count.fetch_add(1, Ordering::Relaxed) < limit).then_some(counted)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One client's connection, of those that are counted.
#[derive(Debug)]
struct Client(Arc<watch::Sender<usize>>);

impl Client {
    fn one(count: &Arc<watch::Sender<usize>>, limit: usize) -> Option<Self> {
        let mut counted = 0;
        count.send_modify(|count| {
            *count += 1;
            counted = *count;
        });
        let client = Self(count.clone());
        (counted <= limit).then_some(client)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// Lets callers in.
#[derive(Debug)]
pub(super) struct Door {
    shared: Arc<Shared>,
    counts: Counts,
    clients: Arc<watch::Sender<usize>>,
    max_clients: usize,
}

impl Door {
    pub(super) fn new(shared: Arc<Shared>) -> Arc<Self> {
        let max_clients = max_clients(shared.options.max_connections, open_files());
        if max_clients < shared.options.max_connections {
            tracing::warn!(
                max_clients,
                max_connections = shared.options.max_connections,
                "the process may open too few files: fewer clients are let in. Raise the limit (ulimit -n)"
            );
        }
        Arc::new(Self {
            shared,
            counts: Counts::default(),
            clients: Arc::new(watch::Sender::new(0)),
            max_clients,
        })
    }

    /// Waits until no client is connected.
    pub(super) async fn no_clients(&self) {
        // An error would say that the door is gone, and with it its clients.
        let _ = self.clients.subscribe().wait_for(|count| *count == 0).await;
    }

    /// Accepts until the listener is closed.
    pub(super) async fn run(self: Arc<Self>, mut listener: Box<dyn Listener>) {
        let _guard = self.shared.guard("the listener");
        loop {
            match listener.accept().await {
                Ok(connection) => self.let_in(connection),
                Err(TransportError::Closed) => break,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// Hears a caller, on a task of its own.
    pub(super) fn let_in(self: &Arc<Self>, connection: Connection) {
        let count = match connection.lane {
            Lane::Client => &self.counts.half_open_clients,
            Lane::Control | Lane::Log | Lane::Bulk => &self.counts.half_open_members,
        };
        let Some(half_open) = Counted::one(count, HALF_OPEN) else {
            tracing::debug!(remote = connection.remote, "closed: too many callers have not said hello");
            return;
        };
        let door = self.clone();
        self.shared.tasks.spawn(async move { door.hear(connection, half_open).await });
    }

    async fn hear(&self, connection: Connection, half_open: Counted) {
        let Connection { lane, peer, remote, reader, writer, .. } = connection;
        let mut reader = FrameReader::new(reader, 0);
        let mut writer = FrameWriter::new(writer);
        let Ok(heard) = timeout(HELLO_WITHIN, reader.read_hello()).await else {
            return tracing::debug!(remote, "closed: no hello came");
        };
        let (hello, answer) = match heard {
            Ok(hello) => {
                let answer = self.judge(&hello, lane, &peer);
                (Some(hello), answer)
            }
            Err(WireError::Version { theirs, .. }) => {
                (None, Err(Refusal::Version { me: self.shared.me, theirs }))
            }
            Err(error) => return tracing::debug!(remote, %error, "closed: not a hello"),
        };
        let (reply, admitted) = match answer {
            Ok((welcome, client)) => (HelloReply::Ok(welcome), Some(client)),
            Err(refusal) => {
                self.tell(lane, &remote, &refusal);
                (HelloReply::from(&refusal), None)
            }
        };
        writer.push(wire::encode_hello_reply(&reply));
        let told = timeout(HELLO_WITHIN, writer.flush()).await;
        drop(half_open);
        if let (Some(hello), Some(_client), Ok(Ok(()))) = (hello, admitted, told) {
            tokio::select! {
                () = self.serve(hello, lane, reader, writer) => {}
                () = self.removed(lane, &peer) => {
                    tracing::info!(client = wire::describe(&peer), remote, "closed: it is not on the list of clients any more");
                }
            }
        }
    }

    /// Waits until a client is taken off the list.
    async fn removed(&self, lane: Lane, peer: &Peer) {
        match &self.shared.clients {
            Some(list) if lane == Lane::Client => list.removed(peer).await,
            _ => std::future::pending().await,
        }
    }

    fn judge(&self, hello: &Hello, lane: Lane, peer: &Peer) -> Result<(Welcome, Option<Client>), Refusal> {
        let me = self.shared.me;
        let welcome = self.shared.expectation.judge(hello, lane, peer)?;
        if *self.shared.closing.borrow() {
            return Err(Refusal::ShuttingDown { me });
        }
        if lane != Lane::Client {
            return Ok((welcome, None));
        }
        if self.shared.clients.as_ref().is_some_and(|list| !list.has(peer)) {
            let name = if let Peer::Client { name, .. } = peer { name.clone() } else { String::new() };
            return Err(Refusal::NotListed { me, name });
        }
        let client =
            Client::one(&self.clients, self.max_clients).ok_or(Refusal::TooManyConnections { me })?;
        Ok((welcome, Some(client)))
    }

    async fn serve(
        &self,
        hello: Hello,
        lane: Lane,
        mut reader: FrameReader<Reader>,
        writer: FrameWriter<Writer>,
    ) {
        match hello.caller {
            Caller::Member { id, .. } => {
                reader.set_max_frame(DEFAULT_MAX_FRAME);
                incoming::serve(&self.shared, id, lane, reader, writer).await;
            }
            Caller::Client { name } => {
                reader.set_max_frame(max_request(&self.shared.options));
                connection::serve(&self.shared, &name, reader, writer).await;
            }
        }
    }

    /// Tells why someone was refused; of members loudly, since it is a mistake in a configuration, and of those who are not
    /// whom they say; but once.
    fn tell(&self, lane: Lane, remote: &str, refusal: &Refusal) {
        let text = refusal.to_string();
        let is_impostor = matches!(
            refusal,
            Refusal::Identity { .. }
                | Refusal::Removed { .. }
                | Refusal::Unauthenticated { .. }
                | Refusal::NotListed { .. }
        );
        let mut told = lock(&self.counts.told);
        if (lane == Lane::Client && !is_impostor) || *told == text {
            tracing::debug!(remote, %refusal, "refused");
        } else {
            tracing::warn!(remote, %lane, %refusal, "refused a caller");
            *told = text;
        }
    }
}

/// How many clients are let in where the process may open so many files. Without files a member could not even write its
/// journal: clients are turned away before that.
fn max_clients(wanted: usize, open_files: Option<usize>) -> usize {
    let most = open_files.map_or(usize::MAX, |files| files.saturating_sub(OTHER_FILES).max(FEWEST_CLIENTS));
    wanted.min(most)
}

/// How many files the process may open, where the system tells.
fn open_files() -> Option<usize> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The longest frame that a client may send: the largest put, guarded by the largest value; or the largest transaction, with
/// what its parts take besides keys and values.
fn max_request(options: &Options) -> usize {
    options.max_key_bytes * 2 + options.max_value_bytes * 2 + (16 << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// P9.
    #[test]
    fn clients_leave_files_for_the_journal() {
        assert_eq!(max_clients(1024, None), 1024);
        assert_eq!(max_clients(1024, Some(65_536)), 1024);
        assert_eq!(max_clients(1024, Some(1024)), 512);
        assert_eq!(max_clients(1024, Some(64)), FEWEST_CLIENTS);
        assert_eq!(max_clients(8, Some(64)), 8);
    }
}
