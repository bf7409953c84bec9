//! Benchmarks of the parts: `cargo bench -p kv-benchmarks [NAME]`.
#![allow(missing_docs, reason = "a benchmark has no interface")]

use bytes::Bytes;
use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use kv_benchmarks::{Log, Puts, VALUE_BYTES, cluster, format_journal, open_journal, open_session};
use kv_core::Node;
use kv_core::config::{Cluster, Options};
use kv_core::ids::{Anchor, Instant, MemberId, Timestamp, View};
use kv_core::kv::{Limits, StateMachine};
use kv_core::message::{ClientCall, ClientMessage, Entry, Message, Request, Write};
use kv_core::replica::{Input, Now, Output, Replica, ReplicaConfig, Wrap};
use kv_core::storage::Directory;
use kv_core::transport::Memory;
use kv_core::wire;
use std::collections::{BTreeMap, VecDeque};
use tempfile::TempDir;

fn main() {
    divan::main();
}

/// How many requests share an entry, at one client and at many.
const BATCHES: [usize; 2] = [1, 16];

mod codec {
    use super::*;

    fn message() -> ClientMessage {
        ClientMessage { call: 7, what: ClientCall::Write(Puts::new(100_000).request().encode()) }
    }

    fn prepare(count: usize) -> Message {
        let entry = Log::default().entry(&Puts::new(100_000).encoded(count));
        Message::Prepare { view: View::ZERO, commit: Anchor::ZERO, entry }
    }

    #[divan::bench]
    fn encode_request(bencher: Bencher<'_, '_>) {
        let request = Puts::new(100_000).request();
        bencher.counter(BytesCount::new(VALUE_BYTES)).bench(|| request.encode());
    }

    #[divan::bench]
    fn decode_request(bencher: Bencher<'_, '_>) {
        let request = Puts::new(100_000).request().encode();
        bencher.counter(BytesCount::new(VALUE_BYTES)).bench(|| Request::decode(&request));
    }

    #[divan::bench]
    fn encode_call(bencher: Bencher<'_, '_>) {
        let message = message();
        bencher.bench(|| wire::encode_client_message(&message));
    }

    #[divan::bench]
    fn decode_call(bencher: Bencher<'_, '_>) {
        let frame = wire::encode_client_message(&message());
        bencher.bench(|| wire::decode_client_message(frame.clone()));
    }

    #[divan::bench(args = BATCHES)]
    fn encode_prepare(bencher: Bencher<'_, '_>, count: usize) {
        let message = prepare(count);
        bencher.counter(ItemsCount::new(count)).bench(|| wire::encode_message(&message));
    }

    #[divan::bench(args = BATCHES)]
    fn decode_and_check_prepare(bencher: Bencher<'_, '_>, count: usize) {
        let frame = wire::encode_message(&prepare(count));
        bencher.counter(ItemsCount::new(count)).bench(|| match wire::decode_message(frame.clone()) {
            Ok(Message::Prepare { entry, .. }) => entry.check(),
            other => panic!("{other:?}"),
        });
    }
}

/// Appending an entry and making it durable, on the disk that holds the folder for temporary files.
#[divan::bench(args = BATCHES)]
fn journal_append(bencher: Bencher<'_, '_>, count: usize) {
    let folder = TempDir::new().expect("a folder can be made");
    let mut journal = format_journal(folder.path(), 0).expect("it is empty");
    let (mut log, mut puts) = (Log::default(), Puts::new(100_000));
    bencher
        .with_inputs(|| Write::Append(vec![log.entry(&puts.encoded(count))]))
        .input_counter(move |_| ItemsCount::new(count))
        .bench_local_values(|write| journal.execute(&[write]).expect("the disk is good"));
}

/// Three replicas. Messages arrive and writes become durable at once, so only the protocol takes time.
struct Group {
    replicas: Vec<Replica>,
    inputs: VecDeque<(usize, Input)>,
    entries: BTreeMap<u64, Entry>,
    now: Now,
    committed: usize,
}

impl Group {
    fn formed() -> Self {
        let now = Now { monotonic: Instant::new(1_000_000_000), wall: Timestamp::new(1_780_000_000_000) };
        let folder = TempDir::new().expect("a folder can be made");
        let replicas = (0..3).map(|id| {
            let (cluster, options) = (cluster(), Options::default());
            let own = folder.path().join(id.to_string());
            std::fs::create_dir(&own).expect("a folder can be made");
            let (_, recovered) = open_journal(&own, id).expect("it is empty");
            Replica::new(
                ReplicaConfig::new(cluster, MemberId::new(id), options, u64::from(id)),
                recovered,
                now,
            )
        });
        let mut group = Self {
            replicas: replicas.collect(),
            inputs: VecDeque::new(),
            entries: BTreeMap::new(),
            now,
            committed: 0,
        };
        for _ in 0..10_000 {
            if group.replicas[0].is_serving() {
                return group;
            }
            group.now.monotonic = group.now.monotonic.after(std::time::Duration::from_millis(1));
            for id in 0..group.replicas.len() {
                if group.replicas[id].poll_timeout().is_some_and(|at| at <= group.now.monotonic) {
                    group.input(id, Input::Timeout);
                }
                group.drain(id);
            }
            group.run();
        }
        panic!("no primary serves");
    }

    fn input(&mut self, id: usize, input: Input) {
        self.replicas[id].handle(self.now, input);
        self.drain(id);
    }

    fn drain(&mut self, id: usize) {
        while let Some(output) = self.replicas[id].poll_output() {
            match output {
                Output::Write { seq, write } => {
                    if let Write::Append(entries) = write {
                        self.entries.extend(entries.into_iter().map(|entry| (entry.header.op.get(), entry)));
                    }
                    self.inputs.push_back((id, Input::Durable { seq }));
                }
                Output::Send { to, message } => self.send(id, to, message),
                Output::SendEntries { to, from, through, wrap: Wrap::Prepare { view, commit } } => {
                    for op in from.get()..=through.op.get() {
                        let entry = self.entries[&op].clone();
                        self.send(id, to, Message::Prepare { view, commit, entry });
                    }
                }
                Output::Commit { commit } => {
                    self.committed += usize::from(id == 0);
                    self.inputs.push_back((id, Input::Applied { op: commit.op }));
                }
                _ => {}
            }
        }
    }

    fn send(&mut self, from: usize, to: MemberId, message: Message) {
        let from = MemberId::new(u8::try_from(from).expect("there are three"));
        self.inputs.push_back((usize::from(to.get()), Input::Message { from, message }));
    }

    fn run(&mut self) {
        while let Some((id, input)) = self.inputs.pop_front() {
            self.input(id, input);
        }
    }
}

/// An entry from its proposal to the end of everything that it causes, on all three replicas.
#[divan::bench(args = BATCHES, sample_count = 50, sample_size = 50)]
fn replica_steps_of_an_entry(bencher: Bencher<'_, '_>, count: usize) {
    let mut group = Group::formed();
    let mut puts = Puts::new(100_000);
    bencher
        .with_inputs(|| puts.encoded(count))
        .input_counter(move |_| ItemsCount::new(count))
        .bench_local_values(|requests| {
            group.input(0, Input::Propose { requests });
            group.run();
        });
    assert!(group.committed > 0, "what is proposed is committed");
}

/// A state on the disk that holds the folder for temporary files, with its log.
struct Machine {
    state: StateMachine,
    log: Log,
    puts: Puts,
    _folder: TempDir,
}

impl Machine {
    fn new(keys: u64) -> Self {
        let folder = TempDir::new().expect("a folder can be made");
        let storage = Directory::open(folder.path()).expect("it can be opened");
        let mut options = Options::default();
        options.checkpoint_bytes = 1 << 30;
        let state = StateMachine::open(storage, Limits::from(&options)).expect("it is empty");
        let mut machine = Self { state, log: Log::default(), puts: Puts::new(keys), _folder: folder };
        machine.apply(&[open_session()]);
        machine
    }

    fn apply(&mut self, requests: &[Bytes]) {
        let entry = self.log.entry(requests);
        assert_eq!(self.state.apply(&entry).expect("the disk is good").len(), requests.len());
    }

    fn checkpoint(&mut self) {
        let checkpoint = self.state.begin_checkpoint().expect("something is new");
        self.state.finish_checkpoint(checkpoint.run().expect("the disk is good"));
    }
}

/// Applying an entry to a state of 100,000 keys, a part of which is in memory.
#[divan::bench(args = BATCHES, sample_count = 20, sample_size = 200)]
fn apply_entry(bencher: Bencher<'_, '_>, count: usize) {
    let mut machine = Machine::new(100_000);
    for _ in 0..1000 {
        let requests = machine.puts.encoded(100);
        machine.apply(&requests);
    }
    machine.checkpoint();
    let Machine { state, log, puts, .. } = &mut machine;
    bencher
        .with_inputs(|| log.entry(&puts.encoded(count)))
        .input_counter(move |_| ItemsCount::new(count))
        .bench_local_values(|entry| state.apply(&entry).expect("the disk is good"));
}

/// A checkpoint of 20,000 puts to a state of 100,000 keys.
#[divan::bench(sample_count = 5, sample_size = 1)]
fn checkpoint(bencher: Bencher<'_, '_>) {
    const PUTS: usize = 20_000;
    let mut machine = Machine::new(100_000);
    for _ in 0..1000 {
        let requests = machine.puts.encoded(100);
        machine.apply(&requests);
    }
    machine.checkpoint();
    let machine = std::cell::RefCell::new(machine);
    bencher
        .with_inputs(|| {
            let mut machine = machine.borrow_mut();
            for _ in 0..PUTS / 100 {
                let requests = machine.puts.encoded(100);
                machine.apply(&requests);
            }
        })
        .input_counter(|()| ItemsCount::new(PUTS))
        .bench_local_values(|()| machine.borrow_mut().checkpoint());
}

/// Gets of single keys by a client in the process of its member: each key is in memory, and the answer may be stale.
#[divan::bench]
fn local_get(bencher: Bencher<'_, '_>) {
    const KEYS: usize = 1000;
    let folder = TempDir::new().expect("a folder can be made");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build().expect("it can start");
    let (node, client, keys) = runtime.block_on(async {
        let cluster = Cluster::builder("benchmark").member(0, "member:0").build().expect("it is valid");
        let node = Node::builder(cluster, 0).transport(Memory::new()).data_dir(folder.path());
        let node = node.start().await.expect("the folder is empty");
        node.wait_formed().await.expect("it forms");
        let (client, mut keys) = (node.client(), Vec::new());
        for number in 0..KEYS {
            let key = format!("key/{number:012}");
            client.put(&key, vec![7; VALUE_BYTES]).await.expect("a put");
            keys.push(key);
        }
        (node, client, keys)
    });
    bencher.counter(ItemsCount::new(KEYS)).bench_local(|| {
        runtime.block_on(async {
            for key in &keys {
                let found = client.get(key).local().await.expect("a read");
                assert!(found.is_some_and(|record| record.value.len() == VALUE_BYTES));
            }
        });
    });
    runtime.block_on(node.shutdown());
}
