//! The encoding of messages: this module alone defines the wire layout.
//!
//! Every lane of every transport carries the same frames. A frame is a header of [`HEADER_BYTES`] and a body:
//!
//! | bytes | what |
//! |---|---|
//! | 0..4 | magic |
//! | 4 | [`Kind`] |
//! | 5..8 | zero |
//! | 8..12 | length of the body, little-endian |
//! | 12..20 | xxh3 of the body |
//! | 20..28 | xxh3 of the 20 bytes before: checked **before the length is used** |
//!
//! # Versions
//! The connecting end sends the range of protocol versions that it speaks. The other end chooses the newest version
//! that both speak, or refuses and sends its own range. From then on the connection uses the chosen version. Some parts
//! must be the same in all versions, so that any two ends can at least detect that they do not match: the frame header,
//! the version range at the beginning of a hello, and what [`HelloReply`] documents. Everything else may change with
//! the version:
//! - a new kind of frame, message, call or answer is added after the existing ones, and is sent only in a version that
//!   has it: the other end closes the connection when it receives something unknown;
//! - from the first release on, a build also speaks the version before its own, so that the members of a cluster can be
//!   upgraded one after another;
//! - an optional feature is a bit in the hello's `features`: an end that does not know it ignores it.
//!
//! # Bodies
//! Bodies are postcard. The first frame in each direction is the hello: [`Hello`] from the side that opened the
//! connection, then [`HelloReply`] from the side that accepted it. After it, a connection carries one kind in each
//! direction (and a client's signs of life); any other is refused before its body is read. A decoder returns only what
//! passes every check: no trailing bytes, no counter near the end of its range, no entry whose hash differs.

mod access;
mod check;
mod frame;
mod hello;
mod identity;
mod io;
#[cfg(test)]
mod tests;

pub use access::Party;
pub use frame::{Frame, HEADER_BYTES, Kind, WireError};
pub use hello::{
    Caller, Expectation, FIRST_WITH_EPOCHS, Hello, HelloReply, Limits, MemberInfo, PROTOCOL, Refusal,
    VersionRange, Welcome,
};
pub use identity::{describe, prove_member};
pub(crate) use io::TURN_BYTES;
pub use io::{FrameReader, FrameWriter};

use crate::ids::Timestamp;
use crate::message::{Answer, ClientCall, ClientMessage, Entry, Message, ServerMessage};
use bytes::Bytes;

/// The longest body of a [`Hello`] in bytes.
pub const MAX_HELLO: usize = 4 << 10;

/// The longest body of a [`HelloReply`] in bytes: 15 members with the longest host names fit.
pub const MAX_HELLO_REPLY: usize = 8 << 10;

/// The default limit for the body of any other frame: the largest batch with its overhead.
pub const DEFAULT_MAX_FRAME: usize = 17 << 20;

/// Describes the frames to a fault injector, so that it finds their borders in a byte stream.
#[must_use]
pub fn framing() -> kv_transport::Framing {
    kv_transport::Framing::new(HEADER_BYTES, HEADER_BYTES + DEFAULT_MAX_FRAME, frame::announced_len)
}

/// Encodes this message as a complete frame. Encode once, send to many.
#[must_use]
pub fn encode_message(message: &Message) -> Bytes {
    frame::encode(Kind::Message, message, message_size(message))
}

/// Reads one complete frame as [`encode_message`] wrote it.
///
/// # Errors
/// [`WireError`] for anything else.
#[cfg(feature = "internals")]
pub fn decode_message(frame: Bytes) -> Result<Message, WireError> {
    Frame::parse(frame, Kind::Message, DEFAULT_MAX_FRAME)?.message()
}

/// Encodes this message as a complete frame.
#[must_use]
pub fn encode_client_message(message: &ClientMessage) -> Bytes {
    let body = if let ClientCall::Write(request) = &message.what { request.len() } else { 0 };
    frame::encode(Kind::Client, message, SMALL + body)
}

/// Reads one complete frame as [`encode_client_message`] wrote it.
///
/// # Errors
/// [`WireError`] for anything else.
#[cfg(feature = "internals")]
pub fn decode_client_message(frame: Bytes) -> Result<ClientMessage, WireError> {
    Frame::parse(frame, Kind::Client, DEFAULT_MAX_FRAME)?.client_message()
}

/// Encodes this message as a complete frame.
#[must_use]
pub fn encode_server_message(message: &ServerMessage) -> Bytes {
    frame::encode(Kind::Server, message, SMALL + answer_size(&message.answer))
}

/// Reads one complete frame as [`encode_server_message`] wrote it.
///
/// # Errors
/// [`WireError`] for anything else.
#[cfg(feature = "internals")]
pub fn decode_server_message(frame: Bytes) -> Result<ServerMessage, WireError> {
    Frame::parse(frame, Kind::Server, DEFAULT_MAX_FRAME)?.server_message()
}

/// Encodes a sign of life as a complete frame.
#[must_use]
pub fn encode_alive() -> Bytes {
    frame::encode(Kind::Alive, &(), 0)
}

/// The same for a member, with its wall clock.
#[must_use]
pub fn encode_alive_at(wall: Timestamp) -> Bytes {
    frame::encode(Kind::Alive, &wall, 16)
}

/// Encodes this hello as a complete frame.
#[must_use]
pub fn encode_hello(hello: &Hello) -> Bytes {
    frame::encode(Kind::Hello, hello, SMALL)
}

/// Encodes this reply as a complete frame.
#[must_use]
pub fn encode_hello_reply(reply: &HelloReply) -> Bytes {
    frame::encode(Kind::HelloReply, reply, SMALL)
}

/// The size of a message without long parts.
const SMALL: usize = 256;

/// About how long a message is: usually enough to allocate once.
fn message_size(message: &Message) -> usize {
    let entry = |entry: &Entry| SMALL + entry.body.len();
    match message {
        Message::Prepare { entry: e, .. } => SMALL + entry(e),
        Message::NewState { entries, .. } => SMALL + entries.iter().map(entry).sum::<usize>(),
        Message::SnapshotChunk { chunk, .. } => SMALL + chunk.after.len() + chunk.rows.len(),
        _ => SMALL,
    }
}

fn answer_size(answer: &Answer) -> usize {
    match answer {
        Answer::Value { record: Some(record), .. } => record.value.len(),
        Answer::Records { records, .. } => {
            records.iter().map(|(key, record)| key.len() + record.value.len() + 40).sum()
        }
        _ => 0,
    }
}
