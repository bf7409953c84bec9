//! The client. It finds the primary, retries calls, and never runs a write twice: it numbers its writes in a session,
//! and members recognize a retry by its number.
//!
//! A [`Client`] and its clones share one session, and one connection to each member that they use. Most operations are
//! builders: change the settings that should differ from the defaults, then await the builder.

// `ClientProtocol` makes the decisions and does no I/O, so the simulator can run the same code. Around it is the tokio
// part: handles (`Client`) pass calls to one task (`Driver`), which owns the protocol and the connections.

mod batch;
mod builder;
pub(crate) mod call;
mod count;
mod driver;
pub(crate) mod elapsed;
mod handle;
mod lease;
mod link;
mod lock;
mod members;
mod ops;
mod previous;
mod protocol;
mod range;
mod revisions;
mod scan;
#[cfg(test)]
mod tests;
mod touch;
mod transaction;
mod typed;
mod watch;
mod watch_cursor;

pub use batch::Batch;
pub use builder::ClientBuilder;
#[cfg(feature = "internals")]
pub use call::{Call, CallError, CallId, ProtocolInput, ProtocolOptions, ProtocolOutput, Reply};
pub use count::Count;
pub use handle::{Client, MemberReport};
#[cfg(feature = "internals")]
pub use lease::believed;
pub use lease::{Lease, LeaseHandle, LeaseRequest};
pub use lock::{Election, FencingToken, Leader, Lock, LockLoss, LockRequest};
pub use members::{ListedMember, MemberChange, MemberList};
pub use ops::{AtRevision, Delete, Deleted, Get, GetMany, Put, Written};
pub use previous::{WithPrevious, WrittenWithPrevious};
#[cfg(feature = "internals")]
pub use protocol::ClientProtocol;
pub use range::{DeleteRange, RangeDeleted};
pub use revisions::{Compact, HistoryCompacted, RaiseRevision, RevisionRaised};
pub use scan::{Scan, Snapshot};
pub use touch::{Touch, Touched};
pub use transaction::{Add, Added, Transacted, Transaction};
pub use typed::{
    Entry, Typed, TypedError, TypedEvent, TypedGet, TypedPut, TypedStream, TypedUpdate, TypedWatch,
};
pub use watch::{Follow, Update, Watch, WatchStream};

pub use crate::ids::{LeaseId, Revision, Timestamp};
pub use crate::message::{Event, EventKind, LeaseInfo, Lifetime, Record, Scanned, StepResult};

pub(crate) use builder::LocalMember;
pub(crate) use handle::Closed;
#[cfg(feature = "internals")]
pub use watch_cursor::WatchCursor;
