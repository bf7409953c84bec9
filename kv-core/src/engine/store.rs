//! The files of a state: checkpoints add a run, and merges replace several runs by one. Each change is one manifest.
//!
//! A merge goes on in steps. A step merges the runs' rows up to some place into files of their own, and then changes
//! the manifest: the new files belong to the run that the merge makes, and what lies up to that place in the merged
//! runs does not count any more. So a restart goes on where the merge was, and it needs little more room than the
//! state.

use super::EngineError;
use super::base::Base;
use super::canon::Canon;
use super::control::{Control, Progress};
use super::history::HistoryRange;
use super::manifest::{AllMerged, Manifest, Point};
use super::policy::{self, Plan, Shape};
use super::runs::{Cache, Merged, NewFiles, Run, RunFile, RunMeta, RunWriter, Target, name_of};
use super::sizes::Sizes;
use super::snapshot::HeldFiles;
use crate::ids::Anchor;
use crate::storage::Storage;
use bytes::Bytes;
use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The name of the manifest of the state.
pub(super) const NAME: &str = "state";

/// That of a damaged state, until another has replaced it.
pub(super) const ASIDE: &str = "state.damaged";

/// That of a state that is being received.
pub(super) const STAGING: &str = "state.transfer";

/// And reads at most this many times as much: much of it may not be needed any more.
const READ_PER_WRITTEN: u64 = 4;
/// Merge all runs if the files have this many times the bytes that are needed.
const GARBAGE: u64 = 2;
/// Merge all runs if so many more rows remove a key than after the last merge of all, or one for so many bytes that are
/// needed: a scan steps over each of them, and over what it removes.
const REMOVALS: u64 = if cfg!(test) { 256 } else { 1 << 16 };
const BYTES_PER_REMOVAL: u64 = 2048;
/// A merge reports progress after reading so many bytes.
const PROGRESS_BYTES: u64 = 256 << 10;
/// What a small file takes besides its rows, at most.
const FIXED: u64 = 16 << 10;
/// A byte that is needed takes at most so many in a file: long keys are in the index too, and their zeros take two.
const MOST_TAKEN: u64 = 8;
/// Files that a snapshot holds, and that were merged, take at most this part of the length of all files.
const HELD_PART: u64 = 32;
/// Above so many times the rows that remove a key, all runs are merged whatever is held.
const HELD_REMOVALS: u64 = 4;
/// If merges fail or are late, a checkpoint waits for them above this number of runs.
const MOST_RUNS: usize = 64;
/// A merge that found no room is tried again after so many checkpoints: until then, it would only write in vain.
const PUT_OFF: u64 = 4;

/// What is as durable as the newest manifest.
#[derive(Debug)]
struct State {
    next_run: u64,
    merged: Option<AllMerged>,
}

/// What the newest manifest names.
#[derive(Debug)]
struct Current {
    base: Arc<Base>,
    /// The op that it is at, if the manifest says so.
    at: Option<Anchor>,
    /// How many checkpoints were made here.
    checkpoints: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Store {
    name: &'static str,
    target: Target,
    sizes: Sizes,
    /// Locked while a manifest is written.
    state: Mutex<State>,
    /// Never locked during an operation of the disk. Only changed while `state` is locked.
    current: Mutex<Current>,
    /// Files that no manifest names any more, and that views or snapshots may still use. When the last user of a long
    /// file closes it, the file system frees its room, which takes a while. So that is done here, by merges.
    removed: Mutex<Vec<Arc<RunFile>>>,
    /// Allows one step of a merge at a time.
    merging: Mutex<Option<PutOff>>,
    /// A checkpoint needs the room that a merge takes.
    wants_room: AtomicBool,
    /// A checkpoint waits for a merge.
    waits: Arc<AtomicBool>,
}

/// What is not merged until there may be room for it.
#[derive(Clone, Copy, Debug)]
struct PutOff {
    /// Runs that are so long together.
    bytes: u64,
    /// Until so many checkpoints were made.
    checkpoints: u64,
}

/// What a step of a merge came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MergeStep {
    /// It has merged something. There may be more to merge.
    Merged,
    /// Nothing is to be merged.
    Idle,
    /// There was no room on the disk. What was written was removed.
    NoRoom,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Opens the runs of a manifest. `all`: all of their files must be there.
pub(super) fn open_runs(
    storage: &dyn Storage,
    runs: Vec<RunMeta>,
    cache: &Arc<Cache>,
    all: bool,
) -> Result<Vec<Arc<Run>>, EngineError> {
    let open = |RunMeta { id, files, clip, into }| {
        let files = files.into_iter().map(|meta| RunFile::open(storage, meta, cache, all).map(Arc::new));
        Ok(Arc::new(Run { id, files: files.collect::<Result<_, EngineError>>()?, clip, into }))
    };
    runs.into_iter().map(open).collect()
}

impl Store {
    /// Opens the state of this name. Returns whether there is one; otherwise the first checkpoint creates it. `all`:
    /// all of its files must be there.
    pub(super) fn open(
        storage: Arc<dyn Storage>,
        name: &'static str,
        cache_bytes: usize,
        sizes: Sizes,
        all: bool,
    ) -> Result<(Self, bool), EngineError> {
        let found = Manifest::read(&*storage, name, all)?;
        let exists = found.is_some();
        if exists {
            // Its name may not be durable yet. All else is: it was renamed when it was.
            storage.sync_directory().map_err(|error| EngineError::io("open", error))?;
        }
        let manifest = found.unwrap_or_default();
        let cache = Arc::new(Cache::new(cache_bytes));
        let runs = open_runs(&*storage, manifest.runs, &cache, all)?;
        let base = match (Base::open(runs.clone()), manifest.point) {
            // The block that says so is bad. Others may be intact.
            (Err(error), Some(point)) if !all && error.is_of_content() => Base::new(runs, point.range),
            (base, _) => base?,
        };
        let base = Arc::new(base);
        let target = Target {
            storage,
            control: Arc::default(),
            cache,
            next: Arc::new(AtomicU64::new(manifest.next_file)),
            progress: Progress::default(),
        };
        let store = Self {
            name,
            target,
            sizes,
            state: Mutex::new(State { next_run: manifest.next_run, merged: manifest.merged }),
            current: Mutex::new(Current { base, at: manifest.point.map(|point| point.at), checkpoints: 0 }),
            removed: Mutex::default(),
            merging: Mutex::default(),
            wants_room: AtomicBool::new(false),
            waits: Arc::default(),
        };
        Ok((store, exists))
    }

    pub(super) fn control(&self) -> &Arc<Control> {
        &self.target.control
    }

    pub(super) fn base(&self) -> Arc<Base> {
        lock(&self.current).base.clone()
    }

    /// The op that the checkpoint is at, if the manifest says so.
    pub(super) fn at(&self) -> Option<Anchor> {
        lock(&self.current).at
    }

    /// The present runs, if there was no checkpoint since the `checkpoints`-th. Never waits for the disk.
    pub(super) fn base_of(&self, checkpoints: u64) -> Option<Arc<Base>> {
        let current = lock(&self.current);
        (current.checkpoints == checkpoints).then(|| current.base.clone())
    }

    /// The progress of checkpoints.
    pub(super) fn progress(&self) -> &Progress {
        &self.target.progress
    }

    /// The progress of a merge, which is that of a checkpoint too while that waits for it.
    pub(super) fn merge_progress(&self) -> Progress {
        self.progress().awaited(&self.waits)
    }

    /// A writer of files of this length.
    fn writer(&self, file: u64, progress: &Progress) -> RunWriter {
        RunWriter::new(Target { progress: progress.clone(), ..self.target.clone() }, file)
    }

    /// Writes the files of a run for [`add_run`](Self::add_run).
    pub(super) fn write_run(
        &self,
        write: impl Fn(&mut RunWriter) -> Result<(), EngineError>,
    ) -> Result<NewFiles, EngineError> {
        self.limit_runs()?;
        self.final_if_failed(self.with_room(|| {
            let file = self.sizes.checkpoint_file(bytes_of(self.base().runs()));
            let mut writer = self.writer(file, self.progress());
            write(&mut writer)?;
            writer.finish()
        }))
    }

    /// Does something for a checkpoint. If there is no room, it is done once more when no merge takes any: those can
    /// wait, and without the checkpoint the member stops.
    fn with_room<T>(&self, attempt: impl Fn() -> Result<T, EngineError>) -> Result<T, EngineError> {
        let full = match attempt() {
            Err(error) if error.is_full_disk() => error,
            done => return done,
        };
        tracing::warn!(error = %full, "no room for a checkpoint: it is tried once more without merges");
        let _none = self.await_merge(&self.wants_room);
        self.close_removed();
        // The room of what was removed is free when its name is gone durably.
        self.sync_names()?;
        attempt()
    }

    /// Waits for the step of a merge that is under way. No other begins before the guard is dropped. `flag`: set
    /// meanwhile.
    fn await_merge(&self, flag: &AtomicBool) -> MutexGuard<'_, Option<PutOff>> {
        flag.store(true, Ordering::Relaxed);
        let guard = lock(&self.merging);
        flag.store(false, Ordering::Relaxed);
        guard
    }

    fn sync_names(&self) -> Result<(), EngineError> {
        let synced = self.target.storage.sync_directory();
        synced.map_err(|error| EngineError::io(EngineError::SYNC_NAMES, error))
    }

    /// If merges are late, a checkpoint waits for the shortest ones. A state that was set aside is not merged: its runs
    /// may be damaged, and it is replaced soon.
    fn limit_runs(&self) -> Result<(), EngineError> {
        while self.name != ASIDE && self.base().runs().len() >= MOST_RUNS {
            self.target.control.check()?;
            let mut merging = self.await_merge(&self.waits);
            match self.merge_alone(&mut merging, Self::fewer, self.progress()) {
                Ok(MergeStep::Merged) => {}
                // What is damaged may not be needed: the next merge in the background reports it.
                Err(error) if error.is_of_content() => break,
                Ok(MergeStep::Idle | MergeStep::NoRoom) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Adds a run of these files, in one durable step. Then the state is at `at`. Returns the state, and how many
    /// checkpoints there were.
    pub(super) fn add_run(
        &self,
        at: Anchor,
        range: HistoryRange,
        files: NewFiles,
    ) -> Result<(Arc<Base>, u64), EngineError> {
        let added = self.with_room(|| {
            let mut state = lock(&self.state);
            let run = Run { id: state.next_run, files: files.all().to_vec(), clip: None, into: None };
            state.next_run += 1;
            let mut runs = self.base().runs().to_vec();
            runs.insert(0, Arc::new(run));
            let checkpoints = lock(&self.current).checkpoints + 1;
            let base = Arc::new(Base::new(runs, range));
            let new = Current { base: base.clone(), at: Some(at), checkpoints };
            self.commit(&state, new, self.progress())?;
            Ok((base, checkpoints))
        });
        // Before the failure is final: after that, nothing is removed.
        files.settle(&added);
        self.final_if_failed(added)
    }

    /// Nothing is written after a failure of the disk: it is unknown what it holds.
    fn final_if_failed<T>(&self, done: Result<T, EngineError>) -> Result<T, EngineError> {
        if done.as_ref().is_err_and(|error| !error.is_of_content()) {
            self.target.control.fail();
        }
        done
    }

    /// Makes these runs the state, durably, and removes the files that it does not need any more.
    fn commit(&self, state: &State, new: Current, progress: &Progress) -> Result<(), EngineError> {
        self.target.control.check()?;
        let manifest = Manifest {
            next_file: self.target.next.load(Ordering::Relaxed),
            next_run: state.next_run,
            runs: new.base.runs().iter().map(|run| run.meta()).collect(),
            merged: state.merged,
            point: new.at.map(|at| Point { at, range: new.base.range() }),
            received: None,
        };
        manifest.write(&*self.target.storage, self.name)?;
        let named: BTreeSet<u64> = manifest.runs.iter().flat_map(RunMeta::numbers).collect();
        let old = std::mem::replace(&mut *lock(&self.current), new).base;
        let gone = old.runs().iter().flat_map(|run| &run.files);
        for file in gone.filter(|file| !named.contains(&file.meta().number)) {
            // Readers may still have it open. If this fails, the next start removes it.
            let number = file.meta().number;
            if let Err(error) = self.target.storage.remove(&name_of(number)) {
                tracing::warn!(number, %error, "cannot remove a file of the state that is not needed any more");
            }
            lock(&self.removed).push(file.clone());
        }
        progress.step();
        Ok(())
    }

    /// Closes removed files that nobody else uses any more. Returns whether some are still used.
    pub(super) fn close_removed(&self) -> bool {
        let mut removed = lock(&self.removed);
        let (used, unused): (Vec<_>, Vec<_>) =
            std::mem::take(&mut *removed).into_iter().partition(|file| Arc::strong_count(file) > 1);
        let some = !used.is_empty();
        *removed = used;
        drop(removed);
        drop(unused);
        some
    }

    /// Merges some runs, if it is time, up to some place. Blocks, for a moment. A full disk is no failure: the merge is
    /// only put off.
    pub(super) fn merge_step(&self, held: &HeldFiles, progress: &Progress) -> Result<MergeStep, EngineError> {
        let mut put_off = lock(&self.merging);
        let done = self.merge_alone(&mut put_off, |base| self.plan(base, held), progress);
        if done.as_ref().is_err_and(EngineError::is_of_content) {
            // What is damaged may not be needed, so whoever reads the state may go on for a while.
            let checkpoints = lock(&self.current).checkpoints + PUT_OFF;
            *put_off = Some(PutOff { bytes: 0, checkpoints });
        }
        done
    }

    fn merge_alone(
        &self,
        put_off: &mut Option<PutOff>,
        plan: impl Fn(&Base) -> Option<Plan>,
        progress: &Progress,
    ) -> Result<MergeStep, EngineError> {
        self.target.control.check()?;
        self.close_removed();
        let (base, checkpoints) = {
            let current = lock(&self.current);
            (current.base.clone(), current.checkpoints)
        };
        let Some(plan) = plan(&base) else { return Ok(MergeStep::Idle) };
        if put_off.is_some_and(|off| plan.bytes >= off.bytes && checkpoints < off.checkpoints) {
            return Ok(MergeStep::NoRoom);
        }
        match self.merge(&base, &plan, progress) {
            Ok(()) => {
                *put_off = None;
                Ok(MergeStep::Merged)
            }
            Err(error) if error.is_full_disk() => {
                tracing::warn!(%error, "no room to merge files of the state: it is tried again later");
                *put_off = Some(PutOff { bytes: plan.bytes, checkpoints: checkpoints + PUT_OFF });
                // The room of what was removed is free when its name is gone durably.
                self.final_if_failed(self.sync_names()).map(|()| MergeStep::NoRoom)
            }
            Err(error) => self.final_if_failed(Err(error)),
        }
    }

    #[cfg(test)]
    pub(super) fn is_awaited(&self) -> bool {
        self.waits.load(Ordering::Relaxed)
    }

    /// How many files were removed and are still open.
    #[cfg(test)]
    pub(super) fn removed(&self) -> usize {
        lock(&self.removed).len()
    }

    #[cfg(test)]
    pub(super) fn removals(&self) -> u64 {
        removals_of(self.base().runs())
    }

    /// The length of the files, and about how much of it is needed.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> (u64, u64) {
        let base = self.base();
        (bytes_of(base.runs()), needed_of(&base))
    }

    /// What is merged next, of which not too much is held.
    fn plan(&self, base: &Base, held: &HeldFiles) -> Option<Plan> {
        let merged = lock(&self.state).merged;
        let (bytes, needed) = (bytes_of(base.runs()), needed_of(base));
        let most = most_bytes(needed, merged).saturating_add(self.sizes.slack());
        let kept = merged.map_or(0, |merged| merged.removals).min(base.range().most_changes());
        let (removals, most_removals) = (removals_of(base.runs()), most_removals(needed, kept));
        let garbage = bytes > most || removals > most_removals;
        // Scans may become slow, and the disk full: rather the disk.
        let most_held = if removals > most_removals.saturating_mul(HELD_REMOVALS) {
            u64::MAX
        } else {
            (bytes / HELD_PART).saturating_sub(held.bytes_without(base))
        };
        policy::next(&shapes(base, held), garbage, most_held)
    }

    /// What is merged so that there are fewer runs soon, whatever is held and not needed any more.
    fn fewer(base: &Base) -> Option<Plan> {
        policy::next(&shapes(base, &HeldFiles::default()), false, u64::MAX)
    }

    fn merge(&self, base: &Base, plan: &Plan, progress: &Progress) -> Result<(), EngineError> {
        let inputs = &base.runs()[plan.inputs.clone()];
        let clip = inputs[0].clip.clone().unwrap_or_default();
        let mut canon = Canon::new(base.floor(), plan.bottom, &clip);
        let mut rows = Merged::from(inputs, &clip, false)?;
        let written =
            base.runs().iter().find(|run| Some(run.id) == inputs[0].into).map_or(0, |run| run.bytes());
        let file = self.sizes.merged_file(written + plan.bytes, bytes_of(base.runs()));
        let mut writer = self.writer(file, progress);
        let step = self.sizes.step(file);
        let (mut read, mut last, mut through) = (0, Vec::new(), None);
        while let Some(place) = rows.place() {
            if writer.bytes() >= step || read >= READ_PER_WRITTEN * step {
                through = Some(Bytes::from(canon.through(last)));
                break;
            }
            self.target.control.check()?;
            if self.wants_room.load(Ordering::Relaxed) {
                return Err(EngineError::io("merge", io::ErrorKind::StorageFull.into()));
            }
            if canon.needs(place, || rows.removes())? {
                match rows.small_value()? {
                    Some(value) => writer.push(place, value)?,
                    None => writer.push(place, &rows.value()?)?,
                }
            }
            last.clear();
            last.extend_from_slice(place);
            let before = read;
            read += (place.len() + rows.value_len()?) as u64;
            if before / PROGRESS_BYTES != read / PROGRESS_BYTES {
                progress.step();
            }
            rows.advance()?;
        }
        let files = writer.finish()?;
        let replaced = self.replace(plan, inputs, files.all(), through, progress);
        files.settle(&replaced);
        replaced
    }

    /// What the inputs hold up to `through` is in `files` now; without a place, all that they hold.
    fn replace(
        &self,
        plan: &Plan,
        inputs: &[Arc<Run>],
        files: &[Arc<RunFile>],
        through: Option<Bytes>,
        progress: &Progress,
    ) -> Result<(), EngineError> {
        let mut state = lock(&self.state);
        let (before, at, checkpoints) = {
            let current = lock(&self.current);
            (current.base.clone(), current.at, current.checkpoints)
        };
        let into = inputs[0].into.unwrap_or(state.next_run);
        state.next_run = state.next_run.max(into + 1);
        let ids: BTreeSet<u64> = inputs.iter().map(|run| run.id).collect();
        let mut runs = Vec::new();
        let mut output = Run { id: into, files: Vec::new(), clip: None, into: None };
        // In front of the inputs: a step may end between two versions of a key, and the newer ones are in the output.
        let mut place = None;
        for run in before.runs() {
            if run.id == into {
                output.files.clone_from(&run.files);
            } else if !ids.contains(&run.id) {
                runs.push(run.clone());
            } else {
                place.get_or_insert(runs.len());
                if let Some(through) = &through {
                    let rest = Run { into: Some(into), ..run.clipped(through) };
                    runs.extend((!rest.files.is_empty()).then(|| Arc::new(rest)));
                }
            }
        }
        output.files.extend_from_slice(files);
        let ended = plan.bottom && runs.iter().all(|run| run.into != Some(into));
        let (length, removals) = (output.bytes(), output.removals());
        if !output.files.is_empty() {
            runs.insert(place.unwrap_or(0), Arc::new(output));
        }
        let base = Arc::new(Base::new(runs, before.range()));
        // There are newer runs too if many checkpoints were made meanwhile. What is needed of them counts here, too,
        // although it is not in the output: then all is merged rather too soon the next time.
        let now = || AllMerged { bytes: length, needed: needed_of(&base), removals };
        let merged = if ended { Some(now()) } else { state.merged };
        let merged_before = std::mem::replace(&mut state.merged, merged);
        let done = self.commit(&state, Current { base, at, checkpoints }, progress);
        if done.is_err() {
            state.merged = merged_before;
        }
        done
    }
}

fn shapes(base: &Base, held: &HeldFiles) -> Vec<Shape> {
    let shape = |run: &Arc<Run>| {
        let (bytes, held) = (run.bytes(), held.bytes_in(run));
        Shape { id: run.id, bytes, held, into: run.into }
    };
    base.runs().iter().map(shape).collect()
}

fn bytes_of(runs: &[Arc<Run>]) -> u64 {
    runs.iter().map(|run| run.bytes()).sum()
}

/// How long the files may be before all runs are merged into one, if so many bytes are needed. `merged`: how long those
/// were that held nothing else, and how many bytes were needed then. Small files have parts of a fixed length,
/// which say nothing of the others.
fn most_bytes(needed: u64, merged: Option<AllMerged>) -> u64 {
    let (files, then) = merged.map_or((0, 0), |merged| (merged.bytes, merged.needed));
    let (files, then) = (files.saturating_sub(FIXED), then.max(1));
    let extra = u128::from(files.saturating_sub(then)) * u128::from(needed) / u128::from(then);
    let taken = (u128::from(needed) + extra).min(u128::from(needed) * u128::from(MOST_TAKEN));
    u64::try_from(taken * u128::from(GARBAGE)).unwrap_or(u64::MAX)
}

fn removals_of(runs: &[Arc<Run>]) -> u64 {
    runs.iter().map(|run| run.removals()).sum()
}

/// How many rows may remove a key before all runs are merged into one. Those that the history may need, `kept`, count
/// twice, so that all is not merged again and again.
fn most_removals(needed: u64, kept: u64) -> u64 {
    kept.saturating_mul(2).saturating_add(REMOVALS.max(needed / BYTES_PER_REMOVAL))
}

/// About how long the files would be if they held nothing that is not needed.
fn needed_of(base: &Base) -> u64 {
    // Of the rows besides the data, those in the oldest run may all be needed.
    base.range().needed() + base.runs().last().map_or(0, |run| run.row_bytes())
}
