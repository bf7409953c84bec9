//! The damage atlas: what disks lose at rest, and the bound on it. A wound is first inflicted on a copy of the disk, and the copy
//! is opened: only if every record that it costs can still be read elsewhere is the disk replaced by the wounded one. So nothing
//! is ever lost everywhere, and whatever happens then, the cluster must lose nothing and recover.

use super::plan::pick;
use super::storage::Disk;
use super::world::World;
use crate::ids::{Hash, Op};
use crate::journal::{Journal, LogReader};
use crate::message::Recovered;
use std::collections::BTreeMap;

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
        }
    }
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
        if !self.is_bearable(member, &wounded, deceitful) {
            return self.checker.count("damage that would have been too much");
        }
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
        let mut files: Vec<String> =
            disk.names().into_iter().filter(|name| !name.starts_with("state")).collect();
        if files.is_empty() {
            return None;
        }
        let file = files.swap_remove(self.rng.usize(0..files.len()));
        let bytes = disk.contents(&file).unwrap_or_default();
        let used = bytes.iter().rposition(|byte| *byte != 0)? as u64 + 1;
        let (at, other) = (self.rng.u64(0..used), self.rng.u64(0..used));
        Some(Injury { wound, file, at, other, small: self.rng.bool() })
    }

    /// Whether all that this wounded disk of a member lacks can be read from another.
    fn is_bearable(&mut self, member: usize, wounded: &Disk, deceitful: bool) -> bool {
        let Some(before) = self.readable(member, &self.members[member].disk.fork()) else { return false };
        let judged = wounded.fork();
        let Some(after) = self.readable(member, &judged) else { return false };
        // A device that drops its very last writes, or takes them back, without a trace: not to be found out, and not promised.
        if deceitful && !self.tells_its_damage(member, wounded) {
            return false;
        }
        if self.tells_of_loss(member, wounded)
            && self.others_that_tell_of_loss(member) >= self.may_tell_of_loss()
        {
            return false;
        }
        let lost = before.iter().filter(|(op, hash)| after.get(op) != Some(hash));
        let lost: Vec<(Op, Hash)> = lost.map(|(op, hash)| (*op, *hash)).collect();
        let others = (0..self.members.len()).filter(|other| *other != member);
        let others: Vec<BTreeMap<Op, Hash>> = others
            .filter(|other| !self.members[*other].wiped)
            .filter_map(|other| self.readable(other, &self.members[other].disk.fork()))
            .collect();
        lost.iter().all(|(op, hash)| others.iter().any(|held| held.get(op) == Some(hash)))
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
            recovered.is_damaged() || recovered.head() >= self.checker.durable_head(member)
        })
    }

    /// What opening this disk as that member's finds; `None` if it is refused. Changes the disk.
    fn opened(&self, member: usize, disk: &Disk) -> Option<(Journal, Recovered)> {
        Journal::open(disk.storage(), self.identity(member), self.journal_options()).ok()
    }

    /// The entries that can be read from a disk that nobody uses; `None` if it cannot be opened. Changes the disk.
    fn readable(&self, member: usize, disk: &Disk) -> Option<BTreeMap<Op, Hash>> {
        let (journal, _) = self.opened(member, disk)?;
        Some(self.read_all(member, &journal.reader()))
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
