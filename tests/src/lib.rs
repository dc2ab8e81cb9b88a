//! The harness of the system tests: clusters of built binaries on loopback, and their clients.
//!
//! It uses no crate of the project: what it knows of Torus is its command lines, its JSON
//! output and the NBD protocol, as an operator's scripts do. (The [`simulate`] and
//! [`soak`] modules are other things, and use little of the rest.) What fails, fails by a panic that says
//! what was awaited and what was seen last; the logs of every process follow. Nothing outlives a
//! test: what a [`Cluster`] started is killed when it is dropped, and by the kernel when the test
//! itself is killed.
#![expect(
    clippy::panic,
    clippy::expect_used,
    reason = "a harness reports by panicking in the test that uses it"
)]
#![expect(clippy::print_stdout, reason = "a test shows its seed when it fails")]
#![expect(clippy::print_stderr, reason = "the logs of a failed test go to its output")]

mod cluster;
mod history;
mod image;
mod nbd;
mod placement;
mod ports;
mod process;
mod server;
pub mod simulate;
pub mod soak;
mod tools;
mod volumes;
mod wait;

pub use cluster::{Cluster, ClusterOptions};
pub use history::{History, PAGE, Prefix, Random};
pub use image::Image;
pub use nbd::NbdClient;
pub use ports::free as free_port;
pub use process::{Outcome, Process, run};
pub use server::NbdServer;
pub use tools::{binary, tool};
pub use wait::{Stopwatch, wait_until};
