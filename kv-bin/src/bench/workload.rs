//! What a load consists of: operations, keys and values.

use super::args::{Distribution, LoadTestArgs, Op, ReadMode};
use bytes::Bytes;
use fastrand::Rng;
use kv_core::Client;
use kv_core::error::{ReadError, WriteError};

/// The prefix of all keys of a load.
pub(super) const PREFIX: &str = "bench/";

/// The key with this number. All keys have the same length.
pub(super) fn key(number: u64) -> String {
    format!("{PREFIX}{number:012}")
}

/// Chooses keys.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    count: u64,
    distribution: Distribution,
    zipf: Option<Zipf>,
    next: u64,
    step: u64,
}

impl Keys {
    /// For a single worker.
    pub(super) fn new(args: &LoadTestArgs) -> Self {
        let zipf = (args.distribution == Distribution::Zipf).then(|| Zipf::new(args.keys));
        Self { count: args.keys, distribution: args.distribution, zipf, next: 0, step: 1 }
    }

    pub(super) fn next(&mut self, rng: &mut Rng) -> u64 {
        match (self.distribution, &self.zipf) {
            (Distribution::Zipf, Some(zipf)) => scatter(zipf.rank(rng), self.count),
            (Distribution::Sequential, _) => {
                let number = self.next % self.count;
                self.next = self.next.wrapping_add(self.step);
                number
            }
            _ => rng.u64(..self.count),
        }
    }
}

/// Popular keys must not be neighbours: a multiplication by a number without common divisors permutes the ranks.
fn scatter(rank: u64, count: u64) -> u64 {
    const FACTOR: u128 = 0x9e37_79b9_7f4a_7c15;
    let mut factor = FACTOR % u128::from(count);
    while gcd(factor, u128::from(count)) != 1 {
        factor += 1;
    }
    u64::try_from(u128::from(rank) * factor % u128::from(count)).expect("it is below `count`")
}

fn gcd(mut a: u128, mut b: u128) -> u128 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Ranks by Zipf's law, in constant time per rank (Gray et al., "Quickly generating billion-record synthetic
/// databases", 1994).
#[derive(Clone, Copy, Debug)]
struct Zipf {
    count: f64,
    last: u64,
    alpha: f64,
    zeta: f64,
    eta: f64,
}

impl Zipf {
    const EXPONENT: f64 = 0.99;
    /// So many terms are added up one by one; the rest of the sum is an integral.
    const EXACT: u64 = 10_000;

    fn new(count: u64) -> Self {
        let zeta = Self::sum(count);
        let n = count as f64;
        let eta = (1.0 - (2.0 / n).powf(1.0 - Self::EXPONENT)) / (1.0 - Self::sum(2.min(count)) / zeta);
        Self { count: n, last: count - 1, alpha: 1.0 / (1.0 - Self::EXPONENT), zeta, eta }
    }

    /// The sum of the weights of the first `count` ranks.
    fn sum(count: u64) -> f64 {
        let exact = count.min(Self::EXACT);
        let sum: f64 = (1..=exact).map(|rank| (rank as f64).powf(-Self::EXPONENT)).sum();
        let power = 1.0 - Self::EXPONENT;
        let primitive = |x: f64| x.powf(power) / power;
        sum + primitive(count as f64 + 0.5) - primitive(exact as f64 + 0.5)
    }

    fn rank(&self, rng: &mut Rng) -> u64 {
        let uniform = rng.f64();
        let weight = uniform * self.zeta;
        if weight < 1.0 {
            return 0;
        }
        if weight < 1.0 + 0.5_f64.powf(Self::EXPONENT) {
            return 1;
        }
        let rank = self.count * (self.eta.mul_add(uniform, 1.0 - self.eta)).powf(self.alpha);
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is below the count, and not negative"
        )]
        let rank = rank as u64;
        rank.min(self.last)
    }
}

/// Values that cannot be compressed, cut out of one random block.
#[derive(Clone, Debug)]
pub(super) struct Values {
    block: Bytes,
    size: usize,
}

impl Values {
    /// Values of this size.
    pub(super) fn new(size: usize) -> Self {
        let mut rng = Rng::with_seed(1);
        let block: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(size + 4096).collect();
        Self { block: block.into(), size }
    }

    pub(super) const fn size(&self) -> usize {
        self.size
    }

    pub(super) fn next(&self, rng: &mut Rng) -> Bytes {
        let from = rng.usize(..4096);
        self.block.slice(from..from + self.size)
    }
}

/// Why an operation failed.
pub(super) type OpError = Box<dyn std::error::Error + Send + Sync>;

/// Runs operations, one at a time.
#[derive(Clone, Debug)]
pub(super) struct Worker {
    pub(super) client: Client,
    pub(super) args: LoadTestArgs,
    pub(super) keys: Keys,
    pub(super) values: Values,
    pub(super) rng: Rng,
}

/// One worker for each operation in flight. They share the sequence of keys.
pub(super) fn workers(clients: &[Client], args: &LoadTestArgs) -> impl Iterator<Item = Worker> {
    let (keys, values) = (Keys::new(args), Values::new(args.value_bytes()));
    let count = u64::from(args.clients) * u64::from(args.in_flight);
    // The operations of one client use one connection.
    let connections =
        clients.iter().cycle().flat_map(|client| std::iter::repeat_n(client, args.in_flight as usize));
    connections.zip(0..count).map(move |(client, worker)| Worker {
        client: client.clone(),
        args: args.clone(),
        keys: Keys { next: worker, step: count, ..keys.clone() },
        values: values.clone(),
        rng: Rng::with_seed(worker),
    })
}

impl Worker {
    pub(super) async fn operate(&mut self) -> Result<(), OpError> {
        match self.args.op {
            Op::Put | Op::Watch => self.put().await?,
            Op::Get => self.get().await?,
            Op::Scan => self.scan().await?,
            Op::Mixed if self.rng.u8(..100) < self.args.writes => self.put().await?,
            Op::Mixed => self.get().await?,
        }
        Ok(())
    }

    async fn put(&mut self) -> Result<(), WriteError> {
        if self.args.batch == 1 {
            let (key, value) = (key(self.keys.next(&mut self.rng)), self.values.next(&mut self.rng));
            return self.client.put(key, value).await.map(drop);
        }
        let mut numbers = std::collections::BTreeSet::new();
        // Each key may occur once in a transaction. With few keys, the batch is smaller.
        for _ in 0..self.args.batch {
            numbers.insert(self.keys.next(&mut self.rng));
        }
        let batch = numbers.into_iter().fold(self.client.batch(), |batch, number| {
            batch.put(key(number), self.values.next(&mut self.rng))
        });
        batch.await.map(drop)
    }

    async fn get(&mut self) -> Result<(), ReadError> {
        let get = self.client.get(key(self.keys.next(&mut self.rng)));
        let get = if self.args.read == ReadMode::Local { get.local() } else { get };
        get.await.map(drop)
    }

    async fn scan(&mut self) -> Result<(), ReadError> {
        let from = key(self.keys.next(&mut self.rng));
        let scan = self.client.scan_range(from..).limit(self.args.scan_limit as usize);
        let scan = if self.args.read == ReadMode::Local { scan.local() } else { scan };
        scan.await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn popular_ranks_follow_zipfs_law() {
        let (zipf, mut rng) = (Zipf::new(1000), Rng::with_seed(7));
        let mut counts = BTreeMap::new();
        for _ in 0..100_000 {
            *counts.entry(zipf.rank(&mut rng)).or_insert(0_u32) += 1;
        }
        assert!(counts.keys().all(|rank| *rank < 1000));
        let share = |rank: u64| f64::from(counts[&rank]) / 100_000.0;
        // 1 / zeta(1000) = 0.131.
        assert!((0.12..0.14).contains(&share(0)), "{}", share(0));
        assert!((0.06..0.075).contains(&share(1)), "{}", share(1));
        assert!(counts.range(500..).count() > 400, "rare ones occur too");
    }

    #[test]
    fn the_sum_of_many_weights_is_right_though_most_are_not_added() {
        let exact: f64 = (1..=200_000_u64).map(|rank| (rank as f64).powf(-Zipf::EXPONENT)).sum();
        assert!((Zipf::sum(200_000) - exact).abs() < 1e-6);
    }

    #[test]
    fn scattering_keeps_every_key_apart() {
        for count in [1, 2, 10, 1000, 1 << 10] {
            let all: std::collections::BTreeSet<u64> = (0..count).map(|rank| scatter(rank, count)).collect();
            assert_eq!(all.len() as u64, count);
        }
    }
}
