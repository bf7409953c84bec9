//! Forms a cluster in two durable steps, so that wiping one disk can never elect an empty log.

use super::state::ReplicaState;
use super::{Halt, Replica};
use crate::ids::{Instant, MemberId};
use crate::message::{FormationStep, Message, Write};
use std::collections::BTreeMap;

#[derive(Debug)]
pub(super) struct Forming {
    /// The step that is durable here. Only this step is reported to others.
    pub(super) step: FormationStep,
    /// Whether a step is being written.
    pub(super) writing: bool,
    /// The steps that the others last reported.
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

/// Rules F1 to F5.
impl Replica {
    pub(super) fn on_formation(&mut self, from: MemberId, step: FormationStep, ask: bool) {
        let mine = match &mut self.state {
            ReplicaState::Forming(forming) => {
                forming.heard.insert(from, step);
                forming.step
            }
            _ => FormationStep::Formed,
        };
        if ask {
            self.send(from, Message::Formation { step: mine, ask: false });
        }
        self.progress_forming();
    }

    pub(super) fn progress_forming(&mut self) {
        let peers = self.cluster.len() - 1;
        let ReplicaState::Forming(forming) = &mut self.state else { return };
        match forming.progress(peers) {
            Progress::Wait => {}
            Progress::Write(step) => {
                forming.writing = true;
                self.write(Write::Formation(step));
            }
            Progress::DiskLoss(peer) => self.halt(Halt::DiskLoss { peer }),
        }
    }

    pub(super) fn forming_durable(&mut self) {
        let done = self.writes.durable == self.writes.last;
        let ReplicaState::Forming(forming) = &mut self.state else { return };
        if !forming.writing || !done {
            return;
        }
        forming.writing = false;
        forming.step = match forming.step {
            FormationStep::Empty => FormationStep::Formatted,
            FormationStep::Formatted | FormationStep::Formed => FormationStep::Formed,
        };
        let step = forming.step;
        self.broadcast(&Message::Formation { step, ask: step == FormationStep::Formatted });
        if step == FormationStep::Formed {
            self.start_just_formed();
        } else {
            self.progress_forming();
        }
    }

    pub(super) fn forming_timeout(&mut self) {
        let (now, interval) = (self.now.monotonic, self.options.heartbeat * 4);
        let ReplicaState::Forming(forming) = &mut self.state else { return };
        if now < forming.ask_at {
            return;
        }
        forming.ask_at = now.after(interval);
        let step = forming.step;
        self.broadcast(&Message::Formation { step, ask: true });
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
    fn f1_to_f4_a_member_forms_only_after_all_have_answered() {
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
