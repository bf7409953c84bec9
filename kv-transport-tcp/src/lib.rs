//! TCP for kv: a socket per lane.

use async_trait::async_trait;
use kv_transport::{Connection, Lane, Listener, Transport, TransportError};

/// TCP: a socket per lane. Addresses are `HOST:PORT`; the host may be a name.
#[derive(Clone, Debug, Default)]
pub struct Tcp {}

impl Tcp {
    /// With default settings.
    pub fn new() -> Self {
        Self::default()
    }
}

#[async_trait]
impl Transport for Tcp {
    async fn bind(&self, _address: &str) -> Result<Box<dyn Listener>, TransportError> {
        unimplemented!()
    }

    async fn connect(&self, _address: &str, _lane: Lane) -> Result<Connection, TransportError> {
        unimplemented!()
    }
}
