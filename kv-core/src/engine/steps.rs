//! Counts what reading and writing take, for tests that ask how that grows: look-ups and steps, and one for each 256 bytes read from the
//! B-tree. Outside of tests nothing is counted.

#[cfg(test)]
thread_local! {
    static TAKEN: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// So many more.
#[cfg(test)]
pub(super) fn count(steps: usize) {
    TAKEN.set(TAKEN.get() + steps);
}

/// So many more.
#[cfg(not(test))]
pub(super) const fn count(_steps: usize) {}

/// How many steps this takes, on this thread.
#[cfg(test)]
pub(crate) fn of<R>(work: impl FnOnce() -> R) -> (usize, R) {
    let before = TAKEN.get();
    let result = work();
    (TAKEN.get() - before, result)
}
