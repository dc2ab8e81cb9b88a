//! Received bytes, cut into requests and payloads without copying what fits the receive buffer.
//!
//! Pure: the driver fills [`Inbox::room`] and takes what is whole.

use bytes::{Buf, Bytes, BytesMut};

use crate::wire::request::{BadMagic, RequestHead};

/// The usual size of the receive buffer, in bytes: a dozen small writes in one read.
const RECEIVE: usize = 64 * 1024;
/// What is received ahead after a large write, at most: the next one is expected to be as large.
const RECEIVE_MAX: usize = 4 << 20;
/// With less free space than this a buffer is not worth a read.
const ROOM_MIN: usize = 4 * 1024;

/// The receiving half of a connection.
#[derive(Debug)]
pub(crate) struct Inbox {
    buffer: BytesMut,
    skip: u64,
    missing: usize,
    receive: usize,
}

impl Inbox {
    /// Begins with bytes that were received before.
    pub(crate) fn new(buffer: BytesMut) -> Self {
        Self { buffer, skip: 0, missing: 0, receive: RECEIVE }
    }

    /// The next head, if it is whole.
    pub(crate) fn head(&mut self) -> Result<Option<RequestHead>, BadMagic> {
        if self.skip > 0 {
            let skipped = self.buffer.len().min(usize::try_from(self.skip).unwrap_or(usize::MAX));
            self.buffer.advance(skipped);
            self.skip -= skipped as u64;
        }
        let Some(bytes) = self.buffer.first_chunk() else { return Ok(None) };
        let head = RequestHead::decode(bytes)?;
        self.buffer.advance(RequestHead::LEN);
        Ok(Some(head))
    }

    /// The next `length` bytes, if they are all here.
    pub(crate) fn payload(&mut self, length: u32) -> Option<Bytes> {
        let length = length as usize;
        self.missing = length.saturating_sub(self.buffer.len());
        if self.missing > 0 {
            return None;
        }
        self.receive = (length + ROOM_MIN).clamp(RECEIVE, RECEIVE_MAX);
        Some(self.buffer.split_to(length).freeze())
    }

    /// Throws away the next `length` bytes, which may not be here yet.
    pub(crate) fn skip(&mut self, length: u32) {
        debug_assert_eq!(self.skip, 0, "heads come after what is skipped");
        self.missing = 0;
        self.skip = u64::from(length);
    }

    /// Whether part of a request has come and the rest has not.
    pub(crate) fn is_inside_request(&self) -> bool {
        self.skip > 0 || self.missing > 0 || !self.buffer.is_empty()
    }

    /// Where the next bytes go. There is room for all of the payload that was asked for.
    pub(crate) fn room(&mut self) -> &mut BytesMut {
        let free = self.buffer.capacity() - self.buffer.len();
        if free < self.missing || free < ROOM_MIN {
            self.buffer.reserve(self.missing.max(self.receive));
        }
        &mut self.buffer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::request::{CMD_READ, CMD_WRITE};
    use proptest::prelude::*;

    fn head(command: u16, length: u32) -> RequestHead {
        RequestHead { flags: 0, command, cookie: 7, offset: 0, length }
    }

    proptest! {
        /// However the stream is cut, the same requests come out of it.
        #[test]
        fn cuts_do_not_matter(lengths in prop::collection::vec(0u32..200_000, 1..6), cut in 1usize..70_000) {
            let mut stream = Vec::new();
            for &length in &lengths {
                stream.extend(head(CMD_WRITE, length).encode());
                stream.extend((0..length).map(|i| i.to_be_bytes()[3]));
                stream.extend(head(CMD_WRITE, length).encode());
                stream.resize(stream.len() + length as usize, 0xaa);
                stream.extend(head(CMD_READ, length).encode());
            }
            let mut inbox = Inbox::new(BytesMut::new());
            let mut pieces = stream.chunks(cut);
            let mut feed = |inbox: &mut Inbox| {
                let piece = pieces.next().expect("the stream is whole");
                inbox.room().extend_from_slice(piece);
            };
            for &length in &lengths {
                let mut heads = Vec::new();
                while heads.len() < 3 {
                    match inbox.head().unwrap() {
                        None => feed(&mut inbox),
                        Some(head) => {
                            if heads.is_empty() {
                                let data = loop {
                                    match inbox.payload(length) {
                                        Some(data) => break data,
                                        None => feed(&mut inbox),
                                    }
                                };
                                prop_assert!(data.iter().zip(0u32..).all(|(b, i)| *b == i.to_be_bytes()[3]));
                            } else if heads.len() == 1 {
                                inbox.skip(length);
                            }
                            heads.push(head);
                        }
                    }
                }
                prop_assert_eq!(&heads[..], [head(CMD_WRITE, length), head(CMD_WRITE, length), head(CMD_READ, length)]);
            }
            prop_assert!(!inbox.is_inside_request());
        }
    }

    #[test]
    fn a_payload_that_fits_the_buffer_is_not_copied() {
        let mut inbox = Inbox::new(BytesMut::new());
        inbox.room().extend_from_slice(&head(CMD_WRITE, 4096).encode());
        inbox.room().extend_from_slice(&[1; 4096]);
        let stored = inbox.room()[RequestHead::LEN..].as_ptr();
        assert!(inbox.head().unwrap().is_some());
        assert_eq!(inbox.payload(4096).unwrap().as_ptr(), stored);
    }

    /// A head that announces a long payload costs memory only when the driver asks for room.
    #[test]
    fn room_grows_to_the_payload_at_once() {
        let mut inbox = Inbox::new(BytesMut::new());
        inbox.room().extend_from_slice(&head(CMD_WRITE, 8 << 20).encode());
        assert!(inbox.head().unwrap().is_some());
        assert!(inbox.buffer.capacity() < 2 * RECEIVE);
        assert!(inbox.payload(8 << 20).is_none());
        assert!(inbox.room().capacity() >= 8 << 20);
    }
}
