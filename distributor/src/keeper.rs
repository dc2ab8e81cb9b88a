//! What a peer does with a request: the rules of the store, the fences and the ring, without
//! threads, sockets or clocks. [`PeerServer`](crate::PeerServer) decides on which thread it happens.
//!
//! Invariants:
//! - What an epoch appends, seals, puts or deletes is in the store before a higher epoch is fenced,
//!   or is refused: a fence's answer means that nothing older follows.
//! - A sealed copy whose content is good is replaced by nobody but its volume's owner, and deleted
//!   without the owner only by [`Keeper::drop_misplaced`] and [`Keeper::drop_deleted`].
//! - An answer to a state query about ring version `v` holds until this peer follows another:
//!   misplaced blocks are dropped only under the version that they were confirmed for, so that two
//!   holders that follow different rings never drop a block in favour of each other.
//!
//! Requests of epoch 0 come from daemons that repair. They fill gaps and settle what a crash left;
//! they cannot append, delete or fence, bring nothing back that its owner deleted here lately, and
//! add no copy where only the reserve of the store is left (see `space`).

mod content;
mod deleted;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, RwLock};

use bytes::Bytes;
pub(crate) use content::answer_length;
use deleted::Deleted;
use tokio::sync::Notify;
use torus_blockstore::{
    Admission, Append, BlockKind, BlockRef, BlockState, BlockStore, Epoch, Error, FenceTable, Seal,
    VolumeId,
};
use torus_metadata::RingVersion;

use crate::lock::{lock, read, write};
use crate::progress::Progress;
use crate::protocol::BATCH_BLOCKS;
use crate::{Refusal, Request, Response, StateQuery, Status, Usage};

/// The owner that repairs: no writer's.
pub(crate) const NOBODY: Epoch = Epoch(0);

/// Suspected blocks that wait for their check; more are forgotten, a reader will name them again.
const SUSPECTS: usize = 1024;

/// Whether an answer may be given at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    Now,
    /// Only after the store was synced.
    AfterSync,
}

/// A node's blocks and the rules for changing them.
pub struct Keeper {
    store: Arc<dyn BlockStore>,
    fences: Arc<FenceTable>,
    /// Held by a put from its look at what is here until it is done.
    deleted: Mutex<Deleted>,
    ring: RwLock<RingVersion>,
    suspects: Mutex<BTreeSet<BlockRef>>,
    suspected: Notify,
    progress: Progress,
}

impl Keeper {
    pub fn new(store: Arc<dyn BlockStore>, fences: Arc<FenceTable>) -> Self {
        Self {
            store,
            fences,
            deleted: Mutex::default(),
            ring: RwLock::default(),
            suspects: Mutex::default(),
            suspected: Notify::new(),
            progress: Progress::default(),
        }
    }

    /// The store behind it.
    pub fn store(&self) -> &Arc<dyn BlockStore> {
        &self.store
    }

    /// How far the moving of blocks is.
    pub(crate) fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Carries a request out; blocks the thread while the disk works. The answer is to be given
    /// when it is due.
    pub fn execute(&self, request: Request) -> Result<(Response, Due), Refusal> {
        let now = |response| Ok((response, Due::Now));
        match request {
            Request::Append(append) => self.append(&append),
            Request::Read { block, ranges } => {
                now(Response::Data(content::read(&*self.store, block, &ranges)?))
            }
            Request::Fetch { block } => {
                now(Response::Fetched(content::fetch(&*self.store, block)?))
            }
            Request::Seal { block, epoch, seal } => self.seal(block, epoch, seal),
            Request::Fence { volume, epoch } => now(Response::Newest(self.fence(volume, epoch)?)),
            Request::Put { block, epoch, data } => self.put(block, epoch, &data),
            Request::State(query) => now(Response::States(self.states(&query)?)),
            Request::Delete { epoch, blocks } => self.delete(epoch, &blocks),
            Request::List { volume, after, limit } => {
                now(Response::Blocks(self.list(volume, after, limit)))
            }
            Request::Suspect { block } => {
                self.suspect(block);
                now(Response::Done)
            }
            Request::Status => now(Response::Status(self.status())),
        }
    }

    /// Makes everything durable whose answer is due after a sync.
    pub fn sync(&self) -> Result<(), Refusal> {
        self.store.sync().map_err(refuse)
    }

    /// Whether `epoch` is new here, so that its first request waits for the disk.
    pub(crate) fn is_news(&self, volume: VolumeId, epoch: Epoch) -> bool {
        !self.fences.is_raised(volume, epoch)
    }

    fn append(&self, append: &Append) -> Result<(Response, Due), Refusal> {
        if append.epoch == NOBODY {
            return Err(Refusal::Invalid);
        }
        let _admitted = self.admit(append.block.volume, append.epoch)?;
        let appended = match &append.data[..] {
            [] => self.expect_length(append.block, append.offset),
            [part] if part.is_empty() => self.expect_length(append.block, append.offset),
            [part] => self.append_bytes(append, part),
            // One write of the whole is less work for the disk than many small ones.
            parts => self.append_bytes(append, &parts.concat()),
        };
        match appended {
            Err(Refusal::Sealed | Refusal::BadOffset) if self.has_sealed(append) => {}
            other => other?,
        }
        Ok((Response::Done, if append.sync { Due::AfterSync } else { Due::Now }))
    }

    /// Whether the bytes are here already, in a sealed copy: where another peer was told of the seal
    /// before this one was of the last bytes, a daemon that repairs may bring a copy before they come.
    fn has_sealed(&self, append: &Append) -> bool {
        let Some(BlockState::Sealed(seal)) = self.store.state(append.block) else { return false };
        let bytes = append.data.concat();
        let mut held = vec![0; bytes.len()];
        append.offset <= seal.length
            && self.store.read(append.block, append.offset, &mut held).is_ok()
            && held == bytes
    }

    /// The last of the reserve is for checkpoints, which let data be deleted: no block is begun there.
    fn append_bytes(&self, append: &Append, bytes: &[u8]) -> Result<(), Refusal> {
        let Append { block, offset, .. } = *append;
        let begins = offset == 0 && block.kind == BlockKind::Data;
        if begins && self.store.state(block).is_none() && self.usage().is_spent() {
            return Err(Refusal::Full);
        }
        let appended = match append.past_cache {
            true => self.store.append_past_cache(block, offset, bytes),
            false => self.store.append(block, offset, bytes),
        };
        appended.map_err(refuse)
    }

    /// A sync without bytes vouches for those before it, so they must be here.
    fn expect_length(&self, block: BlockRef, expected: u32) -> Result<(), Refusal> {
        match self.store.state(block) {
            None if expected == 0 => Ok(()),
            None => Err(Refusal::NoSuchBlock),
            Some(BlockState::Open { length }) if length == expected => Ok(()),
            Some(BlockState::Sealed(seal)) if seal.length == expected => Ok(()),
            Some(BlockState::Unsettled) => Err(Refusal::Unsettled),
            Some(_) => Err(Refusal::BadOffset),
        }
    }

    fn seal(&self, block: BlockRef, epoch: Epoch, seal: Seal) -> Result<(Response, Due), Refusal> {
        let _admitted = self.admit(block.volume, epoch)?;
        self.store.seal(block, seal).map_err(refuse)?;
        Ok((Response::Done, Due::AfterSync))
    }

    fn put(&self, block: BlockRef, epoch: Epoch, data: &Bytes) -> Result<(Response, Due), Refusal> {
        let _admitted = self.admit(block.volume, epoch)?;
        let mut deleted = lock(&self.deleted);
        if data.len() > self.store.geometry().block_size as usize {
            return Err(Refusal::Invalid);
        }
        let seal = Seal::of(data);
        match self.store.state(block) {
            Some(BlockState::Sealed(kept)) if self.is_good(block) => {
                if kept == seal {
                    return Ok((Response::Done, Due::AfterSync));
                }
                if epoch == NOBODY {
                    return Err(Refusal::Sealed);
                }
            }
            None if epoch == NOBODY && deleted.has(block) => return Err(Refusal::Deleted),
            None if epoch == NOBODY && !self.usage().has_room() => return Err(Refusal::Full),
            _ => {}
        }
        deleted.forget(block);
        self.store.put(block, data).map_err(refuse)?;
        Ok((Response::Done, Due::AfterSync))
    }

    fn fence(&self, volume: VolumeId, epoch: Epoch) -> Result<Epoch, Refusal> {
        if epoch == NOBODY {
            return Err(Refusal::Invalid);
        }
        self.raise(volume, epoch)
    }

    /// Makes a new epoch durable ahead of its first request.
    pub(crate) fn announce(&self, volume: VolumeId, epoch: Epoch) -> Result<(), Refusal> {
        if epoch == NOBODY { Ok(()) } else { self.raise(volume, epoch).map(drop) }
    }

    fn raise(&self, volume: VolumeId, epoch: Epoch) -> Result<Epoch, Refusal> {
        self.fences.raise(volume, epoch).map_err(refuse)
    }

    /// Lets a request of `epoch` pass, and no raise while the admission lives; a new epoch is durable
    /// before. Who repairs needs no leave.
    fn admit(&self, volume: VolumeId, epoch: Epoch) -> Result<Option<Admission<'_>>, Refusal> {
        if epoch == NOBODY {
            return Ok(None);
        }
        if self.is_news(volume, epoch) {
            self.raise(volume, epoch)?;
        }
        match self.fences.admit(volume, epoch) {
            Ok(admission) => Ok(Some(admission)),
            Err(newest) => Err(Refusal::Fenced { newest }),
        }
    }

    fn states(&self, query: &StateQuery) -> Result<Vec<Option<BlockState>>, Refusal> {
        let bad = if query.verify { self.verify(&query.blocks)? } else { BTreeSet::new() };
        // From here on the copies stay, or this peer has entered another ring.
        let ring = read(&self.ring);
        if query.ring.is_some_and(|version| version != *ring) {
            return Err(Refusal::OtherRing { current: *ring });
        }
        let state = |block: &BlockRef| {
            let state = self.store.state(*block);
            if bad.contains(block) { state.and(Some(BlockState::Unsettled)) } else { state }
        };
        Ok(query.blocks.iter().map(state).collect())
    }

    /// The sealed ones among `blocks` whose content is bad; they are noted to be mended. The others
    /// are durable as they are.
    fn verify(&self, blocks: &[BlockRef]) -> Result<BTreeSet<BlockRef>, Refusal> {
        self.sync()?;
        let bad: BTreeSet<BlockRef> =
            blocks.iter().copied().filter(|&block| !self.is_good(block)).collect();
        bad.iter().for_each(|&block| self.suspect(block));
        Ok(bad)
    }

    fn delete(&self, epoch: Epoch, blocks: &[BlockRef]) -> Result<(Response, Due), Refusal> {
        if epoch == NOBODY {
            return Err(Refusal::Invalid);
        }
        for &block in blocks {
            let _admitted = self.admit(block.volume, epoch)?;
            // A copy that is being put now is deleted with the rest; any later is refused.
            lock(&self.deleted).note(block);
            self.store.delete(block).map_err(refuse)?;
        }
        Ok((Response::Done, Due::AfterSync))
    }

    fn list(
        &self,
        volume: Option<VolumeId>,
        after: Option<BlockRef>,
        limit: u32,
    ) -> Vec<(BlockRef, BlockState)> {
        let limit = usize::try_from(limit).map_or(BATCH_BLOCKS, |limit| limit.min(BATCH_BLOCKS));
        content::list(&*self.store, volume, after, limit)
    }

    /// How full the store is.
    pub fn usage(&self) -> Usage {
        Usage { used_blocks: self.store.used_blocks(), geometry: self.store.geometry() }
    }

    fn status(&self) -> Status {
        let usage = self.usage();
        let mut status = self.progress.status();
        status.used_blocks = usage.used_blocks;
        status.capacity_blocks = usage.geometry.capacity_blocks;
        status.ring = self.ring().0;
        status
    }

    /// The ring that it follows; 0: none yet.
    pub fn ring(&self) -> RingVersion {
        *read(&self.ring)
    }

    /// Follows `version` from now on: no answer for another holds any more.
    pub(crate) fn enter_ring(&self, version: RingVersion) {
        *write(&self.ring) = version;
    }

    /// Deletes a block that others have confirmed to hold, unless the ring changed since; whether
    /// it did.
    pub(crate) fn drop_misplaced(
        &self,
        block: BlockRef,
        confirmed: RingVersion,
    ) -> Result<bool, Refusal> {
        let ring = read(&self.ring);
        if *ring != confirmed {
            return Ok(false);
        }
        self.store.delete(block).map_err(refuse)
    }

    /// Deletes a block that its owner deleted elsewhere, or of a volume that the metadata says is no
    /// more. Blocks' names are never used again.
    pub(crate) fn drop_deleted(&self, block: BlockRef) -> Result<bool, Refusal> {
        // Others that missed it too are told when they come with their copies.
        lock(&self.deleted).note(block);
        self.store.delete(block).map_err(refuse)
    }

    /// Notes a block to be verified.
    fn suspect(&self, block: BlockRef) {
        let mut suspects = lock(&self.suspects);
        if suspects.len() < SUSPECTS {
            suspects.insert(block);
            self.suspected.notify_one();
        }
    }

    /// The blocks to be verified, once there are any.
    pub(crate) async fn suspects(&self) -> BTreeSet<BlockRef> {
        loop {
            let suspects = std::mem::take(&mut *lock(&self.suspects));
            if !suspects.is_empty() {
                return suspects;
            }
            self.suspected.notified().await;
        }
    }

    /// Checks a sealed block's content; what is not sealed, or not here, passes.
    pub(crate) fn is_good(&self, block: BlockRef) -> bool {
        match self.store.state(block) {
            Some(BlockState::Sealed(seal)) => content::verify(&*self.store, block, seal).is_ok(),
            _ => true,
        }
    }

    /// Answers a read from memory; `None` if the disk would have to be waited for.
    pub(crate) fn read_cached(
        &self,
        block: BlockRef,
        ranges: &[torus_blockstore::ByteRange],
    ) -> Result<Option<Bytes>, Refusal> {
        content::read_cached(&*self.store, block, ranges)
    }
}

/// The store's error in the words of the protocol. What concerns the disk is logged here, where it
/// is known in full.
fn refuse(error: Error) -> Refusal {
    match error {
        Error::Full { .. } => Refusal::Full,
        Error::NoSuchBlock { .. } => Refusal::NoSuchBlock,
        Error::Offset { .. } | Error::TooLong { .. } | Error::TooShort { .. } => Refusal::BadOffset,
        Error::Sealed { .. } | Error::SealedOtherwise { .. } => Refusal::Sealed,
        Error::Unsettled { .. } => Refusal::Unsettled,
        Error::Checksum { .. } => Refusal::Corrupt,
        error => {
            tracing::error!(
                error = &error as &(dyn std::error::Error + 'static),
                "the block store fails"
            );
            Refusal::Disk
        }
    }
}
