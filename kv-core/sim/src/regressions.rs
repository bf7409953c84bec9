//! Seeds that once broke an invariant, each with what it was. They depend on what the plans draw: after a change there
//! a seed is just another seed, and the fix is guarded by the test beside the code.

/// The seeds.
pub(super) const SEEDS: &[(u64, &str)] = &[
    (
        1568,
        "a restarted witness asked for hashes below everyone's floor, was not answered, and never caught up",
    ),
    (327, "the power failed while the file for a snapshot was begun, and the member did not start again"),
    (1763, "a checkpoint began on ops that were durable before a cut, and not yet again after it"),
    (
        1783,
        "a segment with a damaged sector was recycled without being cleared: damage was reported where none was",
    ),
    (
        743,
        "a request for a single entry by its hash, below the trimmed logs of all members, was not answered",
    ),
    (
        6438,
        "a new primary whose transferred state became durable while it installed the view's log reported a log_view that was not durable",
    ),
    (
        2099,
        "a member that acknowledged an entry, and lost it to damage before the commit, did not count as a holder",
    ),
    (
        19_221,
        "two members, each the primary of the view that the other was in, answered each other's votes without end",
    ),
    (
        14_766,
        "the simulator let the end of a log vanish without a trace, because it reported other damage of that log",
    ),
    (
        4561,
        "an entry of another history was taken for a copy of a committed one that everyone had lost, and nobody halted",
    ),
    (
        12_665,
        "a member without a state that restarted did not go on with the whole snapshot that it had stored",
    ),
    (
        7938,
        "the simulator excused members that waited for an absent one by a state that no member could supply",
    ),
    (8715, "the simulator's check of lost time ran backwards after an entry was lost and fetched again"),
    (1394, "two members that were behind ended each other's transfers for ever"),
    (576, "a halt because of an entry that no state contains was not excused"),
    (
        1320,
        "a watch was parked although a part of a revision that it had not seen had already woken the others",
    ),
    (
        964_666_022,
        "a member whose first source had no useful snapshot asked only the one that was down, for ever",
    ),
    (
        51_569,
        "the simulator examined what was left on a disk that was about to fail, and took the failure for an answer",
    ),
    (56_941, "the simulator read what was committed from a disk that was about to fail, and found nothing"),
    (
        54_119,
        "the simulator gave a healed cluster less time than its slowest source needed for the pieces of its state",
    ),
    (
        63_719,
        "the member with the log and the one with the entry missing in it knew no common hash, and the views changed for ever",
    ),
    (18_021, "a member asked sources without a state again and again, while the one that has it was slow"),
    (
        1513,
        "the simulated disk undid damage in a power cut, where a write had once failed to sync and was then repeated",
    ),
];
