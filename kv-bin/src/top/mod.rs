//! `kv top`: the cluster, updated continuously.

mod screen;
mod view;

use crate::cli::TopArgs;
use crate::commands::{print_line, still_read};
use crate::config::ConnectConfig;
use crate::context::Context;
use crate::failure::Failure;
use crate::members::Seen;
use crate::output;
use crate::signals::Signals;
use kv_core::Client;
use kv_core::config::MemberId;
use kv_doors::http::explain;
use screen::Screen;
use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use view::View;

/// The key that is read to measure how long a read takes. It need not exist.
const PROBE: &str = "kv-top/probe";

/// What the polling tasks have observed.
#[derive(Debug)]
enum News {
    Member(Box<Seen>, Instant),
    /// A read began, and ended after this time or with an error.
    ReadBegan(Instant),
    ReadEnded(Result<Duration, String>),
}

/// Shows the cluster until a signal stops it; once, if requested or if stdout is not a terminal.
pub(crate) async fn run(args: TopArgs, json: bool) -> Result<(), Failure> {
    let interval = args.interval.0;
    let cluster = ConnectConfig::resolve(&args.connect)?.cluster;
    let is_watched = io::stdin().is_terminal() && io::stdout().is_terminal();
    let mut signals = Signals::catch()?;
    let context = Context::new(args.connect);
    let client = context.client_unless(&mut signals).await?;
    let members = tokio::select! {
        members = client.cluster_status() => members,
        _ = signals.next() => return Ok(()),
    };
    let members: Vec<Seen> = members.into_iter().map(Seen::from).collect();
    let view = View::new(cluster, members, Instant::now());
    let (news, lookers) = poll(client, &view, interval);
    let top = Top { view, news, interval, signals };
    let shown = if args.once || !(is_watched || json) {
        top.once(json).await
    } else if json {
        top.lines().await
    } else {
        top.live().await
    };
    drop(lookers);
    context.close().await;
    shown
}

/// Polls each member at intervals, on a task of its own, so that a member that is down does not delay the others.
/// Another task reads.
fn poll(client: &Client, view: &View, interval: Duration) -> (mpsc::Receiver<News>, JoinSet<()>) {
    let (sender, news) = mpsc::channel(64);
    let mut lookers = JoinSet::new();
    for member in view.members() {
        let (client, sender, member) = (client.clone(), sender.clone(), member.clone());
        lookers.spawn(async move {
            let mut ticks = ticks(interval);
            loop {
                ticks.tick().await;
                let status = client.member_status(MemberId::new(member.id)).await;
                let status = status.map_err(|error| explain(&error));
                if sender
                    .send(News::Member(Box::new(Seen { status, ..member.clone() }), Instant::now()))
                    .await
                    .is_err()
                {
                    return;
                }
            }
        });
    }
    let client = client.clone();
    lookers.spawn(async move {
        let mut ticks = ticks(interval);
        loop {
            ticks.tick().await;
            let began = Instant::now();
            if sender.send(News::ReadBegan(began)).await.is_err() {
                return;
            }
            let ended = client.get(PROBE).await.map(|_| began.elapsed()).map_err(|error| error.to_string());
            if sender.send(News::ReadEnded(ended)).await.is_err() {
                return;
            }
        }
    });
    (news, lookers)
}

fn ticks(interval: Duration) -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks
}

/// What is shown, and what may change it.
struct Top {
    view: View,
    news: mpsc::Receiver<News>,
    interval: Duration,
    signals: Signals,
}

impl Top {
    /// Collects the observations of a while; returns whether a signal arrived.
    async fn listen(&mut self, until: Instant) -> bool {
        loop {
            tokio::select! {
                Some(news) = self.news.recv() => self.view.learn(news),
                () = tokio::time::sleep_until(until.into()) => return false,
                _ = self.signals.next() => return true,
            }
        }
    }

    /// Prints one frame about one interval.
    async fn once(mut self, json: bool) -> Result<(), Failure> {
        // Twice, so that each member is polled at the beginning and at the end of the interval.
        if self.listen(Instant::now() + self.interval + self.interval / 2).await {
            return Ok(());
        }
        let now = Instant::now();
        print_line(&if json { self.view.json(now).to_string() } else { self.view.frame(now) })
    }

    /// Prints a line of JSON for each interval.
    async fn lines(mut self) -> Result<(), Failure> {
        loop {
            let stopped = self.listen(Instant::now() + self.interval).await;
            if stopped || !still_read(output::print(&self.view.json(Instant::now()).to_string()))? {
                return Ok(());
            }
        }
    }

    /// Uses the whole screen, until `q` or Ctrl-C.
    async fn live(mut self) -> Result<(), Failure> {
        let broken = |error: io::Error| Failure::failed(format!("cannot use the terminal: {error}"));
        let mut screen = Screen::enter().map_err(broken)?;
        let mut redraw = ticks(self.interval.min(Duration::from_millis(500)));
        loop {
            tokio::select! {
                Some(news) = self.news.recv() => self.view.learn(news),
                _ = redraw.tick() => screen.draw(&self.view.frame(Instant::now())).map_err(broken)?,
                leave = screen.key() => {
                    if leave.map_err(broken)? {
                        return Ok(());
                    }
                    // The size of the terminal may have changed.
                    screen.draw(&self.view.frame(Instant::now())).map_err(broken)?;
                }
                _ = self.signals.next() => return Ok(()),
            }
        }
    }
}
