//! A real group of five daemons under faults, and whether what its clients saw is linearizable.
//!
//! [`run`] forms the group ([`group`]), each daemon in a network namespace of its own where that is
//! allowed ([`network`]). [`clients`] and [`lockers`] work on registers, counters, the ring and locks
//! while [`nemesis`] does harm from a seed, and record what they asked and were told ([`record`]).
//! Afterwards [`search`] looks for an order of all operations in which [`model`] gives the same
//! answers, [`revisions`] holds their revisions against real time, and [`watchers`] what several
//! watchers saw against each other and against the answers.
//!
//! The seed decides what is done and to whom; what comes of it depends on the machine, so a run is
//! not repeated exactly by its seed.

mod clients;
mod group;
mod lockers;
mod model;
mod nemesis;
mod network;
mod record;
mod report;
mod revisions;
mod run;
mod search;
#[cfg(test)]
mod tests;
mod watchers;

pub use report::Report;
pub use run::{Form, run};
