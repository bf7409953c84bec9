//! A three-member cluster in one process.
fn main() {}
