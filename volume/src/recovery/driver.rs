//! Recovers a volume: fences its former writer, reads the checkpoint, and walks the log behind it.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::future::join_all;
use futures::stream::{self, FuturesUnordered, StreamExt};
use tokio::time::Instant;
use torus_blockstore::{BlockKind, BlockRef, BlockState, PeerId, Placement, PoolError, Seal};
use torus_metadata::{Head, Volume, Window};

use super::{Chain, Copy, Records, Step, best_copy, steps};
use crate::checkpoint::LoadError;
use crate::extent::Location;
use crate::log::BlockContent;
use crate::map::Map;
use crate::overlay::Overlay;
use crate::record::{ExtentKind, Header, PAGE, UNIT};
use crate::retry::RETRY;
use crate::writer::Context;
use crate::{Error, OpenError};

/// Bytes of log that are read ahead, of each copy.
const AHEAD: usize = 4 << 20;

/// What a volume holds.
pub(crate) struct Recovered {
    pub(crate) map: Map,
    /// Whether the map holds more than the checkpoint.
    pub(crate) replayed: bool,
    /// The last block of the log, when it was still open: it is to be written anew.
    pub(crate) tail: Option<Tail>,
}

/// Records of a block that is not sealed.
pub(crate) struct Tail {
    pub(crate) block: BlockRef,
    /// Those of its peers that were fenced.
    pub(crate) peers: Vec<PeerId>,
    pub(crate) headers: Vec<Header>,
    /// Content of the block.
    pub(crate) bytes: Bytes,
}

impl Tail {
    /// Queues what the records wrote, in their order.
    pub(crate) fn replay(&self, overlay: &mut Overlay) {
        for header in &self.headers {
            let mut at = (header.place.offset + header.length) as usize;
            for extent in &header.extents {
                match extent.kind {
                    ExtentKind::Zero => overlay.zero(extent.page, extent.count),
                    ExtentKind::Data => {
                        let length = (extent.count * PAGE) as usize;
                        overlay.write(extent.page, self.bytes.slice(at..at + length));
                        at += length;
                    }
                }
            }
        }
    }
}

/// A block with the peers that may hold it.
struct Located {
    step: Step,
    block: BlockRef,
    peers: Vec<PeerId>,
}

/// Whether any peer answered, and the copies that they have.
type Copies = (bool, Vec<(BlockState, Bytes)>);

/// A block of the log as it was found.
struct Found {
    block: BlockRef,
    /// Those of its peers that are fenced.
    peers: Vec<PeerId>,
    bytes: Bytes,
    records: Records,
}

/// Recovers `volume` for the opener that `context` stands for; gives up at `deadline` when peers
/// without which nothing can be said do not answer.
pub(crate) async fn recover(
    context: &Context,
    volume: &Volume,
    deadline: Instant,
) -> Result<Recovered, OpenError> {
    let Some(head) = &volume.head else {
        // The first opener commits a head before it writes: there is nothing.
        let map = Map::new(volume.id, volume.block_spec.clone());
        return Ok(Recovered { map, replayed: false, tail: None });
    };
    let recovery = Recovery { context, volume, head, deadline };
    let map = recovery.load().await?;
    recovery.replay(map).await
}

struct Recovery<'a> {
    context: &'a Context,
    volume: &'a Volume,
    head: &'a Head,
    deadline: Instant,
}

impl Recovery<'_> {
    /// The map of the head's checkpoint, with what new blocks need of it in memory.
    async fn load(&self) -> Result<Map, OpenError> {
        let loader = self.context.loader();
        let root = loop {
            match loader.root(self.head).await {
                Ok(root) => break root,
                // A block that nobody has may be on its way between two peers.
                Err(error @ LoadError::Read { .. }) => self.wait(error.into()).await?,
                Err(error) => return Err(error.into()),
            }
        };
        let spec = self.volume.block_spec.clone();
        let mut map = Map::stored(self.volume.id, spec, self.head.volume, &root);
        for (name, place) in map.take_wanted() {
            let bytes = loop {
                match loader.object(place).await {
                    Ok(bytes) => break bytes,
                    Err(error) => self.wait(error.into()).await?,
                }
            };
            let inode = place.inode;
            map.arrived(name, &bytes).ok_or(LoadError::Format { inode })?;
        }
        Ok(map)
    }

    async fn replay(&self, mut map: Map) -> Result<Recovered, OpenError> {
        let position = self.head.position;
        let mut located = Vec::new();
        for step in steps(&self.volume.windows, position.inode, position.block) {
            located.push(self.locate(step).await?);
        }
        let fenced = self.fence(&located).await?;
        let fenced = &fenced;
        let ahead = (AHEAD / self.context.pool.block_size() as usize).clamp(1, 8);
        let mut blocks = stream::iter(located)
            .map(|located| async move {
                let copies = self.copies(&located, fenced).await;
                (located, copies)
            })
            .buffered(ahead);
        let mut sealing = FuturesUnordered::new();
        let mut chain = Chain::at(position.block);
        let (mut last, mut replayed) = (None::<Found>, false);
        while let Some((located, copies)) = blocks.next().await {
            let whole = located.step.given_up;
            let found = self.find(&located, copies, chain, fenced).await?;
            let ended = found.is_none();
            let mut complete = Vec::new();
            if let Some(before) = last.take() {
                // A block with a successor was complete when the successor was begun.
                if ended && !before.records.sealed {
                    last = Some(before);
                    break;
                }
                complete.push(before);
            }
            if let Some(found) = found {
                chain = chain.behind(found.block.index, &found.records);
                if whole { complete.push(found) } else { last = Some(found) }
            }
            for found in complete {
                let seal = keep(&found, &mut map);
                replayed = true;
                sealing.push(self.seal(found, seal));
            }
            while sealing.len() >= ahead {
                sealing.next().await.transpose()?;
            }
            if ended {
                break;
            }
        }
        let tail = match last {
            Some(found) if found.records.sealed => {
                let seal = keep(&found, &mut map);
                replayed = true;
                sealing.push(self.seal(found, seal));
                None
            }
            last => last.map(|found| Tail {
                block: found.block,
                peers: found.peers,
                headers: found.records.headers,
                bytes: found.bytes,
            }),
        };
        while let Some(sealed) = sealing.next().await {
            sealed?;
        }
        Ok(Recovered { map, replayed, tail })
    }

    async fn locate(&self, step: Step) -> Result<Located, OpenError> {
        let window: &Window = &self.volume.windows[step.window];
        let placement = Placement {
            ring: window.ring.0,
            excluded: window.excluded.iter().copied().collect(),
            copies: self.context.copies,
        };
        let block = BlockRef {
            volume: self.volume.id,
            kind: BlockKind::Data,
            inode: window.inode,
            index: step.index,
        };
        loop {
            match self.context.pool.peers_of(block, placement.clone()).await {
                Ok(peers) => return Ok(Located { step, block, peers }),
                Err(source) => self.wait(Error::Read { block, source }.into()).await?,
            }
        }
    }

    /// Fences every peer that answers, until each block has one: a flush needs all peers of its
    /// block, so the former writer can flush nothing any more. Blocks that it gave up need none.
    async fn fence(&self, located: &[Located]) -> Result<BTreeSet<PeerId>, OpenError> {
        let mut fenced = BTreeSet::new();
        let all: BTreeSet<PeerId> =
            located.iter().flat_map(|located| located.peers.iter().copied()).collect();
        loop {
            self.fence_more(all.difference(&fenced).copied().collect(), &mut fenced).await?;
            let is_bare = |located: &&Located| {
                !located.step.given_up && !located.peers.iter().any(|peer| fenced.contains(peer))
            };
            let bare = located.iter().find(is_bare);
            let Some(bare) = bare else { return Ok(fenced) };
            let source = PoolError::Unavailable { block: bare.block, silent: bare.peers.clone() };
            self.wait(Error::Read { block: bare.block, source }.into()).await?;
        }
    }

    async fn fence_more(
        &self,
        peers: Vec<PeerId>,
        fenced: &mut BTreeSet<PeerId>,
    ) -> Result<(), OpenError> {
        let epoch = self.context.identity.epoch;
        let asked = peers.into_iter().map(|peer| {
            let answer = self.context.pool.fence(peer, self.volume.id, epoch);
            async move { (peer, answer.await) }
        });
        for (peer, answer) in join_all(asked).await {
            match answer {
                Ok(newest) if newest > epoch => {
                    return Err(OpenError::TakenOver { name: self.volume.name.clone() });
                }
                Ok(_) => {
                    fenced.insert(peer);
                }
                Err(error) => tracing::info!(%peer, %error, "cannot fence the peer"),
            }
        }
        Ok(())
    }

    /// What the peers have of a block: its fenced ones, or all, where its writer gave it up. Whether
    /// any answered.
    async fn copies(&self, located: &Located, fenced: &BTreeSet<PeerId>) -> Copies {
        let asked = match located.step.given_up {
            true => self.context.pool.all_peers().await.unwrap_or_default(),
            false => located.peers.iter().copied().filter(|it| fenced.contains(it)).collect(),
        };
        let asked = asked.iter().map(|peer| self.context.pool.fetch(*peer, located.block));
        let answers = join_all(asked).await;
        let answered = answers.iter().any(Result::is_ok);
        (answered, answers.into_iter().filter_map(|answer| answer.ok().flatten()).collect())
    }

    /// The best copy of a block on its fenced peers; `None`: a peer that must hold whatever was
    /// flushed of it holds nothing that continues the log. A block that its writer gave up is
    /// looked for everywhere, until a sealed copy is found.
    async fn find(
        &self,
        located: &Located,
        mut found: Copies,
        chain: Chain,
        fenced: &BTreeSet<PeerId>,
    ) -> Result<Option<Found>, OpenError> {
        let (block, step) = (located.block, &located.step);
        let limit = step.cut_at.unwrap_or(u32::MAX);
        let epoch = self.volume.windows[step.window].epoch;
        loop {
            let (answered, copies) = &found;
            let views = copies.iter().map(|(state, bytes)| Copy { state: *state, bytes });
            let best = best_copy(block, epoch, chain, limit, views.enumerate());
            let is_whole = |records: &Records| {
                records.sealed && step.cut_at.is_none_or(|length| records.length == length)
            };
            let believed = match &best {
                Some((_, records)) => !step.given_up || is_whole(records),
                None => !step.given_up,
            };
            if *answered && believed {
                let peers = located.peers.iter().copied().filter(|it| fenced.contains(it));
                return Ok(best.map(|(which, records)| Found {
                    block,
                    peers: peers.collect(),
                    bytes: copies[which].1.clone(),
                    records,
                }));
            }
            let source = PoolError::Unavailable { block, silent: located.peers.clone() };
            self.wait(Error::Read { block, source }.into()).await?;
            found = self.copies(located, fenced).await;
        }
    }

    /// Seals a complete block on its peers.
    async fn seal(&self, found: Found, seal: Seal) -> Result<(), OpenError> {
        let data = found.bytes.slice(..seal.length as usize);
        let Found { block, peers, .. } = found;
        let content = BlockContent { block, peers: peers.clone(), seal, data: vec![data] };
        loop {
            let failed = self.context.seal_on(&content, &peers).await?;
            if peers.len() - failed.len() >= self.context.min_replicas().min(peers.len()) {
                return Ok(());
            }
            let source = PoolError::Unavailable { block, silent: failed };
            self.wait(Error::Read { block, source }.into()).await?;
        }
    }

    /// Waits a little; past the deadline `error` says for what.
    async fn wait(&self, error: OpenError) -> Result<(), OpenError> {
        if Instant::now() >= self.deadline {
            return Err(error);
        }
        tracing::warn!(volume = %self.volume.name, %error, "recovery waits");
        tokio::time::sleep(RETRY).await;
        Ok(())
    }
}

/// Points the map at the pages of a complete block; what it is to be sealed with.
fn keep(found: &Found, map: &mut Map) -> Seal {
    let seal = Seal::of(&found.bytes[..found.records.length as usize]);
    let number = map.table.add(found.block.inode, found.block.index);
    map.table.sealed(number, seal);
    found.records.headers.iter().for_each(|header| apply(header, number, map));
    seal
}

/// Points the map at the pages of a record in the block with this number.
fn apply(header: &Header, number: u32, map: &mut Map) {
    let place = header.place.offset;
    let mut offset = place + header.length;
    for extent in &header.extents {
        match extent.kind {
            ExtentKind::Zero => map.set(extent.page, extent.count, None),
            ExtentKind::Data => {
                let location = Location {
                    block: number,
                    offset: (offset / UNIT) as u16,
                    header: (place / UNIT) as u16,
                };
                map.set(extent.page, extent.count, Some(location));
                offset += extent.count * PAGE;
            }
        }
    }
}
