//! Which runs are merged next.
//!
//! Runs of about the same length are merged when there are four of them, so each row is written about once for each
//! factor of four between a checkpoint and the whole state. When the files are much longer than what is needed of them,
//! all runs are merged into one. Runs whose lengths follow no order could become many without ever being alike, so
//! above a number of them, those four neighbours are merged that take least.
//!
//! While a snapshot is sent, its files stay, merged or not. So only a small part of what they take is merged meanwhile;
//! runs that are newer than the snapshot are merged as always.

use std::collections::VecDeque;
use std::ops::Range;

/// How many runs of about the same length are merged into one; and by which factor classes of lengths differ.
const FAN: usize = 4;

/// Above this number of runs, some are merged that are not alike.
const MOST: usize = 16;

/// A merge that was begun is ended before others are begun, except those that take less than this part of it.
const SOONER: u64 = 4;

/// What the policy knows of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Shape {
    pub(super) id: u64,
    pub(super) bytes: u64,
    /// How many of them are in files that stay after a merge, because a snapshot holds them.
    pub(super) held: u64,
    /// The run into which it is being merged, which lies in front of it.
    pub(super) into: Option<u64>,
}

/// What is to be merged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Plan {
    /// The runs that are merged. They lie side by side.
    pub(super) inputs: Range<usize>,
    /// Nothing older lies below them.
    pub(super) bottom: bool,
    /// How long they are.
    pub(super) bytes: u64,
}

fn class(bytes: u64) -> u32 {
    bytes.max(1).ilog2() / FAN.ilog2()
}

/// Returns what is merged next: of all that is due and takes at most `most_held` bytes that are held, what is done
/// soonest. `garbage`: the files are much longer than what is needed of them.
pub(super) fn next(runs: &[Shape], garbage: bool, most_held: u64) -> Option<Plan> {
    let plan = |inputs: Range<usize>| {
        let bottom = inputs.end == runs.len();
        Plan { bytes: runs[inputs.clone()].iter().map(|run| run.bytes).sum(), inputs, bottom }
    };
    let is_free = |run: &Shape| run.into.is_none() && runs.iter().all(|other| other.into != Some(run.id));
    let fits =
        |inputs: &Range<usize>| runs[inputs.clone()].iter().map(|run| run.held).sum::<u64>() <= most_held;
    if garbage && runs.len() > 1 && runs.iter().all(is_free) && fits(&(0..runs.len())) {
        return Some(plan(0..runs.len()));
    }
    let begun = runs.chunk_by(|one, other| one.into == other.into).scan(0, |at, chunk| {
        let start = *at;
        *at += chunk.len();
        Some((start..*at, chunk[0].into))
    });
    let begun = begun.filter(|(inputs, into)| into.is_some() && fits(inputs)).map(|(inputs, _)| plan(inputs));
    let greatest = runs.iter().map(|run| class(run.bytes)).max()?;
    let similar = (0..=greatest).flat_map(|limit| similar(runs, limit, is_free, fits));
    let any = any(runs.len(), fits).filter(|window| runs[window.clone()].iter().all(is_free));
    let shortest = |plan: &Plan| plan.bytes;
    let begun = begun.min_by_key(shortest);
    let new = similar.chain(any).map(plan).min_by_key(shortest);
    match (begun, new) {
        (Some(begun), Some(new)) if new.bytes >= begun.bytes / SOONER => Some(begun),
        (begun, new) => new.or(begun),
    }
}

/// Neighbours of at most this class, of which enough are of this very class: as many as fit.
fn similar(
    runs: &[Shape],
    limit: u32,
    is_free: impl Fn(&Shape) -> bool,
    fits: impl Fn(&Range<usize>) -> bool,
) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    // Those of this very class, from which on everything fits.
    let mut alike: VecDeque<usize> = VecDeque::new();
    let mut end = |alike: &mut VecDeque<usize>| {
        if alike.len() >= FAN {
            found.push(alike[0]..alike[alike.len() - 1] + 1);
        }
        alike.clear();
    };
    for (index, run) in runs.iter().enumerate() {
        if !is_free(run) || class(run.bytes) > limit {
            end(&mut alike);
        } else if class(run.bytes) == limit {
            while alike.front().is_some_and(|first| !fits(&(*first..index + 1))) {
                // Enough without this one.
                if alike.len() >= FAN {
                    end(&mut alike);
                } else {
                    alike.pop_front();
                }
            }
            if fits(&(index..index + 1)) {
                alike.push_back(index);
            }
        }
    }
    end(&mut alike);
    found
}

/// All neighbours that fit, if there are so many that it does not matter whether they are alike. Runs of which too much
/// is held do not count: while they wait, the few others would be merged again and again.
fn any(runs: usize, fits: impl Fn(&Range<usize>) -> bool) -> impl Iterator<Item = Range<usize>> {
    let windows: Vec<_> = (FAN..=runs).map(|end| end - FAN..end).filter(fits).collect();
    let (count, _) = windows
        .iter()
        .fold((0, 0), |(count, end), window| (count + window.end - window.start.max(end), window.end));
    windows.into_iter().filter(move |_| count > MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shapes(runs: &[(u64, Option<u64>)]) -> Vec<Shape> {
        (0..).zip(runs).map(|(id, (bytes, into))| Shape { id, bytes: *bytes, held: 0, into: *into }).collect()
    }

    fn merged(runs: &[u64], garbage: bool) -> Option<(Range<usize>, bool)> {
        let runs: Vec<_> = runs.iter().map(|bytes| (*bytes, None)).collect();
        next(&shapes(&runs), garbage, u64::MAX).map(|plan| (plan.inputs, plan.bottom))
    }

    #[test]
    fn four_runs_of_a_class_are_merged() {
        assert_eq!(merged(&[], true), None);
        assert_eq!(merged(&[20, 20, 20], false), None);
        assert_eq!(merged(&[20, 20, 20, 20], false), Some((0..4, true)));
        assert_eq!(merged(&[20, 20, 20, 20, 25], false), Some((0..5, true)));
        assert_eq!(merged(&[20, 20, 20, 20, 900], false), Some((0..4, false)));
        // Smaller ones between them go along, but do not count.
        assert_eq!(merged(&[20, 20, 20, 90], false), None);
        assert_eq!(merged(&[2, 20, 2, 20, 2, 20, 20, 2], false), Some((1..7, false)));
        // Greater ones separate them.
        assert_eq!(merged(&[20, 20, 900, 20, 20], false), None);
        // What is done soonest is done first.
        assert_eq!(merged(&[900, 900, 900, 900, 20, 20, 20, 20], false), Some((4..8, true)));
        assert_eq!(merged(&[20], true), None);
        assert_eq!(merged(&[20, 900], true), Some((0..2, true)));
    }

    #[test]
    fn what_is_begun_is_ended_and_nothing_merges_across_it() {
        let runs = [(20, None), (20, None), (99, None), (50, Some(2)), (50, Some(2)), (20, None)];
        let plan = next(&shapes(&runs), true, u64::MAX).unwrap();
        assert_eq!((plan.inputs, plan.bottom), (3..5, false));
        assert!(next(&shapes(&runs[..5]), true, u64::MAX).unwrap().bottom);
        let small = [(1, None), (1, None), (1, None), (1, None), (99, None), (50, Some(4))];
        assert_eq!(next(&shapes(&small), true, u64::MAX).unwrap().inputs, 0..4);
    }

    /// The same, and all of them are held.
    fn held(runs: &[(u64, Option<u64>)]) -> Vec<Shape> {
        shapes(runs).into_iter().map(|run| Shape { held: run.bytes, ..run }).collect()
    }

    fn all_held(runs: &[u64]) -> Vec<Shape> {
        held(&runs.iter().map(|bytes| (*bytes, None)).collect::<Vec<_>>())
    }

    #[test]
    fn merges_that_would_leave_too_much_are_left_for_later() {
        let all = all_held(&[1, 1, 1, 1, 20, 20, 20, 20]);
        let next = |most| next(&all, true, most).map(|plan| plan.inputs);
        assert_eq!(next(84), Some(0..8));
        assert_eq!(next(83), Some(0..4));
        assert_eq!(next(3), None);
        // What was begun, too.
        let begun = held(&[(1, None), (1, None), (1, None), (1, None), (99, None), (50, Some(4))]);
        assert_eq!(super::next(&begun[4..], false, 49), None);
        assert_eq!(super::next(&begun, false, 49).unwrap().inputs, 0..4);
    }

    /// Of more than four runs that are alike, as many are merged as may be.
    #[test]
    fn a_part_of_the_runs_that_are_alike_is_merged_if_not_all_may_be() {
        let next = |runs: &[Shape], most| next(runs, false, most).map(|plan| plan.inputs);
        let six = all_held(&[24; 6]);
        assert_eq!(next(&six, 144), Some(0..6));
        assert_eq!(next(&six, 143), Some(0..5));
        assert_eq!(next(&six, 100), Some(0..4));
        assert_eq!(next(&six, 95), None);
        // Not those at the front.
        let long_first = all_held(&[60, 24, 24, 24, 24]);
        assert_eq!(next(&long_first, 96), Some(1..5));
        assert_eq!(next(&long_first, 95), None);
        // What is not held takes no room, whatever lies before or behind it.
        let mut mixed = all_held(&[24; 11]);
        (3..8).for_each(|index| mixed[index].held = 0);
        assert_eq!(next(&mixed, 0), Some(3..8));
        assert_eq!(next(&mixed, 23), Some(3..8));
        assert_eq!(next(&mixed, 1000), Some(0..11));
    }

    /// While everything is held that was there at first, new runs are few, and are not written more often than others.
    #[test]
    fn new_runs_are_merged_while_older_ones_are_held() {
        for old in [3, 15, 17, 40] {
            let mut runs = all_held(&vec![1000; old]);
            let (mut most, mut put, mut written) = (0, 0, 0);
            for id in 1000..1500 {
                runs.insert(0, Shape { id, bytes: 20, held: 0, into: None });
                (put, written) = (put + 20, written + 20);
                while let Some(plan) = next(&runs, false, 999) {
                    written += plan.bytes;
                    let held = runs[plan.inputs.clone()].iter().map(|run| run.held).sum();
                    let run = Shape { id, bytes: plan.bytes, held, into: None };
                    runs.splice(plan.inputs, [run]);
                }
                most = most.max(runs.len());
            }
            assert_eq!(runs.iter().filter(|run| run.held == 1000).count(), old);
            assert!(most <= old + MOST, "{most} runs, {old} of them held");
            assert!(written < 6 * put, "{written} bytes written for {put}");
        }
    }

    /// Writes runs of these lengths, and merges after each of them until nothing is due. Returns the greatest number of
    /// runs, and how many bytes were written for each byte.
    fn write(lengths: impl Iterator<Item = u64>) -> (usize, f64) {
        let (mut runs, mut most, mut put, mut written) = (Vec::new(), 0, 0, 0);
        for (id, bytes) in (0..).zip(lengths) {
            runs.insert(0, Shape { id, bytes, held: 0, into: None });
            put += bytes;
            written += bytes;
            while let Some(plan) = next(&runs, false, u64::MAX) {
                written += plan.bytes;
                let run = Shape { id, bytes: plan.bytes, held: 0, into: None };
                runs.splice(plan.inputs, [run]);
            }
            most = most.max(runs.len());
        }
        (most, written as f64 / put as f64)
    }

    /// However the lengths of runs follow on one another, there are not many, and they are not written much more often.
    #[test]
    fn runs_of_any_lengths_are_few() {
        let mut rng = fastrand::Rng::with_seed(1);
        let random: Vec<u64> = (0..3000).map(|_| 1 << rng.u32(10..36)).collect();
        // Each class lies between greater ones.
        let ruler = (1..3000_u64).map(|n| 1000 << (2 * n.trailing_zeros()));
        let falling = (0..3000_u64).map(|n| 1 << (44 - 2 * (n % 18)));
        let rising = (0..3000_u64).map(|n| 1 << (10 + 2 * (n % 20)));
        let pairs = (0..3000_u64).map(|n| if n % 4 < 3 { 1000 } else { 1 << 30 });
        let all: [(&str, Box<dyn Iterator<Item = u64>>); 5] = [
            ("random", Box::new(random.into_iter())),
            ("ruler", Box::new(ruler)),
            ("falling", Box::new(falling)),
            ("rising", Box::new(rising)),
            ("pairs", Box::new(pairs)),
        ];
        for (name, lengths) in all {
            let (most, times) = write(lengths);
            assert!(most <= MOST && times < 12.0, "{name}: {most} runs, each byte written {times} times");
        }
    }

    /// While merges do one step for each run that is added, what is begun stays little.
    #[test]
    fn runs_are_few_while_merges_are_interrupted() {
        let mut rng = fastrand::Rng::with_seed(2);
        let (mut runs, mut most): (Vec<Shape>, usize) = (Vec::new(), 0);
        const STEP: u64 = 150;
        for id in 0..20_000 {
            let bytes = [1, 2, 5, 30][rng.usize(..4)];
            runs.insert(0, Shape { id: 2 * id, bytes, held: 0, into: None });
            let Some(plan) = next(&runs, false, u64::MAX) else { continue };
            let into = runs[plan.inputs.start].into.unwrap_or(2 * id + 1);
            let mut left = STEP;
            let mut done = 0;
            let at = plan.inputs.start;
            for run in &mut runs[plan.inputs] {
                let taken = run.bytes.min(left);
                (run.bytes, run.into) = (run.bytes - taken, Some(into));
                (left, done) = (left - taken, done + taken);
            }
            match runs.iter_mut().find(|run| run.id == into) {
                Some(output) => output.bytes += done,
                None => runs.insert(at, Shape { id: into, bytes: done, held: 0, into: None }),
            }
            runs.retain(|run| run.bytes > 0);
            most = most.max(runs.len());
        }
        assert!(most <= 3 * MOST, "{most} runs");
    }

    /// The number of runs and the bytes that are written grow with the logarithm of the state.
    #[test]
    fn ten_million_keys_are_written_less_than_six_times() {
        let (most, times) = write(std::iter::repeat_n(20 << 20, 160));
        assert!(times < 6.0, "each byte was written {times} times");
        assert!(most <= 12, "{most} runs");
    }
}
