//! How the work of each command grows, in counted steps: with the data that it returns or removes, not with other
//! present or former data.

use super::changes::MAX_STEPS;
use super::*;
use crate::engine::steps;
use crate::message::{Answer, LeaseCommand, Query, WatchQuery};

/// The steps of a page: one each for the cursor and the version, and some overhead.
const PAGE: usize = 3 * MAX_STEPS;

/// Where the state lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Memory,
    /// Over a disk, without a checkpoint: all of it in memory.
    Memtable,
    /// Over a disk, with a checkpoint after each step.
    Tree,
}

const EVERYWHERE: [Place; 3] = [Place::Memory, Place::Memtable, Place::Tree];

/// A state with one session.
struct Worker {
    machine: Machine,
    session: SessionId,
    number: u64,
    place: Place,
}

impl Worker {
    fn new(place: Place) -> Self {
        let mut limits = limits();
        (limits.checkpoint_bytes, limits.cache_bytes) = (1 << 30, 64 << 20);
        limits.fixed.max_key_bytes = 64;
        (limits.fixed.history_revisions, limits.fixed.history_bytes) = (1 << 30, 1 << 30);
        let state = match place {
            Place::Memory => StateMachine::in_memory(limits),
            Place::Memtable | Place::Tree => StateMachine::open(Disk::new().storage(), limits).unwrap(),
        };
        let mut machine = Machine { state, log: Log::new() };
        let session = machine.open();
        Self { machine, session, number: 0, place }
    }

    fn command(&mut self, command: Command) -> Effect {
        self.number += 1;
        self.machine.effect(request(self.session, self.number, Operation::Command(command)))
    }

    /// Puts or deletes keys, a thousand in each entry.
    fn all(&mut self, keys: impl Iterator<Item = String>, value: Option<&str>) {
        let keys: Vec<String> = keys.collect();
        for keys in keys.chunks(1000) {
            let steps = keys.iter().map(|key| {
                let key = Bytes::copy_from_slice(key.as_bytes());
                match value {
                    Some(value) => crate::message::TransactionStep::Put {
                        key,
                        value: Bytes::copy_from_slice(value.as_bytes()),
                        life: Lifetime::FOREVER,
                    },
                    None => crate::message::TransactionStep::Delete { key },
                }
            });
            let transaction =
                crate::message::TransactionRequest { then: steps.collect(), ..Default::default() };
            let effect = self.command(Command::Transaction(transaction));
            assert!(matches!(effect, Effect::Transacted { succeeded: true, .. }), "{effect:?}");
        }
        self.settle();
    }

    fn settle(&mut self) {
        if self.place == Place::Tree
            && let Some(checkpoint) = self.machine.state.begin_checkpoint()
        {
            self.machine.state.finish_checkpoint(checkpoint.run().unwrap());
        }
    }

    fn answer(&self, query: &Query) -> (usize, Answer) {
        steps::of(|| self.machine.state.reader().answer(query, 10_000, 1 << 20).unwrap())
    }

    fn scan(
        &self,
        from: &str,
        limit: u32,
        change: impl Fn(&mut Query),
    ) -> (usize, Vec<Bytes>, Option<Bytes>) {
        let mut query = Query::Scan {
            from: Bytes::copy_from_slice(from.as_bytes()),
            to: None,
            limit,
            reverse: false,
            keys_only: false,
            at: None,
        };
        change(&mut query);
        let (steps, answer) = self.answer(&query);
        let Answer::Records { records, next, .. } = answer else { panic!("{answer:?}") };
        (steps, records.into_iter().map(|(key, _)| key).collect(), next)
    }
}

fn names(prefix: &'static str, count: usize) -> impl Iterator<Item = String> {
    (0..count).map(move |number| format!("{prefix}{number:08}"))
}

/// Does `work` on small and on large data, and compares the steps.
fn takes_as_much(work: impl Fn(Place, usize) -> usize) {
    for place in EVERYWHERE {
        let (few, many) = (work(place, 400), work(place, 3_200));
        assert!(
            many <= few * 2 + 64,
            "{place:?}: {few} steps with a little, {many} with eight times as much"
        );
    }
}

#[test]
fn the_cost_of_a_get_does_not_depend_on_the_number_of_keys() {
    takes_as_much(|place, count| {
        let mut worker = Worker::new(place);
        worker.all(names("there/", count), Some("value"));
        worker.all(names("gone/", count), Some("value"));
        worker.all(names("gone/", count), None);
        let at = worker.machine.state.revision();
        for _ in 0..count / 40 {
            worker.all(std::iter::once("there/00000007".to_owned()), Some("again"));
        }
        let key = Bytes::from("there/00000007");
        let get = |at| worker.answer(&Query::Get { key: key.clone(), at }).0;
        let keys = names("there/", 50).map(Bytes::from).collect();
        get(None) + get(Some(at)) + worker.answer(&Query::Many { keys, at: None }).0
    });
}

#[test]
fn the_cost_of_a_scan_depends_on_its_result() {
    takes_as_much(|place, count| {
        let mut worker = Worker::new(place);
        worker.all(names("key/", count), Some("value"));
        let mut steps = 0;
        for reverse_and_keys_only in [(false, false), (true, false), (false, true), (true, true)] {
            let (taken, keys, next) = worker.scan("", 100, |query| {
                if let Query::Scan { reverse, keys_only, .. } = query {
                    (*reverse, *keys_only) = reverse_and_keys_only;
                }
            });
            assert_eq!((keys.len(), next.is_some()), (100, true));
            steps += taken;
        }
        steps
    });
}

/// The second of two scans skips the keys that the first found removed, in both directions; and a page of the first is
/// bounded.
#[test]
fn r7_removed_keys_cost_a_scan_once() {
    for reverse in [false, true] {
        takes_as_much(|place, count| {
            let mut worker = Worker::new(place);
            worker.all(["a".to_owned(), "z".to_owned()].into_iter(), Some("value"));
            worker.all(names("gone/", 3 * count), Some("value"));
            worker.all(names("gone/", 3 * count), None);
            let scan = |worker: &Worker, from: Option<Bytes>| {
                worker.scan("b", 1, |query| {
                    if let Query::Scan { from: first, to, reverse: backwards, .. } = query {
                        *backwards = reverse;
                        if reverse {
                            (*first, *to) = (Bytes::new(), Some(from.clone().unwrap_or("y".into())));
                        } else {
                            *first = from.clone().unwrap_or("b".into());
                        }
                    }
                })
            };
            let mut from = None;
            loop {
                let (steps, keys, next) = scan(&worker, from);
                assert!(steps <= PAGE, "{steps} for one page");
                if !keys.is_empty() {
                    break;
                }
                assert!(next.is_some(), "a page that ends in between contains where it goes on");
                from = next;
            }
            let (steps, keys, _) = scan(&worker, None);
            assert_eq!(keys, [if reverse { "a" } else { "z" }]);
            // What is put into the gap is seen, and the rest is still known.
            worker.all(std::iter::once("gone/00000500".to_owned()), Some("back"));
            let (again, keys, _) = scan(&worker, None);
            assert_eq!(keys, ["gone/00000500"]);
            steps + again
        });
    }
}

/// A page of a scan at an old revision is bounded, no matter how much has changed since, and the pages reach the end.
#[test]
fn r7_a_page_of_the_past_is_bounded() {
    for place in EVERYWHERE {
        let mut worker = Worker::new(place);
        worker.all(names("old/", 50), Some("value"));
        let then = worker.machine.state.revision();
        worker.all(names("new/", 3_000), Some("value"));
        worker.all(names("old/", 50), Some("changed"));
        for reverse in [false, true] {
            let (mut found, mut next) = (0, Some(Bytes::new()));
            let mut pages = 0;
            while let Some(place) = next.take() {
                let (steps, keys, rest) = worker.scan("", 1000, |query| {
                    if let Query::Scan { from, to, reverse: backwards, at, .. } = query {
                        (*backwards, *at) = (reverse, Some(then));
                        if !reverse {
                            *from = place.clone();
                        } else if !place.is_empty() {
                            *to = Some(place.clone());
                        }
                    }
                });
                // A key of the past takes a few look-ups.
                assert!(steps <= 6 * PAGE, "{steps} for one page");
                (found, next, pages) = (found + keys.len(), rest, pages + 1);
                assert!(pages < 10, "it comes to an end");
            }
            assert_eq!(found, 50);
        }
    }
}

/// A step of a count is bounded, no matter how many keys there are, how large they are and how many were removed; and
/// the steps reach the end.
#[test]
fn r7_a_step_of_a_count_is_bounded() {
    for place in EVERYWHERE {
        let mut worker = Worker::new(place);
        worker.all(names("key/", 3_000), Some("value"));
        worker.all(names("gone/", 3_000), Some("value"));
        let then = worker.machine.state.revision();
        worker.all(names("gone/", 3_000), None);
        let large = "v".repeat(32 << 10);
        worker.all(names("large/", 1), Some(&large));
        for (at, expected) in [(None, 3_001), (Some(then), 6_000)] {
            let (mut found, mut next, mut answers) = (0, Some(Bytes::new()), 0);
            while let Some(from) = next.take() {
                let (steps, answer) = worker.answer(&Query::Count { from, to: None, at });
                // A key of the past takes a few look-ups.
                assert!(steps <= 6 * PAGE, "{place:?}: {steps} for one answer");
                let Answer::Counted { count, next: rest, .. } = answer else { panic!("{answer:?}") };
                (found, next, answers) = (found + count, rest, answers + 1);
                assert!(answers < 20, "it comes to an end");
            }
            assert_eq!(found, expected, "{place:?} at {at:?}");
            assert!(answers > 1, "{place:?}: the test is large enough");
        }
        let (_, one) =
            worker.answer(&Query::Count { from: "key/0".into(), to: Some("key/00000010".into()), at: None });
        assert!(matches!(one, Answer::Counted { count: 10, next: None, .. }), "{one:?}");
    }
}

/// Values that are not wanted are not read without end.
#[test]
fn r7_a_keys_only_page_is_bounded_by_the_values_read_for_it() {
    let value = "v".repeat(32 << 10);
    let mut worker = Worker::new(Place::Tree);
    for number in 0..100 {
        let key = Bytes::from(format!("key/{number:08}"));
        let value = Bytes::copy_from_slice(value.as_bytes());
        worker.command(Command::Put { key, value, condition: None, life: Lifetime::FOREVER });
    }
    worker.settle();
    let (mut found, mut next) = (0, Some(Bytes::new()));
    while let Some(first) = next.take() {
        let (steps, keys, rest) = worker.scan("", 10_000, |query| {
            if let Query::Scan { from, keys_only, .. } = query {
                (*from, *keys_only) = (first.clone(), true);
            }
        });
        assert!(steps <= PAGE, "{steps} for one page");
        (found, next) = (found + keys.len(), rest);
    }
    assert_eq!(found, 100);
}

/// The head of a queue costs as much after many jobs as after few.
#[test]
fn the_cost_of_the_head_of_a_queue_stays_constant() {
    takes_as_much(|place, count| {
        let mut worker = Worker::new(place);
        let mut steps = 0;
        let jobs: Vec<String> = names("jobs/", count + 100).collect();
        worker.all(jobs[..100].iter().cloned(), Some("job"));
        for done in (0..count).step_by(100) {
            let (taken, head, _) = worker.scan("jobs/", 1, |_| {});
            assert_eq!(head, [jobs[done].as_bytes()]);
            steps = taken;
            worker.all(jobs[done + 100..done + 200].iter().cloned(), Some("job"));
            worker.all(jobs[done..done + 100].iter().cloned(), None);
        }
        steps
    });
}

/// A prefix is removed by one request after the other, each from the beginning.
#[test]
fn the_last_step_of_removing_a_range_costs_as_much_as_the_first() {
    for place in EVERYWHERE {
        let mut worker = Worker::new(place);
        worker.all(names("gone/", 4_000), Some("value"));
        worker.all(std::iter::once("here".to_owned()), Some("value"));
        let mut costs = Vec::new();
        loop {
            let (from, to) = ("gone/".into(), Some("gone0".into()));
            let command = Command::DeleteRange { from, to, limit: 200 };
            let (steps, effect) = steps::of(|| worker.command(command));
            costs.push(steps);
            match effect {
                Effect::RangeDeleted { count: 200, more: true } => {}
                Effect::RangeDeleted { more: false, .. } => break,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(costs.len(), 20);
        let (first, most) = (costs[0], *costs.iter().max().unwrap());
        assert!(most <= 4 * first, "{place:?}: {costs:?}");
    }
}

/// A request that removes a range reads a bounded number of bytes, and removes the same keys whether the state is in
/// memory or on disk.
#[test]
fn large_values_end_the_removal_of_a_range_early() {
    let value = "v".repeat(60 << 10);
    let run = |place| {
        let mut worker = Worker::new(place);
        for number in 0..60 {
            worker.all(std::iter::once(format!("key/{number:08}")), Some(&value));
        }
        let mut effects = Vec::new();
        while effects.last().is_none_or(|effect| matches!(effect, Effect::RangeDeleted { more: true, .. })) {
            let command = Command::DeleteRange { from: "key/".into(), to: None, limit: 1000 };
            let (steps, effect) = steps::of(|| worker.command(command));
            assert!(steps <= 3 * (1 << 20) / 256, "{steps} for one request");
            effects.push(effect);
        }
        effects
    };
    let effects = run(Place::Memory);
    assert!(effects.len() > 3);
    assert_eq!(effects, run(Place::Memtable));
    assert_eq!(effects, run(Place::Tree));
}

#[test]
fn the_cost_of_a_watch_depends_on_the_changes_since() {
    takes_as_much(|place, count| {
        let mut worker = Worker::new(place);
        worker.all(names("before/", count), Some("value"));
        worker.all(names("before/", count), None);
        let after = worker.machine.state.revision();
        worker.all(names("since/", 50), Some("value"));
        let query =
            WatchQuery { from: "".into(), to: None, after: Some(Position::after(after)), previous: true };
        let reader = worker.machine.state.reader();
        let (steps, look) = steps::of(|| reader.poll(&query, PositionSource::Client, 1000, 1 << 20).unwrap());
        let WatchPoll::Answer(Answer::Watched { events, .. }) = look else { panic!("{look:?}") };
        assert_eq!(events.len(), 50);
        steps
    });
}

/// Of many changes of other keys a piece takes so many steps, whatever they held before.
#[test]
fn the_cost_of_a_watch_without_matches_is_bounded() {
    let value = "v".repeat(32 << 10);
    for place in EVERYWHERE {
        let mut worker = Worker::new(place);
        for round in 0..60 {
            worker.all(std::iter::once(format!("other/{}", round % 3)), Some(&value));
        }
        let mut query = WatchQuery {
            from: "key".into(),
            to: Some("kez".into()),
            after: Some(Position::after(Revision::new(1))),
            previous: false,
        };
        let mut pieces = 0;
        loop {
            let reader = worker.machine.state.reader();
            let (steps, look) =
                steps::of(|| reader.poll(&query, PositionSource::Client, 1000, 1 << 20).unwrap());
            assert!(steps <= PAGE, "{place:?}: {steps} for one piece");
            pieces += 1;
            match look {
                WatchPoll::Answer(Answer::Watched { next, .. }) => query.after = Some(next),
                WatchPoll::Nothing(_) => break,
                other => panic!("{other:?}"),
            }
        }
        assert!(pieces < 20, "it comes to an end");
    }
}

#[test]
fn the_cost_of_ending_a_lease_depends_on_its_keys() {
    takes_as_much(|place, count| {
        let mut worker = Worker::new(place);
        let granted = worker.command(Command::Lease(LeaseCommand::Grant { ttl_ms: 60_000 }));
        let Effect::LeaseGranted(lease) = granted else { panic!("{granted:?}") };
        worker.all(names("other/", count), Some("value"));
        worker.all(names("gone/", count), Some("value"));
        worker.all(names("gone/", count), None);
        for number in 0..10 {
            let life = Lifetime { ttl_ms: None, lease: Some(lease) };
            let (key, value) = (format!("mine/{number}").into(), "value".into());
            assert_eq!(worker.command(Command::Put { key, value, condition: None, life }), Effect::Put);
        }
        worker.settle();
        let (steps, effect) = steps::of(|| worker.command(Command::Lease(LeaseCommand::Revoke { lease })));
        assert_eq!(effect, Effect::LeaseRevoked { keys: 10 });
        steps
    });
}

/// A large event, with the previous value of its key, is alone in its piece: it must fit into a frame.
#[test]
fn a_large_event_is_delivered_alone() {
    let large = "v".repeat(60 << 10);
    let mut worker = Worker::new(Place::Memory);
    worker.all(std::iter::once("large".to_owned()), Some(&large));
    let after = worker.machine.state.revision();
    worker.all(names("small/", 20), Some("value"));
    worker.all(std::iter::once("large".to_owned()), Some(&large));
    let mut query = ChangeQuery {
        from: b"",
        to: None,
        after: Position::after(after),
        previous: true,
        max_events: 1000,
        max_bytes: 1 << 10,
    };
    let reader = worker.machine.state.reader();
    let first = reader.changes(&query).unwrap().unwrap();
    assert_eq!((first.events.len(), first.more), (20, true));
    query.after = first.next;
    let second = reader.changes(&query).unwrap().unwrap();
    assert_eq!((second.events.len(), second.more), (1, false));
}
