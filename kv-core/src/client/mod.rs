//! The client: finds the primary, keeps a session, retries, and never runs a write twice.
//!
//! [`Core`] decides and does no I/O (the simulator drives the same code); [`Client`] is the tokio half around it: handles
//! that pass calls on, and one task (`Driver`) that owns the core and the connections.

mod asking;
mod batch;
mod builder;
mod call;
mod decide;
mod driver;
pub(crate) mod elapsed;
mod handle;
mod lease;
mod link;
mod lock;
mod ops;
mod previous;
mod range;
mod scan;
#[cfg(test)]
mod tests;
mod transaction;
mod typed;
mod watch;

pub use batch::Batch;
pub use builder::ClientBuilder;
pub use call::{Call, CallError, CallId, Cause, CoreInput, CoreOptions, CoreOutput, Reply, Trouble};
pub use decide::Core;
pub use handle::{Client, MemberReport};
#[cfg(any(test, feature = "internals"))]
pub use lease::believed;
pub use lease::{Grant, Lease, LeaseById};
pub use lock::{Acquire, Election, FencingToken, Leader, Lock, LockLoss};
pub use ops::{AtRevision, Delete, Deleted, Get, GetMany, Put, Written};
pub use previous::{Previous, Replaced};
pub use range::{DeleteRange, RangeDeleted};
pub use scan::{Scan, Snapshot};
pub use transaction::{Add, Added, Transact, Transacted};
pub use typed::{
    Entry, Typed, TypedError, TypedEvent, TypedGet, TypedPut, TypedStream, TypedUpdate, TypedWatch,
};
pub use watch::{Follow, Update, Watch, Watching};

#[cfg(any(test, feature = "internals"))]
pub use asking::Asking;
use builder::LocalMember;
pub(crate) use handle::Closed;
