//! Which member is the primary, for `SENTINEL` and for subscribers of `+switch-master`.

use super::door::Door;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use kv_core::config::{MemberId, Role};
use kv_core::node::{MemberState, MemberStatus};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How often the primary is looked up while somebody subscribes to its changes.
const PERIOD: Duration = Duration::from_millis(250);
/// How long the other members may take to answer after the primary has.
const GRACE: Duration = Duration::from_millis(100);

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

impl Members {
    fn of(reports: &[(MemberId, Role, Option<MemberStatus>)]) -> Self {
        let answers = reports.iter().filter_map(|(_, _, status)| status.as_ref());
        let primaries = answers.clone().filter(|status| status.state == MemberState::Primary);
        let primary = primaries.max_by_key(|status| status.view).map(|status| status.id.get());
        let data = reports.iter().filter(|(_, role, _)| *role == Role::Data);
        Self {
            primary,
            data: data.map(|(id, _, status)| (id.get(), status.is_some())).collect(),
            count: reports.len(),
            answering: answers.count(),
        }
    }
}

impl Door {
    /// Asks all members. Once the primary is known, this does not wait longer than for a moment: clients of Sentinel do
    /// not wait for a member that hangs.
    pub(crate) async fn members(&self) -> Members {
        let Some(known) = self.members.get() else {
            let reports = self.client.cluster_status().await;
            let reports: Vec<_> =
                reports.into_iter().map(|report| (report.id, report.role, report.status.ok())).collect();
            self.members.get_or_init(|| reports.iter().map(|(id, role, _)| (*id, *role)).collect());
            return Members::of(&reports);
        };
        let mut reports: Vec<_> = known.iter().map(|(id, role)| (*id, *role, None)).collect();
        let ask = |(place, (id, _)): (usize, &(MemberId, Role))| {
            let id = *id;
            async move { (place, self.client.member_status(id).await) }
        };
        let mut asked: FuturesUnordered<_> = known.iter().enumerate().map(ask).collect();
        let mut end: Option<Instant> = None;
        loop {
            let answer = match end {
                Some(end) => timeout_at(end, asked.next()).await.unwrap_or(None),
                None => asked.next().await,
            };
            let Some((place, status)) = answer else { return Members::of(&reports) };
            if end.is_none() && status.as_ref().is_ok_and(|status| status.state == MemberState::Primary) {
                end = Some(Instant::now() + GRACE);
            }
            reports[place].2 = status.ok();
        }
    }

    /// The host and the port of a member's door, if it is known.
    pub(crate) fn door_of(&self, member: u8) -> Option<(String, u16)> {
        let (_, address) = self.options.doors.iter().find(|(id, _)| *id == member)?;
        let (host, port) = address.rsplit_once(':')?;
        Some((host.trim_matches(['[', ']']).to_owned(), port.parse().ok()?))
    }
}

/// Looks up the primary again and again while a connection subscribes to its changes, and notifies these connections.
pub(crate) async fn follow(door: &Arc<Door>) {
    // So that the first client does not have to wait until every member has answered.
    door.members().await;
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
