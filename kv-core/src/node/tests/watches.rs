//! Clients with watches at a member whose threads run late.

use super::*;
use crate::ids::{Anchor, Hash, RequestNumber, Revision, SessionId, Timestamp, View};
use crate::kv::{Limits, StateMachine};
use crate::message::{
    Answer, Command, Entry, EntryHeader, Operation, Position, Request, WatchQuery, body_of, successor,
};
use crate::node::pool;
use crate::node::sync::lock;
use crate::node::watches::{published, request_checkpoint};
use crate::storage::simulated::Disk;
use std::sync::mpsc;

/// The state of a log of so many entries, each of which takes a revision and changes nothing.
pub(super) fn state(revisions: u64) -> StateMachine {
    state_after(log(revisions))
}

pub(super) fn state_after(entries: Vec<Entry>) -> StateMachine {
    let mut state = StateMachine::in_memory(Limits::from(&Options::default()));
    for entry in entries {
        state.apply(&entry).unwrap();
    }
    state
}

/// The entries of that log.
pub(super) fn log(revisions: u64) -> Vec<Entry> {
    log_of((1..=revisions).map(|_| Request {
        session: SessionId::ZERO,
        number: RequestNumber::ZERO,
        acked_through: RequestNumber::ZERO,
        operation: Operation::Command(Command::Delete { key: "nothing".into(), condition: None }),
    }))
}

/// One entry for each of these requests.
pub(super) fn log_of(requests: impl Iterator<Item = Request>) -> Vec<Entry> {
    let (mut last, mut revision) = (Anchor::ZERO, Revision::new(1));
    let entry = |request: Request| {
        let Anchor { op, hash: parent } = last;
        let request = request.encode();
        let revision_count = Request::revisions(&request, revision.previous());
        let body = body_of(&[request]);
        let header = EntryHeader {
            cluster: ClusterId::of_name("test"),
            view: View::ZERO,
            op: op.next(),
            parent,
            first_revision: revision,
            timestamp: Timestamp::new(op.next().get()),
            request_count: 1,
            revision_count,
            body_len: u32::try_from(body.len()).unwrap(),
            body_hash: Hash::of(&body),
        };
        last = header.anchor();
        revision = revision.advance(revision_count);
        Entry { header, body }
    };
    requests.map(entry).collect()
}

/// A client's connection.
async fn client(bench: &Bench) -> Ends {
    bench.open_door().await;
    bench.call(Lane::Client, &Hello::client(ClusterId::of_name("test"), "someone")).await
}

fn watch(call: u64, after: u64) -> Bytes {
    let after = Some(Position::after(Revision::new(after)));
    let query = WatchQuery { from: "key".into(), to: Some(successor(b"key")), after, previous: false };
    wire::encode_client_message(&ClientMessage { call, what: ClientCall::Watch(query) })
}

/// Runs the pending work of the node's threads on one thread.
pub(super) async fn work(bench: &Bench) {
    let shared = bench.shared.clone();
    std::thread::spawn(move || shared.pool.work());
    // Clients and the node have turns: behind so many of the node's jobs each of the few of a client's has had its own.
    for _ in 0..8 {
        let (done, finished) = mpsc::channel();
        bench.shared.pool.run(pool::Kind::Watch, pool::JobOwner::NODE, move || {
            done.send(()).expect("the test waits");
        });
        let finished = tokio::task::spawn_blocking(move || finished.recv_timeout(Duration::from_secs(30)));
        assert_eq!(finished.await.unwrap(), Ok(()), "the thread is kept busy");
    }
}

/// Waits until the member has seen all that was sent before.
async fn catch_up((reader, writer): &mut Ends, call: u64) {
    writer.push(wire::encode_client_message(&ClientMessage { call, what: ClientCall::Status }));
    writer.flush().await.unwrap();
    assert_eq!(reader.read_server_message().await.unwrap().unwrap().call, call);
}

/// Rule W5: nothing is left behind of a watch that is taken back before a thread has come to look at it.
#[tokio::test]
async fn w5_a_watch_cancelled_at_once_is_not_parked() {
    let bench = Bench::new();
    bench.shared.set_state(state(1).reader());
    let mut client = client(&bench).await;
    client.1.push(watch(1, 1));
    client.1.push(watch(2, 1));
    let unwatch = ClientMessage { call: 3, what: ClientCall::Unwatch { call: 1 } };
    client.1.push(wire::encode_client_message(&unwatch));
    catch_up(&mut client, 4).await;
    work(&bench).await;
    assert_eq!(bench.shared.watches.waiting(), 1, "the other one waits");
}

/// Rule W5: a replaced state that is catching up is behind wake-ups already issued. Entries in between wake nobody.
#[tokio::test]
async fn w5_an_older_state_refuses_watches_without_spinning() {
    let bench = Bench::new();
    bench.shared.set_state(state(3).reader());
    let mut client = client(&bench).await;
    client.1.push(watch(1, 3));
    catch_up(&mut client, 2).await;
    work(&bench).await;
    assert_eq!(bench.shared.watches.waiting(), 1);

    bench.shared.set_state(state(1).reader());
    client.1.push(watch(3, 2));
    client.1.flush().await.unwrap();
    let answer = timeout(Duration::from_secs(30), client.0.read_server_message()).await.expect("it answers");
    let answer = answer.unwrap().unwrap();
    assert_eq!((answer.call, answer.answer), (3, Answer::NotPrimary { hint: None }));
    work(&bench).await;
}

/// Rule W2: a member vouches for the positions of the watches that are parked there. So a skip of revisions ends none
/// of them, also if the changes before it have not been matched yet: the checkpoint that drops them waits for that.
#[tokio::test]
async fn w2_a_skip_of_revisions_ends_no_parked_watch() {
    let session = SessionId::new(1);
    let command = |number: u64, command: Command| Request {
        session,
        number: RequestNumber::new(number),
        acked_through: RequestNumber::ZERO,
        operation: Operation::Command(command),
    };
    let put = |number: u64, key: &'static str| {
        let (key, value) = (key.into(), "v".into());
        command(number, Command::Put { key, value, condition: None, life: Default::default() })
    };
    let open = Request {
        session: SessionId::ZERO,
        number: RequestNumber::ZERO,
        acked_through: RequestNumber::ZERO,
        operation: Operation::OpenSession { nonce: 1 },
    };
    let skip = command(4, Command::SkipRevisions { to: Revision::new(1 << 40) });
    let entries = log_of([open, put(1, "other"), put(2, "other"), put(3, "key"), skip].into_iter());
    let mut state = StateMachine::open(Disk::new().storage(), Limits::from(&Options::default())).unwrap();
    entries[..2].iter().for_each(|entry| drop(state.apply(entry).unwrap()));
    let bench = Bench::new();
    bench.shared.set_state(state.reader());
    let mut client = client(&bench).await;
    client.1.push(watch(1, 1));
    catch_up(&mut client, 2).await;
    work(&bench).await;
    assert_eq!(bench.shared.watches.waiting(), 1);

    let (shared, began) = (bench.shared.clone(), bench.shared.clock.monotonic());
    for entry in &entries[2..] {
        drop(state.apply(entry).unwrap());
        // As the applier does.
        if entry.header.skips_revisions() {
            lock(&shared.skips).note(began, state.revision());
        }
    }
    let mut seconds = 0..;
    let mut sweep = || {
        let second = seconds.next().expect("there is no last one");
        request_checkpoint(&shared, began.after(Duration::from_secs(second)));
        let asked = shared.applier_queue.with(|plan| std::mem::take(&mut plan.asked));
        if asked {
            let done = state.begin_checkpoint().unwrap().run().unwrap();
            state.finish_checkpoint(done);
        }
        asked
    };
    assert_eq!((0..30).filter(|_| sweep()).count(), 0, "a parked watch still needs the changes");
    published(&bench.shared);
    assert!(!sweep(), "a woken one does");
    work(&bench).await;
    assert_eq!((0..30).filter(|_| sweep()).count(), 1, "one checkpoint drops the history");
    let answer = timeout(Duration::from_secs(30), client.0.read_server_message()).await.expect("it answers");
    let Answer::Watched { events, next, .. } = answer.unwrap().unwrap().answer else { panic!("it goes on") };
    assert_eq!(events.iter().map(|event| event.revision).collect::<Vec<_>>(), [Revision::new(3)]);
    assert_eq!(next, Position::after(Revision::new(1 << 40)));
}
