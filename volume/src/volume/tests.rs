//! Volumes on a pool in memory: random histories under crashes, lost peers and stale writers.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::runtime::Runtime;
use torus_blockstore::{BlockRef, BlockSpec};
use torus_metadata::{
    Answer, Applied, Command, Error as MetadataError, GlobalMetadata, MetadataService, Query, Ring,
    RingKind, RingMember, RingVersion, TempService, Volume as Metadata,
};

use super::pool::{MemoryPool, peer};
use super::*;
use crate::{Groups, OpenError, Services, open};

mod snapshots;
mod space;

const SECTOR: u64 = 512;
const SECTORS: u64 = 512;
const BLOCK_SIZE: u32 = 64 * 1024;

/// Histories to play: 60, or as many as TORUS_TEST_SEEDS says.
fn seeds() -> std::ops::Range<u64> {
    0..std::env::var("TORUS_TEST_SEEDS").map_or(60, |count| count.parse().unwrap())
}

/// A cluster in memory with one volume, `v`. What runs on `runtime` is the client: dropping it is
/// the client's crash.
struct World {
    pool: MemoryPool,
    meta: Arc<TempService>,
    runtime: Option<Runtime>,
}

impl World {
    fn new(peers: u128, replication: usize) -> Self {
        let pool = MemoryPool::new(peers, replication, BLOCK_SIZE);
        let world = Self { pool, meta: Arc::new(TempService::new()), runtime: None };
        let members = (1..=peers)
            .map(|number| RingMember { peer: peer(number), weight: 1, zone: String::new() })
            .collect();
        let ring = Ring {
            version: RingVersion(1),
            kind: RingKind::Mod,
            replication: replication as u32,
            members,
        };
        let global = GlobalMetadata {
            cluster: Default::default(),
            block_size: BLOCK_SIZE,
            block_spec: BlockSpec::default(),
        };
        let size = SECTORS * SECTOR;
        world.execute(Command::Init { global, ring });
        world.execute(Command::CreateVolume { name: "v".into(), size, spec: None });
        world
    }

    fn execute(&self, command: Command) {
        self.try_execute(command).unwrap();
    }

    fn try_execute(&self, command: Command) -> Result<Applied, MetadataError> {
        futures::executor::block_on(self.meta.execute(command))
    }

    fn metadata(&self, name: &str) -> Metadata {
        let query = self.meta.query(Query::VolumeByName(name.into()));
        match futures::executor::block_on(query).unwrap() {
            Answer::Volume { volume: Some(volume), .. } => volume,
            other => panic!("{other:?}"),
        }
    }

    /// Opens the volume, gives it the time to tidy up, and closes it.
    fn settle(&mut self, name: &str) {
        let services = self.services();
        self.client().block_on(async {
            let volume = open(services, name, Self::options()).await.unwrap();
            tokio::time::sleep(Duration::from_secs(300)).await;
            volume.close().await.unwrap();
        });
    }

    /// The peers must hold what the closed volume needs, and nothing else of it.
    #[track_caller]
    fn assert_nothing_leaks(&self, name: &str) {
        let volume = self.metadata(name);
        assert_eq!(volume.retired, []);
        let (services, now) = (self.services(), volume.clone());
        let needed = futures::executor::block_on(crate::needed_blocks(&services, &now)).unwrap();
        let held = self.pool.blocks().into_iter().filter(|block| block.volume == volume.id);
        let held: BTreeSet<BlockRef> = held.collect();
        let (leaked, lost) = (&held - &needed, &needed - &held);
        assert!(leaked.is_empty() && lost.is_empty(), "leaked {leaked:?}, lost {lost:?}");
    }

    fn services(&self) -> Services {
        let meta = Arc::clone(&self.meta) as Arc<dyn MetadataService>;
        Services { pool: Arc::new(self.pool.clone()), meta, groups: Groups::default() }
    }

    fn options() -> Options {
        Options {
            window_blocks: 4,
            checkpoint_bytes: 512 * 1024,
            cache_bytes: 128 * 1024,
            buffer_bytes: 256 * 1024,
            map_bytes: 1000,
            attach_timeout: Duration::from_secs(1),
            ..Options::new("a test".into(), || 7)
        }
    }

    /// A client that starts anew; the former one, if any, has died and its session has ended.
    fn client(&mut self) -> &Runtime {
        self.runtime = None;
        let sessions = futures::executor::block_on(self.meta.query(Query::Sessions)).unwrap();
        let Answer::Sessions { sessions, .. } = sessions else { panic!("{sessions:?}") };
        sessions.iter().for_each(|session| self.meta.expire(session.id));
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        self.runtime.insert(runtime.enable_time().start_paused(true).build().unwrap())
    }

    fn try_open(&mut self) -> Result<Volume, OpenError> {
        let services = self.services();
        self.client().block_on(open(services, "v", Self::options()))
    }

    fn open(&mut self) -> Volume {
        self.try_open().unwrap()
    }

    fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.as_ref().unwrap().block_on(future)
    }
}

/// What was written, in order: each operation fills sectors of one page with a number, or zeroes
/// them. The state of the volume is the number in each sector.
#[derive(Default)]
struct History {
    operations: Vec<(u64, u64, u64)>,
    /// Operations that a flush covers.
    flushed: usize,
}

impl History {
    /// Notes an operation page by page: a page is what is written whole or not at all.
    fn push(&mut self, first: u64, end: u64, value: u64) {
        let mut at = first;
        while at < end {
            let next = (at / 8 * 8 + 8).min(end);
            self.operations.push((at, next, value));
            at = next;
        }
    }

    fn after(&self, count: usize) -> Vec<u64> {
        let mut sectors = vec![0; SECTORS as usize];
        for (first, end, value) in &self.operations[..count] {
            sectors[*first as usize..*end as usize].fill(*value);
        }
        sectors
    }

    /// The volume must be what it was after some operation not before the last flush; that is its
    /// history from now on.
    #[track_caller]
    fn recovered_as(&mut self, found: &[u64], seed: u64) {
        let count = (self.flushed..=self.operations.len())
            .rev()
            .find(|count| self.after(*count) == found)
            .unwrap_or_else(|| panic!("seed {seed}: no prefix of the history explains the volume"));
        self.operations.truncate(count);
        self.flushed = count;
    }
}

fn pattern(value: u64, sectors: u64) -> Bytes {
    Bytes::from(value.to_le_bytes().repeat((sectors * SECTOR / 8) as usize))
}

async fn read_all(volume: &Volume) -> Vec<u64> {
    let bytes = volume.read(0, (SECTORS * SECTOR) as u32).await.unwrap().concat();
    bytes
        .chunks_exact(SECTOR as usize)
        .map(|sector| {
            let value = u64::from_le_bytes(sector[..8].try_into().unwrap());
            assert!(sector.chunks_exact(8).all(|word| word == value.to_le_bytes()), "torn sector");
            value
        })
        .collect()
}

async fn random_operation(volume: &Volume, history: &mut History, rng: &mut StdRng) {
    let first = rng.random_range(0..SECTORS);
    let aligned = rng.random_bool(0.6);
    let first = if aligned { first / 8 * 8 } else { first };
    let longest = (SECTORS - first).min(if rng.random_bool(0.1) { 300 } else { 24 });
    let count = rng.random_range(1..=longest);
    let count = if aligned { (count.next_multiple_of(8)).min(SECTORS - first) } else { count };
    let (offset, length) = (first * SECTOR, count * SECTOR);
    let value = history.operations.len() as u64 + 1000;
    match rng.random_range(0..10) {
        0 => {
            let begin = history.operations.len();
            volume.flush().await.unwrap();
            history.flushed = begin;
        }
        1 => {
            volume.write_zeroes(offset, length, false).await.unwrap();
            // Edges and whole pages are operations of their own, in this order.
            let (inner, outer) = (first.next_multiple_of(8), (first + count) / 8 * 8);
            if inner > outer {
                history.push(first, first + count, 0);
            } else {
                history.push(first, inner, 0);
                history.push(outer, first + count, 0);
                history.push(inner, outer, 0);
            }
        }
        2 => {
            volume.trim(offset, length, false).await.unwrap();
            let (inner, outer) = (first.next_multiple_of(8), (first + count) / 8 * 8);
            history.push(inner.min(outer), outer, 0);
        }
        3 => {
            let fua = volume.write(offset, pattern(value, count), true).await;
            fua.unwrap();
            history.push(first, first + count, value);
            history.flushed = history.operations.len();
        }
        _ => {
            volume.write(offset, pattern(value, count), false).await.unwrap();
            history.push(first, first + count, value);
        }
    }
}

#[test]
fn a_new_volume_reads_as_zeros_and_keeps_what_is_written() {
    let mut world = World::new(3, 2);
    let volume = world.open();
    world.run(async {
        assert!(read_all(&volume).await.iter().all(|sector| *sector == 0));
        volume.write(5 * SECTOR, pattern(7, 30), false).await.unwrap();
        let found = read_all(&volume).await;
        assert_eq!((found[4], found[5], found[34], found[35]), (0, 7, 7, 0));
        volume.close().await.unwrap();
        assert!(matches!(volume.flush().await, Err(Error::Closed)));
    });
    let volume = world.open();
    let found = world.run(read_all(&volume));
    assert_eq!((found[4], found[5], found[34], found[35]), (0, 7, 7, 0));
}

#[test]
fn a_range_past_the_end_is_refused() {
    let mut world = World::new(1, 1);
    let volume = world.open();
    let result = world.run(volume.write(SECTORS * SECTOR - 1, pattern(1, 1), false));
    assert!(matches!(result, Err(Error::OutOfRange { size: 262_144, .. })), "{result:?}");
}

#[test]
fn a_second_opener_is_told_who_has_the_volume() {
    let mut world = World::new(3, 3);
    let _first = world.open();
    let second = world.run(open(world.services(), "v", World::options()));
    assert!(
        matches!(&second, Err(OpenError::InUse { owner, .. }) if owner == "a test"),
        "{second:?}"
    );
}

#[test]
fn after_any_crash_the_volume_is_a_prefix_that_holds_all_that_was_flushed() {
    for seed in seeds() {
        let mut rng = StdRng::seed_from_u64(seed);
        let replication = rng.random_range(1..=3);
        let mut world = World::new(3, replication);
        let mut history = History::default();
        for _life in 0..6 {
            let volume = world.open();
            let found = world.run(read_all(&volume));
            history.recovered_as(&found, seed);
            let operations = rng.random_range(0..60);
            world.run(async {
                for _ in 0..operations {
                    random_operation(&volume, &mut history, &mut rng).await;
                    if rng.random_bool(0.05) {
                        assert_eq!(
                            read_all(&volume).await,
                            history.after(history.operations.len())
                        );
                    }
                }
                if rng.random_bool(0.3) {
                    volume.close().await.unwrap();
                    history.flushed = history.operations.len();
                }
            });
            world.runtime = None;
            for number in 1..=3 {
                if rng.random_bool(0.7) {
                    world.pool.crash(number, &mut rng);
                }
            }
        }
        world.pool.assert_replicas_agree();
        world.settle("v");
        world.assert_nothing_leaks("v");
    }
}

#[test]
fn a_lost_peer_is_a_pause_and_not_an_error() {
    for seed in seeds() {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut world = World::new(4, 2);
        let mut history = History::default();
        for _life in 0..4 {
            let volume = world.open();
            let found = world.run(read_all(&volume));
            history.recovered_as(&found, seed);
            let pool = world.pool.clone();
            world.run(async {
                for _ in 0..40 {
                    random_operation(&volume, &mut history, &mut rng).await;
                    if rng.random_bool(0.1) {
                        // Never two at once: with two copies nothing is lost while one is down, once
                        // a flush says that there are two again.
                        volume.flush().await.unwrap();
                        history.flushed = history.operations.len();
                        (1..=4).for_each(|number| pool.set_down(number, false));
                        pool.set_down(rng.random_range(1..=4), true);
                    }
                }
                volume.flush().await.unwrap();
                history.flushed = history.operations.len();
                let before = read_all(&volume).await;
                assert_eq!(before, history.after(history.operations.len()), "seed {seed}");
            });
            world.runtime = None;
            // Recovery does without one of them, whichever it is.
            (1..=4).for_each(|number| pool.set_down(number, false));
            pool.set_down(rng.random_range(1..=4), true);
        }
        world.pool.assert_replicas_agree();
        (1..=4).for_each(|number| world.pool.set_down(number, false));
        world.settle("v");
        world.assert_nothing_leaks("v");
    }
}

#[test]
fn damage_of_every_copy_is_an_error_of_these_bytes_only() {
    let mut world = World::new(1, 1);
    let volume = world.open();
    world.run(async {
        volume.write(0, pattern(3, SECTORS / 2), false).await.unwrap();
        volume.close().await.unwrap();
    });
    let volume = world.open();
    world.pool.damage(1, &mut StdRng::seed_from_u64(1));
    let result = world.run(volume.read(0, (SECTORS * SECTOR / 2) as u32));
    assert!(matches!(result, Err(Error::Damaged { .. })), "{result:?}");
    let rest = world.run(volume.read(SECTORS * SECTOR / 2, 4096)).unwrap().concat();
    assert!(rest.iter().all(|byte| *byte == 0));
}

#[test]
fn a_stale_writer_is_refused_by_the_peers() {
    let mut world = World::new(3, 3);
    let old = world.open();
    let stale = world.runtime.take().unwrap();
    let new = world.open();
    world.run(async { new.write(0, pattern(2, 8), true).await.unwrap() });
    let result = stale.block_on(async {
        old.write(0, pattern(1, 8), false).await?;
        old.flush().await
    });
    assert!(matches!(result, Err(Error::TakenOver { .. })), "{result:?}");
    assert_eq!(world.run(read_all(&new))[0], 2);
}

#[test]
fn a_damaged_copy_is_read_elsewhere() {
    let mut world = World::new(2, 2);
    let volume = world.open();
    world.run(async {
        volume.write(0, pattern(3, SECTORS), false).await.unwrap();
        volume.close().await.unwrap();
    });
    let mut rng = StdRng::seed_from_u64(1);
    assert!(world.pool.damage(1, &mut rng) > 4);
    let volume = world.open();
    assert!(world.run(read_all(&volume)).iter().all(|sector| *sector == 3));
}

#[test]
fn recovery_waits_for_peers_that_it_needs_and_names_them() {
    let mut world = World::new(2, 1);
    let volume = world.open();
    world.run(async { volume.write(0, pattern(3, SECTORS), true).await.unwrap() });
    world.pool.set_down(2, true);
    let refused = world.try_open();
    let Err(OpenError::Recover(Error::Read { source, .. })) = refused else {
        panic!("{refused:?}")
    };
    assert!(source.to_string().contains("on none of the peers that answer"), "{source}");
    assert_eq!(super::pool::up(&world.pool), BTreeSet::from([peer(1)]));
    world.pool.set_down(2, false);
    let volume = world.open();
    assert!(world.run(read_all(&volume)).iter().all(|sector| *sector == 3));
}
