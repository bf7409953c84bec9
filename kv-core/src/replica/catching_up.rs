//! A member in a view whose log is not installed here yet: it requests that log from the primary, and installs it.

use super::backup::Heartbeat;
use super::context::{Context, Flow};
use super::install::Install;
use super::monitor::PrimaryMonitor;
use crate::ids::{Hash, Instant, MemberId, Op};
use crate::message::Message;
use tracing::debug;

#[derive(Debug)]
pub(super) struct CatchingUp {
    pub(super) watch: PrimaryMonitor,
    /// The nonce of every `GetState` in this state, so that a slow answer to an earlier one counts too. Zero before
    /// the first.
    nonce: u64,
    ask_at: Instant,
    /// The installation, once `StartView` has arrived.
    pub(super) install: Option<Install>,
}

impl CatchingUp {
    pub(super) fn new(cx: &Context) -> Self {
        debug!(view = %cx.view, damaged = cx.is_damaged(), "catching up");
        Self { watch: PrimaryMonitor::new(cx), nonce: 0, ask_at: cx.now.monotonic, install: None }
    }

    pub(super) fn next_timeout(&self) -> Instant {
        let ask = self.install.as_ref().map_or(self.ask_at, |install| install.retry_at);
        ask.min(self.watch.next_timeout())
    }

    /// Sends `GetState`: to all members if the primary of the view is this member itself, or may be gone.
    pub(super) fn ask_for_state(&mut self, cx: &mut Context) {
        let nonce = cx.nonce();
        if self.nonce == 0 {
            self.nonce = nonce;
        }
        self.ask_at = cx.now.monotonic.after(cx.options.failure_timeout_min);
        if cx.is_adopting() {
            return;
        }
        let message = Message::GetState { view: cx.view, nonce: self.nonce };
        if cx.is_damaged() {
            cx.broadcast(&message)
        } else if cx.primary() != cx.me {
            cx.send(cx.primary(), message)
        }
    }

    /// Whether a `StartView` with this nonce answers a request of this life.
    pub(super) fn has_asked(&self, nonce: u64) -> bool {
        nonce != 0 && self.nonce == nonce
    }

    pub(super) fn on_timeout(&mut self, cx: &mut Context) -> Flow {
        self.watch.on_timeout(cx)?;
        if self.install.is_some() {
            return self.drive_install(cx);
        }
        if cx.now.monotonic >= self.ask_at {
            self.ask_for_state(cx);
        }
        Flow::Continue(())
    }

    /// Rule V7: the primary has sent the hashes of the log of this view.
    pub(super) fn on_start_view(&mut self, cx: &mut Context, hashes: &[(Op, Hash)]) -> Flow {
        let now = cx.now.monotonic;
        self.watch.heard(now);
        self.install = Some(Install::new(hashes, now));
        self.drive_install(cx)
    }

    /// Learns what is committed. Acknowledges nothing yet.
    pub(super) fn on_commit(cx: &mut Context, from: MemberId, heartbeat: &Heartbeat) {
        cx.note_commit(cx.view, heartbeat.commit);
        if !cx.halted && !cx.is_adopting() {
            cx.answer_heartbeat(from, heartbeat.round, None);
        }
    }

    pub(super) fn drive_install(&mut self, cx: &mut Context) -> Flow {
        match &mut self.install {
            Some(install) => install.drive(cx, None),
            None => Flow::Continue(()),
        }
    }

    /// The log was rebased up to this op.
    pub(super) fn on_rebased(&mut self, cx: &mut Context, op: Op) -> Flow {
        if self.install.take_if(|install| install.ends_below(op)).is_some() {
            // The view has committed more since its log was sent.
            self.ask_for_state(cx);
        }
        if let Some(install) = &mut self.install {
            install.restart_requests();
        }
        self.drive_install(cx)
    }
}
