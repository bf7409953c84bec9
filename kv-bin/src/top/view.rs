//! The data of `kv top`, and how it is displayed. Nothing here uses a network or a terminal.

use super::News;
use crate::members::{self, Seen};
use crate::output::{self, BAD, Cell, FAINT, NOTE, STRONG, styled};
use kv_core::node::{Latencies, MemberStatus};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How many failovers are remembered.
const FAILOVERS: usize = 8;

/// Everything that was observed.
#[derive(Debug, Default)]
pub(super) struct View {
    cluster: String,
    members: Vec<Member>,
    /// The result of the last read, and when the present one began.
    read: Option<Result<Duration, String>>,
    reading_since: Option<Instant>,
    /// The newest primary: its view and its id.
    primary: Option<(u64, u8)>,
    /// The newest first.
    failovers: VecDeque<Failover>,
}

#[derive(Debug)]
struct Member {
    seen: Seen,
    at: Instant,
    /// Its activity between the last two polls.
    pace: Option<Pace>,
}

/// The activity of a member.
#[derive(Debug)]
struct Pace {
    lasted: Duration,
    changes: u64,
    reads: Latencies,
    writes: Latencies,
}

/// Another member became primary.
#[derive(Debug)]
struct Failover {
    /// `None` if it was before the first poll.
    seen: Option<Instant>,
    view: u64,
    from: Option<u8>,
    to: u8,
    took_ms: Option<u64>,
}

impl Pace {
    fn between(before: &MemberStatus, after: &MemberStatus, lasted: Duration) -> Self {
        Self {
            lasted,
            changes: after.revision.get().saturating_sub(before.revision.get()),
            reads: after.load.reads.since(&before.load.reads),
            writes: after.load.writes.since(&before.load.writes),
        }
    }

    fn per_second(&self, count: u64) -> f64 {
        count as f64 / self.lasted.as_secs_f64().max(0.001)
    }
}

impl View {
    pub(super) fn new(cluster: String, members: Vec<Seen>, now: Instant) -> Self {
        let members = members.into_iter().map(|seen| Member { seen, at: now, pace: None }).collect();
        let mut view = Self { cluster, members, ..Self::default() };
        view.note_failover(None);
        view
    }

    pub(super) fn members(&self) -> impl Iterator<Item = &Seen> {
        self.members.iter().map(|member| &member.seen)
    }

    pub(super) fn learn(&mut self, news: News) {
        match news {
            News::ReadBegan(at) => self.reading_since = Some(at),
            News::ReadEnded(ended) => (self.read, self.reading_since) = (Some(ended), None),
            News::Member(seen, at) => {
                let Some(member) = self.members.iter_mut().find(|member| member.seen.id == seen.id) else {
                    return;
                };
                member.pace = match (&member.seen.status, &seen.status) {
                    (Ok(before), Ok(after)) => Some(Pace::between(before, after, at - member.at)),
                    _ => None,
                };
                (member.seen, member.at) = (*seen, at);
                self.note_failover(Some(at));
            }
        }
    }

    /// The serving primary.
    fn serving(&self) -> Option<&MemberStatus> {
        members::primary(self.members.iter().map(|member| &member.seen))
    }

    /// Remembers the newest primary, and that it has replaced another: now, or before the first poll, if the member
    /// reports that.
    fn note_failover(&mut self, seen: Option<Instant>) {
        let Some(status) = self.serving() else { return };
        let (view, to, took_ms) = (status.view.get(), status.id.get(), status.last_failover_ms);
        if self.primary.is_some_and(|(known, _)| view <= known) {
            return;
        }
        let from = self.primary.replace((view, to)).map(|(_, from)| from);
        if from.is_some() || (seen.is_none() && took_ms.is_some()) {
            self.failovers.push_front(Failover { seen, view, from, to, took_ms });
            self.failovers.truncate(FAILOVERS);
        }
    }

    /// Writes and reads per second, of all members together.
    fn totals(&self) -> (f64, f64) {
        let paces = || self.members.iter().filter_map(|member| member.pace.as_ref());
        let sum = |rate: fn(&Pace) -> f64| paces().map(rate).sum();
        (sum(|pace| pace.per_second(pace.writes.count())), sum(|pace| pace.per_second(pace.reads.count())))
    }

    /// Everything as text.
    pub(super) fn frame(&self, now: Instant) -> String {
        let mut out = self.headline(now);
        out.push('\n');
        let head = members::head(self.members());
        let rows: Vec<_> = self
            .members
            .iter()
            .map(|member| {
                member.seen.row(|status| {
                    let mut row = vec![
                        Cell::number(status.view),
                        Cell::number(status.applied),
                        Cell::number(members::lag(head, status)),
                        Cell::number(status.load.clients),
                        Cell::number(status.load.watches),
                    ];
                    row.extend(pace_cells(member.pace.as_ref()));
                    row.push(Cell::number(rough(Duration::from_millis(status.uptime_ms))));
                    row
                })
            })
            .collect();
        let header = [
            "id", "role", "address", "state", "view", "applied", "lag", "clients", "watches", "writes/s",
            "p50", "p99", "reads/s", "p50", "p99", "up",
        ];
        out.push_str(&output::table(&header, &rows));
        if !self.failovers.is_empty() {
            out.push('\n');
            out.push_str(&styled(STRONG, "failovers"));
            for failover in &self.failovers {
                out.push('\n');
                out.push_str(&failover.line(now));
            }
        }
        out.trim_end().to_owned()
    }

    fn headline(&self, now: Instant) -> String {
        let answering = self.members.iter().filter(|member| member.seen.status.is_ok()).count();
        let all = self.members.len();
        let count = format!("{answering} of {all} members answer");
        let count = if answering == all { count } else { styled(NOTE, count) };
        let primary = match self.serving() {
            Some(status) => {
                format!("primary {} in view {}, revision {}", status.id, status.view, status.revision)
            }
            None => styled(BAD, "no primary"),
        };
        let (writes, reads) = self.totals();
        format!(
            "{} {}: {count}, {primary}\nwrites {}/s, reads {}/s, a read from here: {}\n",
            styled(STRONG, "cluster"),
            self.cluster,
            rate(writes),
            rate(reads),
            self.read_line(now),
        )
    }

    fn read_line(&self, now: Instant) -> String {
        let waits = self.reading_since.map(|since| now.saturating_duration_since(since));
        match (&self.read, waits) {
            (_, Some(waits)) if waits > Duration::from_millis(200) => {
                styled(BAD, format!("unanswered for {}", latency(waits)))
            }
            (Some(Ok(took)), _) => latency(*took),
            (Some(Err(error)), _) => styled(BAD, error),
            (None, _) => "-".to_owned(),
        }
    }

    /// Everything as JSON.
    pub(super) fn json(&self, now: Instant) -> Value {
        let (writes, reads) = self.totals();
        let serving = self.serving();
        let members: Vec<Value> = self.members.iter().map(Member::json).collect();
        json!({
            "cluster": self.cluster,
            "primary": serving.map(|status| status.id.get()),
            "view": serving.map(|status| status.view.get()),
            "revision": serving.map(|status| status.revision.get()),
            "writes_per_s": writes,
            "reads_per_s": reads,
            "read_ms": self.read.as_ref().and_then(|read| read.as_ref().ok()).map(|took| took.as_secs_f64() * 1e3),
            "members": members,
            "failovers": self.failovers.iter().map(|failover| json!({
                "seconds_ago": failover.seen.map(|at| now.saturating_duration_since(at).as_secs_f64()),
                "view": failover.view,
                "from": failover.from,
                "to": failover.to,
                "took_ms": failover.took_ms,
            })).collect::<Vec<_>>(),
        })
    }
}

impl Member {
    fn json(&self) -> Value {
        let mut object = self.seen.json();
        if let (Value::Object(object), Some(pace)) = (&mut object, &self.pace) {
            object.insert("changes_per_s".to_owned(), pace.per_second(pace.changes).into());
            for (name, calls) in [("write", &pace.writes), ("read", &pace.reads)] {
                object.insert(format!("{name}s_per_s"), pace.per_second(calls.count()).into());
                for (quantile, share) in [("p50", 0.5), ("p99", 0.99)] {
                    let took = calls.quantile(share).map(|took| took.as_secs_f64() * 1e3);
                    object.insert(format!("{name}_{quantile}_ms"), took.into());
                }
            }
        }
        object
    }
}

impl Failover {
    fn line(&self, now: Instant) -> String {
        let when = match self.seen {
            Some(at) => format!("{} ago", rough(now.saturating_duration_since(at))),
            None => "before".to_owned(),
        };
        let from = self.from.filter(|from| *from != self.to).map(|from| format!(" after {from}"));
        let took = self.took_ms.map(|ms| format!(", took {ms} ms")).unwrap_or_default();
        format!(
            "{}  view {}: member {} is primary{}{took}",
            styled(FAINT, format!("{when:>10}")),
            self.view,
            self.to,
            from.unwrap_or_default()
        )
    }
}

/// The rate and the latencies of writes and of reads.
fn pace_cells(pace: Option<&Pace>) -> Vec<Cell> {
    let Some(pace) = pace else { return vec![Cell::number("-"); 6] };
    let cells = |calls: &Latencies| {
        let quantile = |share| Cell::number(calls.quantile(share).map_or("-".to_owned(), latency));
        [Cell::number(rate(pace.per_second(calls.count()))), quantile(0.5), quantile(0.99)]
    };
    [cells(&pace.writes), cells(&pace.reads)].concat()
}

fn rate(per_second: f64) -> String {
    if per_second > 0.0 && per_second < 10.0 {
        format!("{per_second:.1}")
    } else {
        format!("{per_second:.0}")
    }
}

fn latency(took: Duration) -> String {
    let ms = took.as_secs_f64() * 1e3;
    match ms {
        ..1.0 => format!("{ms:.2} ms"),
        1.0..10.0 => format!("{ms:.1} ms"),
        10.0..1000.0 => format!("{ms:.0} ms"),
        _ => format!("{:.1} s", ms / 1e3),
    }
}

/// A long time, rounded.
fn rough(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kv_core::config::Role;

    fn member(id: u8, state: &str, view: u64, applied: u64, calls: u64) -> Seen {
        let writes = [vec![0; 20], vec![calls / 2], vec![0; 9], vec![calls / 2]].concat();
        let status = json!({
            "id": id, "role": "data", "state": state, "view": view, "primary": null, "head": applied, "commit": applied,
            "applied": applied, "revision": applied, "checkpoint": 0, "last_failover_ms": 120, "peers": [],
            "load": {
                "clients": 2, "watches": 1,
                // Half of the calls in each of two buckets: below 1.5 ms, and below 49 ms.
                "reads": { "buckets": [] },
                "writes": { "buckets": writes },
            },
            "uptime_ms": 3000, "version": "0.1.0",
        });
        let status = serde_json::from_value(status).expect("a status");
        Seen { id, role: Role::Data, address: format!("host-{id}:7000"), status: Ok(status) }
    }

    fn down(id: u8) -> Seen {
        Seen { status: Err("it does not answer".to_owned()), ..member(id, "backup", 0, 0, 0) }
    }

    fn plain(view: &View, now: Instant) -> String {
        anstream::adapter::strip_str(&view.frame(now)).to_string()
    }

    #[test]
    fn a_frame_shows_members_rates_and_unreachable_members() {
        let start = Instant::now();
        let first = vec![member(0, "primary", 4, 100, 10), member(1, "backup", 4, 90, 0), down(2)];
        let mut view = View::new("shop".to_owned(), first, start);
        let later = start + Duration::from_secs(2);
        view.learn(News::Member(Box::new(member(0, "primary", 4, 300, 210)), later));
        view.learn(News::Member(Box::new(member(1, "backup", 4, 290, 0)), later));
        view.learn(News::Member(Box::new(down(2)), later));
        view.learn(News::ReadBegan(start));
        view.learn(News::ReadEnded(Ok(Duration::from_micros(850))));
        let frame = plain(&view, later);
        let lines: Vec<&str> = frame.lines().collect();
        assert_eq!(lines[0], "cluster shop: 2 of 3 members answer, primary 0 in view 4, revision 300");
        assert_eq!(lines[1], "writes 100/s, reads 0/s, a read from here: 0.85 ms");
        let words = |line: usize| lines[line].split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(words(4), "0 data host-0:7000 primary 4 300 0 2 1 100 1.5 ms 49 ms 0 - - 3 s");
        assert_eq!(words(5), "1 data host-1:7000 backup 4 290 10 2 1 0 - - 0 - - 3 s");
        assert_eq!(words(6), "2 data host-2:7000 no answer: it does not answer");
        assert!(frame.ends_with("before  view 4: member 0 is primary, took 120 ms"), "{frame}");
    }

    #[test]
    fn a_frame_shows_a_failover_and_a_waiting_read() {
        let start = Instant::now();
        let mut view = View::new(
            "kv".to_owned(),
            vec![member(0, "primary", 4, 9, 0), member(1, "backup", 4, 9, 0)],
            start,
        );
        view.learn(News::ReadBegan(start));
        view.learn(News::Member(Box::new(down(0)), start));
        let now = start + Duration::from_secs(1);
        let frame = plain(&view, now);
        assert!(frame.contains("no primary") && frame.contains("unanswered for 1.0 s"), "{frame}");
        view.learn(News::Member(Box::new(member(1, "primary", 6, 9, 0)), now));
        // The former primary still believes that it is primary.
        view.learn(News::Member(Box::new(member(0, "primary", 4, 9, 0)), now));
        let shown = view.json(now + Duration::from_secs(5));
        assert_eq!((&shown["primary"], &shown["view"]), (&1.into(), &6.into()));
        assert_eq!(shown["failovers"].as_array().map(Vec::len), Some(2));
        let newest = &shown["failovers"][0];
        assert_eq!(
            (&newest["from"], &newest["to"], &newest["seconds_ago"]),
            (&0.into(), &1.into(), &5.0.into())
        );
    }

    #[test]
    fn durations_are_displayed_briefly() {
        let texts = [0.2, 3.0, 250.0, 2500.0].map(|ms| latency(Duration::from_secs_f64(ms / 1e3)));
        assert_eq!(texts, ["0.20 ms", "3.0 ms", "250 ms", "2.5 s"]);
        assert_eq!(
            [100, 600, 10_000, 1_000_000].map(|s| rough(Duration::from_secs(s))),
            ["100 s", "10 min", "2 h", "11 d"]
        );
        assert_eq!([0.0, 0.5, 12.3].map(rate), ["0", "0.5", "12"]);
    }
}
