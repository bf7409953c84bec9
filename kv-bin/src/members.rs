//! The status of each member, as `kv status` and `kv top` show it.

use crate::encoding::printable;
use crate::output::{self, BAD, Cell, GOOD, NOTE};
use anstyle::Style;
use kv_core::Client;
use kv_core::client::MemberReport;
use kv_core::config::Role;
use kv_core::node::{MemberState, MemberStatus, Op};
use kv_doors::http::{explain, status_fields};
use serde_json::{Value, json};

/// One member: the status that it reported, or why there is none.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) id: u8,
    pub(crate) role: Role,
    pub(crate) address: String,
    pub(crate) status: Result<MemberStatus, String>,
}

impl From<MemberReport> for Seen {
    fn from(report: MemberReport) -> Self {
        let MemberReport { id, address, role, status, .. } = report;
        Self { id: id.get(), role, address, status: status.map_err(|error| explain(&error)) }
    }
}

/// Asks all members for their status.
pub(crate) async fn look(client: &Client) -> Vec<Seen> {
    client.cluster_status().await.into_iter().map(Seen::from).collect()
}

/// The serving primary: of the members that claim to be primary, the one with the newest view.
pub(crate) fn primary<'a>(members: impl IntoIterator<Item = &'a Seen>) -> Option<&'a MemberStatus> {
    newest_primary(members.into_iter().filter_map(|seen| seen.status.as_ref().ok()))
}

/// The same, among those that have answered.
pub(crate) fn newest_primary<'a>(
    answers: impl IntoIterator<Item = &'a MemberStatus>,
) -> Option<&'a MemberStatus> {
    let primaries = answers.into_iter().filter(|status| status.state == MemberState::Primary);
    primaries.max_by_key(|status| status.view)
}

impl Seen {
    pub(crate) fn json(&self) -> Value {
        let object = json!({ "id": self.id, "address": self.address, "role": self.role });
        let fields = match &self.status {
            Ok(status) => status_fields(status),
            Err(error) => json!({ "error": error }),
        };
        merged(object, fields)
    }

    /// The cells of its row: those that `rest` returns for its status, or why there is none.
    pub(crate) fn row(&self, rest: impl FnOnce(&MemberStatus) -> Vec<Cell>) -> Vec<Cell> {
        let mut row = vec![Cell::text(self.id), Cell::text(self.role), Cell::text(&self.address)];
        match &self.status {
            Ok(status) => {
                row.push(state(status));
                row.extend(rest(status));
            }
            Err(error) => row.push(Cell::text(format!("no answer: {error}")).with(BAD)),
        }
        row
    }
}

fn state(status: &MemberStatus) -> Cell {
    Cell::text(status.state).with(match status.state {
        MemberState::Primary => GOOD,
        MemberState::Backup => Style::new(),
        MemberState::Damaged => BAD,
        _ => NOTE,
    })
}

/// The end of the longest log.
pub(crate) fn head<'a>(members: impl Iterator<Item = &'a Seen>) -> Op {
    members.filter_map(|seen| seen.status.as_ref().ok()).map(|status| status.head).max().unwrap_or_default()
}

/// How many entries of the longest log this member has not applied. While it fetches a state, none counts as applied.
pub(crate) fn lag(head: Op, status: &MemberStatus) -> u64 {
    head.distance_from(status.applied)
}

/// A table of members, roles, view, commit, lag and last failover.
pub(crate) fn table(members: &[Seen]) -> String {
    let head = head(members.iter());
    let row = |status: &MemberStatus| {
        vec![
            Cell::number(status.view),
            Cell::number(status.commit),
            Cell::number(status.applied),
            Cell::number(lag(head, status)),
            Cell::number(status.last_failover_ms.map_or("-".to_owned(), |ms| format!("{ms} ms"))),
            Cell::number(format!("{} s", status.uptime_ms / 1000)),
        ]
    };
    let rows: Vec<_> = members.iter().map(|seen| seen.row(row)).collect();
    let header = ["id", "role", "address", "state", "view", "commit", "applied", "lag", "failover", "up"];
    output::table(&header, &rows)
}

/// A line for each member, with the same columns in every version: id, address, role, state, lag and version, separated
/// by tabs. A member that does not answer has the state `unreachable`, and `-` for what it has not reported.
pub(crate) fn lines(members: &[Seen]) -> String {
    let head = head(members.iter());
    let line = |seen: &Seen| {
        let (state, lag, version) = match &seen.status {
            Ok(status) => (status.state.to_string(), lag(head, status).to_string(), status.version.as_str()),
            Err(_) => ("unreachable".to_owned(), "-".to_owned(), "-"),
        };
        let Seen { id, role, address, .. } = seen;
        printable(&format!("{id}\t{address}\t{role}\t{state}\t{lag}\t{version}\n"))
    };
    members.iter().map(line).collect()
}

/// The same as JSON objects, one for each member.
pub(crate) fn objects(members: &[Seen]) -> Vec<Value> {
    let head = head(members.iter());
    let object = |seen: &Seen| {
        let Seen { id, role, address, .. } = seen;
        let object = json!({ "id": id, "address": address, "role": role });
        let more = match &seen.status {
            Ok(status) => {
                json!({ "state": status.state, "lag": lag(head, status), "version": status.version })
            }
            Err(error) => json!({ "state": "unreachable", "lag": null, "version": null, "error": error }),
        };
        merged(object, more)
    };
    members.iter().map(object).collect()
}

/// One object with the fields of both.
fn merged(mut object: Value, fields: Value) -> Value {
    if let (Value::Object(object), Value::Object(fields)) = (&mut object, fields) {
        object.extend(fields);
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The log is complete, and the state is still being fetched.
    #[test]
    fn a_member_without_a_state_lags() {
        let status: MemberStatus = serde_json::from_value(json!({
            "id": 2, "role": "data", "state": "backup", "view": 0, "primary": 0, "head": 4858, "commit": 4858,
            "applied": 0, "revision": 0, "checkpoint": 0, "last_failover_ms": null, "peers": [],
            "load": kv_core::node::Load::default(), "uptime_ms": 1, "version": "0.1.0",
        }))
        .unwrap();
        assert_eq!(lag(status.head, &status), 4858);
    }
}
