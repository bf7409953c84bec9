//! Protocols of other stores for kv. Each *door* is a server that speaks such a protocol and translates it to calls of
//! a [`Client`](kv_core::Client). A door can use the client of a member ([`Node::client`](kv_core::Node::client)) or
//! any other client. The client finds the primary, so every door serves every request.
//!
//! | feature | module | protocol |
//! |---|---|---|
//! | `resp` | [`resp`] | the Redis protocol, RESP2 and RESP3 |

#![cfg_attr(
    not(feature = "resp"),
    allow(rustdoc::broken_intra_doc_links, reason = "the module is not compiled")
)]

#[cfg(feature = "resp")]
pub mod resp;
