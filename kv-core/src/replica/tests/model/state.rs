//! The states of the model.

use crate::ids::Hash;
use std::collections::{BTreeMap, BTreeSet};

/// An entry, identified by where it was first prepared. This identifies the whole log up to it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Entry {
    pub(super) view: u8,
    pub(super) op: u8,
    /// For the primary: the op at which a restarted one continues by mistake.
    pub(super) life: u8,
}

impl Entry {
    pub(super) fn hash(&self) -> Hash {
        Hash::of(&[self.view, self.op, self.life])
    }
}

/// An entry on a member's disk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) enum Held {
    Intact(Entry),
    /// It cannot be read; which one it was, where an intact one after it names it.
    Bad(Option<Entry>),
}

impl Held {
    pub(super) fn entry(&self) -> Option<Entry> {
        match self {
            Self::Intact(entry) => Some(*entry),
            Self::Bad(entry) => *entry,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) enum Mode {
    Normal,
    /// Between views; also a restarted primary, which waits to be left.
    Between,
    /// The log misses entries that may have been acknowledged.
    Damaged,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Member {
    pub(super) mode: Mode,
    pub(super) view: u8,
    pub(super) log_view: u8,
    pub(super) log: Vec<Held>,
    /// So many entries survive a crash for sure.
    pub(super) synced: u8,
    /// Known here to be committed; forgotten by a crash.
    pub(super) commit: u8,
    /// Entries above the log may have been there.
    pub(super) open: bool,
    pub(super) life: u8,
}

impl Member {
    pub(super) fn is_certain(&self) -> bool {
        !self.open && self.log.iter().all(|held| matches!(held, Held::Intact(_)))
    }

    pub(super) fn entries(&self) -> Vec<Entry> {
        self.log.iter().filter_map(Held::entry).collect()
    }

    /// How many entries of `log` it holds intact, from the first one on.
    pub(super) fn agrees_with(&self, log: &[Entry]) -> usize {
        self.log.iter().zip(log).take_while(|(held, entry)| **held == Held::Intact(**entry)).count()
    }
}

/// A `DoViewChange`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Vote {
    pub(super) from: u8,
    pub(super) view: u8,
    pub(super) log_view: u8,
    pub(super) commit: u8,
    pub(super) log: Vec<Held>,
    pub(super) open: bool,
}

/// A `StartView`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Started {
    pub(super) view: u8,
    pub(super) log: Vec<Entry>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct ModelState {
    pub(super) members: Vec<Member>,
    pub(super) votes: BTreeSet<Vote>,
    pub(super) started: BTreeSet<Started>,
    /// `PrepareOk`, the latest of each view and member.
    pub(super) acks: BTreeMap<(u8, u8), u8>,
    /// Every entry that was prepared (and so every `Prepare`), with the one before it.
    pub(super) parents: BTreeMap<Entry, Option<Entry>>,
    /// What a quorum has acknowledged, with the view in which it did.
    pub(super) committed: BTreeSet<(u8, Entry)>,
    pub(super) restarts: u8,
    pub(super) damages: u8,
}

impl ModelState {
    pub(super) fn new(members: u8) -> Self {
        let member = Member {
            mode: Mode::Normal,
            view: 0,
            log_view: 0,
            log: Vec::new(),
            synced: 0,
            commit: 0,
            open: false,
            life: 0,
        };
        Self {
            members: vec![member; usize::from(members)],
            votes: BTreeSet::new(),
            started: BTreeSet::new(),
            acks: BTreeMap::new(),
            parents: BTreeMap::new(),
            committed: BTreeSet::new(),
            restarts: 0,
            damages: 0,
        }
    }

    /// The log that ends with this entry.
    pub(super) fn prefix(&self, head: Option<Entry>) -> Vec<Entry> {
        let mut log: Vec<Entry> =
            std::iter::successors(head, |entry| self.parents.get(entry).copied().flatten()).collect();
        log.reverse();
        log
    }

    /// Whether each of these is intact somewhere.
    pub(super) fn can_fetch(&self, log: &[Entry]) -> bool {
        let held = |entry| self.members.iter().any(|member| member.log.contains(&Held::Intact(entry)));
        log.iter().all(|entry| held(*entry))
    }

    pub(super) fn acknowledge(&mut self, view: u8, member: u8, op: u8, quorum: usize) {
        if op == 0 {
            return;
        }
        let acked = self.acks.entry((view, member)).or_default();
        *acked = op.max(*acked);
        let committed = self.acknowledged(view, quorum);
        let log = self.members[usize::from(member)].entries();
        let committed = log.into_iter().take(usize::from(committed)).map(|entry| (view, entry));
        for (view, entry) in committed {
            if !self.committed.iter().any(|(_, known)| *known == entry) {
                self.committed.insert((view, entry));
            }
        }
    }

    /// The last op that a quorum has acknowledged in the view.
    pub(super) fn acknowledged(&self, view: u8, quorum: usize) -> u8 {
        let mut acked: Vec<u8> =
            self.acks.iter().filter(|((in_view, _), _)| *in_view == view).map(|(_, op)| *op).collect();
        acked.sort_unstable_by(|a, b| b.cmp(a));
        acked.get(quorum - 1).copied().unwrap_or(0)
    }
}

impl Member {
    /// What recovery reads from the disk: an entry is known if the intact one after it names its parent. The contents
    /// of the last blocks are unknown.
    pub(super) fn recover(&mut self) {
        while matches!(self.log.last(), Some(Held::Bad(_))) {
            self.log.pop();
            self.open = true;
        }
    }
}
