//! Space: garbage collection, trims, a full cluster.

use torus_blockstore::{BlockIndex, BlockPool, Epoch, INodeIndex, INodeRef, Seal};
use torus_metadata::{Head, LogPosition, Outcome};

use super::*;
use crate::extent::Location;
use crate::map::Map;

#[test]
fn opening_a_large_volume_reads_little_of_it() {
    const PAGES: u64 = 16 << 18;
    let mut world = World::new(1, 1);
    world.execute(Command::CreateVolume { name: "large".into(), size: PAGES * 4096, spec: None });
    let services = world.services();
    world.client();
    // The map of 16 GiB in blocks of 127 pages, as writing them in order makes it.
    let (id, inode) = (world.metadata("large").id, INodeIndex(1));
    let mut map = Map::new(id, BlockSpec::default());
    for (index, page) in (0..PAGES).step_by(127).enumerate() {
        let block = map.table.add(inode, BlockIndex(index as u64));
        let pages = (PAGES - page).min(127) as u32;
        map.set(page, pages, Some(Location { block, offset: 2, header: 0 }));
        map.table.sealed(block, Seal { length: pages * 4096, crc: 0 });
    }
    let session = |applied: Applied| match applied.outcome {
        Outcome::Session(id) => id,
        other => panic!("{other:?}"),
    };
    let opened = Command::OpenSession { owner: "builder".into(), ttl_ms: 1000 };
    let session = session(world.try_execute(opened).unwrap());
    world.execute(Command::LockVolume { volume: id, session });
    world.execute(Command::ReserveINodes { volume: id, epoch: Epoch(1), count: 2 });
    let name = INodeRef { volume: id, inode: INodeIndex(2) };
    let stream = Bytes::from(map.prepare(name, Epoch(1), 0).stream);
    let blocks = (stream.len() as u64).div_ceil(BLOCK_SIZE.into());
    let pool = world.pool.clone();
    world.run(async {
        for index in 0..blocks {
            let start = (index * u64::from(BLOCK_SIZE)) as usize;
            let data = stream.slice(start..stream.len().min(start + BLOCK_SIZE as usize));
            let block = crate::checkpoint::inode_block(name, BlockIndex(index));
            pool.put(vec![peer(1)], block, Epoch(1), data).await.unwrap();
        }
    });
    let position = LogPosition { inode, block: BlockIndex(PAGES), offset: 0 };
    let head = Head { volume: id, inode: INodeIndex(2), blocks, epoch: Epoch(1), position };
    world.execute(Command::CommitHead { volume: id, head });
    world.execute(Command::CloseSession(session));
    world.run(async {
        pool.take_read();
        let volume = open(services, "large", World::options()).await.unwrap();
        let read = pool.take_read();
        assert!(read < 32 << 10, "{read} bytes, of {} in the checkpoint", stream.len());
        let mapped = volume.mapped(PAGES * 2048, 8192).await.unwrap();
        assert_eq!(mapped, [(8192, true)]);
        let read = pool.take_read();
        assert!(read < 256 << 10, "{read} bytes for a page of the map");
    });
}

#[test]
fn overwritten_space_comes_back() {
    let mut world = World::new(3, 2);
    let volume = world.open();
    let mut rng = StdRng::seed_from_u64(1);
    let mut history = History::default();
    world.run(async {
        for _ in 0..4000 {
            let first = rng.random_range(0..SECTORS / 8) * 8;
            let value = history.operations.len() as u64 + 1;
            volume.write(first * SECTOR, pattern(value, 8), false).await.unwrap();
            history.push(first, first + 8, value);
        }
        volume.flush().await.unwrap();
        assert_eq!(read_all(&volume).await, history.after(4000));
        let info = volume.info().await.unwrap();
        // Three quarters of what is stored are in use, but for what was written since.
        assert!(info.stored < 4 * SECTORS * SECTOR, "{info:?}");
        volume.close().await.unwrap();
    });
    world.settle("v");
    world.assert_nothing_leaks("v");
    let figures = world.run(crate::figures(&world.services(), &world.metadata("v"))).unwrap();
    assert_eq!(figures.mapped, SECTORS * SECTOR);
    assert_eq!(figures.written, 4000 * 4096);
    let volume = world.open();
    assert_eq!(world.run(read_all(&volume)), history.after(4000));
}

#[test]
fn trimmed_space_comes_back_by_itself() {
    let mut world = World::new(3, 2);
    let volume = world.open();
    world.run(async {
        volume.write(0, pattern(1, SECTORS), false).await.unwrap();
        volume.checkpoint().await.unwrap();
        let before = world.pool.blocks().len();
        volume.trim(0, SECTORS * SECTOR, false).await.unwrap();
        volume.flush().await.unwrap();
        tokio::time::sleep(Duration::from_secs(60)).await;
        let after = world.pool.blocks().len();
        assert!(before > 4 && after <= 2, "{before} blocks, then {after}");
    });
}

#[test]
fn a_full_cluster_refuses_writes_and_takes_trims() {
    let mut world = World::new(2, 2);
    let volume = world.open();
    world.run(async {
        volume.write(0, pattern(1, 64), false).await.unwrap();
        world.pool.set_full(true);
        tokio::time::sleep(Duration::from_millis(50)).await;
        let refused = volume.write(0, pattern(2, 8), false).await;
        assert!(matches!(refused, Err(Error::NoSpace)), "{refused:?}");
        let refused = volume.write(100, pattern(2, 1), true).await;
        assert!(matches!(refused, Err(Error::NoSpace)), "{refused:?}");
        volume.flush().await.unwrap();
        volume.trim(0, 8 * SECTOR, true).await.unwrap();
        assert_eq!(read_all(&volume).await[..9], [0, 0, 0, 0, 0, 0, 0, 0, 1]);
        world.pool.set_full(false);
        tokio::time::sleep(Duration::from_millis(50)).await;
        volume.write(0, pattern(3, 8), true).await.unwrap();
        volume.close().await.unwrap();
    });
}

/// Blocks die while a peer is away for so long; the volume is closed so long after its return.
fn close_after_an_absence(away: Duration, back: Duration) -> World {
    let mut world = World::new(3, 2);
    let volume = world.open();
    world.run(async {
        volume.write(0, pattern(1, SECTORS), false).await.unwrap();
        volume.checkpoint().await.unwrap();
        world.pool.set_down(1, true);
        volume.write(0, pattern(2, SECTORS), false).await.unwrap();
        volume.checkpoint().await.unwrap();
        tokio::time::sleep(away).await;
        world.pool.set_down(1, false);
        tokio::time::sleep(back).await;
        volume.close().await.unwrap();
    });
    world
}

#[test]
fn a_peer_that_was_away_is_cleaned_up_when_it_returns() {
    let world = close_after_an_absence(Duration::from_secs(60), Duration::from_secs(120));
    world.assert_nothing_leaks("v");
}

#[test]
fn a_peer_that_was_away_is_cleaned_up_before_the_volume_is_closed() {
    let world = close_after_an_absence(Duration::from_secs(1), Duration::ZERO);
    world.assert_nothing_leaks("v");
    assert!(world.metadata("v").is_clean);
}

#[test]
fn a_volume_grows_and_shrinks() {
    let mut world = World::new(2, 2);
    let volume = world.open();
    let size = SECTORS * SECTOR;
    world.run(async {
        volume.resize(2 * size, false).await.unwrap();
        assert_eq!(volume.size(), 2 * size);
        volume.write(size, pattern(5, 8), true).await.unwrap();
        let refused = volume.resize(size, false).await;
        assert!(
            matches!(refused, Err(Error::HoldsData { offset }) if offset == size),
            "{refused:?}"
        );
        assert_eq!(volume.size(), 2 * size);
        volume.resize(size, true).await.unwrap();
        let refused = volume.write(size, pattern(5, 8), true).await;
        assert!(matches!(refused, Err(Error::OutOfRange { .. })));
        volume.resize(2 * size, false).await.unwrap();
        let found = volume.read(size, 4096).await.unwrap().concat();
        assert!(found.iter().all(|byte| *byte == 0), "what was cut does not come back");
        volume.resize(size / 2, false).await.unwrap();
        volume.close().await.unwrap();
    });
    assert_eq!(world.metadata("v").size, size / 2);
}

#[test]
fn others_grow_a_volume_in_use() {
    let mut world = World::new(2, 2);
    let volume = world.open();
    let (id, size) = (world.metadata("v").id, 2 * SECTORS * SECTOR);
    world.execute(Command::ResizeVolume { volume: id, epoch: None, size, ask: None });
    world.run(async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(volume.size(), size);
        volume.write(size - 4096, pattern(5, 8), true).await.unwrap();
    });
}
