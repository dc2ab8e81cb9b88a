//! Bugs that are planted on purpose, so that it is known which bugs the simulation finds.
//!
//! They sit at the borders of what is simulated (disk, peers, metadata, pool), and the product knows
//! nothing of them; two have to be inside the volume, behind its feature `planted`. The numbers are
//! those of the list in the issue; M10 and M11 concern Raft, M14 the scrub.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use torus_blockstore::{
    Append, BlockPool, BlockRef, BlockState, ByteRange, CutOff, DirLock, Disk, DiskFile, Epoch,
    FenceTable, Mapping, PeerId, Placement, PoolError, Seal, VolumeId,
};
use torus_distributor::Request;
use torus_metadata::Command;

use super::Context;

/// A planted bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mutation {
    /// M1: a peer answers a sync before the disk has done it.
    EarlyAnswer,
    /// M2: one peer's answer is enough for a flush.
    OneReplica,
    /// M3: a write with FUA is answered from memory.
    FuaIgnored,
    /// M4: peers accept what an older epoch sends.
    StaleEpoch,
    /// M5: only the writer looks at its lease, the metadata accepts stale epochs.
    LeaseAtTheWriterOnly,
    /// M6: a read does not check the CRC of its pages.
    CrcUnchecked,
    /// M7: a record does not say to which block it belongs.
    IdentityUnchecked,
    /// M8: a misplaced copy is dropped before its successor is on a disk.
    EarlyDrop,
    /// M9: recovery believes copies that need not hold all that was flushed.
    AnyCopy,
    /// M12: blocks are freed although the head that needs them no more may be forgotten.
    HeadNotDurable,
    /// M13: a sync that failed is repeated, and its success believed.
    FailedSyncRetried,
}

impl Mutation {
    pub const ALL: &[Self] = &[
        Self::EarlyAnswer,
        Self::OneReplica,
        Self::FuaIgnored,
        Self::StaleEpoch,
        Self::LeaseAtTheWriterOnly,
        Self::CrcUnchecked,
        Self::IdentityUnchecked,
        Self::EarlyDrop,
        Self::AnyCopy,
        Self::HeadNotDurable,
        Self::FailedSyncRetried,
    ];

    /// Its number in the list.
    pub fn name(self) -> &'static str {
        match self {
            Self::EarlyAnswer => "M1",
            Self::OneReplica => "M2",
            Self::FuaIgnored => "M3",
            Self::StaleEpoch => "M4",
            Self::LeaseAtTheWriterOnly => "M5",
            Self::CrcUnchecked => "M6",
            Self::IdentityUnchecked => "M7",
            Self::EarlyDrop => "M8",
            Self::AnyCopy => "M9",
            Self::HeadNotDurable => "M12",
            Self::FailedSyncRetried => "M13",
        }
    }

    /// The part of it that is inside the volume.
    #[cfg(feature = "planted")]
    pub(crate) fn in_volume(self) -> Option<torus_volume::Planted> {
        match self {
            Self::CrcUnchecked => Some(torus_volume::Planted::PageCrc),
            Self::IdentityUnchecked => Some(torus_volume::Planted::RecordIdentity),
            _ => None,
        }
    }

    /// Whether this program can have it: some need the feature `planted`.
    pub fn is_available(self) -> bool {
        !matches!(self, Self::CrcUnchecked | Self::IdentityUnchecked) || cfg!(feature = "planted")
    }
}

/// A name that no planted bug has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoSuchMutation(String);

impl std::error::Error for NoSuchMutation {}

impl std::fmt::Display for NoSuchMutation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = Mutation::ALL.iter().map(|mutation| mutation.name()).collect();
        write!(f, "there is no mutation {:?}; there are {}", self.0, names.join(", "))
    }
}

impl FromStr for Mutation {
    type Err = NoSuchMutation;

    fn from_str(name: &str) -> Result<Self, NoSuchMutation> {
        let found = Self::ALL.iter().find(|mutation| mutation.name() == name);
        found.copied().ok_or_else(|| NoSuchMutation(name.to_owned()))
    }
}

impl Context {
    /// Changes what a peer is asked into what the planted bug makes of it.
    pub(crate) fn twist(&self, fences: &FenceTable, request: Request) -> Request {
        if self.planted(Mutation::StaleEpoch) {
            return with_newest_epoch(fences, request);
        }
        if let Request::State(mut query) = request {
            query.verify &= !self.planted(Mutation::EarlyDrop);
            return Request::State(query);
        }
        request
    }

    /// Whether a peer answers a request before its sync.
    pub(crate) fn answers_early(&self, request: &Request) -> bool {
        match request {
            Request::Put { epoch, .. } if *epoch == Epoch(0) => {
                self.planted(Mutation::EarlyDrop) || self.planted(Mutation::EarlyAnswer)
            }
            _ => self.planted(Mutation::EarlyAnswer),
        }
    }
}

/// The request as if its epoch were not stale.
fn with_newest_epoch(fences: &FenceTable, request: Request) -> Request {
    let newest = |volume: VolumeId, epoch: Epoch| match epoch {
        Epoch(0) => epoch,
        epoch => epoch.max(fences.newest(volume)),
    };
    match request {
        Request::Append(append) => {
            Request::Append(Append { epoch: newest(append.block.volume, append.epoch), ..append })
        }
        Request::Seal { block, epoch, seal } => {
            Request::Seal { block, epoch: newest(block.volume, epoch), seal }
        }
        Request::Put { block, epoch, data } => {
            Request::Put { block, epoch: newest(block.volume, epoch), data }
        }
        other => other,
    }
}

/// A writer's command in the name of another epoch.
pub(crate) fn with_epoch(command: Command, epoch: Epoch) -> Option<Command> {
    match command {
        Command::ReserveINodes { volume, count, .. } => {
            Some(Command::ReserveINodes { volume, epoch, count })
        }
        Command::CommitWindow { volume, mut window } => {
            window.epoch = epoch;
            Some(Command::CommitWindow { volume, window })
        }
        Command::CommitHead { volume, mut head } => {
            head.epoch = epoch;
            Some(Command::CommitHead { volume, head })
        }
        _ => None,
    }
}

/// A disk whose driver repeats a sync that failed.
pub(crate) struct RetryingDisk(pub(crate) Arc<dyn Disk>);

struct RetryingFile(Box<dyn DiskFile>);

struct RetryingMapping(Box<dyn Mapping>);

impl Disk for RetryingDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.0.create_dir(path)
    }
    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.0.exists(path)
    }
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(RetryingFile(self.0.create(path)?)))
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(RetryingFile(self.0.open(path)?)))
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.0.sync_dir(path)
    }
    fn lock_dir(&self, path: &Path) -> io::Result<DirLock> {
        self.0.lock_dir(path)
    }
    fn free_space(&self, path: &Path) -> io::Result<u64> {
        self.0.free_space(path)
    }
}

impl DiskFile for RetryingFile {
    fn length(&self) -> io::Result<u64> {
        self.0.length()
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, buffer)
    }
    fn read_cached_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<bool> {
        self.0.read_cached_at(offset, buffer)
    }
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, data)
    }
    fn sync(&self) -> io::Result<()> {
        self.0.sync().or_else(|_| self.0.sync())
    }
    fn allocate(&self, length: u64) -> io::Result<()> {
        self.0.allocate(length)
    }
    fn evict(&self, range: Range<u64>) -> io::Result<()> {
        self.0.evict(range)
    }
    fn map(&self, length: u64) -> io::Result<Box<dyn Mapping>> {
        Ok(Box::new(RetryingMapping(self.0.map(length)?)))
    }
}

impl Mapping for RetryingMapping {
    fn load(&self, offset: u64, buffer: &mut [u8]) {
        self.0.load(offset, buffer);
    }
    fn store(&mut self, offset: u64, bytes: &[u8]) {
        self.0.store(offset, bytes);
    }
    fn flush(&mut self, range: Range<u64>) -> io::Result<()> {
        self.0.flush(range.clone()).or_else(|_| self.0.flush(range))
    }
}

/// A pool with the bugs that a pool can have.
pub(crate) struct MutantPool {
    pub(crate) inner: Arc<dyn BlockPool>,
    pub(crate) mutation: Mutation,
    pub(crate) has_recovered: AtomicBool,
}

impl BlockPool for MutantPool {
    fn block_size(&self) -> u32 {
        self.inner.block_size()
    }

    fn replication(&self) -> u32 {
        self.inner.replication()
    }

    fn place_now(&self) -> BoxFuture<'static, Result<Placement, PoolError>> {
        // A new window is placed when the log was found.
        self.has_recovered.store(true, Ordering::Relaxed);
        self.inner.place_now()
    }

    fn peers_of(
        &self,
        block: BlockRef,
        mut placement: Placement,
    ) -> BoxFuture<'static, Result<Vec<PeerId>, PoolError>> {
        if self.mutation == Mutation::AnyCopy && !self.has_recovered.load(Ordering::Relaxed) {
            placement.excluded.clear();
        }
        self.inner.peers_of(block, placement)
    }

    fn all_peers(&self) -> BoxFuture<'static, Result<Vec<PeerId>, PoolError>> {
        self.inner.all_peers()
    }

    fn append(&self, peers: Vec<PeerId>, append: Append) -> BoxFuture<'static, Result<(), CutOff>> {
        if self.mutation != Mutation::OneReplica {
            return self.inner.append(peers, append);
        }
        let answers: Vec<_> =
            peers.into_iter().map(|peer| self.inner.append(vec![peer], append.clone())).collect();
        async move {
            match futures::future::select_ok(answers).await {
                Ok(((), others)) => {
                    others.into_iter().for_each(|other| drop(tokio::spawn(other)));
                    Ok(())
                }
                Err(error) => Err(error),
            }
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
        self.inner.seal(peers, block, epoch, seal)
    }

    fn read(
        &self,
        block: BlockRef,
        ranges: Vec<ByteRange>,
        hint: Vec<PeerId>,
        avoid: Vec<PeerId>,
    ) -> BoxFuture<'static, Result<(PeerId, Bytes), PoolError>> {
        self.inner.read(block, ranges, hint, avoid)
    }

    fn fetch(
        &self,
        peer: PeerId,
        block: BlockRef,
    ) -> BoxFuture<'static, Result<Option<(BlockState, Bytes)>, PoolError>> {
        self.inner.fetch(peer, block)
    }

    fn fence(
        &self,
        peer: PeerId,
        volume: VolumeId,
        epoch: Epoch,
    ) -> BoxFuture<'static, Result<Epoch, PoolError>> {
        self.inner.fence(peer, volume, epoch)
    }

    fn put(
        &self,
        peers: Vec<PeerId>,
        block: BlockRef,
        epoch: Epoch,
        data: Bytes,
    ) -> BoxFuture<'static, Result<(), CutOff>> {
        self.inner.put(peers, block, epoch, data)
    }

    fn delete(
        &self,
        peers: Vec<PeerId>,
        blocks: Vec<BlockRef>,
        epoch: Epoch,
    ) -> BoxFuture<'static, Result<(), CutOff>> {
        self.inner.delete(peers, blocks, epoch)
    }

    fn list(
        &self,
        peer: PeerId,
        volume: VolumeId,
        after: Option<BlockRef>,
    ) -> BoxFuture<'static, Result<Vec<(BlockRef, BlockState)>, PoolError>> {
        self.inner.list(peer, volume, after)
    }

    fn room(&self) -> u64 {
        self.inner.room()
    }

    fn suspect(&self, peer: PeerId, block: BlockRef) {
        self.inner.suspect(peer, block);
    }
}
