//! `kv verify`: reads a whole backup, or the data directory of a stopped member.

use super::format::{Description, FileError, Item, Part, Reader, Summary};
use super::{MARKER, recover, summary_json, summary_text, unreadable};
use crate::commands::print_either;
use crate::failure::Failure;
use crate::progress::Progress;
use clap::Args;
use serde_json::Value;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

#[derive(Args, Debug)]
pub(crate) struct VerifyArgs {
    /// The backup file, or the data directory of a member that is stopped.
    #[arg(value_name = "FILE|DIRECTORY")]
    pub(crate) path: PathBuf,
}

/// `kv verify`.
pub(crate) fn verify(args: &VerifyArgs, json: bool) -> Result<(), Failure> {
    let file = &args.path;
    if file.is_dir() {
        return recover::verify(file, json);
    }
    let Checked { description, summary, .. } = check(file, &open(file)?, json)?;
    let revision = description.revision;
    let object = Value::Object(summary_json(&file.display().to_string(), revision, &summary));
    print_either(json, &object, &summary_text(revision, &summary))
}

/// Opens a backup.
pub(super) fn open(file: &Path) -> Result<File, Failure> {
    File::open(file).map_err(|error| Failure::usage(format!("cannot read {}: {error}", file.display())))
}

/// Begins to read a backup.
pub(super) fn begin<'a>(
    name: &Path,
    file: &'a File,
) -> Result<(Reader<BufReader<&'a File>>, Description), Failure> {
    Reader::new(BufReader::with_capacity(1 << 20, file)).map_err(|error| unreadable(name, &error))
}

/// A backup of which every byte was right.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) description: Description,
    pub(super) summary: Summary,
    pub(super) longest: Longest,
}

/// The lengths of the longest key and of the longest value, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Longest {
    pub(super) key: usize,
    pub(super) value: usize,
}

/// Reads and checks all of a backup.
pub(super) fn check(name: &Path, file: &File, json: bool) -> Result<Checked, Failure> {
    let (mut reader, description) = begin(name, file)?;
    let mut progress = Progress::new("verified", json);
    let mut longest = Longest::default();
    loop {
        match reader.next().map_err(|error: FileError| unreadable(name, &error))? {
            Part::Records(items) => {
                if items.iter().any(|item| item.key == MARKER) {
                    let name = name.display();
                    return Err(Failure::failed(format!("{name} is the backup of an incomplete restore")));
                }
                for Item { key, value, .. } in &items {
                    longest.key = longest.key.max(key.len());
                    longest.value = longest.value.max(value.len());
                }
                progress.add(items.len() as u64, items.iter().map(Item::bytes).sum());
            }
            Part::End(summary) => return Ok(Checked { description, summary, longest }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::format::Writer;
    use super::*;
    use bytes::Bytes;

    #[test]
    fn the_backup_of_an_incomplete_restore_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        for (key, is_whole) in [("\0kv/restored", true), (MARKER, false)] {
            let name = folder.path().join("backup");
            let file = File::create(&name).expect("a file");
            let description = Description::new("kv".to_owned(), 9, 1234);
            let mut writer = Writer::new(file, &description).expect("it is written");
            let item_key = Bytes::from_static(key.as_bytes());
            let value = Bytes::from_static(b"abc");
            let item = Item { key: item_key, value, created: 1, modified: 1, version: 1, ttl_ms: None };
            writer.add(&item).and_then(|()| writer.finish()).expect("it is written");
            let checked = check(&name, &open(&name).expect("it is there"), false);
            assert_eq!(checked.is_ok(), is_whole, "{checked:?}");
            if let Ok(Checked { longest, .. }) = checked {
                assert_eq!(longest, Longest { key: key.len(), value: 3 });
            }
        }
    }
}
