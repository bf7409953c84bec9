//! The metrics of a member, for Prometheus. `kv-core/guide/operating.md` says of each what to do when it is off.

use super::exposition::Exposition;
use kv_core::node::{MemberState, Metrics};
use std::fmt::Display;
use std::time::UNIX_EPOCH;

/// All states of a member.
const STATES: [MemberState; 6] = [
    MemberState::Forming,
    MemberState::Primary,
    MemberState::Backup,
    MemberState::ViewChange,
    MemberState::CatchingUp,
    MemberState::Damaged,
];

/// Everything as text.
pub(super) fn text(metrics: &Metrics, cluster: &str) -> String {
    let mut out = Exposition::default();
    member(&mut out, metrics, cluster);
    log(&mut out, metrics);
    peers(&mut out, metrics);
    clients(&mut out, metrics);
    disk(&mut out, metrics);
    out.finish()
}

fn member(out: &mut Exposition, metrics: &Metrics, cluster: &str) {
    let status = &metrics.status;
    out.gauges("kv_info", "What runs here. Always 1.", |sample| {
        let labels: [(&str, &dyn Display); 4] = [
            ("cluster", &cluster),
            ("member", &status.id.get()),
            ("role", &status.role),
            ("version", &status.version),
        ];
        sample(&labels, &1);
    });
    out.gauge("kv_uptime_seconds", "How long the member has run.", status.uptime_ms as f64 / 1000.0);
    out.gauges("kv_state", "What the member is doing: 1 for its state, and 0 for all others.", |sample| {
        STATES.iter().for_each(|state| sample(&[("state", state)], &u8::from(*state == status.state)));
    });
    let has_primary = u8::from(status.primary.is_some());
    out.gauge("kv_has_primary", "1 if the member knows a primary that serves, and 0 otherwise.", has_primary);
    out.gauge("kv_view", "The number of the member's view, within its epoch.", metrics.view_number);
    out.counter(
        "kv_view_changes_total",
        "How often the member has moved to a later view.",
        metrics.view_changes,
    );
}

fn log(out: &mut Exposition, metrics: &Metrics) {
    let status = &metrics.status;
    out.gauge("kv_head_op", "The last op of the member's log.", status.head);
    out.gauge("kv_commit_op", "The last op that the member knows to be committed.", status.commit);
    out.gauge("kv_applied_op", "The last op that the member has applied.", status.applied);
    out.gauge("kv_checkpoint_op", "The op of the member's last checkpoint.", status.checkpoint);
    out.gauge("kv_revision", "The revision of the member's state.", status.revision);
    for (name, help, durations) in [
        (
            "kv_journal_fsync_duration_seconds",
            "How long syncs of journal files took, except those that fill a new file.",
            &metrics.journal_syncs,
        ),
        (
            "kv_commit_duration_seconds",
            "On the primary: from when it has ordered entries until the last of them is committed. Those that are \
             written together count as one.",
            &metrics.commits,
        ),
        (
            "kv_apply_duration_seconds",
            "How long it took to apply committed entries, up to 64 at once.",
            &metrics.applies,
        ),
        ("kv_checkpoint_duration_seconds", "How long checkpoints took.", &metrics.checkpoints),
    ] {
        out.histogram(name, help, durations);
    }
    let repaired = "How often stored data could not be read and was fetched from other members: \
                    entries of the journal while the member ran, a journal damaged at the start, and the state.";
    out.counter("kv_repairs_total", repaired, metrics.repairs);
    let transfers = "How often the member has replaced its state with that of another member.";
    out.counter("kv_state_transfers_total", transfers, metrics.state_transfers);
}

fn peers(out: &mut Exposition, metrics: &Metrics) {
    let peers = &metrics.peers;
    let connected = "1 if there are connections in both directions, and 0 otherwise.";
    out.gauges("kv_peer_connected", connected, |sample| {
        peers.iter().for_each(|peer| sample(&[("peer", &peer.id.get())], &u8::from(peer.is_connected)));
    });
    let alive = "On the primary: 1 if the peer has answered recently, and 0 otherwise.";
    out.gauges("kv_peer_alive", alive, |sample| {
        for peer in peers {
            let alive = peer.is_alive.map(u8::from);
            alive.iter().for_each(|alive| sample(&[("peer", &peer.id.get())], alive));
        }
    });
    let lag = "On the primary: how many entries of the log the peer has not acknowledged. No sample until it has \
               acknowledged anything in this view.";
    out.gauges("kv_peer_lag_entries", lag, |sample| {
        for peer in peers {
            peer.lag.iter().for_each(|lag| sample(&[("peer", &peer.id.get())], lag));
        }
    });
    let round_trip =
        "On the primary: from when entries are sent until the peer has them on its disk and says so.";
    let ids: Vec<u8> = peers.iter().map(|peer| peer.id.get()).collect();
    let each = ids.iter().zip(peers).map(|(id, peer)| (id as &dyn Display, &peer.acknowledgements));
    out.histograms("kv_peer_round_trip_seconds", round_trip, "peer", each);
    let ahead = "How far the clock of the peer is ahead of the clock of this member.";
    out.gauges("kv_peer_clock_ahead_seconds", ahead, |sample| {
        for peer in peers {
            if let Some(ms) = peer.clock_ahead_ms {
                sample(&[("peer", &peer.id.get())], &(ms as f64 / 1000.0));
            }
        }
    });
}

fn clients(out: &mut Exposition, metrics: &Metrics) {
    let load = &metrics.status.load;
    out.gauge("kv_client_connections", "How many clients are connected.", load.clients);
    out.gauge("kv_watches", "How many watches wait for a change.", load.watches);
    out.counters(
        "kv_requests_total",
        "The answered calls of clients, except gets that were answered in the task of the caller.",
        |sample| {
            for it in &metrics.requests {
                sample(&[("kind", &it.kind), ("outcome", &it.outcome)], &it.count);
            }
        },
    );
    let duration = "How long calls took, from when the member has read them until it has the answer. Only those that \
                    were carried out, and not the gets that were answered in the task of the caller.";
    let each: [(&dyn Display, _); 2] = [(&"read", &metrics.reads), (&"write", &metrics.writes)];
    out.histograms("kv_request_duration_seconds", duration, "kind", each);
    let used = "How much memory the requests and answers of clients use.";
    out.gauge("kv_client_memory_bytes", used, metrics.client_bytes);
    let limit = "How much memory the requests and answers of clients may use.";
    out.gauge("kv_client_memory_limit_bytes", limit, metrics.client_bytes_limit);
}

fn disk(out: &mut Exposition, metrics: &Metrics) {
    out.gauge("kv_journal_bytes", "The length of all journal files.", metrics.journal_bytes);
    out.gauge("kv_state_bytes", "The length of all files of the state.", metrics.state_bytes);
    let expires = metrics.certificate_expires.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    if let Some(at) = expires {
        let help = "When the certificate of the member expires, in seconds since 1970.";
        out.gauge("kv_certificate_expiry_seconds", help, at.as_secs());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    /// The names of metrics in a file of the repository.
    fn names_in(text: &str) -> BTreeSet<String> {
        let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        let words = text.split(|letter| !is_part(letter)).filter(|word| word.starts_with("kv_"));
        let of = |word: &str| word.strip_suffix("_bucket").unwrap_or(word).to_owned();
        words.map(of).filter(|name| !["kv_core", "kv_doors"].contains(&name.as_str())).collect()
    }

    fn read(path: &str) -> String {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// The names of the metrics are in this file only.
    fn all() -> BTreeSet<String> {
        names_in(include_str!("metrics.rs").split("#[cfg(test)]").next().unwrap())
    }

    #[test]
    fn the_guide_explains_every_metric() {
        let guide = read("../../kv-core/guide/operating.md");
        let table = guide.lines().filter(|line| line.starts_with("| `kv_"));
        let explained = table.map(|line| line.split('|').nth(1).unwrap()).collect::<String>();
        assert_eq!(names_in(&explained), all());
    }

    #[test]
    fn alerts_and_the_dashboard_use_only_metrics_that_exist() {
        for file in
            ["../monitoring/alerts.yml", "../monitoring/alerts.test.yml", "../monitoring/dashboard.json"]
        {
            let used = names_in(&read(file));
            let unknown: Vec<_> = used.difference(&all()).cloned().collect();
            assert!(unknown.is_empty() && used.len() > 2, "{file}: {unknown:?}");
        }
        let dashboard: serde_json::Value =
            serde_json::from_str(&read("../monitoring/dashboard.json")).unwrap();
        assert!(dashboard["panels"].as_array().unwrap().len() > 10);
    }
}
