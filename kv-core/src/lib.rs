//! A replicated, durable, linearizable key-value store to embed.

pub mod client;
pub mod config;
pub mod engine;
pub mod error;
pub mod ids;
#[doc(hidden)]
pub mod journal;
pub mod kv;
pub mod message;
pub mod node;
pub mod replica;
pub mod session;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
pub mod storage;
pub mod transport {
    //! The transports: the trait and what comes with it, and by feature TCP and QUIC.
    pub use kv_transport::*;
    #[cfg(feature = "quic")]
    pub use kv_transport_quic as quic;
    #[cfg(feature = "tcp")]
    pub use kv_transport_tcp as tcp;
}
pub mod wire;

pub use client::{Client, ClientBuilder};
pub use config::{Cluster, Options};
pub use node::{Node, NodeBuilder};
pub use tokio;
