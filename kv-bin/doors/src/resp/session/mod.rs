//! One connection: it reads requests, runs them in order, and writes the replies.

mod connection;
mod info;
mod sentinel;
mod server;
mod space;
mod subscriptions;
mod transaction;

use super::command::{Call, Direct, Refusal, Run, SessionCommand};
use super::door::{Door, GroupError, NO_MEMORY, Reads, Watched};
use super::parse::{Parser, ParserLimits, bytes_of};
use super::registry::Entry;
use super::reply::{Protocol, Reply};
use crate::memory::Share;
use bytes::BytesMut;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use subscriptions::Subscriptions;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, sleep_until, timeout};
use transaction::Queue;

/// How much is read from a connection at once.
const READ_BYTES: usize = 32 << 10;
/// Replies are written when they have this many bytes, even if more requests wait.
const FLUSH_BYTES: usize = 64 << 10;
/// A larger buffer for replies is given back when it is empty.
const KEEP_BYTES: usize = 256 << 10;
/// For how long the input of a broken connection is dropped, so that the client can read why it is broken.
const LINGER: Duration = Duration::from_secs(2);
/// How many commands that only read become one read.
const MAX_READ_GROUP: usize = 256;

/// The state of a connection.
#[derive(Debug)]
pub(crate) struct Session {
    door: Arc<Door>,
    entry: Arc<Entry>,
    protocol: Protocol,
    reads: Reads,
    /// The transaction that `MULTI` has begun.
    transaction: Option<Queue>,
    watched: Watched,
    subscriptions: Subscriptions,
    /// So many of the following requests are not combined with others.
    ungrouped: usize,
    is_closing: bool,
    /// Replies that are not written yet.
    out: BytesMut,
    /// The memory that the connection takes.
    share: Share,
}

/// The requests that have been read, and not run. A request that is not valid is the error to reply.
type Requests = VecDeque<Result<Call, Refusal>>;

/// What a connection waits for.
#[derive(Debug)]
enum Event {
    Read(usize),
    Message(Reply),
    /// The connection was killed, or was idle for too long.
    End,
}

impl Session {
    pub(crate) fn new(door: Arc<Door>, entry: Arc<Entry>) -> Self {
        let reads = if door.options.local_reads { Reads::Local } else { Reads::Linearizable };
        let share = door.memory.share();
        Self {
            door,
            entry,
            protocol: Protocol::Resp2,
            reads,
            transaction: None,
            watched: Watched::new(),
            subscriptions: Subscriptions::default(),
            ungrouped: 0,
            is_closing: false,
            out: BytesMut::new(),
            share,
        }
    }

    /// Serves the connection until the client closes it, or the server has a reason to.
    pub(crate) async fn run(mut self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
        let options = &self.door.options;
        let limits = ParserLimits {
            max_arguments: options.max_arguments,
            max_request_bytes: options.max_request_bytes,
        };
        let (mut parser, mut input) = (Parser::new(limits), BytesMut::with_capacity(READ_BYTES));
        let (max_pipeline, entry) = (options.max_pipeline, self.entry.clone());
        let mut requests = Requests::new();
        loop {
            let mut broken = None;
            while requests.len() < max_pipeline {
                match parser.next(&mut input) {
                    Ok(Some(request)) => requests.push_back(Call::new(request)),
                    Ok(None) => break,
                    Err(error) => {
                        broken = Some(Reply::error(format!("ERR {error}")));
                        break;
                    }
                }
            }
            let may_have_more = requests.len() >= max_pipeline;
            let waiting = requests.iter().flatten().map(|call| bytes_of(&call.request)).sum::<usize>();
            if !self.measure(waiting + parser.bytes() + input.capacity()) {
                requests.clear();
                broken = Some(Reply::error(format!("TRYAGAIN nothing was changed: {NO_MEMORY}")));
            }
            while let Some(request) = requests.pop_front() {
                tokio::select! {
                    biased;
                    () = self.run_request(request, &mut requests) => {}
                    // The replies of what has run are still sent.
                    () = entry.kill.notified() => return self.flush(&mut stream).await,
                }
                if self.is_closing {
                    self.flush(&mut stream).await?;
                    return linger(stream, input).await;
                }
                if self.out.len() >= FLUSH_BYTES {
                    self.flush(&mut stream).await?;
                }
            }
            if let Some(error) = broken {
                self.reply(&error);
                self.flush(&mut stream).await?;
                return linger(stream, input).await;
            }
            self.flush(&mut stream).await?;
            if may_have_more {
                continue;
            }
            // A large request leaves a large buffer.
            if input.is_empty() && input.capacity() > 2 * READ_BYTES {
                input = BytesMut::new();
            }
            self.measure(parser.bytes() + input.capacity());
            match self.wait(&mut stream, &mut input).await? {
                Event::Read(0) | Event::End => return Ok(()),
                Event::Read(_) => {}
                Event::Message(message) => {
                    self.on_message(&message);
                    if self.subscriptions.is_failed {
                        // The client subscribes again, and learns from that that messages may be missing.
                        return self.flush(&mut stream).await;
                    }
                }
            }
        }
    }

    fn on_message(&mut self, message: &Reply) {
        // In RESP3, the client would take the error for the reply to its next command.
        if !self.subscriptions.is_failed || self.protocol == Protocol::Resp2 {
            self.reply(message);
        }
    }

    /// Counts the memory of the connection, which has so many bytes of input. Returns `false` if there is too little.
    fn measure(&mut self, input: usize) -> bool {
        let queued = self.transaction.as_ref().map_or(0, |queue| queue.bytes);
        self.share.set(input + queued + self.subscriptions.name_bytes)
    }

    /// Waits for input, a message for a subscriber, or the end.
    async fn wait(
        &mut self,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
        input: &mut BytesMut,
    ) -> io::Result<Event> {
        input.reserve(READ_BYTES);
        let idle = sleep_until(Instant::now() + self.door.options.idle_timeout);
        let is_subscriber = !self.subscriptions.is_empty();
        tokio::select! {
            read = stream.read_buf(input) => Ok(Event::Read(read?)),
            message = self.subscriptions.next(&self.door, &self.entry) => Ok(Event::Message(message)),
            () = self.entry.kill.notified() => Ok(Event::End),
            () = idle, if !is_subscriber => Ok(Event::End),
        }
    }

    /// Writes all replies. A client that does not take them in time is given up.
    async fn flush(&mut self, stream: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        // They are counted while the client takes them. They are there already, so this refuses nothing.
        let mut waiting = self.door.memory.share();
        waiting.set(self.out.len());
        timeout(self.door.options.write_timeout, stream.write_all(&self.out)).await??;
        self.out.clear();
        if self.out.capacity() > KEEP_BYTES {
            self.out = BytesMut::new();
        }
        Ok(())
    }

    fn reply(&mut self, reply: &Reply) {
        // The write may take effect later, also after the commands that follow. So these do not run.
        self.is_closing |= matches!(reply, Reply::Error(text) if text.starts_with("UNKNOWN"));
        reply.encode(self.protocol, &mut self.out);
    }

    /// Runs a request, and with it those of the following requests that can be combined with it.
    async fn run_request(&mut self, request: Result<Call, Refusal>, more: &mut Requests) {
        let call = match request {
            Ok(call) => call,
            Err(Refusal::Http) => {
                tracing::warn!(peer = %self.entry.peer, "closed a connection that sends HTTP requests");
                self.is_closing = true;
                return;
            }
            Err(Refusal::Reply(reply)) => {
                if let Some(queue) = &mut self.transaction {
                    queue.is_broken = true;
                }
                return self.reply(&reply);
            }
        };
        self.entry.details().command = call.spec.name;
        self.door.registry.count_command();
        if let Some(refusal) = self.refusal(&call) {
            return self.reply(&refusal);
        }
        if self.transaction.is_some() && !transaction::is_immediate(&call) {
            let reply = self.enqueue(call);
            return self.reply(&reply);
        }
        match call.spec.run {
            Run::Keys(_) => self.run_on_keys(call, more).await,
            Run::Space(command) => {
                let reply = self.run_on_space(command, &call.request).await;
                self.reply(&reply);
            }
            Run::Session(command) => self.run_in_session(command, call).await,
        }
    }

    /// In RESP2, a connection with subscriptions takes only few commands, because a message could be mistaken for a
    /// reply.
    fn refusal(&self, call: &Call) -> Option<Reply> {
        use SessionCommand as C;
        let is_allowed = matches!(
            call.spec.run,
            Run::Session(
                C::Subscribe
                    | C::Unsubscribe
                    | C::PatternSubscribe
                    | C::PatternUnsubscribe
                    | C::Ping
                    | C::Quit
                    | C::Reset
            )
        );
        let is_limited = self.protocol == Protocol::Resp2 && !self.subscriptions.is_empty();
        (is_limited && !is_allowed).then(|| {
            Reply::error(format!(
                "ERR Can't execute '{}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this \
                 context",
                call.spec.name
            ))
        })
    }

    async fn run_on_keys(&mut self, call: Call, more: &mut Requests) {
        let may_group = self.ungrouped == 0;
        self.ungrouped = self.ungrouped.saturating_sub(1);
        if call.spec.is_key_read() {
            return self.run_reads(call, more, may_group).await;
        }
        if let Err(reply) = self.door.learn_time([&call]).await {
            return self.reply(&reply);
        }
        let (now, is_time_known) = (self.door.clock.now(), self.door.clock.is_known());
        let mut direct = Direct::default();
        if !direct.push(&call, now) {
            let reply = self.run_alone(call).await;
            return self.reply(&reply);
        }
        let mut calls = vec![call];
        let mut fits = |next: &&Result<Call, Refusal>| matches!(next, Ok(next) if (is_time_known || !next.spec.needs_time(&next.request)) && direct.push(next, now));
        while may_group && more.front().filter(&mut fits).is_some() {
            calls.extend(more.pop_front().and_then(Result::ok));
        }
        match self.door.write(direct, &Watched::new()).await {
            Ok(replies) => replies.iter().flatten().for_each(|reply| self.reply(reply)),
            Err(error) => self.on_group_error(error, calls, more),
        }
    }

    /// Combines commands that only read into one read.
    async fn run_reads(&mut self, call: Call, more: &mut Requests, may_group: bool) {
        let mut calls = vec![call];
        let fits = |next: &&Result<Call, Refusal>| matches!(next, Ok(next) if next.spec.is_key_read());
        while may_group && calls.len() < MAX_READ_GROUP && more.front().filter(fits).is_some() {
            calls.extend(more.pop_front().and_then(Result::ok));
        }
        match self.door.read(&calls, self.reads).await {
            Ok(replies) => replies.iter().for_each(|reply| self.reply(reply)),
            Err(error) => self.on_group_error(error, calls, more),
        }
    }

    fn on_group_error(&mut self, error: GroupError, calls: Vec<Call>, more: &mut Requests) {
        match error {
            // Alone, each would wait and fail again.
            GroupError::Failed(reply) => calls.iter().for_each(|_| self.reply(&reply)),
            GroupError::Refused(reply) if calls.len() == 1 => self.reply(&reply),
            // Alone, each has its own outcome.
            GroupError::Refused(_) => {
                self.ungrouped = calls.len();
                calls.into_iter().rev().for_each(|call| more.push_front(Ok(call)));
            }
        }
    }

    async fn run_alone(&self, call: Call) -> Reply {
        match self.door.transact(&[call], &Watched::new(), self.reads).await {
            Ok(replies) => replies.and_then(|mut replies| replies.pop()).unwrap_or(Reply::Null),
            Err(reply) => reply,
        }
    }

    async fn run_in_session(&mut self, command: SessionCommand, call: Call) {
        use SessionCommand as C;
        let request = &call.request;
        let reply = match command {
            C::Multi => self.multi(),
            C::Exec => self.exec().await,
            C::Discard => self.discard(),
            C::Watch => self.watch(&call).await,
            C::Subscribe | C::PatternSubscribe => {
                return self.subscribe(&request[1..], command == C::PatternSubscribe).await;
            }
            C::Unsubscribe | C::PatternUnsubscribe => {
                return self.unsubscribe(&request[1..], command == C::PatternUnsubscribe).await;
            }
            command => self.run_about_connection(command, request).await,
        };
        self.reply(&reply);
    }
}

/// Ends a connection whose client may still be sending. If it was closed at once, the client's system would drop the
/// last reply.
async fn linger(mut stream: impl AsyncRead + AsyncWrite + Unpin, mut input: BytesMut) -> io::Result<()> {
    stream.shutdown().await?;
    let drain = async {
        loop {
            input.clear();
            input.reserve(READ_BYTES);
            match stream.read_buf(&mut input).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
    };
    // Whether the client has closed the connection or not: it ends here.
    let _ = timeout(LINGER, drain).await;
    Ok(())
}
