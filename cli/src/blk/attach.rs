//! `torusblk nbd`: a volume as a block device of this host's kernel.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use torus_nbd::kernel::{self, AttachOptions, Device};
use torus_nbd::{Export, Server, ServerOptions};

use super::exports::VolumeExports;
use super::memory::Memory;
use crate::connection::Connection;
use crate::failure::Failure;
use crate::interrupt;

/// The path is none of the driver's.
#[derive(Debug, thiserror::Error)]
#[error("{} is no NBD device; write /dev/nbd0 or leave it out", .0.display())]
struct NoDevice(PathBuf);

/// Attaches a volume and serves it until it is detached or the process is told to stop.
#[expect(clippy::print_stdout, reason = "says which device it is")]
pub(super) async fn run(
    addresses: Vec<String>,
    name: String,
    device: Option<PathBuf>,
    memory: Memory,
) -> Result<(), Failure> {
    let index = device.as_deref().map(index_of).transpose()?;
    let stop = interrupt::token()?;
    let connection = Connection::open(addresses).await?;
    let exports = VolumeExports::new(connection.services.clone(), &[], memory);
    let export = Arc::new(exports.take(&name).await?);
    let attached = attach(index, export.clone()).await;
    let (device, serving) = match attached {
        Ok(attached) => attached,
        Err(failure) => {
            export.release().await?;
            return Err(failure);
        }
    };
    println!("Attached {name} to {}. Serving until it is detached.", device.path.display());
    let mut serving = serving;
    tokio::select! {
        ended = &mut serving => ended?,
        () = stop.cancelled() => {
            println!("detaching {}", device.path.display());
            kernel::detach(device.index).await?;
            serving.await?;
        }
    }
    kernel::wait_until_detached(device.index).await?;
    Ok(())
}

type Serving = tokio::task::JoinHandle<()>;

/// The server must run before the kernel is told: it reads the partition table at once.
async fn attach(index: Option<u32>, export: Arc<dyn Export>) -> Result<(Device, Serving), Failure> {
    let options = AttachOptions::new(&export.info());
    let (ours, theirs) = kernel::connection()?;
    let (never, limits) = (CancellationToken::new(), ServerOptions::default());
    let serving = tokio::spawn(Server::serve_stream(ours, export, never, limits));
    match kernel::attach(index, options, vec![theirs]).await {
        Ok(device) => Ok((device, serving)),
        Err(error) => {
            serving.abort();
            Err(error.into())
        }
    }
}

/// Detaches a device that this or another process attached.
pub(super) async fn detach(device: &Path) -> Result<(), Failure> {
    let index = index_of(device)?;
    kernel::detach(index).await?;
    kernel::wait_until_detached(index).await?;
    Ok(())
}

fn index_of(device: &Path) -> Result<u32, Failure> {
    Device::index_of(device).ok_or_else(|| Failure::usage(NoDevice(device.to_owned())))
}
