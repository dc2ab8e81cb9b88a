//! What can be asked of a peer, and the bodies that say it.
//!
//! Blocks are 24 bytes as their references encode themselves, everything else little-endian.
//!
//! | op | name    | flags                  | body                                                     |
//! |---:|---------|------------------------|----------------------------------------------------------|
//! |  1 | append  | 1: durable when replied| block, `u64` epoch, `u32` offset, then the bytes         |
//! |    |         | 2: need not stay cached|                                                          |
//! |  2 | read    |                        | block, then `u32` offset and `u32` length a range        |
//! |  3 | fetch   |                        | block                                                    |
//! |  4 | seal    |                        | block, `u64` epoch, `u32` length, `u32` CRC              |
//! |  5 | fence   |                        | `u64` volume, `u64` epoch                                |
//! |  6 | put     |                        | block, `u64` epoch, then the bytes                       |
//! |  7 | state   | 1: check the content   | `u64` ring version, then blocks                          |
//! |  8 | delete  |                        | `u64` epoch, then blocks                                 |
//! |  9 | list    | 1: from a block on     | `u64` volume or 0, `u32` limit, block if flagged         |
//! | 10 | suspect |                        | block                                                    |
//! | 11 | status  |                        |                                                          |
//!
//! Op 12 is taken: clients of older releases send it to hear anything at all, be it a refusal.
//!
//! Epoch 0 is nobody's: a daemon that repairs. See [`Keeper`](crate::Keeper) for what it may do.

use bytes::{BufMut, Bytes, BytesMut};
use torus_blockstore::{Append, BlockRef, ByteRange, Epoch, Seal, VolumeId};
use torus_metadata::RingVersion;

use super::fields::Fields;
use super::frame::{Body, Frame};
use super::{BATCH_BLOCKS, READ_RANGES};
use crate::FrameError;

/// A question about blocks, to be answered by what the peer holds of each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateQuery {
    pub blocks: Vec<BlockRef>,
    /// Read the sealed ones and name those whose content fails its checksum as unsettled.
    pub verify: bool,
    /// Answer only if this is the ring that the peer follows: then the answer holds until it
    /// follows another. `None`: whatever it follows.
    pub ring: Option<RingVersion>,
}

/// One request to one peer.
#[derive(Clone, Debug)]
pub enum Request {
    Append(Append),
    Read { block: BlockRef, ranges: Vec<ByteRange> },
    Fetch { block: BlockRef },
    Seal { block: BlockRef, epoch: Epoch, seal: Seal },
    Fence { volume: VolumeId, epoch: Epoch },
    Put { block: BlockRef, epoch: Epoch, data: Bytes },
    State(StateQuery),
    Delete { epoch: Epoch, blocks: Vec<BlockRef> },
    List { volume: Option<VolumeId>, after: Option<BlockRef>, limit: u32 },
    Suspect { block: BlockRef },
    Status,
}

pub(super) const APPEND: u8 = 1;
pub(super) const READ: u8 = 2;
pub(super) const FETCH: u8 = 3;
pub(super) const SEAL: u8 = 4;
pub(super) const FENCE: u8 = 5;
pub(super) const PUT: u8 = 6;
pub(super) const STATE: u8 = 7;
pub(super) const DELETE: u8 = 8;
pub(super) const LIST: u8 = 9;
pub(super) const SUSPECT: u8 = 10;
pub(super) const STATUS: u8 = 11;

/// Of any op: the flag that it has.
const FLAG: u8 = 1;
/// Of an append: the second.
const PAST_CACHE: u8 = 2;

impl Request {
    /// The op of an append.
    pub(crate) const APPEND: u8 = APPEND;

    /// The op, by which the reply is decoded too.
    pub(crate) fn op(&self) -> u8 {
        match self {
            Request::Append(_) => APPEND,
            Request::Read { .. } => READ,
            Request::Fetch { .. } => FETCH,
            Request::Seal { .. } => SEAL,
            Request::Fence { .. } => FENCE,
            Request::Put { .. } => PUT,
            Request::State(_) => STATE,
            Request::Delete { .. } => DELETE,
            Request::List { .. } => LIST,
            Request::Suspect { .. } => SUSPECT,
            Request::Status => STATUS,
        }
    }

    /// Whether it may add a block to the peer's store.
    pub(crate) fn begins_block(&self) -> bool {
        match self {
            Request::Append(append) => append.offset == 0,
            Request::Put { .. } => true,
            _ => false,
        }
    }

    pub(crate) fn flags(&self) -> u8 {
        let flag = match self {
            Request::Append(append) => append.sync,
            Request::State(query) => query.verify,
            Request::List { after, .. } => after.is_some(),
            _ => false,
        };
        let second = match self {
            Request::Append(Append { past_cache: true, .. }) => PAST_CACHE,
            _ => 0,
        };
        if flag { FLAG | second } else { second }
    }

    pub(crate) fn into_body(self) -> Body {
        let mut fields = BytesMut::new();
        let mut payload = Vec::new();
        match self {
            Request::Append(append) => {
                put_owned_block(&mut fields, append.block, append.epoch);
                fields.put_u32_le(append.offset);
                payload = append.data;
            }
            Request::Read { block, ranges } => {
                fields.put_slice(&block.encode());
                for range in ranges {
                    fields.put_u32_le(range.offset);
                    fields.put_u32_le(range.length);
                }
            }
            Request::Fetch { block } | Request::Suspect { block } => {
                fields.put_slice(&block.encode());
            }
            Request::Seal { block, epoch, seal } => {
                put_owned_block(&mut fields, block, epoch);
                fields.put_u32_le(seal.length);
                fields.put_u32_le(seal.crc);
            }
            Request::Fence { volume, epoch } => {
                fields.put_u64_le(volume.get());
                fields.put_u64_le(epoch.0);
            }
            Request::Put { block, epoch, data } => {
                put_owned_block(&mut fields, block, epoch);
                payload.push(data);
            }
            Request::State(query) => {
                fields.put_u64_le(query.ring.map_or(0, |version| version.0));
                put_blocks(&mut fields, &query.blocks);
            }
            Request::Delete { epoch, blocks } => {
                fields.put_u64_le(epoch.0);
                put_blocks(&mut fields, &blocks);
            }
            Request::List { volume, after, limit } => {
                fields.put_u64_le(volume.map_or(0, VolumeId::get));
                fields.put_u32_le(limit);
                put_blocks(&mut fields, after.as_slice());
            }
            Request::Status => {}
        }
        Body { fields, payload }
    }

    /// Decodes what a client sent; the body's bytes are shared, not copied.
    pub(crate) fn decode(frame: Frame) -> Result<Self, FrameError> {
        let Frame { head, body } = frame;
        let mut fields = Fields::new(body, "request");
        let known = if head.op == APPEND { FLAG | PAST_CACHE } else { FLAG };
        if head.flags & !known != 0 || head.status != 0 {
            return Err(fields.malformed());
        }
        let flag = head.flags & FLAG != 0;
        if flag && !matches!(head.op, APPEND | STATE | LIST) {
            return Err(fields.malformed());
        }
        match head.op {
            APPEND => {
                let (block, epoch) = (fields.block()?, fields.epoch()?);
                let offset = fields.u32()?;
                let data = vec![fields.rest()];
                let past_cache = head.flags & PAST_CACHE != 0;
                Ok(Request::Append(Append { block, epoch, offset, data, sync: flag, past_cache }))
            }
            READ => {
                let block = fields.block()?;
                let range = |fields: &mut Fields| {
                    Ok(ByteRange { offset: fields.u32()?, length: fields.u32()? })
                };
                Ok(Request::Read { block, ranges: fields.list(READ_RANGES, range)? })
            }
            FETCH => {
                let block = fields.block()?;
                fields.end(Request::Fetch { block })
            }
            SEAL => {
                let (block, epoch, seal) = (fields.block()?, fields.epoch()?, fields.seal()?);
                fields.end(Request::Seal { block, epoch, seal })
            }
            FENCE => {
                let (volume, epoch) = (fields.volume()?, fields.epoch()?);
                fields.end(Request::Fence { volume, epoch })
            }
            PUT => {
                let (block, epoch) = (fields.block()?, fields.epoch()?);
                Ok(Request::Put { block, epoch, data: fields.rest() })
            }
            STATE => {
                let ring = Some(RingVersion(fields.u64()?)).filter(|version| version.0 > 0);
                let blocks = fields.list(BATCH_BLOCKS, Fields::block)?;
                Ok(Request::State(StateQuery { blocks, verify: flag, ring }))
            }
            DELETE => {
                let epoch = fields.epoch()?;
                Ok(Request::Delete { epoch, blocks: fields.list(BATCH_BLOCKS, Fields::block)? })
            }
            LIST => {
                let volume = VolumeId::new(fields.u64()?);
                let limit = fields.u32()?;
                let after = if flag { Some(fields.block()?) } else { None };
                fields.end(Request::List { volume, after, limit })
            }
            SUSPECT => {
                let block = fields.block()?;
                fields.end(Request::Suspect { block })
            }
            STATUS => fields.end(Request::Status),
            _ => Err(fields.malformed()),
        }
    }
}

fn put_owned_block(fields: &mut BytesMut, block: BlockRef, epoch: Epoch) {
    fields.put_slice(&block.encode());
    fields.put_u64_le(epoch.0);
}

fn put_blocks(fields: &mut BytesMut, blocks: &[BlockRef]) {
    for block in blocks {
        fields.put_slice(&block.encode());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::frame::Head;
    use torus_blockstore::{BlockIndex, BlockKind, INodeIndex};

    fn block() -> BlockRef {
        BlockRef {
            volume: VolumeId::new(5).unwrap(),
            kind: BlockKind::INode,
            inode: INodeIndex(7),
            index: BlockIndex(9),
        }
    }

    fn frame(request: Request) -> Frame {
        let head = Head { op: request.op(), flags: request.flags(), status: 0, id: 1 };
        let body = request.into_body();
        let payload = body.payload.concat();
        Frame { head, body: [&body.fields[..], &payload].concat().into() }
    }

    /// Encodes, compares with `tail` behind the block's reference, and decodes to the same again.
    #[track_caller]
    fn check(request: Request, op: u8, flags: u8, body: &[&[u8]]) {
        let found = frame(request.clone());
        assert_eq!((found.head.op, found.head.flags), (op, flags));
        assert_eq!(found.body, body.concat());
        let decoded = Request::decode(found.clone()).unwrap();
        assert_eq!(frame(decoded), found);
    }

    const BLOCK: &[u8] = &[5, 0, 0, 0, 0, 1, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0];
    const THREE: &[u8] = &[3, 0, 0, 0, 0, 0, 0, 0];

    #[test]
    fn golden_bodies() {
        let (epoch, block, volume) = (Epoch(3), block(), block().volume);
        let data = vec![Bytes::from_static(b"ab"), Bytes::from_static(b"c")];
        let append = Append { block, epoch, offset: 258, data, sync: true, past_cache: false };
        let body: &[&[u8]] = &[BLOCK, THREE, &[2, 1, 0, 0], b"abc"];
        check(Request::Append(append.clone()), 1, 1, body);
        check(Request::Append(Append { past_cache: true, ..append.clone() }), 1, 3, body);
        let append = Append { past_cache: true, sync: false, ..append };
        check(Request::Append(append), 1, 2, body);
        let ranges = vec![ByteRange { offset: 1, length: 2 }, ByteRange { offset: 3, length: 4 }];
        let bytes = [1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0];
        check(Request::Read { block, ranges }, 2, 0, &[BLOCK, &bytes]);
        check(Request::Fetch { block }, 3, 0, &[BLOCK]);
        let seal = Seal { length: 1, crc: 2 };
        let bytes = [1, 0, 0, 0, 2, 0, 0, 0];
        check(Request::Seal { block, epoch, seal }, 4, 0, &[BLOCK, THREE, &bytes]);
        check(Request::Fence { volume, epoch }, 5, 0, &[&[5, 0, 0, 0, 0, 0, 0, 0], THREE]);
        let data = Bytes::from_static(b"x");
        check(Request::Put { block, epoch, data }, 6, 0, &[BLOCK, THREE, b"x"]);
        let ring = Some(RingVersion(3));
        let query = StateQuery { blocks: vec![block, block], verify: true, ring };
        check(Request::State(query), 7, 1, &[THREE, BLOCK, BLOCK]);
        check(Request::Delete { epoch, blocks: vec![block] }, 8, 0, &[THREE, BLOCK]);
        let list = Request::List { volume: Some(volume), after: Some(block), limit: 4 };
        check(list, 9, 1, &[&[5, 0, 0, 0, 0, 0, 0, 0], &[4, 0, 0, 0], BLOCK]);
        let list = Request::List { volume: None, after: None, limit: 4 };
        check(list, 9, 0, &[&[0; 8], &[4, 0, 0, 0]]);
        check(Request::Suspect { block }, 10, 0, &[BLOCK]);
        check(Request::Status, 11, 0, &[]);
    }

    proptest::proptest! {
        #[test]
        fn garbage_never_panics(op: u8, flags: u8, body: Vec<u8>) {
            let head = Head { op, flags, status: 0, id: 1 };
            if let Ok(request) = Request::decode(Frame { head, body: body.clone().into() }) {
                proptest::prop_assert_eq!(frame(request).body, body);
            }
        }
    }
}
