//! The requirements for a transport, as tests that run on it.
//!
//! In a transport's tests, one call makes a `#[test]` of every claim:
//! ```ignore
//! kv_transport::conformance!(Subject::new(Tcp::new(), "127.0.0.1:0"));
//! ```
//! Each claim builds a tokio runtime of its own, and fails if it takes longer than half a minute.

mod delays;
mod opening;
mod streams;

pub use delays::*;
pub use opening::*;
pub use streams::*;

use crate::{Connection, Lane, Listener, Transport};
use std::any::Any;
use std::fmt::{self, Debug};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// A claim that takes longer than this has failed.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(30);
/// A write that makes no progress for this long counts as stopped by back-pressure.
const STALL: Duration = Duration::from_millis(200);

/// Something that stays open until it is dropped.
pub type Held = Box<dyn Any + Send>;
type Opener = dyn Fn(String) -> Pin<Box<dyn Future<Output = Held> + Send>> + Send + Sync;

/// The transport that is put to the test.
#[derive(Clone)]
pub struct Subject {
    server: Arc<dyn Transport>,
    client: Arc<dyn Transport>,
    address: String,
    garbage: Option<Arc<Opener>>,
}

impl Subject {
    /// Tests `transport` at both ends. `address` is an address to listen on, with port 0, so that tests may run in
    /// parallel.
    pub fn new(transport: impl Transport, address: &str) -> Self {
        let server: Arc<dyn Transport> = Arc::new(transport);
        Self { client: Arc::clone(&server), server, address: address.to_owned(), garbage: None }
    }

    /// Sets another transport for the connecting end, if the two ends differ, for example in their certificates.
    #[must_use]
    pub fn client(mut self, transport: impl Transport) -> Self {
        self.client = Arc::new(transport);
        self
    }

    /// Sets how to reach the address of a listener without opening a valid connection, for example by staying silent or
    /// by sending garbage. Without this, [`garbage_openers_hold_up_nobody`] tests nothing.
    ///
    /// Give the transport a deadline above half a minute for such openers, because the claim is that nobody waits for
    /// that deadline.
    #[must_use]
    pub fn garbage<F>(mut self, open: impl Fn(String) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Held> + Send + 'static,
    {
        self.garbage = Some(Arc::new(move |address| Box::pin(open(address))));
        self
    }

    async fn listen(&self) -> Box<dyn Listener> {
        self.server.bind(&self.address).await.expect("the subject's address can be listened on")
    }

    async fn connect(&self, listener: &dyn Listener, lane: Lane) -> Connection {
        self.client.connect(&listener.local_address(), lane).await.expect("the listener can be reached")
    }

    /// A listener, and both ends of a connection to it: first the connecting end, then the accepting end.
    async fn pair(&self, lane: Lane) -> (Box<dyn Listener>, Connection, Connection) {
        let mut listener = self.listen().await;
        let near = self.connect(&*listener, lane).await;
        let far = listener.accept().await.expect("the connection is accepted");
        (listener, near, far)
    }
}

impl Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subject")
            .field("server", &self.server)
            .field("client", &self.client)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// Runs a claim on a runtime of its own.
///
/// # Panics
/// If the claim does not hold, or has not finished within half a minute.
pub fn run<F: Future<Output = ()>>(claim: &str, subject: impl FnOnce() -> Subject, body: fn(Subject) -> F) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("the system has a thread to spare");
    runtime.block_on(async {
        let finished = tokio::time::timeout(CLAIM_TIMEOUT, body(subject())).await;
        assert!(finished.is_ok(), "{claim}: not finished after {CLAIM_TIMEOUT:?}");
    });
    // A claim may leave a lookup on a blocking thread behind.
    runtime.shutdown_background();
}

/// Makes a `#[test]` of each claim on a transport. In `conformance!(subject)`, the expression returns a
/// [`Subject`](crate::conformance::Subject), and is evaluated for each test.
#[macro_export]
macro_rules! conformance {
    ($subject:expr) => {
        $crate::conformance! { @each $subject;
            each_lane_is_reported_to_the_acceptor
            port_zero_gives_a_usable_address
            connecting_to_nobody_is_refused
            listening_twice_on_an_address_is_refused
            what_is_no_address_is_refused_as_such
            a_dropped_listener_frees_its_address_and_leaves_connections_open
            a_dropped_listener_breaks_what_it_had_not_accepted
            many_connections_open_at_once
            a_cancelled_accept_loses_no_connection
            a_cancelled_connect_harms_no_other
            garbage_openers_hold_up_nobody
            bytes_flow_both_ways_in_order
            large_transfers_arrive_whole_both_ways_at_once
            what_was_written_before_the_end_arrives
            ending_one_direction_leaves_the_other_open
            a_dropped_connection_is_noticed_by_the_acceptor
            a_dropped_connection_is_noticed_by_the_opener
            a_peer_that_does_not_read_stops_its_lane_and_no_other
        }
    };
    (@each $subject:expr; $($claim:ident)*) => {
        $(
            #[test]
            fn $claim() {
                $crate::conformance::run(stringify!($claim), || $subject, $crate::conformance::$claim);
            }
        )*
    };
}
