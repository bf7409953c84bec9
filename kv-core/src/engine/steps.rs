//! Counts what reading takes: look-ups and steps, and one for each 256 bytes read from the B-tree. Threads that read for others give way to
//! more urgent ones every few steps; tests ask how the number of steps grows.

use std::cell::Cell;
use std::time::Duration;

/// A background thread lets others of its kind run after this many steps: some 0.1 ms.
const TURN: usize = 256;
/// And it sleeps after this many turns: some 1 ms.
const TURNS: usize = 16;
/// For this long, or what the system makes of it: some 0.1 ms.
const NAP: Duration = Duration::from_micros(20);

thread_local! {
    /// Steps and turns until this thread gives way next; `None`: it never does.
    static LEFT: Cell<Option<(usize, usize)>> = const { Cell::new(None) };
    #[cfg(test)]
    static TAKEN: Cell<usize> = const { Cell::new(0) };
}

/// From now on this thread gives way to others every few steps. A system does not interrupt a thread that has just begun to run, however
/// urgent others are: a long read would hold up whatever else is to run on its core for milliseconds. To yield is not always enough: on
/// Linux it lets threads of the same control group run, and not those of the kernel, which complete what the journal has written.
pub(crate) fn give_way() {
    LEFT.set(Some((TURN, TURNS)));
}

/// So many more.
pub(super) fn count(steps: usize) {
    #[cfg(test)]
    TAKEN.set(TAKEN.get() + steps);
    pace(steps);
}

/// As much work was done as so many steps are, which are not counted.
pub(super) fn pace(steps: usize) {
    let Some((left, turns)) = LEFT.get() else { return };
    match (left.checked_sub(steps), turns) {
        (Some(left), _) => LEFT.set(Some((left, turns))),
        (None, 0) => {
            LEFT.set(Some((TURN, TURNS)));
            std::thread::sleep(NAP);
        }
        (None, _) => {
            // A large value takes many steps at once.
            LEFT.set(Some((TURN, turns.saturating_sub(1 + steps / TURN))));
            std::thread::yield_now();
        }
    }
}

/// How many steps this takes, on this thread.
#[cfg(test)]
pub(crate) fn of<R>(work: impl FnOnce() -> R) -> (usize, R) {
    let before = TAKEN.get();
    let result = work();
    (TAKEN.get() - before, result)
}
