//! The format of a snapshot file; the table is in the module above.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};

use prost::Message;

use crate::config::SnapshotMeta;
use crate::error::{DecodeError, SnapshotError};
use crate::machine::SnapshotWriter;
use crate::wire::{self, proto, stored_membership};

const MAGIC: [u8; 8] = *b"TorusSnp";
const VERSION: u32 = 1;
const PREFIX: u64 = 16;
const FOOTER: u64 = 12;
const HEADER_SIZE_MAX: u32 = 1 << 20;
const BUFFER: usize = 256 << 10;

/// An open snapshot file that was found to be intact, or is being received.
#[derive(Debug)]
pub(crate) struct SnapshotFile {
    pub(crate) file: File,
    /// Where it stands while it is not yet one of the shelf's.
    pub(crate) draft: Option<super::Draft>,
}

/// Writes a snapshot of `group` to `file`, without syncing it.
pub(super) fn write(
    file: &File,
    group: [u8; 16],
    meta: &SnapshotMeta,
    body: SnapshotWriter,
) -> io::Result<()> {
    let header = proto::SnapshotHeader {
        group: group.to_vec().into(),
        last: meta.last_log_id.map(Into::into),
        membership_id: (*meta.last_membership.log_id()).map(Into::into),
        membership: Some(meta.last_membership.membership().into()),
    }
    .encode_to_vec();
    let header_size =
        u32::try_from(header.len()).ok().filter(|size| *size <= HEADER_SIZE_MAX).ok_or_else(
            || io::Error::new(io::ErrorKind::InvalidInput, "the membership is too large"),
        )?;
    let mut out = Summed::new(BufWriter::with_capacity(BUFFER, file));
    out.write_all(&MAGIC)?;
    out.write_all(&VERSION.to_le_bytes())?;
    out.write_all(&header_size.to_le_bytes())?;
    out.write_all(&header)?;
    let before = out.count;
    body(&mut out)?;
    let body_size = out.count - before;
    out.write_all(&body_size.to_le_bytes())?;
    let sum = out.sum.clone().finalize();
    out.write_all(&sum.to_le_bytes())?;
    out.inner.flush()
}

/// Reads the whole file and checks every byte of it; returns what it is a snapshot of.
pub(crate) fn read_meta(file: &File, group: [u8; 16]) -> Result<SnapshotMeta, SnapshotError> {
    let header = check(file)?;
    let header: proto::SnapshotHeader =
        wire::decode(header.as_slice()).map_err(|source| SnapshotError::Header { source })?;
    if header.group.as_ref() != group {
        return Err(SnapshotError::Group);
    }
    let decoded = || -> Result<SnapshotMeta, DecodeError> {
        let last_membership = stored_membership(header.membership_id, header.membership)?;
        Ok(SnapshotMeta { last_log_id: header.last.map(Into::into), last_membership })
    };
    decoded().map_err(|source| SnapshotError::Header { source })
}

/// A reader of the body alone. The file must have passed [`read_meta`].
pub(crate) fn body(file: &File) -> Result<impl Read + '_, SnapshotError> {
    let (header_size, body_size) = sizes(file)?;
    let start = PREFIX + u64::from(header_size);
    let mut file = BufReader::with_capacity(BUFFER, file);
    file.seek(SeekFrom::Start(start)).map_err(read_error)?;
    Ok(file.take(body_size))
}

fn read_error(source: io::Error) -> SnapshotError {
    SnapshotError::Read { source }
}

/// Reads the fixed parts and compares them with the file's size.
fn sizes(file: &File) -> Result<(u32, u64), SnapshotError> {
    let found = file.metadata().map_err(read_error)?.len();
    let least = PREFIX + FOOTER;
    if found < least {
        return Err(SnapshotError::Size { found, expected: least });
    }
    let mut reader = file;
    reader.seek(SeekFrom::Start(0)).map_err(read_error)?;
    let magic: [u8; 8] = read_array(&mut reader)?;
    if magic != MAGIC {
        return Err(SnapshotError::Magic);
    }
    let version = u32::from_le_bytes(read_array(&mut reader)?);
    if version != VERSION {
        return Err(SnapshotError::Version { found: version, known: VERSION });
    }
    let header_size = u32::from_le_bytes(read_array(&mut reader)?);
    reader.seek(SeekFrom::Start(found - FOOTER)).map_err(read_error)?;
    let body_size = u64::from_le_bytes(read_array(&mut reader)?);
    let expected = body_size.saturating_add(least + u64::from(header_size));
    if found != expected || header_size > HEADER_SIZE_MAX {
        return Err(SnapshotError::Size { found, expected });
    }
    Ok((header_size, body_size))
}

/// Checks sizes and checksum; returns the bytes of the header.
fn check(file: &File) -> Result<Vec<u8>, SnapshotError> {
    let (header_size, body_size) = sizes(file)?;
    let summed = PREFIX + u64::from(header_size) + body_size + size_of::<u64>() as u64;
    let mut reader = BufReader::with_capacity(BUFFER, file);
    reader.seek(SeekFrom::Start(0)).map_err(read_error)?;
    let mut sum = Summed::new(io::sink());
    let mut header = Vec::new();
    let begin = reader.by_ref().take(PREFIX);
    copy(begin, &mut sum)?;
    reader.by_ref().take(u64::from(header_size)).read_to_end(&mut header).map_err(read_error)?;
    sum.write_all(&header).map_err(read_error)?;
    copy(reader.by_ref().take(summed - PREFIX - u64::from(header_size)), &mut sum)?;
    let expected = u32::from_le_bytes(read_array(&mut reader)?);
    let found = sum.sum.finalize();
    if found != expected {
        return Err(SnapshotError::Checksum { found, expected });
    }
    Ok(header)
}

fn copy(mut from: impl Read, to: &mut impl Write) -> Result<(), SnapshotError> {
    io::copy(&mut from, to).map_err(read_error)?;
    Ok(())
}

fn read_array<const N: usize>(reader: &mut impl Read) -> Result<[u8; N], SnapshotError> {
    let mut bytes = [0; N];
    reader.read_exact(&mut bytes).map_err(read_error)?;
    Ok(bytes)
}

/// Counts and sums what passes through.
struct Summed<W> {
    inner: W,
    sum: crc32fast::Hasher,
    count: u64,
}

impl<W> Summed<W> {
    fn new(inner: W) -> Self {
        Self { inner, sum: crc32fast::Hasher::new(), count: 0 }
    }
}

impl<W: Write> Write for Summed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.sum.update(&bytes[..written]);
        self.count += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
