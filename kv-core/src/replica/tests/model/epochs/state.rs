//! The states of the model with epochs.

use crate::ids::{Epoch, Hash, View};
use std::collections::{BTreeMap, BTreeSet};

/// The last entry of an epoch: what it says about the next one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Stop {
    /// The index of the next list of members.
    pub(super) config: u8,
    /// The number of the first view of the next epoch.
    pub(super) first: u8,
    /// The disk that the newcomer had when the stop was proposed.
    pub(super) disk: u8,
}

/// An entry, identified by where it was first prepared. This identifies the whole log up to it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Entry {
    pub(super) view: View,
    pub(super) op: u8,
    pub(super) stop: Option<Stop>,
}

impl Entry {
    pub(super) fn hash(&self) -> Hash {
        let (epoch, number) = (self.view.epoch().get(), self.view.number());
        Hash::of(format!("{epoch} {number} {} {:?}", self.op, self.stop).as_bytes())
    }

    /// The epoch of the entry after it (rule M1).
    pub(super) fn next_epoch(&self) -> Epoch {
        if self.stop.is_some() { self.view.epoch().next() } else { self.view.epoch() }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) enum Mode {
    /// Primary or backup of its view, whose log it has installed.
    Normal,
    /// It takes no part in its view: it is between views, or is catching up.
    Between,
    /// It is on no list any more, and tells others what it knows.
    Retired,
    /// It has lost its disk, or has ended.
    Out,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Member {
    pub(super) mode: Mode,
    /// The index of its list of members.
    pub(super) config: u8,
    /// Its epoch is that of its view.
    pub(super) view: View,
    pub(super) log_view: View,
    /// Every entry is durable when it is appended: the model without epochs has the others.
    pub(super) log: Vec<Entry>,
    /// The entries up to here are gone: the state contains them. The log still knows their hashes, but not what was in
    /// them.
    pub(super) base: u8,
    /// The op of the stop before its epoch.
    pub(super) began: u8,
    pub(super) disk: u8,
}

impl Member {
    pub(super) fn new() -> Self {
        Self {
            mode: Mode::Normal,
            config: 0,
            view: View::ZERO,
            log_view: View::ZERO,
            log: Vec::new(),
            base: 0,
            began: 0,
            disk: 0,
        }
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.view.epoch()
    }

    pub(super) fn head(&self) -> u8 {
        u8::try_from(self.log.len()).expect("few ops")
    }

    /// Known here to be committed, whatever happens. What a member knows only until its next crash makes no vote worse.
    pub(super) fn commit(&self) -> u8 {
        self.base.max(self.began)
    }

    pub(super) fn entry(&self, op: u8) -> Option<Entry> {
        self.log.get(usize::from(op).checked_sub(1)?).copied()
    }

    /// The epoch of the entry after `op`, as far as the log shows it. If that entry is gone, a member can only assume
    /// its own epoch.
    pub(super) fn next_epoch(&self, op: u8) -> Epoch {
        match self.entry(op) {
            Some(entry) if op > self.base => entry.next_epoch(),
            Some(_) => self.epoch(),
            None => Epoch::ZERO,
        }
    }

    /// The stop of its own epoch, if its log has that entry.
    pub(super) fn stop(&self) -> Option<(u8, Stop)> {
        let own = self.log.iter().filter(|entry| entry.view.epoch() == self.epoch() && entry.op > self.base);
        own.filter_map(|entry| Some((entry.op, entry.stop?))).next()
    }

    /// How many entries of `log` it has, from the first one on.
    pub(super) fn agrees_with(&self, log: &[Entry]) -> u8 {
        let same = self.log.iter().zip(log).take_while(|(own, theirs)| own == theirs).count();
        u8::try_from(same).expect("few ops")
    }
}

/// A `DoViewChange`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Vote {
    pub(super) from: u8,
    pub(super) view: View,
    pub(super) log_view: View,
    pub(super) commit: u8,
    pub(super) log: Vec<Entry>,
}

/// A `StartView`, or the first view of an epoch as those see it who enter.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Started {
    pub(super) view: View,
    pub(super) log: Vec<Entry>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct ModelState {
    pub(super) members: Vec<Member>,
    pub(super) votes: BTreeSet<Vote>,
    pub(super) started: BTreeSet<Started>,
    /// `PrepareOk`, the latest of each view and member.
    pub(super) acks: BTreeMap<(View, u8), u8>,
    /// Every entry that was prepared (and so every `Prepare`), with the one before it.
    pub(super) parents: BTreeMap<Entry, Option<Entry>>,
    /// What a quorum has acknowledged, with the view in which it did.
    pub(super) committed: BTreeSet<(View, Entry)>,
    pub(super) stops: u8,
    pub(super) restarts: u8,
    pub(super) wipes: u8,
    /// A member was told another log than the one that it knows to be committed.
    pub(super) diverged: bool,
}

impl ModelState {
    pub(super) fn new(members: u8) -> Self {
        Self {
            members: vec![Member::new(); usize::from(members)],
            votes: BTreeSet::new(),
            started: BTreeSet::new(),
            acks: BTreeMap::new(),
            parents: BTreeMap::new(),
            committed: BTreeSet::new(),
            stops: 0,
            restarts: 0,
            wipes: 0,
            diverged: false,
        }
    }

    pub(super) fn member(&self, id: u8) -> &Member {
        &self.members[usize::from(id)]
    }

    pub(super) fn member_mut(&mut self, id: u8) -> &mut Member {
        &mut self.members[usize::from(id)]
    }

    /// The log that ends with this entry.
    pub(super) fn prefix(&self, head: Option<Entry>) -> Vec<Entry> {
        let mut log: Vec<Entry> =
            std::iter::successors(head, |entry| self.parents.get(entry).copied().flatten()).collect();
        log.reverse();
        log
    }

    pub(super) fn is_committed(&self, entry: Entry) -> bool {
        self.committed.iter().any(|(_, known)| *known == entry)
    }

    /// The last entry of a member's log that is committed.
    pub(super) fn committed_in(&self, member: &Member) -> u8 {
        member.log.iter().rev().find(|entry| self.is_committed(**entry)).map_or(0, |entry| entry.op)
    }
}
