//! QUIC for `kv`: **not built yet**.
//!
//! This crate is empty. It holds the place of the transport that will carry the lanes of `kv` as streams of one QUIC
//! connection, so that the feature `quic` of `kv-core`, the module `kv_core::transport::quic` and the folder have their final
//! names. Enabling the feature adds this documentation and nothing else: there is no type here that implements
//! [`Transport`](kv_transport::Transport), and nothing that pretends to.
//!
//! Until then, use TCP (feature `tcp` of `kv-core`) or an implementation of `Transport` of your own.
