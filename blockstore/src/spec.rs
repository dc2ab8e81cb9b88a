//! The block spec: which redundancy and protection layers the blocks of a volume get.
//!
//! A comma-separated list of layers from the outermost to the innermost, as `crc,base`; the
//! innermost, `base`, may be left out. `rep=N` (or `r=N`) sets the number of copies.

use std::fmt;
use std::str::FromStr;

/// More copies than any cluster needs.
const MAX_COPIES: u32 = 16;

/// One layer's kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BlockLayerKind {
    /// The blocks themselves.
    Base,
    /// A checksum beside each block.
    Crc,
    /// Copies of each block.
    Replication,
}

/// One layer of a block spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockLayer {
    pub kind: BlockLayerKind,
    /// How many copies: of [`BlockLayerKind::Replication`] only.
    pub copies: Option<u32>,
}

/// The layers of a volume's blocks, outermost first; the last is always base.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockSpec(Vec<BlockLayer>);

/// A text that is no block spec.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    #[error("there is no block layer {name:?}; the layers are base, crc and rep=N")]
    UnknownLayer { name: String },
    #[error("layer {name:?} stands twice")]
    Twice { name: &'static str },
    #[error("layer base must be the last")]
    BaseNotLast,
    #[error("layer {name:?} takes no option")]
    NoOption { name: &'static str },
    #[error("rep={option:?} is no number of copies from 1 to 16")]
    Copies { option: String },
    #[error("the block spec is empty")]
    Empty,
}

impl BlockSpec {
    /// The spec of these layers, outermost first.
    pub fn new(layers: Vec<BlockLayer>) -> Result<Self, SpecError> {
        let last = layers.last().ok_or(SpecError::Empty)?;
        let outer = &layers[..layers.len() - 1];
        if last.kind != BlockLayerKind::Base || outer.iter().any(|l| l.kind == last.kind) {
            return Err(SpecError::BaseNotLast);
        }
        for (index, layer) in layers.iter().enumerate() {
            if outer[..index.min(outer.len())].iter().any(|outer| outer.kind == layer.kind) {
                return Err(SpecError::Twice { name: name(layer.kind) });
            }
            match (layer.kind, layer.copies) {
                (BlockLayerKind::Replication, Some(1..=MAX_COPIES)) => {}
                (BlockLayerKind::Replication, copies) => {
                    let option = copies.map_or_else(String::new, |copies| copies.to_string());
                    return Err(SpecError::Copies { option });
                }
                (_, None) => {}
                (kind, Some(_)) => return Err(SpecError::NoOption { name: name(kind) }),
            }
        }
        Ok(Self(layers))
    }

    /// The layers, outermost first.
    pub fn layers(&self) -> &[BlockLayer] {
        &self.0
    }

    /// How many copies the spec itself asks for; `None` leaves it to the ring.
    pub fn copies(&self) -> Option<u32> {
        self.0.iter().find_map(|layer| layer.copies)
    }
}

/// `crc,base`.
impl Default for BlockSpec {
    fn default() -> Self {
        let layer = |kind| BlockLayer { kind, copies: None };
        Self(vec![layer(BlockLayerKind::Crc), layer(BlockLayerKind::Base)])
    }
}

impl FromStr for BlockSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        if text.trim().is_empty() {
            return Err(SpecError::Empty);
        }
        let parts = text.split(',').map(|part| parse_layer(part.trim()));
        let mut layers = parts.collect::<Result<Vec<_>, _>>()?;
        if layers.last().is_none_or(|last| last.kind != BlockLayerKind::Base) {
            layers.push(BlockLayer { kind: BlockLayerKind::Base, copies: None });
        }
        Self::new(layers)
    }
}

impl fmt::Display for BlockSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, layer) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            f.write_str(name(layer.kind))?;
            if let Some(copies) = layer.copies {
                write!(f, "={copies}")?;
            }
        }
        Ok(())
    }
}

fn parse_layer(part: &str) -> Result<BlockLayer, SpecError> {
    let (layer, option) = match part.split_once('=') {
        Some((layer, option)) => (layer, Some(option)),
        None => (part, None),
    };
    let kind = match layer.to_ascii_lowercase().as_str() {
        "base" => BlockLayerKind::Base,
        "crc" => BlockLayerKind::Crc,
        "rep" | "r" => BlockLayerKind::Replication,
        _ => return Err(SpecError::UnknownLayer { name: layer.to_owned() }),
    };
    match (kind, option) {
        (BlockLayerKind::Replication, None) => Ok(BlockLayer { kind, copies: Some(2) }),
        (BlockLayerKind::Replication, Some(option)) => match option.parse() {
            Ok(copies @ 1..=MAX_COPIES) => Ok(BlockLayer { kind, copies: Some(copies) }),
            _ => Err(SpecError::Copies { option: option.to_owned() }),
        },
        (_, Some(_)) => Err(SpecError::NoOption { name: name(kind) }),
        (_, None) => Ok(BlockLayer { kind, copies: None }),
    }
}

fn name(kind: BlockLayerKind) -> &'static str {
    match kind {
        BlockLayerKind::Base => "base",
        BlockLayerKind::Crc => "crc",
        BlockLayerKind::Replication => "rep",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    #[track_caller]
    fn check(text: &str, expected: Expect) {
        let found = match text.parse::<BlockSpec>() {
            Ok(spec) => spec.to_string(),
            Err(error) => format!("error: {error}"),
        };
        expected.assert_eq(&found);
    }

    #[test]
    fn base_may_be_left_out() {
        check("crc", expect!["crc,base"]);
        check("CRC, base", expect!["crc,base"]);
        check("base", expect!["base"]);
        assert_eq!("crc".parse(), Ok(BlockSpec::default()));
    }

    #[test]
    fn replication_takes_a_number() {
        check("crc,rep=3", expect!["crc,rep=3,base"]);
        check("r", expect!["rep=2,base"]);
        check("rep=0", expect![[r#"error: rep="0" is no number of copies from 1 to 16"#]]);
        check("rep=x", expect![[r#"error: rep="x" is no number of copies from 1 to 16"#]]);
    }

    #[test]
    fn layers_are_checked_as_texts_are() {
        let layer = |kind, copies| BlockLayer { kind, copies };
        let base = layer(BlockLayerKind::Base, None);
        let rep = |copies| BlockSpec::new(vec![layer(BlockLayerKind::Replication, copies), base]);
        assert_eq!(BlockSpec::new(vec![]), Err(SpecError::Empty));
        assert_eq!(rep(Some(17)), Err(SpecError::Copies { option: "17".to_owned() }));
        assert_eq!(rep(None), Err(SpecError::Copies { option: String::new() }));
        assert_eq!(rep(Some(3)), "rep=3".parse());
        assert_eq!(
            BlockSpec::new(vec![layer(BlockLayerKind::Crc, None)]),
            Err(SpecError::BaseNotLast)
        );
    }

    #[test]
    fn nonsense_is_named() {
        check("", expect!["error: the block spec is empty"]);
        check(
            "crc,,base",
            expect![[r#"error: there is no block layer ""; the layers are base, crc and rep=N"#]],
        );
        check(
            "md5",
            expect![[
                r#"error: there is no block layer "md5"; the layers are base, crc and rep=N"#
            ]],
        );
        check("base,crc", expect!["error: layer base must be the last"]);
        check("crc,crc", expect![[r#"error: layer "crc" stands twice"#]]);
        check("base,base", expect!["error: layer base must be the last"]);
        check("crc=1", expect![[r#"error: layer "crc" takes no option"#]]);
    }
}
