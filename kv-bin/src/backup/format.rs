//! The format of a backup file: blocks, each with checksums.
//!
//! ```text
//! file    first block, blocks of records, last block
//! block   "kvbk" | kind u8 | number u64 | length of the body u32 | checksum of these fields u64
//!         body | checksum of the body u64
//! record  length of the key u32 | length of the value u32
//!         created, modified, version, time to live in ms (0 for none): u64 each | key | value
//! ```
//! Numbers are little-endian, and checksums are XXH3. The body of the first block describes the backup, and that of the
//! last block counts what the file contains, with a checksum over all bytes before the last block; both are JSON. The
//! fields of a block have a checksum of their own, so that a damaged length is not trusted. The keys are in order, and
//! none is empty or repeated.

use bytes::{Buf as _, BufMut as _, Bytes};
use kv_core::client::Record;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};
use std::num::NonZeroU64;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// The version of the format. A file in another version is refused.
const FORMAT: u32 = 1;

const MAGIC: &[u8; 4] = b"kvbk";
const FIELDS: usize = 4 + 1 + 8 + 4;
const HEAD: usize = FIELDS + 8;

/// A block is written when its records have this many bytes. A larger record has a block of its own.
const BLOCK: usize = 256 << 10;

/// The longest body that is read: more than the largest key and the largest value that a cluster can allow.
const MOST: u32 = 1 << 30;

const FIRST: u8 = 1;
const RECORDS: u8 = 2;
const LAST: u8 = 3;

/// What a backup is of.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub(crate) struct Description {
    format: u32,
    /// The name of the cluster.
    pub(crate) cluster: String,
    /// The revision of the content.
    pub(crate) revision: u64,
    /// When the backup began, in milliseconds since 1970, by the clock of the cluster.
    pub(crate) taken_ms: u64,
}

impl Description {
    pub(crate) fn new(cluster: String, revision: u64, taken_ms: u64) -> Self {
        Self { format: FORMAT, cluster, revision, taken_ms }
    }
}

/// What a backup contains.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub(crate) struct Summary {
    pub(crate) keys: u64,
    /// The bytes of all keys and values.
    pub(crate) bytes: u64,
    /// The checksum over all bytes before the last block, in hexadecimal. It identifies the backup.
    pub(crate) checksum: String,
}

/// A key with its value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Item {
    pub(crate) key: Bytes,
    pub(crate) value: Bytes,
    pub(crate) created: u64,
    pub(crate) modified: u64,
    pub(crate) version: u64,
    /// How long the key was to be kept after the backup began.
    pub(crate) ttl_ms: Option<NonZeroU64>,
}

impl Item {
    /// A key with its record.
    pub(super) fn of(key: Bytes, record: Record, ttl_ms: Option<NonZeroU64>) -> Self {
        let Record { value, created, modified, version, .. } = record;
        Self { key, value, created: created.get(), modified: modified.get(), version, ttl_ms }
    }

    /// The bytes of its key and value.
    pub(super) fn bytes(&self) -> u64 {
        (self.key.len() + self.value.len()) as u64
    }
}

/// The numbers of a record, before its key.
const NUMBERS: usize = 2 * 4 + 4 * 8;

/// Why a file is not a whole backup, and the position of the mistake.
#[derive(Debug)]
pub(crate) enum FileError {
    /// The file cannot be read or written.
    Io(io::Error),
    /// The file is shorter than it was.
    Truncated { at: u64 },
    /// Some bytes are not what was written.
    Damaged { at: u64, what: &'static str },
    /// The file is in another version of the format.
    Version { found: u32 },
}

impl std::fmt::Display for FileError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Truncated { at } => write!(f, "it ends too early, at byte {at}"),
            Self::Damaged { at, what } => write!(f, "it is damaged: {what} in the block at byte {at}"),
            Self::Version { found } => {
                write!(f, "it has format {found}, and this version of kv reads format {FORMAT}")
            }
        }
    }
}

impl From<io::Error> for FileError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Writes a backup.
pub(crate) struct Writer<W> {
    out: W,
    number: u64,
    block: Vec<u8>,
    hash: Box<Xxh3>,
    keys: u64,
    bytes: u64,
}

impl<W: Write> Writer<W> {
    /// Begins the file.
    pub(crate) fn new(out: W, description: &Description) -> io::Result<Self> {
        let hash = Box::new(Xxh3::new());
        let mut writer = Self { out, number: 0, block: Vec::new(), hash, keys: 0, bytes: 0 };
        writer.write_block(FIRST, &json(description))?;
        Ok(writer)
    }

    /// Adds a record.
    pub(crate) fn add(&mut self, item: &Item) -> io::Result<()> {
        let Item { key, value, created, modified, version, ttl_ms } = item;
        let length = |bytes: &Bytes| {
            u32::try_from(bytes.len()).map_err(|_| io::Error::other("a key or a value has 4 GiB or more"))
        };
        let lengths = [length(key)?, length(value)?];
        if !self.block.is_empty() && self.block.len() + NUMBERS + key.len() + value.len() > BLOCK {
            self.flush_records()?;
        }
        lengths.into_iter().for_each(|length| self.block.put_u32_le(length));
        for number in [*created, *modified, *version, ttl_ms.map_or(0, NonZeroU64::get)] {
            self.block.put_u64_le(number);
        }
        self.block.extend_from_slice(key);
        self.block.extend_from_slice(value);
        self.keys += 1;
        self.bytes += (key.len() + value.len()) as u64;
        Ok(())
    }

    /// Ends the file, and returns the writer below.
    pub(crate) fn finish(mut self) -> io::Result<(W, Summary)> {
        self.flush_records()?;
        let checksum = format!("{:032x}", self.hash.digest128());
        let summary = Summary { keys: self.keys, bytes: self.bytes, checksum };
        self.write_block(LAST, &json(&summary))?;
        self.out.flush()?;
        Ok((self.out, summary))
    }

    fn flush_records(&mut self) -> io::Result<()> {
        if self.block.is_empty() {
            return Ok(());
        }
        let mut block = std::mem::take(&mut self.block);
        self.write_block(RECORDS, &block)?;
        block.clear();
        self.block = block;
        Ok(())
    }

    fn write_block(&mut self, kind: u8, body: &[u8]) -> io::Result<()> {
        let length = u32::try_from(body.len()).ok().filter(|length| *length <= MOST);
        let length = length.ok_or_else(|| io::Error::other("a record is too large for a backup"))?;
        let mut head = Vec::with_capacity(HEAD);
        head.extend_from_slice(MAGIC);
        head.put_u8(kind);
        head.put_u64_le(self.number);
        head.put_u32_le(length);
        head.put_u64_le(xxh3_64(&head));
        self.number += 1;
        for part in [&head[..], body, &xxh3_64(body).to_le_bytes()] {
            self.hash.update(part);
            self.out.write_all(part)?;
        }
        Ok(())
    }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain data always encodes")
}

/// Reads a backup, and checks every byte.
pub(crate) struct Reader<R> {
    input: R,
    number: u64,
    /// Where the block begins.
    at: u64,
    /// Where the next one begins.
    next: u64,
    hash: Box<Xxh3>,
    keys: u64,
    bytes: u64,
    /// The key of the last record.
    last: Vec<u8>,
}

impl<R: Read> Reader<R> {
    /// Reads the first block.
    pub(crate) fn new(input: R) -> Result<(Self, Description), FileError> {
        let hash = Box::new(Xxh3::new());
        let mut reader = Self { input, number: 0, at: 0, next: 0, hash, keys: 0, bytes: 0, last: Vec::new() };
        let (kind, body) = reader.read_block()?;
        if kind != FIRST {
            return Err(reader.damaged("the first block is missing"));
        }
        /// As much as every version has.
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let Version { format } = reader.decode(&body)?;
        if format != FORMAT {
            return Err(FileError::Version { found: format });
        }
        let description = reader.decode(&body)?;
        Ok((reader, description))
    }

    /// Reads the next records, or the end of the file, which is reached only if the whole file is right.
    pub(crate) fn next(&mut self) -> Result<Part, FileError> {
        let before = format!("{:032x}", self.hash.digest128());
        let (kind, body) = self.read_block()?;
        match kind {
            RECORDS => self.items(Bytes::from(body)).map(Part::Records),
            LAST => {
                let summary: Summary = self.decode(&body)?;
                let counted = Summary { keys: self.keys, bytes: self.bytes, checksum: before };
                if summary != counted {
                    return Err(self.damaged("the counts or the checksum of the whole file are wrong"));
                }
                if self.input.read(&mut [0])? != 0 {
                    self.at = self.next;
                    return Err(self.damaged("there are bytes after the last block"));
                }
                Ok(Part::End(summary))
            }
            _ => Err(self.damaged("the block is of an unknown kind")),
        }
    }

    fn items(&mut self, mut body: Bytes) -> Result<Vec<Item>, FileError> {
        let is_large = body.len() > BLOCK;
        let mut items = Vec::new();
        while !body.is_empty() {
            // A block is in memory as a whole, and short records take several times the bytes that they have here.
            if is_large && !items.is_empty() {
                return Err(self.damaged("there are too many records"));
            }
            if body.len() < NUMBERS {
                return Err(self.damaged("a record is incomplete"));
            }
            let lengths = [body.get_u32_le() as usize, body.get_u32_le() as usize];
            let [created, modified, version, ttl_ms] = std::array::from_fn(|_| body.get_u64_le());
            if body.len() < lengths[0].saturating_add(lengths[1]) {
                return Err(self.damaged("a record is incomplete"));
            }
            let [key, value] = lengths.map(|length| body.split_to(length));
            if key.is_empty() {
                return Err(self.damaged("a record has no key"));
            }
            if key[..] <= self.last[..] {
                return Err(self.damaged("a key is repeated, or not in order,"));
            }
            self.last.clear();
            self.last.extend_from_slice(&key);
            self.keys += 1;
            self.bytes += (key.len() + value.len()) as u64;
            items.push(Item { key, value, created, modified, version, ttl_ms: NonZeroU64::new(ttl_ms) });
        }
        Ok(items)
    }

    fn read_block(&mut self) -> Result<(u8, Vec<u8>), FileError> {
        self.at = self.next;
        let mut head = [0; HEAD];
        self.fill(&mut head)?;
        let mut fields = &head[4..];
        let (kind, number, length) = (fields.get_u8(), fields.get_u64_le(), fields.get_u32_le());
        if head[..4] != *MAGIC && self.number == 0 {
            return Err(self.damaged("it is no backup of kv, or the beginning is wrong,"));
        }
        if head[..4] != *MAGIC || fields.get_u64_le() != xxh3_64(&head[..FIELDS]) || length > MOST {
            return Err(self.damaged("the beginning does not match its checksum"));
        }
        if number != self.number {
            return Err(self.damaged("blocks are missing, repeated or exchanged"));
        }
        // Grows with what is really there.
        let mut body = Vec::new();
        let read = self.input.by_ref().take(u64::from(length)).read_to_end(&mut body)?;
        if read < length as usize {
            return Err(FileError::Truncated { at: self.at + (HEAD + read) as u64 });
        }
        let mut sum = [0; 8];
        self.next = self.at + (HEAD + body.len()) as u64;
        self.fill(&mut sum)?;
        if u64::from_le_bytes(sum) != xxh3_64(&body) {
            return Err(self.damaged("the content does not match its checksum"));
        }
        [&head[..], &body, &sum].into_iter().for_each(|part| self.hash.update(part));
        self.number += 1;
        Ok((kind, body))
    }

    /// Reads exactly these bytes, which begin at `next`.
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), FileError> {
        let mut filled = 0;
        while filled < bytes.len() {
            match self.input.read(&mut bytes[filled..]) {
                Ok(0) => return Err(FileError::Truncated { at: self.next + filled as u64 }),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.next += bytes.len() as u64;
        Ok(())
    }

    fn decode<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, FileError> {
        serde_json::from_slice(body).map_err(|_| self.damaged("the description cannot be read"))
    }

    const fn damaged(&self, what: &'static str) -> FileError {
        FileError::Damaged { at: self.at, what }
    }
}

/// A part of a backup.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Part {
    Records(Vec<Item>),
    /// The end.
    End(Summary),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(number: usize, value: usize) -> Item {
        Item {
            key: format!("key/{number:06}").into(),
            value: vec![u8::try_from(number % 251).expect("it fits"); value].into(),
            created: 1,
            modified: 2 + number as u64,
            version: 3,
            ttl_ms: NonZeroU64::new(number as u64 % 3),
        }
    }

    /// A backup of several blocks, one of which has a record that is larger than a block.
    fn backup() -> (Vec<Item>, Vec<u8>, Summary) {
        let mut items: Vec<Item> = (0..300).map(|number| item(number, 1000)).collect();
        items.push(item(300, BLOCK + 7));
        items.push(item(301, 0));
        let description = Description::new("test".to_owned(), 9, 1234);
        let mut writer = Writer::new(Vec::new(), &description).expect("memory");
        items.iter().for_each(|item| writer.add(item).expect("memory"));
        let (bytes, summary) = writer.finish().expect("memory");
        (items, bytes, summary)
    }

    fn read(bytes: &[u8]) -> Result<(Vec<Item>, Summary), FileError> {
        let (mut reader, _) = Reader::new(bytes)?;
        let mut items = Vec::new();
        loop {
            match reader.next()? {
                Part::Records(more) => items.extend(more),
                Part::End(summary) => return Ok((items, summary)),
            }
        }
    }

    #[test]
    fn what_was_written_is_read() {
        let (items, bytes, summary) = backup();
        assert_eq!(summary.keys, 302);
        let (found, end) = read(&bytes).expect("it is whole");
        assert_eq!((found, end), (items, summary));
        let (empty, _) = Writer::new(Vec::new(), &Description::new(String::new(), 0, 0))
            .and_then(Writer::finish)
            .expect("memory");
        assert_eq!(read(&empty).expect("it is whole").0, []);
    }

    #[test]
    fn every_flipped_byte_is_refused_with_its_block() {
        let (_, bytes, _) = backup();
        // Every byte of the first and the last kilobytes, and some of the others.
        let edges = (0..2_000).chain(bytes.len() - 500..bytes.len());
        for at in edges.chain((2_000..bytes.len()).step_by(997)) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            match read(&damaged).expect_err("it is damaged") {
                FileError::Damaged { at: block, .. } => assert!(block <= at as u64, "{block} for byte {at}"),
                error => panic!("byte {at}: {error}"),
            }
        }
    }

    #[test]
    fn every_truncation_is_refused_with_its_position() {
        let (_, bytes, _) = backup();
        for len in (0..bytes.len()).step_by(611).chain(bytes.len() - 300..bytes.len()) {
            match read(&bytes[..len]).expect_err("it is cut") {
                FileError::Truncated { at } => assert_eq!(at, len as u64),
                error => panic!("{len} bytes: {error}"),
            }
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(matches!(read(&longer), Err(FileError::Damaged { at, .. }) if at == bytes.len() as u64));
    }

    #[test]
    fn blocks_of_another_backup_or_in_another_order_are_refused() {
        let (items, bytes, _) = backup();
        let description = Description::new("test".to_owned(), 9, 1235);
        let mut writer = Writer::new(Vec::new(), &description).expect("memory");
        items.iter().for_each(|item| writer.add(item).expect("memory"));
        let (mut other, _) = writer.finish().expect("memory");
        // The same blocks after another beginning: only the checksum over the whole shows it.
        assert_eq!(other.len(), bytes.len());
        let first = HEAD + json(&description).len() + 8;
        other[first..].copy_from_slice(&bytes[first..]);
        let error = read(&other).expect_err("it is mixed").to_string();
        assert!(error.contains("whole file"), "{error}");
        let second = first
            + HEAD
            + u32::from_le_bytes(bytes[first + 13..first + 17].try_into().expect("four")) as usize
            + 8;
        let without = [&bytes[..first], &bytes[second..]].concat();
        let error = read(&without).expect_err("a block is missing").to_string();
        assert!(
            error
                .contains(&format!("blocks are missing, repeated or exchanged in the block at byte {first}")),
            "{error}"
        );
    }

    /// The checksums of such a file are right: another program has written it, or an error of kv.
    #[test]
    fn records_that_no_backup_has_are_refused() {
        let with_key = |key: &'static str, value| Item { key: key.into(), ..item(0, value) };
        let refusal = |items: &[Item]| {
            let description = Description::new("test".to_owned(), 9, 1234);
            let mut writer = Writer::new(Vec::new(), &description).expect("memory");
            items.iter().for_each(|item| writer.add(item).expect("memory"));
            let (bytes, _) = writer.finish().expect("memory");
            read(&bytes).err().map(|error| error.to_string())
        };
        assert_eq!(refusal(&[with_key("\0", 1), with_key("a", BLOCK), with_key("aa", 1)]), None);
        for (items, what) in [
            (vec![with_key("", 1)], "no key"),
            (vec![with_key("a", 1), with_key("b", 1), with_key("b", 1)], "repeated"),
            (vec![with_key("b", 1), with_key("a", 1)], "not in order"),
            // In different blocks.
            (vec![with_key("b", BLOCK), with_key("b", BLOCK)], "repeated"),
            (vec![with_key("b", BLOCK), with_key("a", 1)], "not in order"),
        ] {
            let refused = refusal(&items).expect("it is refused");
            assert!(refused.contains(what), "{refused}");
        }
    }

    #[test]
    fn a_large_block_has_one_record() {
        let body = |items: &[Item]| {
            let mut writer = Writer::new(Vec::new(), &Description::new(String::new(), 0, 0)).expect("memory");
            items
                .iter()
                .flat_map(|item| {
                    writer.block.clear();
                    writer.add(item).expect("memory");
                    std::mem::take(&mut writer.block)
                })
                .collect::<Vec<u8>>()
        };
        let refusal = |items: &[Item]| {
            let mut writer = Writer::new(Vec::new(), &Description::new(String::new(), 0, 0)).expect("memory");
            writer.write_block(RECORDS, &body(items)).expect("memory");
            writer.keys = items.len() as u64;
            writer.bytes = items.iter().map(Item::bytes).sum();
            let (bytes, _) = writer.finish().expect("memory");
            read(&bytes).err().map(|error| error.to_string())
        };
        assert_eq!(refusal(&[item(0, BLOCK)]), None);
        assert_eq!(refusal(&[item(0, BLOCK / 2), item(1, BLOCK / 4)]), None);
        let refused = refusal(&[item(0, BLOCK / 2), item(1, BLOCK / 2)]).expect("it is refused");
        assert!(refused.contains("too many records"), "{refused}");
    }

    #[test]
    fn another_version_is_named() {
        let description = Description { format: 7, ..Description::new(String::new(), 0, 0) };
        let (bytes, _) = Writer::new(Vec::new(), &description).and_then(Writer::finish).expect("memory");
        let error = read(&bytes).expect_err("another version").to_string();
        assert_eq!(error, "it has format 7, and this version of kv reads format 1");
    }
}
