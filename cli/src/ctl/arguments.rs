//! What `torusctl` can be asked.

mod metadata;
mod volumes;

use std::convert::Infallible;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use torus_blockstore::{BlockKind, BlockSpec, PeerId, VolumeId};
use torus_metadata::{NodeId, RingKind};

use super::watch::Kind as WatchKind;
use crate::address::{Address, AddressError};
use crate::size::Bytes;

pub(super) use metadata::{MetadataCommand, RecoverArguments};
pub(super) use volumes::{
    BlockCommand, Export, Format, Import, Layers, NewVolume, SnapshotCommand, VolumeCommand,
};

/// Administration of a Torus cluster.
#[derive(Debug, Parser)]
#[command(name = "torusctl", version, disable_help_subcommand = true)]
pub struct Arguments {
    /// Daemons of the cluster; any one that answers will do.
    #[arg(
        short = 'C',
        long,
        global = true,
        value_name = "HOST:PORT",
        value_delimiter = ',',
        env = "TORUS_CLUSTER",
        default_value = "127.0.0.1:40000"
    )]
    pub(super) cluster: Vec<Address>,
    /// Print JSON.
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// Ask one daemon for what it knows, which may be old; works without a majority. Only for commands
    /// that read.
    #[arg(long, global = true)]
    pub(super) stale: bool,
    /// Torus needed one.
    #[arg(long, global = true, hide = true, value_name = "HOST:PORT", value_parser = no_etcd)]
    pub(super) etcd: Option<Infallible>,
    #[command(subcommand)]
    pub(super) command: Command,
}

impl Command {
    /// Whether it only reads the metadata, so that it can do with what one daemon knows.
    pub(super) fn only_reads(&self) -> bool {
        match self {
            Self::Member(command) => matches!(command, MemberCommand::List | MemberCommand::Status),
            Self::Peer(command) => {
                matches!(command, PeerCommand::List | PeerCommand::Blocks { .. })
            }
            Self::Ring(command) => matches!(command, RingCommand::Get | RingCommand::Locate(_)),
            Self::Volume(command) => {
                matches!(command, VolumeCommand::List | VolumeCommand::Info { .. })
            }
            Self::Snapshot(command) => matches!(command, SnapshotCommand::List { .. }),
            Self::Status | Self::Version | Self::Completion { .. } => true,
            Self::Init(_)
            | Self::Block(_)
            | Self::Metadata(_)
            | Self::Recover(_)
            | Self::Watch(_) => false,
        }
    }
}

fn no_etcd(_: &str) -> Result<Infallible, &'static str> {
    Err("no etcd is needed: daemons find each other by --join, torusctl by -C")
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Begin a cluster.
    Init(InitArguments),
    /// The daemons that keep the metadata, a Raft group.
    #[command(subcommand)]
    Member(MemberCommand),
    /// The daemons that store blocks.
    #[command(subcommand)]
    Peer(PeerCommand),
    /// The ring, which says where each block is.
    #[command(subcommand)]
    Ring(RingCommand),
    /// Volumes.
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// Snapshots of volumes.
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    /// Block volumes.
    #[command(subcommand)]
    Block(BlockCommand),
    /// The metadata of the cluster as a whole.
    #[command(subcommand)]
    Metadata(MetadataCommand),
    /// Begin a new group with what one member has, when the majority is lost for good.
    Recover(RecoverArguments),
    /// Print what changes as it happens, until Ctrl-C. At first all there is.
    Watch(WatchArguments),
    /// How the cluster is, and what to do about what is wrong.
    Status,
    /// The version of this program.
    Version,
    /// Print a script that completes these commands in a shell.
    Completion { shell: Shell },
}

#[derive(Debug, Args)]
pub(super) struct InitArguments {
    /// Bytes in a block: a power of two from 64KiB to 32MiB.
    #[arg(long, value_name = "SIZE", default_value = "512KiB")]
    pub(super) block_size: Bytes,
    /// The block layers of new volumes, outermost first.
    #[arg(long, value_name = "SPEC", default_value = "crc")]
    pub(super) block_spec: BlockSpec,
    /// How many peers hold each block [default: 2, or as the block spec's rep=N says]
    #[arg(long, value_name = "COPIES")]
    pub(super) replication: Option<u32>,
    /// Begin with a ring of kind empty.
    #[arg(long)]
    pub(super) no_ring: bool,
    /// How many daemons vote on the metadata at most: 1, 3, 5, 7 or 9 [default: 5]
    #[arg(long, value_name = "NUMBER")]
    pub(super) voters: Option<u32>,
    /// Change nothing: print what is written, or what would be.
    #[arg(long)]
    pub(super) view: bool,
}

#[derive(Debug, Args)]
pub(super) struct WatchArguments {
    /// What to watch [default: everything]
    #[arg(value_name = "KIND", value_enum)]
    pub(super) kinds: Vec<WatchKind>,
    /// Go on behind this revision, without what there is.
    #[arg(long, value_name = "REVISION")]
    pub(super) from: Option<u64>,
}

#[derive(Debug, Subcommand)]
pub(super) enum MemberCommand {
    /// List the members.
    List,
    /// Have a daemon that waits for a cluster join this one.
    Add {
        #[arg(value_name = "HOST:PORT")]
        address: Address,
    },
    /// Take a member out of the group.
    Remove {
        #[arg(value_name = "ID|HOST:PORT")]
        member: MemberName,
    },
    /// Give a learner a vote now. The number of voters stays odd: another learner gets one too, or a
    /// voter gives up its own.
    Promote {
        #[arg(value_name = "ID|HOST:PORT")]
        member: MemberName,
        /// The voter that becomes a learner for it; one that does not answer if none is named.
        #[arg(long, value_name = "ID|HOST:PORT")]
        instead_of: Option<MemberName>,
    },
    /// Change how many members vote at most: 1, 3, 5, 7 or 9. Learners get votes by themselves.
    Voters {
        #[arg(value_name = "NUMBER")]
        number: u32,
    },
    /// How the group is: its leader, its log, its majority, each member.
    Status,
    /// Hand the leadership over.
    TransferLeader {
        /// The member that is to lead; the best placed one if none is named.
        #[arg(value_name = "ID|HOST:PORT")]
        member: Option<MemberName>,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum PeerCommand {
    /// List the peers, each asked how it is.
    List,
    /// Add peers to the ring, so that they store blocks.
    Add {
        #[arg(value_name = "HOST:PORT|UUID", required_unless_present = "all_peers")]
        peers: Vec<PeerName>,
        /// Add every peer that answers and is not in the ring yet.
        #[arg(long, conflicts_with = "peers")]
        all_peers: bool,
    },
    /// Take peers out of the ring; their blocks move to the others.
    Remove {
        #[arg(value_name = "HOST:PORT|UUID", required = true)]
        peers: Vec<PeerName>,
        /// Also peers that do not answer, and also the last one.
        #[arg(long)]
        force: bool,
    },
    /// Forget a peer that is gone for good.
    Forget {
        #[arg(value_name = "HOST:PORT|UUID")]
        peer: PeerName,
    },
    /// List the blocks that a peer holds.
    Blocks {
        #[arg(value_name = "HOST:PORT|UUID")]
        peer: PeerName,
        /// Name the peers that the ring wants each block at.
        #[arg(long)]
        with_places: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum RingCommand {
    /// Show the ring.
    Get,
    /// Change how many peers hold each block.
    SetReplication {
        #[arg(value_name = "COPIES")]
        replication: u32,
    },
    /// Put a ring of this kind and these peers in place of the present one.
    ManualChange(ManualChange),
    /// Name the peers that the ring wants a block at.
    Locate(Locate),
}

#[derive(Debug, Args)]
pub(super) struct ManualChange {
    #[arg(long = "type", value_name = "KIND", value_enum)]
    pub(super) kind: Kind,
    /// How many peers hold each block; as it is if not given.
    #[arg(long, short, value_name = "COPIES")]
    pub(super) replication: Option<u32>,
    /// The peers in the ring.
    #[arg(long, value_name = "UUID", value_delimiter = ',', num_args = 1..)]
    pub(super) uuids: Vec<PeerId>,
    /// Every registered peer.
    #[arg(long, conflicts_with = "uuids")]
    pub(super) all_peers: bool,
}

#[derive(Debug, Args)]
pub(super) struct Locate {
    #[arg(long, value_name = "ID", value_parser = volume_id)]
    pub(super) volume_id: VolumeId,
    #[arg(long, value_enum, default_value = "data")]
    pub(super) kind: ContentKind,
    #[arg(long, value_name = "INDEX")]
    pub(super) inode: u64,
    #[arg(long, value_name = "INDEX")]
    pub(super) index: u64,
}

/// A member of the Raft group, by number or address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum MemberName {
    Id(NodeId),
    Address(Address),
}

impl FromStr for MemberName {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        match text.parse() {
            Ok(id) => Ok(Self::Id(NodeId(id))),
            Err(_) => text.parse().map(Self::Address),
        }
    }
}

/// A peer, by UUID or address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PeerName {
    Id(PeerId),
    Address(Address),
}

impl FromStr for PeerName {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        match text.parse() {
            Ok(id) => Ok(Self::Id(id)),
            Err(_) => text.parse().map(Self::Address),
        }
    }
}

/// A ring's kind, as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Kind {
    Empty,
    Single,
    Mod,
    Ketama,
}

impl From<Kind> for RingKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Empty => Self::Empty,
            Kind::Single => Self::Single,
            Kind::Mod => Self::Mod,
            Kind::Ketama => Self::Ketama,
        }
    }
}

/// What a block holds, as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ContentKind {
    Data,
    Inode,
}

impl From<ContentKind> for BlockKind {
    fn from(kind: ContentKind) -> Self {
        match kind {
            ContentKind::Data => Self::Data,
            ContentKind::Inode => Self::INode,
        }
    }
}

fn volume_id(text: &str) -> Result<VolumeId, &'static str> {
    text.parse().ok().and_then(VolumeId::new).ok_or("write a number from 1 to 2^40 - 1")
}

#[cfg(test)]
mod tests;
