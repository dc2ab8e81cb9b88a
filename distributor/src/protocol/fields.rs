//! Little-endian fields of a message body, read one after another.
//!
//! A block's state is 12 bytes: `u32` kind (0 absent, 1 open, 2 unsettled, 3 sealed), `u32` length,
//! `u32` CRC; what a kind does not have is 0.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use torus_blockstore::{BlockRef, BlockState, Epoch, Seal, VolumeId};

use crate::FrameError;

/// Takes fields off the front of a body; a body that is too short is malformed.
pub(crate) struct Fields {
    body: Bytes,
    /// Which message it is, for errors.
    what: &'static str,
}

impl Fields {
    pub(crate) fn new(body: Bytes, what: &'static str) -> Self {
        Self { body, what }
    }

    pub(crate) fn malformed(&self) -> FrameError {
        FrameError::Malformed { what: self.what }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.body.is_empty()
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        let mut bytes = [0; N];
        self.body.try_copy_to_slice(&mut bytes).map_err(|_| self.malformed())?;
        Ok(bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, FrameError> {
        self.take().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, FrameError> {
        self.take().map(u64::from_le_bytes)
    }

    pub(crate) fn epoch(&mut self) -> Result<Epoch, FrameError> {
        self.u64().map(Epoch)
    }

    pub(crate) fn volume(&mut self) -> Result<VolumeId, FrameError> {
        VolumeId::new(self.u64()?).ok_or_else(|| self.malformed())
    }

    pub(crate) fn block(&mut self) -> Result<BlockRef, FrameError> {
        BlockRef::decode(&self.take()?).map_err(|_| self.malformed())
    }

    pub(crate) fn seal(&mut self) -> Result<Seal, FrameError> {
        Ok(Seal { length: self.u32()?, crc: self.u32()? })
    }

    pub(crate) fn state(&mut self) -> Result<Option<BlockState>, FrameError> {
        match (self.u32()?, self.u32()?, self.u32()?) {
            (0, 0, 0) => Ok(None),
            (1, length, 0) => Ok(Some(BlockState::Open { length })),
            (2, 0, 0) => Ok(Some(BlockState::Unsettled)),
            (3, length, crc) => Ok(Some(BlockState::Sealed(Seal { length, crc }))),
            _ => Err(self.malformed()),
        }
    }

    /// Everything that is left.
    pub(crate) fn rest(self) -> Bytes {
        self.body
    }

    /// As many items as fill the rest of the body, at most `limit`.
    pub(crate) fn list<T>(
        mut self,
        limit: usize,
        item: impl Fn(&mut Self) -> Result<T, FrameError>,
    ) -> Result<Vec<T>, FrameError> {
        let mut items = Vec::new();
        while !self.is_empty() {
            if items.len() == limit {
                return Err(self.malformed());
            }
            items.push(item(&mut self)?);
        }
        Ok(items)
    }

    /// Checks that nothing is left over.
    pub(crate) fn end<T>(self, value: T) -> Result<T, FrameError> {
        if self.is_empty() { Ok(value) } else { Err(self.malformed()) }
    }
}

pub(crate) fn put_state(body: &mut BytesMut, state: Option<BlockState>) {
    let (kind, length, crc) = match state {
        None => (0, 0, 0),
        Some(BlockState::Open { length }) => (1, length, 0),
        Some(BlockState::Unsettled) => (2, 0, 0),
        Some(BlockState::Sealed(seal)) => (3, seal.length, seal.crc),
    };
    body.put_u32_le(kind);
    body.put_u32_le(length);
    body.put_u32_le(crc);
}
