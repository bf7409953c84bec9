//! Files that a crash has left.

use super::EngineError;
use super::manifest::{self, Manifest, NEW};
use super::runs::{RunMeta, number_of};
use super::store::{ASIDE, NAME, STAGING};
use crate::storage::Storage;
use std::collections::BTreeSet;

/// Removes the files that no manifest names: a crash has left them. Nobody may write files meanwhile. Without a state,
/// only those are removed that belong to a transfer: perhaps only the manifest of the others was moved away.
pub(super) fn remove_orphans(storage: &dyn Storage) -> Result<(), EngineError> {
    let names = storage.list().map_err(|error| EngineError::io("look for", error))?;
    let unfinished = [NAME, ASIDE, STAGING].map(|name| format!("{name}{NEW}"));
    let mut orphans: Vec<&str> =
        names.iter().filter(|name| unfinished.contains(name)).map(String::as_str).collect();
    let files: Vec<(u64, &str)> =
        names.iter().filter_map(|name| Some((number_of(name)?, name.as_str()))).collect();
    if !files.is_empty() {
        // Files of this number and later ones are removed.
        let mut least = None::<u64>;
        let mut named = BTreeSet::new();
        for name in [STAGING, ASIDE, NAME] {
            match Manifest::read(storage, name, false) {
                Ok(found) => {
                    named.extend(found.iter().flat_map(|found| &found.runs).flat_map(RunMeta::numbers));
                    let first =
                        found.and_then(|found| if name == NAME { Some(0) } else { found.first_received() });
                    least = first.or(least);
                }
                // A state of the former format is one file, and names no others.
                Err(EngineError::Format { found, .. }) if found <= manifest::ONE_FILE => {}
                // It may name any of them.
                Err(error) if error.is_of_content() || matches!(error, EngineError::Format { .. }) => {
                    return Ok(());
                }
                // So may one that cannot be read. It is not needed, or whoever needs it reports that.
                Err(EngineError::Io { .. }) if name != NAME => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        let is_orphan = |number: u64| !named.contains(&number) && least.is_some_and(|least| number >= least);
        orphans.extend(files.into_iter().filter(|(number, _)| is_orphan(*number)).map(|(_, name)| name));
    }
    if orphans.is_empty() {
        return Ok(());
    }
    // The names of the manifests may not be durable yet. After a power cut, an older one may be there, which names what
    // is removed here.
    storage.sync_directory().map_err(|error| EngineError::io(EngineError::SYNC_NAMES, error))?;
    orphans.into_iter().try_for_each(|name| manifest::remove(storage, name))
}
