//! What waits to be written to a connection, and the writing of it.
//!
//! Whoever has something to send writes it to the socket itself, as long as the socket takes it: a
//! reply goes from the thread that synced the disk straight to the network, without waking a task
//! for it. Only when the socket is full the connection's own task, in [`Outbox::run`], goes on when
//! it has room again. What gathers meanwhile leaves in one vectored write.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Wake, Waker, ready};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio_util::sync::CancellationToken;

use crate::lock::{lock, try_lock};

/// Parts that one write takes.
const PARTS_PER_WRITE: usize = 64;

/// One frame on its way out.
struct Parcel {
    parts: VecDeque<Bytes>,
    /// Given back once the last byte is with the operating system.
    _permit: Option<OwnedSemaphorePermit>,
}

pub(crate) struct Outbox {
    queue: Mutex<VecDeque<Parcel>>,
    writer: Mutex<Writer>,
    /// Wakes the connection's own task when the socket has room.
    room: Arc<Room>,
    broken: CancellationToken,
}

struct Writer {
    socket: Box<dyn AsyncWrite + Send + Unpin>,
    parcels: VecDeque<Parcel>,
}

#[derive(Default)]
struct Room(Notify);

impl Wake for Room {
    fn wake(self: Arc<Self>) {
        self.0.notify_one();
    }
}

impl Outbox {
    pub(crate) fn new(socket: impl AsyncWrite + Send + Unpin + 'static) -> Arc<Self> {
        let writer = Writer { socket: Box::new(socket), parcels: VecDeque::new() };
        Arc::new(Self {
            queue: Mutex::default(),
            writer: Mutex::new(writer),
            room: Arc::default(),
            broken: CancellationToken::new(),
        })
    }

    /// Queues a frame; [`drive`](Self::drive) sends it.
    pub(crate) fn push(&self, parts: Vec<Bytes>, permit: Option<OwnedSemaphorePermit>) {
        lock(&self.queue).push_back(Parcel { parts: parts.into(), _permit: permit });
    }

    /// Writes what is queued, as far as the socket takes it. Does not block.
    pub(crate) fn drive(&self) {
        let waker = Waker::from(Arc::clone(&self.room));
        let mut context = Context::from_waker(&waker);
        loop {
            // Whoever holds the writer looks at the queue again after letting go of it.
            let Some(writer) = try_lock(&self.writer) else { return };
            if !self.drive_with(writer, &mut context) {
                return;
            }
        }
    }

    /// As [`drive`](Self::drive), but waits for whoever writes: the wake-up that the socket has room
    /// comes once, and would be lost if the writer were about to be let go of. No holder blocks.
    fn drive_surely(&self) {
        let waker = Waker::from(Arc::clone(&self.room));
        let mut context = Context::from_waker(&waker);
        while self.drive_with(lock(&self.writer), &mut context) {}
    }

    /// Writes once; whether there is more to write at once.
    fn drive_with(&self, mut writer: MutexGuard<'_, Writer>, context: &mut Context<'_>) -> bool {
        writer.parcels.append(&mut lock(&self.queue));
        let written = writer.poll_write_all(context);
        drop(writer);
        match written {
            Poll::Ready(Ok(())) => !lock(&self.queue).is_empty(),
            Poll::Ready(Err(_)) => {
                self.broken.cancel();
                false
            }
            Poll::Pending => false,
        }
    }

    /// Goes on writing whenever the socket has room again, until the connection breaks.
    pub(crate) async fn run(&self) {
        loop {
            tokio::select! {
                () = self.room.0.notified() => self.drive_surely(),
                () = self.broken.cancelled() => return,
            }
        }
    }
}

impl Writer {
    fn poll_write_all(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.parcels.is_empty() {
            let mut slices = [IoSlice::new(&[]); PARTS_PER_WRITE];
            let parts = self.parcels.iter().flat_map(|parcel| &parcel.parts);
            let count =
                slices.iter_mut().zip(parts).map(|(slice, part)| *slice = IoSlice::new(part));
            let count = count.count();
            let socket = Pin::new(&mut self.socket);
            let written = ready!(socket.poll_write_vectored(context, &slices[..count]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(written);
        }
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn advance(&mut self, mut written: usize) {
        while let Some(parcel) = self.parcels.front_mut() {
            let Some(part) = parcel.parts.front_mut() else {
                self.parcels.pop_front();
                continue;
            };
            if part.len() > written {
                bytes::Buf::advance(part, written);
                return;
            }
            written -= part.len();
            parcel.parts.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn everything_arrives_in_order_through_a_narrow_socket() {
        let (mut near, far) = tokio::io::duplex(7);
        let outbox = Outbox::new(far);
        let mut expected = Vec::new();
        for number in 0..200_u8 {
            let part = Bytes::from(vec![number; usize::from(number % 5) + 1]);
            expected.extend_from_slice(&part);
            expected.extend_from_slice(&part);
            outbox.push(vec![part.clone(), part], None);
        }
        outbox.drive();
        let mut found = vec![0; expected.len()];
        tokio::select! {
            read = near.read_exact(&mut found) => assert_eq!(read.unwrap(), expected.len()),
            () = outbox.run() => panic!("the connection broke"),
        }
        assert_eq!(found, expected);
    }

    #[tokio::test]
    async fn a_broken_socket_ends_the_run() {
        let (near, far) = tokio::io::duplex(7);
        let outbox = Outbox::new(far);
        drop(near);
        outbox.push(vec![Bytes::from_static(b"x")], None);
        outbox.drive();
        outbox.run().await;
    }
}
