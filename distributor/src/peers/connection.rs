//! A connection to one peer: requests leave on the caller's thread, replies find their way back by
//! the request's ID.
//!
//! A request fails when the connection breaks, when the peer says nothing at all for
//! [`SILENCE_LIMIT`], or after [`REQUEST_TIMEOUT`].
//!
//! The peer is asked for its status all the time, and after each deletion: a sign of life, and word
//! of how full it is.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior, interval};
use torus_blockstore::PeerId;
use uuid::Uuid;

use crate::lock::lock;
use crate::outbox::Outbox;
use crate::protocol::decode_reply;
use crate::protocol::frame::{self, Frame, FrameReader, Head, REPLY, ReadError};
use crate::protocol::hello::{Hello, Welcome};
use crate::{FrameError, PeerError, Refusal, Request, Response, Usage};

/// A peer that needs longer for one request has failed it.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// A peer that is silent for so long, though it is asked for its status, is gone.
pub(super) const SILENCE_LIMIT: Duration = Duration::from_millis(2500);

/// How often a connection is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// How often, in looks, the peer is asked for its status.
const LOOKS_PER_STATUS: u64 = 2;

pub(super) type Reply = oneshot::Sender<Result<Response, PeerError>>;

pub(super) struct Connection {
    outbox: Arc<Outbox>,
    next_id: AtomicU64,
    waiting: Mutex<Waiting>,
    block_size: u32,
    /// By the last status, and what was sent since.
    usage: Mutex<Option<Usage>>,
}

/// Requests without an answer; IDs ascend with their deadlines.
#[derive(Default)]
struct Waiting {
    is_closed: bool,
    requests: BTreeMap<u64, Unanswered>,
}

struct Unanswered {
    op: u8,
    /// The peer is less full afterwards.
    frees: bool,
    deadline: Instant,
    reply: Reply,
}

/// Why a connection could not be had, or ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error("the connection broke")]
    Io(#[from] std::io::Error),
    #[error("the peer does not keep to the protocol")]
    Protocol(#[from] FrameError),
    #[error("the peer does not let this process in: {0}")]
    Refused(Refusal),
    #[error("the peer's blocks are {found} bytes long, not {expected}")]
    BlockSize { found: u32, expected: u32 },
    #[error("the peer is silent")]
    Silent,
}

impl From<ReadError> for LinkError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Io(error) => Self::Io(error),
            ReadError::Frame(error) => Self::Protocol(error),
        }
    }
}

/// Whom a connection is to reach.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    pub(super) cluster: Uuid,
    pub(super) peer: PeerId,
    pub(super) block_size: u32,
}

impl Connection {
    /// Greets the peer at the other end.
    pub(super) async fn open(
        target: Target,
        reader: &mut (impl AsyncRead + Unpin),
        writer: impl AsyncWrite + Send + Unpin + 'static,
    ) -> Result<Arc<Self>, LinkError> {
        let outbox = Outbox::new(writer);
        let hello = Hello { cluster: *target.cluster.as_bytes(), peer: Some(target.peer) };
        outbox.push(vec![hello.encode().freeze()], None);
        outbox.drive();
        let mut bytes = [0; Welcome::LEN];
        reader.read_exact(&mut bytes).await?;
        let welcome = Welcome::decode(&bytes)?;
        if let Some(refusal) = welcome.refusal {
            return Err(LinkError::Refused(refusal));
        }
        let (found, expected) = (welcome.block_size, target.block_size);
        if found != expected {
            return Err(LinkError::BlockSize { found, expected });
        }
        Ok(Arc::new(Self {
            outbox,
            next_id: AtomicU64::new(1),
            waiting: Mutex::default(),
            block_size: found,
            usage: Mutex::default(),
        }))
    }

    /// How full the peer's store is, once it has said so.
    pub(super) fn usage(&self) -> Option<Usage> {
        *lock(&self.usage)
    }

    /// Sends a request on this thread, as far as the socket takes it.
    pub(super) fn send(&self, request: Request, reply: Reply) {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (op, flags) = (request.op(), request.flags());
        let begins_block = request.begins_block();
        let frees = matches!(request, Request::Delete { .. });
        let parts = frame::encode(Head { op, flags, status: 0, id }, request.into_body());
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        {
            let mut waiting = lock(&self.waiting);
            if waiting.is_closed {
                return fail(reply);
            }
            waiting.requests.insert(id, Unanswered { op, frees, deadline, reply });
        }
        // A fast writer fills all of a reserve between two statuses.
        if begins_block && let Some(usage) = &mut *lock(&self.usage) {
            usage.used_blocks += 1;
        }
        self.outbox.push(parts, None);
        self.outbox.drive();
    }

    /// Brings the replies in until the connection ends, and says why it did. Requests without an
    /// answer have failed then.
    pub(super) async fn run(&self, reader: impl AsyncRead + Unpin) -> LinkError {
        let ended = tokio::select! {
            ended = self.receive(FrameReader::new(reader, self.block_size)) => ended,
            () = self.outbox.run() => Err(broken_pipe()),
        };
        self.close();
        ended.err().unwrap_or_else(broken_pipe)
    }

    async fn receive<R: AsyncRead + Unpin>(
        &self,
        mut frames: FrameReader<R>,
    ) -> Result<(), LinkError> {
        let mut look = interval(LOOK_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        let mut looks = 0_u64;
        loop {
            while let Some(frame) = frames.buffered()? {
                self.answer(frame)?;
            }
            tokio::select! {
                biased;
                filled = frames.fill() => {
                    if !filled? {
                        return Ok(());
                    }
                    heard = Instant::now();
                }
                now = look.tick() => {
                    let silence = now.saturating_duration_since(heard);
                    if silence >= SILENCE_LIMIT {
                        return Err(LinkError::Silent);
                    }
                    if looks.is_multiple_of(LOOKS_PER_STATUS) {
                        self.ask_status();
                    }
                    looks += 1;
                    self.give_up(now);
                }
            }
        }
    }

    fn answer(&self, frame: Frame) -> Result<(), LinkError> {
        // A request that was given up is no longer known.
        let Some(request) = lock(&self.waiting).requests.remove(&frame.head.id) else {
            return Ok(());
        };
        if frame.head.op != request.op | REPLY {
            return Err(FrameError::Malformed { what: "reply" }.into());
        }
        let answer = decode_reply(request.op, frame)?;
        if matches!(answer, Ok(Response::Done)) && request.frees {
            // A writer on a full cluster waits for just this.
            self.ask_status();
        }
        if let Ok(Response::Status(status)) = &answer {
            *lock(&self.usage) = Some(Usage::of(status, self.block_size));
        }
        // Nobody may wait for it any more.
        drop(request.reply.send(answer.map_err(PeerError::Refused)));
        Ok(())
    }

    fn ask_status(&self) {
        // Whatever the answer, it is noted on its way in.
        let (reply, _) = oneshot::channel();
        self.send(Request::Status, reply);
    }

    /// Fails the requests whose time is over.
    fn give_up(&self, now: Instant) {
        let mut waiting = lock(&self.waiting);
        while let Some(first) = waiting.requests.first_entry()
            && first.get().deadline <= now
        {
            // Nobody may wait for it any more.
            drop(first.remove().reply.send(Err(PeerError::TooSlow)));
        }
    }

    pub(super) fn close(&self) {
        let requests = {
            let mut waiting = lock(&self.waiting);
            waiting.is_closed = true;
            std::mem::take(&mut waiting.requests)
        };
        for request in requests.into_values() {
            fail(request.reply);
        }
    }
}

/// Tells a caller, if it still waits, that there will be no answer.
pub(super) fn fail(reply: Reply) {
    drop(reply.send(Err(PeerError::Silent)));
}

fn broken_pipe() -> LinkError {
    LinkError::Io(std::io::ErrorKind::BrokenPipe.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Status;
    use crate::protocol::encode_reply;
    use bytes::Bytes;
    use tokio::io::{AsyncWriteExt, DuplexStream, duplex, split};
    use torus_blockstore::{
        Append, BlockIndex, BlockKind, BlockRef, Epoch, Geometry, INodeIndex, VolumeId,
    };

    const TARGET: Target =
        Target { cluster: Uuid::from_u128(7), peer: PeerId(Uuid::from_u128(9)), block_size: 65536 };

    /// A connection and the far end, behind its greeting.
    async fn connect() -> (Arc<Connection>, impl AsyncRead + Unpin, DuplexStream) {
        let (near, mut far) = duplex(1 << 20);
        let (mut reader, writer) = split(near);
        let welcome = Welcome {
            refusal: None,
            cluster: *TARGET.cluster.as_bytes(),
            peer: TARGET.peer,
            block_size: TARGET.block_size,
        };
        far.write_all(&welcome.encode()).await.unwrap();
        let connection = Connection::open(TARGET, &mut reader, writer).await.unwrap();
        let mut hello = [0; Hello::LEN];
        far.read_exact(&mut hello).await.unwrap();
        (connection, reader, far)
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_peer_fails_its_requests_within_three_seconds() {
        let (connection, reader, _far) = connect().await;
        let (reply, answer) = oneshot::channel();
        connection.send(fetch(), reply);
        let began = Instant::now();
        let ended = connection.run(reader).await;
        assert!(matches!(ended, LinkError::Silent), "{ended:?}");
        assert!(began.elapsed() <= Duration::from_secs(3), "{:?}", began.elapsed());
        assert_eq!(answer.await.unwrap(), Err(PeerError::Silent));
        let (reply, answer) = oneshot::channel();
        connection.send(Request::Status, reply);
        assert_eq!(answer.await.unwrap(), Err(PeerError::Silent));
    }

    fn block() -> BlockRef {
        let (volume, kind) = (VolumeId::new(1).unwrap(), BlockKind::Data);
        BlockRef { volume, kind, inode: INodeIndex(1), index: BlockIndex(1) }
    }

    fn fetch() -> Request {
        Request::Fetch { block: block() }
    }

    fn append(offset: u32) -> Request {
        let data = vec![Bytes::from_static(&[1; 4096])];
        Request::Append(Append {
            block: block(),
            epoch: Epoch(1),
            offset,
            data,
            sync: false,
            past_cache: false,
        })
    }

    /// Answers every question for the status, saying one block more each time, and nothing else.
    async fn answer_status(far: &mut DuplexStream) {
        let (source, mut sink) = split(far);
        let mut frames = FrameReader::new(source, TARGET.block_size);
        let mut status = Status { capacity_blocks: 9, ..Status::default() };
        loop {
            while let Some(frame) = frames.buffered().unwrap() {
                if frame.head.op == Request::Status.op() {
                    let head = Head { op: frame.head.op | REPLY, ..frame.head };
                    status.used_blocks += 1;
                    let (_, body) = encode_reply(Ok(Response::Status(status)));
                    sink.write_all(&frame::encode(head, body).concat()).await.unwrap();
                }
            }
            frames.fill().await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_request_fails_alone() {
        let (connection, reader, mut far) = connect().await;
        let (reply, answer) = oneshot::channel();
        connection.send(fetch(), reply);
        let began = Instant::now();
        let answer: Result<Response, PeerError> = tokio::select! {
            answer = answer => answer.unwrap(),
            ended = connection.run(reader) => panic!("{ended:?}"),
            () = answer_status(&mut far) => unreachable!(),
        };
        assert_eq!(answer, Err(PeerError::TooSlow));
        assert!(began.elapsed() >= REQUEST_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn the_peer_says_how_full_it_is_twice_a_second() {
        let (connection, reader, mut far) = connect().await;
        assert_eq!(connection.usage(), None);
        let ten_seconds = tokio::time::sleep(Duration::from_millis(10_100));
        tokio::select! {
            () = ten_seconds => {}
            ended = connection.run(reader) => panic!("{ended:?}"),
            () = answer_status(&mut far) => unreachable!(),
        }
        let geometry = Geometry { block_size: TARGET.block_size, capacity_blocks: 9 };
        assert_eq!(connection.usage(), Some(Usage { used_blocks: 21, geometry }));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_sent_since_the_last_status_counts() {
        let (connection, reader, mut far) = connect().await;
        let second = tokio::time::sleep(Duration::from_millis(600));
        let sending = async {
            second.await;
            let before = connection.usage().unwrap().used_blocks;
            for offset in [0, 4096] {
                let (reply, _) = oneshot::channel();
                connection.send(append(offset), reply);
            }
            assert_eq!(connection.usage().unwrap().used_blocks, before + 1);
        };
        tokio::select! {
            () = sending => {}
            ended = connection.run(reader) => panic!("{ended:?}"),
            () = answer_status(&mut far) => unreachable!(),
        }
    }

    #[tokio::test]
    async fn a_reply_to_another_op_ends_the_connection() {
        let (connection, reader, mut far) = connect().await;
        let (reply, answer) = oneshot::channel();
        connection.send(fetch(), reply);
        let head = Head { op: Request::Status.op() | REPLY, flags: 0, status: 0, id: 1 };
        far.write_all(&frame::encode(head, frame::Body::default()).concat()).await.unwrap();
        let ended = connection.run(reader).await;
        assert!(matches!(ended, LinkError::Protocol(_)), "{ended:?}");
        // The reply is dropped, which a caller takes for silence.
        assert!(answer.await.is_err());
    }
}
