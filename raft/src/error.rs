//! What can go wrong, by what the caller can do about it.

use std::error::Error as StdError;
use std::io;
use std::path::PathBuf;

use crate::options::Identity;

/// A cause from a library below; only its text and its own causes are of use.
pub(crate) type Cause = Box<dyn StdError + Send + Sync>;

/// Why a node could not start or stop. Nothing on disk was changed unless the text says so.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The folder holds no identity: bootstrap a group or join one.
    #[error("{dir} belongs to no group yet")]
    NotInitialized { dir: PathBuf },
    /// The folder already belongs to a node; start that one, or use an empty folder.
    #[error("{dir} belongs to node {} of another group or another node", found.node)]
    NotPristine { dir: PathBuf, found: Identity },
    /// The folder has no identity but holds other data: not a folder of this program, or damaged.
    #[error("{dir} holds data but no identity")]
    Foreign { dir: PathBuf },
    /// The folder was written by a later version of this program.
    #[error("{dir} has format {found}, this program knows {known}")]
    Format { dir: PathBuf, found: u32, known: u32 },
    /// The folder belongs to a node that never had anything of its group.
    #[error("{dir} holds nothing of its group's state")]
    Empty { dir: PathBuf },
    /// The state in the folder is damaged, or of a later version.
    #[error("the state in {dir} cannot be read")]
    Unreadable { dir: PathBuf, source: Cause },
    /// A node ID of 0 means "none" on the wire.
    #[error("0 is not a node ID")]
    ZeroNode,
    /// The times contradict each other.
    #[error("the heartbeat and election times do not fit together")]
    Timing { source: Cause },
    /// The operating system refused a file operation.
    #[error("cannot use {path}")]
    Io { path: PathBuf, source: io::Error },
    /// RocksDB refused to open or read the log: it is locked by another process or damaged.
    #[error("cannot open the log in {dir}")]
    Log { dir: PathBuf, source: Cause },
    /// The log is older than the point to which it was purged, and no snapshot covers the gap.
    /// Remove this member and let it join again under a new ID.
    #[error("the log starts after entry {purged}, but the newest snapshot ends at {snapshot:?}")]
    SnapshotMissing { purged: u64, snapshot: Option<u64> },
    /// The only full copy of the old state on this node is damaged.
    /// Remove this member and let it join again under a new ID.
    #[error("snapshot {path} is damaged")]
    SnapshotCorrupt { path: PathBuf, source: SnapshotError },
    /// Raft could not be started on what is stored.
    #[error("cannot start Raft")]
    Start { source: Cause },
    /// A new group did not come to lead itself in time; the folder may be opened again later.
    #[error("the new group has no leader after {waited_ms} ms")]
    Bootstrap { waited_ms: u64 },
    /// The node stopped while it was starting.
    #[error("the node stopped while it started")]
    Stopped,
}

/// Why the bytes of a snapshot file are not a snapshot of this group.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    #[error("the file does not begin with the magic of a snapshot")]
    Magic,
    #[error("the format is {found}, this program knows {known}")]
    Version { found: u32, known: u32 },
    #[error("the file has {found} bytes, its parts make {expected}")]
    Size { found: u64, expected: u64 },
    #[error("the checksum is {found:#010x}, expected {expected:#010x}")]
    Checksum { found: u32, expected: u32 },
    #[error("the header cannot be decoded")]
    Header { source: DecodeError },
    #[error("it belongs to another group")]
    Group,
    #[error("it cannot be read")]
    Read { source: io::Error },
}

/// Why bytes that another member or the disk gave us are not a message.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    #[error("not protobuf")]
    Protobuf { source: prost::DecodeError },
    #[error("field {field} is missing")]
    Missing { field: &'static str },
    #[error("field {field} has a value that it cannot have")]
    Invalid { field: &'static str },
}

impl From<DecodeError> for io::Error {
    fn from(err: DecodeError) -> Self {
        Self::new(io::ErrorKind::InvalidData, err)
    }
}

/// A member that leads, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    pub node: u64,
    pub address: String,
}

/// Why a command has no response.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// Not proposed: ask the leader, or wait for an election if there is none.
    #[error("this node does not lead the group")]
    NotLeader { leader: Option<Leader> },
    /// Not proposed: the command is larger than a log entry may be.
    #[error("a command of {size} bytes exceeds the limit of {limit}")]
    TooLarge { size: usize, limit: usize },
    /// Not proposed: too many bytes of earlier commands wait for their responses.
    #[error("earlier commands are still under way")]
    Busy,
    /// The deadline passed or leadership was lost: the command may be applied, now or later.
    #[error("it is not known whether the command is applied")]
    Unknown,
    /// The node stopped; whether the command is applied is not known either.
    #[error("the node has stopped")]
    Stopped,
}

/// Why a linearizable read cannot be served. A local read would not be linearizable.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// No leader confirmed the read before the deadline.
    #[error("no leader confirmed the read in time")]
    Unavailable { leader: Option<Leader> },
    /// The node has stopped.
    #[error("the node has stopped")]
    Stopped,
}

/// Why the membership or the leadership is not as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemberError {
    /// Ask the leader, or wait for an election if there is none.
    #[error("this node does not lead the group")]
    NotLeader { leader: Option<Leader> },
    /// Another change is not committed yet; ask again.
    #[error("another membership change is under way")]
    InProgress,
    /// The membership changed since it was looked at; look again.
    #[error("the membership changed meanwhile")]
    Changed,
    /// A voter must be a member first, and only members can lead or be removed.
    #[error("node {node} is not a member")]
    NotMember { node: u64 },
    /// The ID belongs to a member elsewhere. IDs are never reused: take a new one.
    #[error("node {node} is a member at {address}")]
    Taken { node: u64, address: String },
    /// A group without voters could never decide anything again.
    #[error("the group would have no voter")]
    NoVoter,
    /// No other voter could take the leadership.
    #[error("no other voter can lead")]
    NoSuccessor,
    /// The deadline passed or leadership was lost: the change may be made, now or later.
    #[error("it is not known whether the change is made")]
    Unknown,
    /// The node has stopped.
    #[error("the node has stopped")]
    Stopped,
}

/// Why a running node can no longer be trusted; the process should end and be started again.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The log or the state machine failed, or openraft panicked.
    #[error("Raft stopped: {reason}")]
    Fatal { reason: String },
    /// The disk has not finished a write for so long that the node is of no use.
    #[error("a write to the log has not ended after {waited_ms} ms")]
    Stalled { waited_ms: u64 },
}
