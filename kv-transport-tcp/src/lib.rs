//! TCP for kv.
