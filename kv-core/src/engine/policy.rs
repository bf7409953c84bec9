//! Which runs are merged next.
//!
//! Runs of about the same length are merged when there are four of them, so each row is written about once for each
//! factor of four between a checkpoint and the whole state. When the files are much longer than what is needed of them,
//! all runs are merged into one.

use std::ops::Range;

/// How many runs of about the same length are merged into one; and by which factor classes of lengths differ.
const FAN: usize = 4;

/// What the policy knows of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Shape {
    pub(super) id: u64,
    pub(super) bytes: u64,
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
    bytes: u64,
}

fn class(bytes: u64) -> u32 {
    bytes.max(1).ilog2() / FAN.ilog2()
}

/// Returns what is merged next: of all that is due, what is done soonest. `garbage`: the files are much longer than
/// what is needed of them.
pub(super) fn next(runs: &[Shape], garbage: bool) -> Option<Plan> {
    let plan = |inputs: Range<usize>| {
        let bottom = inputs.end == runs.len();
        Plan { bytes: runs[inputs.clone()].iter().map(|run| run.bytes).sum(), inputs, bottom }
    };
    let is_free = |run: &Shape| run.into.is_none() && runs.iter().all(|other| other.into != Some(run.id));
    if garbage && runs.len() > 1 && runs.iter().all(is_free) {
        return Some(plan(0..runs.len()));
    }
    let begun = runs.chunk_by(|one, other| one.into == other.into).scan(0, |at, chunk| {
        let start = *at;
        *at += chunk.len();
        Some((start..*at, chunk[0].into))
    });
    let begun = begun.filter(|(_, into)| into.is_some()).map(|(inputs, _)| plan(inputs));
    let greatest = runs.iter().map(|run| class(run.bytes)).max()?;
    let similar = (0..=greatest).flat_map(|limit| {
        // Neighbours of at most this class, of which enough are of this very class.
        let mut found = Vec::new();
        let (mut first, mut last, mut count) = (0, 0, 0);
        for (index, run) in runs.iter().enumerate() {
            if !is_free(run) || class(run.bytes) > limit {
                count = 0;
            } else if class(run.bytes) == limit {
                if count == 0 {
                    first = index;
                }
                (last, count) = (index, count + 1);
            }
            if count >= FAN && found.last().is_none_or(|inputs: &Range<usize>| inputs.start != first) {
                found.push(first..last + 1);
            } else if let Some(inputs) = found.last_mut().filter(|inputs| count > 0 && inputs.start == first)
            {
                inputs.end = last + 1;
            }
        }
        found
    });
    begun.chain(similar.map(plan)).min_by_key(|plan| plan.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shapes(runs: &[(u64, Option<u64>)]) -> Vec<Shape> {
        (0..).zip(runs).map(|(id, (bytes, into))| Shape { id, bytes: *bytes, into: *into }).collect()
    }

    fn merged(runs: &[u64], garbage: bool) -> Option<(Range<usize>, bool)> {
        let runs: Vec<_> = runs.iter().map(|bytes| (*bytes, None)).collect();
        next(&shapes(&runs), garbage).map(|plan| (plan.inputs, plan.bottom))
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
        let plan = next(&shapes(&runs), true).unwrap();
        assert_eq!((plan.inputs, plan.bottom), (3..5, false));
        assert!(next(&shapes(&runs[..5]), true).unwrap().bottom);
        let small = [(1, None), (1, None), (1, None), (1, None), (99, None), (50, Some(4))];
        assert_eq!(next(&shapes(&small), true).unwrap().inputs, 0..4);
    }

    /// The number of runs and the bytes that are written grow with the logarithm of the state.
    #[test]
    fn ten_million_keys_are_written_less_than_six_times() {
        const CHECKPOINT: u64 = 20 << 20;
        let (mut runs, mut written, mut most) = (Vec::new(), 0, 0);
        let all = 160;
        for id in 0..all {
            runs.insert(0, Shape { id, bytes: CHECKPOINT, into: None });
            written += CHECKPOINT;
            while let Some(plan) = next(&runs, false) {
                written += plan.bytes;
                let run = Shape { id, bytes: plan.bytes, into: None };
                runs.splice(plan.inputs, [run]);
            }
            most = most.max(runs.len());
        }
        assert!(written < 6 * all * CHECKPOINT, "{written}");
        assert!(most <= 12, "{most} runs");
    }
}
