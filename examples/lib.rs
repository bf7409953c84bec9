//! Examples of `kv-core`: one file each, run with `cargo run -p kv-examples --example NAME`.
