//! Decides, from the address of a caller alone, whether the caller may begin a handshake with a listener.
//!
//! For a handshake, the listening end must compute a signature. Until the handshake ends, the half-open connection
//! takes up one of a limited number of places. So handshakes are limited before they begin. There is a limit for all
//! *strangers* together: the callers whose address is not the address of a member. There is also a limit for each
//! source (an IPv4 address or an IPv6 network), even if the source is the address of a member.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The maximum number of sources that the limiter remembers, each with its budget of handshakes. If this many are
/// remembered and a new source calls, the limiter forgets all sources whose budget is full again. (A budget is full
/// after at most a second without a call.) If this frees no place, the limiter does not remember the new source, and
/// the new source has no limit of its own.
const SOURCES: usize = 4096;
/// One source may use one half (1 / `PART_OF_ONE`) of the limit for all strangers.
const PART_OF_ONE: u32 = 2;
/// How often the names of members are resolved again.
#[cfg(feature = "net")]
const LOOK_UP_EVERY: Duration = Duration::from_secs(30);

/// The addresses from which members call. Clones share these addresses.
#[derive(Clone, Debug, Default)]
pub struct MemberSources(Arc<Mutex<HashSet<IpAddr>>>);

impl MemberSources {
    /// Returns whether a call from this address could be from a member.
    #[must_use]
    pub fn has(&self, from: IpAddr) -> bool {
        self.lock().contains(&source(from))
    }

    /// Sets the addresses, and forgets all earlier addresses.
    pub fn set(&self, addresses: impl IntoIterator<Item = IpAddr>) {
        *self.lock() = addresses.into_iter().map(source).collect();
    }

    /// Sets the addresses from a list of `HOST:PORT` entries. If the host of an entry is an IP address, it is set
    /// before this method returns. If it is a name, the returned future resolves it, again and again, and sets the
    /// addresses that it finds. If a name cannot be resolved, its last known addresses stay in use.
    ///
    /// # Cancel safety
    /// Cancel safe. The future never completes.
    #[cfg(feature = "net")]
    pub fn keep_resolving(self, addresses: Vec<String>) -> impl Future<Output = ()> + Send + use<> {
        let parsed = |address: &String| address.parse::<std::net::SocketAddr>().ok();
        self.set(addresses.iter().filter_map(parsed).map(|address| address.ip()));
        self.keep_looking_up(addresses)
    }

    #[cfg(feature = "net")]
    async fn keep_looking_up(self, addresses: Vec<String>) {
        let mut found = vec![Vec::new(); addresses.len()];
        loop {
            for (address, found) in addresses.iter().zip(&mut found) {
                if let Ok(now) = tokio::net::lookup_host(address).await {
                    *found = now.map(|address| address.ip()).collect();
                }
            }
            self.set(found.iter().flatten().copied());
            tokio::time::sleep(LOOK_UP_EVERY).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<IpAddr>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the source to which an address belongs. A source is a single IPv4 address, or an IPv6 network of the size
/// (`/64`) that a provider gives to one customer.
fn source(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V6(it) => {
            let [a, b, c, d, ..] = it.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        four => four,
    }
}

/// What is left of a budget of handshakes, as the time that it takes to refill the part that is left. An empty budget
/// is full again after a second.
#[derive(Clone, Copy, Debug)]
struct Level {
    left: Duration,
    at: Instant,
}

impl Level {
    const FULL: Duration = Duration::from_secs(1);

    fn full(now: Instant) -> Self {
        Self { left: Self::FULL, at: now }
    }

    fn fill(&mut self, now: Instant) {
        self.left = (self.left + now.saturating_duration_since(self.at)).min(Self::FULL);
        self.at = self.at.max(now);
    }

    fn is_full(mut self, now: Instant) -> bool {
        self.fill(now);
        self.left == Self::FULL
    }

    /// Takes one handshake from a budget of `per_second`, if any is left.
    fn take(&mut self, per_second: u32, now: Instant) -> bool {
        self.fill(now);
        let each = Self::FULL / per_second.max(1);
        let enough = self.left >= each;
        if enough {
            self.left -= each;
        }
        enough
    }
}

/// Limits the handshakes and the half-open connections of a listener. `H` is a handle with which the listener can close
/// a half-open connection.
#[derive(Debug)]
pub struct ConnectionLimiter<H> {
    per_second: u32,
    places: usize,
    members: MemberSources,
    strangers: Option<Level>,
    sources: HashMap<IpAddr, Level>,
    /// The half-open connections, the oldest first.
    half_open: VecDeque<(IpAddr, H)>,
}

impl<H> ConnectionLimiter<H> {
    /// Creates a limiter that allows `per_second` handshakes per second with all strangers together. In addition, each
    /// source, whether a stranger or a member's address, is limited to half of this rate. Handshakes from members'
    /// addresses do not count against the strangers' limit. At most `places` connections may be half-open at once.
    #[must_use]
    pub fn new(per_second: u32, places: usize, members: MemberSources) -> Self {
        let (strangers, sources, half_open) = (None, HashMap::new(), VecDeque::new());
        Self { per_second: per_second.max(1), places: places.max(1), members, strangers, sources, half_open }
    }

    /// Returns whether a caller from this address may begin a handshake now. If so, counts the handshake against the
    /// limits per second.
    pub fn admits(&mut self, now: Instant, from: IpAddr) -> bool {
        let (from, is_member) = (source(from), self.members.has(from));
        if self.sources.len() >= SOURCES && !self.sources.contains_key(&from) {
            self.sources.retain(|_, level| !level.is_full(now));
        }
        let is_known = self.sources.len() < SOURCES || self.sources.contains_key(&from);
        if is_known {
            let level = self.sources.entry(from).or_insert_with(|| Level::full(now));
            if !level.take(self.per_second.div_ceil(PART_OF_ONE), now) {
                return false;
            }
        }
        is_member || self.strangers.get_or_insert_with(|| Level::full(now)).take(self.per_second, now)
    }

    /// Forgets each connection for which `is_done` returns true, because that connection is no longer half-open.
    /// Returns the number of connections that remain.
    pub fn half_open(&mut self, is_done: impl Fn(&H) -> bool) -> usize {
        self.half_open.retain(|(_, one)| !is_done(one));
        self.half_open.len()
    }

    /// Makes room for one more half-open connection. If there is no room, removes one half-open connection and returns
    /// it; the caller must close it. The removed connection is the oldest one of the source that has the most half-open
    /// connections. A connection from a member's address is chosen only if there are no other connections.
    pub fn make_room(&mut self) -> Option<H> {
        if self.half_open.len() < self.places {
            return None;
        }
        let mut counts: HashMap<IpAddr, (bool, usize)> = HashMap::new();
        for (from, _) in &self.half_open {
            counts.entry(*from).or_insert_with(|| (!self.members.has(*from), 0)).1 += 1;
        }
        let most = counts.values().max().copied();
        let victim = self.half_open.iter().position(|(from, _)| counts.get(from).copied() == most)?;
        self.half_open.remove(victim).map(|(_, one)| one)
    }

    /// Adds a half-open connection of a caller at this address. `one` is the handle with which the listener closes it.
    pub fn enter(&mut self, from: IpAddr, one: H) {
        self.half_open.push_back((source(from), one));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMBER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

    fn stranger(number: u32) -> IpAddr {
        IpAddr::V4((0x0b00_0000 + number).into())
    }

    fn limiter(per_second: u32, places: usize) -> ConnectionLimiter<u32> {
        let members = MemberSources::default();
        members.set([MEMBER]);
        ConnectionLimiter::new(per_second, places, members)
    }

    /// Returns how many of 5,000 callers within one second are admitted. The callers come from this many sources in
    /// turn.
    fn storm(limiter: &mut ConnectionLimiter<u32>, start: Instant, sources: u32) -> usize {
        let at = |i: u32| start + Duration::from_secs(1) * i / 5000;
        (0..5000).filter(|i| limiter.admits(at(*i), stranger(i % sources))).count()
    }

    #[test]
    fn a_storm_of_handshakes_is_bounded_and_members_are_admitted() {
        for (sources, least, most) in [(1, 999, 1001), (10, 1999, 2001), (5000, 1999, 2001)] {
            let (mut limiter, start) = (limiter(1000, 10), Instant::now());
            // Callers get the budget that was saved before the storm, and the budget for the one second of the storm.
            let got = storm(&mut limiter, start, sources);
            assert!((least..=most).contains(&got), "{got} from {sources}");
            let after = start + Duration::from_secs(1);
            assert!(limiter.admits(after, MEMBER), "a member's address has places of its own");
            assert!(sources > 1 || limiter.admits(after, stranger(999_999)), "others have their own part");
            assert!(limiter.admits(after + Duration::from_millis(2), stranger(999_998)));
        }
    }

    #[test]
    fn sources_are_remembered_up_to_a_bound() {
        let (mut limiter, now) = (limiter(1_000_000, 10), Instant::now());
        for i in 0..3 * u32::try_from(SOURCES).unwrap() {
            assert!(limiter.admits(now, stranger(i)));
        }
        assert_eq!(limiter.sources.len(), SOURCES);
        assert!(limiter.admits(now + Duration::from_secs(2), stranger(0x00ff_ffff)));
        assert!(limiter.sources.len() < 10, "those that were quiet are forgotten");
    }

    #[test]
    fn the_source_with_most_half_open_connections_is_closed_first() {
        let mut limiter = limiter(1, 4);
        let mut enter = |from, one| {
            let victim = limiter.make_room();
            limiter.enter(from, one);
            victim
        };
        assert_eq!(enter(MEMBER, 0), None);
        assert_eq!(enter(MEMBER, 1), None);
        assert_eq!(enter(stranger(1), 2), None);
        assert_eq!(enter(stranger(2), 3), None);
        assert_eq!(enter(stranger(1), 4), Some(2), "the oldest of the strangers");
        assert_eq!(enter(stranger(1), 5), Some(3));
        assert_eq!(enter(stranger(2), 6), Some(4), "of the one who has most");
        assert_eq!(enter(MEMBER, 7), Some(5));
        assert_eq!(enter(MEMBER, 8), Some(6));
        assert_eq!(enter(MEMBER, 9), Some(0), "there are no others any more");
        assert_eq!(limiter.half_open(|one| *one > 7), 2);
    }

    #[test]
    fn a_source_is_an_address_or_a_customers_network() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(source(ip("2001:db8:1:2:3::4")), source(ip("2001:db8:1:2:ffff::")));
        assert_ne!(source(ip("2001:db8:1:2::")), source(ip("2001:db8:1:3::")));
        assert_eq!(source(ip("::ffff:10.0.0.1")), MEMBER);
    }
}
