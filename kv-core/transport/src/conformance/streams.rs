//! Claims about the bytes on a connection, and its end.

use super::{STALL, Subject};
use crate::{Lane, Reader, Writer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// More than any transport should hold for a peer that does not read.
const TOO_MUCH_BYTES: usize = 64 * 1024 * 1024;

/// Data that was written and flushed arrives in order, in both directions, by turns.
pub async fn bytes_flow_both_ways_in_order(subject: Subject) {
    let (_listener, mut near, mut far) = subject.pair(Lane::Log).await;
    for turn in 0..100_u32 {
        for (from, to) in [(&mut near.writer, &mut far.reader), (&mut far.writer, &mut near.reader)] {
            from.write_all(&turn.to_le_bytes()).await.expect("bytes go");
            from.flush().await.expect("bytes are sent");
            assert_eq!(to.read_u32_le().await.expect("bytes come"), turn);
        }
    }
}

/// Megabytes of data arrive completely and in order, in both directions at the same time.
pub async fn large_transfers_arrive_whole_both_ways_at_once(subject: Subject) {
    const BYTES: usize = 8 * 1024 * 1024;
    let (_listener, near, far) = subject.pair(Lane::Bulk).await;
    let transfers = [
        tokio::spawn(send(near.writer, BYTES, 1)),
        tokio::spawn(send(far.writer, BYTES, 2)),
        tokio::spawn(receive(near.reader, BYTES, 2)),
        tokio::spawn(receive(far.reader, BYTES, 1)),
    ];
    for transfer in transfers {
        transfer.await.expect("the transfer is whole");
    }
}

/// Data that was written before the direction was ended and the connection dropped still arrives.
pub async fn what_was_written_before_the_end_arrives(subject: Subject) {
    const BYTES: usize = 10_000;
    let (_listener, near, far) = subject.pair(Lane::Client).await;
    send(near.writer, BYTES, 3).await;
    drop(near.reader);
    receive(far.reader, BYTES, 3).await;
}

/// If one end ends its direction, the other end reads end of file. The other direction continues.
pub async fn ending_one_direction_leaves_the_other_open(subject: Subject) {
    let (_listener, mut near, mut far) = subject.pair(Lane::Client).await;
    near.writer.write_all(b"request").await.expect("bytes go");
    near.writer.shutdown().await.expect("the direction can be ended");
    let mut request = Vec::new();
    far.reader.read_to_end(&mut request).await.expect("the end of file comes");
    assert_eq!(request, b"request");
    far.writer.write_all(b"answer").await.expect("the other direction is open");
    far.writer.flush().await.expect("the other direction is open");
    drop(far);
    let mut answer = [0; 6];
    near.reader.read_exact(&mut answer).await.expect("the answer comes");
    assert_eq!(&answer, b"answer");
}

/// When the opener drops the connection, the acceptor reads end of file, and its writes fail sooner or later.
pub async fn a_dropped_connection_is_noticed_by_the_acceptor(subject: Subject) {
    let (_listener, near, far) = subject.pair(Lane::Control).await;
    drop(near);
    notices_the_end(far.reader, far.writer).await;
}

/// When the acceptor drops the connection, the opener reads end of file, and its writes fail sooner or later.
pub async fn a_dropped_connection_is_noticed_by_the_opener(subject: Subject) {
    let (_listener, near, far) = subject.pair(Lane::Control).await;
    drop(far);
    notices_the_end(near.reader, near.writer).await;
}

/// A peer that does not read stops the writer after a bounded number of bytes. Meanwhile the other lanes between the
/// same two ends continue. When the peer reads at last, all bytes arrive.
pub async fn a_peer_that_does_not_read_stops_its_lane_and_no_other(subject: Subject) {
    let (mut listener, mut full, clogged) = subject.pair(Lane::Bulk).await;
    let mut written = 0;
    let block = vec![7; 64 * 1024];
    while let Ok(n) = timeout(STALL, full.writer.write(&block)).await {
        written += n.expect("writing works");
        assert!(written < TOO_MUCH_BYTES, "a peer that does not read never stops the writer");
    }
    for lane in [Lane::Control, Lane::Log, Lane::Client] {
        let near = subject.connect(&*listener, lane).await;
        let far = listener.accept().await.expect("the connection is accepted");
        tokio::join!(send(near.writer, 100_000, 4), receive(far.reader, 100_000, 4));
    }
    let read_all = tokio::spawn(async move {
        let mut reader = clogged.reader;
        let mut all = Vec::new();
        reader.read_to_end(&mut all).await.expect("the rest comes");
        all.len()
    });
    full.writer.shutdown().await.expect("the direction can be ended");
    assert_eq!(read_all.await.expect("the rest comes"), written);
}

/// Sends `bytes` bytes that are recognised by [`receive`] with the same seed, and ends the direction.
async fn send(mut writer: Writer, bytes: usize, seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut left = bytes;
    while left > 0 {
        let block: Vec<u8> = (0..left.min(50_000)).map(|_| rng.u8(..)).collect();
        writer.write_all(&block).await.expect("bytes go");
        left -= block.len();
    }
    writer.shutdown().await.expect("the direction can be ended");
}

async fn receive(mut reader: Reader, bytes: usize, seed: u64) {
    let mut all = Vec::with_capacity(bytes);
    reader.read_to_end(&mut all).await.expect("bytes come");
    let mut rng = fastrand::Rng::with_seed(seed);
    let wrong = all.iter().position(|byte| *byte != rng.u8(..));
    assert_eq!((all.len(), wrong), (bytes, None), "length, and position of the first wrong byte");
}

async fn notices_the_end(mut reader: Reader, mut writer: Writer) {
    let read = reader.read_u8().await;
    assert!(read.is_err(), "{read:?}");
    let block = [0; 10_000];
    let mut written = 0;
    while writer.write_all(&block).await.is_ok() && writer.flush().await.is_ok() {
        written += block.len();
        assert!(written < TOO_MUCH_BYTES, "writing to a dropped connection never fails");
        tokio::task::yield_now().await;
    }
}
