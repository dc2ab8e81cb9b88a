//! The identities that every layer shares: volumes, INodes, blocks, peers, epochs.
//!
//! A [`BlockRef`] names a volume, an INode (one write generation of that volume) and a position in
//! the INode. References are never reused, so a sealed block never changes.
//!
//! 24 bytes, integers little-endian. These bytes are the index key on disk and the input of the
//! ring's hash: changing them changes both.
//!
//! | offset | size | field  | meaning                                |
//! |-------:|-----:|--------|----------------------------------------|
//! |      0 |    5 | volume | [`VolumeId`], 1 to 2^40 - 1            |
//! |      5 |    3 | kind   | [`BlockKind`]: 0 data, 1 INode         |
//! |      8 |    8 | inode  | [`INodeIndex`]                         |
//! |     16 |    8 | index  | [`BlockIndex`], position in the INode  |
//!
//! Source: CoreOS Torus, `storage.go`, `BlockRef.ToBytesBuf` and `SetBlockType`.

use std::fmt;
use std::str::FromStr;

const PACKED: usize = 0;
const INODE: usize = 8;
const INDEX: usize = 16;
const VOLUME_BITS: u32 = 40;
const VOLUME_MASK: u64 = (1 << VOLUME_BITS) - 1;
const _: () = assert!(INDEX + size_of::<u64>() == BlockRef::LEN);

/// Bytes that are no identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Volume IDs count from 1.
    #[error("volume 0 does not exist")]
    ZeroVolume,
    /// A block kind that this version does not know.
    #[error("block kind {0} is unknown")]
    UnknownKind(u64),
}

/// A volume, allocated by the metadata service and never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeId(u64);

impl VolumeId {
    /// Returns `None` outside 1 to 2^40 - 1, the range a [`BlockRef`] can hold.
    pub const fn new(raw: u64) -> Option<Self> {
        if 0 < raw && raw <= VOLUME_MASK { Some(Self(raw)) } else { None }
    }

    /// The number itself.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// One write generation of a volume, reserved from the metadata and never reused within it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct INodeIndex(pub u64);

/// The position of a block in its INode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockIndex(pub u64);

/// The fencing token of a volume: one more for every opener. Peers refuse appends of older ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BlockKind {
    /// A part of the volume's log.
    Data,
    /// A part of a checkpoint.
    INode,
}

/// The name of a block in the whole cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockRef {
    pub volume: VolumeId,
    pub kind: BlockKind,
    pub inode: INodeIndex,
    pub index: BlockIndex,
}

impl BlockRef {
    /// Encoded size, in bytes.
    pub const LEN: usize = 24;

    /// The 24 bytes of the table above.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let kind = match self.kind {
            BlockKind::Data => 0,
            BlockKind::INode => 1,
        };
        let mut bytes = [0; Self::LEN];
        bytes[PACKED..INODE].copy_from_slice(&(kind << VOLUME_BITS | self.volume.0).to_le_bytes());
        bytes[INODE..INDEX].copy_from_slice(&self.inode.0.to_le_bytes());
        bytes[INDEX..].copy_from_slice(&self.index.0.to_le_bytes());
        bytes
    }

    /// Decodes what [`encode`](Self::encode) wrote; any other bytes are an error.
    pub fn decode(bytes: &[u8; Self::LEN]) -> Result<Self, DecodeError> {
        let packed = word(bytes, PACKED);
        let volume = VolumeId::new(packed & VOLUME_MASK).ok_or(DecodeError::ZeroVolume)?;
        let kind = match packed >> VOLUME_BITS {
            0 => BlockKind::Data,
            1 => BlockKind::INode,
            kind => return Err(DecodeError::UnknownKind(kind)),
        };
        let inode = INodeIndex(word(bytes, INODE));
        let index = BlockIndex(word(bytes, INDEX));
        Ok(Self { volume, kind, inode, index })
    }

    /// The INode that the block belongs to.
    pub fn inode_ref(&self) -> INodeRef {
        INodeRef { volume: self.volume, inode: self.inode }
    }
}

/// As Torus prints it, in hexadecimal: `br TYPE<<40|VOLUME : INODE : INDEX`.
impl fmt::Display for BlockRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "br {:x} : {:x} : {:x}", word(&self.encode(), PACKED), self.inode.0, self.index.0)
    }
}

/// The name of an INode: 16 bytes little-endian, volume then INode index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct INodeRef {
    pub volume: VolumeId,
    pub inode: INodeIndex,
}

impl INodeRef {
    /// Encoded size, in bytes.
    pub const LEN: usize = 16;

    /// The 16 bytes: `u64` volume, `u64` INode index.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&self.volume.0.to_le_bytes());
        bytes[8..].copy_from_slice(&self.inode.0.to_le_bytes());
        bytes
    }

    /// Decodes what [`encode`](Self::encode) wrote.
    pub fn decode(bytes: &[u8; Self::LEN]) -> Result<Self, DecodeError> {
        let volume = VolumeId::new(word(bytes, 0)).ok_or(DecodeError::ZeroVolume)?;
        Ok(Self { volume, inode: INodeIndex(word(bytes, 8)) })
    }
}

/// A storage node, named once and for all by the UUID that its first start drew.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub uuid::Uuid);

impl PeerId {
    /// A name that no other peer has.
    pub fn random() -> Self {
        Self(uuid::Uuid::new_v4())
    }

    /// The 16 bytes of the UUID, in network order.
    pub fn encode(&self) -> [u8; 16] {
        *self.0.as_bytes()
    }

    /// Any 16 bytes are a peer's name.
    pub fn decode(bytes: [u8; 16]) -> Self {
        Self(uuid::Uuid::from_bytes(bytes))
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerId({})", self.0)
    }
}

impl FromStr for PeerId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        uuid::Uuid::parse_str(text).map(Self)
    }
}

fn word<const N: usize>(bytes: &[u8; N], offset: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[offset..offset + 8]);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: BlockRef = BlockRef {
        volume: VolumeId(0x01_02_03_04_05),
        kind: BlockKind::INode,
        inode: INodeIndex(7),
        index: BlockIndex(9),
    };

    #[test]
    fn golden_bytes() {
        #[rustfmt::skip]
        let bytes = [
            5, 4, 3, 2, 1,  1, 0, 0,
            7, 0, 0, 0, 0, 0, 0, 0,
            9, 0, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(EXAMPLE.encode(), bytes);
        assert_eq!(BlockRef::decode(&bytes), Ok(EXAMPLE));
        assert_eq!(EXAMPLE.to_string(), "br 10102030405 : 7 : 9");
    }

    #[test]
    fn foreign_bytes_are_refused() {
        assert_eq!(BlockRef::decode(&[0; 24]), Err(DecodeError::ZeroVolume));
        let mut unknown = EXAMPLE.encode();
        unknown[5] = 2;
        assert_eq!(BlockRef::decode(&unknown), Err(DecodeError::UnknownKind(2)));
        assert_eq!(VolumeId::new(1 << 40), None);
    }

    #[test]
    fn an_inode_ref_is_sixteen_bytes() {
        let inode = EXAMPLE.inode_ref();
        assert_eq!(INodeRef::decode(&inode.encode()), Ok(inode));
        assert_eq!(inode.encode()[8], 7);
    }
}
