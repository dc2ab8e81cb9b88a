//! Blocks on one node: their names, the stores that keep them, and the layers that protect them.
//!
//! [`Mfile`] keeps blocks in a preallocated file and [`Temp`] in memory; both are a [`BlockStore`].
//! What `sync` has acknowledged survives the loss of power; a sealed block is never readable with
//! other bytes than were sealed, unless the medium changes them.

mod disk;
mod error;
mod fence;
pub mod field;
mod identity;
mod ids;
mod inode_store;
mod layer;
mod mfile;
mod pool;
mod spec;
mod store;
mod temp;

#[cfg(any(test, feature = "sim"))]
pub use disk::{Astray, Fault, SimCounts, SimDisk};
pub use disk::{DirLock, Disk, DiskFile, Mapping, OsDisk};
pub use error::Error;
pub use fence::{Admission, FenceTable};
pub use identity::PeerIdentity;
pub use ids::{
    BlockIndex, BlockKind, BlockRef, DecodeError, Epoch, INodeIndex, INodeRef, PeerId, VolumeId,
};
pub use inode_store::INodeStore;
pub use layer::{BlockSet, BlockSetError, LiveBlock};
pub use mfile::{Mfile, MfileOptions};
pub use pool::{Append, BlockPool, ByteRange, CutOff, Placement, PoolError};
pub use spec::{BlockLayer, BlockLayerKind, BlockSpec, SpecError};
pub use store::{BlockState, BlockStore, Geometry, LARGE_TRANSFER, Seal};
pub use temp::Temp;
