//! A server for HTTP/1.1: the JSON gateway of etcd v3, and pages about the member.
//!
//! [`serve`] accepts connections on a listener, and runs the requests with a [`Client`](kv_core::Client).
//! `kv-bin/doors/README.md` lists the requests, and describes how they differ from those of etcd.
//!
//! ```no_run
//! # async fn example(node: kv_core::Node) -> std::io::Result<()> {
//! use kv_doors::http::{self, HttpOptions};
//! use std::sync::Arc;
//!
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:2379").await?;
//! let node = Arc::new(node);
//! http::serve(listener, node.client(), Some(node), HttpOptions::default()).await
//! # }
//! ```
//!
//! # Browsers
//! A web page that a user has opened can make the user's browser send requests to any address, also to loopback. A
//! browser states the origin of the page in such requests, and the page cannot change that. So the server refuses a
//! request whose `Origin` is not the server itself. A page can also give its own host name the address of this server
//! (DNS rebinding), so that the origin looks right. Therefore the server refuses a request whose `Host` is neither an
//! IP address, nor `localhost`, nor one of [`hosts`](field@HttpOptions::hosts).

mod activity;
mod body;
mod connections;
mod dials;
mod door;
mod errors;
mod etcd;
mod guard;
mod leases;
mod respond;
mod routes;
mod samples;
mod server;
mod stream;

#[cfg(test)]
mod tests;

pub use dials::{explain, status_fields};
pub use server::serve;

use std::time::Duration;

/// The settings of a door. They limit what its clients can make the process use.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct HttpOptions {
    /// How many connections may be open. For a further connection, one without a request is closed, first of all one
    /// that has not sent a whole request yet. If all have requests, the new connection serves only `/livez`,
    /// `/readyz`, `/primary` and `/metrics`, and gets an error for everything else; there are 32 such connections at
    /// most. A connection has one request at a time, so this also limits the number of requests. Default 1,000.
    pub max_connections: usize,
    /// How many bytes the first line and the headers of a request may have: at least 8 KiB. Default 16 KiB.
    pub max_head_bytes: usize,
    /// How many bytes the body of a request may have. Default 4 MiB.
    pub max_body_bytes: usize,
    /// How many bytes the keys and values of an answer may have. Default 16 MiB.
    pub max_answer_bytes: usize,
    /// How many bytes the requests and answers of all connections may have together, besides the heads. Beyond it, a
    /// request that needs more than 64 KiB gets an error. Default 256 MiB.
    pub max_memory_bytes: usize,
    /// How many requests may wait for changes, for locks and for elections. Default 500. A member serves a client at
    /// most 512 watches.
    pub max_watches: usize,
    /// A connection on which the head of a request takes longer than this is closed. Default 10 s.
    pub head_timeout: Duration,
    /// A connection on which the body of a request takes longer than this is closed. Default 30 s.
    pub body_timeout: Duration,
    /// A connection that has no request for this long is closed. Default 10 min.
    pub idle_timeout: Duration,
    /// A connection that takes nothing of an answer for this long, or takes it at less than 16 KiB/s for longer, is
    /// closed. Default 30 s.
    pub write_timeout: Duration,
    /// The names of hosts at which clients reach this door, without ports, in addition to `localhost`: see
    /// [Browsers](self#browsers). Default empty.
    pub hosts: Vec<String>,
    /// The addresses (`HOST:PORT`) of the doors of all members, by the ids of the members, for the list of members.
    /// Default empty.
    pub doors: Vec<(u8, String)>,
    /// Whether the door serves only the pages about the member, and refuses all calls of etcd's gateway, so that nobody
    /// can read or write keys by it. Default `false`.
    pub pages_only: bool,
    /// The name of the cluster, from which the ids in answers are derived. Default `kv`.
    pub cluster: String,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            max_connections: 1000,
            max_head_bytes: 16 << 10,
            max_body_bytes: 4 << 20,
            max_answer_bytes: 16 << 20,
            max_memory_bytes: 256 << 20,
            max_watches: 500,
            head_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(600),
            write_timeout: Duration::from_secs(30),
            hosts: Vec::new(),
            doors: Vec::new(),
            pages_only: false,
            cluster: "kv".to_owned(),
        }
    }
}
