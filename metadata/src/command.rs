//! What can be asked of the metadata service: commands change the state through the log, queries
//! read it.

use std::ops::RangeInclusive;

use torus_blockstore::{BlockSpec, Epoch, INodeIndex, PeerId, VolumeId};

use crate::{
    AskId, FeatureLevel, GlobalMetadata, Group, Head, NodeId, Peer, Refusal, Revision, Ring,
    RingVersion, Session, SessionId, SnapshotId, Task, Volume, Window,
};

/// A change of the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Formats the cluster; refused once done.
    Init {
        global: GlobalMetadata,
        ring: Ring,
    },
    /// Allocates an identity in the Raft group for the peer at `address`.
    AllocateNode {
        peer: PeerId,
    },
    /// Registers a storage node, or changes what is known of it.
    RegisterPeer(Peer),
    /// Forgets a peer; refused while the ring names it.
    RemovePeer(PeerId),
    /// Changes how many members of the Raft group vote at most: an odd number.
    SetVotersMax(u32),
    /// Puts a ring in place of the present one, whose version must be one less.
    SetRing(Ring),
    /// Creates a volume; `spec` of `None` is the cluster's.
    CreateVolume {
        name: String,
        size: u64,
        spec: Option<BlockSpec>,
    },
    /// Deletes a volume that nobody has locked and from whose snapshots there are no clones; one
    /// that has snapshots only with `force`.
    DeleteVolume {
        volume: VolumeId,
        force: bool,
    },
    /// As `DeleteVolume`, as older versions gave it: a copy of it that comes late would delete
    /// another volume that has the name by then.
    DeleteVolumeNamed {
        name: String,
        force: bool,
    },
    /// Gives a volume another name, also while it is locked.
    RenameVolume {
        name: String,
        to: String,
    },
    /// Creates a volume from a snapshot of another; answers the new one.
    CloneVolume {
        volume: VolumeId,
        snapshot: SnapshotId,
        name: String,
    },
    /// Changes a volume's size. Anyone may make it larger (`epoch` is `None`); smaller only its
    /// writer, which has cut the data behind the new end. Answers the ask, if it was one.
    ResizeVolume {
        volume: VolumeId,
        epoch: Option<Epoch>,
        size: u64,
        ask: Option<AskId>,
    },
    /// Deletes a snapshot that has no clones, and no readers unless `force` is given. Its head is
    /// retired.
    DeleteSnapshot {
        volume: VolumeId,
        snapshot: SnapshotId,
        force: bool,
    },
    /// Protects a snapshot from deletion while the session lives.
    PinSnapshot {
        volume: VolumeId,
        snapshot: SnapshotId,
        session: SessionId,
    },
    /// Asks the writers of locked volumes for something; answers its ID. Several volumes are asked
    /// at once only for snapshots, and only when one owner has them all.
    AskWriters {
        volumes: Vec<VolumeId>,
        task: Task,
    },
    /// Takes an ask back, as far as it was not answered.
    WithdrawAsk {
        ask: AskId,
    },
    OpenSession {
        owner: String,
        ttl_ms: u32,
    },
    /// Ends a session and frees its locks.
    CloseSession(SessionId),
    /// As `CloseSession`, by the leader for sessions it has not heard of; unknown ones are passed over.
    ExpireSessions(Vec<SessionId>),
    /// Takes the volume's lock with the next epoch. Refused while another session holds it.
    LockVolume {
        volume: VolumeId,
        session: SessionId,
    },
    /// Takes a lost lock again with the old epoch. Refused when a newer one was granted.
    RelockVolume {
        volume: VolumeId,
        session: SessionId,
        epoch: Epoch,
    },
    /// Frees the lock. `is_clean`: nothing is left on the peers that the volume does not need.
    UnlockVolume {
        volume: VolumeId,
        epoch: Epoch,
        is_clean: bool,
    },
    /// Reserves `count` INode indexes; answers the first.
    ReserveINodes {
        volume: VolumeId,
        epoch: Epoch,
        count: u64,
    },
    /// Opens a window behind the volume's last one.
    CommitWindow {
        volume: VolumeId,
        window: Window,
    },
    /// Moves the head; windows that end before its position are dropped.
    CommitHead {
        volume: VolumeId,
        head: Head,
    },
    /// Takes a snapshot: pins the present head under a name; answers its ID, and the ask, if it was
    /// one.
    CommitSnapshot {
        volume: VolumeId,
        epoch: Epoch,
        name: String,
        /// The volume's when the head's checkpoint was cut: it may have changed since.
        size: u64,
        created_ms: u64,
        ask: Option<AskId>,
    },
    /// Makes the head and the size those of a snapshot; the former head is retired. By the lock's
    /// holder, which has written nothing that it has not committed.
    RestoreSnapshot {
        volume: VolumeId,
        epoch: Epoch,
        snapshot: SnapshotId,
    },
    /// The head points into the parent's blocks no more; answers the ask, if it was one.
    CommitFlattened {
        volume: VolumeId,
        epoch: Epoch,
        ask: Option<AskId>,
    },
    /// The blocks of this retired head were freed, as far as nothing else needs them.
    CommitReclaimed {
        volume: VolumeId,
        epoch: Epoch,
        head: Head,
    },
    /// Says that the writer does not do what it was asked, and why.
    RefuseAsk {
        volume: VolumeId,
        epoch: Epoch,
        ask: AskId,
        error: String,
    },
    /// Lets the peers delete the blocks of volumes that only a former generation knew.
    ForgetLostVolumes,
}

/// A command that took effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The revision that it made (or found, where it changed nothing).
    pub revision: Revision,
    pub outcome: Outcome,
}

/// What a command gave.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "moved once a command")]
pub enum Outcome {
    Done,
    Volume(Volume),
    Session(SessionId),
    Epoch(Epoch),
    INode(INodeIndex),
    Node(NodeId),
    Snapshot(SnapshotId),
    Ask(AskId),
}

/// The state machine's answer to a command: the same on every member.
pub type Response = Result<Applied, Refusal>;

/// A question to the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Query {
    /// Answered by [`Answer::Cluster`].
    Cluster,
    Volumes,
    VolumeByName(String),
    VolumeById(VolumeId),
    /// The present ring (`None`) or an older one that an open window still names.
    Ring(Option<RingVersion>),
    Peers,
    Sessions,
    Group,
}

/// The state's answer, with the revision at which it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "moved once a question")]
pub enum Answer {
    /// `None` before `init`. `volumes_minted` is the highest volume ID ever given: an ID up to it
    /// that names no volume belonged to a deleted one, unless it is lost. `generation` counts the
    /// groups that have gone on with the state.
    Cluster {
        global: Option<GlobalMetadata>,
        volumes_minted: u64,
        generation: u64,
        level: FeatureLevel,
        revision: Revision,
    },
    /// `lost`: IDs that a former generation may have given, to volumes that are not known.
    Volumes {
        volumes: Vec<Volume>,
        volumes_minted: u64,
        lost: Vec<RangeInclusive<u64>>,
        revision: Revision,
    },
    Volume {
        volume: Option<Volume>,
        revision: Revision,
    },
    Ring {
        ring: Option<Ring>,
        revision: Revision,
    },
    Peers {
        peers: Vec<Peer>,
        revision: Revision,
    },
    Sessions {
        sessions: Vec<Session>,
        revision: Revision,
    },
    Group {
        group: Group,
        revision: Revision,
    },
}

/// A change, as watchers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "the largest is by far the most frequent")]
pub enum Event {
    Initialised(GlobalMetadata),
    PeerChanged(Peer),
    PeerRemoved(PeerId),
    RingChanged(Ring),
    /// Created, or its head, windows, lock or size changed.
    VolumeChanged(Volume),
    VolumeDeleted(VolumeId),
    SessionOpened(Session),
    SessionEnded(SessionId),
    GroupChanged(Group),
}

/// Which events a watcher wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventKind {
    Cluster,
    Peer,
    Ring,
    Volume,
    Session,
    Member,
}

impl EventKind {
    pub(crate) const ALL: [Self; 6] =
        [Self::Cluster, Self::Peer, Self::Ring, Self::Volume, Self::Session, Self::Member];
}
