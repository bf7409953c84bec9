//! Why a node did not start, and why it stopped.

use crate::config::ConfigError;
use crate::replica::Halt;
use kv_transport::TransportError;

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration or the options are wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The builder was not told how to reach others.
    #[error("no transport was given: call NodeBuilder::transport")]
    NoTransport,
    /// The builder was not told where to keep data.
    #[error("no data directory was given: call NodeBuilder::data_dir or NodeBuilder::storage")]
    NoStorage,
    /// The address cannot be listened on.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The system gave no thread.
    #[error("cannot start a thread: {0}")]
    Thread(#[source] std::io::Error),
}

/// Why a node stopped.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StopReason {
    /// It was asked to.
    #[error("the node was shut down")]
    Shutdown,
    /// Its [`Node`](super::Node) was dropped.
    #[error("the node was dropped")]
    Dropped,
    /// The protocol stopped it.
    #[error(transparent)]
    Halted(Halt),
}

/// Why a handover did not happen.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandoverError {
    /// No other member took the role in time: too few of them are up and level.
    #[error("no other member took the primary role in time: too few are up and level with this one")]
    TimedOut,
    /// The node has stopped.
    #[error("the node has stopped: {0}")]
    Stopped(StopReason),
}
