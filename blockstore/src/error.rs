//! What goes wrong in a store of blocks.

use std::io;
use std::path::{Path, PathBuf};

use crate::{BlockRef, INodeRef, PeerId};

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

    /// An append that does not begin where the block ends: one was lost, or it came twice.
    #[error("{block} is {length} bytes long, the append is for offset {offset}")]
    Offset { block: BlockRef, length: u32, offset: u32 },
    /// The append or seal would reach past the end of the block.
    #[error("{block} would be {end} bytes long, a block has {block_size}")]
    TooLong { block: BlockRef, end: u64, block_size: u32 },
    /// The read or seal asks for more than is there.
    #[error("{block} is {length} bytes long, byte {end} was asked for")]
    TooShort { block: BlockRef, length: u32, end: u64 },
    /// The block takes no appends any more.
    #[error("{block} is sealed")]
    Sealed { block: BlockRef },
    /// The block was open when the store went down: seal or replace it.
    #[error("{block} is not settled since the last start")]
    Unsettled { block: BlockRef },
    /// The block is sealed at another length or checksum; only a `put` replaces it.
    #[error("{block} is sealed otherwise: {length} bytes, checksum {crc:#010x}")]
    SealedOtherwise { block: BlockRef, length: u32, crc: u32 },
    /// The bytes of a stored block do not match their checksum; ask another replica.
    #[error("checksum of {block} is {found:#010x}, expected {expected:#010x}")]
    Checksum { block: BlockRef, expected: u32, found: u32 },

    /// An earlier sync failed: what was written before it may be lost, so nothing more is
    /// acknowledged. The store must be opened again.
    #[error("{} takes no writes since a sync failed; restart the daemon", .path.display())]
    Poisoned { path: PathBuf },

    /// Another process has the data directory.
    #[error("{} is in use{}", .dir.display(), by_process(.pid))]
    InUse { dir: PathBuf, pid: Option<u32> },
    /// A file that this program did not write; nothing was changed.
    #[error("{} is no file of a Torus store; choose another data directory", .path.display())]
    Foreign { path: PathBuf },
    /// A file of ours that is not as it was written; nothing was changed.
    #[error("{} is damaged: {what}", .path.display())]
    Damaged { path: PathBuf, what: &'static str },
    /// A file of ours from another release; nothing was changed.
    #[error("{} has format version {found}, this program knows {known}", .path.display())]
    Version { path: PathBuf, found: u32, known: u32 },
    /// The store belongs to another peer: a file was copied from another data directory.
    #[error("{} belongs to peer {found}, the data directory to {expected}", .path.display())]
    OtherPeer { path: PathBuf, found: PeerId, expected: PeerId },
    /// The blocks are those of another cluster: this one's volumes may have the same names.
    #[error(
        "the blocks in {} belong to cluster {found}, not to {expected}; use an empty data directory",
        .dir.display()
    )]
    OtherCluster { dir: PathBuf, found: uuid::Uuid, expected: uuid::Uuid },
    /// The store was made for another block size; a block size is for ever.
    #[error("{} has blocks of {found} bytes, {asked} were asked for", .dir.display())]
    BlockSize { dir: PathBuf, found: u32, asked: u32 },
    /// No store can have such blocks.
    #[error("a block size of {asked} bytes is no power of two from 512 to 1073741824")]
    InvalidBlockSize { asked: u32 },
    /// The store would not hold one block.
    #[error("a store of {asked} bytes is smaller than one block of {block_size}")]
    TooSmall { asked: u64, block_size: u32 },
    /// The smaller size does not even hold what is stored.
    #[error("{} stores {used} bytes, a size of {asked} was asked for", .dir.display())]
    UsedExceeds { dir: PathBuf, used: u64, asked: u64 },
    /// Stores grow but do not shrink: drain the peer and start it with an empty directory.
    #[error("{} has a size of {size} bytes and cannot shrink to {asked}", .dir.display())]
    Shrink { dir: PathBuf, size: u64, asked: u64 },
    /// The host's file system has no room for the store.
    #[error(
        "{} needs {needed} bytes, the file system has {free}: {} are missing",
        .dir.display(), .needed.saturating_sub(*.free)
    )]
    NoSpace { dir: PathBuf, needed: u64, free: u64 },

    /// The blocks of an INode do not make a whole.
    #[error("INode {} of volume {} is damaged: {what}", .inode.inode.0, .inode.volume)]
    DamagedINode { inode: INodeRef, what: &'static str },
    /// More bytes than the length before an INode can say.
    #[error("an INode of {length} bytes cannot be stored")]
    INodeTooLong { length: usize },
}

impl Error {
    /// Makes the error of a refused operation on `path`.
    pub(crate) fn io<'a>(
        action: &'static str,
        path: &'a Path,
    ) -> impl FnOnce(io::Error) -> Self + use<'a> {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }
}

fn by_process(pid: &Option<u32>) -> String {
    match pid {
        Some(pid) => format!(" by process {pid}"),
        None => " by another process".to_owned(),
    }
}
