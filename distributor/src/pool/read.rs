//! Reading a block from whoever has a good copy of it.
//!
//! The peers are asked one after another, the next when one has no answer or takes long. So a read
//! ends with the first good answer, and fails only after everybody who may have the block was asked.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, try_join_all};
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::time::{Instant, sleep};
use torus_blockstore::{BlockRef, ByteRange, PeerId, PoolError};

use super::{FIRST_WORD, Shared};
use crate::keeper::answer_length;
use crate::protocol::READ_RANGES;
use crate::{Health, PeerError, Peers, Refusal, Request, Response};

/// When to ask the next peer as well, although the one before may yet answer.
const HEDGE: Duration = Duration::from_secs(1);

type Answer = BoxFuture<'static, (PeerId, Result<Bytes, PeerError>)>;

/// A read under way.
struct Reading {
    shared: Arc<Shared>,
    block: BlockRef,
    ranges: Vec<ByteRange>,
    /// Who has not been asked, the best last.
    left: Vec<PeerId>,
    asked: FuturesUnordered<Answer>,
    /// Who may have the block and cannot give it.
    silent: Vec<PeerId>,
}

/// Reads `ranges` of `block`; the first request leaves at once, if the peers are known.
pub(super) fn read(
    shared: &Arc<Shared>,
    block: BlockRef,
    ranges: Vec<ByteRange>,
    hint: Vec<PeerId>,
    avoid: Vec<PeerId>,
) -> BoxFuture<'static, Result<(PeerId, Bytes), PoolError>> {
    let shared = Arc::clone(shared);
    if shared.view.borrow().peers.is_some() {
        let reading = Reading::start(shared, block, ranges, hint, avoid);
        return async move { reading.run().await }.boxed();
    }
    async move {
        let mut view = shared.view.clone();
        let known = view.wait_for(|view| view.peers.is_some());
        // Without them the hints are all there is.
        drop(tokio::time::timeout(FIRST_WORD, known).await);
        Reading::start(shared, block, ranges, hint, avoid).run().await
    }
    .boxed()
}

impl Reading {
    fn start(
        shared: Arc<Shared>,
        block: BlockRef,
        ranges: Vec<ByteRange>,
        hint: Vec<PeerId>,
        avoid: Vec<PeerId>,
    ) -> Self {
        let mut left = shared.candidates(&block, hint);
        let silent = left.extract_if(.., |peer| avoid.contains(peer)).collect();
        left.reverse();
        let asked = FuturesUnordered::new();
        let mut reading = Self { shared, block, ranges, left, asked, silent };
        reading.ask_next();
        reading
    }

    fn ask_next(&mut self) {
        if let Some(peer) = self.left.pop() {
            let answer = ask(&*self.shared.peers, peer, self.block, &self.ranges, self.limit());
            self.asked.push(answer.map(move |answer| (peer, answer)).boxed());
        }
    }

    /// Bytes that one request may ask for.
    fn limit(&self) -> u64 {
        self.shared.block_size.into()
    }

    async fn run(mut self) -> Result<(PeerId, Bytes), PoolError> {
        while !self.asked.is_empty() {
            tokio::select! {
                biased;
                Some((peer, answer)) = self.asked.next() => match answer {
                    Ok(data) => return Ok((peer, data)),
                    Err(error) => {
                        self.note(peer, &error);
                        self.ask_next();
                    }
                },
                () = sleep(HEDGE), if !self.left.is_empty() => self.ask_next(),
            }
        }
        let (block, silent) = (self.block, self.silent);
        if silent.is_empty() {
            Err(PoolError::NoSuchBlock { block })
        } else {
            Err(PoolError::Unavailable { block, silent })
        }
    }

    fn note(&mut self, peer: PeerId, error: &PeerError) {
        if *error != PeerError::Refused(Refusal::NoSuchBlock) {
            let block = self.block;
            tracing::debug!(%peer, %block, %error, "a peer could not be read from");
            self.silent.push(peer);
        }
    }
}

impl Shared {
    /// Everybody who may have the block: the hinted, then the ring's members, then whoever else is
    /// registered. Those that answer come first, and the local store before all if the block should
    /// be there.
    fn candidates(&self, block: &BlockRef, hint: Vec<PeerId>) -> Vec<PeerId> {
        let view = self.view.borrow().clone();
        let mut places = hint;
        let mut others = Vec::new();
        if let Some(ring) = view.ring {
            others = ring.permutation(block);
            places.extend(others.drain(..ring.replication().min(others.len())));
        }
        others.extend(view.peers.unwrap_or_default().into_keys());
        let local = self.peers.local().filter(|local| places.contains(local));
        let mut candidates: Vec<PeerId> = Vec::new();
        for peer in local.into_iter().chain(places).chain(others) {
            if !candidates.contains(&peer) {
                candidates.push(peer);
            }
        }
        let health = self.peers.health().borrow().clone();
        let now = Instant::now();
        candidates.sort_by_key(|&peer| match health.get(&peer) {
            Some(Health::Up { .. }) if !self.is_ailing(peer, now) => 0,
            Some(Health::Up { .. }) => 1,
            Some(Health::Unknown) => 2,
            Some(Health::Down) | None => 3,
        });
        candidates
    }
}

/// Asks one peer for all ranges, in as many requests as the limits make.
fn ask(
    peers: &dyn Peers,
    peer: PeerId,
    block: BlockRef,
    ranges: &[ByteRange],
    limit: u64,
) -> BoxFuture<'static, Result<Bytes, PeerError>> {
    let requests = split(ranges, limit).into_iter();
    let answers = requests.map(|ranges| {
        let expected = answer_length(&ranges);
        let answer = peers.request(peer, Request::Read { block, ranges });
        async move { check_length(answer.await?, expected) }
    });
    let mut answers: Vec<_> = answers.collect();
    if answers.len() == 1
        && let Some(answer) = answers.pop()
    {
        return answer.boxed();
    }
    async move {
        let parts = try_join_all(answers).await?;
        Ok(Bytes::from(parts.concat()))
    }
    .boxed()
}

fn check_length(answer: Response, expected: u64) -> Result<Bytes, PeerError> {
    match answer {
        Response::Data(data) if data.len() as u64 == expected => Ok(data),
        _ => Err(Refusal::Invalid.into()),
    }
}

/// Cuts a list of ranges into lists that one request may carry. There is at least one, which finds
/// out whether the peer has the block.
fn split(ranges: &[ByteRange], limit: u64) -> Vec<Vec<ByteRange>> {
    let mut lists = vec![Vec::new()];
    let mut bytes = 0;
    for &range in ranges {
        let length = u64::from(range.length);
        if let Some(list) = lists.last()
            && !list.is_empty()
            && (list.len() == READ_RANGES || bytes + length > limit)
        {
            lists.push(Vec::new());
            bytes = 0;
        }
        bytes += length;
        if let Some(list) = lists.last_mut() {
            list.push(range);
        }
    }
    lists
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_at_the_limits() {
        let range = |length| ByteRange { offset: 0, length };
        let lengths = |lengths: &[u32]| -> Vec<Vec<u32>> {
            let ranges: Vec<_> = lengths.iter().map(|&length| range(length)).collect();
            let lists = split(&ranges, 10).into_iter();
            lists.map(|list| list.iter().map(|range| range.length).collect()).collect()
        };
        assert_eq!(lengths(&[]), [[0_u32; 0]]);
        assert_eq!(lengths(&[4, 6, 1]), [vec![4, 6], vec![1]]);
        assert_eq!(lengths(&[99, 1]), [[99], [1]]);
        assert_eq!(split(&vec![range(0); READ_RANGES + 1], 10).len(), 2);
    }
}
