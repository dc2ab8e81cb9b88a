//! The messages between us and the kernel's NBD driver: generic netlink, family `nbd`.
//!
//! Pure; [`kernel`](crate::kernel) owns the socket. Integers are in the machine's own order, except
//! that nothing here is shorter than a byte; everything is padded to 4 bytes.
//!
//! | offset | size | field    | meaning                                              |
//! |-------:|-----:|----------|------------------------------------------------------|
//! |      0 |    4 | length   | of the whole message, without padding at its end     |
//! |      4 |    2 | type     | 2 error or acknowledgement, 3 done, else the family  |
//! |      6 |    2 | flags    | 1 request, 4 acknowledge                             |
//! |      8 |    4 | sequence | repeated in every answer                             |
//! |     12 |    4 | port     | 0: to or from the kernel                             |
//! |     16 |    1 | command  | of the family                                        |
//! |     17 |    1 | version  | of the family                                        |
//! |     18 |    2 |          | 0                                                    |
//! |     20 |      | attributes | u16 length with its 4 bytes of head, u16 type, value |
//!
//! An error has an i32 at offset 16, 0 or a negative errno, and the head of the request behind it.
//!
//! Source: Linux, `include/uapi/linux/netlink.h`, `genetlink.h`, `nbd-netlink.h`, and the policy
//! and the handlers of `drivers/block/nbd.c`.

#![expect(clippy::host_endian_bytes, reason = "netlink is in the machine's own order")]

const HEAD: usize = 16;
const GENERIC_HEAD: usize = 4;
const ATTRIBUTE_HEAD: usize = 4;

const TYPE_ERROR: u16 = 2;
const FLAG_REQUEST: u16 = 1;
const FLAG_ACK: u16 = 4;
/// The two top bits of an attribute's type are flags.
const ATTRIBUTE_TYPE: u16 = 0x3fff;

const CONTROL_FAMILY: u16 = 0x10;
const CONTROL_GET_FAMILY: u8 = 3;
const CONTROL_VERSION: u8 = 1;
const CONTROL_FAMILY_ID: u16 = 1;
const CONTROL_FAMILY_NAME: u16 = 2;

/// The name of the driver's family.
pub(crate) const NBD_FAMILY: &str = "nbd";
const NBD_VERSION: u8 = 1;
const NBD_CONNECT: u8 = 1;
const NBD_DISCONNECT: u8 = 2;
const NBD_RECONFIGURE: u8 = 3;
const NBD_STATUS: u8 = 5;

const ATTR_INDEX: u16 = 1;
const ATTR_SIZE_BYTES: u16 = 2;
const ATTR_BLOCK_SIZE_BYTES: u16 = 3;
const ATTR_TIMEOUT: u16 = 4;
const ATTR_SERVER_FLAGS: u16 = 5;
const ATTR_CLIENT_FLAGS: u16 = 6;
const ATTR_SOCKETS: u16 = 7;
const ATTR_DEAD_CONN_TIMEOUT: u16 = 8;
const ATTR_DEVICE_LIST: u16 = 9;

const SOCK_ITEM: u16 = 1;
const SOCK_FD: u16 = 1;
const DEVICE_ITEM: u16 = 1;
const DEVICE_INDEX: u16 = 1;
const DEVICE_CONNECTED: u16 = 2;

/// A request of a family, as it is built.
struct Request {
    bytes: Vec<u8>,
}

impl Request {
    fn new(family: u16, sequence: u32, command: u8, version: u8) -> Self {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend([0; 4]);
        bytes.extend(family.to_ne_bytes());
        bytes.extend((FLAG_REQUEST | FLAG_ACK).to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend([command, version, 0, 0]);
        debug_assert_eq!(bytes.len(), HEAD + GENERIC_HEAD);
        Self { bytes }
    }

    fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let start = self.begin(kind);
        self.bytes.extend(value);
        self.end(start);
        self
    }

    fn u32(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    fn u64(self, kind: u16, value: u64) -> Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    fn nested(mut self, kind: u16, fill: impl FnOnce(Self) -> Self) -> Self {
        let start = self.begin(kind);
        self = fill(self);
        self.end(start);
        self
    }

    fn begin(&mut self, kind: u16) -> usize {
        let start = self.bytes.len();
        self.bytes.extend([0; 2]);
        self.bytes.extend(kind.to_ne_bytes());
        start
    }

    fn end(&mut self, start: usize) {
        let length = self.bytes.len() - start;
        // A few sockets are the most that we send.
        let length = u16::try_from(length).unwrap_or(u16::MAX);
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes
    }
}

/// Asks for the number of a family.
pub(crate) fn get_family(sequence: u32, name: &str) -> Vec<u8> {
    let name = [name.as_bytes(), &[0]].concat();
    Request::new(CONTROL_FAMILY, sequence, CONTROL_GET_FAMILY, CONTROL_VERSION)
        .attribute(CONTROL_FAMILY_NAME, &name)
        .finish()
}

/// What a device is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Connect<'a> {
    /// `None` takes any free device.
    pub(crate) index: Option<u32>,
    pub(crate) size: u64,
    pub(crate) block_size: u32,
    pub(crate) server_flags: u16,
    pub(crate) client_flags: u64,
    /// Seconds until a request without a reply kills its connection.
    pub(crate) timeout: Option<u64>,
    /// Seconds that requests wait for a new connection after the last one died.
    pub(crate) dead_conn_timeout: u64,
    /// File descriptors of this process.
    pub(crate) sockets: &'a [i32],
}

/// Attaches a device.
pub(crate) fn connect(family: u16, sequence: u32, connect: &Connect<'_>) -> Vec<u8> {
    let mut request = Request::new(family, sequence, NBD_CONNECT, NBD_VERSION);
    if let Some(index) = connect.index {
        request = request.u32(ATTR_INDEX, index);
    }
    request = request
        .u64(ATTR_SIZE_BYTES, connect.size)
        .u64(ATTR_BLOCK_SIZE_BYTES, connect.block_size.into())
        .u64(ATTR_SERVER_FLAGS, connect.server_flags.into())
        .u64(ATTR_CLIENT_FLAGS, connect.client_flags)
        .u64(ATTR_DEAD_CONN_TIMEOUT, connect.dead_conn_timeout);
    if let Some(timeout) = connect.timeout {
        request = request.u64(ATTR_TIMEOUT, timeout);
    }
    sockets(request, connect.sockets).finish()
}

/// Gives an attached device new connections for those that died.
pub(crate) fn reconfigure(family: u16, sequence: u32, index: u32, fds: &[i32]) -> Vec<u8> {
    let request = Request::new(family, sequence, NBD_RECONFIGURE, NBD_VERSION);
    sockets(request.u32(ATTR_INDEX, index), fds).finish()
}

fn sockets(request: Request, fds: &[i32]) -> Request {
    request.nested(ATTR_SOCKETS, |list| {
        fds.iter().fold(list, |list, fd| {
            list.nested(SOCK_ITEM, |item| item.attribute(SOCK_FD, &fd.to_ne_bytes()))
        })
    })
}

/// Detaches a device.
pub(crate) fn disconnect(family: u16, sequence: u32, index: u32) -> Vec<u8> {
    Request::new(family, sequence, NBD_DISCONNECT, NBD_VERSION).u32(ATTR_INDEX, index).finish()
}

/// Asks whether a device is attached.
pub(crate) fn status(family: u16, sequence: u32, index: u32) -> Vec<u8> {
    Request::new(family, sequence, NBD_STATUS, NBD_VERSION).u32(ATTR_INDEX, index).finish()
}

/// A message of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message<'a> {
    /// The end of an answer: 0, or a positive errno.
    Acknowledged { errno: i32 },
    /// The answer of a family.
    Answer(Attributes<'a>),
}

/// The bytes are no netlink messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed netlink message")]
pub(crate) struct Malformed;

/// The messages of a datagram that answer the request of that sequence number.
pub(crate) fn decode(mut bytes: &[u8], sequence: u32) -> Result<Vec<Message<'_>>, Malformed> {
    let mut messages = Vec::new();
    while !bytes.is_empty() {
        let length = u32_at(bytes, 0)? as usize;
        if length < HEAD {
            return Err(Malformed);
        }
        let message = bytes.get(..length).ok_or(Malformed)?;
        let kind = u16_at(message, 4)?;
        if u32_at(message, 8)? == sequence {
            messages.push(if kind == TYPE_ERROR {
                let negative = u32_at(message, HEAD)?.cast_signed();
                Message::Acknowledged { errno: negative.checked_neg().ok_or(Malformed)? }
            } else {
                let body = message.get(HEAD + GENERIC_HEAD..).ok_or(Malformed)?;
                Message::Answer(Attributes(body))
            });
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    }
    Ok(messages)
}

/// Attributes, one after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    /// The value of the first attribute of a type.
    fn find(self, kind: u16) -> Result<Option<&'a [u8]>, Malformed> {
        let mut bytes = self.0;
        while !bytes.is_empty() {
            let length = usize::from(u16_at(bytes, 0)?);
            let found = u16_at(bytes, 2)? & ATTRIBUTE_TYPE;
            let value = bytes.get(ATTRIBUTE_HEAD..length).ok_or(Malformed)?;
            if found == kind {
                return Ok(Some(value));
            }
            bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        }
        Ok(None)
    }

    /// The number of the family that was asked for.
    pub(crate) fn family(self) -> Result<u16, Malformed> {
        u16_at(self.find(CONTROL_FAMILY_ID)?.ok_or(Malformed)?, 0)
    }

    /// The index of the device that was attached.
    pub(crate) fn index(self) -> Result<u32, Malformed> {
        u32_at(self.find(ATTR_INDEX)?.ok_or(Malformed)?, 0)
    }

    /// Whether the device that was asked for is attached; one that does not exist is not.
    pub(crate) fn connected(self, index: u32) -> Result<bool, Malformed> {
        let list = Attributes(self.find(ATTR_DEVICE_LIST)?.unwrap_or(&[]));
        let Some(item) = list.find(DEVICE_ITEM)? else { return Ok(false) };
        let item = Attributes(item);
        let found = u32_at(item.find(DEVICE_INDEX)?.ok_or(Malformed)?, 0)?;
        let connected = item.find(DEVICE_CONNECTED)?.and_then(<[u8]>::first).ok_or(Malformed)?;
        Ok(found == index && *connected != 0)
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, Malformed> {
    let word = bytes.get(at..).and_then(<[u8]>::first_chunk).ok_or(Malformed)?;
    Ok(u16::from_ne_bytes(*word))
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, Malformed> {
    let word = bytes.get(at..).and_then(<[u8]>::first_chunk).ok_or(Malformed)?;
    Ok(u32::from_ne_bytes(*word))
}

#[cfg(test)]
#[cfg(target_endian = "little")]
mod tests;
