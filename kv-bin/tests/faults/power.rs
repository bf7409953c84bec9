//! Power cuts: each member's disk is an ext4 image on a loop device, and the shutdown ioctl drops all data that was not
//! written through. If fsync does nothing, the same cuts must lose acknowledged writes; otherwise this drill detects
//! nothing.

use crate::bench::{Bench, FLAGS, Row, judge};
use crate::harness::{Cluster, primary, progress};
use crate::machine::{Mounted, must};
use crate::writers::Writers;
use std::fs;
use std::path::{Path, PathBuf};
use std::slice;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// `EXT4_IOC_SHUTDOWN` without flushing the journal, on each argument.
const CUT: &str = "
import fcntl, os, struct, sys
for path in sys.argv[1:]:
    fcntl.ioctl(os.open(path, os.O_RDONLY), 0x8004587d, struct.pack('I', 2))
";

/// Three disks that can lose power.
struct Disks {
    _folder: TempDir,
    images: Vec<PathBuf>,
    mounts: Vec<Mounted>,
}

impl Disks {
    fn new() -> Self {
        // In memory, if possible: data that must survive a cut has been written to the image in any case.
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let folder = folder.unwrap();
        let mut disks = Self { images: Vec::new(), mounts: Vec::new(), _folder: folder };
        for id in 0..3 {
            let image = disks._folder.path().join(format!("image-{id}"));
            fs::File::create(&image).unwrap().set_len(96 << 20).unwrap();
            must("mkfs.ext4", &["-q", "-F", image.to_str().unwrap()]);
            let at = disks._folder.path().join(format!("disk-{id}"));
            disks.mounts.push(mount(&image, &at));
            disks.images.push(image);
        }
        disks
    }

    fn data(&self, id: usize) -> PathBuf {
        self.mounts[id].at.join("data")
    }

    /// Cuts the power of these disks, at the same moment as far as that goes.
    fn cut(&self, ids: &[usize]) {
        let mut arguments = vec!["-c", CUT];
        arguments.extend(ids.iter().map(|id| self.mounts[*id].at.to_str().unwrap()));
        must("python3", &arguments);
    }

    /// Power is back. Nobody may use the disk.
    fn restore(&mut self, id: usize) {
        self.mounts[id].unmount();
        let at = self.mounts[id].at.clone();
        let again = mount(&self.images[id], &at);
        // The old one is unmounted: dropping it would unmount the new one, which is at the same place.
        std::mem::forget(std::mem::replace(&mut self.mounts[id], again));
    }
}

fn mount(image: &Path, at: &Path) -> Mounted {
    Mounted::new(at, &["-o", "loop", image.to_str().unwrap()])
}

fn powered(disks: &Disks) -> Cluster {
    let mut cluster = Cluster::prepare(&["data", "data", "data"], &FLAGS);
    for id in 0..3 {
        cluster.folders[id] = disks.data(id);
        cluster.restart(id);
    }
    cluster
}

/// Cuts the power of these members' disks, and of the members.
fn cut(disks: &mut Disks, cluster: &mut Cluster, ids: &[usize]) {
    // The load continues meanwhile.
    tokio::task::block_in_place(|| {
        disks.cut(ids);
        ids.iter().for_each(|id| cluster.kill(*id));
        ids.iter().for_each(|id| disks.restore(*id));
    });
}

/// F-disk-1: one member at a time, sometimes the primary.
pub(crate) async fn one(rounds: u32) -> Row {
    let mut disks = Disks::new();
    let mut bench = Bench::on(powered(&disks)).await;
    for round in 0..rounds as usize {
        let victim = (bench.primary().await + round % 2) % 3;
        let blow = Instant::now();
        cut(&mut disks, &mut bench.cluster, &[victim]);
        bench.progress().await;
        bench.survived(blow);
        bench.cluster.restart(victim);
        bench.level().await;
    }
    bench.end("ext4, shutdown ioctl").await
}

/// F-disk-21: one member loses power while another is frozen, by turns with the primary; both return, in either order.
/// Two primaries would give away one revision twice.
pub(crate) async fn paused(rounds: u32) -> Row {
    let mut disks = Disks::new();
    let mut bench = Bench::on(powered(&disks)).await;
    for round in 0..rounds as usize {
        let victim = (bench.primary().await + round % 3) % 3;
        let frozen = (victim + 1 + round % 2) % 3;
        bench.cluster.pause(frozen);
        let blow = Instant::now();
        cut(&mut disks, &mut bench.cluster, &[victim]);
        if round.is_multiple_of(2) {
            bench.cluster.restart(victim);
            bench.progress().await;
            bench.cluster.resume(frozen);
        } else {
            bench.cluster.resume(frozen);
            bench.progress().await;
            bench.cluster.restart(victim);
        }
        bench.survived(blow);
        bench.level().await;
    }
    bench.end("ext4, shutdown ioctl, SIGSTOP").await
}

/// F-disk-1: all at once, under load.
pub(crate) async fn all(rounds: u32) -> Row {
    let mut disks = Disks::new();
    let mut bench = Bench::on(powered(&disks)).await;
    for _ in 0..rounds {
        cut(&mut disks, &mut bench.cluster, &[0, 1, 2]);
        (0..3).for_each(|id| bench.cluster.restart(id));
        bench.progress().await;
        bench.passed();
    }
    bench.level().await;
    bench.end("ext4, shutdown ioctl").await
}

/// The negative control: fsync and fdatasync return at once and do nothing.
pub(crate) async fn control(rounds: u32) -> Row {
    let mut losses = Vec::new();
    for _ in 0..rounds {
        losses.push(without_fsync().await);
    }
    let seen = losses.iter().all(|loss| loss.lost > 0 || loss.refused.is_some());
    let results: Vec<_> = losses.iter().map(Loss::to_string).collect();
    let remark = format!("each must be seen to lose: {}", results.join("; "));
    if seen { Row { rounds, remark, ..Row::default() } } else { Row::failed(&remark) }
}

/// What a power cut took.
#[derive(Default)]
struct Loss {
    acknowledged: u64,
    lost: u64,
    /// A member reports that its disk was lost.
    refused: Option<String>,
}

impl std::fmt::Display for Loss {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.refused {
            Some(reason) => write!(f, "refused: {reason}"),
            None => write!(f, "{} of {} acknowledged writes lost", self.lost, self.acknowledged),
        }
    }
}

async fn without_fsync() -> Loss {
    let mut disks = Disks::new();
    let mut cluster = powered(&disks);
    let client = cluster.client().await;
    client.put("k", "v").await.expect("the cluster forms");
    primary(&client).await;
    let trace = ["-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:retval=0"];
    for id in 0..3 {
        cluster.kill(id);
        let under = ["strace", "-D", "-f", "-qq", "-o", "/dev/null"].into_iter().chain(trace);
        cluster.under[id] = under.map(str::to_owned).collect();
    }
    (0..3).for_each(|id| cluster.restart(id));
    let writers = Writers::start(slice::from_ref(&client), 4, Duration::from_millis(5));
    progress(&writers, 200).await;
    let ledgers = writers.stop().await.expect("the writers are well");
    cut(&mut disks, &mut cluster, &[0, 1, 2]);
    for id in 0..3 {
        cluster.under[id].clear();
        if let Err(reason) = cluster.try_restart(id) {
            return Loss { refused: Some(reason), ..Loss::default() };
        }
    }
    client.delete("k").await.expect("it serves");
    let verdict = judge(&client, &ledgers).await;
    Loss { acknowledged: verdict.acknowledged, lost: verdict.lost, refused: None }
}
