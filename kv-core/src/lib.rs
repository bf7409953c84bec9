//! A replicated, durable, linearizable key-value store to embed.
//!
//! Several processes, usually three, keep the same data. One of them is the *primary*: it orders every write and
//! replicates it to the *backups*. If the primary fails, a backup takes over automatically. Clients retry unanswered
//! requests, and every write is applied exactly once.
//!
//! - **Linearizable**: reads and writes behave as if there were one copy of the data.
//! - **Durable**: a write is acknowledged after it is on the disks of a majority.
//! - **Exactly once**: a write is applied once, despite retries, lost messages and failovers. If the client cannot find
//!   out the outcome of a write, it returns the error `OutcomeUnknown`.
//! - **Available** while a majority of the members can communicate. A *witness* is a member that votes and keeps the
//!   recent part of the log, but stores no data. A cluster of two data members and a witness survives the loss of any
//!   one member.
//!
//! The protocol is Viewstamped Replication Revisited (Liskov and Cowling, 2012), extended to survive damaged disks.
//!
//! Start with the [guide](guide::getting_started).
//!
//! # A cluster in one process
//! A [`Node`] is one member of a cluster. A [`Client`] can connect to every member. This example uses the in-memory
//! network. With the feature `tcp`, use `transport::tcp` instead.
//! ```
//! use kv_core::{Cluster, Node, tokio, transport::Memory};
//!
//! # #[tokio::main(crate = "kv_core::tokio")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let cluster = Cluster::builder("docs").member(0, "a:1").member(1, "b:1").member(2, "c:1").build()?;
//! let network = Memory::new();
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
//! A program that is not a member connects to the address of any member:
//! ```no_run
//! # async fn connect() -> Result<(), Box<dyn std::error::Error>> {
//! # let transport = kv_core::transport::Memory::new();
//! let client = kv_core::Client::connect("docs", "127.0.0.1:7000", transport).await?;
//! # Ok(()) }
//! ```
//!
//! # Threads and runtime
//! A node runs on the tokio runtime that starts it. Everything that waits for the disk runs on separate threads of the
//! node. The runtime must stay responsive: if the application blocks the runtime's worker threads, the member sends its
//! heartbeats late, and it may lose the primary role.
//!
//! The crate re-exports [`tokio`], so that an application needs no other dependency. To read the stream of a watch, an
//! application does not need the crate `futures`: the stream has a method `next` of its own. The crate reads no
//! environment variables and installs no `tracing` subscriber. Each node logs within a span named `member`.
//!
//! # Features
//! No feature is enabled by default, and a feature only adds to the crate. Without any feature, nodes and clients use
//! the in-memory network or your own transport.
//!
//! | feature | adds |
//! |---|---|
//! | `tcp` | [`transport`]`::tcp` |
//! | `quic` | [`transport`]`::quic` |
//! | `tls` | certificates ([`transport`]`::tls`) and TLS over TCP; see [`guide::security`] |
//! | `certs` | creating certificates, for development and tests |
//! | `testing` | clusters for the tests of an application |
//! | `internals` | internal modules, for the tests, the simulator and the fuzz targets of this workspace; without any stability guarantee |

#![cfg_attr(
    not(feature = "internals"),
    allow(
        unreachable_pub,
        reason = "what is public inside is so for the simulator, with the feature `internals`"
    )
)]
#![cfg_attr(
    feature = "internals",
    allow(missing_docs, reason = "inside, a doc comment stands where it says more than the name does")
)]

pub mod client;
pub mod config;
mod detached;
#[cfg(not(feature = "internals"))]
mod engine;
#[cfg(feature = "internals")]
pub mod engine;
pub mod error;
#[cfg(not(feature = "internals"))]
mod ids;
#[cfg(feature = "internals")]
pub mod ids;
#[cfg(not(feature = "internals"))]
mod journal;
#[cfg(feature = "internals")]
pub mod journal;
#[cfg(not(feature = "internals"))]
mod kv;
#[cfg(feature = "internals")]
pub mod kv;
mod lazy_timer;
#[cfg(not(feature = "internals"))]
mod message;
#[cfg(feature = "internals")]
pub mod message;
pub mod node;
pub mod offline;
#[cfg(not(feature = "internals"))]
mod replica;
#[cfg(feature = "internals")]
pub mod replica;
#[cfg(not(feature = "internals"))]
mod session;
#[cfg(feature = "internals")]
pub mod session;
#[cfg(not(feature = "internals"))]
mod storage;
#[cfg(feature = "internals")]
pub mod storage;
#[cfg(feature = "testing")]
pub mod testing;
pub mod transport {
    //! The [`Transport`] trait, the in-memory network and fault injection. The features `tcp` and `quic` add TCP and
    //! QUIC.
    pub use kv_transport::*;
    #[cfg(feature = "quic")]
    pub use kv_transport_quic as quic;
    #[cfg(feature = "tcp")]
    pub use kv_transport_tcp as tcp;

    pub use crate::wire::framing;
}
#[cfg(not(feature = "internals"))]
mod wire;
#[cfg(feature = "internals")]
pub mod wire;
pub mod guide {
    //! The guide: how to use and operate a cluster, and what it guarantees.
    #[doc = include_str!("../guide/getting_started.md")]
    pub mod getting_started {}
    #[doc = include_str!("../guide/guarantees.md")]
    pub mod guarantees {}
    #[doc = include_str!("../guide/failover.md")]
    pub mod failover {}
    #[doc = include_str!("../guide/operating.md")]
    pub mod operating {}
    #[doc = include_str!("../guide/deploying.md")]
    pub mod deploying {}
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
