//! Reads a checkpoint back: from any replica, each object checked against the CRC that its parent
//! holds.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::stream::{self, StreamExt, TryStreamExt};
use torus_blockstore::{
    BlockIndex, BlockKind, BlockPool, BlockRef, BlockSpec, ByteRange, INodeIndex, INodeRef, PeerId,
    PoolError, VolumeId,
};

use super::format::{self, HEADER_LEN, ObjectRef};
use super::{NODE_LEAVES, Stored};
use crate::map::Map;

/// Objects that are read at once.
const CONCURRENT: usize = 32;

/// A checkpoint that cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// No peer that answers has it intact.
    #[error("cannot read INode {inode} of volume {volume}", inode = .inode.inode.0, volume = .inode.volume)]
    Read { inode: INodeRef, source: PoolError },
    /// The bytes pass their checksum and yet are no checkpoint of this format version.
    #[error("INode {inode} of volume {volume} holds no checkpoint that this version understands", inode = .inode.inode.0, volume = .inode.volume)]
    Format { inode: INodeRef },
}

/// Loads the checkpoint that INode `inode` of a volume with block spec `spec` holds.
pub(crate) async fn load(
    pool: &Arc<dyn BlockPool>,
    inode: INodeRef,
    spec: BlockSpec,
) -> Result<(Map, Stored), LoadError> {
    let reader = Reader { pool: Arc::clone(pool), volume: inode.volume };
    let malformed = || LoadError::Format { inode };
    let root = reader.root(inode).await?;
    let root = reader.object(root).await?;
    let (nodes, parts) = format::decode_root(&root).ok_or_else(malformed)?;

    let (mut map, mut stored) = (Map::new(inode.volume, spec), Stored::default());
    for (number, (part, place)) in parts.into_iter().enumerate() {
        let bytes = reader.object(place).await?;
        let part = u32::try_from(part).ok().filter(|part| *part as usize == number);
        let part = part.ok_or_else(malformed)?;
        map.table.load_part(&bytes).ok_or_else(malformed)?;
        stored.parts.insert(part, place);
    }
    for (node, place) in nodes {
        let bytes = reader.object(place).await?;
        let leaves = format::decode_node(&bytes, node).ok_or_else(malformed)?;
        stored.nodes.insert(node, place);
        stored.leaves.extend(leaves);
    }
    let reader = &reader;
    let mut leaves = stream::iter(stored.leaves.clone())
        .map(|(leaf, place)| async move { Ok::<_, LoadError>((leaf, reader.object(place).await?)) })
        .buffered(CONCURRENT);
    while let Some((leaf, bytes)) = leaves.try_next().await? {
        map.load_leaf(leaf, &bytes).ok_or_else(malformed)?;
    }
    debug_assert!(
        stored.leaves.keys().all(|leaf| stored.nodes.contains_key(&(leaf / NODE_LEAVES)))
    );
    Ok((map, stored))
}

struct Reader {
    pool: Arc<dyn BlockPool>,
    volume: VolumeId,
}

impl Reader {
    async fn root(&self, inode: INodeRef) -> Result<ObjectRef, LoadError> {
        let header = |bytes: &Bytes| format::decode_header(bytes, inode).map(|(_, root)| root);
        self.verified(inode.inode, 0, HEADER_LEN as u32, header).await
    }

    async fn object(&self, place: ObjectRef) -> Result<Bytes, LoadError> {
        let intact = |bytes: &Bytes| (crc32fast::hash(bytes) == place.crc).then(|| bytes.clone());
        self.verified(place.inode, place.offset, place.length, intact).await
    }

    /// Reads a range of an INode's stream until `check` accepts it: as the pool gives it, then
    /// wholly from one peer after another, as it may stand in two blocks and each peer may have one
    /// of them damaged.
    async fn verified<T>(
        &self,
        inode: INodeIndex,
        offset: u64,
        length: u32,
        check: impl Fn(&Bytes) -> Option<T>,
    ) -> Result<T, LoadError> {
        let reference = INodeRef { volume: self.volume, inode };
        let failed = |source| LoadError::Read { inode: reference, source };
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

    fn block_at(&self, inode: INodeIndex, offset: u64) -> BlockRef {
        let index = BlockIndex(offset / u64::from(self.pool.block_size()));
        BlockRef { volume: self.volume, kind: BlockKind::INode, inode, index }
    }

    async fn range(
        &self,
        inode: INodeIndex,
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
