//! The first bytes of a connection, in both directions. They tell the data protocol from everything
//! else that a daemon's port serves.
//!
//! The client's:
//!
//! | offset | size | field    | meaning                                                   |
//! |-------:|-----:|----------|-----------------------------------------------------------|
//! |      0 |    8 | magic    | `TORUSDP1`                                                |
//! |      8 |    4 | version  | 1: the highest that the client speaks                     |
//! |     12 |   16 | cluster  | UUID of the cluster                                       |
//! |     28 |   16 | peer     | UUID of the peer that is meant; zero: whoever it is       |
//! |     44 |    4 | CRC      | CRC-32 (IEEE) of the 44 bytes before                      |
//!
//! and the server's answer:
//!
//! | offset | size | field      | meaning                                                 |
//! |-------:|-----:|------------|---------------------------------------------------------|
//! |      0 |    8 | magic      | `TORUSDP1`                                              |
//! |      8 |    4 | version    | 1: the one that both speak                              |
//! |     12 |    4 | status     | 0 welcome, otherwise the code of a refusal              |
//! |     16 |   16 | cluster    | UUID of the server's cluster                            |
//! |     32 |   16 | peer       | its own UUID                                            |
//! |     48 |    4 | block size | bytes                                                   |
//! |     52 |    4 | CRC        | CRC-32 (IEEE) of the 52 bytes before                    |
//!
//! A server that refuses says so and closes.

use bytes::{Buf, BufMut, BytesMut};
use torus_blockstore::PeerId;

use super::response::{refusal_code, refusal_of};
use crate::{FrameError, Refusal};

/// What a connection of the data protocol begins with, and no other.
pub const MAGIC: [u8; 8] = *b"TORUSDP1";

const VERSION: u32 = 1;

/// The client's first message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) cluster: [u8; 16],
    /// `None`: whoever answers.
    pub(crate) peer: Option<PeerId>,
}

/// The server's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Welcome {
    pub(crate) refusal: Option<Refusal>,
    pub(crate) cluster: [u8; 16],
    pub(crate) peer: PeerId,
    pub(crate) block_size: u32,
}

impl Hello {
    pub(crate) const LEN: usize = 48;

    pub(crate) fn encode(&self) -> BytesMut {
        let mut bytes = start(Self::LEN);
        bytes.put_slice(&self.cluster);
        bytes.put_slice(&self.peer.map_or([0; 16], |peer| peer.encode()));
        finish(bytes)
    }

    pub(crate) fn decode(bytes: &[u8; Self::LEN]) -> Result<Self, FrameError> {
        let mut fields = check(bytes)?;
        let [cluster, peer] = [(); 2].map(|()| uuid(&mut fields));
        Ok(Self { cluster, peer: (peer != [0; 16]).then(|| PeerId::decode(peer)) })
    }
}

impl Welcome {
    pub(crate) const LEN: usize = 56;

    pub(crate) fn encode(&self) -> BytesMut {
        let mut bytes = start(Self::LEN);
        bytes.put_u32_le(self.refusal.as_ref().map_or(0, refusal_code).into());
        bytes.put_slice(&self.cluster);
        bytes.put_slice(&self.peer.encode());
        bytes.put_u32_le(self.block_size);
        finish(bytes)
    }

    pub(crate) fn decode(bytes: &[u8; Self::LEN]) -> Result<Self, FrameError> {
        let mut fields = check(bytes)?;
        let refusal = match u8::try_from(fields.get_u32_le()) {
            Ok(0) => None,
            Ok(code) => Some(refusal_of(code, 0)),
            Err(_) => return Err(FrameError::Malformed { what: "welcome" }),
        };
        let [cluster, peer] = [(); 2].map(|()| uuid(&mut fields));
        Ok(Self { refusal, cluster, peer: PeerId::decode(peer), block_size: fields.get_u32_le() })
    }
}

fn start(length: usize) -> BytesMut {
    let mut bytes = BytesMut::with_capacity(length);
    bytes.put_slice(&MAGIC);
    bytes.put_u32_le(VERSION);
    bytes
}

fn finish(mut bytes: BytesMut) -> BytesMut {
    let crc = crc32fast::hash(&bytes);
    bytes.put_u32_le(crc);
    bytes
}

/// Checks what the two messages have in common; the fields behind it.
fn check(bytes: &[u8]) -> Result<&[u8], FrameError> {
    let (mut fields, mut crc) = bytes.split_at(bytes.len() - size_of::<u32>());
    if fields[..MAGIC.len()] != MAGIC {
        return Err(FrameError::Magic { what: "connection" });
    }
    if crc.get_u32_le() != crc32fast::hash(fields) {
        return Err(FrameError::Checksum { what: "greeting" });
    }
    fields.advance(MAGIC.len());
    match fields.get_u32_le() {
        VERSION => Ok(fields),
        version => Err(FrameError::Version(version)),
    }
}

fn uuid(fields: &mut &[u8]) -> [u8; 16] {
    let mut uuid = [0; 16];
    fields.copy_to_slice(&mut uuid);
    uuid
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        Hello { cluster: [7; 16], peer: Some(PeerId::decode([9; 16])) }
    }

    fn welcome() -> Welcome {
        Welcome {
            refusal: Some(Refusal::WrongPeer),
            cluster: [7; 16],
            peer: PeerId::decode([9; 16]),
            block_size: 0x8_0000,
        }
    }

    #[test]
    fn golden_bytes() {
        let mut bytes = b"TORUSDP1\x01\0\0\0".to_vec();
        bytes.extend([7; 16]);
        bytes.extend([9; 16]);
        bytes.extend(*b"\x95a\xa5s");
        assert_eq!(hello().encode(), bytes);
        let mut bytes = b"TORUSDP1\x01\0\0\0\x0a\0\0\0".to_vec();
        bytes.extend([7; 16]);
        bytes.extend([9; 16]);
        bytes.extend([0, 0, 8, 0]);
        bytes.extend(*b"\xae\0\x1d2");
        assert_eq!(welcome().encode(), bytes);
    }

    #[test]
    fn round_trips() {
        for peer in [None, hello().peer] {
            let hello = Hello { peer, ..hello() };
            assert_eq!(Hello::decode(hello.encode().first_chunk().unwrap()), Ok(hello));
        }
        for refusal in [None, welcome().refusal] {
            let welcome = Welcome { refusal, ..welcome() };
            assert_eq!(Welcome::decode(welcome.encode().first_chunk().unwrap()), Ok(welcome));
        }
    }

    #[test]
    fn every_flipped_byte_is_refused() {
        for at in 0..Hello::LEN {
            let mut bytes = hello().encode();
            bytes[at] ^= 1;
            assert!(Hello::decode(bytes.first_chunk().unwrap()).is_err(), "byte {at}");
        }
        for at in 0..Welcome::LEN {
            let mut bytes = welcome().encode();
            bytes[at] ^= 1;
            assert!(Welcome::decode(bytes.first_chunk().unwrap()).is_err(), "byte {at}");
        }
    }
}
