//! The blockset of an INode: which blocks a volume lives in, as its block spec wants them kept.
//!
//! Every layer of the spec has a part of the description. Integers little-endian:
//!
//! | offset | size | field   | meaning                                         |
//! |-------:|-----:|---------|-------------------------------------------------|
//! |      0 |    4 | magic   | `TBST`                                          |
//! |      4 |    4 | version | 1                                               |
//! |      8 |    4 | layers  | how many follow, outermost first                |
//! |     12 |      | layers  | each: `u32` kind, `u64` length, so many bytes   |
//! |    end |    4 | crc     | CRC-32 (IEEE) of all before it                  |
//!
//! | kind | layer  | content          |
//! |-----:|--------|------------------|
//! |    0 | [base] | the blocks       |
//! |    1 | [crc]  | their checksums  |
//! |    2 | [rep]  | number of copies |
//!
//! The kinds and the order are those of CoreOS Torus, `block/blockset`.

use crate::field::{array, u32_at};
use crate::{BlockLayer, BlockLayerKind, BlockRef, BlockSpec, DecodeError, Seal, SpecError};

mod base;
mod crc;
mod rep;

const MAGIC: &[u8; 4] = b"TBST";
const VERSION: u32 = 1;
const HEAD: usize = 12;
const CRC_LEN: usize = size_of::<u32>();

/// The live blocks of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockSet {
    spec: BlockSpec,
    blocks: Vec<LiveBlock>,
}

/// A block of a blockset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveBlock {
    pub block: BlockRef,
    /// Its sealed length.
    pub length: u32,
    /// CRC-32 (IEEE) of its content, if the spec has the crc layer.
    pub crc: Option<u32>,
}

/// Bytes that are no blockset.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BlockSetError {
    #[error("the checksum of the blockset is wrong")]
    Checksum,
    #[error("these bytes are no blockset")]
    Foreign,
    /// Written by another release.
    #[error("the blockset has format version {found}, this program knows {VERSION}")]
    Version { found: u32 },
    #[error("block layer kind {kind} is unknown")]
    UnknownLayer { kind: u32 },
    #[error("the layers of the blockset make no spec")]
    Spec(#[from] SpecError),
    /// A layer's content, or the row of layers, has another length than it says.
    #[error("the blockset has {found} bytes where {expected} belong")]
    Length { expected: usize, found: usize },
    #[error("a block of the blockset has no name")]
    Block(#[from] DecodeError),
}

impl BlockSet {
    /// A set without blocks.
    pub fn new(spec: BlockSpec) -> Self {
        Self { spec, blocks: Vec::new() }
    }

    /// How its blocks are kept.
    pub fn spec(&self) -> &BlockSpec {
        &self.spec
    }

    /// How many blocks it has.
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Adds a sealed block at the end.
    pub fn push(&mut self, block: BlockRef, seal: Seal) {
        let has_crc = self.spec.layers().iter().any(|layer| layer.kind == BlockLayerKind::Crc);
        let crc = has_crc.then_some(seal.crc);
        self.blocks.push(LiveBlock { block, length: seal.length, crc });
    }

    /// The blocks in the order in which they were added.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = LiveBlock> + '_ {
        self.blocks.iter().copied()
    }

    /// The bytes of the tables above.
    pub fn encode(&self) -> Vec<u8> {
        let layers = self.spec.layers();
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        #[expect(clippy::cast_possible_truncation, reason = "a spec has each kind at most once")]
        bytes.extend((layers.len() as u32).to_le_bytes());
        for layer in layers {
            let content = match layer.kind {
                BlockLayerKind::Base => base::encode(&self.blocks),
                BlockLayerKind::Crc => crc::encode(&self.blocks),
                BlockLayerKind::Replication => rep::encode(layer.copies),
            };
            bytes.extend(number(layer.kind).to_le_bytes());
            bytes.extend((content.len() as u64).to_le_bytes());
            bytes.extend(content);
        }
        let crc = crc32fast::hash(&bytes);
        bytes.extend(crc.to_le_bytes());
        bytes
    }

    /// Decodes what [`encode`](Self::encode) wrote; any other bytes are an error.
    pub fn decode(bytes: &[u8]) -> Result<Self, BlockSetError> {
        if bytes.len() < HEAD + CRC_LEN || bytes[..4] != *MAGIC {
            return Err(BlockSetError::Foreign);
        }
        let (bytes, crc) = bytes.split_at(bytes.len() - CRC_LEN);
        if u32_at(crc, 0) != crc32fast::hash(bytes) {
            return Err(BlockSetError::Checksum);
        }
        match u32_at(bytes, 4) {
            VERSION => {}
            found => return Err(BlockSetError::Version { found }),
        }
        let mut rest = &bytes[HEAD..];
        let mut layers = Vec::new();
        let mut blocks = Vec::new();
        let mut crcs = None;
        for _ in 0..u32_at(bytes, 8) {
            let (kind, content) = split_layer(&mut rest)?;
            let copies = match kind {
                BlockLayerKind::Base => {
                    blocks = base::decode(content)?;
                    None
                }
                BlockLayerKind::Crc => {
                    crcs = Some(crc::decode(content)?);
                    None
                }
                BlockLayerKind::Replication => Some(rep::decode(content)?),
            };
            layers.push(BlockLayer { kind, copies });
        }
        check_length(0, rest.len())?;
        let spec = BlockSpec::new(layers)?;
        if let Some(crcs) = crcs {
            check_length(blocks.len() * crc::LEN, crcs.len() * crc::LEN)?;
            for (block, crc) in blocks.iter_mut().zip(crcs) {
                block.crc = Some(crc);
            }
        }
        Ok(Self { spec, blocks })
    }
}

/// Takes one layer off the row.
fn split_layer<'a>(rest: &mut &'a [u8]) -> Result<(BlockLayerKind, &'a [u8]), BlockSetError> {
    const LAYER_HEAD: usize = 12;
    let (head, behind) = rest
        .split_at_checked(LAYER_HEAD)
        .ok_or(BlockSetError::Length { expected: LAYER_HEAD, found: rest.len() })?;
    let kind = match u32_at(head, 0) {
        0 => BlockLayerKind::Base,
        1 => BlockLayerKind::Crc,
        2 => BlockLayerKind::Replication,
        kind => return Err(BlockSetError::UnknownLayer { kind }),
    };
    let length = usize::try_from(u64::from_le_bytes(array(head, 4))).unwrap_or(usize::MAX);
    let (content, behind) = behind
        .split_at_checked(length)
        .ok_or(BlockSetError::Length { expected: length, found: behind.len() })?;
    *rest = behind;
    Ok((kind, content))
}

fn number(kind: BlockLayerKind) -> u32 {
    match kind {
        BlockLayerKind::Base => 0,
        BlockLayerKind::Crc => 1,
        BlockLayerKind::Replication => 2,
    }
}

fn check_length(expected: usize, found: usize) -> Result<(), BlockSetError> {
    if expected == found { Ok(()) } else { Err(BlockSetError::Length { expected, found }) }
}

#[cfg(test)]
mod tests;
