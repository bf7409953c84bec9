//! Reads the state's file ahead, in small parts. The operating system would read parts of many megabytes once the file
//! is read sequentially, and the journal's writes would wait for them on the device, for many milliseconds.

use super::head::BLOCK;
use crate::storage::File;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// The number of blocks that are read ahead at once: 128 KiB.
const WINDOW: u64 = 32;
/// How many windows are remembered.
const REMEMBERED: usize = 64;
/// Marks a window that was read ahead and needs nothing more.
const DONE: u64 = 1 << 63;

/// The windows of which a block was read recently.
#[derive(Debug)]
pub(super) struct Readahead([AtomicU64; REMEMBERED]);

impl Readahead {
    pub(super) fn new() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(u64::MAX)))
    }

    /// These bytes of the file are about to be read. On the second block of a window, the rest of the window is read
    /// ahead. A single block, as in a look-up, is read alone.
    pub(super) fn reading(&self, file: &dyn File, bytes: Range<u64>) {
        let first = bytes.start / BLOCK as u64 / WINDOW;
        let last = bytes.end.saturating_sub(1) / BLOCK as u64 / WINDOW;
        if first != last || bytes.end - bytes.start > BLOCK as u64 {
            // The test knows enough.
            return;
        }
        let place = &self.0[usize::try_from(first % REMEMBERED as u64).expect("it is below the length")];
        let seen = place.load(Ordering::Relaxed);
        if seen == first {
            place.store(first | DONE, Ordering::Relaxed);
            let start = first * WINDOW * BLOCK as u64;
            file.read_ahead(start..start + WINDOW * BLOCK as u64);
        } else if seen != first | DONE {
            place.store(first, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::Mutex;

    #[derive(Debug, Default)]
    struct Recorder(Mutex<Vec<Range<u64>>>);

    impl File for Recorder {
        fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<()> {
            Ok(())
        }

        fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
            Ok(())
        }

        fn sync(&self) -> io::Result<()> {
            Ok(())
        }

        fn drop_cache(&self) -> io::Result<()> {
            Ok(())
        }

        fn read_ahead(&self, range: Range<u64>) {
            self.0.lock().expect("no panic").push(range);
        }

        fn len(&self) -> io::Result<u64> {
            Ok(0)
        }

        fn set_len(&self, _: u64) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn readahead_starts_at_the_second_block_of_a_window() {
        let (file, readahead) = (Recorder::default(), Readahead::new());
        let read = |block: u64, blocks: u64| {
            let range = block * BLOCK as u64..(block + blocks) * BLOCK as u64;
            readahead.reading(&file, range);
            file.0
                .lock()
                .expect("no panic")
                .drain(..)
                .map(|ahead| (ahead.start, ahead.end))
                .collect::<Vec<_>>()
        };
        let window = WINDOW * BLOCK as u64;
        assert_eq!(read(3, 1), []);
        assert_eq!(read(WINDOW + 3, 1), [], "another window");
        assert_eq!(read(4, 1), [(0, window)]);
        assert_eq!(read(5, 1), [], "it is there");
        assert_eq!(read(WINDOW + 9, 1), [(window, 2 * window)]);
        assert_eq!(read(2 * WINDOW, 4), [], "what is read at once needs nothing ahead");
        // A window far away replaces it, and then it starts again.
        assert_eq!(read(WINDOW * REMEMBERED as u64, 1), []);
        assert_eq!(read(6, 1), []);
        assert_eq!(read(7, 1), [(0, window)]);
    }
}
