//! Where the state lives: an ordered map of versions in memory, over a durable B-tree.

mod error;

pub use error::EngineError;
