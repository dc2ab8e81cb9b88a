//! Snapshots, clones and what is asked of a volume in use.

use torus_blockstore::VolumeId;
use torus_metadata::{AskId, Outcome, Refusal, SnapshotId, Task};

use super::*;
use crate::{Change, changes, open_snapshot, restore};

impl World {
    async fn read_snapshot(&self, volume: &str, snapshot: &str) -> Vec<u64> {
        let opened = open_snapshot(self.services(), volume, snapshot, Self::options()).await;
        let opened = opened.unwrap();
        let found = read_all(&opened).await;
        opened.close().await.unwrap();
        found
    }

    fn snapshot_id(&self, volume: &str, snapshot: &str) -> SnapshotId {
        let volume = self.metadata(volume);
        volume.snapshots.iter().find(|it| it.name == snapshot).unwrap().id
    }

    fn delete_snapshot(&self, volume: &str, snapshot: &str) -> Result<Applied, MetadataError> {
        let (id, snapshot) = (self.metadata(volume).id, self.snapshot_id(volume, snapshot));
        self.try_execute(Command::DeleteSnapshot { volume: id, snapshot, force: false })
    }

    fn clone_volume(&self, volume: &str, snapshot: &str, name: &str) {
        let (volume, snapshot) = (self.metadata(volume).id, self.snapshot_id(volume, snapshot));
        self.execute(Command::CloneVolume { volume, snapshot, name: name.into() });
    }

    fn ask(&self, volumes: Vec<VolumeId>, task: Task) -> AskId {
        match self.try_execute(Command::AskWriters { volumes, task }).unwrap().outcome {
            Outcome::Ask(ask) => ask,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_snapshot_stays_as_it_was() {
    let mut world = World::new(3, 2);
    let volume = world.open();
    world.run(async {
        volume.write(0, pattern(1, SECTORS), false).await.unwrap();
        volume.snapshot("one", 0).await.unwrap();
        for value in 2..6 {
            volume.write(0, pattern(value, SECTORS), false).await.unwrap();
            volume.checkpoint().await.unwrap();
        }
        tokio::time::sleep(Duration::from_secs(100)).await;
        assert_eq!(world.read_snapshot("v", "one").await, vec![1; SECTORS as usize]);
        assert_eq!(read_all(&volume).await, vec![5; SECTORS as usize]);
        let taken = volume.snapshot("one", 0).await;
        assert!(matches!(taken, Err(Error::Refused(Refusal::SnapshotExists { .. }))), "{taken:?}");
        volume.close().await.unwrap();
    });
    world.assert_nothing_leaks("v");
    let (services, metadata) = (world.services(), world.metadata("v"));
    let own = world.run(crate::snapshot_figures(&services, &metadata)).unwrap()[0].own;
    assert!(own > SECTORS * SECTOR, "{own}");
    world.delete_snapshot("v", "one").unwrap();
    let volume = world.open();
    world.run(async {
        assert!(volume.reclaim().await.unwrap());
        volume.close().await.unwrap();
    });
    world.assert_nothing_leaks("v");
    assert!(world.metadata("v").is_clean);
}

#[test]
fn a_snapshot_is_read_only_and_pinned_while_it_is_read() {
    let mut world = World::new(3, 2);
    let volume = world.open();
    world.run(async {
        volume.write(0, pattern(1, 8), false).await.unwrap();
        volume.snapshot("one", 0).await.unwrap();
        let opened = open_snapshot(world.services(), "v", "one", World::options()).await.unwrap();
        let refused = opened.write(0, pattern(2, 8), false).await;
        assert!(matches!(refused, Err(Error::ReadOnly)), "{refused:?}");
        opened.flush().await.unwrap();
        assert!(world.delete_snapshot("v", "one").is_err());
        opened.close().await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        world.delete_snapshot("v", "one").unwrap();
        let missing = open_snapshot(world.services(), "v", "one", World::options()).await;
        assert!(matches!(missing, Err(OpenError::NoSuchSnapshot { .. })), "{missing:?}");
    });
}

#[test]
fn a_clone_goes_its_own_way_and_can_be_cut_loose() {
    let mut world = World::new(3, 2);
    let volume = world.open();
    world.run(async {
        volume.write(0, pattern(1, SECTORS), false).await.unwrap();
        volume.snapshot("base", 0).await.unwrap();
        volume.write(0, pattern(2, SECTORS), false).await.unwrap();
        volume.close().await.unwrap();
    });
    world.clone_volume("v", "base", "c");
    assert!(world.delete_snapshot("v", "base").is_err(), "a clone needs it");
    let services = world.services();
    world.client().block_on(async {
        let clone = open(services, "c", World::options()).await.unwrap();
        assert_eq!(read_all(&clone).await, vec![1; SECTORS as usize]);
        clone.write(0, pattern(7, 100), true).await.unwrap();
        clone.snapshot("mine", 0).await.unwrap();
        clone.close().await.unwrap();
    });
    world.clone_volume("c", "mine", "cc");
    let services = world.services();
    world.client().block_on(async {
        let clone = open(services.clone(), "cc", World::options()).await.unwrap();
        let found = read_all(&clone).await;
        assert_eq!((found[99], found[104]), (7, 1));
        clone.flatten().await.unwrap();
        assert_eq!(read_all(&clone).await, found);
        clone.close().await.unwrap();
        let clone = open(services, "c", World::options()).await.unwrap();
        clone.flatten().await.unwrap();
        clone.close().await.unwrap();
    });
    assert_eq!(world.metadata("cc").parent, None);
    assert!(world.metadata("c").parent.is_some(), "its snapshot still needs it");
    world.delete_snapshot("c", "mine").unwrap();
    assert_eq!(world.metadata("c").parent, None);
    world.delete_snapshot("v", "base").unwrap();
    for name in ["v", "c", "cc"] {
        world.settle(name);
        world.assert_nothing_leaks(name);
    }
    let gone = world.metadata("v").id;
    world.execute(Command::DeleteVolume { volume: gone, force: false });
    world.pool.drop_volume(gone);
    let services = world.services();
    world.client().block_on(async {
        for name in ["c", "cc"] {
            let clone = open(services.clone(), name, World::options()).await.unwrap();
            let found = read_all(&clone).await;
            assert_eq!((found[99], found[104], found[511]), (7, 1, 1), "{name}");
            clone.close().await.unwrap();
        }
    });
}

#[test]
fn a_volume_is_restored_to_a_snapshot_and_later_ones_stay() {
    let mut world = World::new(3, 2);
    let volume = world.open();
    world.run(async {
        for value in 1..=3 {
            volume.write(0, pattern(value, SECTORS), false).await.unwrap();
            volume.snapshot(&format!("s{value}"), 0).await.unwrap();
        }
        volume.write(0, pattern(4, SECTORS), false).await.unwrap();
        let in_use = restore(world.services(), "v", "s1", World::options()).await;
        assert!(matches!(in_use, Err(OpenError::InUse { .. })), "{in_use:?}");
        volume.close().await.unwrap();
        restore(world.services(), "v", "s1", World::options()).await.unwrap();
    });
    let volume = world.open();
    world.run(async {
        assert_eq!(read_all(&volume).await, vec![1; SECTORS as usize]);
        volume.write(0, pattern(9, 8), false).await.unwrap();
        volume.snapshot("s9", 0).await.unwrap();
        tokio::time::sleep(Duration::from_secs(200)).await;
        for value in 1..=3 {
            let found = world.read_snapshot("v", &format!("s{value}")).await;
            assert_eq!(found, vec![value; SECTORS as usize]);
        }
        volume.close().await.unwrap();
    });
    world.settle("v");
    world.assert_nothing_leaks("v");
    for name in ["s2", "s1", "s3"] {
        world.delete_snapshot("v", name).unwrap();
        world.settle("v");
        world.assert_nothing_leaks("v");
    }
    let volume = world.open();
    let found = world.run(read_all(&volume));
    assert_eq!((found[0], found[8]), (9, 1));
}

#[test]
fn a_writer_does_what_others_ask() {
    let mut world = World::new(3, 2);
    let volume = world.open();
    let id = world.metadata("v").id;
    world.run(async {
        volume.write(0, pattern(1, SECTORS), false).await.unwrap();
        let task = Task::Snapshot { name: "asked".into(), created_ms: 5 };
        let snapshot = world.ask(vec![id], task);
        let smaller = Task::Resize { size: 4096, discard: false };
        let shrink = world.ask(vec![id], smaller);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(world.read_snapshot("v", "asked").await, vec![1; SECTORS as usize]);
        let answers = world.metadata("v").answers;
        let of = |ask| answers.iter().find(|answer| answer.id == ask).unwrap().error.clone();
        assert_eq!(of(snapshot), None);
        assert!(of(shrink).unwrap().contains("holds data at byte 4096"), "{answers:?}");
        assert_eq!(world.metadata("v").asks, []);
    });
}

#[test]
fn a_group_is_taken_at_one_moment() {
    for seed in 0..20 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut world = World::new(3, 2);
        let size = SECTORS * SECTOR;
        world.execute(Command::CreateVolume { name: "w".into(), size, spec: None });
        let services = world.services();
        world.client();
        let (one, other) = world.run(async {
            let one = open(services.clone(), "v", World::options()).await.unwrap();
            (one, open(services, "w", World::options()).await.unwrap())
        });
        let ids = vec![world.metadata("v").id, world.metadata("w").id];
        world.run(async {
            let asked_at = rng.random_range(1..200);
            for value in 1..300 {
                // Each write is made only when the one before was acknowledged.
                one.write(0, pattern(value, 8), false).await.unwrap();
                other.write(0, pattern(value, 8), false).await.unwrap();
                if value == asked_at {
                    world.ask(ids.clone(), Task::Snapshot { name: "g".into(), created_ms: 0 });
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            tokio::time::sleep(Duration::from_secs(10)).await;
            let first = world.read_snapshot("v", "g").await[0];
            let second = world.read_snapshot("w", "g").await[0];
            assert!(first == second || first == second + 1, "seed {seed}: {first}, {second}");
            assert!(first >= asked_at, "seed {seed}");
        });
    }
}

#[test]
fn what_changed_between_two_snapshots_is_told() {
    let mut world = World::new(3, 2);
    let volume = world.open();
    world.run(async {
        volume.write(0, pattern(1, 64), false).await.unwrap();
        volume.snapshot("a", 0).await.unwrap();
        volume.write(8 * SECTOR, pattern(2, 8), false).await.unwrap();
        volume.trim(32 * SECTOR, 16 * SECTOR, false).await.unwrap();
        volume.snapshot("b", 0).await.unwrap();
        let a = open_snapshot(world.services(), "v", "a", World::options()).await.unwrap();
        let b = open_snapshot(world.services(), "v", "b", World::options()).await.unwrap();
        let found = changes(&a, &b, 0, (SECTORS * SECTOR) as u32).await.unwrap();
        let page = 4096;
        assert_eq!(
            found,
            [
                (page, None),
                (page, Some(Change::Data)),
                (2 * page, None),
                (2 * page, Some(Change::Zero)),
                (SECTORS * SECTOR - 6 * page, None),
            ]
        );
    });
}

#[test]
fn snapshots_survive_any_crash() {
    for seed in seeds() {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut world = World::new(3, 2);
        let mut history = History::default();
        let mut snapshots: Vec<(String, Vec<u64>)> = Vec::new();
        for life in 0..6 {
            let volume = world.open();
            let found = world.run(read_all(&volume));
            history.recovered_as(&found, seed);
            world.run(async {
                for step in 0..rng.random_range(0..60) {
                    random_operation(&volume, &mut history, &mut rng).await;
                    if rng.random_bool(0.05) {
                        let name = format!("s{life}.{step}");
                        volume.snapshot(&name, 0).await.unwrap();
                        snapshots.push((name, history.after(history.operations.len())));
                        history.flushed = history.operations.len();
                    }
                    if rng.random_bool(0.02) && !snapshots.is_empty() {
                        let (name, _) = snapshots.swap_remove(rng.random_range(0..snapshots.len()));
                        world.delete_snapshot("v", &name).unwrap();
                    }
                    if rng.random_bool(0.02) {
                        tokio::time::sleep(Duration::from_secs(30)).await;
                    }
                }
                for (name, expected) in &snapshots {
                    assert_eq!(&world.read_snapshot("v", name).await, expected, "seed {seed}");
                }
            });
            world.runtime = None;
            for number in 1..=3 {
                if rng.random_bool(0.7) {
                    world.pool.crash(number, &mut rng);
                }
            }
        }
        world.settle("v");
        world.assert_nothing_leaks("v");
        world.client();
        for (name, expected) in &snapshots {
            assert_eq!(&world.run(world.read_snapshot("v", name)), expected, "seed {seed}");
        }
    }
}
