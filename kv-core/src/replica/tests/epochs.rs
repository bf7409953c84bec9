//! Epochs. Nothing leads to a later one yet, so no message may.

use super::group::Group;
use crate::config::{Cluster, ClusterId, Configuration, DiskId, HistoryId, Options};
use crate::ids::{Anchor, Epoch, Hash, Instant, MemberId, Op, Revision, Round, Timestamp, View};
use crate::message::{
    Age, Chunk, ChunkEnd, Entry, EntryHeader, EntryMeta, FormationStep, Fresh, Membership, Message, Moment,
    Recovered, body_of,
};
use crate::replica::{Input, Now, Output, Replica, ReplicaConfig, Status};
use bytes::Bytes;
use std::time::Duration;

fn id(number: u8) -> MemberId {
    MemberId::new(number)
}

/// The entry after `head`, in `view`.
fn entry_after(group: &str, head: Anchor, first_revision: Revision, view: View, stop: u32) -> Entry {
    let body = body_of([&Bytes::from_static(b"anything")]);
    let header = EntryHeader {
        cluster: ClusterId::of_name(group),
        view,
        op: head.op.next(),
        parent: head.hash,
        first_revision,
        timestamp: Timestamp::new(1 << 50),
        request_count: 1 | stop,
        revision_count: 0,
        body_len: u32::try_from(body.len()).expect("short"),
        body_hash: Hash::of(&body),
    };
    Entry { header, body }
}

/// A message of each kind that names a view, in `view`, as a member with the log of `replica` would send it.
fn in_view(view: View, replica: &Replica) -> Vec<Message> {
    let (head, commit) = (replica.head(), replica.commit());
    let sent = Moment { life: 1, at: Instant::new(1) };
    let log = replica.vote_for_tests();
    let fresh = Some(Fresh { op: commit.op, since: sent });
    let entry = entry_after("group", head, replica.cx.log.next_revision(), view, 0);
    let chunk = Chunk::new(Bytes::new(), Bytes::from_static(b"rows"), ChunkEnd::Last);
    let round = Round::new(1 << 20);
    let messages = vec![
        Message::Prepare { view, commit, entry },
        Message::PrepareOk { view, log: head },
        Message::Commit { view, commit, age: Age::default(), round, trim: Op::ZERO, fresh },
        Message::CommitOk { view, round, log: Some(head), checkpoint: head.op, sent },
        Message::StartViewChange { view },
        Message::DoViewChange { view, log, ages: vec![Age::default()] },
        Message::StartView { view, commit, hashes: vec![(head.op, head.hash)], nonce: 0 },
        Message::GetState { view, nonce: 1 },
        Message::SnapshotChunk { nonce: 1, view, at: commit, chunk },
    ];
    assert!(messages.iter().all(|message| message.view() == Some(view)));
    messages
}

/// Views of later epochs, for each primary.
fn later_views() -> impl Iterator<Item = View> {
    let epochs = [Epoch::new(1), Epoch::new(2), Epoch::new((1 << 22) - 1)];
    epochs.into_iter().flat_map(|epoch| (0..3).map(move |number| View::of(epoch, number)))
}

/// What a member does and sends, and what it has asked its disk for.
fn seen(group: &Group, member: u8) -> impl PartialEq + std::fmt::Debug + use<> {
    let replica = group.replica(member);
    let disk = &group.members[usize::from(member)].disk;
    let is_about_epochs =
        |message: &Message| matches!(message, Message::AskEpoch { .. } | Message::Epoch { .. });
    let sent = group.sent.iter().filter(|envelope| !is_about_epochs(&envelope.message)).count();
    (replica.status(), replica.log_view(), replica.head(), replica.commit(), disk.view, sent)
}

/// Three members with two entries, of which `member` is in this status.
fn in_status(member: u8, status: Status) -> Group {
    let mut group = Group::formed(3, 0);
    group.propose(0, "a");
    group.propose(0, "b");
    group.run_until("level", |group| group.level() && group.replica(0).head().op == Op::new(2));
    group.run_for(100);
    let view = View::new(2);
    let message = match status {
        Status::ViewChange => Some(Message::GetState { view, nonce: 1 }),
        Status::CatchingUp => {
            let commit = group.replica(2).commit();
            let (age, round) = (Age::default(), Round::ZERO);
            Some(Message::Commit { view, commit, age, round, trim: Op::ZERO, fresh: None })
        }
        _ => None,
    };
    if let Some(message) = message {
        group.input(member, Input::Message { from: id(2), message });
    }
    assert_eq!(group.replica(member).status().status, status);
    group
}

#[test]
fn m4_no_message_in_a_view_of_another_epoch_is_heard() {
    let cases = [(0, Status::Normal), (1, Status::Normal), (1, Status::ViewChange), (1, Status::CatchingUp)];
    for (member, status) in cases {
        let mut group = in_status(member, status);
        let before = seen(&group, member);
        for view in later_views() {
            for message in in_view(view, group.replica(member)) {
                for from in (0..3).filter(|from| *from != member) {
                    let text = format!("{message:?}");
                    group.input(member, Input::Message { from: id(from), message: message.clone() });
                    assert_eq!(seen(&group, member), before, "{status:?}: {text}");
                }
            }
        }
        group.run_until("a primary serves, and all follow it", |group| {
            let is_normal = |member: u8| group.replica(member).status().status == Status::Normal;
            group.serving().is_some() && group.level() && (0..3).all(is_normal)
        });
        let primary = group.serving().expect("a primary serves");
        group.propose(primary, "c");
        group.run_until("committed", |group| group.level() && group.replica(0).head().op == Op::new(3));
        assert_eq!(group.replica(member).view().epoch(), Epoch::ZERO);
    }
}

/// What the members of an epoch that has ended know about the log is outdated (rule R4).
#[test]
fn m4_no_message_in_a_view_of_an_earlier_epoch_is_heard() {
    let (mut replica, now, _) = behind_a_stop(View::of(Epoch::new(1), 0));
    for view in [View::ZERO, View::new(1), View::new(2), View::new((1 << 39) - 1)] {
        for message in in_view(view, &replica) {
            for from in [0, 2] {
                replica.handle(now, Input::Message { from: id(from), message: message.clone() });
                while let Some(output) = replica.poll_output() {
                    assert!(
                        matches!(output, Output::Send { message: Message::Epoch { .. }, .. }),
                        "{message:?}: {output:?}"
                    );
                }
                assert_eq!(replica.fresh(now, Duration::from_secs(60)), None, "{message:?}");
            }
        }
    }
}

/// A backup in `view` whose log is one entry, the stop of epoch 0, and the entry after it, of epoch 1.
fn behind_a_stop(view: View) -> (Replica, Now, Entry) {
    let stop = entry_after("group", Anchor::ZERO, Revision::new(1), View::ZERO, 1 << 31);
    let next = entry_after("group", stop.header.anchor(), Revision::new(1), View::of(Epoch::new(1), 0), 0);
    let members = (0..3).fold(Cluster::builder("group"), |builder, id| builder.member(id, format!("m:{id}")));
    let cluster = members.build().expect("a valid cluster");
    let configuration = Configuration {
        epoch: view.epoch(),
        history: Some(HistoryId(1)),
        first: view,
        stop: stop.header.anchor(),
        nonce: 1,
        ..Configuration::founding(&cluster)
    };
    let membership = Membership { configuration, disk: DiskId(1), retired: false, ended: 0 };
    let config = ReplicaConfig::new(cluster, id(1), Options::default(), 1);
    let recovered = Recovered {
        formation: FormationStep::Formed,
        view,
        log_view: view,
        entries: vec![EntryMeta::of(&stop.header)],
        membership: (view.epoch() > Epoch::ZERO).then_some(membership),
        ..Recovered::empty()
    };
    let now = Now { monotonic: Instant::new(1_000_000_000), wall: Timestamp::new(1_700_000_000_000) };
    let mut replica = Replica::new(config, recovered, now);
    while replica.poll_output().is_some() {}
    assert_eq!(replica.status().status, Status::Normal);
    (replica, now, next)
}

/// The log ends at the stop of its epoch until the member has entered the next one.
#[test]
fn m1_an_entry_of_a_later_epoch_is_not_appended() {
    for (view, appended) in [(View::ZERO, false), (View::of(Epoch::new(1), 0), true)] {
        let (mut replica, now, next) = behind_a_stop(view);
        let (head, after) = (replica.head(), next.header.anchor());
        let message = Message::Prepare { view, commit: Anchor::ZERO, entry: next };
        replica.handle(now, Input::Message { from: id(0), message });
        assert_eq!(replica.head(), if appended { after } else { head }, "in view {view}");
    }
}
