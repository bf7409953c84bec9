//! The member list in the state, from epoch 1 on.

use crate::config::Configuration;
use crate::engine::{EngineError, Row, Rows};

/// The name of the row.
const MEMBERS: &[u8] = b"members";

/// The configuration of the epoch of the entries that follow; `None` in epoch 0.
pub(super) fn load(rows: &Rows) -> Result<Option<Box<Configuration>>, EngineError> {
    let Some(bytes) = rows.get(MEMBERS)? else { return Ok(None) };
    let configuration = Configuration::decode(&bytes).map(Box::new);
    configuration.map(Some).ok_or_else(|| EngineError::damaged("its member list cannot be read"))
}

pub(super) fn row(configuration: &Configuration) -> Row {
    (MEMBERS.to_vec(), Some(configuration.encode()))
}
