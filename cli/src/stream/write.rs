//! Writes a stream, chunk by chunk.

use bytes::Bytes;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::chunk::{Fixed, MAX_DATA};
use super::{Header, StreamError};

/// A stream that is being written.
#[derive(Debug)]
pub struct StreamWriter<W> {
    to: W,
    /// The CRC that the next chunk's goes on from.
    crc: u32,
    /// Where the next chunk may begin at the earliest, and where all end.
    position: u64,
    size: u64,
    chunks: u64,
    data: u64,
}

impl<W: AsyncWrite + Unpin> StreamWriter<W> {
    /// Begins a stream.
    pub async fn begin(mut to: W, header: &Header) -> Result<Self, StreamError> {
        let bytes = header.encode();
        to.write_all(&bytes).await.map_err(StreamError::Write)?;
        let crc = Header::crc(&bytes);
        Ok(Self { to, crc, position: 0, size: header.to.size, chunks: 0, data: 0 })
    }

    /// The range from `offset` has these bytes, 1 to [`MAX_DATA`].
    pub async fn data(&mut self, offset: u64, data: &Bytes) -> Result<(), StreamError> {
        assert!((1..=MAX_DATA).contains(&data.len()), "a chunk of {} bytes", data.len());
        let (length, crc) = (data.len(), crc32fast::hash(data));
        self.advance(offset, length as u64);
        self.put(Fixed::Data { offset, length, crc }).await?;
        self.data += length as u64;
        self.to.write_all(data).await.map_err(StreamError::Write)
    }

    /// The range became zero.
    pub async fn zero(&mut self, offset: u64, length: u64) -> Result<(), StreamError> {
        assert!(length > 0, "an empty range");
        self.advance(offset, length);
        self.put(Fixed::Zero { offset, length }).await
    }

    /// Ends the stream; without that it is worth nothing.
    pub async fn end(mut self) -> Result<W, StreamError> {
        let end = Fixed::End { chunks: self.chunks, data: self.data };
        self.put(end).await?;
        self.to.flush().await.map_err(StreamError::Write)?;
        Ok(self.to)
    }

    fn advance(&mut self, offset: u64, length: u64) {
        let (position, size) = (self.position, self.size);
        assert!(
            position <= offset && length <= size.saturating_sub(offset),
            "bytes {offset} to {offset} + {length} behind {position}, of {size}"
        );
        self.position = offset + length;
        self.chunks += 1;
    }

    async fn put(&mut self, fixed: Fixed) -> Result<(), StreamError> {
        let (bytes, crc) = fixed.encode(self.crc);
        self.crc = crc;
        self.to.write_all(&bytes).await.map_err(StreamError::Write)
    }
}
