//! Mends single copies: those that failed a check, and those that a crash left unsettled.

use std::collections::BTreeMap;

use bytes::Bytes;
use torus_blockstore::{BlockRef, BlockState, Epoch, PeerId, Seal};

use super::driver::Surroundings;
use super::pass::ask_states;
use super::plan::Known;
use crate::{Request, Response};

impl Surroundings {
    /// All registered peers but this one.
    pub(super) fn others(&self) -> Vec<PeerId> {
        let view = self.view.borrow();
        let peers = view.peers.iter().flat_map(BTreeMap::keys);
        peers.copied().filter(|&peer| peer != self.me).collect()
    }
}

/// Looks at a local copy, and mends it if it is bad or unsettled.
pub(super) async fn repair(around: &Surroundings, block: BlockRef) {
    let is_good = around.on_store(move |keeper| keeper.is_good(block)).await;
    let seal = match around.keeper.store().state(block) {
        Some(BlockState::Sealed(seal)) if is_good != Some(true) => Some(seal),
        Some(BlockState::Unsettled) => None,
        _ => return,
    };
    let questions = around.others().into_iter().map(|peer| (peer, vec![block]));
    let known = ask_states(around, questions.collect()).await.remove(&block).unwrap_or_default();
    let Some(seal) = seal else {
        settle(around, block, &known).await;
        return;
    };
    tracing::warn!(%block, "the copy here is corrupt");
    for (&source, _) in known.iter().filter(|(_, known)| **known == Known::Sealed(seal)) {
        if replace(around, block, seal, source).await {
            tracing::info!(%block, %source, "the copy here is good again");
            return;
        }
    }
    tracing::warn!(%block, "no peer that answers has a good copy");
}

/// Settles a local copy by what others know of the block; whether it is sealed now.
pub(super) async fn settle(
    around: &Surroundings,
    block: BlockRef,
    known: &BTreeMap<PeerId, Known>,
) -> bool {
    for (&source, &known) in known {
        let Known::Sealed(seal) = known else { continue };
        let told = Request::Seal { block, epoch: Epoch(0), seal };
        if around.peers.request(around.me, told).await.is_ok()
            || replace(around, block, seal, source).await
        {
            return true;
        }
    }
    false
}

/// Puts the copy of `source` in the place of the local one; whether it is good now.
async fn replace(around: &Surroundings, block: BlockRef, seal: Seal, source: PeerId) -> bool {
    let Some(data) = fetch(around, source, block, seal).await else { return false };
    let put = Request::Put { block, epoch: Epoch(0), data };
    around.peers.request(around.me, put).await.is_ok()
}

/// The content of a peer's copy, if it is sealed with `seal` and good.
pub(super) async fn fetch(
    around: &Surroundings,
    peer: PeerId,
    block: BlockRef,
    seal: Seal,
) -> Option<Bytes> {
    match around.peers.request(peer, Request::Fetch { block }).await {
        Ok(Response::Fetched(Some((BlockState::Sealed(found), data))))
            if found == seal && Seal::of(&data) == seal =>
        {
            Some(data)
        }
        _ => None,
    }
}
