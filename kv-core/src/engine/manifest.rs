//! The manifest: which files make up the state. It is the file `state`, and is replaced as a whole, by another one
//! under the same name.
//!
//! ```text
//! copy:  magic [8] | format u32 | copy u32 | length u64 | hash of the content u128 | zeros | hash of the first 496 B
//! u128        | content | zeros up to 4 KiB
//! ```
//! Each of its two copies takes one half of the file. A copy that is not intact is replaced by the other one when the
//! state is opened.

use super::EngineError;
use super::history::HistoryRange;
use super::runs::RunMeta;
use crate::ids::{Anchor, Hash};
use crate::storage::{File, Storage};
use bytes::{Buf, BufMut, Bytes};
use serde::{Deserialize, Serialize};
use std::io;

const MAGIC: [u8; 8] = *b"kv-state";
const FORMAT: u32 = 5;
/// Up to this format, the state was a tree in this one file. Its head began in the same way.
pub(super) const ONE_FILE: u32 = 3;
const COPIES: usize = 2;
const HEAD: usize = 512;
const HASHED: usize = HEAD - 16;
const ALIGNED: usize = 4096;

/// What a manifest contains.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Manifest {
    /// The number of the next file, if it is free.
    pub(super) next_file: u64,
    /// The id of the next run.
    pub(super) next_run: u64,
    /// The newest first.
    pub(super) runs: Vec<RunMeta>,
    /// The length of the oldest run when a merge had made it of all that was older, and how much was needed then.
    pub(super) merged: Option<AllMerged>,
    /// Where the state is.
    pub(super) point: Option<Point>,
    /// How far a state has been received.
    pub(super) received: Option<Received>,
}

/// Where a state is. Its rows contain that too; here, it is known even if a bad block has those rows, so that the other
/// blocks can be sent to other members.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Point {
    pub(super) at: Anchor,
    pub(super) range: HistoryRange,
}

/// What the last merge of all runs into one left.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct AllMerged {
    /// The length of the files, and about how many bytes of them were needed.
    pub(super) bytes: u64,
    pub(super) needed: u64,
    /// How many rows removed a key: the history needs those.
    pub(super) removals: u64,
}

/// How far a state has been received.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Received {
    /// Files of this number and later ones belong to it.
    pub(super) first_file: u64,
    pub(super) progress: Bytes,
}

/// What the head of a copy says of the content behind it.
struct Head {
    len: usize,
    hash: u128,
}

impl Head {
    /// `None` if it is not intact.
    fn decode(head: &[u8; HEAD], copy: usize) -> Result<Option<Self>, EngineError> {
        let (hashed, hash) = head.split_at(HASHED);
        let mut input = hashed;
        let mut magic = [0; 8];
        input.copy_to_slice(&mut magic);
        if Hash::of(hashed).get().to_le_bytes() != hash || magic != MAGIC {
            return Ok(None);
        }
        let format = input.get_u32_le();
        if format != FORMAT {
            return Err(EngineError::Format { found: format, known: FORMAT });
        }
        let is_own = input.get_u32_le() as usize == copy;
        let len = usize::try_from(input.get_u64_le()).unwrap_or(usize::MAX);
        Ok(is_own.then(|| Self { len, hash: input.get_u128_le() }))
    }
}

impl Manifest {
    fn encode(&self) -> Vec<u8> {
        let content = postcard::to_stdvec(self).expect("plain data always encodes");
        let mut file = Vec::new();
        for copy in 0..COPIES {
            let mut head = [0; HEAD];
            let mut out = &mut head[..];
            out.put_slice(&MAGIC);
            out.put_u32_le(FORMAT);
            out.put_u32_le(u32::try_from(copy).expect("there are two"));
            out.put_u64_le(content.len() as u64);
            out.put_u128_le(Hash::of(&content).get());
            let hash = Hash::of(&head[..HASHED]).get();
            head[HASHED..].copy_from_slice(&hash.to_le_bytes());
            file.extend_from_slice(&head);
            file.extend_from_slice(&content);
            file.resize(file.len().next_multiple_of(ALIGNED), 0);
        }
        file
    }

    /// Reads the copy that takes the half of the file from `at`; `None` if it is not intact. Another file of this name
    /// may be very long: only what a head announces is read.
    fn read_copy(file: &dyn File, copy: usize, half: u64) -> Result<Option<Self>, EngineError> {
        let at = copy as u64 * half;
        let read = |bytes: &mut [u8], at| match file.read_at(bytes, at) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            done => done.map(|()| true).map_err(|error| EngineError::io("read", error)),
        };
        let mut head = [0; HEAD];
        if !read(&mut head, at)? {
            return Ok(None);
        }
        let Some(Head { len, hash }) = Head::decode(&head, copy)? else { return Ok(None) };
        if (len as u64).saturating_add(HEAD as u64) > half {
            return Ok(None);
        }
        let mut content = vec![0; len];
        let is_intact = read(&mut content, at + HEAD as u64)? && Hash::of(&content).get() == hash;
        Ok(if is_intact { postcard::from_bytes(&content).ok() } else { None })
    }

    /// The first file of a state that is being received.
    pub(super) fn first_received(&self) -> Option<u64> {
        self.received.as_ref().map(|received| received.first_file)
    }

    /// Makes it durable under this name, in the place of what was there. If there is no room, nothing is left of it.
    pub(super) fn write(&self, storage: &dyn Storage, name: &str) -> Result<(), EngineError> {
        let new = format!("{name}{NEW}");
        remove(storage, &new)?;
        if let Err(error) = self.write_new(storage, &new) {
            if error.is_full_disk() {
                remove(storage, &new)?;
            }
            return Err(error);
        }
        // The files that it names must not be lost when it is not.
        storage.sync_directory().map_err(|error| EngineError::io(EngineError::SYNC_NAMES, error))?;
        storage.rename(&new, name).map_err(|error| EngineError::io(EngineError::REPLACE, error))?;
        storage.sync_directory().map_err(|error| EngineError::io(EngineError::REPLACE, error))
    }

    fn write_new(&self, storage: &dyn Storage, name: &str) -> Result<(), EngineError> {
        let error = |error| EngineError::io("write", error);
        let file = storage.create(name).map_err(error)?;
        file.write_at(&self.encode(), 0).map_err(error)?;
        file.sync().map_err(|error| EngineError::io("sync", error))
    }

    /// Reads the manifest of this name; `None` if there is none. `mend`: replaces a copy that is not intact.
    pub(super) fn read(storage: &dyn Storage, name: &str, mend: bool) -> Result<Option<Self>, EngineError> {
        let file = match storage.open(name) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(EngineError::io("open", error)),
        };
        let len = file.len().map_err(|error| EngineError::io("read", error))?;
        let mut copies = [const { None }; COPIES];
        let mut failure = None;
        for (copy, found) in copies.iter_mut().enumerate() {
            match Self::read_copy(&*file, copy, len / COPIES as u64) {
                Ok(read) => *found = read,
                Err(error @ EngineError::Io { .. }) => failure = Some(error),
                Err(error) => return Err(error),
            }
        }
        drop(file);
        let is_whole = copies.iter().all(Option::is_some) && len.is_multiple_of((COPIES * ALIGNED) as u64);
        match (copies.into_iter().flatten().next(), failure) {
            (Some(manifest), _) => {
                if !is_whole {
                    tracing::warn!(name, mend, "a copy of the manifest of the state is damaged");
                    match if mend { manifest.write(storage, name) } else { Ok(()) } {
                        Err(error) if error.is_full_disk() => {
                            tracing::warn!(name, %error, "no room to mend it: the next start tries again");
                        }
                        done => done?,
                    }
                }
                Ok(Some(manifest))
            }
            (None, Some(error)) => Err(error),
            (None, None) => Err(EngineError::damaged(format!("no copy of the manifest in {name} is intact"))),
        }
    }
}

/// What the name of a file ends with until it is complete.
pub(super) const NEW: &str = ".new";

/// Removes a file, if it exists.
pub(super) fn remove(storage: &dyn Storage, name: &str) -> Result<(), EngineError> {
    match storage.remove(name) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(EngineError::io("remove", error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::storage::simulated::Disk;

    fn manifest(next_file: u64) -> Manifest {
        let runs = (0..300).map(|id| RunMeta { id, files: Vec::new(), clip: None, into: Some(7) }).collect();
        Manifest { next_file, runs, ..Manifest::default() }
    }

    #[test]
    fn any_flipped_bit_is_mended_from_the_other_copy() {
        let disk = Disk::new();
        let storage = disk.storage();
        assert_eq!(Manifest::read(&*storage, "state", true).unwrap(), None);
        manifest(7).write(&*storage, "state").unwrap();
        manifest(8).write(&*storage, "state").unwrap();
        let image = disk.contents("state").unwrap();
        for at in (0..image.len() as u64).step_by(7) {
            disk.flip_bit("state", at, 3);
            assert_eq!(Manifest::read(&*storage, "state", true).unwrap(), Some(manifest(8)));
            // Zeros that fill a copy count for nothing.
            if disk.contents("state").unwrap() != image {
                disk.put("state", image.clone());
            }
        }
        disk.flip_bit("state", 600, 3);
        Manifest::read(&*storage, "state", false).unwrap();
        assert_ne!(disk.contents("state").unwrap(), image);
        Manifest::read(&*storage, "state", true).unwrap();
        assert_eq!(disk.contents("state").unwrap(), image);
        assert_eq!(disk.names(), ["state"]);
    }

    /// A member with a full disk can still be started.
    #[test]
    fn a_full_disk_is_no_obstacle_to_what_is_intact() {
        let disk = Disk::new();
        let storage = disk.storage();
        manifest(7).write(&*storage, "state").unwrap();
        disk.flip_bit("state", 600, 3);
        for room in [0, 100, 5000] {
            disk.set_capacity(Some(disk.used() + room));
            assert_eq!(Manifest::read(&*storage, "state", true).unwrap(), Some(manifest(7)));
            assert_eq!(disk.names(), ["state"]);
        }
        disk.set_capacity(None);
        let broken = disk.contents("state");
        Manifest::read(&*storage, "state", true).unwrap();
        assert_ne!(disk.contents("state"), broken);
    }

    #[test]
    fn without_an_intact_copy_it_is_damaged() {
        let disk = Disk::new();
        let storage = disk.storage();
        manifest(7).write(&*storage, "state").unwrap();
        let image = disk.contents("state").unwrap();
        let half = image.len() / 2;
        let mut cases = vec![vec![], vec![0; 100], image[..image.len() / 2].to_vec(), vec![7; image.len()]];
        let mut both = image.clone();
        both[600] ^= 1;
        both[half + 600] ^= 1;
        cases.push(both);
        // A copy in the place of the other is none.
        let mut swapped = image;
        swapped.rotate_left(half);
        cases.push(swapped);
        for case in cases {
            disk.put("state", case.clone());
            let error = Manifest::read(&*storage, "state", true).unwrap_err();
            assert!(matches!(error, EngineError::Damaged { .. }), "{error}");
            assert_eq!(disk.contents("state").unwrap(), case, "nothing was changed");
        }
    }

    /// A state of the former format.
    pub(in super::super) fn of_former_format() -> Vec<u8> {
        let mut head = vec![0; HEAD];
        head[..8].copy_from_slice(&MAGIC);
        head[8] = 3;
        let hash = Hash::of(&head[..HASHED]).get();
        head[HASHED..].copy_from_slice(&hash.to_le_bytes());
        [head, vec![7; 1 << 20]].concat()
    }

    /// A state of the former format is a long file: only its head is read.
    #[test]
    fn of_a_file_of_another_format_only_the_head_is_read() {
        let disk = Disk::new();
        disk.put("state", of_former_format());
        disk.make_unreadable("state", HEAD as u64, 1 << 20);
        let error = Manifest::read(&*disk.storage(), "state", true).unwrap_err();
        assert!(matches!(error, EngineError::Format { found: ONE_FILE, known: FORMAT }), "{error}");
    }

    #[test]
    fn another_format_is_refused_with_its_version() {
        let disk = Disk::new();
        for format in [3, 4, 6] {
            let mut file = manifest(7).encode();
            file[8] = format;
            let hash = Hash::of(&file[..HASHED]).get();
            file[HASHED..HEAD].copy_from_slice(&hash.to_le_bytes());
            disk.put("state", file);
            let Err(EngineError::Format { found, known: FORMAT }) =
                Manifest::read(&*disk.storage(), "state", true)
            else {
                panic!("format {format} is refused")
            };
            assert_eq!(found, u32::from(format));
        }
    }
}
