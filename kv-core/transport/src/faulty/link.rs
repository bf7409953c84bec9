//! The layer between a connection and its user.

use super::faults::Path;
use super::queue::{Intake, Next, Queue, queue};
use super::{Direction, Settings};
use crate::pipe::{End, PipeWatch, PipeWriter, pipe};
use crate::{Connection, Reader, Writer};
use std::io;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The buffer between the queue and the user, in bytes.
const PIPE_BYTES: usize = 64 * 1024;
/// How many bytes are read from the network at once.
const READ_BYTES: usize = 64 * 1024;

/// Inserts the faults on `path` between a connection and its user, with a task that ends with the connection.
///
/// ```text
/// user's writer = Intake -> Queue -> inner writer
/// user's reader = pipe <- Queue <- Intake <- inner reader
/// ```
pub(super) fn interpose(inner: Connection, path: Path, opened: bool, settings: &Settings) -> Connection {
    let Connection { lane, peer, remote, reader, writer } = inner;
    let seed = path.seeds(opened);
    let queue = |direction| queue(&path, direction, seed(direction), settings);
    let (intake, outgoing) = queue(Direction::Outgoing);
    let (arrivals, incoming) = queue(Direction::Incoming);
    let (delivery, user_reader) = pipe(PIPE_BYTES);
    let link = Link { path, reader, writer, outgoing, arrivals, incoming, delivery };
    tokio::spawn(link.run());
    Connection { lane, peer, remote, reader: Box::new(user_reader), writer: Box::new(intake) }
}

struct Link {
    path: Path,
    reader: Reader,
    writer: Writer,
    outgoing: Queue,
    arrivals: Intake,
    incoming: Queue,
    delivery: PipeWriter,
}

impl Link {
    async fn run(self) {
        let Self { mut path, reader, writer, outgoing, arrivals, incoming, delivery } = self;
        let user = delivery.watch();
        let breaker = outgoing.clone();
        let held_open = outgoing.clone();
        let flow = async {
            tokio::join!(
                send(outgoing, writer),
                receive(reader, arrivals, incoming, delivery, &user, held_open),
            );
        };
        let mut flow = std::pin::pin!(flow);
        tokio::select! {
            biased;
            () = path.reset() => {
                let kind = io::ErrorKind::ConnectionReset;
                breaker.break_off(kind);
                user.finish(End::Broken(kind));
            }
            () = &mut flow => {}
        }
    }
}

/// From the user to the network.
async fn send(mut outgoing: Queue, mut writer: Writer) {
    match hand_on(&mut outgoing, &mut writer).await {
        Ok(End::Ended) => {
            // An error means that the other end is gone as well.
            let _ = writer.shutdown().await;
        }
        Ok(End::Broken(_)) => {}
        Err(error) => outgoing.break_off(error.kind()),
    }
}

/// From the network to the user.
async fn receive(
    mut reader: Reader,
    arrivals: Intake,
    mut incoming: Queue,
    mut delivery: PipeWriter,
    user: &PipeWatch,
    mut held_open: Queue,
) {
    let flow = async {
        let (_, handed_on) =
            tokio::join!(take_in(&mut reader, arrivals), hand_on(&mut incoming, &mut delivery));
        if let Ok(end) = handed_on {
            delivery.finish(end);
        }
    };
    tokio::select! {
        biased;
        () = user.reader_gone() => {}
        () = flow => {}
    }
    // The user has dropped the connection. During a cut, the other end must not notice that.
    held_open.mended().await;
}

/// Reads from the network until the end of the stream.
async fn take_in(reader: &mut Reader, mut arrivals: Intake) {
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match reader.read(&mut buffer).await {
            Ok(0) => return arrivals.finish(End::Ended),
            Ok(n) => {
                if arrivals.write_all(&buffer[..n]).await.is_err() {
                    return;
                }
            }
            Err(error) => return arrivals.finish(End::Broken(error.kind())),
        }
    }
}

/// Forwards frames when they are due, until the end of the stream.
async fn hand_on(queue: &mut Queue, writer: &mut (impl AsyncWrite + Unpin)) -> io::Result<End> {
    loop {
        match queue.next().await {
            Next::End(end) => return Ok(end),
            Next::Frame { frame, more } => {
                writer.write_all(&frame).await?;
                if !more {
                    writer.flush().await?;
                }
            }
        }
    }
}
