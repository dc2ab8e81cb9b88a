//! What goes wrong with a volume.

use torus_blockstore::{BlockRef, Epoch, PeerId, PoolError};
use torus_metadata::Refusal;

use crate::checkpoint::LoadError;

/// Errors of an open volume.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The range is not within the volume.
    #[error("bytes {offset} to {end} pass the end of the volume, {size}")]
    OutOfRange { offset: u64, end: u64, size: u64 },
    /// Another opener has taken the volume over; nothing that was not flushed before is kept.
    #[error("the volume was taken over by another opener (epoch {newest})")]
    TakenOver { newest: Epoch },
    /// The metadata service refuses this writer.
    #[error("the metadata service refused the writer")]
    Refused(#[source] Refusal),
    /// No peer that answers holds these bytes.
    #[error("cannot read {block}")]
    Read { block: BlockRef, source: PoolError },
    /// Which peers there are is not known now.
    #[error("cannot find out which peers there are")]
    Peers { source: PoolError },
    /// A peer does not say what it holds.
    #[error("cannot list the blocks of peer {peer}")]
    List { peer: PeerId, source: PoolError },
    /// No copy of these bytes is intact; other bytes of the volume are not affected.
    #[error("every copy of {block} fails its checksum")]
    Damaged { block: BlockRef },
    /// The peers have no room left for anything new; what was accepted is kept. Trims and deletions
    /// make room.
    #[error("the cluster is full; delete something or add peers")]
    NoSpace,
    /// A snapshot is never written.
    #[error("a snapshot cannot be written")]
    ReadOnly,
    /// A part of the volume's map is lost.
    #[error("cannot read the volume's map")]
    Map(#[from] LoadError),
    /// The volume would become smaller than the data in it.
    #[error("the volume holds data at byte {offset}, behind the new end; --discard cuts it")]
    HoldsData { offset: u64 },
    /// Another operation of this kind is under way.
    #[error("the volume is being resized")]
    Busy,
    /// The volumes of a group did not all stop in time.
    #[error("not all volumes of the group could be stopped at one moment")]
    Scattered,
    /// The volume is closed.
    #[error("the volume is closed")]
    Closed,
}

/// Errors of opening a volume.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    #[error("there is no volume {name:?}; 'torusctl volume list' names those that exist")]
    NoSuchVolume { name: String },
    #[error(
        "volume {volume:?} has no snapshot {snapshot:?}; 'torusctl snapshot list {volume}' names those that exist"
    )]
    NoSuchSnapshot { volume: String, snapshot: String },
    /// Another client has it open; it frees the volume at the latest when its session ends.
    #[error("volume {name:?} is in use by {owner}")]
    InUse { name: String, owner: String },
    /// Somebody else opened it while this opener recovered it.
    #[error("volume {name:?} was taken over by another opener")]
    TakenOver { name: String },
    /// Waiting longer may help; the log names what it waited for.
    #[error("gave up waiting for the metadata service, or for enough peers to write to")]
    TimedOut,
    #[error("cannot reach the metadata service")]
    Metadata(#[from] torus_metadata::Error),
    #[error("cannot load the volume's map")]
    Load(#[from] LoadError),
    /// The volume was recovered and then failed before it was ready.
    #[error("cannot finish the recovery of the volume")]
    Recover(#[from] Error),
}
