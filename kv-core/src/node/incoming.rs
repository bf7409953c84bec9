//! Connections that peers opened: the messages that arrive on them, and the signs of life that are sent back.

use super::clock::Clock;
use super::link::ALIVE_EVERY;
use super::rate::LogThrottle;
use super::shared::Shared;
use super::sync::lock;
use crate::config::Role;
use crate::ids::{Instant, MemberId};
use crate::wire::{self, FrameReader, FrameWriter, Party, WireError};
use kv_transport::{Lane, Reader, Writer};
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval};

/// The current connection of each peer and lane. A newer one replaces the one before, which may be half-open.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    current: Mutex<HashMap<(MemberId, Lane), Arc<Notify>>>,
    /// The protocol violations that were logged lately.
    logged: LogThrottle,
}

impl Incoming {
    /// Registers a new connection, and ends the one before.
    fn replace(&self, peer: MemberId, lane: Lane) -> Arc<Notify> {
        let replaced = Arc::new(Notify::new());
        if let Some(before) = lock(&self.current).insert((peer, lane), replaced.clone()) {
            before.notify_one();
        }
        replaced
    }

    /// A connection has ended; a newer one may have taken its place.
    fn ended(&self, peer: MemberId, lane: Lane, replaced: &Arc<Notify>) {
        let mut current = lock(&self.current);
        if current.get(&(peer, lane)).is_some_and(|it| Arc::ptr_eq(it, replaced)) {
            current.remove(&(peer, lane));
        }
    }

    /// Returns whether the peer has all connections that the protocol needs.
    pub(super) fn has(&self, peer: MemberId) -> bool {
        let current = lock(&self.current);
        [Lane::Control, Lane::Log].into_iter().all(|lane| current.contains_key(&(peer, lane)))
    }

    /// Logs that a peer violated the protocol. That is a bug of the peer, or its messages were damaged.
    fn log_breach(&self, now: Instant, peer: MemberId, lane: Lane, error: &WireError) {
        if self.logged.is_due(now, &format!("{peer} {lane} {error}")) {
            tracing::warn!(%peer, %lane, %error, "closed a peer's connection");
        } else {
            tracing::debug!(%peer, %lane, %error, "closed a peer's connection");
        }
    }
}

/// Receives from a peer with a valid hello, until the connection ends.
pub(super) async fn serve(
    shared: &Arc<Shared>,
    peer: MemberId,
    lane: Lane,
    reader: FrameReader<Reader>,
    writer: FrameWriter<Writer>,
) {
    tracing::debug!(%peer, %lane, "peer connected");
    let replaced = shared.incoming.replace(peer, lane);
    shared.lanes.reconnect_now(peer);
    let ended = tokio::select! {
        ended = receive(shared, peer, lane, reader) => ended,
        Err(error) = show_life(shared.clock, writer) => Err(error),
        // No sign of a failure: the peer has just connected again.
        () = replaced.notified() => return,
    };
    shared.incoming.ended(peer, lane, &replaced);
    match ended {
        Ok(()) => tracing::debug!(%peer, %lane, "peer disconnected"),
        Err(error @ (WireError::Io(_) | WireError::Truncated)) => {
            tracing::debug!(%peer, %lane, %error, "peer disconnected");
        }
        Err(error) => shared.incoming.log_breach(shared.clock.monotonic(), peer, lane, &error),
    }
    if lane == Lane::Control {
        shared.inbox.lost(peer);
    }
}

async fn receive(
    shared: &Shared,
    peer: MemberId,
    lane: Lane,
    mut reader: FrameReader<Reader>,
) -> Result<(), WireError> {
    // Of a member that is not in the list, the replica hears only what does not depend on its role.
    let role = shared.members.now().cluster.member(peer).map_or(Role::Data, |member| member.role);
    let party = Party::Member { role, lane };
    while let Some(message) = reader.read_message().await? {
        if !party.may_send_message(&message) {
            return Err(WireError::NotAllowed { what: message.name(), party });
        }
        tracing::trace!(%peer, message = message.name(), "received");
        shared.inbox.message(peer, message, lane == Lane::Control).await;
    }
    Ok(())
}

async fn show_life(clock: Clock, mut writer: FrameWriter<Writer>) -> Result<Infallible, WireError> {
    let mut every = interval(ALIVE_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        writer.push(wire::encode_alive_at(clock.now().wall));
        writer.flush().await?;
    }
}
