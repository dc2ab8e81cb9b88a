//! What the writer does beside serving: windows ahead of need, mending after a lost peer,
//! checkpoints, closing.

use bytes::Bytes;
use torus_blockstore::{BlockIndex, CutOff, INodeRef};
use torus_metadata::{Head, LogPosition, SnapshotId};

use super::context::WindowPlan;
use super::{Checkpoint, Event, Reply, Writer, asks};
use crate::Error;
use crate::log::{Allotment, BlockContent};

/// INode indexes that are reserved at a time.
const INODES_AT_ONCE: u64 = 16;
/// A log is checkpointed after so many looks (ten minutes), however little was written.
const CHECKPOINT_TICKS: u32 = 120;
/// Dead blocks that are worth a checkpoint while the peers are full.
const FEW_BLOCKS: u64 = 8;
/// After so many (twenty seconds), when that gives space back.
const DEAD_TICKS: u32 = 4;

impl Writer {
    /// A peer of an open block failed: the block is sealed where it can be, and the log goes on in
    /// a new window.
    pub(super) fn cut_off(&mut self, index: BlockIndex, cut_off: CutOff) {
        let failed = match cut_off {
            CutOff::Fenced { newest } => return self.fail(Error::TakenOver { newest }),
            CutOff::Lost { failed } => failed,
        };
        if self.mending || self.failed.is_some() || !self.log.is_open(index) {
            // What has been mended since, or is being mended, fails late.
            return;
        }
        tracing::warn!(volume = %self.identity.volume, ?failed, "peers failed; going on without");
        self.reclaimer.lost(&failed);
        self.mending = true;
        let blocks = self.log.give_up_blocks(&mut self.map);
        let plan = WindowPlan {
            first: self.window_end,
            after: self.log.end(),
            avoid: failed.into_iter().collect(),
        };
        if self.window_asked {
            // The window on its way is committed first, if only to be passed over.
            self.mend_waiting = Some((blocks, plan));
        } else {
            self.mend(blocks, plan);
        }
    }

    fn mend(&self, blocks: Vec<BlockContent>, plan: WindowPlan) {
        let sealed = blocks.iter().map(|block| block.block.index).collect();
        let context = self.context.clone();
        self.push_event(async move {
            Event::Mended { sealed, result: context.mend(blocks, plan).await }
        });
    }

    /// The window that was asked for has come.
    pub(super) fn window_opened(&mut self, result: Result<Allotment, Error>) {
        self.window_asked = false;
        match (self.mend_waiting.take(), result) {
            (Some((blocks, plan)), Ok(passed_over)) => {
                self.window_end = passed_over.end();
                self.mend(blocks, WindowPlan { first: self.window_end, ..plan });
            }
            (_, result) => self.allot(result),
        }
    }

    /// Asks for the next window when half of the last is used.
    pub(super) fn keep_windows_ahead(&mut self) {
        let ahead = self.log.allotted() as u64;
        if self.mending || self.window_asked || ahead > self.context.window_blocks / 2 {
            return;
        }
        self.window_asked = true;
        let plan = WindowPlan { first: self.window_end, after: None, avoid: Default::default() };
        let context = self.context.clone();
        self.push_event(async move { Event::Window(context.open_window(plan).await) });
    }

    /// Starts a checkpoint when one is due, asked for, or needed to close; carries one on whose log
    /// has become durable.
    pub(super) fn keep_checkpoints_coming(&mut self) {
        if self.inodes.is_empty() && !self.inodes_asked {
            self.inodes_asked = true;
            let context = self.context.clone();
            self.push_event(
                async move { Event::INodes(context.reserve_inodes(INODES_AT_ONCE).await) },
            );
        }
        self.is_quiet = false;
        let behind = self.log.written() - self.checkpointed;
        let changed = behind > 0 || self.uncovered || !self.overlay.is_empty();
        let closing = self.closing.is_some() && changed;
        let due = behind >= self.checkpoint_distance()
            || self.map.table.dead_bytes() >= self.dead_limit()
            || (self.checkpoint_due && (behind > 0 || self.uncovered || self.map.has_changes()));
        let wanted = !self.checkpoint_wanted.is_empty() || self.asks.has_wanted();
        if self.checkpoint.is_none() && !self.mending && (due || closing || wanted) {
            self.start_checkpoint();
        }
        self.store_checkpoint();
    }

    /// So much log is written before a checkpoint: more where the checkpoint itself is large, as
    /// when every write dirties another leaf, but what recovery has to read stays bounded.
    fn checkpoint_distance(&self) -> u64 {
        let least = self.options.checkpoint_bytes;
        (4 * self.map.dirty_bytes()).clamp(least, 4 * least)
    }

    /// So many bytes of dead blocks are worth a checkpoint of their own.
    fn dead_limit(&self) -> u64 {
        let block_size = u64::from(self.identity.block_size);
        let stored = self.map.table.totals().own_bytes;
        let limit = (stored / 24).max(block_size * self.context.window_blocks / 8);
        if self.last_room >= self.headroom() {
            return limit;
        }
        // Each checkpoint has its price too: while there is room for as much again, it can wait.
        limit.min(self.last_room.max(FEW_BLOCKS * block_size))
    }

    /// The next checkpoint must hold everything that was accepted so far.
    pub(super) fn want_all(&mut self) {
        self.checkpoint_from = self.overlay.queued();
    }

    fn start_checkpoint(&mut self) {
        if self.closing.is_some() {
            self.want_all();
        }
        if self.overlay.taken() < self.checkpoint_from {
            self.cut(false);
        }
        // Writes that wait for a group's snapshot wait for this very checkpoint.
        let is_closing_early =
            self.closing.is_some() && !self.waiting.is_empty() && !self.asks.stands_still();
        if self.overlay.taken() < self.checkpoint_from || is_closing_early {
            return;
        }
        if !self.map.is_settled() {
            self.is_quiet = true;
            return;
        }
        let Some(next) = self.log.next_block() else { return };
        let Some(inode) = self.inodes.pop_front() else { return };
        if let Some(seal) = self.log.close_block(&mut self.map) {
            self.send(seal);
        }
        let identity = self.identity;
        let inode_ref = INodeRef { volume: identity.volume, inode };
        self.map.written.log += self.log.written() - self.checkpointed;
        let prepared = self.map.prepare(inode_ref, identity.epoch, (self.options.wall_clock)());
        let block_size = u64::from(identity.block_size);
        let head = Head {
            volume: identity.volume,
            inode,
            blocks: (prepared.stream.len() as u64).div_ceil(block_size),
            epoch: identity.epoch,
            position: LogPosition { inode: identity.inode, block: next, offset: 0 },
        };
        self.reclaimer.bury(&prepared.dead, identity.block_size);
        self.checkpoint = Some(Checkpoint {
            prepared: Some(prepared),
            head,
            size: self.size.get(),
            replies: std::mem::take(&mut self.checkpoint_wanted),
            snapshots: self.asks.take_wanted(),
        });
        self.checkpointed = self.log.written();
        self.uncovered = false;
        self.checkpoint_due = false;
        self.ticks = 0;
    }

    /// Stores the checkpoint once every block that its map points into is sealed: recovery never
    /// looks behind the head, so nobody would settle a block there.
    fn store_checkpoint(&mut self) {
        let Some(checkpoint) = &mut self.checkpoint else { return };
        // While blocks are mended, a late answer to an old seal must not move the head past them: the
        // window that says where they were cut off comes first.
        if self.mending || !self.log.is_sealed_before(checkpoint.head.position.block) {
            return;
        }
        let Some(prepared) = checkpoint.prepared.take() else { return };
        let (context, head) = (self.context.clone(), checkpoint.head.clone());
        let commands = asks::commands(&checkpoint.snapshots, &self.identity, checkpoint.size);
        self.push_event(async move {
            let stream = Bytes::from(prepared.stream);
            let stored = context.store(prepared.inode, stream, head).await;
            Event::Stored(match stored {
                Ok(()) => Ok(context.snapshots(commands).await),
                Err(error) => Err(error),
            })
        });
    }

    pub(super) fn stored(&mut self, result: Result<Vec<Result<SnapshotId, Error>>, Error>) {
        let taken = match result {
            Ok(taken) => taken,
            Err(error) => return self.fail(error),
        };
        if let Some(checkpoint) = self.checkpoint.take() {
            self.head = checkpoint.head;
            self.is_crammed = false;
            for reply in checkpoint.replies {
                // Whoever asked may have gone away.
                let _ = reply.send(Ok(()));
            }
            for (wanted, result) in checkpoint.snapshots.into_iter().zip(taken) {
                if let Ok(id) = result {
                    self.reclaimer.pin(id, &self.head);
                }
                self.snapshot_taken(wanted, result);
            }
            self.reclaimer.committed();
            self.note_checkpoint();
            self.renew_inodes();
        }
    }

    /// Has what is left of INodes that are mostly garbage stored anew with the next checkpoint.
    fn renew_inodes(&mut self) {
        let sparse = self.map.index().sparse_inodes();
        if !sparse.is_empty() && self.map.want_nodes() {
            self.map.want_anew(&sparse);
        }
    }

    /// What becomes due with time alone.
    pub(super) fn tick(&mut self) {
        self.ticks += 1;
        if self.ticks >= CHECKPOINT_TICKS || (self.map.table.has_dead() && self.ticks >= DEAD_TICKS)
        {
            self.checkpoint_due = true;
        }
        self.reclaimer.tick();
        self.collector.tick();
    }

    pub(super) fn close(&mut self, reply: Reply<()>) {
        self.closing = Some(reply);
        self.reclaimer.close();
    }

    /// Whom to tell that the volume is closed, once nothing is left to do.
    pub(super) fn closed(&mut self) -> Option<Reply<()>> {
        let idle = self.failed.is_some()
            || (self.overlay.is_empty()
                && self.waiting.is_empty()
                && !self.reading_edges
                && !self.mending
                && !self.window_asked
                && self.checkpoint.is_none()
                && !self.uncovered
                && !self.collector.is_busy()
                && !self.reclaimer.is_closing()
                && self.log.open_blocks() == 0
                && self.checkpointed == self.log.written());
        if idle { self.closing.take() } else { None }
    }
}
