//! The dropping of misplaced copies, the one step that cannot be taken back.
//!
//! A copy goes when all of this is so, in this order: no open window names this peer for it, by a
//! reading of the metadata that is younger than the look at the block; every place of the present
//! ring has just read its own copy and found the same content, on its disk, and follows the same
//! ring; and this peer still follows it.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::join_all;
use torus_blockstore::{BlockRef, BlockState, PeerId};
use torus_metadata::{Answer, Query};

use super::pass::{Held, Pass};
use super::pins::Pins;
use crate::{Placer, Request, Response, StateQuery};

/// Bytes of blocks whose content another peer verifies for one request, well within its time.
const VERIFIED: u64 = 16 << 20;

impl Pass<'_> {
    /// Drops the blocks that no window names here, after their places have confirmed once more that
    /// they hold them, read the content, and follow the same ring.
    pub(super) async fn drop_misplaced(&mut self, held: Vec<Held>) {
        if held.is_empty() {
            return;
        }
        // Read after the blocks were listed: whatever window they belong to is in it.
        let Some(pins) = self.read_pins().await else {
            self.outcome.left += held.len() as u64;
            return;
        };
        let mut free = Vec::new();
        for held in held {
            if self.is_pinned(&pins, &held.block).await {
                self.outcome.held_back += 1;
            } else {
                free.push(held);
            }
        }
        let block_size = u64::from(self.around.keeper.store().geometry().block_size);
        let at_once = usize::try_from(VERIFIED / block_size).unwrap_or(1).clamp(1, 32);
        for chunk in free.chunks(at_once) {
            let dropped = self.confirm_and_drop(chunk).await;
            self.outcome.has_moved |= dropped > 0;
            self.outcome.left += chunk.len() as u64 - dropped;
        }
    }

    /// Whether an open window names this peer for the block, or that cannot be known.
    async fn is_pinned(&self, pins: &Pins, block: &BlockRef) -> bool {
        if !pins.is_known(block.volume) {
            return true;
        }
        for window in pins.windows_of(block) {
            let ring = if window.ring == self.ring.version() {
                Arc::clone(&self.ring)
            } else {
                let query = Query::Ring(Some(window.ring));
                match self.around.metadata.query(query).await {
                    Ok(Answer::Ring { ring: Some(ring), .. }) => Arc::new(Placer::new(&ring)),
                    _ => return true,
                }
            };
            let places = pins.places(&ring, block, &window.excluded);
            if places.is_none_or(|places| places.contains(&self.around.me)) {
                return true;
            }
        }
        false
    }

    /// How many of the blocks were dropped.
    async fn confirm_and_drop(&self, chunk: &[Held]) -> u64 {
        let mut questions: BTreeMap<PeerId, Vec<BlockRef>> = BTreeMap::new();
        for held in chunk {
            for &peer in &held.desired {
                questions.entry(peer).or_default().push(held.block);
            }
        }
        let version = self.ring.version();
        let answers = join_all(questions.into_iter().map(|(peer, blocks)| {
            let query = StateQuery { blocks: blocks.clone(), verify: true, ring: Some(version) };
            let answer = self.around.peers.request(peer, Request::State(query));
            async move { (peer, blocks, answer.await) }
        }));
        let mut confirmed = BTreeMap::new();
        for (peer, blocks, answer) in answers.await {
            let Ok(Response::States(states)) = answer else { continue };
            for (block, state) in blocks.into_iter().zip(states) {
                if let Some(BlockState::Sealed(seal)) = state {
                    confirmed.insert((block, peer), seal);
                }
            }
        }
        let is_confirmed = |held: &&Held| {
            let by = |&peer: &PeerId| confirmed.get(&(held.block, peer)) == Some(&held.seal);
            held.desired.iter().all(by)
        };
        let blocks: Vec<BlockRef> =
            chunk.iter().filter(is_confirmed).map(|held| held.block).collect();
        let dropped = self.around.on_store(move |keeper| {
            let mut dropped = 0;
            for block in blocks {
                dropped += u64::from(keeper.drop_misplaced(block, version)?);
            }
            keeper.sync().map(|()| dropped)
        });
        dropped.await.and_then(Result::ok).unwrap_or(0)
    }
}
