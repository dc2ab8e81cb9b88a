//! The transmission phase of one connection, in one task: requests in, the export's work, replies
//! out.
//!
//! There is no task and no channel for a request. The task receives what there is, starts every
//! request in it (an export that answers at once is never queued), sends all replies in one call,
//! and sleeps until the socket or a request in flight wakes it.
//!
//! Bounds: [`MAX_REQUESTS`] requests and [`MAX_BYTES`] bytes in flight, [`OUTBOX_PAUSE`] bytes of
//! unsent replies before the next request is looked at; beyond that the socket fills and the client
//! waits. A request's memory is taken after its length is checked and before its payload is read.

mod reply;
#[cfg(test)]
mod tests;

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::sleep;
use tokio_util::io::poll_read_buf;
use tokio_util::sync::CancellationToken;

use crate::check::{Command, Terms, check};
use crate::inbox::Inbox;
use crate::outbox::Outbox;
use crate::pending::{Finished, Pending, Ticket};
use crate::reservation::{Budget, Reservation};
use crate::wire::request::{BadMagic, CMD_WRITE, RequestHead};
use crate::{Errno, Export};

/// Requests of a connection in flight.
pub(crate) const MAX_REQUESTS: usize = 128;
/// Bytes of a connection in flight: payloads of writes, and data of reads until they are sent.
pub(crate) const MAX_BYTES: u64 = 64 << 20;
/// With more unsent bytes than this no further request is looked at, not even to refuse it.
const OUTBOX_PAUSE: usize = 4 << 20;
/// The longest payload of a refused write that is read and thrown away; a client that announces
/// more is disconnected.
const SKIP_MAX: u32 = 2 * crate::check::MAX_PAYLOAD;

/// What a connection shares with its server.
pub(crate) struct Surroundings<'e> {
    pub(crate) shutdown: &'e CancellationToken,
    pub(crate) budget: Budget,
    /// How long a client may neither send the rest of a request nor take a reply.
    pub(crate) stall: Option<Duration>,
    /// How long requests in flight may take after the shutdown began.
    pub(crate) drain: Duration,
    /// What becomes of requests that arrive after the shutdown began.
    pub(crate) late: Late,
}

/// What becomes of requests that arrive after the shutdown began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Late {
    /// They are refused with `ESHUTDOWN` (section "Terminating the transmission phase").
    Refused,
    /// They are not read. The kernel's client takes every refusal for a bad disk, but repeats what
    /// had no reply on its next connection.
    Ignored,
}

/// How the transmission ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum End {
    #[error("the client disconnected")]
    Disconnected,
    #[error("the client left without a word")]
    Eof,
    #[error("the server shuts down")]
    Drained,
    #[error("the server shuts down and left requests in flight behind")]
    Abandoned,
    #[error("the client stalled")]
    Stalled,
    #[error("the client announced a payload of {0} bytes")]
    Oversized(u32),
    #[error("the client lost the protocol")]
    Protocol(#[source] BadMagic),
    #[error("the connection broke")]
    Broken(#[source] io::Error),
}

/// Serves the requests of a connection until it ends. Nothing is in flight afterwards, except that
/// [`End::Abandoned`] dropped it.
pub(crate) async fn transmit<S>(
    stream: &mut S,
    input: BytesMut,
    export: &dyn Export,
    terms: Terms,
    surroundings: Surroundings<'_>,
) -> End
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let stop = AtomicBool::new(false);
    let mut transmission = Transmission {
        stream,
        export,
        stop: &stop,
        terms,
        inbox: Inbox::new(input),
        outbox: Outbox::default(),
        intake: Intake::Head,
        in_flight: FuturesUnordered::new(),
        in_flight_bytes: 0,
        reservation: Reservation::new(surroundings.budget),
        controls: FuturesUnordered::new(),
        stall: surroundings.stall,
        drain: surroundings.drain,
        late: surroundings.late,
        received: 0,
        sent: 0,
        last_tick: (0, 0),
        draining: false,
        hung_up: false,
        end: None,
    };
    let shutdown = surroundings.shutdown;
    transmission.controls.push(Box::pin(async {
        shutdown.cancelled().await;
        Control::Shutdown
    }));
    transmission.next_tick();
    poll_fn(|cx| transmission.poll(cx)).await
}

/// What wakes a connection besides its socket and its requests.
enum Control {
    Tick,
    Shutdown,
    DrainOver,
}

/// What the next received bytes are.
#[derive(Clone, Copy, Debug)]
enum Intake {
    Head,
    /// A checked request waits for room among those in flight.
    Waiting(Ticket),
    /// An admitted write, of so many bytes.
    Payload(Ticket, u32),
    /// Nothing more is received.
    Closed,
}

struct Transmission<'e, S> {
    stream: &'e mut S,
    export: &'e dyn Export,
    stop: &'e AtomicBool,
    terms: Terms,
    inbox: Inbox,
    outbox: Outbox,
    intake: Intake,
    in_flight: FuturesUnordered<Pending<'e>>,
    in_flight_bytes: u64,
    reservation: Reservation,
    // Futures with wakers of their own: they cost nothing while they sleep.
    controls: FuturesUnordered<BoxFuture<'e, Control>>,
    stall: Option<Duration>,
    drain: Duration,
    late: Late,
    received: u64,
    sent: u64,
    last_tick: (u64, u64),
    draining: bool,
    /// Replies are no longer wanted.
    hung_up: bool,
    end: Option<End>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Transmission<'_, S> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            while let Poll::Ready(Some(control)) = self.controls.poll_next_unpin(cx) {
                if let Some(end) = self.control(&control) {
                    return Poll::Ready(end);
                }
            }
            let mut moved = self.complete(cx);
            moved |= self.take(cx);
            if self.receive(cx) {
                moved = true;
                self.take(cx);
            }
            moved |= self.send(cx);
            let idle = self.in_flight.is_empty() && self.outbox.is_empty();
            if idle {
                self.reservation.release();
                if let Some(end) = self.end.take() {
                    return Poll::Ready(end);
                }
                let between = matches!(self.intake, Intake::Head | Intake::Closed);
                if self.draining && between && !moved {
                    return Poll::Ready(End::Drained);
                }
            }
            if !moved {
                return Poll::Pending;
            }
        }
    }

    fn control(&mut self, control: &Control) -> Option<End> {
        match control {
            Control::Shutdown => {
                self.draining = true;
                self.stop.store(true, Ordering::Relaxed);
                if self.late == Late::Ignored {
                    self.close_intake(End::Drained);
                }
                let drain = self.drain;
                self.controls.push(Box::pin(async move {
                    sleep(drain).await;
                    Control::DrainOver
                }));
                None
            }
            Control::DrainOver => Some(End::Abandoned),
            Control::Tick => {
                self.next_tick();
                self.check_stall();
                None
            }
        }
    }

    fn next_tick(&mut self) {
        if let Some(stall) = self.stall {
            self.controls.push(Box::pin(async move {
                sleep(stall).await;
                Control::Tick
            }));
        }
    }

    /// Ends the connection if the client was to move and nothing moved since the last tick.
    fn check_stall(&mut self) {
        let receiving = match self.intake {
            Intake::Payload(..) => true,
            Intake::Head => self.may_look() && self.inbox.is_inside_request(),
            Intake::Waiting(_) | Intake::Closed => false,
        };
        let (received, sent) = self.last_tick;
        let stalled = (receiving && received == self.received)
            || (!self.outbox.is_empty() && sent == self.sent);
        self.last_tick = (self.received, self.sent);
        if stalled {
            self.hang_up(End::Stalled);
        }
    }

    /// Takes nothing more; what is in flight gets its replies.
    fn close_intake(&mut self, end: End) {
        self.intake = Intake::Closed;
        self.end.get_or_insert(end);
    }

    /// Takes nothing more and sends nothing more.
    fn hang_up(&mut self, end: End) {
        self.close_intake(end);
        self.stop.store(true, Ordering::Relaxed);
        self.hung_up = true;
        self.outbox.clear();
    }

    /// Answers the requests that are done.
    fn complete(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        while let Poll::Ready(Some(finished)) = self.in_flight.poll_next_unpin(cx) {
            self.finish(finished);
            moved = true;
        }
        moved
    }

    fn finish(&mut self, finished: Finished) {
        self.in_flight_bytes -= finished.ticket.cost();
        if !self.hung_up {
            reply::finished(&mut self.outbox, &self.terms, finished);
        }
    }

    fn may_look(&self) -> bool {
        self.outbox.size() <= OUTBOX_PAUSE
    }

    /// Starts every request that is here and has room.
    fn take(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        loop {
            match self.intake {
                Intake::Head if self.may_look() => match self.inbox.head() {
                    Ok(Some(head)) => self.look_at(&head),
                    Ok(None) => return moved,
                    Err(bad) => self.close_intake(End::Protocol(bad)),
                },
                Intake::Waiting(ticket) => match self.poll_admit(&ticket, cx) {
                    Poll::Ready(()) => {
                        self.in_flight_bytes += ticket.cost();
                        match ticket.command {
                            Command::Write { length, .. } => {
                                self.intake = Intake::Payload(ticket, length);
                            }
                            _ => self.start(ticket, Bytes::new(), cx),
                        }
                    }
                    Poll::Pending => return moved,
                },
                Intake::Payload(ticket, length) => match self.inbox.payload(length) {
                    Some(payload) => self.start(ticket, payload, cx),
                    None => return moved,
                },
                Intake::Head | Intake::Closed => return moved,
            }
            moved = true;
        }
    }

    fn look_at(&mut self, head: &RequestHead) {
        let checked = match check(head, &self.terms) {
            Ok(command) if self.draining && command != Command::Disconnect => {
                Err(Errno::ShuttingDown)
            }
            checked => checked,
        };
        match checked {
            Ok(Command::Disconnect) => self.close_intake(End::Disconnected),
            Ok(command) => self.intake = Intake::Waiting(Ticket { cookie: head.cookie, command }),
            Err(errno) => {
                reply::refused(&mut self.outbox, &self.terms, head, errno);
                if head.command == CMD_WRITE {
                    if head.length > SKIP_MAX {
                        self.close_intake(End::Oversized(head.length));
                    } else {
                        self.inbox.skip(head.length);
                    }
                }
            }
        }
    }

    /// Ready when there is room for one more request in flight.
    fn poll_admit(&mut self, ticket: &Ticket, cx: &mut Context<'_>) -> Poll<()> {
        let held = self.in_flight_bytes + self.outbox.size() as u64;
        let wanted = held + ticket.cost();
        if self.in_flight.len() >= MAX_REQUESTS || (held > 0 && wanted > MAX_BYTES) {
            return Poll::Pending;
        }
        self.reservation.poll_cover(wanted, cx)
    }

    /// Hands a request to the export, in the order of arrival.
    fn start(&mut self, ticket: Ticket, payload: Bytes, cx: &mut Context<'_>) {
        self.intake = Intake::Head;
        let mut pending = Pending::new(self.export, self.stop, ticket, payload);
        match Pin::new(&mut pending).poll(cx) {
            Poll::Ready(finished) => self.finish(finished),
            Poll::Pending => self.in_flight.push(pending),
        }
    }

    /// Receives once, if the intake waits for bytes.
    fn receive(&mut self, cx: &mut Context<'_>) -> bool {
        match self.intake {
            Intake::Payload(..) => {}
            Intake::Head if self.may_look() => {}
            Intake::Head | Intake::Waiting(_) | Intake::Closed => return false,
        }
        match poll_read_buf(Pin::new(&mut *self.stream), cx, self.inbox.room()) {
            Poll::Pending => return false,
            Poll::Ready(Ok(0)) => self.close_intake(End::Eof),
            Poll::Ready(Ok(count)) => self.received += count as u64,
            Poll::Ready(Err(error)) => self.hang_up(End::Broken(error)),
        }
        true
    }

    fn send(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        while !self.outbox.is_empty() {
            match self.outbox.poll_send(Pin::new(&mut *self.stream), cx) {
                Poll::Pending => break,
                Poll::Ready(Ok(count)) => self.sent += count as u64,
                Poll::Ready(Err(error)) => self.hang_up(End::Broken(error)),
            }
            moved = true;
        }
        moved
    }
}
