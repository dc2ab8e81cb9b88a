//! A pool in memory for tests: peers that lose what was not synced when they crash.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use rand::Rng;
use rand::rngs::StdRng;
use torus_blockstore::{
    Append, BlockPool, BlockRef, BlockState, ByteRange, CutOff, Epoch, PeerId, Placement,
    PoolError, Seal, VolumeId,
};

#[derive(Debug)]
struct Copy {
    bytes: Vec<u8>,
    durable: usize,
    state: BlockState,
}

#[derive(Debug, Default)]
struct Peer {
    down: bool,
    copies: BTreeMap<BlockRef, Copy>,
    epochs: BTreeMap<VolumeId, Epoch>,
}

/// The peers; clones share them.
#[derive(Clone, Debug)]
pub(super) struct MemoryPool {
    peers: Arc<Mutex<BTreeMap<PeerId, Peer>>>,
    replication: usize,
    block_size: u32,
    is_full: Arc<AtomicBool>,
    /// Bytes that were read or fetched.
    read: Arc<AtomicU64>,
}

pub(super) fn peer(number: u128) -> PeerId {
    PeerId::decode(number.to_be_bytes())
}

impl MemoryPool {
    pub(super) fn new(peers: u128, replication: usize, block_size: u32) -> Self {
        let peers = (1..=peers).map(|number| (peer(number), Peer::default())).collect();
        let (peers, is_full, read) = (Arc::new(Mutex::new(peers)), Arc::default(), Arc::default());
        Self { peers, replication, block_size, is_full, read }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PeerId, Peer>> {
        self.peers.lock().unwrap()
    }

    pub(super) fn set_down(&self, number: u128, down: bool) {
        self.lock().get_mut(&peer(number)).unwrap().down = down;
    }

    /// The peer loses power: of what was not synced a random part is left.
    pub(super) fn crash(&self, number: u128, rng: &mut StdRng) {
        let mut peers = self.lock();
        let peer = peers.get_mut(&peer(number)).unwrap();
        for copy in peer.copies.values_mut() {
            if let BlockState::Open { .. } = copy.state {
                copy.state = BlockState::Unsettled;
            }
            let kept = rng.random_range(copy.durable..=copy.bytes.len());
            for sector in copy.bytes[kept..].chunks_mut(512) {
                if rng.random_bool(0.5) {
                    sector.fill(0);
                }
            }
        }
    }

    /// Flips a byte of one peer's copies of every block; how many there were.
    pub(super) fn damage(&self, number: u128, rng: &mut StdRng) -> usize {
        let mut peers = self.lock();
        let copies = &mut peers.get_mut(&peer(number)).unwrap().copies;
        for copy in copies.values_mut() {
            let at = rng.random_range(0..copy.bytes.len());
            copy.bytes[at] ^= 0x55;
        }
        copies.len()
    }

    pub(super) fn set_full(&self, full: bool) {
        self.is_full.store(full, Ordering::Relaxed);
    }

    /// Bytes that were read since the last call.
    pub(super) fn take_read(&self) -> u64 {
        self.read.swap(0, Ordering::Relaxed)
    }

    /// The blocks that any peer has a copy of.
    pub(super) fn blocks(&self) -> BTreeSet<BlockRef> {
        self.lock().values().flat_map(|peer| peer.copies.keys().copied()).collect()
    }

    /// The volume was deleted: so are its blocks, sooner or later.
    pub(super) fn drop_volume(&self, volume: VolumeId) {
        for peer in self.lock().values_mut() {
            peer.copies.retain(|block, _| block.volume != volume);
        }
    }

    /// The bytes of every copy of every sealed block must be the same.
    pub(super) fn assert_replicas_agree(&self) {
        let mut seals: BTreeMap<BlockRef, Seal> = BTreeMap::new();
        for peer in self.lock().values() {
            for (block, copy) in &peer.copies {
                if let BlockState::Sealed(seal) = copy.state {
                    assert_eq!(*seals.entry(*block).or_insert(seal), seal, "{block}");
                }
            }
        }
    }

    fn on_each(
        &self,
        wanted: Vec<PeerId>,
        volume: VolumeId,
        epoch: Epoch,
        mut act: impl FnMut(&mut Peer) -> bool,
    ) -> BoxFuture<'static, Result<(), CutOff>> {
        let mut peers = self.lock();
        let mut failed = Vec::new();
        let mut fenced = None;
        for id in wanted {
            let peer = peers.get_mut(&id).unwrap();
            let seen = peer.epochs.entry(volume).or_default();
            if peer.down {
                failed.push(id);
            } else if *seen > epoch {
                fenced = Some(*seen);
            } else {
                *seen = epoch;
                if !act(peer) {
                    failed.push(id);
                }
            }
        }
        let result = match (fenced, failed.is_empty()) {
            (Some(newest), _) => Err(CutOff::Fenced { newest }),
            (None, true) => Ok(()),
            (None, false) => Err(CutOff::Lost { failed }),
        };
        answer(result)
    }
}

fn answer<T: Send + 'static>(value: T) -> BoxFuture<'static, T> {
    async move {
        tokio::task::yield_now().await;
        value
    }
    .boxed()
}

impl BlockPool for MemoryPool {
    fn block_size(&self) -> u32 {
        self.block_size
    }

    fn replication(&self) -> u32 {
        self.replication as u32
    }

    fn place_now(&self) -> BoxFuture<'static, Result<Placement, PoolError>> {
        let peers = self.lock();
        let excluded = peers.iter().filter(|(_, peer)| peer.down).map(|(id, _)| *id).collect();
        answer(Ok(Placement { ring: 1, excluded, copies: None }))
    }

    fn peers_of(
        &self,
        block: BlockRef,
        placement: Placement,
    ) -> BoxFuture<'static, Result<Vec<PeerId>, PoolError>> {
        let peers: Vec<PeerId> = self.lock().keys().copied().collect();
        let start = crc32fast::hash(&block.encode()) as usize;
        let chosen = (0..peers.len())
            .map(|step| peers[(start + step) % peers.len()])
            .filter(|id| !placement.excluded.contains(id))
            .take(self.replication)
            .collect();
        async move { Ok(chosen) }.boxed()
    }

    fn all_peers(&self) -> BoxFuture<'static, Result<Vec<PeerId>, PoolError>> {
        answer(Ok(self.lock().keys().copied().collect()))
    }

    fn append(&self, peers: Vec<PeerId>, append: Append) -> BoxFuture<'static, Result<(), CutOff>> {
        let appended = self.on_each(peers.clone(), append.block.volume, append.epoch, |peer| {
            let copy = peer.copies.entry(append.block).or_insert_with(|| Copy {
                bytes: Vec::new(),
                durable: 0,
                state: BlockState::Open { length: 0 },
            });
            let open = matches!(copy.state, BlockState::Open { .. });
            if !open || copy.bytes.len() != append.offset as usize {
                return false;
            }
            append.data.iter().for_each(|data| copy.bytes.extend_from_slice(data));
            copy.state = BlockState::Open { length: copy.bytes.len() as u32 };
            true
        });
        if !append.sync {
            return appended;
        }
        // The bytes are on the disks only when the answer comes.
        let end = append.offset as usize + append.data.iter().map(Bytes::len).sum::<usize>();
        let pool = self.clone();
        async move {
            let result = appended.await;
            for id in peers {
                let mut peers = pool.lock();
                let copy = peers.get_mut(&id).and_then(|peer| peer.copies.get_mut(&append.block));
                if let Some(copy) = copy {
                    copy.durable = copy.durable.max(end.min(copy.bytes.len()));
                }
            }
            result
        }
        .boxed()
    }

    fn seal(
        &self,
        peers: Vec<PeerId>,
        block: BlockRef,
        epoch: Epoch,
        seal: Seal,
    ) -> BoxFuture<'static, Result<(), CutOff>> {
        self.on_each(peers, block.volume, epoch, |peer| {
            let Some(copy) = peer.copies.get_mut(&block) else { return false };
            if let BlockState::Sealed(before) = copy.state {
                return before == seal;
            }
            let Some(bytes) = copy.bytes.get(..seal.length as usize) else { return false };
            if crc32fast::hash(bytes) != seal.crc {
                return false;
            }
            copy.bytes.truncate(seal.length as usize);
            copy.durable = copy.bytes.len();
            copy.state = BlockState::Sealed(seal);
            true
        })
    }

    fn read(
        &self,
        block: BlockRef,
        ranges: Vec<ByteRange>,
        _hint: Vec<PeerId>,
        avoid: Vec<PeerId>,
    ) -> BoxFuture<'static, Result<(PeerId, Bytes), PoolError>> {
        let peers = self.lock();
        let mut silent = Vec::new();
        for (id, peer) in peers.iter() {
            if peer.down || avoid.contains(id) {
                silent.push(*id);
                continue;
            }
            let Some(copy) = peer.copies.get(&block) else { continue };
            if copy.state == BlockState::Unsettled {
                continue;
            }
            let parts: Option<Vec<&[u8]>> = ranges
                .iter()
                .map(|range| {
                    copy.bytes[..].get(range.offset as usize..)?.get(..range.length as usize)
                })
                .collect();
            if let Some(parts) = parts {
                let length: usize = parts.iter().map(|part| part.len()).sum();
                self.read.fetch_add(length as u64, Ordering::Relaxed);
                return answer(Ok((*id, Bytes::from(parts.concat()))));
            }
        }
        answer(Err(match silent.is_empty() {
            true => PoolError::NoSuchBlock { block },
            false => PoolError::Unavailable { block, silent },
        }))
    }

    fn fetch(
        &self,
        peer: PeerId,
        block: BlockRef,
    ) -> BoxFuture<'static, Result<Option<(BlockState, Bytes)>, PoolError>> {
        let peers = self.lock();
        let found = &peers[&peer];
        if found.down {
            return answer(Err(PoolError::Silent { peer }));
        }
        let copy = found.copies.get(&block);
        let length = copy.map_or(0, |copy| copy.bytes.len());
        self.read.fetch_add(length as u64, Ordering::Relaxed);
        answer(Ok(copy.map(|copy| (copy.state, Bytes::from(copy.bytes.clone())))))
    }

    fn fence(
        &self,
        peer: PeerId,
        volume: VolumeId,
        epoch: Epoch,
    ) -> BoxFuture<'static, Result<Epoch, PoolError>> {
        let mut peers = self.lock();
        let found = peers.get_mut(&peer).unwrap();
        if found.down {
            return answer(Err(PoolError::Silent { peer }));
        }
        let seen = found.epochs.entry(volume).or_default();
        *seen = epoch.max(*seen);
        answer(Ok(*seen))
    }

    fn put(
        &self,
        peers: Vec<PeerId>,
        block: BlockRef,
        epoch: Epoch,
        data: Bytes,
    ) -> BoxFuture<'static, Result<(), CutOff>> {
        let seal = Seal::of(&data);
        self.on_each(peers, block.volume, epoch, |peer| {
            let state = BlockState::Sealed(seal);
            let copy = Copy { bytes: data.to_vec(), durable: data.len(), state };
            match peer.copies.get(&block).map(|copy| copy.state) {
                Some(BlockState::Sealed(before)) if before != seal => false,
                _ => {
                    peer.copies.insert(block, copy);
                    true
                }
            }
        })
    }

    fn delete(
        &self,
        peers: Vec<PeerId>,
        blocks: Vec<BlockRef>,
        epoch: Epoch,
    ) -> BoxFuture<'static, Result<(), CutOff>> {
        let volume = blocks.first().map_or(VolumeId::new(1).unwrap(), |block| block.volume);
        self.on_each(peers, volume, epoch, |peer| {
            blocks.iter().for_each(|block| {
                peer.copies.remove(block);
            });
            true
        })
    }

    fn list(
        &self,
        peer: PeerId,
        volume: VolumeId,
        after: Option<BlockRef>,
    ) -> BoxFuture<'static, Result<Vec<(BlockRef, BlockState)>, PoolError>> {
        let peers = self.lock();
        let found = &peers[&peer];
        if found.down {
            return answer(Err(PoolError::Silent { peer }));
        }
        let of_volume = found.copies.iter().filter(|(block, _)| block.volume == volume);
        let behind = of_volume.filter(|(block, _)| after.is_none_or(|after| **block > after));
        answer(Ok(behind.take(7).map(|(block, copy)| (*block, copy.state)).collect()))
    }

    fn room(&self) -> u64 {
        if self.is_full.load(Ordering::Relaxed) { 0 } else { u64::MAX }
    }

    fn suspect(&self, _peer: PeerId, _block: BlockRef) {}
}

/// The peers that are up.
pub(super) fn up(pool: &MemoryPool) -> BTreeSet<PeerId> {
    pool.lock().iter().filter(|(_, peer)| !peer.down).map(|(id, _)| *id).collect()
}
