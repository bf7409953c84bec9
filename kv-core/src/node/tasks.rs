//! The node's tasks: all of them end with it.

use super::sync::lock;
use std::future::Future;
use std::sync::Mutex;
use tokio::task::JoinSet;
use tracing::{Instrument, Span};

/// See the module.
#[derive(Debug)]
pub(super) struct Tasks {
    /// `None` once the node stops.
    set: Mutex<Option<JoinSet<()>>>,
    span: Span,
}

impl Tasks {
    /// Tasks that run within `span`.
    pub(super) fn new(span: Span) -> Self {
        Self { set: Mutex::new(Some(JoinSet::new())), span }
    }

    /// Runs a task until it ends or the node stops. Once the node has stopped it does not even begin.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(set) = &mut *lock(&self.set) {
            while set.try_join_next().is_some() {}
            set.spawn(task.instrument(self.span.clone()));
        }
    }

    /// Lets no further task begin, and hands out those that run.
    pub(super) fn take(&self) -> JoinSet<()> {
        lock(&self.set).take().unwrap_or_default()
    }
}
