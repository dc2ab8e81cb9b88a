//! How far the moving of blocks is, for people who wait for it.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::Status;

/// Counters that the rebalancer writes and a status request reads. Each is right for itself; they
/// are not read at one moment.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    unchecked_blocks: AtomicU64,
    blocks_to_move: AtomicU64,
    blocks_moved: AtomicU64,
    bytes_moved: AtomicU64,
    bytes_per_second: AtomicU64,
}

impl Progress {
    /// What of a status is known here.
    pub(crate) fn status(&self) -> Status {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Status {
            unchecked_blocks: get(&self.unchecked_blocks),
            blocks_to_move: get(&self.blocks_to_move),
            blocks_moved: get(&self.blocks_moved),
            bytes_moved: get(&self.bytes_moved),
            bytes_per_second: get(&self.bytes_per_second),
            ..Status::default()
        }
    }

    pub(crate) fn set_unchecked(&self, blocks: u64) {
        self.unchecked_blocks.store(blocks, Ordering::Relaxed);
    }

    pub(crate) fn set_to_move(&self, blocks: u64) {
        self.blocks_to_move.store(blocks, Ordering::Relaxed);
    }

    pub(crate) fn set_rate(&self, bytes_per_second: u64) {
        self.bytes_per_second.store(bytes_per_second, Ordering::Relaxed);
    }

    /// One copy has arrived where it belongs.
    pub(crate) fn moved(&self, bytes: u64) {
        self.blocks_moved.fetch_add(1, Ordering::Relaxed);
        self.bytes_moved.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn bytes_moved(&self) -> u64 {
        self.bytes_moved.load(Ordering::Relaxed)
    }
}
