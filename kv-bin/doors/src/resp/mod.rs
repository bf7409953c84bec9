//! A server for clients of Redis: RESP2, RESP3 and inline commands.
//!
//! [`serve`] accepts connections on a listener, and runs the commands with a [`Client`](kv_core::Client).
//! `kv-bin/doors/README.md` lists the commands, and describes how they differ from those of Redis.
//!
//! ```no_run
//! # async fn example(node: kv_core::Node) -> std::io::Result<()> {
//! use kv_doors::resp::{self, RespOptions};
//!
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:6379").await?;
//! resp::serve(listener, node.client(), RespOptions::default()).await
//! # }
//! ```

mod clock;
mod command;
mod cursors;
mod door;
mod errors;
mod glob;
mod overlay;
mod parse;
mod primary;
mod registry;
mod reply;
mod server;
mod session;
#[cfg(test)]
mod tests;

pub use server::serve;

use std::time::Duration;

/// The settings of a door. They limit what its clients can make the process use.
///
/// The memory of one connection is at most about four times [`max_request_bytes`](field@Self::max_request_bytes) for
/// requests, and [`max_reply_bytes`](field@Self::max_reply_bytes) for replies.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct RespOptions {
    /// How many connections may be open. Further connections get an error and are closed. Default 1,000.
    pub max_connections: usize,
    /// How many bytes one request may have. Also, how many bytes the requests of a transaction (`MULTI`) may have
    /// together, where each word counts 64 bytes more. Default 4 MiB.
    pub max_request_bytes: usize,
    /// How many words one request may have, including the name of the command. Each takes at least 32 bytes of memory.
    /// Default 65,536.
    pub max_arguments: usize,
    /// How many requests of one connection are taken from its input at once. While they run, nothing more is read from
    /// the connection. Default 1,024.
    pub max_pipeline: usize,
    /// How many requests one transaction may have. Default 1,000.
    pub max_queued: usize,
    /// How many bytes the reply of `KEYS`, `MGET` and other commands that read many keys may have. Default 16 MiB.
    pub max_reply_bytes: usize,
    /// How many bytes the requests, transactions, subscriptions and replies of all connections may have together, and
    /// what their commands read and build. Beyond it, a command that needs more than 64 KiB gets an error, and a
    /// connection that has sent more than that is closed. Default 256 MiB.
    pub max_memory_bytes: usize,
    /// How many channels and patterns one connection may subscribe to. Default 1,000.
    pub max_subscriptions: usize,
    /// A connection that has sent no request for this long is closed, unless it has subscriptions. Default 1 h.
    pub idle_timeout: Duration,
    /// A connection that does not take its replies for this long is closed. Default 30 s.
    pub write_timeout: Duration,
    /// Whether reads may be stale, like those of a Redis replica. Then any member answers them, usually without the
    /// network. A connection can choose for itself with `READONLY` and `READWRITE`. Default false: reads are
    /// linearizable.
    pub local_reads: bool,
    /// The name of the primary in replies to `SENTINEL`. Default `kv`.
    pub master_name: String,
    /// The addresses (`HOST:PORT`) of the doors of all members, by the ids of the members. `SENTINEL` replies with the
    /// address of the door at the primary. If it is unknown, `SENTINEL` replies with the address to which its own
    /// client has connected. Default empty.
    pub doors: Vec<(u8, String)>,
}

impl Default for RespOptions {
    fn default() -> Self {
        Self {
            max_connections: 1000,
            max_request_bytes: 4 << 20,
            max_arguments: 65_536,
            max_pipeline: 1024,
            max_queued: 1000,
            max_reply_bytes: 16 << 20,
            max_memory_bytes: 256 << 20,
            max_subscriptions: 1000,
            idle_timeout: Duration::from_secs(3600),
            write_timeout: Duration::from_secs(30),
            local_reads: false,
            master_name: "kv".to_owned(),
            doors: Vec::new(),
        }
    }
}

/// The version of Redis whose commands a door follows. Clients choose commands and options by it.
const REDIS_VERSION: &str = "7.0.15";
