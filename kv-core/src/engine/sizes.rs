//! How long the files of runs and the steps of merges are. All files of the state are open, so they must not be many:
//! all runs together have at most about 256. While runs are merged, the file of each that is merged in part takes room,
//! so files must not be long either.

/// A file of a run is not longer than this, so that a merge of many can remove them one by one.
const LONGEST_FILE: u64 = 1 << 30;
/// Nor longer than this part of all files.
const FILES: u64 = 64;
/// Runs that are merged are divided into about so many files, unless those would be too short. While a run is merged,
/// one of its files is still there of which a part does not count any more.
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

#[cfg(test)]
mod tests {
    use super::super::policy::{self, Shape};
    use super::*;

    /// A run, and how many files it has.
    type Files = Vec<(Shape, u64)>;

    fn count(runs: &[(Shape, u64)]) -> u64 {
        runs.iter().map(|(_, files)| files).sum()
    }

    /// Writes checkpoints until there are so many bytes, and merges. From some length of the state on, all files that
    /// were there then are held. Returns the most open files.
    fn most_files(memtable: u64, until: u64, held_from: u64) -> u64 {
        let sizes = Sizes::of(usize::try_from(memtable).unwrap());
        let (mut runs, mut held, mut gone, mut all, mut most) = (Files::new(), false, (0, 0), 0, 0);
        for id in 0.. {
            if !held && all >= held_from {
                held = true;
                runs.iter_mut().for_each(|(run, _)| run.held = run.bytes);
            }
            let files = memtable.div_ceil(sizes.checkpoint_file(all));
            runs.insert(0, (Shape { id, bytes: memtable, held: 0, into: None }, files));
            all += memtable;
            let shapes = |runs: &Files| runs.iter().map(|(run, _)| *run).collect::<Vec<_>>();
            while let Some(plan) = policy::next(&shapes(&runs), false, (all / 32).saturating_sub(gone.0)) {
                let inputs = &runs[plan.inputs.clone()];
                let files = plan.bytes.div_ceil(sizes.merged_file(plan.bytes, all));
                // While it goes on, a file of each input is there in part.
                let (before, parts) = (count(inputs), inputs.len() as u64);
                most = most.max(gone.1 + count(&runs) - before + before.max(files) + parts + 1);
                for (run, files) in inputs.iter().filter(|(run, _)| run.held > 0) {
                    gone = (gone.0 + run.held, gone.1 + files);
                }
                let run = Shape { id, bytes: plan.bytes, held: 0, into: None };
                runs.splice(plan.inputs, [(run, files)]);
            }
            most = most.max(gone.1 + count(&runs));
            if all >= until {
                break;
            }
        }
        most
    }

    /// All files of all runs are open, whatever the lengths of the runs, also while a state is sent.
    #[test]
    fn all_runs_together_have_few_files() {
        const GIB: u64 = 1 << 30;
        for memtable in [32 << 20, 256 << 20] {
            for state in [1, 10, 100].map(|gib| gib * GIB) {
                let most = most_files(memtable, state, u64::MAX);
                assert!((60..200).contains(&most), "{most} files of {state} bytes");
                let most = most_files(memtable, state, state / 2);
                assert!((60..256).contains(&most), "{most} files of {state} bytes, half of them sent");
            }
        }
    }

    #[test]
    fn steps_write_whole_files() {
        let sizes = Sizes::of(32 << 20);
        for file in [4 << 20, 5 << 20, 20 << 20, 32 << 20, 33 << 20] {
            let step = sizes.step(file);
            assert!(
                step.is_multiple_of(file) && step >= 32 << 20 && step < (32 << 20) + file,
                "{step} for {file}"
            );
        }
    }

    /// A first checkpoint is divided like a state of its length.
    #[test]
    fn a_large_checkpoint_has_few_files() {
        let sizes = Sizes::of(4 << 30);
        assert!((4_u64 << 30).div_ceil(sizes.checkpoint_file(0)) <= 64);
        assert!((4_u64 << 30).div_ceil(sizes.checkpoint_file(100 << 30)) <= 4);
    }
}
