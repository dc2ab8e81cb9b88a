//! Reads what a checkpoint consists of: from any replica, each object checked against the CRC that
//! its parent holds.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use torus_blockstore::{
    BlockIndex, BlockKind, BlockPool, BlockRef, ByteRange, INodeRef, PeerId, PoolError,
};
use torus_metadata::Head;

use super::format::{self, HEADER_LEN, ObjectRef, Root};

/// A checkpoint that cannot be read.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// No peer that answers has it intact.
    #[error("cannot read INode {inode} of volume {volume}", inode = .inode.inode.0, volume = .inode.volume)]
    Read { inode: INodeRef, source: PoolError },
    /// The bytes pass their checksum and yet are no checkpoint of this format version.
    #[error("INode {inode} of volume {volume} holds no checkpoint that this version understands", inode = .inode.inode.0, volume = .inode.volume)]
    Format { inode: INodeRef },
}

/// Reads the objects of checkpoints.
#[derive(Clone)]
pub(crate) struct Loader {
    pub(crate) pool: Arc<dyn BlockPool>,
}

impl Loader {
    /// The root of the checkpoint that is a volume's head.
    pub(crate) async fn root(&self, head: &Head) -> Result<Root, LoadError> {
        let inode = head.inode_ref();
        let header = |bytes: &Bytes| format::decode_header(bytes, inode).map(|(_, root)| root);
        let place = self.verified(inode, 0, HEADER_LEN as u32, header).await?;
        let bytes = self.object(place).await?;
        Root::decode(&bytes).ok_or(LoadError::Format { inode })
    }

    /// One object.
    pub(crate) async fn object(&self, place: ObjectRef) -> Result<Bytes, LoadError> {
        let intact = |bytes: &Bytes| (crc32fast::hash(bytes) == place.crc).then(|| bytes.clone());
        self.verified(place.inode, place.offset, place.length, intact).await
    }

    /// Reads a range of an INode's stream until `check` accepts it: as the pool gives it, then
    /// wholly from one peer after another, as it may stand in two blocks and each peer may have one
    /// of them damaged.
    async fn verified<T>(
        &self,
        inode: INodeRef,
        offset: u64,
        length: u32,
        check: impl Fn(&Bytes) -> Option<T>,
    ) -> Result<T, LoadError> {
        let failed = |source| LoadError::Read { inode, source };
        let everyone = self.pool.all_peers().await.map_err(failed)?;
        let (from, bytes) = self.range(inode, offset, length, &[]).await.map_err(failed)?;
        if let Some(good) = check(&bytes) {
            return Ok(good);
        }
        for (peer, block) in from {
            tracing::warn!(%peer, %block, "a copy of an INode block may be damaged");
            self.pool.suspect(peer, block);
        }
        let mut last = None;
        for one in &everyone {
            let others: Vec<PeerId> = everyone.iter().copied().filter(|peer| peer != one).collect();
            match self.range(inode, offset, length, &others).await {
                Ok((_, bytes)) => {
                    if let Some(good) = check(&bytes) {
                        return Ok(good);
                    }
                }
                Err(error) => last = Some(error),
            }
        }
        let block = self.block_at(inode, offset);
        Err(failed(last.unwrap_or(PoolError::NoSuchBlock { block })))
    }

    fn block_at(&self, inode: INodeRef, offset: u64) -> BlockRef {
        let index = BlockIndex(offset / u64::from(self.pool.block_size()));
        inode_block(inode, index)
    }

    async fn range(
        &self,
        inode: INodeRef,
        offset: u64,
        length: u32,
        avoid: &[PeerId],
    ) -> Result<(Vec<(PeerId, BlockRef)>, Bytes), PoolError> {
        let size = u64::from(self.pool.block_size());
        let (mut at, end) = (offset, offset + u64::from(length));
        let (mut from, mut bytes) = (Vec::new(), BytesMut::with_capacity(length as usize));
        while at < end {
            let block = self.block_at(inode, at);
            let part = (end.min((block.index.0 + 1) * size) - at) as u32;
            let range = ByteRange { offset: (at % size) as u32, length: part };
            let (peer, data) =
                self.pool.read(block, vec![range], Vec::new(), avoid.to_vec()).await?;
            from.push((peer, block));
            bytes.extend_from_slice(&data);
            at += u64::from(part);
        }
        Ok((from, bytes.freeze()))
    }
}

/// One of the blocks in which an INode stands.
pub(crate) fn inode_block(inode: INodeRef, index: BlockIndex) -> BlockRef {
    BlockRef { volume: inode.volume, kind: BlockKind::INode, inode: inode.inode, index }
}
