//! Opening: what is refused, by which sentence, and growing.

use expect_test::{Expect, expect};

use super::*;
use crate::{DirLock, Disk, MfileOptions, OsDisk};

const FILES: [&str; 5] = [
    "block/data-current.blk",
    "block/map-current.blk",
    "block/seal-current.blk",
    "block/fence-current.log",
    "block/superblock",
];

fn open_as(disk: &SimDisk, options: MfileOptions) -> Result<Mfile, Error> {
    let identity = PeerIdentity::open(disk.shared(), Path::new(DIR), PEER)?;
    Mfile::open(Arc::new(identity), options)
}

fn sized(capacity_bytes: u64) -> MfileOptions {
    MfileOptions { capacity_bytes, ..OPTIONS }
}

fn image(disk: &SimDisk) -> Vec<Vec<u8>> {
    let paths = FILES.iter().map(|file| Path::new(DIR).join(file));
    paths.filter(|path| disk.exists(path).unwrap()).map(|path| disk.content(&path)).collect()
}

/// Opening is refused with this sentence, and no file is other than before.
#[track_caller]
fn check_refused(disk: &SimDisk, options: MfileOptions, expected: Expect) {
    let before = image(disk);
    let refused = open_as(disk, options).err().unwrap();
    expected.assert_eq(&refused.to_string());
    assert_eq!(image(disk), before);
}

fn write(disk: &SimDisk, file: &str, bytes: &[u8]) {
    let path = Path::new(DIR).join(file);
    disk.remove(&path).unwrap();
    let file = disk.create(&path).unwrap();
    file.write_at(0, bytes).unwrap();
}

#[test]
fn the_map_of_twenty_gib_has_960_kib() {
    let dir = tempfile::tempdir().unwrap();
    let identity = PeerIdentity::open(OsDisk::shared(), dir.path(), PEER).unwrap();
    // A hundredth of it, which a test may reserve.
    let options = MfileOptions { block_size: 512 << 10, capacity_bytes: (20 << 30) / 128 };
    let store = Mfile::open(Arc::new(identity), options).unwrap();
    assert_eq!(store.geometry().capacity_blocks, 40_960 / 128);
    let length = |file: &str| std::fs::metadata(dir.path().join(file)).unwrap().len();
    assert_eq!(length(FILES[0]), (20 << 30) / 128);
    assert_eq!(length(FILES[1]) * 128, 960 << 10);
}

#[test]
fn sizes_that_make_no_store() {
    let disk = SimDisk::new(1, 1 << 20);
    let odd = MfileOptions { block_size: 5000, ..OPTIONS };
    let expected = expect!["a block size of 5000 bytes is no power of two from 512 to 1073741824"];
    check_refused(&disk, odd, expected);
    let expected = expect!["a store of 4095 bytes is smaller than one block of 4096"];
    check_refused(&disk, sized(4095), expected);
    let expected =
        expect!["/data needs 1058816 bytes, the file system has 1048544: 10272 are missing"];
    check_refused(&disk, sized(1 << 20), expected);
    assert!(!disk.exists(Path::new("/data/block.new")).unwrap());
    open_as(&disk, sized(1 << 19)).unwrap();
}

#[test]
fn a_store_grows() {
    let (disk, store) = new_store();
    store.put(block(1), &[1; 100]).unwrap();
    store.sync().unwrap();
    drop(store);
    for capacity in [2 * CAPACITY, 2 * CAPACITY + 1] {
        let store = open_as(&disk, sized(capacity * u64::from(BLOCK_SIZE) + 5)).unwrap();
        assert_eq!(store.geometry().capacity_blocks, capacity);
        assert_eq!(read(&store, block(1), 100), [1; 100]);
        for index in 2..=capacity {
            store.put(block(index), &[1]).unwrap();
        }
        store.sync().unwrap();
        for index in 2..=capacity {
            store.delete(block(index)).unwrap();
        }
        store.sync().unwrap();
    }
    let expected =
        expect!["/data needs 2047320 bytes, the file system has 978156: 1069164 are missing"];
    check_refused(&disk, sized(2 << 20), expected);
}

#[test]
fn growing_is_whole_or_not_at_all() {
    let (disk, store) = new_store();
    store.put(block(1), &[1; 100]).unwrap();
    store.sync().unwrap();
    drop(store);
    let larger = sized(2 * CAPACITY * u64::from(BLOCK_SIZE));
    for operations in 0.. {
        let disk = disk.after_crash(1);
        disk.crash_after(operations);
        let grown = open_as(&disk, larger).is_ok();
        for seed in 0..8 {
            let disk = disk.after_crash(seed);
            let found = match open(&disk) {
                Ok(store) => store,
                // It had grown; then it does not shrink.
                Err(Error::Shrink { .. }) => open_as(&disk, larger).unwrap(),
                Err(error) => panic!("after {operations} operations: {error}"),
            };
            assert_eq!(read(&found, block(1), 100), [1; 100]);
            drop(found);
            open_as(&disk, larger).unwrap();
        }
        if grown {
            return;
        }
    }
}

#[test]
fn a_store_does_not_shrink() {
    let (disk, store) = new_store();
    store.put(block(1), &[1; 100]).unwrap();
    store.put(block(2), &[1; 100]).unwrap();
    store.sync().unwrap();
    drop(store);
    let expected = expect!["/data/block has a size of 32768 bytes and cannot shrink to 16384"];
    check_refused(&disk, sized(16384), expected);
    let expected = expect!["/data/block stores 8192 bytes, a size of 4096 was asked for"];
    check_refused(&disk, sized(4096), expected);
    open(&disk).unwrap();
}

#[test]
fn what_is_not_this_store_is_left_alone() {
    let (disk, store) = new_store();
    drop(store);
    let other = MfileOptions { block_size: 8192, ..OPTIONS };
    let expected = expect!["/data/block has blocks of 4096 bytes, 8192 were asked for"];
    check_refused(&disk, other, expected);

    let disk_with = |file: &str, bytes: &[u8]| {
        let disk = disk.after_crash(1);
        write(&disk, file, bytes);
        disk
    };
    let foreign = expect![
        "/data/block/superblock is no file of a Torus store; choose another data directory"
    ];
    check_refused(&disk_with("block/superblock", &[b'x'; 44]), OPTIONS, foreign);
    let damaged = expect!["/data/block/superblock is damaged: its checksum is wrong"];
    let mut superblock = disk.content(Path::new("/data/block/superblock"));
    superblock[20] ^= 1;
    check_refused(&disk_with("block/superblock", &superblock), OPTIONS, damaged);
    let short =
        expect!["/data/block/map-current.blk is damaged: it is shorter than the superblock says"];
    check_refused(&disk_with("block/map-current.blk", &[0; 191]), OPTIONS, short);
    let huge = expect!["/data/peer is damaged: it is too long"];
    check_refused(&disk_with("peer", &[0; 1000]), OPTIONS, huge);

    for (file, expected) in [
        (
            "block/superblock",
            expect!["/data/block is no file of a Torus store; choose another data directory"],
        ),
        (
            "block/data-current.blk",
            expect!["/data/block/data-current.blk is damaged: it is missing"],
        ),
        ("peer", expect!["/data/peer is damaged: it is missing, although there are blocks"]),
    ] {
        let disk = disk.after_crash(1);
        disk.remove(&Path::new(DIR).join(file)).unwrap();
        check_refused(&disk, OPTIONS, expected);
    }
}

#[test]
fn the_store_of_another_peer_is_refused() {
    let (disk, store) = new_store();
    drop(store);
    disk.remove(Path::new("/data/peer")).unwrap();
    disk.rename(Path::new("/data/block"), Path::new("/data/hidden")).unwrap();
    drop(
        PeerIdentity::open(disk.shared(), Path::new(DIR), PeerId(uuid::Uuid::from_u128(2)))
            .unwrap(),
    );
    disk.rename(Path::new("/data/hidden"), Path::new("/data/block")).unwrap();
    let expected = expect![
        "/data/block/superblock belongs to peer 00000000-0000-0000-0000-000000000001, the data directory to 00000000-0000-0000-0000-000000000002"
    ];
    check_refused(&disk, OPTIONS, expected);
}

#[test]
fn a_store_in_use_is_not_opened_twice() {
    let (disk, store) = new_store();
    let refused = open(&disk).err().unwrap();
    assert_eq!(refused.to_string(), "/data is in use by another process");
    drop(store);
    assert!(matches!(disk.lock_dir(Path::new(DIR)).unwrap(), DirLock::Held(_)));
}

#[test]
fn a_store_on_a_real_disk_is_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let open = |capacity_bytes| {
        let identity = PeerIdentity::open(OsDisk::shared(), dir.path(), PeerId::random()).unwrap();
        let peer = identity.peer();
        (Mfile::open(Arc::new(identity), sized(capacity_bytes)).unwrap(), peer)
    };
    let size = OPTIONS.capacity_bytes;
    let (store, peer) = open(size);
    let bytes = content(1, 1000);
    store.append(block(1), 0, &bytes).unwrap();
    store.put(block(2), &bytes).unwrap();
    store.put(block(3), &bytes).unwrap();
    store.sync().unwrap();
    store.delete(block(3)).unwrap();
    store.sync().unwrap();
    drop(store);
    let (store, again) = open(2 * size);
    assert_eq!(again, peer);
    assert_eq!(
        store.list(None, 9),
        [(block(1), BlockState::Unsettled), (block(2), BlockState::Sealed(Seal::of(&bytes))),]
    );
    store.seal(block(1), Seal::of(&bytes)).unwrap();
    assert_eq!(read(&store, block(1), 1000), bytes);
    assert_eq!(read(&store, block(2), 1000), bytes);
    assert_eq!(store.geometry().capacity_blocks, 2 * CAPACITY);
}
