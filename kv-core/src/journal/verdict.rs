//! Torn or faulty: how recovery judges the end of the log, as a total table.
//!
//! A *torn* tail is what a power cut leaves of writes that were never acknowledged, and is cut silently. Everything
//! else is *faulty*: entries that may have been acknowledged are missing, and must come from a peer. Taking a torn tail
//! for faulty costs availability, and taking a faulty tail for torn loses data. So a tail is torn only if every
//! condition for it holds.

/// The segment that the superblock names as the newest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Newest {
    /// It exists (or there has never been one).
    Present,
    /// No file has its generation.
    Missing,
}

/// The checkpoint, compared with the entries on disk. Every entry up to it was durable here before the checkpoint was
/// made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Checkpoint {
    /// Its entry is intact in the journal, or was dropped after it.
    Held,
    /// Its entry is missing, and so may be later entries.
    Beyond,
}

/// The head of the intact chain, compared with every surviving statement that everything up to some op is durable: in
/// the superblock, in intact entries, and in the first sectors of others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Synced {
    /// The head is at or above all of them.
    Reached,
    /// One of them is above the head.
    Short,
}

/// What follows the head, in the order of writing, and is not void.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Tail {
    /// Nothing was written there in this generation.
    Untouched,
    /// Pieces of later entries, in which every bad sector is one that never reached the disk.
    Torn,
    /// Intact pieces that contradict the log: of an op that it has already, or that do not chain to the head.
    Conflicting,
    /// A sector that holds neither what was written nor what was there before.
    Damaged,
}

/// Everything that the decision depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Conditions {
    pub(super) newest: Newest,
    pub(super) checkpoint: Checkpoint,
    pub(super) synced: Synced,
    pub(super) tail: Tail,
}

/// The decision.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// The log ends at its head.
    Whole,
    /// The log ends at its head. What follows was never acknowledged and is cut.
    Torn,
    /// Entries above the head may have been acknowledged.
    Faulty,
}

/// A row: `None` matches any value.
struct Row {
    newest: Option<Newest>,
    checkpoint: Option<Checkpoint>,
    synced: Option<Synced>,
    tail: Option<Tail>,
    verdict: Verdict,
    why: &'static str,
}

impl Row {
    fn matches(&self, conditions: &Conditions) -> bool {
        self.newest.is_none_or(|newest| newest == conditions.newest)
            && self.checkpoint.is_none_or(|checkpoint| checkpoint == conditions.checkpoint)
            && self.synced.is_none_or(|synced| synced == conditions.synced)
            && self.tail.is_none_or(|tail| tail == conditions.tail)
    }
}

/// A row for conditions in which the newest segment is present and the checkpoint is held.
const fn row(synced: Synced, tail: Option<Tail>, verdict: Verdict, why: &'static str) -> Row {
    Row {
        newest: Some(Newest::Present),
        checkpoint: Some(Checkpoint::Held),
        synced: Some(synced),
        tail,
        verdict,
        why,
    }
}

const TABLE: [Row; 7] = [
    Row {
        newest: Some(Newest::Missing),
        checkpoint: None,
        synced: None,
        tail: None,
        verdict: Verdict::Faulty,
        why: "the newest segment file is missing or unreadable: it may have held acknowledged entries",
    },
    Row {
        newest: Some(Newest::Present),
        checkpoint: Some(Checkpoint::Beyond),
        synced: None,
        tail: None,
        verdict: Verdict::Faulty,
        why: "the checkpoint's entry was durable and is gone: so may be acknowledged ones after it",
    },
    row(
        Synced::Short,
        None,
        Verdict::Faulty,
        "something that was written later proves that more was durable than is left",
    ),
    row(
        Synced::Reached,
        Some(Tail::Damaged),
        Verdict::Faulty,
        "a sector after the head is damaged: its entry may have been acknowledged",
    ),
    row(
        Synced::Reached,
        Some(Tail::Conflicting),
        Verdict::Faulty,
        "an intact piece after the head contradicts the log: it was not written by this history",
    ),
    row(
        Synced::Reached,
        Some(Tail::Torn),
        Verdict::Torn,
        "every bad sector after the head never reached the disk, and nothing proves that it was durable",
    ),
    row(Synced::Reached, Some(Tail::Untouched), Verdict::Whole, "nothing was written after the head"),
];

impl Conditions {
    /// Returns the verdict and its reason, from the row that applies.
    pub(super) fn decide(&self) -> (Verdict, &'static str) {
        let row = TABLE.iter().find(|row| row.matches(self)).expect("the table is total");
        (row.verdict, row.why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Conditions> {
        let mut all = Vec::new();
        for newest in [Newest::Present, Newest::Missing] {
            for checkpoint in [Checkpoint::Held, Checkpoint::Beyond] {
                for synced in [Synced::Reached, Synced::Short] {
                    for tail in [Tail::Untouched, Tail::Torn, Tail::Conflicting, Tail::Damaged] {
                        all.push(Conditions { newest, checkpoint, synced, tail });
                    }
                }
            }
        }
        all
    }

    #[test]
    fn exactly_one_row_applies_to_every_combination() {
        for conditions in all() {
            let matching = TABLE.iter().filter(|row| row.matches(&conditions)).count();
            assert_eq!(matching, 1, "{conditions:?}");
        }
    }

    #[test]
    fn every_row_applies_to_something() {
        for row in &TABLE {
            assert!(all().iter().any(|conditions| row.matches(conditions)), "{}", row.why);
        }
    }

    #[test]
    fn only_entries_that_were_never_acknowledged_are_cut() {
        for conditions in all() {
            let harmless = conditions.newest == Newest::Present
                && conditions.checkpoint == Checkpoint::Held
                && conditions.synced == Synced::Reached;
            let expected = match conditions.tail {
                Tail::Untouched if harmless => Verdict::Whole,
                Tail::Torn if harmless => Verdict::Torn,
                _ => Verdict::Faulty,
            };
            assert_eq!(conditions.decide().0, expected, "{conditions:?}");
        }
    }
}
