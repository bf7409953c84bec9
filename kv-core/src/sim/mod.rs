//! The deterministic simulator: whole clusters in one thread under one seed, on damaged disks and networks.

pub mod storage;
