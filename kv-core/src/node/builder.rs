//! How a node is described and started.

use super::{Node, StartError};
use crate::config::{Cluster, Options};
use crate::ids::MemberId;
use crate::storage::Storage;
use kv_transport::Transport;
use std::path::PathBuf;
use std::sync::Arc;

/// Collects what a node needs; [`start`](Self::start) starts it.
#[derive(Clone, Debug)]
#[must_use]
pub struct NodeBuilder {
    cluster: Cluster,
    me: MemberId,
    options: Options,
    transport: Option<Arc<dyn Transport>>,
    disk: Option<Disk>,
    listen: Option<String>,
}

/// Where the node keeps what must survive.
#[derive(Clone, Debug)]
enum Disk {
    Directory(PathBuf),
    Storage(Arc<dyn Storage>),
}

impl NodeBuilder {
    pub(super) fn new(cluster: Cluster, me: MemberId) -> Self {
        Self { cluster, me, options: Options::default(), transport: None, disk: None, listen: None }
    }

    /// How it reaches the other members and is reached. Required.
    pub fn transport(mut self, transport: Arc<dyn Transport>) -> Self {
        self.transport = Some(transport);
        self
    }

    /// The directory that keeps its data; created if it does not exist (its parent must). This or
    /// [`storage`](Self::storage) is required; the later call counts.
    pub fn data_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.disk = Some(Disk::Directory(path.into()));
        self
    }

    /// The storage that keeps its data, in place of a directory.
    pub fn storage(mut self, storage: Arc<dyn Storage>) -> Self {
        self.disk = Some(Disk::Storage(storage));
        self
    }

    /// Time-outs and limits. Default: [`Options::default`].
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// The address to listen on, where it differs from the one in the configuration (`0.0.0.0:7000`, say).
    pub fn listen(mut self, address: impl Into<String>) -> Self {
        self.listen = Some(address.into());
        self
    }

    /// Starts the member on the current tokio runtime. All checks come first: where one fails, nothing on disk has changed.
    ///
    /// # Errors
    /// [`StartError`] says in one line what is wrong and what to do.
    pub async fn start(self) -> Result<Node, StartError> {
        unimplemented!()
    }
}
