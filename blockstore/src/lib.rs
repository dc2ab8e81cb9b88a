//! Blocks on one node: their names, the stores that keep them, and the layers that protect them.

mod error;
mod ids;
mod pool;
mod spec;
mod store;

pub use error::Error;
pub use ids::{
    BlockIndex, BlockKind, BlockRef, DecodeError, Epoch, INodeIndex, INodeRef, PeerId, VolumeId,
};
pub use pool::{Append, BlockPool, ByteRange, CutOff, Placement, PoolError};
pub use spec::{BlockLayer, BlockLayerKind, BlockSpec, SpecError};
pub use store::{BlockState, BlockStore, Geometry, Seal};
