//! What a peer answers when it does not do what was asked, and the silence that is worse.

use torus_blockstore::Epoch;
use torus_metadata::RingVersion;

/// A peer's own answer to a request that it did not carry out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Another peer may hold the block.
    #[error("it does not hold the block")]
    NoSuchBlock,
    /// Its store has no free slot, or none for this: a part is a reserve.
    #[error("its store is full")]
    Full,
    /// The epoch of the request has ended for good.
    #[error("epoch {newest} has fenced this one")]
    Fenced { newest: Epoch },
    /// An append somewhere else than at the block's end, or a read past it.
    #[error("the range does not fit the block's present length")]
    BadOffset,
    /// The block is complete and takes no appends and no other content.
    #[error("the block is sealed")]
    Sealed,
    /// The block was being written when the peer went down; only recovery can use what is there.
    #[error("its copy was cut short by a crash and is not settled")]
    Unsettled,
    /// The bytes do not match their checksum.
    #[error("its copy is corrupt")]
    Corrupt,
    /// Its disk failed; what was not yet acknowledged must be taken for lost.
    #[error("its disk fails")]
    Disk,
    /// The request is for a peer of another cluster.
    #[error("it belongs to another cluster")]
    WrongCluster,
    /// Another peer listens at the address now.
    #[error("it is not the peer that was meant")]
    WrongPeer,
    /// It speaks no common version of the protocol.
    #[error("it speaks another version of the protocol")]
    WrongVersion,
    /// It is about to stop.
    #[error("it is shutting down")]
    ShuttingDown,
    /// It follows another version of the ring, so that its word does not count for this one.
    #[error("it follows version {current} of the ring")]
    OtherRing { current: RingVersion },
    /// Whoever repairs came too late with its copy.
    #[error("the block's volume deleted it")]
    Deleted,
    /// The request passes a limit, or this version does not know it.
    #[error("it cannot make sense of the request")]
    Invalid,
}

/// A request that was not carried out, or of which nobody knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The peer is down, or went down: the request may or may not have happened.
    #[error("it does not answer")]
    Silent,
    /// The peer lives, but did not do this in time; it may yet.
    #[error("it is too slow")]
    TooSlow,
}

/// Bytes from the network that are no message of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    #[error("the bytes do not begin a {what}")]
    Magic { what: &'static str },
    #[error("version {0} of the protocol is not known")]
    Version(u32),
    #[error("the checksum of a {what} does not match")]
    Checksum { what: &'static str },
    #[error("a frame of {length} bytes passes the limit of {limit}")]
    TooLong { length: u32, limit: u32 },
    #[error("{what} is malformed")]
    Malformed { what: &'static str },
}
