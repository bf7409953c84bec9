//! Everything may be dropped anywhere: on each kind of runtime, at each point. No drop hangs, panics, or keeps the data
//! directory.

use kv_core::config::Cluster;
use kv_core::node::Node;
use kv_core::storage::{Directory, File, Storage};
use kv_core::transport::Memory;
use std::any::Any;
use std::future::{Future, pending};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};
use tokio::task::LocalSet;
use tokio::time::timeout;

/// The longest time of a case, even on a slow machine.
const CASE_WITHIN: Duration = Duration::from_secs(60);
/// So soon after a drop the directory is free.
const FREE_WITHIN: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug)]
enum Flavour {
    CurrentThread,
    OneWorker,
    TwoWorkers,
    LocalOnCurrentThread,
    LocalOnWorkers,
}

const FLAVOURS: [Flavour; 5] = [
    Flavour::CurrentThread,
    Flavour::OneWorker,
    Flavour::TwoWorkers,
    Flavour::LocalOnCurrentThread,
    Flavour::LocalOnWorkers,
];

/// Where the things are dropped.
#[derive(Clone, Copy, Debug)]
enum DropPoint {
    /// At the end of the future that the runtime runs.
    Body,
    /// In a panic of that future.
    Panic,
    /// In a task that ends.
    Task,
    /// In a task that has not ended when the runtime goes.
    UnendingTask,
    /// Outside, while the runtime is there, and runs nothing.
    BesideRuntime,
    /// When the runtime is gone.
    AfterRuntime,
}

const POINTS: [DropPoint; 6] = [
    DropPoint::Body,
    DropPoint::Panic,
    DropPoint::Task,
    DropPoint::UnendingTask,
    DropPoint::BesideRuntime,
    DropPoint::AfterRuntime,
];

struct Place {
    runtime: Runtime,
    local: Option<LocalSet>,
}

impl Place {
    fn new(flavour: Flavour) -> Self {
        let runtime = match flavour {
            Flavour::CurrentThread | Flavour::LocalOnCurrentThread => {
                Builder::new_current_thread().enable_all().build()
            }
            Flavour::OneWorker => Builder::new_multi_thread().worker_threads(1).enable_all().build(),
            Flavour::TwoWorkers | Flavour::LocalOnWorkers => {
                Builder::new_multi_thread().worker_threads(2).enable_all().build()
            }
        };
        let local =
            matches!(flavour, Flavour::LocalOnCurrentThread | Flavour::LocalOnWorkers).then(LocalSet::new);
        Self { runtime: runtime.expect("it works"), local }
    }

    fn run<T>(&self, work: impl Future<Output = T>) -> T {
        match &self.local {
            Some(local) => local.block_on(&self.runtime, work),
            None => self.runtime.block_on(work),
        }
    }

    /// Spawns a task of the kind that this place has, and waits until it has begun.
    async fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let (begun, begins) = tokio::sync::oneshot::channel();
        let work = async move {
            begun.send(()).expect("it is waited for");
            work.await;
        };
        if self.local.is_some() {
            tokio::task::spawn_local(work)
        } else {
            tokio::spawn(work)
        };
        begins.await.expect("it begins");
    }
}

/// Starts the only member of a cluster, on an address of its own.
async fn start(directory: &Path) -> Node {
    let cluster = Cluster::builder("ends").member(0, "member:1").build().expect("it works");
    let transport = Arc::new(Memory::new().named("member:1"));
    Node::builder(cluster, 0).transport(transport).data_dir(directory).start().await.expect("it works")
}

/// A node at work, with all that a client can hold of it.
async fn things(directory: &Path) -> Vec<Box<dyn Any + Send>> {
    let node = start(directory).await;
    node.wait_formed().await.expect("it works");
    let client = node.client();
    client.put("key", "value").await.expect("it works");
    let lease = client.lease(Duration::from_secs(10)).await.expect("it works");
    let lock = client.lock("lock").await.expect("it works");
    let watch = client.watch("key").stream();
    let mut waits = Box::pin(client.lock("lock").into_future());
    // One that waits for the lock is somewhere on its way.
    assert!(timeout(Duration::from_millis(20), &mut waits).await.is_err());
    vec![Box::new(lease), Box::new(waits), Box::new(lock), Box::new(watch), Box::new(client), Box::new(node)]
}

/// The directory must be free, and contain the acknowledged writes.
fn check(directory: &Path) {
    let until = Instant::now() + FREE_WITHIN;
    while let Err(error) = Directory::open(directory) {
        assert!(Instant::now() < until, "{error}");
        std::thread::sleep(Duration::from_millis(5));
    }
    let place = Place::new(Flavour::TwoWorkers);
    place.run(async {
        let node = start(directory).await;
        node.wait_formed().await.expect("it works");
        assert!(node.client().get("key").await.expect("it works").is_some());
        node.shutdown().await;
    });
}

/// Runs a case on a thread of its own: one that hangs fails.
fn bounded(name: String, case: impl FnOnce() + Send + 'static) {
    let (done, ends) = channel();
    let thread = std::thread::spawn(move || {
        case();
        done.send(()).expect("it is waited for");
    });
    if ends.recv_timeout(CASE_WITHIN) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
        panic!("{name}: hangs");
    }
    assert!(thread.join().is_ok(), "{name}: panics");
}

fn drop_at(point: DropPoint, place: Place, directory: &Path, reversed: bool) {
    let held = place.run(async {
        let mut held = things(directory).await;
        if reversed {
            held.reverse();
        }
        held
    });
    match point {
        DropPoint::Body => place.run(async move { drop(held) }),
        DropPoint::Panic => {
            let panicking = AssertUnwindSafe(|| {
                place.run(async move {
                    let _held = held;
                    std::panic::resume_unwind(Box::new("of the application"));
                });
            });
            let panic = catch_unwind(panicking).expect_err("it panics");
            assert_eq!(panic.downcast_ref::<&str>(), Some(&"of the application"));
        }
        DropPoint::Task => place.run(async {
            let (ended, ends) = tokio::sync::oneshot::channel();
            let work = async move {
                drop(held);
                ended.send(()).expect("it is waited for");
            };
            place.spawn(work).await;
            ends.await.expect("it ends");
        }),
        DropPoint::UnendingTask => place.run(place.spawn(async move {
            let _held = held;
            pending().await
        })),
        DropPoint::BesideRuntime => drop(held),
        DropPoint::AfterRuntime => {
            drop(place);
            return drop(held);
        }
    }
    drop(place);
}

#[test]
fn any_future_of_a_node_may_be_dropped_at_any_point() {
    for flavour in FLAVOURS {
        for point in POINTS {
            for reversed in [false, true] {
                let name =
                    format!("{flavour:?}, {point:?}, the node {}", if reversed { "first" } else { "last" });
                bounded(name, move || {
                    let directory = tempfile::tempdir().expect("it works");
                    drop_at(point, Place::new(flavour), directory.path(), reversed);
                    check(directory.path());
                });
            }
        }
    }
}

/// A start that is given up at any moment leaves the directory to the next.
#[test]
fn a_start_may_be_cancelled_at_any_point() {
    for flavour in FLAVOURS {
        bounded(format!("{flavour:?}"), move || {
            let directory = tempfile::tempdir().expect("it works");
            let place = Place::new(flavour);
            place.run(async {
                drop(things(directory.path()).await);
                for round in 0..20 {
                    let patience = Duration::from_micros(200 * round);
                    // It is dropped, whether it has ended or not.
                    let _ = timeout(patience, start(directory.path())).await;
                    let node = start(directory.path()).await;
                    drop(node);
                }
            });
            drop(place);
            check(directory.path());
        });
    }
}

/// A disk that does not return while the directory is opened: neither giving up nor dropping the runtime waits for it.
#[test]
fn f_disk_15_a_start_on_a_disk_that_never_returns_holds_no_runtime() {
    for flavour in FLAVOURS {
        let (let_go, waits) = channel::<()>();
        let disk = Arc::new(Hanging(Mutex::new(waits)));
        bounded(format!("{flavour:?}"), move || {
            let place = Place::new(flavour);
            let cluster = Cluster::builder("ends").member(0, "member:1").build().expect("it works");
            let transport = Arc::new(Memory::new().named("member:1"));
            let start = Node::builder(cluster, 0).transport(transport).storage(disk).start();
            place.run(async {
                assert!(timeout(Duration::from_millis(20), start).await.is_err(), "the disk does not return");
            });
            drop(place);
        });
        drop(let_go);
    }
}

/// Does not return before the other end is dropped.
#[derive(Debug)]
struct Hanging(Mutex<std::sync::mpsc::Receiver<()>>);

impl Hanging {
    fn hang<T>(&self) -> std::io::Result<T> {
        let _ = self.0.lock().map(|waits| waits.recv());
        Err(std::io::ErrorKind::TimedOut.into())
    }
}

impl Storage for Hanging {
    fn open(&self, _: &str) -> std::io::Result<Arc<dyn File>> {
        self.hang()
    }

    fn create(&self, _: &str) -> std::io::Result<Arc<dyn File>> {
        self.hang()
    }

    fn rename(&self, _: &str, _: &str) -> std::io::Result<()> {
        self.hang()
    }

    fn remove(&self, _: &str) -> std::io::Result<()> {
        self.hang()
    }

    fn list(&self) -> std::io::Result<Vec<String>> {
        self.hang()
    }

    fn sync_directory(&self) -> std::io::Result<()> {
        self.hang()
    }

    fn check_names(&self) -> std::io::Result<()> {
        self.hang()
    }
}

/// Files that are removed or replaced under a running member: it stops, and reports why.
#[test]
fn f_disk_18_a_member_whose_directory_is_gone_stops() {
    let directory = tempfile::tempdir().expect("it works");
    let (path, aside) = (directory.path().join("data"), directory.path().join("aside"));
    let place = Place::new(Flavour::TwoWorkers);
    place.run(async {
        let node = start(&path).await;
        node.wait_formed().await.expect("it works");
        node.client().put("key", "value").await.expect("it works");
        std::fs::rename(&path, &aside).expect("it works");
        let reason = timeout(CASE_WITHIN, node.stopped()).await.expect("it works");
        assert!(matches!(reason, kv_core::node::StopReason::DirectoryChanged(_)), "{reason}");
        assert!(reason.to_string().contains("removed or renamed"), "{reason}");
    });
    drop(place);
    check(&aside);
}
