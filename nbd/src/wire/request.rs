//! The head of a request in the transmission phase (section "Request message").
//!
//! | offset | size | field   | meaning                                        |
//! |-------:|-----:|---------|------------------------------------------------|
//! |      0 |    4 | magic   | 0x25609513                                     |
//! |      4 |    2 | flags   | [`FLAG_FUA`] and its siblings                  |
//! |      6 |    2 | command | [`CMD_READ`] and its siblings                  |
//! |      8 |    8 | cookie  | chosen by the client, repeated in the reply    |
//! |     16 |    8 | offset  | in bytes from the start of the export          |
//! |     24 |    4 | length  | in bytes; of a write, this many bytes follow   |

use bytes::Buf;

const MAGIC: u32 = 0x2560_9513;

pub(crate) const CMD_READ: u16 = 0;
pub(crate) const CMD_WRITE: u16 = 1;
pub(crate) const CMD_DISC: u16 = 2;
pub(crate) const CMD_FLUSH: u16 = 3;
pub(crate) const CMD_TRIM: u16 = 4;
pub(crate) const CMD_CACHE: u16 = 5;
pub(crate) const CMD_WRITE_ZEROES: u16 = 6;
pub(crate) const CMD_BLOCK_STATUS: u16 = 7;

pub(crate) const FLAG_FUA: u16 = 1 << 0;
pub(crate) const FLAG_NO_HOLE: u16 = 1 << 1;
pub(crate) const FLAG_DF: u16 = 1 << 2;
pub(crate) const FLAG_REQ_ONE: u16 = 1 << 3;
pub(crate) const FLAG_FAST_ZERO: u16 = 1 << 4;

/// A request without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequestHead {
    pub(crate) flags: u16,
    pub(crate) command: u16,
    pub(crate) cookie: u64,
    pub(crate) offset: u64,
    pub(crate) length: u32,
}

/// The bytes are not a request; the stream has lost its frame.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("request starts with {found:#010x}")]
pub(crate) struct BadMagic {
    pub(crate) found: u32,
}

impl RequestHead {
    /// Encoded size, in bytes.
    pub(crate) const LEN: usize = 28;

    pub(crate) fn decode(bytes: &[u8; Self::LEN]) -> Result<Self, BadMagic> {
        let mut bytes = bytes.as_slice();
        let found = bytes.get_u32();
        if found != MAGIC {
            return Err(BadMagic { found });
        }
        Ok(Self {
            flags: bytes.get_u16(),
            command: bytes.get_u16(),
            cookie: bytes.get_u64(),
            offset: bytes.get_u64(),
            length: bytes.get_u32(),
        })
    }

    #[cfg(test)]
    pub(crate) fn encode(&self) -> Vec<u8> {
        use bytes::BufMut;
        let mut bytes = Vec::with_capacity(Self::LEN);
        bytes.put_u32(MAGIC);
        bytes.put_u16(self.flags);
        bytes.put_u16(self.command);
        bytes.put_u64(self.cookie);
        bytes.put_u64(self.offset);
        bytes.put_u32(self.length);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[rustfmt::skip]
    const GOLDEN: [u8; RequestHead::LEN] = [
        0x25, 0x60, 0x95, 0x13,  0, 1,  0, 6,
        1, 2, 3, 4, 5, 6, 7, 8,
        0, 0, 0, 1, 0, 0, 0, 0,
        0, 0, 0x10, 0,
    ];

    #[test]
    fn golden_bytes() {
        let head = RequestHead {
            flags: FLAG_FUA,
            command: CMD_WRITE_ZEROES,
            cookie: 0x0102_0304_0506_0708,
            offset: 1 << 32,
            length: 4096,
        };
        assert_eq!(RequestHead::decode(&GOLDEN), Ok(head));
        assert_eq!(head.encode(), GOLDEN);
    }

    #[test]
    fn every_flip_in_the_magic_is_refused() {
        for byte in 0..4 {
            for bit in 0..8 {
                let mut bytes = GOLDEN;
                bytes[byte] ^= 1 << bit;
                assert!(RequestHead::decode(&bytes).is_err(), "byte {byte} bit {bit}");
            }
        }
    }

    proptest! {
        #[test]
        fn round_trip(flags: u16, command: u16, cookie: u64, offset: u64, length: u32) {
            let head = RequestHead { flags, command, cookie, offset, length };
            let bytes = head.encode();
            prop_assert_eq!(RequestHead::decode(bytes.first_chunk().unwrap()), Ok(head));
        }
    }
}
