//! Public errors.
