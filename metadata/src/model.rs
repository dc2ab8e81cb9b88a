//! The things that the metadata service keeps, as every other crate sees them.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use torus_blockstore::{BlockIndex, BlockSpec, Epoch, INodeIndex, INodeRef, PeerId, VolumeId};

/// Counts the changes of the state: one more for each command that changed something. Kept across
/// restore; not the Raft log index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

/// Counts the rings of the cluster from 1; a change is accepted only for the next number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RingVersion(pub u64);

/// A member of the Raft group, allocated by the group and never reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

/// A snapshot of a volume; counted per volume from 1, never reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotId(pub u64);

/// Something asked of volumes' writers: the revision at which it was asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AskId(pub u64);

/// A client's session: the revision at which it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

macro_rules! display_number {
    ($($name:ident)*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    )*};
}
display_number!(Revision RingVersion NodeId SnapshotId AskId SessionId);

/// What `init` fixes for the life of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GlobalMetadata {
    /// Drawn at `init`; peers and clients of another cluster are refused by it.
    pub cluster: uuid::Uuid,
    /// Bytes in a block: a power of two from 64 KiB to 32 MiB.
    pub block_size: u32,
    /// The block spec of new volumes.
    pub block_spec: BlockSpec,
}

/// A storage node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub id: PeerId,
    /// Where it listens, `HOST:PORT`.
    pub address: String,
    /// The failure domain that the operator gave it; may be empty.
    pub zone: String,
    /// Size of its store, in blocks.
    pub size_blocks: u64,
    /// Its identity in the Raft group, once it is a learner or voter.
    pub node: Option<NodeId>,
}

/// How a ring spreads blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RingKind {
    /// Nobody stores anything.
    Empty,
    /// One peer stores everything.
    Single,
    /// CRC-32 of the block reference modulo the number of peers.
    Mod,
    /// Consistent hashing, weighted by size.
    Ketama,
}

impl fmt::Display for RingKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Empty => "empty",
            Self::Single => "single",
            Self::Mod => "mod",
            Self::Ketama => "ketama",
        })
    }
}

/// A text that is no kind of ring.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no ring type {name:?}; the types are empty, single, mod and ketama")]
pub struct RingKindError {
    pub name: String,
}

impl FromStr for RingKind {
    type Err = RingKindError;

    fn from_str(name: &str) -> Result<Self, RingKindError> {
        let all = [Self::Empty, Self::Single, Self::Mod, Self::Ketama];
        let found = all.into_iter().find(|kind| kind.to_string() == name);
        found.ok_or_else(|| RingKindError { name: name.to_owned() })
    }
}

/// One peer's place in a ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingMember {
    pub peer: PeerId,
    /// Size of its store when it joined the ring, in blocks.
    pub weight: u64,
    pub zone: String,
}

/// A collection of peers over which blocks are distributed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ring {
    pub version: RingVersion,
    pub kind: RingKind,
    /// How many peers hold each block.
    pub replication: u32,
    pub members: Vec<RingMember>,
}

/// A block volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    pub id: VolumeId,
    pub name: String,
    /// Bytes that a client sees.
    pub size: u64,
    pub block_spec: BlockSpec,
    /// The last INode index that was reserved; the next is one more.
    pub inode_index: INodeIndex,
    /// The newest checkpoint; `None` before the first.
    pub head: Option<Head>,
    /// The parts of the log that the head does not cover, oldest first.
    pub windows: Vec<Window>,
    /// The highest epoch that was granted.
    pub epoch: Epoch,
    pub lock: Option<Lock>,
    /// The highest snapshot ID ever given.
    pub snapshots_minted: SnapshotId,
    /// Oldest first; names are unique within the volume.
    pub snapshots: Vec<Snapshot>,
    /// The snapshot that a clone was made from, for as long as its head or a snapshot of its own
    /// may point into the parent's blocks.
    pub parent: Option<Parent>,
    /// Checkpoints that are the head's or a snapshot's no more, and whose blocks its writer has not
    /// freed yet, as far as nothing else needs them; oldest first.
    pub retired: Vec<Head>,
    /// What others ask its writer, oldest first.
    pub asks: Vec<Ask>,
    /// What came of the last that were asked, oldest first.
    pub answers: Vec<AskAnswer>,
    /// Whether the peers hold nothing of the volume that it does not need: so its last writer said
    /// when it closed it, and none has been allowed to write since.
    pub is_clean: bool,
}

/// A volume as it was at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub id: SnapshotId,
    pub name: String,
    /// Bytes that the volume had then.
    pub size: u64,
    pub head: Head,
    /// When it was asked for, in milliseconds since 1970, by the clock of who asked; for people.
    pub created_ms: u64,
    /// Whether it may point into the parent's blocks.
    pub needs_parent: bool,
    /// Sessions that read it now.
    pub readers: BTreeSet<SessionId>,
}

/// What a clone was made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent {
    pub volume: VolumeId,
    pub snapshot: SnapshotId,
    /// Whether the clone's head may still point into the parent's blocks; its snapshots say so
    /// themselves.
    pub needed_by_head: bool,
}

/// Something asked of a volume's writer by others than itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Asked at once of several volumes, it has the same ID with each.
    pub id: AskId,
    pub task: Task,
    /// All volumes of which it was asked at once: their snapshots show one instant.
    pub group: Vec<VolumeId>,
}

/// What a writer can be asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// Take a snapshot.
    Snapshot { name: String, created_ms: u64 },
    /// Change the size. Data behind the new end is cut only with `discard`.
    Resize { size: u64, discard: bool },
    /// Copy what the head still has in the parent's blocks.
    Flatten,
}

/// What came of an [`Ask`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AskAnswer {
    pub id: AskId,
    /// Why it was not done.
    pub error: Option<String>,
}

/// A committed checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Whose INode it is: another volume's in a clone that has made no checkpoint yet.
    pub volume: VolumeId,
    /// The INode index of its blocks.
    pub inode: INodeIndex,
    /// How many INode blocks it added; its root stands in the last.
    pub blocks: u64,
    /// The epoch that wrote it.
    pub epoch: Epoch,
    /// Where the log goes on behind it.
    pub position: LogPosition,
}

impl Head {
    /// Its INode.
    pub fn inode_ref(&self) -> INodeRef {
        INodeRef { volume: self.volume, inode: self.inode }
    }
}

/// A point between two records of a volume's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogPosition {
    /// The generation (INode index of the data blocks).
    pub inode: INodeIndex,
    pub block: BlockIndex,
    /// Bytes into the block.
    pub offset: u32,
}

/// Permission to write data blocks `first..first + count` of one generation, and the only places
/// where they can be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    pub epoch: Epoch,
    /// The generation: INode index of the blocks.
    pub inode: INodeIndex,
    pub ring: RingVersion,
    pub excluded: BTreeSet<PeerId>,
    pub first: BlockIndex,
    pub count: u64,
    /// Where the log before this window ends, when it was cut off: the block and the length at
    /// which it was sealed. Blocks of older windows behind it hold nothing.
    pub after: Option<LogPosition>,
}

/// The right to write a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lock {
    pub session: SessionId,
    pub epoch: Epoch,
    /// Who holds it, for people: host and process.
    pub owner: String,
}

/// A client that keeps itself alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    pub id: SessionId,
    /// Host and process, for people.
    pub owner: String,
    /// The service may end the session when it has heard nothing for so long, never sooner.
    pub ttl_ms: u32,
}

/// The Raft group, as the log has it: the same on every member, also where Raft itself is ahead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// How many members vote at most; odd.
    pub voters_max: u32,
    /// Sorted by node.
    pub members: Vec<GroupPlace>,
    /// A change of the voters has begun and not ended.
    pub joint: bool,
}

impl Group {
    /// What [`voters_max`](Self::voters_max) is until somebody says something else.
    pub const VOTERS_MAX: u32 = 5;
}

impl Default for Group {
    fn default() -> Self {
        Self { voters_max: Self::VOTERS_MAX, members: Vec::new(), joint: false }
    }
}

/// One member of the Raft group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupPlace {
    pub node: NodeId,
    /// Where it listens, `HOST:PORT`.
    pub address: String,
    pub votes: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ring_kinds_are_read_as_they_are_printed() {
        for name in ["empty", "single", "mod", "ketama"] {
            assert_eq!(name.parse::<RingKind>().unwrap().to_string(), name);
        }
        let error = "union".parse::<RingKind>().unwrap_err().to_string();
        assert_eq!(
            error,
            "there is no ring type \"union\"; the types are empty, single, mod and ketama"
        );
    }
}
