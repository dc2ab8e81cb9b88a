//! What the two tables say of a slot, and what that means when the store is opened.
//!
//! `map-current.blk` has 24 bytes a slot: the [`BlockRef`] (see there). They may be torn by a
//! crash, and count only if the seal table vouches for them.
//!
//! `seal-current.blk` has 16 bytes a slot, so that no entry crosses a sector; integers
//! little-endian. All zero: the slot is free, whatever the map says.
//!
//! | offset | size | field  | meaning                                                          |
//! |-------:|-----:|--------|------------------------------------------------------------------|
//! |      0 |    4 | length | sealed length in bytes; 0 if open                                |
//! |      4 |    4 | crc    | CRC-32 (IEEE) of the content; 0 if open                          |
//! |      8 |    4 | state  | 1 open, 2 sealed                                                 |
//! |     12 |    4 | bind   | CRC-32 (IEEE) of `u64` slot number, `BlockRef`, bytes 0 to 11    |
//!
//! An entry is written only after what it vouches for is durable: the map entry for an open block,
//! the content too for a sealed one. A free slot is given away only after its zero entry is
//! durable. Hence a crash leaves exactly these cases:
//!
//! | map entry   | seal entry        | the slot                                              |
//! |-------------|-------------------|-------------------------------------------------------|
//! | anything    | zero              | is free                                               |
//! | a reference | open, binds it    | holds the block, unsettled                            |
//! | a reference | sealed, binds it  | holds the block, sealed                               |
//!
//! and decay or another program's writes these:
//!
//! | map entry   | seal entry        | the slot                                              |
//! |-------------|-------------------|-------------------------------------------------------|
//! | a reference | does not bind it  | may hold the block: unsettled, behind any other copy  |
//! | none        | not zero          | has no name any more: freed, with a warning           |

use crate::field::{array, u32_at};
use crate::{BlockRef, Seal};

/// A slot's number, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SlotIndex(pub(super) u64);

impl SlotIndex {
    /// Where the slot's entry is in a table of entries of `len` bytes.
    pub(super) fn offset(self, len: usize) -> u64 {
        self.0 * len as u64
    }
}

const LENGTH: usize = 0;
const CONTENT_CRC: usize = 4;
const STATE: usize = 8;
const BIND: usize = 12;
const OPEN: u32 = 1;
const SEALED: u32 = 2;

/// Encoded size of an entry of the seal table.
pub(super) const SEAL_LEN: usize = BIND + size_of::<u32>();

/// What a free slot has in the seal table.
pub(super) const FREE: [u8; SEAL_LEN] = [0; SEAL_LEN];

/// The entry of a slot that holds `block`: sealed, or open.
pub(super) fn encode(slot: SlotIndex, block: BlockRef, seal: Option<Seal>) -> [u8; SEAL_LEN] {
    let mut entry = FREE;
    let state = if seal.is_some() { SEALED } else { OPEN };
    let Seal { length, crc } = seal.unwrap_or(Seal { length: 0, crc: 0 });
    entry[LENGTH..CONTENT_CRC].copy_from_slice(&length.to_le_bytes());
    entry[CONTENT_CRC..STATE].copy_from_slice(&crc.to_le_bytes());
    entry[STATE..BIND].copy_from_slice(&state.to_le_bytes());
    let bind = bind(slot, &block.encode(), &entry);
    entry[BIND..].copy_from_slice(&bind.to_le_bytes());
    entry
}

fn bind(slot: SlotIndex, name: &[u8; BlockRef::LEN], entry: &[u8; SEAL_LEN]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&slot.0.to_le_bytes());
    crc.update(name);
    crc.update(&entry[..BIND]);
    crc.finalize()
}

/// The cases of the tables above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Free,
    Open(BlockRef),
    Sealed(BlockRef, Seal),
    Unproven(BlockRef),
    Nameless,
}

/// Which case a slot is.
pub(super) fn classify(
    slot: SlotIndex,
    name: &[u8; BlockRef::LEN],
    entry: &[u8; SEAL_LEN],
    block_size: u32,
) -> Found {
    if *entry == FREE {
        return Found::Free;
    }
    let Ok(block) = BlockRef::decode(name) else {
        return Found::Nameless;
    };
    if u32::from_le_bytes(array(entry, BIND)) != bind(slot, name, entry) {
        return Found::Unproven(block);
    }
    let seal = Seal { length: u32_at(entry, LENGTH), crc: u32_at(entry, CONTENT_CRC) };
    match u32_at(entry, STATE) {
        OPEN => Found::Open(block),
        SEALED if seal.length <= block_size => Found::Sealed(block, seal),
        _ => Found::Unproven(block),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BlockIndex, BlockKind, INodeIndex, VolumeId};
    use expect_test::{Expect, expect};

    const SLOT: SlotIndex = SlotIndex(3);
    const SEAL: Seal = Seal { length: 0x1234, crc: 0x0a0b_0c0d };

    fn block() -> BlockRef {
        BlockRef {
            volume: VolumeId::new(1).unwrap(),
            kind: BlockKind::Data,
            inode: INodeIndex(2),
            index: BlockIndex(5),
        }
    }

    #[test]
    fn golden_bytes() {
        let entry = encode(SLOT, block(), Some(SEAL));
        assert_eq!(entry[..BIND], [0x34, 0x12, 0, 0, 0x0d, 0x0c, 0x0b, 0x0a, 2, 0, 0, 0]);
        let mut bound = vec![3, 0, 0, 0, 0, 0, 0, 0];
        bound.extend(block().encode());
        bound.extend(&entry[..BIND]);
        assert_eq!(u32_at(&entry, BIND), crc32fast::hash(&bound));
        assert_eq!(encode(SLOT, block(), None)[..BIND], [0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
    }

    #[test]
    fn every_flipped_byte_is_refused() {
        let name = block().encode();
        for seal in [None, Some(SEAL)] {
            for index in 0..SEAL_LEN {
                let mut entry = encode(SLOT, block(), seal);
                entry[index] ^= 4;
                assert_eq!(classify(SLOT, &name, &entry, 0x8000), Found::Unproven(block()));
            }
        }
    }

    #[test]
    fn every_combination_is_one_case() {
        let other = BlockRef { index: BlockIndex(6), ..block() };
        let unknown_kind = [0xff; BlockRef::LEN];
        let mut seen = Vec::new();
        for (map, name) in [
            ("zero", [0; BlockRef::LEN]),
            ("undecodable", unknown_kind),
            ("reference", block().encode()),
        ] {
            for (seal, entry) in [
                ("zero", FREE),
                ("open", encode(SLOT, block(), None)),
                ("sealed", encode(SLOT, block(), Some(SEAL))),
                ("too long", encode(SLOT, block(), Some(Seal { length: 0x8001, crc: 0 }))),
                ("of another block", encode(SLOT, other, Some(SEAL))),
                ("of another slot", encode(SlotIndex(4), block(), Some(SEAL))),
                ("noise", [0xa5; SEAL_LEN]),
            ] {
                let found = match classify(SLOT, &name, &entry, 0x8000) {
                    Found::Free => "free",
                    Found::Open(_) => "open",
                    Found::Sealed(_, _) => "sealed",
                    Found::Unproven(_) => "unproven",
                    Found::Nameless => "nameless",
                };
                seen.push(format!("{map:11} | {seal:16} | {found}\n"));
            }
        }
        let expected: Expect = expect![[r#"
            zero        | zero             | free
            zero        | open             | nameless
            zero        | sealed           | nameless
            zero        | too long         | nameless
            zero        | of another block | nameless
            zero        | of another slot  | nameless
            zero        | noise            | nameless
            undecodable | zero             | free
            undecodable | open             | nameless
            undecodable | sealed           | nameless
            undecodable | too long         | nameless
            undecodable | of another block | nameless
            undecodable | of another slot  | nameless
            undecodable | noise            | nameless
            reference   | zero             | free
            reference   | open             | open
            reference   | sealed           | sealed
            reference   | too long         | unproven
            reference   | of another block | unproven
            reference   | of another slot  | unproven
            reference   | noise            | unproven
        "#]];
        expected.assert_eq(&seen.concat());
    }
}
