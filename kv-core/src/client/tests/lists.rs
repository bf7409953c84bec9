//! How a client keeps up with the member list, and changes it.

use super::*;
use crate::client::MemberChange;
use crate::config::{self, Configuration, ConfiguredMember, HistoryId};
use crate::error::{MembershipError, RefusalKind};
use crate::ids::Anchor;
use crate::message::MembersAnswer;

const D: MemberId = MemberId::new(3);

/// The list of an epoch: these members, and which of them is a standby.
fn list(epoch: u32, members: &[MemberId], standby: Option<MemberId>, history: u128) -> MembersAnswer {
    let member = |id: &MemberId| {
        let is_standby = Some(*id) == standby;
        (*id, ConfiguredMember { address: address(*id), role: Role::Data, is_standby, disk: None })
    };
    let mut founders = config::Cluster::builder("test");
    for id in 0..4 {
        founders = founders.member(id, address(MemberId::new(id)));
    }
    let founded = Configuration::founding(&founders.build().expect("a valid list"));
    let configuration = Configuration {
        epoch: Epoch::new(epoch),
        history: Some(HistoryId(history)),
        members: members.iter().map(member).collect(),
        stop: Anchor::new(Op::new(epoch.into()), Hash::new(1)),
        first: View::of(Epoch::new(epoch), 0),
        nonce: 5,
        ..founded
    };
    assert!(configuration.is_sound());
    MembersAnswer { configuration, settled: true, ended: 0 }
}

/// An announcement, or an answer to a question for the list.
fn announce(incoming: &Incoming, list: MembersAnswer) {
    let _ = incoming.answers.send(Some(ServerMessage { call: 0, answer: Answer::Members(Box::new(list)) }));
}

fn value() -> Answer {
    Answer::Value { record: None, revision: Revision::ZERO }
}

/// A linearizable read, which a member answers with this list first.
async fn read_and_tell(cluster: &mut Cluster, client: &Client, list: MembersAnswer) {
    let read = tokio::spawn(client.get("x").into_future());
    let incoming = cluster.next().await;
    announce(&incoming, list);
    incoming.answer(value());
    read.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_list_that_a_member_announces_is_used() {
    let mut cluster = Cluster::start().await;
    cluster.add(&address(D), expectation(D)).await;
    let client = cluster.client().await;
    read_and_tell(&mut cluster, &client, list(1, &[A, D], None, 1)).await;
    assert_eq!(client.known_ids(), [A, D]);
    cluster.kill(A).await;
    let read = tokio::spawn(client.get("x").into_future());
    let incoming = cluster.next().await;
    assert_eq!(incoming.member, D);
    incoming.answer(value());
    read.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn lists_that_are_older_or_of_another_history_or_unsound_are_ignored() {
    let mut cluster = Cluster::start().await;
    let client = cluster.client().await;
    read_and_tell(&mut cluster, &client, list(2, &[A, B], None, 1)).await;
    let mut unsound = list(3, &[A, D], None, 1);
    unsound.configuration.members.clear();
    for ignored in [list(1, &[A, C], None, 1), list(3, &[A, D], None, 2), unsound] {
        read_and_tell(&mut cluster, &client, ignored).await;
        assert_eq!(client.known_ids(), [A, B]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_standby_is_not_asked_for_data() {
    let mut cluster = Cluster::start().await;
    let client = cluster.client().await;
    read_and_tell(&mut cluster, &client, list(1, &[A, B, C], Some(B), 1)).await;
    for _ in 0..20 {
        let read = tokio::spawn(client.get("x").local().into_future());
        let incoming = cluster.next().await;
        assert_ne!(incoming.member, B);
        incoming.answer(value());
        read.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_read_from_one_member_never_goes_to_another_when_the_list_changes() {
    let mut cluster = Cluster::start().await;
    let client = cluster.client().await;
    let read = tokio::spawn(client.get("x").local().member(C).into_future());
    let incoming = cluster.next().await;
    assert_eq!(incoming.member, C);
    announce(&incoming, list(1, &[B, C], None, 1));
    incoming.answer(Answer::Overloaded);
    let incoming = cluster.next().await;
    assert_eq!(incoming.member, C);
    announce(&incoming, list(2, &[A, B], None, 1));
    incoming.hang_up();
    cluster.kill(C).await;
    let error = read.await.unwrap().unwrap_err();
    assert!(matches!(error, ReadError::Unavailable(_)), "{error}");
}

/// The list names addresses that lead nowhere from here.
#[tokio::test(start_paused = true)]
async fn the_addresses_that_the_application_gave_outlast_the_list() {
    let mut cluster = Cluster::start().await;
    cluster.add("outside:1", expectation(B)).await;
    let client = cluster.builder().member_address(B, "outside:1").connect().await.unwrap();
    cluster.kill(B).await;
    read_and_tell(&mut cluster, &client, list(1, &[A, B], None, 1)).await;
    cluster.kill(A).await;
    let read = tokio::spawn(client.get("x").into_future());
    let incoming = cluster.next().await;
    assert_eq!(incoming.member, B);
    incoming.answer(value());
    read.await.unwrap().unwrap();
}

/// All members of the list were replaced while the client could not hear of it.
#[tokio::test(start_paused = true)]
async fn a_member_is_looked_for_at_the_given_addresses_if_all_others_are_gone() {
    let mut cluster = Cluster::start().await;
    let client = cluster.builder().address(address(D)).connect().await.unwrap();
    for id in [A, B, C] {
        cluster.kill(id).await;
    }
    cluster.add(&address(D), Expectation { epoch: Epoch::new(6), ..expectation(D) }).await;
    let answered = cluster.answer_all(|member, call| {
        assert_eq!(member, D);
        Some(match call {
            ClientCall::Members => Answer::Members(Box::new(list(6, &[D], None, 1))),
            ClientCall::Read { .. } => value(),
            other => panic!("{other:?}"),
        })
    });
    tokio::select! {
        read = client.get("x").into_future() => assert_eq!(read.unwrap(), None),
        () = answered => {}
    }
}

#[tokio::test(start_paused = true)]
async fn a_member_with_an_older_version_gets_no_call_that_it_does_not_know() {
    let mut cluster = Cluster::start().await;
    cluster.kill(A).await;
    let listener = cluster.network.bind(&address(A)).await.unwrap();
    cluster.members.push(tokio::spawn(serve_version(8, listener, expectation(A), cluster.sender.clone())));
    for id in [B, C] {
        cluster.kill(id).await;
    }
    let client = cluster.client().await;
    let error = client.members().await.unwrap_err();
    assert!(error.to_string().contains("older version"), "{error}");
    tokio::time::sleep(Duration::from_secs(100)).await;
    cluster.quiet().await;
    // The connection is the same.
    let read = tokio::spawn(client.get("x").into_future());
    cluster.next().await.answer(value());
    read.await.unwrap().unwrap();
}

/// What A, the primary, answers to `calls` changes in turn; after the last one it shows `now`.
async fn change(
    answers: Vec<Option<Answer>>,
    now: impl Fn(&mut MembersAnswer, u128),
) -> Result<u64, MembershipError> {
    let mut cluster = Cluster::start().await;
    let client = cluster.builder().deadline(Duration::from_secs(10)).connect().await.unwrap();
    let (mut answers, mut nonce) = (answers.into_iter(), 0);
    let answered = cluster.answer_all(|member, call| {
        Some(match call {
            ClientCall::Status if member == A => Answer::Status(Box::new(status(A, MemberState::Primary, 1))),
            ClientCall::Status => Answer::Status(Box::new(status(member, MemberState::Backup, 1))),
            ClientCall::Members => {
                let mut list = list(1, &[A, B, C], None, 1);
                now(&mut list, nonce);
                Answer::Members(Box::new(list))
            }
            ClientCall::Change(change) => {
                assert_eq!((member, change.ends), (A, Epoch::new(1)));
                assert!([0, change.nonce].contains(&nonce), "a retry has the same number");
                let answer = answers.next().expect("no further attempt is made");
                if answer.as_ref().is_none_or(|answer| *answer == Answer::Done) {
                    nonce = change.nonce;
                }
                return answer;
            }
            other => panic!("{other:?}"),
        })
    });
    tokio::select! {
        done = client.change_members(MemberChange::Remove { id: C }) => done.map(|list| list.epoch),
        () = answered => panic!("the client waits"),
    }
}

fn refused(kind: RefusalKind) -> Option<Answer> {
    Some(Answer::ChangeRefused { kind, reason: "why".into() })
}

/// The change is done as soon as it was ordered.
fn at_once(list: &mut MembersAnswer, nonce: u128) {
    if nonce != 0 {
        (list.configuration.epoch, list.configuration.nonce) = (Epoch::new(2), nonce);
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_is_done_when_the_next_list_is_settled() {
    assert_eq!(change(vec![Some(Answer::Done)], at_once).await, Ok(2));
}

#[tokio::test(start_paused = true)]
async fn a_change_is_asked_for_again_until_its_outcome_is_known() {
    let busy = || Some(Answer::Overloaded);
    let not_primary = Some(Answer::NotPrimary { hint: None });
    let answers = vec![busy(), not_primary, busy(), Some(Answer::Done)];
    assert_eq!(change(answers, at_once).await, Ok(2));
    // It was ordered, and the primary failed before it was committed.
    let mut looks = std::cell::Cell::new(0);
    let late = |list: &mut MembersAnswer, nonce| {
        looks.set(looks.get() + 1);
        if looks.get() > 100 {
            at_once(list, nonce);
        }
    };
    assert_eq!(change(vec![Some(Answer::Done); 5], late).await, Ok(2));
    assert!(*looks.get_mut() > 100);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_known_at_once_although_other_attempts_did_nothing() {
    let answers = vec![Some(Answer::Overloaded), refused(RefusalKind::NotReady)];
    let expected = MembershipError::Refused { kind: RefusalKind::NotReady, reason: "why".into() };
    assert_eq!(change(answers, |_, _| {}).await, Err(expected));
}

#[tokio::test(start_paused = true)]
async fn a_change_that_another_one_has_overtaken_is_refused() {
    let other = |list: &mut MembersAnswer, nonce: u128| {
        if nonce != 0 {
            (list.configuration.epoch, list.configuration.nonce) = (Epoch::new(2), nonce + 1);
        }
    };
    let result = change(vec![Some(Answer::Done)], other).await;
    assert!(
        matches!(result, Err(MembershipError::Refused { kind: RefusalKind::Conflict, .. })),
        "{result:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_change_whose_outcome_is_not_seen_is_unknown() {
    let mut answers = vec![Some(Answer::Done)];
    answers.extend(vec![refused(RefusalKind::NotReady); 50]);
    assert_eq!(change(answers, |_, _| {}).await, Err(MembershipError::OutcomeUnknown { ends: 1 }));
    let result = change(vec![Some(Answer::Overloaded); 1000], |_, _| {}).await;
    assert!(matches!(result, Err(MembershipError::Unavailable(_))), "{result:?}");
}
