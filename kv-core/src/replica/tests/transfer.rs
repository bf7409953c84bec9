//! State transfer (rules T1 to T9). Each test names the execution that it rules out.

use super::group::Envelope;
use super::group::Group;
use crate::config::Options;
use crate::ids::{Anchor, Epoch, Hash, MemberId, Op, Revision, Timestamp, View};
use crate::message::{Chunk, ChunkEnd, LogPoint, Message};
use crate::replica::{Input, Status};
use bytes::Bytes;

fn member(id: u8) -> MemberId {
    MemberId::new(id)
}

/// Nothing is kept for members that are away.
fn tight() -> Options {
    Options { journal_retention_bytes: 0, witness_journal_bytes: 1 << 20, ..Options::default() }
}

fn write(group: &mut Group, count: usize) {
    let primary = group.serving().expect("a primary serves");
    for n in 0..count {
        group.propose(primary, &format!("k{n}"));
        group.settle();
    }
}

/// Three members; member 2 has the first three entries, was away for the next forty, and the others have dropped those.
fn away(data: u8, witnesses: u8) -> Group {
    let mut group = Group::with_options(data, witnesses, tight());
    group.run_until("a primary serves", |group| group.serving() == Some(0));
    write(&mut group, 3);
    group.run_until("level", Group::level);
    let last = data + witnesses - 1;
    group.crash(last);
    write(&mut group, 40);
    group.run_for(100);
    for id in 0..last {
        group.checkpoint(id);
    }
    write(&mut group, 5);
    group.run_until("trimmed", |group| {
        (0..last).all(|id| group.members[usize::from(id)].disk.floor.0.op >= Op::new(40))
    });
    group
}

/// Lets time pass without completing snapshots.
fn pass(group: &mut Group, milliseconds: u64) {
    for _ in 0..milliseconds {
        while group.deliver() {}
        group.tick();
    }
}

/// Runs until the condition holds, and completes no snapshot.
fn step_until(group: &mut Group, what: &str, condition: impl Fn(&Group) -> bool) {
    for _ in 0..20_000 {
        if condition(group) {
            return;
        }
        if !group.deliver() {
            group.tick();
        }
    }
    panic!("it never happens: {what}");
}

/// Until member 2 has a part of a snapshot, and not all.
fn store_some(group: &mut Group) {
    step_until(group, "a part is stored", |group| {
        matches!(group.members[2].disk.snapshot, Some((_, ChunkEnd::More(_))))
    });
}

fn floor(group: &Group, id: u8) -> Op {
    group.members[usize::from(id)].disk.floor.0.op
}

/// T5: withheld acknowledgements are sent afterwards: without member 2's, nothing could commit when another one goes.
#[test]
fn t5_a_member_that_was_away_for_long_receives_the_state_and_acknowledges_again() {
    let mut group = away(3, 0);
    group.start(2);
    group.run_until("level", Group::level);
    assert!(floor(&group, 2) >= Op::new(40), "{:?}", floor(&group, 2));
    group.crash(1);
    let before = group.replica(0).commit().op;
    write(&mut group, 3);
    group.run_until("committed", |group| group.replica(0).commit().op == before.advance(3));
}

/// T5: nothing above its old head is acknowledged before the state is there.
#[test]
fn t5_nothing_is_acknowledged_before_it_has_arrived() {
    let mut group = away(3, 0);
    group.start(2);
    group.sent.clear();
    pass(&mut group, 3000);
    assert!(group.replica(2).is_transferring());
    assert!(!group.installing.is_empty(), "complete, and not yet installed");
    for envelope in group.sent.iter().filter(|envelope| envelope.from == member(2)) {
        let log = match &envelope.message {
            Message::PrepareOk { log, .. } => Some(*log),
            Message::CommitOk { log, .. } => *log,
            _ => None,
        };
        assert!(log.is_none_or(|log| log.op <= Op::new(3)), "{envelope:?}");
    }
}

/// T2: a member votes with its own log until the new state is complete. (VR Revisited 5.2 cuts first.)
#[test]
fn t2_nothing_is_cut_before_the_state_has_arrived() {
    let mut group = away(3, 0);
    let before = group.members[2].disk.entries.clone();
    group.start(2);
    pass(&mut group, 3000);
    assert!(group.replica(2).is_transferring());
    assert_eq!(group.members[2].disk.entries, before);
    group.crash(2);
    group.start(2);
    assert_eq!(group.replica(2).head().op, Op::new(3));
    group.run_until("level", Group::level);
}

/// T2, T3: the state is switched, and the power goes before the journal hears of it: the state is ahead of the log.
#[test]
fn t3_a_crash_between_replacing_the_state_and_rebasing_the_log_is_harmless() {
    let mut group = away(3, 0);
    group.start(2);
    pass(&mut group, 3000);
    group.members[2].stalled = true;
    group.install_snapshots();
    let point = group.members[2].disk.engine.as_ref().expect("it was switched").0.anchor;
    assert_ne!(group.members[2].disk.checkpoint, point);
    group.members[2].stalled = false;
    group.crash(2);
    group.start(2);
    assert_eq!((group.replica(2).checkpoint(), group.replica(2).head()), (point.op, point));
    group.run_until("level", Group::level);
}

/// T3: member 2 lost only its state. Its log contains the acknowledged entries above the snapshot, and keeps them.
#[test]
fn t3_entries_above_the_snapshot_stay() {
    let mut group = Group::with_options(3, 0, tight());
    group.run_until("a primary serves", |group| group.serving() == Some(0));
    write(&mut group, 20);
    group.run_for(100);
    for id in 0..3 {
        group.checkpoint(id);
    }
    group.run_until("trimmed", |group| floor(group, 2) == Op::new(20));
    write(&mut group, 7);
    group.run_until("level", Group::level);
    group.crash(2);
    group.members[2].stateless = true;
    group.start(2);
    assert_eq!(group.replica(2).head().op, Op::new(27));
    group.run_until("a state", |group| !group.members[2].stateless);
    assert_eq!(group.replica(2).head().op, Op::new(27));
    assert_eq!(group.members[2].disk.entries.len(), 7);
}

/// T4: a state of a later view brings its view with it. Without it, a member that adopts the state in the middle of an
/// older view finds that view's log without entries that it knows to be committed, and stops as if the histories had
/// diverged.
#[test]
fn t4_a_member_that_installs_a_state_is_in_the_view_that_committed_it() {
    let mut group = away(5, 0);
    // Members 3 and 4 are left behind in an old view with its primary; member 4 can hear one of the others.
    group.start(4);
    let old = group.replica(0).view();
    for (some, other) in [0, 3, 4].into_iter().flat_map(|some| [(some, 1), (some, 2)]) {
        group.cut.extend([(some, other), (other, some)]);
    }
    group.crash(0);
    group.members[4].stateless = true;
    group.crash(4);
    group.crash(3);
    group.start(3);
    group.cut.retain(|(some, other)| !(*some == 3 || *other == 3));
    group.run_until("a later view", |group| group.serving().is_some());
    write(&mut group, 20);
    group.run_for(50);
    (1..4).for_each(|id| group.checkpoint(id));
    group.cut.extend([(0, 4), (4, 0)]);
    group.start(4);
    assert_eq!(group.replica(4).view(), old);
    // It hears of the later view by the pieces of a state alone.
    for _ in 0..60_000 {
        let unheard = |message: &Message| !matches!(message.name(), "SnapshotChunk" | "SnapshotGone");
        group
            .network
            .retain(|sent| !(sent.from == member(3) && sent.to == member(4) && unheard(&sent.message)));
        if !group.deliver() {
            group.install_snapshots();
            group.tick();
        }
        assert_eq!(group.members[4].halt, None);
        if !group.members[4].stateless {
            break;
        }
    }
    assert!(group.replica(4).view() > old && !group.members[4].stateless);
    group.heal();
    group.start(0);
    group.run_until("level", Group::level);
}

/// T4: the member has joined a later view because of a vote, and its slow disk has not stored that yet. If a whole
/// state came first, a crash would leave a state of the later view beside an older one, whose primary may lack what is
/// in it.
#[test]
fn t4_nothing_of_a_state_is_stored_before_the_view_is_durable() {
    let mut group = away(3, 0);
    group.members[2].stateless = true;
    group.start(2);
    let is_piece = |sent: &&Envelope| sent.message.name() == "SnapshotChunk" && sent.to == member(2);
    let piece = (0..60_000).find_map(|_| {
        let found = group.network.iter().find(is_piece).cloned();
        if found.is_none() && !group.deliver() {
            group.tick();
        }
        found
    });
    let Some(Envelope { from, message: Message::SnapshotChunk { nonce, at, chunk, .. }, .. }) = piece else {
        panic!("a piece was found");
    };
    group.network.clear();
    group.members[2].stalled = true;
    let view = group.replica(2).view().next();
    group.input(2, Input::Message { from, message: Message::GetState { view, nonce: 1 } });
    assert_eq!((group.replica(2).view(), group.members[2].disk.view < view), (view, true));
    let message = Message::SnapshotChunk { nonce, view, at, chunk };
    group.input(2, Input::Message { from, message: message.clone() });
    assert_eq!(group.members[2].disk.snapshot, None, "the view is not durable");
    group.members[2].stalled = false;
    group.finish_writes(2);
    group.input(2, Input::Message { from, message });
    assert!(group.members[2].disk.snapshot.is_some());
    group.run_until("level", Group::level);
}

/// T6: each piece takes ten times as long as any question has patience for. What was begun is completed: the same
/// snapshot, by one nonce.
#[test]
fn t6_a_source_that_is_slow_is_not_gone() {
    let mut group = away(3, 0);
    group.start(2);
    group.sent.clear();
    let late = std::time::Duration::from_secs(20);
    let mut pieces = std::collections::VecDeque::new();
    for _ in 0..150_000 {
        let is_piece = |sent: &Envelope| matches!(sent.message, Message::SnapshotChunk { .. });
        let (slow, rest): (Vec<_>, Vec<_>) = group.network.drain(..).partition(is_piece);
        group.network = rest.into();
        pieces.extend(slow.into_iter().map(|sent| (group.now.monotonic.after(late), sent)));
        while pieces.front().is_some_and(|(due, _)| *due <= group.now.monotonic) {
            let (_, sent) = pieces.pop_front().expect("there is one");
            group.input(2, Input::Message { from: sent.from, message: sent.message });
        }
        if !group.deliver() {
            group.install_snapshots();
            group.tick();
        }
        if group.level() {
            break;
        }
    }
    assert!(group.level(), "{:?}", group.replica(2).status());
    assert_eq!(runs(&group).len(), 1, "begun once");
}

/// T6: verifying a state takes two minutes, while writes continue and others make checkpoints.
#[test]
fn t6_a_state_that_takes_minutes_to_verify_is_installed_at_the_first_try() {
    let mut group = away(3, 0);
    group.start(2);
    group.sent.clear();
    pass(&mut group, 3000);
    assert!(!group.installing.is_empty(), "complete, and not yet installed");
    for _ in 0..24 {
        let primary = group.serving().expect("a primary serves");
        group.propose(primary, "more");
        pass(&mut group, 5000);
        (0..2).for_each(|id| group.checkpoint(id));
    }
    group.run_until("level", Group::level);
    assert_eq!(runs(&group).len(), 1, "begun once");
    // What shows life asks for nothing, so it costs the sources nothing.
    let questions = group.sent.iter().filter(|sent| {
        matches!(sent.message, Message::GetSnapshot { after: Some(_), .. }) && sent.from == member(2)
    });
    assert!(questions.count() < 20);
}

/// The nonces with which member 2 has asked for states.
fn runs(group: &Group) -> std::collections::BTreeSet<u64> {
    let asked = group.sent.iter().filter(|sent| sent.from == member(2));
    let nonce = |sent: &Envelope| match sent.message {
        Message::GetSnapshot { nonce, .. } => Some(nonce),
        _ => None,
    };
    asked.filter_map(nonce).collect()
}

/// Member 2 begins a transfer, and member 1 answers first, with a snapshot at `index + 1`, which is of no use.
fn offer_a_useless_snapshot(index: usize) -> Group {
    let mut group = away(3, 0);
    group.start(2);
    group.sent.clear();
    for _ in 0..10_000 {
        if !runs(&group).is_empty() {
            break;
        }
        if !group.deliver() {
            group.tick();
        }
    }
    let nonce = runs(&group).pop_first().expect("it asks");
    let at = Anchor { op: Op::new(index as u64 + 1), hash: group.committed[index] };
    let chunk = Chunk::new(Bytes::new(), Bytes::new(), ChunkEnd::More("a".into()));
    let message = Message::SnapshotChunk { nonce, view: View::ZERO, at, chunk };
    group.input(2, Input::Message { from: member(1), message });
    assert!(group.replica(2).is_transferring());
    assert_eq!(group.members[2].disk.snapshot, None);
    group
}

/// T6: another member that is behind as well answers first, with a snapshot of no use. What the others send counts as
/// before.
#[test]
fn t6_a_peer_that_is_behind_too_ends_no_transfer() {
    // One that leads no further than the own log, and one below which the others have dropped their entries.
    for index in [1, 9] {
        let mut group = offer_a_useless_snapshot(index);
        group.run_until("level", Group::level);
        assert_eq!(runs(&group).len(), 1, "begun once");
    }
}

/// T6: nothing was received yet, and all members are down except the one whose snapshot was useless. It is asked again,
/// because it may have another one by now.
#[test]
fn t6_a_peer_with_a_useless_snapshot_is_asked_again() {
    for index in [1, 9] {
        let mut group = offer_a_useless_snapshot(index);
        group.crash(0);
        group.run_until("level", Group::level);
    }
}

/// T6: member 0 has reported a checkpoint that nobody else has come to, and is down for good. What member 1 has must
/// do.
#[test]
fn t6_an_older_state_is_accepted_if_the_source_of_a_newer_one_is_gone() {
    let mut group = away(3, 0);
    group.start(2);
    let anchor = Anchor { op: group.replica(0).head().op.advance(100), hash: Hash::ZERO };
    let checkpoint = LogPoint { anchor, next_revision: Revision::new(1000), timestamp: Timestamp::ZERO };
    let message = Message::TooOld { nonce: 0, checkpoint, primary_of: Some(View::ZERO) };
    group.input(2, Input::Message { from: member(0), message });
    assert!(group.replica(2).is_transferring());
    group.crash(0);
    group.run_until("level", Group::level);
}

/// T2: a snapshot that fails verification is fetched again; meanwhile the log and the old state stay.
#[test]
fn t2_a_snapshot_that_does_not_verify_is_fetched_again() {
    let mut group = away(3, 0);
    group.start(2);
    pass(&mut group, 3000);
    let (_, at) = group.installing[0];
    group.spoiled.insert(at);
    group.run_until("level", Group::level);
    assert!(group.spoiled.is_empty());
}

/// T6: stored pieces survive a restart of the receiver: it continues after the last one.
#[test]
fn t6_a_restarted_receiver_resumes() {
    let mut group = away(3, 0);
    group.start(2);
    store_some(&mut group);
    let (at, end) = group.members[2].disk.snapshot.clone().expect("it is there");
    let ChunkEnd::More(place) = end else { panic!("all at once") };
    group.crash(2);
    group.sent.clear();
    group.start(2);
    group.run_until("level", Group::level);
    let asked = group.sent.iter().find_map(|sent| match &sent.message {
        Message::GetSnapshot { at, after: Some(after), .. } if sent.from == member(2) => {
            Some((*at, after.clone()))
        }
        _ => None,
    });
    assert_eq!(asked, Some((Some(at), place)));
}

/// T6: so does a member without a state, which asks as soon as it starts, before it knows what an earlier life has
/// stored.
#[test]
fn t6_a_restarted_member_without_a_state_resumes() {
    for whole in [false, true] {
        let mut group = away(3, 0);
        group.members[2].stateless = true;
        group.start(2);
        if whole {
            pass(&mut group, 3000);
        } else {
            store_some(&mut group);
        }
        let (stored, end) = group.members[2].disk.snapshot.clone().expect("it is there");
        assert_eq!(end == ChunkEnd::Last, whole);
        group.crash(2);
        write(&mut group, 5);
        // The others have it until the next one is fetched, or have forgotten it.
        for id in 0..2 {
            group.checkpoint(id);
            let pinned = &mut group.members[usize::from(id)].pinned;
            *pinned = pinned.filter(|_| !whole);
        }
        group.start(2);
        pass(&mut group, 3000);
        assert_eq!(group.installing.first().map(|(_, at)| *at), Some(stored), "whole: {whole}");
        group.run_until("level", Group::level);
    }
}

/// T6: all pieces have arrived when the machine stops. After the restart, the member needs neither another `TooOld` nor
/// another member with a state.
#[test]
fn t6_a_snapshot_that_was_whole_before_a_restart_is_installed_at_once() {
    let mut group = away(3, 0);
    group.start(2);
    pass(&mut group, 3000);
    let (at, end) = group.members[2].disk.snapshot.clone().expect("it is there");
    assert_eq!(end, ChunkEnd::Last);
    group.crash(2);
    group.crash(1);
    group.crash(0);
    group.start(2);
    assert_eq!(group.installing, [(2, at)]);
    group.install_snapshots();
    group.start(0);
    group.run_until("members 0 and 2 serve", |group| group.serving().is_some());
    group.start(1);
    group.run_until("level", Group::level);
}

/// T6: the member has reached the same op by entries, and so has its own checkpoint. Otherwise the stored pieces would
/// stay for ever.
#[test]
fn t6_an_unneeded_snapshot_is_discarded() {
    let mut group = Group::with_options(3, 0, tight());
    group.run_until("a primary serves", |group| group.serving() == Some(0));
    write(&mut group, 20);
    group.run_until("level", Group::level);
    let at = group.replica(2).head();
    group.crash(2);
    group.members[2].disk.snapshot = Some((at, ChunkEnd::More("k7".into())));
    group.start(2);
    group.run_until("level", Group::level);
    assert!(group.members[2].disk.snapshot.is_some(), "a crash could make it useful still");
    group.checkpoint(2);
    assert_eq!(group.members[2].disk.snapshot, None);
    // So it is with what an earlier life left behind.
    group.crash(2);
    group.members[2].disk.snapshot = Some((at, ChunkEnd::More("k7".into())));
    group.start(2);
    assert_eq!(group.members[2].disk.snapshot, None);
}

/// T6: the source dies in the middle, and the other has another checkpoint: from the beginning, with what there is.
#[test]
fn t6_a_source_that_dies_is_replaced() {
    let mut group = away(3, 0);
    group.start(2);
    store_some(&mut group);
    group.crash(0);
    group.checkpoint(1);
    group.run_until("a primary serves", |group| group.serving().is_some());
    write(&mut group, 1);
    group.run_until("level", Group::level);
}

/// T6: both pieces and questions get lost.
#[test]
fn t6_lost_messages_are_repeated() {
    let mut group = away(3, 0);
    group.start(2);
    let mut rng = fastrand::Rng::with_seed(7);
    for _ in 0..200_000 {
        let transfer = group.network.front().is_some_and(|envelope| {
            matches!(
                envelope.message.name(),
                "GetSnapshot" | "SnapshotChunk" | "TooOld" | "Fetch" | "Headers"
            )
        });
        if transfer && rng.u32(0..3) > 0 {
            group.network.pop_front();
        }
        if !group.deliver() {
            group.install_snapshots();
            group.tick();
        }
        if group.level() {
            return;
        }
    }
    panic!("not in time");
}

/// M4: a piece that was asked for, from a source that claims to be in another epoch.
#[test]
fn m4_a_piece_of_another_epoch_moves_nobody() {
    let mut group = away(3, 0);
    group.start(2);
    group.sent.clear();
    let asks = |sent: &Envelope| match sent.message {
        Message::GetSnapshot { nonce, after: Some(_), .. } if sent.from == member(2) => {
            Some((sent.to, nonce))
        }
        _ => None,
    };
    step_until(&mut group, "it asks for a piece", |group| group.sent.iter().any(|sent| asks(sent).is_some()));
    let (source, nonce) = group.sent.iter().find_map(asks).expect("it has asked");
    let (before, at) = (group.replica(2).view(), group.replica(0).commit());
    for view in [View::of(Epoch::new(1), 0), before.next()] {
        let chunk = Chunk::new(Bytes::new(), Bytes::from_static(b"rows"), ChunkEnd::Last);
        let message = Message::SnapshotChunk { nonce, view, at, chunk };
        group.input(2, Input::Message { from: source, message });
        let moved = view.epoch() == before.epoch();
        assert_eq!(group.replica(2).view(), if moved { view } else { before });
    }
}

/// T7: the member that is behind becomes primary of the next view: it lets it pass.
#[test]
fn t7_a_new_primary_that_needs_a_state_gives_up_the_view() {
    let mut group = away(3, 0);
    // Member 1's log is whole, member 2's is not; the view after this one is member 1's, then comes member 2's.
    group.start(2);
    group.crash(0);
    group.isolate(1);
    pass(&mut group, 10);
    group.heal();
    group.run_until("member 1 serves", |group| group.serving() == Some(1));
    group.run_until("level", Group::level);
    group.input(1, Input::Handover);
    group.run_until("handed over", |group| group.serving() == Some(2));
}

/// T7: only members 1 and 2 are left, and the view is that of member 2, which is far behind.
#[test]
fn t7_a_cluster_does_not_wait_for_a_next_primary_that_is_far_behind() {
    let mut group = away(3, 0);
    group.crash(0);
    group.members[2].disk.view = View::new(2);
    group.members[1].disk.view = View::new(2);
    group.crash(1);
    group.start(1);
    group.start(2);
    let since = group.now.monotonic;
    for _ in 0..20_000 {
        while group.deliver() {}
        if group.serving() == Some(1) {
            let took = group.now.monotonic.since(since);
            assert!(took < std::time::Duration::from_secs(8), "{took:?}");
            group.run_until("level", Group::level);
            return;
        }
        group.tick();
    }
    panic!("member 1 does not serve");
}

/// T8: entries that a briefly absent member needs are kept, up to the budget.
#[test]
fn t8_a_member_that_was_away_within_the_budget_catches_up_by_entries() {
    let options = Options { journal_retention_bytes: 1 << 20, ..tight() };
    let mut group = Group::with_options(3, 0, options);
    group.run_until("a primary serves", |group| group.serving() == Some(0));
    write(&mut group, 3);
    group.crash(2);
    write(&mut group, 40);
    group.checkpoint(0);
    group.checkpoint(1);
    group.run_for(200);
    assert_eq!(floor(&group, 0), Op::ZERO);
    group.start(2);
    group.sent.clear();
    group.run_until("level", Group::level);
    assert!(!group.sent.iter().any(|sent| matches!(sent.message, Message::GetSnapshot { .. })));
}

/// T8: a member that needs an entry that no member can read receives a state that contains it, and does not wait for
/// ever.
#[test]
fn t8_a_state_replaces_an_entry_that_is_damaged_everywhere() {
    let mut group = Group::with_options(3, 0, Options { journal_retention_bytes: 1 << 20, ..tight() });
    group.run_until("a primary serves", |group| group.serving() == Some(0));
    write(&mut group, 3);
    group.run_until("level", Group::level);
    group.crash(2);
    write(&mut group, 10);
    group.run_for(100);
    for id in 0..2 {
        group.checkpoint(id);
        group.input(id, Input::Faulty { op: Op::new(8) });
    }
    group.start(2);
    group.run_until("level", Group::level);
    assert!(floor(&group, 2) >= Op::new(8), "its log stands on a state: {:?}", floor(&group, 2));
}

/// Member `stuck` knows all entries to be committed, but has applied only the first `applied`, and not the `more` that
/// follow.
fn hanging(stuck: u8, members: u8, applied: usize, more: usize) -> Group {
    let mut group = Group::with_options(members, 0, tight());
    group.run_until("a primary serves", |group| group.serving() == Some(0));
    write(&mut group, applied);
    group.run_until("level", Group::level);
    group.members[usize::from(stuck)].hangs = true;
    write(&mut group, more);
    group.run_until("all know the last entry to be committed", Group::level);
    group
}

/// Member `stuck` has all thirteen entries and knows them to be committed, but has applied only the first three. The
/// others have made checkpoints at the tenth entry, and have dropped it and all below.
fn behind_with_its_state(stuck: u8, members: u8) -> Group {
    let mut group = hanging(stuck, members, 3, 7);
    for id in (0..members).filter(|id| *id != stuck) {
        group.checkpoint(id);
    }
    write(&mut group, 3);
    group.run_until("trimmed", |group| {
        let mut others = (0..members).filter(|id| *id != stuck);
        group.level() && others.all(|id| floor(group, id) >= Op::new(10))
    });
    assert_eq!(group.replica(stuck).cx.applied, Op::new(3));
    group
}

fn requests(group: &Group, from: u8) -> std::collections::BTreeSet<MemberId> {
    let fetches = group.sent.iter().filter(|sent| matches!(sent.message, Message::Fetch { .. }));
    fetches.filter(|sent| sent.from == member(from)).map(|sent| sent.to).collect()
}

fn has_fetched_a_state(group: &Group) -> bool {
    group.sent.iter().any(|sent| matches!(sent.message, Message::GetSnapshot { .. }))
}

/// T8: an entry can no longer be read by the only member that must still apply it, and all others have dropped it. The
/// member knows more to be committed than their states contain. It fetches one of these states, and applies the rest.
#[test]
fn t8_a_state_replaces_an_entry_that_only_its_reader_still_had() {
    for stuck in [0, 2] {
        let mut group = behind_with_its_state(stuck, 3);
        group.input(stuck, Input::Faulty { op: Op::new(8) });
        group.run_until("the state has arrived", |group| group.installed == 1);
        assert_eq!(group.replica(stuck).cx.applied, Op::new(10));
        assert_eq!(group.replica(stuck).cx.log.head().op, Op::new(13), "what follows the state stays");
        group.members[usize::from(stuck)].hangs = false;
        group.input(stuck, Input::Applied { op: Op::new(13) });
        group.run_until("a primary serves", |group| group.serving().is_some());
        if stuck == 0 {
            // T7: it could not serve while it fetched a state.
            assert!(group.replica(0).view() > View::ZERO);
        }
        write(&mut group, 3);
        group.run_until("level", Group::level);
        assert_eq!(group.installed, 1, "one state is enough");
    }
}

/// T8: a segment of more entries than are requested at once is unreadable, and part of it is applied. The entry that is
/// to be applied next is requested before these.
#[test]
fn t8_an_entry_that_is_applied_delays_no_entry_that_is_not() {
    let mut group = hanging(2, 3, 100, 20);
    group.checkpoint(0);
    group.checkpoint(1);
    write(&mut group, 1);
    group.run_until("trimmed", |group| (0..2).all(|id| floor(group, id) >= Op::new(120)));
    // The scrubber has found the later ones first.
    for op in (1..=110).rev() {
        group.input(2, Input::Faulty { op: Op::new(op) });
    }
    group.run_until("the state has arrived", |group| group.installed == 1);
    assert_eq!(group.replica(2).cx.applied, Op::new(120));
}

/// T7: a member that fetches a state because of a lost entry leaves the view to a member that has applied everything.
#[test]
fn t7_a_member_that_cannot_apply_leaves_the_view_to_another() {
    let mut group = behind_with_its_state(1, 3);
    group.input(1, Input::Faulty { op: Op::new(8) });
    step_until(&mut group, "a transfer begins", |group| group.replica(1).cx.transfer.is_running());
    // No piece arrives.
    group.network.clear();
    group.cut = [(0, 1), (2, 1)].into_iter().collect();
    group.input(0, Input::Handover);
    group.cut.clear();
    let pieces = |message: &Message| matches!(message, Message::SnapshotChunk { .. });
    for _ in 0..2_000 {
        group.network.retain(|envelope| !pieces(&envelope.message));
        if !group.deliver() {
            group.tick();
        }
        assert_ne!(group.serving(), Some(1));
    }
    assert_eq!(group.serving(), Some(2));
}

/// T8: what was applied is not needed again, so no state replaces it.
#[test]
fn t8_no_state_replaces_an_entry_that_was_applied() {
    let mut group = behind_with_its_state(2, 3);
    group.input(2, Input::Applied { op: Op::new(8) });
    group.sent.clear();
    group.input(2, Input::Faulty { op: Op::new(8) });
    group.run_for(3_000);
    assert_eq!(requests(&group, 2), [member(0), member(1)].into());
    let refused = |sent: &&Envelope| sent.to == member(2) && matches!(sent.message, Message::TooOld { .. });
    assert!(group.sent.iter().filter(refused).count() >= 4);
    assert!(!has_fetched_a_state(&group));
}

/// T8: as long as one member was not asked for the entry, no state is fetched.
#[test]
fn t8_no_state_is_fetched_before_all_members_were_asked_for_the_entry() {
    let mut group = behind_with_its_state(4, 5);
    group.sent.clear();
    group.input(4, Input::Faulty { op: Op::new(8) });
    group.run_until("a transfer begins", has_fetched_a_state);
    assert_eq!(requests(&group, 4), (0..4).map(member).collect());
}

/// T8: no member has entry 8, and no checkpoint covers it yet. The members that have applied it make one.
#[test]
fn t8_a_member_makes_a_checkpoint_for_an_entry_that_nobody_can_read() {
    let mut group = hanging(2, 3, 3, 7);
    for id in 0..3 {
        group.input(id, Input::Faulty { op: Op::new(8) });
    }
    group.run_until("the state has arrived", |group| group.installed == 1);
    assert!(group.replica(2).cx.applied >= Op::new(8));
}

/// T8: unneeded entries are deleted at once; entries beyond the budget are deleted even if a member needs them.
#[test]
fn t8_the_journal_keeps_to_its_budget() {
    let options = Options { journal_retention_bytes: 16 * 4096, ..tight() };
    let mut group = Group::with_options(3, 0, options);
    group.run_until("a primary serves", |group| group.serving() == Some(0));
    write(&mut group, 10);
    group.run_for(100);
    (0..3).for_each(|id| group.checkpoint(id));
    group.run_until("all of it goes", |group| (0..3).all(|id| floor(group, id) == Op::new(10)));
    group.crash(2);
    write(&mut group, 60);
    group.run_for(100);
    (0..2).for_each(|id| group.checkpoint(id));
    group.run_until("some of it goes", |group| (0..2).all(|id| floor(group, id) > Op::new(10)));
    assert!(floor(&group, 0) < Op::new(70), "the budget is used");
}

/// T8: the entries that the receiver of a snapshot needs next are kept while it fetches.
#[test]
fn t8_entries_above_a_snapshot_are_kept_while_it_is_fetched() {
    let mut group = away(3, 0);
    group.start(2);
    store_some(&mut group);
    let at = group.members[2].pinned.or(group.members[0].pinned).or(group.members[1].pinned);
    let at = at.expect("a source keeps it").op;
    group.isolate(2);
    write(&mut group, 30);
    (0..2).for_each(|id| group.checkpoint(id));
    pass(&mut group, 1000);
    assert!((0..2).any(|id| floor(&group, id) <= at), "the source has dropped what comes next");
}

/// T8: a `TooOld` of the primary about the old log, which arrives after the snapshot is in place, starts no second
/// transfer.
#[test]
fn t8_an_unsolicited_message_about_the_old_log_starts_no_transfer() {
    let mut group = away(3, 0);
    group.start(2);
    group.run_until("the state is there", |group| floor(group, 2) >= Op::new(40));
    assert!(!group.replica(2).is_transferring());
    let anchor = Anchor { op: group.replica(0).head().op.advance(100), hash: Hash::ZERO };
    let (next_revision, timestamp) = (Revision::new(1000), Timestamp::ZERO);
    let checkpoint = LogPoint { anchor, next_revision, timestamp };
    let late = Message::TooOld { nonce: 0, checkpoint, primary_of: Some(View::new(0)) };
    group.input(2, Input::Message { from: member(0), message: late });
    assert!(!group.replica(2).is_transferring());
}

/// T8: neither does a late answer to what this member asked about that log, in a view that began during the transfer.
#[test]
fn t8_a_late_answer_about_the_old_log_starts_no_transfer() {
    let mut group = away(3, 0);
    group.start(2);
    store_some(&mut group);
    group.crash(0);
    group.sent.clear();
    group.run_until("it asks for what it lacks of the new view's log, and then has the state", |group| {
        floor(group, 2) >= Op::new(40)
    });
    let asked = group.sent.iter().filter(|sent| sent.from == member(2));
    let nonces = asked.filter_map(|sent| match sent.message {
        Message::Fetch { nonce, .. } => Some(nonce),
        _ => None,
    });
    let nonce = nonces.last().expect("it has asked");
    let anchor = Anchor { op: group.replica(1).head().op.advance(100), hash: Hash::ZERO };
    let checkpoint = LogPoint { anchor, next_revision: Revision::new(1000), timestamp: Timestamp::ZERO };
    let late = Message::TooOld { nonce, checkpoint, primary_of: None };
    group.input(2, Input::Message { from: member(1), message: late });
    assert!(!group.replica(2).is_transferring());
}

/// T8: to verify a gigabyte takes longer than a source waits for a silent receiver.
#[test]
fn t8_entries_above_a_snapshot_are_kept_while_it_is_verified() {
    let mut group = away(3, 0);
    group.start(2);
    pass(&mut group, 3000);
    let installing = std::mem::take(&mut group.installing);
    let [(2, at)] = installing[..] else { panic!("complete, and not yet installed: {installing:?}") };
    group.sent.clear();
    for _ in 0..60 {
        write(&mut group, 1);
        (0..2).for_each(|id| group.checkpoint(id));
        pass(&mut group, 1000);
    }
    assert!((0..2).any(|id| floor(&group, id) <= at.op), "the source has dropped what comes next");
    group.installing = installing;
    group.run_until("level", Group::level);
    let mut asked = group.sent.iter().filter(|sent| sent.from == member(2));
    let begun_anew = asked.any(|sent| matches!(sent.message, Message::GetSnapshot { at: None, .. }));
    assert!(!begun_anew, "one was enough");
}

/// T9c: a witness that is behind all journals rebases its log on a data member's checkpoint that a normal primary
/// reports.
#[test]
fn t9c_a_witness_behind_everybodys_trimming_rebases_its_log() {
    let mut group = away(2, 1);
    group.start(2);
    group.run_until("level", Group::level);
    assert!(floor(&group, 2) >= Op::new(40));
    // And it is useful: with it, one data member continues.
    group.crash(1);
    let before = group.replica(0).commit().op;
    write(&mut group, 3);
    group.run_until("committed", |group| group.replica(0).commit().op == before.advance(3));
}

/// T9c: a report by an old primary or a backup is not enough.
#[test]
fn t9c_a_witness_rebases_its_log_only_for_a_normal_primary() {
    let mut group = away(2, 1);
    group.isolate(2);
    group.start(2);
    let checkpoint = group.replica(0).cx.log.point(group.replica(0).checkpoint()).expect("it is held");
    for (from, primary_of) in [(0, None), (1, Some(View::new(0))), (0, Some(View::new(4)))] {
        let message = Message::TooOld { nonce: 0, checkpoint, primary_of };
        group.input(2, Input::Message { from: member(from), message });
        assert_eq!(group.replica(2).head().op, Op::new(3));
    }
    let message = Message::TooOld { nonce: 0, checkpoint, primary_of: Some(View::ZERO) };
    group.input(2, Input::Message { from: member(0), message });
    assert_eq!(group.replica(2).head(), checkpoint.anchor);
}

/// T9c: the witness keeps the entries that a data member lacks, so that this member can catch up without the other one.
#[test]
fn t9c_a_witness_keeps_what_a_data_member_lacks() {
    let mut group = Group::with_options(2, 1, tight());
    group.run_until("a primary serves", |group| group.serving() == Some(0));
    write(&mut group, 3);
    group.crash(1);
    write(&mut group, 40);
    group.checkpoint(0);
    group.run_until("the data member trims", |group| floor(group, 0) >= Op::new(40));
    assert_eq!(floor(&group, 2), Op::ZERO);
    group.crash(0);
    group.start(1);
    group.run_until("member 1 serves", |group| group.serving() == Some(1));
    assert_eq!(group.replica(1).commit().op, Op::new(43));
}

/// T9c: beyond its limit, a witness drops entries that a data member lacks.
#[test]
fn t9c_a_witness_keeps_to_its_cap() {
    let options = Options { witness_journal_bytes: 16 * 4096, ..tight() };
    let mut group = Group::with_options(2, 1, options);
    group.run_until("a primary serves", |group| group.serving() == Some(0));
    group.crash(1);
    write(&mut group, 60);
    group.run_until("it is full", |group| floor(group, 2) > Op::new(10));
}

/// T9: a member whose state is lost votes and acknowledges with its log, and is not primary before it has a state.
#[test]
fn t9_a_member_without_a_state_is_not_primary() {
    let mut group = Group::with_options(3, 0, tight());
    group.run_until("a primary serves", |group| group.serving() == Some(0));
    write(&mut group, 5);
    group.run_until("level", Group::level);
    group.crash(1);
    group.members[1].stateless = true;
    group.start(1);
    group.run_for(500);
    assert!(group.members[1].stateless, "nobody has a checkpoint");
    assert_eq!(group.replica(1).status().status, Status::Normal);
    group.input(0, Input::Handover);
    group.run_until("member 2 serves", |group| group.serving() == Some(2));
    group.checkpoint(2);
    group.run_until("it has a state", |group| !group.members[1].stateless);
    group.run_until("level", Group::level);
}

/// T1: a member offers its durable checkpoint of committed entries, regardless of the entries above it in its log.
#[test]
fn t1_an_uncommitted_tail_is_never_in_a_snapshot() {
    let mut group = away(3, 0);
    group.isolate(0);
    group.propose(0, "uncommitted");
    let (committed, head) = (group.replica(0).commit().op, group.replica(0).head().op);
    assert!(head > committed);
    group.sent.clear();
    let fetch = Message::Fetch {
        from: Op::new(4),
        through: head,
        hash: Some(group.replica(0).head().hash),
        nonce: 3,
        what: crate::message::FetchWhat::Entries,
    };
    group.input(0, Input::Message { from: member(2), message: fetch });
    let checkpoint = group.sent.iter().find_map(|sent| match sent.message {
        Message::TooOld { checkpoint, .. } => Some(checkpoint.anchor),
        _ => None,
    });
    let checkpoint = checkpoint.expect("it reports that they are gone");
    assert!(checkpoint.op <= committed && checkpoint == group.members[0].disk.checkpoint);
}
