//! How kv reaches other processes: byte streams to named peers, in lanes.
//!
//! A [`Transport`] listens and connects; a [`Connection`] is one byte stream in one [`Lane`], and reports what
//! the transport itself knows of the [`Peer`]. Framing, versions, checksums and limits are not a transport's
//! business: `kv-core` does them once, above all transports.
//!
//! Besides the trait, the crate has what transports share, and what each of them is tested with:
//! - [`Memory`]: a network inside the process, deterministic under tokio's paused time;
//! - [`Faulty`]: any transport, with loss, delay, duplication, reordering and cuts, steered by [`Faults`];
//! - [`preface`]: how a transport whose streams have no names sends the lane;
//! - `conformance` (feature of that name): what a transport has to do, as tests to run on it.

mod address;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod entrance;
mod error;
mod faulty;
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
pub use entrance::{Entrance, MemberSources};
pub use error::TransportError;
pub use faulty::{Counts, Direction, Fault, Faults, Faulty, Framing, Scope};
pub use memory::Memory;
pub use refusal_throttle::RefusalThrottle;
pub use transport::{Connection, EXPIRY_WARNING, Lane, Listener, Peer, Reader, Transport, Writer};
