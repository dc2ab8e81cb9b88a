//! The bytes of an INode: header, nodes and root. Leaves are described in `extent`, parts of the
//! block table in `table`. Integers little-endian.
//!
//! The header, 64 bytes at the start of the stream:
//!
//! | offset | size | field   | meaning                       |
//! |-------:|-----:|---------|-------------------------------|
//! |      0 |    4 | magic   | `TIND`                        |
//! |      4 |    4 | version | 1                             |
//! |      8 |   16 | inode   | [`INodeRef`]                  |
//! |     24 |    8 | epoch   | of the writer                 |
//! |     32 |   24 | root    | place of the root             |
//! |     56 |    4 |         | 0                             |
//! |     60 |    4 | CRC     | CRC-32 of the 60 bytes before |
//!
//! A place (`ObjectRef`), 24 bytes: u64 INode index, u64 offset in its stream, u32 length, u32
//! CRC-32 of the object.
//!
//! A node: per leaf that exists u64 leaf number, place. A root: u32 count of nodes, u32 count of
//! parts, then per node u64 number, place; then per part u64 number, place.

use std::collections::BTreeMap;

use torus_blockstore::{Epoch, INodeIndex, INodeRef};

use super::NODE_LEAVES;

/// Bytes of the header.
pub(super) const HEADER_LEN: usize = 64;
const MAGIC: [u8; 4] = *b"TIND";
const VERSION: u32 = 1;
const EPOCH: usize = 24;
const ROOT: usize = 32;
const CRC: usize = 60;
const ENTRY_LEN: usize = 8 + ObjectRef::LEN;

/// Where an object is stored, and what it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ObjectRef {
    pub(crate) inode: INodeIndex,
    /// In the INode's stream, in bytes.
    pub(crate) offset: u64,
    /// In bytes.
    pub(crate) length: u32,
    pub(crate) crc: u32,
}

impl ObjectRef {
    const LEN: usize = 24;

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.inode.0.to_le_bytes());
        out.extend_from_slice(&self.offset.to_le_bytes());
        out.extend_from_slice(&self.length.to_le_bytes());
        out.extend_from_slice(&self.crc.to_le_bytes());
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            inode: INodeIndex(word(bytes, 0)?),
            offset: word(bytes, 8)?,
            length: half(bytes, 16)?,
            crc: half(bytes, 20)?,
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

pub(super) fn decode_node(bytes: &[u8], node: u64) -> Option<Vec<(u64, ObjectRef)>> {
    let entries = decode_entries(bytes)?;
    entries.iter().all(|(leaf, _)| leaf / NODE_LEAVES == node).then_some(entries)
}

pub(super) fn encode_root(
    nodes: &BTreeMap<u64, ObjectRef>,
    parts: &BTreeMap<u32, ObjectRef>,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(8 + (nodes.len() + parts.len()) * ENTRY_LEN);
    for count in [nodes.len(), parts.len()] {
        out.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
    }
    for (node, place) in nodes {
        encode_entry(*node, place, &mut out);
    }
    for (part, place) in parts {
        encode_entry(u64::from(*part), place, &mut out);
    }
    out
}

/// The nodes' and the parts' places.
pub(super) type Root = (Vec<(u64, ObjectRef)>, Vec<(u64, ObjectRef)>);

pub(super) fn decode_root(bytes: &[u8]) -> Option<Root> {
    let (nodes, parts) = (half(bytes, 0)? as usize, half(bytes, 4)? as usize);
    let mut entries = decode_entries(&bytes[8..])?;
    if entries.len() != nodes.checked_add(parts)? {
        return None;
    }
    let parts = entries.split_off(nodes);
    Some((entries, parts))
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

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use torus_blockstore::VolumeId;

    const PLACE: ObjectRef = ObjectRef { inode: INodeIndex(9), offset: 64, length: 5, crc: 6 };

    fn inode() -> INodeRef {
        INodeRef { volume: VolumeId::new(3).unwrap(), inode: INodeIndex(9) }
    }

    #[test]
    fn golden_header() {
        let bytes = encode_header(inode(), Epoch(2), &PLACE);
        #[rustfmt::skip]
        let expected = [
            b'T', b'I', b'N', b'D',  1, 0, 0, 0,
            3, 0, 0, 0, 0, 0, 0, 0,  9, 0, 0, 0, 0, 0, 0, 0,  2, 0, 0, 0, 0, 0, 0, 0,
            9, 0, 0, 0, 0, 0, 0, 0,  64, 0, 0, 0, 0, 0, 0, 0,  5, 0, 0, 0,  6, 0, 0, 0,
            0, 0, 0, 0,
        ];
        assert_eq!(bytes[..CRC], expected);
        assert_eq!(decode_header(&bytes, inode()), Some((Epoch(2), PLACE)));
        for index in 0..HEADER_LEN {
            let mut damaged = bytes.clone();
            damaged[index] ^= 1;
            assert_eq!(decode_header(&damaged, inode()), None, "byte {index}");
        }
    }

    #[test]
    fn a_root_comes_back() {
        let nodes = BTreeMap::from([(0, PLACE), (7, PLACE)]);
        let parts = BTreeMap::from([(1, PLACE)]);
        let bytes = encode_root(&nodes, &parts);
        assert_eq!(decode_root(&bytes), Some((vec![(0, PLACE), (7, PLACE)], vec![(1, PLACE)])));
        assert_eq!(decode_root(&bytes[..bytes.len() - 1]), None);
        assert_eq!(decode_root(&bytes[..bytes.len() - ENTRY_LEN]), None);
    }

    #[test]
    fn a_node_holds_its_own_leaves_only() {
        let bytes = encode_node(1, BTreeMap::from([(512, PLACE)]).iter());
        assert_eq!(decode_node(&bytes, 1), Some(vec![(512, PLACE)]));
        assert_eq!(decode_node(&bytes, 2), None);
    }
}
