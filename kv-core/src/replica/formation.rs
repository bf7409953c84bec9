//! Forms a cluster in two durable steps, so that wiping one disk can never elect an empty log.

use super::Halt;
use super::context::{Context, Flow, Transition};
use crate::ids::{Instant, MemberId};
use crate::message::{FormationStep, Message, Write};
use std::collections::BTreeMap;

#[derive(Debug)]
pub(super) struct Forming {
    /// The step that is durable here. Only this step is reported to others.
    step: FormationStep,
    /// Whether a step is being written.
    writing: bool,
    /// The steps that the others last reported.
    heard: BTreeMap<MemberId, FormationStep>,
    pub(super) ask_at: Instant,
}

/// What to do next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Progress {
    Wait,
    Write(FormationStep),
    DiskLoss(MemberId),
}

/// Rules F1 to F5.
impl Forming {
    pub(super) const fn new(step: FormationStep, now: Instant) -> Self {
        Self { step, writing: false, heard: BTreeMap::new(), ask_at: now }
    }

    pub(super) fn on_formation(&mut self, cx: &mut Context, from: MemberId, step: FormationStep, ask: bool) {
        self.heard.insert(from, step);
        if ask {
            cx.send(from, Message::Formation { step: self.step, ask: false });
        }
        self.advance(cx);
    }

    /// Takes the next step, if what was heard allows it.
    pub(super) fn advance(&mut self, cx: &mut Context) {
        match self.progress(cx.cluster.len() - 1) {
            Progress::Wait => {}
            Progress::Write(step) => {
                self.writing = true;
                cx.write(Write::Formation(step));
            }
            Progress::DiskLoss(peer) => cx.halt(Halt::DiskLoss { peer }),
        }
    }

    pub(super) fn on_durable(&mut self, cx: &mut Context) -> Flow {
        if !self.writing || !cx.is_durable(cx.writes.last) {
            return Flow::Continue(());
        }
        self.writing = false;
        self.step = match self.step {
            FormationStep::Empty => FormationStep::Formatted,
            FormationStep::Formatted | FormationStep::Formed => FormationStep::Formed,
        };
        let step = self.step;
        cx.broadcast(&Message::Formation { step, ask: step == FormationStep::Formatted });
        if step == FormationStep::Formed {
            return Flow::Break(Transition::Formed);
        }
        self.advance(cx);
        Flow::Continue(())
    }

    pub(super) fn on_timeout(&mut self, cx: &mut Context) -> Flow {
        let now = cx.now.monotonic;
        if now >= self.ask_at {
            self.ask_at = now.after(cx.options.heartbeat * 4);
            cx.broadcast(&Message::Formation { step: self.step, ask: true });
        }
        Flow::Continue(())
    }

    fn progress(&self, peers: usize) -> Progress {
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
