//! Frames over a byte stream.

use super::frame::Header;
use super::{Frame, HEADER_BYTES, Hello, HelloReply, Kind, WireError};
use crate::message::{Message, ServerMessage};
use bytes::{Buf, Bytes, BytesMut};
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

/// How much is read at once where nothing has come yet: what a connection that is quiet holds.
pub(crate) const FIRST_READ: usize = 4 << 10;

/// How much is read at once where something has.
const READ_CHUNK: usize = 64 << 10;

/// Frames from here on are not copied together with others.
const LARGE_FRAME: usize = 32 << 10;

/// After so many bytes a connection that is busy gives way to others.
pub(crate) const TURN_BYTES: usize = 64 << 10;

/// Reads frames, and nothing but acceptable ones.
///
/// Memory follows what has arrived, not what a header announces. Whoever must know of it beforehand takes the three steps of
/// [`read`](Self::read) one by one: [`wants`](Self::wants), [`fill`](Self::fill), [`take`](Self::take).
#[derive(Debug)]
pub struct FrameReader<R> {
    reader: R,
    buffer: BytesMut,
    max_frame: usize,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Reads from `reader` frames with bodies of up to `max_frame` bytes (hellos have limits of their own).
    pub fn new(reader: R, max_frame: usize) -> Self {
        Self { reader, buffer: BytesMut::new(), max_frame }
    }

    /// Changes the limit, for example once the hello has identified the other end.
    pub fn set_max_frame(&mut self, max_frame: usize) {
        self.max_frame = max_frame;
    }

    /// Bytes of memory that the buffer holds.
    #[cfg(test)]
    pub(in crate::wire) fn buffer_capacity(&self) -> usize {
        self.buffer.capacity()
    }

    /// Bytes that have been read and not taken: the beginning of the next frame, and what may follow it.
    #[must_use]
    pub fn buffered_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// The length of the next frame, once its header is here: the header is good, and the frame within the limit.
    ///
    /// # Errors
    /// [`WireError`] if it is not: the stream cannot be used any more.
    pub fn announced(&self, expected: Kind) -> Result<Option<usize>, WireError> {
        let Some(header) = self.buffer.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        Ok(Some(HEADER_BYTES + Header::parse(header, expected, self.max_frame)?.len()))
    }

    /// How much to read next; `None` where a whole frame is here.
    ///
    /// # Errors
    /// As [`announced`](Self::announced).
    pub fn wants(&self, expected: Kind) -> Result<Option<usize>, WireError> {
        let held = self.buffer.len();
        let Some(len) = self.announced(expected)? else {
            let most = if held == 0 { FIRST_READ } else { READ_CHUNK };
            return Ok(Some(HEADER_BYTES + expected.limit(self.max_frame).min(most)));
        };
        // What there is room for. Without any, at most as much again as has come: an announced length alone allocates next to nothing, and
        // what came is copied a few times only, however small the parts are.
        let spare = self.buffer.capacity() - held;
        let most = if spare > 0 { spare } else { READ_CHUNK.max(held) };
        Ok(len.checked_sub(held).filter(|missing| *missing > 0).map(|missing| missing.min(most)))
    }

    /// Reads once, into room for `want` bytes at least. False at the end of the stream.
    ///
    /// # Errors
    /// Any error of the stream.
    ///
    /// # Cancel safety
    /// Cancel safe: what was read is kept.
    pub async fn fill(&mut self, want: usize) -> io::Result<bool> {
        let needed = self.buffer.len() + want;
        if needed > READ_CHUNK && self.buffer.capacity() < needed {
            // Not twice as much, as `reserve` might.
            let mut larger = BytesMut::with_capacity(needed);
            larger.extend_from_slice(&self.buffer);
            self.buffer = larger;
        }
        self.buffer.reserve(want);
        Ok(self.reader.read_buf(&mut self.buffer).await? > 0)
    }

    /// Takes the next frame, which must be here.
    ///
    /// # Errors
    /// [`WireError`]: the stream cannot be used any more; [`WireError::Truncated`] if the frame is not here.
    pub fn take(&mut self, expected: Kind) -> Result<Frame, WireError> {
        let header = self.buffer.first_chunk().ok_or(WireError::Truncated)?;
        let header = Header::parse(header, expected, self.max_frame)?;
        let len = HEADER_BYTES + header.len();
        if self.buffer.len() < len {
            return Err(WireError::Truncated);
        }
        let mut bytes = self.buffer.split_to(len);
        if self.buffer.is_empty() || len > READ_CHUNK {
            // The memory goes with the frame: a connection that falls silent after it holds none.
            self.buffer = BytesMut::from(&self.buffer[..]);
        }
        bytes.advance(HEADER_BYTES);
        header.frame(bytes.freeze())
    }

    /// The next frame, which must be of kind `expected` (or, among a client's, a sign of life). `None` at the end of the
    /// stream, if it ends between two frames.
    ///
    /// # Errors
    /// [`WireError`]: the stream cannot be used any more.
    ///
    /// # Cancel safety
    /// Cancel safe: what was read of a frame is kept for the next call.
    pub async fn read(&mut self, expected: Kind) -> Result<Option<Frame>, WireError> {
        while let Some(want) = self.wants(expected)? {
            if !self.fill(want).await? {
                return if self.buffer.is_empty() { Ok(None) } else { Err(WireError::Truncated) };
            }
        }
        self.take(expected).map(Some)
    }

    /// The next frame's [`Message`].
    ///
    /// # Errors
    /// As [`read`](Self::read).
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn read_message(&mut self) -> Result<Option<Message>, WireError> {
        self.read(Kind::Message).await?.map(|frame| frame.message()).transpose()
    }

    /// The next [`ClientMessage`](crate::message::ClientMessage); signs of life are passed over.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    ///
    /// # Cancel safety
    /// Cancel safe.
    #[cfg(feature = "internals")]
    pub async fn read_client_message(&mut self) -> Result<Option<crate::message::ClientMessage>, WireError> {
        while let Some(frame) = self.read(Kind::Client).await? {
            if frame.kind() != Kind::Alive {
                return frame.client_message().map(Some);
            }
        }
        Ok(None)
    }

    /// The next frame's [`ServerMessage`].
    ///
    /// # Errors
    /// As [`read`](Self::read).
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn read_server_message(&mut self) -> Result<Option<ServerMessage>, WireError> {
        self.read(Kind::Server).await?.map(|frame| frame.server_message()).transpose()
    }

    /// The hello that a connection begins with. Bound its time: a caller may never send it.
    ///
    /// # Errors
    /// As [`read`](Self::read); also at the end of the stream.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn read_hello(&mut self) -> Result<Hello, WireError> {
        self.read(Kind::Hello).await?.ok_or(WireError::Truncated)?.hello()
    }

    /// The reply to the hello. Bound its time.
    ///
    /// # Errors
    /// As [`read_hello`](Self::read_hello).
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn read_hello_reply(&mut self) -> Result<HelloReply, WireError> {
        self.read(Kind::HelloReply).await?.ok_or(WireError::Truncated)?.hello_reply()
    }
}

/// Writes frames: collects what is pushed, so that many frames go out in one write and one flush.
#[derive(Debug)]
pub struct FrameWriter<W> {
    writer: W,
    /// Ready to be written, in order.
    queue: VecDeque<Bytes>,
    /// Small frames, to go after `queue`.
    tail: BytesMut,
    queued: usize,
    /// Written since the last flush.
    unflushed: bool,
}

impl<W: AsyncWrite + Unpin> FrameWriter<W> {
    /// Writes to `writer`.
    pub fn new(writer: W) -> Self {
        Self { writer, queue: VecDeque::new(), tail: BytesMut::new(), queued: 0, unflushed: false }
    }

    /// Queues a complete frame, as the `encode_` functions make it. Nothing is sent before a flush.
    pub fn push(&mut self, frame: Bytes) {
        self.queued += frame.len();
        if frame.len() < LARGE_FRAME {
            self.tail.extend_from_slice(&frame);
        } else {
            self.seal_tail();
            self.queue.push_back(frame);
        }
    }

    /// Bytes queued and not yet written: what a bound on memory looks at.
    #[must_use]
    pub const fn queued_bytes(&self) -> usize {
        self.queued
    }

    /// Whether everything pushed has been written and flushed.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.queued == 0 && !self.unflushed
    }

    /// Writes and flushes everything queued.
    ///
    /// # Errors
    /// Any error of the stream, which cannot be used any more.
    ///
    /// # Cancel safety
    /// Cancel safe: a later flush goes on where this one was dropped.
    pub async fn flush(&mut self) -> io::Result<()> {
        // Others have a turn now and again, also while the stream takes everything at once.
        while !std::future::poll_fn(|cx| self.poll_write(cx, TURN_BYTES)).await? {
            tokio::task::yield_now().await;
        }
        std::future::poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// [`flush`](Self::flush), for those who poll several writers in one task.
    ///
    /// # Errors
    /// As [`flush`](Self::flush).
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write(cx, usize::MAX))?;
        if self.unflushed {
            ready!(Pin::new(&mut self.writer).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes about so many bytes at most; whether that was all.
    fn poll_write(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<io::Result<bool>> {
        self.seal_tail();
        let mut room = most;
        while let Some(front) = self.queue.front_mut() {
            if room == 0 {
                return Poll::Ready(Ok(false));
            }
            // A part at a time, whatever `most` is: after `Pending` the stream is offered the same bytes again.
            let part = &front[..front.len().min(TURN_BYTES)];
            let written = ready!(Pin::new(&mut self.writer).poll_write(cx, part))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            front.advance(written);
            if front.is_empty() {
                self.queue.pop_front();
            }
            room = room.saturating_sub(written);
            self.queued -= written;
            self.unflushed = true;
        }
        Poll::Ready(Ok(true))
    }

    fn seal_tail(&mut self) {
        if !self.tail.is_empty() {
            self.queue.push_back(self.tail.split().freeze());
        }
    }
}
