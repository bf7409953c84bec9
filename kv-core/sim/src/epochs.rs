//! Epochs in the driver: a machine joins, a stop is read, a member enters an epoch, and a member halts.

use super::member::End;
use super::spares::members_of;
use super::world::World;
use kv_core::config::{Configuration, HistoryId};
use kv_core::ids::{Anchor, Op};
use kv_core::journal::{Journal, JournalWriteError};
use kv_core::message::{Answer, ChangeCall, FormationStep, MembersAnswer, Membership, Message, Recovered};
use kv_core::replica::{ChangeRefusal, Halt, Input};

impl World {
    /// Formats an empty directory as that of a standby. `None` if it could not be done now.
    pub(super) fn join(
        &mut self,
        member: usize,
        journal: &mut Journal,
        found: Recovered,
    ) -> Result<Option<Recovered>, JournalWriteError> {
        let disk = self.fresh_disk(member);
        let slot = &mut self.members[member];
        let invitation = slot.invitation.take();
        let recovered = match (found.formation, invitation) {
            (FormationStep::Empty, None) => {
                slot.joining = false;
                return Ok(None);
            }
            (FormationStep::Empty, Some(MembersAnswer { configuration, ended, .. })) => {
                slot.joining = true;
                journal.join(Membership { configuration, disk, retired: false, ended })?
            }
            _ => found,
        };
        (slot.joined, slot.joining) = (true, false);
        self.checker.count("machines joined");
        self.checker.on_joined(member, &recovered);
        Ok(Some(recovered))
    }

    /// A stop is read from the journal.
    pub(super) fn read_stop(&mut self, member: usize, stop: Anchor) {
        let life = self.members[member].life;
        let entry = self.read_entry(member, stop.op);
        if self.members[member].life != life || self.members[member].process.is_none() {
            return;
        }
        let entry = entry.filter(|entry| entry.header.anchor() == stop);
        let input = match entry.and_then(|entry| entry.next_configuration()) {
            Some(configuration) => Input::Stop { stop, configuration },
            None => Input::Faulty { op: stop.op },
        };
        self.input(member, input);
    }

    /// A member is started. Its process may have ended just when it had entered an epoch, the first of all.
    pub(super) fn begins_in_epoch(&mut self, member: usize) {
        let Some(process) = &self.members[member].process else { return };
        let configuration = process.replica.configuration().clone();
        if self.checker.rosters.of(configuration.epoch).is_none() {
            self.note_epoch(member, &configuration);
        }
    }

    /// A member is in another epoch.
    pub(super) fn entered(&mut self, member: usize, configuration: &Configuration) {
        self.trace.note(66, member as u64, u64::from(configuration.epoch.get()), || {
            format!("{:?} m{member} enters {:?}: {:?}", self.now, configuration.epoch, configuration.members)
        });
        if let Some(process) = self.process(member) {
            process.reach.enter(configuration);
        }
        self.note_epoch(member, configuration);
    }

    fn note_epoch(&mut self, member: usize, configuration: &Configuration) {
        // Rule M2: the member claims that this is committed.
        self.record_committed(member, configuration.stop);
        let checked = self.checker.on_entered(member, configuration);
        self.check(checked);
    }

    /// Rule M6: a voter that has lost the disk that the list of its epoch names takes no part in it.
    pub(super) fn check_disk(&mut self, member: usize) {
        let Some(process) = &self.members[member].process else { return };
        let epoch = process.replica.view().epoch();
        let named = self.checker.rosters.of(epoch).and_then(|roster| roster.disk_of(member));
        if named.is_some_and(|disk| self.has_another_disk(member, disk)) {
            self.fail((
                "a voter has the disk that it voted with",
                format!("m{member} in {epoch:?}: {named:?}"),
            ));
        }
    }

    /// A member stops for good.
    pub(super) fn halted(&mut self, member: usize, halt: Halt) {
        match halt {
            Halt::DiskLoss { .. } if self.members[member].wiped => {
                self.checker.count("disk losses noticed");
                self.members[member].away = true;
                self.end_process(member, End::Kill);
            }
            Halt::OtherDisk { .. } if self.members[member].disks_lost > 0 => {
                self.checker.count("other disks noticed");
                self.members[member].away = true;
                self.end_process(member, End::Kill);
            }
            Halt::Removed { epoch } => {
                let checked = self.checker.on_removed(member, epoch);
                self.check(checked);
                // It is started once more, and must stop again.
                self.members[member].away = self.members[member].retired;
                self.members[member].retired = true;
                self.end_process(member, End::Kill);
            }
            Halt::NoState if self.no_state_is_left(Op::ZERO) => self.excuse_without_a_state(),
            Halt::Lost { op } if self.no_state_is_left(op) => self.excuse_without_a_state(),
            halt => self.fail(("no member halts", format!("m{member}: {halt}"))),
        }
    }

    /// A client asks for the member list.
    pub(super) fn list_of(&self, member: usize) -> Answer {
        let process = self.members[member].process.as_ref().expect("the member runs");
        Answer::Members(Box::new(members_of(&process.replica)))
    }

    /// A client asks for another member list. If it is refused, nothing has changed.
    pub(super) fn change(&mut self, member: usize, call: ChangeCall) -> Option<Answer> {
        let now = self.clock_of(member).monotonic;
        let history = HistoryId(self.rng.u128(..));
        let replica = &self.members[member].process.as_ref().expect("the member runs").replica;
        let change = replica.change_request((call.ends, call.nonce, history), call.change)?;
        Some(match replica.check_change(&change, now) {
            Ok(()) => {
                self.checker.count("changes ordered");
                self.input(member, Input::Change { change: Box::new(change) });
                Answer::Done
            }
            Err(ChangeRefusal::Busy) => Answer::Overloaded,
            Err(refusal) => {
                self.checker.count(match refusal {
                    ChangeRefusal::Impossible(_) => "changes refused: impossible",
                    ChangeRefusal::NotLevel(_) => "changes refused: a member is not level",
                    ChangeRefusal::TooFewLevel { .. } => "changes refused: too few are level",
                    ChangeRefusal::OtherDisk(_) => "changes refused: another disk",
                    ChangeRefusal::LeftAlone(_) => "changes refused: one would be left alone",
                    ChangeRefusal::Busy | ChangeRefusal::Role => "changes refused otherwise",
                });
                Answer::ChangeRefused {
                    kind: refusal.kind().expect("it is final"),
                    reason: refusal.to_string(),
                }
            }
        })
    }
}

impl World {
    /// Whether a member has a connection for a message to another. It calls only those that it knows.
    pub(super) fn calls(&mut self, from: usize, to: usize) -> bool {
        let calls = self.members[from].process.as_ref().is_none_or(|process| process.reach.calls(to));
        if !calls {
            self.checker.count("messages to unknown members");
        }
        calls
    }

    /// Whether a member hears what another has sent: its door is closed to strangers.
    pub(super) fn hears(&mut self, to: usize, from: usize, message: &Message) -> bool {
        let theirs = self.members[from].process.as_ref().is_none_or(|process| process.reach.is_changed);
        let reach = self.members[to].process.as_ref().map(|process| &process.reach);
        let hears = reach.is_none_or(|reach| reach.hears(from, message.lane(), theirs));
        if !hears {
            self.checker.count("messages of unknown members");
        }
        hears
    }
}
