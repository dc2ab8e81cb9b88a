//! Mends single copies: those that failed a check, and those that a crash left unsettled.

use bytes::Bytes;
use std::collections::BTreeMap;
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

/// Verifies a local sealed copy, and replaces it if it is bad.
pub(super) async fn repair(around: &Surroundings, block: BlockRef) {
    if around.on_store(move |keeper| keeper.is_good(block)).await == Some(true) {
        return;
    }
    let Some(BlockState::Sealed(seal)) = around.keeper.store().state(block) else { return };
    tracing::warn!(%block, "the copy here is corrupt");
    let questions = around.others().into_iter().map(|peer| (peer, vec![block]));
    let known = ask_states(around, questions.collect()).await;
    for (&source, _) in
        known.get(&block).into_iter().flatten().filter(|(_, known)| **known == Known::Sealed(seal))
    {
        if replace(around, block, seal, source).await {
            tracing::info!(%block, %source, "the copy here is good again");
            return;
        }
    }
    tracing::warn!(%block, "no peer that answers has a good copy");
}

/// Settles a local copy by the seal that `source` knows; whether it is sealed now.
pub(super) async fn settle(
    around: &Surroundings,
    block: BlockRef,
    seal: Seal,
    source: PeerId,
) -> bool {
    let told = Request::Seal { block, epoch: Epoch(0), seal };
    around.peers.request(around.me, told).await.is_ok()
        || replace(around, block, seal, source).await
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
