//! How to find frames in a byte stream.

/// How to find the borders of frames in a byte stream.
#[derive(Clone, Copy, Debug)]
pub struct Framing {
    header: usize,
    limit: usize,
    length: fn(&[u8]) -> Option<usize>,
}

impl Framing {
    /// Frames begin with a header of `header_bytes` bytes, from which `length` tells the length of the whole
    /// frame, header included. `None`, a length below `header_bytes` or above `max_bytes` says that these are not
    /// frames: the rest of that stream is then taken as with [`Framing::raw`].
    ///
    /// # Panics
    /// If `header_bytes` is 0 or above `max_bytes`.
    pub fn new(header_bytes: usize, max_bytes: usize, length: fn(&[u8]) -> Option<usize>) -> Self {
        assert!(header_bytes > 0, "a header of no bytes tells no length");
        assert!(header_bytes <= max_bytes, "a frame cannot be shorter than its header");
        Self { header: header_bytes, limit: max_bytes, length }
    }

    /// No frames: each write is a unit, and on the reading side whatever arrived together.
    pub fn raw() -> Self {
        Self { header: 0, limit: 0, length: |_| None }
    }
}
