//! The bytes of blocksets.

use expect_test::{Expect, expect};
use proptest::prelude::{any, prop, prop_assert_eq, proptest};

use super::*;
use crate::{BlockIndex, BlockKind, INodeIndex, VolumeId};

fn block(index: u64) -> BlockRef {
    BlockRef {
        volume: VolumeId::new(1).unwrap(),
        kind: BlockKind::Data,
        inode: INodeIndex(2),
        index: BlockIndex(index),
    }
}

fn example(spec: &str) -> BlockSet {
    let mut set = BlockSet::new(spec.parse().unwrap());
    set.push(block(3), Seal { length: 0x8_0000, crc: 0x0403_0201 });
    set.push(block(4), Seal { length: 5, crc: 0x0807_0605 });
    set
}

/// The bytes with a right checksum at the end.
fn summed(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let crc = crc32fast::hash(&bytes);
    bytes.extend(crc.to_le_bytes());
    bytes
}

#[test]
fn golden_bytes() {
    #[rustfmt::skip]
    let bytes = [
        b'T', b'B', b'S', b'T',  1, 0, 0, 0,  3, 0, 0, 0,
        2, 0, 0, 0,  4, 0, 0, 0, 0, 0, 0, 0,
        3, 0, 0, 0,
        1, 0, 0, 0,  8, 0, 0, 0, 0, 0, 0, 0,
        1, 2, 3, 4,
        5, 6, 7, 8,
        0, 0, 0, 0,  56, 0, 0, 0, 0, 0, 0, 0,
        1, 0, 0, 0, 0, 0, 0, 0,  2, 0, 0, 0, 0, 0, 0, 0,  3, 0, 0, 0, 0, 0, 0, 0,  0, 0, 8, 0,
        1, 0, 0, 0, 0, 0, 0, 0,  2, 0, 0, 0, 0, 0, 0, 0,  4, 0, 0, 0, 0, 0, 0, 0,  5, 0, 0, 0,
    ];
    let set = example("rep=3,crc,base");
    assert_eq!(set.encode(), summed(&bytes));
    assert_eq!(BlockSet::decode(&summed(&bytes)), Ok(set));
}

#[test]
fn every_flipped_byte_is_refused() {
    for spec in ["base", "crc", "crc,rep=2"] {
        let bytes = example(spec).encode();
        for index in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[index] ^= 0x40;
            BlockSet::decode(&flipped).unwrap_err();
            BlockSet::decode(&bytes[..index]).unwrap_err();
        }
    }
}

#[test]
fn layers_keep_what_is_theirs() {
    let first = |spec| example(spec).iter().next().unwrap();
    assert_eq!(first("crc").crc, Some(0x0403_0201));
    assert_eq!(first("base"), LiveBlock { block: block(3), length: 0x8_0000, crc: None });
    assert_eq!(example("rep=3").spec().copies(), Some(3));
    assert_eq!((example("crc").len(), example("crc").is_empty()), (2, false));
    // Torus: 28 bytes a block; the sealed length is ours.
    let empty = BlockSet::new("crc".parse().unwrap());
    assert_eq!(example("crc").encode().len() - empty.encode().len(), 2 * 32);
}

/// Layers of kind and content, with head and checksum right.
#[track_caller]
fn check_refused(layers: &[(u32, &[u8])], expected: Expect) {
    let mut bytes = b"TBST\x01\0\0\0".to_vec();
    bytes.extend(u32::try_from(layers.len()).unwrap().to_le_bytes());
    for (kind, content) in layers {
        bytes.extend(kind.to_le_bytes());
        bytes.extend((content.len() as u64).to_le_bytes());
        bytes.extend(*content);
    }
    expected.assert_eq(&BlockSet::decode(&summed(&bytes)).unwrap_err().to_string());
}

#[test]
fn nonsense_with_a_right_checksum_is_refused() {
    check_refused(&[], expect!["the layers of the blockset make no spec"]);
    check_refused(&[(1, &[])], expect!["the layers of the blockset make no spec"]);
    check_refused(&[(0, &[]), (0, &[])], expect!["the layers of the blockset make no spec"]);
    check_refused(&[(7, &[])], expect!["block layer kind 7 is unknown"]);
    check_refused(&[(0, &[1; 29])], expect!["the blockset has 29 bytes where 28 belong"]);
    check_refused(&[(0, &[0; 28])], expect!["a block of the blockset has no name"]);
    let two_sums: [(u32, &[u8]); 2] = [(1, &[0; 8]), (0, &[])];
    check_refused(&two_sums, expect!["the blockset has 8 bytes where 0 belong"]);
    let none: [(u32, &[u8]); 2] = [(2, &[0; 4]), (0, &[])];
    check_refused(&none, expect!["the layers of the blockset make no spec"]);
    let mut long = b"TBST\x01\0\0\0\x01\0\0\0\0\0\0\0".to_vec();
    long.extend(u64::MAX.to_le_bytes());
    let expected = BlockSetError::Length { expected: usize::MAX, found: 0 };
    assert_eq!(BlockSet::decode(&summed(&long)), Err(expected));
    let mut newer = example("crc").encode();
    newer[4] = 2;
    newer.truncate(newer.len() - CRC_LEN);
    assert_eq!(BlockSet::decode(&summed(&newer)), Err(BlockSetError::Version { found: 2 }));
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(
        spec in prop::sample::select(vec!["base", "crc", "rep=4", "crc,rep=2", "rep=16,crc"]),
        blocks in prop::collection::vec((1..1_u64 << 40, any::<(u64, u64, u32, u32)>()), 0..20),
    ) {
        let mut set = BlockSet::new(spec.parse().unwrap());
        for (volume, (inode, index, length, crc)) in blocks {
            let block = BlockRef {
                volume: VolumeId::new(volume).unwrap(),
                kind: BlockKind::Data,
                inode: INodeIndex(inode),
                index: BlockIndex(index),
            };
            set.push(block, Seal { length, crc });
        }
        prop_assert_eq!(BlockSet::decode(&set.encode()), Ok(set));
    }
}
