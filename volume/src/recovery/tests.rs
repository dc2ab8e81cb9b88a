//! Which copy of a block counts, and which blocks hold log.

use super::*;
use bytes::Bytes;
use expect_test::{Expect, expect};
use torus_blockstore::{BlockKind, Seal, VolumeId};
use torus_metadata::{LogPosition, RingVersion};

use crate::record::{ExtentKind, Place, RecordExtent, encode_header};

const INODE: INodeIndex = INodeIndex(5);

fn window(first: u64, count: u64, after: Option<(u64, u32)>) -> Window {
    let after =
        after.map(|(block, offset)| LogPosition { inode: INODE, block: BlockIndex(block), offset });
    Window {
        epoch: Epoch(1),
        inode: INODE,
        ring: RingVersion(1),
        excluded: Default::default(),
        first: BlockIndex(first),
        count,
        after,
    }
}

#[track_caller]
fn check_steps(windows: &[Window], from: u64, expected: Expect) {
    let steps = steps(windows, INODE, BlockIndex(from));
    let told: Vec<String> = steps
        .iter()
        .map(|step| match step.cut_at {
            Some(length) => format!("{}(w{})!{length}", step.index.0, step.window),
            None if step.given_up => format!("{}(w{})!", step.index.0, step.window),
            None => format!("{}(w{})", step.index.0, step.window),
        })
        .collect();
    expected.assert_eq(&told.join(" "));
}

#[test]
fn windows_follow_one_another() {
    let windows = [window(0, 3, None), window(3, 2, None)];
    check_steps(&windows, 1, expect!["1(w0) 2(w0) 3(w1) 4(w1)"]);
}

#[test]
fn behind_a_cut_the_log_goes_on_in_the_next_window() {
    let windows = [window(0, 3, None), window(3, 2, None), window(5, 2, Some((1, 4608)))];
    check_steps(&windows, 0, expect!["0(w0)! 1(w0)!4608 5(w2) 6(w2)"]);
}

#[test]
fn windows_of_a_recovery_that_did_not_finish_do_not_count() {
    let other = Window { inode: INodeIndex(6), ..window(0, 9, None) };
    check_steps(&[window(0, 2, None), other], 0, expect!["0(w0) 1(w0)"]);
}

fn block(index: u64) -> BlockRef {
    BlockRef {
        volume: VolumeId::new(1).unwrap(),
        kind: BlockKind::Data,
        inode: INODE,
        index: BlockIndex(index),
    }
}

/// A block of `count` records of a page each, from sequence number `first` on.
fn records(index: u64, first: u64, count: u64, previous: Option<(u64, u32)>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for sequence in first..first + count {
        let place = Place {
            block: block(index),
            epoch: Epoch(1),
            sequence,
            offset: bytes.len() as u32,
            previous: previous
                .filter(|_| bytes.is_empty())
                .map(|(index, length)| (BlockIndex(index), length)),
        };
        let page = vec![sequence as u8; PAGE as usize];
        let extent = RecordExtent { page: sequence, count: 1, kind: ExtentKind::Data };
        bytes.extend_from_slice(&encode_header(&place, &[extent], &[crc32fast::hash(&page)]));
        bytes.extend_from_slice(&page);
    }
    bytes
}

#[track_caller]
fn check_best(chain: Chain, limit: u32, copies: &[(BlockState, Vec<u8>)], expected: Expect) {
    let views = copies.iter().map(|(state, bytes)| Copy { state: *state, bytes });
    let best = best_copy(block(1), Epoch(1), chain, limit, views.enumerate());
    let told = best.map_or("none".to_owned(), |(which, found)| {
        let sealed = if found.sealed { " sealed" } else { "" };
        format!("copy {which}: {} records, {} bytes{sealed}", found.headers.len(), found.length)
    });
    expected.assert_eq(&told);
}

const CHAIN: Chain = Chain { previous: Previous::Block(BlockIndex(0), 4608), sequence: Some(1) };

#[test]
fn the_longest_run_of_valid_records_is_taken() {
    let whole = records(1, 2, 3, Some((0, 4608)));
    let mut torn = whole.clone();
    torn[5000] ^= 1;
    let copies = [(BlockState::Unsettled, torn), (BlockState::Unsettled, whole)];
    check_best(CHAIN, u32::MAX, &copies, expect!["copy 1: 3 records, 13824 bytes"]);
    check_best(CHAIN, u32::MAX, &copies[..1], expect!["copy 0: 1 records, 4608 bytes"]);
    check_best(CHAIN, 9216, &copies, expect!["copy 1: 2 records, 9216 bytes"]);
}

#[test]
fn a_sealed_copy_goes_before_a_longer_one() {
    let whole = records(1, 2, 3, Some((0, 4608)));
    let sealed = BlockState::Sealed(Seal::of(&whole[..9216]));
    let copies = [(BlockState::Unsettled, whole.clone()), (sealed, whole[..9216].to_vec())];
    check_best(CHAIN, u32::MAX, &copies, expect!["copy 1: 2 records, 9216 bytes sealed"]);
}

#[test]
fn what_does_not_follow_the_chain_is_not_log() {
    let gap = records(1, 3, 3, Some((0, 4608)));
    let shorter = records(1, 2, 3, Some((0, 4096)));
    check_best(CHAIN, u32::MAX, &[(BlockState::Unsettled, gap)], expect!["none"]);
    check_best(CHAIN, u32::MAX, &[(BlockState::Unsettled, shorter)], expect!["none"]);
    let garbage = Bytes::from(vec![0x5a; 8192]).to_vec();
    check_best(CHAIN, u32::MAX, &[(BlockState::Unsettled, garbage)], expect!["none"]);
}
