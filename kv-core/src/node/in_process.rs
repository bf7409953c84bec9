//! How a client in the same process reaches this member: by a connection in memory and, for reads of what is in
//! memory, directly.

use super::accept::Acceptor;
use super::shared::Shared;
use crate::client::LocalMember;
use crate::ids::{MemberId, Revision};
use crate::message::{Answer, Query, ReadMode};
use kv_transport::{Connection, Lane, Peer};
use std::sync::Weak;

/// How many bytes an in-memory connection holds in each direction.
const DUPLEX_BYTES: usize = 256 << 10;

/// A member, as the clients see it that [`Node::client`](super::Node::client) returns. It does not keep the member
/// alive.
pub(super) struct InProcess {
    pub(super) acceptor: Weak<Acceptor>,
    pub(super) shared: Weak<Shared>,
    pub(super) id: MemberId,
    pub(super) identity: Peer,
}

impl LocalMember for InProcess {
    fn id(&self) -> MemberId {
        self.id
    }

    fn connect(&self) -> Connection {
        let (near, far) = tokio::io::duplex(DUPLEX_BYTES);
        if let Some(acceptor) = self.acceptor.upgrade() {
            acceptor.accept(connection(far, self.identity.clone()));
        }
        connection(near, self.identity.clone())
    }

    fn read(&self, mode: ReadMode, query: &Query) -> Option<Answer> {
        let least = match mode {
            ReadMode::Local => Revision::ZERO,
            ReadMode::AtLeast(revision) => revision,
            ReadMode::Linearizable | ReadMode::MaxStaleness(_) => return None,
        };
        let shared = self.shared.upgrade()?;
        // The state stays in memory until the disk returns, even if the member stops because the state is wrong.
        if shared.is_ending() {
            return None;
        }
        let state = shared.state().filter(|state| state.revision() >= least)?;
        // A member that was just added may have the state of an empty cluster.
        if state.applied().op < shared.members.first_op() {
            return None;
        }
        // It does not count in the statistics. Reading the clock twice would take a good part of the time, and reads
        // that count as taking no time would hide slow ones.
        state.answer_from_memory(query)
    }
}

/// One end of a connection inside the process. Both ends belong to the same member.
fn connection(stream: tokio::io::DuplexStream, peer: Peer) -> Connection {
    let (reader, writer) = tokio::io::split(stream);
    Connection {
        lane: Lane::Client,
        peer,
        remote: "this process".to_owned(),
        reader: Box::new(reader),
        writer: Box::new(writer),
    }
}
