//! What the writer does beside serving: windows ahead of need, mending after a lost peer,
//! checkpoints, closing.

use bytes::Bytes;
use torus_blockstore::{BlockIndex, CutOff, INodeRef};
use torus_metadata::{Head, LogPosition};

use super::context::WindowPlan;
use super::{Checkpoint, Event, Reply, Writer};
use crate::Error;
use crate::log::{Allotment, BlockContent};

/// INode indexes that are reserved at a time.
const INODES_AT_ONCE: u64 = 16;

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
        let behind = self.log.written() - self.checkpointed;
        let changed = behind > 0 || self.uncovered || !self.overlay.is_empty();
        let closing = self.closing.is_some() && changed;
        let due = behind >= self.options.checkpoint_bytes
            || (self.checkpoint_due && (behind > 0 || self.uncovered));
        if self.checkpoint.is_none()
            && !self.mending
            && (due || closing || !self.checkpoint_wanted.is_empty())
        {
            self.start_checkpoint();
        }
        self.store_checkpoint();
    }

    fn start_checkpoint(&mut self) {
        // What a recovery found belongs to its checkpoint whole, or not at all.
        let wanted = self.closing.is_some() || !self.checkpoint_wanted.is_empty() || self.uncovered;
        if wanted {
            // All that was accepted belongs to it.
            let sends = self.log.cut(&mut self.overlay, &mut self.map, false);
            sends.into_iter().for_each(|send| self.send(send));
        }
        let uncut = wanted && (!self.overlay.is_empty() || !self.waiting.is_empty());
        let (Some(next), false) = (self.log.next_block(), uncut) else {
            return;
        };
        let Some(inode) = self.inodes.pop_front() else { return };
        if let Some(seal) = self.log.close_block(&mut self.map) {
            self.send(seal);
        }
        let identity = self.identity;
        let inode_ref = INodeRef { volume: identity.volume, inode };
        let prepared = self.stored.prepare(&mut self.map, inode_ref, identity.epoch);
        let block_size = u64::from(identity.block_size);
        let head = Head {
            inode,
            blocks: (prepared.stream.len() as u64).div_ceil(block_size),
            epoch: identity.epoch,
            position: LogPosition { inode: identity.inode, block: next, offset: 0 },
        };
        self.checkpoint = Some(Checkpoint {
            prepared: Some(prepared),
            head,
            replies: std::mem::take(&mut self.checkpoint_wanted),
        });
        self.checkpointed = self.log.written();
        self.uncovered = false;
        self.checkpoint_due = false;
    }

    /// Stores the checkpoint once every block that its map points into is sealed: recovery never
    /// looks behind the head, so nobody would settle a block there.
    fn store_checkpoint(&mut self) {
        let Some(checkpoint) = &mut self.checkpoint else { return };
        if !self.log.is_sealed_before(checkpoint.head.position.block) {
            return;
        }
        let Some(prepared) = checkpoint.prepared.take() else { return };
        let (context, head) = (self.context.clone(), checkpoint.head.clone());
        self.push_event(async move {
            let stream = Bytes::from(prepared.stream);
            Event::Stored(context.store(prepared.inode, stream, head).await)
        });
    }

    pub(super) fn stored(&mut self, result: Result<(), Error>) {
        if let Err(error) = result {
            return self.fail(error);
        }
        if let Some(checkpoint) = self.checkpoint.take() {
            self.head = checkpoint.head;
            for reply in checkpoint.replies {
                // Whoever asked may have gone away.
                let _ = reply.send(Ok(()));
            }
        }
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
                && self.log.open_blocks() == 0
                && self.checkpointed == self.log.written());
        if idle { self.closing.take() } else { None }
    }
}
