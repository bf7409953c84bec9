//! Protocols of other stores for kv. Each *door* is a server that speaks such a protocol and translates it to calls of
//! a [`Client`](kv_core::Client). A door can use the client of a member ([`Node::client`](kv_core::Node::client)) or
//! any other client. The client finds the primary, so every door serves every request.
//!
//! | feature | module | protocol |
//! |---|---|---|
//! | `resp` | [`resp`] | the Redis protocol, RESP2 and RESP3 |
//! | `http` | [`http`] | HTTP: the JSON gateway of etcd v3, and pages about the member |

#![cfg_attr(
    not(all(feature = "resp", feature = "http")),
    allow(rustdoc::broken_intra_doc_links, reason = "a module is not compiled")
)]

#[cfg(any(feature = "resp", feature = "http"))]
mod attempts;
#[cfg(feature = "http")]
pub mod http;
#[cfg(any(feature = "resp", feature = "http"))]
mod memory;
#[cfg(feature = "resp")]
pub mod resp;
