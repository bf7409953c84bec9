//! The damage atlas: what disks lose at rest, and the bound on it. A wound is first inflicted on a copy of the disk, and the copy
//! is opened: only if every record that it costs can still be read elsewhere is the disk replaced by the wounded one. So nothing
//! is ever lost everywhere, and whatever happens then, the cluster must lose nothing and recover.
//!
//! A state stands for all entries through its checkpoint, as long as its file is whole; a file that was hurt counts for nothing, even
//! where the wound does not matter.

use super::member::Member;
use super::plan::pick;
use super::switch;
use super::world::World;
use kv_core::config::Role;
use kv_core::ids::{Hash, Op};
use kv_core::journal::{Journal, LogReader};
use kv_core::kv::{Limits, StateMachine};
use kv_core::message::{CheckpointAlignment, Extent, Recovered};
use kv_core::storage::simulated::Disk;
use std::collections::BTreeMap;

/// The file of the state.
const STATE: &str = "state";
const SECTOR: u64 = 512;
const BLOCK: u64 = 4096;
const ZEROS: [u8; 4096] = [0; 4096];

/// What happens to some bytes of a file that lies still.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wound {
    /// A bit flips.
    Flip,
    /// A sector cannot be read any more.
    Unreadable,
    /// A write that was reported did not happen: a block or a sector is what it was at first.
    Lost,
    /// A block was written to the wrong place.
    Misdirected,
    /// The end of the file is gone.
    Shortened,
    /// The file is gone.
    Gone,
}

/// A wound and its place.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Injury {
    wound: Wound,
    file: String,
    at: u64,
    /// Where misdirected bytes come from, and which bit flips.
    other: u64,
    /// A sector, not a block.
    small: bool,
}

impl Injury {
    fn inflict(&self, disk: &Disk) {
        let (file, at) = (&self.file, self.at);
        match self.wound {
            Wound::Flip => {
                disk.flip_bit(file, at, u8::try_from(self.other % 8).unwrap_or(0));
            }
            Wound::Unreadable => disk.make_unreadable(file, at / SECTOR * SECTOR, SECTOR),
            Wound::Lost => {
                let unit = if self.small { SECTOR } else { BLOCK };
                disk.overwrite(file, at / unit * unit, &ZEROS[..usize::try_from(unit).unwrap_or(0)]);
            }
            Wound::Misdirected => {
                let bytes = disk.contents(file).unwrap_or_default();
                let from = usize::try_from(self.other / BLOCK * BLOCK).unwrap_or(0);
                let block: Vec<u8> = bytes.into_iter().skip(from).take(ZEROS.len()).collect();
                disk.overwrite(file, at / BLOCK * BLOCK, &block);
            }
            Wound::Shortened => disk.shorten(file, at),
            Wound::Gone => disk.lose(file),
        }
    }
}

/// What of the log can be had from one disk.
#[derive(Debug)]
struct Copies {
    /// The entries that can be read.
    entries: BTreeMap<Op, Hash>,
    /// The state stands for all that is committed up to here.
    through: Op,
}

impl World {
    /// The disk of a member that is down suffers, if it is the turn of that.
    pub(super) fn damage_at_rest(&mut self, member: usize) {
        let Some(plan) = self.plan.damage else { return };
        let spared = plan.victim.is_some_and(|victim| victim != member);
        if spared || self.healed.is_some() || self.rng.u32(0..100) >= plan.chance {
            return;
        }
        let kinds = [Wound::Flip, Wound::Flip, Wound::Unreadable, Wound::Lost, Wound::Misdirected];
        let mut injuries = Vec::new();
        for _ in 0..self.rng.u32(1..4) {
            let wound =
                if self.rng.u32(0..20) == 0 { Wound::Shortened } else { *pick(&mut self.rng, &kinds) };
            injuries.extend(self.injury(member, wound));
        }
        if plan.states && self.rng.u32(0..8) == 0 {
            injuries.extend(self.injury(member, Wound::Gone));
        }
        self.injure(member, &injuries);
    }

    /// The disk of a member that runs suffers.
    pub(super) fn damage_under_way(&mut self, member: usize) {
        let spared = self.plan.damage.is_none_or(|plan| plan.victim.is_some_and(|victim| victim != member));
        if !spared && self.members[member].is_up() {
            let wound = *pick(&mut self.rng, &[Wound::Flip, Wound::Unreadable]);
            let injury = self.injury(member, wound);
            self.injure(member, injury.as_slice());
        }
    }

    /// Damages a disk so, unless it is too much.
    fn injure(&mut self, member: usize, injuries: &[Injury]) {
        let wounded = self.members[member].disk.fork();
        injuries.iter().for_each(|injury| injury.inflict(&wounded));
        let deceitful =
            injuries.iter().any(|injury| !matches!(injury.wound, Wound::Flip | Wound::Unreadable));
        let state_hurt = injuries.iter().any(|injury| injury.file == STATE);
        if !self.is_bearable(member, &wounded, deceitful, state_hurt) {
            return self.checker.count("damage that would have been too much");
        }
        self.members[member].state_hurt |= state_hurt;
        for injury in injuries {
            self.trace.note(62, member as u64, injury.at, || format!("{:?} m{member}: {injury:?}", self.now));
            injury.inflict(&self.members[member].disk);
        }
        self.checker.count("disks damaged");
        self.members[member].flipped = true;
    }

    /// What may happen to a file of a disk; `None` if there is nothing that it could happen to.
    fn injury(&mut self, member: usize, wound: Wound) -> Option<Injury> {
        let disk = self.members[member].disk.clone();
        let of_state = |name: &str| name.starts_with(STATE);
        let mut files: Vec<String> = disk.names().into_iter().filter(|name| !of_state(name)).collect();
        // A read of the state that fails is a disk that fails: what is damaged can be read.
        let readable = !matches!(wound, Wound::Unreadable | Wound::Shortened);
        let seldom = if self.plan.damage.is_some_and(|plan| plan.states) { 2 } else { 3 };
        let of_the_state = wound == Wound::Gone || readable && self.rng.u32(0..seldom) == 0;
        let file = if of_the_state && self.may_hurt_state(member) {
            STATE.to_owned()
        } else if files.is_empty() || wound == Wound::Gone {
            return None;
        } else {
            files.swap_remove(self.rng.usize(0..files.len()))
        };
        let bytes = disk.contents(&file).unwrap_or_default();
        let used = bytes.iter().rposition(|byte| *byte != 0)? as u64 + 1;
        let (at, other) = (self.rng.u64(0..used), self.rng.u64(0..used));
        Some(Injury { wound, file, at, other, small: self.rng.bool() })
    }

    /// Whether the state of a member may be damaged at all: where another one is whole, or what is intact of all may make up one. What
    /// is in it must be elsewhere too.
    fn may_hurt_state(&self, member: usize) -> bool {
        if self.plan.in_memory || self.members[member].role == Role::Witness {
            return false;
        }
        if self.plan.damage.is_some_and(|plan| plan.states) {
            return true;
        }
        let whole = |other: &Member| other.role == Role::Data && !other.state_hurt && !other.wiped;
        (0..self.members.len()).any(|other| other != member && whole(&self.members[other]))
    }

    /// Whether all that this wounded disk of a member lacks can be read from another.
    fn is_bearable(&mut self, member: usize, wounded: &Disk, deceitful: bool, state_hurt: bool) -> bool {
        let hurt = |member: usize| self.members[member].state_hurt;
        let Some(before) = self.copies(member, &self.members[member].disk, hurt(member)) else {
            return false;
        };
        let Some(after) = self.copies(member, wounded, hurt(member) || state_hurt) else { return false };
        // A device that drops its very last writes, or takes them back, without a trace: not to be found out, and not promised.
        if deceitful && !self.tells_its_damage(member, wounded) {
            return false;
        }
        if self.tells_of_loss(member, wounded)
            && self.others_that_tell_of_loss(member) >= self.may_tell_of_loss()
        {
            return false;
        }
        let others = (0..self.members.len()).filter(|other| *other != member && !self.members[*other].wiped);
        let others: Vec<Copies> =
            others.filter_map(|other| self.copies(other, &self.members[other].disk, hurt(other))).collect();
        // What is intact of damaged states may make up one. Computed only where no other is whole.
        let some_are_whole = others.iter().any(|held| held.through > Op::ZERO);
        let of_pieces = self.plan.damage.is_some_and(|plan| plan.states) && !some_are_whole;
        let together = of_pieces.then(|| self.whole_state(Some((member, wounded)))).flatten();
        let together = Copies { entries: BTreeMap::new(), through: together.unwrap_or_default() };
        let is_held =
            |op: Op, hash: Hash| others.iter().chain([&together]).any(|held| self.is_among(held, op, hash));
        let is_lost = |(op, hash): &(Op, Hash)| !self.is_among(&after, *op, *hash);
        let bearable = self.all_of(&before).filter(is_lost).all(|(op, hash)| is_held(op, hash));
        if bearable && state_hurt && together.through > Op::ZERO {
            self.checker.count("states damaged while no other is whole");
        }
        bearable
    }

    /// What is read, and what the state stands for.
    fn all_of<'a>(&'a self, copies: &'a Copies) -> impl Iterator<Item = (Op, Hash)> + 'a {
        let stood_for = (1..=copies.through.get()).map(Op::new);
        let stood_for = stood_for.filter_map(|op| Some((op, self.checker.hash(op)?)));
        stood_for.chain(copies.entries.iter().map(|(op, hash)| (*op, *hash)))
    }

    fn is_among(&self, copies: &Copies, op: Op, hash: Hash) -> bool {
        copies.entries.get(&op) == Some(&hash) || op <= copies.through && self.checker.hash(op) == Some(hash)
    }

    /// What can be had from a disk of a member; `None` if it cannot be opened.
    ///
    /// As long as nobody has noticed that a state is damaged, its member takes checkpoints on, and drops entries that it takes to be in
    /// them: then what is committed does not count. (A witness drops only what all states have, and one state is whole.)
    fn copies(&self, member: usize, disk: &Disk, state_hurt: bool) -> Option<Copies> {
        let disk = disk.fork();
        let (journal, recovered) = self.opened(member, &disk)?;
        let mut entries = self.read_all(member, &journal.reader());
        // Damage below the checkpoint raises the floor, on a witness too: what lies below is not offered to anybody any more.
        entries.retain(|op, _| *op > recovered.floor.op);
        let checkpoint = self.state_on(member, &disk, &recovered).map(|state| state.checkpoint().op);
        if state_hurt && checkpoint.is_some() {
            entries.retain(|op, _| *op > self.checker.committed());
        }
        Some(Copies { entries, through: checkpoint.filter(|_| !state_hurt).unwrap_or_default() })
    }

    /// The state on a disk; `None` if there is none that goes with its log. Changes the disk.
    pub(super) fn state_on(&self, member: usize, disk: &Disk, recovered: &Recovered) -> Option<StateMachine> {
        if self.plan.in_memory || self.members[member].role == Role::Witness {
            return None;
        }
        let _right = switch::to(None);
        let state =
            StateMachine::open_or_set_aside(&disk.storage(), &Limits::from(&self.members[member].options))
                .ok()??;
        (recovered.alignment(state.checkpoint()) != CheckpointAlignment::Lost).then_some(state)
    }

    /// So many members at once may not know what they had: of an op that too few surely never held, nobody can say that it was not
    /// committed, though nothing was lost.
    fn may_tell_of_loss(&self) -> usize {
        self.cluster.len() - self.cluster.nack_quorum()
    }

    fn others_that_tell_of_loss(&self, member: usize) -> usize {
        let others = (0..self.members.len()).filter(|other| *other != member && !self.members[*other].wiped);
        others.filter(|other| self.tells_of_loss(*other, &self.members[*other].disk)).count()
    }

    fn tells_of_loss(&self, member: usize, disk: &Disk) -> bool {
        self.opened(member, &disk.fork()).is_some_and(|(_, recovered)| recovered.is_damaged())
    }

    /// Whether opening this disk either finds everything or says that something is missing.
    fn tells_its_damage(&self, member: usize, disk: &Disk) -> bool {
        self.opened(member, &disk.fork()).is_some_and(|(_, recovered)| {
            // What is told of other wounds tells nothing of an end that is gone without a trace.
            let reach = match recovered.damage.as_ref().map(|damage| damage.extent) {
                Some(Extent::Open) => return true,
                Some(Extent::Through(op)) => op.max(recovered.head()),
                None => recovered.head(),
            };
            reach >= self.checker.durable_head(member)
        })
    }

    /// What opening this disk as that member's finds; `None` if it is refused. Changes the disk.
    pub(super) fn opened(&self, member: usize, disk: &Disk) -> Option<(Journal, Recovered)> {
        let _right = switch::to(None);
        Journal::open(disk.storage(), self.identity(member), self.journal_options(member)).ok()
    }

    fn read_all(&self, member: usize, log: &LogReader) -> BTreeMap<Op, Hash> {
        let mut held = BTreeMap::new();
        let mut op = Op::new(1);
        while op <= self.checker.durable_head(member) {
            if let Ok(Some(entry)) = log.read(op) {
                held.insert(op, entry.header.hash());
            }
            op = op.next();
        }
        held
    }
}
