//! The bytes of the protocol. Integers are big-endian.
//!
//! [`option`] holds the handshake, [`request`] and [`reply`] the transmission phase.

pub(crate) mod option;
pub(crate) mod reply;
pub(crate) mod request;

use crate::ExportInfo;

/// The 16 bits that tell a client what an export can do (section "Transmission flags").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransmissionFlags(u16);

impl TransmissionFlags {
    const HAS_FLAGS: u16 = 1 << 0;
    const READ_ONLY: u16 = 1 << 1;
    const SEND_FLUSH: u16 = 1 << 2;
    const SEND_FUA: u16 = 1 << 3;
    const SEND_TRIM: u16 = 1 << 5;
    const SEND_WRITE_ZEROES: u16 = 1 << 6;
    const SEND_DF: u16 = 1 << 7;
    const CAN_MULTI_CONN: u16 = 1 << 8;
    const SEND_CACHE: u16 = 1 << 10;
    const SEND_FAST_ZERO: u16 = 1 << 11;

    /// The flags of an export, for a client with or without structured replies.
    pub fn new(info: &ExportInfo, structured: bool) -> Self {
        let mut bits = Self::HAS_FLAGS | Self::SEND_FLUSH | Self::SEND_FUA | Self::SEND_CACHE;
        bits |= if info.read_only {
            Self::READ_ONLY
        } else {
            Self::SEND_TRIM | Self::SEND_WRITE_ZEROES | Self::SEND_FAST_ZERO
        };
        if structured {
            bits |= Self::SEND_DF;
        }
        if info.multi_conn {
            bits |= Self::CAN_MULTI_CONN;
        }
        Self(bits)
    }

    /// The bits as they cross the wire and enter the kernel.
    pub const fn bits(self) -> u16 {
        self.0
    }
}
