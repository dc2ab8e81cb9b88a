//! What the writer does with the pool and the metadata service in the background, retried until it
//! succeeds or another opener has the volume.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use torus_blockstore::{
    BlockIndex, BlockKind, BlockPool, BlockRef, CutOff, INodeIndex, INodeRef, PeerId, Placement,
    PoolError, Seal,
};
use torus_metadata::{
    Answer, Applied, Command, Error as MetadataError, Head, LogPosition, MetadataService, Outcome,
    Query, Refusal, Revision, RingVersion, SnapshotId, Volume, Window,
};

use crate::Error;
use crate::checkpoint::{LoadError, Loader, ObjectRef, inode_block};
use crate::log::{Allotment, BlockContent, Identity};
use crate::retry::{MISSES, RETRY};

/// The pool and the metadata, as one opener of a volume uses them.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) pool: Arc<dyn BlockPool>,
    pub(crate) meta: Arc<dyn MetadataService>,
    pub(crate) identity: Identity,
    /// Blocks that one window permits.
    pub(crate) window_blocks: u64,
    /// How many peers are to hold each block, where that is not for the ring to say.
    pub(crate) copies: Option<u32>,
}

/// A window that is wanted.
#[derive(Clone, Debug)]
pub(crate) struct WindowPlan {
    pub(crate) first: BlockIndex,
    /// Where the log before it was cut off.
    pub(crate) after: Option<(BlockIndex, u32)>,
    /// Peers that failed, whatever the pool thinks of them.
    pub(crate) avoid: BTreeSet<PeerId>,
}

impl Context {
    /// The fewest copies with which the volume goes on: two of three, one of two.
    pub(crate) fn min_replicas(&self) -> usize {
        (self.copies.unwrap_or_else(|| self.pool.replication()) as usize).div_ceil(2)
    }

    /// Commits a window on peers that answer.
    pub(crate) async fn open_window(self, mut plan: WindowPlan) -> Result<Allotment, Error> {
        loop {
            let placement = self.place(&mut plan.avoid).await;
            if let Some(peers) = self.peers_of_window(plan.first, &placement).await
                && self.commit_window(&plan, placement).await?
            {
                return Ok(Allotment { first: plan.first, peers });
            }
            plan.avoid.clear();
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Seals the blocks of peers that failed: on those that are left, and on others from memory,
    /// so that each has its full number of copies again; then opens the next window.
    pub(crate) async fn mend(
        self,
        blocks: Vec<BlockContent>,
        mut plan: WindowPlan,
    ) -> Result<Allotment, Error> {
        for block in &blocks {
            self.keep_block(block, &mut plan.avoid).await?;
        }
        self.open_window(plan).await
    }

    /// Stores an INode's stream on full sets of peers, then moves the head to it.
    pub(crate) async fn store(
        &self,
        inode: INodeRef,
        stream: Bytes,
        head: Head,
    ) -> Result<(), Error> {
        let block_size = self.pool.block_size() as usize;
        for index in 0..stream.len().div_ceil(block_size) {
            let start = index * block_size;
            let data = stream.slice(start..stream.len().min(start + block_size));
            let block = inode_block(inode, BlockIndex(index as u64));
            let seal = Seal::of(&data);
            let content = BlockContent { block, peers: Vec::new(), seal, data: vec![data] };
            self.keep_block(&content, &mut BTreeSet::new()).await?;
        }
        self.commit_head(head).await
    }

    /// Reads an object of a checkpoint: waits for peers that do not answer, and looks again for what
    /// may be on its way between two.
    pub(crate) async fn load(&self, place: ObjectRef) -> Result<Bytes, LoadError> {
        let loader = self.loader();
        let mut missed = 0;
        loop {
            let error = match loader.object(place).await {
                Ok(bytes) => return Ok(bytes),
                Err(error) => error,
            };
            let is_away = matches!(
                &error,
                LoadError::Read {
                    source: PoolError::Unavailable { .. } | PoolError::Silent { .. },
                    ..
                }
            );
            missed += u32::from(!is_away);
            if missed > MISSES {
                return Err(error);
            }
            tracing::warn!(volume = %self.identity.volume, %error, "a part of the map is waited for");
            tokio::time::sleep(RETRY).await;
        }
    }

    pub(crate) fn loader(&self) -> Loader {
        Loader { pool: Arc::clone(&self.pool) }
    }

    /// The volume's own blocks that a checkpoint needs, with their lengths.
    pub(crate) async fn blocks(&self, head: &Head) -> Result<BTreeMap<BlockRef, u64>, LoadError> {
        self.loader().blocks(head, self.identity.volume).await
    }

    /// Takes snapshots of the head, one after another.
    pub(crate) async fn snapshots(&self, commands: Vec<Command>) -> Vec<Result<SnapshotId, Error>> {
        let mut taken = Vec::new();
        for command in commands {
            taken.push(match self.execute(command).await {
                Ok(Outcome::Snapshot(id)) => Ok(id),
                Ok(other) => unreachable!("CommitSnapshot answered {other:?}"),
                Err(error) => Err(error),
            });
        }
        taken
    }

    /// Puts a command through whose outcome says nothing more.
    pub(crate) async fn tell(&self, command: Command) -> Result<(), Error> {
        self.execute(command).await.map(|_| ())
    }

    /// As [`tell`](Self::tell); when it was done.
    pub(crate) async fn tell_when(&self, command: Command) -> Result<Revision, Error> {
        self.apply(command).await.map(|applied| applied.revision)
    }

    /// Deletes blocks on all peers; those that did not do it. Also where only one holds a block: a
    /// copy of it may be on its way to another.
    pub(crate) async fn free(&self, blocks: Vec<BlockRef>) -> Result<Vec<PeerId>, Error> {
        let peers = self.pool.all_peers().await.map_err(|source| Error::Peers { source })?;
        match self.pool.delete(peers, blocks, self.identity.epoch).await {
            Ok(()) => Ok(Vec::new()),
            Err(CutOff::Lost { failed }) => Ok(failed),
            Err(CutOff::Fenced { newest }) => Err(Error::TakenOver { newest }),
        }
    }

    /// Reserves INode indexes for generations and checkpoints.
    pub(crate) async fn reserve_inodes(&self, count: u64) -> Result<Vec<INodeIndex>, Error> {
        let Identity { volume, epoch, .. } = self.identity;
        match self.execute(Command::ReserveINodes { volume, epoch, count }).await? {
            Outcome::INode(first) => Ok((first.0..first.0 + count).map(INodeIndex).collect()),
            other => unreachable!("ReserveINodes answered {other:?}"),
        }
    }

    pub(crate) async fn commit_head(&self, head: Head) -> Result<(), Error> {
        let volume = self.identity.volume;
        match self.execute(Command::CommitHead { volume, head: head.clone() }).await {
            // An earlier attempt, whose answer was lost, may have been the one that counted.
            Err(Error::Refused(Refusal::HeadOrder))
                if self.state().await?.head.as_ref() == Some(&head) =>
            {
                Ok(())
            }
            result => result.map(|_| ()),
        }
    }

    /// Closes in order: the head moves behind all windows, so that the next opener has nothing to
    /// recover, and the lock is freed. `is_clean`: nothing is left to reclaim.
    pub(crate) async fn release(
        &self,
        head: &Head,
        window_end: BlockIndex,
        is_clean: bool,
    ) -> Result<(), Error> {
        let Identity { volume, inode, epoch, .. } = self.identity;
        let position = LogPosition { inode, block: window_end, offset: 0 };
        self.commit_head(Head { position, epoch, ..head.clone() }).await?;
        self.tell(Command::UnlockVolume { volume, epoch, is_clean }).await
    }

    /// The volume as the metadata has it.
    pub(crate) async fn state(&self) -> Result<Volume, Error> {
        let query = Query::VolumeById(self.identity.volume);
        loop {
            match self.meta.query(query.clone()).await {
                Ok(Answer::Volume { volume: Some(volume), .. }) => return Ok(volume),
                Ok(Answer::Volume { volume: None, .. }) => {
                    return Err(Error::Refused(Refusal::NoSuchVolumeId {
                        id: self.identity.volume,
                    }));
                }
                Ok(other) => unreachable!("VolumeById answered {other:?}"),
                Err(error) => self.wait_for_metadata(&error).await,
            }
        }
    }

    async fn place(&self, avoid: &mut BTreeSet<PeerId>) -> Placement {
        loop {
            match self.pool.place_now().await {
                Ok(mut placement) => {
                    placement.copies = self.copies;
                    placement.excluded.extend(avoid.iter().copied());
                    placement.excluded.sort_unstable();
                    placement.excluded.dedup();
                    return placement;
                }
                Err(error) => {
                    tracing::warn!(volume = %self.identity.volume, %error, "writes wait for peers");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// The peers of each block of a window; `None` while one has too few.
    async fn peers_of_window(
        &self,
        first: BlockIndex,
        placement: &Placement,
    ) -> Option<Vec<Vec<PeerId>>> {
        let Identity { volume, inode, .. } = self.identity;
        let mut all = Vec::new();
        for index in first.0..first.0 + self.window_blocks {
            let index = BlockIndex(index);
            let block = BlockRef { volume, kind: BlockKind::Data, inode, index };
            all.push(self.enough_peers_of(block, placement).await?);
        }
        Some(all)
    }

    async fn enough_peers_of(&self, block: BlockRef, placement: &Placement) -> Option<Vec<PeerId>> {
        match self.pool.peers_of(block, placement.clone()).await {
            Ok(peers) if peers.len() >= self.min_replicas().max(1) => Some(peers),
            Ok(peers) => {
                let needed = self.min_replicas();
                tracing::warn!(found = peers.len(), needed, "writes wait: too few peers answer");
                None
            }
            Err(error) => {
                tracing::warn!(%error, "writes wait for peers");
                None
            }
        }
    }

    /// Whether the window was committed; else it is to be placed anew.
    async fn commit_window(&self, plan: &WindowPlan, placement: Placement) -> Result<bool, Error> {
        let Identity { volume, inode, epoch, .. } = self.identity;
        let after = plan.after.map(|(block, offset)| LogPosition { inode, block, offset });
        let window = Window {
            epoch,
            inode,
            ring: RingVersion(placement.ring),
            excluded: placement.excluded.into_iter().collect(),
            first: plan.first,
            count: self.window_blocks,
            after,
        };
        match self.execute(Command::CommitWindow { volume, window: window.clone() }).await {
            Ok(_) => Ok(true),
            Err(Error::Refused(Refusal::NoSuchRing(_))) => Ok(false),
            // An earlier attempt, whose answer was lost, may have been the one that counted.
            Err(Error::Refused(Refusal::WindowOrder))
                if self.state().await?.windows.last() == Some(&window) =>
            {
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }

    /// Seals a block on a full set of peers, or on as many as there are if they are enough. Peers
    /// that fail are added to `avoid`; before fewer copies are accepted, those in it are tried once
    /// more, as they may have come back.
    async fn keep_block(
        &self,
        block: &BlockContent,
        avoid: &mut BTreeSet<PeerId>,
    ) -> Result<(), Error> {
        let mut tried_again = false;
        loop {
            let placement = self.place(avoid).await;
            let wanted = self.enough_peers_of(block.block, &placement).await;
            let full = wanted.as_ref().is_some_and(|w| w.len() >= self.pool.replication() as usize);
            if !full && !avoid.is_empty() && !tried_again {
                tried_again = true;
                avoid.clear();
                continue;
            }
            let Some(mut wanted) = wanted else {
                tried_again = false;
                avoid.clear();
                tokio::time::sleep(RETRY).await;
                continue;
            };
            // Those that hold it already keep it, also where the ring has changed meanwhile.
            let holders = block.peers.iter().filter(|peer| !placement.excluded.contains(peer));
            wanted.extend(holders);
            wanted.sort_unstable();
            wanted.dedup();
            let failed = self.seal_on(block, &wanted).await?;
            if failed.is_empty() {
                return Ok(());
            }
            avoid.extend(failed);
        }
    }

    /// Seals a block on all of `wanted`; those that did not have it whole get it whole. Returns
    /// those that failed.
    pub(crate) async fn seal_on(
        &self,
        block: &BlockContent,
        wanted: &[PeerId],
    ) -> Result<Vec<PeerId>, Error> {
        let (holders, mut without): (Vec<_>, Vec<_>) =
            wanted.iter().copied().partition(|peer| block.peers.contains(peer));
        let epoch = self.identity.epoch;
        if !holders.is_empty() {
            match self.pool.seal(holders, block.block, epoch, block.seal).await {
                Ok(()) => {}
                Err(CutOff::Lost { failed }) => without.extend(failed),
                Err(CutOff::Fenced { newest }) => return Err(Error::TakenOver { newest }),
            }
        }
        if without.is_empty() {
            return Ok(Vec::new());
        }
        let data = Bytes::from(block.data.concat());
        match self.pool.put(without, block.block, epoch, data).await {
            Ok(()) => Ok(Vec::new()),
            Err(CutOff::Lost { failed }) => Ok(failed),
            Err(CutOff::Fenced { newest }) => Err(Error::TakenOver { newest }),
        }
    }

    /// Puts a command through, waiting out failures of the service and of the session.
    async fn execute(&self, command: Command) -> Result<Outcome, Error> {
        self.apply(command).await.map(|applied| applied.outcome)
    }

    async fn apply(&self, command: Command) -> Result<Applied, Error> {
        loop {
            match self.meta.execute_until_answered(command.clone()).await {
                Ok(applied) => return Ok(applied),
                // The session ended while the service was away; its keeper takes the lock again.
                Err(MetadataError::Refused(Refusal::NotLocked { .. })) => {
                    tokio::time::sleep(RETRY).await;
                }
                Err(MetadataError::Refused(Refusal::StaleEpoch { current, .. })) => {
                    return Err(Error::TakenOver { newest: current });
                }
                Err(MetadataError::Refused(refusal)) => return Err(Error::Refused(refusal)),
                Err(error) => self.wait_for_metadata(&error).await,
            }
        }
    }

    async fn wait_for_metadata(&self, error: &MetadataError) {
        tracing::warn!(volume = %self.identity.volume, %error, "waiting for the metadata service");
        tokio::time::sleep(RETRY).await;
    }
}
