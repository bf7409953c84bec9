//! The fuzz targets on any Rust: their corpus is replayed, and they are fed with bytes from a seeded generator.
//!
//! For real fuzzing, with nightly Rust: `cargo +nightly fuzz run replica --fuzz-dir kv-core/fuzz`. What it finds goes
//! into `kv-core/fuzz/corpus`.

#[path = "../../fuzz/src/lib.rs"]
#[allow(unreachable_pub, reason = "it is a library of its own, too")]
mod targets;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};
use targets::TARGETS;

/// The inputs of a target that are worth keeping.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let entries = fs::read_dir(folder).expect("each target has a corpus");
    let file = |path: &Path| (path.display().to_string(), fs::read(path).expect("it is readable"));
    let mut files: Vec<_> = entries.map(|entry| file(&entry.expect("it is readable").path())).collect();
    files.sort();
    files
}

/// Names the input if the target panics with it.
struct Witness<'a>(&'a str, &'a dyn std::fmt::Debug);

impl Drop for Witness<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("target {} panics with {:?}", self.0, self.1);
        }
    }
}

#[test]
fn the_corpus_is_replayed() {
    for (name, target) in TARGETS {
        let inputs = corpus(name);
        assert!(!inputs.is_empty(), "{name} has no corpus");
        for (path, bytes) in inputs {
            let _witness = Witness(name, &path);
            target(&bytes);
        }
    }
}

/// Fewer than `most` random bytes.
fn noise(random: &mut fastrand::Rng, most: usize) -> Vec<u8> {
    let len = random.usize(..most);
    std::iter::repeat_with(|| random.u8(..)).take(len).collect()
}

/// Inputs from the corpus, changed here and there, and some from nothing.
fn input(random: &mut fastrand::Rng, corpus: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = match corpus.get(random.usize(..=corpus.len())) {
        Some((_, bytes)) => bytes.clone(),
        None => noise(random, 400),
    };
    for _ in 0..random.usize(..8) {
        let at = random.usize(..=bytes.len());
        match random.u8(..4) {
            0 => bytes.insert(at, random.u8(..)),
            1 => drop(bytes.drain(at..(at + random.usize(..16)).min(bytes.len()))),
            2 => bytes.extend(noise(random, 32)),
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = random.u8(..);
                }
            }
        }
    }
    bytes
}

fn run(seed: u64, wanted: impl Fn(&str) -> bool, enough: impl Fn(u64, Duration) -> bool) {
    for (name, target) in TARGETS.into_iter().filter(|(name, _)| wanted(name)) {
        let corpus = corpus(name);
        let (mut random, start, mut count) = (fastrand::Rng::with_seed(seed), Instant::now(), 0);
        while !enough(count, start.elapsed()) {
            let bytes = input(&mut random, &corpus);
            let _witness = Witness(name, &bytes);
            target(&bytes);
            count += 1;
        }
        println!("{name}: {count} inputs in {:?}", start.elapsed());
    }
}

#[test]
fn a_few_hundred_random_inputs_do_no_harm() {
    run(1, |_| true, |count, _| count == 300);
}

/// All targets, or those that `KV_FUZZ_TARGETS` names, as in `hello,stream`:
/// `KV_FUZZ_SECONDS=60 cargo test -p kv-core --features sim --test fuzz -- --ignored --nocapture`
#[test]
#[ignore = "takes as long as the variable KV_FUZZ_SECONDS says, for each target"]
fn random_inputs_for_a_while_do_no_harm() {
    let seconds = std::env::var("KV_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(10);
    let seed = std::env::var("KV_FUZZ_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(2);
    let names = std::env::var("KV_FUZZ_TARGETS").unwrap_or_default();
    let wanted = |name: &str| names.is_empty() || names.split(',').any(|wanted| wanted == name);
    run(seed, wanted, |_, elapsed| elapsed >= Duration::from_secs(seconds));
}
