use super::*;
use crate::config::ClusterId;
use crate::ids::View;
use crate::message::FormationStep;

/// The header of the entry after the head of `log`, in `view`. `mark` is added to the number of requests.
fn header(log: &Log, view: View, mark: u32) -> EntryHeader {
    let head = log.head();
    EntryHeader {
        cluster: ClusterId::of_name("test"),
        view,
        op: head.op.next(),
        parent: head.hash,
        first_revision: log.next_revision(),
        timestamp: log.timestamp(),
        request_count: 1 + mark,
        revision_count: 1,
        body_len: 0,
        body_hash: Hash::ZERO,
    }
}

const NO_STOP: u32 = 0;
const STOP: u32 = 1 << 31;

fn view(epoch: u32, number: u64) -> View {
    View::of(Epoch::new(epoch), number)
}

fn empty() -> Log {
    Log::new(&Recovered { formation: FormationStep::Formed, ..Recovered::empty() })
}

/// A log of two epochs: ops 1 and 2 (a stop) of epoch 0, and op 3 of epoch 1.
fn of_two_epochs() -> Log {
    let mut log = empty();
    for (view, mark) in [(view(0, 4), NO_STOP), (view(0, 6), STOP), (view(1, 0), NO_STOP)] {
        let header = header(&log, view, mark);
        log.append(&header);
        log.appended(WriteSeq::new(1));
    }
    log.on_durable(WriteSeq::new(1));
    log
}

/// Which epochs the next entry may have.
/// The epochs that are tried.
const EPOCHS: [u32; 4] = [0, 1, 2, 3];

fn allowed(log: &Log) -> Vec<u32> {
    EPOCHS.into_iter().filter(|epoch| log.follows(&header(log, view(*epoch, 9), NO_STOP))).collect()
}

#[test]
fn m1_an_entry_of_another_epoch_follows_only_a_stop() {
    let mut log = empty();
    assert_eq!(allowed(&log), [0]);
    let first = header(&log, view(0, 4), NO_STOP);
    log.append(&first);
    assert_eq!(allowed(&log), [0]);
    let stop = header(&log, view(0, 6), STOP);
    assert!(stop.is_stop() && !first.is_stop());
    log.append(&stop);
    assert_eq!(allowed(&log), [1], "nothing of the ended epoch follows, in whatever view");
    log.cut(first.op);
    assert_eq!(allowed(&log), [0], "the stop was cut, so its epoch goes on");
}

#[test]
fn m1_a_log_without_its_old_entries_still_knows_which_epoch_follows() {
    let mut log = of_two_epochs();
    assert_eq!(allowed(&log), [1]);
    log.trim(Op::new(2));
    log.cut(Op::new(2));
    assert_eq!(allowed(&log), [1], "the stop was trimmed");
    let mut log = of_two_epochs();
    log.trim(Op::new(1));
    log.cut(Op::new(1));
    assert_eq!(allowed(&log), [0]);
    let point = LogPoint {
        anchor: Anchor::new(Op::new(40), Hash::of(b"far")),
        next_revision: Revision::new(50),
        timestamp: Timestamp::ZERO,
    };
    log.restart(point);
    assert_eq!(allowed(&log), EPOCHS, "the point does not show it");
}

/// Behind a gap, an entry is linked as the journal links it when it is opened.
#[test]
fn m1_an_entry_of_another_epoch_behind_a_gap_does_not_follow() {
    for (stop, epoch, head) in [(STOP, 1, 3), (STOP, 0, 2), (NO_STOP, 1, 2), (NO_STOP, 0, 3)] {
        let mut log = empty();
        let first = header(&log, view(0, 4), NO_STOP);
        log.append(&first);
        let second = header(&log, view(0, 6), stop);
        log.append(&second);
        let third = EntryMeta::of(&header(&log, view(epoch, 0), NO_STOP));
        log.cut(first.op);
        let parent = second.hash();
        log.past_gap.insert(Op::new(2), EntryPastGap::Pinned(parent));
        log.past_gap.insert(Op::new(3), EntryPastGap::Intact { meta: third, parent });
        log.append(&second);
        assert_eq!(log.head().op, Op::new(head), "stop {}, epoch {epoch}", stop != 0);
    }
}

#[test]
fn what_is_kept_of_an_entry_shows_its_epoch_and_takes_little_memory() {
    assert!(size_of::<EntryMeta>() <= 48);
    let last = (1 << 22) - 1;
    for (epoch, mark, next) in [(0, NO_STOP, 0), (0, STOP, 1), (last, NO_STOP, last), (last, STOP, last + 1)]
    {
        let meta = EntryMeta::of(&header(&empty(), view(epoch, 1), mark));
        assert_eq!((meta.epoch(), meta.next_epoch()), (Epoch::new(epoch), Epoch::new(next)));
    }
}

#[test]
fn m1_a_restarted_log_knows_which_epoch_follows() {
    let log = of_two_epochs();
    let metas: Vec<EntryMeta> = log.entries.iter().copied().collect();
    let recovered = |from: usize, through: usize| {
        let (anchor, meta) = match from {
            0 => (Anchor::ZERO, None),
            above => (Anchor::new(Op::new(above as u64), metas[above - 1].hash), Some(metas[above - 1])),
        };
        Log::new(&Recovered {
            view: view(1, 0),
            floor: anchor,
            floor_next_revision: meta.map_or(Revision::new(1), |meta| meta.next_revision),
            entries: metas[from..through].to_vec(),
            ..Recovered::empty()
        })
    };
    assert_eq!(allowed(&recovered(0, 1)), [0]);
    assert_eq!(allowed(&recovered(0, 2)), [1]);
    assert_eq!(allowed(&recovered(1, 3)), [1]);
    let mut cut = recovered(1, 3);
    cut.cut(Op::new(1));
    assert_eq!(allowed(&cut), [0], "the first entry above the floor shows the epoch");
    assert_eq!(allowed(&recovered(2, 2)), EPOCHS, "the floor does not show it");
}
