//! The open end of a volume's log: cuts pending writes into records, places the records in blocks,
//! and knows how far they are durable.
//!
//! Pure: the driver sends what is handed out and reports what came back. It holds the content of
//! every block that is not yet sealed, so that reads of it need no peer, and so that a block whose
//! peers fail can be stored elsewhere.
//!
//! Invariants: records are handed out in order, each once; a block takes no record behind its
//! seal; [`durable`](Log::durable) never passes a record that a peer of its block may lack on disk.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use torus_blockstore::{
    Append, BlockIndex, BlockKind, BlockRef, Epoch, INodeIndex, PeerId, Seal, VolumeId,
};

use crate::extent::Location;
use crate::map::Map;
use crate::overlay::{Batch, Overlay};
use crate::record::{ExtentKind, MAX_HEADER, PAGE, Place, UNIT, encode_header, header_length};

/// A block that is not known to be sealed on all its peers, or was lately.
#[derive(Debug)]
pub(crate) struct OpenBlock {
    pub(crate) block: BlockRef,
    pub(crate) peers: Vec<PeerId>,
    /// Number in the block table.
    number: u32,
    /// Content by offset.
    pieces: BTreeMap<u32, Bytes>,
    length: u32,
    crc: crc32fast::Hasher,
    /// Bytes that some handed-out append asks to be synced.
    sync_asked: u32,
    acknowledged: u32,
    durable: u32,
    /// End and sequence number of each record that is not durable.
    records: VecDeque<(u32, u64)>,
    /// Set when it takes no more records.
    seal: Option<Seal>,
    sealed: bool,
}

/// The content of a block that must be sealed somewhere.
#[derive(Clone, Debug)]
pub(crate) struct BlockContent {
    pub(crate) block: BlockRef,
    pub(crate) peers: Vec<PeerId>,
    pub(crate) seal: Seal,
    pub(crate) data: Vec<Bytes>,
}

/// Something to send.
#[derive(Debug)]
pub(crate) enum Send {
    Append { peers: Vec<PeerId>, append: Append, end: u32 },
    Seal { peers: Vec<PeerId>, block: BlockRef, seal: Seal },
}

/// Blocks that may be written: consecutive indexes with the peers of each.
#[derive(Debug)]
pub(crate) struct Allotment {
    pub(crate) first: BlockIndex,
    pub(crate) peers: Vec<Vec<PeerId>>,
}

impl Allotment {
    /// The index behind its last block.
    pub(crate) fn end(&self) -> BlockIndex {
        BlockIndex(self.first.0 + self.peers.len() as u64)
    }
}

/// Whose log it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    pub(crate) volume: VolumeId,
    pub(crate) inode: INodeIndex,
    pub(crate) epoch: Epoch,
    /// Bytes in a block.
    pub(crate) block_size: u32,
}

/// The open end of the log.
#[derive(Debug)]
pub(crate) struct Log {
    identity: Identity,
    /// Not sealed, oldest first; only the last takes records.
    open: VecDeque<OpenBlock>,
    /// Sealed, kept for reads, oldest first.
    recent: VecDeque<OpenBlock>,
    recent_bytes: usize,
    cache_bytes: usize,
    allotted: VecDeque<(BlockIndex, Vec<PeerId>)>,
    /// Index and length of the last block that holds records.
    last: Option<(BlockIndex, u32)>,
    /// Of the last record cut.
    sequence: u64,
    durable: u64,
    unacknowledged: usize,
    /// Bytes of records cut since the log was opened.
    written: u64,
}

impl Log {
    /// An empty log; keeps up to `cache_bytes` of sealed blocks for reads.
    pub(crate) fn new(identity: Identity, cache_bytes: usize) -> Self {
        Self {
            identity,
            open: VecDeque::new(),
            recent: VecDeque::new(),
            recent_bytes: 0,
            cache_bytes,
            allotted: VecDeque::new(),
            last: None,
            sequence: 0,
            durable: 0,
            unacknowledged: 0,
            written: 0,
        }
    }

    /// Adds blocks that a committed window permits.
    pub(crate) fn allot(&mut self, allotment: Allotment) {
        let first = allotment.first.0;
        let blocks = allotment.peers.into_iter().zip(first..);
        self.allotted.extend(blocks.map(|(peers, index)| (BlockIndex(index), peers)));
    }

    /// How many more blocks may be opened.
    pub(crate) fn allotted(&self) -> usize {
        self.allotted.len()
    }

    /// The next block that will be opened, if one may be.
    pub(crate) fn next_block(&self) -> Option<BlockIndex> {
        self.allotted.front().map(|(index, _)| *index)
    }

    /// How many blocks are not yet sealed.
    pub(crate) fn open_blocks(&self) -> usize {
        self.open.len()
    }

    /// Whether every block before `index` is sealed.
    pub(crate) fn is_sealed_before(&self, index: BlockIndex) -> bool {
        self.open.front().is_none_or(|block| block.block.index >= index)
    }

    /// Whether the block is not yet sealed.
    pub(crate) fn is_open(&self, index: BlockIndex) -> bool {
        self.open.binary_search_by_key(&index, |block| block.block.index).is_ok()
    }

    /// Whether it is one of the blocks that are not yet sealed.
    pub(crate) fn is_open_block(&self, block: BlockRef) -> bool {
        self.open.iter().any(|open| open.block == block)
    }

    /// Where the last record ends.
    pub(crate) fn end(&self) -> Option<(BlockIndex, u32)> {
        self.last
    }

    /// Sequence number of the last record that was cut.
    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Every record up to this sequence number is on the disks of all peers of its block.
    pub(crate) fn durable(&self) -> u64 {
        self.durable
    }

    /// Bytes that were handed out and not yet acknowledged by all peers.
    pub(crate) fn unacknowledged(&self) -> usize {
        self.unacknowledged
    }

    /// Bytes of all records so far.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Cuts the overlay into records, as far as there are blocks for them, points the map at them,
    /// and hands out what is to be sent. With `sync`, what was cut so far is to become durable.
    pub(crate) fn cut(&mut self, overlay: &mut Overlay, map: &mut Map, sync: bool) -> Vec<Send> {
        let mut sends = Vec::new();
        while !overlay.is_empty() && self.ready_block(map, &mut sends) {
            let Some(block) = self.open.back_mut() else { break };
            let start = block.length;
            let mut pieces = Vec::new();
            while !overlay.is_empty() && block.has_room(self.identity.block_size) {
                let room = self.identity.block_size - block.length - MAX_HEADER;
                let batch = overlay.take_batch((room / PAGE) as usize);
                self.sequence += 1;
                let place = Place {
                    block: block.block,
                    epoch: self.identity.epoch,
                    sequence: self.sequence,
                    offset: block.length,
                    previous: if block.length == 0 { self.last } else { None },
                };
                block.add_record(&place, batch, map, &mut pieces);
                self.last = Some((block.block.index, block.length));
            }
            let bytes = block.length - start;
            self.unacknowledged += bytes as usize;
            self.written += u64::from(bytes);
            sends.push(block.hand_out(start, pieces, self.identity.epoch));
        }
        if sync {
            self.ask_sync(&mut sends);
        }
        sends
    }

    /// Closes the block that takes records, so that the log so far consists of whole blocks.
    pub(crate) fn close_block(&mut self, map: &mut Map) -> Option<Send> {
        let block = self.open.back_mut().filter(|block| block.seal.is_none())?;
        Some(block.close(map))
    }

    /// All peers of the block have its bytes up to `end`; with `sync`, on disk.
    pub(crate) fn acknowledged(&mut self, index: BlockIndex, end: u32, sync: bool) {
        if let Some(block) = self.open_block(index) {
            let newly = end.saturating_sub(block.acknowledged);
            block.acknowledged = block.acknowledged.max(end);
            if sync {
                block.durable = block.durable.max(end);
            }
            self.unacknowledged -= newly as usize;
            self.settle();
        }
    }

    /// The block is sealed, durably, on the peers it is meant to be on.
    pub(crate) fn sealed(&mut self, index: BlockIndex) {
        if let Some(block) = self.open_block(index) {
            block.sealed = true;
            let newly = block.length - block.acknowledged;
            block.acknowledged = block.length;
            self.unacknowledged -= newly as usize;
            self.settle();
        }
    }

    /// Closes every open block and returns their content: peers failed, and it must be sealed on
    /// others before the log goes on. Blocks allotted so far are void.
    pub(crate) fn give_up_blocks(&mut self, map: &mut Map) -> Vec<BlockContent> {
        self.allotted.clear();
        if let Some(block) = self.open.back_mut().filter(|block| block.seal.is_none()) {
            block.close(map);
        }
        self.open.iter().filter_map(OpenBlock::content).collect()
    }

    /// Bytes of a block that is open or was lately; whole pages.
    pub(crate) fn read(&self, block: BlockRef, offset: u32) -> Option<Bytes> {
        let BlockRef { volume, inode, index, .. } = block;
        if (volume, inode) != (self.identity.volume, self.identity.inode) {
            return None;
        }
        let position = |blocks: &VecDeque<OpenBlock>| {
            blocks.binary_search_by_key(&index, |block| block.block.index).ok()
        };
        let block = match position(&self.open) {
            Some(position) => &self.open[position],
            None => &self.recent[position(&self.recent)?],
        };
        let (start, piece) = block.pieces.range(..=offset).next_back()?;
        let from = (offset - start) as usize;
        (from < piece.len()).then(|| piece.slice(from..))
    }

    /// Makes sure that the last block takes records; closes a full one.
    fn ready_block(&mut self, map: &mut Map, sends: &mut Vec<Send>) -> bool {
        if let Some(block) = self.open.back_mut()
            && block.seal.is_none()
        {
            if block.has_room(self.identity.block_size) {
                return true;
            }
            sends.push(block.close(map));
        }
        let Some((index, peers)) = self.allotted.pop_front() else { return false };
        let Identity { volume, inode, .. } = self.identity;
        let block = BlockRef { volume, kind: BlockKind::Data, inode, index };
        let number = map.table.add(inode, index);
        self.open.push_back(OpenBlock::new(block, number, peers));
        true
    }

    fn ask_sync(&mut self, sends: &mut Vec<Send>) {
        let Some(block) = self.open.back_mut().filter(|block| block.seal.is_none()) else { return };
        if block.sync_asked == block.length {
            return;
        }
        block.sync_asked = block.length;
        if let Some(Send::Append { append, .. }) = sends.last_mut() {
            append.sync = true;
        } else {
            let mut send = block.hand_out(block.length, Vec::new(), self.identity.epoch);
            if let Send::Append { append, .. } = &mut send {
                append.sync = true;
            }
            sends.push(send);
        }
    }

    fn open_block(&mut self, index: BlockIndex) -> Option<&mut OpenBlock> {
        let position = self.open.binary_search_by_key(&index, |block| block.block.index).ok()?;
        self.open.get_mut(position)
    }

    /// Moves `durable` forward, and sealed blocks from the front to the recent ones.
    fn settle(&mut self) {
        while let Some(block) = self.open.front_mut() {
            let durable = if block.sealed { block.length } else { block.durable };
            while let Some((end, sequence)) = block.records.front()
                && *end <= durable
            {
                self.durable = *sequence;
                block.records.pop_front();
            }
            if !block.sealed {
                break;
            }
            if let Some(block) = self.open.pop_front() {
                self.recent_bytes += block.length as usize;
                self.recent.push_back(block);
            }
        }
        while self.recent_bytes > self.cache_bytes
            && let Some(block) = self.recent.pop_front()
        {
            self.recent_bytes -= block.length as usize;
        }
    }
}

impl OpenBlock {
    fn new(block: BlockRef, number: u32, peers: Vec<PeerId>) -> Self {
        Self {
            block,
            peers,
            number,
            pieces: BTreeMap::new(),
            length: 0,
            crc: crc32fast::Hasher::new(),
            sync_asked: 0,
            acknowledged: 0,
            durable: 0,
            records: VecDeque::new(),
            seal: None,
            sealed: false,
        }
    }

    fn has_room(&self, block_size: u32) -> bool {
        block_size - self.length >= MAX_HEADER + PAGE
    }

    /// Adds a record with the batch; its bytes are appended to `pieces`.
    fn add_record(&mut self, place: &Place, batch: Batch, map: &mut Map, pieces: &mut Vec<Bytes>) {
        let page_crcs: Vec<u32> = batch
            .data
            .iter()
            .flat_map(|data| data.chunks_exact(PAGE as usize))
            .map(crc32fast::hash)
            .collect();
        let header = encode_header(place, &batch.extents, &page_crcs);
        debug_assert_eq!(header.len() as u32, header_length(batch.extents.len(), batch.pages));
        let header_unit = (self.length / UNIT) as u16;
        let mut offset = self.length + header.len() as u32;
        for extent in &batch.extents {
            let location = (extent.kind == ExtentKind::Data).then_some(Location {
                block: self.number,
                offset: (offset / UNIT) as u16,
                header: header_unit,
            });
            map.set(extent.page, extent.count, location);
            if location.is_some() {
                offset += extent.count * PAGE;
            }
        }
        for piece in std::iter::once(header).chain(batch.data) {
            self.crc.update(&piece);
            self.pieces.insert(self.length, piece.clone());
            self.length += piece.len() as u32;
            pieces.push(piece);
        }
        self.records.push_back((self.length, place.sequence));
    }

    fn hand_out(&self, offset: u32, data: Vec<Bytes>, epoch: Epoch) -> Send {
        let append =
            Append { block: self.block, epoch, offset, data, sync: false, past_cache: false };
        Send::Append { peers: self.peers.clone(), append, end: self.length }
    }

    fn close(&mut self, map: &mut Map) -> Send {
        let seal = Seal { length: self.length, crc: self.crc.clone().finalize() };
        self.seal = Some(seal);
        map.table.sealed(self.number, seal);
        Send::Seal { peers: self.peers.clone(), block: self.block, seal }
    }

    fn content(&self) -> Option<BlockContent> {
        Some(BlockContent {
            block: self.block,
            peers: self.peers.clone(),
            seal: self.seal?,
            data: self.pieces.values().cloned().collect(),
        })
    }
}

#[cfg(test)]
mod tests;
