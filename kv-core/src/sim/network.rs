//! The simulated network: for every message, whether, when and how often it arrives.

use super::clock::Time;
use super::plan::{NetworkPlan, around};
use crate::transport::Lane;
use fastrand::Rng;

/// How many lanes there are.
const LANES: usize = 4;

/// What becomes of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Route {
    /// It never arrives.
    Lost,
    /// It arrives then.
    At(Time),
    /// It arrives twice.
    Twice(Time, Time),
    /// It is held back until the link is released.
    Held,
}

/// A direction between two nodes.
#[derive(Clone, Debug)]
struct Link<P> {
    /// How many cuts lie on it: cuts may overlap.
    cuts: u32,
    /// How many clogs lie on it.
    clogs: u32,
    /// Delay besides the usual.
    lag: Time,
    /// When the last message of each lane arrives, where order is kept.
    last: [Time; LANES],
    /// What is held back.
    held: Vec<P>,
}

/// All links between nodes. `P` is what a held message is kept as.
#[derive(Debug)]
pub(super) struct Network<P> {
    plan: NetworkPlan,
    nodes: usize,
    links: Vec<Link<P>>,
    /// Kinds of messages that get lost, as bits.
    muted: u32,
}

impl<P> Network<P> {
    pub(super) fn new(plan: NetworkPlan, nodes: usize) -> Self {
        let link = || Link { cuts: 0, clogs: 0, lag: 0, last: [0; LANES], held: Vec::new() };
        Self { plan, nodes, links: (0..nodes * nodes).map(|_| link()).collect(), muted: 0 }
    }

    fn link(&mut self, from: usize, to: usize) -> &mut Link<P> {
        &mut self.links[from * self.nodes + to]
    }

    /// Whether anything passes.
    pub(super) fn is_open(&self, from: usize, to: usize) -> bool {
        self.links[from * self.nodes + to].cuts == 0
    }

    /// Decides over a message of this kind (a bit number) in this lane.
    pub(super) fn route(
        &mut self,
        rng: &mut Rng,
        now: Time,
        (from, to): (usize, usize),
        lane: Lane,
        kind: u8,
    ) -> Route {
        let plan = self.plan;
        let muted = lane != Lane::Client && self.muted & (1 << kind) != 0;
        let link = self.link(from, to);
        let client = lane == Lane::Client;
        let loss = if client { plan.client_loss } else { plan.loss };
        if link.cuts > 0 || muted || (loss > 0 && rng.u32(0..1000) < loss) {
            return Route::Lost;
        }
        if link.clogs > 0 {
            return Route::Held;
        }
        let at = link.arrival(rng, now, &plan, lane);
        if plan.duplication > 0 && rng.u32(0..1000) < plan.duplication {
            return Route::Twice(at, link.arrival(rng, now, &plan, lane));
        }
        Route::At(at)
    }

    /// When a message that was held back arrives, if it is released now.
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

    /// Keeps a message that was [`Route::Held`]. Beyond a bound the oldest is lost, as in a full buffer.
    pub(super) fn hold(&mut self, from: usize, to: usize, message: P) {
        let held = &mut self.link(from, to).held;
        if held.len() >= 1000 {
            held.remove(0);
        }
        held.push(message);
    }

    /// Puts a cut on the link.
    pub(super) fn cut(&mut self, from: usize, to: usize) {
        self.link(from, to).cuts += 1;
    }

    /// Takes one cut off the link.
    pub(super) fn mend(&mut self, from: usize, to: usize) {
        let link = self.link(from, to);
        link.cuts = link.cuts.saturating_sub(1);
    }

    /// Holds back all messages of the link from now on.
    pub(super) fn clog(&mut self, from: usize, to: usize) {
        self.link(from, to).clogs += 1;
    }

    /// Ends a clog. Returns what was held back, if no other clog remains.
    pub(super) fn release(&mut self, from: usize, to: usize) -> Vec<P> {
        let link = self.link(from, to);
        link.clogs = link.clogs.saturating_sub(1);
        if link.clogs == 0 { std::mem::take(&mut link.held) } else { Vec::new() }
    }

    /// Sets the link's extra delay.
    pub(super) fn lag(&mut self, from: usize, to: usize, lag: Time) {
        self.link(from, to).lag = lag;
    }

    /// Loses a kind of message from now on, or no more.
    pub(super) const fn mute(&mut self, kind: u8, on: bool) {
        if on {
            self.muted |= 1 << kind;
        } else {
            self.muted &= !(1 << kind);
        }
    }

    /// Takes away every fault but delays, and a little loss. What was held back is lost.
    pub(super) fn heal(&mut self) {
        self.muted = 0;
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

    fn send(network: &mut Network<u8>, rng: &mut Rng, kind: u8) -> Route {
        network.route(rng, 0, (0, 1), Lane::Log, kind)
    }

    #[test]
    fn keeps_the_order_of_a_lane_if_told_so() {
        let (mut network, mut rng) = (Network::<u8>::new(PLAN, 2), Rng::with_seed(1));
        let mut before = 0;
        for _ in 0..100 {
            let Route::At(at) = send(&mut network, &mut rng, 0) else {
                panic!("a clean network loses nothing")
            };
            assert!(at > before);
            before = at;
        }
    }

    #[test]
    fn overlapping_cuts_must_all_be_mended() {
        let (mut network, mut rng) = (Network::<u8>::new(PLAN, 2), Rng::with_seed(1));
        network.cut(0, 1);
        network.cut(0, 1);
        network.mend(0, 1);
        assert_eq!(send(&mut network, &mut rng, 0), Route::Lost);
        assert!(network.is_open(1, 0));
        network.mend(0, 1);
        assert!(matches!(send(&mut network, &mut rng, 0), Route::At(_)));
    }

    #[test]
    fn a_clog_holds_back_and_releases_in_order() {
        let (mut network, mut rng) = (Network::<u8>::new(PLAN, 2), Rng::with_seed(1));
        network.clog(0, 1);
        for message in 0..3 {
            assert_eq!(send(&mut network, &mut rng, 0), Route::Held);
            network.hold(0, 1, message);
        }
        assert_eq!(network.release(0, 1), [0, 1, 2]);
    }

    #[test]
    fn loses_one_kind_of_message_only() {
        let (mut network, mut rng) = (Network::<u8>::new(PLAN, 2), Rng::with_seed(1));
        network.mute(3, true);
        assert_eq!(send(&mut network, &mut rng, 3), Route::Lost);
        assert!(matches!(send(&mut network, &mut rng, 2), Route::At(_)));
        network.mute(3, false);
        assert!(matches!(send(&mut network, &mut rng, 3), Route::At(_)));
    }

    #[test]
    fn loses_and_repeats_as_often_as_planned() {
        let plan = NetworkPlan { loss: 300, duplication: 500, ..PLAN };
        let (mut network, mut rng) = (Network::<u8>::new(plan, 2), Rng::with_seed(1));
        let routes: Vec<Route> = (0..1000).map(|_| send(&mut network, &mut rng, 0)).collect();
        let count = |wanted: fn(&Route) -> bool| routes.iter().filter(|route| wanted(route)).count();
        assert!((250..350).contains(&count(|route| *route == Route::Lost)));
        assert!((280..420).contains(&count(|route| matches!(route, Route::Twice(..)))));
    }
}
