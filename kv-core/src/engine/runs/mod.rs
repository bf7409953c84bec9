//! Sorted runs: immutable files of rows in the order of their places, with an index and filters.
//!
//! A run is written once, from one end to the other, and then only read. The hash of each block is in the block of the
//! index above it, and that of the root in the manifest. So any other content than what was written is found before
//! anything of it is used: a flipped bit, a block of another file or place, and an older one.

mod block;
mod cache;
mod file;
mod filter;
mod index;
mod merged;
mod readahead;
mod run;
#[cfg(test)]
mod tests;
mod writer;

pub(super) use cache::Cache;
pub(super) use file::RunFile;
pub(super) use filter::hash_of;
pub(super) use index::{name_of, number_of};
pub(super) use merged::Merged;
pub(super) use run::{Run, RunMeta};
pub(super) use writer::{NewFiles, RunWriter, Target};
