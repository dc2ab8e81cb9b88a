//! The blocks of the whole cluster as a volume sees them: replicated, fenced, found wherever they
//! are. The distributor implements it over the network, the simulation over a simulated one.
//!
//! The trait stands here, below both, so that `volume` knows no sockets and `distributor` no
//! volumes.

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::{BlockRef, BlockState, Epoch, PeerId, Seal, VolumeId};

/// Where the blocks of a window go: the first peers, as many as there are to be copies, of the ring's
/// permutation for each block, less the excluded ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Version of the ring that was current when the window was committed.
    pub ring: u64,
    /// Peers to pass over, because they did not answer or were full when the window was committed.
    pub excluded: Vec<PeerId>,
    /// How many peers hold each block, where the volume's block spec asks for a number of its own; no
    /// more than the ring has. `None`: the ring's replication.
    pub copies: Option<u32>,
}

/// Bytes for one open block.
#[derive(Clone, Debug)]
pub struct Append {
    pub block: BlockRef,
    pub epoch: Epoch,
    /// Where in the block the bytes go: its present length.
    pub offset: u32,
    /// Parts that stand one after another; empty to only sync what was appended before.
    pub data: Vec<Bytes>,
    /// Answer only when the bytes, and all before them in the block, are on the disk.
    pub sync: bool,
    /// Whether the peer need not keep the bytes in memory, because readers ask another one first.
    /// The pool says so to each peer.
    pub past_cache: bool,
}

/// A replicated operation that some peers did not carry out; on the others it happened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CutOff {
    /// These peers are down, full or failing: seal, and go on without them.
    #[error("{} of the block's peers failed", .failed.len())]
    Lost { failed: Vec<PeerId> },
    /// A peer has seen a newer epoch of the volume: this writer is no longer its owner.
    #[error("epoch {newest} has taken the volume over")]
    Fenced { newest: Epoch },
}

/// A failed read or lookup of one block.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// Every peer that may hold the block answered, and none has it.
    #[error("no peer holds {block}")]
    NoSuchBlock { block: BlockRef },
    /// Peers that may hold the block did not answer; it may be there when they return.
    #[error("{block} is on none of the peers that answer; {} do not", .silent.len())]
    Unavailable { block: BlockRef, silent: Vec<PeerId> },
    /// The ring of a placement, or the metadata that would tell it, cannot be had.
    #[error("ring version {version} is not known")]
    UnknownRing { version: u64 },
    /// The ring has fewer live peers than the volume asks for.
    #[error("the ring names {found} healthy peers, {needed} are needed")]
    TooFewPeers { found: usize, needed: usize },
    /// One peer's own answer.
    #[error("peer {peer} refused: {reason}")]
    Refused { peer: PeerId, reason: String },
    /// One peer does not answer.
    #[error("peer {peer} does not answer")]
    Silent { peer: PeerId },
}

/// A range of a block, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    pub offset: u32,
    pub length: u32,
}

/// The replicated blocks of the cluster. Futures are driven by the caller; requests to a peer leave
/// in the order of the calls, also when the futures are polled in another.
pub trait BlockPool: Send + Sync + 'static {
    /// Bytes in a block.
    fn block_size(&self) -> u32;

    /// How many peers hold each block in the present ring, when all are healthy; 0 while no ring is
    /// known. A placement may name fewer: whether they are enough is for the writer to say.
    fn replication(&self) -> u32;

    /// A placement in the present ring that passes over the peers that do not answer, fail or are full
    /// now. It names no number of copies: the volume puts in its own.
    fn place_now(&self) -> BoxFuture<'static, Result<Placement, PoolError>>;

    /// The peers that may hold `block` under `placement`: those and no others.
    fn peers_of(
        &self,
        block: BlockRef,
        placement: Placement,
    ) -> BoxFuture<'static, Result<Vec<PeerId>, PoolError>>;

    /// Every peer that is registered, in the ring or not.
    fn all_peers(&self) -> BoxFuture<'static, Result<Vec<PeerId>, PoolError>>;

    /// Appends on every one of `peers`; done when all have answered or one has failed.
    fn append(&self, peers: Vec<PeerId>, append: Append) -> BoxFuture<'static, Result<(), CutOff>>;

    /// Seals `block` on every one of `peers`, durably. A peer whose copy does not match fails.
    fn seal(
        &self,
        peers: Vec<PeerId>,
        block: BlockRef,
        epoch: Epoch,
        seal: Seal,
    ) -> BoxFuture<'static, Result<(), CutOff>>;

    /// Reads `ranges`, one after another, from one copy that is open or sealed: from the first of
    /// `hint`, then of the ring's permutation, that answers and is not in `avoid`. Says who it was.
    fn read(
        &self,
        block: BlockRef,
        ranges: Vec<ByteRange>,
        hint: Vec<PeerId>,
        avoid: Vec<PeerId>,
    ) -> BoxFuture<'static, Result<(PeerId, Bytes), PoolError>>;

    /// One peer's copy with its state, for recovery: a sealed block's content, of an open one what
    /// is there, of an unsettled one all bytes up to the block size. `None`: it holds no copy.
    fn fetch(
        &self,
        peer: PeerId,
        block: BlockRef,
    ) -> BoxFuture<'static, Result<Option<(BlockState, Bytes)>, PoolError>>;

    /// Makes `peer` refuse every epoch of `volume` below `epoch`, durably. The answer is the highest
    /// epoch that the peer has seen: above `epoch` it means that this opener is itself fenced.
    fn fence(
        &self,
        peer: PeerId,
        volume: VolumeId,
        epoch: Epoch,
    ) -> BoxFuture<'static, Result<Epoch, PoolError>>;

    /// Stores a whole sealed block on `peers` in place of what copy they may have, durably.
    fn put(
        &self,
        peers: Vec<PeerId>,
        block: BlockRef,
        epoch: Epoch,
        data: Bytes,
    ) -> BoxFuture<'static, Result<(), CutOff>>;

    /// Deletes blocks of one volume that it needs no more, durably, on every one of `peers`, in as
    /// many requests as it takes. A peer that has no copy has deleted it.
    fn delete(
        &self,
        peers: Vec<PeerId>,
        blocks: Vec<BlockRef>,
        epoch: Epoch,
    ) -> BoxFuture<'static, Result<(), CutOff>>;

    /// Blocks of `volume` that `peer` holds, in their order behind `after`; none left when the
    /// answer is empty.
    fn list(
        &self,
        peer: PeerId,
        volume: VolumeId,
        after: Option<BlockRef>,
    ) -> BoxFuture<'static, Result<Vec<(BlockRef, BlockState)>, PoolError>>;

    /// Bytes of blocks that the peers of the present ring can still take, with all copies of each.
    /// At 0 writers should take nothing new: what they have accepted, checkpoints and garbage
    /// collection use the peers' reserves. `u64::MAX` while that is not known. Of the last second;
    /// cheap.
    fn room(&self) -> u64;

    /// Tells `peer` that its copy of `block` failed a check: it verifies it and fetches a good one.
    fn suspect(&self, peer: PeerId, block: BlockRef);
}
