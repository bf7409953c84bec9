//! kv.
fn main() {}
