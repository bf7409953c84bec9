//! Tests of the engine on disk.
