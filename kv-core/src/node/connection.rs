//! The connection of one client: its calls and their answers.

use super::budget::{Share, Use};
use super::inbox::{AdminCall, InboxCall, RequestKey};
use super::metrics::RequestKind;
use super::quota::Account;
use super::reads::{self, MinApplied};
use super::reply::{CallClass, Outbox, Responder};
use super::shared::Shared;
use super::{changes, status, watches};
use crate::config::{Options, Role};
use crate::ids::{RequestNumber, SessionId};
use crate::lazy_timer::LazyTimer;
use crate::message::{Answer, ClientCall, Operation, Query, ReadMode, Request, RequestError, SizeLimits};
use crate::wire::{self, Frame, FrameReader, FrameWriter, Kind, Party, WireError};
use bytes::Bytes;
use kv_transport::{Reader, Writer};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// How long a client may take to send a frame that it has begun, and to receive answers. The time for the bytes
/// themselves, at [`SLOWEST`], is added.
const WITHIN: Duration = Duration::from_secs(10);
/// The slowest client that is still served, in bytes per second.
const SLOWEST: usize = 128 << 10;
/// How long a node that shuts down waits for its last answers to be sent.
const LAST_WITHIN: Duration = Duration::from_millis(100);
/// How many bytes are collected for one write.
const WRITE_BYTES: usize = 256 << 10;
/// Frames above this size are large. They may use only their part of the memory.
const SMALL_FRAME: usize = 64 << 10;
/// After a large frame of a client, the member reads nothing from that client for this long per [`PACED_BYTES`] of the
/// frame, so that clients that send only large frames leave time for others.
const PACE: Duration = Duration::from_millis(1);
/// See [`PACE`]: one connection can send at most 512 MB/s.
const PACED_BYTES: usize = 512 << 10;

/// A call in flight counts for at least this many bytes.
const CALL_BYTES: usize = 256;

/// Why the member closed a connection.
#[derive(Debug, thiserror::Error)]
enum ConnectionEnd {
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("no message for {0:?}")]
    Silent(Duration),
    #[error("a frame did not arrive completely in time, or there was no memory for it")]
    HalfAFrame,
    #[error("the client does not read its answers")]
    Unread,
}

/// Serves a client until it disconnects, breaks a rule, falls silent, or does not read its answers.
pub(super) async fn serve(
    shared: &Arc<Shared>,
    name: &str,
    protocol: u16,
    account: Arc<Account>,
    reader: FrameReader<Reader>,
    writer: FrameWriter<Writer>,
) {
    tracing::debug!(client = name, "client connected");
    let outbox = Outbox::new(shared.admission.clone(), account);
    let _closed = CloseOnDrop(shared, outbox.clone());
    let share = Share::none(&shared.admission.budget, outbox.account());
    let timer = LazyTimer::new(Instant::now() + shared.options.client_idle_timeout);
    let incoming = Incoming { shared, reader, share, timer, since_turn: 0 };
    let ended = tokio::select! {
        ended = receive(&outbox, incoming) => ended,
        ended = answer(shared, &outbox, protocol, writer) => ended,
    };
    match ended {
        Ok(()) => tracing::debug!(client = name, "client disconnected"),
        // Only at level debug: clients are not trusted, and could fill the log.
        Err(error) => tracing::debug!(client = name, %error, "client disconnected"),
    }
}

/// Lets other tasks of this runtime, and other threads of the node, run. Encrypting, decrypting and copying take
/// time.
async fn yield_turn() {
    std::thread::yield_now();
    tokio::task::yield_now().await;
}

struct CloseOnDrop<'a>(&'a Shared, Arc<Outbox>);

impl Drop for CloseOnDrop<'_> {
    fn drop(&mut self) {
        // The order matters: a watch that is parked later must see that the connection is closed.
        self.1.close();
        self.0.watches.cancel_all(&self.1);
    }
}

/// The receiving side of the connection.
struct Incoming<'a> {
    shared: &'a Arc<Shared>,
    reader: FrameReader<Reader>,
    /// The memory of what has been read and not yet processed.
    share: Share,
    timer: LazyTimer,
    /// How many bytes have been read since other tasks last ran.
    since_turn: usize,
}

impl Incoming<'_> {
    /// Counts the bytes read beyond `held`, and returns whether other tasks should run now.
    fn is_turn_over(&mut self, held: usize) -> bool {
        self.since_turn += self.reader.buffered_bytes().saturating_sub(held);
        let is_due = self.since_turn >= wire::TURN_BYTES;
        if is_due {
            self.since_turn = 0;
        }
        is_due
    }

    /// Returns the next frame, with the memory that it holds. Memory is reserved before it is allocated. While none
    /// is free, the client waits; if that takes too long, it is treated like a client that is too slow.
    async fn frame(&mut self) -> Result<Option<(Frame, Share)>, ConnectionEnd> {
        let idle = self.shared.options.client_idle_timeout;
        let mut until = Instant::now() + idle;
        let (mut begun, mut timed) = (false, false);
        while let Some(want) = self.reader.wants(Kind::Client)? {
            let held = self.reader.buffered_bytes();
            if held > 0 && !begun {
                (begun, until) = (true, Instant::now() + WITHIN);
            }
            let announced = self.reader.announced(Kind::Client)?;
            if let Some(len) = announced.filter(|_| !timed) {
                (timed, until) = (true, until + time_for(len));
            }
            let what =
                if announced.is_some_and(|len| len > SMALL_FRAME) { Use::LargeFrame } else { Use::Frame };
            let step = async {
                if held > 0 {
                    self.share.grow_to(held + want, what).await;
                }
                self.reader.fill(want).await
            };
            match self.timer.limit(until, step).await {
                Ok(Err(error)) => return Err(WireError::from(error).into()),
                // A client that sends much yields to others regularly, because tasks share the few threads of the
                // runtime.
                Ok(Ok(true)) if self.is_turn_over(held) => yield_turn().await,
                Ok(Ok(true)) => {}
                Ok(Ok(false)) if begun => return Err(WireError::Truncated.into()),
                Ok(Ok(false)) => return Ok(None),
                Err(_) if begun => return Err(ConnectionEnd::HalfAFrame),
                Err(_) => return Err(ConnectionEnd::Silent(idle)),
            }
        }
        let frame = self.reader.take(Kind::Client)?;
        let mut share = self.share.split(frame.body_len());
        self.share.shrink_to(self.reader.buffered_bytes());
        // Nothing was reserved for what fitted into the first read. A small call must still count.
        let all = share.grow_to(frame.body_len().max(CALL_BYTES), Use::Frame);
        self.timer.limit(until, all).await.map_err(|_| ConnectionEnd::HalfAFrame)?;
        Ok(Some((frame, share)))
    }
}

async fn receive(outbox: &Arc<Outbox>, mut incoming: Incoming<'_>) -> Result<(), ConnectionEnd> {
    let mut last = None;
    loop {
        outbox.wait_for_room().await;
        let Some((frame, share)) = incoming.frame().await? else { return Ok(()) };
        if frame.kind() == Kind::Alive {
            continue;
        }
        let len = frame.body_len();
        let is_large = len > SMALL_FRAME;
        // Decoding a large request takes a while. Only one is decoded at a time, so that the other threads of the
        // runtime stay free.
        let turn = if is_large { incoming.shared.large_requests.acquire().await.ok() } else { None };
        let message = frame.client_message()?;
        drop(frame);
        if is_large {
            // Decoding took a while, and so will processing.
            yield_turn().await;
        }
        if !Party::Client.may_call(&message.what) {
            return Err(WireError::NotAllowed { what: "a call", party: Party::Client }.into());
        }
        // A client must not reuse a call number: a copy of a message could be proposed after the client was told that
        // the original was not.
        if last.is_none_or(|last| message.call > last) {
            last = Some(message.call);
            dispatch(incoming.shared, outbox, message.call, message.what, share);
        }
        drop(turn);
        if is_large {
            let parts = u32::try_from(len.div_ceil(PACED_BYTES)).unwrap_or(u32::MAX);
            tokio::time::sleep(PACE.saturating_mul(parts)).await;
        }
    }
}

/// Writes answers until no more calls can come, or the client does not read them.
async fn answer(
    shared: &Shared,
    outbox: &Outbox,
    protocol: u16,
    mut writer: FrameWriter<Writer>,
) -> Result<(), ConnectionEnd> {
    let mut closing = shared.closing.subscribe();
    // One future for the whole loop. A new one for each turn of the loop would register and deregister each time, under
    // locks that all connections share.
    let mut closes = std::pin::pin!(async { drop(closing.wait_for(|closing| *closing).await) });
    let mut is_closing = false;
    let mut told = shared.members.epoch();
    loop {
        if is_closing && outbox.is_idle() {
            return Ok(());
        }
        let answers = tokio::select! {
            biased;
            () = &mut closes, if !is_closing => {
                is_closing = true;
                continue;
            }
            answers = outbox.take(WRITE_BYTES) => answers,
        };
        let epoch = shared.members.epoch();
        if epoch > told && protocol >= wire::FIRST_WITH_EPOCHS {
            // The client hears of each new list, so that it always knows members that are still there.
            told = epoch;
            if let Some(list) = shared.members.announcement() {
                writer.push(wire::encode_server_message(&list));
            }
        }
        let (count, mut held, mut shares) = (answers.len(), 0, Vec::with_capacity(answers.len()));
        for (answer, share) in answers {
            writer.push(wire::encode_server_message(&answer));
            if share.bytes() > SMALL_FRAME {
                yield_turn().await;
            }
            held += share.bytes();
            shares.push(share);
        }
        // If the node begins to shut down only now, this write still has the longer time.
        let within = if is_closing { LAST_WITHIN } else { WITHIN + time_for(writer.queued_bytes()) };
        match timeout(within, writer.flush()).await {
            Ok(written) => written.map_err(WireError::from)?,
            Err(_) => return Err(ConnectionEnd::Unread),
        }
        // Only now: until the flush, the frames with these answers are in memory.
        drop(shares);
        outbox.written(count, held);
    }
}

/// How long the slowest allowed client takes for this many bytes.
fn time_for(bytes: usize) -> Duration {
    Duration::from_secs((bytes / SLOWEST) as u64)
}

/// Answers a call at once, or arranges for a later answer.
fn dispatch(shared: &Arc<Shared>, outbox: &Arc<Outbox>, call: u64, what: ClientCall, share: Share) {
    let place = if matches!(what, ClientCall::Watch(_)) { CallClass::Watch } else { CallClass::Call };
    let permit = shared.admission.admit(outbox.account(), place, share);
    let overloaded = permit.is_none();
    let reply = Responder::new(outbox.clone(), call, kind(&what), permit);
    match what {
        ClientCall::Status => reply.send(Answer::Status(Box::new(status::status(shared)))),
        ClientCall::Unwatch { call } => shared.watches.cancel(outbox, call),
        ClientCall::Handover { .. }
        | ClientCall::Members
        | ClientCall::Change(_)
        | ClientCall::Write(_)
        | ClientCall::Read { .. }
        | ClientCall::Watch(_)
            if overloaded =>
        {
            reply.send(Answer::Overloaded)
        }
        ClientCall::Handover { to } => shared.inbox.admin(AdminCall::Handover(to), reply),
        ClientCall::Members => shared.inbox.admin(AdminCall::Members, reply),
        ClientCall::Change(change) => changes::begin(shared, change, reply),
        ClientCall::Write(request) => write(shared, request, reply),
        ClientCall::Read { mode, query } => read(shared, mode, query, reply),
        ClientCall::Watch(query) => match query.check(sizes(&shared.options)) {
            Ok(()) => watches::begin(shared, query, call, reply),
            Err(refused) => reply.send(Answer::Refused(refused.to_string())),
        },
    }
}

const fn kind(what: &ClientCall) -> RequestKind {
    match what {
        ClientCall::Read { .. } => RequestKind::Read,
        ClientCall::Write(_) => RequestKind::Write,
        ClientCall::Watch(_) => RequestKind::Watch,
        ClientCall::Status
        | ClientCall::Unwatch { .. }
        | ClientCall::Handover { .. }
        | ClientCall::Members
        | ClientCall::Change(_) => RequestKind::Admin,
    }
}

fn write(shared: &Shared, request: Bytes, reply: Responder) {
    let key = match check(&request, &shared.options) {
        Ok(key) => key,
        Err(refused) => return reply.send(Answer::Refused(refused.to_string())),
    };
    if let RequestKey::Numbered(session, number) = key
        && let Some(stored) = shared.state().and_then(|state| state.stored(session, number))
    {
        return reply.send(Answer::Written(stored));
    }
    shared.inbox.call(InboxCall::Write { key, request, reply });
}

fn read(shared: &Arc<Shared>, mode: ReadMode, query: Query, reply: Responder) {
    if let Err(refused) = query.check(sizes(&shared.options)) {
        return reply.send(Answer::Refused(refused.to_string()));
    }
    match mode {
        ReadMode::Linearizable => shared.inbox.call(InboxCall::Read { query, reply }),
        _ if shared.role == Role::Witness => reply.send(Answer::Refused(format!(
            "member {} is a witness and holds no data: ask a data member",
            shared.me
        ))),
        ReadMode::MaxStaleness(bound) => shared.inbox.call(InboxCall::Bounded { bound, query, reply }),
        ReadMode::Local => {
            reads::run(shared, vec![(query, reply)], MinApplied::Op(shared.members.first_op()))
        }
        ReadMode::AtLeast(at_least) => {
            if shared.state().is_some_and(|state| state.revision() >= at_least) {
                reads::run(shared, vec![(query, reply)], MinApplied::Revision(at_least));
            } else {
                shared.inbox.call(InboxCall::Await { at_least, query, reply });
            }
        }
    }
}

const fn sizes(options: &Options) -> SizeLimits {
    SizeLimits { max_key_bytes: options.max_key_bytes, max_value_bytes: options.max_value_bytes }
}

/// Why a request is refused before it is queued.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error("a request needs a session and a number above zero: open a session first")]
    NoSession,
    #[error("only the primary orders what has expired to be removed")]
    NotYours,
    #[error("a request that opens a session has neither session nor number")]
    OpenWithin,
}

/// Decodes a request and checks it against the limits. The applier checks again, because it does not trust the log to
/// contain only checked requests.
fn check(request: &[u8], options: &Options) -> Result<RequestKey, Refused> {
    let request = Request::decode(request)?;
    if !Party::Client.may_order(&request.operation) {
        return Err(Refused::NotYours);
    }
    let numbered = request.session > SessionId::ZERO && request.number > RequestNumber::ZERO;
    let command = match &request.operation {
        Operation::OpenSession { nonce } => {
            let bare = request.session == SessionId::ZERO && request.number == RequestNumber::ZERO;
            return if bare { Ok(RequestKey::Open(*nonce)) } else { Err(Refused::OpenWithin) };
        }
        Operation::CloseSession | Operation::Expire(_) | Operation::Reconfigure(_) => None,
        Operation::Command(command) => Some(command),
    };
    if !numbered {
        return Err(Refused::NoSession);
    }
    if let Some(command) = command {
        command.check(sizes(options))?;
    }
    Ok(RequestKey::Numbered(request.session, request.number))
}
