//! One look at every local block.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::join_all;
use futures::stream::{self, StreamExt};
use tokio::time::Instant;
use torus_blockstore::{BlockRef, BlockState, Epoch, PeerId, Seal};
use torus_metadata::{Answer, Query};

use super::driver::Surroundings;
use super::pins::Pins;
use super::plan::{Known, Own, Step, Verdict, judge};
use super::repair::{fetch, settle};
use crate::{PeerError, Placer, Refusal, Request, Response, StateQuery};

/// Blocks that are looked at together.
const BATCH: usize = 512;

/// Blocks that are pushed at the same time.
const PUSHES: usize = 4;

/// What a pass left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Copies that wait for another peer, or could not be moved.
    pub(super) left: u64,
    /// Copies that stay as they are until their volume's next step: misplaced ones that are open or
    /// in an open window, unsettled ones of which nobody knows the seal, and those of volumes that
    /// are not known.
    pub(super) held_back: u64,
    /// Whether a window places blocks elsewhere than the present ring does, so that more will have
    /// to be moved.
    pub(super) is_written_elsewhere: bool,
    pub(super) has_moved: bool,
    /// The ring changed under it, or the metadata did not answer.
    pub(super) is_cut_short: bool,
}

impl Outcome {
    pub(super) fn is_unfinished(&self) -> bool {
        self.left > 0 || self.is_cut_short
    }

    /// Whether a change of a volume may let a pass do what this one could not.
    pub(super) fn waits_for_volumes(&self) -> bool {
        self.held_back > 0 || self.is_written_elsewhere
    }
}

pub(super) struct Pass<'a> {
    pub(super) around: &'a Surroundings,
    pub(super) ring: Arc<Placer>,
    pub(super) outcome: Outcome,
    began: Instant,
    bytes_before: u64,
}

/// A sealed local block with its places.
pub(super) struct Held {
    pub(super) block: BlockRef,
    pub(super) seal: Seal,
    pub(super) desired: Vec<PeerId>,
}

impl<'a> Pass<'a> {
    /// Looks at every block that this node holds, and does for it what can be done now. `volumes`
    /// are as the last pass read them: copies can be made while the metadata does not answer.
    pub(super) async fn run(around: &'a Surroundings, volumes: &mut Option<Pins>) -> Outcome {
        let Some(ring) = around.view.borrow().ring.clone() else {
            return Outcome { is_cut_short: true, ..Outcome::default() };
        };
        let bytes_before = around.keeper.progress().bytes_moved();
        let (outcome, began) = (Outcome::default(), Instant::now());
        let mut pass = Pass { around, ring, outcome, began, bytes_before };
        if let Some(read) = pass.read_pins().await {
            *volumes = Some(read);
        }
        if let Some(pins) = volumes {
            pass.all_blocks(pins).await;
        }
        let progress = around.keeper.progress();
        progress.set_unchecked(0);
        progress.set_rate(0);
        progress.set_to_move(pass.outcome.left + pass.outcome.held_back);
        pass.outcome
    }

    async fn all_blocks(&mut self, pins: &Pins) {
        let store = Arc::clone(self.around.keeper.store());
        self.outcome.is_written_elsewhere = pins.has_window_beside(self.ring.version());
        let mut unchecked = store.used_blocks();
        let mut after = None;
        loop {
            self.around.keeper.progress().set_unchecked(unchecked);
            let batch = store.list(after, BATCH);
            let Some(&(last, _)) = batch.last() else { return };
            after = Some(last);
            unchecked = unchecked.saturating_sub(batch.len() as u64);
            self.batch(batch, pins).await;
            if !self.is_current() {
                self.outcome.is_cut_short = true;
                return;
            }
        }
    }

    /// Whether the ring is still the one that this pass began with.
    fn is_current(&self) -> bool {
        let current = self.around.view.borrow().ring.as_ref().map(|ring| ring.version());
        current == Some(self.ring.version())
    }

    /// What the metadata says of the volumes now. Without an answer nothing is dropped.
    pub(super) async fn read_pins(&mut self) -> Option<Pins> {
        match self.around.metadata.query(Query::Volumes).await {
            Ok(Answer::Volumes { volumes, volumes_minted, lost, .. }) => {
                Some(Pins::new(volumes, volumes_minted, lost))
            }
            _ => {
                self.outcome.is_cut_short = true;
                None
            }
        }
    }

    async fn batch(&mut self, batch: Vec<(BlockRef, BlockState)>, pins: &Pins) {
        let (dead, living): (Vec<_>, Vec<_>) =
            batch.into_iter().partition(|(block, _)| pins.is_deleted(block.volume));
        self.drop_dead(dead.into_iter().map(|(block, _)| block).collect()).await;
        let mut held = Vec::new();
        let mut unsettled = Vec::new();
        for (block, state) in living {
            let Some(desired) = pins.places(&self.ring, &block, &BTreeSet::new()) else {
                self.outcome.held_back += 1;
                continue;
            };
            match state {
                BlockState::Sealed(seal) => held.push(Held { block, seal, desired }),
                BlockState::Unsettled => unsettled.push((block, desired)),
                BlockState::Open { .. } if desired.contains(&self.around.me) => {}
                BlockState::Open { .. } => self.outcome.held_back += 1,
            }
        }
        self.settle_own(unsettled).await;
        let known = self.ask(&held).await;
        let judged = held.into_iter().map(|held| {
            let nothing = BTreeMap::new();
            let known = known.get(&held.block).unwrap_or(&nothing);
            let verdict = judge(self.around.me, held.seal, &held.desired, known);
            (held, verdict)
        });
        self.carry_out(judged.collect()).await;
    }

    async fn drop_dead(&mut self, blocks: Vec<BlockRef>) {
        if blocks.is_empty() {
            return;
        }
        let dropped = self.around.on_store(move |keeper| {
            blocks.into_iter().try_for_each(|block| keeper.drop_deleted(block).map(drop))?;
            keeper.sync()
        });
        if dropped.await != Some(Ok(())) {
            self.outcome.left += 1;
        }
    }

    /// Settles what a crash left here, where somebody knows better.
    async fn settle_own(&mut self, unsettled: Vec<(BlockRef, Vec<PeerId>)>) {
        if unsettled.is_empty() {
            return;
        }
        let blocks: Vec<BlockRef> = unsettled.iter().map(|&(block, _)| block).collect();
        let everybody = self.around.others();
        let questions = everybody.into_iter().map(|peer| (peer, blocks.clone()));
        let known = ask_states(self.around, questions.collect()).await;
        for (block, desired) in unsettled {
            let nothing = BTreeMap::new();
            let known = known.get(&block).unwrap_or(&nothing);
            if settle(self.around, block, known).await {
                self.outcome.has_moved = true;
                // A sealed copy now, which the next pass judges.
                self.outcome.left += u64::from(!desired.contains(&self.around.me));
                continue;
            }
            let may_do_later = known.iter().any(|(peer, known)| match known {
                Known::Sealed(_) => true,
                Known::Silent => self.around.peers.is_up(*peer),
                Known::Missing | Known::Unsealed => false,
            });
            if may_do_later {
                self.outcome.left += 1;
            } else {
                self.outcome.held_back += 1;
            }
        }
    }

    /// What the other places of the blocks hold.
    async fn ask(&mut self, held: &[Held]) -> BTreeMap<BlockRef, BTreeMap<PeerId, Known>> {
        let mut questions: BTreeMap<PeerId, Vec<BlockRef>> = BTreeMap::new();
        for held in held {
            for peer in held.desired.iter().filter(|&&peer| peer != self.around.me) {
                questions.entry(*peer).or_default().push(held.block);
            }
        }
        let asked: Vec<PeerId> = questions.keys().copied().collect();
        let known = ask_states(self.around, questions).await;
        // One that is down will be noticed when it comes up; one that is slow is asked again.
        let silent: BTreeSet<PeerId> = known
            .values()
            .flatten()
            .filter_map(|(peer, known)| (*known == Known::Silent).then_some(*peer))
            .collect();
        let is_slow = |peer: &&PeerId| silent.contains(peer) && self.around.peers.is_up(**peer);
        self.outcome.left += asked.iter().filter(is_slow).count() as u64;
        known
    }

    async fn carry_out(&mut self, judged: Vec<(Held, Verdict)>) {
        let to_move = judged
            .iter()
            .map(|(_, verdict)| verdict.steps.len() as u64 + u64::from(verdict.own != Own::Keep));
        let mut to_move: u64 = to_move.sum();
        self.set_to_move(to_move);
        for (held, verdict) in &judged {
            for peer in &verdict.conflicts {
                let block = held.block;
                tracing::warn!(%block, %peer, "another peer has the block sealed otherwise");
            }
        }
        let failed = self.move_all(&judged, &mut to_move).await;
        let mut misplaced = Vec::new();
        for (held, verdict) in judged {
            match verdict.own {
                Own::Keep => {}
                Own::Drop if !failed.contains(&held.block) => misplaced.push(held),
                Own::Drop | Own::Wait => self.outcome.left += 1,
            }
        }
        self.drop_misplaced(misplaced).await;
    }

    /// Pushes and settles, several at a time; the blocks for which that failed.
    async fn move_all(
        &mut self,
        judged: &[(Held, Verdict)],
        to_move: &mut u64,
    ) -> BTreeSet<BlockRef> {
        let mut moves = Vec::new();
        for (held, verdict) in judged {
            for &step in &verdict.steps {
                moves.push(move_one(self.around.clone(), held.block, held.seal, step).boxed());
            }
        }
        let mut moves = stream::iter(moves).buffer_unordered(PUSHES);
        let mut failed = BTreeSet::new();
        while let Some((block, has_moved)) = moves.next().await {
            *to_move -= 1;
            if has_moved {
                self.outcome.has_moved = true;
            } else {
                failed.insert(block);
                self.outcome.left += 1;
            }
            self.set_to_move(*to_move);
        }
        failed
    }

    fn set_to_move(&self, in_batch: u64) {
        let progress = self.around.keeper.progress();
        progress.set_to_move(in_batch + self.outcome.left + self.outcome.held_back);
        let moved = progress.bytes_moved() - self.bytes_before;
        let millis = self.began.elapsed().max(Duration::from_millis(1)).as_millis();
        progress.set_rate(u64::try_from(u128::from(moved) * 1000 / millis).unwrap_or(u64::MAX));
    }
}

/// Asks peers for the states of blocks, each for those under its name.
pub(super) async fn ask_states(
    around: &Surroundings,
    questions: BTreeMap<PeerId, Vec<BlockRef>>,
) -> BTreeMap<BlockRef, BTreeMap<PeerId, Known>> {
    let answers = join_all(questions.into_iter().map(|(peer, blocks)| {
        let query = StateQuery { blocks: blocks.clone(), verify: false, ring: None };
        let answer = around.peers.request(peer, Request::State(query));
        async move { (peer, blocks, answer.await) }
    }));
    let mut known: BTreeMap<BlockRef, BTreeMap<PeerId, Known>> = BTreeMap::new();
    for (peer, blocks, answer) in answers.await {
        let states = match answer {
            Ok(Response::States(states)) if states.len() == blocks.len() => {
                states.into_iter().map(Known::from).collect()
            }
            _ => vec![Known::Silent; blocks.len()],
        };
        for (block, state) in blocks.into_iter().zip(states) {
            known.entry(block).or_default().insert(peer, state);
        }
    }
    known
}

/// Carries out one step; whether it succeeded.
async fn move_one(
    around: Surroundings,
    block: BlockRef,
    seal: Seal,
    step: Step,
) -> (BlockRef, bool) {
    let has_moved = match step {
        Step::Push(peer) => push(&around, block, seal, peer).await,
        Step::Settle(peer) => {
            let told = Request::Seal { block, epoch: Epoch(0), seal };
            // The copy is there already: it needs no room.
            around.peers.request(peer, told).await.is_ok() || send(&around, block, seal, peer).await
        }
    };
    (block, has_moved)
}

/// Sends a block to a peer that lacks it.
async fn push(around: &Surroundings, block: BlockRef, seal: Seal, peer: PeerId) -> bool {
    if around.peers.usage(peer).is_some_and(|usage| !usage.has_room()) {
        tracing::debug!(%block, %peer, "cannot push a block to a peer without room");
        return false;
    }
    send(around, block, seal, peer).await
}

async fn send(around: &Surroundings, block: BlockRef, seal: Seal, peer: PeerId) -> bool {
    // A copy that turns out bad here is mended first.
    let Some(data) = fetch(around, around.me, block, seal).await else {
        drop(around.peers.request(around.me, Request::Suspect { block }).await);
        return false;
    };
    let put = Request::Put { block, epoch: Epoch(0), data };
    match around.peers.request(peer, put).await {
        Ok(_) => {
            around.keeper.progress().moved(seal.length.into());
            true
        }
        Err(PeerError::Refused(Refusal::Deleted)) => {
            // The copy here is what was left over while this peer was away.
            let dropped = around.on_store(move |keeper| keeper.drop_deleted(block)).await;
            tracing::info!(%block, %peer, "the block's volume deleted it meanwhile");
            matches!(dropped, Some(Ok(_)))
        }
        Err(error) => {
            tracing::info!(%block, %peer, %error, "cannot push a block");
            false
        }
    }
}
