//! The system tests: built binaries on loopback, killed and restarted, under stock clients.
//!
//! Each module is a theme, each test a story whose name says what holds. They link to no crate of
//! the project. `make test` builds the binaries first.
#![expect(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests fail by panicking, in their helpers too"
)]
#![expect(clippy::print_stdout, reason = "a test prints what it measured")]

mod backup;
mod bad_input;
mod client_crash;
mod clients;
mod clones;
mod crash_points;
mod daemon_crash;
mod damage;
mod fill;
mod garbage;
mod golden;
mod harness;
mod kill_all;
mod leader_loss;
mod load;
mod members;
mod metadata;
mod metadata_disk;
mod openers;
mod recover;
mod refused;
mod resize;
mod ring_change;
mod rolling;
mod simulation;
mod snapshots;
mod soak;
mod space;
mod syncs;
mod tidy;
mod transfer;
mod walk_through;
mod watch;
