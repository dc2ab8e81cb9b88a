//! Volumes for clients: `torusblk`.

mod attach;
mod exports;
mod memory;
mod serve;

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use tokio::runtime::Builder;

use self::memory::Memory;
use crate::address::Address;
use crate::failure::Failure;
use crate::logging;
use crate::name::Source;

/// Serves Torus volumes as block devices.
#[derive(Debug, Parser)]
#[command(name = "torusblk", version)]
pub struct Arguments {
    /// Daemons of the cluster; any one of them is enough.
    #[arg(
        short = 'C',
        long,
        value_name = "HOST:PORT",
        value_delimiter = ',',
        env = "TORUS_CLUSTER",
        default_value = "127.0.0.1:40000",
        global = true
    )]
    cluster: Vec<Address>,
    /// What to log: a level, or a list as info,torus_volume=debug.
    #[arg(
        long,
        value_name = "FILTER",
        env = "TORUS_LOG",
        default_value = "info,torus_distributor::peers=warn",
        global = true
    )]
    log: String,
    /// Threads that serve; one alone serves some 50,000 small requests a second, and a second pays
    /// only with several busy volumes.
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 1,
        value_parser = clap::value_parser!(u16).range(1..=256),
        global = true
    )]
    threads: u16,
    #[command(flatten)]
    memory: Memory,
    /// Torus needed one.
    #[arg(long, hide = true, value_name = "URL", global = true)]
    etcd: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve volumes to NBD clients, and snapshots read-only; all of them, each opened when a client
    /// asks, if none is named.
    Nbdserve {
        #[arg(value_name = "VOLUME[@SNAPSHOT]")]
        volumes: Vec<Source>,
        /// Listen on this TCP address [default: 127.0.0.1:10809, unless --unix is given]
        #[arg(short, long, value_name = "HOST:PORT")]
        listen: Option<std::net::SocketAddr>,
        /// Listen on a unix socket.
        #[arg(long, value_name = "PATH")]
        unix: Option<PathBuf>,
    },
    /// Attach a volume or a snapshot to the kernel's NBD driver, or detach a device.
    Nbd {
        #[arg(value_name = "VOLUME[@SNAPSHOT]", required_unless_present = "detach")]
        volume: Option<Source>,
        /// The device, as /dev/nbd0; any free one if it is left out.
        device: Option<PathBuf>,
        /// Detach this device, then end.
        #[arg(short, long, value_name = "DEV", conflicts_with_all = ["volume", "device"])]
        detach: Option<PathBuf>,
    },
}

/// Runs a command until it is done or told to stop.
pub fn run(arguments: Arguments) -> Result<(), Failure> {
    if arguments.etcd.is_some() {
        return Err(Failure::usage(
            "no etcd is needed: name a daemon of the cluster with -C HOST:PORT",
        ));
    }
    logging::start(&arguments.log)?;
    let cluster: Vec<String> = arguments.cluster.iter().map(Address::to_string).collect();
    let mut builder = Builder::new_multi_thread();
    let threads = usize::from(arguments.threads);
    let runtime = builder.worker_threads(threads).thread_name("torusblk").enable_all().build()?;
    let result = runtime.block_on(async {
        match arguments.command {
            Command::Nbdserve { volumes, listen, unix } => {
                let names = volumes.iter().map(Source::to_string).collect();
                serve::run(cluster, names, listen, unix, arguments.memory).await
            }
            Command::Nbd { detach: Some(device), .. } => attach::detach(&device).await,
            Command::Nbd { volume, device, .. } => {
                let name = volume.map(|volume| volume.to_string()).unwrap_or_default();
                attach::run(cluster, name, device, arguments.memory).await
            }
        }
    });
    runtime.shutdown_background();
    result
}
