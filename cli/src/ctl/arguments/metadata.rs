//! What can be asked about the metadata as a whole.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::address::Address;

#[derive(Debug, Subcommand)]
pub(in crate::ctl) enum MetadataCommand {
    /// Write all metadata into a file, while the cluster works.
    Backup {
        /// The file, or - for standard output.
        #[arg(value_name = "FILE|-")]
        file: PathBuf,
        /// Replace the file if it exists.
        #[arg(long)]
        force: bool,
    },
    /// Have a daemon that waits for a cluster, and keeps no other metadata, go on with a backup.
    Restore {
        /// The file, or - for standard input.
        #[arg(value_name = "FILE|-")]
        file: PathBuf,
    },
    /// Show all metadata at one moment.
    Dump {
        /// That of a backup instead of the cluster's; - for standard input.
        #[arg(long, value_name = "FILE|-")]
        from: Option<PathBuf>,
    },
    /// Delete the blocks of volumes that were created after the backup that was restored.
    ForgetLost,
}

#[derive(Debug, Args)]
pub(in crate::ctl) struct RecoverArguments {
    /// The data directory of a daemon that is stopped.
    #[arg(long, value_name = "DIR")]
    pub(in crate::ctl) data_dir: PathBuf,
    /// Where the daemon will be, if not where its group knew it.
    #[arg(long, value_name = "HOST:PORT")]
    pub(in crate::ctl) peer_address: Option<Address>,
    /// Do not ask.
    #[arg(long)]
    pub(in crate::ctl) yes: bool,
}
