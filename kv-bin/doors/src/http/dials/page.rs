//! The status page: one file without outside requests, whose numbers are there without JavaScript. A script loads the
//! page again every two seconds, and replaces what has changed.

use super::html::{Escaped, age, bytes, latency, number, rate};
use super::status;
use crate::http::door::Door;
use crate::http::respond::{self, Response};
use crate::http::samples::{Pace, Sample};
use hyper::StatusCode;
use hyper::header::{CONTENT_SECURITY_POLICY, REFERRER_POLICY};
use kv_core::node::{MemberState, MemberStatus, Metrics};
use std::fmt::Write as _;
use std::hash::{BuildHasher as _, RandomState};
use std::time::SystemTime;

const PAGE: &str = include_str!("page.html");

pub(super) async fn answer(door: &Door) -> Response {
    let (sample, earlier) = door.samples.take(&door.client).await;
    let metrics = door.node.as_ref().map(|node| node.metrics());
    let content = content(&door.options.cluster, &sample, earlier.as_deref(), metrics.as_ref());
    let (title, _) = verdict(&sample);
    let title = Escaped(format!("{}: {title}", door.options.cluster)).to_string();
    let nonce = nonce();
    let page =
        PAGE.replace("{{nonce}}", &nonce).replace("{{title}}", &title).replace("{{content}}", &content);
    let mut response = respond::bytes(StatusCode::OK, "text/html; charset=utf-8", page);
    let policy = format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    respond::header(response.headers_mut(), CONTENT_SECURITY_POLICY, &policy);
    respond::header(response.headers_mut(), REFERRER_POLICY, "no-referrer");
    response
}

/// A number that nobody can guess: the keys of these hashes are random and secret.
fn nonce() -> String {
    let random = || RandomState::new().hash_one(0_u8);
    format!("{:016x}{:016x}", random(), random())
}

/// The state of the cluster in one sentence, and whether it is good.
fn verdict(sample: &Sample) -> (String, &'static str) {
    let all = sample.members.len();
    let working = sample
        .answers()
        .filter(|it| matches!(it.state, MemberState::Primary | MemberState::Backup) && it.primary.is_some())
        .count();
    let quorum = all / 2 + 1;
    let forms = sample.answers().all(|it| it.state == MemberState::Forming);
    match primary(sample) {
        None if forms && working == 0 && sample.answers().next().is_some() => {
            ("The cluster is forming: this needs all of its members".to_owned(), "note")
        }
        None => ("No primary: writes wait".to_owned(), "bad"),
        Some(_) if working == all => (format!("All {all} members work"), "good"),
        Some(_) if working > quorum => (format!("{working} of {all} members work"), "note"),
        Some(_) => (format!("{working} of {all} members work: one more failure stops the cluster"), "bad"),
    }
}

/// The serving primary: of those that say so, the one in the newest view.
fn primary(sample: &Sample) -> Option<&MemberStatus> {
    let primaries = sample.answers().filter(|status| status.state == MemberState::Primary);
    primaries.max_by_key(|status| status.view)
}

fn content(cluster: &str, sample: &Sample, earlier: Option<&Sample>, metrics: Option<&Metrics>) -> String {
    let mut out = String::new();
    let (text, class) = verdict(sample);
    let _ = write!(out, "<h1>{}</h1><p class=\"verdict {class}\">{text}</p>", Escaped(cluster));
    cards(&mut out, sample, earlier);
    members(&mut out, sample, earlier);
    if let Some(metrics) = metrics {
        this_member(&mut out, metrics);
        primaries(&mut out, metrics);
    }
    out
}

fn card(out: &mut String, name: &str, value: &str, more: &str) {
    let _ = write!(out, "<div><dt>{name}</dt><dd>{value} <small>{more}</small></dd></div>");
}

/// The numbers of all members together.
fn cards(out: &mut String, sample: &Sample, earlier: Option<&Sample>) {
    let paces: Vec<Pace> = sample.answers().map(|status| Pace::of(status, sample, earlier)).collect();
    let reads: f64 = paces.iter().map(|pace| pace.per_second(&pace.reads)).sum();
    let writes: f64 = paces.iter().map(|pace| pace.per_second(&pace.writes)).sum();
    let clients: u64 = sample.answers().map(|status| status.load.clients).sum();
    let watches: u64 = sample.answers().map(|status| status.load.watches).sum();
    out.push_str("<dl class=\"cards\">");
    card(out, "Writes", &rate(writes), "per second");
    card(out, "Reads", &rate(reads), "per second");
    card(out, "Clients", &number(clients), &format!("{} watches", number(watches)));
    match primary(sample) {
        Some(status) => {
            let more = format!("view {}", number(status.view.get()));
            card(out, "Primary", &format!("member {}", status.id), &more);
            card(out, "Revision", &number(status.revision.get()), "");
        }
        None => card(out, "Primary", "–", ""),
    }
    out.push_str("</dl>");
    let window = match earlier {
        Some(earlier) => format!("the last {}", age(sample.at - earlier.at)),
        None => "the time since each member has started".to_owned(),
    };
    let _ = write!(out, "<p class=\"quiet\">Rates and latencies are those of {window}.</p>");
}

fn members(out: &mut String, sample: &Sample, earlier: Option<&Sample>) {
    out.push_str("<h2>Members</h2><div class=\"table\"><table><thead><tr>");
    for name in ["Id", "Address", "Role", "State"] {
        let _ = write!(out, "<th class=\"text\">{name}</th>");
    }
    for name in [
        "Lag",
        "Writes/s",
        "p50",
        "p99",
        "Reads/s",
        "p50",
        "p99",
        "Clients",
        "Last failover",
        "Up",
        "Version",
    ] {
        let _ = write!(out, "<th>{name}</th>");
    }
    out.push_str("</tr></thead><tbody>");
    let head = sample.answers().map(|status| status.head).max().unwrap_or_default();
    for member in &sample.members {
        let (address, role) = (Escaped(&member.address), Escaped(member.role));
        let _ = write!(
            out,
            "<tr><td class=\"text\">{}</td><td class=\"text\">{address}</td><td class=\"text\">{role}</td>",
            member.id
        );
        match &member.status {
            Ok(status) => {
                let class = match status.state {
                    MemberState::Primary => "good",
                    MemberState::Backup => "",
                    MemberState::Damaged => "bad",
                    _ => "note",
                };
                let _ = write!(out, "<td class=\"text {class}\">{}</td>", Escaped(status.state));
                let pace = Pace::of(status, sample, earlier);
                for cell in [
                    number(head.distance_from(status.applied)),
                    rate(pace.per_second(&pace.writes)),
                    latency(pace.writes.quantile(0.5)),
                    latency(pace.writes.quantile(0.99)),
                    rate(pace.per_second(&pace.reads)),
                    latency(pace.reads.quantile(0.5)),
                    latency(pace.reads.quantile(0.99)),
                    number(status.load.clients),
                    status.last_failover_ms.map_or("–".to_owned(), |ms| format!("{} ms", number(ms))),
                    age(std::time::Duration::from_millis(status.uptime_ms)),
                    Escaped(&status.version).to_string(),
                ] {
                    let _ = write!(out, "<td>{cell}</td>");
                }
            }
            Err(error) => {
                let reason = Escaped(status::explain(error)).to_string();
                let _ = write!(out, "<td class=\"text reason bad\" colspan=\"12\">No answer: {reason}</td>");
            }
        }
        out.push_str("</tr>");
    }
    out.push_str("</tbody></table></div>");
}

/// What only the member that serves this page knows.
fn this_member(out: &mut String, metrics: &Metrics) {
    let status = &metrics.status;
    let _ = write!(out, "<h2>This member ({})</h2><dl class=\"cards\">", status.id);
    let p99 = |durations: &kv_core::node::Durations| {
        let all = durations.latencies();
        (latency(all.quantile(0.5)), format!("p99 {}", latency(all.quantile(0.99))))
    };
    for (name, durations) in [
        ("Journal sync", &metrics.journal_syncs),
        ("Commit", &metrics.commits),
        ("Apply", &metrics.applies),
        ("Checkpoint", &metrics.checkpoints),
    ] {
        let (half, most) = p99(durations);
        card(out, name, &half, &most);
    }
    card(out, "Journal", &bytes(metrics.journal_bytes), "on disk");
    card(out, "State", &bytes(metrics.state_bytes), "on disk");
    let limit = format!("of {}", bytes(metrics.client_bytes_limit));
    card(out, "Memory of clients", &bytes(metrics.client_bytes), &limit);
    let repaired = format!("{} state transfers", number(metrics.state_transfers));
    card(out, "Repairs", &number(metrics.repairs), &repaired);
    if let Some(at) = metrics.certificate_expires {
        match at.duration_since(SystemTime::now()) {
            Ok(left) => card(out, "Certificate", &age(left), "left"),
            Err(_) => card(out, "Certificate", "<span class=\"bad\">expired</span>", ""),
        }
    }
    out.push_str("</dl><p class=\"quiet\">Durations are those since the member has started.</p>");
}

/// The last primaries that this member has seen.
fn primaries(out: &mut String, metrics: &Metrics) {
    out.push_str(
        "<h2>Changes of the primary, as this member saw them</h2><div class=\"table\"><table><thead><tr><th class=\"text\">When</th>\
         <th class=\"text\">Primary</th><th>View</th><th>Took</th></tr></thead><tbody>",
    );
    for change in metrics.primaries.iter().rev() {
        let since = SystemTime::now().duration_since(change.at).unwrap_or_default();
        let _ = write!(
            out,
            "<tr><td class=\"text\">{} ago</td><td class=\"text\">member {}</td><td>{}</td><td>{}</td></tr>",
            age(since),
            change.primary,
            number(change.view.get()),
            latency(change.took),
        );
    }
    out.push_str("</tbody></table></div>");
}
