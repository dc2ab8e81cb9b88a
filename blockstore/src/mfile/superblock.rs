//! The file `superblock`: what the other files of the store are.
//!
//! 44 bytes, integers little-endian. It is replaced as a whole, and only after the files are as it
//! says; they may be longer, when growing was interrupted.
//!
//! | offset | size | field      | meaning                            |
//! |-------:|-----:|------------|------------------------------------|
//! |      0 |    8 | magic      | `TORUSBLK`                         |
//! |      8 |    4 | version    | 1                                  |
//! |     12 |    4 | block size | bytes in a slot of the data file   |
//! |     16 |    8 | capacity   | slots                              |
//! |     24 |   16 | peer       | UUID, network order                |
//! |     40 |    4 | crc        | CRC-32 (IEEE) of all before it     |

use std::path::Path;

use crate::disk::{Disk, read_file};
use crate::field::{array, u32_at, u64_at};
use crate::identity::check_head;
use crate::{Error, Geometry, PeerId};

const MAGIC: &[u8; 8] = b"TORUSBLK";
const VERSION: u32 = 1;
const BLOCK_SIZE: usize = 12;
const CAPACITY: usize = BLOCK_SIZE + size_of::<u32>();
const PEER: usize = CAPACITY + size_of::<u64>();
const CRC: usize = PEER + 16;
const LEN: usize = CRC + size_of::<u32>();

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Superblock {
    pub(super) geometry: Geometry,
    pub(super) peer: PeerId,
}

impl Superblock {
    pub(super) fn encode(&self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..BLOCK_SIZE].copy_from_slice(&VERSION.to_le_bytes());
        bytes[BLOCK_SIZE..CAPACITY].copy_from_slice(&self.geometry.block_size.to_le_bytes());
        bytes[CAPACITY..PEER].copy_from_slice(&self.geometry.capacity_blocks.to_le_bytes());
        bytes[PEER..CRC].copy_from_slice(&self.peer.encode());
        let crc = crc32fast::hash(&bytes[..CRC]);
        bytes[CRC..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn decode(path: &Path, bytes: &[u8]) -> Result<Self, Error> {
        check_head(path, bytes, MAGIC, VERSION, LEN)?;
        let geometry = Geometry {
            block_size: u32_at(bytes, BLOCK_SIZE),
            capacity_blocks: u64_at(bytes, CAPACITY),
        };
        Ok(Self { geometry, peer: PeerId::decode(array(bytes, PEER)) })
    }

    pub(super) fn read(disk: &dyn Disk, path: &Path) -> Result<Self, Error> {
        Self::decode(path, &read_file(disk, path, LEN)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: Superblock = Superblock {
        geometry: Geometry { block_size: 0x8_0000, capacity_blocks: 0xa000 },
        peer: PeerId(uuid::Uuid::from_u128(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10)),
    };

    #[test]
    fn golden_bytes() {
        #[rustfmt::skip]
        let bytes = [
            b'T', b'O', b'R', b'U', b'S', b'B', b'L', b'K',
            1, 0, 0, 0,
            0, 0, 8, 0,
            0, 0xa0, 0, 0, 0, 0, 0, 0,
            1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16,
        ];
        assert_eq!(EXAMPLE.encode()[..CRC], bytes);
        assert_eq!(u32_at(&EXAMPLE.encode(), CRC), crc32fast::hash(&bytes));
        assert_eq!(Superblock::decode(Path::new("s"), &EXAMPLE.encode()).unwrap(), EXAMPLE);
    }

    #[test]
    fn every_flipped_byte_is_refused() {
        for index in 0..LEN {
            let mut bytes = EXAMPLE.encode();
            bytes[index] ^= 1;
            Superblock::decode(Path::new("s"), &bytes).unwrap_err();
        }
    }

    #[test]
    fn another_release_is_named() {
        let mut bytes = EXAMPLE.encode();
        bytes[8] = 2;
        let crc = crc32fast::hash(&bytes[..CRC]);
        bytes[CRC..].copy_from_slice(&crc.to_le_bytes());
        let error = Superblock::decode(Path::new("s"), &bytes).unwrap_err();
        assert_eq!(error.to_string(), "s has format version 2, this program knows 1");
    }
}
