//! The deterministic simulation: volumes, distributor, block stores and metadata in one process, on
//! one thread, over a simulated clock, network and disks, all from one seed.
//!
//! Real are the volume, the distributor with its rules and its rebalancer, the store with its files
//! and the metadata's state machine. Simulated are the clock (tokio's, paused: it jumps to the next
//! timer when nothing is left to do), the network ([`network`], [`connection`], [`peers`]), the
//! disks (`SimDisk`), the daemons' threads ([`node`]) and the way to the metadata ([`metadata`]).
//!
//! A run has two phases. While everything may fail, [`workload`] uses the volumes and [`nemesis`]
//! does harm; what reads give is held against [`oracle`]. Then everything is healed, and [`check`]
//! demands that all volumes serve and all copies settle within a bound. The same seed gives the same
//! run, to the last event: a hash of all of them says so.

mod batch;
mod chance;
mod check;
mod cluster;
mod connection;
mod deletions;
mod enumeration;
mod groups;
mod metadata;
mod mutation;
mod nemesis;
mod network;
mod node;
mod oracle;
mod peers;
mod restores;
mod run;
mod snapshots;
mod swarm;
mod trace;
mod workload;

use std::sync::atomic::{AtomicBool, Ordering};

use torus_distributor::Request;
use torus_metadata::Command;

pub use batch::{Batch, Limit, missing_events};
pub use enumeration::{Enumerated, enumerate_crashes};
pub use mutation::{Mutation, NoSuchMutation};
pub use run::{Report, simulate};

use swarm::Swarm;
use trace::Trace;

/// Bytes in a block: the smallest that the metadata allows.
const BLOCK_SIZE: u32 = 64 << 10;

/// What all parts of a run share.
struct Context {
    seed: u64,
    swarm: Swarm,
    mutation: Option<Mutation>,
    trace: Trace,
    calm: AtomicBool,
}

impl Context {
    /// Whether the time of faults is over.
    fn is_calm(&self) -> bool {
        self.calm.load(Ordering::Relaxed)
    }

    fn calm_down(&self) {
        self.calm.store(true, Ordering::Relaxed);
    }

    fn planted(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// A number for the trace.
fn op_number(request: &Request) -> u64 {
    match request {
        Request::Append(_) => 1,
        Request::Read { .. } => 2,
        Request::Fetch { .. } => 3,
        Request::Seal { .. } => 4,
        Request::Fence { .. } => 5,
        Request::Put { .. } => 6,
        Request::State(_) => 7,
        Request::Delete { .. } => 8,
        Request::List { .. } => 9,
        Request::Suspect { .. } => 10,
        Request::Status => 11,
    }
}

/// A number for the trace.
fn command_number(command: &Command) -> u64 {
    match command {
        Command::OpenSession { .. } => 1,
        Command::CloseSession(_) => 2,
        Command::LockVolume { .. } => 3,
        Command::RelockVolume { .. } => 4,
        Command::UnlockVolume { .. } => 5,
        Command::ReserveINodes { .. } => 6,
        Command::CommitWindow { .. } => 7,
        Command::CommitHead { .. } => 8,
        _ => 9,
    }
}
