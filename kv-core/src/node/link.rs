//! One outgoing connection: to one peer, on one lane. Each member sends on the connections that it opened and receives on
//! those that it accepted; so the two ends never have to agree on which of two connections to keep, and what is broken one
//! way is broken for one direction.
//!
//! Against the direction of the messages the peer sends signs of life. Where none come the connection is opened anew: a
//! connection that a partition has left half-open would otherwise hold messages back for as long as the partition took.

use super::lanes::{Entries, Outgoing, Queue};
use super::pool;
use super::shared::Shared;
use super::transfer::{self, Piece};
use crate::ids::MemberId;
use crate::message::{Entry, Message};
use crate::replica::Wrap;
use crate::wire::{self, FrameReader, FrameWriter, Hello, HelloReply, Kind, MemberInfo, Welcome, WireError};
use kv_transport::{Lane, Reader, TransportError, Writer};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// How often the accepting end shows life.
pub(super) const ALIVE_EVERY: Duration = Duration::from_millis(500);
/// How long the connecting end waits for it.
const ALIVE_WITHIN: Duration = Duration::from_secs(3);
/// How long a connection may take to be opened, hello included.
const OPEN_WITHIN: Duration = Duration::from_secs(2);
/// The pause before the first new attempt, and the longest.
const BACKOFF: Duration = Duration::from_millis(10);
const MAX_BACKOFF: Duration = Duration::from_millis(500);
/// A connection that lasted this long proves that trying again at once does no harm.
const STEADY: Duration = Duration::from_secs(1);
/// So much is collected for one write.
const WRITE_BYTES: usize = 256 << 10;

/// Why a link is not up.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error(transparent)]
    Transport(#[from] TransportError),
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("the connection was not opened within {OPEN_WITHIN:?}")]
    Slow,
    #[error("refused: {0}")]
    Refused(String),
    #[error("member {0} answers there: check the addresses in the configuration")]
    OtherMember(MemberId),
    #[error("{0}")]
    Impostor(String),
    #[error("no message for {ALIVE_WITHIN:?}")]
    Silent,
    #[error("the peer closed the connection")]
    Closed,
}

/// Keeps one link up, for as long as the node runs.
pub(super) struct Link {
    shared: Arc<Shared>,
    peer: MemberId,
    address: String,
    lane: Lane,
    queue: Arc<Queue>,
    /// The last failure, so that it is logged once.
    logged: String,
    /// The members for which the peer has another address, as it was logged.
    differing: Vec<MemberInfo>,
}

impl Link {
    pub(super) fn new(shared: Arc<Shared>, peer: MemberId, lane: Lane, queue: Arc<Queue>) -> Self {
        let address = shared.cluster.member(peer).map(|member| member.address.clone()).unwrap_or_default();
        Self { shared, peer, address, lane, queue, logged: String::new(), differing: Vec::new() }
    }

    /// Runs until it is dropped.
    pub(super) async fn run(mut self) {
        let mut backoff = BACKOFF;
        let mut was_up = false;
        loop {
            match timeout(OPEN_WITHIN, self.open()).await.unwrap_or(Err(LinkError::Slow)) {
                Ok((reader, writer)) => {
                    was_up = true;
                    let opened = self.shared.clock.monotonic();
                    let broke = self.carry(reader, writer).await;
                    if self.shared.clock.monotonic().since(opened) > STEADY {
                        backoff = BACKOFF;
                    }
                    self.log_failure(&broke);
                    self.hint();
                }
                Err(failed) => {
                    self.log_failure(&failed);
                    let refused = matches!(&failed, LinkError::Transport(error) if error.is_refused());
                    if refused && std::mem::take(&mut was_up) {
                        self.hint();
                    }
                }
            }
            let pause = self.shared.jitter(backoff);
            backoff = (backoff * 2).min(MAX_BACKOFF);
            tokio::select! {
                () = sleep(pause) => {}
                () = self.queue.hurry.notified() => {}
            }
        }
    }

    async fn open(&mut self) -> Result<(FrameReader<Reader>, FrameWriter<Writer>), LinkError> {
        let connection = self.shared.transport.connect(&self.address, self.lane).await?;
        let own = self.shared.transport.identity();
        wire::prove_member(&own, &connection.peer, &self.shared.expectation.cluster, Some(self.peer))
            .map_err(LinkError::Impostor)?;
        let mut reader = FrameReader::new(connection.reader, 0);
        let mut writer = FrameWriter::new(connection.writer);
        let hello = Hello::member(&self.shared.expectation, self.peer, self.lane);
        writer.push(wire::encode_hello(&hello));
        writer.flush().await.map_err(WireError::from)?;
        match reader.read_hello_reply().await? {
            HelloReply::Ok(welcome) if welcome.member == self.peer => self.compare_addresses(&welcome),
            HelloReply::Ok(welcome) => return Err(LinkError::OtherMember(welcome.member)),
            HelloReply::Refused { reason, .. } => return Err(LinkError::Refused(reason)),
        }
        tracing::debug!(peer = %self.peer, lane = %self.lane, "connected");
        self.logged.clear();
        Ok((reader, writer))
    }

    /// Sends what is queued until the connection breaks.
    async fn carry(&self, mut reader: FrameReader<Reader>, writer: FrameWriter<Writer>) -> LinkError {
        self.queue.set_connected(true);
        let alive = async {
            loop {
                match timeout(ALIVE_WITHIN, reader.read(Kind::Alive)).await {
                    Ok(Ok(Some(frame))) => match frame.alive() {
                        Ok(wall) => self.shared.health.heard_clock(self.peer, wall, &self.shared.clock),
                        Err(error) => return error.into(),
                    },
                    Ok(Ok(None)) => return LinkError::Closed,
                    Ok(Err(error)) => return error.into(),
                    Err(_) => return LinkError::Silent,
                }
            }
        };
        let broke = tokio::select! {
            error = alive => error,
            error = self.write(writer) => error,
        };
        self.queue.set_connected(false);
        broke
    }

    async fn write(&self, mut writer: FrameWriter<Writer>) -> LinkError {
        let mut next_piece = Instant::now();
        loop {
            self.queue.ready().await;
            while let Some(item) = self.queue.pop() {
                match item {
                    Outgoing::Message(message) => writer.push(wire::encode_message(&message)),
                    Outgoing::Entries(entries) => {
                        for message in self.read(entries).await {
                            writer.push(wire::encode_message(&message));
                        }
                    }
                    Outgoing::Piece(piece) => {
                        // Everything before it is on its way while it waits for its time.
                        if let Err(error) = writer.flush().await {
                            return LinkError::Wire(error.into());
                        }
                        sleep_until(next_piece).await;
                        let frame = wire::encode_message(&self.read_piece(piece).await);
                        self.queue.piece_read();
                        next_piece = Instant::now() + self.pace(frame.len());
                        writer.push(frame);
                    }
                }
                if writer.queued_bytes() >= WRITE_BYTES {
                    break;
                }
            }
            if let Err(error) = writer.flush().await {
                return LinkError::Wire(error.into());
            }
        }
    }

    /// Reads entries from the journal, off the runtime: they may have to come from the disk.
    async fn read(&self, wanted: Entries) -> Vec<Message> {
        let (give, take) = tokio::sync::oneshot::channel();
        let shared = self.shared.clone();
        self.shared.peers.run(pool::Kind::Read, pool::For::NODE, move || {
            // The receiver is gone only if the link is.
            let _ = give.send(read_entries(&shared, wanted));
        });
        wrap(take.await.unwrap_or_default(), wanted.wrap)
    }

    /// Reads a piece of a snapshot, off the runtime.
    async fn read_piece(&self, piece: Piece) -> Message {
        let gone = Message::SnapshotGone { nonce: piece.nonce, stateless: false };
        let (give, take) = tokio::sync::oneshot::channel();
        let (shared, to) = (self.shared.clone(), self.peer);
        self.shared.peers.run(pool::Kind::Read, pool::For::NODE, move || {
            // The receiver is gone only if the link is.
            let _ = give.send(transfer::read(&shared, to, &piece));
        });
        take.await.unwrap_or(gone)
    }

    /// How long a piece of so many bytes takes at the rate of transfers.
    fn pace(&self, bytes: usize) -> Duration {
        let rate = self.shared.options.transfer_bytes_per_second;
        Duration::from_micros((bytes as u64).saturating_mul(1_000_000) / rate.max(1))
    }

    /// Logs where the peer's configuration has other addresses than the one here, once. They are no reason to refuse it: ids are what the protocol
    /// votes by. But one of the two may be out of date.
    fn compare_addresses(&mut self, welcome: &Welcome) {
        if self.lane != Lane::Control {
            return;
        }
        let differing: Vec<_> = welcome
            .members
            .iter()
            .filter(|there| {
                let here = self.shared.expectation.member(there.id);
                here.is_some_and(|here| here.address != there.address)
            })
            .cloned()
            .collect();
        for MemberInfo { id, address, .. } in differing.iter().filter(|it| !self.differing.contains(it)) {
            let here = self.shared.expectation.member(*id).map_or("", |member| &member.address);
            tracing::warn!(
                peer = %self.peer, member = %id, here, there = address,
                "a peer has another address for a member: check both configurations, unless both addresses lead to it"
            );
        }
        self.differing = differing;
    }

    /// Logs a failure, once.
    fn log_failure(&mut self, error: &LinkError) {
        let text = error.to_string();
        if self.lane == Lane::Control {
            self.shared.health.broke(self.peer, &text);
        }
        if text != self.logged {
            match error {
                LinkError::Refused(_)
                | LinkError::OtherMember(_)
                | LinkError::Wire(WireError::Version { .. }) => {
                    tracing::warn!(peer = %self.peer, address = %self.address, lane = %self.lane, %error, "a peer refused the connection");
                }
                LinkError::Impostor(_) | LinkError::Transport(TransportError::Handshake { .. }) => {
                    tracing::warn!(peer = %self.peer, address = %self.address, lane = %self.lane, %error, "cannot trust the peer");
                }
                _ => tracing::debug!(peer = %self.peer, lane = %self.lane, %error, "not connected"),
            }
            self.logged = text;
        }
    }

    /// The peer may be dead. Only the Control lane reports that: a killed process resets all lanes at once, and a single one
    /// may break for reasons of its own.
    fn hint(&self) {
        if self.lane == Lane::Control {
            self.shared.inbox.lost(self.peer);
        }
    }
}

/// Entries of the log that was meant; none if one cannot be read, or the log has been cut since.
fn read_entries(shared: &Shared, wanted: Entries) -> Vec<Entry> {
    let Some(log) = shared.log() else { return Vec::new() };
    let mut entries = Vec::new();
    let mut op = wanted.from;
    while op <= wanted.through.op {
        match log.read(op) {
            Ok(Some(entry)) => entries.push(entry),
            Ok(None) => return Vec::new(),
            Err(error) => {
                tracing::warn!(%op, %error, "cannot read an entry for a peer");
                shared.inbox.faulty(op);
                return Vec::new();
            }
        }
        op = op.next();
    }
    // Entries chain, so the last one vouches for the others; but one by one they may have been read from two logs.
    let chained = entries.windows(2).all(|pair| pair[1].header.parent == pair[0].header.hash());
    let meant = entries.last().is_some_and(|last| last.header.anchor() == wanted.through);
    if chained && meant { entries } else { Vec::new() }
}

fn wrap(entries: Vec<Entry>, wrap: Wrap) -> Vec<Message> {
    match wrap {
        Wrap::Prepare { view, commit } => {
            entries.into_iter().map(|entry| Message::Prepare { view, commit, entry }).collect()
        }
        Wrap::NewState { .. } if entries.is_empty() => Vec::new(),
        Wrap::NewState { nonce } => vec![Message::NewState { nonce, entries }],
    }
}
