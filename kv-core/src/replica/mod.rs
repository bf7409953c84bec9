//! The protocol, pure: no clock, no I/O, no tokio, no randomness but the seed it is given.
//!
//! # How to drive it
//! One mutation, then drain: call [`Replica::handle`] with one [`Input`], then [`Replica::poll_output`] until it returns
//! `None`, carrying out each [`Output`] in order; then look at [`Replica::poll_timeout`] and call
//! `handle(now, Input::Timeout)` at that time. Completion is an input: a write is answered later by [`Input::Durable`].

mod api;

pub use api::*;
