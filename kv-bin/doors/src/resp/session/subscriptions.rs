//! `SUBSCRIBE` and `PSUBSCRIBE`. Nobody can publish. There are messages about changes of keys, as in Redis' key space
//! notifications, and about a new primary, as from Redis Sentinel.

use super::super::door::Door;
use super::super::errors;
use super::super::glob::{self, MAX_PATTERN, Matcher};
use super::super::registry::Entry;
use super::super::reply::{Protocol, Reply};
use super::Session;
use bytes::Bytes;
use kv_core::client::{Event, EventKind, Revision, WatchStream};
use kv_core::error::WatchError;
use std::collections::{BTreeSet, VecDeque};
use std::future::pending;
use std::ops::Bound;
use tokio::sync::{Mutex, watch};

const KEY_SPACE: &[u8] = b"__keyspace@0__:";
const KEY_EVENT: &[u8] = b"__keyevent@0__:";
const SWITCH: &[u8] = b"+switch-master";
/// How many bytes the channels and patterns of one connection may have together.
const MAX_NAME_BYTES: usize = 1 << 20;
/// A pattern must begin with this to match messages about keys. So `PSUBSCRIBE *`, with which clients of Sentinel
/// follow everything, does not get each change of each key.
const KEYS: &[u8] = b"__key";

/// What a connection subscribes to.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    channels: BTreeSet<Bytes>,
    patterns: BTreeSet<Bytes>,
    /// The watch of the keys that begin with a prefix. The mutex is never locked. It only makes this type `Sync`, so
    /// that a future which holds a reference to it can move to another thread.
    watch: Option<(Vec<u8>, Mutex<WatchStream>)>,
    /// The primary as it was announced last, and where to learn of the next.
    primary: Option<(Option<u8>, watch::Receiver<Option<u8>>)>,
    /// How many bytes the names of the channels and patterns have together.
    pub(super) name_bytes: usize,
    /// Payloads, with their channels, that are not compared with all patterns yet: those of one event.
    unmatched: VecDeque<Unmatched>,
    matcher: Matcher,
    /// The watch has ended, so messages would be missing.
    pub(super) is_failed: bool,
}

#[derive(Debug)]
struct Unmatched {
    channel: Bytes,
    payload: Bytes,
    /// The last pattern with which the channel was compared; none if it was not compared with the names of channels.
    last: Option<Bytes>,
}

impl Subscriptions {
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn len(&self) -> usize {
        self.channels.len() + self.patterns.len()
    }

    /// Returns whether the name is new.
    fn insert(&mut self, name: Bytes, is_pattern: bool) -> bool {
        let length = name.len();
        let is_new = if is_pattern { self.patterns.insert(name) } else { self.channels.insert(name) };
        self.name_bytes += if is_new { length } else { 0 };
        is_new
    }

    fn remove(&mut self, name: &Bytes, is_pattern: bool) {
        let existed = if is_pattern { self.patterns.remove(name) } else { self.channels.remove(name) };
        self.name_bytes -= if existed { name.len() } else { 0 };
    }

    /// Waits for the next message.
    ///
    /// # Cancel safety
    /// Cancel safe: no message is lost.
    pub(super) async fn next(&mut self, door: &Door, entry: &Entry) -> Reply {
        loop {
            if let Some(message) = self.next_match().await {
                return message;
            }
            tokio::select! {
                event = next_event(&mut self.watch) => match event {
                    Some(Ok(event)) => self.on_event(&event),
                    Some(Err(error)) => return self.fail(errors::watch(&error)),
                    None => return self.fail(errors::watch(&WatchError::Closed)),
                },
                primary = next_primary(&mut self.primary) => self.on_primary(primary, door, entry),
            }
        }
    }

    fn fail(&mut self, error: Reply) -> Reply {
        self.is_failed = true;
        error
    }

    fn on_event(&mut self, event: &Event) {
        let name: &'static [u8] = match event.kind {
            EventKind::Put => b"set",
            EventKind::Expired => b"expired",
            _ => b"del",
        };
        let channel = Bytes::from([KEY_SPACE, &event.key[..]].concat());
        self.send(channel, Bytes::from_static(name));
        let channel = Bytes::from([KEY_EVENT, name].concat());
        self.send(channel, event.key.clone());
    }

    fn on_primary(&mut self, primary: Option<u8>, door: &Door, entry: &Entry) {
        let Some((known, _)) = &mut self.primary else { return };
        if primary.is_none() || *known == primary {
            return;
        }
        // If the former primary is unknown, there may have been no switch.
        let Some(before) = std::mem::replace(known, primary) else { return };
        let address = |member: Option<u8>| {
            let (host, port) = member
                .and_then(|member| door.door_of(member))
                .unwrap_or_else(|| (entry.local.ip().to_string(), entry.local.port()));
            format!("{host} {port}")
        };
        let text = format!("{} {} {}", door.options.master_name, address(Some(before)), address(primary));
        self.send(Bytes::from_static(SWITCH), Bytes::from(text));
    }

    fn send(&mut self, channel: Bytes, payload: Bytes) {
        self.unmatched.push_back(Unmatched { channel, payload, last: None });
    }

    /// The next message of the last event; none if all its messages were returned. There is one for each subscription
    /// that matches.
    ///
    /// # Cancel safety
    /// Cancel safe: no message is lost.
    async fn next_match(&mut self) -> Option<Reply> {
        while let Some(Unmatched { channel, payload, last }) = self.unmatched.front_mut() {
            let Some(tried) = last else {
                // The first pattern is greater: an empty pattern would match only an empty name.
                *last = Some(Bytes::new());
                if self.channels.contains(channel) {
                    let parts =
                        [Reply::name("message"), Reply::Bulk(channel.clone()), Reply::Bulk(payload.clone())];
                    return Some(Reply::Push(parts.into()));
                }
                continue;
            };
            let after = (Bound::Excluded(&*tried), Bound::Unbounded);
            let Some(pattern) = self.patterns.range::<Bytes, _>(after).next() else {
                self.unmatched.pop_front();
                continue;
            };
            let may_match = pattern.starts_with(KEYS) || !channel.starts_with(KEYS);
            let is_match = may_match && self.matcher.matches(pattern, channel).await;
            *tried = pattern.clone();
            if is_match {
                let parts = [
                    Reply::name("pmessage"),
                    Reply::Bulk(pattern.clone()),
                    Reply::Bulk(channel.clone()),
                    Reply::Bulk(payload.clone()),
                ];
                return Some(Reply::Push(parts.into()));
            }
        }
        None
    }

    /// The prefix of all keys about which there may be messages; none if there are no such messages.
    fn wanted_prefix(&self) -> Option<Vec<u8>> {
        let channels = self.channels.iter().map(|channel| channel.to_vec());
        let patterns = self.patterns.iter().filter(|pattern| pattern.starts_with(KEYS));
        let starts = channels.chain(patterns.map(|pattern| glob::prefix(pattern)));
        let prefixes = starts.filter_map(|start| match start.strip_prefix(KEY_SPACE) {
            Some(key) => Some(key.to_vec()),
            None => start.starts_with(KEYS).then(Vec::new),
        });
        prefixes.reduce(|one, other| {
            let common = one.iter().zip(&other).take_while(|(one, other)| one == other).count();
            one[..common].to_vec()
        })
    }

    fn wants_primary(&self) -> bool {
        let is_pattern = |pattern: &Bytes| glob::matches(pattern, SWITCH);
        self.channels.contains(SWITCH) || self.patterns.iter().any(is_pattern)
    }

    /// Starts and ends what the present subscriptions need.
    async fn adjust(&mut self, door: &Door) -> Result<(), Reply> {
        match (self.wanted_prefix(), &mut self.watch) {
            (None, _) => self.watch = None,
            (Some(prefix), Some((present, _))) if prefix.starts_with(present.as_slice()) => {}
            (Some(prefix), present) => {
                let after = match present {
                    Some((_, stream)) => stream.get_mut().complete(),
                    None => present_revision(door).await?,
                };
                let stream = door.client.watch(&prefix).after(after).stream();
                self.watch = Some((prefix, Mutex::new(stream)));
            }
        }
        if !self.wants_primary() {
            self.primary = None;
        } else if self.primary.is_none() {
            let receiver = door.primary.subscribe();
            self.primary = Some((door.members().await.primary, receiver));
        }
        Ok(())
    }
}

/// The revision from which a new watch starts: it includes every change that is made after this call.
async fn present_revision(door: &Door) -> Result<Revision, Reply> {
    // Any key will do: the revision is that of the whole state.
    let read = door.client.get("k").with_revision().await.map_err(|error| errors::read(&error))?;
    Ok(read.revision)
}

async fn next_event(watch: &mut Option<(Vec<u8>, Mutex<WatchStream>)>) -> Option<Result<Event, WatchError>> {
    match watch {
        Some((_, stream)) => stream.get_mut().next().await,
        None => pending().await,
    }
}

async fn next_primary(primary: &mut Option<(Option<u8>, watch::Receiver<Option<u8>>)>) -> Option<u8> {
    if let Some((_, receiver)) = primary
        && receiver.changed().await.is_ok()
    {
        return *receiver.borrow();
    }
    pending().await
}

impl Session {
    pub(super) async fn subscribe(&mut self, names: &[Bytes], is_pattern: bool) {
        for name in names {
            // Names are compared with each other and with each event.
            tokio::task::consume_budget().await;
            if let Some(refusal) = self.subscription_refusal(name, is_pattern) {
                return self.reply(&refusal);
            }
            let copy = Bytes::copy_from_slice(name);
            let is_new = self.subscriptions.insert(copy.clone(), is_pattern);
            if is_new && let Err(error) = self.subscriptions.adjust(&self.door).await {
                self.subscriptions.remove(&copy, is_pattern);
                return self.reply(&error);
            }
            self.confirm(if is_pattern { "psubscribe" } else { "subscribe" }, Reply::Bulk(copy));
        }
    }

    fn subscription_refusal(&self, name: &Bytes, is_pattern: bool) -> Option<Reply> {
        let longest_channel = KEY_SPACE.len() + self.door.client.max_key_bytes();
        let max_bytes = if is_pattern { MAX_PATTERN } else { longest_channel };
        let names = if is_pattern { &self.subscriptions.patterns } else { &self.subscriptions.channels };
        let (max, bytes) = (self.door.options.max_subscriptions, self.subscriptions.name_bytes + name.len());
        if names.contains(name) {
            None
        } else if name.len() > max_bytes {
            Some(Reply::error(format!(
                "ERR the name has {} bytes, and may have up to {max_bytes}",
                name.len()
            )))
        } else if self.subscriptions.len() >= max || bytes > MAX_NAME_BYTES {
            Some(Reply::error(format!(
                "ERR a connection may have {max} subscriptions, whose names have up to {MAX_NAME_BYTES} bytes together"
            )))
        } else {
            None
        }
    }

    /// Without names, from everything.
    pub(super) async fn unsubscribe(&mut self, names: &[Bytes], is_pattern: bool) {
        let kind = if is_pattern { "punsubscribe" } else { "unsubscribe" };
        let names = match (names, is_pattern) {
            ([], true) => self.subscriptions.patterns.iter().cloned().collect(),
            ([], false) => self.subscriptions.channels.iter().cloned().collect(),
            _ => names.to_vec(),
        };
        for name in &names {
            self.subscriptions.remove(name, is_pattern);
            self.confirm(kind, Reply::Bulk(name.clone()));
        }
        if names.is_empty() {
            self.confirm(kind, Reply::Null);
        }
        // Without a new subscription, nothing is read.
        let _ = self.subscriptions.adjust(&self.door).await;
    }

    fn confirm(&mut self, kind: &'static str, name: Reply) {
        {
            let mut details = self.entry.details();
            details.subscriptions = self.subscriptions.channels.len();
            details.patterns = self.subscriptions.patterns.len();
        }
        self.reply(&Reply::Push(vec![Reply::name(kind), name, Reply::count(self.subscriptions.len())]));
    }

    /// `PING` in RESP2 while there are subscriptions, so that the reply looks like a message.
    pub(super) fn ping_of_subscriber(&self, text: &Bytes) -> Option<Reply> {
        let is_limited = self.protocol == Protocol::Resp2 && !self.subscriptions.is_empty();
        is_limited.then(|| Reply::Array(vec![Reply::name("pong"), Reply::Bulk(text.clone())]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(channels: &[&str], patterns: &[&str]) -> Option<String> {
        let set = |names: &[&str]| names.iter().map(|name| Bytes::from((*name).to_owned())).collect();
        let subscriptions =
            Subscriptions { channels: set(channels), patterns: set(patterns), ..Subscriptions::default() };
        subscriptions.wanted_prefix().map(|prefix| String::from_utf8(prefix).unwrap())
    }

    /// Many long patterns are compared with an event: other tasks run in between, and cancelling loses no message.
    #[tokio::test]
    async fn matching_lets_other_tasks_run() {
        let mut subscriptions = Subscriptions::default();
        for number in 100..200 {
            subscriptions.insert(Bytes::from(format!("__key*{}{number}", "a".repeat(900))), true);
        }
        subscriptions.insert(Bytes::from_static(b"__keyspace@0__:a*"), true);
        let channel = Bytes::from([KEY_SPACE, &[b'a'; 4096]].concat());
        subscriptions.send(channel.clone(), Bytes::from_static(b"set"));
        let mut turns = 0;
        let message = loop {
            turns += 1;
            tokio::select! {
                biased;
                message = subscriptions.next_match() => break message,
                () = tokio::task::yield_now() => {}
            }
        };
        assert!(turns > 30, "{turns}");
        let Some(Reply::Push(parts)) = message else { panic!("{message:?}") };
        assert_eq!(parts[2], Reply::Bulk(channel));
        assert_eq!(subscriptions.next_match().await, None);
    }

    #[test]
    fn only_the_keys_that_somebody_asks_for_are_watched() {
        assert_eq!(prefix(&["news", "+switch-master"], &["*", "n*"]), None);
        assert_eq!(prefix(&["__keyspace@0__:user:1"], &[]).as_deref(), Some("user:1"));
        assert_eq!(prefix(&["__keyspace@0__:user:1"], &["__keyspace@0__:user:2*"]).as_deref(), Some("user:"));
        assert_eq!(prefix(&["__keyspace@0__:user:1", "__keyevent@0__:del"], &[]).as_deref(), Some(""));
        assert_eq!(prefix(&[], &["__key*__:*"]).as_deref(), Some(""));
    }
}
