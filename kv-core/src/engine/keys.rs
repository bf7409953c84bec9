//! Ranges of keys.

/// A range of keys, and the order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Keys<'a> {
    /// The first key (inclusive).
    pub from: &'a [u8],
    /// The end (exclusive); `None` for the end of the key space.
    pub to: Option<&'a [u8]>,
    /// Whether to begin at the end of the range.
    pub reverse: bool,
}

impl<'a> From<&'a [u8]> for Keys<'a> {
    /// All keys from this one on.
    fn from(from: &'a [u8]) -> Self {
        Self { from, to: None, reverse: false }
    }
}
