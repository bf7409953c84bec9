//! Torn or faulty: what recovery makes of the end of the log, as a total table.
//!
//! A *torn* tail is what a power cut leaves of writes that were never acknowledged: it is cut silently. Everything else is
//! *faulty*: entries that may have been acknowledged are missing, and must come from a peer. A torn tail taken for faulty costs
//! availability; a faulty one taken for torn loses data. So a tail is torn only if every condition for it holds.

/// The segment that the superblock names as the newest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Newest {
    /// It is there (or there has never been one).
    Present,
    /// No file carries its generation.
    Missing,
}

/// The checkpoint, compared with the entries on disk. Every entry up to it was durable here before it was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Checkpoint {
    /// Its entry is intact in the journal, or was dropped after it.
    Held,
    /// Its entry is missing, and so may be what came after it.
    Beyond,
}

/// The head of the intact chain, compared with every surviving statement "all up to here is durable": of the superblock, of
/// intact entries, of the first sectors of others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Synced {
    /// The head is at or above all of them.
    Reached,
    /// One of them is above the head.
    Short,
}

/// What lies after the head, in the order of writing, and is not void.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Tail {
    /// Nothing that was ever written in this generation.
    Untouched,
    /// Pieces of later entries, in which every bad sector is exactly "never reached the disk".
    Torn,
    /// Intact pieces that contradict the log: an op it has already, or one that does not chain to the head.
    Conflicting,
    /// A sector that is neither what was written nor what was there before.
    Damaged,
}

/// All that the decision depends on.
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
    /// The log ends at its head; what follows was never acknowledged and is cut.
    Torn,
    /// Entries above the head may have been acknowledged.
    Faulty,
}

/// A row: `None` stands for any.
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

/// A row for conditions where the newest segment is there and the checkpoint is held.
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
    /// The row of the table that applies: the verdict and the reason for it.
    pub(super) fn judge(&self) -> (Verdict, &'static str) {
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
    fn only_what_surely_was_never_acknowledged_is_cut() {
        for conditions in all() {
            let harmless = conditions.newest == Newest::Present
                && conditions.checkpoint == Checkpoint::Held
                && conditions.synced == Synced::Reached;
            let expected = match conditions.tail {
                Tail::Untouched if harmless => Verdict::Whole,
                Tail::Torn if harmless => Verdict::Torn,
                _ => Verdict::Faulty,
            };
            assert_eq!(conditions.judge().0, expected, "{conditions:?}");
        }
    }
}
