//! A record: the unit that a volume appends to its log.
//!
//! A header and the pages it describes. It names its own block and its place in it, so that what an
//! older block left behind in a reused slot is never taken for a record, and each record names the
//! place where its predecessor ended, so that the log is a chain.
//!
//! Integers little-endian; a record begins at a multiple of 512 bytes of its block.
//!
//! | offset | size | field        | meaning                                                    |
//! |-------:|-----:|--------------|------------------------------------------------------------|
//! |      0 |    4 | magic        | `TREC`                                                     |
//! |      4 |    2 | version      | 1                                                          |
//! |      6 |    2 | header units | size of the header, padding included, in 512 bytes         |
//! |      8 |   24 | block        | the [`BlockRef`] it stands in                              |
//! |     32 |    8 | epoch        | of the writer                                              |
//! |     40 |    8 | sequence     | one more than the record before, from 1 in each generation |
//! |     48 |    4 | offset       | of this record in its block, in bytes                      |
//! |     52 |    4 | previous end | length of the previous block; 0 in records behind the first |
//! |     56 |    8 | previous     | index of the previous block; the own one behind the first  |
//! |     64 |    2 | pages        | how many pages follow the header                           |
//! |     66 |    2 | extents      | how many extents the header has                            |
//! |     68 |    4 | CRC          | CRC-32 of the whole header with this field as 0            |
//! |     72 |   16 | extent…      | u64 first page of the volume, u32 count, u32 kind          |
//! |      … |    4 | page CRC…    | CRC-32 of each page that follows                           |
//!
//! An extent of kind 0 takes its pages, in order, from behind the header; kind 1 zeroes them and
//! takes none. Extents apply in order. The first record of a generation has previous block 2^64-1.

use bytes::{BufMut, Bytes, BytesMut};
use torus_blockstore::field::{u16_at, u32_at, u64_at};
use torus_blockstore::{BlockIndex, BlockRef, Epoch};

use crate::planted::{Planted, is_left_out};

/// Bytes in a page, the unit in which a volume is mapped.
pub const PAGE: u32 = 4096;
/// Records begin at multiples of this many bytes, the sector of common disks.
pub(crate) const UNIT: u32 = 512;
/// The most pages in a record: with a full one, a block of 512 KiB is full.
pub(crate) const MAX_PAGES: usize = 127;
/// The most extents in a record.
pub(crate) const MAX_EXTENTS: usize = 64;
/// No header is longer, so that a reader may fetch one without knowing its length.
pub(crate) const MAX_HEADER: u32 =
    (FIXED + MAX_EXTENTS * EXTENT + MAX_PAGES * 4).next_multiple_of(UNIT as usize) as u32;

const MAGIC: [u8; 4] = *b"TREC";
const VERSION: u16 = 1;
const BLOCK: usize = 8;
const EPOCH: usize = 32;
const SEQUENCE: usize = 40;
const OFFSET: usize = 48;
const PREVIOUS_END: usize = 52;
const PREVIOUS: usize = 56;
const PAGES: usize = 64;
const EXTENTS: usize = 66;
const CRC: usize = 68;
const FIXED: usize = 72;
const EXTENT: usize = 16;

/// What a record does to a run of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExtentKind {
    /// Writes them.
    Data,
    /// Zeroes and unmaps them.
    Zero,
}

/// A run of the volume's pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordExtent {
    pub(crate) page: u64,
    pub(crate) count: u32,
    pub(crate) kind: ExtentKind,
}

/// Where a record stands and what it follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) block: BlockRef,
    pub(crate) epoch: Epoch,
    pub(crate) sequence: u64,
    pub(crate) offset: u32,
    /// The previous block and its length: of the first record of a block, unless it is the
    /// generation's first.
    pub(crate) previous: Option<(BlockIndex, u32)>,
}

/// A decoded and verified header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) place: Place,
    /// Bytes, padding included.
    pub(crate) length: u32,
    pub(crate) extents: Vec<RecordExtent>,
    pub(crate) page_crcs: Vec<u32>,
}

/// Bytes that are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RecordError {
    #[error("no record begins here")]
    Magic,
    #[error("record version {0} is unknown")]
    Version(u16),
    #[error("the record is cut short or contradicts itself")]
    Malformed,
    #[error("the record's header fails its checksum")]
    HeaderCrc,
    #[error("the record belongs to another block or place")]
    Foreign,
}

/// Bytes of a header with so many extents and pages.
pub(crate) fn header_length(extents: usize, pages: usize) -> u32 {
    let bytes = (FIXED + extents * EXTENT + pages * 4).next_multiple_of(UNIT as usize);
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// Encodes the header of a record whose pages have `page_crcs`.
///
/// # Panics
/// When there are more extents or pages than a record holds: the caller cuts before that.
pub(crate) fn encode_header(place: &Place, extents: &[RecordExtent], page_crcs: &[u32]) -> Bytes {
    assert!(extents.len() <= MAX_EXTENTS && page_crcs.len() <= MAX_PAGES, "record too large");
    let length = header_length(extents.len(), page_crcs.len());
    let mut out = BytesMut::with_capacity(length as usize);
    out.put_slice(&MAGIC);
    out.put_u16_le(VERSION);
    out.put_u16_le((length / UNIT) as u16);
    out.put_slice(&place.block.encode());
    out.put_u64_le(place.epoch.0);
    out.put_u64_le(place.sequence);
    out.put_u32_le(place.offset);
    let (previous, previous_end) = match place.previous {
        Some((block, end)) => (block.0, end),
        None if place.offset == 0 => (u64::MAX, 0),
        None => (place.block.index.0, 0),
    };
    out.put_u32_le(previous_end);
    out.put_u64_le(previous);
    out.put_u16_le(page_crcs.len() as u16);
    out.put_u16_le(extents.len() as u16);
    out.put_u32_le(0);
    for extent in extents {
        out.put_u64_le(extent.page);
        out.put_u32_le(extent.count);
        out.put_u32_le(match extent.kind {
            ExtentKind::Data => 0,
            ExtentKind::Zero => 1,
        });
    }
    for crc in page_crcs {
        out.put_u32_le(*crc);
    }
    out.resize(length as usize, 0);
    let crc = crc32fast::hash(&out);
    out[CRC..FIXED].copy_from_slice(&crc.to_le_bytes());
    out.freeze()
}

/// Decodes the header at the start of `bytes`, which stands at `offset` of `block`. `bytes` may go
/// on behind it.
pub(crate) fn decode_header(
    bytes: &[u8],
    block: BlockRef,
    offset: u32,
) -> Result<Header, RecordError> {
    if bytes.len() < FIXED || bytes[..4] != MAGIC {
        return Err(RecordError::Magic);
    }
    let version = u16_at(bytes, 4);
    if version != VERSION {
        return Err(RecordError::Version(version));
    }
    let length = u32::from(u16_at(bytes, 6)) * UNIT;
    let (pages, extents) = (usize::from(u16_at(bytes, PAGES)), usize::from(u16_at(bytes, EXTENTS)));
    if pages > MAX_PAGES
        || extents > MAX_EXTENTS
        || length != header_length(extents, pages)
        || bytes.len() < length as usize
    {
        return Err(RecordError::Malformed);
    }
    let bytes = &bytes[..length as usize];
    let mut crc = crc32fast::Hasher::new();
    crc.update(&bytes[..CRC]);
    crc.update(&[0; 4]);
    crc.update(&bytes[FIXED..]);
    if crc.finalize() != u32_at(bytes, CRC) {
        return Err(RecordError::HeaderCrc);
    }
    let is_foreign = bytes[BLOCK..EPOCH] != block.encode() || u32_at(bytes, OFFSET) != offset;
    if is_foreign && !is_left_out(Planted::RecordIdentity) {
        return Err(RecordError::Foreign);
    }
    let previous = (offset == 0 && u64_at(bytes, PREVIOUS) != u64::MAX)
        .then(|| (BlockIndex(u64_at(bytes, PREVIOUS)), u32_at(bytes, PREVIOUS_END)));
    let place = Place {
        block,
        epoch: Epoch(u64_at(bytes, EPOCH)),
        sequence: u64_at(bytes, SEQUENCE),
        offset,
        previous,
    };
    let (extents_end, crcs_end) = (FIXED + extents * EXTENT, FIXED + extents * EXTENT + pages * 4);
    let extents = bytes[FIXED..extents_end]
        .chunks_exact(EXTENT)
        .map(decode_extent)
        .collect::<Result<Vec<_>, _>>()?;
    let stored: u64 = extents
        .iter()
        .filter(|extent| extent.kind == ExtentKind::Data)
        .map(|extent| u64::from(extent.count))
        .sum();
    if stored != pages as u64 {
        return Err(RecordError::Malformed);
    }
    let page_crcs =
        bytes[extents_end..crcs_end].chunks_exact(4).map(|crc| u32_at(crc, 0)).collect();
    Ok(Header { place, length, extents, page_crcs })
}

impl Header {
    /// Bytes of the whole record.
    pub(crate) fn record_length(&self) -> u32 {
        self.length + PAGE * self.page_crcs.len() as u32
    }

    /// Whether `page`, the record's page number `index`, has the content that was written.
    pub(crate) fn page_is_intact(&self, index: usize, page: &[u8]) -> bool {
        is_left_out(Planted::PageCrc)
            || self.page_crcs.get(index).is_some_and(|crc| *crc == crc32fast::hash(page))
    }
}

fn decode_extent(bytes: &[u8]) -> Result<RecordExtent, RecordError> {
    let kind = match u32_at(bytes, 12) {
        0 => ExtentKind::Data,
        1 => ExtentKind::Zero,
        _ => return Err(RecordError::Malformed),
    };
    Ok(RecordExtent { page: u64_at(bytes, 0), count: u32_at(bytes, 8), kind })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use torus_blockstore::{BlockKind, INodeIndex, VolumeId};

    fn block() -> BlockRef {
        BlockRef {
            volume: VolumeId::new(3).unwrap(),
            kind: BlockKind::Data,
            inode: INodeIndex(4),
            index: BlockIndex(5),
        }
    }

    fn example() -> (Place, Vec<RecordExtent>, Vec<u32>) {
        let place = Place {
            block: block(),
            epoch: Epoch(6),
            sequence: 7,
            offset: 0,
            previous: Some((BlockIndex(4), 0x8000)),
        };
        let extents = vec![
            RecordExtent { page: 8, count: 1, kind: ExtentKind::Data },
            RecordExtent { page: 9, count: 10, kind: ExtentKind::Zero },
        ];
        (place, extents, vec![0x0b0c_0d0e])
    }

    #[test]
    fn golden_bytes() {
        let (place, extents, crcs) = example();
        let bytes = encode_header(&place, &extents, &crcs);
        #[rustfmt::skip]
        let expected = [
            b'T', b'R', b'E', b'C',  1, 0,  1, 0,
            3, 0, 0, 0, 0, 0, 0, 0,  4, 0, 0, 0, 0, 0, 0, 0,  5, 0, 0, 0, 0, 0, 0, 0,
            6, 0, 0, 0, 0, 0, 0, 0,  7, 0, 0, 0, 0, 0, 0, 0,
            0, 0, 0, 0,  0, 0x80, 0, 0,  4, 0, 0, 0, 0, 0, 0, 0,
            1, 0, 2, 0,  0x29, 0x84, 0xcd, 0x81,
            8, 0, 0, 0, 0, 0, 0, 0,  1, 0, 0, 0, 0, 0, 0, 0,
            9, 0, 0, 0, 0, 0, 0, 0,  10, 0, 0, 0, 1, 0, 0, 0,
            0x0e, 0x0d, 0x0c, 0x0b,
        ];
        assert_eq!(bytes.len(), 512);
        assert_eq!(bytes[..expected.len()], expected);
        let header = decode_header(&bytes, block(), 0).unwrap();
        assert_eq!(header, Header { place, length: 512, extents, page_crcs: crcs });
    }

    #[test]
    fn every_flipped_byte_is_refused() {
        let (place, extents, crcs) = example();
        let bytes = encode_header(&place, &extents, &crcs);
        for index in 0..bytes.len() {
            let mut damaged = bytes.to_vec();
            damaged[index] ^= 1;
            assert!(decode_header(&damaged, block(), 0).is_err(), "byte {index}");
        }
    }

    #[test]
    fn a_record_of_another_place_is_refused() {
        let (place, extents, crcs) = example();
        let bytes = encode_header(&place, &extents, &crcs);
        let elsewhere = BlockRef { index: BlockIndex(6), ..block() };
        assert_eq!(decode_header(&bytes, elsewhere, 0), Err(RecordError::Foreign));
        assert_eq!(decode_header(&bytes, block(), 512), Err(RecordError::Foreign));
    }

    #[test]
    fn the_largest_header_has_the_stated_size() {
        assert_eq!(header_length(MAX_EXTENTS, MAX_PAGES), MAX_HEADER);
        assert_eq!(MAX_HEADER, 2048);
    }

    proptest! {
        #[test]
        fn garbage_is_refused(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
            prop_assert!(decode_header(&bytes, block(), 0).is_err());
        }
    }
}
