//! The member list in the state, from epoch 1 on.

use crate::config::Configuration;
use crate::engine::{EngineError, Row, Rows};
use crate::ids::Epoch;
use crate::message::NextEpoch;
use serde::{Deserialize, Serialize};

/// The name of the row.
const MEMBERS: &[u8] = b"members";

/// How many changes are remembered, so that retries of them can be answered.
const REMEMBERED: usize = 16;

/// The configuration of the present epoch, and the last changes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Members {
    pub(super) configuration: Configuration,
    /// The nonces of the last changes, and the epochs that they began; the newest last.
    changes: Vec<(u128, Epoch)>,
}

impl Members {
    /// What follows a stop.
    pub(super) fn after(before: Option<Self>, next: &NextEpoch, configuration: Configuration) -> Self {
        let mut changes = before.map(|before| before.changes).unwrap_or_default();
        changes.push((next.nonce, configuration.epoch));
        let old = changes.len().saturating_sub(REMEMBERED);
        changes.drain(..old);
        Self { configuration, changes }
    }

    /// The epoch that this change began; `None` if it began none, or too long ago.
    pub(super) fn began(&self, nonce: u128) -> Option<Epoch> {
        self.changes.iter().find(|(known, _)| *known == nonce).map(|(_, epoch)| *epoch)
    }

    pub(super) fn load(rows: &Rows) -> Result<Option<Self>, EngineError> {
        let Some(bytes) = rows.get(MEMBERS)? else { return Ok(None) };
        let members = postcard::from_bytes::<Self>(&bytes).ok();
        let members = members.filter(|it| it.configuration.is_sound() && it.changes.len() <= REMEMBERED);
        members.map(Some).ok_or_else(|| EngineError::damaged("its member list cannot be read"))
    }

    pub(super) fn row(&self) -> Row {
        (MEMBERS.to_vec(), Some(postcard::to_stdvec(self).expect("plain data always encodes")))
    }
}
