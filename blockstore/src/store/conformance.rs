//! What every [`BlockStore`] does, run on each of them.

use std::sync::Arc;
use std::thread;

use crate::disk::SimDisk;
use crate::{
    BlockIndex, BlockKind, BlockRef, BlockState, BlockStore, Geometry, INodeIndex, Mfile,
    MfileOptions, OsDisk, PeerId, PeerIdentity, Seal, Temp, VolumeId,
};
use expect_test::{Expect, expect};

pub(crate) const BLOCK_SIZE: u32 = 4096;
pub(crate) const CAPACITY: u64 = 8;

/// Block `index` of INode 1 of volume 1.
pub(crate) fn block(index: u64) -> BlockRef {
    BlockRef {
        volume: VolumeId::new(1).unwrap(),
        kind: BlockKind::Data,
        inode: INodeIndex(1),
        index: BlockIndex(index),
    }
}

/// `length` bytes that differ from block to block and from place to place.
pub(crate) fn content(seed: u64, length: usize) -> Vec<u8> {
    let mut word = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        bytes.extend(word.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

pub(crate) const OPTIONS: MfileOptions =
    MfileOptions { block_size: BLOCK_SIZE, capacity_bytes: CAPACITY * BLOCK_SIZE as u64 };

/// A store, and what must outlive it.
struct Subject {
    store: Arc<dyn BlockStore>,
    _dir: Option<tempfile::TempDir>,
}

fn temp() -> Subject {
    let geometry = Geometry { block_size: BLOCK_SIZE, capacity_blocks: CAPACITY };
    Subject { store: Arc::new(Temp::new(geometry)), _dir: None }
}

fn mfile_on_os_disk() -> Subject {
    let dir = tempfile::tempdir().unwrap();
    let identity = PeerIdentity::open(OsDisk::shared(), dir.path(), PeerId::random()).unwrap();
    let store = Mfile::open(Arc::new(identity), OPTIONS).unwrap();
    Subject { store: Arc::new(store), _dir: Some(dir) }
}

fn mfile_on_sim_disk() -> Subject {
    let disk = SimDisk::new(3, 1 << 20).shared();
    let identity = PeerIdentity::open(disk, "/data".as_ref(), PeerId::random()).unwrap();
    Subject { store: Arc::new(Mfile::open(Arc::new(identity), OPTIONS).unwrap()), _dir: None }
}

fn read(store: &dyn BlockStore, block: BlockRef, offset: u32, length: usize) -> Vec<u8> {
    let mut buffer = vec![0; length];
    store.read(block, offset, &mut buffer).unwrap();
    let mut cached = vec![0; length];
    if store.read_cached(block, offset, &mut cached).unwrap() {
        assert_eq!(cached, buffer);
    }
    buffer
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, crate::Error>, expected: Expect) {
    expected.assert_eq(&result.unwrap_err().to_string());
}

macro_rules! conformance {
    ($($case:ident),* $(,)?) => {
        mod on_temp { $(#[test] fn $case() { super::$case(&*super::temp().store) })* }
        mod on_os_disk { $(#[test] fn $case() { super::$case(&*super::mfile_on_os_disk().store) })* }
        mod on_sim_disk { $(#[test] fn $case() { super::$case(&*super::mfile_on_sim_disk().store) })* }
    };
}

conformance!(
    appends_are_read_back,
    appends_are_in_order,
    a_block_ends,
    seals_are_checked,
    a_seal_cuts_off,
    sealed_blocks_do_not_change,
    put_replaces,
    deleted_blocks_are_gone,
    a_full_store_takes_blocks_again_after_a_delete,
    a_full_store_still_seals_and_deletes,
    lists_are_in_order_and_in_pages,
    an_empty_block_is_a_block,
    many_threads,
);

fn appends_are_read_back(store: &dyn BlockStore) {
    let bytes = content(1, 3000);
    store.append(block(1), 0, &bytes[..100]).unwrap();
    store.append(block(2), 0, &[7; 10]).unwrap();
    store.append(block(1), 100, &bytes[100..]).unwrap();
    store.sync().unwrap();
    assert_eq!(read(store, block(1), 0, 3000), bytes);
    assert_eq!(read(store, block(1), 90, 20), bytes[90..110]);
    assert_eq!(read(store, block(1), 3000, 0), []);
    assert_eq!(store.state(block(1)), Some(BlockState::Open { length: 3000 }));
    assert_eq!(store.used_blocks(), 2);
    assert_eq!(store.geometry(), Geometry { block_size: BLOCK_SIZE, capacity_blocks: CAPACITY });
}

fn appends_are_in_order(store: &dyn BlockStore) {
    refused(store.append(block(1), 5, &[1]), expect!["br 1 : 1 : 1 is not here"]);
    store.append(block(1), 0, &[1; 10]).unwrap();
    let expected = expect!["br 1 : 1 : 1 is 10 bytes long, the append is for offset 11"];
    refused(store.append(block(1), 11, &[1]), expected);
    let expected = expect!["br 1 : 1 : 1 is 10 bytes long, the append is for offset 0"];
    refused(store.append(block(1), 0, &[1]), expected);
    assert_eq!(store.state(block(1)), Some(BlockState::Open { length: 10 }));
}

fn a_block_ends(store: &dyn BlockStore) {
    let whole = content(1, 4096);
    let expected = expect!["br 1 : 1 : 1 would be 4097 bytes long, a block has 4096"];
    refused(store.append(block(1), 0, &[0; 4097]), expected);
    assert_eq!(store.state(block(1)), None);
    store.append(block(1), 0, &whole).unwrap();
    let expected = expect!["br 1 : 1 : 1 would be 4294967296 bytes long, a block has 4096"];
    refused(store.append(block(1), u32::MAX, &[0]), expected);
    let expected = expect!["br 1 : 1 : 1 is 4096 bytes long, byte 4097 was asked for"];
    refused(store.read(block(1), 4090, &mut [0; 7]), expected);
    refused(store.read(block(2), 0, &mut [0; 7]), expect!["br 1 : 1 : 2 is not here"]);
    assert_eq!(read(store, block(1), 0, 4096), whole);
}

fn seals_are_checked(store: &dyn BlockStore) {
    let bytes = content(1, 1000);
    let seal = Seal::of(&bytes);
    refused(store.seal(block(1), seal), expect!["br 1 : 1 : 1 is not here"]);
    store.append(block(1), 0, &bytes[..999]).unwrap();
    let expected = expect!["br 1 : 1 : 1 is 999 bytes long, byte 1000 was asked for"];
    refused(store.seal(block(1), seal), expected);
    let mut wrong = bytes.clone();
    wrong[500] ^= 1;
    store.append(block(1), 999, &bytes[999..]).unwrap();
    let expected = expect!["checksum of br 1 : 1 : 1 is 0x20adf2ae, expected 0xc5d61092"];
    refused(store.seal(block(1), Seal::of(&wrong)), expected);
    assert_eq!(store.state(block(1)), Some(BlockState::Open { length: 1000 }));
    store.seal(block(1), seal).unwrap();
    assert_eq!(store.state(block(1)), Some(BlockState::Sealed(seal)));
}

fn a_seal_cuts_off(store: &dyn BlockStore) {
    let bytes = content(1, 1000);
    store.append(block(1), 0, &bytes).unwrap();
    let seal = Seal::of(&bytes[..600]);
    store.seal(block(1), seal).unwrap();
    store.sync().unwrap();
    assert_eq!(store.state(block(1)), Some(BlockState::Sealed(seal)));
    assert_eq!(read(store, block(1), 0, 600), bytes[..600]);
    let expected = expect!["br 1 : 1 : 1 is 600 bytes long, byte 601 was asked for"];
    refused(store.read(block(1), 0, &mut [0; 601]), expected);
}

fn sealed_blocks_do_not_change(store: &dyn BlockStore) {
    let bytes = content(1, 1000);
    store.append(block(1), 0, &bytes).unwrap();
    store.seal(block(1), Seal::of(&bytes)).unwrap();
    refused(store.append(block(1), 1000, &[1]), expect!["br 1 : 1 : 1 is sealed"]);
    store.seal(block(1), Seal::of(&bytes)).unwrap();
    let expected = expect!["br 1 : 1 : 1 is sealed otherwise: 1000 bytes, checksum 0x20adf2ae"];
    refused(store.seal(block(1), Seal::of(&bytes[..10])), expected);
    assert_eq!(read(store, block(1), 0, 1000), bytes);
}

fn put_replaces(store: &dyn BlockStore) {
    for (number, length) in [(1, 1000), (2, 4096), (3, 0), (4, 1)] {
        let bytes = content(number, length);
        store.put(block(1), &bytes).unwrap();
        assert_eq!(store.state(block(1)), Some(BlockState::Sealed(Seal::of(&bytes))));
        assert_eq!(read(store, block(1), 0, length), bytes);
        assert_eq!(store.used_blocks(), 1);
    }
    store.append(block(2), 0, &[1; 100]).unwrap();
    store.put(block(2), &[2; 50]).unwrap();
    store.sync().unwrap();
    assert_eq!(read(store, block(2), 0, 50), [2; 50]);
    let expected = expect!["br 1 : 1 : 1 would be 4097 bytes long, a block has 4096"];
    refused(store.put(block(1), &[0; 4097]), expected);
    // Old copies give their slots back.
    for number in 0..CAPACITY * 3 {
        store.put(block(1), &content(number, 10)).unwrap();
    }
    assert_eq!(read(store, block(1), 0, 10), content(CAPACITY * 3 - 1, 10));
}

fn deleted_blocks_are_gone(store: &dyn BlockStore) {
    assert!(!store.delete(block(1)).unwrap());
    store.append(block(1), 0, &[1; 100]).unwrap();
    store.put(block(2), &[2; 100]).unwrap();
    assert!(store.delete(block(1)).unwrap());
    assert!(store.delete(block(2)).unwrap());
    assert!(!store.delete(block(2)).unwrap());
    assert_eq!((store.state(block(1)), store.used_blocks()), (None, 0));
    refused(store.read(block(1), 0, &mut [0; 1]), expect!["br 1 : 1 : 1 is not here"]);
    store.append(block(1), 0, &[3; 5]).unwrap();
    store.sync().unwrap();
    assert_eq!(store.state(block(1)), Some(BlockState::Open { length: 5 }));
}

fn a_full_store_takes_blocks_again_after_a_delete(store: &dyn BlockStore) {
    for index in 0..CAPACITY {
        store.append(block(index), 0, &content(index, 100)).unwrap();
    }
    let expected = expect!["no free slot among 8"];
    refused(store.append(block(CAPACITY), 0, &[1]), expected);
    refused(store.put(block(CAPACITY), &[1]), expect!["no free slot among 8"]);
    store.append(block(0), 100, &[1]).unwrap();
    for index in 0..CAPACITY * 4 {
        assert!(store.delete(block(index)).unwrap());
        let next = index + CAPACITY;
        store.append(block(next), 0, &content(next, 100)).unwrap();
    }
    for index in CAPACITY * 4..CAPACITY * 5 {
        assert_eq!(read(store, block(index), 0, 100), content(index, 100));
    }
    assert_eq!(store.used_blocks(), CAPACITY);
}

fn a_full_store_still_seals_and_deletes(store: &dyn BlockStore) {
    for index in 0..CAPACITY {
        store.append(block(index), 0, &content(index, 100)).unwrap();
    }
    store.sync().unwrap();
    for index in 0..CAPACITY {
        store.append(block(index), 100, &[7; 10]).unwrap();
        let whole = [content(index, 100), vec![7; 10]].concat();
        store.seal(block(index), Seal::of(&whole)).unwrap();
        assert_eq!(read(store, block(index), 0, 110), whole);
    }
    store.sync().unwrap();
    refused(store.append(block(CAPACITY), 0, &[1]), expect!["no free slot among 8"]);
    for index in 0..CAPACITY {
        assert!(store.delete(block(index)).unwrap());
        assert!(!store.delete(block(index)).unwrap());
    }
    assert_eq!(store.used_blocks(), 0);
    for index in 0..CAPACITY {
        store.put(block(index), &content(index, 100)).unwrap();
    }
    store.sync().unwrap();
}

fn lists_are_in_order_and_in_pages(store: &dyn BlockStore) {
    for index in [3, 1, 2] {
        store.append(block(index), 0, &[1]).unwrap();
    }
    let open = BlockState::Open { length: 1 };
    let first = store.list(None, 2);
    assert_eq!(first, [(block(1), open), (block(2), open)]);
    assert_eq!(store.list(Some(block(2)), 2), [(block(3), open)]);
    assert_eq!(store.list(Some(block(0)), 1), [(block(1), open)]);
    assert_eq!(store.list(Some(block(3)), 2), []);
}

fn an_empty_block_is_a_block(store: &dyn BlockStore) {
    store.append(block(1), 0, &[]).unwrap();
    assert_eq!(store.state(block(1)), Some(BlockState::Open { length: 0 }));
    store.seal(block(1), Seal::of(&[])).unwrap();
    store.sync().unwrap();
    assert_eq!(store.state(block(1)), Some(BlockState::Sealed(Seal { length: 0, crc: 0 })));
}

/// Four writers, each with blocks of its own that it appends to, seals, replaces and deletes, and
/// one reader, which must never see bytes of another block.
fn many_threads(store: &dyn BlockStore) {
    const WRITERS: u64 = 4;
    let fill = |index: u64| u8::try_from(index % 251).unwrap() + 1;
    thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                scope.spawn(move || {
                    for round in 0..40 {
                        let index = writer + round * WRITERS;
                        let bytes = [fill(index); 512];
                        for part in 0..4 {
                            store.append(block(index), part * 512, &bytes).unwrap();
                            store.sync().unwrap();
                        }
                        let whole = bytes.repeat(4);
                        store.seal(block(index), Seal::of(&whole)).unwrap();
                        assert_eq!(read(store, block(index), 0, 2048), whole);
                        if round % 3 == 0 {
                            store.put(block(index), &whole).unwrap();
                        }
                        assert!(store.delete(block(index)).unwrap());
                    }
                })
            })
            .collect();
        while writers.iter().any(|writer| !writer.is_finished()) {
            for (held, _) in store.list(None, 8) {
                let mut buffer = [0; 512];
                if store.read(held, 0, &mut buffer).is_ok() {
                    assert_eq!(buffer, [fill(held.index.0); 512]);
                }
            }
        }
    });
    store.sync().unwrap();
    assert_eq!(store.used_blocks(), 0);
}
