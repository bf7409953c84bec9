//! The bare group: three journals and a fan-out over TCP, without sessions, state or views. What a put costs beyond
//! this is the price of everything else. Clients are tasks in the same process.
//!
//! ```text
//! cargo run --release -p kv-benchmarks --bin bare-group -- CLIENTS [SECONDS]
//! ```

use bytes::Bytes;
use hdrhistogram::Histogram;
use kv_benchmarks::{Log, Puts, format_journal};
use kv_core::journal::Journal;
use kv_core::message::{Entry, EntryHeader, HEADER_BYTES, Write};
use std::collections::VecDeque;
use std::error::Error;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Entries hold at most this many requests.
const BATCH: usize = 512;
/// How many bytes an encoded header has.
const HEADER: usize = HEADER_BYTES;
const WARM_UP: Duration = Duration::from_secs(1);

/// What the primary's loop receives.
enum Event {
    Request(Bytes, oneshot::Sender<()>),
    /// This member has everything up to this op on disk.
    Durable(usize, u64),
    Stop,
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1).map(|word| word.parse::<u64>());
    let clients = arguments.next().transpose()?.unwrap_or(64);
    let seconds = arguments.next().transpose()?.unwrap_or(10);
    let folder = tempfile::tempdir()?;
    let (events, received) = channel();
    let mut threads = Vec::new();
    let mut peers = Vec::new();
    for member in 1..3 {
        let (stream, own) = start_backup(&folder.path().join(member.to_string()), member)?;
        let member = usize::from(member);
        threads.extend(own);
        let (mut acks, events) = (stream.try_clone()?, events.clone());
        threads.push(thread::spawn(move || {
            let mut op = [0; 8];
            while acks.read_exact(&mut op).is_ok() {
                if events.send(Event::Durable(member, u64::from_le_bytes(op))).is_err() {
                    break;
                }
            }
            Ok(())
        }));
        peers.push(stream);
    }
    let (writes, to_write) = channel();
    let (mut journal, own) = (open(&folder.path().join("0"), 0)?, events.clone());
    threads.push(thread::spawn(move || {
        while let Some(op) = append_waiting(&mut journal, &to_write)? {
            if own.send(Event::Durable(0, op)).is_err() {
                break;
            }
        }
        Ok(())
    }));
    threads.push(thread::spawn(move || {
        let replicated = replicate(&received, &writes, &mut peers);
        // The threads that read acknowledgements have these connections too.
        peers.iter().try_for_each(|peer| peer.shutdown(Shutdown::Write))?;
        replicated
    }));

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build()?;
    let latencies = runtime.block_on(load(clients, Duration::from_secs(seconds), &events));
    let _ = events.send(Event::Stop);
    for thread in threads {
        // If one failed, that is why the load did.
        thread.join().map_err(|_| "a thread panicked")??;
    }
    let latencies = latencies?;
    println!(
        "bare group, {clients} clients: {:.0} puts/s, p50 {} us, p99 {} us, max {} us",
        latencies.len() as f64 / seconds as f64,
        latencies.value_at_quantile(0.5),
        latencies.value_at_quantile(0.99),
        latencies.max()
    );
    Ok(())
}

/// Clients that each wait for one put before the next.
async fn load(clients: u64, time: Duration, events: &Sender<Event>) -> Result<Histogram<u64>> {
    let begin = Instant::now() + WARM_UP;
    let end = begin + time;
    let tasks: Vec<_> = (0..clients)
        .map(|_| {
            let events = events.clone();
            tokio::spawn(async move {
                let mut latencies = Histogram::<u64>::new(3)?;
                let mut puts = Puts::new(100_000);
                loop {
                    let begun = Instant::now();
                    let (reply, replied) = oneshot::channel();
                    events.send(Event::Request(puts.request().encode(), reply))?;
                    replied.await?;
                    let ended = Instant::now();
                    if ended >= end {
                        return Result::Ok(latencies);
                    }
                    if ended >= begin {
                        latencies.saturating_record(u64::try_from((ended - begun).as_micros())?);
                    }
                }
            })
        })
        .collect();
    let mut all = Histogram::<u64>::new(3)?;
    for task in tasks {
        all.add(task.await??)?;
    }
    Ok(all)
}

/// The primary: makes entries of what waits, sends them, and answers what two members have on disk.
fn replicate(events: &Receiver<Event>, journal: &Sender<Entry>, peers: &mut [TcpStream]) -> Result<()> {
    let mut log = Log::default();
    let mut durable = [0; 3];
    let mut waiting: VecDeque<(u64, Vec<oneshot::Sender<()>>)> = VecDeque::new();
    while let Ok(first) = events.recv() {
        let (mut requests, mut replies) = (Vec::new(), Vec::new());
        let mut next = Some(first);
        while let Some(event) = next {
            match event {
                Event::Request(request, reply) => {
                    requests.push(request);
                    replies.push(reply);
                }
                Event::Durable(member, op) => durable[member] = op,
                Event::Stop => return Ok(()),
            }
            next = if requests.len() < BATCH { events.try_recv().ok() } else { None };
        }
        if !requests.is_empty() {
            let entry = log.entry(&requests);
            let frame = [&entry.header.encode()[..], &entry.body].concat();
            for peer in &mut *peers {
                peer.write_all(&frame)?;
            }
            waiting.push_back((entry.header.op.get(), replies));
            journal.send(entry)?;
        }
        let mut sorted = durable;
        sorted.sort_unstable();
        while waiting.front().is_some_and(|(op, _)| *op <= sorted[1]) {
            for reply in waiting.pop_front().into_iter().flat_map(|(_, replies)| replies) {
                // The client may have ended.
                let _ = reply.send(());
            }
        }
    }
    Ok(())
}

type Thread = JoinHandle<Result<()>>;

/// A backup: one thread reads entries, and another makes them durable and acknowledges.
fn start_backup(folder: &Path, member: u8) -> Result<(TcpStream, [Thread; 2])> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let stream = TcpStream::connect(listener.local_addr()?)?;
    let (own, _) = listener.accept()?;
    for end in [&stream, &own] {
        end.set_nodelay(true)?;
    }
    let mut acks = own.try_clone()?;
    let (entries, to_write) = channel();
    let reading = thread::spawn(move || {
        let mut own = io::BufReader::with_capacity(256 << 10, own);
        let mut header = [0; HEADER];
        while own.read_exact(&mut header).is_ok() {
            let header = EntryHeader::decode(&header);
            let mut body = vec![0; header.body_len as usize];
            own.read_exact(&mut body)?;
            let entry = Entry { header, body: body.into() };
            entry.check()?;
            entries.send(entry)?;
        }
        Ok(())
    });
    let mut journal = open(folder, member)?;
    let writing = thread::spawn(move || {
        while let Some(op) = append_waiting(&mut journal, &to_write)? {
            if acks.write_all(&op.to_le_bytes()).is_err() {
                break;
            }
        }
        Ok(())
    });
    Ok((stream, [reading, writing]))
}

/// Makes all entries durable that wait, and returns the last op; `None` at the end.
fn append_waiting(journal: &mut Journal, entries: &Receiver<Entry>) -> Result<Option<u64>> {
    let Ok(first) = entries.recv() else { return Ok(None) };
    let entries: Vec<Entry> = std::iter::once(first).chain(entries.try_iter()).collect();
    let last = entries.last().map(|entry| entry.header.op.get());
    journal.execute(&[Write::Append(entries)])?;
    Ok(last)
}

fn open(folder: &Path, member: u8) -> Result<Journal> {
    std::fs::create_dir(folder)?;
    format_journal(folder, member)
}
