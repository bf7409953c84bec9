//! Transports: how the members and clients of kv exchange byte streams.
//!
//! A [`Transport`] listens and connects. A [`Connection`] is one byte stream in one [`Lane`] (a class of traffic). A
//! connection also reports what the transport itself knows about the [`Peer`]. A transport does not handle framing,
//! versions, checksums or limits (except limits on handshakes): `kv-core` implements these once, for all transports.
//!
//! Besides the trait [`Transport`], the crate contains an in-memory transport, a wrapper that injects faults, code that
//! transports share, and tests for transports:
//! - [`Memory`]: a network inside the process, deterministic under tokio's paused time;
//! - [`Faulty`]: adds faults to any transport, such as loss, delay, duplication, reordering and cuts; [`Faults`]
//!   controls the faults;
//! - [`preface`]: the first bytes of a stream, which name its lane, for transports that have no other way to send the
//!   lane;
//! - `conformance` (with the feature `conformance`): tests that check whether a transport meets the requirements.

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
