//! Checkpoints: the volume's map, stored as an INode.
//!
//! An INode is a stream of bytes cut into blocks of kind INode: a header, then *objects*. Leaves of
//! the map, parts of the block table, *nodes* (the places of 512 leaves) and the *root* (the places
//! of all nodes and parts) are objects; an object is found by the INode that wrote it, its offset
//! in that INode's stream, its length and its CRC, so that a checkpoint writes only what changed
//! and its root refers to older INodes for the rest.

mod format;
mod load;

use std::collections::{BTreeMap, BTreeSet};

use torus_blockstore::{Epoch, INodeRef};

use crate::map::Map;

pub(crate) use format::ObjectRef;
pub use load::LoadError;
pub(crate) use load::load;

/// Leaves whose places one node holds.
pub(crate) const NODE_LEAVES: u64 = 512;

/// Where the newest version of every object is stored.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stored {
    leaves: BTreeMap<u64, ObjectRef>,
    nodes: BTreeMap<u64, ObjectRef>,
    parts: BTreeMap<u32, ObjectRef>,
}

/// What an object is, with its number among its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ObjectName {
    Leaf(u64),
    Node(u64),
    Part(u32),
}

/// A checkpoint that is ready to be stored.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) inode: INodeRef,
    /// The INode's bytes.
    pub(crate) stream: Vec<u8>,
}

impl Stored {
    /// Encodes what changed in `map` since the last checkpoint as INode `inode`, and takes it to be
    /// stored. Every block of the map's table must be sealed.
    pub(crate) fn prepare(&mut self, map: &mut Map, inode: INodeRef, epoch: Epoch) -> Prepared {
        let (leaves, parts) = (map.take_dirty(), map.table.take_dirty());
        let mut stream = vec![0; format::HEADER_LEN];
        let mut store = |stored: &mut Self, name, bytes: Option<Vec<u8>>| {
            let place = bytes.map(|bytes| append(&mut stream, inode, &bytes));
            stored.put(name, place);
        };
        for &leaf in &leaves {
            store(self, ObjectName::Leaf(leaf), map.encode_leaf(leaf));
        }
        for &part in &parts {
            store(self, ObjectName::Part(part), Some(map.table.encode_part(part)));
        }
        for node in leaves.iter().map(|leaf| leaf / NODE_LEAVES).collect::<BTreeSet<_>>() {
            let leaves = self.leaves.range(node * NODE_LEAVES..(node + 1) * NODE_LEAVES);
            let bytes = format::encode_node(node, leaves);
            store(self, ObjectName::Node(node), Some(bytes).filter(|bytes| !bytes.is_empty()));
        }
        let root = append(&mut stream, inode, &format::encode_root(&self.nodes, &self.parts));
        let header = format::encode_header(inode, epoch, &root);
        stream[..format::HEADER_LEN].copy_from_slice(&header);
        Prepared { inode, stream }
    }

    /// Notes the place of an object; `None`: it is gone.
    fn put(&mut self, name: ObjectName, place: Option<ObjectRef>) {
        fn put<K: Ord>(places: &mut BTreeMap<K, ObjectRef>, key: K, place: Option<ObjectRef>) {
            match place {
                Some(place) => places.insert(key, place),
                None => places.remove(&key),
            };
        }
        match name {
            ObjectName::Leaf(leaf) => put(&mut self.leaves, leaf, place),
            ObjectName::Node(node) => put(&mut self.nodes, node, place),
            ObjectName::Part(part) => put(&mut self.parts, part, place),
        }
    }
}

fn append(stream: &mut Vec<u8>, inode: INodeRef, bytes: &[u8]) -> ObjectRef {
    let place = ObjectRef {
        inode: inode.inode,
        offset: stream.len() as u64,
        length: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
        crc: crc32fast::hash(bytes),
    };
    stream.extend_from_slice(bytes);
    place
}
