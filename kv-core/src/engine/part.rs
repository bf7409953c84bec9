//! The parts of a stored state, and their tables in the B-tree.

use super::history::{CHANGED, CHANGES};
use bytes::Bytes;
use redb::TableDefinition;

/// Users' keys and their records.
pub(super) const DATA: TableDefinition<'static, &'static [u8], &'static [u8]> = TableDefinition::new("data");

/// Everything else that belongs to the state, by name.
pub(super) const ROWS: TableDefinition<'static, &'static [u8], &'static [u8]> = TableDefinition::new("rows");

/// The parts of a state, in the order in which they are transferred.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Part {
    Rows,
    Data,
    Changes,
    Changed,
}

impl Part {
    pub(super) const ALL: [Self; 4] = [Self::Rows, Self::Data, Self::Changes, Self::Changed];

    pub(super) const fn code(self) -> u8 {
        match self {
            Self::Rows => 0,
            Self::Data => 1,
            Self::Changes => 2,
            Self::Changed => 3,
        }
    }

    pub(super) fn of_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|part| part.code() == code)
    }

    pub(super) const fn table(self) -> TableDefinition<'static, &'static [u8], &'static [u8]> {
        match self {
            Self::Rows => ROWS,
            Self::Data => DATA,
            Self::Changes => CHANGES,
            Self::Changed => CHANGED,
        }
    }

    /// The place of a key in the order of a transfer.
    pub(super) fn place(self, key: &[u8]) -> Bytes {
        [&[self.code()], key].concat().into()
    }

    /// The parts after a place, and the key after which the first of them continues.
    pub(super) fn from_place(place: &[u8]) -> impl Iterator<Item = (Self, Option<&[u8]>)> {
        let begun = place.split_first().and_then(|(code, key)| Some((Self::of_code(*code)?, key)));
        Self::ALL.into_iter().filter_map(move |part| match begun {
            Some((current, _)) if part < current => None,
            Some((current, key)) if part == current => Some((part, Some(key))),
            Some(_) | None => Some((part, None)),
        })
    }
}

/// A row that a merge sets or, with `None`, removes.
pub(crate) type Row = (Vec<u8>, Option<Vec<u8>>);

/// A stored row: its name and value.
pub(crate) type StoredRow = (Vec<u8>, Vec<u8>);
