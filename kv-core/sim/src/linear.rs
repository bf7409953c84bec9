//! Linearizability of one key by search: is there an order of all calls, each at a point between its start and its end,
//! in which every answer is correct? It knows nothing about revisions, logs or views.
//!
//! The search is that of Wing and Gong with Lowe's cache of visited (set of linearized calls, state) pairs. A call
//! whose outcome is unknown may take effect at any time after its start, or never.

use std::collections::HashSet;

/// A value, by number. `None` is an absent key.
pub(super) type Value = Option<u32>;

/// The condition of a write on the present value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum KeyCondition {
    /// Nothing.
    None,
    /// The key does not exist.
    Absent,
    /// The key exists.
    Present,
    /// The key has this value.
    Is(u32),
    /// The key has a value that no call of this history has written.
    Impossible,
}

/// What is known about a write's effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Known {
    /// It was applied; whether there was a value before, if that was reported.
    Done {
        /// Whether there was a value before.
        existed: Option<bool>,
    },
    /// Its condition did not hold; the value at that time.
    Failed {
        /// The value, if it is known.
        found: Option<Value>,
    },
    /// It may have been applied, once, at any time after its start.
    Unknown,
}

/// What a call did to the key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Act {
    /// Read it and saw this.
    Read(Value),
    /// Set it to this (or removed it).
    Write {
        /// The new value.
        to: Value,
        /// If this held.
        condition: KeyCondition,
        /// With this result.
        known: Known,
    },
}

/// One call on the key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct KeyOperation {
    /// When it began.
    pub(super) start: u64,
    /// When its answer arrived; ignored if the outcome is unknown.
    pub(super) end: u64,
    /// What it did.
    pub(super) act: Act,
}

/// The result of a search.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum SearchResult {
    /// There is such an order.
    Linearizable,
    /// There is none. The longest partial order has this many calls; then none of these fitted.
    Impossible {
        /// The number of calls in the order.
        placed: usize,
        /// The indices of the calls of which none fitted.
        stuck: Vec<usize>,
    },
    /// The budget ran out.
    GaveUp,
}

impl KeyOperation {
    const fn must_happen(&self) -> bool {
        !matches!(self.act, Act::Write { known: Known::Unknown, .. })
    }

    /// The value after this call at `before`, or `None` if its answer would be wrong there.
    fn apply(&self, before: Value) -> Option<Value> {
        match self.act {
            Act::Read(seen) => (seen == before).then_some(before),
            Act::Write { to, condition, known } => {
                let holds = match condition {
                    KeyCondition::None => true,
                    KeyCondition::Absent => before.is_none(),
                    KeyCondition::Present => before.is_some(),
                    KeyCondition::Is(value) => before == Some(value),
                    KeyCondition::Impossible => false,
                };
                match known {
                    Known::Done { existed } => {
                        let fits = holds && existed.is_none_or(|existed| existed == before.is_some());
                        fits.then_some(to)
                    }
                    Known::Failed { found } => {
                        let fits = !holds && found.is_none_or(|found| found == before);
                        fits.then_some(before)
                    }
                    Known::Unknown => Some(if holds { to } else { before }),
                }
            }
        }
    }
}

/// Searches for an order of `steps` from an absent key, visiting at most `budget` states.
pub(super) fn search(steps: &[KeyOperation], budget: usize) -> SearchResult {
    Search::new(steps).run(budget)
}

const END: usize = usize::MAX;

/// The starts and ends of calls in the order of time, as a list from which placed calls are removed.
struct Search<'a> {
    steps: &'a [KeyOperation],
    /// Node `2 i` is the start of call `i`, node `2 i + 1` its end.
    next: Vec<usize>,
    previous: Vec<usize>,
    first: usize,
    open: usize,
}

impl<'a> Search<'a> {
    fn new(steps: &'a [KeyOperation]) -> Self {
        let mut order: Vec<(u64, bool, usize)> = Vec::with_capacity(steps.len() * 2);
        for (index, step) in steps.iter().enumerate() {
            order.push((step.start, false, index));
            let end = if step.must_happen() { step.end } else { u64::MAX };
            order.push((end, true, index));
        }
        // A start sorts before an end at the same instant: such calls overlap.
        order.sort_unstable();
        let nodes: Vec<usize> =
            order.iter().map(|&(_, is_end, index)| index * 2 + usize::from(is_end)).collect();
        let mut search = Self {
            steps,
            next: vec![END; steps.len() * 2],
            previous: vec![END; steps.len() * 2],
            first: nodes.first().copied().unwrap_or(END),
            open: steps.iter().filter(|step| step.must_happen()).count(),
        };
        for pair in nodes.windows(2) {
            if let &[a, b] = pair {
                search.next[a] = b;
                search.previous[b] = a;
            }
        }
        search
    }

    fn unlink(&mut self, node: usize) {
        let (before, after) = (self.previous[node], self.next[node]);
        match before {
            END => self.first = after,
            before => self.next[before] = after,
        }
        if after != END {
            self.previous[after] = before;
        }
    }

    fn relink(&mut self, node: usize) {
        let (before, after) = (self.previous[node], self.next[node]);
        match before {
            END => self.first = node,
            before => self.next[before] = node,
        }
        if after != END {
            self.previous[after] = node;
        }
    }

    fn run(mut self, budget: usize) -> SearchResult {
        let mut seen: HashSet<(u128, Value)> = HashSet::new();
        let mut placed: Vec<(usize, Value)> = Vec::new();
        let mut value: Value = None;
        let mut set = 0_u128;
        let mut deepest = 0;
        let mut stuck = Vec::new();
        let mut node = self.first;
        loop {
            if self.open == 0 {
                return SearchResult::Linearizable;
            }
            if seen.len() > budget {
                return SearchResult::GaveUp;
            }
            if node != END && node.is_multiple_of(2) {
                let call = node / 2;
                let after =
                    self.steps[call].apply(value).filter(|&after| seen.insert((set ^ mark(call), after)));
                if let Some(after) = after {
                    placed.push((call, value));
                    value = after;
                    set ^= mark(call);
                    self.lift(call);
                    node = self.first;
                } else {
                    node = self.next[node];
                }
                continue;
            }
            // An end (or the end of the list): its call had to be placed before. Undo the last choice.
            if placed.len() >= deepest {
                deepest = placed.len();
                stuck = self.candidates();
            }
            let Some((call, before)) = placed.pop() else {
                return SearchResult::Impossible { placed: deepest, stuck };
            };
            value = before;
            set ^= mark(call);
            self.unlift(call);
            node = self.next[call * 2];
        }
    }

    fn lift(&mut self, call: usize) {
        self.unlink(call * 2);
        self.unlink(call * 2 + 1);
        self.open -= usize::from(self.steps[call].must_happen());
    }

    fn unlift(&mut self, call: usize) {
        self.relink(call * 2 + 1);
        self.relink(call * 2);
        self.open += usize::from(self.steps[call].must_happen());
    }

    /// The calls that could come next, by time alone.
    fn candidates(&self) -> Vec<usize> {
        let mut calls = Vec::new();
        let mut node = self.first;
        while node != END && node.is_multiple_of(2) {
            calls.push(node / 2);
            node = self.next[node];
        }
        calls
    }
}

/// A pseudo-random 128-bit mark of a call. The mark of a set of calls is the exclusive or of their marks.
fn mark(call: usize) -> u128 {
    xxhash_rust::xxh3::xxh3_128(&(call as u64).to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(start: u64, end: u64, seen: Value) -> KeyOperation {
        KeyOperation { start, end, act: Act::Read(seen) }
    }

    fn write(start: u64, end: u64, to: Value, condition: KeyCondition, known: Known) -> KeyOperation {
        KeyOperation { start, end, act: Act::Write { to, condition, known } }
    }

    fn put(start: u64, end: u64, value: u32) -> KeyOperation {
        write(start, end, Some(value), KeyCondition::None, Known::Done { existed: None })
    }

    fn maybe(start: u64, value: u32) -> KeyOperation {
        write(start, 0, Some(value), KeyCondition::None, Known::Unknown)
    }

    fn good(steps: &[KeyOperation]) -> bool {
        match search(steps, 100_000) {
            SearchResult::Linearizable => true,
            SearchResult::Impossible { .. } => false,
            SearchResult::GaveUp => panic!("a small history must be decided"),
        }
    }

    #[test]
    fn accepts_an_empty_and_a_sequential_history() {
        assert!(good(&[]));
        assert!(good(&[read(0, 1, None), put(2, 3, 7), read(4, 5, Some(7))]));
    }

    #[test]
    fn rejects_a_stale_read() {
        assert!(!good(&[put(0, 1, 7), read(2, 3, None)]));
        assert!(!good(&[put(0, 1, 7), put(2, 3, 8), read(4, 5, Some(7))]));
    }

    #[test]
    fn rejects_a_read_of_a_value_that_was_never_written() {
        assert!(!good(&[put(0, 1, 7), read(2, 3, Some(9))]));
    }

    #[test]
    fn accepts_either_order_of_overlapping_writes() {
        assert!(good(&[put(0, 10, 1), put(0, 10, 2), read(11, 12, Some(1))]));
        assert!(good(&[put(0, 10, 1), put(0, 10, 2), read(11, 12, Some(2))]));
    }

    #[test]
    fn rejects_two_readers_that_disagree_about_the_order() {
        let steps = [put(0, 10, 1), put(0, 10, 2), read(11, 12, Some(1)), read(13, 14, Some(2))];
        assert!(!good(&steps));
    }

    #[test]
    fn rejects_reads_that_go_back_while_a_write_is_in_flight() {
        assert!(good(&[put(0, 100, 1), read(10, 20, None), read(30, 40, Some(1))]));
        assert!(!good(&[put(0, 100, 1), read(10, 20, Some(1)), read(30, 40, None)]));
    }

    #[test]
    fn a_write_of_unknown_outcome_may_happen_late_or_never_but_only_once() {
        assert!(good(&[maybe(0, 1), read(5, 6, None)]));
        assert!(good(&[maybe(0, 1), read(5, 6, None), read(7, 8, Some(1))]));
        // Seen, overwritten, and seen again: it was applied twice.
        assert!(!good(&[maybe(0, 1), read(1, 2, Some(1)), put(3, 4, 2), read(5, 6, Some(1))]));
    }

    #[test]
    fn a_write_of_unknown_outcome_does_not_happen_before_it_began() {
        assert!(!good(&[read(0, 1, Some(1)), maybe(5, 1)]));
    }

    #[test]
    fn conditions_and_their_reported_revisions_are_checked() {
        let absent = |start, end, to, known| write(start, end, Some(to), KeyCondition::Absent, known);
        assert!(good(&[
            absent(0, 1, 1, Known::Done { existed: None }),
            absent(2, 3, 2, Known::Failed { found: Some(Some(1)) })
        ]));
        assert!(!good(&[
            absent(0, 1, 1, Known::Done { existed: None }),
            absent(2, 3, 2, Known::Done { existed: None })
        ]));
        assert!(!good(&[absent(0, 1, 1, Known::Failed { found: None })]));
        let swap = |start, end, from, to| {
            write(start, end, Some(to), KeyCondition::Is(from), Known::Done { existed: None })
        };
        assert!(good(&[put(0, 1, 1), swap(2, 9, 1, 2), swap(2, 9, 2, 3), read(10, 11, Some(3))]));
        assert!(!good(&[put(0, 1, 1), swap(2, 9, 1, 2), swap(2, 9, 1, 3)]));
    }

    #[test]
    fn whether_a_removed_key_existed_is_checked() {
        let remove = |start, end, existed| {
            write(start, end, None, KeyCondition::None, Known::Done { existed: Some(existed) })
        };
        assert!(good(&[put(0, 1, 1), remove(2, 3, true), remove(4, 5, false)]));
        assert!(!good(&[put(0, 1, 1), remove(2, 3, true), remove(4, 5, true)]));
    }

    #[test]
    fn reports_the_calls_that_do_not_fit() {
        let steps = [put(0, 1, 7), read(2, 3, None)];
        assert_eq!(search(&steps, 1000), SearchResult::Impossible { placed: 1, stuck: vec![1] });
    }

    /// Compares the search with trying all orders, on small random histories, correct and incorrect.
    #[test]
    fn agrees_with_trying_every_order() {
        let mut rng = fastrand::Rng::with_seed(7);
        let (mut yes, mut no) = (0, 0);
        for _ in 0..3000 {
            let count = rng.usize(1..6);
            let steps: Vec<KeyOperation> = (0..count).map(|_| random_step(&mut rng)).collect();
            let expected = try_every_order(&steps, &mut vec![false; count], None);
            assert_eq!(good(&steps), expected, "{steps:?}");
            if expected { yes += 1 } else { no += 1 }
        }
        assert!(yes > 200 && no > 200, "{yes} good, {no} bad: both kinds must occur");
    }

    fn random_step(rng: &mut fastrand::Rng) -> KeyOperation {
        let start = rng.u64(0..10);
        let end = start + rng.u64(1..8);
        let value = |rng: &mut fastrand::Rng| rng.bool().then(|| rng.u32(0..3));
        if rng.u32(0..5) < 2 {
            return read(start, end, value(rng));
        }
        let condition = match rng.u32(0..6) {
            0 => KeyCondition::Absent,
            1 => KeyCondition::Present,
            2 => KeyCondition::Is(rng.u32(0..3)),
            _ => KeyCondition::None,
        };
        let known = match rng.u32(0..4) {
            0 => Known::Unknown,
            1 if condition != KeyCondition::None => Known::Failed { found: rng.bool().then(|| value(rng)) },
            _ => Known::Done { existed: None },
        };
        write(start, end, value(rng), condition, known)
    }

    fn try_every_order(steps: &[KeyOperation], used: &mut Vec<bool>, value: Value) -> bool {
        let open = |used: &[bool]| {
            (0..steps.len()).filter(|&i| !used[i] && steps[i].must_happen()).collect::<Vec<_>>()
        };
        let required = open(used);
        if required.is_empty() {
            return true;
        }
        for next in 0..steps.len() {
            let too_late =
                required.iter().any(|&other| other != next && steps[other].end < steps[next].start);
            if used[next] || too_late {
                continue;
            }
            if let Some(after) = steps[next].apply(value) {
                used[next] = true;
                if try_every_order(steps, used, after) {
                    return true;
                }
                used[next] = false;
            }
        }
        false
    }
}
