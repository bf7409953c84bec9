//! Reading and writing frames.

use super::*;
use futures::FutureExt;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

/// Gives the bytes in pieces of at most `step`, then pends for ever.
struct Trickle {
    bytes: Bytes,
    step: usize,
    /// Pends once before each piece.
    ready: bool,
}

impl AsyncRead for Trickle {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        self.ready = !self.ready;
        if self.bytes.is_empty() || !self.ready {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let step = self.step.min(self.bytes.len()).min(buffer.remaining());
        buffer.put_slice(&self.bytes.split_to(step));
        Poll::Ready(Ok(()))
    }
}

#[test]
fn reading_is_cancel_safe_and_needs_no_whole_frames() {
    let all = messages();
    let mut stream = BytesMut::new();
    all.iter().for_each(|message| stream.extend_from_slice(&encode_message(message)));
    for step in [1, 7, 64, 100_000] {
        let trickle = Trickle { bytes: stream.clone().freeze(), step, ready: false };
        let mut reader = FrameReader::new(trickle, DEFAULT_MAX_FRAME);
        let mut got = Vec::new();
        let mut polls = 0;
        while got.len() < all.len() {
            polls += 1;
            assert!(polls < 10 * stream.len(), "no progress with steps of {step}");
            // The future is dropped each time that it is not ready.
            if let Some(read) = reader.read_message().now_or_never() {
                got.push(read.unwrap().unwrap());
            }
        }
        assert_eq!(got, all, "steps of {step}");
    }
}

#[tokio::test]
async fn an_announced_length_alone_allocates_next_to_nothing() {
    let header = header_announcing(3, 16 << 20);
    let trickle = Trickle { bytes: Bytes::copy_from_slice(&header), step: 100, ready: false };
    let mut reader = FrameReader::new(trickle, DEFAULT_MAX_FRAME);
    for _ in 0..10 {
        assert!(reader.read(Kind::Message).now_or_never().is_none());
    }
    assert!(reader.buffer_capacity() <= 256 << 10, "{} bytes", reader.buffer_capacity());
}

/// TLS delivers 16 KiB at a time: the data received so far is not copied again each time.
#[tokio::test]
async fn a_large_frame_in_many_parts_is_copied_a_few_times() {
    let call = ClientMessage { call: 1, what: ClientCall::Write(vec![7; 2 << 20].into()) };
    let frame = encode_client_message(&call);
    let parts = Trickle { bytes: frame.clone(), step: 16 << 10, ready: false };
    let mut reader = FrameReader::new(parts, DEFAULT_MAX_FRAME);
    let (mut reads, mut copied) = (0, 0);
    while let Some(want) = reader.wants(Kind::Client).unwrap() {
        let (held, before) = (reader.buffered_bytes(), reader.buffer_capacity());
        assert!(reader.fill(want).await.unwrap());
        reads += 1;
        copied += if reader.buffer_capacity() == before { 0 } else { held };
    }
    assert_eq!(reader.take(Kind::Client).unwrap().client_message().unwrap(), call);
    assert!(reads > 100, "{reads} reads");
    assert!(copied <= 2 * frame.len(), "{copied} bytes were copied for {}", frame.len());
}

#[tokio::test]
async fn a_stranger_is_refused_within_the_bounds_of_a_hello() {
    // F-input-1, F-input-9: before the hello nothing but a hello is read, whatever comes.
    for bytes in [vec![0x16; 100_000], encode_message(&messages()[0]).to_vec()] {
        let mut reader = FrameReader::new(&bytes[..], DEFAULT_MAX_FRAME);
        assert!(reader.read_hello().await.is_err());
        assert!(reader.buffer_capacity() <= 2 * (MAX_HELLO + HEADER_BYTES));
    }
}

#[tokio::test]
async fn the_end_of_a_stream_is_clean_only_between_frames() {
    let frame = encode_message(&messages()[1]);
    for len in 0..=frame.len() {
        let mut reader = FrameReader::new(&frame[..len], DEFAULT_MAX_FRAME);
        let read = reader.read_message().await;
        match len {
            0 => assert!(read.unwrap().is_none()),
            _ if len == frame.len() => assert!(read.unwrap().is_some()),
            _ => assert!(matches!(read, Err(WireError::Truncated)), "{len} bytes"),
        }
    }
    let mut reader = FrameReader::new(&[][..], DEFAULT_MAX_FRAME);
    assert!(matches!(reader.read_hello().await, Err(WireError::Truncated)));
}

#[tokio::test]
async fn large_frames_pass_in_both_directions() {
    let value = Bytes::from(vec![7; 3 << 20]);
    let record = Record {
        value,
        created: Revision::new(1),
        modified: Revision::new(1),
        version: 1,
        expires: None,
        lease: None,
    };
    let message =
        ServerMessage { call: 1, answer: Answer::Value { record: Some(record), revision: Revision::new(1) } };
    let (near, far) = tokio::io::duplex(10_000);
    let (frame, small) = (encode_server_message(&message), encode_server_message(&server_messages()[0]));
    let writer = tokio::spawn(async move {
        let mut writer = FrameWriter::new(near);
        writer.push(small.clone());
        writer.push(frame);
        writer.push(small);
        writer.flush().await.unwrap();
        assert!(writer.is_idle());
    });
    let mut reader = FrameReader::new(far, DEFAULT_MAX_FRAME);
    assert_eq!(reader.read_server_message().await.unwrap(), Some(server_messages()[0].clone()));
    assert_eq!(reader.read_server_message().await.unwrap(), Some(message));
    assert_eq!(reader.read_server_message().await.unwrap(), Some(server_messages()[0].clone()));
    writer.await.unwrap();
    assert!(reader.read_server_message().await.unwrap().is_none());
}

/// Counts what reaches it.
#[derive(Default)]
struct Counting {
    bytes: Vec<u8>,
    writes: usize,
    flushes: usize,
}

impl AsyncWrite for Counting {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.writes += 1;
        self.bytes.extend_from_slice(data);
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.flushes += 1;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn many_frames_make_one_write_and_one_flush() {
    let mut sink = Counting::default();
    let mut expected = Vec::new();
    let mut writer = FrameWriter::new(&mut sink);
    for message in messages() {
        let frame = encode_message(&message);
        expected.extend_from_slice(&frame);
        writer.push(frame);
    }
    assert_eq!(writer.queued_bytes(), expected.len());
    writer.flush().await.unwrap();
    writer.flush().await.unwrap();
    assert_eq!(writer.queued_bytes(), 0);
    assert_eq!((sink.writes, sink.flushes), (1, 1));
    assert_eq!(sink.bytes, expected);
}

/// F-load-9: a large write to a fast connection does not delay other tasks until all of it is written.
#[tokio::test]
async fn f_load_9_a_large_flush_gives_way_to_other_tasks() {
    let mut sink = Counting::default();
    let mut writer = FrameWriter::new(&mut sink);
    writer.push(Bytes::from(vec![7; 3 * TURN_BYTES]));
    for turn in 1..=2 {
        assert!(writer.flush().now_or_never().is_none(), "others have a turn after part {turn}");
    }
    assert!(writer.flush().now_or_never().is_some_and(|flushed| flushed.is_ok()), "a dropped flush goes on");
    assert_eq!((sink.writes, sink.flushes, sink.bytes.len()), (3, 1, 3 * TURN_BYTES));
}

#[tokio::test]
async fn a_dropped_flush_continues_later() {
    let (near, far) = tokio::io::duplex(50);
    let mut writer = FrameWriter::new(near);
    messages().iter().for_each(|message| writer.push(encode_message(message)));
    assert!(writer.flush().now_or_never().is_none(), "the pipe is full");
    let reading = tokio::spawn(async move {
        let mut reader = FrameReader::new(far, DEFAULT_MAX_FRAME);
        let mut got = Vec::new();
        while let Some(message) = reader.read_message().await.unwrap() {
            got.push(message);
        }
        got
    });
    while !writer.is_idle() {
        // Drops a flush after each bit of progress.
        let _ = tokio::time::timeout(Duration::from_micros(10), writer.flush()).await;
    }
    drop(writer);
    assert_eq!(reading.await.unwrap(), messages());
}

#[tokio::test]
async fn a_closed_stream_fails_the_flush() {
    let (near, far) = tokio::io::duplex(50);
    drop(far);
    let mut writer = FrameWriter::new(near);
    writer.push(encode_message(&messages()[0]));
    assert!(writer.flush().await.is_err());
    let (mut near, far) = tokio::io::duplex(50);
    near.write_all(b"xx").await.unwrap();
    drop(near);
    assert!(matches!(FrameReader::new(far, 10).read_hello().await, Err(WireError::Truncated)));
}
