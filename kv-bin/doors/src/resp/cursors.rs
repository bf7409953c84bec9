//! The cursors of `SCAN`.

use bytes::Bytes;
use std::collections::{HashMap, VecDeque};

/// How many cursors a door remembers. When it needs more, the oldest are forgotten.
const MAX_CURSORS: usize = 4096;

/// A cursor is a number, as in Redis. The door remembers which key it stands for, so that any connection can use it.
#[derive(Debug)]
pub(crate) struct Cursors {
    next: u64,
    keys: HashMap<u64, Bytes>,
    order: VecDeque<u64>,
}

impl Default for Cursors {
    fn default() -> Self {
        // A random start: the cursor of another door must not mean a different key here. Some clients keep a cursor in
        // 53 or 63 bits.
        Self { next: fastrand::u64(1..1 << 52), keys: HashMap::new(), order: VecDeque::new() }
    }
}

impl Cursors {
    /// A cursor that continues after this key.
    pub(crate) fn after(&mut self, key: Bytes) -> u64 {
        if self.order.len() >= MAX_CURSORS
            && let Some(oldest) = self.order.pop_front()
        {
            self.keys.remove(&oldest);
        }
        let cursor = self.next;
        self.next += 1;
        self.keys.insert(cursor, key);
        self.order.push_back(cursor);
        cursor
    }

    /// The key after which a cursor continues. A cursor can be used more than once.
    pub(crate) fn key(&self, cursor: u64) -> Option<Bytes> {
        self.keys.get(&cursor).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_cursor_is_forgotten_first() {
        let mut cursors = Cursors::default();
        let numbers: Vec<u64> =
            (0..=MAX_CURSORS).map(|n| cursors.after(Bytes::from(n.to_string()))).collect();
        assert_eq!(cursors.key(numbers[0]), None);
        assert_eq!(cursors.key(numbers[1]), Some(Bytes::from_static(b"1")));
        assert_eq!(cursors.keys.len(), MAX_CURSORS);
    }
}
