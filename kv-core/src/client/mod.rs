//! The client: finds the primary, keeps a session, retries, and never runs a write twice.
//!
//! [`Core`] decides and does no I/O (the simulator drives the same code); [`Client`] is the tokio half around it.

mod builder;
mod call;
mod decide;
mod handle;
mod ops;
mod scan;

pub use builder::ClientBuilder;
pub use call::{Call, CallError, CallId, Cause, CoreInput, CoreOptions, CoreOutput, Reply, Trouble};
pub use decide::Core;
pub use handle::{Client, MemberReport};
pub use ops::{Delete, Deleted, Get, Put, Written};
pub use scan::Scan;
