//! The blocks of the cluster as volumes use them: [`BlockPool`] over peers and the ring.
//!
//! It keeps no lock while it waits for anybody, and depends on the metadata service only for rings
//! that it has not seen yet: reads, writes and flushes go on while the service is away.

mod place;
mod read;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use torus_blockstore::{
    Append, BlockPool, BlockRef, BlockState, ByteRange, CutOff, Epoch, PeerId, Placement,
    PoolError, Seal, VolumeId,
};
use torus_metadata::{Answer, MetadataService, Query, RingVersion};

use crate::lock::lock;
use crate::protocol::BATCH_BLOCKS;
use crate::write::{Event, ReplicatedWrite};
use crate::{PeerError, Peers, Placer, Refusal, Request, Response, View};

/// How long a placement waits for the first word of a peer that nobody has reached yet, and of the
/// metadata service.
const FIRST_WORD: Duration = Duration::from_secs(3);

/// How often the log says that a peer fails requests.
const QUIET: Duration = Duration::from_secs(10);

/// Where the answers of a replicated operation come from.
type Answers = FuturesUnordered<BoxFuture<'static, (PeerId, Result<Response, PeerError>)>>;

/// Stores and finds blocks on the peers of the ring.
#[derive(Clone)]
pub struct Distributor {
    shared: Arc<Shared>,
}

struct Shared {
    block_size: u32,
    metadata: Arc<dyn MetadataService>,
    peers: Arc<dyn Peers>,
    view: watch::Receiver<View>,
    /// Rings that open windows name and the view is past.
    rings: Mutex<BTreeMap<RingVersion, Arc<Placer>>>,
    /// Until when a peer is passed over.
    ailing: Mutex<BTreeMap<PeerId, Instant>>,
    /// When the log last said that a peer failed something.
    complaints: Mutex<BTreeMap<PeerId, Instant>>,
}

impl Distributor {
    /// A pool of blocks of `block_size` bytes, over `peers` and the rings of `view`.
    pub fn new(
        block_size: u32,
        metadata: Arc<dyn MetadataService>,
        peers: Arc<dyn Peers>,
        view: watch::Receiver<View>,
    ) -> Self {
        let shared = Shared {
            block_size,
            metadata,
            peers,
            view,
            rings: Mutex::default(),
            ailing: Mutex::default(),
            complaints: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The peers behind it.
    pub fn peers(&self) -> &Arc<dyn Peers> {
        &self.shared.peers
    }

    /// Whether peers answer, and whenever that changes.
    pub fn health(&self) -> watch::Receiver<crate::HealthMap> {
        self.shared.peers.health()
    }

    /// Sends every peer, in this order, the request for its place in it, at once.
    fn send_all(&self, peers: &[PeerId], request: impl Fn(usize) -> Request) -> Answers {
        let send = |(index, &peer): (usize, &PeerId)| {
            let answer = self.shared.peers.request(peer, request(index));
            answer.map(move |answer| (peer, answer)).boxed()
        };
        peers.iter().enumerate().map(send).collect()
    }

    /// Sends requests to one peer, each when the one before was answered, the first at once; ends
    /// with the first that fails.
    fn ask_all(
        &self,
        peer: PeerId,
        requests: Arc<[Request]>,
    ) -> BoxFuture<'static, (PeerId, Result<Response, PeerError>)> {
        let peers = Arc::clone(&self.shared.peers);
        let mut sent = requests.first().map(|first| peers.request(peer, first.clone()));
        async move {
            for next in 1..=requests.len() {
                let Some(answer) = sent.take() else { break };
                if let Err(error) = answer.await {
                    return (peer, Err(error));
                }
                sent = requests.get(next).map(|request| peers.request(peer, request.clone()));
            }
            (peer, Ok(Response::Done))
        }
        .boxed()
    }

    /// Sends to all of `peers` and waits for them.
    fn replicate(
        &self,
        peers: Vec<PeerId>,
        request: impl Fn(usize) -> Request,
        patience: Patience,
    ) -> BoxFuture<'static, Result<(), CutOff>> {
        let answers = self.send_all(&peers, request);
        let shared = Arc::clone(&self.shared);
        async move { shared.collect(ReplicatedWrite::new(peers), answers, patience).await }.boxed()
    }
}

/// Whether a failed peer ends the wait for the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Patience {
    /// The caller goes on without the failed peer, the sooner the better.
    UntilFailure,
    /// The caller needs to know of each peer.
    UntilAll,
}

impl Shared {
    async fn collect(
        &self,
        mut write: ReplicatedWrite,
        mut answers: Answers,
        patience: Patience,
    ) -> Result<(), CutOff> {
        loop {
            let answer = if write.is_cut_off() && patience == Patience::UntilFailure {
                answers.next().now_or_never().flatten()
            } else {
                answers.next().await
            };
            let event = match answer {
                Some((peer, answer)) => self.judge(peer, answer),
                None => Event::Enough,
            };
            if let Some(outcome) = write.step(event) {
                return outcome;
            }
        }
    }

    /// What an answer to a replicated operation means.
    fn judge(&self, peer: PeerId, answer: Result<Response, PeerError>) -> Event {
        match answer {
            Ok(_) => Event::Done(peer),
            Err(PeerError::Refused(Refusal::Fenced { newest })) => Event::Fenced(peer, newest),
            Err(error) => {
                // Of silence the link says why.
                let is_known =
                    matches!(error, PeerError::Silent | PeerError::Refused(Refusal::ShuttingDown));
                if !is_known && self.complains(peer) {
                    tracing::warn!(%peer, %error, "a peer failed a request");
                } else {
                    tracing::debug!(%peer, %error, "a peer failed a request");
                }
                self.note_failure(peer, &error);
                Event::Failed(peer)
            }
        }
    }

    /// Whether it is time to say again that a peer fails requests: many are under way at once.
    fn complains(&self, peer: PeerId) -> bool {
        let now = Instant::now();
        let mut complaints = lock(&self.complaints);
        let is_new = complaints.get(&peer).is_none_or(|&last| last + QUIET <= now);
        if is_new {
            complaints.insert(peer, now);
        }
        is_new
    }

    /// The present ring, waited for if this process has not read it yet.
    async fn ring(&self) -> Option<Arc<Placer>> {
        let mut view = self.view.clone();
        let ring = async {
            let view = view.wait_for(|view| view.ring.is_some()).await;
            view.ok().and_then(|view| view.ring.clone())
        };
        timeout(FIRST_WORD, ring).await.ok().flatten()
    }

    /// A ring that was current at some time.
    async fn ring_of(&self, version: RingVersion) -> Result<Arc<Placer>, PoolError> {
        let current = self.view.borrow().ring.clone();
        if let Some(ring) = current.filter(|ring| ring.version() == version) {
            return Ok(ring);
        }
        if let Some(ring) = lock(&self.rings).get(&version) {
            return Ok(Arc::clone(ring));
        }
        let answer = self.metadata.query(Query::Ring(Some(version))).await;
        let Ok(Answer::Ring { ring: Some(ring), .. }) = answer else {
            return Err(PoolError::UnknownRing { version: version.0 });
        };
        let placer = Arc::new(Placer::new(&ring));
        lock(&self.rings).insert(version, Arc::clone(&placer));
        Ok(placer)
    }
}

impl BlockPool for Distributor {
    fn block_size(&self) -> u32 {
        self.shared.block_size
    }

    fn replication(&self) -> u32 {
        let view = self.shared.view.borrow();
        view.ring.as_ref().map_or(0, |ring| ring.ring().replication)
    }

    fn place_now(&self) -> BoxFuture<'static, Result<Placement, PoolError>> {
        let shared = Arc::clone(&self.shared);
        async move { shared.place_now().await }.boxed()
    }

    fn peers_of(
        &self,
        block: BlockRef,
        placement: Placement,
    ) -> BoxFuture<'static, Result<Vec<PeerId>, PoolError>> {
        let shared = Arc::clone(&self.shared);
        async move {
            let ring = shared.ring_of(RingVersion(placement.ring)).await?;
            let excluded: BTreeSet<PeerId> = placement.excluded.into_iter().collect();
            Ok(ring.places(&block, &excluded, placement.copies))
        }
        .boxed()
    }

    fn all_peers(&self) -> BoxFuture<'static, Result<Vec<PeerId>, PoolError>> {
        let mut view = self.shared.view.clone();
        async move {
            let known = timeout(FIRST_WORD, view.wait_for(|view| view.peers.is_some())).await;
            let known = known.ok().and_then(Result::ok);
            let peers = known.as_ref().and_then(|view| view.peers.as_ref());
            let all = peers.map(|peers| peers.keys().copied().collect());
            all.ok_or(PoolError::UnknownRing { version: 0 })
        }
        .boxed()
    }

    fn append(&self, peers: Vec<PeerId>, append: Append) -> BoxFuture<'static, Result<(), CutOff>> {
        // Readers ask a block's first place first: one copy of it is in memory, not all.
        let request = |index| Request::Append(Append { past_cache: index > 0, ..append.clone() });
        self.replicate(peers, request, Patience::UntilFailure)
    }

    fn seal(
        &self,
        peers: Vec<PeerId>,
        block: BlockRef,
        epoch: Epoch,
        seal: Seal,
    ) -> BoxFuture<'static, Result<(), CutOff>> {
        self.replicate(peers, |_| Request::Seal { block, epoch, seal }, Patience::UntilAll)
    }

    fn read(
        &self,
        block: BlockRef,
        ranges: Vec<ByteRange>,
        hint: Vec<PeerId>,
        avoid: Vec<PeerId>,
    ) -> BoxFuture<'static, Result<(PeerId, Bytes), PoolError>> {
        read::read(&self.shared, block, ranges, hint, avoid)
    }

    fn fetch(
        &self,
        peer: PeerId,
        block: BlockRef,
    ) -> BoxFuture<'static, Result<Option<(BlockState, Bytes)>, PoolError>> {
        let answer = self.shared.peers.request(peer, Request::Fetch { block });
        async move {
            match answer.await {
                Ok(Response::Fetched(copy)) => Ok(copy),
                other => Err(explain(peer, other)),
            }
        }
        .boxed()
    }

    fn fence(
        &self,
        peer: PeerId,
        volume: VolumeId,
        epoch: Epoch,
    ) -> BoxFuture<'static, Result<Epoch, PoolError>> {
        let answer = self.shared.peers.request(peer, Request::Fence { volume, epoch });
        async move {
            match answer.await {
                Ok(Response::Newest(newest)) => Ok(newest),
                other => Err(explain(peer, other)),
            }
        }
        .boxed()
    }

    fn put(
        &self,
        peers: Vec<PeerId>,
        block: BlockRef,
        epoch: Epoch,
        data: Bytes,
    ) -> BoxFuture<'static, Result<(), CutOff>> {
        let request = |_| Request::Put { block, epoch, data: data.clone() };
        self.replicate(peers, request, Patience::UntilAll)
    }

    fn delete(
        &self,
        peers: Vec<PeerId>,
        blocks: Vec<BlockRef>,
        epoch: Epoch,
    ) -> BoxFuture<'static, Result<(), CutOff>> {
        let batches: Arc<[Request]> = blocks
            .chunks(BATCH_BLOCKS)
            .map(|blocks| Request::Delete { epoch, blocks: blocks.to_vec() })
            .collect();
        let answers = peers.iter().map(|&peer| self.ask_all(peer, Arc::clone(&batches))).collect();
        let shared = Arc::clone(&self.shared);
        async move {
            shared.collect(ReplicatedWrite::new(peers), answers, Patience::UntilAll).await
        }
        .boxed()
    }

    fn list(
        &self,
        peer: PeerId,
        volume: VolumeId,
        after: Option<BlockRef>,
    ) -> BoxFuture<'static, Result<Vec<(BlockRef, BlockState)>, PoolError>> {
        #[expect(clippy::cast_possible_truncation, reason = "a small constant")]
        let limit = BATCH_BLOCKS as u32;
        let request = Request::List { volume: Some(volume), after, limit };
        let answer = self.shared.peers.request(peer, request);
        async move {
            match answer.await {
                Ok(Response::Blocks(blocks)) => Ok(blocks),
                other => Err(explain(peer, other)),
            }
        }
        .boxed()
    }

    fn room(&self) -> u64 {
        self.shared.room()
    }

    fn suspect(&self, peer: PeerId, block: BlockRef) {
        // It is on its way; whether it arrives matters to nobody here.
        drop(self.shared.peers.request(peer, Request::Suspect { block }));
    }
}

/// The pool's error for an answer that is not the one asked for.
fn explain(peer: PeerId, answer: Result<Response, PeerError>) -> PoolError {
    match answer {
        Ok(_) => PoolError::Refused { peer, reason: Refusal::Invalid.to_string() },
        Err(PeerError::Refused(refusal)) => {
            PoolError::Refused { peer, reason: refusal.to_string() }
        }
        Err(PeerError::Silent | PeerError::TooSlow) => PoolError::Silent { peer },
    }
}
