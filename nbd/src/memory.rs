//! A disk in memory: what the protocol costs when the storage costs nothing, and the reference for
//! other exports.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{Export, ExportError, ExportInfo, Exports, Extent, OpenError, ReadData};

/// The unit in which memory is taken and holes are known, in bytes.
const CHUNK: usize = 64 * 1024;

type Chunk = RwLock<Option<Box<[u8]>>>;

/// A sparse disk whose contents live as long as the process.
#[derive(Debug)]
pub struct MemoryDisk {
    info: ExportInfo,
    chunks: Vec<Chunk>,
}

/// The part of a range that lies in one chunk.
struct Part {
    chunk: usize,
    start: usize,
    length: usize,
}

impl MemoryDisk {
    /// A disk of zeroes.
    pub fn new(size: u64) -> Self {
        let info = ExportInfo {
            multi_conn: true,
            description: "a disk in memory".to_owned(),
            ..ExportInfo::new(size)
        };
        Self::with_info(info)
    }

    /// A disk of zeroes that says of itself what the caller wants.
    pub fn with_info(info: ExportInfo) -> Self {
        let count = info.size.div_ceil(CHUNK as u64);
        let chunks = (0..count).map(|_| RwLock::new(None)).collect();
        Self { info, chunks }
    }

    /// The parts of a range, in order.
    fn parts(offset: u64, length: u64) -> impl Iterator<Item = Part> {
        let chunk = CHUNK as u64;
        let end = offset + length;
        let mut at = offset;
        std::iter::from_fn(move || {
            if at == end {
                return None;
            }
            let start = at % chunk;
            let length = (chunk - start).min(end - at);
            let index = at / chunk;
            at += length;
            // A chunk is in memory, so its index and its size fit there.
            let [index, start, length] =
                [index, start, length].map(|value| usize::try_from(value).unwrap_or(usize::MAX));
            Some(Part { chunk: index, start, length })
        })
    }

    fn clear(&self, offset: u64, length: u64, keep: bool) {
        for Part { chunk, start, length } in Self::parts(offset, length) {
            // Each chunk is whole at every moment, whatever became of another thread.
            let mut slot = self.chunks[chunk].write().unwrap_or_else(PoisonError::into_inner);
            match &mut *slot {
                Some(_) if length == CHUNK && !keep => *slot = None,
                Some(bytes) => bytes[start..start + length].fill(0),
                None if keep => *slot = Some(vec![0; CHUNK].into()),
                None => {}
            }
        }
    }
}

#[async_trait]
impl Export for MemoryDisk {
    fn info(&self) -> ExportInfo {
        self.info.clone()
    }

    async fn read(&self, offset: u64, length: u32) -> Result<ReadData, ExportError> {
        let mut data = ReadData::new();
        for Part { chunk, start, length } in Self::parts(offset, length.into()) {
            match &*self.chunks[chunk].read().unwrap_or_else(PoisonError::into_inner) {
                Some(bytes) => data.push(Bytes::copy_from_slice(&bytes[start..start + length])),
                None => data.push_hole(u32::try_from(length).unwrap_or(u32::MAX)),
            }
        }
        Ok(data)
    }

    async fn write(&self, offset: u64, data: Bytes, _fua: bool) -> Result<(), ExportError> {
        let mut rest = &data[..];
        for Part { chunk, start, length } in Self::parts(offset, data.len() as u64) {
            let (piece, after) = rest.split_at(length);
            rest = after;
            let mut slot = self.chunks[chunk].write().unwrap_or_else(PoisonError::into_inner);
            let bytes = slot.get_or_insert_with(|| vec![0; CHUNK].into());
            bytes[start..start + length].copy_from_slice(piece);
        }
        Ok(())
    }

    async fn flush(&self) -> Result<(), ExportError> {
        Ok(())
    }

    async fn trim(&self, offset: u64, length: u64, _fua: bool) -> Result<(), ExportError> {
        self.clear(offset, length, false);
        Ok(())
    }

    async fn write_zeroes(
        &self,
        offset: u64,
        length: u64,
        _fua: bool,
        no_hole: bool,
    ) -> Result<(), ExportError> {
        self.clear(offset, length, no_hole);
        Ok(())
    }

    async fn block_status(&self, offset: u64, length: u64) -> Result<Vec<Extent>, ExportError> {
        let mut extents: Vec<Extent> = Vec::new();
        for Part { chunk, length, .. } in Self::parts(offset, length) {
            let slot = self.chunks[chunk].read().unwrap_or_else(PoisonError::into_inner);
            let (hole, length) = (slot.is_none(), length as u64);
            match extents.last_mut() {
                Some(last) if last.hole == hole => last.length += length,
                _ => extents.push(Extent { length, hole, zero: hole }),
            }
        }
        Ok(extents)
    }

    fn zeroes_fast(&self, _offset: u64, length: u64, no_hole: bool) -> bool {
        // Whole chunks are dropped; a part of one is filled, as a write would.
        !no_hole && length >= 2 * CHUNK as u64
    }

    async fn close(&self) {}
}

/// Disks in memory, by name. Any number of clients may have one open.
#[derive(Debug, Default)]
pub struct MemoryDisks {
    disks: BTreeMap<String, Arc<MemoryDisk>>,
}

impl MemoryDisks {
    /// No disk yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a disk, or replaces the one of that name for clients to come.
    pub fn insert(&mut self, name: impl Into<String>, disk: Arc<MemoryDisk>) {
        self.disks.insert(name.into(), disk);
    }

    fn get(&self, name: &str) -> Result<&Arc<MemoryDisk>, OpenError> {
        self.disks.get(name).ok_or(OpenError::Unknown)
    }
}

#[async_trait]
impl Exports for MemoryDisks {
    async fn list(&self) -> Result<Vec<String>, ExportError> {
        Ok(self.disks.keys().cloned().collect())
    }

    async fn info(&self, name: &str) -> Result<ExportInfo, OpenError> {
        Ok(self.get(name)?.info())
    }

    async fn open(&self, name: &str) -> Result<Arc<dyn Export>, OpenError> {
        Ok(Arc::clone(self.get(name)?) as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ReadPiece;
    use bytes::BytesMut;

    fn flat(data: &ReadData) -> Vec<u8> {
        let mut flat = BytesMut::new();
        for piece in data.pieces() {
            match piece {
                ReadPiece::Data(bytes) => flat.extend_from_slice(bytes),
                ReadPiece::Hole(length) => flat.resize(flat.len() + *length as usize, 0),
            }
        }
        flat.to_vec()
    }

    #[tokio::test]
    async fn what_is_written_is_read_and_what_is_cleared_is_zero() {
        let chunk = CHUNK as u64;
        let disk = MemoryDisk::new(4 * chunk + 512);
        let start = chunk - 100;
        let data = Bytes::from(vec![7; CHUNK + 200]);
        let length = u32::try_from(data.len()).unwrap();
        disk.write(start, data.clone(), false).await.unwrap();
        assert_eq!(flat(&disk.read(start, length).await.unwrap()), data);

        disk.write_zeroes(chunk, chunk, false, false).await.unwrap();
        let read = flat(&disk.read(start, length).await.unwrap());
        assert_eq!(read, [vec![7; 100], vec![0; CHUNK], vec![7; 100]].concat());

        let status = disk.block_status(0, disk.info.size).await.unwrap();
        let kinds: Vec<_> = status.iter().map(|extent| (extent.length, extent.hole)).collect();
        assert_eq!(kinds, [(chunk, false), (chunk, true), (chunk, false), (chunk + 512, true)]);

        disk.write_zeroes(0, disk.info.size, false, true).await.unwrap();
        let status = disk.block_status(0, disk.info.size).await.unwrap();
        assert_eq!(status, [Extent { length: disk.info.size, hole: false, zero: false }]);
    }
}
