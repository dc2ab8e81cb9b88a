//! Turns outcomes into replies, simple or structured.

use bytes::Bytes;
use tracing::warn;

use crate::check::{Command, Terms};
use crate::error::Chain;
use crate::outbox::Outbox;
use crate::pending::{Finished, Outcome, Ticket};
use crate::wire::reply;
use crate::wire::request::RequestHead;
use crate::{Errno, ExportError, ReadData, ReadPiece};

/// A hole for a client that wants bytes.
static ZEROES: [u8; 64 * 1024] = [0; 64 * 1024];

/// Answers a request that never reached the export.
pub(super) fn refused(outbox: &mut Outbox, terms: &Terms, head: &RequestHead, errno: Errno) {
    error(outbox, terms, head.cookie, errno);
}

fn error(outbox: &mut Outbox, terms: &Terms, cookie: u64, errno: Errno) {
    if terms.structured {
        reply::error(outbox.tail(), cookie, errno);
    } else {
        reply::simple(outbox.tail(), cookie, Some(errno));
    }
}

/// Answers a request that the export is done with.
pub(super) fn finished(outbox: &mut Outbox, terms: &Terms, finished: Finished) {
    let Finished { ticket, result } = finished;
    let Ticket { cookie, command } = ticket;
    let failed = match (result, command) {
        (Ok(Outcome::Data(data)), Command::Read { offset, length, whole }) => {
            if data.size() == u64::from(length) {
                return read(outbox, terms, cookie, Read { offset, length, whole, data });
            }
            // The reply's frame is the length of the request: a wrong one would lose the client.
            warn!(offset, length, found = data.size(), "the export read a wrong number of bytes");
            Errno::Io
        }
        (Ok(Outcome::Extents(extents)), Command::BlockStatus { length, only_one, .. }) => {
            let length = u64::from(length);
            if reply::block_status(outbox.tail(), cookie, &extents, length, only_one) {
                return;
            }
            warn!("the export knows no extent");
            Errno::Io
        }
        (Ok(_), _) => return done(outbox, terms, &ticket),
        (Err(error), _) => report(&error, &command),
    };
    error(outbox, terms, cookie, failed);
}

/// A success without data. Only reads must be structured if anything may be (section "Simple reply
/// message").
fn done(outbox: &mut Outbox, terms: &Terms, ticket: &Ticket) {
    if terms.structured && matches!(ticket.command, Command::Nothing) {
        reply::none(outbox.tail(), ticket.cookie);
    } else {
        reply::simple(outbox.tail(), ticket.cookie, None);
    }
}

fn report(error: &ExportError, command: &Command) -> Errno {
    match error.errno() {
        // The client's business, and our own.
        Errno::NotSupported | Errno::ShuttingDown => {}
        _ => warn!(?command, error = %Chain(error), "the export refused a request"),
    }
    error.errno()
}

struct Read {
    offset: u64,
    length: u32,
    whole: bool,
    data: ReadData,
}

fn read(outbox: &mut Outbox, terms: &Terms, cookie: u64, read: Read) {
    let Read { offset, length, whole, data } = read;
    if !terms.structured {
        reply::simple(outbox.tail(), cookie, None);
        return data.into_pieces().into_iter().for_each(|piece| push(outbox, piece));
    }
    // One chunk for each run of pieces of a kind, or for all if the client wants it whole.
    let mut pieces = data.into_pieces().into_iter();
    let (mut at, mut left) = (offset, length);
    while let Some(first) = pieces.as_slice().first() {
        let count = match whole {
            true => pieces.len(),
            false => pieces.as_slice().iter().take_while(|p| is_hole(p) == is_hole(first)).count(),
        };
        let run = &pieces.as_slice()[..count];
        let size = run.iter().map(ReadPiece::size).sum::<u64>();
        // All pieces together are as long as the request.
        let size = u32::try_from(size).unwrap_or(left);
        let last = size == left;
        if run.iter().all(is_hole) {
            reply::hole(outbox.tail(), last, cookie, at, size);
            pieces.by_ref().take(count).for_each(drop);
        } else {
            reply::data(outbox.tail(), last, cookie, at, size);
            pieces.by_ref().take(count).for_each(|piece| push(outbox, piece));
        }
        at += u64::from(size);
        left -= size;
    }
}

fn is_hole(piece: &ReadPiece) -> bool {
    matches!(piece, ReadPiece::Hole(_))
}

/// Appends the bytes of a piece, zeroes for a hole.
fn push(outbox: &mut Outbox, piece: ReadPiece) {
    match piece {
        ReadPiece::Data(data) => outbox.push(data),
        ReadPiece::Hole(length) => {
            let mut left = length as usize;
            while left > 0 {
                let size = left.min(ZEROES.len());
                outbox.push(Bytes::from_static(&ZEROES[..size]));
                left -= size;
            }
        }
    }
}
