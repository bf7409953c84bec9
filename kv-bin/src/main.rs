//! `kv`: a replicated key-value store, as a server and a command line.

mod cli;
mod config;
mod failure;
mod output;

use clap::Parser as _;
fn main() {
    let c = cli::Cli::parse();
    println!("{c:?}");
}
