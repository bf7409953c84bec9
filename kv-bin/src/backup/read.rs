//! `kv verify`: reads a whole backup.

use super::format::{Description, FileError, Item, Part, Reader, Summary};
use super::{summary_json, summary_text, unreadable};
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
    /// The backup.
    pub(crate) file: PathBuf,
}

/// `kv verify`.
pub(crate) fn verify(args: &VerifyArgs, json: bool) -> Result<(), Failure> {
    let (description, summary) = check(&args.file, json)?;
    let revision = description.revision;
    let object = Value::Object(summary_json(&args.file.display().to_string(), revision, &summary));
    print_either(json, &object, &summary_text(revision, &summary))
}

/// Opens a backup.
pub(super) fn open(file: &Path) -> Result<(Reader<BufReader<File>>, Description), Failure> {
    let opened = File::open(file)
        .map_err(|error| Failure::usage(format!("cannot read {}: {error}", file.display())))?;
    Reader::new(BufReader::with_capacity(1 << 20, opened)).map_err(|error| unreadable(file, &error))
}

/// Reads and checks all of a backup.
pub(super) fn check(file: &Path, json: bool) -> Result<(Description, Summary), Failure> {
    let (mut reader, description) = open(file)?;
    let mut progress = Progress::new("verified", json);
    loop {
        match reader.next().map_err(|error: FileError| unreadable(file, &error))? {
            Part::Records(items) => progress.add(items.len() as u64, items.iter().map(Item::bytes).sum()),
            Part::End(summary) => return Ok((description, summary)),
        }
    }
}
