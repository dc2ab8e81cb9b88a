//! What must hold once everything is healed: volumes open and read as they should, and the copies
//! of their blocks are equal and where the ring wants them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use torus_blockstore::{BlockRef, BlockState, BlockStore, PeerId, Seal, VolumeId};
use torus_distributor::Placer;

use super::chain;
use super::chance::Chance;
use super::cluster::{Cluster, Tracked};
use super::network::millis;
use super::node::lock;
use super::oracle::{SECTOR, content};
use super::workload::{Failure, read_whole};

/// How long a volume may take to open when nothing is wrong any more: the former opener's session
/// has to end first.
const OPEN_LIMIT: Duration = Duration::from_secs(90);
/// How long anything else may take.
const STEP_LIMIT: Duration = Duration::from_secs(60);
/// How long the copies may take to their places: two periods of the daemons' own looks.
const SETTLE_LIMIT: Duration = Duration::from_secs(700);

/// Opens the volume, holds it against its history, and sees that it can be used.
pub(crate) async fn volume_serves(cluster: &Arc<Cluster>, volume: &Tracked) -> Result<(), String> {
    let tracked = volume;
    let Tracked { name, host, history, .. } = tracked;
    let chance = Chance::new(cluster.context.seed, name);
    let mut expected = None;
    for round in 0..2 {
        let began = Instant::now();
        let client = cluster.client(*host);
        let volume = loop {
            match timeout(OPEN_LIMIT, cluster.open(&client, tracked)).await {
                Ok(Ok(volume)) => break volume,
                Ok(Err(error)) if began.elapsed() >= OPEN_LIMIT => {
                    return Err(format!("{name} does not open: {}", chain(&error)));
                }
                Ok(Err(_)) => sleep(Duration::from_millis(500)).await,
                Err(_) => return Err(format!("{name} does not open")),
            }
        };
        cluster.context.trace.note("opened at last", &[round, millis(began.elapsed())]);
        let read = timeout(STEP_LIMIT, read_whole(&volume, history.sectors())).await;
        let found = match read {
            Ok(Ok(found)) => found,
            Ok(Err(Failure::Wrong(what))) => return Err(format!("{name}: {what}")),
            Ok(Err(Failure::Error(error))) => {
                return Err(format!("{name} does not read: {}", chain(&error)));
            }
            Err(_) => return Err(format!("{name} does not read")),
        };
        if expected.as_ref().is_some_and(|expected| *expected != found) {
            return Err(format!("{name} reads otherwise after it was closed and opened"));
        }
        let life = history.begin(found).map_err(|what| format!("{name}: {what}"))?;
        for _ in 0..4 {
            let first = chance.within(0..volume.size() / SECTOR / 8) * 8;
            let value = lock(&life).fresh_value();
            let span = lock(&life).issue(first, first + 8, value);
            let data = content(first, first + 8, value).into();
            step(name, "write", volume.write(first * SECTOR, data, false)).await?;
            lock(&life).accept(span);
        }
        let accepted = lock(&life).accepted();
        step(name, "flush", volume.flush()).await?;
        lock(&life).flushed(accepted)?;
        expected = Some(match timeout(STEP_LIMIT, read_whole(&volume, history.sectors())).await {
            Ok(Ok(found)) => found,
            _ => return Err(format!("{name} does not read what was just written")),
        });
        step(name, "close", volume.close()).await?;
    }
    Ok(())
}

async fn step(
    name: &str,
    what: &str,
    doing: impl Future<Output = Result<(), torus_volume::Error>>,
) -> Result<(), String> {
    match timeout(STEP_LIMIT, doing).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(format!("{name}: {what} fails: {}", chain(&error))),
        Err(_) => Err(format!("{name}: {what} takes too long")),
    }
}

/// The sealed copies of all blocks, by peer.
type Copies = BTreeMap<BlockRef, BTreeMap<PeerId, Seal>>;

fn copies(cluster: &Cluster) -> Copies {
    let mut copies = Copies::new();
    for node in &cluster.nodes {
        let Some(life) = node.life() else { continue };
        for (block, state) in life.store().list(None, usize::MAX) {
            if let BlockState::Sealed(seal) = state {
                copies.entry(block).or_default().insert(node.peer(), seal);
            }
        }
    }
    // What only a writer that died had stored, on a disk that was damaged, nobody can mend; that
    // nothing refers to it the volumes have shown by reading.
    copies.retain(|block, copies| {
        copies.iter().any(|(peer, seal)| is_good(cluster, *peer, *block, *seal))
    });
    copies
}

fn is_good(cluster: &Cluster, peer: PeerId, block: BlockRef, seal: Seal) -> bool {
    let Some(life) = cluster.nodes.iter().find(|node| node.peer() == peer).and_then(|it| it.life())
    else {
        return false;
    };
    let mut bytes = vec![0; seal.length as usize];
    life.store().read(block, 0, &mut bytes).is_ok() && Seal::of(&bytes) == seal
}

/// Waits until every sealed block has equal copies in its places and nowhere else.
pub(crate) async fn copies_settle(cluster: &Arc<Cluster>) -> Result<(), String> {
    let began = Instant::now();
    let Some(ring) = cluster.present_ring().await else { return Err("no ring".to_owned()) };
    let ring = Placer::new(&ring);
    let volumes = cluster.volumes().await.into_values().map(|volume| volume.id).collect();
    loop {
        let wrong = misplaced(cluster, &ring).or_else(|| left_over(cluster, &volumes));
        let Some(wrong) = wrong else { break };
        if began.elapsed() > SETTLE_LIMIT {
            return Err(format!("after {} s {wrong}", SETTLE_LIMIT.as_secs()));
        }
        sleep(Duration::from_secs(5)).await;
    }
    cluster.context.trace.note("settled", &[millis(began.elapsed())]);
    count_rotten(cluster);
    Ok(())
}

/// The first block that is not as it should be.
fn misplaced(cluster: &Cluster, ring: &Placer) -> Option<String> {
    for (block, copies) in copies(cluster) {
        let seals: BTreeSet<_> = copies.values().map(|seal| (seal.length, seal.crc)).collect();
        if seals.len() > 1 {
            return Some(format!("{block} is sealed in several ways: {seals:?}"));
        }
        let places: BTreeSet<PeerId> =
            ring.places(&block, &BTreeSet::new(), None).into_iter().collect();
        let holders: BTreeSet<PeerId> = copies.keys().copied().collect();
        if places != holders {
            let name = |peers: &BTreeSet<PeerId>| -> Vec<u128> {
                peers.iter().map(|peer| peer.0.as_u128()).collect()
            };
            let lives = cluster.nodes.iter().filter_map(|node| Some((node, node.life()?)));
            let states: Vec<_> = lives
                .map(|(node, life)| (node.peer().0.as_u128(), life.store().state(block)))
                .collect();
            return Some(format!(
                "{block} is on peers {:?} and belongs on {:?}: {states:?}",
                name(&holders),
                name(&places)
            ));
        }
    }
    None
}

/// A block that is held of a volume that is not there.
fn left_over(cluster: &Cluster, volumes: &BTreeSet<VolumeId>) -> Option<String> {
    for node in &cluster.nodes {
        let Some(life) = node.life() else { continue };
        let blocks = life.store().list(None, usize::MAX);
        let of_deleted = |(block, _): &&(BlockRef, _)| !volumes.contains(&block.volume);
        if let Some((block, state)) = blocks.iter().find(of_deleted) {
            let peer = node.peer().0.as_u128();
            return Some(format!("{block} of a deleted volume is on peer {peer}: {state:?}"));
        }
    }
    None
}

/// Counts the copies whose bytes are not those that they were sealed with: what no read met waits
/// for a scrub.
fn count_rotten(cluster: &Cluster) {
    for (block, copies) in copies(cluster) {
        let rotten = copies.iter().filter(|(peer, seal)| !is_good(cluster, **peer, block, **seal));
        if rotten.count() > 0 {
            cluster.context.trace.sometimes("a copy that nobody read is still rotten");
        }
    }
}

/// How long a volume is kept open for its garbage to go.
const RECLAIM_LIMIT: Duration = Duration::from_secs(600);

/// Opens the volume until peers hold nothing of it that it does not need, then sees that they hold
/// all that it needs and nothing else.
pub(crate) async fn space_comes_back(
    cluster: &Arc<Cluster>,
    volume: &Tracked,
) -> Result<(), String> {
    let (tracked, name) = (volume, &volume.name);
    let began = Instant::now();
    loop {
        let client = cluster.client(volume.host);
        let open = match timeout(OPEN_LIMIT, cluster.open(&client, tracked)).await {
            Ok(Ok(open)) => open,
            Ok(Err(error)) => return Err(format!("{name} does not open: {}", chain(&error))),
            Err(_) => return Err(format!("{name} does not open again")),
        };
        // A peer that could not be cleaned up is tried again after a minute.
        sleep(Duration::from_secs(70)).await;
        step(name, "close", open.close()).await?;
        let Some(metadata) = cluster.present(volume).await else {
            return Err(format!("{name} is gone"));
        };
        let needed = client.needed(&metadata).await.map_err(|error| format!("{name}: {error}"))?;
        let mut held = BTreeSet::new();
        for node in &cluster.nodes {
            let Some(life) = node.life() else { continue };
            let blocks = life.store().list(None, usize::MAX).into_iter().map(|(block, _)| block);
            held.extend(blocks.filter(|block| block.volume == metadata.id));
        }
        if let Some(missing) = needed.difference(&held).next() {
            return Err(format!("{name} needs {missing}, which no peer holds"));
        }
        let leaked: Vec<_> = held.difference(&needed).collect();
        if cluster.nodes.iter().any(|node| node.life().is_none()) {
            // What a store that does not start holds, nobody can free.
            return Ok(());
        }
        if metadata.is_clean && metadata.retired.is_empty() {
            return match leaked.first() {
                Some(leaked) => Err(format!("{name} is clean, but {leaked} came back")),
                None => Ok(()),
            };
        }
        if began.elapsed() > RECLAIM_LIMIT {
            return Err(format!(
                "{name} has not become clean: {} blocks that nothing needs, {} retired heads",
                leaked.len(),
                metadata.retired.len()
            ));
        }
    }
}
