//! Accepts connections and checks the hello of each.

use super::quota::{self, Account, Quota};
use super::rate::{Bucket, LogThrottle};
use super::shared::Shared;
use super::sync::lock;
use super::{connection, incoming};
use crate::config::Options;
use crate::ids::Instant;
use crate::wire::{
    self, Caller, DEFAULT_MAX_FRAME, FrameReader, FrameWriter, Hello, HelloReply, Refusal, Welcome, WireError,
};
use kv_transport::{Connection, Lane, Listener, Peer, Reader, TransportError, Writer};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::time::{sleep, timeout};

/// How long a caller may take to send its hello, and then to receive the answer.
const HELLO_WITHIN: Duration = Duration::from_secs(3);
/// How many callers that have not sent their hello yet are kept: so many members, and so many clients.
const HALF_OPEN: usize = 128;
/// Open files reserved for everything but clients: 256 callers that have not sent their hello yet; about 256 files of
/// the state; and a state that is being received, the journal, and peers.
const OTHER_FILES: usize = 768;
/// At least this many clients are accepted, even if the process may open only few files.
const FEWEST_CLIENTS: usize = 16;
/// How many connections of members are accepted per second. This is more than the largest cluster opens when all its
/// links flap.
const MEMBERS_PER_SECOND: u32 = 1000;
/// The pause after a failure to accept.
const PAUSE: Duration = Duration::from_millis(20);

/// Callers of one kind (members or clients) that have not sent their hello yet.
#[derive(Debug)]
struct Callers {
    /// Limits how many may connect per second.
    rate: Mutex<Bucket>,
    half_open: Arc<Mutex<HalfOpen>>,
    /// Limits how often the log reports that too many connect.
    logged: Mutex<Bucket>,
}

impl Callers {
    fn new(per_second: u32, now: Instant) -> Self {
        Self {
            rate: Mutex::new(Bucket::new(per_second, now)),
            half_open: Arc::default(),
            logged: Mutex::new(Bucket::new(1, now)),
        }
    }
}

/// Callers that have not sent their hello yet, oldest first.
#[derive(Debug, Default)]
struct HalfOpen {
    /// The number of the last caller.
    last: u64,
    /// Each caller with its number. Dropping the sender closes its connection.
    callers: VecDeque<(u64, oneshot::Sender<()>)>,
}

/// One half-open caller. Close its connection when `evicted` completes.
#[derive(Debug)]
struct Ticket {
    number: u64,
    evicted: oneshot::Receiver<()>,
    half_open: Arc<Mutex<HalfOpen>>,
}

impl Ticket {
    /// Registers one more caller. If there are too many, closes the oldest. Honest callers send their hello at once,
    /// so silent callers cannot keep others out.
    fn of(half_open: &Arc<Mutex<HalfOpen>>) -> Self {
        let (sender, evicted) = oneshot::channel();
        let mut waiting = lock(half_open);
        waiting.last += 1;
        let number = waiting.last;
        if waiting.callers.len() >= HALF_OPEN {
            waiting.callers.pop_front();
        }
        waiting.callers.push_back((number, sender));
        Self { number, evicted, half_open: half_open.clone() }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        lock(&self.half_open).callers.retain(|(number, _)| *number != self.number);
    }
}

/// One counted connection of a client.
#[derive(Debug)]
struct Client {
    places: Arc<Places>,
    account: Arc<Account>,
}

/// The connections of clients.
#[derive(Debug)]
struct Places {
    quota: Quota,
    /// The same count, for tasks that wait until it is zero.
    count: watch::Sender<usize>,
}

impl Places {
    fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { quota: Quota::new(limit, quota::COUNTED), count: watch::Sender::new(0) })
    }

    fn one(self: &Arc<Self>, account: Arc<Account>) -> Option<Client> {
        if !self.quota.take(&account.connections, 1) {
            return None;
        }
        self.count.send_modify(|count| *count += 1);
        Some(Client { places: self.clone(), account })
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.places.quota.give_back(&self.account.connections, 1);
        self.places.count.send_modify(|count| *count -= 1);
    }
}

/// Accepts connections, checks them, and serves them.
#[derive(Debug)]
pub(super) struct Acceptor {
    shared: Arc<Shared>,
    member_callers: Callers,
    client_callers: Callers,
    /// The refusals that were logged lately.
    logged: LogThrottle,
    clients: Arc<Places>,
}

impl Acceptor {
    pub(super) fn new(shared: Arc<Shared>) -> Arc<Self> {
        let max_clients = max_clients(shared.options.max_connections, open_files());
        if max_clients < shared.options.max_connections {
            tracing::warn!(
                max_clients,
                max_connections = shared.options.max_connections,
                "the limit on open files is too low: accepting fewer clients. Raise the limit (ulimit -n)"
            );
        }
        let now = shared.clock.monotonic();
        Arc::new(Self {
            member_callers: Callers::new(MEMBERS_PER_SECOND, now),
            client_callers: Callers::new(shared.options.max_accepts_per_second, now),
            logged: LogThrottle::default(),
            shared,
            clients: Places::new(max_clients),
        })
    }

    /// Waits until no client is connected.
    pub(super) async fn no_clients(&self) {
        // An error means that the acceptor, and with it every client, is gone.
        let _ = self.clients.count.subscribe().wait_for(|count| *count == 0).await;
    }

    /// Accepts until the listener is closed.
    pub(super) async fn run(self: Arc<Self>, mut listener: Box<dyn Listener>) {
        let members = &self.shared.members;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = members.changed() => {
                    listener.keep_places_for(members.peer_addresses());
                    continue;
                }
            };
            match accepted {
                Ok(connection) => self.on_caller(connection),
                Err(TransportError::Closed) => break,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// Starts the handshake with a caller, unless too many arrive per second. Members and clients are counted
    /// separately, so that a flood of clients keeps no member out. A caller beyond the limit is closed without an
    /// answer, which costs almost nothing; an honest caller tries again.
    fn on_caller(self: &Arc<Self>, connection: Connection) {
        let callers = self.callers(connection.lane, &connection.peer);
        let now = self.shared.clock.monotonic();
        if lock(&callers.rate).take(now) {
            return self.accept(connection);
        }
        // A flood of connections must not flood the log.
        if lock(&callers.logged).take(now) {
            tracing::warn!(lane = %connection.lane, "too many new connections at once: closing the excess");
        }
    }

    fn callers(&self, lane: Lane, peer: &Peer) -> &Callers {
        if is_client(lane, peer) { &self.client_callers } else { &self.member_callers }
    }

    /// Runs the handshake with a caller, on a task of its own.
    pub(super) fn accept(self: &Arc<Self>, connection: Connection) {
        let ticket = Ticket::of(&self.callers(connection.lane, &connection.peer).half_open);
        let acceptor = self.clone();
        self.shared.tasks.spawn(async move { acceptor.handshake(connection, ticket).await });
    }

    async fn handshake(&self, connection: Connection, mut ticket: Ticket) {
        let Connection { lane, peer, remote, reader, writer, .. } = connection;
        let mut reader = FrameReader::new(reader, 0);
        let mut writer = FrameWriter::new(writer);
        let heard = tokio::select! {
            heard = timeout(HELLO_WITHIN, reader.read_hello()) => heard,
            _ = &mut ticket.evicted => return tracing::debug!(remote, "closed a connection: too many callers have not sent a hello"),
        };
        let Ok(heard) = heard else {
            return tracing::debug!(remote, "closed a connection: no hello arrived");
        };
        let (hello, answer) = match heard {
            Ok(hello) => {
                let answer = self.check_hello(&hello, lane, &peer, &remote);
                (Some(hello), answer)
            }
            Err(WireError::Version { theirs, .. }) => {
                (None, Err(Refusal::Version { me: self.shared.me, theirs }))
            }
            Err(error) => {
                return tracing::debug!(remote, %error, "closed a connection: it did not begin with a hello");
            }
        };
        let (reply, admitted) = match answer {
            Ok((welcome, client)) => (HelloReply::Ok(welcome), Some(client)),
            Err(refusal) => {
                self.log_refusal(lane, &remote, &refusal);
                (HelloReply::from(&refusal), None)
            }
        };
        writer.push(wire::encode_hello_reply(&reply));
        let logged = timeout(HELLO_WITHIN, writer.flush()).await;
        // Until here a caller that does not read the answer can be evicted like one that sends no hello.
        drop(ticket);
        if let (Some(hello), Some(client), Ok(Ok(()))) = (hello, admitted, logged) {
            tokio::select! {
                () = self.serve(hello, &remote, lane, client.as_ref(), reader, writer) => {}
                () = self.removed(lane, &peer) => {
                    tracing::info!(client = wire::describe(&peer), remote, "closed a connection: the client is no longer on the client list");
                }
            }
        }
    }

    /// Waits until the client is removed from the list of clients.
    async fn removed(&self, lane: Lane, peer: &Peer) {
        match &self.shared.clients {
            Some(list) if lane == Lane::Client => list.removed(peer).await,
            _ => std::future::pending().await,
        }
    }

    fn check_hello(
        &self,
        hello: &Hello,
        lane: Lane,
        peer: &Peer,
        remote: &str,
    ) -> Result<(Welcome, Option<Client>), Refusal> {
        let me = self.shared.me;
        let welcome = self.shared.members.now().expectation.check(hello, lane, peer)?;
        if *self.shared.closing.borrow() {
            return Err(Refusal::ShuttingDown { me });
        }
        if lane != Lane::Client {
            return Ok((welcome, None));
        }
        if self.shared.clients.as_ref().is_some_and(|list| !list.has(peer)) {
            let name = if let Peer::Client { name, .. } = peer { name.clone() } else { String::new() };
            return Err(Refusal::NotListed { me, name });
        }
        let account = self.shared.accounts.of(quota::identity(peer, remote));
        let client = self.clients.one(account).ok_or(Refusal::TooManyConnections { me })?;
        Ok((welcome, Some(client)))
    }

    async fn serve(
        &self,
        hello: Hello,
        remote: &str,
        lane: Lane,
        client: Option<&Client>,
        mut reader: FrameReader<Reader>,
        writer: FrameWriter<Writer>,
    ) {
        match hello.caller {
            Caller::Member { id, life, .. } => {
                self.shared.health.called(id, life, remote, self.shared.clock.monotonic());
                reader.set_max_frame(max_message(lane));
                incoming::serve(&self.shared, id, lane, reader, writer).await;
            }
            Caller::Client { name } => {
                reader.set_max_frame(max_request(&self.shared.options));
                // A client was counted when its hello was checked.
                let Some(client) = client else { return };
                let protocol = wire::PROTOCOL.common(hello.protocol).unwrap_or_default();
                connection::serve(&self.shared, &name, protocol, client.account.clone(), reader, writer)
                    .await;
            }
        }
    }

    /// Logs why a caller was refused, at most once a minute for each reason. It is a warning if the caller is a
    /// member, because then a configuration is wrong, or if the caller is not who it claims to be.
    fn log_refusal(&self, lane: Lane, remote: &str, refusal: &Refusal) {
        let text = refusal.to_string();
        let is_impostor = matches!(
            refusal,
            Refusal::Identity { .. }
                | Refusal::Removed { .. }
                | Refusal::Unauthenticated { .. }
                | Refusal::NotListed { .. }
        );
        let is_loud = lane != Lane::Client || is_impostor;
        if is_loud && self.logged.is_due(self.shared.clock.monotonic(), &text) {
            tracing::warn!(remote, %lane, %refusal, "refused a caller");
        } else {
            tracing::debug!(remote, %refusal, "refused");
        }
    }
}

/// Returns whether a caller counts as a client. A client's certificate decides, whichever lane the caller asks for.
const fn is_client(lane: Lane, peer: &Peer) -> bool {
    matches!((lane, peer), (Lane::Client, _) | (_, Peer::Client { .. }))
}

/// How many clients are accepted if the process may open this many files. A member that runs out of files could not
/// even write its journal, so clients are refused before that.
fn max_clients(wanted: usize, open_files: Option<usize>) -> usize {
    let most = open_files.map_or(usize::MAX, |files| files.saturating_sub(OTHER_FILES).max(FEWEST_CLIENTS));
    wanted.min(most)
}

/// How many files the process may open, if the system reports it.
fn open_files() -> Option<usize> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The longest frame that a member may send. The Control lane carries no entries and no state, only lists of hashes
/// and ops, which are short even for a log with thousands of gaps.
const fn max_message(lane: Lane) -> usize {
    match lane {
        Lane::Control => 4 << 20,
        Lane::Log | Lane::Bulk | Lane::Client => DEFAULT_MAX_FRAME,
    }
}

/// The longest frame that a client may send.
fn max_request(options: &Options) -> usize {
    options.largest_request() + (1 << 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::SizeLimits;

    /// A client that stays within its limits is not closed for the size of a frame.
    #[test]
    fn the_largest_request_fits_a_frame() {
        let options = Options::default();
        let Options { max_key_bytes, max_value_bytes, .. } = options;
        let sizes = SizeLimits { max_key_bytes, max_value_bytes };
        assert_eq!(sizes.request_bytes(), options.largest_request());
        assert!(sizes.request_bytes() < max_request(&options));
    }

    /// F-input-1, F-input-3: many silent callers do not keep out a new one.
    #[tokio::test]
    async fn the_oldest_of_too_many_silent_callers_is_closed() {
        let half_open = Arc::default();
        let mut crowd: Vec<_> = (0..HALF_OPEN).map(|_| Ticket::of(&half_open)).collect();
        let mut late = Ticket::of(&half_open);
        assert!((&mut crowd[0].evicted).await.is_err(), "the oldest is closed");
        assert!(crowd[1].evicted.try_recv().is_err_and(|it| it == oneshot::error::TryRecvError::Empty));
        assert!(late.evicted.try_recv().is_err_and(|it| it == oneshot::error::TryRecvError::Empty));
        crowd.pop();
        let _next = Ticket::of(&half_open);
        assert!(crowd[1].evicted.try_recv().is_err_and(|it| it == oneshot::error::TryRecvError::Empty));
        drop(crowd);
        assert_eq!(lock(&half_open).callers.len(), 2);
    }

    /// F-load-4: a caller with a client's certificate takes no place that is reserved for members, whichever lane it
    /// asks for.
    #[test]
    fn f_load_4_a_known_client_uses_a_client_slot_on_every_lane() {
        let client = Peer::Client { cluster: "test".into(), name: "app".into() };
        let member = Peer::Member { cluster: "test".into(), id: 1 };
        for lane in Lane::ALL {
            assert!(is_client(lane, &client));
            assert_eq!(is_client(lane, &member), lane == Lane::Client);
            assert_eq!(is_client(lane, &Peer::Unauthenticated), lane == Lane::Client);
        }
    }

    /// F-load-4: one client leaves connections for others, however many it opens.
    #[test]
    fn f_load_4_one_client_leaves_connections_for_others() {
        let (places, greedy, other) = (Places::new(1024), Arc::default(), Arc::default());
        let held: Vec<_> = std::iter::from_fn(|| places.one(Arc::clone(&greedy))).collect();
        assert!((900..1000).contains(&held.len()), "{}", held.len());
        assert!(places.one(other).is_some());
        drop(held);
        assert_eq!((*places.count.borrow(), places.quota.held()), (0, 0));
    }

    /// F-proc-9.
    #[test]
    fn clients_leave_file_descriptors_for_the_journal() {
        assert_eq!(max_clients(1024, None), 1024);
        assert_eq!(max_clients(1024, Some(65_536)), 1024);
        assert_eq!(max_clients(1024, Some(1024)), 256);
        assert_eq!(max_clients(1024, Some(64)), FEWEST_CLIENTS);
        assert_eq!(max_clients(8, Some(64)), 8);
    }
}
