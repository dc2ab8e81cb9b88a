//! Serves a node's blocks to other peers, and decides on which thread what happens.
//!
//! Appends are applied in the order in which they came: on the connection's own task, by buffered
//! writes; large ones that go past the cache on the blocking pool, while the next request comes in.
//! What has to be durable goes to one thread that syncs, and everything that waits when it begins
//! shares the sync. Later requests of the connection go on meanwhile, and their replies pass the
//! waiting ones. Reads are answered in place from memory; the rest, and reads that wait for the
//! disk, run on the blocking pool.

mod connection;
mod syncer;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use torus_blockstore::{Append, BlockStore, FenceTable, LARGE_TRANSFER, PeerId};
use uuid::Uuid;

use crate::keeper::{Due, Keeper};
use crate::outbox::Outbox;
use crate::server::connection::ReplyTo;
use crate::server::syncer::Syncer;
use crate::{PeerError, Refusal, Request, Response};

pub use connection::ServeError;

/// Whose blocks are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster; peers and clients of another are refused.
    pub cluster: Uuid,
    /// This node.
    pub peer: PeerId,
}

/// A node's side of the data protocol. Clones share one node.
#[derive(Clone)]
pub struct PeerServer {
    inner: Arc<Inner>,
}

struct Inner {
    identity: Identity,
    keeper: Arc<Keeper>,
    syncer: Syncer,
    runtime: Handle,
    stop: CancellationToken,
}

/// Whom an answer goes to.
enum Asker {
    Remote(ReplyTo),
    Local(oneshot::Sender<Result<Response, PeerError>>),
}

impl PeerServer {
    /// Serves `store`, guarded by `fences`. Needs a tokio runtime around it, and starts the thread
    /// that syncs.
    ///
    /// # Errors
    /// The operating system refuses a thread.
    pub fn start(
        identity: Identity,
        store: Arc<dyn BlockStore>,
        fences: Arc<FenceTable>,
    ) -> std::io::Result<Self> {
        let keeper = Arc::new(Keeper::new(store, fences));
        let syncer = Syncer::start(Arc::clone(&keeper))?;
        let (runtime, stop) = (Handle::current(), CancellationToken::new());
        Ok(Self { inner: Arc::new(Inner { identity, keeper, syncer, runtime, stop }) })
    }

    /// Whose blocks these are.
    pub fn identity(&self) -> Identity {
        self.inner.identity
    }

    /// The rules that it serves by.
    pub fn keeper(&self) -> &Arc<Keeper> {
        &self.inner.keeper
    }

    /// Ends all connections; requests that come later are refused.
    pub fn shut_down(&self) {
        self.inner.stop.cancel();
    }

    /// Serves an accepted connection, none of whose bytes have been consumed, until it ends.
    ///
    /// # Errors
    /// The connection breaks, or speaks no data protocol.
    pub async fn serve_connection(&self, stream: TcpStream) -> Result<(), ServeError> {
        stream.set_nodelay(true)?;
        let (reader, writer) = stream.into_split();
        self.serve(reader, writer).await
    }

    /// As [`serve_connection`](Self::serve_connection), over any transport.
    ///
    /// # Errors
    /// The same.
    pub async fn serve(
        &self,
        reader: impl AsyncRead + Send + Unpin,
        writer: impl AsyncWrite + Send + Unpin + 'static,
    ) -> Result<(), ServeError> {
        connection::serve(self, reader, writer).await
    }

    /// Carries out a request of this process. What it does in place (appends, all memory) is done
    /// when this returns.
    pub(crate) fn ask(&self, request: Request) -> oneshot::Receiver<Result<Response, PeerError>> {
        let (sender, receiver) = oneshot::channel();
        // Nobody here follows up on an append before it is answered.
        drop(self.dispatch(request, Asker::Local(sender)));
        receiver
    }

    /// Carries a request out where it belongs, and answers when it is due.
    /// Begins to carry a request out. What is returned ends once it has been: a large append, which
    /// nothing else of its connection may overtake.
    fn dispatch(&self, request: Request, asker: Asker) -> Option<JoinHandle<()>> {
        if self.inner.stop.is_cancelled() {
            asker.answer(Err(Refusal::ShuttingDown));
            return None;
        }
        let in_place = match &request {
            Request::Append(append) => matches!(asker, Asker::Local(_)) || !goes_past_cache(append),
            Request::Suspect { .. } | Request::Status => true,
            Request::State(query) => !query.verify,
            Request::Read { block, ranges } => {
                match self.inner.keeper.read_cached(*block, ranges) {
                    Ok(None) => false,
                    Ok(Some(data)) => {
                        asker.answer(Ok(Response::Data(data)));
                        return None;
                    }
                    Err(refusal) => {
                        asker.answer(Err(refusal));
                        return None;
                    }
                }
            }
            _ => false,
        };
        if in_place {
            self.carry_out(request, asker);
            return None;
        }
        let is_append = matches!(request, Request::Append(_));
        let server = self.clone();
        let carrying_out = self.inner.runtime.spawn_blocking(move || {
            let outbox = asker.outbox();
            server.carry_out(request, asker);
            if let Some(outbox) = outbox {
                outbox.drive();
            }
        });
        is_append.then_some(carrying_out)
    }

    fn carry_out(&self, request: Request, mut asker: Asker) {
        let result = self.inner.keeper.execute(request);
        asker.applied();
        match result {
            Ok((response, Due::Now)) => asker.answer(Ok(response)),
            Ok((response, Due::AfterSync)) => self.inner.syncer.after_sync(response, asker),
            Err(refusal) => asker.answer(Err(refusal)),
        }
    }
}

/// Whether the store writes it past the cache, which takes as long as the disk needs.
fn goes_past_cache(append: &Append) -> bool {
    append.past_cache && LARGE_TRANSFER <= append.data.iter().map(Bytes::len).sum()
}

impl Asker {
    /// The request's payload is no longer held.
    fn applied(&mut self) {
        if let Asker::Remote(reply_to) = self {
            reply_to.release_payload();
        }
    }

    /// Where a remote answer waits until somebody drives it out.
    fn outbox(&self) -> Option<Arc<Outbox>> {
        match self {
            Asker::Remote(reply_to) => Some(reply_to.outbox()),
            Asker::Local(_) => None,
        }
    }

    /// Gives the answer. A remote one is only queued, so that those that are ready together leave
    /// together.
    fn answer(self, result: Result<Response, Refusal>) {
        match self {
            Asker::Remote(reply_to) => reply_to.queue(result),
            // Nobody may wait for it any more.
            Asker::Local(sender) => drop(sender.send(result.map_err(PeerError::Refused))),
        }
    }
}
