//! Replies on their way out: many small heads and the data between them, sent in few system calls.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncWrite;

/// Data up to this size are copied behind their head: cheaper than one more piece to send.
const COPY_MAX: usize = 1024;
/// Pieces in one system call.
const PIECES: usize = 64;

/// The sending half of a connection.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    pieces: VecDeque<Bytes>,
    pieces_size: usize,
    tail: BytesMut,
}

impl Outbox {
    /// Where heads are written.
    pub(crate) fn tail(&mut self) -> &mut BytesMut {
        &mut self.tail
    }

    /// Appends data, without copying them if they are long.
    pub(crate) fn push(&mut self, data: Bytes) {
        if data.len() <= COPY_MAX {
            self.tail.extend_from_slice(&data);
            return;
        }
        self.seal();
        self.pieces_size += data.len();
        self.pieces.push_back(data);
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.pieces_size += self.tail.len();
            self.pieces.push_back(self.tail.split().freeze());
        }
    }

    /// Bytes that wait.
    pub(crate) fn size(&self) -> usize {
        self.pieces_size + self.tail.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.size() == 0
    }

    /// Forgets what waits, when nobody is there to receive it.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Sends as much as the stream takes in one call; the number of bytes, never 0.
    ///
    /// The outbox must not be empty.
    pub(crate) fn poll_send<S: AsyncWrite>(
        &mut self,
        stream: Pin<&mut S>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        debug_assert!(!self.is_empty(), "nothing to send");
        let sent = if self.pieces.is_empty() {
            // Heads only: nothing to share, so nothing to split off.
            let sent = ready!(stream.poll_write(cx, &self.tail))?;
            self.tail.advance(sent);
            sent
        } else {
            self.seal();
            let mut slices = [IoSlice::new(&[]); PIECES];
            let count = self.pieces.len().min(PIECES);
            for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
                *slice = IoSlice::new(piece);
            }
            let sent = ready!(stream.poll_write_vectored(cx, &slices[..count]))?;
            self.advance(sent);
            sent
        };
        if sent == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        Poll::Ready(Ok(sent))
    }

    fn advance(&mut self, mut sent: usize) {
        self.pieces_size -= sent;
        while let Some(first) = self.pieces.front_mut() {
            if sent < first.len() {
                first.advance(sent);
                return;
            }
            sent -= first.len();
            self.pieces.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use proptest::prelude::*;

    proptest! {
        /// Whatever the sizes of the pieces and of the pipe, the bytes come out in order.
        #[test]
        fn bytes_keep_their_order(
            lengths in prop::collection::vec(0usize..5000, 0..200),
            pipe in 1usize..3000,
        ) {
            let mut outbox = Outbox::default();
            let mut expected = Vec::new();
            for (i, &length) in lengths.iter().enumerate() {
                let fill = i.to_be_bytes()[7];
                outbox.tail().extend_from_slice(&[fill; 3]);
                outbox.push(Bytes::from(vec![fill; length]));
                expected.resize(expected.len() + 3 + length, fill);
            }
            prop_assert_eq!(outbox.size(), expected.len());
            let (mut near, mut far) = tokio::io::duplex(pipe);
            let mut received = BytesMut::new();
            while !outbox.is_empty() {
                let sent = std::future::poll_fn(|cx| outbox.poll_send(Pin::new(&mut near), cx));
                let sent = sent.now_or_never().expect("the pipe is empty").unwrap();
                let before = received.len();
                while received.len() < before + sent {
                    tokio::io::AsyncReadExt::read_buf(&mut far, &mut received)
                        .now_or_never().expect("the pipe is full").unwrap();
                }
            }
            prop_assert_eq!(&received[..], &expected[..]);
        }
    }
}
