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

/// How much is read at first: the buffer that an idle connection holds.
pub(crate) const FIRST_READ: usize = 4 << 10;

/// How much is read at once after that.
const READ_CHUNK: usize = 64 << 10;

/// Frames of at least this size are not copied together with others.
const LARGE_FRAME: usize = 32 << 10;

/// After this many bytes, a busy connection yields to others.
pub(crate) const TURN_BYTES: usize = 64 << 10;

/// Reads frames, and returns only valid ones.
///
/// The memory grows with what has arrived, not with what a header announces. A caller that must reserve memory
/// beforehand takes the three steps of [`read`](Self::read) individually: [`wants`](Self::wants), [`fill`](Self::fill),
/// [`take`](Self::take).
#[derive(Debug)]
pub struct FrameReader<R> {
    reader: R,
    buffer: BytesMut,
    max_frame: usize,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Reads frames with bodies of up to `max_frame` bytes from `reader` (hellos have their own limits).
    pub fn new(reader: R, max_frame: usize) -> Self {
        Self { reader, buffer: BytesMut::new(), max_frame }
    }

    /// Changes the limit, for example once the hello has identified the other end.
    pub fn set_max_frame(&mut self, max_frame: usize) {
        self.max_frame = max_frame;
    }

    /// The capacity of the buffer in bytes.
    #[cfg(test)]
    pub(in crate::wire) fn buffer_capacity(&self) -> usize {
        self.buffer.capacity()
    }

    /// How many bytes have been read and not taken: the beginning of the next frame, and possibly more.
    #[must_use]
    pub fn buffered_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// The length of the next frame, once its header has arrived and is valid, and the length is within the limit.
    ///
    /// # Errors
    /// [`WireError`] if it is not: the stream cannot be used any more.
    pub fn announced(&self, expected: Kind) -> Result<Option<usize>, WireError> {
        let Some(header) = self.buffer.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        Ok(Some(HEADER_BYTES + Header::parse(header, expected, self.max_frame)?.len()))
    }

    /// How much to read next; `None` if a whole frame has arrived.
    ///
    /// # Errors
    /// As [`announced`](Self::announced).
    pub fn wants(&self, expected: Kind) -> Result<Option<usize>, WireError> {
        let held = self.buffer.len();
        let Some(len) = self.announced(expected)? else {
            let most = if held == 0 { FIRST_READ } else { READ_CHUNK };
            return Ok(Some(HEADER_BYTES + expected.limit(self.max_frame).min(most)));
        };
        // Uses the spare room. If there is none, at most as much again as has arrived: an announced length alone
        // allocates almost nothing, and the data is copied only a few times, however small the parts are.
        let spare = self.buffer.capacity() - held;
        let most = if spare > 0 { spare } else { READ_CHUNK.max(held) };
        Ok(len.checked_sub(held).filter(|missing| *missing > 0).map(|missing| missing.min(most)))
    }

    /// Reads once, into room for at least `want` bytes. Returns false at the end of the stream.
    ///
    /// # Errors
    /// Any error of the stream.
    ///
    /// # Cancel safety
    /// Cancel safe: what was read is kept.
    pub async fn fill(&mut self, want: usize) -> io::Result<bool> {
        let needed = self.buffer.len() + want;
        if needed > READ_CHUNK && self.buffer.capacity() < needed {
            // Not twice as much, as `reserve` might allocate.
            let mut larger = BytesMut::with_capacity(needed);
            larger.extend_from_slice(&self.buffer);
            self.buffer = larger;
        }
        self.buffer.reserve(want);
        Ok(self.reader.read_buf(&mut self.buffer).await? > 0)
    }

    /// Takes the next frame, which must have arrived.
    ///
    /// # Errors
    /// [`WireError`]: the stream cannot be used any more; [`WireError::Truncated`] if the frame has not arrived.
    pub fn take(&mut self, expected: Kind) -> Result<Frame, WireError> {
        let header = self.buffer.first_chunk().ok_or(WireError::Truncated)?;
        let header = Header::parse(header, expected, self.max_frame)?;
        let len = HEADER_BYTES + header.len();
        if self.buffer.len() < len {
            return Err(WireError::Truncated);
        }
        let mut bytes = self.buffer.split_to(len);
        if self.buffer.is_empty() || len > READ_CHUNK {
            // The memory is passed on with the frame, so a connection that falls silent after it holds none.
            self.buffer = BytesMut::from(&self.buffer[..]);
        }
        bytes.advance(HEADER_BYTES);
        header.frame(bytes.freeze())
    }

    /// Reads the next frame, which must be of the `expected` kind (or, among a client's messages, a sign of life).
    /// `None` if the stream ends between two frames.
    ///
    /// # Errors
    /// [`WireError`]: the stream cannot be used any more.
    ///
    /// # Cancel safety
    /// Cancel safe: the beginning of a frame is kept for the next call.
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

    /// The next [`ClientMessage`](crate::message::ClientMessage). Signs of life are skipped.
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

    /// Reads the hello at the beginning of a connection. Use a time-out: a caller may never send it.
    ///
    /// # Errors
    /// As [`read`](Self::read); also at the end of the stream.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn read_hello(&mut self) -> Result<Hello, WireError> {
        self.read(Kind::Hello).await?.ok_or(WireError::Truncated)?.hello()
    }

    /// Reads the reply to the hello. Use a time-out.
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

/// Writes frames. It collects what is pushed, so that many frames are sent with one write and one flush.
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

    /// Queues a complete frame, as the `encode_` functions return it. Nothing is sent before a flush.
    pub fn push(&mut self, frame: Bytes) {
        self.queued += frame.len();
        if frame.len() < LARGE_FRAME {
            self.tail.extend_from_slice(&frame);
        } else {
            self.seal_tail();
            self.queue.push_back(frame);
        }
    }

    /// How many bytes are queued and not yet written, for limits on memory.
    #[must_use]
    pub const fn queued_bytes(&self) -> usize {
        self.queued
    }

    /// Returns whether everything pushed has been written and flushed.
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
    /// Cancel safe: a later flush continues where this one was dropped.
    pub async fn flush(&mut self) -> io::Result<()> {
        // Yields to others regularly, even while the stream accepts everything at once.
        while !std::future::poll_fn(|cx| self.poll_write(cx, TURN_BYTES)).await? {
            tokio::task::yield_now().await;
        }
        std::future::poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// [`flush`](Self::flush) for tasks that poll several writers.
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

    /// Writes at most about this many bytes; returns whether that was all.
    fn poll_write(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<io::Result<bool>> {
        self.seal_tail();
        let mut room = most;
        while let Some(front) = self.queue.front_mut() {
            if room == 0 {
                return Poll::Ready(Ok(false));
            }
            // Always in parts of the same size, whatever `most` is: after `Pending`, the stream must be offered the
            // same bytes again.
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
