//! The states of a member that takes part in nothing: between two epochs, and after it was removed.

use super::Halt;
use super::context::Context;
use crate::config::Configuration;
use crate::ids::{Instant, WriteSeq};
use crate::message::Write;

/// Makes the next epoch durable. Until then, this member takes part in nothing: it has left the epoch that is over, and
/// has not entered the next (rule M3).
#[derive(Debug)]
pub(super) struct Entering {
    pub(super) configuration: Configuration,
    pub(super) written: WriteSeq,
}

/// This member was removed. It tells on what it knows until the epoch goes on without it (rule M9).
#[derive(Debug)]
pub(super) struct Retired {
    pub(super) ask_at: Instant,
    written: Option<WriteSeq>,
}

impl Retired {
    pub(super) const fn new(now: Instant) -> Self {
        Self { ask_at: now, written: None }
    }

    pub(super) fn on_timeout(&mut self, cx: &mut Context) {
        if cx.now.monotonic >= self.ask_at {
            self.ask_at = cx.now.monotonic.after(cx.options.heartbeat * 4);
            cx.broadcast(&cx.ask());
        }
    }

    /// The epoch goes on without this member.
    pub(super) fn on_settled(&mut self, cx: &mut Context) {
        if self.written.is_none() {
            self.written = Some(cx.write(Write::Retire));
        }
    }

    pub(super) fn on_durable(&self, cx: &mut Context) {
        if self.written.is_some_and(|written| cx.is_durable(written)) {
            cx.halt(Halt::Removed { epoch: cx.epoch() });
        }
    }
}
