//! Whether the file system of the log has room.
//!
//! A log that meets a full disk is at its end: the write has failed, and nothing may follow it. So
//! new commands are refused before that, and snapshots for which there is no room; what Raft itself
//! writes, which is little, still finds some.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;

/// Bytes that must be free for commands and snapshots. The log's tables in memory, which it writes out
/// when they are full, are 24 MiB of that.
const RESERVE: u64 = 64 << 20;
/// Bytes that must be free for any entry: a new leader, too, begins with one.
const LAST_RESERVE: u64 = RESERVE / 2;
const EVERY: Duration = Duration::from_millis(250);

/// The file system of a folder.
#[derive(Debug)]
pub(crate) struct Space {
    dir: PathBuf,
    free: AtomicU64,
}

impl Space {
    pub(crate) fn of(dir: PathBuf) -> Arc<Self> {
        let space = Self { dir, free: AtomicU64::new(u64::MAX) };
        space.look();
        Arc::new(space)
    }

    /// Whether there is none for commands.
    pub(crate) fn is_low(&self) -> bool {
        !self.has_room(0)
    }

    /// Whether there is none for any entry.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.free.load(Ordering::Relaxed) < LAST_RESERVE
    }

    /// Whether a file of so many bytes leaves enough.
    pub(crate) fn has_room(&self, size: u64) -> bool {
        self.free.load(Ordering::Relaxed) >= RESERVE.saturating_add(size)
    }

    /// Looks now and then, until the node stops.
    pub(crate) fn watch(self: &Arc<Self>) -> JoinHandle<()> {
        let space = Arc::clone(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(EVERY).await;
                space.look();
            }
        })
    }

    fn look(&self) {
        let free = match nix::sys::statvfs::statvfs(&self.dir) {
            Ok(found) => found.blocks_available().saturating_mul(found.fragment_size()),
            Err(error) => {
                // What is wrong with the disk, its writes will say.
                tracing::debug!(%error, "the free space is not known");
                return;
            }
        };
        let (was_low, is_low) = (self.is_low(), free < RESERVE);
        self.free.store(free, Ordering::Relaxed);
        if was_low == is_low {
            return;
        }
        let dir = self.dir.display();
        if is_low {
            tracing::error!(%dir, free, "the disk of the Raft log is full: no command is taken");
        } else {
            tracing::info!(%dir, free, "the disk of the Raft log has room again");
        }
    }
}
