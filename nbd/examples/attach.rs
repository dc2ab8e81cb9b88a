//! A RAM disk as a block device of the kernel: what its NBD driver and this server allow together.
//!
//! ```text
//! cargo run --release -p torus-nbd --example attach -- 1024 [/dev/nbd0 [CONNECTIONS]]
//! ```
//!
//! Prints the device and serves it until Ctrl-C or until somebody detaches it.

#![expect(clippy::print_stdout, reason = "a program for people and scripts")]

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use torus_nbd::kernel::{self, AttachOptions, Device};
use torus_nbd::memory::MemoryDisk;
use torus_nbd::{Export, Server, ServerOptions};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mib = arguments.first().ok_or("usage: attach SIZE_IN_MIB [/dev/nbdN [CONNECTIONS]]")?;
    let size = u64::from(mib.parse::<u32>()?) << 20;
    let index = match arguments.get(1) {
        Some(path) => Some(Device::index_of(Path::new(path)).ok_or("not a /dev/nbdN")?),
        None => None,
    };
    let count = arguments.get(2).map_or(Ok(1), |count| count.parse::<usize>())?;

    let disk = Arc::new(MemoryDisk::new(size));
    let options = AttachOptions::new(&disk.info());
    let shutdown = CancellationToken::new();
    let mut served = JoinSet::new();
    let mut sockets = Vec::new();
    for _ in 0..count {
        let (ours, theirs) = kernel::connection()?;
        sockets.push(theirs);
        let export: Arc<dyn Export> = disk.clone();
        served.spawn(Server::serve_stream(
            ours,
            export,
            shutdown.clone(),
            ServerOptions::default(),
        ));
    }
    let device = kernel::attach(index, options, sockets).await?;
    println!("{}", device.path.display());

    tokio::select! {
        _ = served.join_next() => {}
        interrupted = tokio::signal::ctrl_c() => {
            interrupted?;
            kernel::detach(device.index).await?;
        }
    }
    while served.join_next().await.is_some() {}
    kernel::wait_until_detached(device.index).await?;
    println!("detached");
    Ok(())
}
