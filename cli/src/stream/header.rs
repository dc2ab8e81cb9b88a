//! The header of a stream: of which volume it is, and of which moments.
//!
//! Integers little-endian.
//!
//! | offset | size | field           | meaning                                                  |
//! |-------:|-----:|-----------------|----------------------------------------------------------|
//! |      0 |    8 | magic           | `TORUSVOL`                                               |
//! |      8 |    2 | version         | 1                                                        |
//! |     10 |    1 | kind            | 1 full, 2 incremental                                    |
//! |     11 |    1 | volume length   | bytes of the volume's name, at least 1                   |
//! |     12 |    1 | to length       | bytes of the snapshot's name; 0: the volume itself       |
//! |     13 |    1 | from length     | bytes of the base's name; 0 exactly when full            |
//! |     14 |    2 | zero            |                                                          |
//! |     16 |   16 | cluster         | the UUID of the cluster                                  |
//! |     32 |    8 | volume          | the volume's ID there                                    |
//! |     40 |    8 | to snapshot     | the snapshot's ID there; 0: the volume itself            |
//! |     48 |    8 | to created      | milliseconds since 1970                                  |
//! |     56 |    8 | to size         | bytes of the volume at that moment                       |
//! |     64 |    8 | from snapshot   | of the base; this and the next two are 0 when full       |
//! |     72 |    8 | from created    |                                                          |
//! |     80 |    8 | from size       |                                                          |
//! |     88 |    … | names           | volume, to, from; ASCII                                  |
//! |      … |    4 | CRC             | CRC-32 of all before                                     |

use torus_blockstore::field::u64_at;
use uuid::Uuid;

use super::StreamError;

const MAGIC: [u8; 8] = *b"TORUSVOL";
const VERSION: u16 = 1;
const FULL: u8 = 1;
const INCREMENTAL: u8 = 2;

const KIND: usize = 10;
const VOLUME_LENGTH: usize = 11;
const TO_LENGTH: usize = 12;
const FROM_LENGTH: usize = 13;
const ZERO: usize = 14;
const CLUSTER: usize = 16;
const VOLUME: usize = 32;
const TO: usize = 40;
const FROM: usize = 64;
const NAMES: usize = 88;
const _: () = assert!(FROM + 3 * size_of::<u64>() == NAMES);
const CRC_LENGTH: usize = size_of::<u32>();

/// Bytes of a header before its names: so many tell how long it is.
pub const PREFIX: usize = NAMES;

/// A volume at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The snapshot's ID where it was taken; 0: no snapshot, but the volume as it was.
    pub id: u64,
    /// The snapshot's name; empty if there is none.
    pub name: String,
    /// In milliseconds since 1970.
    pub created_ms: u64,
    /// Bytes of the volume.
    pub size: u64,
}

/// What a stream is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Of the cluster that it was exported from.
    pub cluster: Uuid,
    /// The volume's ID there.
    pub volume_id: u64,
    /// The volume's name there.
    pub volume: String,
    /// What the volume is once the stream has been applied.
    pub to: Moment,
    /// What it must be before; `None`: nothing, the stream is full.
    pub from: Option<Moment>,
}

/// Whether bytes begin as a stream does.
pub fn has_magic(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC)
}

impl Header {
    /// The bytes of the header.
    ///
    /// # Panics
    /// When a name is longer than names can be, or missing where the stream needs one.
    pub fn encode(&self) -> Vec<u8> {
        let from_name = self.from.as_ref().map_or("", |from| &from.name);
        assert!(!self.volume.is_empty(), "a volume has a name");
        assert!(self.from.is_some() != from_name.is_empty(), "a base has a name");
        let mut bytes = Vec::with_capacity(NAMES + CRC_LENGTH + 3 * usize::from(u8::MAX));
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.push(if self.from.is_some() { INCREMENTAL } else { FULL });
        bytes.extend([&self.volume, &self.to.name, from_name].map(length));
        bytes.extend([0; CLUSTER - ZERO]);
        bytes.extend(self.cluster.as_bytes());
        bytes.extend(self.volume_id.to_le_bytes());
        push_moment(&mut bytes, Some(&self.to));
        push_moment(&mut bytes, self.from.as_ref());
        for name in [&self.volume, &self.to.name, from_name] {
            bytes.extend(name.as_bytes());
        }
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        bytes
    }

    /// Bytes of the whole header that begins with these.
    pub fn length(prefix: &[u8; PREFIX]) -> Result<usize, StreamError> {
        if !has_magic(prefix) {
            return Err(StreamError::Magic);
        }
        let version = u16::from_le_bytes([prefix[8], prefix[9]]);
        if version != VERSION {
            return Err(StreamError::Version(version));
        }
        let names = [VOLUME_LENGTH, TO_LENGTH, FROM_LENGTH].map(|at| usize::from(prefix[at]));
        Ok(NAMES + names.iter().sum::<usize>() + CRC_LENGTH)
    }

    /// The CRC with which an encoded header ends. Not that of the whole: it is the same for all.
    pub(super) fn crc(bytes: &[u8]) -> u32 {
        bytes.last_chunk().map_or(0, |crc| u32::from_le_bytes(*crc))
    }

    /// Decodes what [`encode`](Self::encode) wrote; any other bytes are an error.
    pub fn decode(bytes: &[u8]) -> Result<Self, StreamError> {
        let (prefix, _) = bytes.split_first_chunk::<PREFIX>().ok_or(StreamError::Header)?;
        if bytes.len() != Self::length(prefix)? {
            return Err(StreamError::Header);
        }
        let (content, crc) = bytes.split_at(bytes.len() - CRC_LENGTH);
        if crc != crc32fast::hash(content).to_le_bytes() {
            return Err(StreamError::Header);
        }
        let mut names = &content[NAMES..];
        let mut name = |length: usize| {
            let (name, rest) = names.split_at(usize::from(prefix[length]));
            names = rest;
            // They are shown to people: nothing that a terminal would obey.
            let is_plain = name.iter().all(u8::is_ascii_graphic);
            let name = String::from_utf8(name.to_vec()).ok().filter(|_| is_plain);
            name.ok_or(StreamError::Header)
        };
        let (volume, to, from) = (name(VOLUME_LENGTH)?, name(TO_LENGTH)?, name(FROM_LENGTH)?);
        let to = moment(content, TO, to);
        let from = match prefix[KIND] {
            FULL if from.is_empty() => None,
            INCREMENTAL if !from.is_empty() => Some(moment(content, FROM, from)),
            _ => return Err(StreamError::Header),
        };
        if volume.is_empty() || (to.id == 0) != to.name.is_empty() {
            return Err(StreamError::Header);
        }
        let mut cluster = [0; VOLUME - CLUSTER];
        cluster.copy_from_slice(&content[CLUSTER..VOLUME]);
        let (cluster, volume_id) = (Uuid::from_bytes(cluster), u64_at(content, VOLUME));
        Ok(Self { cluster, volume_id, volume, to, from })
    }
}

fn length(name: &str) -> u8 {
    u8::try_from(name.len()).unwrap_or_else(|_| unreachable!("the name {name:?} is too long"))
}

fn push_moment(bytes: &mut Vec<u8>, moment: Option<&Moment>) {
    let numbers = moment.map_or([0; 3], |moment| [moment.id, moment.created_ms, moment.size]);
    numbers.iter().for_each(|number| bytes.extend(number.to_le_bytes()));
}

fn moment(bytes: &[u8], at: usize, name: String) -> Moment {
    let [id, created_ms, size] = [0, 8, 16].map(|offset| u64_at(bytes, at + offset));
    Moment { id, name, created_ms, size }
}
