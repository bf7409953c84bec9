//! The fuzz targets. None may panic for any bytes, and each checks its results.

mod dice;
mod disks;
mod node;
mod snapshot;
mod state;
mod wire;

pub use disks::{journal, superblock};
pub use node::replica;
pub use snapshot::snapshot;
pub use state::state;
pub use wire::{hello, requests, stream, wire};

/// A target's name and body.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 9] = [
    ("wire", wire),
    ("stream", stream),
    ("hello", hello),
    ("requests", requests),
    ("journal", journal),
    ("superblock", superblock),
    ("replica", replica),
    ("snapshot", snapshot),
    ("state", state),
];
