//! Changes of the member list (rules M).

use super::group::Group;
use crate::config::{Change, DiskId, HistoryId, Options, Role};
use crate::ids::{Epoch, MemberId, View};
use crate::message::{FormationStep, Message};
use crate::replica::{ChangeRefusal, Halt, Input, Replica, Status};
use std::collections::BTreeSet;
use std::time::Duration;

fn id(number: u8) -> MemberId {
    MemberId::new(number)
}

fn add(number: u8) -> Change {
    Change::Add { id: id(number), address: format!("member:{number}"), role: Role::Data }
}

fn promote(number: u8) -> Change {
    Change::Promote { id: id(number), disk: super::group::disk_of(id(number)) }
}

fn replace(old: u8, new: u8) -> Change {
    Change::Replace { old: id(old), new: id(new), disk: super::group::disk_of(id(new)) }
}

fn remove(number: u8) -> Change {
    Change::Remove { id: id(number) }
}

/// Formed, with two entries everywhere.
fn formed(data: u8) -> Group {
    let mut group = Group::formed(data, 0);
    group.propose(0, "a");
    group.propose(0, "b");
    group.run_until("all level", Group::level);
    group.run_for(100);
    group
}

fn epoch_of(group: &Group, member: u8) -> u32 {
    group.replica(member).view().epoch().get()
}

/// Waits until all these members are in the epoch, follow one primary, and have the same entries.
fn settled(group: &mut Group, epoch: u32, members: &[u8]) -> u8 {
    group.run_until("all in the epoch, and level", |group| {
        let all: Vec<&Replica> = members.iter().map(|id| group.replica(*id)).collect();
        let primary = group.serving().filter(|id| members.contains(id));
        all.iter().all(|it| it.view().epoch() == Epoch::new(epoch) && it.status().status == Status::Normal)
            && all.iter().all(|it| it.head() == all[0].head() && it.commit() == it.head())
            && primary.is_some_and(|id| group.replica(id).cx.is_settled())
    });
    group.serving().expect("a primary serves")
}

/// Adds a machine as a standby, and waits until it is level.
fn newcomer(group: &mut Group, primary: u8, members: &[u8]) -> u8 {
    let new = group.machine();
    let epoch = epoch_of(group, primary);
    group.change(primary, add(new));
    settled(group, epoch + 1, members);
    group.join(new, primary);
    settled(group, epoch + 1, &[members, &[new]].concat());
    group.run_for(200);
    new
}

#[test]
fn a_member_is_added_and_promoted() {
    let mut group = formed(3);
    let new = newcomer(&mut group, 0, &[0, 1, 2]);
    assert!(!group.replica(0).cx.cluster.is_voter(id(new)));
    group.change(0, promote(new));
    assert_eq!(settled(&mut group, 2, &[0, 1, 2, 3]), 0, "the primary keeps its role");
    assert_eq!(group.replica(0).cx.cluster.replication_quorum(), 3);
    (1..3).for_each(|peer| group.isolate(peer));
    group.propose(0, "c");
    group.run_for(50);
    assert!(group.replica(0).commit() < group.replica(0).head(), "two of four are no quorum");
    group.heal();
    settled(&mut group, 2, &[0, 1, 2, 3]);
}

#[test]
fn a_lost_member_is_replaced_while_it_is_away() {
    let mut group = formed(3);
    group.crash(2);
    let new = newcomer(&mut group, 0, &[0, 1]);
    group.change(0, replace(2, new));
    settled(&mut group, 2, &[0, 1, new]);
    // It counts: the others suffice with it.
    group.crash(1);
    group.propose(0, "c");
    group.run_until("committed", |group| group.replica(0).commit() == group.replica(0).head());
}

#[test]
fn one_member_becomes_three_and_one_again() {
    let mut group = formed(1);
    for members in [&[0][..], &[0, 1]] {
        let new = newcomer(&mut group, 0, members);
        let epoch = epoch_of(&group, 0) + 1;
        group.change(0, promote(new));
        settled(&mut group, epoch, &[members, &[new]].concat());
    }
    assert_eq!(group.replica(0).cx.cluster.voter_count(), 3);
    for gone in [0, 1] {
        let mut primary = group.serving().expect("a primary serves");
        if gone == 1 {
            // Whoever stays alone must be the primary: it knows what it cannot read.
            let request = group.change_request(primary, remove(gone));
            let refused = group.replica(primary).check_change(&request, group.now.monotonic);
            assert_eq!(refused, Err(ChangeRefusal::LeftAlone(id(2))));
            group.input(primary, Input::HandoverTo { successor: id(2) });
            group.run_until("the role is passed on", |group| group.serving() == Some(2));
            group.run_for(200);
            primary = 2;
        }
        let epoch = epoch_of(&group, primary) + 1;
        group.change(primary, remove(gone));
        let rest: Vec<u8> = (gone + 1..3).collect();
        settled(&mut group, epoch, &rest);
        group.run_until("it stops", |group| group.members[usize::from(gone)].halt.is_some());
    }
    group.propose(2, "alone");
    group.run_until("committed", |group| group.replica(2).commit() == group.replica(2).head());
}

#[test]
fn m9_a_removed_primary_tells_on_until_the_epoch_goes_on_without_it() {
    let mut group = formed(3);
    group.change(0, remove(0));
    let primary = settled(&mut group, 1, &[1, 2]);
    assert_ne!(primary, 0);
    group
        .run_until("it stops", |group| group.members[0].halt == Some(Halt::Removed { epoch: Epoch::new(1) }));
    // And it does not come back.
    group.members[0].halt = None;
    group.crash(0);
    group.start(0);
    assert_eq!(group.members[0].halt, Some(Halt::Removed { epoch: Epoch::new(1) }));
}

/// Both that have the stop are removed, enter and restart: if they only said nothing, 2 would wait for ever.
#[test]
fn m9_a_removed_member_tells_what_it_has_after_a_restart() {
    let mut group = formed(3);
    let new = newcomer(&mut group, 0, &[0, 1, 2]);
    group.isolate(2);
    group.isolate(new);
    group.change(0, replace(0, new));
    group.run_until("both have entered", |group| (0..2).all(|id| epoch_of(group, id) == 2));
    for id in 0..2 {
        group.crash(id);
    }
    group.heal();
    // 1 stays away: only the removed member knows.
    group.start(0);
    assert_eq!(group.replica(0).status().status, Status::Removed);
    settled(&mut group, 2, &[2, new]);
    group.run_until("it stops", |group| group.members[0].halt.is_some());
}

#[test]
fn m1_an_inherited_stop_is_committed() {
    let mut group = formed(3);
    let new = newcomer(&mut group, 0, &[0, 1, 2]);
    group.isolate(2);
    group.members[0].stalled = true;
    group.change(0, promote(new));
    group.settle();
    // 1 has the stop, and 0 dies.
    assert!(group.replica(1).cx.own_stop().is_some());
    group.crash(0);
    group.members[0].stalled = false;
    group.heal();
    settled(&mut group, 2, &[1, 2, new]);
    group.start(0);
    settled(&mut group, 2, &[0, 1, 2, new]);
}

#[test]
fn m13_a_member_that_was_away_for_two_epochs_goes_through_both() {
    let mut group = formed(3);
    group.crash(2);
    let new = newcomer(&mut group, 0, &[0, 1]);
    group.change(0, promote(new));
    settled(&mut group, 2, &[0, 1, new]);
    group.start(2);
    settled(&mut group, 2, &[0, 1, 2, new]);
    let entered: BTreeSet<u32> = group.configurations.keys().map(|epoch| epoch.get()).collect();
    assert_eq!(entered, BTreeSet::from([1, 2]));
}

/// The deposed primary has entries of its own, where the others have the stop.
#[test]
fn m13_what_was_never_committed_is_cut() {
    let mut group = formed(3);
    group.isolate(0);
    for text in ["x", "y", "z"] {
        group.propose(0, text);
    }
    group.run_until("another primary", |group| group.serving().is_some_and(|id| id != 0));
    let primary = group.serving().expect("one serves");
    group.run_for(100);
    group.propose(primary, "c");
    group.run_for(50);
    let new = newcomer(&mut group, primary, &[1, 2]);
    group.heal();
    settled(&mut group, 1, &[0, 1, 2, new]);
}

/// Whoever knows that the stop is committed is gone: the members of the old epoch commit it again.
#[test]
fn m13_the_old_quorum_commits_it_again() {
    let mut group = formed(3);
    group.change(0, add(7));
    // The others acknowledge the stop, and do not hear that it is committed.
    while epoch_of(&group, 0) == 0 {
        assert!(group.deliver(), "it enters");
    }
    group.network.clear();
    group.crash(0);
    assert!((1..3).all(|id| epoch_of(&group, id) == 0), "nobody else has entered");
    settled(&mut group, 1, &[1, 2]);
}

#[test]
fn m4_a_late_view_of_the_ended_epoch_cuts_nothing() {
    let mut group = formed(3);
    group.change(0, remove(2));
    settled(&mut group, 1, &[0, 1]);
    let before = (group.replica(1).view(), group.replica(1).head());
    let view = View::new(7);
    group.input(1, Input::Message { from: id(2), message: Message::StartViewChange { view } });
    group.input(1, Input::Message { from: id(2), message: Message::GetState { view, nonce: 1 } });
    assert_eq!((group.replica(1).view(), group.replica(1).head()), before);
}

#[test]
fn m5_nothing_is_ordered_or_read_behind_a_stop() {
    let mut group = formed(3);
    (1..3).for_each(|peer| group.isolate(peer));
    group.read(0, 1);
    group.change(0, add(7));
    group.settle();
    let head = group.replica(0).head();
    assert_eq!(group.replica(0).cx.own_stop(), Some(head));
    assert!(!group.replica(0).is_serving());
    assert_eq!(group.members[0].refused, [1], "the read that waited is sent elsewhere");
    group.propose(0, "late");
    group.read(0, 2);
    assert_eq!(group.replica(0).head(), head);
    assert_eq!(group.members[0].refused, [1, 2]);
}

#[test]
fn m7_changes_are_refused_by_name() {
    let mut group = formed(3);
    let refusal = |group: &Group, change| {
        let request = group.change_request(0, change);
        group.replica(0).check_change(&request, group.now.monotonic)
    };
    assert!(matches!(refusal(&group, promote(9)), Err(ChangeRefusal::Impossible(_))));
    assert_eq!(refusal(&group, remove(2)), Ok(()));
    group.crash(2);
    group.run_for(1000);
    assert_eq!(
        refusal(&group, remove(1)),
        Err(ChangeRefusal::TooFewLevel { level: 1, needed: 2 }),
        "the one that stays is away"
    );
    let request = group.change_request(0, add(3));
    assert_eq!(group.replica(1).check_change(&request, group.now.monotonic), Err(ChangeRefusal::Busy));
    let new = group.machine();
    group.change(0, add(new));
    settled(&mut group, 1, &[0, 1]);
    assert_eq!(
        refusal(&group, replace(2, new)),
        Err(ChangeRefusal::NotLevel(id(new))),
        "it has not come yet"
    );
}

/// A member that writes little and never needed a checkpoint has a state, and only has to store it.
#[test]
fn m7_a_member_without_a_checkpoint_is_asked_for_one() {
    let mut group = formed(3);
    group.checkpoint(0);
    group.finish_writes(0);
    let request = group.change_request(0, remove(2));
    let check = |group: &Group| group.replica(0).check_change(&request, group.now.monotonic);
    assert!(matches!(check(&group), Err(ChangeRefusal::NotLevel(_) | ChangeRefusal::TooFewLevel { .. })));
    group.run_until("all have one", |group| check(group).is_ok());
}

/// With a witness, a data member that is lost for good: its replacement can come.
#[test]
fn m7_a_lost_data_member_is_replaced_although_a_witness_votes() {
    let mut group = Group::formed(2, 1);
    group.propose(0, "a");
    group.run_until("all level", Group::level);
    group.run_for(100);
    group.crash(1);
    group.run_for(1000);
    let new = newcomer(&mut group, 0, &[0, 2]);
    let request = group.change_request(0, promote(new));
    let refused = group.replica(0).check_change(&request, group.now.monotonic);
    assert_eq!(
        refused,
        Err(ChangeRefusal::NotLevel(id(1))),
        "with another voter, the witness may lack what it needs"
    );
    group.change(0, replace(1, new));
    settled(&mut group, 2, &[0, 2, new]);
}

/// The stop is committed, and the new epoch has no entry of its own yet.
#[test]
fn m12_a_change_is_done_when_the_next_epoch_has_committed_an_entry() {
    let mut group = formed(3);
    group.change(0, remove(2));
    while epoch_of(&group, 0) == 0 {
        assert!(group.deliver(), "it enters");
    }
    assert!(!group.replica(0).is_settled(), "member 2 may still be needed");
    assert_eq!(group.members[2].halt, None);
    settled(&mut group, 1, &[0, 1]);
    assert!(group.replica(0).is_settled());
    group.run_until("it is told that it is not needed", |group| {
        group.members[2].halt == Some(Halt::Removed { epoch: Epoch::new(1) })
    });
}

/// Two operators ask for two changes: the second fails, whatever it is.
#[test]
fn m1_a_change_of_another_epoch_is_refused() {
    let mut group = formed(3);
    let request = group.change_request(0, add(7));
    group.change(0, add(8));
    settled(&mut group, 1, &[0, 1, 2]);
    let refused = group.replica(0).check_change(&request, group.now.monotonic);
    assert!(matches!(refused, Err(ChangeRefusal::Impossible(_))), "{refused:?}");
}

#[test]
fn m6_a_wiped_voter_does_not_take_part() {
    let mut group = formed(3);
    let new = newcomer(&mut group, 0, &[0, 1, 2]);
    group.change(0, promote(new));
    settled(&mut group, 2, &[0, 1, 2, new]);
    let mut membership = group.members[usize::from(new)].disk.membership.clone().expect("it has entered");
    membership.disk = DiskId(5);
    group.crash(new);
    group.members[usize::from(new)].disk.membership = Some(membership);
    group.start(new);
    assert_eq!(group.members[usize::from(new)].halt, Some(Halt::OtherDisk { epoch: Epoch::new(2) }));
}

/// A founder draws its disk id anew in each life until it has entered epoch 1. If the primary named the one that it
/// told before, the member would halt after a restart, although it has lost nothing.
#[test]
fn m6_a_disk_that_is_told_in_epoch_0_is_not_named() {
    let mut group = formed(3);
    let new = newcomer(&mut group, 0, &[0, 1, 2]);
    let named = |group: &Group| {
        let request = group.replica(0).change_request((Epoch::new(1), 1, HistoryId(1)), promote(new));
        request.expect("0 is the primary").disks.get(&id(2)).copied()
    };
    let told = DiskId(77);
    for (epoch, expected) in [(Epoch::ZERO, None), (Epoch::new(1), Some(told))] {
        let message = Message::AskEpoch { epoch, disk: told };
        group.input(0, Input::Message { from: id(2), message });
        assert_eq!(named(&group), expected);
    }
}

/// A founder that was removed before it knew that the cluster is formed, or that was wiped, asks whom it knows.
#[test]
fn f4_who_was_removed_is_told_that_the_cluster_is_formed() {
    let mut group = formed(3);
    group.crash(2);
    group.change(0, remove(2));
    settled(&mut group, 1, &[0, 1]);
    group.members[2].disk.formation = FormationStep::Formatted;
    group.start(2);
    group.run_until("it hears that it was removed", |group| group.members[2].halt.is_some());
    assert_eq!(group.members[2].halt, Some(Halt::Removed { epoch: Epoch::new(1) }));
}

/// The disk of a founder is lost, and no other founder is left.
#[test]
fn f4_a_wiped_founder_is_told_by_members_that_came_later() {
    let mut group = formed(3);
    let first = newcomer(&mut group, 0, &[0, 1, 2]);
    group.change(0, replace(2, first));
    settled(&mut group, 2, &[0, 1, first]);
    let new = newcomer(&mut group, 0, &[0, 1, first]);
    group.change(0, replace(0, new));
    settled(&mut group, 4, &[1, first, new]);
    for gone in [0, 2] {
        group.run_until("a removed member stops", |group| group.members[gone].halt.is_some());
    }
    group.crash(1);
    let told = group.replica(new).configuration().clone();
    group.members[1].disk = super::group::Disk::empty();
    group.start(1);
    assert_eq!(group.replica(1).status().status, Status::Forming);
    let view = told.first;
    group.input(1, Input::Message { from: id(new), message: Message::GetState { view, nonce: 1 } });
    group.run_until("it notices", |group| group.members[1].halt.is_some());
    assert_eq!(group.members[1].halt, Some(Halt::DiskLoss { peer: id(new) }));
}

/// A member that was away for long may know none of those that are left, and so cannot ask them.
#[test]
fn m13_the_primary_tells_a_silent_member_for_ever_and_again_after_a_restart() {
    let mut group = formed(3);
    group.crash(2);
    group.change(0, Change::Address { id: id(1), address: "moved:1".into() });
    settled(&mut group, 1, &[0, 1]);
    let is_told = |group: &mut Group| {
        group.sent.clear();
        group.run_for(1_000);
        let tells =
            |it: &super::group::Envelope| it.to == id(2) && matches!(it.message, Message::Epoch { .. });
        group.sent.iter().any(tells)
    };
    group.run_for(60_000);
    assert!(is_told(&mut group));
    group.crash(0);
    group.start(0);
    settled(&mut group, 1, &[0, 1]);
    assert!(is_told(&mut group));
}

/// Changes of all kinds, while members crash and links are cut; and then all is healed.
struct Random {
    group: Group,
    rng: fastrand::Rng,
    changed: u32,
    tickets: u64,
}

impl Random {
    fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let pipeline_depth = if rng.bool() { 1 } else { Options::default().pipeline_depth };
        let mut options = Options { pipeline_depth, ..Options::default() };
        let has_states = rng.bool();
        if rng.bool() {
            options.read_lease = Duration::from_millis(100);
        }
        if has_states {
            options.journal_retention_bytes = [0, 0, 16 * 4096][rng.usize(..3)];
        }
        let (data, witnesses) = *rng.choice(&[(1, 0), (2, 0), (3, 0), (3, 0), (2, 1)]).expect("some");
        let mut group = Group::with_options(data, witnesses, options);
        group.checkpoints_when_asked = has_states;
        group.run_until("a primary serves", |group| group.serving() == Some(0));
        Self { group, rng, changed: 0, tickets: 0 }
    }

    fn members(&self) -> u8 {
        u8::try_from(self.group.members.len()).expect("few members")
    }

    fn step(&mut self) {
        let id = self.rng.u8(..self.members());
        let is_alive = self.group.members[usize::from(id)].replica.is_some();
        match self.rng.u32(..1000) {
            0..500 => drop(self.group.deliver()),
            500..650 => {
                let count = self.rng.usize(1..4);
                self.group.finish_some(id, count);
            }
            650..700 => {
                if let Some(primary) = self.group.serving() {
                    self.group.propose(primary, "w");
                }
            }
            // Whoever takes itself for the primary: a deposed one must not answer from its past.
            700..720 if is_alive => {
                self.tickets += 1;
                self.group.read(id, self.tickets);
            }
            700..860 => (0..self.rng.u32(1..30)).for_each(|_| self.group.tick()),
            860..880 => self.change(),
            880..900 => self.join(),
            900..915 => {
                self.group.cut.insert((id, self.rng.u8(..self.members())));
            }
            915..930 => self.group.heal(),
            930..950 if is_alive => self.group.crash(id),
            950..980 if !is_alive => self.start(id),
            980..990 if self.group.checkpoints_when_asked && is_alive => self.checkpoint(id),
            _ => {
                let stalled = &mut self.group.members[usize::from(id)].stalled;
                *stalled = !*stalled;
            }
        }
        self.group.install_snapshots();
    }

    fn start(&mut self, id: u8) {
        let member = &self.group.members[usize::from(id)];
        if member.disk.formation == FormationStep::Formed && member.halt.is_none() {
            self.group.start(id);
        }
    }

    /// A data member makes a checkpoint of what it has applied.
    fn checkpoint(&mut self, member: u8) {
        let cx = &self.group.replica(member).cx;
        if !cx.is_witness() && !cx.transfer.stateless {
            self.group.checkpoint(member);
        }
    }

    fn change(&mut self) {
        let Some(primary) = self.group.serving() else { return };
        let configuration = self.group.replica(primary).configuration().clone();
        let any = |rng: &mut fastrand::Rng, is_standby: bool| {
            let members = configuration.members.iter().filter(|(_, it)| it.is_standby == is_standby);
            rng.choice(members.map(|(id, _)| id.get()).collect::<Vec<_>>())
        };
        let (voter, standby) = (any(&mut self.rng, false), any(&mut self.rng, true));
        let change = match (self.rng.u8(..4), voter, standby) {
            (0, _, None) if self.members() < 8 => {
                let number = self.group.machine();
                let role = if self.rng.u8(..4) == 0 { Role::Witness } else { Role::Data };
                Change::Add { id: id(number), address: format!("member:{number}"), role }
            }
            (1, _, Some(standby)) => promote(standby),
            (2, Some(voter), Some(standby)) => replace(voter, standby),
            (3, Some(voter), _) => remove(voter),
            _ => return,
        };
        let request = self.group.change_request(primary, change);
        let now = self.group.now.monotonic;
        if self.group.replica(primary).check_change(&request, now).is_ok() {
            self.changed += 1;
            self.group.input(primary, Input::Change { change: Box::new(request) });
        }
    }

    /// A machine without a disk joins, if a member knows it.
    fn join(&mut self) {
        let mut machines = 0..self.members();
        let empty = |id: &u8| self.group.members[usize::from(*id)].disk.formation != FormationStep::Formed;
        let Some(new) = machines.clone().find(empty) else { return };
        let knows = |other: &u8| {
            let replica = self.group.members[usize::from(*other)].replica.as_ref();
            replica.is_some_and(|it| it.configuration().members.contains_key(&id(new)))
        };
        if let Some(of) = machines.find(knows) {
            self.group.join(new, of);
        }
    }

    /// Everything is healed: the members of the last epoch go on, and all others stop.
    fn converge(mut self, seed: u64) -> u32 {
        self.group.heal();
        for id in 0..self.members() {
            self.group.members[usize::from(id)].stalled = false;
            self.group.finish_writes(id);
            if self.group.members[usize::from(id)].replica.is_none() {
                self.start(id);
            }
        }
        for _ in 0..4 {
            self.group.run_for(2_000);
            self.join();
        }
        let last = self.group.configurations.last_key_value().map(|(_, it)| it.clone());
        let what = format!("seed {seed}: converged");
        let started =
            |group: &Group, id: u8| group.members[usize::from(id)].disk.formation == FormationStep::Formed;
        let stays = |id: &MemberId| last.as_ref().is_none_or(|it| it.members.contains_key(id));
        self.group.run_until(&what, |group| {
            (0..u8::try_from(group.members.len()).expect("few")).filter(|id| started(group, *id)).all(
                |member| {
                    let state = &group.members[usize::from(member)];
                    let is_in = last.as_ref().is_none_or(|it| it.members.contains_key(&id(member)));
                    let epoch = last.as_ref().map_or(Epoch::ZERO, |it| it.epoch);
                    match &state.replica {
                        // Whoever it could ask may have been removed since, and be gone.
                        Some(replica) if !is_in => {
                            state.halt.is_some() || !replica.configuration().members.keys().any(&stays)
                        }
                        None if !is_in => state.halt.is_some(),
                        Some(replica) => {
                            replica.view().epoch() == epoch
                                && replica.status().status == Status::Normal
                                && group.serving().is_some_and(|primary| {
                                    group.replica(primary).commit() == replica.head()
                                        && replica.commit() == replica.head()
                                })
                        }
                        None => false,
                    }
                },
            )
        });
        let primary = self.group.serving().expect("one serves");
        let before = self.group.replica(primary).head().op;
        self.group.propose(primary, "at last");
        self.group.run_until(&what, |group| group.replica(primary).commit().op > before);
        for (id, member) in self.group.members.iter().enumerate() {
            let halt = &member.halt;
            assert!(matches!(halt, None | Some(Halt::Removed { .. })), "seed {seed}: member {id}: {halt:?}");
        }
        self.changed
    }
}

fn run(seed: u64) -> u32 {
    println!("seed {seed}");
    let mut random = Random::new(seed);
    for _ in 0..2_000 {
        random.step();
    }
    random.converge(seed)
}

#[test]
fn changes_under_faults_lose_nothing() {
    let seeds = match std::env::var("KV_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => seed..seed + 1,
        None => 0..std::env::var("KV_SEEDS").map_or(60, |it| it.parse().expect("a number")),
    };
    let changed: u32 = seeds.map(run).sum();
    println!("{changed} changes");
    assert!(changed > 60 || std::env::var("KV_SEED").is_ok());
}
