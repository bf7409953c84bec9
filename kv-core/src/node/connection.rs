//! One client's connection: its calls, and the answers to them.

use super::inbox::{Call, RequestKey};
use super::reply::{Outbox, Reply};
use super::shared::Shared;
use super::{reads, status};
use crate::config::{Options, Role};
use crate::ids::{RequestNumber, SessionId};
use crate::message::{Answer, ClientCall, Operation, Query, ReadMode, Request, RequestError, SizeLimits};
use crate::wire::{self, FrameReader, FrameWriter, WireError};
use bytes::Bytes;
use kv_transport::{Reader, Writer};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// How long a client may leave answers unread.
const READ_WITHIN: Duration = Duration::from_secs(10);
/// How long the last answers of a node that shuts down may take.
const LAST_WITHIN: Duration = Duration::from_millis(100);
/// So much is collected for one write.
const WRITE_BYTES: usize = 256 << 10;

/// Serves a client until it goes, breaks a rule, or leaves its answers unread.
pub(super) async fn serve(
    shared: &Arc<Shared>,
    name: &str,
    reader: FrameReader<Reader>,
    writer: FrameWriter<Writer>,
) {
    tracing::debug!(client = name, "client connected");
    let outbox = Outbox::new(shared.admission.clone());
    let _closed = CloseOnDrop(outbox.clone());
    let ended = tokio::select! {
        ended = receive(shared, &outbox, reader) => ended,
        ended = answer(shared, &outbox, writer) => ended,
    };
    match ended {
        Ok(()) => tracing::debug!(client = name, "client disconnected"),
        Err(error) => tracing::debug!(client = name, %error, "client disconnected"),
    }
}

struct CloseOnDrop(Arc<Outbox>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}

async fn receive(
    shared: &Arc<Shared>,
    outbox: &Arc<Outbox>,
    mut reader: FrameReader<Reader>,
) -> Result<(), WireError> {
    let mut last = None;
    loop {
        outbox.room().await;
        let Some(message) = reader.read_client_message().await? else { return Ok(()) };
        // A copy of a message could be proposed after the client was told that the original was not.
        if last.is_some_and(|last| message.call <= last) {
            continue;
        }
        last = Some(message.call);
        dispatch(shared, outbox, message.call, message.what);
    }
}

/// Writes answers until there are no more calls to come, or the client does not read them.
async fn answer(shared: &Shared, outbox: &Outbox, mut writer: FrameWriter<Writer>) -> Result<(), WireError> {
    let mut closing = shared.closing.subscribe();
    loop {
        if *closing.borrow_and_update() && outbox.is_idle() {
            return Ok(());
        }
        let answers = tokio::select! {
            answers = outbox.take() => answers,
            Ok(()) = closing.changed() => continue,
        };
        let mut answers = answers.into_iter().peekable();
        while answers.peek().is_some() {
            for answer in answers.by_ref() {
                writer.push(wire::encode_server_message(&answer));
                if writer.queued_bytes() >= WRITE_BYTES {
                    break;
                }
            }
            let within = if *closing.borrow() { LAST_WITHIN } else { READ_WITHIN };
            match timeout(within, writer.flush()).await {
                Ok(written) => written?,
                Err(_) => return Err(WireError::Io(std::io::ErrorKind::TimedOut.into())),
            }
        }
    }
}

/// Answers a call at once, or sees to it that it will be answered.
fn dispatch(shared: &Arc<Shared>, outbox: &Arc<Outbox>, call: u64, what: ClientCall) {
    let size = match &what {
        ClientCall::Write(request) => request.len(),
        ClientCall::Read { .. } | ClientCall::Status | ClientCall::Handover => 0,
    };
    let permit = shared.admission.admit(size);
    let overloaded = permit.is_none();
    let reply = Reply::new(outbox.clone(), call, permit);
    match what {
        ClientCall::Status => reply.send(Answer::Status(Box::new(status::status(shared)))),
        ClientCall::Handover => {
            shared.inbox.handover();
            reply.send(Answer::Done);
        }
        ClientCall::Write(_) | ClientCall::Read { .. } if overloaded => reply.send(Answer::Overloaded),
        ClientCall::Write(request) => write(shared, request, reply),
        ClientCall::Read { mode, query } => read(shared, mode, query, reply),
    }
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
    match mode {
        ReadMode::Linearizable => shared.inbox.call(Call::Read { query, reply }),
        ReadMode::Local if shared.role == Role::Witness => reply.send(Answer::Refused(format!(
            "member {} is a witness and holds no data: ask a data member",
            shared.me
        ))),
        ReadMode::Local => reads::run(shared, vec![(query, reply)]),
    }
}

/// Why a request is turned away at the door.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error("a request needs a session and a number above zero: open a session first")]
    NoSession,
    #[error("a request that opens a session has neither session nor number")]
    OpenWithin,
}

/// Decodes a request and checks it against the limits; the applier checks again, for what is in the log is not asked who
/// wrote it.
fn check(request: &[u8], options: &Options) -> Result<RequestKey, Refused> {
    let request = Request::decode(request)?;
    let numbered = request.session > SessionId::ZERO && request.number > RequestNumber::ZERO;
    let command = match &request.operation {
        Operation::OpenSession { nonce } => {
            let bare = request.session == SessionId::ZERO && request.number == RequestNumber::ZERO;
            return if bare { Ok(RequestKey::Open(*nonce)) } else { Err(Refused::OpenWithin) };
        }
        Operation::CloseSession => None,
        Operation::Command(command) => Some(command),
    };
    if !numbered {
        return Err(Refused::NoSession);
    }
    if let Some(command) = command {
        let Options { max_key_bytes, max_value_bytes, .. } = *options;
        command.check(SizeLimits { max_key_bytes, max_value_bytes })?;
    }
    Ok(RequestKey::Numbered(request.session, request.number))
}
