//! Names of volumes and snapshots as people write them: `disk`, `disk@monday`.

use std::fmt;
use std::str::FromStr;

/// Characters of a bad name that are shown.
const SHOWN: usize = 64;

/// A text that names no snapshot, or neither a volume nor a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    #[error("{text} names no snapshot; write VOLUME@SNAPSHOT")]
    NoSnapshot { text: String },
    #[error("{text} names no volume; write VOLUME@SNAPSHOT")]
    NoVolume { text: String },
    #[error("{text} has more than one @; write VOLUME@SNAPSHOT")]
    TwoSnapshots { text: String },
}

/// A snapshot: `VOLUME@SNAPSHOT`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SnapshotName {
    pub volume: String,
    pub snapshot: String,
}

/// A volume, or it as it was in a snapshot: `VOLUME[@SNAPSHOT]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    Volume(String),
    Snapshot(SnapshotName),
}

impl Source {
    /// The volume's name.
    pub fn volume(&self) -> &str {
        match self {
            Self::Volume(volume) => volume,
            Self::Snapshot(name) => &name.volume,
        }
    }
}

impl FromStr for SnapshotName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        match text.parse()? {
            Source::Snapshot(name) => Ok(name),
            Source::Volume(_) => Err(NameError::NoSnapshot { text: shown(text) }),
        }
    }
}

impl FromStr for Source {
    type Err = NameError;

    /// Whether the parts can be names at all is for the cluster to say.
    fn from_str(text: &str) -> Result<Self, NameError> {
        let shown = || shown(text);
        let (volume, snapshot) = match text.split_once('@') {
            None => (text, None),
            Some((volume, snapshot)) => (volume, Some(snapshot)),
        };
        match (volume, snapshot) {
            (_, Some(snapshot)) if snapshot.contains('@') => {
                Err(NameError::TwoSnapshots { text: shown() })
            }
            ("", _) => Err(NameError::NoVolume { text: shown() }),
            (_, Some("")) => Err(NameError::NoSnapshot { text: shown() }),
            (_, Some(snapshot)) => {
                let (volume, snapshot) = (volume.to_owned(), snapshot.to_owned());
                Ok(Self::Snapshot(SnapshotName { volume, snapshot }))
            }
            (_, None) => Ok(Self::Volume(volume.to_owned())),
        }
    }
}

impl fmt::Display for SnapshotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.volume, self.snapshot)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Volume(volume) => f.write_str(volume),
            Self::Snapshot(name) => name.fmt(f),
        }
    }
}

/// A name as an error shows it: quoted, and its beginning only when it is very long.
pub fn shown(name: &str) -> String {
    let length = name.chars().count();
    match length {
        0 => "\"\" (empty)".to_owned(),
        1..=SHOWN => format!("{name:?}"),
        _ => {
            let start: String = name.chars().take(SHOWN).collect();
            format!("{start:?}… ({length} characters)")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    #[track_caller]
    fn check(text: &str, expected: Expect) {
        let source = text.parse::<Source>().map_or_else(|e| e.to_string(), |it| format!("{it:?}"));
        let name = text.parse::<SnapshotName>().map_or_else(|e| e.to_string(), |it| it.to_string());
        expected.assert_eq(&format!("{source}\n{name}"));
    }

    #[test]
    fn a_snapshot_stands_behind_its_volume() {
        check(
            "disk",
            expect![[r#"
            Volume("disk")
            "disk" names no snapshot; write VOLUME@SNAPSHOT"#]],
        );
        check(
            "disk@monday",
            expect![[r#"
            Snapshot(SnapshotName { volume: "disk", snapshot: "monday" })
            disk@monday"#]],
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        check(
            "",
            expect![[r#"
            "" (empty) names no volume; write VOLUME@SNAPSHOT
            "" (empty) names no volume; write VOLUME@SNAPSHOT"#]],
        );
        check(
            "disk@",
            expect![[r#"
            "disk@" names no snapshot; write VOLUME@SNAPSHOT
            "disk@" names no snapshot; write VOLUME@SNAPSHOT"#]],
        );
        check(
            "@monday",
            expect![[r#"
            "@monday" names no volume; write VOLUME@SNAPSHOT
            "@monday" names no volume; write VOLUME@SNAPSHOT"#]],
        );
        check(
            "@",
            expect![[r#"
            "@" names no volume; write VOLUME@SNAPSHOT
            "@" names no volume; write VOLUME@SNAPSHOT"#]],
        );
        check(
            "disk@a@b",
            expect![[r#"
            "disk@a@b" has more than one @; write VOLUME@SNAPSHOT
            "disk@a@b" has more than one @; write VOLUME@SNAPSHOT"#]],
        );
        check(
            "disk@@",
            expect![[r#"
            "disk@@" has more than one @; write VOLUME@SNAPSHOT
            "disk@@" has more than one @; write VOLUME@SNAPSHOT"#]],
        );
        check(
            &"x".repeat(300),
            expect![[r#"
            Volume("xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx")
            "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"… (300 characters) names no snapshot; write VOLUME@SNAPSHOT"#]],
        );
    }
}
