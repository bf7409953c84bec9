//! Forming a cluster in two durable steps, so that wiping one disk can never elect an empty log.

use crate::ids::{Instant, MemberId};
use crate::message::FormationStep;
use std::collections::BTreeMap;

#[derive(Debug)]
pub(super) struct Forming {
    /// The step that is durable here: the only one that others are told.
    pub(super) step: FormationStep,
    /// A step that is being written.
    pub(super) writing: bool,
    /// What the others last said.
    pub(super) heard: BTreeMap<MemberId, FormationStep>,
    pub(super) ask_at: Instant,
}

/// What to do next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Progress {
    Wait,
    Write(FormationStep),
    DiskLoss(MemberId),
}

impl Forming {
    pub(super) fn progress(&self, peers: usize) -> Progress {
        if self.writing {
            return Progress::Wait;
        }
        let formed =
            self.heard.iter().find(|(_, step)| **step == FormationStep::Formed).map(|(peer, _)| *peer);
        let all_at_least =
            |least| self.heard.len() == peers && self.heard.values().all(|step| *step >= least);
        match (self.step, formed) {
            (FormationStep::Empty, Some(peer)) => Progress::DiskLoss(peer),
            (FormationStep::Empty, None) if all_at_least(FormationStep::Empty) => {
                Progress::Write(FormationStep::Formatted)
            }
            (FormationStep::Formatted, Some(_)) => Progress::Write(FormationStep::Formed),
            (FormationStep::Formatted, None) if all_at_least(FormationStep::Formatted) => {
                Progress::Write(FormationStep::Formed)
            }
            (FormationStep::Empty | FormationStep::Formatted, None) | (FormationStep::Formed, _) => {
                Progress::Wait
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forming(step: FormationStep, heard: &[FormationStep]) -> Forming {
        let heard = (1..).zip(heard).map(|(id, step)| (MemberId::new(id), *step)).collect();
        Forming { step, writing: false, heard, ask_at: Instant::ZERO }
    }

    /// Rule F1 to F4 of PROTOCOL.md, as a table.
    #[test]
    fn f1_to_f4_a_member_forms_only_when_all_were_seen() {
        use FormationStep::{Empty, Formatted, Formed};
        let table: [(FormationStep, &[FormationStep], Progress); 9] = [
            (Empty, &[Empty], Progress::Wait),
            (Empty, &[Empty, Empty], Progress::Write(Formatted)),
            (Empty, &[Empty, Formatted], Progress::Write(Formatted)),
            (Empty, &[Formed], Progress::DiskLoss(MemberId::new(1))),
            (Formatted, &[Empty, Formatted], Progress::Wait),
            (Formatted, &[Formatted], Progress::Wait),
            (Formatted, &[Formatted, Formatted], Progress::Write(Formed)),
            (Formatted, &[Empty, Formed], Progress::Write(Formed)),
            (Formed, &[Empty, Empty], Progress::Wait),
        ];
        for (step, heard, expected) in table {
            assert_eq!(forming(step, heard).progress(2), expected, "{step:?} {heard:?}");
        }
    }
}
