//! Checkpoints: the volume's map, stored as an INode.
//!
//! An INode is a stream of bytes cut into blocks of kind INode: a header, then *objects*. Leaves of
//! the map, parts of the block table, *nodes* (the places of 512 leaves) and the *root* (the places
//! of all nodes and parts) are objects; an object is found by the INode that wrote it, its offset
//! in that INode's stream, its length and its CRC, so that a checkpoint writes only what changed
//! and its root refers to older INodes for the rest.
//!
//! The [`Index`] knows where the newest version of every object is. It counts the bytes in use of
//! each INode: one without any is freed with the next checkpoint, and one with few has them written
//! anew ([`Index::sparse_inodes`]), so that old INodes do not pile up.

mod blocks;
mod format;
mod load;

use std::collections::{BTreeMap, BTreeSet};

use torus_blockstore::{BlockRef, INodeRef, VolumeId};

pub(crate) use blocks::blocks_of_inode;
pub(crate) use format::{ObjectRef, Root};
pub use load::LoadError;
pub(crate) use load::{Loader, inode_block};

/// Leaves whose places one node holds.
pub(crate) const NODE_LEAVES: u64 = 512;

/// INodes may hold so many bytes beside twice those in use before some are written anew.
const SLACK: u64 = 8 << 20;

/// Bytes of objects that are written anew for one checkpoint at most.
const REWRITTEN: u64 = 4 << 20;

/// An INode that a checkpoint consists of, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Inode {
    /// Of its stream.
    pub(crate) length: u64,
    /// Of those of its objects that are in use; its header and root are not counted.
    pub(crate) live: u64,
}

/// What was ever written to a volume, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Written {
    /// By clients.
    pub(crate) client: u64,
    /// As records, those of copies included.
    pub(crate) log: u64,
    /// Of it, pages copied forward by garbage collection.
    pub(crate) copied: u64,
    /// As INodes.
    pub(crate) inodes: u64,
}

/// A node of the index.
#[derive(Clone, Debug)]
enum Node {
    /// Stored, and not in memory.
    Away(ObjectRef),
    /// `place` is `None` until it is stored for the first time.
    Here { place: Option<ObjectRef>, leaves: BTreeMap<u64, ObjectRef> },
}

/// Where a leaf is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LeafPlace {
    /// Nowhere: nothing is mapped.
    Nothing,
    At(ObjectRef),
    /// Its node, which is there, says it.
    InNode(ObjectRef),
}

/// Where the newest version of every object is stored.
#[derive(Clone, Debug, Default)]
pub(crate) struct Index {
    nodes: BTreeMap<u64, Node>,
    parts: BTreeMap<u32, ObjectRef>,
    inodes: BTreeMap<INodeRef, Inode>,
}

/// A checkpoint that is ready to be stored.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) inode: INodeRef,
    /// The INode's bytes.
    pub(crate) stream: Vec<u8>,
    /// What the volume needs no more once this checkpoint is its head.
    pub(crate) dead: Dead,
}

/// Blocks of a volume that its head does not need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Dead {
    pub(crate) blocks: Vec<BlockRef>,
    /// With the length of each one's stream, in bytes.
    pub(crate) inodes: Vec<(INodeRef, u64)>,
}

/// The stream of an INode while it is put together.
pub(crate) struct Stream {
    inode: INodeRef,
    bytes: Vec<u8>,
}

impl Stream {
    pub(crate) fn new(inode: INodeRef) -> Self {
        Self { inode, bytes: vec![0; format::HEADER_LEN] }
    }

    /// Adds an object.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> ObjectRef {
        let place = ObjectRef {
            inode: self.inode,
            offset: self.bytes.len() as u64,
            length: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
            crc: crc32fast::hash(bytes),
        };
        self.bytes.extend_from_slice(bytes);
        place
    }
}

impl Index {
    /// The index of a stored checkpoint; its nodes are not in memory.
    pub(crate) fn of(root: &Root) -> Self {
        let nodes = root.nodes.iter().map(|(node, place)| (*node, Node::Away(*place))).collect();
        Self { nodes, parts: root.parts.clone(), inodes: root.inodes.clone() }
    }

    pub(crate) fn leaf(&self, leaf: u64) -> LeafPlace {
        match self.nodes.get(&(leaf / NODE_LEAVES)) {
            None => LeafPlace::Nothing,
            Some(Node::Away(place)) => LeafPlace::InNode(*place),
            Some(Node::Here { leaves, .. }) => {
                leaves.get(&leaf).map_or(LeafPlace::Nothing, |place| LeafPlace::At(*place))
            }
        }
    }

    /// Where a part of the block table is stored.
    pub(crate) fn part(&self, part: u32) -> Option<ObjectRef> {
        self.parts.get(&part).copied()
    }

    /// The nodes from `first` to `last` that are not in memory.
    pub(crate) fn nodes_away(&self, first: u64, last: u64) -> Vec<(u64, ObjectRef)> {
        let nodes = self.nodes.range(first..=last);
        nodes
            .filter_map(|(node, state)| match state {
                Node::Away(place) => Some((*node, *place)),
                Node::Here { .. } => None,
            })
            .collect()
    }

    /// The stored leaves from `first` to `last` whose nodes are in memory.
    pub(crate) fn leaves(&self, first: u64, last: u64) -> impl Iterator<Item = (u64, ObjectRef)> {
        let nodes = self.nodes.range(first / NODE_LEAVES..=last / NODE_LEAVES);
        nodes.flat_map(move |(_, node)| {
            let leaves = match node {
                Node::Here { leaves, .. } => Some(leaves.range(first..=last)),
                Node::Away(_) => None,
            };
            leaves.into_iter().flatten().map(|(leaf, place)| (*leaf, *place))
        })
    }

    /// A node was read.
    pub(crate) fn load_node(&mut self, node: u64, bytes: &[u8]) -> Option<()> {
        let state = self.nodes.get_mut(&node)?;
        let leaves = format::decode_node(bytes, node)?;
        if let Node::Away(place) = *state {
            *state = Node::Here { place: Some(place), leaves };
        }
        Some(())
    }

    /// Notes where a leaf is stored from now on; its node must be in memory, or be none yet.
    pub(crate) fn put_leaf(&mut self, leaf: u64, place: Option<ObjectRef>) {
        let fresh = || Node::Here { place: None, leaves: BTreeMap::new() };
        let node = self.nodes.entry(leaf / NODE_LEAVES).or_insert_with(fresh);
        let Node::Here { leaves, .. } = node else {
            unreachable!("leaf {leaf} changed before its node was read")
        };
        let before = match place {
            Some(place) => leaves.insert(leaf, place),
            None => leaves.remove(&leaf),
        };
        self.count(before, place);
    }

    /// Notes where a part of the block table is stored from now on.
    pub(crate) fn put_part(&mut self, part: u32, place: ObjectRef) {
        let before = self.parts.insert(part, place);
        self.count(before, Some(place));
    }

    /// Stores a node anew; one without leaves is gone.
    pub(crate) fn store_node(&mut self, node: u64, stream: &mut Stream) {
        let Some(Node::Here { place, leaves }) = self.nodes.get_mut(&node) else { return };
        let before = *place;
        let after = match leaves.is_empty() {
            true => None,
            false => Some(stream.append(&format::encode_node(node, leaves.iter()))),
        };
        *place = after;
        if after.is_none() {
            self.nodes.remove(&node);
        }
        self.count(before, after);
    }

    /// Ends the stream of a checkpoint: its root, its header, and which INodes it needs no more.
    pub(crate) fn finish(
        &mut self,
        mut stream: Stream,
        epoch: torus_blockstore::Epoch,
        mut root: Root,
    ) -> (Vec<u8>, Vec<(INodeRef, u64)>) {
        let inode = stream.inode;
        self.inodes.entry(inode).or_default();
        let is_dead = |(name, state): &(&INodeRef, &Inode)| state.live == 0 && **name != inode;
        let dead = self.inodes.iter().filter(is_dead).map(|(name, state)| (*name, state.length));
        let mut dead: Vec<(INodeRef, u64)> = dead.collect();
        for (name, _) in &dead {
            self.inodes.remove(name);
        }
        dead.retain(|(name, _)| name.volume == inode.volume);
        root.parts = self.parts.clone();
        let nodes = self.nodes.iter().filter_map(|(node, state)| match state {
            Node::Away(place) | Node::Here { place: Some(place), .. } => Some((*node, *place)),
            Node::Here { place: None, .. } => None,
        });
        root.nodes = nodes.collect();
        let length = (stream.bytes.len() + root.length(self.inodes.len())) as u64;
        self.inodes.entry(inode).or_default().length = length;
        root.inodes = self.inodes.clone();
        root.written.inodes += length;
        let place = stream.append(&root.encode());
        stream.bytes[..format::HEADER_LEN]
            .copy_from_slice(&format::encode_header(inode, epoch, &place));
        (stream.bytes, dead)
    }

    /// Bytes of all INodes that the checkpoint consists of.
    pub(crate) fn stored_bytes(&self) -> u64 {
        self.inodes.values().map(|inode| inode.length).sum()
    }

    /// The INodes that the checkpoint consists of.
    pub(crate) fn inodes(&self) -> &BTreeMap<INodeRef, Inode> {
        &self.inodes
    }

    /// INodes with so little in use that it should be written anew: the emptiest first, until what
    /// is stored is within bounds.
    pub(crate) fn sparse_inodes(&self) -> BTreeSet<INodeRef> {
        let live: u64 = self.inodes.values().map(|inode| inode.live).sum();
        let mut excess = self.stored_bytes().saturating_sub(2 * live + SLACK);
        let mut by_use: Vec<(&INodeRef, &Inode)> = self.inodes.iter().collect();
        by_use.sort_by_key(|(_, inode)| inode.live * 1000 / inode.length.max(1));
        let (mut chosen, mut rewritten) = (BTreeSet::new(), 0);
        for (name, inode) in by_use {
            if excess == 0 || rewritten + inode.live > REWRITTEN {
                break;
            }
            chosen.insert(*name);
            rewritten += inode.live;
            excess = excess.saturating_sub(inode.length - inode.live.min(inode.length));
        }
        chosen
    }

    /// INodes of other volumes: a clone's parents.
    pub(crate) fn foreign_inodes(&self, own: VolumeId) -> BTreeSet<INodeRef> {
        self.inodes.keys().copied().filter(|inode| inode.volume != own).collect()
    }

    /// The objects that stand in these INodes, as far as their nodes are in memory: leaves, nodes
    /// and parts.
    pub(crate) fn objects_in(&self, inodes: &BTreeSet<INodeRef>) -> (Vec<u64>, Vec<u64>, Vec<u32>) {
        let is_in = |place: &ObjectRef| inodes.contains(&place.inode);
        let leaves = self.leaves(0, u64::MAX).filter(|(_, place)| is_in(place));
        let leaves = leaves.map(|(leaf, _)| leaf).collect();
        let nodes = self.nodes.iter().filter_map(|(node, state)| match state {
            Node::Here { place: Some(place), .. } if is_in(place) => Some(*node),
            _ => None,
        });
        let parts = self.parts.iter().filter(|(_, place)| is_in(place)).map(|(part, _)| *part);
        (leaves, nodes.collect(), parts.collect())
    }

    /// Moves an object's bytes from the account of one INode to another's.
    fn count(&mut self, before: Option<ObjectRef>, after: Option<ObjectRef>) {
        if let Some(after) = after {
            self.inodes.entry(after.inode).or_default().live += u64::from(after.length);
        }
        if let Some(before) = before {
            let live = &mut self.inodes.entry(before.inode).or_default().live;
            assert!(
                *live >= u64::from(before.length),
                "INode {}: miscounted",
                before.inode.inode.0
            );
            *live -= u64::from(before.length);
        }
    }
}
