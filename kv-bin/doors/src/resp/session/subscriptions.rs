//! `SUBSCRIBE` and `PSUBSCRIBE`. Nobody can publish. There are messages about changes of keys, as in Redis' key space
//! notifications, and about a new primary, as from Redis Sentinel.

use super::super::door::Door;
use super::super::registry::Entry;
use super::super::reply::{Protocol, Reply};
use super::super::{errors, glob};
use super::Session;
use bytes::Bytes;
use kv_core::client::{Event, EventKind, Revision, WatchStream};
use kv_core::error::WatchError;
use std::collections::{BTreeSet, VecDeque};
use std::future::pending;
use tokio::sync::{Mutex, watch};

const KEY_SPACE: &[u8] = b"__keyspace@0__:";
const KEY_EVENT: &[u8] = b"__keyevent@0__:";
const SWITCH: &[u8] = b"+switch-master";
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
    /// Messages that are not sent yet: those of one event.
    pending: VecDeque<Reply>,
    /// The watch has ended, so messages would be missing.
    pub(super) is_failed: bool,
}

impl Subscriptions {
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn len(&self) -> usize {
        self.channels.len() + self.patterns.len()
    }

    /// Waits for the next message.
    ///
    /// # Cancel safety
    /// Cancel safe: no message is lost.
    pub(super) async fn next(&mut self, door: &Door, entry: &Entry) -> Reply {
        loop {
            if let Some(message) = self.pending.pop_front() {
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
        self.send(&channel, &Bytes::from_static(name));
        let channel = Bytes::from([KEY_EVENT, name].concat());
        self.send(&channel, &event.key);
    }

    fn on_primary(&mut self, primary: Option<u8>, door: &Door, entry: &Entry) {
        let Some((known, _)) = &mut self.primary else { return };
        if primary.is_none() || *known == primary {
            return;
        }
        let before = std::mem::replace(known, primary);
        let address = |member: Option<u8>| {
            let (host, port) = member
                .and_then(|member| door.door_of(member))
                .unwrap_or_else(|| (entry.local.ip().to_string(), entry.local.port()));
            format!("{host} {port}")
        };
        let text = format!("{} {} {}", door.options.master_name, address(before), address(primary));
        self.send(&Bytes::from_static(SWITCH), &Bytes::from(text));
    }

    /// Queues a message for each subscription that matches.
    fn send(&mut self, channel: &Bytes, payload: &Bytes) {
        if self.channels.contains(channel) {
            let parts =
                vec![Reply::name("message"), Reply::Bulk(channel.clone()), Reply::Bulk(payload.clone())];
            self.pending.push_back(Reply::Push(parts));
        }
        let is_about_keys = channel.starts_with(KEYS);
        for pattern in &self.patterns {
            if (!is_about_keys || pattern.starts_with(KEYS)) && glob::matches(pattern, channel) {
                let parts =
                    [Reply::name("pmessage"), Reply::Bulk(pattern.clone()), Reply::Bulk(channel.clone())];
                let parts = parts.into_iter().chain([Reply::Bulk(payload.clone())]);
                self.pending.push_back(Reply::Push(parts.collect()));
            }
        }
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
            let max = self.door.options.max_subscriptions;
            if self.subscriptions.len() >= max || name.len() > 64 << 10 {
                let text =
                    format!("ERR a connection may have {max} subscriptions, with up to 64 KiB for each name");
                return self.reply(&Reply::error(text));
            }
            let copy = Bytes::copy_from_slice(name);
            self.set(is_pattern).insert(copy.clone());
            if let Err(error) = self.subscriptions.adjust(&self.door).await {
                self.set(is_pattern).remove(&copy);
                return self.reply(&error);
            }
            self.confirm(if is_pattern { "psubscribe" } else { "subscribe" }, Reply::Bulk(copy));
        }
    }

    /// Without names, from everything.
    pub(super) async fn unsubscribe(&mut self, names: &[Bytes], is_pattern: bool) {
        let kind = if is_pattern { "punsubscribe" } else { "unsubscribe" };
        let names =
            if names.is_empty() { self.set(is_pattern).iter().cloned().collect() } else { names.to_vec() };
        for name in &names {
            self.set(is_pattern).remove(name);
            self.confirm(kind, Reply::Bulk(name.clone()));
        }
        if names.is_empty() {
            self.confirm(kind, Reply::Null);
        }
        // Without a new subscription, nothing is read.
        let _ = self.subscriptions.adjust(&self.door).await;
    }

    fn set(&mut self, is_pattern: bool) -> &mut BTreeSet<Bytes> {
        if is_pattern { &mut self.subscriptions.patterns } else { &mut self.subscriptions.channels }
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

    #[test]
    fn only_the_keys_that_somebody_asks_for_are_watched() {
        assert_eq!(prefix(&["news", "+switch-master"], &["*", "n*"]), None);
        assert_eq!(prefix(&["__keyspace@0__:user:1"], &[]).as_deref(), Some("user:1"));
        assert_eq!(prefix(&["__keyspace@0__:user:1"], &["__keyspace@0__:user:2*"]).as_deref(), Some("user:"));
        assert_eq!(prefix(&["__keyspace@0__:user:1", "__keyevent@0__:del"], &[]).as_deref(), Some(""));
        assert_eq!(prefix(&[], &["__key*__:*"]).as_deref(), Some(""));
    }
}
