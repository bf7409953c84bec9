//! Admission to a member: how many callers are accepted, how long they may be silent, and how much they may hold.

use super::*;
use crate::message::{Answer, Command, Operation, Query, ReadMode, Request, WatchQuery};
use crate::node::budget::{Share, Use};
use crate::node::connection;
use crate::wire::Kind;
use std::sync::atomic::AtomicUsize;
use tokio::time::sleep;

fn client_hello() -> Hello {
    Hello::client(ClusterId::of_name("test"), "someone")
}

fn put(call: u64, value: usize) -> Bytes {
    let command = Command::Put {
        key: "key".into(),
        value: vec![7; value].into(),
        condition: None,
        life: Default::default(),
    };
    let request = Request {
        session: crate::ids::SessionId::new(1),
        number: crate::ids::RequestNumber::new(call),
        acked_through: crate::ids::RequestNumber::ZERO,
        operation: Operation::Command(command),
    };
    wire::encode_client_message(&ClientMessage { call, what: ClientCall::Write(request.encode()) })
}

/// How long it takes until the other end closes.
async fn until_closed((mut reader, _writer): Ends) -> Duration {
    let begin = Instant::now();
    let end = async { while let Ok(Some(_)) = reader.read_server_message().await {} };
    timeout(Duration::from_secs(600), end).await.expect("it is closed");
    begin.elapsed()
}

/// F-load-4: of many simultaneous callers, no more than the rate are accepted. Members have a rate of their own, and a
/// second later there is room again.
#[tokio::test(start_paused = true)]
async fn f_load_4_a_storm_is_accepted_at_the_limited_rate_and_members_do_not_wait() {
    let options = Options { max_accepts_per_second: 50, ..Options::default() };
    let bench = Bench::with(options);
    bench.open_door().await;
    let mut let_in = Vec::new();
    for _ in 0..500 {
        let mut ends = ends(bench.network.connect("a:1", Lane::Client).await.unwrap());
        ends.1.push(wire::encode_hello(&client_hello()));
        let _ = ends.1.flush().await;
        if matches!(ends.0.read_hello_reply().await, Ok(HelloReply::Ok(_))) {
            let_in.push(ends);
        }
    }
    assert_eq!(let_in.len(), 50);
    bench.call(Lane::Control, &bench.peers_hello(Lane::Control)).await;
    sleep(Duration::from_secs(1)).await;
    bench.call(Lane::Client, &client_hello()).await;
}

/// F-input-10: a question that holds more memory than any request may does not wait.
#[tokio::test]
async fn f_input_10_a_request_that_is_too_large_is_refused_before_it_is_queued() {
    let bench = Bench::new();
    bench.open_door().await;
    let (mut reader, mut writer) = bench.call(Lane::Client, &client_hello()).await;
    let (long, mode) = (Bytes::from(vec![b'x'; 1 << 20]), ReadMode::Linearizable);
    let read = |query| ClientCall::Read { mode, query };
    let (from, to) = (Bytes::new(), Some(long.clone()));
    let scan = Query::Scan { from, to, limit: 1, reverse: false, keys_only: true, at: None };
    let watch = WatchQuery { from: long.clone(), to: None, after: None, previous: false };
    let questions = [
        read(Query::Many { keys: vec!["a".into(); 10_000], at: None }),
        read(Query::Many { keys: vec![long.clone(); 2], at: None }),
        read(Query::Get { key: long, at: None }),
        read(scan),
        ClientCall::Watch(watch),
    ];
    for (call, what) in (1..).zip(questions) {
        writer.push(wire::encode_client_message(&ClientMessage { call, what }));
        writer.flush().await.unwrap();
        let answer = timeout(Duration::from_secs(10), reader.read_server_message()).await.expect("at once");
        let answer = answer.unwrap().unwrap();
        assert!(answer.call == call && matches!(answer.answer, Answer::Refused(_)), "{answer:?}");
    }
}

/// F-input-3: half a frame does not count as a heartbeat, no matter how many heartbeats came before it.
#[tokio::test(start_paused = true)]
async fn f_input_3_a_frame_that_does_not_end_closes_the_connection() {
    let bench = Bench::new();
    bench.open_door().await;
    for (bytes, within) in [(put(1, 10), 11), (put(1, 1 << 20), 20)] {
        let (reader, mut writer) = bench.call(Lane::Client, &client_hello()).await;
        for at in [0, bytes.len() / 2, bytes.len() - 2] {
            sleep(Duration::from_secs(1)).await;
            let end = if at == 0 { bytes.len() / 2 } else { at + 1 };
            writer.push(bytes.slice(at..end));
            writer.flush().await.unwrap();
        }
        let took = until_closed((reader, writer)).await;
        assert!(took <= Duration::from_secs(within), "{took:?} for {} bytes", bytes.len());
    }
}

#[tokio::test(start_paused = true)]
async fn only_a_silent_client_is_closed() {
    let bench = Bench::new();
    bench.open_door().await;
    let idle = bench.shared.options.client_idle_timeout;
    let silent = bench.call(Lane::Client, &client_hello()).await;
    let took = until_closed(silent).await;
    assert!(took >= idle && took <= idle + Duration::from_secs(1), "{took:?}");

    let (mut reader, mut writer) = bench.call(Lane::Client, &client_hello()).await;
    for _ in 0..20 {
        sleep(idle / 2).await;
        writer.push(wire::encode_alive());
        writer.flush().await.unwrap();
    }
    writer.push(wire::encode_client_message(&ClientMessage { call: 1, what: ClientCall::Status }));
    writer.flush().await.unwrap();
    assert!(reader.read_server_message().await.unwrap().is_some());
    // And it is a client's sign only: a member that sends one breaks the rules.
    let (mut reader, mut writer) = bench.call(Lane::Log, &bench.peers_hello(Lane::Log)).await;
    writer.push(wire::encode_alive());
    writer.flush().await.unwrap();
    let end = async { while let Ok(Some(_)) = reader.read(Kind::Alive).await {} };
    timeout(Duration::from_secs(10), end).await.expect("it is closed");
}

/// What others hold cannot be had as well: a frame is not read on before there is memory for it, and not for ever.
#[tokio::test(start_paused = true)]
async fn a_large_frame_waits_for_memory_and_small_ones_do_not() {
    let bench = Bench::new();
    bench.open_door().await;
    let budget = bench.shared.admission.budget.clone();
    let others =
        Share::of(&budget, &Arc::default(), budget.limit() / 2, Use::LargeFrame).expect("there is room");

    let (_reader, mut large) = bench.call(Lane::Client, &client_hello()).await;
    large.push(put(1, 1 << 20));
    let sending = tokio::spawn(async move { large.flush().await.map(|()| large) });
    let (mut reader, mut small) = bench.call(Lane::Client, &client_hello()).await;
    small.push(wire::encode_client_message(&ClientMessage { call: 1, what: ClientCall::Status }));
    small.flush().await.unwrap();
    assert!(reader.read_server_message().await.unwrap().is_some(), "small ones have a part of their own");
    small.push(put(2, 60 << 10));
    small.flush().await.unwrap();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(bench.shared.inbox.take(true, true).calls.len(), 1, "the small one alone has come through");
    assert!(budget.held() < budget.limit() / 2 + (256 << 10), "{} bytes are held", budget.held());

    drop(others);
    sleep(Duration::from_secs(1)).await;
    let calls = bench.shared.inbox.take(true, true).calls;
    assert_eq!(calls.len(), 1, "now there is room");
    assert!(budget.held() >= 1 << 20, "a request in flight is accounted for");
    drop(calls);
    let large = sending.await.unwrap().unwrap();
    assert_eq!(budget.held(), 0);

    let _others =
        Share::of(&budget, &Arc::default(), budget.limit() / 2, Use::LargeFrame).expect("there is room");
    let mut large = large;
    large.push(put(2, 1 << 20));
    let begin = Instant::now();
    // Its end is closed while it writes.
    let _ = large.flush().await;
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
}

/// F-load-4: a client that sends as fast as it can gives way to others, even if all its data is ready to be read: tasks
/// share few threads.
#[tokio::test]
async fn f_load_4_large_requests_give_way_to_other_clients() {
    const PUTS: u64 = 8;
    let bench = Bench::new();
    let all: Vec<u8> = (1..=PUTS).flat_map(|call| put(call, 1 << 20)).collect();
    let turns = Arc::new(AtomicUsize::new(0));
    let counted = turns.clone();
    let others = tokio::spawn(async move {
        loop {
            counted.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
        }
    });
    let mut reader = FrameReader::new(Box::new(std::io::Cursor::new(all)) as Reader, 0);
    reader.set_max_frame(2 << 20);
    let writer = FrameWriter::new(Box::new(tokio::io::sink()) as Writer);
    connection::serve(&bench.shared, "someone", 9, Arc::default(), reader, writer).await;
    others.abort();
    assert_eq!(bench.shared.inbox.take(true, true).calls.len() as u64, PUTS);
    // A read that doubles what has come may take in much at once, if it is there.
    let turns = turns.load(Ordering::Relaxed) as u64;
    assert!(turns >= 4 * PUTS, "others had {turns} turns while {PUTS} MiB were read");
}

/// Whoever asks for it endlessly gets the primary role given away once in a while.
#[tokio::test(start_paused = true)]
async fn f_load_1_clients_cannot_request_endless_handovers() {
    let bench = Bench::new();
    let followed = || (0..100).filter(|_| bench.shared.may_hand_over()).count();
    assert_eq!(followed(), 1);
    sleep(Duration::from_secs(2)).await;
    assert_eq!(followed(), 0);
    sleep(Duration::from_secs(10)).await;
    assert_eq!(followed(), 1);
}

/// A member that continues without one of its parts would look healthy without being so.
#[tokio::test]
async fn a_part_that_panics_stops_the_node() {
    let bench = Bench::new();
    let mut stop = bench.shared.stop.subscribe();
    bench.shared.run_part("a part", async { panic!("as a test") });
    let reason = timeout(Duration::from_secs(10), stop.wait_for(Option::is_some)).await;
    let reason = reason.expect("it stops").expect("it is there").clone();
    assert!(matches!(reason, Some(super::super::StopReason::Panicked { part: "a part" })), "{reason:?}");
}
