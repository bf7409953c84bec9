//! A random walk: messages lost, doubled and overtaken, disks that stall, crashes that keep a prefix of the writes under way,
//! cut links, damage. After every step: one hash per committed op for ever, reads that see what was acknowledged, and the
//! replica's own invariants. At the end everything is healed, and the group must become level.

use super::group::Group;
use crate::ids::Op;
use crate::message::FormationStep;
use crate::replica::Input;

struct Walk {
    group: Group,
    rng: fastrand::Rng,
    members: u8,
    /// The most members that are damaged at a time: so many that every entry survives.
    damage: bool,
    tickets: u64,
}

impl Walk {
    fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let shapes = [(3, 0), (3, 0), (2, 1), (5, 0), (1, 0), (2, 0), (3, 2)];
        let (data, witnesses) = shapes[rng.usize(..shapes.len())];
        let group = Group::formed(data, witnesses);
        Self { group, members: data + witnesses, damage: rng.bool(), tickets: 0, rng }
    }

    fn step(&mut self) {
        let id = self.rng.u8(..self.members);
        let alive = self.group.members[usize::from(id)].replica.is_some();
        match self.rng.u32(..1000) {
            0..500 => self.deliver(),
            500..700 => {
                let count = self.rng.usize(1..4);
                self.group.finish_some(id, count);
            }
            700..800 => self.propose(),
            800..880 => {
                for _ in 0..self.rng.u32(1..20) {
                    self.group.tick();
                }
            }
            880..900 => self.read(),
            900..905 => self.group.input(id, Input::Handover),
            905..915 => {
                let peer = crate::ids::MemberId::new(self.rng.u8(..self.members));
                self.group.input(id, Input::PeerLost { peer });
            }
            915..930 => {
                self.group.cut.insert((self.rng.u8(..self.members), self.rng.u8(..self.members)));
            }
            930..945 => self.group.heal(),
            945..955 if alive => self.crash(id),
            945..990 if !alive => self.start(id),
            _ => {}
        }
    }

    fn deliver(&mut self) {
        if self.group.network.is_empty() {
            return self.group.tick();
        }
        let reach = self.group.network.len().min(if self.rng.u8(..4) == 0 { 50 } else { 3 });
        let index = self.rng.usize(..reach);
        self.group.network.swap(0, index);
        match self.rng.u8(..20) {
            0 => drop(self.group.network.pop_front()),
            1 => {
                let twin = self.group.network[0].clone();
                self.group.network.push_back(twin);
                self.group.deliver();
            }
            _ => {
                self.group.deliver();
            }
        }
        self.group.sent.clear();
    }

    fn propose(&mut self) {
        if let Some(id) = self.group.serving() {
            let text = format!("{}", self.rng.u64(..));
            self.group.propose(id, &text);
        }
    }

    fn read(&mut self) {
        if let Some(id) = self.group.serving() {
            self.tickets += 1;
            self.group.read(id, self.tickets);
        }
    }

    /// A crash keeps some of the writes that were under way; sometimes the tail of the log is damaged as well.
    fn crash(&mut self, id: u8) {
        let count = self.rng.usize(..4);
        self.group.write_some(id, count);
        self.group.crash(id);
        self.group.reads.retain(|(member, _), _| *member != id);
        let others_whole = (0..self.members).all(|other| {
            let member = &self.group.members[usize::from(other)];
            other == id || (member.replica.is_some() && !member.disk.damaged)
        });
        let disk = &mut self.group.members[usize::from(id)].disk;
        if self.damage && others_whole && self.members >= 3 && self.rng.u8(..4) == 0 {
            let keep = disk.entries.len() as u64;
            let keep = Op::new(keep.saturating_sub(self.rng.u64(..5)).max(disk.checkpoint.op.get()));
            disk.entries.retain(|op, _| *op <= keep);
            disk.damaged = true;
        }
    }

    fn start(&mut self, id: u8) {
        assert_eq!(self.group.members[usize::from(id)].disk.formation, FormationStep::Formed);
        self.group.start(id);
    }

    fn finish(mut self, seed: u64) {
        self.group.heal();
        for id in 0..self.members {
            self.group.members[usize::from(id)].stalled = false;
            if self.group.members[usize::from(id)].replica.is_none() {
                self.start(id);
            }
            self.group.finish_writes(id);
        }
        self.group.run_until(&format!("seed {seed}: serving and level"), |group| {
            group.serving().is_some() && group.level()
        });
        for member in &self.group.members {
            assert_eq!(member.halt, None, "seed {seed}");
        }
        let known = self.group.committed.len() as u64;
        for id in 0..self.members {
            assert!(self.group.replica(id).head().op.get() >= known, "seed {seed}: committed ops are kept");
        }
    }
}

/// Names the seed of a walk that fails.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}", self.0);
        }
    }
}

fn walk(seed: u64, steps: u32) {
    let _named = Named(seed);
    let mut walk = Walk::new(seed);
    for member in &mut walk.group.members {
        member.stalled = true;
    }
    for _ in 0..steps {
        walk.step();
    }
    walk.finish(seed);
}

#[test]
fn no_committed_entry_is_lost_on_300_random_walks() {
    for seed in 0..300 {
        walk(seed, 1_500);
    }
}

/// `WALK=A..B cargo test -p kv-core --lib walks_from_the_environment -- --ignored` runs other seeds.
#[test]
#[ignore = "takes its seeds from the variable WALK; run by hand, as the line above says"]
fn walks_from_the_environment() {
    let seeds = std::env::var("WALK").expect("WALK=A..B");
    let (from, to) = seeds.split_once("..").expect("WALK=A..B");
    for seed in from.parse::<u64>().expect("a number")..to.parse::<u64>().expect("a number") {
        walk(seed, 3_000);
    }
}
