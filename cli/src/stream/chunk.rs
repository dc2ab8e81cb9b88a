//! A chunk of a stream: a range of the volume with its bytes, a range that became zero, or the end.
//!
//! Integers little-endian; the data of a chunk stands behind it.
//!
//! | offset | size | field    | data                | zero               | end                   |
//! |-------:|-----:|----------|---------------------|--------------------|-----------------------|
//! |      0 |    4 | kind     | 1                   | 2                  | 3                     |
//! |      4 |    4 | data CRC | CRC-32 of the data  | 0                  | 0                     |
//! |      8 |    8 | offset   | bytes in the volume | the same           | how many chunks came  |
//! |     16 |    8 | length   | bytes of data       | bytes of the range | bytes of data in all  |
//! |     24 |    4 | CRC      | CRC-32 of the CRC before this chunk and bytes 0 to 24        |||
//!
//! The first chunk's CRC begins with that of the header, so that a chunk is valid at its own place
//! of its own stream only. Chunks go up: each begins where the one before ends, or behind. The
//! length of data is at most [`MAX_DATA`].

use bytes::Bytes;
use torus_blockstore::field::{u32_at, u64_at};

/// The most data in a chunk: what a reader holds in memory.
pub const MAX_DATA: usize = 1 << 20;

const DATA: u32 = 1;
const ZERO: u32 = 2;
const END: u32 = 3;

/// What a reader gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chunk {
    /// The range from `offset` has these bytes.
    Data { offset: u64, data: Bytes },
    /// The range is zero.
    Zero { offset: u64, length: u64 },
}

impl Chunk {
    /// Where its range ends, in bytes of the volume.
    pub fn end(&self) -> u64 {
        match self {
            Self::Data { offset, data } => offset + data.len() as u64,
            Self::Zero { offset, length } => offset + length,
        }
    }
}

/// The fixed part of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fixed {
    Data { offset: u64, length: usize, crc: u32 },
    Zero { offset: u64, length: u64 },
    End { chunks: u64, data: u64 },
}

impl Fixed {
    /// Encoded size, in bytes.
    pub(super) const LEN: usize = 28;

    /// The bytes of this chunk behind one whose CRC was `before`, and its own CRC.
    pub(super) fn encode(self, before: u32) -> ([u8; Self::LEN], u32) {
        let (kind, data_crc, offset, length) = match self {
            Self::Data { offset, length, crc } => (DATA, crc, offset, length as u64),
            Self::Zero { offset, length } => (ZERO, 0, offset, length),
            Self::End { chunks, data } => (END, 0, chunks, data),
        };
        let mut bytes = [0; Self::LEN];
        bytes[..4].copy_from_slice(&kind.to_le_bytes());
        bytes[4..8].copy_from_slice(&data_crc.to_le_bytes());
        bytes[8..16].copy_from_slice(&offset.to_le_bytes());
        bytes[16..24].copy_from_slice(&length.to_le_bytes());
        let crc = chained(before, &bytes);
        bytes[24..].copy_from_slice(&crc.to_le_bytes());
        (bytes, crc)
    }

    /// Decodes what [`encode`](Self::encode) wrote behind the same CRC; `None`: other bytes.
    pub(super) fn decode(bytes: &[u8; Self::LEN], before: u32) -> Option<(Self, u32)> {
        let crc = u32_at(bytes, 24);
        if crc != chained(before, bytes) {
            return None;
        }
        let (data_crc, offset, length) = (u32_at(bytes, 4), u64_at(bytes, 8), u64_at(bytes, 16));
        let fixed = match u32_at(bytes, 0) {
            DATA => {
                let length =
                    usize::try_from(length).ok().filter(|it| (1..=MAX_DATA).contains(it))?;
                Self::Data { offset, length, crc: data_crc }
            }
            ZERO if data_crc == 0 && length > 0 => Self::Zero { offset, length },
            END if data_crc == 0 => Self::End { chunks: offset, data: length },
            _ => return None,
        };
        Some((fixed, crc))
    }
}

fn chained(before: u32, bytes: &[u8; Fixed::LEN]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&before.to_le_bytes());
    hasher.update(&bytes[..24]);
    hasher.finalize()
}
