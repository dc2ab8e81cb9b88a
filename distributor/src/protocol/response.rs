//! What a peer answers, and the bodies that say it.
//!
//! A block's state is the 12 bytes that [`fields`](super::fields) describes.
//!
//! | reply to            | body when done                                                       |
//! |---------------------|----------------------------------------------------------------------|
//! | read                | the ranges' bytes, one after another                                 |
//! | fetch               | state, then the content (nothing when absent)                        |
//! | fence               | `u64` highest epoch seen                                             |
//! | state               | one state a block, in the order asked                                |
//! | list                | block and state, as many as there are                                |
//! | status              | eight `u64`: see [`Status`], in its order                            |
//! | all others          | nothing                                                              |
//!
//! | status | refusal           | body                  | | status | refusal       | body            |
//! |-------:|-------------------|-----------------------|-|-------:|---------------|-----------------|
//! |      1 | no such block     |                       | |      8 | disk          |                 |
//! |      2 | full              |                       | |      9 | wrong cluster |                 |
//! |      3 | fenced            | `u64` newest epoch    | |     10 | wrong peer    |                 |
//! |      4 | bad offset        |                       | |     11 | wrong version |                 |
//! |      5 | sealed            |                       | |     12 | shutting down |                 |
//! |      6 | unsettled         |                       | |     13 | other ring    | `u64` its own   |
//! |      7 | corrupt           |                       | |     14 | invalid       |                 |
//! |        |                   |                       | |     15 | deleted       |                 |
//!
//! A code that is not known counts as `invalid`: the request was not carried out.

use bytes::{BufMut, Bytes, BytesMut};
use torus_blockstore::{BlockRef, BlockState, Epoch};
use torus_metadata::RingVersion;

use super::BATCH_BLOCKS;
use super::fields::{Fields, put_state};
use super::frame::{Body, Frame};
use super::request::{FENCE, FETCH, LIST, READ, STATE, STATUS};
use crate::{FrameError, Refusal};

/// How a peer is, and how far it is with moving blocks to where its ring wants them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    pub used_blocks: u64,
    pub capacity_blocks: u64,
    /// The version of the ring that it follows; 0: none yet.
    pub ring: u64,
    /// Blocks that the present pass still has to look at.
    pub unchecked_blocks: u64,
    /// Copies that are known to be missing elsewhere or to be here without need.
    pub blocks_to_move: u64,
    /// Copies moved since the daemon started.
    pub blocks_moved: u64,
    /// Bytes that were sent for it since the daemon started.
    pub bytes_moved: u64,
    /// Bytes a second, of late.
    pub bytes_per_second: u64,
}

/// The answer to a request that was carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    Done,
    Data(Bytes),
    Fetched(Option<(BlockState, Bytes)>),
    Newest(Epoch),
    States(Vec<Option<BlockState>>),
    Blocks(Vec<(BlockRef, BlockState)>),
    Status(Status),
}

/// Status and body of a reply.
pub(crate) fn encode_reply(reply: Result<Response, Refusal>) -> (u8, Body) {
    match reply {
        Ok(response) => (0, response.into_body()),
        Err(refusal) => {
            let mut fields = BytesMut::new();
            match refusal {
                Refusal::Fenced { newest } => fields.put_u64_le(newest.0),
                Refusal::OtherRing { current } => fields.put_u64_le(current.0),
                _ => {}
            }
            (refusal_code(&refusal), Body { fields, payload: Vec::new() })
        }
    }
}

/// Decodes a reply to a request with `op`.
pub(crate) fn decode_reply(op: u8, frame: Frame) -> Result<Result<Response, Refusal>, FrameError> {
    let mut fields = Fields::new(frame.body, "reply");
    match frame.head.status {
        0 => Response::decode(op, fields).map(Ok),
        code => {
            let detail = if fields.is_empty() { 0 } else { fields.u64()? };
            fields.end(Err(refusal_of(code, detail)))
        }
    }
}

impl Response {
    fn into_body(self) -> Body {
        let mut fields = BytesMut::new();
        let mut payload = Vec::new();
        match self {
            Response::Done => {}
            Response::Data(data) => payload.push(data),
            Response::Fetched(None) => put_state(&mut fields, None),
            Response::Fetched(Some((state, data))) => {
                put_state(&mut fields, Some(state));
                payload.push(data);
            }
            Response::Newest(epoch) => fields.put_u64_le(epoch.0),
            Response::States(states) => {
                for state in states {
                    put_state(&mut fields, state);
                }
            }
            Response::Blocks(blocks) => {
                for (block, state) in blocks {
                    fields.put_slice(&block.encode());
                    put_state(&mut fields, Some(state));
                }
            }
            Response::Status(status) => {
                for number in status.numbers() {
                    fields.put_u64_le(number);
                }
            }
        }
        Body { fields, payload }
    }

    fn decode(op: u8, mut fields: Fields) -> Result<Self, FrameError> {
        match op {
            READ => Ok(Response::Data(fields.rest())),
            FETCH => match fields.state()? {
                None => fields.end(Response::Fetched(None)),
                Some(state) => Ok(Response::Fetched(Some((state, fields.rest())))),
            },
            FENCE => {
                let newest = fields.epoch()?;
                fields.end(Response::Newest(newest))
            }
            STATE => Ok(Response::States(fields.list(BATCH_BLOCKS, Fields::state)?)),
            LIST => {
                let malformed = fields.malformed();
                let item = |fields: &mut Fields| {
                    let block = fields.block()?;
                    Ok((block, fields.state()?.ok_or(malformed)?))
                };
                Ok(Response::Blocks(fields.list(BATCH_BLOCKS, item)?))
            }
            STATUS => {
                let mut numbers = [0; 8];
                for number in &mut numbers {
                    *number = fields.u64()?;
                }
                fields.end(Response::Status(Status::from_numbers(numbers)))
            }
            _ => fields.end(Response::Done),
        }
    }
}

impl Status {
    fn numbers(self) -> [u64; 8] {
        [
            self.used_blocks,
            self.capacity_blocks,
            self.ring,
            self.unchecked_blocks,
            self.blocks_to_move,
            self.blocks_moved,
            self.bytes_moved,
            self.bytes_per_second,
        ]
    }

    fn from_numbers(numbers: [u64; 8]) -> Self {
        let [
            used_blocks,
            capacity_blocks,
            ring,
            unchecked_blocks,
            blocks_to_move,
            blocks_moved,
            bytes_moved,
            bytes_per_second,
        ] = numbers;
        Self {
            used_blocks,
            capacity_blocks,
            ring,
            unchecked_blocks,
            blocks_to_move,
            blocks_moved,
            bytes_moved,
            bytes_per_second,
        }
    }
}

/// The code of the table above.
pub(super) fn refusal_code(refusal: &Refusal) -> u8 {
    match refusal {
        Refusal::NoSuchBlock => 1,
        Refusal::Full => 2,
        Refusal::Fenced { .. } => 3,
        Refusal::BadOffset => 4,
        Refusal::Sealed => 5,
        Refusal::Unsettled => 6,
        Refusal::Corrupt => 7,
        Refusal::Disk => 8,
        Refusal::WrongCluster => 9,
        Refusal::WrongPeer => 10,
        Refusal::WrongVersion => 11,
        Refusal::ShuttingDown => 12,
        Refusal::OtherRing { .. } => 13,
        Refusal::Invalid => 14,
        Refusal::Deleted => 15,
    }
}

/// The refusal of a code and the number in its body.
pub(super) fn refusal_of(code: u8, detail: u64) -> Refusal {
    match code {
        1 => Refusal::NoSuchBlock,
        2 => Refusal::Full,
        3 => Refusal::Fenced { newest: Epoch(detail) },
        4 => Refusal::BadOffset,
        5 => Refusal::Sealed,
        6 => Refusal::Unsettled,
        7 => Refusal::Corrupt,
        8 => Refusal::Disk,
        9 => Refusal::WrongCluster,
        10 => Refusal::WrongPeer,
        11 => Refusal::WrongVersion,
        12 => Refusal::ShuttingDown,
        13 => Refusal::OtherRing { current: RingVersion(detail) },
        15 => Refusal::Deleted,
        _ => Refusal::Invalid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::frame::{Head, REPLY};
    use torus_blockstore::{BlockIndex, BlockKind, INodeIndex, Seal, VolumeId};

    fn frame(op: u8, status: u8, body: &[u8]) -> Frame {
        let head = Head { op: op | REPLY, flags: 0, status, id: 1 };
        Frame { head, body: Bytes::copy_from_slice(body) }
    }

    #[track_caller]
    fn check(op: u8, reply: Result<Response, Refusal>, status: u8, bytes: &[u8]) {
        let (found, body) = encode_reply(reply.clone());
        assert_eq!(found, status);
        assert_eq!([&body.fields[..], &body.payload.concat()].concat(), bytes);
        assert_eq!(decode_reply(op, frame(op, status, bytes)), Ok(reply));
    }

    #[test]
    fn golden_bodies() {
        check(1, Ok(Response::Done), 0, &[]);
        check(READ, Ok(Response::Data(Bytes::from_static(b"abc"))), 0, b"abc");
        check(FETCH, Ok(Response::Fetched(None)), 0, &[0; 12]);
        let state = BlockState::Open { length: 2 };
        let bytes = [1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, b'a', b'b'];
        let fetched = Response::Fetched(Some((state, Bytes::from_static(b"ab"))));
        check(FETCH, Ok(fetched), 0, &bytes);
        check(FENCE, Ok(Response::Newest(Epoch(4))), 0, &[4, 0, 0, 0, 0, 0, 0, 0]);
        let sealed = BlockState::Sealed(Seal { length: 5, crc: 6 });
        let bytes = [3, 0, 0, 0, 5, 0, 0, 0, 6, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let states = vec![Some(sealed), Some(BlockState::Unsettled)];
        check(STATE, Ok(Response::States(states)), 0, &bytes);
        let block = BlockRef {
            volume: VolumeId::new(5).unwrap(),
            kind: BlockKind::Data,
            inode: INodeIndex(7),
            index: BlockIndex(9),
        };
        let bytes = [&block.encode()[..], &bytes[..12]].concat();
        check(LIST, Ok(Response::Blocks(vec![(block, sealed)])), 0, &bytes);
        let status = Status::from_numbers([1, 2, 3, 4, 5, 6, 7, 8]);
        let bytes: Vec<u8> = (1_u64..9).flat_map(u64::to_le_bytes).collect();
        check(STATUS, Ok(Response::Status(status)), 0, &bytes);
    }

    #[test]
    fn every_refusal_comes_back() {
        for code in 1..=14 {
            let detail = if matches!(code, 3 | 13) { 9 } else { 0 };
            let bytes = u64::to_le_bytes(detail);
            let bytes = if detail == 0 { &[][..] } else { &bytes };
            check(READ, Err(refusal_of(code, detail)), code, bytes);
        }
        assert_eq!(decode_reply(READ, frame(READ, 99, &[])), Ok(Err(Refusal::Invalid)));
    }

    proptest::proptest! {
        #[test]
        fn garbage_never_panics(op: u8, status: u8, body: Vec<u8>) {
            if let Ok(reply) = decode_reply(op, frame(op, status, &body)) {
                let _ = encode_reply(reply);
            }
        }
    }
}
