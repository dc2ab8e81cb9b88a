//! The rules, request by request.

use expect_test::{Expect, expect};
use std::sync::Arc;
use torus_blockstore::{
    Append, BlockKind, BlockRef, BlockStore, ByteRange, Epoch, FenceTable, Mfile, MfileOptions,
    PeerIdentity, Seal,
};
use torus_metadata::RingVersion;

use super::Keeper;
use crate::lock::lock;
use crate::testing::{BLOCK_SIZE, Rigged, block, volume};
use crate::{Request, StateQuery};

fn keeper() -> (Keeper, Arc<Rigged>) {
    let store = Rigged::new(3);
    let fences = Arc::new(FenceTable::in_memory());
    (Keeper::new(Arc::clone(&store) as _, fences), store)
}

#[track_caller]
fn check(keeper: &Keeper, request: Request, expected: Expect) {
    expected.assert_eq(&match keeper.execute(request) {
        Ok((response, due)) => format!("{response:?} {due:?}"),
        Err(refusal) => format!("{refusal:?}"),
    });
}

fn append(epoch: u64, offset: u32, data: &'static str, sync: bool) -> Request {
    let data = vec![data.into()];
    Request::Append(Append {
        block: block(1),
        epoch: Epoch(epoch),
        offset,
        data,
        sync,
        past_cache: false,
    })
}

fn put(epoch: u64, data: &'static str) -> Request {
    Request::Put { block: block(1), epoch: Epoch(epoch), data: data.into() }
}

fn seal(epoch: u64, data: &str) -> Request {
    Request::Seal { block: block(1), epoch: Epoch(epoch), seal: Seal::of(data.as_bytes()) }
}

fn state(verify: bool, ring: Option<u64>) -> Request {
    let blocks = vec![block(1)];
    Request::State(StateQuery { blocks, verify, ring: ring.map(RingVersion) })
}

#[test]
fn appends_come_in_order_and_answers_when_due() {
    let (keeper, _) = keeper();
    check(&keeper, append(1, 0, "abc", false), expect!["Done Now"]);
    check(&keeper, append(1, 3, "def", true), expect!["Done AfterSync"]);
    check(&keeper, append(1, 3, "def", true), expect!["BadOffset"]);
    check(&keeper, append(1, 6, "", true), expect!["Done AfterSync"]);
    check(&keeper, append(1, 9, "", true), expect!["BadOffset"]);
    check(&keeper, seal(1, "abcdef"), expect!["Done AfterSync"]);
    check(&keeper, append(1, 6, "ghi", true), expect!["Sealed"]);
}

#[test]
fn bytes_that_a_copy_brought_before_their_writer_did_are_taken() {
    let (keeper, _) = keeper();
    check(&keeper, append(1, 0, "abc", false), expect!["Done Now"]);
    check(&keeper, put(0, "abcdef"), expect!["Done AfterSync"]);
    check(&keeper, append(1, 3, "de", false), expect!["Done Now"]);
    check(&keeper, append(1, 5, "f", true), expect!["Done AfterSync"]);
    check(&keeper, append(1, 5, "", true), expect!["Done AfterSync"]);
    check(&keeper, append(1, 5, "g", true), expect!["Sealed"]);
    check(&keeper, append(1, 5, "fg", true), expect!["Sealed"]);
    check(&keeper, append(1, 7, "", true), expect!["BadOffset"]);
    check(&keeper, seal(1, "abcdef"), expect!["Done AfterSync"]);
}

#[test]
fn a_sync_of_bytes_that_a_crash_may_have_lost_is_refused() {
    let (keeper, store) = keeper();
    check(&keeper, append(1, 0, "abc", false), expect!["Done Now"]);
    lock(&store.unsettled).insert(block(1));
    check(&keeper, append(1, 3, "", true), expect!["Unsettled"]);
    store.delete(block(1)).unwrap();
    check(&keeper, append(1, 3, "", true), expect!["NoSuchBlock"]);
}

#[test]
fn older_epochs_are_refused_everywhere() {
    let (keeper, _) = keeper();
    let fence = |epoch| Request::Fence { volume: volume(1), epoch: Epoch(epoch) };
    check(&keeper, append(4, 0, "abc", false), expect!["Done Now"]);
    check(&keeper, fence(3), expect!["Newest(Epoch(4)) Now"]);
    check(&keeper, fence(5), expect!["Newest(Epoch(5)) Now"]);
    check(&keeper, append(4, 3, "def", false), expect!["Fenced { newest: Epoch(5) }"]);
    check(&keeper, append(4, 3, "", true), expect!["Fenced { newest: Epoch(5) }"]);
    check(&keeper, seal(4, "abc"), expect!["Fenced { newest: Epoch(5) }"]);
    check(&keeper, put(4, "abc"), expect!["Fenced { newest: Epoch(5) }"]);
    let delete = Request::Delete { epoch: Epoch(4), blocks: vec![block(1)] };
    check(&keeper, delete, expect!["Fenced { newest: Epoch(5) }"]);
}

#[test]
fn nobody_repairs_but_does_not_write() {
    let (keeper, _) = keeper();
    check(&keeper, append(0, 0, "abc", false), expect!["Invalid"]);
    let fence = Request::Fence { volume: volume(1), epoch: Epoch(0) };
    check(&keeper, fence, expect!["Invalid"]);
    let delete = Request::Delete { epoch: Epoch(0), blocks: vec![block(1)] };
    check(&keeper, delete, expect!["Invalid"]);
    check(&keeper, put(0, "abc"), expect!["Done AfterSync"]);
    check(&keeper, seal(0, "abc"), expect!["Done AfterSync"]);
}

#[test]
fn a_good_sealed_copy_is_replaced_by_its_owner_only() {
    let (keeper, store) = keeper();
    check(&keeper, put(0, "first"), expect!["Done AfterSync"]);
    check(&keeper, put(0, "first"), expect!["Done AfterSync"]);
    check(&keeper, put(0, "other"), expect!["Sealed"]);
    check(&keeper, seal(0, "other"), expect!["Sealed"]);
    check(&keeper, put(1, "other"), expect!["Done AfterSync"]);
    lock(&store.rotten).insert(block(1));
    check(&keeper, put(0, "third"), expect!["Done AfterSync"]);
    assert_eq!(store.state(block(1)), Some(super::BlockState::Sealed(Seal::of(b"third"))));
}

#[test]
fn what_its_owner_deleted_nobody_brings_back() {
    let (keeper, store) = keeper();
    check(&keeper, put(1, "abc"), expect!["Done AfterSync"]);
    let delete = Request::Delete { epoch: Epoch(1), blocks: vec![block(1)] };
    check(&keeper, delete, expect!["Done AfterSync"]);
    check(&keeper, put(0, "abc"), expect!["Deleted"]);
    assert_eq!(store.state(block(1)), None);
    check(&keeper, put(1, "abc"), expect!["Done AfterSync"]);
    store.delete(block(1)).unwrap();
    check(&keeper, put(0, "abc"), expect!["Done AfterSync"]);
}

#[test]
fn a_seal_that_does_not_match_is_refused() {
    let (keeper, _) = keeper();
    check(&keeper, append(1, 0, "abc", false), expect!["Done Now"]);
    check(&keeper, seal(1, "abcd"), expect!["BadOffset"]);
    check(&keeper, seal(1, "abx"), expect!["Corrupt"]);
    check(&keeper, seal(1, "ab"), expect!["Done AfterSync"]);
}

#[test]
fn a_bad_copy_is_named_and_noted() {
    let (keeper, store) = keeper();
    check(&keeper, put(0, "abc"), expect!["Done AfterSync"]);
    lock(&store.rotten).insert(block(1));
    let sealed = expect!["States([Some(Sealed(Seal { length: 3, crc: 891568578 }))]) Now"];
    check(&keeper, state(false, None), sealed);
    check(&keeper, state(true, None), expect!["States([Some(Unsettled)]) Now"]);
    assert!(lock(&keeper.suspects).contains(&block(1)));
    check(&keeper, Request::Fetch { block: block(1) }, expect!["Corrupt"]);
}

#[test]
fn an_answer_for_another_ring_is_refused_and_nothing_dropped_under_it() {
    let (keeper, store) = keeper();
    check(&keeper, put(0, "abc"), expect!["Done AfterSync"]);
    check(&keeper, state(false, Some(7)), expect!["OtherRing { current: RingVersion(0) }"]);
    keeper.enter_ring(RingVersion(7));
    let sealed = expect!["States([Some(Sealed(Seal { length: 3, crc: 891568578 }))]) Now"];
    check(&keeper, state(false, Some(7)), sealed);
    assert_eq!(keeper.drop_misplaced(block(1), RingVersion(6)), Ok(false));
    assert!(store.state(block(1)).is_some());
    assert_eq!(keeper.drop_misplaced(block(1), RingVersion(7)), Ok(true));
    check(&keeper, state(false, Some(7)), expect!["States([None]) Now"]);
}

#[test]
fn reads_are_bounded() {
    let (keeper, _) = keeper();
    check(&keeper, put(0, "abc"), expect!["Done AfterSync"]);
    let read = |offset, length| {
        let ranges = vec![ByteRange { offset, length }; 2];
        Request::Read { block: block(1), ranges }
    };
    check(&keeper, read(1, 2), expect![[r#"Data(b"bcbc") Now"#]]);
    check(&keeper, read(2, 2), expect!["BadOffset"]);
    check(&keeper, read(0, BLOCK_SIZE), expect!["BadOffset"]);
    check(&keeper, read(0, u32::MAX), expect!["Invalid"]);
    let big = Request::Put { block: block(2), epoch: Epoch(0), data: vec![0; 65537].into() };
    check(&keeper, big, expect!["Invalid"]);
}

fn put_at(index: u64, epoch: u64) -> Request {
    Request::Put { block: block(index), epoch: Epoch(epoch), data: "x".into() }
}

#[test]
fn the_reserve_is_for_writers() {
    // Eight blocks: two are the reserve.
    let store = Rigged::new(8);
    let keeper = Keeper::new(Arc::clone(&store) as _, Arc::new(FenceTable::in_memory()));
    for index in 1..=6 {
        check(&keeper, put_at(index, 0), expect!["Done AfterSync"]);
    }
    check(&keeper, put_at(7, 0), expect!["Full"]);
    check(&keeper, put_at(7, 1), expect!["Done AfterSync"]);
    let append = |index| {
        let (block, data) = (block(index), vec!["abc".into()]);
        Request::Append(Append {
            block,
            epoch: Epoch(1),
            offset: 0,
            data,
            sync: true,
            past_cache: false,
        })
    };
    check(&keeper, append(8), expect!["Done AfterSync"]);
    check(&keeper, append(9), expect!["Full"]);
    check(&keeper, put_at(9, 1), expect!["Full"]);
    // A copy that is there already can be mended all the same.
    lock(&store.rotten).insert(block(3));
    check(&keeper, put_at(3, 0), expect!["Done AfterSync"]);
    check(&keeper, put_at(4, 0), expect!["Done AfterSync"]);
}

#[test]
fn the_last_of_the_reserve_is_for_checkpoints() {
    // Forty blocks: ten are the reserve, and two its last quarter.
    let store = Rigged::new(40);
    let keeper = Keeper::new(Arc::clone(&store) as _, Arc::new(FenceTable::in_memory()));
    for index in 2..=37 {
        check(&keeper, put_at(index, 1), expect!["Done AfterSync"]);
    }
    let begin = |block: BlockRef| {
        let data = vec!["abc".into()];
        Request::Append(Append {
            block,
            epoch: Epoch(1),
            offset: 0,
            data,
            sync: true,
            past_cache: false,
        })
    };
    check(&keeper, begin(block(1)), expect!["Done AfterSync"]);
    check(&keeper, append(1, 3, "def", true), expect!["Done AfterSync"]);
    assert_eq!(keeper.usage().free_blocks(), 3);
    check(&keeper, begin(block(38)), expect!["Done AfterSync"]);
    check(&keeper, begin(block(39)), expect!["Full"]);
    check(&keeper, append(1, 6, "ghi", true), expect!["Done AfterSync"]);
    check(&keeper, put_at(39, 1), expect!["Done AfterSync"]);
    let inode = BlockRef { kind: BlockKind::INode, ..block(40) };
    check(&keeper, begin(inode), expect!["Done AfterSync"]);
    check(&keeper, put_at(41, 1), expect!["Full"]);
}

#[test]
fn a_full_store_still_reads_seals_fences_and_deletes() {
    let (keeper, store) = keeper();
    check(&keeper, append(1, 0, "abc", true), expect!["Done AfterSync"]);
    check(&keeper, put_at(2, 1), expect!["Done AfterSync"]);
    check(&keeper, put_at(3, 1), expect!["Done AfterSync"]);
    assert_eq!(keeper.usage().free_blocks(), 0);
    check(&keeper, put_at(4, 1), expect!["Full"]);
    check(&keeper, append(1, 3, "def", true), expect!["Done AfterSync"]);
    check(&keeper, seal(1, "abcdef"), expect!["Done AfterSync"]);
    let fence = Request::Fence { volume: volume(1), epoch: Epoch(2) };
    check(&keeper, fence, expect!["Newest(Epoch(2)) Now"]);
    let ranges = vec![ByteRange { offset: 2, length: 2 }];
    check(&keeper, Request::Read { block: block(1), ranges }, expect![[r#"Data(b"cd") Now"#]]);
    let blocks = (1..=3).map(block).collect();
    check(&keeper, Request::Delete { epoch: Epoch(2), blocks }, expect!["Done AfterSync"]);
    assert_eq!(store.used_blocks(), 0);
    check(&keeper, put_at(4, 2), expect!["Done AfterSync"]);
}

/// A disk on which a fence can be written, and cannot be synced.
#[test]
fn an_epoch_that_could_not_be_kept_is_not_let_in_later() {
    let disk = torus_blockstore::SimDisk::new(1, 1 << 20);
    let peer = crate::testing::peer(1);
    let identity = PeerIdentity::open(disk.shared(), "/data".as_ref(), peer).unwrap();
    let identity = Arc::new(identity);
    let options = MfileOptions { block_size: 512, capacity_bytes: 4096 };
    Mfile::open(Arc::clone(&identity), options).unwrap();
    let fences = Arc::new(FenceTable::open(&identity).unwrap());
    let keeper = Keeper::new(Rigged::new(3), fences);
    check(&keeper, append(1, 0, "abc", true), expect!["Done AfterSync"]);
    disk.fail(2, torus_blockstore::Fault::Io);
    check(&keeper, append(2, 3, "def", true), expect!["Disk"]);
    check(&keeper, append(2, 3, "def", true), expect!["Disk"]);
    check(&keeper, put(2, "other"), expect!["Disk"]);
    check(&keeper, append(1, 3, "def", true), expect!["Fenced { newest: Epoch(2) }"]);
}
