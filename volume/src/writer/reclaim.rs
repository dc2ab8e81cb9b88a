//! Gives blocks back that the volume needs no more.
//!
//! What a checkpoint leaves out is deleted on the peers once that checkpoint is the head, no snapshot
//! may need it, and every read that may have found its place before has ended. What a deleted
//! snapshot, or a head that a restore put aside, alone needed is found by reading its block table and
//! taking away what the head and the other snapshots have. What a crashed opener or an absent peer
//! left behind is found the same way among the blocks that a peer lists. A table that cannot be read
//! stops all this: nothing is deleted because something could not be read.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;
use torus_blockstore::{BlockKind, BlockRef, INodeIndex, INodeRef, PeerId, VolumeId};
use torus_metadata::{Command, Head, LogPosition, SnapshotId, Volume as Metadata};

use super::reads::{Mark, Reading, Reads};
use super::{Context, Event, Reply, Writer};
use crate::Error;
use crate::checkpoint::{Dead, blocks_of_inode};

/// So long it takes at most until it is known how full the peers are.
const HEARSAY: Duration = Duration::from_secs(1);
/// Deletions on their way at once.
const FREEING: usize = 4;
/// A peer that could not be cleaned up is tried again after so many looks (fifteen seconds).
const RETRY_TICKS: u32 = 3;
/// All peers are looked at again after so many (an hour).
const SWEEP_TICKS: u32 = 720;

/// What is being found out: which of some blocks nobody needs.
#[derive(Clone, Debug)]
pub(super) enum Job {
    /// What only this head needed, which is no longer one.
    Retired(Head),
    /// What a peer holds of the volume.
    Sweep(PeerId),
}

/// Something came back.
pub(super) enum Step {
    /// Blocks were deleted; not on these peers.
    Freed { failed: Result<Vec<PeerId>, Error> },
    /// Blocks that a job may delete, as far as nothing needs them.
    Candidates { job: Job, blocks: Result<BTreeSet<BlockRef>, Error> },
    /// A job has come to its end.
    Done { job: Job, failed: Result<Vec<PeerId>, Error> },
    /// The peers that may hold something.
    Peers(Vec<PeerId>),
}

/// Dead blocks that wait until nobody reads them.
struct Grave {
    /// The reads that began before may need them.
    mark: Mark,
    blocks: Vec<BlockRef>,
}

pub(super) struct Reclaimer {
    volume: VolumeId,
    snapshots: BTreeMap<SnapshotId, Head>,
    retired: Vec<Head>,
    reads: Reads,
    /// What the checkpoint on its way leaves out; the head still needs it.
    buried: Vec<Grave>,
    graves: VecDeque<Grave>,
    freeing: usize,
    /// Blocks that were deleted, or are being, and may not be counted as room yet.
    freed: u64,
    /// When blocks were deleted last.
    freed_at: Option<Instant>,
    job: Option<Job>,
    /// The job's blocks are being deleted.
    is_decided: bool,
    /// What the job has found, while the table is being read.
    candidates: Option<(Job, BTreeSet<BlockRef>)>,
    /// The reads that were under way when the job began.
    job_mark: Option<Mark>,
    /// Peers that may hold what nobody needs.
    unswept: BTreeSet<PeerId>,
    /// The same, which failed lately.
    unswept_later: BTreeSet<PeerId>,
    is_retired_stuck: bool,
    /// Who waits until there is nothing more to do now.
    waiting: Vec<Reply<bool>>,
    /// Whether the peers have been asked for since they all are to be looked at.
    is_sweep_begun: bool,
    /// Whether they all were, since the volume was left as it was found.
    is_swept: bool,
    /// All peers are to be looked at once more: a peer missed a deletion, and until it is swept, what
    /// it repairs may bring blocks back to peers that restarted since; or a block died too late for
    /// the job that gives back what its snapshot needed.
    is_once_more: bool,
    round: Round,
    ticks: u32,
}

/// Which look at all peers this is, or was. One look may miss a block that the distributor moves
/// meanwhile, from a peer that is yet to list its blocks to one that has; as the block stays where it
/// came to, a second look finds it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Round {
    First,
    Second,
}

impl Reclaimer {
    pub(super) fn new(volume: &Metadata) -> Self {
        let snapshots =
            volume.snapshots.iter().map(|snapshot| (snapshot.id, snapshot.head.clone()));
        Self {
            volume: volume.id,
            snapshots: snapshots.collect(),
            retired: volume.retired.clone(),
            reads: Reads::default(),
            buried: Vec::new(),
            graves: VecDeque::new(),
            freeing: 0,
            freed: 0,
            freed_at: None,
            job: None,
            is_decided: false,
            candidates: None,
            job_mark: None,
            unswept: BTreeSet::new(),
            unswept_later: BTreeSet::new(),
            is_retired_stuck: false,
            waiting: Vec::new(),
            is_sweep_begun: volume.is_clean,
            is_swept: volume.is_clean,
            is_once_more: false,
            round: if volume.is_clean { Round::Second } else { Round::First },
            ticks: 0,
        }
    }

    /// To be held by a read until it has ended.
    pub(super) fn reader(&self) -> Reading {
        self.reads.begin()
    }

    /// Whether the peers hold nothing of the volume that it does not need, as far as is known.
    /// Retired heads are known to the metadata.
    pub(super) fn is_clean(&self) -> bool {
        let is_freed = self.freeing == 0 && self.graves.is_empty() && self.buried.is_empty();
        is_freed
            && self.job.is_none()
            && self.is_swept
            && self.unswept.is_empty()
            && self.unswept_later.is_empty()
    }

    /// `reply` hears when there is nothing more to do now, and whether nothing is left.
    pub(super) fn wait(&mut self, reply: Reply<bool>) {
        self.waiting.push(reply);
    }

    /// Whoever waits is told that the volume failed.
    pub(super) fn fail(&mut self, error: &Error) {
        for reply in self.waiting.drain(..) {
            // Whoever asked may have gone away; so too below.
            let _ = reply.send(Err(error.clone()));
        }
    }

    /// Whether there is something to do now that may give space back.
    fn is_busy(&self) -> bool {
        let is_asking_for_peers = self.is_sweep_begun && !self.is_swept;
        self.job.is_some()
            || is_asking_for_peers
            || self.freeing > 0
            || !self.graves.is_empty()
            || !self.unswept.is_empty()
            || (!self.retired.is_empty() && !self.is_retired_stuck)
    }

    /// Whether space is coming back: also what the checkpoint on its way leaves out, and what was
    /// deleted so lately that the peers may not have said so yet.
    pub(super) fn gives_back(&self) -> bool {
        let was_freed = self.freed_at.is_some_and(|at| at.elapsed() < HEARSAY);
        self.is_busy() || !self.buried.is_empty() || was_freed
    }

    /// Blocks whose space the peers are about to get back.
    pub(super) fn coming(&self) -> u64 {
        let buried = self.buried.iter().chain(&self.graves).map(|grave| grave.blocks.len() as u64);
        let was_freed = self.freed_at.is_some_and(|at| at.elapsed() < HEARSAY);
        let is_freed = self.freeing > 0 || was_freed;
        buried.sum::<u64>() + if is_freed { self.freed } else { 0 }
    }

    /// The volume is being closed: peers that missed deletions get another chance, once; everything
    /// else that is not under way is left to the next opener.
    pub(super) fn close(&mut self) {
        self.is_swept &= self.unswept.is_empty();
        self.unswept = std::mem::take(&mut self.unswept_later);
    }

    /// Whether closing waits for what is under way; not for reads, which may never end.
    pub(super) fn is_closing(&self) -> bool {
        let marks = self.graves.front().map(|grave| grave.mark).into_iter().chain(self.job_mark);
        let is_read = marks.into_iter().any(|mark| !self.reads.is_passed(mark));
        let is_asking = self.is_once_more && self.is_sweep_begun && !self.is_swept;
        let is_working = self.job.is_some() || !self.unswept.is_empty() || is_asking;
        self.freeing > 0 || (!is_read && is_working)
    }

    fn tell_waiting(&mut self) {
        if !self.is_busy() {
            let is_done = self.is_clean() && self.retired.is_empty();
            for reply in self.waiting.drain(..) {
                let _ = reply.send(Ok(is_done));
            }
        }
    }

    /// These peers failed an append: they may hold blocks that were given up before anybody else had
    /// them, which no table names.
    pub(super) fn lost(&mut self, peers: &[PeerId]) {
        self.unswept_later.extend(peers);
    }

    /// A snapshot was taken of this head.
    pub(super) fn pin(&mut self, id: SnapshotId, head: &Head) {
        self.snapshots.insert(id, head.clone());
    }

    /// Only this writer takes snapshots; others delete them. What is known here may be newer than
    /// what is said, and what is said may be of a snapshot whose commit was never answered.
    pub(super) fn metadata_changed(&mut self, volume: &Metadata) {
        let exist: BTreeSet<SnapshotId> = volume.snapshots.iter().map(|it| it.id).collect();
        let is_newer = |id: &SnapshotId| *id > volume.snapshots_minted;
        let is_gone = |id: &SnapshotId| !exist.contains(id) && !is_newer(id);
        let heads = self.snapshots.iter().filter(|(id, _)| is_gone(id)).map(|(_, head)| head);
        if heads.clone().any(|head| !volume.retired.contains(head)) {
            // What it pinned when a checkpoint left it out, no table names any more.
            self.sweep(Round::First);
        }
        self.snapshots.retain(|id, _| !is_gone(id));
        self.snapshots.extend(volume.snapshots.iter().map(|it| (it.id, it.head.clone())));
        self.retired.clone_from(&volume.retired);
    }

    /// Blocks of the log before this may be a snapshot's.
    pub(super) fn pinned(&self) -> Option<LogPosition> {
        let own = self.pinning_heads().filter(|head| head.volume == self.volume);
        own.map(|head| head.position).max()
    }

    fn pinned_inode(&self) -> Option<INodeIndex> {
        let own = self.pinning_heads().filter(|head| head.volume == self.volume);
        own.map(|head| head.inode).max()
    }

    /// A retired head pins too: its own table must be readable until it has been worked through.
    fn pinning_heads(&self) -> impl Iterator<Item = &Head> {
        self.snapshots.values().chain(&self.retired)
    }

    /// A checkpoint is prepared that leaves these out: what of them may be deleted when it is the
    /// head. The rest is found when its snapshots are deleted.
    pub(super) fn bury(&mut self, dead: &Dead, block_size: u32) {
        let (position, inode) = (self.pinned(), self.pinned_inode());
        let is_free = |block: &&BlockRef| {
            position.is_none_or(|at| (block.inode, block.index) >= (at.inode, at.block))
        };
        let mut blocks: Vec<BlockRef> = dead.blocks.iter().filter(is_free).copied().collect();
        let is_inode_free = |name: &INodeRef| inode.is_none_or(|newest| name.inode > newest);
        let are_all_free = blocks.len() == dead.blocks.len()
            && dead.inodes.iter().all(|(name, _)| is_inode_free(name));
        // The job under way took them for needed, and its head may be all that pins them.
        self.is_once_more |=
            !are_all_free && self.is_decided && matches!(self.job, Some(Job::Retired(_)));
        for (name, length) in &dead.inodes {
            if is_inode_free(name) {
                let stands_in = blocks_of_inode(*name, *length, block_size);
                blocks.extend(stands_in.map(|(block, _)| block));
            }
        }
        // Reads that begin from now on find nothing in them.
        let mark = self.reads.mark();
        self.buried.push(Grave { mark, blocks });
    }

    /// The checkpoint is the head.
    pub(super) fn committed(&mut self) {
        self.graves.extend(self.buried.drain(..));
    }

    pub(super) fn tick(&mut self) {
        self.ticks += 1;
        if self.ticks.is_multiple_of(RETRY_TICKS) {
            self.unswept.append(&mut self.unswept_later);
            self.is_sweep_begun &= self.is_swept;
            self.is_retired_stuck = false;
        }
        if self.ticks.is_multiple_of(SWEEP_TICKS) {
            (self.is_sweep_begun, self.round) = (false, Round::First);
        }
    }

    /// All peers are to be looked at.
    fn sweep(&mut self, round: Round) {
        (self.is_swept, self.is_sweep_begun, self.round) = (false, false, round);
    }

    /// A job was done: time to look at all peers once more, if that is due.
    fn job_done(&mut self) {
        let is_due = self.is_swept && (self.is_once_more || self.round == Round::First);
        if is_due && self.unswept.is_empty() && self.unswept_later.is_empty() {
            self.sweep(Round::Second);
        }
    }

    /// The first grave that nobody reads in any more; those behind it wait for it.
    fn open_grave(&mut self) -> Option<Vec<BlockRef>> {
        let front = self.graves.front()?;
        if !self.reads.is_passed(front.mark) {
            return None;
        }
        self.graves.pop_front().map(|grave| grave.blocks)
    }
}

impl Writer {
    pub(super) fn keep_reclaiming(&mut self) {
        while self.reclaimer.freeing < FREEING
            && let Some(blocks) = self.reclaimer.open_grave()
        {
            if blocks.is_empty() {
                continue;
            }
            if self.reclaimer.freeing == 0
                && self.reclaimer.freed_at.is_some_and(|at| at.elapsed() >= HEARSAY)
            {
                self.reclaimer.freed = 0;
            }
            self.reclaimer.freed += blocks.len() as u64;
            self.reclaimer.freeing += 1;
            let context = self.context.clone();
            self.push_event(async move {
                let failed = context.free(blocks).await;
                Event::Reclaimed(Step::Freed { failed })
            });
        }
        // What a recovery found is the head's only with its first checkpoint.
        if self.uncovered || self.head.epoch != self.identity.epoch {
            return;
        }
        self.decide_candidates();
        self.next_job();
        self.reclaimer.tell_waiting();
    }

    fn next_job(&mut self) {
        if self.reclaimer.job.is_some() {
            return;
        }
        let is_closing = self.closing.is_some();
        if !self.reclaimer.is_sweep_begun && (!is_closing || self.reclaimer.is_once_more) {
            self.reclaimer.is_sweep_begun = true;
            let context = self.context.clone();
            self.push_event(async move {
                let peers = context.pool.all_peers().await.unwrap_or_default();
                Event::Reclaimed(Step::Peers(peers))
            });
        }
        let is_stuck = self.reclaimer.is_retired_stuck;
        let retired = self.reclaimer.retired.first().filter(|_| !is_stuck && !is_closing);
        let job = match (retired, self.reclaimer.unswept.first()) {
            (Some(head), _) => Job::Retired(head.clone()),
            (None, Some(peer)) => Job::Sweep(*peer),
            (None, None) => return,
        };
        self.reclaimer.job = Some(job.clone());
        self.reclaimer.job_mark = Some(self.reclaimer.reads.mark());
        let (context, newest) = (self.context.clone(), self.newest_inode());
        self.push_event(async move {
            let blocks = match &job {
                Job::Retired(head) => match context.blocks(head).await {
                    Ok(blocks) => Ok(blocks.into_keys().collect()),
                    Err(error) => Err(error.into()),
                },
                Job::Sweep(peer) => list(&context, *peer, newest).await,
            };
            Event::Reclaimed(Step::Candidates { job, blocks })
        });
    }

    /// What others write in later epochs has higher INode indexes.
    fn newest_inode(&self) -> INodeIndex {
        let own_head = (self.head.volume == self.identity.volume).then_some(self.head.inode);
        let known = self.inodes.iter().copied().chain(own_head);
        known.fold(self.identity.inode, INodeIndex::max)
    }

    pub(super) fn reclaimed(&mut self, step: Step) {
        match step {
            Step::Freed { failed } => {
                self.reclaimer.freeing -= 1;
                self.reclaimer.freed_at = Some(Instant::now());
                self.note_failed(failed);
            }
            Step::Peers(peers) => {
                self.reclaimer.is_swept = !peers.is_empty();
                self.reclaimer.is_once_more = false;
                self.reclaimer.unswept.extend(peers);
            }
            Step::Candidates { job, blocks: Ok(blocks) } => {
                self.reclaimer.candidates = Some((job, blocks));
            }
            Step::Candidates { job, blocks: Err(error) } => self.job_failed(&job, &error),
            Step::Done { job, failed: Err(error) } => self.job_failed(&job, &error),
            Step::Done { job, failed: Ok(failed) } => {
                (self.reclaimer.job, self.reclaimer.is_decided) = (None, false);
                match job {
                    Job::Sweep(peer) => {
                        self.reclaimer.unswept.remove(&peer);
                        self.note_failed(Ok(failed));
                    }
                    Job::Retired(head) => {
                        self.reclaimer.retired.retain(|retired| *retired != head);
                        // What it pinned may be copied now.
                        self.collector.map_changed();
                        self.note_failed(Ok(failed));
                    }
                }
                self.reclaimer.job_done();
            }
        }
    }

    fn job_failed(&mut self, job: &Job, error: &Error) {
        tracing::info!(volume = %self.identity.volume, ?job, %error, "reclaiming waits");
        (self.reclaimer.job, self.reclaimer.is_decided) = (None, false);
        match job {
            Job::Retired(_) => self.reclaimer.is_retired_stuck = true,
            Job::Sweep(peer) => {
                self.reclaimer.unswept.remove(peer);
                self.reclaimer.unswept_later.insert(*peer);
            }
        }
    }

    /// Peers that did not delete what they were told to have something left over.
    fn note_failed(&mut self, failed: Result<Vec<PeerId>, Error>) {
        match failed {
            Ok(failed) => {
                self.reclaimer.is_once_more |= !failed.is_empty();
                self.reclaimer.unswept_later.extend(failed);
            }
            Err(error @ Error::TakenOver { .. }) => self.fail(error),
            Err(error) => {
                // What was to be deleted is found again by a sweep.
                tracing::info!(volume = %self.identity.volume, %error, "blocks are given back later");
                self.reclaimer.sweep(Round::First);
            }
        }
    }

    /// Takes away what the head needs, then what snapshots need, and deletes the rest.
    fn decide_candidates(&mut self) {
        // With a checkpoint on its way, the table lacks what only the present head still needs.
        if self.reclaimer.candidates.is_none()
            || self.checkpoint.is_some()
            || !self.map.want_table()
        {
            return;
        }
        // Reads that were under way when the job began may still go to what it is about to delete;
        // those that were when a checkpoint was prepared, to what is in graves.
        let is_read =
            self.reclaimer.job_mark.is_some_and(|mark| !self.reclaimer.reads.is_passed(mark));
        if is_read || !self.reclaimer.graves.is_empty() {
            return;
        }
        let Some((job, mut blocks)) = self.reclaimer.candidates.take() else { return };
        self.reclaimer.is_decided = true;
        for (_, entry) in self.map.table.iter() {
            blocks.remove(&entry.block);
        }
        let inodes = self.map.index().inodes();
        let is_needed = |block: &BlockRef| {
            block.kind == BlockKind::INode
                && (block.inode == self.head.inode
                    || inodes.contains_key(&INodeRef { volume: block.volume, inode: block.inode }))
        };
        blocks.retain(|block| !is_needed(block));
        let others: Vec<Head> = {
            let is_other = |head: &&Head| !matches!(&job, Job::Retired(own) if own == *head);
            self.reclaimer.pinning_heads().filter(is_other).cloned().collect()
        };
        let context = self.context.clone();
        self.push_event(async move {
            let failed = free_unneeded(&context, &job, blocks, &others).await;
            Event::Reclaimed(Step::Done { job, failed })
        });
    }
}

/// Deletes what of `blocks` none of `heads` needs.
async fn free_unneeded(
    context: &Context,
    job: &Job,
    mut blocks: BTreeSet<BlockRef>,
    heads: &[Head],
) -> Result<Vec<PeerId>, Error> {
    for head in heads {
        if blocks.is_empty() {
            break;
        }
        for block in context.blocks(head).await?.into_keys() {
            blocks.remove(&block);
        }
    }
    let count = blocks.len();
    let (inodes, data): (Vec<BlockRef>, Vec<BlockRef>) =
        blocks.into_iter().partition(|block| block.kind == BlockKind::INode);
    let mut failed = free(context, data).await?;
    if let Job::Retired(head) = job {
        // Its INodes go last: whoever comes after a crash must be able to read them, or to know
        // that they are not needed. Those that a crash leaves behind here, a sweep finds.
        let (volume, epoch) = (context.identity.volume, context.identity.epoch);
        context.tell(Command::CommitReclaimed { volume, epoch, head: head.clone() }).await?;
    }
    failed.extend(free(context, inodes).await?);
    if count > 0 {
        tracing::info!(volume = %context.identity.volume, ?job, count, "gave blocks back");
    }
    Ok(failed)
}

async fn free(context: &Context, blocks: Vec<BlockRef>) -> Result<Vec<PeerId>, Error> {
    if blocks.is_empty() { Ok(Vec::new()) } else { context.free(blocks).await }
}

/// What a peer holds of the volume, up to INode index `newest`.
async fn list(
    context: &Context,
    peer: PeerId,
    newest: INodeIndex,
) -> Result<BTreeSet<BlockRef>, Error> {
    let (mut blocks, mut after) = (BTreeSet::new(), None);
    loop {
        let listed = context.pool.list(peer, context.identity.volume, after).await;
        let listed = listed.map_err(|source| Error::List { peer, source })?;
        let Some((last, _)) = listed.last() else { return Ok(blocks) };
        after = Some(*last);
        blocks.extend(listed.into_iter().map(|(block, _)| block).filter(|it| it.inode <= newest));
    }
}
