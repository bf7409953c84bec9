//! How long the files of runs and the steps of merges are. All files of the state are open, so they must not be many; and
//! while runs are merged, the file of each that is merged in part takes room, so they must not be long either.

/// A file of a run is not longer than this, so that a merge of many can remove them one by one.
const LONGEST_FILE: u64 = 1 << 30;
/// Nor longer than this part of all files.
const FILES: u64 = 64;
/// Runs that are merged are divided into about so many files, unless those would be too short. While a run is merged, one
/// of its files is still there of which a part does not count any more.
const FILES_PER_RUN: u64 = 16;
/// A file is at least as long as this part of all files, so that there are not too many of all runs together.
const MOST_FILES: u64 = 256;
/// A file is not shorter than this, if the memtables are not.
const SHORTEST_FILE: u64 = 4 << 20;
/// A received file is not shorter than so many of the shortest ones.
const RECEIVED: u64 = 16;
/// A merge writes about this much in one step, or one file if that is longer.
const STEP: u64 = 32 << 20;

/// How long files and steps are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    memtable: u64,
    file: u64,
    step: u64,
}

impl Sizes {
    /// For memtables of so many bytes.
    pub(super) fn of(memtable_bytes: usize) -> Self {
        let bytes = memtable_bytes as u64;
        let file = (bytes / 8).clamp(4 << 10, SHORTEST_FILE);
        Self { memtable: bytes, file, step: bytes.clamp(8 << 10, STEP) }
    }

    /// The length of a file of a run of so many bytes that a merge writes, in a state of so many bytes.
    pub(super) fn merged_file(&self, run: u64, all: u64) -> u64 {
        (all / FILES).min(run / FILES_PER_RUN).max(all / MOST_FILES).clamp(self.file, LONGEST_FILE)
    }

    /// The length of a file of a checkpoint, in a state of so many bytes before it. It is merged soon, and takes little
    /// room then.
    pub(super) fn checkpoint_file(&self, all: u64) -> u64 {
        ((all + self.memtable) / FILES).clamp(self.file, LONGEST_FILE)
    }

    /// The length of the next file of a state of which so many bytes have been received. How long it gets is not known,
    /// so the first files are longer than others: all of them are open at the same time.
    pub(super) fn received(&self, bytes: u64) -> u64 {
        (bytes / FILES).clamp(RECEIVED * self.file, LONGEST_FILE)
    }

    /// About how much a step of a merge writes, in files of this length: only whole ones.
    pub(super) fn step(&self, file: u64) -> u64 {
        self.step.div_ceil(file) * file
    }

    /// How much longer than usual the files may be before all runs are merged.
    pub(super) fn slack(&self) -> u64 {
        self.step / 2
    }
}
