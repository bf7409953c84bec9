//! What happened, as a hash and, if requested, as text.

use std::collections::VecDeque;

/// A hash over all events, and the last of them as text if requested.
#[derive(Debug)]
pub(super) struct Trace {
    hash: u64,
    events: u64,
    kept: usize,
    words: VecDeque<String>,
}

impl Trace {
    /// Creates a trace that keeps this many events as text.
    pub(super) fn new(kept: usize) -> Self {
        Self { hash: 0x9e37_79b9_7f4a_7c15, events: 0, kept, words: VecDeque::new() }
    }

    /// Records an event: its kind, and two numbers that distinguish it from others of its kind. `words` is called only
    /// if text is kept.
    pub(super) fn note(&mut self, kind: u8, a: u64, b: u64, words: impl FnOnce() -> String) {
        self.events += 1;
        self.mix(u64::from(kind));
        self.mix(a);
        self.mix(b);
        if self.kept > 0 {
            if self.words.len() == self.kept {
                self.words.pop_front();
            }
            self.words.push_back(words());
        }
    }

    const fn mix(&mut self, value: u64) {
        let mixed = (self.hash ^ value).wrapping_mul(0xff51_afd7_ed55_8ccd);
        self.hash = mixed ^ (mixed >> 29);
    }

    /// The hash so far.
    pub(super) const fn hash(&self) -> u64 {
        self.hash
    }

    /// The number of events.
    pub(super) const fn events(&self) -> u64 {
        self.events
    }

    /// The last events as text.
    pub(super) fn into_words(self) -> Vec<String> {
        self.words.into()
    }
}
