//! Reads a stream, chunk by chunk; what was read is checked before it is handed out.

use std::io::ErrorKind;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::chunk::{Chunk, Fixed};
use super::{Header, PREFIX, StreamError};

/// A stream that is being read.
#[derive(Debug)]
pub struct StreamReader<R> {
    from: R,
    header: Header,
    /// The CRC that the next chunk's goes on from.
    crc: u32,
    /// Bytes of the stream before the next chunk.
    at: u64,
    /// Where the next chunk may begin at the earliest.
    position: u64,
    chunks: u64,
    data: u64,
}

impl<R: AsyncRead + Unpin> StreamReader<R> {
    /// Reads the header.
    pub async fn begin(mut from: R) -> Result<Self, StreamError> {
        let mut prefix = [0; PREFIX];
        read_all(&mut from, &mut prefix, 0).await?;
        let mut bytes = vec![0; Header::length(&prefix)?];
        let (start, rest) = bytes.split_at_mut(PREFIX);
        start.copy_from_slice(&prefix);
        read_all(&mut from, rest, 0).await?;
        let header = Header::decode(&bytes)?;
        let (crc, at) = (Header::crc(&bytes), bytes.len() as u64);
        Ok(Self { from, header, crc, at, position: 0, chunks: 0, data: 0 })
    }

    /// What the stream is of.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The next chunk. `None`: the stream has ended, and all of it was there.
    pub async fn next(&mut self) -> Result<Option<Chunk>, StreamError> {
        let mut bytes = [0; Fixed::LEN];
        read_all(&mut self.from, &mut bytes, self.at).await?;
        let damaged = StreamError::Damaged { at: self.at };
        let Some((fixed, crc)) = Fixed::decode(&bytes, self.crc) else { return Err(damaged) };
        self.crc = crc;
        let chunk = match fixed {
            Fixed::End { chunks, data } if (chunks, data) == (self.chunks, self.data) => {
                self.at += Fixed::LEN as u64;
                self.nothing_follows().await?;
                return Ok(None);
            }
            Fixed::End { .. } => return Err(damaged),
            Fixed::Zero { offset, length } if self.advance(offset, length) => {
                Chunk::Zero { offset, length }
            }
            Fixed::Data { offset, length, crc } if self.advance(offset, length as u64) => {
                let data = self.content(length).await?;
                if crc32fast::hash(&data) != crc {
                    return Err(damaged);
                }
                self.at += length as u64;
                self.data += length as u64;
                Chunk::Data { offset, data }
            }
            Fixed::Zero { .. } | Fixed::Data { .. } => return Err(damaged),
        };
        self.at += Fixed::LEN as u64;
        Ok(Some(chunk))
    }

    async fn content(&mut self, length: usize) -> Result<Bytes, StreamError> {
        let mut data = BytesMut::zeroed(length);
        read_all(&mut self.from, &mut data, self.at).await?;
        Ok(data.freeze())
    }

    /// Whether a chunk may stand here: behind the one before, and within the volume.
    fn advance(&mut self, offset: u64, length: u64) -> bool {
        let end = offset.checked_add(length).filter(|end| *end <= self.header.to.size);
        let Some(end) = end.filter(|_| self.position <= offset) else { return false };
        self.position = end;
        self.chunks += 1;
        true
    }

    async fn nothing_follows(&mut self) -> Result<(), StreamError> {
        match self.from.read(&mut [0]).await {
            Ok(0) => Ok(()),
            Ok(_) => Err(StreamError::Trailing { at: self.at }),
            Err(error) => Err(StreamError::Read(error)),
        }
    }
}

/// Fills `bytes`, which begin at byte `at` of the stream or some bytes behind.
async fn read_all(
    from: &mut (impl AsyncRead + Unpin),
    bytes: &mut [u8],
    at: u64,
) -> Result<(), StreamError> {
    match from.read_exact(bytes).await {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
            Err(StreamError::Truncated { at })
        }
        Err(error) => Err(StreamError::Read(error)),
    }
}
