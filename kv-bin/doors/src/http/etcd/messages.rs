//! The messages of etcd's gateway that several calls share.

use super::super::errors::Failure;
use super::json::{Blob, Flag, Int, blob, choices, is_default, number};
use crate::memory::Share;
use bytes::Bytes;
use kv_core::client::Record;
use serde::{Deserialize, Serialize};

/// The header of every answer. Unlike other fields, all of its fields are always there: in etcd, none of them can be
/// zero, and clients rely on that.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub(super) struct Header {
    #[serde(serialize_with = "number")]
    pub(super) cluster_id: u64,
    #[serde(serialize_with = "number")]
    pub(super) member_id: u64,
    #[serde(serialize_with = "number")]
    pub(super) revision: u64,
    #[serde(serialize_with = "number")]
    pub(super) raft_term: u64,
}

/// An answer that has only a header.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Done {
    pub(super) header: Header,
}

/// A key with its record.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub(super) struct KeyValue {
    #[serde(serialize_with = "blob")]
    pub(super) key: Bytes,
    #[serde(serialize_with = "number", skip_serializing_if = "is_default")]
    pub(super) create_revision: u64,
    #[serde(serialize_with = "number", skip_serializing_if = "is_default")]
    pub(super) mod_revision: u64,
    #[serde(serialize_with = "number", skip_serializing_if = "is_default")]
    pub(super) version: u64,
    #[serde(serialize_with = "blob", skip_serializing_if = "is_default")]
    pub(super) value: Bytes,
    #[serde(serialize_with = "number", skip_serializing_if = "is_default")]
    pub(super) lease: u64,
}

impl KeyValue {
    pub(super) fn new(key: Bytes, record: Record) -> Self {
        Self {
            key,
            create_revision: record.created.get(),
            mod_revision: record.modified.get(),
            version: record.version,
            lease: record.lease.map_or(0, |lease| lease.get()),
            value: record.value,
        }
    }

    /// About how many bytes it takes, in memory or in JSON.
    pub(super) fn weight(&self) -> usize {
        self.key.len() + self.value.len() + 128
    }
}

/// Counts the memory of records until they have been answered.
pub(super) fn count(records: &[KeyValue], share: &mut Share) -> Result<(), Failure> {
    // The answer in JSON takes more than the records, and both are there at the same time.
    let bytes = 3 * records.iter().map(KeyValue::weight).sum::<usize>();
    if share.add(bytes) { Ok(()) } else { Err(Failure::no_memory()) }
}

choices!(
    /// The order of the keys of a range.
    SortOrder { None = "NONE", Ascend = "ASCEND", Descend = "DESCEND" }
);

choices!(
    /// By what the keys of a range are sorted.
    SortTarget { Key = "KEY", Version = "VERSION", Create = "CREATE", Mod = "MOD", Value = "VALUE" }
);

#[derive(Deserialize, Clone, Debug, Default)]
#[serde(default)]
pub(super) struct RangeRequest {
    pub(super) key: Blob,
    #[serde(alias = "rangeEnd")]
    pub(super) range_end: Blob,
    pub(super) limit: Int,
    pub(super) revision: Int,
    #[serde(alias = "sortOrder")]
    pub(super) sort_order: SortOrder,
    #[serde(alias = "sortTarget")]
    pub(super) sort_target: SortTarget,
    pub(super) serializable: Flag,
    #[serde(alias = "keysOnly")]
    pub(super) keys_only: Flag,
    #[serde(alias = "countOnly")]
    pub(super) count_only: Flag,
    #[serde(alias = "minModRevision")]
    pub(super) min_mod_revision: Int,
    #[serde(alias = "maxModRevision")]
    pub(super) max_mod_revision: Int,
    #[serde(alias = "minCreateRevision")]
    pub(super) min_create_revision: Int,
    #[serde(alias = "maxCreateRevision")]
    pub(super) max_create_revision: Int,
}

#[derive(Deserialize, Clone, Debug, Default)]
#[serde(default)]
pub(super) struct PutRequest {
    pub(super) key: Blob,
    pub(super) value: Blob,
    pub(super) lease: Int,
    #[serde(alias = "prevKv")]
    pub(super) prev_kv: Flag,
    #[serde(alias = "ignoreValue")]
    pub(super) ignore_value: Flag,
    #[serde(alias = "ignoreLease")]
    pub(super) ignore_lease: Flag,
}

#[derive(Deserialize, Clone, Debug, Default)]
#[serde(default)]
pub(super) struct DeleteRangeRequest {
    pub(super) key: Blob,
    #[serde(alias = "rangeEnd")]
    pub(super) range_end: Blob,
    #[serde(alias = "prevKv")]
    pub(super) prev_kv: Flag,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct RangeResponse {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) header: Option<Header>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) kvs: Vec<KeyValue>,
    #[serde(skip_serializing_if = "is_default")]
    pub(super) more: bool,
    #[serde(serialize_with = "number", skip_serializing_if = "is_default")]
    pub(super) count: u64,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct PutResponse {
    pub(super) header: Header,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) prev_kv: Option<KeyValue>,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct DeleteRangeResponse {
    pub(super) header: Header,
    #[serde(serialize_with = "number", skip_serializing_if = "is_default")]
    pub(super) deleted: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) prev_kvs: Vec<KeyValue>,
}
