//! The simulated network: for every message, whether, when and how often it arrives.

use super::clock::Time;
use super::kind::Kind;
use super::plan::{NetworkPlan, around};
use fastrand::Rng;
use kv_core::transport::Lane;

/// How many lanes there are.
const LANES: usize = 4;

/// The fate of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Route {
    /// It never arrives.
    Lost,
    /// It arrives at this time.
    At(Time),
    /// It arrives twice.
    Duplicated(Time, Time),
    /// It is held back until the link is released.
    Held,
}

/// Messages of one kind, on one link or on several.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Filter {
    /// The sender; `None` for all.
    pub(super) from: Option<usize>,
    /// The receiver; `None` for all.
    pub(super) to: Option<usize>,
    /// What.
    pub(super) kind: Kind,
    /// Whether the messages are held back until the filter is removed, or lost.
    pub(super) hold: bool,
}

/// A direction between two nodes.
#[derive(Clone, Debug)]
struct Link<P> {
    /// How many cuts affect it: cuts may overlap.
    cuts: u32,
    /// How many clogs affect it.
    clogs: u32,
    /// The additional delay.
    lag: Time,
    /// When the last message of each lane arrives, if order is kept.
    last: [Time; LANES],
    /// The messages that are held back.
    held: Vec<P>,
}

/// All links between nodes. `P` is the stored form of a held message.
#[derive(Debug)]
pub(super) struct Network<P> {
    plan: NetworkPlan,
    nodes: usize,
    links: Vec<Link<P>>,
    /// Kinds of messages that are lost or held back.
    filters: Vec<Filter>,
}

impl<P> Network<P> {
    pub(super) fn new(plan: NetworkPlan, nodes: usize) -> Self {
        let link = || Link { cuts: 0, clogs: 0, lag: 0, last: [0; LANES], held: Vec::new() };
        Self { plan, nodes, links: (0..nodes * nodes).map(|_| link()).collect(), filters: Vec::new() }
    }

    fn link(&mut self, from: usize, to: usize) -> &mut Link<P> {
        &mut self.links[from * self.nodes + to]
    }

    /// Returns whether messages pass.
    pub(super) fn is_open(&self, from: usize, to: usize) -> bool {
        self.links[from * self.nodes + to].cuts == 0
    }

    /// Decides the fate of a message in this lane, of this kind if it is between members.
    pub(super) fn route(
        &mut self,
        rng: &mut Rng,
        now: Time,
        (from, to): (usize, usize),
        lane: Lane,
        kind: Option<Kind>,
    ) -> Route {
        let plan = self.plan;
        let filter = self.filters.iter().find(|filter| filter.takes(from, to, kind)).copied();
        let link = self.link(from, to);
        let client = lane == Lane::Client;
        let loss = if client { plan.client_loss } else { plan.loss };
        if link.cuts > 0 || filter.is_some_and(|filter| !filter.hold) || (loss > 0 && rng.u32(0..1000) < loss)
        {
            return Route::Lost;
        }
        if link.clogs > 0 || filter.is_some() {
            return Route::Held;
        }
        let at = link.arrival(rng, now, &plan, lane);
        if plan.duplication > 0 && rng.u32(0..1000) < plan.duplication {
            return Route::Duplicated(at, link.arrival(rng, now, &plan, lane));
        }
        Route::At(at)
    }

    /// When a held message arrives if it is released now.
    pub(super) fn release_at(
        &mut self,
        rng: &mut Rng,
        now: Time,
        (from, to): (usize, usize),
        lane: Lane,
    ) -> Time {
        let plan = self.plan;
        self.link(from, to).arrival(rng, now, &plan, lane)
    }

    /// Stores a message that was [`Route::Held`]. Beyond a limit the oldest is lost, as in a full buffer.
    pub(super) fn hold(&mut self, from: usize, to: usize, message: P) {
        let held = &mut self.link(from, to).held;
        if held.len() >= 1000 {
            held.remove(0);
        }
        held.push(message);
    }

    /// Adds a cut to the link.
    pub(super) fn cut(&mut self, from: usize, to: usize) {
        self.link(from, to).cuts += 1;
    }

    /// Removes one cut from the link.
    pub(super) fn mend(&mut self, from: usize, to: usize) {
        let link = self.link(from, to);
        link.cuts = link.cuts.saturating_sub(1);
    }

    /// Holds back all messages of the link from now on.
    pub(super) fn clog(&mut self, from: usize, to: usize) {
        self.link(from, to).clogs += 1;
    }

    /// Ends a clog.
    pub(super) fn unclog(&mut self, from: usize, to: usize) {
        let link = self.link(from, to);
        link.clogs = link.clogs.saturating_sub(1);
    }

    /// Returns what was held back, if no clog remains.
    pub(super) fn release(&mut self, from: usize, to: usize) -> Vec<P> {
        let link = self.link(from, to);
        if link.clogs == 0 { std::mem::take(&mut link.held) } else { Vec::new() }
    }

    /// Sets the link's extra delay.
    pub(super) fn lag(&mut self, from: usize, to: usize, lag: Time) {
        self.link(from, to).lag = lag;
    }

    /// Loses or holds back messages that match the filter, from now on.
    pub(super) fn add_filter(&mut self, filter: Filter) {
        self.filters.push(filter);
    }

    /// Removes a filter. [`release`](Self::release) returns what it held back on a link.
    pub(super) fn take_filter(&mut self, filter: Filter) {
        if let Some(at) = self.filters.iter().position(|other| *other == filter) {
            self.filters.remove(at);
        }
    }

    /// Removes every fault except delays and a little loss. What was held back is lost.
    pub(super) fn heal(&mut self) {
        self.filters.clear();
        self.plan.loss = self.plan.loss.min(20);
        self.plan.client_loss = self.plan.client_loss.min(20);
        for link in &mut self.links {
            link.cuts = 0;
            link.clogs = 0;
            link.lag = 0;
            link.held.clear();
        }
    }
}

impl Filter {
    fn takes(&self, from: usize, to: usize, kind: Option<Kind>) -> bool {
        kind == Some(self.kind)
            && self.from.is_none_or(|only| only == from)
            && self.to.is_none_or(|only| only == to)
    }
}

impl<P> Link<P> {
    fn arrival(&mut self, rng: &mut Rng, now: Time, plan: &NetworkPlan, lane: Lane) -> Time {
        let at = now + plan.delay + around(rng, plan.jitter) + self.lag;
        if !plan.ordered && lane != Lane::Client {
            return at;
        }
        let last = &mut self.last[lane as usize];
        *last = at.max(*last + 1);
        *last
    }
}

#[cfg(test)]
mod tests {
    use super::super::clock::MS;
    use super::*;

    const PLAN: NetworkPlan =
        NetworkPlan { delay: MS, jitter: MS, loss: 0, duplication: 0, ordered: true, client_loss: 0 };

    fn send(network: &mut Network<u8>, rng: &mut Rng, kind: Kind) -> Route {
        network.route(rng, 0, (0, 1), Lane::Log, Some(kind))
    }

    #[test]
    fn keeps_the_order_of_a_lane_on_request() {
        let (mut network, mut rng) = (Network::<u8>::new(PLAN, 2), Rng::with_seed(1));
        let mut before = 0;
        for _ in 0..100 {
            let Route::At(at) = send(&mut network, &mut rng, Kind::Prepare) else {
                panic!("a clean network loses nothing")
            };
            assert!(at > before);
            before = at;
        }
    }

    #[test]
    fn overlapping_cuts_must_all_be_healed() {
        let (mut network, mut rng) = (Network::<u8>::new(PLAN, 2), Rng::with_seed(1));
        network.cut(0, 1);
        network.cut(0, 1);
        network.mend(0, 1);
        assert_eq!(send(&mut network, &mut rng, Kind::Prepare), Route::Lost);
        assert!(network.is_open(1, 0));
        network.mend(0, 1);
        assert!(matches!(send(&mut network, &mut rng, Kind::Prepare), Route::At(_)));
    }

    #[test]
    fn a_clog_holds_back_and_releases_in_order() {
        let (mut network, mut rng) = (Network::<u8>::new(PLAN, 2), Rng::with_seed(1));
        network.clog(0, 1);
        for message in 0..3 {
            assert_eq!(send(&mut network, &mut rng, Kind::Prepare), Route::Held);
            network.hold(0, 1, message);
        }
        assert!(network.release(0, 1).is_empty());
        network.unclog(0, 1);
        assert_eq!(network.release(0, 1), [0, 1, 2]);
    }

    #[test]
    fn loses_one_kind_of_message_only() {
        let (mut network, mut rng) = (Network::<u8>::new(PLAN, 2), Rng::with_seed(1));
        let filter = Filter { from: Some(0), to: None, kind: Kind::PrepareOk, hold: false };
        network.add_filter(filter);
        assert_eq!(send(&mut network, &mut rng, Kind::PrepareOk), Route::Lost);
        assert!(matches!(send(&mut network, &mut rng, Kind::Prepare), Route::At(_)));
        network.take_filter(filter);
        assert!(matches!(send(&mut network, &mut rng, Kind::PrepareOk), Route::At(_)));
        network.add_filter(Filter { from: Some(1), ..filter });
        assert!(matches!(send(&mut network, &mut rng, Kind::PrepareOk), Route::At(_)));
    }

    #[test]
    fn holds_one_kind_of_message_back() {
        let (mut network, mut rng) = (Network::<u8>::new(PLAN, 2), Rng::with_seed(1));
        let filter = Filter { from: None, to: None, kind: Kind::Commit, hold: true };
        network.add_filter(filter);
        assert_eq!(send(&mut network, &mut rng, Kind::Commit), Route::Held);
        network.hold(0, 1, 7);
        network.take_filter(filter);
        assert_eq!(network.release(0, 1), [7]);
    }

    #[test]
    fn loses_and_repeats_as_often_as_planned() {
        let plan = NetworkPlan { loss: 300, duplication: 500, ..PLAN };
        let (mut network, mut rng) = (Network::<u8>::new(plan, 2), Rng::with_seed(1));
        let routes: Vec<Route> = (0..1000).map(|_| send(&mut network, &mut rng, Kind::Prepare)).collect();
        let count = |wanted: fn(&Route) -> bool| routes.iter().filter(|route| wanted(route)).count();
        assert!((250..350).contains(&count(|route| *route == Route::Lost)));
        assert!((280..420).contains(&count(|route| matches!(route, Route::Duplicated(..)))));
    }
}
