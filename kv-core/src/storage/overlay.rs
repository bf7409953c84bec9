//! A directory that looks as if it could be written: changes stay in memory, and none reaches the disk.

use super::{File, Storage};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The unit of what is kept in memory of a changed file.
const BLOCK: u64 = 4096;

/// See the module. What is changed takes memory: it is for those who write little.
#[derive(Debug)]
pub(crate) struct Overlay {
    below: Arc<dyn Storage>,
    /// The files that were opened, created or renamed here; `None` for those that were removed.
    files: Mutex<BTreeMap<String, Option<Arc<Changed>>>>,
}

impl Overlay {
    pub(crate) fn new(below: Arc<dyn Storage>) -> Self {
        Self { below, files: Mutex::default() }
    }

    /// The file of this name.
    fn find(&self, files: &mut Files, name: &str) -> io::Result<Arc<Changed>> {
        if let Some(known) = files.get(name) {
            return known.clone().ok_or_else(|| io::ErrorKind::NotFound.into());
        }
        let below = self.below.open(name)?;
        let len = below.len()?;
        let content = Content { len, intact: len, blocks: BTreeMap::new() };
        let file = Arc::new(Changed { below: Some(below), content: Mutex::new(content) });
        files.insert(name.to_owned(), Some(file.clone()));
        Ok(file)
    }
}

type Files = BTreeMap<String, Option<Arc<Changed>>>;

impl Storage for Overlay {
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        Ok(self.find(&mut lock(&self.files), name)?)
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let mut files = lock(&self.files);
        match self.find(&mut files, name) {
            Ok(_) => return Err(io::ErrorKind::AlreadyExists.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let file = Arc::new(Changed { below: None, content: Mutex::default() });
        files.insert(name.to_owned(), Some(file.clone()));
        Ok(file)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = lock(&self.files);
        let file = self.find(&mut files, from)?;
        files.insert(from.to_owned(), None);
        files.insert(to.to_owned(), Some(file));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut files = lock(&self.files);
        self.find(&mut files, name)?;
        files.insert(name.to_owned(), None);
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names: BTreeSet<String> = self.below.list()?.into_iter().collect();
        for (name, file) in lock(&self.files).iter() {
            if file.is_some() {
                names.insert(name.clone())
            } else {
                names.remove(name)
            };
        }
        Ok(names.into_iter().collect())
    }

    fn sync_directory(&self) -> io::Result<()> {
        Ok(())
    }

    fn check_names(&self) -> io::Result<()> {
        Ok(())
    }
}

/// A file of which some blocks are changed.
#[derive(Debug)]
struct Changed {
    below: Option<Arc<dyn File>>,
    content: Mutex<Content>,
}

#[derive(Debug, Default)]
struct Content {
    len: u64,
    /// How much of the file below still counts.
    intact: u64,
    blocks: BTreeMap<u64, Box<[u8]>>,
}

impl Changed {
    /// Reads bytes of one block.
    fn read_block(&self, content: &Content, out: &mut [u8], at: u64) -> io::Result<()> {
        if let Some(block) = content.blocks.get(&(at / BLOCK)) {
            let start = usize_of(at % BLOCK);
            out.copy_from_slice(&block[start..start + out.len()]);
            return Ok(());
        }
        let below = usize_of(content.intact.saturating_sub(at)).min(out.len());
        let (known, rest) = out.split_at_mut(below);
        rest.fill(0);
        match &self.below {
            Some(file) if !known.is_empty() => file.read_at(known, at),
            Some(_) | None => Ok(()),
        }
    }

    fn write_block(&self, content: &mut Content, data: &[u8], at: u64) -> io::Result<()> {
        let number = at / BLOCK;
        if !content.blocks.contains_key(&number) {
            let mut block = vec![0; usize_of(BLOCK)];
            self.read_block(content, &mut block, number * BLOCK)?;
            content.blocks.insert(number, block.into());
        }
        let start = usize_of(at % BLOCK);
        let block = content.blocks.get_mut(&number).expect("it was inserted");
        block[start..start + data.len()].copy_from_slice(data);
        Ok(())
    }
}

impl File for Changed {
    fn read_at(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        let content = lock(&self.content);
        if offset.saturating_add(buffer.len() as u64) > content.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if content.blocks.is_empty() && offset.saturating_add(buffer.len() as u64) <= content.intact {
            return self.below.as_ref().map_or(Ok(()), |file| file.read_at(buffer, offset));
        }
        while !buffer.is_empty() {
            let len = usize_of(BLOCK - offset % BLOCK).min(buffer.len());
            let (now, rest) = buffer.split_at_mut(len);
            self.read_block(&content, now, offset)?;
            (buffer, offset) = (rest, offset + len as u64);
        }
        Ok(())
    }

    fn write_at(&self, mut data: &[u8], mut offset: u64) -> io::Result<()> {
        let mut content = lock(&self.content);
        while !data.is_empty() {
            let len = usize_of(BLOCK - offset % BLOCK).min(data.len());
            let (now, rest) = data.split_at(len);
            self.write_block(&mut content, now, offset)?;
            (data, offset) = (rest, offset + len as u64);
        }
        content.len = content.len.max(offset);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.below.as_ref().map_or(Ok(()), |file| file.drop_cache())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.content).len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut content = lock(&self.content);
        if len < content.len {
            content.blocks.split_off(&len.div_ceil(BLOCK));
            if let Some(block) = content.blocks.get_mut(&(len / BLOCK)) {
                block[usize_of(len % BLOCK)..].fill(0);
            }
        }
        content.intact = content.intact.min(len);
        content.len = len;
        Ok(())
    }
}

fn usize_of(within: u64) -> usize {
    usize::try_from(within).unwrap_or(usize::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::super::simulated::Disk;
    use super::*;

    #[test]
    fn it_is_a_storage() {
        super::super::tests::conformance(&Overlay::new(Disk::new().storage()));
    }

    /// Whatever is done to it, it reads as a disk of its own would, and what is below stays.
    #[test]
    fn changes_are_read_back_and_do_not_reach_what_is_below() {
        for seed in 0..200 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let below = Disk::new();
            for name in ["a", "b"] {
                let file = below.storage().create(name).unwrap();
                file.write_at(&vec![7; rng.usize(1..20_000)], 0).unwrap();
            }
            let (twin, before) = (below.fork(), ["a", "b"].map(|name| below.contents(name)));
            let both: [Arc<dyn Storage>; 2] = [Arc::new(Overlay::new(below.storage())), twin.storage()];
            for _ in 0..30 {
                let (action, name) = (rng.u8(..6), ["a", "b", "c"][rng.usize(..3)]);
                let (at, len, byte) = (rng.u64(..20_000), rng.usize(1..9000), rng.u8(..));
                let results = both.each_ref().map(|storage| -> io::Result<Vec<u8>> {
                    match action {
                        0 => storage.create(name).map(|_| Vec::new()),
                        1 => storage.remove(name).map(|()| Vec::new()),
                        2 => storage.rename(name, "b").map(|()| Vec::new()),
                        3 => storage.open(name)?.set_len(at).map(|()| Vec::new()),
                        4 => storage.open(name)?.write_at(&vec![byte; len], at).map(|()| Vec::new()),
                        _ => {
                            let mut found = vec![0; len];
                            storage.open(name)?.read_at(&mut found, at).map(|()| found)
                        }
                    }
                });
                let [one, other] = results.map(|result| result.map_err(|error| error.kind()));
                assert_eq!(one, other, "seed {seed}: {action} {name} {at} {len}");
                assert_eq!(both[0].list().unwrap(), both[1].list().unwrap());
            }
            assert_eq!(before, ["a", "b"].map(|name| below.contents(name)), "seed {seed}");
        }
    }
}
