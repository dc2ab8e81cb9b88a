//! What goes wrong in a store of blocks.

use std::io;
use std::path::PathBuf;

use crate::BlockRef;

/// Errors of the local block store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Every slot is in use. Retrying helps only after a delete or a grow.
    #[error("no free slot among {capacity}")]
    Full { capacity: u64 },
    /// The store does not hold the block; another replica may.
    #[error("{block} is not here")]
    NoSuchBlock { block: BlockRef },
    /// The operating system refused an operation.
    #[error("cannot {action} {}", .path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
}
