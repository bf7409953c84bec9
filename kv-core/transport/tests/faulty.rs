//! Each fault happens as requested, where requested, and is healed.
//!
//! Time is paused: a test that waits for what never comes ends at once, by its time-out.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use kv_transport::{
    Connection, Direction, Fault, Faults, Faulty, Framing, Lane, Listener, Memory, Scope, Transport,
    TransportError,
};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

const MS: Duration = Duration::from_millis(1);
/// Longer than anything takes that does happen.
const LONG: Duration = Duration::from_secs(60);

/// A frame is one byte of length, and so many bytes.
fn framing() -> Framing {
    Framing::new(1, 256, |header| Some(1 + usize::from(header[0])))
}

/// A faulty client, and a server that has no faults of its own.
struct World {
    faults: Faults,
    client: Faulty<Memory>,
    listener: Box<dyn Listener>,
}

impl World {
    async fn new(seed: u64) -> Self {
        let network = Memory::new();
        let listener = network.bind("server").await.unwrap();
        let faults = Faults::new(seed);
        Self { client: Faulty::new(network, faults.clone(), framing()), faults, listener }
    }

    async fn pair(&mut self, lane: Lane) -> (Connection, Connection) {
        let near = self.client.connect("server", lane).await.unwrap();
        (near, self.listener.accept().await.unwrap())
    }
}

async fn send(connection: &mut Connection, number: u8) {
    connection.writer.write_all(&[2, number, !number]).await.unwrap();
    connection.writer.flush().await.unwrap();
}

/// The number of the next frame, or the event that arrived instead.
async fn receive(connection: &mut Connection) -> Result<u8, String> {
    let mut frame = [0; 3];
    match timeout(LONG, connection.reader.read_exact(&mut frame)).await {
        Err(_) => Err("nothing".to_owned()),
        Ok(Err(error)) => Err(error.kind().to_string()),
        Ok(Ok(_)) if frame == [2, frame[1], !frame[1]] => Ok(frame[1]),
        Ok(Ok(_)) => Err(format!("damaged {frame:?}")),
    }
}

/// The numbers of all frames that come.
async fn receive_all(connection: &mut Connection) -> Vec<u8> {
    let mut all = Vec::new();
    while let Ok(number) = receive(connection).await {
        all.push(number);
    }
    all
}

/// Sends 0 to 199, and returns those that arrived, in the order of arrival.
async fn two_hundred(from: &mut Connection, to: &mut Connection) -> Vec<u8> {
    for number in 0..200 {
        send(from, number).await;
    }
    receive_all(to).await
}

fn in_order(numbers: &[u8]) -> bool {
    numbers.is_sorted()
}

#[tokio::test(start_paused = true)]
async fn lost_frames_vanish_as_a_whole_until_the_fault_is_healed() {
    let mut world = World::new(1).await;
    let (mut near, mut far) = world.pair(Lane::Client).await;
    world.faults.set(Scope::all(), Fault::new().loss(0.3));
    for direction in Direction::ALL {
        let (from, to) = match direction {
            Direction::Outgoing => (&mut near, &mut far),
            Direction::Incoming => (&mut far, &mut near),
        };
        let came = two_hundred(from, to).await;
        assert!((120..160).contains(&came.len()), "{} of 200 came", came.len());
        assert!(in_order(&came));
        let counts = world.faults.counts(Lane::Client, direction);
        assert_eq!((counts.passed, counts.passed + counts.lost), (came.len() as u64, 200));
    }
    world.faults.heal();
    assert_eq!(two_hundred(&mut near, &mut far).await.len(), 200);
}

#[tokio::test(start_paused = true)]
async fn duplicated_frames_come_twice() {
    let mut world = World::new(2).await;
    let (mut near, mut far) = world.pair(Lane::Log).await;
    world.faults.set(Scope::all().outgoing(), Fault::new().duplication(0.5));
    let came = two_hundred(&mut near, &mut far).await;
    assert!((280..320).contains(&came.len()), "{} came", came.len());
    let mut once = came.clone();
    once.dedup();
    assert_eq!(once, (0..200).collect::<Vec<u8>>());
    let counts = world.faults.total();
    assert_eq!((counts.passed, counts.duplicated), (200, came.len() as u64 - 200));
}

#[tokio::test(start_paused = true)]
async fn delayed_frames_come_late_and_in_order() {
    let mut world = World::new(3).await;
    let (mut near, mut far) = world.pair(Lane::Log).await;
    world.faults.set(Scope::all(), Fault::new().delay(100 * MS..=200 * MS));
    let start = Instant::now();
    for number in 0..50 {
        send(&mut near, number).await;
    }
    assert_eq!(receive(&mut far).await, Ok(0));
    assert!((100 * MS..=201 * MS).contains(&start.elapsed()), "{:?}", start.elapsed());
    let rest: Vec<u8> = receive_all(&mut far).await;
    assert_eq!(rest, (1..50).collect::<Vec<u8>>());

    world.faults.heal();
    let start = Instant::now();
    send(&mut near, 50).await;
    assert_eq!(receive(&mut far).await, Ok(50));
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn reordered_frames_are_overtaken_and_none_is_lost() {
    let mut world = World::new(4).await;
    let (mut near, mut far) = world.pair(Lane::Log).await;
    world.faults.set(Scope::all(), Fault::new().reordering(0.2, 50 * MS));
    let mut came = two_hundred(&mut near, &mut far).await;
    assert!(!in_order(&came));
    came.sort_unstable();
    assert_eq!(came, (0..200).collect::<Vec<u8>>());
    assert!((20..60).contains(&world.faults.total().reordered));
}

#[tokio::test(start_paused = true)]
async fn corrupted_frames_differ_in_one_bit() {
    let mut world = World::new(5).await;
    let (mut near, mut far) = world.pair(Lane::Log).await;
    world.faults.set(Scope::all(), Fault::new().corruption(1.0));
    let sent = [200; 201];
    near.writer.write_all(&sent).await.unwrap();
    let mut came = [0; 201];
    far.reader.read_exact(&mut came).await.unwrap();
    let flipped: u32 = sent.iter().zip(came).map(|(sent, came)| (sent ^ came).count_ones()).sum();
    assert_eq!((flipped, world.faults.total().corrupted), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_one_way_cut_affects_only_that_direction() {
    let mut world = World::new(6).await;
    let (mut near, mut far) = world.pair(Lane::Control).await;
    for (cut, silent) in [(Scope::all().outgoing(), true), (Scope::all().incoming(), false)] {
        world.faults.cut(cut.clone());
        send(&mut near, 1).await;
        send(&mut far, 2).await;
        let (out, back) = (receive(&mut far).await, receive(&mut near).await);
        let nothing = Err("nothing".to_owned());
        assert_eq!((out, back), if silent { (nothing, Ok(2)) } else { (Ok(1), nothing) });
        world.faults.mend(&cut);
    }
    assert_eq!(world.faults.total().cut, 2);
    send(&mut near, 3).await;
    send(&mut far, 4).await;
    assert_eq!((receive(&mut far).await, receive(&mut near).await), (Ok(3), Ok(4)));
}

#[tokio::test(start_paused = true)]
async fn a_cut_drops_frames_in_flight() {
    let mut world = World::new(7).await;
    let (mut near, mut far) = world.pair(Lane::Log).await;
    world.faults.set(Scope::all(), Fault::new().delay(100 * MS..=100 * MS));
    send(&mut near, 1).await;
    world.faults.cut(Scope::all());
    tokio::time::sleep(10 * MS).await;
    world.faults.heal();
    send(&mut near, 2).await;
    assert_eq!(receive(&mut far).await, Ok(2));
}

#[tokio::test(start_paused = true)]
async fn a_frame_half_written_when_a_cut_ends_is_not_torn() {
    let mut world = World::new(8).await;
    let (mut near, mut far) = world.pair(Lane::Log).await;
    world.faults.cut(Scope::all());
    near.writer.write_all(&[2, 1, !1, 2, 2]).await.unwrap();
    world.faults.heal();
    near.writer.write_all(&[!2]).await.unwrap();
    assert_eq!(receive(&mut far).await, Ok(2));
    assert_eq!(receive(&mut far).await, Err("nothing".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_connection_is_not_noticed_through_a_cut() {
    let mut world = World::new(9).await;
    let (near, mut far) = world.pair(Lane::Control).await;
    let (mut other_near, other_far) = world.pair(Lane::Log).await;
    world.faults.cut(Scope::all());
    drop(near);
    drop(other_far);
    assert_eq!(receive(&mut far).await, Err("nothing".to_owned()));
    assert_eq!(receive(&mut other_near).await, Err("nothing".to_owned()));
    send(&mut far, 1).await;
    world.faults.heal();
    assert_eq!(receive(&mut far).await, Err("unexpected end of file".to_owned()));
    assert_eq!(receive(&mut other_near).await, Err("unexpected end of file".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn connecting_hangs_during_a_cut_and_continues_after_it_is_healed() {
    let world = World::new(10).await;
    for cut in [Scope::all(), Scope::peer("server").incoming(), Scope::all().lane(Lane::Log).outgoing()] {
        world.faults.cut(cut.clone());
        let mut connecting = world.client.connect("server", Lane::Log);
        assert!(timeout(LONG, &mut connecting).await.is_err());
        world.faults.mend(&cut);
        timeout(LONG, connecting).await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn refused_connections_fail_at_once_at_either_end() {
    let mut world = World::new(11).await;
    world.faults.set(Scope::peer("server"), Fault::new().refuse());
    let error = world.client.connect("server", Lane::Log).await.unwrap_err();
    assert!(error.is_refused(), "{error}");
    world.faults.heal();
    world.pair(Lane::Log).await;

    // The same at the accepting end, where the peer is known by its name.
    let network = Memory::new();
    let faults = Faults::new(11);
    let server = Faulty::new(network.clone(), faults.clone(), framing());
    let mut listener = server.bind("server").await.unwrap();
    faults.set(Scope::peer("bad"), Fault::new().refuse());
    let mut bad = network.named("bad").connect("server", Lane::Log).await.unwrap();
    let _good = network.named("good").connect("server", Lane::Log).await.unwrap();
    assert_eq!(listener.accept().await.unwrap().remote, "good");
    assert_eq!(receive(&mut bad).await, Err("unexpected end of file".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_clogged_link_holds_everything_and_releases_it_later() {
    let mut world = World::new(12).await;
    let (mut near, mut far) = world.pair(Lane::Log).await;
    world.faults.set(Scope::all(), Fault::new().clog());
    for number in 0..10 {
        send(&mut near, number).await;
    }
    near.writer.shutdown().await.unwrap();
    assert_eq!(receive(&mut far).await, Err("nothing".to_owned()));
    world.client.connect("server", Lane::Client).await.unwrap();
    world.faults.heal();
    assert_eq!(receive_all(&mut far).await, (0..10).collect::<Vec<u8>>());
}

#[tokio::test(start_paused = true)]
async fn frames_in_flight_are_bounded_and_then_the_writer_waits() {
    let mut world = World::new(13).await;
    let (mut near, mut far) = world.pair(Lane::Bulk).await;
    world.faults.set(Scope::all(), Fault::new().clog());
    let mut frame = vec![0; 256];
    frame[0] = 255;
    let mut written = 0;
    while timeout(LONG, near.writer.write_all(&frame)).await.is_ok() {
        written += frame.len();
        assert!(written < 5 * 1024 * 1024, "unbounded");
    }
    world.faults.heal();
    let mut came = vec![0; written];
    far.reader.read_exact(&mut came).await.unwrap();
    near.writer.write_all(&frame).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_reset_is_an_error_here_and_the_end_there_and_spares_later_connections() {
    let mut world = World::new(14).await;
    let (mut near, mut far) = world.pair(Lane::Log).await;
    let (mut spared_near, mut spared_far) = world.pair(Lane::Control).await;
    world.faults.set(Scope::all(), Fault::new().delay(MS..=MS));
    send(&mut near, 1).await;
    world.faults.reset(Scope::peer("server").lane(Lane::Log));
    assert_eq!(receive(&mut near).await, Err("connection reset".to_owned()));
    assert_eq!(receive(&mut far).await, Err("unexpected end of file".to_owned()));
    assert!(near.writer.write_all(&[0]).await.is_err());
    assert!(near.writer.flush().await.is_err());

    let (mut later_near, mut later_far) = world.pair(Lane::Log).await;
    for (near, far) in [(&mut spared_near, &mut spared_far), (&mut later_near, &mut later_far)] {
        send(near, 2).await;
        assert_eq!(receive(far).await, Ok(2));
    }
}

#[tokio::test(start_paused = true)]
async fn a_fault_keeps_to_its_peer_lane_and_direction() {
    let mut world = World::new(15).await;
    let mut other = world.client.bind("other").await.unwrap();
    let (mut log, mut log_far) = world.pair(Lane::Log).await;
    let (mut control, mut control_far) = world.pair(Lane::Control).await;
    let mut elsewhere = world.client.connect("other", Lane::Log).await.unwrap();
    let mut elsewhere_far = other.accept().await.unwrap();

    world.faults.set(Scope::peer("server").lane(Lane::Log).outgoing(), Fault::new().loss(1.0));
    for (near, far) in
        [(&mut control, &mut control_far), (&mut elsewhere, &mut elsewhere_far), (&mut log_far, &mut log)]
    {
        send(near, 1).await;
        assert_eq!(receive(far).await, Ok(1));
    }
    send(&mut log, 1).await;
    assert_eq!(receive(&mut log_far).await, Err("nothing".to_owned()));
    assert_eq!(world.faults.counts(Lane::Log, Direction::Outgoing).lost, 1);
}

#[tokio::test(start_paused = true)]
async fn faults_on_overlapping_scopes_combine_and_are_removed_separately() {
    let mut world = World::new(16).await;
    let (mut near, mut far) = world.pair(Lane::Log).await;
    let lane = Scope::all().lane(Lane::Log);
    world.faults.set(Scope::all(), Fault::new().duplication(1.0));
    world.faults.set(lane.clone(), Fault::new().delay(5 * MS..=5 * MS));
    world.faults.cut(lane.clone());
    send(&mut near, 1).await;
    assert_eq!(receive(&mut far).await, Err("nothing".to_owned()));
    world.faults.mend(&lane);
    let start = Instant::now();
    send(&mut near, 2).await;
    assert_eq!((receive(&mut far).await, receive(&mut far).await), (Ok(2), Ok(2)));
    assert!(start.elapsed() >= 10 * MS, "each copy has the delay that the cut left in place");
    world.faults.clear(&lane);
    let start = Instant::now();
    send(&mut near, 3).await;
    assert_eq!((receive(&mut far).await, receive(&mut far).await), (Ok(3), Ok(3)));
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn the_first_frame_of_each_direction_can_be_spared() {
    let network = Memory::new();
    let mut listener = network.bind("server").await.unwrap();
    let faults = Faults::new(17);
    let client = Faulty::new(network, faults.clone(), framing()).spare_first();
    faults.set(Scope::all(), Fault::new().loss(1.0).corruption(1.0).duplication(1.0));
    for _ in 0..3 {
        let mut near = client.connect("server", Lane::Client).await.unwrap();
        let mut far = listener.accept().await.unwrap();
        send(&mut near, 1).await;
        send(&mut near, 2).await;
        send(&mut far, 3).await;
        send(&mut far, 4).await;
        assert_eq!((receive_all(&mut far).await, receive_all(&mut near).await), (vec![1], vec![3]));
    }
}

#[tokio::test(start_paused = true)]
async fn accepted_connections_are_faulty_too() {
    let network = Memory::new();
    let faults = Faults::new(18);
    let server = Faulty::new(network.clone(), faults.clone(), framing());
    let mut listener = server.bind("server").await.unwrap();
    let mut near = network.named("client").connect("server", Lane::Client).await.unwrap();
    let mut far = listener.accept().await.unwrap();
    faults.set(Scope::peer("client").incoming(), Fault::new().loss(1.0));
    send(&mut near, 1).await;
    send(&mut far, 2).await;
    assert_eq!(receive(&mut far).await, Err("nothing".to_owned()));
    assert_eq!(receive(&mut near).await, Ok(2));
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_fates_under_any_load() {
    async fn run(seed: u64, others: bool) -> Vec<u8> {
        let mut world = World::new(seed).await;
        let fault = Fault::new().loss(0.2).duplication(0.3).reordering(0.3, 20 * MS).delay(MS..=9 * MS);
        world.faults.set(Scope::all(), fault);
        if others {
            let (mut near, mut far) = world.pair(Lane::Bulk).await;
            two_hundred(&mut near, &mut far).await;
            two_hundred(&mut far, &mut near).await;
        }
        let (mut near, mut far) = world.pair(Lane::Log).await;
        two_hundred(&mut near, &mut far).await
    }
    let came = run(19, false).await;
    assert_eq!(came, run(19, false).await);
    assert_eq!(came, run(19, true).await);
    assert_ne!(came, run(20, false).await);
}

#[tokio::test(start_paused = true)]
async fn each_connection_has_its_own_fates() {
    let mut world = World::new(21).await;
    world.faults.set(Scope::all(), Fault::new().loss(0.5));
    let (mut one, mut one_far) = world.pair(Lane::Log).await;
    let (mut two, mut two_far) = world.pair(Lane::Log).await;
    assert_ne!(two_hundred(&mut one, &mut one_far).await, two_hundred(&mut two, &mut two_far).await);
}

#[tokio::test(start_paused = true)]
async fn without_framing_each_write_is_a_unit() {
    let network = Memory::new();
    let mut listener = network.bind("server").await.unwrap();
    let faults = Faults::new(22);
    let client = Faulty::new(network, faults.clone(), Framing::raw());
    let mut near = client.connect("server", Lane::Client).await.unwrap();
    let mut far = listener.accept().await.unwrap();
    faults.set(Scope::all(), Fault::new().loss(0.5));
    for _ in 0..100 {
        near.writer.write_all(b"abcde").await.unwrap();
    }
    near.writer.shutdown().await.unwrap();
    let mut came = Vec::new();
    far.reader.read_to_end(&mut came).await.unwrap();
    assert!((150..350).contains(&came.len()));
    assert!(came.chunks(5).all(|unit| unit == b"abcde"));
}

#[tokio::test(start_paused = true)]
async fn errors_of_the_inner_transport_are_returned() {
    let world = World::new(23).await;
    let bind = world.client.bind("server").await.unwrap_err();
    assert!(matches!(bind, TransportError::Bind { .. }), "{bind}");
    let connect = world.client.connect("nobody", Lane::Log).await.unwrap_err();
    assert!(connect.is_refused(), "{connect}");
}

#[test]
#[should_panic(expected = "a probability is within 0 and 1, not 1.5")]
fn a_probability_above_one_is_refused() {
    let _ = Fault::new().loss(1.5);
}
