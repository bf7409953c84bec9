//! One outgoing connection: to one peer, on one lane. Each member sends on the connections that it opened, and
//! receives on those that it accepted. So the two ends never have to agree on which of two connections to keep, and a
//! connection that breaks in one direction affects only that direction.
//!
//! In the other direction, the peer sends signs of life. If none arrive, the connection is reopened. Otherwise a
//! connection that a partition has left half-open would hold messages back for as long as the partition lasts.

use super::lanes::{Entries, Outgoing, Queue};
use super::shared::Shared;
use super::transfer::{self, Piece};
use crate::ids::MemberId;
use crate::message::{Entry, Message};
use crate::replica::Wrap;
use crate::wire::{self, FrameReader, FrameWriter, Hello, HelloReply, Kind, MemberInfo, Welcome, WireError};
use kv_transport::{Lane, Reader, TransportError, Writer};
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// How often the accepting end sends a sign of life.
pub(super) const ALIVE_EVERY: Duration = Duration::from_millis(500);
/// How long the connecting end waits for a sign of life.
const ALIVE_WITHIN: Duration = Duration::from_secs(3);
/// How long opening a connection may take, including the hello.
const OPEN_WITHIN: Duration = Duration::from_secs(2);
/// The first pause before a new attempt, and the longest.
const BACKOFF: Duration = Duration::from_millis(10);
const MAX_BACKOFF: Duration = Duration::from_millis(500);
/// After a connection that lasted this long, the first new attempt needs no pause.
const STEADY: Duration = Duration::from_secs(1);
/// How many bytes are collected for one write.
const WRITE_BYTES: usize = 256 << 10;

/// Why a link is down.
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

/// Keeps one link open, for as long as the peer is called.
pub(super) struct Link {
    shared: Arc<Shared>,
    peer: MemberId,
    address: String,
    lane: Lane,
    queue: Arc<Queue>,
    /// The last logged failure, so that it is logged only once.
    logged: String,
    /// The members for which the peer has another address, as last logged.
    differing: Vec<MemberInfo>,
}

/// Opens links to those of these members to which there are none, and ends those to all others.
pub(super) fn open(shared: &Arc<Shared>, called: &BTreeSet<MemberId>) {
    for (peer, lane, queue) in shared.lanes.set(called) {
        shared.run_part("a link to a peer", Link::new(shared.clone(), peer, lane, queue).run());
    }
}

impl Link {
    pub(super) fn new(shared: Arc<Shared>, peer: MemberId, lane: Lane, queue: Arc<Queue>) -> Self {
        let address = String::new();
        Self { shared, peer, address, lane, queue, logged: String::new(), differing: Vec::new() }
    }

    /// Runs until it is dropped, or the peer is not called any more.
    pub(super) async fn run(mut self) {
        let queue = self.queue.clone();
        tokio::select! {
            () = self.keep_open() => {}
            () = queue.unused.notified() => {}
        }
    }

    async fn keep_open(&mut self) {
        let mut backoff = BACKOFF;
        let mut was_up = false;
        for attempt in 0_u64.. {
            // The address may have changed. The list may be ahead of the links for a moment.
            if let Some((address, former)) = self.shared.members.now().addresses(self.peer) {
                let former = former.filter(|_| attempt % 2 == 1);
                former.unwrap_or(address).clone_into(&mut self.address);
            }
            match timeout(OPEN_WITHIN, self.open()).await.unwrap_or(Err(LinkError::Slow)) {
                Ok((reader, writer)) => {
                    was_up = true;
                    let opened = self.shared.clock.monotonic();
                    let broke = self.exchange(reader, writer).await;
                    if self.shared.clock.monotonic().since(opened) > STEADY {
                        backoff = BACKOFF;
                    }
                    self.log_failure(&broke);
                    self.hint();
                }
                Err(failed) => {
                    self.log_failure(&failed);
                    let refused = matches!(&failed, LinkError::Transport(error) if error.is_refused());
                    // The process is gone, and its machine answers for it. After a loss without an answer, the detector
                    // decides.
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
        let members = self.shared.members.now();
        wire::prove_member(&own, &connection.peer, &members.expectation.cluster, Some(self.peer))
            .map_err(LinkError::Impostor)?;
        let mut reader = FrameReader::new(connection.reader, 0);
        let mut writer = FrameWriter::new(connection.writer);
        let hello = Hello::member(&members.expectation, self.peer, self.lane);
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
    async fn exchange(&self, reader: FrameReader<Reader>, writer: FrameWriter<Writer>) -> LinkError {
        self.queue.set_connected(true);
        let broke = tokio::select! {
            Err(error) = self.hear(reader) => error,
            Err(error) = self.write(writer) => error.into(),
        };
        self.queue.set_connected(false);
        broke
    }

    async fn hear(&self, mut reader: FrameReader<Reader>) -> Result<Infallible, LinkError> {
        loop {
            let heard =
                timeout(ALIVE_WITHIN, reader.read(Kind::Alive)).await.map_err(|_| LinkError::Silent)?;
            let wall = heard?.ok_or(LinkError::Closed)?.alive()?;
            self.shared.health.heard_clock(self.peer, wall, &self.shared.clock);
        }
    }

    async fn write(&self, mut writer: FrameWriter<Writer>) -> Result<Infallible, WireError> {
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
                        // Everything before it must be sent before this pauses for the transfer rate.
                        writer.flush().await?;
                        sleep_until(next_piece).await;
                        let frame = wire::encode_message(&self.read_piece(piece).await);
                        // From here on a repeated request means that the piece was lost, so it is read again.
                        self.queue.piece_read();
                        next_piece = Instant::now() + self.pace(frame.len());
                        writer.push(frame);
                    }
                }
                if writer.queued_bytes() >= WRITE_BYTES {
                    break;
                }
            }
            writer.flush().await?;
        }
    }

    /// Reads entries from the journal, outside the runtime: they may have to come from the disk.
    async fn read(&self, wanted: Entries) -> Vec<Message> {
        let shared = self.shared.clone();
        let entries = self.shared.peers.ask(move || read_entries(&shared, wanted)).await;
        wrap(entries.unwrap_or_default(), wanted.wrap)
    }

    /// Reads a piece of a snapshot, outside the runtime.
    async fn read_piece(&self, piece: Piece) -> Message {
        let gone = Message::SnapshotGone { nonce: piece.nonce, stateless: false };
        let (shared, to) = (self.shared.clone(), self.peer);
        self.shared.peers.ask(move || transfer::read(&shared, to, &piece)).await.unwrap_or(gone)
    }

    /// How long a piece of this many bytes takes at the configured transfer rate.
    fn pace(&self, bytes: usize) -> Duration {
        let rate = self.shared.options.transfer_bytes_per_second;
        Duration::from_micros((bytes as u64).saturating_mul(1_000_000) / rate.max(1))
    }

    /// Logs once where the peer's configuration has addresses that differ from this member's. That is no reason to
    /// refuse the peer, because the protocol counts votes by id, but one of the two lists may be outdated.
    fn compare_addresses(&mut self, welcome: &Welcome) {
        if self.lane != Lane::Control {
            return;
        }
        let members = self.shared.members.now();
        if members.expectation.is_changed() {
            // The log decides, and whoever has another address is told.
            return;
        }
        let differing: Vec<_> = welcome
            .members
            .iter()
            .filter(|there| {
                let here = members.expectation.member(there.id);
                here.is_some_and(|here| here.address != there.address)
            })
            .cloned()
            .collect();
        for MemberInfo { id, address, .. } in differing.iter().filter(|it| !self.differing.contains(it)) {
            let here = members.expectation.member(*id).map_or("", |member| &member.address);
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

    /// Reports that the peer may be dead. Only the Control lane does so: a killed process resets all lanes at once,
    /// and a single lane may break for other reasons.
    fn hint(&self) {
        if self.lane == Lane::Control {
            self.shared.inbox.lost(self.peer);
        }
    }
}

/// Returns the entries of the requested log; none if one cannot be read, or the log has been cut since.
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
    // Entries form a chain, so the last one identifies the others. But they were read one by one, and the log may
    // have changed in between.
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
