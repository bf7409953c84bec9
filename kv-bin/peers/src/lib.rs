//! What the programs of this package share: server processes, and `kv bench`.

pub mod bench;
pub mod processes;

/// What a run returns on failure: a text for people.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;
