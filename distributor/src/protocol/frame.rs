//! The frame around every request and reply.
//!
//! Integers little-endian; the body follows the 28 bytes of the header at once.
//!
//! | offset | size | field       | meaning                                                       |
//! |-------:|-----:|-------------|---------------------------------------------------------------|
//! |      0 |    4 | magic       | `TORF`                                                        |
//! |      4 |    1 | version     | 1                                                             |
//! |      5 |    1 | op          | what is asked; a reply repeats it with the highest bit set    |
//! |      6 |    1 | flags       | requests: the op's flags; replies: 0                          |
//! |      7 |    1 | status      | requests: 0; replies: 0 done, otherwise the refusal's code    |
//! |      8 |    8 | id          | drawn by the client, unique among its unanswered requests     |
//! |     16 |    4 | body length | bytes, at most the block size + 64 KiB                        |
//! |     20 |    4 | body CRC    | CRC-32 (IEEE) of the body                                     |
//! |     24 |    4 | header CRC  | CRC-32 (IEEE) of the 24 bytes before                          |
//!
//! The header's checksum and the limit are checked before room is made for the body. After any
//! error the connection is of no more use: nobody knows where the next frame begins.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::BODY_EXTRA;
use crate::FrameError;

const MAGIC: [u8; 4] = *b"TORF";
const VERSION: u8 = 1;
const BODY_LENGTH: usize = 16;
const HEADER_CRC: usize = BODY_LENGTH + 2 * size_of::<u32>();
const HEADER_LEN: usize = HEADER_CRC + size_of::<u32>();

/// Set in the op of a reply.
pub(crate) const REPLY: u8 = 0x80;

/// Bytes that a reader makes room for when it does not know what comes: many small frames arrive in
/// one read.
const READ_AHEAD: usize = 64 * 1024;

/// What stands in a header beside lengths and checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) op: u8,
    pub(crate) flags: u8,
    pub(crate) status: u8,
    pub(crate) id: u64,
}

/// A frame as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) head: Head,
    pub(crate) body: Bytes,
}

/// The parts of a body: small fields first, then payload that is sent from where it lies.
#[derive(Clone, Debug, Default)]
pub(crate) struct Body {
    pub(crate) fields: BytesMut,
    pub(crate) payload: Vec<Bytes>,
}

/// Builds the bytes of a frame, in parts that stand one after another. A body is never longer than
/// `u32::MAX`: its makers check their payload against the block size.
pub(crate) fn encode(head: Head, body: Body) -> Vec<Bytes> {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&body.fields);
    let mut length = body.fields.len();
    for part in &body.payload {
        crc.update(part);
        length += part.len();
    }
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    let mut bytes = BytesMut::with_capacity(HEADER_LEN + body.fields.len());
    bytes.put_slice(&MAGIC);
    bytes.put_slice(&[VERSION, head.op, head.flags, head.status]);
    bytes.put_u64_le(head.id);
    bytes.put_u32_le(length);
    bytes.put_u32_le(crc.finalize());
    let header_crc = crc32fast::hash(&bytes);
    bytes.put_u32_le(header_crc);
    bytes.extend_from_slice(&body.fields);
    let mut parts = Vec::with_capacity(1 + body.payload.len());
    parts.push(bytes.freeze());
    parts.extend(body.payload.into_iter().filter(|part| !part.is_empty()));
    parts
}

/// A checked header.
struct Header {
    head: Head,
    body_length: u32,
    body_crc: u32,
}

fn decode_header(bytes: &[u8; HEADER_LEN], limit: u32) -> Result<Header, FrameError> {
    let mut fields = &bytes[..];
    if fields[..MAGIC.len()] != MAGIC {
        return Err(FrameError::Magic { what: "frame" });
    }
    fields.advance(MAGIC.len());
    let [version, op, flags, status] = [(); 4].map(|()| fields.get_u8());
    let id = fields.get_u64_le();
    let body_length = fields.get_u32_le();
    let body_crc = fields.get_u32_le();
    if fields.get_u32_le() != crc32fast::hash(&bytes[..HEADER_CRC]) {
        return Err(FrameError::Checksum { what: "frame header" });
    }
    if version != VERSION {
        return Err(FrameError::Version(version.into()));
    }
    if body_length > limit {
        return Err(FrameError::TooLong { length: body_length, limit });
    }
    Ok(Header { head: Head { op, flags, status, id }, body_length, body_crc })
}

/// Cuts a stream of bytes into frames.
pub(crate) struct FrameReader<R> {
    source: R,
    buffer: BytesMut,
    /// Longest body.
    limit: u32,
}

/// Why no more frames come.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("the connection broke")]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Frame(#[from] FrameError),
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(crate) fn new(source: R, block_size: u32) -> Self {
        let limit = block_size.saturating_add(BODY_EXTRA);
        Self { source, buffer: BytesMut::with_capacity(READ_AHEAD), limit }
    }

    /// Takes bytes in as if they had come from the source.
    #[cfg(feature = "bench")]
    pub(crate) fn receive(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next frame that has arrived whole; `None` until [`fill`](Self::fill) brings more.
    pub(crate) fn buffered(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some(header) = self.buffer.first_chunk() else {
            return Ok(None);
        };
        let header = decode_header(header, self.limit)?;
        let frame_length = HEADER_LEN + header.body_length as usize;
        if self.buffer.len() < frame_length {
            self.buffer.reserve(frame_length - self.buffer.len());
            return Ok(None);
        }
        self.buffer.advance(HEADER_LEN);
        let body = self.buffer.split_to(header.body_length as usize).freeze();
        if crc32fast::hash(&body) != header.body_crc {
            return Err(FrameError::Checksum { what: "frame body" });
        }
        Ok(Some(Frame { head: header.head, body }))
    }

    /// Waits for more bytes; `false` is the end of the stream.
    pub(crate) async fn fill(&mut self) -> Result<bool, ReadError> {
        if self.buffer.capacity() - self.buffer.len() < HEADER_LEN {
            self.buffer.reserve(READ_AHEAD);
        }
        Ok(self.source.read_buf(&mut self.buffer).await? > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: Head = Head { op: 5, flags: 1, status: 0, id: 0x0807_0605_0403_0201 };

    fn frame() -> Vec<u8> {
        let payload = vec![Bytes::from_static(b"cd"), Bytes::new(), Bytes::from_static(b"e")];
        encode(HEAD, Body { fields: BytesMut::from(&b"ab"[..]), payload }).concat()
    }

    fn reader(bytes: &[u8]) -> FrameReader<&[u8]> {
        let mut reader = FrameReader::new(&[][..], 0);
        reader.buffer.extend_from_slice(bytes);
        reader
    }

    #[test]
    fn golden_bytes() {
        #[rustfmt::skip]
        let bytes = [
            b'T', b'O', b'R', b'F',  1, 5, 1, 0,
            1, 2, 3, 4, 5, 6, 7, 8,
            5, 0, 0, 0,  101, 216, 135, 133,
            226, 132, 134, 166,
            b'a', b'b', b'c', b'd', b'e',
        ];
        assert_eq!(frame(), bytes);
        let found = reader(&bytes).buffered();
        assert_eq!(found, Ok(Some(Frame { head: HEAD, body: Bytes::from_static(b"abcde") })));
    }

    #[test]
    fn every_flipped_byte_is_refused() {
        for at in 0..frame().len() {
            let mut bytes = frame();
            bytes[at] ^= 0x40;
            assert!(reader(&bytes).buffered().is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_frame_waits_for_its_last_byte() {
        let bytes = frame();
        for length in 0..bytes.len() {
            assert_eq!(reader(&bytes[..length]).buffered(), Ok(None), "{length} bytes");
        }
    }

    #[test]
    fn a_long_body_is_refused_before_room_is_made() {
        let mut reader = FrameReader::new(&[][..], 0);
        let body = Bytes::from(vec![0; BODY_EXTRA as usize + 1]);
        let parts = encode(HEAD, Body { fields: BytesMut::new(), payload: vec![body] });
        reader.buffer.extend_from_slice(&parts[0]);
        let capacity = reader.buffer.capacity();
        let limit = BODY_EXTRA;
        assert_eq!(reader.buffered(), Err(FrameError::TooLong { length: limit + 1, limit }));
        assert_eq!(reader.buffer.capacity(), capacity);
    }

    proptest::proptest! {
        #[test]
        fn garbage_is_no_frame_and_takes_no_room(bytes: Vec<u8>) {
            let mut reader = reader(&bytes);
            let whole = bytes.len() >= HEADER_LEN;
            proptest::prop_assert_eq!(reader.buffered().is_err(), whole);
            proptest::prop_assert!(reader.buffer.capacity() <= READ_AHEAD);
        }
    }
}
