//! One client's connection: its calls, and the answers to them.

use super::budget::{Share, Use};
use super::inbox::{Call, RequestKey};
use super::quota::Account;
use super::reads::{self, Least};
use super::reply::{Outbox, Place, Reply};
use super::shared::Shared;
use super::{status, watches};
use crate::config::{Options, Role};
use crate::ids::{Op, RequestNumber, SessionId};
use crate::message::{Answer, ClientCall, Operation, Query, ReadMode, Request, RequestError, SizeLimits};
use crate::wire::{self, Frame, FrameReader, FrameWriter, Kind, Party, WireError};
use bytes::Bytes;
use kv_transport::{Reader, Writer};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

/// How long a client may take for a frame that it has begun, and for the answers that it is given at once; to this comes
/// the time that they take at [`SLOWEST`].
const WITHIN: Duration = Duration::from_secs(10);
/// The slowest client that is waited for, in bytes per second.
const SLOWEST: usize = 128 << 10;
/// How long the last answers of a node that shuts down may take.
const LAST_WITHIN: Duration = Duration::from_millis(100);
/// So much is collected for one write.
const WRITE_BYTES: usize = 256 << 10;
/// Frames above this are large: they get no more than their part of the memory.
const SMALL_FRAME: usize = 64 << 10;
/// After a large frame nothing more is read from its client for this long per [`PACED_BYTES`] of it, so that clients who send nothing else
/// leave time for others.
const PACE: Duration = Duration::from_millis(1);
/// See [`PACE`]: one connection brings 512 MB/s at most.
const PACED_BYTES: usize = 512 << 10;

/// The least that a call in flight is taken to hold.
const CALL_BYTES: usize = 256;

/// Why a connection was ended by the member.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("no message for {0:?}")]
    Silent(Duration),
    #[error("a frame did not arrive completely in time, or there was no memory for it")]
    HalfAFrame,
    #[error("the client does not read its answers")]
    Unread,
}

/// Serves a client until it goes, breaks a rule, falls silent, or leaves its answers unread.
pub(super) async fn serve(
    shared: &Arc<Shared>,
    name: &str,
    account: Arc<Account>,
    reader: FrameReader<Reader>,
    writer: FrameWriter<Writer>,
) {
    tracing::debug!(client = name, "client connected");
    let outbox = Outbox::new(shared.admission.clone(), account);
    let _closed = CloseOnDrop(shared, outbox.clone());
    let share = Share::none(&shared.admission.budget, outbox.account());
    let incoming = Incoming { shared, reader, share, since_turn: 0 };
    let ended = tokio::select! {
        ended = receive(&outbox, incoming) => ended,
        ended = answer(shared, &outbox, writer) => ended,
    };
    match ended {
        Ok(()) => tracing::debug!(client = name, "client disconnected"),
        // Not louder: clients are not trusted, and might fill the log.
        Err(error) => tracing::debug!(client = name, %error, "client disconnected"),
    }
}

/// Lets other tasks of this runtime, and other threads of the node, have their turn: encrypting, decrypting and copying take time.
async fn give_way() {
    std::thread::yield_now();
    tokio::task::yield_now().await;
}

struct CloseOnDrop<'a>(&'a Shared, Arc<Outbox>);

impl Drop for CloseOnDrop<'_> {
    fn drop(&mut self) {
        // In this order: a watch that comes to wait later sees that the connection is closed.
        self.1.close();
        self.0.watches.cancel_all(&self.1);
    }
}

/// What comes from the client.
struct Incoming<'a> {
    shared: &'a Arc<Shared>,
    reader: FrameReader<Reader>,
    /// The memory of what has been read and not taken.
    share: Share,
    /// What has been read since others last had a turn.
    since_turn: usize,
}

impl Incoming<'_> {
    /// Whether others have a turn, after a read beyond `held`.
    fn gives_way(&mut self, held: usize) -> bool {
        self.since_turn += self.reader.buffered_bytes().saturating_sub(held);
        let is_due = self.since_turn >= wire::TURN_BYTES;
        if is_due {
            self.since_turn = 0;
        }
        is_due
    }

    /// The next frame, with the memory that it holds. Memory is taken before it is allocated; where there is none the client
    /// waits, and if that takes too long, it is as if it had been slow itself.
    async fn frame(&mut self) -> Result<Option<(Frame, Share)>, Ended> {
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
            match timeout_at(until, step).await {
                Ok(Err(error)) => return Err(WireError::from(error).into()),
                // Who sends much gives way to others now and again: tasks share the runtime's few threads.
                Ok(Ok(true)) if self.gives_way(held) => give_way().await,
                Ok(Ok(true)) => {}
                Ok(Ok(false)) if begun => return Err(WireError::Truncated.into()),
                Ok(Ok(false)) => return Ok(None),
                Err(_) if begun => return Err(Ended::HalfAFrame),
                Err(_) => return Err(Ended::Silent(idle)),
            }
        }
        let frame = self.reader.take(Kind::Client)?;
        let mut share = self.share.split(frame.body_len());
        self.share.shrink_to(self.reader.buffered_bytes());
        // What fits the first read was not asked for yet; and however small a call is, it is not free.
        let all = share.grow_to(frame.body_len().max(CALL_BYTES), Use::Frame);
        timeout_at(until, all).await.map_err(|_| Ended::HalfAFrame)?;
        Ok(Some((frame, share)))
    }
}

async fn receive(outbox: &Arc<Outbox>, mut incoming: Incoming<'_>) -> Result<(), Ended> {
    let mut last = None;
    loop {
        outbox.room().await;
        let Some((frame, share)) = incoming.frame().await? else { return Ok(()) };
        if frame.kind() == Kind::Alive {
            continue;
        }
        let len = frame.body_len();
        let is_large = len > SMALL_FRAME;
        // To decode a large one takes a while: one at a time, so that the runtime's other threads stay free for others.
        let turn = if is_large { incoming.shared.large_requests.acquire().await.ok() } else { None };
        let message = frame.client_message()?;
        drop(frame);
        if is_large {
            // And so will what comes next.
            give_way().await;
        }
        if !Party::Client.may_call(&message.what) {
            return Err(WireError::NotAllowed { what: "a call", party: Party::Client }.into());
        }
        // A copy of a message could be proposed after the client was answered that the original was not.
        if last.is_some_and(|last| message.call <= last) {
            continue;
        }
        last = Some(message.call);
        dispatch(incoming.shared, outbox, message.call, message.what, share);
        drop(turn);
        if is_large {
            let parts = u32::try_from(len.div_ceil(PACED_BYTES)).unwrap_or(u32::MAX);
            tokio::time::sleep(PACE.saturating_mul(parts)).await;
        }
    }
}

/// Writes answers until there are no more calls to come, or the client does not read them.
async fn answer(shared: &Shared, outbox: &Outbox, mut writer: FrameWriter<Writer>) -> Result<(), Ended> {
    let mut closing = shared.closing.subscribe();
    loop {
        if *closing.borrow_and_update() && outbox.is_idle() {
            return Ok(());
        }
        let answers = tokio::select! {
            answers = outbox.take(WRITE_BYTES) => answers,
            Ok(()) = closing.changed() => continue,
        };
        let (count, mut held, mut shares) = (answers.len(), 0, Vec::with_capacity(answers.len()));
        for (answer, share) in answers {
            writer.push(wire::encode_server_message(&answer));
            if share.bytes() > SMALL_FRAME {
                give_way().await;
            }
            held += share.bytes();
            shares.push(share);
        }
        let within = if *closing.borrow() { LAST_WITHIN } else { WITHIN + time_for(writer.queued_bytes()) };
        match timeout(within, writer.flush()).await {
            Ok(written) => written.map_err(WireError::from)?,
            Err(_) => return Err(Ended::Unread),
        }
        drop(shares);
        outbox.written(count, held);
    }
}

/// How long the slowest client takes for so many bytes.
fn time_for(bytes: usize) -> Duration {
    Duration::from_secs((bytes / SLOWEST) as u64)
}

/// Answers a call at once, or sees to it that it will be answered.
fn dispatch(shared: &Arc<Shared>, outbox: &Arc<Outbox>, call: u64, what: ClientCall, share: Share) {
    let place = if matches!(what, ClientCall::Watch(_)) { Place::Watch } else { Place::Call };
    let permit = shared.admission.admit(outbox.account(), place, share);
    let overloaded = permit.is_none();
    let reply = Reply::new(outbox.clone(), call, permit);
    match what {
        ClientCall::Status => reply.send(Answer::Status(Box::new(status::status(shared)))),
        ClientCall::Handover => reply.send(hand_over(shared)),
        ClientCall::Unwatch { call } => shared.watches.cancel(outbox, call),
        ClientCall::Write(_) | ClientCall::Read { .. } | ClientCall::Watch(_) if overloaded => {
            reply.send(Answer::Overloaded)
        }
        ClientCall::Write(request) => write(shared, request, reply),
        ClientCall::Read { mode, query } => read(shared, mode, query, reply),
        ClientCall::Watch(query) => match query.check(sizes(&shared.options)) {
            Ok(()) => watches::begin(shared, query, call, reply),
            Err(refused) => reply.send(Answer::Refused(refused.to_string())),
        },
    }
}

/// Each change of the primary holds all writes up: so clients get one from this member once in a while, and are sent away otherwise.
fn hand_over(shared: &Shared) -> Answer {
    if shared.status.primary() != Some(shared.me) {
        return Answer::Done;
    }
    if !shared.may_hand_over() {
        return Answer::Overloaded;
    }
    shared.inbox.handover();
    Answer::Done
}

fn write(shared: &Shared, request: Bytes, reply: Reply) {
    let key = match check(&request, &shared.options) {
        Ok(key) => key,
        Err(refused) => return reply.send(Answer::Refused(refused.to_string())),
    };
    if let RequestKey::Numbered(session, number) = key
        && let Some(stored) = shared.state().and_then(|state| state.stored(session, number))
    {
        return reply.send(Answer::Written(stored));
    }
    shared.inbox.call(Call::Write { key, request, reply });
}

fn read(shared: &Arc<Shared>, mode: ReadMode, query: Query, reply: Reply) {
    if let Err(refused) = query.check(sizes(&shared.options)) {
        return reply.send(Answer::Refused(refused.to_string()));
    }
    match mode {
        ReadMode::Linearizable => shared.inbox.call(Call::Read { query, reply }),
        _ if shared.role == Role::Witness => reply.send(Answer::Refused(format!(
            "member {} is a witness and holds no data: ask a data member",
            shared.me
        ))),
        ReadMode::MaxStaleness(bound) => shared.inbox.call(Call::Bounded { bound, query, reply }),
        ReadMode::Local => reads::run(shared, vec![(query, reply)], Least::Op(Op::ZERO)),
        ReadMode::AtLeast(at_least) => {
            if shared.state().is_some_and(|state| state.revision() >= at_least) {
                reads::run(shared, vec![(query, reply)], Least::Revision(at_least));
            } else {
                shared.inbox.call(Call::Await { at_least, query, reply });
            }
        }
    }
}

const fn sizes(options: &Options) -> SizeLimits {
    SizeLimits { max_key_bytes: options.max_key_bytes, max_value_bytes: options.max_value_bytes }
}

/// Why a request is turned away at the door.
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

/// Decodes a request and checks it against the limits; the applier checks again, for what is in the log is not asked who
/// wrote it.
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
        Operation::CloseSession | Operation::Expire(_) => None,
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
