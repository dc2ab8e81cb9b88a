//! The state of a cluster in a file.

use uuid::Uuid;

use crate::machine::Machine;
use crate::wire::{SnapshotError, decode_backup};
use crate::{FeatureLevel, Revision, State};

/// The largest backup, in bytes, that is made or taken; it is held in memory, as the state is.
const BACKUP_MAX: usize = 1 << 30;

/// What a backup is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupInfo {
    pub cluster: Uuid,
    pub generation: u64,
    pub revision: Revision,
    /// Where the log of the group was then, or a little later.
    pub term: u64,
    pub index: u64,
    /// When it was made, in milliseconds since 1970, by the clock of the member that made it.
    pub created_ms: u64,
    pub level: FeatureLevel,
}

/// A backup whose every byte was checked.
#[derive(Debug)]
pub struct Backup {
    pub info: BackupInfo,
    pub(crate) machine: Machine,
}

impl Backup {
    /// Reads the bytes of a file.
    pub fn decode(bytes: &[u8]) -> Result<Self, BackupError> {
        decode_backup(bytes)
    }

    /// Whether a file may have so many bytes.
    pub(crate) fn check_size(found: usize) -> Result<(), BackupError> {
        if found > BACKUP_MAX { Err(BackupError::TooLarge { found }) } else { Ok(()) }
    }

    /// The state, as it was.
    pub fn state(&self) -> &State {
        &self.machine.state
    }
}

/// Why bytes are not a backup that this version can use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    #[error("this is no backup of the metadata")]
    Magic,
    #[error("the backup's format is {found}; this version reads {known}")]
    Version { found: u32, known: u32 },
    #[error("the backup ends early, or its size is damaged: {found} bytes of {expected}")]
    Size { found: u64, expected: u64 },
    #[error("the backup is damaged: its checksum is {found:#010x}, expected {expected:#010x}")]
    Checksum { found: u32, expected: u32 },
    #[error("the backup has {found} bytes, more than {BACKUP_MAX}")]
    TooLarge { found: usize },
    #[error("the backup's header cannot be understood")]
    Header,
    /// A later version wrote it, or a wrong one.
    #[error("the backup's state cannot be used")]
    State(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the backup is of a cluster that was not initialised")]
    NotInitialised,
}

impl From<SnapshotError> for BackupError {
    fn from(error: SnapshotError) -> Self {
        Self::State(Box::new(error))
    }
}
