//! The tokio task that runs a client. It carries out the decisions of [`ClientProtocol`].

use super::call::{Call, CallError, CallId, ProtocolInput, ProtocolOptions, ProtocolOutput, Reply};
use super::link::{self, Dialed, Dialer, LinkEvent};
use super::protocol::ClientProtocol;
use crate::config::{Configuration, ConfiguredMember, HistoryId, Role};
use crate::ids::{Instant, MemberId};
use crate::lazy_timer::LazyTimer;
use crate::message::{Answer, ClientCall, ClientMessage, ServerMessage};
use crate::wire::{self, FrameWriter, Limits, MemberInfo};
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{AbortHandle, Abortable, BoxStream, SelectAll, StreamExt};
use kv_transport::Writer;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::{Interval, MissedTickBehavior, interval_at};

/// If more than this many bytes are queued for one member, the connection to that member counts as dead.
const MAX_QUEUED: usize = 64 << 20;

/// The shortest interval between pings, even if a member announces a very short idle time-out. The longest interval is
/// `LONGEST_ALIVE`.
const SHORTEST_ALIVE: Duration = Duration::from_millis(100);
/// If a member leaves all requests on a connection unanswered for this long, the client closes the connection, because
/// a device on the path may have dropped the connection. A healthy member answers every request sooner, even a watch,
/// which takes longest.
const UNANSWERED: Duration = Duration::from_secs(45);
const LONGEST_ALIVE: Duration = Duration::from_secs(3600);

/// How long the client waits before it looks again for a member at the addresses that the application gave.
const SEEK_PAUSE: Duration = Duration::from_secs(1);

/// About how many events are processed before the messages that they cause are sent.
const BATCH: usize = 256;

/// A command that a handle of the client sends to the task.
pub(super) enum DriverCommand {
    /// Begin a call.
    Call(NewCall),
    /// Close the session when all earlier writes have ended. End the task when all calls have ended.
    Close(CallId, tokio::time::Instant),
}

/// A new call.
pub(super) struct NewCall {
    pub(super) id: CallId,
    pub(super) call: Call,
    pub(super) deadline: tokio::time::Instant,
    pub(super) reply: oneshot::Sender<Result<Reply, CallError>>,
    /// The call's share of the memory budget that all unfinished calls have in common.
    pub(super) permit: OwnedSemaphorePermit,
}

/// A call in progress.
struct PendingCall {
    reply: oneshot::Sender<Result<Reply, CallError>>,
    _permit: OwnedSemaphorePermit,
}

/// The connection to one member.
struct Link {
    generation: u64,
    /// Aborting this handle stops the reading from the connection.
    reading: AbortHandle,
    /// The time at which the client sent the first request after the last answer; `None` if it has sent no request
    /// after that answer. An `Unwatch` does not count, because members do not answer it.
    asked: Option<Instant>,
    state: LinkState,
}

impl Link {
    const fn is_open(&self) -> bool {
        matches!(self.state, LinkState::Open(..))
    }
}

enum LinkState {
    /// The connection is being opened. Contains the waiting messages and their approximate total size in bytes.
    Opening(Vec<ClientMessage>, usize),
    /// The connection is open, and uses this version of the protocol.
    Open(FrameWriter<Writer>, u16),
}

impl Drop for Link {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

/// The events that a driver waits for.
enum Wake {
    Link(MemberId, u64, LinkEvent),
    WriteFailed(MemberId, std::io::Error),
    Command(Option<DriverCommand>),
    Cancel(CallId),
    Timer,
    /// A member was looked for at the addresses that the application gave.
    Sought(Option<Dialed>),
}

/// The members that a client knows. A new list replaces the one before.
#[derive(Clone, Debug)]
pub(super) struct KnownMembers(Arc<Mutex<Arc<[MemberInfo]>>>);

impl KnownMembers {
    pub(super) fn new(members: Vec<MemberInfo>) -> Self {
        Self(Arc::new(Mutex::new(members.into())))
    }

    pub(super) fn now(&self) -> Arc<[MemberInfo]> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, members: Vec<MemberInfo>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = members.into();
    }
}

/// The ends of the channels through which the handles of a client reach its task.
pub(super) struct Channels {
    pub(super) commands: mpsc::Receiver<DriverCommand>,
    pub(super) cancels: mpsc::UnboundedReceiver<CallId>,
}

type LinkEvents = SelectAll<BoxStream<'static, (MemberId, u64, LinkEvent)>>;

/// The task of a client.
pub(super) struct Driver {
    protocol: ClientProtocol,
    dialer: Arc<Dialer>,
    members: BTreeMap<MemberId, MemberInfo>,
    /// The epoch of that list.
    epoch: u64,
    /// The history of the cluster, from the first change of its list on.
    history: Option<HistoryId>,
    /// The addresses that the application gave: of certain members, and of any.
    given: Vec<(Option<MemberId>, String)>,
    /// Looks for a member at those addresses, because none of the list can be reached.
    seek: Option<BoxFuture<'static, Option<Dialed>>>,
    /// The earliest time of the next look.
    seek_at: Instant,
    /// The same for the handles.
    known: KnownMembers,
    started: tokio::time::Instant,
    channels: Channels,
    /// Whether it is certain that no handle will send another command.
    no_more_commands: bool,
    calls: BTreeMap<CallId, PendingCall>,
    links: BTreeMap<MemberId, Link>,
    generations: u64,
    events: LinkEvents,
    timer: LazyTimer,
    /// The interval at which idle connections are pinged. Members close silent connections.
    alive: Interval,
}

impl Driver {
    pub(super) fn new(
        seed: u64,
        dialer: Dialer,
        (known, epoch): (KnownMembers, u64),
        given: Vec<(Option<MemberId>, String)>,
        limits: &Limits,
        channels: Channels,
    ) -> Self {
        let members = known.now();
        let started = tokio::time::Instant::now();
        let options = ProtocolOptions {
            window: limits.max_in_flight_per_session.clamp(1, ProtocolOptions::default().window),
            session_idle: limits.session_ttl / 2,
            ..ProtocolOptions::default()
        };
        let every = (limits.client_idle_timeout / 3).clamp(SHORTEST_ALIVE, LONGEST_ALIVE);
        let mut alive = interval_at(started + every, every);
        alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let data = members.iter().filter(|member| member.holds_data()).map(|member| member.id).collect();
        Self {
            protocol: ClientProtocol::new(seed, data, options, Instant::ZERO),
            dialer: Arc::new(dialer),
            members: members.iter().map(|member| (member.id, member.clone())).collect(),
            epoch,
            history: None,
            given,
            seek: None,
            seek_at: Instant::ZERO,
            known,
            started,
            channels,
            no_more_commands: false,
            calls: BTreeMap::new(),
            links: BTreeMap::new(),
            generations: 0,
            events: SelectAll::new(),
            timer: LazyTimer::new(started),
            alive,
        }
    }

    /// Adds a connection that is already open.
    pub(super) fn add_connection(&mut self, dialed: Dialed) {
        let Dialed { reader, writer, welcome } = dialed;
        let (member, epoch) = (welcome.member, welcome.epoch());
        self.insert_link(member, LinkState::Open(writer, welcome.protocol), link::read(reader));
        self.ask_if_newer(self.now(), member, epoch);
    }

    /// Runs until no new call can begin (every handle is dropped, or the client is closed) and all calls have ended.
    pub(super) async fn run(mut self) {
        loop {
            self.carry_out();
            if self.no_more_commands && self.protocol.pending() == 0 {
                return;
            }
            let wake = std::future::poll_fn(|cx| self.poll_wake(cx)).await;
            self.on_wake(wake);
            // More events may have arrived. Process them now, so that the resulting messages are sent together.
            for _ in 0..BATCH {
                let Some(wake) = std::future::poll_fn(|cx| self.poll_wake(cx)).now_or_never() else { break };
                self.on_wake(wake);
            }
        }
    }

    fn now(&self) -> Instant {
        self.core_time(tokio::time::Instant::now())
    }

    /// Converts a time to the protocol's clock, which is zero when the client starts.
    fn core_time(&self, time: tokio::time::Instant) -> Instant {
        Instant::ZERO.after(time.saturating_duration_since(self.started))
    }

    fn poll_wake(&mut self, cx: &mut Context<'_>) -> Poll<Wake> {
        // Pings come first. Even in a flood of events, the client must ping, because members close silent connections.
        while self.alive.poll_tick(cx).is_ready() {
            self.show_life();
            self.end_silence();
            self.stay_attached();
        }
        for (member, link) in &mut self.links {
            // A writer that is not ready must not delay the other writers.
            if let LinkState::Open(writer, _) = &mut link.state
                && !writer.is_idle()
                && let Poll::Ready(Err(error)) = writer.poll_flush(cx)
            {
                return Poll::Ready(Wake::WriteFailed(*member, error));
            }
        }
        if let Poll::Ready(Some((member, generation, event))) = self.events.poll_next_unpin(cx) {
            return Poll::Ready(Wake::Link(member, generation, event));
        }
        if let Some(seek) = &mut self.seek
            && let Poll::Ready(found) = seek.poll_unpin(cx)
        {
            self.seek = None;
            return Poll::Ready(Wake::Sought(found));
        }
        // Cancellations come before new commands, because cancelled calls make room in the window for new calls.
        if let Poll::Ready(Some(id)) = self.channels.cancels.poll_recv(cx) {
            return Poll::Ready(Wake::Cancel(id));
        }
        if !self.no_more_commands
            && let Poll::Ready(command) = self.channels.commands.poll_recv(cx)
        {
            return Poll::Ready(Wake::Command(command));
        }
        self.poll_timer(cx).map(|()| Wake::Timer)
    }

    fn show_life(&mut self) {
        for link in self.links.values_mut() {
            if let LinkState::Open(writer, _) = &mut link.state
                && writer.is_idle()
            {
                writer.push(wire::encode_alive());
            }
        }
    }

    /// Closes each connection on which requests have been unanswered for too long.
    fn end_silence(&mut self) {
        let now = self.now();
        let is_silent = |link: &Link| link.asked.is_some_and(|asked| now.since(asked) >= UNANSWERED);
        let silent = self.links.iter().filter(|(_, link)| is_silent(link)).map(|(member, _)| *member);
        for member in silent.collect::<Vec<_>>() {
            self.close_link(now, member, "nothing has been answered on it for too long");
        }
    }

    /// Keeps the member list up to date, also of a client that makes no calls for long: otherwise, all the members that
    /// it knows could be replaced meanwhile.
    fn stay_attached(&mut self) {
        let open: Vec<MemberId> =
            self.links.iter().filter(|(_, link)| link.is_open()).map(|(id, _)| *id).collect();
        if !open.is_empty() {
            // One of them may be cut off, and have an old list.
            for member in open {
                self.protocol.handle(self.now(), ProtocolInput::AskForList { member });
            }
        } else if self.links.is_empty() && !self.no_more_commands {
            let data: Vec<_> = self.members.values().filter(|member| member.holds_data()).collect();
            // A connection to any of them brings the list.
            if let Some(member) = fastrand::choice(data).map(|member| member.id) {
                self.open_link(member);
            }
        }
        self.carry_out();
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(due) = self.protocol.poll_timeout() else { return Poll::Pending };
        let due = self.started + due.since(Instant::ZERO);
        self.timer.poll_until(cx, due)
    }

    fn on_wake(&mut self, wake: Wake) {
        let now = self.now();
        match wake {
            Wake::Link(member, generation, event) => {
                if self.links.get(&member).is_some_and(|link| link.generation == generation) {
                    self.on_link_event(now, member, event);
                }
            }
            Wake::WriteFailed(member, error) => self.close_link(now, member, &error.to_string()),
            Wake::Command(Some(DriverCommand::Call(begin))) => {
                let NewCall { id, call, deadline, reply, permit } = begin;
                if reply.is_closed() {
                    return; // The call was cancelled before it arrived here.
                }
                // The permit is kept until the call ends. So it bounds the memory of all unfinished calls, including
                // calls that have left the channel.
                self.calls.insert(id, PendingCall { reply, _permit: permit });
                let deadline = self.core_time(deadline);
                self.protocol.handle(now, ProtocolInput::Call { id, call, deadline });
            }
            Wake::Command(Some(DriverCommand::Close(id, deadline))) => {
                // Commands that were already sent can still be received from the channel.
                self.channels.commands.close();
                let deadline = self.core_time(deadline);
                self.protocol.handle(now, ProtocolInput::Call { id, call: Call::CloseSession, deadline });
            }
            Wake::Command(None) => self.no_more_commands = true,
            Wake::Cancel(id) => {
                if self.calls.remove(&id).is_some() {
                    self.protocol.handle(now, ProtocolInput::Cancel { id });
                }
            }
            Wake::Timer => self.protocol.handle(now, ProtocolInput::Timeout),
            Wake::Sought(Some(dialed)) => self.on_found(dialed),
            Wake::Sought(None) => {}
        }
    }

    fn on_link_event(&mut self, now: Instant, member: MemberId, event: LinkEvent) {
        match event {
            LinkEvent::Message(message) => {
                if let Some(link) = self.links.get_mut(&member) {
                    link.asked = None;
                }
                if let Answer::Members(answer) = &message.answer {
                    self.on_list(now, &answer.configuration);
                }
                self.protocol.handle(now, ProtocolInput::Answer { member, message });
            }
            LinkEvent::Closed(reason) => self.close_link(now, member, &reason),
            LinkEvent::Open(writer, welcome) => {
                tracing::debug!(%member, "connected");
                let Some(link) = self.links.get_mut(&member) else { return };
                let opened = LinkState::Open(writer, welcome.protocol);
                let epoch = welcome.epoch();
                if let LinkState::Opening(waiting, _) = std::mem::replace(&mut link.state, opened) {
                    for message in waiting {
                        // If the caller of a message no longer waits, the message is not sent.
                        if self.protocol.awaits(message.call) {
                            self.send(now, member, message);
                        }
                    }
                }
                self.ask_if_newer(now, member, epoch);
            }
        }
    }

    /// A member has sent its list, which replaces an older one of the same cluster.
    fn on_list(&mut self, now: Instant, configuration: &Configuration) {
        let epoch = u64::from(configuration.epoch.get());
        if !self.lacks_list(epoch) || !configuration.is_sound() {
            return;
        }
        if self.history.is_some() && configuration.history != self.history {
            tracing::warn!("ignored the member list of another cluster of the same name");
            return;
        }
        tracing::debug!(epoch, "the member list was changed");
        (self.epoch, self.history) = (epoch, configuration.history);
        let info = |(id, member): (&MemberId, &ConfiguredMember)| MemberInfo {
            id: *id,
            address: self.given_for(*id).unwrap_or(&member.address).to_owned(),
            role: member.role,
        };
        let members: Vec<_> = configuration.members.iter().map(info).collect();
        // A standby may lack most of the data. It is asked only for its status.
        let serves =
            |(_, member): &(&MemberId, &ConfiguredMember)| member.role == Role::Data && !member.is_standby;
        let data = configuration.members.iter().filter(serves).map(|(id, _)| *id).collect();
        self.members = members.iter().map(|member| (member.id, member.clone())).collect();
        self.protocol.handle(now, ProtocolInput::Members(data));
        self.known.set(members);
    }

    /// Asks a member in this epoch for its list, if that must be fetched.
    fn ask_if_newer(&mut self, now: Instant, member: MemberId, epoch: u64) {
        if self.lacks_list(epoch) {
            self.protocol.handle(now, ProtocolInput::AskForList { member });
        }
    }

    /// Whether the list of this epoch must be fetched. The list in a welcome tells neither the history nor who is a
    /// standby.
    const fn lacks_list(&self, epoch: u64) -> bool {
        epoch > self.epoch || (epoch == self.epoch && epoch > 0 && self.history.is_none())
    }

    /// The address that the application gave for this member.
    fn given_for(&self, id: MemberId) -> Option<&str> {
        let given = self.given.iter().find(|(member, _)| *member == Some(id));
        given.map(|(_, address)| address.as_str())
    }

    /// No member of the list can be reached. All may have been replaced since the list was made, so a member is looked
    /// for where the application said that there is one.
    fn look_elsewhere(&mut self, now: Instant) {
        if self.seek.is_some() || now < self.seek_at || self.given.is_empty() {
            return;
        }
        self.seek_at = now.after(SEEK_PAUSE);
        let (dialer, mut given) = (self.dialer.clone(), self.given.clone());
        fastrand::shuffle(&mut given);
        let seek = async move {
            for (id, address) in given {
                if let Ok(dialed) = dialer.dial_given(id, &address).await {
                    return Some(dialed);
                }
            }
            None
        };
        self.seek = Some(seek.boxed());
    }

    /// A member was found where the application said. It is asked for its list.
    fn on_found(&mut self, dialed: Dialed) {
        let member = dialed.welcome.member;
        tracing::debug!(%member, "found a member at a given address");
        if !self.links.contains_key(&member) {
            self.add_connection(dialed);
        }
    }

    /// Closes a connection, and reports to the protocol that it was lost or could not be opened. A connection that was
    /// never open has carried no messages.
    fn close_link(&mut self, now: Instant, member: MemberId, reason: &str) {
        let Some(link) = self.links.remove(&member) else { return };
        let input = match &link.state {
            LinkState::Opening(..) => ProtocolInput::Unreachable { member },
            LinkState::Open(..) => ProtocolInput::ConnectionLost { member },
        };
        tracing::debug!(%member, reason, ?input, "no connection");
        self.protocol.handle(now, input);
        if !self.links.values().any(Link::is_open) {
            self.look_elsewhere(now);
        }
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.protocol.poll_output() {
            match output {
                ProtocolOutput::Send { member, message } => self.send(self.now(), member, message),
                ProtocolOutput::Done { id, result } => {
                    if let Some(waiting) = self.calls.remove(&id) {
                        // The caller may be gone.
                        let _ = waiting.reply.send(result);
                    }
                }
            }
        }
    }

    fn send(&mut self, now: Instant, member: MemberId, message: ClientMessage) {
        if !self.links.contains_key(&member) {
            self.open_link(member);
        }
        let Some(link) = self.links.get_mut(&member) else {
            return self.protocol.handle(now, ProtocolInput::Unreachable { member });
        };
        let queued = match &mut link.state {
            LinkState::Opening(waiting, bytes) => {
                *bytes += size(&message);
                waiting.push(message);
                *bytes
            }
            LinkState::Open(_, protocol) if !is_known(&message.what, *protocol) => {
                return self.refuse_new_call(now, member, message.call);
            }
            LinkState::Open(writer, _) => {
                if !matches!(message.what, ClientCall::Unwatch { .. }) {
                    link.asked.get_or_insert(now);
                }
                writer.push(wire::encode_client_message(&message));
                writer.queued_bytes()
            }
        };
        if queued > MAX_QUEUED {
            self.close_link(now, member, "it does not take what is sent to it");
        }
    }

    /// The member speaks an older version of the protocol, and would close the connection.
    fn refuse_new_call(&mut self, now: Instant, member: MemberId, call: u64) {
        let answer =
            Answer::Refused(format!("member {member} runs an older version: upgrade all members first"));
        self.protocol.handle(now, ProtocolInput::Answer { member, message: ServerMessage { call, answer } });
    }

    fn open_link(&mut self, member: MemberId) {
        let Some(info) = self.members.get(&member).cloned() else { return };
        let events = link::open(self.dialer.clone(), info);
        self.insert_link(member, LinkState::Opening(Vec::new(), 0), events);
    }

    fn insert_link(&mut self, member: MemberId, state: LinkState, events: BoxStream<'static, LinkEvent>) {
        self.generations += 1;
        let generation = self.generations;
        let (reading, registration) = AbortHandle::new_pair();
        let events = Abortable::new(events.map(move |event| (member, generation, event)), registration);
        self.events.push(events.boxed());
        self.links.insert(member, Link { generation, reading, asked: None, state });
    }
}

/// Whether this version of the protocol has the call.
const fn is_known(what: &ClientCall, protocol: u16) -> bool {
    !matches!(what, ClientCall::Members | ClientCall::Change(_)) || protocol >= wire::FIRST_WITH_EPOCHS
}

/// The approximate size of a message in memory, in bytes.
fn size(message: &ClientMessage) -> usize {
    let body = if let ClientCall::Write(request) = &message.what { request.len() } else { 0 };
    body + 100
}
