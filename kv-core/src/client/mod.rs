//! The client: it finds the primary, keeps a session, retries, and never runs a write twice.
//!
//! A [`Client`] and its clones share one session, and one connection to each member that they use. Every operation is a
//! builder: set what differs from the defaults, then await it.

// `ClientProtocol` decides and does no I/O (the simulator drives the same code). `Client` is the tokio part around it:
// handles that pass calls on, and one task (`Driver`) that owns the protocol and the connections.

mod batch;
mod builder;
pub(crate) mod call;
mod driver;
pub(crate) mod elapsed;
mod handle;
mod lease;
mod link;
mod lock;
mod ops;
mod previous;
mod protocol;
mod range;
mod scan;
#[cfg(test)]
mod tests;
mod transaction;
mod typed;
mod watch;
mod watch_cursor;

pub use batch::Batch;
pub use builder::ClientBuilder;
#[cfg(feature = "internals")]
pub use call::{Call, CallError, CallId, ProtocolInput, ProtocolOptions, ProtocolOutput, Reply};
pub use handle::{Client, MemberReport};
#[cfg(feature = "internals")]
pub use lease::believed;
pub use lease::{Lease, LeaseHandle, LeaseRequest};
pub use lock::{Election, FencingToken, Leader, Lock, LockLoss, LockRequest};
pub use ops::{AtRevision, Delete, Deleted, Get, GetMany, Put, Written};
pub use previous::{WithPrevious, WrittenWithPrevious};
#[cfg(feature = "internals")]
pub use protocol::ClientProtocol;
pub use range::{DeleteRange, RangeDeleted};
pub use scan::{Scan, Snapshot};
pub use transaction::{Add, Added, Transacted, Transaction};
pub use typed::{
    Entry, Typed, TypedError, TypedEvent, TypedGet, TypedPut, TypedStream, TypedUpdate, TypedWatch,
};
pub use watch::{Follow, Update, Watch, WatchStream};

pub use crate::ids::{LeaseId, Revision, Timestamp};
pub use crate::message::{Event, EventKind, LeaseInfo, Lifetime, Record, Scanned, StepResult};

use builder::LocalMember;
pub(crate) use handle::Closed;
#[cfg(feature = "internals")]
pub use watch_cursor::WatchCursor;
