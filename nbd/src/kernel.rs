//! The kernel's own NBD client: makes a block device `/dev/nbdN` of an export that this process, or
//! another one, serves on a socket.
//!
//! Attaching hands the kernel one end of a [`connection`]; [`Server::serve_stream`] serves the
//! other. The device outlives a lost connection: its requests wait for
//! [`AttachOptions::dead_connection_timeout`], and [`reconnect`] gives it a new one.
//!
//! [`Server::serve_stream`]: crate::Server::serve_stream

mod driver;

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{SndBuf, SndBufForce};
use tokio::net::UnixStream;
use tracing::{debug, warn};

use self::driver::Kernel;
use crate::netlink::{self, Connect, Malformed};
use crate::{ExportInfo, TransmissionFlags};

/// How often [`wait_until_detached`] looks.
const LOOK: Duration = Duration::from_millis(200);
/// Bytes that may wait in each direction of a [`connection`].
const SOCKET_BUFFER: usize = 1 << 20;

/// The client flag that detaches a device when its last user closes it.
const DISCONNECT_ON_CLOSE: u64 = 1 << 1;

/// Why the kernel does not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// There is no NBD driver.
    #[error("the kernel has no NBD driver loaded; try 'modprobe nbd'")]
    NoDriver,
    /// Devices are for the administrator.
    #[error("the kernel permits this only with CAP_SYS_ADMIN; try as root")]
    NotPermitted,
    /// Somebody else has the device attached.
    #[error("/dev/nbd{index} is in use")]
    Busy { index: u32 },
    /// The driver has no such device, or is just removing it.
    #[error("there is no /dev/nbd{index}, or it is going away")]
    NoDevice { index: u32 },
    /// The block size is not a power of two from 512 to 4096 that divides the size of the device.
    #[error("a device of {size} bytes cannot have blocks of {block_size}")]
    BlockSize { size: u64, block_size: u32 },
    /// The kernel refused for another reason; its log tells more.
    #[error("the kernel refused to {action}")]
    Refused { action: &'static str, source: io::Error },
    /// The kernel cannot be asked.
    #[error("cannot talk to the kernel by netlink")]
    Netlink { source: io::Error },
}

/// What an attached device is like.
#[derive(Clone, Debug)]
pub struct AttachOptions {
    /// Size in bytes.
    pub size: u64,
    /// What the server at the other end can do.
    pub flags: TransmissionFlags,
    /// The smallest unit of reading and writing: 512, 1024, 2048 or 4096 bytes.
    pub block_size: u32,
    /// Kills the connection of a request that has no reply after this time, which then waits for
    /// another connection. `None`, the default, waits for as long as the server needs.
    pub request_timeout: Option<Duration>,
    /// How long requests wait for [`reconnect`] after the last connection died, before they fail.
    /// Whole seconds.
    pub dead_connection_timeout: Duration,
    /// Detaches the device when its last user closes it.
    pub detach_on_close: bool,
    /// The largest request, in KiB. The driver's own 128 would cut large ones into many.
    pub max_request_kib: u32,
}

impl AttachOptions {
    /// Options for an export, with blocks of 4096 bytes where its size allows that.
    pub fn new(info: &ExportInfo) -> Self {
        let block_size = if info.size.is_multiple_of(4096) { 4096 } else { 512 };
        Self {
            size: info.size,
            flags: TransmissionFlags::new(info, false),
            block_size,
            request_timeout: None,
            dead_connection_timeout: Duration::from_secs(60),
            detach_on_close: false,
            max_request_kib: 1024,
        }
    }

    fn check(&self) -> Result<(), KernelError> {
        let Self { size, block_size, .. } = *self;
        let known = (512..=4096).contains(&block_size) && block_size.is_power_of_two();
        if known && size.is_multiple_of(block_size.into()) {
            Ok(())
        } else {
            Err(KernelError::BlockSize { size, block_size })
        }
    }
}

/// An attached device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// N of `/dev/nbdN`.
    pub index: u32,
    /// `/dev/nbdN`.
    pub path: PathBuf,
}

impl Device {
    fn new(index: u32) -> Self {
        Self { index, path: PathBuf::from(format!("/dev/nbd{index}")) }
    }

    /// The index of a device by its path, `None` if that is not one of `/dev/nbdN`.
    pub fn index_of(path: &Path) -> Option<u32> {
        let digits = path.to_str()?.strip_prefix("/dev/nbd")?;
        if digits.bytes().all(|byte| byte.is_ascii_digit()) { digits.parse().ok() } else { None }
    }
}

/// A connection between a server in this process and the kernel: our end, and the kernel's.
pub fn connection() -> io::Result<(UnixStream, OwnedFd)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    for end in [&ours, &theirs] {
        // Beyond the system's limit only for root, who attaches devices. Small buffers are slower,
        // not wrong.
        if setsockopt(end, SndBufForce, &SOCKET_BUFFER).is_err() {
            let _ = setsockopt(end, SndBuf, &SOCKET_BUFFER);
        }
    }
    ours.set_nonblocking(true)?;
    Ok((UnixStream::from_std(ours)?, theirs.into()))
}

/// Attaches a device, any free one if `index` is `None`. The servers at the other ends of
/// `sockets` must be running; more than one needs an export with
/// [`multi_conn`](ExportInfo::multi_conn). The kernel keeps the sockets.
pub async fn attach(
    index: Option<u32>,
    options: AttachOptions,
    sockets: Vec<OwnedFd>,
) -> Result<Device, KernelError> {
    blocking(move || {
        options.check()?;
        let mut kernel = Kernel::open()?;
        let fds: Vec<i32> = sockets.iter().map(AsRawFd::as_raw_fd).collect();
        let connect = Connect {
            index,
            size: options.size,
            block_size: options.block_size,
            server_flags: options.flags.bits(),
            client_flags: if options.detach_on_close { DISCONNECT_ON_CLOSE } else { 0 },
            timeout: options.request_timeout.map(|timeout| timeout.as_secs().max(1)),
            dead_conn_timeout: options.dead_connection_timeout.as_secs(),
            sockets: &fds,
        };
        let request = netlink::connect(kernel.family, kernel.next(), &connect);
        let attached = kernel.call(&request, |answer| answer.index());
        let attached = attached.map_err(|error| error.of("attach a device", index))?;
        let device = Device::new(attached.ok_or_else(malformed)?);
        widen(device.index, options.max_request_kib);
        Ok(device)
    })
    .await
}

/// Gives an attached device new connections in place of those that died.
pub async fn reconnect(index: u32, sockets: Vec<OwnedFd>) -> Result<(), KernelError> {
    blocking(move || {
        let mut kernel = Kernel::open()?;
        let fds: Vec<i32> = sockets.iter().map(AsRawFd::as_raw_fd).collect();
        let request = netlink::reconfigure(kernel.family, kernel.next(), index, &fds);
        let done = kernel.call(&request, |_| Ok(()));
        done.map(drop).map_err(|error| error.of("reconnect a device", Some(index)))
    })
    .await
}

/// Detaches a device. Its requests in flight fail, so unmount it first; a device that is not
/// attached stays so.
pub async fn detach(index: u32) -> Result<(), KernelError> {
    blocking(move || {
        let mut kernel = Kernel::open()?;
        let request = netlink::disconnect(kernel.family, kernel.next(), index);
        let done = kernel.call(&request, |_| Ok(()));
        done.map(drop).map_err(|error| error.of("detach a device", Some(index)))
    })
    .await
}

/// Whether a device is attached. One that somebody has open stays so while it is detached.
pub async fn is_attached(index: u32) -> Result<bool, KernelError> {
    blocking(move || {
        let mut kernel = Kernel::open()?;
        let request = netlink::status(kernel.family, kernel.next(), index);
        let state = kernel.call(&request, |answer| answer.connected(index));
        let state = state.map_err(|error| error.of("tell of a device", Some(index)))?;
        state.ok_or_else(malformed)
    })
    .await
}

/// Waits until a device is detached and nobody has it open.
pub async fn wait_until_detached(index: u32) -> Result<(), KernelError> {
    while is_attached(index).await? {
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, KernelError> + Send + 'static,
) -> Result<T, KernelError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(KernelError::Netlink { source: io::Error::other(error) }))
}

fn malformed() -> KernelError {
    KernelError::Netlink { source: io::Error::new(io::ErrorKind::InvalidData, Malformed) }
}

/// Lets the device send larger requests, as far as the driver takes them.
fn widen(index: u32, kib: u32) {
    let queue = PathBuf::from(format!("/sys/block/nbd{index}/queue"));
    let limit = fs::read_to_string(queue.join("max_hw_sectors_kb"));
    let limit = limit.ok().and_then(|text| text.trim().parse::<u32>().ok());
    let kib = limit.map_or(kib, |limit| kib.min(limit));
    match fs::write(queue.join("max_sectors_kb"), kib.to_string()) {
        Ok(()) => debug!(index, kib, "largest request set"),
        // Slower, and no more than that.
        Err(error) => warn!(index, %error, "cannot set the largest request of the device"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_indices() {
        assert_eq!(Device::index_of(Path::new("/dev/nbd12")), Some(12));
        for other in ["/dev/nbd", "/dev/nbd1p1", "/dev/sda", "nbd1", "/dev/nbd+1"] {
            assert_eq!(Device::index_of(Path::new(other)), None, "{other}");
        }
        assert_eq!(Device::new(12).path, Path::new("/dev/nbd12"));
    }

    #[tokio::test]
    async fn block_sizes_are_checked_before_the_kernel_is_asked() {
        let odd = AttachOptions { block_size: 4096, ..AttachOptions::new(&ExportInfo::new(1536)) };
        let error = attach(None, odd, Vec::new()).await.unwrap_err();
        assert!(matches!(error, KernelError::BlockSize { .. }), "{error}");
        assert_eq!(AttachOptions::new(&ExportInfo::new(1536)).block_size, 512);
        assert_eq!(AttachOptions::new(&ExportInfo::new(8192)).block_size, 4096);
    }
}
