//! The keys that a group of commands uses, as they were read, and the changes that the commands make to them. A command
//! is a pure function of an overlay. Only afterwards, the changes are written, on the condition that what the commands
//! have read has not changed.

use bytes::Bytes;
use kv_core::client::{LeaseId, Record, Revision};
use std::collections::HashMap;

/// A key's value and lifetime.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Item {
    pub(crate) value: Bytes,
    /// When the time to live is over, in milliseconds on the cluster's clock.
    pub(crate) expires: Option<u64>,
    pub(crate) lease: Option<LeaseId>,
}

/// How a key is changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Change {
    Put(Item),
    /// A number is added to the value, and the key keeps its lifetime.
    Add(i64),
    /// Only the time to live is changed.
    Expiry(Option<u64>),
    Delete,
}

/// What a command has read and must be unchanged when the changes are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Guard {
    Absent,
    Revision(Revision),
}

/// One key.
#[derive(Debug)]
struct Slot {
    /// The key as it was read.
    before: Option<(Item, Revision)>,
    /// The key as the commands have changed it.
    item: Option<Item>,
    /// Whether the result of a command depends on `before`.
    is_observed: bool,
    is_changed: bool,
    /// Whether the change is more than a new time to live.
    is_value_changed: bool,
    /// If the only changes are additions, what they add together.
    added: Option<i64>,
}

/// The keys, and the time.
#[derive(Debug)]
pub(crate) struct Overlay {
    slots: HashMap<Bytes, Slot>,
    now: u64,
    max_value: usize,
    /// How many bytes the values have together that commands have written and that are still there.
    written: usize,
}

impl Overlay {
    /// `now` is in milliseconds on the cluster's clock. No command builds a value of more than `max_value` bytes.
    pub(crate) fn new(
        records: impl IntoIterator<Item = (Bytes, Option<Record>)>,
        now: u64,
        max_value: usize,
    ) -> Self {
        let slots = records.into_iter().map(|(key, record)| {
            let before = record.map(|record| {
                let expires = record.expires.map(|at| promised_expiry(at.get(), now));
                (Item { value: record.value, expires, lease: record.lease }, record.modified)
            });
            let item = before.as_ref().map(|(item, _)| item.clone());
            (
                key,
                Slot {
                    before,
                    item,
                    is_observed: false,
                    is_changed: false,
                    is_value_changed: false,
                    added: None,
                },
            )
        });
        Self { slots: slots.collect(), now, max_value, written: 0 }
    }

    pub(crate) const fn now(&self) -> u64 {
        self.now
    }

    pub(crate) const fn max_value(&self) -> usize {
        self.max_value
    }

    /// How many bytes of values the commands have written that are still there.
    pub(crate) const fn written(&self) -> usize {
        self.written
    }

    /// Replaces what is at a key.
    fn write(&mut self, key: &Bytes, item: Option<Item>) {
        let length = |item: Option<&Item>| item.map_or(0, |item| item.value.len());
        let added = length(item.as_ref());
        let slot = self.slot(key);
        let removed = if slot.is_value_changed { length(slot.item.as_ref()) } else { 0 };
        (slot.item, slot.added) = (item, None);
        (slot.is_changed, slot.is_value_changed) = (true, true);
        self.written = self.written - removed + added;
    }

    fn slot(&mut self, key: &Bytes) -> &mut Slot {
        // Every key that a command names has been read. An unread key counts as observed and absent: a guard then
        // checks that.
        self.slots.entry(key.clone()).or_insert_with(|| Slot {
            before: None,
            item: None,
            is_observed: true,
            is_changed: false,
            is_value_changed: false,
            added: None,
        })
    }

    pub(crate) fn get(&mut self, key: &Bytes) -> Option<&Item> {
        let slot = self.slot(key);
        // What a command of the group has written does not depend on what was there before.
        slot.is_observed |= !slot.is_value_changed;
        slot.item.as_ref()
    }

    pub(crate) fn exists(&mut self, key: &Bytes) -> bool {
        self.get(key).is_some()
    }

    /// Sets a key, without regard to what it was.
    pub(crate) fn put(&mut self, key: &Bytes, value: Bytes, expires: Option<u64>) {
        let is_over = expires.is_some_and(|at| at <= self.now);
        self.write(key, (!is_over).then_some(Item { value, expires, lease: None }));
    }

    /// Sets the value of a key, which keeps its lifetime.
    pub(crate) fn put_value(&mut self, key: &Bytes, value: Bytes) {
        let kept = self.get(key).map(|item| (item.expires, item.lease));
        let (expires, lease) = kept.unwrap_or_default();
        self.write(key, Some(Item { value, expires, lease }));
    }

    /// Sets the value of a counter to which a command adds `by`.
    pub(crate) fn put_sum(&mut self, key: &Bytes, sum: Bytes, by: i64) {
        let slot = self.slot(key);
        let before = if slot.is_changed { slot.added } else { Some(0) };
        self.put_value(key, sum);
        self.slot(key).added = before.and_then(|before| before.checked_add(by));
    }

    /// Puts an item that belonged to another key.
    pub(crate) fn put_item(&mut self, key: &Bytes, item: Item) {
        self.write(key, Some(item));
    }

    /// Removes a key, and returns whether it existed.
    pub(crate) fn remove(&mut self, key: &Bytes) -> bool {
        let existed = self.exists(key);
        if existed {
            self.write(key, None);
        }
        existed
    }

    /// Changes when an existing key expires.
    pub(crate) fn set_expiry(&mut self, key: &Bytes, expires: Option<u64>) {
        if expires.is_some_and(|at| at <= self.now) {
            self.remove(key);
            return;
        }
        let slot = self.slot(key);
        slot.is_observed |= !slot.is_value_changed;
        slot.added = None;
        if let Some(item) = &mut slot.item {
            item.expires = expires;
            slot.is_changed = true;
        }
    }

    /// The changes that all commands have made together.
    pub(crate) fn changes(&self) -> Vec<(&Bytes, Change)> {
        let changed = self.slots.iter().filter(|(_, slot)| slot.is_changed);
        let changes = changed.filter_map(|(key, slot)| {
            let was_absent = slot.is_observed && slot.before.is_none();
            let change = match &slot.item {
                None if was_absent => return None,
                None => Change::Delete,
                Some(_) if let Some(by) = slot.added => Change::Add(by),
                Some(item) if slot.is_value_changed => Change::Put(item.clone()),
                Some(item) => Change::Expiry(item.expires),
            };
            Some((key, change))
        });
        changes.collect()
    }

    /// What must be unchanged when the changes are written.
    pub(crate) fn guards(&self) -> Vec<(&Bytes, Guard)> {
        let observed = self.slots.iter().filter(|(_, slot)| slot.is_observed);
        let guard = |slot: &Slot| match &slot.before {
            None => Guard::Absent,
            Some((_, revision)) => Guard::Revision(*revision),
        };
        observed.map(|(key, slot)| (key, guard(slot))).collect()
    }
}

/// The cluster adds a thousandth, rounded up, and a millisecond to a time to live, because clocks differ. A reader of
/// the time to live expects what was asked for, so this takes the addition away.
fn promised_expiry(at: u64, now: u64) -> u64 {
    let left = at.saturating_sub(now);
    let promised = u128::from(left.saturating_sub(1)) * 1000 / 1001;
    now + u64::try_from(promised).unwrap_or(u64::MAX).max(u64::from(left > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &'static str) -> Bytes {
        Bytes::from_static(name.as_bytes())
    }

    fn absent(names: &[&'static str]) -> Overlay {
        Overlay::new(names.iter().map(|name| (key(name), None)), 1000, 100)
    }

    #[test]
    fn only_what_was_read_is_guarded() {
        let mut overlay = absent(&["a", "b", "c"]);
        overlay.put(&key("a"), key("1"), None);
        assert_eq!(overlay.get(&key("a")).unwrap().value, "1");
        assert!(!overlay.exists(&key("b")));
        assert_eq!(overlay.guards(), [(&key("b"), Guard::Absent)]);
        let item = Item { value: key("1"), expires: None, lease: None };
        assert_eq!(overlay.changes(), [(&key("a"), Change::Put(item))]);
    }

    #[test]
    fn a_key_that_comes_and_goes_is_no_change() {
        let mut overlay = absent(&["a"]);
        assert!(!overlay.exists(&key("a")));
        overlay.put(&key("a"), key("1"), None);
        assert!(overlay.remove(&key("a")));
        assert_eq!(overlay.changes(), []);
        // Nobody has read the key before, so it may have existed.
        let mut overlay = absent(&["a"]);
        overlay.put(&key("a"), key("1"), Some(999));
        assert_eq!(overlay.changes(), [(&key("a"), Change::Delete)]);
    }

    #[test]
    fn counters_keep_their_lifetime() {
        let mut overlay = absent(&["a", "b", "c"]);
        overlay.put_sum(&key("a"), key("1"), 1);
        overlay.put_sum(&key("a"), key("3"), 2);
        overlay.put_sum(&key("b"), key("1"), 1);
        overlay.set_expiry(&key("b"), Some(2000));
        overlay.put(&key("c"), key("1"), None);
        overlay.put_sum(&key("c"), key("2"), 1);
        let put = |value, expires| Change::Put(Item { value: key(value), expires, lease: None });
        let expected = [("a", Change::Add(3)), ("b", put("1", Some(2000))), ("c", put("2", None))];
        let mut changes = overlay.changes();
        changes.sort_by_key(|(key, _)| *key);
        assert_eq!(
            changes,
            expected.each_ref().map(|(name, change)| (&*Box::leak(Box::new(key(name))), change.clone()))
        );
        assert_eq!(overlay.guards().len(), 2);
    }

    #[test]
    fn the_time_to_live_is_the_one_that_was_asked_for() {
        for ttl in [1_u64, 2, 999, 1000, 1001, 10_000, 10_500, 86_400_000] {
            let stored = 5000 + ttl + ttl.div_ceil(1000) + 1;
            assert_eq!(promised_expiry(stored, 5000), 5000 + ttl, "{ttl}");
        }
        assert_eq!(promised_expiry(4000, 5000), 5000);
    }
}
