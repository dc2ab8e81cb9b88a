//! The file of a backup: the state of a cluster with what it is of.
//!
//! Integers are little-endian.
//!
//! |     offset | size | field         | meaning                                   |
//! |-----------:|-----:|---------------|-------------------------------------------|
//! |          0 |    8 | magic         | `TORUSBAK`                                |
//! |          8 |    4 | version       | 1                                         |
//! |         12 |    4 | header length | H, at most 64 KiB                         |
//! |         16 |    H | header        | protobuf `BackupHeader`                   |
//! |     16 + H |    B | state         | a snapshot, see `snapshot.rs`             |
//! | 16 + H + B |    8 | state length  | B                                         |
//! | 24 + H + B |    4 | checksum      | CRC-32 of all bytes before it             |

use std::io::{self, Write};

use prost::Message;
use uuid::Uuid;

use super::snapshot::Summed;
use super::{Image, proto, read_snapshot, write_snapshot};
use crate::{Backup, BackupError, BackupInfo, FeatureLevel, Revision};

const MAGIC: &[u8; 8] = b"TORUSBAK";
const VERSION: u32 = 1;
/// Where the fields in front of the header are, and how long they are together.
const VERSION_AT: usize = 8;
const HEADER_LENGTH_AT: usize = 12;
const PREFIX: usize = 16;
/// The state's length, then the checksum.
const STATE_LENGTH_SIZE: usize = 8;
const FOOTER: usize = STATE_LENGTH_SIZE + 4;
const HEADER_MAX: usize = 64 << 10;
/// Of a log; what is larger no group has reached.
const NUMBER_MAX: u64 = u64::MAX / 2;

pub(crate) fn write_backup(info: BackupInfo, image: Image, to: &mut dyn Write) -> io::Result<()> {
    let header = proto::BackupHeader {
        cluster: info.cluster.as_bytes().to_vec(),
        generation: info.generation,
        revision: info.revision.0,
        term: info.term,
        index: info.index,
        created_ms: info.created_ms,
        level: info.level.0,
    }
    .encode_to_vec();
    let mut to = Summed::new(to);
    to.write_all(MAGIC)?;
    to.write_all(&VERSION.to_le_bytes())?;
    to.write_all(&u32::try_from(header.len()).map_err(io::Error::other)?.to_le_bytes())?;
    to.write_all(&header)?;
    let before = to.count;
    write_snapshot(image, &mut to)?;
    let length = to.count - before;
    to.write_all(&length.to_le_bytes())?;
    let checksum = to.crc.clone().finalize();
    to.inner.write_all(&checksum.to_le_bytes())
}

pub(crate) fn decode_backup(bytes: &[u8]) -> Result<Backup, BackupError> {
    Backup::check_size(bytes.len())?;
    let found = bytes.len() as u64;
    if !bytes.starts_with(&MAGIC[..MAGIC.len().min(bytes.len())]) || bytes.is_empty() {
        return Err(BackupError::Magic);
    }
    let too_short = BackupError::Size { found, expected: (PREFIX + FOOTER) as u64 };
    if bytes.len() < PREFIX + FOOTER {
        return Err(too_short);
    }
    let version = u32_at(bytes, VERSION_AT);
    if version != VERSION {
        return Err(BackupError::Version { found: version, known: VERSION });
    }
    let header = u32_at(bytes, HEADER_LENGTH_AT) as usize;
    let footer = bytes.len() - FOOTER;
    let checksum = footer + STATE_LENGTH_SIZE;
    let mut length = [0; STATE_LENGTH_SIZE];
    length.copy_from_slice(&bytes[footer..checksum]);
    let length = u64::from_le_bytes(length);
    let expected = length.saturating_add((PREFIX + FOOTER + header) as u64);
    if header > HEADER_MAX || expected != found {
        return Err(BackupError::Size { found, expected });
    }
    let (summed, expected) = (&bytes[..checksum], u32_at(bytes, checksum));
    let found = crc32fast::hash(summed);
    if found != expected {
        return Err(BackupError::Checksum { found, expected });
    }
    let state = PREFIX + header;
    let info = info(&bytes[PREFIX..state])?;
    let machine = read_snapshot(&mut &bytes[state..footer])?;
    let global = machine.state.global.as_ref().ok_or(BackupError::NotInitialised)?;
    // The new group goes on behind its numbers.
    if global.cluster != info.cluster || info.index.max(info.term) > NUMBER_MAX {
        return Err(BackupError::Header);
    }
    Ok(Backup { info, machine })
}

fn info(bytes: &[u8]) -> Result<BackupInfo, BackupError> {
    let header = proto::BackupHeader::decode(bytes).map_err(|_| BackupError::Header)?;
    Ok(BackupInfo {
        cluster: Uuid::from_slice(&header.cluster).map_err(|_| BackupError::Header)?,
        generation: header.generation,
        revision: Revision(header.revision),
        term: header.term,
        index: header.index,
        created_ms: header.created_ms,
        level: FeatureLevel::from_wire(header.level),
    })
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[offset..offset + 4]);
    u32::from_le_bytes(word)
}
