//! Where a node keeps its log: RocksDB, or what a simulation puts in its place.
//!
//! The bytes are this crate's business; a [`Storage`] only keeps them. A simulated one also says how
//! long a write takes, and then nothing of the node runs on another thread: one thread, one clock.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use futures::future::BoxFuture;

use crate::error::Cause;

/// Opens the logs of folders.
pub trait Storage: fmt::Debug + Send + Sync + 'static {
    /// Opens the log of a folder, making it if it is missing. Only one may be open at a time.
    fn open(&self, dir: &Path) -> Result<Box<dyn Records>, Cause>;

    /// Opens a log to be read while another may have it open. `None`: there is none.
    fn peek(&self, dir: &Path) -> Result<Option<Box<dyn Records>>, Cause>;

    /// Whether the folder has a log.
    fn exists(&self, dir: &Path) -> bool;

    /// How long writes take, if time is simulated. `None`: a write takes as long as it takes, on a
    /// thread of its own.
    fn pace(&self) -> Option<Arc<dyn Pace>> {
        None
    }
}

/// One open log: numbered entries, and a few named values beside them.
///
/// A batch is written as a whole or not at all. What was written is visible at once. What a crash
/// leaves is a prefix of the batches that contains at least all up to the last synced one.
pub trait Records: Send + Sync {
    fn value(&self, name: &str) -> io::Result<Option<Vec<u8>>>;

    /// The names of all values.
    fn names(&self) -> io::Result<Vec<String>>;

    /// The entries at and behind `from`, as they are now.
    fn entries(&self, from: u64) -> io::Result<Entries<'_>>;

    fn last_entry(&self) -> io::Result<Option<(u64, Vec<u8>)>>;

    /// Writes a batch; with `sync`, it and all before it are durable on return.
    fn write(&self, batch: &[Change<'_>], sync: bool) -> io::Result<()>;
}

/// Entries in order, each with its index.
pub type Entries<'a> = Box<dyn Iterator<Item = io::Result<(u64, Vec<u8>)>> + 'a>;

/// One part of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change<'a> {
    PutEntry {
        index: u64,
        value: &'a [u8],
    },
    /// Removes the entries `from..=last`.
    RemoveEntries {
        from: u64,
        last: u64,
    },
    PutValue {
        name: &'a str,
        value: &'a [u8],
    },
    RemoveValue {
        name: &'a str,
    },
}

/// The time that a simulated disk takes.
pub trait Pace: Send + Sync + 'static {
    /// Resolves when a batch of `size` bytes has reached the disk.
    fn before_write(&self, size: usize) -> BoxFuture<'static, ()>;

    /// Resolves when the batch is answered.
    fn after_write(&self) -> BoxFuture<'static, ()>;
}

/// Where work goes that may take long or wait for a disk.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Blocking {
    /// To the runtime's threads for such work.
    Threads,
    /// Nowhere: it takes no simulated time.
    Inline,
}

impl Blocking {
    pub(crate) fn of(storage: &dyn Storage) -> Self {
        if storage.pace().is_some() { Self::Inline } else { Self::Threads }
    }

    /// Runs `work`; the error is a panic of it, or the end of the runtime.
    pub(crate) async fn run<T: Send + 'static>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, tokio::task::JoinError> {
        match self {
            Self::Threads => tokio::task::spawn_blocking(work).await,
            Self::Inline => Ok(work()),
        }
    }
}
