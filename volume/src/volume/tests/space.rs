//! Space: garbage collection, trims, a full cluster.

use super::*;

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
        // Seven tenths of what is stored are in use, but for what was written since.
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

#[test]
fn a_peer_that_was_away_is_cleaned_up_when_it_returns() {
    let mut world = World::new(3, 2);
    let volume = world.open();
    world.run(async {
        volume.write(0, pattern(1, SECTORS), false).await.unwrap();
        volume.checkpoint().await.unwrap();
        world.pool.set_down(1, true);
        volume.write(0, pattern(2, SECTORS), false).await.unwrap();
        volume.checkpoint().await.unwrap();
        tokio::time::sleep(Duration::from_secs(60)).await;
        world.pool.set_down(1, false);
        tokio::time::sleep(Duration::from_secs(120)).await;
        volume.close().await.unwrap();
    });
    world.assert_nothing_leaks("v");
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
