//! The frames in flight in one direction.

use super::fate::{Dice, Fate};
use super::faults::Path;
use super::framing::Splitter;
use super::{Direction, Fault, Settings};
use crate::pipe::End;
use bytes::{Bytes, BytesMut};
use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use tokio::io::AsyncWrite;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// How many bytes may be in flight in each direction of a connection. Beyond that, writing waits.
const HELD_BYTES: usize = 4 * 1024 * 1024;

#[derive(Debug)]
struct QueueState {
    path: Path,
    splitter: Splitter,
    dice: Dice,
    /// Whether the next frame is the first one and is protected.
    spare_next: bool,
    /// Ordered by when they are due, and then by arrival.
    held: BTreeMap<(Instant, u64), QueuedFrame>,
    /// The total length of `held`. It exceeds [`HELD_BYTES`] by at most one write and its copies.
    held_bytes: usize,
    came: u64,
    /// When the latest frame that keeps the order is due.
    last_due: Instant,
    /// How the stream ended, if it has.
    end: Option<End>,
    /// Why nothing more can be forwarded.
    broken: Option<io::ErrorKind>,
    writer: Option<Waker>,
}

#[derive(Debug)]
struct QueuedFrame {
    frame: Bytes,
    is_copy: bool,
}

#[derive(Debug)]
struct Shared {
    direction: Direction,
    state: Mutex<QueueState>,
    /// Something arrived, or the stream ended.
    arrival: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Creates a queue for one direction of a connection on `path`. `seed` is the seed of the fates.
pub(super) fn queue(path: &Path, direction: Direction, seed: u64, settings: &Settings) -> (Intake, Queue) {
    let state = QueueState {
        path: path.clone(),
        splitter: Splitter::new(settings.framing),
        dice: Dice::new(seed),
        spare_next: settings.spare_first,
        held: BTreeMap::new(),
        held_bytes: 0,
        came: 0,
        last_due: Instant::now(),
        end: None,
        broken: None,
        writer: None,
    };
    let shared = Arc::new(Shared { direction, state: Mutex::new(state), arrival: Notify::new() });
    (Intake(Arc::clone(&shared)), Queue { path: path.clone(), shared })
}

impl QueueState {
    /// Decides the fate of a frame that has arrived.
    fn take(&mut self, frame: Bytes, direction: Direction) {
        let fault = self.path.fault(direction);
        let mut fate = self.dice.roll(&fault);
        if std::mem::take(&mut self.spare_next) {
            fate = fate.spared();
        }
        if fault.cut {
            self.path.count(direction, |counts| counts.cut += 1);
        } else if fate.lost {
            self.path.count(direction, |counts| counts.lost += 1);
        } else {
            self.hold(frame, &fate, direction);
        }
    }

    fn hold(&mut self, frame: Bytes, fate: &Fate, direction: Direction) {
        let in_order = self.last_due.max(Instant::now() + fate.delay);
        let due = in_order + fate.held_back.unwrap_or_default();
        if fate.held_back.is_none() {
            self.last_due = in_order;
        }
        let frame = match fate.flipped {
            Some(bit) => flip(&frame, bit),
            None => frame,
        };
        self.path.count(direction, |counts| {
            counts.reordered += u64::from(fate.held_back.is_some());
            counts.corrupted += u64::from(fate.flipped.is_some());
        });
        self.insert(due, QueuedFrame { frame: frame.clone(), is_copy: false });
        if let Some(later) = fate.copy {
            self.insert(due + later, QueuedFrame { frame, is_copy: true });
        }
    }

    fn insert(&mut self, due: Instant, held: QueuedFrame) {
        self.held_bytes += held.frame.len();
        self.came += 1;
        self.held.insert((due, self.came), held);
    }

    fn has_room(&self) -> bool {
        self.held_bytes < HELD_BYTES
    }

    fn wake_writer(&mut self) {
        if let Some(waker) = self.writer.take() {
            waker.wake();
        }
    }

    /// The next frame, if it is due.
    fn pop(&mut self, now: Instant, direction: Direction) -> Option<Bytes> {
        let entry = self.held.first_entry()?;
        if entry.key().0 > now {
            return None;
        }
        let QueuedFrame { frame, is_copy } = entry.remove();
        self.path.count(direction, |counts| {
            if is_copy {
                counts.duplicated += 1;
            } else {
                counts.passed += 1;
            }
        });
        self.held_bytes -= frame.len();
        if self.has_room() {
            self.wake_writer();
        }
        Some(frame)
    }

    /// Everything in flight is lost.
    fn purge(&mut self, direction: Direction) {
        let gone = std::mem::take(&mut self.held).values().filter(|held| !held.is_copy).count();
        self.held_bytes = 0;
        self.wake_writer();
        self.path.count(direction, |counts| counts.cut += gone as u64);
    }
}

fn flip(frame: &Bytes, bit: u64) -> Bytes {
    let mut frame = BytesMut::from(&frame[..]);
    let at = usize::try_from(bit % (frame.len() as u64 * 8)).expect("a frame is in memory");
    frame[at / 8] ^= 1 << (at % 8);
    frame.freeze()
}

/// The input of a queue.
#[derive(Debug)]
pub(super) struct Intake(Arc<Shared>);

impl Intake {
    /// Ends the stream. Only the first call counts.
    pub(super) fn finish(&self, end: End) {
        let mut state = self.0.lock();
        if state.end.is_some() {
            return;
        }
        if let Some(rest) = state.splitter.finish() {
            state.take(rest, self.0.direction);
        }
        state.end = Some(end);
        self.0.arrival.notify_one();
    }
}

impl AsyncWrite for Intake {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.0.lock();
        if let Some(kind) = state.broken {
            return Poll::Ready(Err(kind.into()));
        }
        if state.end.is_some() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if !state.has_room() {
            state.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let taken = &buf[..buf.len().min(HELD_BYTES)];
        for frame in state.splitter.push(taken) {
            state.take(frame, self.0.direction);
        }
        self.0.arrival.notify_one();
        Poll::Ready(Ok(taken.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.lock().broken.map_or(Ok(()), |kind| Err(kind.into())))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finish(End::Ended);
        Poll::Ready(Ok(()))
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        self.finish(End::Ended);
    }
}

/// The next output of a queue.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Next {
    /// A frame. If `more` is true, the next frame is due as well.
    Frame { frame: Bytes, more: bool },
    /// The end of the stream.
    End(End),
}

/// The output of a queue. Clones share the queue; only one of them takes frames.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    path: Path,
    shared: Arc<Shared>,
}

impl Queue {
    /// Waits until the next frame is due. While the link is cut or clogged, the end of the stream is held back too.
    pub(super) async fn next(&mut self) -> Next {
        let mut lingering = None;
        loop {
            let fault = self.path.fault(self.shared.direction);
            let wake_at = match self.poll_next(&fault) {
                Ok(next) => return next,
                Err(Wait { wake_at, ended: None }) => wake_at,
                Err(Wait { wake_at, ended: Some(end) }) => {
                    lingering = lingering.or_else(|| self.path.linger());
                    if lingering.is_none() {
                        return Next::End(end);
                    }
                    wake_at
                }
            };
            let due = async {
                match wake_at {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.shared.arrival.notified() => {}
                () = self.path.changed() => {}
                () = due => {}
            }
        }
    }

    fn poll_next(&self, fault: &Fault) -> Result<Next, Wait> {
        let mut state = self.shared.lock();
        if fault.cut {
            state.purge(self.shared.direction);
        }
        if fault.cut || fault.clog {
            return Err(Wait { wake_at: None, ended: state.end });
        }
        let now = Instant::now();
        if let Some(frame) = state.pop(now, self.shared.direction) {
            let more = state.held.first_key_value().is_some_and(|(key, _)| key.0 <= now);
            return Ok(Next::Frame { frame, more });
        }
        match (state.held.first_key_value(), state.end) {
            (None, Some(end)) => Ok(Next::End(end)),
            (first, _) => Err(Wait { wake_at: first.map(|(key, _)| key.0), ended: None }),
        }
    }

    /// Nothing more can be forwarded: writing fails from now on.
    pub(super) fn break_off(&self, kind: io::ErrorKind) {
        let mut state = self.shared.lock();
        state.broken.get_or_insert(kind);
        state.held.clear();
        state.held_bytes = 0;
        state.wake_writer();
    }

    /// Waits for the end of a cut of this direction, unless too many queues already wait.
    pub(super) async fn mended(&mut self) {
        let Some(_lingering) = self.path.linger() else { return };
        while self.path.fault(self.shared.direction).cut {
            self.path.changed().await;
        }
    }
}

/// No frame is due yet.
struct Wait {
    /// When a frame will be due, if nothing else happens before.
    wake_at: Option<Instant>,
    /// How the stream has ended, if it has and this cannot be reported yet.
    ended: Option<End>,
}
