//! Reads a file ahead, in small parts. The operating system would read parts of many megabytes once the file
//! is read sequentially, and the journal's writes would wait for them on the device, for many milliseconds.

use crate::storage::File;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// The number of bytes that are read ahead at once.
const WINDOW: u64 = 128 << 10;
/// How many windows are remembered.
const REMEMBERED: usize = 16;
/// Marks a window that was read ahead and needs nothing more.
const DONE: u64 = 1 << 63;

/// The windows of which a block was read recently.
#[derive(Debug)]
pub(super) struct Readahead([AtomicU64; REMEMBERED]);

impl Readahead {
    pub(super) fn new() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(u64::MAX)))
    }

    /// These bytes of the file are about to be read. On the second block in a window, the rest of the window is read
    /// ahead. A single block, as in a look-up, is read alone.
    pub(super) fn reading(&self, file: &dyn File, bytes: Range<u64>) {
        let window = bytes.start / WINDOW;
        if bytes.end - bytes.start > WINDOW {
            // The system knows enough.
            return;
        }
        let place = &self.0[usize::try_from(window % REMEMBERED as u64).expect("it is below the length")];
        let seen = place.load(Ordering::Relaxed);
        if seen == window {
            place.store(window | DONE, Ordering::Relaxed);
            file.read_ahead(window * WINDOW..(window + 1) * WINDOW);
        } else if seen != window | DONE {
            place.store(window, Ordering::Relaxed);
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
        const BLOCK: u64 = 16 << 10;
        let (file, readahead) = (Recorder::default(), Readahead::new());
        let read = |at: u64, len: u64| {
            readahead.reading(&file, at..at + len);
            let mut ahead = file.0.lock().expect("no panic");
            ahead.drain(..).map(|ahead| (ahead.start, ahead.end)).collect::<Vec<_>>()
        };
        assert_eq!(read(3 * BLOCK, BLOCK), []);
        assert_eq!(read(WINDOW + 3 * BLOCK, BLOCK), [], "another window");
        assert_eq!(read(4 * BLOCK, BLOCK), [(0, WINDOW)]);
        assert_eq!(read(5 * BLOCK, BLOCK), [], "it is there");
        assert_eq!(read(WINDOW + 7 * BLOCK, BLOCK), [(WINDOW, 2 * WINDOW)]);
        assert_eq!(read(2 * WINDOW, 2 * WINDOW), [], "what is read at once needs nothing ahead");
        // A window far away replaces it, and then it starts again.
        assert_eq!(read(WINDOW * REMEMBERED as u64, BLOCK), []);
        assert_eq!(read(6 * BLOCK, BLOCK), []);
        assert_eq!(read(7 * BLOCK, BLOCK), [(0, WINDOW)]);
    }
}
