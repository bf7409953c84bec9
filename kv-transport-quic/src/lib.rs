//! QUIC for kv.
