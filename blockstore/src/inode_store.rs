//! INodes in a store of blocks.
//!
//! A payload is kept as `u32` length (little-endian) and its bytes, cut into blocks of kind
//! [`BlockKind::INode`] with the indexes 0, 1, 2…, each sealed; all but the last are full.
//!
//! The number of blocks is never worked out again: deleting asks the
//! store what it holds of the INode, so that it also finds what an interrupted write left.

use std::sync::Arc;

use crate::field::u32_at;
use crate::store::check_crc;
use crate::{BlockIndex, BlockKind, BlockRef, BlockState, BlockStore, Error, INodeRef};

const LENGTH: usize = size_of::<u32>();
/// How many blocks are asked for at a time.
const PAGE: usize = 64;

/// A store of blocks that can also keep INodes.
#[derive(Clone)]
pub struct INodeStore(Arc<dyn BlockStore>);

impl INodeStore {
    /// Keeps INodes in `store`.
    pub fn new(store: Arc<dyn BlockStore>) -> Self {
        Self(store)
    }

    /// The store that the INodes are in.
    pub fn blocks(&self) -> &Arc<dyn BlockStore> {
        &self.0
    }

    /// Stores an INode durably. After an error a part of it may be there: delete it.
    pub fn write(&self, inode: INodeRef, payload: &[u8]) -> Result<(), Error> {
        let Ok(length) = u32::try_from(payload.len()) else {
            return Err(Error::INodeTooLong { length: payload.len() });
        };
        let bytes = [&length.to_le_bytes(), payload].concat();
        let mut count = 0;
        for piece in bytes.chunks(self.0.geometry().block_size as usize) {
            self.0.put(block(inode, count), piece)?;
            count += 1;
        }
        // An earlier write that was interrupted may have been longer.
        self.delete_from(inode, count)?;
        self.0.sync()
    }

    /// Reads an INode, checked against the seals of its blocks.
    pub fn read(&self, inode: INodeRef) -> Result<Vec<u8>, Error> {
        let block_size = self.0.geometry().block_size as usize;
        let damaged = |what| Error::DamagedINode { inode, what };
        let mut bytes = Vec::new();
        for index in 0.. {
            let piece = self.read_sealed(inode, index)?;
            let is_full = piece.len() == block_size;
            bytes.extend(piece);
            if bytes.len() < LENGTH {
                return Err(damaged("its length is cut off"));
            }
            let end = LENGTH + u32_at(&bytes, 0) as usize;
            if bytes.len() == end {
                break;
            }
            if end < bytes.len() {
                return Err(damaged("it is longer than it says"));
            }
            if !is_full {
                return Err(damaged("a block before the last is not full"));
            }
        }
        bytes.drain(..LENGTH);
        Ok(bytes)
    }

    /// Deletes an INode durably: all its blocks, whole or not. Says how many there were.
    pub fn delete(&self, inode: INodeRef) -> Result<u64, Error> {
        let deleted = self.delete_from(inode, 0)?;
        self.0.sync()?;
        Ok(deleted)
    }

    fn delete_from(&self, inode: INodeRef, first: u64) -> Result<u64, Error> {
        let mut deleted = u64::from(self.0.delete(block(inode, first))?);
        let mut after = block(inode, first);
        loop {
            let page = self.0.list(Some(after), PAGE);
            for &(held, _) in &page {
                if held.inode_ref() != inode || held.kind != BlockKind::INode {
                    return Ok(deleted);
                }
                deleted += u64::from(self.0.delete(held)?);
                after = held;
            }
            if page.len() < PAGE {
                return Ok(deleted);
            }
        }
    }

    fn read_sealed(&self, inode: INodeRef, index: u64) -> Result<Vec<u8>, Error> {
        let block = block(inode, index);
        match self.0.state(block) {
            Some(BlockState::Sealed(seal)) => {
                let mut piece = vec![0; seal.length as usize];
                self.0.read(block, 0, &mut piece)?;
                check_crc(block, seal.crc, crc32fast::hash(&piece))?;
                Ok(piece)
            }
            Some(_) => Err(Error::DamagedINode { inode, what: "a block is not sealed" }),
            None => Err(Error::NoSuchBlock { block }),
        }
    }
}

fn block(inode: INodeRef, index: u64) -> BlockRef {
    let INodeRef { volume, inode } = inode;
    BlockRef { volume, kind: BlockKind::INode, inode, index: BlockIndex(index) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SimDisk;
    use crate::store::conformance::content;
    use crate::{
        Geometry, INodeIndex, Mfile, MfileOptions, PeerId, PeerIdentity, Seal, Temp, VolumeId,
    };
    use std::path::Path;

    const BLOCK_SIZE: u32 = 512;

    fn inode(index: u64) -> INodeRef {
        INodeRef { volume: VolumeId::new(1).unwrap(), inode: INodeIndex(index) }
    }

    fn temp() -> INodeStore {
        let geometry = Geometry { block_size: BLOCK_SIZE, capacity_blocks: 100 };
        INodeStore::new(Arc::new(Temp::new(geometry)))
    }

    #[test]
    fn inodes_of_every_length_leave_nothing_behind() {
        let store = temp();
        store.write(inode(1), b"before").unwrap();
        store.write(inode(3), b"after").unwrap();
        for length in (0..8).chain(500..520).chain(1016..1032).chain([5000]) {
            let payload = content(7, length);
            store.write(inode(2), &payload).unwrap();
            assert_eq!(store.read(inode(2)).unwrap(), payload);
            let count = (length as u64 + 4).div_ceil(u64::from(BLOCK_SIZE));
            assert_eq!(store.blocks().used_blocks(), 2 + count, "{length} bytes");
            assert_eq!(store.delete(inode(2)).unwrap(), count);
            assert_eq!(store.blocks().used_blocks(), 2);
            assert!(matches!(store.read(inode(2)), Err(Error::NoSuchBlock { .. })));
        }
        assert_eq!(store.read(inode(1)).unwrap(), b"before");
        assert_eq!(store.read(inode(3)).unwrap(), b"after");
    }

    #[test]
    fn a_shorter_inode_replaces_a_longer() {
        let store = temp();
        store.write(inode(1), &[1; 60_000 / 2]).unwrap();
        store.write(inode(1), &[2; 600]).unwrap();
        assert_eq!(store.read(inode(1)).unwrap(), [2; 600]);
        assert_eq!(store.blocks().used_blocks(), 2);
    }

    #[test]
    fn blocks_that_make_no_inode_are_refused() {
        let check = |pieces: &[&[u8]], expected: &str| {
            let store = temp();
            for (piece, index) in pieces.iter().zip(0..) {
                store.blocks().put(block(inode(1), index), piece).unwrap();
            }
            assert_eq!(store.read(inode(1)).unwrap_err().to_string(), expected);
        };
        check(&[&[9, 0, 0]], "INode 1 of volume 1 is damaged: its length is cut off");
        check(&[&[1, 0, 0, 0, 5, 5]], "INode 1 of volume 1 is damaged: it is longer than it says");
        let short = "INode 1 of volume 1 is damaged: a block before the last is not full";
        check(&[&[3, 0, 0, 0, 5], &[5, 5]], short);
        let mut first = [5; 512];
        first[..4].copy_from_slice(&600_u32.to_le_bytes());
        check(&[&first], "br 10000000001 : 1 : 1 is not here");
        let store = temp();
        store.blocks().append(block(inode(1), 0), 0, &[0; 4]).unwrap();
        let open = "INode 1 of volume 1 is damaged: a block is not sealed";
        assert_eq!(store.read(inode(1)).unwrap_err().to_string(), open);
        store.blocks().seal(block(inode(1), 0), Seal::of(&[0; 4])).unwrap();
        assert_eq!(store.read(inode(1)).unwrap(), []);
    }

    #[test]
    fn a_crash_leaves_a_whole_inode_or_none_that_can_be_read() {
        let open = |disk: &SimDisk| {
            let peer = PeerId(uuid::Uuid::from_u128(1));
            let identity = PeerIdentity::open(disk.shared(), Path::new("/data"), peer)?;
            let options = MfileOptions { block_size: BLOCK_SIZE, capacity_bytes: 1 << 14 };
            let store = Mfile::open(Arc::new(identity), options)?;
            Ok::<_, Error>(INodeStore::new(Arc::new(store)))
        };
        let payload = content(1, 1500);
        let base = SimDisk::new(1, 1 << 20);
        open(&base).unwrap();
        for operations in 0.. {
            let disk = base.after_crash(1);
            let store = open(&disk).unwrap();
            disk.crash_after(operations);
            let written = store.write(inode(1), &payload).is_ok();
            let before_delete = disk.after_crash(operations);
            let deleted = written && store.delete(inode(1)).is_ok();
            if written {
                assert_eq!(open(&before_delete).unwrap().read(inode(1)).unwrap(), payload);
            }
            for seed in 0..12 {
                let store = open(&disk.after_crash(seed)).unwrap();
                if let Ok(found) = store.read(inode(1)) {
                    assert!(found == payload && !deleted);
                }
                store.delete(inode(1)).unwrap();
                assert_eq!(store.blocks().used_blocks(), 0);
            }
            if deleted {
                return;
            }
        }
    }
}
