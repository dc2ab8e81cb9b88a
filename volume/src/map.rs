//! The volume's map: which place in the log holds each page. A tree of leaves, of which only those
//! exist that map something, and only some are in memory.
//!
//! Pure: what must be read is handed out by [`take_wanted`](Map::take_wanted) and comes back through
//! [`arrived`](Map::arrived). A change of a leaf that is not there waits for it, so that writing
//! never does; a lookup is possible once [`ready`](Map::ready) says so.
//!
//! Invariants: a leaf in memory has the parts of the block table in memory that it points into; a
//! page that is mapped is counted in its block from the moment on that it is set; a page that is
//! displaced is counted out at the latest when its leaf has come, so that counts are never too low.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;

use torus_blockstore::{BlockSpec, Epoch, INodeRef, VolumeId};

use crate::checkpoint::{
    Dead, Index, LeafPlace, NODE_LEAVES, ObjectRef, Prepared, Root, Stream, Written,
};
use crate::extent::{LEAF_PAGES, Leaf, Location};
use crate::table::{BlockTable, PART_NUMBERS};

/// Objects that are read at once.
const LOADS: usize = 32;

/// Parts of the block table among them, when all of it is wanted.
const PARTS: usize = 16;

/// A run of pages as a lookup finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) page: u64,
    pub(crate) count: u32,
    /// `None`: reads as zeros.
    pub(crate) location: Option<Location>,
}

/// A change of a run of pages.
#[derive(Clone, Copy, Debug)]
struct Change {
    page: u64,
    count: u32,
    location: Option<Location>,
}

/// A leaf of which something is in memory.
#[derive(Debug)]
enum Slot {
    Here {
        leaf: Leaf,
        /// Whether it was used since the last look for leaves to evict.
        is_touched: bool,
    },
    Coming {
        /// Read; it waits for parts of the table.
        leaf: Option<Leaf>,
        /// To be made when it has come.
        changes: Vec<Change>,
        /// Whether it is to be stored anew, changed or not.
        is_wanted_anew: bool,
    },
}

/// Something that must be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Name {
    Node(u64),
    Leaf(u64),
    Part(u32),
}

/// All leaves of a volume, with the table of the blocks that they point into.
#[derive(Debug)]
pub(crate) struct Map {
    leaves: BTreeMap<u64, Slot>,
    /// Changes of pages under nodes that are being read.
    nodes_coming: BTreeMap<u64, Vec<Change>>,
    parts_coming: BTreeSet<u32>,
    wanted: VecDeque<(Name, ObjectRef)>,
    /// What was handed out and has not arrived.
    loading: usize,
    dirty: BTreeSet<u64>,
    dirty_nodes: BTreeSet<u64>,
    index: Index,
    /// Leaves that come and have changes to be made, or are wanted anew.
    unsettled: BTreeSet<u64>,
    /// Leaves that were read and wait for parts of the table.
    partless: BTreeSet<u64>,
    /// Bytes of the leaves in memory.
    memory: usize,
    /// The leaf at which the next look for leaves to evict begins.
    hand: u64,
    pub(crate) table: BlockTable,
    pub(crate) written: Written,
}

impl Map {
    /// A map of nothing.
    pub(crate) fn new(volume: VolumeId, spec: BlockSpec) -> Self {
        Self::with(Index::default(), BlockTable::new(volume, spec), Written::default())
    }

    /// The map of `volume` that a checkpoint holds; nothing of it is in memory. In a clone, the
    /// checkpoint may be another volume's, whose blocks are not its own then.
    pub(crate) fn stored(volume: VolumeId, spec: BlockSpec, writer: VolumeId, root: &Root) -> Self {
        let (mut totals, mut written) = (root.totals, root.written);
        if writer != volume {
            totals.foreign_blocks += std::mem::take(&mut totals.own_blocks);
            totals.foreign_pages += std::mem::take(&mut totals.own_pages);
            totals.own_bytes = 0;
            written = Written::default();
        }
        let table = BlockTable::stored(volume, spec, root.numbers, totals);
        let mut map = Self::with(Index::of(root), table, written);
        if let Some(last) = root.numbers.checked_sub(1) {
            // New blocks are added to it.
            map.want_part(last / PART_NUMBERS);
        }
        map
    }

    fn with(index: Index, table: BlockTable, written: Written) -> Self {
        let (leaves, nodes_coming, parts_coming, wanted) = Default::default();
        let (dirty, dirty_nodes) = Default::default();
        Self {
            leaves,
            nodes_coming,
            parts_coming,
            wanted,
            loading: 0,
            dirty,
            dirty_nodes,
            index,
            unsettled: BTreeSet::new(),
            partless: BTreeSet::new(),
            memory: 0,
            hand: 0,
            table,
            written,
        }
    }

    /// Points pages `page..page + count` at `location` and the places behind it (`None`: unmaps
    /// them), and keeps the table's count of live pages.
    pub(crate) fn set(&mut self, page: u64, count: u32, location: Option<Location>) {
        if let Some(location) = location {
            self.table.mapped(location.block, count);
        }
        self.change(Change { page, count, location });
    }

    fn change(&mut self, change: Change) {
        if change.location.is_some() {
            for (leaf, _, _) in leaves_of(change.page, change.count) {
                self.change_leaf(leaf, change);
            }
            return;
        }
        let Some(last_page) = (change.page + u64::from(change.count)).checked_sub(1) else {
            return;
        };
        let (first, last) = (change.page / LEAF_PAGES, last_page / LEAF_PAGES);
        for (node, place) in self.index.nodes_away(first / NODE_LEAVES, last / NODE_LEAVES) {
            self.want_node(node, place).push(change);
        }
        let here = self.leaves.range(first..=last).map(|(leaf, _)| *leaf);
        let stored = self.index.leaves(first, last).map(|(leaf, _)| leaf);
        let concerned: BTreeSet<u64> = here.chain(stored).collect();
        for leaf in concerned {
            self.change_leaf(leaf, change);
        }
    }

    /// Makes the part of a change that concerns one leaf, now or when the leaf has come.
    fn change_leaf(&mut self, leaf: u64, change: Change) {
        match self.leaves.get_mut(&leaf) {
            Some(Slot::Here { leaf: content, is_touched }) => {
                *is_touched = true;
                self.dirty.insert(leaf);
                self.memory -= content.memory();
                apply(leaf, content, change, &mut self.table);
                self.memory += content.memory();
            }
            Some(Slot::Coming { changes, .. }) => {
                changes.push(change);
                self.unsettled.insert(leaf);
            }
            None => match self.index.leaf(leaf) {
                LeafPlace::InNode(place) => {
                    let changes = self.want_node(leaf / NODE_LEAVES, place);
                    changes.push(clipped(change, leaf));
                }
                LeafPlace::At(place) => self.want_leaf(leaf, place, vec![change], false),
                LeafPlace::Nothing if change.location.is_none() => {}
                LeafPlace::Nothing => {
                    let mut content = Leaf::default();
                    apply(leaf, &mut content, change, &mut self.table);
                    self.memory += content.memory();
                    self.dirty.insert(leaf);
                    self.leaves.insert(leaf, Slot::Here { leaf: content, is_touched: true });
                }
            },
        }
    }

    /// Whether all that a lookup of these pages needs is in memory; what is not is wanted from now
    /// on.
    pub(crate) fn ready(&mut self, page: u64, count: u32) -> bool {
        let mut ready = true;
        for (leaf, _, _) in leaves_of(page, count) {
            match self.leaves.get_mut(&leaf) {
                Some(Slot::Here { is_touched, .. }) => *is_touched = true,
                Some(Slot::Coming { .. }) => ready = false,
                None => match self.index.leaf(leaf) {
                    LeafPlace::Nothing => {}
                    LeafPlace::InNode(place) => {
                        self.want_node(leaf / NODE_LEAVES, place);
                        ready = false;
                    }
                    LeafPlace::At(place) => {
                        self.want_leaf(leaf, place, Vec::new(), false);
                        ready = false;
                    }
                },
            }
        }
        ready
    }

    /// The runs that make up `count` pages from `page` on, in order. They must be
    /// [`ready`](Self::ready).
    pub(crate) fn lookup(&self, page: u64, count: u32, mut found: impl FnMut(Run)) {
        for (leaf, start, part) in leaves_of(page, count) {
            let base = leaf * LEAF_PAGES;
            match self.leaves.get(&leaf) {
                Some(Slot::Here { leaf, .. }) => leaf.lookup(start, part, |segment| {
                    found(Run {
                        page: base + u64::from(segment.start),
                        count: u32::from(segment.count),
                        location: segment.location,
                    });
                }),
                Some(Slot::Coming { .. }) => unreachable!("leaf {leaf} is looked up too early"),
                None => found(Run {
                    page: base + u64::from(start),
                    count: u32::from(part),
                    location: None,
                }),
            }
        }
    }

    /// The lowest page from `from` on that may be mapped; as leaves that are not in memory say it,
    /// the first of a leaf. `Err`: nodes must be read first, and are wanted.
    pub(crate) fn first_mapped(&mut self, from: u64) -> Result<Option<u64>, ()> {
        let leaf = from / LEAF_PAGES;
        let away = self.index.nodes_away(leaf / NODE_LEAVES, u64::MAX);
        let in_first = (from..(leaf + 1) * LEAF_PAGES).end - from;
        if !away.is_empty() || !self.ready(from, in_first as u32) {
            for (node, place) in away {
                self.want_node(node, place);
            }
            return Err(());
        }
        let mut first = None;
        self.lookup(from, in_first as u32, |run| {
            first = first.or(run.location.map(|_| run.page));
        });
        if first.is_some() {
            return Ok(first);
        }
        let is_mapped = |(leaf, slot): (&u64, &Slot)| match slot {
            Slot::Here { leaf: content, .. } => (!content.is_empty()).then_some(*leaf),
            Slot::Coming { .. } => Some(*leaf),
        };
        let here = self.leaves.range(leaf + 1..).find_map(is_mapped);
        let stored = self.index.leaves(leaf + 1, u64::MAX).map(|(leaf, _)| leaf);
        let stored = stored.filter(|leaf| !self.leaves.contains_key(leaf)).min();
        Ok(here.into_iter().chain(stored).min().map(|leaf| leaf * LEAF_PAGES))
    }

    /// Pages that are mapped, in the whole volume.
    pub(crate) fn mapped_pages(&self) -> u64 {
        let totals = self.table.totals();
        totals.own_pages + totals.foreign_pages
    }

    pub(crate) fn index(&self) -> &Index {
        &self.index
    }

    /// What it takes of memory, in bytes: leaves and table.
    pub(crate) fn memory(&self) -> usize {
        self.memory + self.table.memory()
    }

    /// About how many bytes of leaves the next checkpoint stores.
    pub(crate) fn dirty_bytes(&self) -> u64 {
        (self.memory / self.leaves.len().max(1) * self.dirty.len()) as u64
    }

    /// What must be read now; each is handed out once, and no more than so many at a time until
    /// they have [arrived](Self::arrived).
    pub(crate) fn take_wanted(&mut self) -> Vec<(Name, ObjectRef)> {
        let count = (LOADS - self.loading).min(self.wanted.len());
        self.loading += count;
        self.wanted.drain(..count).collect()
    }

    /// Wants the parts of the block table that are not in memory; whether all are.
    pub(crate) fn want_table(&mut self) -> bool {
        let away: Vec<u32> = self.table.parts_away().take(PARTS).collect();
        away.iter().for_each(|part| self.want_part(*part));
        away.is_empty()
    }

    /// Wants the nodes that are not in memory; whether all are.
    pub(crate) fn want_nodes(&mut self) -> bool {
        let away = self.index.nodes_away(0, u64::MAX);
        for (node, place) in &away {
            self.want_node(*node, *place);
        }
        away.is_empty()
    }

    /// Has the objects that stand in these INodes stored anew with the next checkpoint. Their nodes
    /// must be in memory.
    pub(crate) fn want_anew(&mut self, inodes: &BTreeSet<INodeRef>) {
        let (leaves, nodes, parts) = self.index.objects_in(inodes);
        for leaf in leaves {
            match self.leaves.get_mut(&leaf) {
                Some(Slot::Here { .. }) => {
                    self.dirty.insert(leaf);
                }
                Some(Slot::Coming { is_wanted_anew, .. }) => {
                    *is_wanted_anew = true;
                    self.unsettled.insert(leaf);
                }
                None => {
                    if let LeafPlace::At(place) = self.index.leaf(leaf) {
                        self.want_leaf(leaf, place, Vec::new(), true);
                    }
                }
            }
        }
        self.dirty_nodes.extend(nodes);
        for part in parts {
            self.table.touch(part);
            self.want_part(part);
        }
    }

    /// What was wanted has been read. `None`: the bytes are not what they should be.
    pub(crate) fn arrived(&mut self, name: Name, bytes: &[u8]) -> Option<()> {
        self.loading -= 1;
        match name {
            Name::Node(node) => {
                self.index.load_node(node, bytes)?;
                for change in self.nodes_coming.remove(&node).unwrap_or_default() {
                    self.change(clipped_to_node(change, node)?);
                }
            }
            Name::Leaf(number) => {
                let content = Leaf::decode(bytes)?;
                if let Some(Slot::Coming { leaf, .. }) = self.leaves.get_mut(&number) {
                    *leaf = Some(content);
                    self.settle(number);
                }
            }
            Name::Part(part) => {
                self.parts_coming.remove(&part);
                if !self.table.is_here(part) {
                    self.table.load_part(part, bytes)?;
                }
                for leaf in std::mem::take(&mut self.partless) {
                    self.settle(leaf);
                }
            }
        }
        Some(())
    }

    /// Puts a leaf that was read in its place, once the parts are there that it points into.
    fn settle(&mut self, number: u64) {
        let Some(Slot::Coming { leaf: Some(leaf), .. }) = self.leaves.get(&number) else { return };
        let mut parts = BTreeSet::new();
        leaf.lookup(0, LEAF_PAGES as u16, |segment| {
            parts.extend(segment.location.map(|location| location.block / PART_NUMBERS));
        });
        parts.retain(|part| !self.table.is_here(*part));
        if !parts.is_empty() {
            parts.into_iter().for_each(|part| self.want_part(part));
            self.partless.insert(number);
            return;
        }
        if let Some(Slot::Coming { leaf: Some(mut leaf), changes, is_wanted_anew }) =
            self.leaves.remove(&number)
        {
            self.unsettled.remove(&number);
            if is_wanted_anew || !changes.is_empty() {
                self.dirty.insert(number);
            }
            for change in changes {
                apply(number, &mut leaf, change, &mut self.table);
            }
            self.memory += leaf.memory();
            self.leaves.insert(number, Slot::Here { leaf, is_touched: true });
        }
    }

    /// Whether a checkpoint would store anything.
    pub(crate) fn has_changes(&self) -> bool {
        !self.dirty.is_empty() || !self.dirty_nodes.is_empty() || self.table.has_changes()
    }

    /// Whether no change waits for something to be read, and all that was wanted anew is there: a
    /// checkpoint can be prepared.
    pub(crate) fn is_settled(&self) -> bool {
        self.nodes_coming.values().all(Vec::is_empty)
            && self.unsettled.is_empty()
            && self.table.dirty_is_here()
    }

    /// Encodes what changed since the last checkpoint as INode `inode`, and takes it to be stored.
    /// Every block of the map's table must be sealed, and every change [settled](Self::is_settled).
    pub(crate) fn prepare(&mut self, inode: INodeRef, epoch: Epoch, made_ms: u64) -> Prepared {
        let blocks = self.table.take_dead();
        let mut stream = Stream::new(inode);
        let mut nodes = std::mem::take(&mut self.dirty_nodes);
        for number in std::mem::take(&mut self.dirty) {
            let Some(Slot::Here { leaf, .. }) = self.leaves.get_mut(&number) else { continue };
            nodes.insert(number / NODE_LEAVES);
            self.memory -= leaf.memory();
            if leaf.is_empty() {
                self.leaves.remove(&number);
                self.index.put_leaf(number, None);
            } else {
                leaf.shrink();
                self.memory += leaf.memory();
                let mut bytes = Vec::new();
                leaf.encode(&mut bytes);
                self.index.put_leaf(number, Some(stream.append(&bytes)));
            }
        }
        for part in self.table.take_dirty() {
            self.index.put_part(part, stream.append(&self.table.encode_part(part)));
        }
        for node in nodes {
            self.index.store_node(node, &mut stream);
        }
        let root = Root {
            numbers: self.table.count(),
            totals: self.table.totals(),
            written: self.written,
            made_ms,
            ..Root::default()
        };
        let (stream, inodes) = self.index.finish(stream, epoch, root);
        self.written.inodes += stream.len() as u64;
        Prepared { inode, stream, dead: Dead { blocks, inodes } }
    }

    /// Drops leaves that are stored as they are and were not used lately, until the rest takes at
    /// most `limit` bytes; whether that is so now. Those in INode `not_in` stay: it is not written
    /// yet.
    pub(crate) fn evict(&mut self, limit: usize, not_in: Option<INodeRef>) -> bool {
        // Twice round: the first time takes the marks away.
        for _ in 0..2 * self.leaves.len() {
            if self.memory <= limit {
                break;
            }
            let next = self.leaves.range_mut(self.hand..).next();
            let Some((&number, slot)) = next else {
                self.hand = 0;
                continue;
            };
            self.hand = number + 1;
            if let Slot::Here { leaf, is_touched } = slot
                && !std::mem::take(is_touched)
                && !self.dirty.contains(&number)
                && !matches!(self.index.leaf(number), LeafPlace::At(at) if Some(at.inode) == not_in)
            {
                self.memory -= leaf.memory();
                self.leaves.remove(&number);
            }
        }
        self.memory <= limit
    }

    fn want_node(&mut self, node: u64, place: ObjectRef) -> &mut Vec<Change> {
        let wanted = &mut self.wanted;
        self.nodes_coming.entry(node).or_insert_with(|| {
            wanted.push_back((Name::Node(node), place));
            Vec::new()
        })
    }

    fn want_leaf(&mut self, leaf: u64, place: ObjectRef, changes: Vec<Change>, anew: bool) {
        if anew || !changes.is_empty() {
            self.unsettled.insert(leaf);
        }
        let slot = Slot::Coming { leaf: None, changes, is_wanted_anew: anew };
        self.leaves.insert(leaf, slot);
        self.wanted.push_back((Name::Leaf(leaf), place));
    }

    fn want_part(&mut self, part: u32) {
        if self.table.is_here(part) || !self.parts_coming.insert(part) {
            return;
        }
        if let Some(place) = self.index.part(part) {
            self.wanted.push_back((Name::Part(part), place));
        }
    }
}

/// Makes the part of a change that concerns one leaf, and counts what it displaces.
fn apply(number: u64, leaf: &mut Leaf, change: Change, table: &mut BlockTable) {
    let Change { page, count, location } = clipped(change, number);
    let start = (page - number * LEAF_PAGES) as u16;
    leaf.set(start, count as u16, location, |run| table.displaced(run.block, run.pages));
    if location.is_none() && u64::from(count) == LEAF_PAGES {
        // Nothing is left; nor should the memory be.
        *leaf = Leaf::default();
    }
}

/// The part of a change that concerns one leaf; they must overlap.
fn clipped(change: Change, leaf: u64) -> Change {
    clip(change, leaf * LEAF_PAGES, LEAF_PAGES).unwrap_or(Change { count: 0, ..change })
}

fn clipped_to_node(change: Change, node: u64) -> Option<Change> {
    let pages = NODE_LEAVES * LEAF_PAGES;
    clip(change, node * pages, pages)
}

fn clip(change: Change, first: u64, pages: u64) -> Option<Change> {
    let start = change.page.max(first);
    let end = (change.page + u64::from(change.count)).min(first + pages);
    let count = u32::try_from(end.checked_sub(start)?).ok()?;
    let skipped = (start - change.page) as u16;
    let location = change.location.map(|location| location.advanced(skipped));
    Some(Change { page: start, count, location })
}

/// The parts of a run of pages in each leaf: leaf, first page in it, pages.
fn leaves_of(page: u64, count: u32) -> impl Iterator<Item = (u64, u16, u16)> {
    let Range { start, end } = page..page + u64::from(count);
    (start / LEAF_PAGES..end.div_ceil(LEAF_PAGES)).map(move |leaf| {
        let base = leaf * LEAF_PAGES;
        let (from, to) = (start.max(base), end.min(base + LEAF_PAGES));
        ((leaf), (from - base) as u16, (to - from) as u16)
    })
}

#[cfg(test)]
mod tests;
