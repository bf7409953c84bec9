//! How to find frames in a byte stream.

use bytes::{Bytes, BytesMut};

/// How to find the borders of frames in a byte stream, so that faults hit frames as a whole.
///
/// ```
/// use kv_transport::Framing;
/// // Two bytes of length, then as many bytes; at most 1,000 in all.
/// let framing = Framing::new(2, 1000, |header| Some(2 + usize::from(header[0]) * 256 + usize::from(header[1])));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Framing {
    header: usize,
    limit: usize,
    length: fn(&[u8]) -> Option<usize>,
}

impl Framing {
    /// Frames begin with a header of `header_bytes` bytes, from which `length` computes the length of the whole frame,
    /// header included. If `length` returns `None`, less than `header_bytes` or more than `max_bytes`, the bytes are
    /// not a frame, and the rest of the stream is treated as by [`Framing::raw`]. A frame is forwarded when it is
    /// complete. If the stream ends first, the incomplete frame is forwarded.
    ///
    /// # Panics
    /// If `header_bytes` is 0 or above `max_bytes`.
    pub fn new(header_bytes: usize, max_bytes: usize, length: fn(&[u8]) -> Option<usize>) -> Self {
        assert!(header_bytes > 0, "a header of no bytes contains no length");
        assert!(header_bytes <= max_bytes, "a frame cannot be shorter than its header");
        Self { header: header_bytes, limit: max_bytes, length }
    }

    /// The stream has no frames. Each write is a unit. On the reading side, the bytes that arrive together are a unit.
    pub fn raw() -> Self {
        Self { header: 0, limit: 0, length: |_| None }
    }

    fn is_raw(&self) -> bool {
        self.header == 0
    }
}

/// Splits a byte stream into frames.
#[derive(Debug)]
pub(super) struct Splitter {
    framing: Framing,
    /// The beginning of an incomplete frame: less than the framing's limit.
    partial: BytesMut,
    /// The length of that frame, once its header has arrived.
    expected: Option<usize>,
}

impl Splitter {
    pub(super) fn new(framing: Framing) -> Self {
        Self { framing, partial: BytesMut::new(), expected: None }
    }

    /// Takes the next bytes, and returns the frames that they complete.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Vec<Bytes> {
        if self.framing.is_raw() {
            return if bytes.is_empty() { Vec::new() } else { vec![Bytes::copy_from_slice(bytes)] };
        }
        self.partial.extend_from_slice(bytes);
        let mut frames = Vec::new();
        while let Some(length) = self.expected.or_else(|| self.next_length()) {
            if self.partial.len() < length {
                self.expected = Some(length);
                return frames;
            }
            self.expected = None;
            frames.push(self.partial.split_to(length).freeze());
        }
        if self.framing.is_raw() {
            frames.extend(self.finish());
        }
        frames
    }

    /// The rest of a frame that was never completed.
    pub(super) fn finish(&mut self) -> Option<Bytes> {
        self.expected = None;
        (!self.partial.is_empty()).then(|| self.partial.split().freeze())
    }

    /// The length of the frame at the front. Switches to raw if there is none.
    fn next_length(&mut self) -> Option<usize> {
        let header = self.partial.get(..self.framing.header)?;
        let length = (self.framing.length)(header)
            .filter(|length| (self.framing.header..=self.framing.limit).contains(length));
        if length.is_none() {
            self.framing = Framing::raw();
        }
        length
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One byte contains the number of bytes that follow; 255 is no frame.
    fn framing() -> Framing {
        Framing::new(1, 100, |header| (header[0] != 255).then(|| 1 + usize::from(header[0])))
    }

    #[test]
    fn frames_are_found_however_the_stream_is_cut() {
        let stream = b"\x03abc\x00\x01x\x05hello";
        for cut in 1..=stream.len() {
            let mut splitter = Splitter::new(framing());
            let frames: Vec<Bytes> = stream.chunks(cut).flat_map(|chunk| splitter.push(chunk)).collect();
            assert_eq!(frames, [&b"\x03abc"[..], b"\x00", b"\x01x", b"\x05hello"], "in chunks of {cut}");
            assert_eq!(splitter.finish(), None);
        }
    }

    #[test]
    fn an_incomplete_frame_is_delivered_at_the_end() {
        let mut splitter = Splitter::new(framing());
        assert_eq!(splitter.push(b"\x01x\x05he"), [&b"\x01x"[..]]);
        assert_eq!(splitter.finish().unwrap(), &b"\x05he"[..]);
    }

    #[test]
    fn bytes_that_are_not_frames_pass_unchanged() {
        for (bad, name) in [(255, "not a header"), (100, "too long")] {
            let mut splitter = Splitter::new(framing());
            assert_eq!(splitter.push(&[1, b'x', bad, b'y']), [&[1, b'x'][..], &[bad, b'y']], "{name}");
            assert_eq!(splitter.push(b"z\x01"), [&b"z\x01"[..]], "{name}");
            assert_eq!(splitter.finish(), None);
        }
    }
}
