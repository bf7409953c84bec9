//! Commands on the whole key space.

use super::super::command::{SpaceCommand, syntax};
use super::super::door::{NO_MEMORY, Reads};
use super::super::glob::{self, MAX_PATTERN, Matcher};
use super::super::reply::Reply;
use super::super::{errors, parse};
use super::Session;
use bytes::Bytes;
use futures::StreamExt as _;
use kv_core::client::Scan;
use std::ops::Bound;
use std::sync::PoisonError;

/// How many keys one `SCAN` visits at most.
const MAX_COUNT: usize = 1000;
/// `RANDOMKEY` chooses among so many keys at most, because it has to visit them.
const MAX_RANDOM: u64 = 10_000;

/// The options of `SCAN`.
#[derive(Debug)]
struct ScanOptions {
    pattern: Option<Bytes>,
    count: usize,
    /// Whether values of the wanted type are wanted at all: all values are strings.
    is_type_right: bool,
}

impl ScanOptions {
    fn parse(words: &[Bytes]) -> Result<Self, Reply> {
        let mut options = Self { pattern: None, count: 10, is_type_right: true };
        for pair in words.chunks(2) {
            let [name, value] = pair else { return Err(syntax()) };
            match &name.to_ascii_uppercase()[..] {
                b"MATCH" => options.pattern = Some(check_pattern(value)?.clone()),
                b"COUNT" => {
                    let count = super::super::command::integer(value)?;
                    let count = usize::try_from(count).ok().filter(|count| *count > 0).ok_or_else(syntax)?;
                    options.count = count.min(MAX_COUNT);
                }
                b"TYPE" => options.is_type_right = value.eq_ignore_ascii_case(b"string"),
                _ => return Err(syntax()),
            }
        }
        Ok(options)
    }

    async fn allow(&self, matcher: &mut Matcher, key: &[u8]) -> bool {
        match &self.pattern {
            _ if !self.is_type_right => false,
            Some(pattern) => matcher.matches(pattern, key).await,
            None => true,
        }
    }
}

fn check_pattern(pattern: &Bytes) -> Result<&Bytes, Reply> {
    let is_short = pattern.len() <= MAX_PATTERN;
    is_short.then_some(pattern).ok_or_else(|| {
        Reply::error(format!(
            "ERR the pattern has {} bytes: patterns have up to {MAX_PATTERN}",
            pattern.len()
        ))
    })
}

/// The first key after all keys with this prefix; none if there is no such key.
fn after_prefix(prefix: &[u8]) -> Bound<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return Bound::Excluded(end);
        }
    }
    Bound::Unbounded
}

impl Session {
    pub(super) async fn run_on_space(&self, command: SpaceCommand, request: &[Bytes]) -> Reply {
        let done = match command {
            SpaceCommand::Count => self.count().await,
            SpaceCommand::Flush => self.remove_all(request).await,
            SpaceCommand::Keys => self.all_keys(&request[1]).await,
            SpaceCommand::Random => self.random_key().await,
            SpaceCommand::Scan => self.scan(request).await,
        };
        done.unwrap_or_else(|error| error)
    }

    fn keys_of(&self, scan: Scan) -> Scan {
        let scan = scan.keys_only();
        if self.reads == Reads::Local { scan.local() } else { scan }
    }

    async fn count_keys(&self) -> Result<u64, Reply> {
        let count = self.door.client.count("");
        let count = if self.reads == Reads::Local { count.local() } else { count };
        count.await.map_err(|error| errors::read(&error))
    }

    async fn count(&self) -> Result<Reply, Reply> {
        Ok(Reply::Integer(i64::try_from(self.count_keys().await?).unwrap_or(i64::MAX)))
    }

    async fn remove_all(&self, request: &[Bytes]) -> Result<Reply, Reply> {
        let is_mode =
            |word: &Bytes| word.eq_ignore_ascii_case(b"SYNC") || word.eq_ignore_ascii_case(b"ASYNC");
        if !matches!(request, [_]) && !matches!(request, [_, mode] if is_mode(mode)) {
            return Err(syntax());
        }
        // Keys are removed in several steps, of which only the last may have failed.
        self.door.client.delete_prefix("").await.map_err(|error| {
            Reply::error(format!("UNKNOWN a part of the keys may have been removed: {error}"))
        })?;
        Ok(Reply::OK)
    }

    async fn all_keys(&self, pattern: &Bytes) -> Result<Reply, Reply> {
        let prefix = glob::prefix(check_pattern(pattern)?);
        let stream = self.keys_of(self.door.client.scan(&prefix)).stream();
        let mut stream = std::pin::pin!(stream);
        let (mut matcher, mut share) = (Matcher::default(), self.door.memory.share());
        let (mut keys, mut bytes, max) = (Vec::new(), 0, self.door.options.max_reply_bytes);
        while let Some(found) = stream.next().await {
            let (key, _) = found.map_err(|error| errors::read(&error))?;
            if matcher.matches(pattern, &key).await {
                bytes += key.len() + 64;
                if bytes > max {
                    return Err(Reply::error(format!(
                        "ERR the reply would have more than {max} bytes: use SCAN"
                    )));
                }
                if !share.set(bytes) {
                    return Err(Reply::error(format!("TRYAGAIN {NO_MEMORY}")));
                }
                keys.push(Reply::Bulk(key));
            }
        }
        Ok(Reply::Array(keys))
    }

    async fn random_key(&self) -> Result<Reply, Reply> {
        let count = self.count_keys().await?.min(MAX_RANDOM);
        if count == 0 {
            return Ok(Reply::Null);
        }
        let skipped = usize::try_from(fastrand::u64(..count)).unwrap_or(0);
        let scan = self.keys_of(self.door.client.scan("")).limit(skipped + 1);
        let found = scan.await.map_err(|error| errors::read(&error))?;
        Ok(Reply::value(found.into_iter().next_back().map(|(key, _)| key)))
    }

    async fn scan(&self, request: &[Bytes]) -> Result<Reply, Reply> {
        let options = ScanOptions::parse(&request[2..])?;
        let number = std::str::from_utf8(&request[1]).ok().filter(|_| parse::integer(&request[1]).is_some());
        let cursor = number.and_then(|text| text.parse::<u64>().ok());
        let cursor = cursor.ok_or_else(|| Reply::error("ERR invalid cursor"))?;
        let prefix = options.pattern.as_ref().map(|pattern| glob::prefix(pattern)).unwrap_or_default();
        let start = if cursor == 0 {
            Bound::Included(prefix.clone())
        } else {
            let cursors = self.door.cursors.lock().unwrap_or_else(PoisonError::into_inner);
            let key = cursors.key(cursor).ok_or_else(|| {
                Reply::error(
                    "ERR unknown cursor: it is too old, or it comes from another member. Start again with cursor 0",
                )
            })?;
            Bound::Excluded(key.to_vec())
        };
        let scan = self.door.client.scan_range((start, after_prefix(&prefix)));
        let found = self.keys_of(scan).limit(options.count).await.map_err(|error| errors::read(&error))?;
        let is_last = found.len() < options.count;
        let next = match found.last() {
            Some((last, _)) if !is_last => {
                let last = Bytes::copy_from_slice(last);
                self.door.cursors.lock().unwrap_or_else(PoisonError::into_inner).after(last)
            }
            _ => 0,
        };
        let (mut keys, mut matcher) = (Vec::new(), Matcher::default());
        for (key, _) in found {
            if options.allow(&mut matcher, &key).await {
                keys.push(Reply::Bulk(key));
            }
        }
        Ok(Reply::Array(vec![Reply::text(next.to_string()), Reply::Array(keys)]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_the_next_key() {
        assert_eq!(after_prefix(b"ab"), Bound::Excluded(b"ac".to_vec()));
        assert_eq!(after_prefix(b"a\xff\xff"), Bound::Excluded(b"b".to_vec()));
        assert_eq!(after_prefix(b"\xff"), Bound::Unbounded);
        assert_eq!(after_prefix(b""), Bound::Unbounded);
    }
}
