//! Whether the file system of the log has room.
//!
//! A log that meets a full disk is at its end: the write has failed, and nothing may follow it. So
//! new commands are refused before that, and what Raft itself writes, which is little, finds room.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;

/// Bytes that must be free. The log's tables in memory, which it writes out when they are full,
/// are half of that.
const RESERVE: u64 = 64 << 20;
const EVERY: Duration = Duration::from_millis(250);

/// The file system of a folder.
#[derive(Debug)]
pub(crate) struct Space {
    dir: PathBuf,
    is_low: AtomicBool,
}

impl Space {
    pub(crate) fn of(dir: PathBuf) -> Arc<Self> {
        let space = Self { dir, is_low: AtomicBool::new(false) };
        space.look();
        Arc::new(space)
    }

    pub(crate) fn is_low(&self) -> bool {
        self.is_low.load(Ordering::Relaxed)
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
        let is_low = free < RESERVE;
        if self.is_low.swap(is_low, Ordering::Relaxed) == is_low {
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
