//! What can be asked about volumes and their snapshots.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use torus_blockstore::BlockSpec;

use crate::name::{SnapshotName, Source};
use crate::size::Bytes;

#[derive(Debug, Subcommand)]
pub(in crate::ctl) enum VolumeCommand {
    /// Create a block volume.
    CreateBlock(NewVolume),
    /// List the volumes.
    List,
    /// Show one volume.
    Info { name: String },
    /// Delete a volume and all that is in it.
    Delete {
        name: String,
        /// Also its snapshots, even while they are read. Not those that have clones.
        #[arg(long)]
        force: bool,
    },
    /// Give a volume another name.
    Rename { name: String, to: String },
    /// Change the size of a volume, also while it is in use.
    Resize {
        name: String,
        /// As 10GiB; rounded up to 4 KiB.
        size: Bytes,
        /// Cut off the data behind the new end.
        #[arg(long)]
        discard: bool,
        #[command(flatten)]
        limit: AskLimit,
    },
    /// Create a volume that begins as a snapshot, at once and without copying.
    Clone {
        #[arg(value_name = "VOLUME@SNAPSHOT")]
        source: Source,
        name: String,
    },
    /// Copy what a clone still shares with the volume that it was made from.
    Flatten { name: String },
    /// Create a volume from an image, or from a stream of 'volume export'.
    Import(Import),
    /// Write a volume or a snapshot to a file.
    Export(Export),
    /// The same as 'torusctl snapshot'.
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
}

#[derive(Debug, Subcommand)]
pub(in crate::ctl) enum BlockCommand {
    /// Create a block volume; the same as 'volume create-block'.
    Create(NewVolume),
    /// The same as 'torusctl snapshot'.
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
}

#[derive(Debug, Subcommand)]
pub(in crate::ctl) enum SnapshotCommand {
    /// Take snapshots, all of one instant; the volumes may be in use.
    Create {
        #[arg(value_name = "VOLUME@SNAPSHOT", required = true)]
        names: Vec<SnapshotName>,
        #[command(flatten)]
        limit: AskLimit,
    },
    /// List the snapshots of a volume.
    List { volume: String },
    /// Delete a snapshot.
    Delete {
        #[arg(value_name = "VOLUME@SNAPSHOT")]
        name: SnapshotName,
        /// Also while it is read.
        #[arg(long)]
        force: bool,
    },
    /// Take a volume back to a snapshot; what was written since is lost.
    Restore {
        #[arg(value_name = "VOLUME@SNAPSHOT")]
        name: SnapshotName,
    },
}

/// How long whoever has a volume in use may take.
#[derive(Clone, Copy, Debug, Args)]
pub(in crate::ctl) struct AskLimit {
    /// How many seconds the program that has the volume in use may take.
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub(in crate::ctl) timeout: Duration,
}

/// The block layers of a new volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub(in crate::ctl) struct Layers {
    /// The block layers, outermost first [default: the cluster's]
    #[arg(long, value_name = "SPEC")]
    pub(in crate::ctl) block_spec: Option<BlockSpec>,
    /// How many peers hold each block [default: as the block spec or the ring says]
    #[arg(long, value_name = "COPIES")]
    pub(in crate::ctl) replication: Option<u32>,
}

#[derive(Debug, Args)]
pub(in crate::ctl) struct NewVolume {
    pub(in crate::ctl) name: String,
    /// As 10GiB; rounded up to 4 KiB.
    pub(in crate::ctl) size: Bytes,
    #[command(flatten)]
    pub(in crate::ctl) layers: Layers,
}

#[derive(Debug, Args)]
pub(in crate::ctl) struct Import {
    /// An image or a stream; - is standard input.
    pub(in crate::ctl) file: PathBuf,
    /// The new volume, or the one to which a stream of changes belongs.
    pub(in crate::ctl) name: String,
    /// The size of the volume, rounded up to 4 KiB [default: that of the image]
    #[arg(long)]
    pub(in crate::ctl) size: Option<Bytes>,
    #[command(flatten)]
    pub(in crate::ctl) layers: Layers,
    /// For a stream of changes: first take the volume back to the snapshot that they begin from.
    #[arg(long)]
    pub(in crate::ctl) force: bool,
}

#[derive(Debug, Args)]
pub(in crate::ctl) struct Export {
    #[arg(value_name = "VOLUME[@SNAPSHOT]")]
    pub(in crate::ctl) source: Source,
    /// What to write; - is standard output.
    pub(in crate::ctl) file: PathBuf,
    /// An image, or a stream that 'volume import' reads [default: raw, or stream with --since]
    #[arg(long, value_enum)]
    pub(in crate::ctl) format: Option<Format>,
    /// Only what changed since this older snapshot, as a stream.
    #[arg(long, value_name = "SNAPSHOT")]
    pub(in crate::ctl) since: Option<String>,
    /// Replace a file that exists.
    #[arg(long)]
    pub(in crate::ctl) force: bool,
}

/// What an export writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::ctl) enum Format {
    /// The bytes of the volume; holes where nothing was written.
    Raw,
    /// A checked stream.
    Stream,
}

fn seconds(text: &str) -> Result<Duration, &'static str> {
    match text.parse() {
        Ok(seconds @ 1..=86400) => Ok(Duration::from_secs(seconds)),
        _ => Err("write a number of seconds from 1 to 86400"),
    }
}
