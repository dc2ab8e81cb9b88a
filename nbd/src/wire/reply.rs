//! Replies of the transmission phase: their heads, without the payload.
//!
//! A simple reply (section "Simple reply message"); the data of a read follows it:
//!
//! | offset | size | field  | meaning                                |
//! |-------:|-----:|--------|----------------------------------------|
//! |      0 |    4 | magic  | 0x67446698                             |
//! |      4 |    4 | error  | 0, or the code of an [`Errno`]         |
//! |      8 |    8 | cookie | of the request                         |
//!
//! A chunk of a structured reply (section "Structured reply chunk message"):
//!
//! | offset | size | field  | meaning                                |
//! |-------:|-----:|--------|----------------------------------------|
//! |      0 |    4 | magic  | 0x668e33ef                             |
//! |      4 |    2 | flags  | 1 in the last chunk of a reply         |
//! |      6 |    2 | type   | see below                              |
//! |      8 |    8 | cookie | of the request                         |
//! |     16 |    4 | length | of what follows, by type:              |
//! |        |      |        | 0 none: nothing                        |
//! |        |      |        | 1 data: u64 offset, bytes              |
//! |        |      |        | 2 hole: u64 offset, u32 size           |
//! |        |      |        | 5 status: u32 context, (u32 length, u32 flags) each extent |
//! |        |      |        | 0x8001 error: u32 code, u16 length, message |

use bytes::{BufMut, BytesMut};

use crate::{Errno, Extent};

const SIMPLE_MAGIC: u32 = 0x6744_6698;
const CHUNK_MAGIC: u32 = 0x668e_33ef;

const DONE: u16 = 1;

const TYPE_NONE: u16 = 0;
const TYPE_OFFSET_DATA: u16 = 1;
const TYPE_OFFSET_HOLE: u16 = 2;
const TYPE_BLOCK_STATUS: u16 = 5;
const TYPE_ERROR: u16 = 0x8001;

const STATE_HOLE: u32 = 1 << 0;
const STATE_ZERO: u32 = 1 << 1;

/// The identifier that the handshake gives to `base:allocation`.
pub(crate) const ALLOCATION_CONTEXT: u32 = 1;

/// Extents in one reply. The protocol's own limit is 2^20, which is a reply of 8 MiB for a request
/// of 28 bytes; with fewer a client asks again from where the reply ended.
pub(crate) const MAX_EXTENTS: usize = 1 << 14;

/// A simple reply; the data of a successful read goes after it.
pub(crate) fn simple(out: &mut BytesMut, cookie: u64, error: Option<Errno>) {
    out.put_u32(SIMPLE_MAGIC);
    out.put_u32(error.map_or(0, Errno::code));
    out.put_u64(cookie);
}

fn chunk(out: &mut BytesMut, last: bool, kind: u16, cookie: u64, length: u32) {
    out.put_u32(CHUNK_MAGIC);
    out.put_u16(if last { DONE } else { 0 });
    out.put_u16(kind);
    out.put_u64(cookie);
    out.put_u32(length);
}

/// A whole reply without data.
pub(crate) fn none(out: &mut BytesMut, cookie: u64) {
    chunk(out, true, TYPE_NONE, cookie, 0);
}

/// The head of `length` bytes of data, which go after it; `length` is at most `u32::MAX - 8`.
pub(crate) fn data(out: &mut BytesMut, last: bool, cookie: u64, offset: u64, length: u32) {
    chunk(out, last, TYPE_OFFSET_DATA, cookie, length + 8);
    out.put_u64(offset);
}

/// A chunk that stands for `length` zeroes.
pub(crate) fn hole(out: &mut BytesMut, last: bool, cookie: u64, offset: u64, length: u32) {
    chunk(out, last, TYPE_OFFSET_HOLE, cookie, 12);
    out.put_u64(offset);
    out.put_u32(length);
}

/// An error as the last chunk of a reply.
pub(crate) fn error(out: &mut BytesMut, cookie: u64, errno: Errno) {
    let message = errno.to_string();
    // The messages are our own, a few words each.
    let length = u16::try_from(message.len()).unwrap_or(0);
    chunk(out, true, TYPE_ERROR, cookie, 6 + u32::from(length));
    out.put_u32(errno.code());
    out.put_u16(length);
    out.put_slice(&message.as_bytes()[..usize::from(length)]);
}

/// The status of the bytes from the offset of a request of `asked` bytes.
///
/// Extents that start past the request, and those past [`MAX_EXTENTS`], are left out; neighbours of
/// one kind become one. Returns false, and writes nothing, if no extent is left.
pub(crate) fn block_status(
    out: &mut BytesMut,
    cookie: u64,
    extents: &[Extent],
    asked: u64,
    only_one: bool,
) -> bool {
    let limit = if only_one { 1 } else { MAX_EXTENTS };
    let mut covered = 0;
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for extent in extents {
        // Lengths past the request help nobody, and would have to fit 32 bits.
        let length = extent.length.min(asked - covered);
        let Ok(length) = u32::try_from(length) else { break };
        if length == 0 {
            continue;
        }
        let state =
            if extent.hole { STATE_HOLE } else { 0 } | if extent.zero { STATE_ZERO } else { 0 };
        match runs.last_mut() {
            Some((run, kind)) if *kind == state => *run += length,
            _ => {
                if runs.len() == limit {
                    break;
                }
                runs.push((length, state));
            }
        }
        covered += u64::from(length);
    }
    let Ok(count) = u32::try_from(runs.len()) else { return false };
    if count == 0 {
        return false;
    }
    chunk(out, true, TYPE_BLOCK_STATUS, cookie, 4 + 8 * count);
    out.put_u32(ALLOCATION_CONTEXT);
    for (length, state) in runs {
        out.put_u32(length);
        out.put_u32(state);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(write: impl FnOnce(&mut BytesMut), expected: &[u8]) {
        let mut out = BytesMut::new();
        write(&mut out);
        assert_eq!(&out[..], expected);
    }

    const COOKIE: u64 = 0x0102_0304_0506_0708;

    #[test]
    #[rustfmt::skip]
    fn golden_bytes() {
        check(|out| simple(out, COOKIE, Some(Errno::NoSpace)), &[
            0x67, 0x44, 0x66, 0x98,  0, 0, 0, 28,  1, 2, 3, 4, 5, 6, 7, 8,
        ]);
        check(|out| none(out, COOKIE), &[
            0x66, 0x8e, 0x33, 0xef,  0, 1,  0, 0,  1, 2, 3, 4, 5, 6, 7, 8,  0, 0, 0, 0,
        ]);
        check(|out| data(out, true, COOKIE, 0x200, 5), &[
            0x66, 0x8e, 0x33, 0xef,  0, 1,  0, 1,  1, 2, 3, 4, 5, 6, 7, 8,  0, 0, 0, 13,
            0, 0, 0, 0, 0, 0, 2, 0,
        ]);
        check(|out| hole(out, false, COOKIE, 0x200, 0x1000), &[
            0x66, 0x8e, 0x33, 0xef,  0, 0,  0, 2,  1, 2, 3, 4, 5, 6, 7, 8,  0, 0, 0, 12,
            0, 0, 0, 0, 0, 0, 2, 0,  0, 0, 0x10, 0,
        ]);
        check(|out| error(out, COOKIE, Errno::NoSpace), &[
            0x66, 0x8e, 0x33, 0xef,  0, 1,  0x80, 1,  1, 2, 3, 4, 5, 6, 7, 8,  0, 0, 0, 19,
            0, 0, 0, 28,  0, 13,
            b'n', b'o', b' ', b's', b'p', b'a', b'c', b'e', b' ', b'l', b'e', b'f', b't',
        ]);
    }

    const DATA: Extent = Extent { length: 512, hole: false, zero: false };
    const HOLE: Extent = Extent { length: 512, hole: true, zero: true };

    #[test]
    #[rustfmt::skip]
    fn status_merges_neighbours_and_ends_with_the_request() {
        check(|out| assert!(block_status(out, COOKIE, &[DATA, DATA, HOLE], 1100, false)), &[
            0x66, 0x8e, 0x33, 0xef,  0, 1,  0, 5,  1, 2, 3, 4, 5, 6, 7, 8,  0, 0, 0, 20,
            0, 0, 0, 1,
            0, 0, 4, 0,  0, 0, 0, 0,
            0, 0, 0, 76,  0, 0, 0, 3,
        ]);
        check(|out| assert!(block_status(out, COOKIE, &[HOLE, DATA], 1024, true)), &[
            0x66, 0x8e, 0x33, 0xef,  0, 1,  0, 5,  1, 2, 3, 4, 5, 6, 7, 8,  0, 0, 0, 12,
            0, 0, 0, 1,
            0, 0, 2, 0,  0, 0, 0, 3,
        ]);
    }

    #[test]
    fn status_without_extents_is_none() {
        check(|out| assert!(!block_status(out, COOKIE, &[], 1024, false)), &[]);
    }

    /// CVE-2025-47711 and -47712: sizes at and past 32 bits.
    #[test]
    fn status_of_four_gibibytes_fits() {
        let all = Extent { length: u64::MAX, ..HOLE };
        let mut out = BytesMut::new();
        assert!(block_status(&mut out, COOKIE, &[all, all], u64::from(u32::MAX), false));
        assert_eq!(&out[24..], [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 3]);
    }

    #[test]
    fn status_of_many_extents_is_capped() {
        let extents: Vec<_> = [DATA, HOLE].into_iter().cycle().take(3 * MAX_EXTENTS).collect();
        let mut out = BytesMut::new();
        assert!(block_status(&mut out, COOKIE, &extents, u64::from(u32::MAX), false));
        assert_eq!(out.len(), 20 + 4 + 8 * MAX_EXTENTS);
    }
}
