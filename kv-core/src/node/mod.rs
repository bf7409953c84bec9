//! The server: one member of a cluster, running on tokio.

mod builder;
mod error;

pub use builder::NodeBuilder;
pub use error::{HandoverError, StartError, StopReason};

use crate::config::Cluster;
use crate::ids::MemberId;
use crate::message::MemberStatus;

/// A running member. Dropping it stops the member at once, as `kill -9` would; [`shutdown`](Self::shutdown) stops it gracefully.
#[derive(Debug)]
pub struct Node {
    me: MemberId,
}

impl Node {
    /// Starts to describe the member `id` of `cluster`.
    pub fn builder(cluster: Cluster, id: u8) -> NodeBuilder {
        NodeBuilder::new(cluster, MemberId::new(id))
    }

    /// Its id.
    #[must_use]
    pub const fn id(&self) -> MemberId {
        self.me
    }

    /// The address that it listens on, with the port that was taken.
    #[must_use]
    pub fn local_address(&self) -> &str {
        unimplemented!()
    }

    /// Where it stands. Never blocks.
    #[must_use]
    pub fn status(&self) -> MemberStatus {
        unimplemented!()
    }

    /// Waits until the cluster has formed and this member knows of a serving primary.
    ///
    /// # Errors
    /// Why the member stopped, if it stops before.
    pub async fn wait_formed(&self) -> Result<(), StopReason> {
        unimplemented!()
    }

    /// Gives the primary role to another member, and returns when another serves. Does nothing on a member that is not primary.
    ///
    /// # Errors
    /// If no other member took the role in time.
    pub async fn handover(&self) -> Result<(), HandoverError> {
        unimplemented!()
    }

    /// Stops the member: gives the primary role away first, then ends all tasks and threads and releases the port and the
    /// directory. May be called again; later calls wait for the first.
    pub async fn shutdown(&self) {
        unimplemented!()
    }

    /// Waits until the member has stopped, however that came about, and says why.
    pub async fn stopped(&self) -> StopReason {
        unimplemented!()
    }
}
