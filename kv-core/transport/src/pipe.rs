//! A bounded byte pipe inside the process: one direction of a connection.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How the pipe was ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// The pipe ended normally. The reader reads everything that was written, and then end of file.
    Ended,
    /// The pipe ended with an error, which both ends get at once. Unread data is lost.
    Broken(io::ErrorKind),
}

#[derive(Debug, Default)]
struct PipeState {
    /// The bytes that were written and not yet read: at most `capacity`.
    bytes: VecDeque<u8>,
    capacity: usize,
    end: Option<End>,
    reader_gone: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
    watch: Option<Waker>,
}

impl PipeState {
    fn finish(&mut self, end: End) {
        if self.end.is_none() {
            self.end = Some(end);
            if let End::Broken(_) = end {
                self.bytes.clear();
            }
            self.wake_all();
        }
    }

    fn wake_all(&mut self) {
        for waker in [self.reader.take(), self.writer.take(), self.watch.take()].into_iter().flatten() {
            waker.wake();
        }
    }
}

/// Creates a pipe that holds up to `capacity` bytes.
pub(crate) fn pipe(capacity: usize) -> (PipeWriter, PipeReader) {
    assert!(capacity > 0, "a pipe that holds nothing passes nothing");
    let state = Arc::new(Mutex::new(PipeState { capacity, ..PipeState::default() }));
    (PipeWriter(Arc::clone(&state)), PipeReader(state))
}

fn lock(state: &Mutex<PipeState>) -> MutexGuard<'_, PipeState> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The writing end. Dropping it ends the pipe normally.
#[derive(Debug)]
pub(crate) struct PipeWriter(Arc<Mutex<PipeState>>);

impl PipeWriter {
    /// Ends the pipe. If the pipe has already ended, nothing changes.
    pub(crate) fn finish(&self, end: End) {
        lock(&self.0).finish(end);
    }

    /// Returns a handle with which another task can wait until the reader is dropped, and can end the pipe. There may
    /// be only one observer.
    pub(crate) fn watch(&self) -> PipeWatch {
        PipeWatch(Arc::clone(&self.0))
    }
}

impl AsyncWrite for PipeWriter {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = lock(&self.0);
        match state.end {
            Some(End::Broken(kind)) => return Poll::Ready(Err(kind.into())),
            None if !state.reader_gone => {}
            _ => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
        let n = buf.len().min(state.capacity - state.bytes.len());
        if n == 0 && !buf.is_empty() {
            state.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        state.bytes.extend(&buf[..n]);
        if let Some(waker) = state.reader.take() {
            waker.wake();
        }
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match lock(&self.0).end {
            Some(End::Broken(kind)) => Poll::Ready(Err(kind.into())),
            _ => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finish(End::Ended);
        Poll::Ready(Ok(()))
    }
}

impl Drop for PipeWriter {
    fn drop(&mut self) {
        self.finish(End::Ended);
    }
}

/// Notices that the reader of a pipe was dropped, and can end the pipe in place of the writer.
#[derive(Debug)]
pub(crate) struct PipeWatch(Arc<Mutex<PipeState>>);

impl PipeWatch {
    /// Ends the pipe, like [`PipeWriter::finish`].
    pub(crate) fn finish(&self, end: End) {
        lock(&self.0).finish(end);
    }

    /// Waits until the reader has been dropped.
    pub(crate) async fn reader_gone(&self) {
        std::future::poll_fn(|cx| {
            let mut state = lock(&self.0);
            if state.reader_gone {
                return Poll::Ready(());
            }
            state.watch = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// The reading end. After it is dropped, writing to the pipe fails.
#[derive(Debug)]
pub(crate) struct PipeReader(Arc<Mutex<PipeState>>);

impl AsyncRead for PipeReader {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = lock(&self.0);
        if state.bytes.is_empty() {
            return match state.end {
                Some(End::Ended) => Poll::Ready(Ok(())),
                Some(End::Broken(kind)) => Poll::Ready(Err(kind.into())),
                None => {
                    state.reader = Some(cx.waker().clone());
                    Poll::Pending
                }
            };
        }
        let n = buf.remaining().min(state.bytes.len());
        let (front, back) = state.bytes.as_slices();
        let from_front = n.min(front.len());
        buf.put_slice(&front[..from_front]);
        buf.put_slice(&back[..n - from_front]);
        state.bytes.drain(..n);
        if let Some(waker) = state.writer.take() {
            waker.wake();
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for PipeReader {
    fn drop(&mut self) {
        let mut state = lock(&self.0);
        state.reader_gone = true;
        state.bytes = VecDeque::new();
        state.wake_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn a_full_pipe_holds_the_writer_until_there_is_room() {
        let (mut writer, mut reader) = pipe(4);
        assert_eq!(writer.write(b"abcdef").await.unwrap(), 4);
        let mut waiting = std::pin::pin!(writer.write(b"ef"));
        assert!(futures_poll(waiting.as_mut()).is_none());
        let mut one = [0; 1];
        reader.read_exact(&mut one).await.unwrap();
        assert_eq!(waiting.await.unwrap(), 1);
    }

    #[tokio::test]
    async fn only_a_cleanly_ended_pipe_is_read_to_its_end() {
        let (mut writer, mut reader) = pipe(16);
        writer.write_all(b"all").await.unwrap();
        drop(writer);
        let mut got = Vec::new();
        reader.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"all");

        let (mut writer, mut reader) = pipe(16);
        writer.write_all(b"all").await.unwrap();
        writer.finish(End::Broken(io::ErrorKind::ConnectionReset));
        assert_eq!(reader.read_u8().await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(writer.write(b"x").await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn a_dropped_reader_wakes_and_fails_the_writer() {
        let (mut writer, reader) = pipe(1);
        writer.write_all(b"a").await.unwrap();
        let waiting = tokio::spawn(async move {
            let error = writer.write(b"b").await.unwrap_err();
            writer.watch().reader_gone().await;
            error.kind()
        });
        tokio::task::yield_now().await;
        drop(reader);
        assert_eq!(waiting.await.unwrap(), io::ErrorKind::BrokenPipe);
    }

    fn futures_poll<F: Future>(future: Pin<&mut F>) -> Option<F::Output> {
        match future.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    }
}
