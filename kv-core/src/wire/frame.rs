//! The frame: its header, checksums and limits.

use super::{Hello, HelloReply, MAX_HELLO, MAX_HELLO_REPLY, VersionRange, check};
use crate::ids::Timestamp;
use crate::message::{ClientMessage, EntryError, Message, ServerMessage};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;
use xxhash_rust::xxh3::xxh3_64;

/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 28;

const MAGIC: [u8; 4] = *b"kvfr";

/// A sign of life is empty or a number.
const MAX_ALIVE: usize = 10;

/// The kinds of frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// [`Hello`]: the first frame from the side that opened the connection.
    Hello,
    /// [`HelloReply`]: the first frame from the side that accepted the connection.
    HelloReply,
    /// [`Message`]: between members.
    Message,
    /// [`ClientMessage`]: from a client.
    Client,
    /// [`ServerMessage`]: to a client.
    Server,
    /// Only a sign of life: from a client among its messages, and between members in the opposite direction. That of a
    /// member contains its wall clock.
    Alive,
}

impl Kind {
    const fn code(self) -> u8 {
        match self {
            Self::Hello => 1,
            Self::HelloReply => 2,
            Self::Message => 3,
            Self::Client => 4,
            Self::Server => 5,
            Self::Alive => 6,
        }
    }

    /// The kind that may arrive instead of this one: a client without calls still sends signs of life.
    const fn alternative(self) -> Option<Self> {
        match self {
            Self::Client => Some(Self::Alive),
            Self::Hello | Self::HelloReply | Self::Message | Self::Server | Self::Alive => None,
        }
    }

    /// The longest body of this kind, if other frames may have `max_frame` bytes.
    #[must_use]
    pub const fn limit(self, max_frame: usize) -> usize {
        match self {
            Self::Hello => MAX_HELLO,
            Self::HelloReply => MAX_HELLO_REPLY,
            Self::Message | Self::Client | Self::Server => max_frame,
            Self::Alive => MAX_ALIVE,
        }
    }
}

/// Why bytes from the other end were refused. Close the connection: it cannot be used any more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The stream broke.
    #[error("the connection broke: {0}")]
    Io(#[from] std::io::Error),
    /// The stream ended inside a frame.
    #[error("the connection ended in the middle of a frame")]
    Truncated,
    /// The first bytes are not those of a frame.
    #[error("the other end does not speak this protocol")]
    Magic,
    /// The header's checksum differs.
    #[error("a frame's header is damaged")]
    HeaderChecksum,
    /// The body's checksum differs.
    #[error("a frame's body is damaged")]
    BodyChecksum,
    /// A kind of frame that is not allowed here.
    #[error("received a frame of kind {found}, expected {expected:?}")]
    UnexpectedKind {
        /// The code of the kind.
        found: u8,
        /// What was due.
        expected: Kind,
    },
    /// The body is longer than allowed.
    #[error("received a frame of {len} bytes: {expected:?} frames have at most {max}")]
    TooLong {
        /// Its length in bytes.
        len: usize,
        /// The greatest length allowed, in bytes.
        max: usize,
        expected: Kind,
    },
    /// The body does not decode, or has trailing bytes.
    #[error("the body of a {0:?} frame does not decode")]
    Malformed(Kind),
    /// A counter is too large to be true.
    #[error("{field} is out of range")]
    OutOfRange {
        /// The name of the field.
        field: &'static str,
    },
    /// An entry does not match its header.
    #[error("a log entry is damaged: {0}")]
    Entry(#[from] EntryError),
    /// The sender does not have the required role.
    #[error("received {what} from {party:?}, which may not send it")]
    NotAllowed {
        /// What came.
        what: &'static str,
        /// Who sent it.
        party: super::Party,
    },
    /// The two ends have no protocol version in common.
    #[error("the other end speaks protocol versions {theirs}, this one {ours}: upgrade the older one")]
    Version {
        /// The versions of the other end.
        theirs: VersionRange,
        /// The versions of this end.
        ours: VersionRange,
    },
}

/// A header with a valid checksum.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    kind: Kind,
    len: usize,
    body_checksum: u64,
}

impl Header {
    /// Checks the header at the start of `bytes`: it must be of the `expected` kind (or, among a client's messages, a
    /// sign of life), and within the limit.
    ///
    /// First the magic is checked (a stranger's bytes), then the checksum, and only then the fields.
    pub(super) fn parse(
        bytes: &[u8; HEADER_BYTES],
        expected: Kind,
        max_frame: usize,
    ) -> Result<Self, WireError> {
        let mut input = &bytes[..];
        let mut magic = [0; 4];
        input.copy_to_slice(&mut magic);
        if magic != MAGIC {
            return Err(WireError::Magic);
        }
        let kind = input.get_u8();
        let reserved = input.get_uint_le(3);
        let len = input.get_u32_le() as usize;
        let body_checksum = input.get_u64_le();
        if !is_intact(bytes) {
            return Err(WireError::HeaderChecksum);
        }
        let mut due = [Some(expected), expected.alternative()].into_iter().flatten();
        let Some(kind) = due.find(|it| it.code() == kind && reserved == 0) else {
            return Err(WireError::UnexpectedKind { found: kind, expected });
        };
        let max = kind.limit(max_frame);
        if len > max {
            return Err(WireError::TooLong { len, max, expected: kind });
        }
        Ok(Self { kind, len, body_checksum })
    }

    /// The length of the body.
    pub(super) const fn len(self) -> usize {
        self.len
    }

    /// Combines the header with a body that has a valid checksum.
    pub(super) fn frame(self, body: Bytes) -> Result<Frame, WireError> {
        debug_assert_eq!(body.len(), self.len);
        if xxh3_64(&body) != self.body_checksum {
            return Err(WireError::BodyChecksum);
        }
        Ok(Frame { kind: self.kind, body })
    }
}

/// Whether the checksum of a header, its last eight bytes, is valid.
fn is_intact(header: &[u8; HEADER_BYTES]) -> bool {
    let (content, mut checksum) = header.split_at(HEADER_BYTES - 8);
    checksum.get_u64_le() == xxh3_64(content)
}

/// The length of the frame that begins with this header, if it is valid. A damaged length is not used: waiting for that
/// many bytes would block everything that follows.
pub(super) fn announced_len(header: &[u8]) -> Option<usize> {
    let header: &[u8; HEADER_BYTES] = header.first_chunk()?;
    if header[..4] != MAGIC || !is_intact(header) {
        return None;
    }
    let mut len = &header[8..12];
    HEADER_BYTES.checked_add(len.get_u32_le() as usize)
}

/// A frame with valid checksums. Its body may still be invalid.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    kind: Kind,
    body: Bytes,
}

impl Frame {
    /// Reads exactly one complete frame.
    ///
    /// # Errors
    /// [`WireError`] if the bytes are not exactly one intact frame of this kind within the limit.
    #[cfg(feature = "internals")]
    pub fn parse(mut bytes: Bytes, expected: Kind, max_frame: usize) -> Result<Self, WireError> {
        let header = bytes.first_chunk().ok_or(WireError::Truncated)?;
        let header = Header::parse(header, expected, max_frame)?;
        bytes.advance(HEADER_BYTES);
        if bytes.len() < header.len() {
            return Err(WireError::Truncated);
        }
        if bytes.len() > header.len() {
            return Err(WireError::Malformed(expected));
        }
        header.frame(bytes)
    }

    /// A frame as if its checksums were valid: for tests with invalid bodies.
    #[cfg(feature = "internals")]
    #[doc(hidden)]
    #[must_use]
    pub const fn unchecked(kind: Kind, body: Bytes) -> Self {
        Self { kind, body }
    }

    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// The length of the body in bytes.
    #[must_use]
    pub fn body_len(&self) -> usize {
        self.body.len()
    }

    /// Decodes the message between members.
    ///
    /// # Errors
    /// [`WireError`] if it is of another kind, does not decode, or violates a rule for every message.
    pub fn message(&self) -> Result<Message, WireError> {
        let message = self.decode(Kind::Message)?;
        check::message(&message)?;
        Ok(message)
    }

    /// Decodes the client's message.
    ///
    /// # Errors
    /// As [`message`](Self::message).
    pub fn client_message(&self) -> Result<ClientMessage, WireError> {
        self.decode(Kind::Client)
    }

    /// Decodes the answer to a client.
    ///
    /// # Errors
    /// As [`message`](Self::message).
    pub fn server_message(&self) -> Result<ServerMessage, WireError> {
        self.decode(Kind::Server)
    }

    /// Decodes the hello.
    ///
    /// # Errors
    /// As [`message`](Self::message); [`WireError::Version`] if the ends have no version in common.
    pub fn hello(&self) -> Result<Hello, WireError> {
        // The version range comes first in the hello of every version: it can be decoded before the rest is understood.
        let (theirs, _) = self.decode_prefix(Kind::Hello)?;
        check::version(theirs)?;
        self.decode(Kind::Hello)
    }

    /// Decodes the reply to a hello.
    ///
    /// # Errors
    /// As [`message`](Self::message); [`WireError::Version`] if the other end has chosen a version that this end does
    /// not speak.
    pub fn hello_reply(&self) -> Result<HelloReply, WireError> {
        // A welcome of another version can be recognized without understanding the rest.
        if let Ok(((0, version), _)) = postcard::take_from_bytes::<(u8, u16)>(&self.body) {
            check::version(VersionRange::just(version))?;
        }
        self.decode(Kind::HelloReply)
    }

    /// The wall clock in a sign of life; `None` if it contains none.
    pub fn alive(&self) -> Result<Option<Timestamp>, WireError> {
        if self.body.is_empty() { Ok(None) } else { self.decode(Kind::Alive).map(Some) }
    }

    /// Decodes the beginning of the body. Returns the rest too.
    fn decode_prefix<T: DeserializeOwned>(&self, expected: Kind) -> Result<(T, &[u8]), WireError> {
        if self.kind != expected {
            return Err(WireError::UnexpectedKind { found: self.kind.code(), expected });
        }
        postcard::take_from_bytes(&self.body).map_err(|_| WireError::Malformed(expected))
    }

    fn decode<T: DeserializeOwned>(&self, expected: Kind) -> Result<T, WireError> {
        let (value, rest) = self.decode_prefix(expected)?;
        if rest.is_empty() { Ok(value) } else { Err(WireError::Malformed(expected)) }
    }
}

/// Collects a body after the space for its header.
struct BodyBuffer(BytesMut);

impl postcard::ser_flavors::Flavor for BodyBuffer {
    type Output = BytesMut;

    fn try_push(&mut self, data: u8) -> postcard::Result<()> {
        self.0.put_u8(data);
        Ok(())
    }

    fn try_extend(&mut self, data: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(data);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<BytesMut> {
        Ok(self.0)
    }
}

/// Encodes a complete frame. Its body has about `size` bytes.
pub(super) fn encode<T: Serialize>(kind: Kind, value: &T, size: usize) -> Bytes {
    let mut buffer = BytesMut::with_capacity(HEADER_BYTES + size);
    buffer.resize(HEADER_BYTES, 0);
    let frame = postcard::serialize_with_flavor(value, BodyBuffer(buffer))
        .expect("memory is the only limit, and our types know their lengths");
    seal(kind, frame)
}

/// Writes the header in front of the body.
pub(super) fn seal(kind: Kind, mut frame: BytesMut) -> Bytes {
    let (header, body) = frame.split_at_mut(HEADER_BYTES);
    let len = u32::try_from(body.len()).expect("bodies are limited to a few MiB");
    let mut out = &mut header[..];
    out.put_slice(&MAGIC);
    out.put_u8(kind.code());
    out.put_uint_le(0, 3);
    out.put_u32_le(len);
    out.put_u64_le(xxh3_64(body));
    let checksum = xxh3_64(&header[..HEADER_BYTES - 8]);
    header[HEADER_BYTES - 8..].copy_from_slice(&checksum.to_le_bytes());
    frame.freeze()
}
