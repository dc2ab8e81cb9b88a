//! The bytes of an INode: header, nodes and root. Leaves are described in `extent`, parts of the
//! block table in `table`. Integers little-endian.
//!
//! The header, 72 bytes at the start of the stream:
//!
//! | offset | size | field   | meaning                       |
//! |-------:|-----:|---------|-------------------------------|
//! |      0 |    4 | magic   | `TIND`                        |
//! |      4 |    4 | version | 2                             |
//! |      8 |   16 | inode   | [`INodeRef`]                  |
//! |     24 |    8 | epoch   | of the writer                 |
//! |     32 |   32 | root    | place of the root             |
//! |     64 |    4 |         | 0                             |
//! |     68 |    4 | CRC     | CRC-32 of the 68 bytes before |
//!
//! A place (`ObjectRef`), 32 bytes: [`INodeRef`], u64 offset in its stream, u32 length, u32 CRC-32
//! of the object.
//!
//! A node: per leaf that exists u64 leaf number, place.
//!
//! A root:
//!
//! | offset | size | field         | meaning                                                       |
//! |-------:|-----:|---------------|---------------------------------------------------------------|
//! |      0 |    4 | nodes         | how many there are                                            |
//! |      4 |    4 | parts         | of the block table, likewise                                  |
//! |      8 |    4 | INodes        | that the checkpoint consists of, likewise                     |
//! |     12 |    4 | numbers       | of the block table                                            |
//! |     16 |   40 | totals        | u64 own blocks, own bytes, own pages, foreign blocks and pages |
//! |     56 |   32 | written       | u64 bytes from clients, of log, of copies, of INodes, ever    |
//! |     88 |    8 | made          | u64 milliseconds since 1970, by the writer's clock            |
//! |     96 |   40 | node…         | u64 number, place                                             |
//! |      … |   40 | part…         | u64 number, place                                             |
//! |      … |   32 | INode…        | [`INodeRef`], u64 length, u64 bytes of objects in use          |

use std::collections::BTreeMap;

use torus_blockstore::{Epoch, INodeRef};

use super::{Inode, NODE_LEAVES, Written};
use crate::table::Totals;

/// Bytes of the header.
pub(super) const HEADER_LEN: usize = 72;
const MAGIC: [u8; 4] = *b"TIND";
const VERSION: u32 = 2;
const EPOCH: usize = 24;
const ROOT: usize = 32;
const CRC: usize = 68;
const ENTRY_LEN: usize = 8 + ObjectRef::LEN;
const ROOT_FIXED: usize = 96;
const INODE_LEN: usize = 32;

/// Where an object is stored, and what it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ObjectRef {
    pub(crate) inode: INodeRef,
    /// In the INode's stream, in bytes.
    pub(crate) offset: u64,
    /// In bytes.
    pub(crate) length: u32,
    pub(crate) crc: u32,
}

impl ObjectRef {
    const LEN: usize = 32;

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.inode.encode());
        out.extend_from_slice(&self.offset.to_le_bytes());
        out.extend_from_slice(&self.length.to_le_bytes());
        out.extend_from_slice(&self.crc.to_le_bytes());
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            inode: inode_ref(bytes)?,
            offset: word(bytes, 16)?,
            length: half(bytes, 24)?,
            crc: half(bytes, 28)?,
        })
    }
}

pub(super) fn encode_header(inode: INodeRef, epoch: Epoch, root: &ObjectRef) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_LEN);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&inode.encode());
    out.extend_from_slice(&epoch.0.to_le_bytes());
    root.encode(&mut out);
    out.resize(CRC, 0);
    let crc = crc32fast::hash(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

/// The writer's epoch and the root's place; `None`: not the header of INode `inode`.
pub(super) fn decode_header(bytes: &[u8], inode: INodeRef) -> Option<(Epoch, ObjectRef)> {
    let valid = bytes.len() == HEADER_LEN
        && bytes[..4] == MAGIC
        && half(bytes, 4)? == VERSION
        && half(bytes, CRC)? == crc32fast::hash(&bytes[..CRC])
        && bytes[8..EPOCH] == inode.encode();
    if !valid {
        return None;
    }
    Some((Epoch(word(bytes, EPOCH)?), ObjectRef::decode(&bytes[ROOT..])?))
}

pub(super) fn encode_node<'a>(
    node: u64,
    leaves: impl Iterator<Item = (&'a u64, &'a ObjectRef)>,
) -> Vec<u8> {
    let mut out = Vec::new();
    for (leaf, place) in leaves {
        debug_assert_eq!(leaf / NODE_LEAVES, node);
        encode_entry(*leaf, place, &mut out);
    }
    out
}

pub(super) fn decode_node(bytes: &[u8], node: u64) -> Option<BTreeMap<u64, ObjectRef>> {
    let entries = decode_entries(bytes)?;
    let is_own = entries.iter().all(|(leaf, _)| leaf / NODE_LEAVES == node);
    is_own.then(|| entries.into_iter().collect())
}

/// The root of a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Root {
    pub(crate) nodes: BTreeMap<u64, ObjectRef>,
    pub(crate) parts: BTreeMap<u32, ObjectRef>,
    pub(crate) inodes: BTreeMap<INodeRef, Inode>,
    /// Numbers of the block table.
    pub(crate) numbers: u32,
    pub(crate) totals: Totals,
    pub(crate) written: Written,
    /// When it was made, in milliseconds since 1970, by the writer's clock; for people.
    pub(crate) made_ms: u64,
}

impl Root {
    /// Bytes that it takes with so many INodes.
    pub(super) fn length(&self, inodes: usize) -> usize {
        ROOT_FIXED + (self.nodes.len() + self.parts.len()) * ENTRY_LEN + inodes * INODE_LEN
    }

    /// The root of an INode whose whole stream is at hand.
    #[cfg(test)]
    pub(crate) fn of_stream(stream: &[u8], inode: INodeRef) -> Option<Self> {
        let (_, place) = decode_header(stream.get(..HEADER_LEN)?, inode)?;
        let start = usize::try_from(place.offset).ok()?;
        Self::decode(stream.get(start..start + place.length as usize)?)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.length(self.inodes.len()));
        let counts = [self.nodes.len(), self.parts.len(), self.inodes.len()];
        for count in counts.map(|count| u32::try_from(count).unwrap_or(u32::MAX)) {
            out.extend_from_slice(&count.to_le_bytes());
        }
        out.extend_from_slice(&self.numbers.to_le_bytes());
        let (t, w) = (&self.totals, &self.written);
        let totals = [t.own_blocks, t.own_bytes, t.own_pages, t.foreign_blocks, t.foreign_pages];
        let written = [w.client, w.log, w.copied, w.inodes, self.made_ms];
        for figure in totals.into_iter().chain(written) {
            out.extend_from_slice(&figure.to_le_bytes());
        }
        for (node, place) in &self.nodes {
            encode_entry(*node, place, &mut out);
        }
        for (part, place) in &self.parts {
            encode_entry(u64::from(*part), place, &mut out);
        }
        for (inode, Inode { length, live }) in &self.inodes {
            out.extend_from_slice(&inode.encode());
            out.extend_from_slice(&length.to_le_bytes());
            out.extend_from_slice(&live.to_le_bytes());
        }
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let count = |at| half(bytes, at).map(|count| count as usize);
        let (nodes, parts, inodes) = (count(0)?, count(4)?, count(8)?);
        let figure = |index: usize| word(bytes, 16 + index * 8);
        let totals = Totals {
            own_blocks: figure(0)?,
            own_bytes: figure(1)?,
            own_pages: figure(2)?,
            foreign_blocks: figure(3)?,
            foreign_pages: figure(4)?,
        };
        let written =
            Written { client: figure(5)?, log: figure(6)?, copied: figure(7)?, inodes: figure(8)? };
        let entries_end =
            nodes.checked_add(parts)?.checked_mul(ENTRY_LEN)?.checked_add(ROOT_FIXED)?;
        let mut nodes_at = decode_entries(bytes.get(ROOT_FIXED..entries_end)?)?;
        let parts_at = nodes_at.split_off(nodes);
        let rest = bytes.get(entries_end..)?;
        if rest.len() != inodes.checked_mul(INODE_LEN)? {
            return None;
        }
        let inodes = rest.chunks_exact(INODE_LEN).map(|chunk| {
            let inode = Inode { length: word(chunk, 16)?, live: word(chunk, 24)? };
            Some((inode_ref(chunk)?, inode))
        });
        let parts = parts_at.into_iter().map(|(part, at)| Some((u32::try_from(part).ok()?, at)));
        Some(Self {
            nodes: nodes_at.into_iter().collect(),
            parts: parts.collect::<Option<_>>()?,
            inodes: inodes.collect::<Option<_>>()?,
            numbers: half(bytes, 12)?,
            totals,
            written,
            made_ms: figure(9)?,
        })
    }
}

fn encode_entry(number: u64, place: &ObjectRef, out: &mut Vec<u8>) {
    out.extend_from_slice(&number.to_le_bytes());
    place.encode(out);
}

fn decode_entries(bytes: &[u8]) -> Option<Vec<(u64, ObjectRef)>> {
    let chunks = bytes.chunks_exact(ENTRY_LEN);
    if !chunks.remainder().is_empty() {
        return None;
    }
    chunks.map(|chunk| Some((word(chunk, 0)?, ObjectRef::decode(&chunk[8..])?))).collect()
}

fn inode_ref(bytes: &[u8]) -> Option<INodeRef> {
    INodeRef::decode(bytes.get(..INodeRef::LEN)?.try_into().ok()?).ok()
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use torus_blockstore::{INodeIndex, VolumeId};

    fn inode() -> INodeRef {
        INodeRef { volume: VolumeId::new(3).unwrap(), inode: INodeIndex(9) }
    }

    fn place() -> ObjectRef {
        ObjectRef { inode: inode(), offset: 64, length: 5, crc: 6 }
    }

    #[test]
    fn golden_header() {
        let bytes = encode_header(inode(), Epoch(2), &place());
        #[rustfmt::skip]
        let expected = [
            b'T', b'I', b'N', b'D',  2, 0, 0, 0,
            3, 0, 0, 0, 0, 0, 0, 0,  9, 0, 0, 0, 0, 0, 0, 0,  2, 0, 0, 0, 0, 0, 0, 0,
            3, 0, 0, 0, 0, 0, 0, 0,  9, 0, 0, 0, 0, 0, 0, 0,  64, 0, 0, 0, 0, 0, 0, 0,
            5, 0, 0, 0,  6, 0, 0, 0,
            0, 0, 0, 0,
        ];
        assert_eq!(bytes[..CRC], expected);
        assert_eq!(decode_header(&bytes, inode()), Some((Epoch(2), place())));
        for index in 0..HEADER_LEN {
            let mut damaged = bytes.clone();
            damaged[index] ^= 1;
            assert_eq!(decode_header(&damaged, inode()), None, "byte {index}");
        }
    }

    #[test]
    fn a_root_comes_back() {
        let root = Root {
            nodes: BTreeMap::from([(0, place()), (7, place())]),
            parts: BTreeMap::from([(1, place())]),
            inodes: BTreeMap::from([(inode(), Inode { length: 10, live: 5 })]),
            numbers: 1025,
            totals: Totals {
                own_blocks: 1,
                own_bytes: 2,
                own_pages: 3,
                foreign_blocks: 4,
                foreign_pages: 5,
            },
            written: Written { client: 6, log: 7, copied: 8, inodes: 9 },
            made_ms: 10,
        };
        let bytes = root.encode();
        assert_eq!(bytes.len(), root.length(1));
        assert_eq!(
            bytes[..24],
            [2, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 4, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]
        );
        assert_eq!(Root::decode(&bytes), Some(root));
        for end in 0..bytes.len() {
            assert_eq!(Root::decode(&bytes[..end]), None, "cut at {end}");
        }
    }

    #[test]
    fn a_node_holds_its_own_leaves_only() {
        let leaves = BTreeMap::from([(512, place())]);
        let bytes = encode_node(1, leaves.iter());
        assert_eq!(decode_node(&bytes, 1), Some(leaves));
        assert_eq!(decode_node(&bytes, 2), None);
    }
}
