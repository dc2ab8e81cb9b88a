//! One connection of a client: reads its requests and hands them on in their order.
//!
//! What a connection may have unanswered is bounded in bytes, by the larger of a request's body and
//! of the answer that it asks for; a client that goes further is not read from until answers have
//! left. An applied append holds nothing but its place.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{Asker, PeerServer};
use crate::keeper::answer_length;
use crate::outbox::Outbox;
use crate::protocol::frame::{self, Frame, FrameReader, Head, REPLY, ReadError};
use crate::protocol::hello::{Hello, Welcome};
use crate::protocol::{BATCH_BLOCKS, encode_reply};
use crate::{FrameError, Refusal, Request, Response};

/// How long a client may take for its first bytes.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// A client asks for the status twice a second; one that is silent for so long is gone.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// The unit in which unanswered requests are counted.
const UNIT_BYTES: u64 = 4096;

/// Units that a connection may have unanswered: 32 MiB.
const UNITS: u32 = 8192;

/// Why a connection ended before its client closed it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    #[error("the connection broke")]
    Io(#[from] io::Error),
    #[error("the client speaks no data protocol")]
    Protocol(#[from] FrameError),
    #[error("the client was not welcome: {0}")]
    Refused(Refusal),
    #[error("the client did not greet within {} s", HELLO_TIMEOUT.as_secs())]
    NoHello,
    #[error("the client said nothing for {} s", IDLE_TIMEOUT.as_secs())]
    Silent,
}

impl From<ReadError> for ServeError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Io(error) => Self::Io(error),
            ReadError::Frame(error) => Self::Protocol(error),
        }
    }
}

/// Where the reply to one request goes.
pub(super) struct ReplyTo {
    outbox: Arc<Outbox>,
    head: Head,
    permit: OwnedSemaphorePermit,
}

impl ReplyTo {
    pub(super) fn outbox(&self) -> Arc<Outbox> {
        Arc::clone(&self.outbox)
    }

    /// Gives back what an append counted for its bytes.
    pub(super) fn release_payload(&mut self) {
        if self.head.op == Request::APPEND {
            drop(self.permit.split(self.permit.num_permits().saturating_sub(1)));
        }
    }

    pub(super) fn queue(self, result: Result<Response, Refusal>) {
        let (status, body) = encode_reply(result);
        let head = Head { op: self.head.op | REPLY, flags: 0, status, id: self.head.id };
        self.outbox.push(frame::encode(head, body), Some(self.permit));
    }
}

/// Serves a connection until its client or the server ends it.
pub(super) async fn serve(
    server: &PeerServer,
    mut reader: impl AsyncRead + Send + Unpin,
    writer: impl AsyncWrite + Send + Unpin + 'static,
) -> Result<(), ServeError> {
    let outbox = Outbox::new(writer);
    let welcomed = timeout(HELLO_TIMEOUT, welcome(server, &mut reader, &outbox));
    welcomed.await.map_err(|_| ServeError::NoHello)??;
    let block_size = server.inner.keeper.store().geometry().block_size;
    let mut session = Session {
        server,
        outbox: Arc::clone(&outbox),
        room: Arc::new(Semaphore::new(UNITS as usize)),
        block_size,
        appending: None,
    };
    tokio::select! {
        ended = session.receive(FrameReader::new(reader, block_size)) => ended,
        () = outbox.run() => Err(io::Error::from(io::ErrorKind::BrokenPipe).into()),
        () = server.inner.stop.cancelled() => Ok(()),
    }
}

/// Answers the client's hello; an error, after it was told why, if it is not for this server.
async fn welcome(
    server: &PeerServer,
    reader: &mut (impl AsyncRead + Unpin),
    outbox: &Outbox,
) -> Result<(), ServeError> {
    let mut bytes = [0; Hello::LEN];
    reader.read_exact(&mut bytes).await?;
    let identity = server.inner.identity;
    let refusal = match Hello::decode(&bytes) {
        Err(FrameError::Version(_)) => Some(Refusal::WrongVersion),
        Err(error) => return Err(error.into()),
        Ok(hello) if hello.cluster != *identity.cluster.as_bytes() => Some(Refusal::WrongCluster),
        Ok(hello) if hello.peer.is_some_and(|peer| peer != identity.peer) => {
            Some(Refusal::WrongPeer)
        }
        Ok(_) => None,
    };
    let welcome = Welcome {
        refusal: refusal.clone(),
        cluster: *identity.cluster.as_bytes(),
        peer: identity.peer,
        block_size: server.inner.keeper.store().geometry().block_size,
    };
    // The socket's buffer is empty: this fits.
    outbox.push(vec![welcome.encode().freeze()], None);
    outbox.drive();
    refusal.map_or(Ok(()), |refusal| Err(ServeError::Refused(refusal)))
}

struct Session<'a> {
    server: &'a PeerServer,
    outbox: Arc<Outbox>,
    /// In units of [`UNIT_BYTES`].
    room: Arc<Semaphore>,
    block_size: u32,
    /// A large append on its way to the disk.
    appending: Option<JoinHandle<()>>,
}

impl Session<'_> {
    async fn receive<R: AsyncRead + Unpin>(
        &mut self,
        mut frames: FrameReader<R>,
    ) -> Result<(), ServeError> {
        loop {
            while let Some(frame) = frames.buffered()? {
                self.handle(frame).await;
            }
            // Everything that was answered in place leaves in one write.
            self.outbox.drive();
            let filled = timeout(IDLE_TIMEOUT, frames.fill()).await;
            if !filled.map_err(|_| ServeError::Silent)?? {
                return Ok(());
            }
        }
    }

    async fn handle(&mut self, frame: Frame) {
        let head = frame.head;
        let body_bytes = frame.body.len() as u64;
        let request = Request::decode(frame);
        let answer_bytes = request.as_ref().map_or(0, |request| self.answer_bytes(request));
        let permit = self.room_for(body_bytes.max(answer_bytes)).await;
        let reply_to = ReplyTo { outbox: Arc::clone(&self.outbox), head, permit };
        match request {
            Ok(request) => {
                self.let_in(&request).await;
                if let Some(appending) = self.appending.take() {
                    // Meanwhile the next request has been received; it must not overtake.
                    self.outbox.drive();
                    drop(appending.await);
                }
                self.appending = self.server.dispatch(request, Asker::Remote(reply_to));
            }
            // The frame was whole: a newer client asks for what this version does not know.
            Err(_) => reply_to.queue(Err(Refusal::Invalid)),
        }
    }

    async fn room_for(&self, bytes: u64) -> OwnedSemaphorePermit {
        let units = u32::try_from(1 + bytes / UNIT_BYTES).map_or(UNITS, |units| units.min(UNITS));
        loop {
            if let Ok(permit) = Arc::clone(&self.room).try_acquire_many_owned(units) {
                return permit;
            }
            // Answers that wait to be driven out hold the room that is waited for.
            self.outbox.drive();
            if let Ok(permit) = Arc::clone(&self.room).acquire_many_owned(units).await {
                return permit;
            }
        }
    }

    /// Bytes that the answer may have.
    fn answer_bytes(&self, request: &Request) -> u64 {
        match request {
            Request::Read { ranges, .. } => answer_length(ranges),
            Request::Fetch { .. } => self.block_size.into(),
            Request::List { .. } => BATCH_BLOCKS as u64 * 36,
            _ => 0,
        }
    }

    /// The first append of an epoch waits until the disk knows the epoch: not on this thread, which
    /// serves other connections too, but before the connection's next request.
    async fn let_in(&self, request: &Request) {
        let Request::Append(append) = request else { return };
        let (volume, epoch) = (append.block.volume, append.epoch);
        let keeper = &self.server.inner.keeper;
        if keeper.is_news(volume, epoch) {
            self.outbox.drive();
            let keeper = Arc::clone(keeper);
            let raised = tokio::task::spawn_blocking(move || keeper.announce(volume, epoch)).await;
            // A refusal comes again, and is answered, when the append itself is tried.
            drop(raised);
        }
    }
}
