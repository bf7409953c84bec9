//! The settings for quinn.

use crate::Quic;
use quinn::{ClientConfig, IdleTimeout, ServerConfig, TransportConfig, VarInt};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// How many streams may be open on a connection.
pub(crate) const MAX_STREAMS: usize = 128;
/// How many bytes an attempt to connect may send before the listener handles it. `INCOMING_BYTES_IN_ALL` limits all
/// attempts together.
const INCOMING_BYTES: u64 = 16 << 10;
const INCOMING_BYTES_IN_ALL: u64 = 1 << 20;
/// The window of a stream from an address that is no member's: how many bytes it may send per round trip. One client
/// can send 64 MiB/s at 1 ms and 3 MiB/s at 20 ms. A member may send three times as fast.
pub(crate) const STRANGERS_WINDOW: u32 = 64 << 10;
/// The assumed round-trip time before anything was measured. A lost first datagram is sent again after three times
/// this.
const INITIAL_RTT: Duration = Duration::from_millis(50);
/// The buffer for probe datagrams, which nobody reads.
const DATAGRAM_BYTES: usize = 1 << 10;

impl Quic {
    /// The configuration for callers whose streams have this window.
    pub(crate) fn server_config(&self, window: u32) -> io::Result<ServerConfig> {
        let mut config = ServerConfig::with_crypto(Arc::new(self.trust.server()?));
        config
            .transport_config(Arc::new(self.transport_config(MAX_STREAMS, window)))
            .max_incoming(self.max_half_open)
            .incoming_buffer_size(INCOMING_BYTES)
            .incoming_buffer_size_total(INCOMING_BYTES_IN_ALL);
        Ok(config)
    }

    pub(crate) fn client_config(&self) -> io::Result<ClientConfig> {
        let mut config = ClientConfig::new(Arc::new(self.trust.client()?));
        let mut transport = self.transport_config(0, self.stream_window);
        // The stream on which the other end accepts the caller.
        transport.max_concurrent_uni_streams(VarInt::from_u32(1));
        // Each of them receives what it sends back.
        transport
            .receive_window(window_for(MAX_STREAMS, self.stream_window))
            .send_window(window_for(MAX_STREAMS, self.stream_window).into());
        config.transport_config(Arc::new(transport));
        Ok(config)
    }

    /// The configuration of a connection on which the other end may open this many streams.
    fn transport_config(&self, streams: usize, window: u32) -> TransportConfig {
        let mut config = TransportConfig::default();
        config
            .max_concurrent_bidi_streams(varint(streams as u64))
            .max_concurrent_uni_streams(VarInt::from_u32(0))
            .max_idle_timeout(IdleTimeout::try_from(self.idle_timeout).ok())
            .stream_receive_window(varint(window.into()))
            .receive_window(window_for(0, window))
            .send_window(window_for(0, window).into())
            .initial_rtt(INITIAL_RTT)
            .datagram_receive_buffer_size(Some(DATAGRAM_BYTES))
            .datagram_send_buffer_size(DATAGRAM_BYTES);
        config
    }
}

/// How many bytes a connection with this many open streams of this window holds in each direction: as much as they may
/// hold together, and as much again for two that are about to open, so that a stream whose reader has stopped leaves
/// room for the others.
pub(crate) fn window_for(streams: usize, window: u32) -> VarInt {
    varint((streams as u64 + 2).saturating_mul(window.into()))
}

fn varint(value: u64) -> VarInt {
    VarInt::from_u64(value).unwrap_or(VarInt::MAX)
}
