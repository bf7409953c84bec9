//! Whole groups of replicas without disks or networks of any kind: each test states a rule of PROTOCOL.md by its
//! number.

mod checks;
mod clocks;
mod damage;
mod epochs;
mod executions;
mod group;
mod handover;
mod membership;
mod model;
mod reads;
mod rules;
mod standbys;
mod transfer;
mod walk;
