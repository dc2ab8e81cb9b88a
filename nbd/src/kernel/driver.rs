//! The socket to the kernel's NBD driver.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recvfrom, sendto,
    setsockopt, socket,
};
use nix::sys::time::TimeVal;

use super::{KernelError, malformed};
use crate::netlink::{self, Attributes, Malformed, Message};

/// The kernel answers at once, or something is very wrong.
const ANSWER_TIMEOUT_S: i64 = 30;

/// Why a call had no answer.
#[derive(Debug)]
pub(super) enum CallError {
    Refused(Errno),
    Failed(io::Error),
}

impl CallError {
    pub(super) fn of(self, action: &'static str, index: Option<u32>) -> KernelError {
        match (self, index) {
            (Self::Refused(Errno::EPERM | Errno::EACCES), _) => KernelError::NotPermitted,
            (Self::Refused(Errno::EBUSY | Errno::EEXIST), Some(index)) => {
                KernelError::Busy { index }
            }
            // The driver says EINVAL of an index that it does not know, and we send no other
            // argument that it could dislike.
            (Self::Refused(Errno::EINVAL | Errno::ENODEV | Errno::ENOENT), Some(index)) => {
                KernelError::NoDevice { index }
            }
            (Self::Refused(errno), _) => KernelError::Refused { action, source: errno.into() },
            (Self::Failed(source), _) => KernelError::Netlink { source },
        }
    }
}

impl From<Errno> for CallError {
    fn from(errno: Errno) -> Self {
        Self::Failed(errno.into())
    }
}

/// A socket to the kernel's NBD driver.
pub(super) struct Kernel {
    socket: OwnedFd,
    sequence: u32,
    pub(super) family: u16,
}

impl Kernel {
    pub(super) fn open() -> Result<Self, KernelError> {
        let mut kernel =
            Self::connect().map_err(|errno| KernelError::Netlink { source: errno.into() })?;
        kernel.family = match kernel.family(netlink::NBD_FAMILY) {
            Ok(Some(family)) => family,
            Ok(None) => return Err(malformed()),
            Err(CallError::Refused(Errno::ENOENT)) => return Err(KernelError::NoDriver),
            Err(error) => return Err(error.of("name its NBD driver", None)),
        };
        Ok(kernel)
    }

    fn connect() -> nix::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkGeneric,
        )?;
        setsockopt(&socket, ReceiveTimeout, &TimeVal::new(ANSWER_TIMEOUT_S, 0))?;
        Ok(Self { socket, sequence: 0, family: 0 })
    }

    fn family(&mut self, name: &str) -> Result<Option<u16>, CallError> {
        let request = netlink::get_family(self.next(), name);
        self.call(&request, |answer| answer.family())
    }

    pub(super) fn next(&mut self) -> u32 {
        self.sequence += 1;
        self.sequence
    }

    /// Sends the request of the last sequence number and waits until the kernel acknowledges it;
    /// what `read` makes of the answer before, if there is one.
    pub(super) fn call<T>(
        &self,
        request: &[u8],
        read: impl Fn(Attributes<'_>) -> Result<T, Malformed>,
    ) -> Result<Option<T>, CallError> {
        let malformed =
            |error| CallError::Failed(io::Error::new(io::ErrorKind::InvalidData, error));
        let kernel = NetlinkAddr::new(0, 0);
        sendto(self.socket.as_raw_fd(), request, &kernel, MsgFlags::empty())?;
        let mut answer = None;
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let received = recvfrom::<NetlinkAddr>(self.socket.as_raw_fd(), &mut buffer);
            let (length, sender) = match received {
                Err(Errno::EINTR) => continue,
                received => received?,
            };
            // Other processes may send to us too.
            if sender.is_none_or(|sender| sender.pid() != 0) {
                continue;
            }
            let messages = netlink::decode(&buffer[..length], self.sequence).map_err(malformed)?;
            for message in messages {
                match message {
                    Message::Acknowledged { errno: 0 } => return Ok(answer),
                    Message::Acknowledged { errno } => {
                        return Err(CallError::Refused(Errno::from_raw(errno)));
                    }
                    Message::Answer(attributes) => {
                        answer = Some(read(attributes).map_err(malformed)?);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The codec and the socket against a real kernel, with the one family that all have.
    #[test]
    fn the_kernel_understands_us() {
        let mut kernel = Kernel::connect().unwrap();
        assert_eq!(kernel.family("nlctrl").unwrap(), Some(0x10));
        let missing = kernel.family("torus-none").unwrap_err();
        assert!(matches!(missing, CallError::Refused(Errno::ENOENT)), "{missing:?}");
        assert_eq!(kernel.family("nlctrl").unwrap(), Some(0x10), "the socket is in step");
    }

    #[test]
    fn refusals_say_what_to_do() {
        let says = |errno, index| CallError::Refused(errno).of("attach", index).to_string();
        assert_eq!(says(Errno::EBUSY, Some(3)), "/dev/nbd3 is in use");
        assert!(says(Errno::EPERM, None).contains("as root"));
        assert!(says(Errno::EINVAL, Some(3)).contains("no /dev/nbd3"));
        assert_eq!(says(Errno::EINVAL, None), "the kernel refused to attach");
        assert!(KernelError::NoDriver.to_string().contains("modprobe nbd"));
    }
}
