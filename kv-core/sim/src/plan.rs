//! What a seed draws: the cluster, its limits, the load and the mix of faults. Every run uses another mix (swarm
//! testing), so that combinations occur which no single setting would produce.

use super::change_plan::ChangePlan;
use super::clock::{MS, SECOND, Time};
use fastrand::Rng;
use kv_core::config::{Options, Role};
use std::time::Duration;

/// Everything that a seed decides in advance.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// The roles of the members, by index, which is also their id.
    pub(super) roles: Vec<Role>,
    /// How many of these are standbys: the last ones. Only scenarios have any from the beginning.
    pub(super) standbys: usize,
    /// Limits and time-outs of every member.
    pub(super) options: Options,
    /// How many bytes of entries a primary sends ahead; `None`: as many as a real one.
    pub(super) window: Option<usize>,
    /// The local options are drawn again from this for each life of each member; `None`: they are the same everywhere.
    pub(super) local: Option<u64>,
    /// The state is only in memory: a restart replays the whole journal.
    pub(super) in_memory: bool,
    /// Messages are encoded and decoded.
    pub(super) encoded: bool,
    /// The network.
    pub(super) network: NetworkPlan,
    /// The disks.
    pub(super) disk: DiskPlan,
    /// The clocks.
    pub(super) clock: ClockPlan,
    /// The clients.
    pub(super) load: Load,
    /// The watching clients.
    pub(super) watching: WatchPlan,
    /// How many clients compete for a lock, in addition to the other clients. In such a plan, everything that expires
    /// must have expired before the run ends.
    pub(super) holders: usize,
    /// The faults that occur, each with its weight.
    pub(super) faults: Vec<(Fault, u32)>,
    /// The mean time between two faults.
    pub(super) fault_gap: Time,
    /// The mean time after which a fault is undone.
    pub(super) fault_length: Time,
    /// How long faults occur.
    pub(super) chaos: Time,
    /// Disks are damaged while their members are down.
    pub(super) damage: Option<DamagePlan>,
    /// At the end only a random quorum returns: it must be enough.
    pub(super) heal_quorum_only: bool,
    /// Bounds that depend on how long all this takes.
    pub(super) scale: Scale,
    /// Changes of the member list.
    pub(super) changes: ChangePlan,
}

/// Bounds that depend on the time scale of a plan.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    /// How long the healed cluster may take to converge.
    pub(super) settle: Time,
    /// How often that is checked.
    pub(super) probe: Time,
    /// The delays of slow links.
    pub(super) lags: [Time; 3],
    /// The largest error of a monotonic clock's rate when it changes, in millionths.
    pub(super) most_drift: u64,
    /// More events than any run should need.
    pub(super) most_events: u64,
}

impl Scale {
    /// For plans that take seconds.
    pub(super) const SHORT: Self = Self {
        settle: 90 * SECOND,
        probe: 50 * MS,
        lags: [20 * MS, 200 * MS, SECOND],
        most_drift: MAX_DRIFT,
        most_events: 20_000_000,
    };
}

/// The largest error of a monotonic clock's rate, in millionths.
const MAX_DRIFT: u64 = 100_000;

/// The behaviour of the network.
#[derive(Clone, Copy, Debug)]
pub(super) struct NetworkPlan {
    /// The shortest delay.
    pub(super) delay: Time,
    /// The mean of the additional delay.
    pub(super) jitter: Time,
    /// Lost messages, per thousand.
    pub(super) loss: u32,
    /// Duplicated messages, per thousand.
    pub(super) duplication: u32,
    /// Messages of one lane keep their order.
    pub(super) ordered: bool,
    /// Lost messages between clients and members, per thousand.
    pub(super) client_loss: u32,
}

/// The behaviour of disks.
#[derive(Clone, Copy, Debug)]
pub(super) struct DiskPlan {
    /// The mean time of a write with its sync.
    pub(super) latency: Time,
    /// Slow writes, per thousand: they take 50 times as long.
    pub(super) hiccups: u32,
    /// Power cuts tear 512 B sectors, not blocks.
    pub(super) tear_sectors: bool,
    /// The mean time of a checkpoint.
    pub(super) checkpoint: Time,
    /// The longest time that a source takes to read a piece of a snapshot.
    pub(super) source: Time,
    /// The longest time that a piece of a snapshot takes to be stored.
    pub(super) stage: Time,
    /// The longest time that a snapshot takes to be verified and installed.
    pub(super) install: Time,
}

/// The slowest source of a snapshot: longer than any time-out.
const LONGEST_READ: Time = 4 * SECOND;

/// The damage of disks at rest.
#[derive(Clone, Copy, Debug)]
pub(super) struct DamagePlan {
    /// Only the disk of this member; `None` for all.
    pub(super) victim: Option<usize>,
    /// How often, per hundred ends of a process.
    pub(super) chance: u32,
    /// States are damaged even if no other state is intact, as long as the intact parts of all can be combined; and
    /// their files may be lost.
    pub(super) states: bool,
}

/// Whether disks of several members are damaged in one run. That requires that damaged members vote.
const DAMAGE_ANYWHERE: bool = true;

/// The errors of clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClockPlan {
    /// Of the monotonic clock, in millionths.
    pub(super) drift: u64,
    /// Of the wall clock, in millionths.
    pub(super) wall_drift: u64,
    /// Of the wall clock at first.
    pub(super) skew_ms: i64,
}

/// The behaviour of clients.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    /// How many there are.
    pub(super) clients: usize,
    /// How many keys they use.
    pub(super) keys: u32,
    /// The most calls in flight of each client.
    pub(super) in_flight: usize,
    /// The mean pause of a client between calls.
    pub(super) pause: Time,
    /// The longest of the occasional long pauses of a client, so that its session may expire.
    pub(super) absence: Time,
    /// How long a call may take.
    pub(super) deadline: Duration,
    /// Clients wait this many times longer than usual before they retry.
    pub(super) patience: u32,
    /// Reads, per hundred calls.
    pub(super) reads: u32,
    /// Writes with a condition, per hundred writes.
    pub(super) guarded: u32,
    /// Puts that expire and calls about leases, per hundred writes.
    pub(super) brief: u32,
    /// Some reads accept a state of a bounded age, a multiple of this. `None` if a clock may stop.
    pub(super) bounded: Option<Duration>,
}

/// The watching clients, and the members that they ask.
#[derive(Clone, Copy, Debug)]
pub(super) struct WatchPlan {
    /// How many there are.
    pub(super) watchers: usize,
    /// The most events in one answer.
    pub(super) piece: usize,
    /// The most records in one page of their scans.
    pub(super) page: u32,
    /// A watch is answered after this time in any case.
    pub(super) wait: Time,
    /// How often the parked watches are checked.
    pub(super) sweep: Time,
    /// How long a client waits for an answer.
    pub(super) patience: Time,
}

impl WatchPlan {
    /// No watching clients.
    pub(super) const NONE: Self = Self::of(0, 1000, 1000, SECOND);

    /// This many, with this many events in an answer and records in a page, answered after this time.
    pub(super) const fn of(watchers: usize, piece: usize, page: u32, wait: Time) -> Self {
        // A clock may be slow, and so may the network.
        Self { watchers, piece, page, wait, sweep: wait / 8, patience: wait + wait / 4 + SECOND / 2 }
    }
}

/// A kind of fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    /// A process ends; its disk keeps what was written.
    Kill,
    /// Like `Kill`, always the serving primary.
    KillPrimary,
    /// A machine loses power: unsynced writes are lost, kept or torn.
    PowerCut,
    /// All machines lose power.
    PowerCutAll,
    /// A disk stops at one of its next operations: the process ends there.
    DiskStop,
    /// Exactly one operation of a disk fails: the process ends there.
    DiskError,
    /// A disk is full for a while.
    FullDisk,
    /// The directory of a member is emptied: it must not take part any more.
    WipeDisk,
    /// Something on the disk of a running member is damaged.
    Rot,
    /// A partition: no messages between two parts of the cluster.
    Partition,
    /// No messages from one member to another.
    OneWay,
    /// No messages to or from one member.
    Isolate,
    /// Like `Isolate`, always the serving primary. Its clients may still reach it.
    IsolatePrimary,
    /// The serving primary can send, but receives nothing.
    DeafenPrimary,
    /// The serving primary receives, but nothing that it sends arrives.
    MutePrimary,
    /// One kind of message is lost, everywhere or on some links.
    LoseKind,
    /// One kind of message is held back, everywhere or on some links, and then delivered at once.
    HoldKind,
    /// A link between members, or to or from a client, holds everything back and then delivers it at once.
    Clog,
    /// A link is slow.
    Lag,
    /// A process is paused for a while.
    Pause,
    /// Like `Pause`, always the serving primary.
    PausePrimary,
    /// A disk is slow for a while.
    SlowDisk,
    /// A disk completes nothing for a while.
    StallDisk,
    /// A wall clock is set.
    ClockStep,
    /// A monotonic clock stops for a while, and then may catch up at once.
    ClockFreeze,
    /// The rate of a monotonic clock changes.
    ClockDrift,
    /// Several wall clocks are set by the same amount.
    SetClocks,
    /// All machines lose power, and several wall clocks are set before the members are back.
    SetClocksWhileDown,
    /// The delay of a member's messages changes.
    ChangeDelay,
    /// A member is asked to hand over the primary role.
    Handover,
    /// Members are notified that a peer's connection broke.
    Reset,
    /// The link of a client to a member is cut.
    CutClient,
}

const FAULTS: &[Fault] = &[
    Fault::Kill,
    Fault::KillPrimary,
    Fault::PowerCut,
    Fault::PowerCutAll,
    Fault::DiskStop,
    Fault::DiskError,
    Fault::FullDisk,
    Fault::WipeDisk,
    Fault::Rot,
    Fault::Partition,
    Fault::OneWay,
    Fault::Isolate,
    Fault::IsolatePrimary,
    Fault::DeafenPrimary,
    Fault::MutePrimary,
    Fault::LoseKind,
    Fault::HoldKind,
    Fault::Clog,
    Fault::Lag,
    Fault::Pause,
    Fault::PausePrimary,
    Fault::SlowDisk,
    Fault::StallDisk,
    Fault::ClockStep,
    Fault::ClockFreeze,
    Fault::ClockDrift,
    Fault::Handover,
    Fault::Reset,
    Fault::CutClient,
];

/// Several disks are damaged at rest at once, before any damage has been noticed.
pub(super) const STATES_SUFFER: (Fault, u32) = (Fault::PowerCutAll, 6);

impl Plan {
    /// Draws a plan.
    pub(super) fn draw(rng: &mut Rng) -> Self {
        let mut plan = Self::draw_of_everything(rng);
        let mut other = Rng::with_seed(rng.get_seed() ^ 0xc10c);
        plan.perhaps_about_clocks(&mut other);
        plan.perhaps_with_changes(&mut Rng::with_seed(rng.get_seed() ^ 0xc4a6e));
        plan
    }

    /// Draws a general plan.
    pub(super) fn draw_of_everything(rng: &mut Rng) -> Self {
        let roles = draw_roles(rng);
        let chaos = *pick(rng, &[5 * SECOND, 15 * SECOND, 30 * SECOND]);
        let share = *pick(rng, &[10, 30, 60]);
        let mut faults = Vec::new();
        for &fault in FAULTS {
            if rng.u32(0..100) < share {
                faults.push((fault, rng.u32(1..10)));
            }
        }
        let damage = (roles.len() >= 3 && rng.u32(0..6) == 0).then(|| draw_damage(roles.len(), rng));
        if damage.is_some_and(|damage| damage.states) {
            faults.push(STATES_SUFFER);
        }
        let clocks_go = faults.iter().all(|(fault, _)| *fault != Fault::ClockFreeze);
        let mut options = draw_options(rng);
        // In some plans: longer than any time-out, and longer than a snapshot is kept for a peer that does not ask.
        let mut slow = Rng::with_seed(rng.get_seed() ^ 0x510e);
        let bounded = clocks_go.then_some(options.heartbeat);
        if clocks_go {
            options.read_lease = Duration::from_millis(*pick(&mut beside(rng), &[0, 0, 300, 1000]));
        }
        // Another generator, so that what it draws changes nothing else.
        let mut other = Rng::with_seed(rng.get_seed() ^ 0x10ca1);
        let mut ahead = Rng::with_seed(rng.get_seed() ^ 0xa4ead);
        Self {
            options,
            window: *pick(&mut ahead, &[None, Some(300), Some(3000)]),
            local: other.bool().then(|| other.u64(..)),
            in_memory: rng.u32(0..4) == 0,
            encoded: rng.u32(0..8) == 0,
            network: draw_network(rng),
            disk: DiskPlan {
                latency: *pick(rng, &[MS / 10, MS, 5 * MS]),
                hiccups: *pick(rng, &[0, 0, 10, 50]),
                tear_sectors: rng.bool(),
                checkpoint: *pick(rng, &[5 * MS, 50 * MS, 400 * MS]),
                stage: *pick(&mut slow, &[0, 0, 20 * MS, 200 * MS]),
                install: *pick(&mut slow, &[0, SECOND, 5 * SECOND, 20 * SECOND]),
                source: *pick(&mut slow, &[0, 0, 50 * MS, LONGEST_READ]),
            },
            clock: ClockPlan {
                drift: *pick(rng, &[0, 100, 50_000, MAX_DRIFT]),
                wall_drift: *pick(rng, &[0, 100, 100_000]),
                skew_ms: *pick(rng, &[0, 10, 5_000]),
            },
            load: Load { bounded, ..draw_load(rng) },
            watching: draw_watching(rng),
            faults,
            fault_gap: *pick(rng, &[SECOND / 5, SECOND / 2, SECOND, 3 * SECOND]),
            fault_length: *pick(rng, &[SECOND / 5, SECOND, 4 * SECOND]),
            chaos,
            damage,
            // A returned member must wait if absent members have entries that it lacks, and no other member may wait.
            // Only damage can cause this.
            heal_quorum_only: roles.len() >= 3 && rng.u32(0..if damage.is_some() { 2 } else { 3 }) == 0,
            scale: Scale::SHORT,
            roles,
            standbys: 0,
            holders: 0,
            changes: ChangePlan::NONE,
        }
    }
}

impl Plan {
    /// How long after it was sent a vote to leave a view may count at others; `None` if messages can take any time.
    pub(super) fn vote_lifetime(&self) -> Option<Time> {
        let delays = [
            Fault::HoldKind,
            Fault::Clog,
            Fault::Lag,
            Fault::ChangeDelay,
            Fault::Pause,
            Fault::PausePrimary,
            Fault::ClockFreeze,
        ];
        if self.faults.iter().any(|(fault, _)| delays.contains(fault)) {
            return None;
        }
        let lifetime = Time::try_from((self.longest_heartbeat() * 8).as_nanos()).unwrap_or(Time::MAX);
        // A slow clock, and the longest delay; votes are repeated every two heartbeats.
        Some(lifetime + lifetime / 8 + self.network.delay + 10 * self.network.jitter + lifetime / 3)
    }
}

fn draw_roles(rng: &mut Rng) -> Vec<Role> {
    match rng.u32(0..16) {
        0 => vec![Role::Data; 1],
        1 => vec![Role::Data; 2],
        2..=8 => vec![Role::Data; 3],
        9..=11 => vec![Role::Data; 5],
        12 => vec![Role::Data, Role::Data, Role::Data, Role::Witness, Role::Witness],
        _ => vec![Role::Data, Role::Data, Role::Witness],
    }
}

fn draw_damage(members: usize, rng: &mut Rng) -> DamagePlan {
    let one = rng.usize(0..members);
    let anywhere = rng.bool() && DAMAGE_ANYWHERE;
    // Another generator, so that what it draws changes nothing else.
    let states = anywhere && Rng::with_seed(rng.get_seed() ^ 0x57a7e).bool();
    DamagePlan { victim: (!anywhere).then_some(one), chance: rng.u32(20..100), states }
}

/// Small limits, so that rare situations are common here.
fn draw_options(rng: &mut Rng) -> Options {
    let mut other = beside(rng);
    let mut options = Options::default();
    options.heartbeat = Duration::from_millis(*pick(rng, &[20, 25, 50]));
    options.failure_timeout_min = Duration::from_millis(*pick(rng, &[150, 200, 300]));
    options.failure_timeout_max = Duration::from_millis(*pick(rng, &[1000, 2000]));
    options.pipeline_depth = *pick(rng, &[1, 2, 4, 4, 4, 8]);
    options.max_batch_bytes = *pick(rng, &[200, 1000, 64 << 10]);
    options.max_key_bytes = 16;
    options.max_value_bytes = *pick(rng, &[64, 2048]);
    options.segment_bytes = *pick(rng, &[16 << 10, 32 << 10, 64 << 10]);
    options.checkpoint_bytes = *pick(rng, &[1 << 10, 4 << 10, 64 << 10]);
    options.journal_retention_bytes = *pick(rng, &[0, 16 << 10, 64 << 10, 1 << 20]);
    options.max_sessions = *pick(rng, &[2, 4, 100]);
    options.session_ttl = Duration::from_secs(*pick(rng, &[2, 10, 600]));
    options.max_in_flight_per_session = *pick(rng, &[2, 4, 256]);
    options.max_leases = *pick(&mut other, &[1, 3, 100]);
    options.history_revisions = *pick(&mut other, &[0, 20, 300, 1_000_000]);
    options.history_bytes = *pick(&mut other, &[2 << 10, 64 << 10, 1 << 20]);
    options.wall_clock_allowance = Duration::from_secs(*pick(&mut other, &[0, 0, 5]));
    options
}

fn draw_network(rng: &mut Rng) -> NetworkPlan {
    let clean = rng.bool();
    NetworkPlan {
        delay: *pick(rng, &[MS / 20, MS / 2, 5 * MS]),
        jitter: *pick(rng, &[MS / 20, MS / 2, 10 * MS]),
        loss: if clean { 0 } else { rng.u32(0..=300) },
        duplication: if clean { 0 } else { rng.u32(0..=500) },
        ordered: rng.bool(),
        client_loss: if rng.bool() { 0 } else { rng.u32(0..=200) },
    }
}

fn draw_load(rng: &mut Rng) -> Load {
    Load {
        clients: *pick(rng, &[1, 2, 3, 5]),
        keys: *pick(rng, &[1, 2, 3, 8]),
        in_flight: *pick(rng, &[1, 2, 4, 8]),
        pause: *pick(rng, &[10 * MS, 50 * MS, 200 * MS]),
        absence: 4 * SECOND,
        deadline: Duration::from_millis(*pick(rng, &[500, 3000, 10_000])),
        patience: 1,
        reads: *pick(rng, &[10, 40, 70]),
        guarded: *pick(rng, &[0, 30, 80]),
        brief: *pick(&mut beside(rng), &[0, 0, 15, 50]),
        bounded: None,
    }
}

fn draw_watching(rng: &Rng) -> WatchPlan {
    let mut rng = Rng::with_seed(rng.get_seed() ^ 0xfa11);
    WatchPlan::of(
        *pick(&mut rng, &[0, 1, 2, 4]),
        *pick(&mut rng, &[1, 2, 3, 1000]),
        *pick(&mut rng, &[1, 2, 1000]),
        *pick(&mut rng, &[SECOND / 2, SECOND, 2 * SECOND]),
    )
}

/// Another generator, so that what it draws changes nothing else.
pub(super) fn beside(rng: &Rng) -> Rng {
    Rng::with_seed(rng.get_seed() ^ 0x5eed)
}

/// One of these.
pub(super) fn pick<'a, T>(rng: &mut Rng, choices: &'a [T]) -> &'a T {
    &choices[rng.usize(0..choices.len())]
}

/// A random time with this mean: usually below it, sometimes far above.
pub(super) fn around(rng: &mut Rng, mean: Time) -> Time {
    // A quarter that is fixed, plus a random part that halves in probability with every mean.
    let mut extra = 0;
    while rng.u32(0..3) == 0 && extra < 8 {
        extra += 1;
    }
    mean / 4 + rng.u64(0..=mean / 2) + extra * mean
}
