//! Transports: how kv exchanges byte streams with named peers, in lanes.
//!
//! A [`Transport`] listens and connects. A [`Connection`] is one byte stream in one [`Lane`], and reports what the
//! transport itself knows about the [`Peer`]. Framing, versions, checksums and limits are not the task of a transport:
//! `kv-core` implements them once, for all transports.
//!
//! Besides the trait, the crate contains code that transports share, and tests for transports:
//! - [`Memory`]: a network inside the process, deterministic under tokio's paused time;
//! - [`Faulty`]: adds loss, delay, duplication, reordering and cuts to any transport, controlled by [`Faults`];
//! - [`preface`]: the bytes by which a transport whose streams have no names sends the lane;
//! - `conformance` (feature of that name): the requirements for a transport, as tests.

mod address;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod error;
mod faulty;
mod limiter;
mod memory;
mod pipe;
pub mod preface;
mod refusal_throttle;
#[cfg(feature = "tls")]
pub mod tls;
mod transport;

pub use address::check_host_port;
#[cfg(feature = "net")]
pub use address::try_each_address;
pub use error::TransportError;
pub use faulty::{Counts, Direction, Fault, Faults, Faulty, Framing, Scope};
pub use limiter::{ConnectionLimiter, MemberSources};
pub use memory::Memory;
pub use refusal_throttle::RefusalThrottle;
pub use transport::{Connection, EXPIRY_WARNING, Lane, Listener, Peer, Reader, Transport, Writer};
