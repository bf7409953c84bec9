//! A replicated, durable, linearizable key-value store to embed.
//!
//! A few processes hold the same data. One of them is the *primary*: it orders every write and replicates it to the
//! *backups*. When it dies, a backup takes over by itself. Clients retry what got no answer, and a write is applied exactly
//! once.
//!
//! - **Linearizable**: reads and writes behave as if there were one copy.
//! - **Acknowledged is durable**: a write is acknowledged after it is on the disks of a quorum.
//! - **Exactly once** through retries, lost messages and failover. An outcome that cannot be known is reported as unknown.
//! - **Available** while a majority of the members can talk. Two data members and a *witness* survive one failure.
//!
//! The protocol is Viewstamped Replication Revisited (Liskov and Cowling, 2012), with the disk it leaves out.
//!
//! # A cluster in one process
//! A [`Node`] is one member, a [`Client`] talks to all of them. Here they meet on the in-memory network; with the feature `tcp`
//! take [`transport::tcp`] in its place.
//! ```
//! use kv_core::{Cluster, Node, tokio, transport::Memory};
//! use std::sync::Arc;
//!
//! # #[tokio::main(crate = "kv_core::tokio")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let cluster = Cluster::builder("docs").member(0, "a:1").member(1, "b:1").member(2, "c:1").build()?;
//! let network = Arc::new(Memory::new());
//! # let folder = tempfile::tempdir()?;
//! # let folder = folder.path();
//! let mut nodes = Vec::new();
//! for id in 0..3 {
//!     let builder = Node::builder(cluster.clone(), id).transport(network.clone());
//!     nodes.push(builder.data_dir(folder.join(id.to_string())).start().await?);
//! }
//!
//! let client = nodes[0].client();
//! let written = client.put("colour", "blue").await?;
//! let record = client.get("colour").await?.expect("it was just written");
//! assert_eq!((&record.value[..], record.modified), (&b"blue"[..], written.revision));
//! for node in &nodes {
//!     node.shutdown().await;
//! }
//! # Ok(()) }
//! ```
//! A program that is no member connects by any one member's address:
//! ```no_run
//! # async fn connect() -> Result<(), Box<dyn std::error::Error>> {
//! # let transport = std::sync::Arc::new(kv_core::transport::Memory::new());
//! let client = kv_core::Client::connect("docs", "127.0.0.1:7000", transport).await?;
//! # Ok(()) }
//! ```
//!
//! # What runs where
//! A node runs on the tokio runtime that it is started on, and has threads of its own for whatever waits for the disk. It
//! needs the runtime to be responsive: an application that computes for long in its tasks delays the signs of life of its
//! member, and may cost it the primary role. The crate re-exports [`tokio`], so that an application needs no other
//! dependency; watches are streams, and have a `next` of their own.
//!
//! It reads no environment variable and installs no `tracing` subscriber; what happens is told in spans named `member`.
//!
//! # Features
//! None is on by default; a feature only adds. `tcp` adds [`transport`]`::tcp`, `quic` [`transport`]`::quic`, `tls` certificates
//! ([`transport`]`::tls`) and TLS over TCP, `certs` the making of certificates for development and tests, `sim` the deterministic
//! simulator, `testing` clusters for an application's own tests. [`guide::security`] says who is protected from whom. Without any, nodes and clients run on the in-memory network or on a transport of your own.

pub mod client;
pub mod config;
mod detached;
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
#[cfg(feature = "testing")]
pub mod testing;
pub mod transport {
    //! The transports: the trait and what comes with it, and by feature TCP and QUIC.
    pub use kv_transport::*;
    #[cfg(feature = "quic")]
    pub use kv_transport_quic as quic;
    #[cfg(feature = "tcp")]
    pub use kv_transport_tcp as tcp;
}
pub mod wire;
pub mod guide {
    //! What to know beyond the interface.
    #[doc = include_str!("../guide/getting_started.md")]
    pub mod getting_started {}
    #[doc = include_str!("../guide/guarantees.md")]
    pub mod guarantees {}
    #[doc = include_str!("../guide/failover.md")]
    pub mod failover {}
    #[doc = include_str!("../guide/operating.md")]
    pub mod operating {}
    #[doc = include_str!("../SECURITY.md")]
    pub mod security {}
    #[doc = include_str!("../guide/from_etcd.md")]
    pub mod from_etcd {}
    #[doc = include_str!("../guide/from_redis.md")]
    pub mod from_redis {}
}

pub use client::{Client, ClientBuilder};
pub use config::{Cluster, Options};
pub use node::{Node, NodeBuilder};
pub use tokio;

/// The example in the README, compiled as a documentation test.
#[cfg(all(doctest, feature = "tcp"))]
#[doc = include_str!("../../README.md")]
#[derive(Debug)]
pub struct Readme;
