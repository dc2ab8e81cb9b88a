//! The store in a file, on a disk that crashes and fails.

mod copies;
mod crash;
mod open;

use std::path::Path;
use std::sync::Arc;

use crate::disk::{Fault, SimDisk};
use crate::store::conformance::{BLOCK_SIZE, CAPACITY, OPTIONS, block, content};
use crate::{BlockRef, BlockState, BlockStore, Error, Mfile, PeerId, PeerIdentity, Seal};

const DIR: &str = "/data";
const PEER: PeerId = PeerId(uuid::Uuid::from_u128(1));

fn open(disk: &SimDisk) -> Result<Mfile, Error> {
    let identity = PeerIdentity::open(disk.shared(), Path::new(DIR), PEER)?;
    Mfile::open(Arc::new(identity), OPTIONS)
}

fn new_store() -> (SimDisk, Mfile) {
    let disk = SimDisk::new(5, 1 << 20);
    let store = open(&disk).unwrap();
    (disk, store)
}

fn read(store: &Mfile, block: BlockRef, length: usize) -> Vec<u8> {
    let mut buffer = vec![0; length];
    store.read(block, 0, &mut buffer).unwrap();
    buffer
}

#[test]
fn an_append_and_a_sync_are_one_write_and_one_fdatasync() {
    let (disk, store) = new_store();
    store.append(block(1), 0, &[1; 512]).unwrap();
    store.sync().unwrap();
    let before = disk.counts();
    store.append(block(1), 512, &[2; 512]).unwrap();
    store.sync().unwrap();
    let after = disk.counts();
    assert_eq!(after.writes - before.writes, 1);
    assert_eq!(after.syncs - before.syncs, 1);
    assert_eq!((after.flushes, after.reads), (before.flushes, before.reads));
    read(&store, block(1), 100);
    assert_eq!(disk.counts().reads - before.reads, 1);
    store.sync().unwrap();
    assert_eq!(disk.counts().syncs, after.syncs, "there was nothing to sync");
}

#[test]
fn seal_of_one_block_and_opening_the_next_are_one_flush_of_each_table() {
    let (disk, store) = new_store();
    store.append(block(1), 0, &[1; 512]).unwrap();
    store.sync().unwrap();
    let before = disk.counts();
    store.seal(block(1), Seal::of(&[1; 512])).unwrap();
    store.append(block(2), 0, &[2; 512]).unwrap();
    store.sync().unwrap();
    let after = disk.counts();
    assert_eq!((after.syncs - before.syncs, after.flushes - before.flushes), (1, 2));
}

#[test]
fn open_blocks_are_unsettled_after_a_restart_and_can_be_sealed() {
    let (disk, store) = new_store();
    let bytes = content(1, 1000);
    store.append(block(1), 0, &bytes).unwrap();
    store.append(block(2), 0, &bytes).unwrap();
    store.put(block(3), &bytes).unwrap();
    store.sync().unwrap();
    let disk = disk.after_crash(0);
    let store = open(&disk).unwrap();
    assert_eq!(store.state(block(1)), Some(BlockState::Unsettled));
    assert_eq!(store.state(block(3)), Some(BlockState::Sealed(Seal::of(&bytes))));
    let refused = store.append(block(1), 1000, &[1]).unwrap_err();
    assert!(matches!(refused, Error::Unsettled { .. }));
    assert_eq!(read(&store, block(1), BLOCK_SIZE as usize)[..1000], bytes);
    store.seal(block(1), Seal::of(&bytes[..600])).unwrap();
    store.put(block(2), &bytes).unwrap();
    store.sync().unwrap();
    let store = open(&disk.after_crash(0)).unwrap();
    assert_eq!(store.state(block(1)), Some(BlockState::Sealed(Seal::of(&bytes[..600]))));
    assert_eq!(store.state(block(2)), Some(BlockState::Sealed(Seal::of(&bytes))));
    assert_eq!(store.used_blocks(), 3);
}

#[test]
fn a_killed_process_loses_nothing_that_it_synced_and_may_keep_the_rest() {
    let (disk, store) = new_store();
    store.append(block(1), 0, &[1; 512]).unwrap();
    store.sync().unwrap();
    store.append(block(1), 512, &[2; 512]).unwrap();
    drop(store);
    let store = open(&disk).unwrap();
    assert_eq!(store.state(block(1)), Some(BlockState::Unsettled));
    // What was found is on the medium, because it was synced at the start.
    let store = open(&disk.after_crash(0)).map(|after| (store, after)).unwrap().1;
    assert_eq!(read(&store, block(1), 1024)[512..], [2; 512]);
}

#[test]
fn after_a_failed_sync_nothing_is_acknowledged() {
    // The sync of a new block and a delete: fdatasync; a name, and its flush; two seal entries, and
    // their flush. Storing to memory cannot fail.
    for nth in [1, 3, 6] {
        let (disk, store) = new_store();
        store.put(block(1), &[1; 100]).unwrap();
        store.put(block(2), &[2; 100]).unwrap();
        store.sync().unwrap();
        store.append(block(3), 0, &[3; 100]).unwrap();
        store.delete(block(1)).unwrap();
        disk.fail(nth, Fault::Io);
        let refused = store.sync();
        assert!(matches!(refused, Err(Error::Io { .. })), "{nth}: {refused:?}");
        for refused in [
            store.sync(),
            store.append(block(3), 100, &[3]),
            store.append(block(4), 0, &[3]),
            store.put(block(2), &[1]),
            store.seal(block(3), Seal::of(&[3; 100])),
            store.delete(block(2)).map(|_| ()),
        ] {
            assert!(matches!(refused, Err(Error::Poisoned { .. })), "{nth}: {refused:?}");
        }
        assert_eq!(read(&store, block(2), 100), [2; 100], "reads go on");
    }
}

#[test]
fn a_restart_after_a_failed_sync_does_not_believe_the_cache() {
    for seed in 0..32 {
        let disk = SimDisk::new(seed, 1 << 20);
        let store = open(&disk).unwrap();
        let bytes = content(seed, 4096);
        store.append(block(1), 0, &bytes[..512]).unwrap();
        store.sync().unwrap();
        store.append(block(1), 512, &bytes[512..]).unwrap();
        disk.fail(1, Fault::Io);
        store.sync().unwrap_err();
        drop(store);
        // The process starts again on the same machine, whose cache has all the bytes.
        let store = open(&disk).unwrap();
        let sealed = store.seal(block(1), Seal::of(&bytes)).and_then(|()| store.sync());
        if sealed.is_ok() {
            let store = open(&disk.after_crash(0)).unwrap();
            assert_eq!(read(&store, block(1), 4096), bytes);
        }
    }
}

#[test]
fn a_refused_write_is_an_error_for_that_append_only() {
    let (disk, store) = new_store();
    store.append(block(1), 0, &[1; 100]).unwrap();
    for fault in [Fault::Io, Fault::NoSpace] {
        disk.fail(1, fault);
        store.append(block(1), 100, &[2; 100]).unwrap_err();
        disk.fail(1, fault);
        store.append(block(2), 0, &[2; 100]).unwrap_err();
        disk.fail(1, fault);
        store.put(block(1), &[2; 100]).unwrap_err();
        disk.fail(1, fault);
        store.put(block(3), &[2; 100]).unwrap_err();
    }
    assert_eq!(store.used_blocks(), 1);
    assert_eq!((store.state(block(2)), store.list(None, 9).len()), (None, 1));
    store.append(block(1), 100, &[3; 100]).unwrap();
    for index in 2..=CAPACITY {
        store.append(block(index), 0, &[1]).unwrap();
    }
    store.sync().unwrap();
    assert_eq!(read(&store, block(1), 200)[100..], [3; 100]);
    disk.fail_read(1);
    store.read(block(1), 0, &mut [0]).unwrap_err();
    store.read(block(1), 0, &mut [0]).unwrap();
}

#[test]
fn a_damaged_seal_leaves_the_block_to_be_settled() {
    let (disk, store) = new_store();
    let bytes = content(1, 1000);
    store.put(block(1), &bytes).unwrap();
    store.put(block(2), &bytes).unwrap();
    store.sync().unwrap();
    drop(store);
    disk.corrupt(Path::new("/data/block/seal-current.blk"), 2);
    disk.corrupt(Path::new("/data/block/map-current.blk"), 24 + 5);
    let store = open(&disk).unwrap();
    // Slot 0 has a name and no seal, slot 1 a seal and no name.
    assert_eq!(store.list(None, 9), [(block(1), BlockState::Unsettled)]);
    store.seal(block(1), Seal::of(&bytes)).unwrap();
    store.put(block(2), &bytes).unwrap();
    store.sync().unwrap();
    drop(store);
    assert_eq!(open(&disk).unwrap().used_blocks(), 2);
}

#[test]
fn a_damaged_seal_vouches_for_no_bytes() {
    for offset in 0..16 {
        let (disk, store) = new_store();
        let bytes = content(1, 1000);
        store.put(block(1), &bytes).unwrap();
        store.sync().unwrap();
        drop(store);
        disk.corrupt(Path::new("/data/block/seal-current.blk"), offset);
        disk.corrupt(Path::new("/data/block/data-current.blk"), 700);
        let store = open(&disk).unwrap();
        assert_eq!(store.state(block(1)), Some(BlockState::Unsettled), "byte {offset}");
        // It takes neither appends nor a seal that its content does not have, but a good copy.
        let refused = store.append(block(1), 1000, &[1]).unwrap_err();
        assert!(matches!(refused, Error::Unsettled { .. }));
        let refused = store.seal(block(1), Seal::of(&bytes)).unwrap_err();
        assert!(matches!(refused, Error::Checksum { .. }));
        store.put(block(1), &bytes).unwrap();
        store.sync().unwrap();
        drop(store);
        let store = open(&disk.after_crash(0)).unwrap();
        assert_eq!(store.state(block(1)), Some(BlockState::Sealed(Seal::of(&bytes))));
        assert_eq!(read(&store, block(1), 1000), bytes);
    }
}

#[test]
fn decay_of_the_data_is_seen_by_its_checksum() {
    let (disk, store) = new_store();
    let bytes = content(1, 1000);
    store.append(block(1), 0, &bytes).unwrap();
    store.sync().unwrap();
    disk.corrupt(Path::new("/data/block/data-current.blk"), 700);
    // The checksum of what was appended is known; of a part of it, only the disk can tell.
    let refused = store.seal(block(1), Seal::of(&bytes[..999])).unwrap_err();
    assert!(matches!(refused, Error::Checksum { .. }));
    store.put(block(1), &bytes).unwrap();
    assert_eq!(read(&store, block(1), 1000), bytes);
}

#[test]
fn small_appends_write_ahead_in_new_space() {
    const BLOCK: u32 = 512 << 10;
    let check = |written, in_new_slot, range, expected| {
        assert_eq!(super::padding(written, in_new_slot, range, BLOCK), expected);
    };
    check(0, true, 0..4096, (128 << 10) - 4096);
    check(128 << 10, true, 4096..8192, 0);
    check(128 << 10, true, (126 << 10)..(130 << 10), 126 << 10);
    check(0, true, BLOCK - 100..BLOCK, 0);
    check(0, true, 0..(17 << 10), 3 << 10);
    check(0, false, 0..4608, 3584);
    check(8192, false, 4608..8192, 0);
    check(8192, false, 4608..9216, 3072);
    assert_eq!(super::padding(0, true, 0..100, 2048), 1948);
}
