//! The built `kv` as real processes over real TCP: killed, paused, restarted, misconfigured, damaged.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod backup;
mod bench;
mod bytes;
mod commands;
mod compact;
mod config;
mod count;
mod crash;
mod demo;
mod dials;
mod disk;
mod dump;
mod ends;
mod handover;
#[allow(dead_code, reason = "shared with the fault drills, which use the rest")]
mod harness;
mod http;
#[cfg(target_os = "linux")]
mod lock;
mod members;
mod membership;
mod operator;
mod pause;
mod resp;
mod shell;
#[cfg(target_os = "linux")]
mod supervisor;
#[cfg(target_os = "linux")]
mod terminal;
mod tls;
mod top;
mod touch;

/// The demo's load and its comparison with the store are the tests' too.
#[path = "../../src/demo/ledger.rs"]
mod ledger;
#[path = "../../src/demo/writers.rs"]
mod writers;

/// What the load's modules know of the program.
#[path = "../../src/failure.rs"]
#[expect(dead_code, reason = "the tests need no exit codes")]
mod failure;
