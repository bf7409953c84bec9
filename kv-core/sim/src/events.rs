//! What can be scheduled.

use super::clock::Time;
use super::network::Filter;
use kv_core::message::{ClientMessage, Message, ServerMessage};
use kv_core::transport::Lane;

/// A scheduled event.
#[derive(Debug)]
pub(super) enum Event {
    /// A message between members arrives.
    Deliver {
        /// Sender.
        from: usize,
        /// Receiver.
        to: usize,
        /// What.
        message: Box<Message>,
    },
    /// A client's message arrives at the life of a member that the client is connected to.
    ToMember {
        /// Sender.
        client: usize,
        /// Receiver.
        member: usize,
        /// Its life.
        life: u32,
        /// The client's connection.
        epoch: u32,
        /// What.
        message: Box<ClientMessage>,
    },
    /// A member's answer arrives.
    ToClient {
        /// Sender.
        member: usize,
        /// Receiver.
        client: usize,
        /// The connection.
        epoch: u32,
        /// What.
        message: Box<ServerMessage>,
    },
    /// A client notices that its connection is closed, or could not be opened.
    ConnectionGone {
        /// The client.
        client: usize,
        /// The other end.
        member: usize,
        /// The connection.
        epoch: u32,
    },
    /// An event of a process is due.
    Due {
        /// The member.
        member: usize,
        /// The life of the process: events of an earlier one are void.
        life: u32,
        /// What.
        what: Due,
    },
    /// A process is started.
    Start {
        /// The member.
        member: usize,
    },
    /// A paused process is resumed.
    Resume {
        /// The member.
        member: usize,
    },
    /// A client's timer fires.
    ClientTimer {
        /// The client.
        client: usize,
        /// Which of its timers.
        at: Time,
    },
    /// A client makes its next call.
    ClientCall {
        /// The client.
        client: usize,
    },
    /// The turn of a watcher.
    Watcher {
        /// Who.
        watcher: usize,
        /// Which of its turns.
        at: Time,
    },
    /// The next fault.
    Fault,
    /// A fault ends.
    Undo(Undo),
    /// The faults end.
    Heal,
    /// Check whether the cluster has converged.
    Probe,
}

/// The events of a process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Due {
    /// The replica's timer that was set for this time.
    Timer(Time),
    /// The journal has completed its writes.
    Written,
    /// The next entries are applied.
    Apply,
    /// The engine has completed its checkpoint.
    Checkpoint,
    /// A step of a merge of files of the state is done.
    Merge,
    /// The disk has completed a task of a state transfer.
    Transfer,
    /// The next piece of a snapshot has been read for a peer.
    Piece,
    /// A peer's connection broke.
    PeerLost(usize),
    /// Someone asks for a handover, perhaps to this member.
    Handover(Option<usize>),
    /// A watch is polled.
    Look(u64),
    /// A watch with nothing to deliver is parked.
    Wait(u64),
    /// Watches that wait for what was applied are woken.
    Wake,
    /// The deadlines of parked watches are checked.
    Sweep,
}

/// What ends a fault.
#[derive(Clone, Debug)]
pub(super) enum Undo {
    /// Removes a cut from these links.
    Mend(Vec<(usize, usize)>),
    /// Releases a clogged link.
    Release(usize, usize),
    /// Makes a link as fast as before.
    Quicken(usize, usize),
    /// Delivers a kind of message again.
    Unfilter(Filter),
    /// Makes a disk as fast as before.
    Hasten(usize),
    /// Makes a disk work again.
    Unstall(usize),
    /// Starts a clock again.
    Thaw(usize),
    /// Gives a disk space again.
    MakeRoom(usize),
    /// Sets wall clocks back that were set forward by this many milliseconds.
    SetBack(Vec<usize>, i64),
}

impl Event {
    /// The member whose process this concerns, if any: the event waits while the process is paused.
    pub(super) const fn of_process(&self) -> Option<usize> {
        match self {
            Self::Deliver { to: member, .. } | Self::ToMember { member, .. } | Self::Due { member, .. } => {
                Some(*member)
            }
            _ => None,
        }
    }

    /// A copy of the message.
    pub(super) fn copied(&self) -> Option<Self> {
        match self {
            Self::Deliver { from, to, message } => {
                Some(Self::Deliver { from: *from, to: *to, message: message.clone() })
            }
            Self::ToMember { client, member, life, epoch, message } => Some(Self::ToMember {
                client: *client,
                member: *member,
                life: *life,
                epoch: *epoch,
                message: message.clone(),
            }),
            Self::ToClient { member, client, epoch, message } => Some(Self::ToClient {
                member: *member,
                client: *client,
                epoch: *epoch,
                message: message.clone(),
            }),
            _ => None,
        }
    }

    /// The lane of the message.
    pub(super) fn lane(&self) -> Lane {
        match self {
            Self::Deliver { message, .. } => message.lane(),
            _ => Lane::Client,
        }
    }
}
