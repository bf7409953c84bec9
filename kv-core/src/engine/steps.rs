//! Counts the steps of reading: look-ups, steps of a cursor, and one for each 256 bytes read from the runs. A thread
//! that reads for others is called back every few steps, so that it can yield to more urgent threads. Tests check how
//! the number of steps grows.

use super::Progress;
use std::cell::{Cell, OnceCell};

/// The number of steps between two callbacks: about 0.1 ms.
const TURN: usize = 256;

/// Reading this many bytes counts as one more step.
pub(super) const STEP_BYTES: usize = 256;

/// What a thread does between two turns. It is given the number of turns.
type GiveWay = fn(usize);

thread_local! {
    /// The steps until the next callback, if there is one.
    static TURN_LEFT: Cell<Option<(usize, GiveWay)>> = const { Cell::new(None) };
    /// The progress of the reading on this thread.
    static PROGRESS: OnceCell<Progress> = const { OnceCell::new() };
    #[cfg(test)]
    static TAKEN: Cell<usize> = const { Cell::new(0) };
}

/// From now on, reading on this thread calls `give_way` every 256 steps, with the number of times that 256 steps were
/// taken: a large value takes many at once.
pub(crate) fn between_turns(give_way: GiveWay) {
    TURN_LEFT.set(Some((TURN, give_way)));
}

/// From now on, the turns of the reading on this thread are progress of this.
pub(crate) fn report_to(progress: Progress) {
    PROGRESS.with(|cell| cell.set(progress)).expect("a thread reports to one");
    between_turns(|_| PROGRESS.with(|cell| cell.get().expect("it was set").step()));
}

/// So many more.
pub(super) fn count(steps: usize) {
    #[cfg(test)]
    TAKEN.set(TAKEN.get() + steps);
    pace(steps);
}

/// Work as long as this many steps was done, but does not count as steps.
pub(super) fn pace(steps: usize) {
    let Some((left, give_way)) = TURN_LEFT.get() else { return };
    match left.checked_sub(steps) {
        Some(left) if left > 0 => TURN_LEFT.set(Some((left, give_way))),
        _ => {
            TURN_LEFT.set(Some((TURN, give_way)));
            give_way(1 + (steps - left) / TURN);
        }
    }
}

/// Returns how many steps the work takes on this thread.
#[cfg(test)]
pub(crate) fn of<R>(work: impl FnOnce() -> R) -> (usize, R) {
    let before = TAKEN.get();
    let result = work();
    (TAKEN.get() - before, result)
}

#[cfg(test)]
mod tests {
    use super::*;

    thread_local!(static TURNS: Cell<usize> = const { Cell::new(0) });

    #[test]
    fn long_reads_report_their_progress() {
        let progress = Progress::default();
        report_to(progress.clone());
        count(TURN - 1);
        assert_eq!(progress.steps(), 0);
        count(1);
        count(TURN);
        assert_eq!(progress.steps(), 2);
    }

    #[test]
    fn the_callback_runs_every_256_steps() {
        count(10_000);
        between_turns(|turns| TURNS.set(TURNS.get() + turns));
        let taken = [100, 155, 1, 255, 1, 10_000, 0, 256].map(|steps| {
            pace(steps);
            TURNS.get()
        });
        assert_eq!(taken, [0, 0, 1, 1, 2, 41, 41, 42]);
    }
}
