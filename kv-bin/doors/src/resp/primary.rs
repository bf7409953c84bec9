//! Which member is the primary, for `SENTINEL` and for subscribers of `+switch-master`.

use super::door::Door;
use kv_core::config::Role;
use kv_core::node::MemberState;
use std::sync::Arc;
use std::time::Duration;

/// How often the primary is looked up while somebody subscribes to its changes.
const PERIOD: Duration = Duration::from_millis(250);

/// The members as they have reported themselves.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Members {
    pub(crate) primary: Option<u8>,
    /// The members that hold data, in the order of their ids, and whether they answer.
    pub(crate) data: Vec<(u8, bool)>,
    /// All members, witnesses included.
    pub(crate) count: usize,
    pub(crate) answering: usize,
}

impl Door {
    pub(crate) async fn members(&self) -> Members {
        let reports = self.client.cluster_status().await;
        let answers = reports.iter().filter_map(|report| report.status.as_ref().ok());
        let primaries = answers.clone().filter(|status| status.state == MemberState::Primary);
        let primary = primaries.max_by_key(|status| status.view).map(|status| status.id.get());
        let data = reports.iter().filter(|report| report.role == Role::Data);
        Members {
            primary,
            data: data.map(|report| (report.id.get(), report.status.is_ok())).collect(),
            count: reports.len(),
            answering: answers.count(),
        }
    }

    /// The host and the port of a member's door, if it is known.
    pub(crate) fn door_of(&self, member: u8) -> Option<(String, u16)> {
        let (_, address) = self.options.doors.iter().find(|(id, _)| *id == member)?;
        let (host, port) = address.rsplit_once(':')?;
        Some((host.trim_matches(['[', ']']).to_owned(), port.parse().ok()?))
    }
}

/// Looks up the primary again and again while a connection subscribes to its changes, and tells these connections.
pub(crate) async fn follow(door: &Arc<Door>) {
    loop {
        tokio::time::sleep(PERIOD).await;
        if door.primary.receiver_count() == 0 {
            continue;
        }
        let Some(primary) = door.members().await.primary else { continue };
        door.primary.send_if_modified(|known| {
            let is_new = *known != Some(primary);
            *known = Some(primary);
            is_new
        });
    }
}
