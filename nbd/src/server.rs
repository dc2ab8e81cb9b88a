//! The server: accepts connections, takes each through handshake and transmission, and ends them
//! in order.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, debug_span, warn};

use crate::check::Terms;
use crate::error::Chain;
use crate::listener::{Connection, Listener};
use crate::negotiate::{Negotiated, negotiate};
use crate::reservation::Budget;
use crate::transmission::{End, Late, Surroundings, transmit};
use crate::{Export, Exports};

/// How long the server keeps reading, and throwing away, after it said its last word: closing at
/// once would let the kernel drop replies that the client has not yet read.
const LINGER: Duration = Duration::from_millis(500);
/// How long to wait when the process has no file descriptor for the next client.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// The limits of a server.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Clients at a time; more are disconnected at once.
    pub max_connections: usize,
    /// How long a client may take for its handshake.
    pub handshake_timeout: Duration,
    /// How long a client may neither finish a request that it began nor take a reply.
    pub stall_timeout: Duration,
    /// How long requests in flight may take once the server shuts down.
    pub drain_timeout: Duration,
    /// Bytes of payloads in flight on all connections together, above the first MiB of each.
    pub max_payload_bytes: u64,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            max_connections: 100,
            handshake_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(30),
            max_payload_bytes: 1 << 30,
        }
    }
}

/// An NBD server.
#[derive(Debug)]
pub struct Server;

impl Server {
    /// Serves clients until `shutdown`, then answers the requests in flight, closes all exports and
    /// returns.
    pub async fn serve(
        listener: Listener,
        exports: Arc<dyn Exports>,
        shutdown: CancellationToken,
        options: ServerOptions,
    ) {
        let places = Arc::new(Semaphore::new(options.max_connections));
        let budget = Budget::new(options.max_payload_bytes);
        let options = Arc::new(options);
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(ended) = connections.join_next(), if !connections.is_empty() => {
                    reap(ended);
                    continue;
                }
                accepted = listener.accept() => accepted,
            };
            let connection = match accepted {
                Ok(connection) => connection,
                Err(error) => {
                    accept_failed(&error, &shutdown).await;
                    continue;
                }
            };
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                warn!(limit = options.max_connections, "too many connections, one refused");
                continue;
            };
            let served = Served {
                exports: Arc::clone(&exports),
                shutdown: shutdown.clone(),
                options: Arc::clone(&options),
                budget: budget.clone(),
                _place: place,
            };
            match connection {
                Connection::Tcp(stream, peer) => {
                    let span = debug_span!("nbd", %peer);
                    connections.spawn(served.run(stream).instrument(span));
                }
                Connection::Unix(stream) => {
                    connections.spawn(served.run(stream).instrument(debug_span!("nbd")));
                }
            }
        }
        // New clients go elsewhere while the old ones are finished.
        drop(listener);
        while let Some(ended) = connections.join_next().await {
            reap(ended);
        }
    }

    /// Serves one export on a connection without a handshake, as the kernel's client wants it:
    /// simple replies, and the flags that it was given at the attach. Returns when the client is
    /// gone, or after `shutdown` with the requests in flight answered; the export is closed.
    /// Requests that arrive after `shutdown` are left to the client's next connection.
    pub async fn serve_stream<S>(
        stream: S,
        export: Arc<dyn Export>,
        shutdown: CancellationToken,
        options: ServerOptions,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let terms = Terms::new(&export.info(), false, false);
        let surroundings = Surroundings {
            shutdown: &shutdown,
            budget: Budget::new(options.max_payload_bytes),
            // The kernel is no stranger, and a connection that it loses costs its user more than it
            // costs us.
            stall: None,
            drain: options.drain_timeout,
            late: Late::Ignored,
        };
        serve_requests(stream, BytesMut::new(), export, terms, surroundings).await;
    }
}

fn reap(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        warn!(error = %Chain(&error), "a connection ended by a panic of its export");
    }
}

async fn accept_failed(error: &io::Error, shutdown: &CancellationToken) {
    // A client that left before it was accepted is nobody's trouble.
    if error.kind() == io::ErrorKind::ConnectionAborted {
        return;
    }
    warn!(error = %Chain(error), "cannot accept a connection");
    let _ = timeout(ACCEPT_RETRY, shutdown.cancelled()).await;
}

/// What a connection has of its server.
struct Served {
    exports: Arc<dyn Exports>,
    shutdown: CancellationToken,
    options: Arc<ServerOptions>,
    budget: Budget,
    _place: OwnedSemaphorePermit,
}

impl Served {
    async fn run<S>(self, mut stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let patience = self.options.handshake_timeout;
        let negotiated =
            negotiate(&mut stream, self.exports.as_ref(), &self.shutdown, patience).await;
        match negotiated {
            Ok(Negotiated { export, agreement, input }) => {
                let terms =
                    Terms::new(&agreement.info, agreement.structured, agreement.block_status);
                let surroundings = Surroundings {
                    shutdown: &self.shutdown,
                    budget: self.budget.clone(),
                    stall: Some(self.options.stall_timeout),
                    drain: self.options.drain_timeout,
                    late: Late::Refused,
                };
                serve_requests(stream, input, export, terms, surroundings).await;
            }
            Err(error) => {
                debug!(error = %Chain(&error), "no handshake");
                part(&mut stream).await;
            }
        }
    }
}

async fn serve_requests<S>(
    mut stream: S,
    input: BytesMut,
    export: Arc<dyn Export>,
    terms: Terms,
    surroundings: Surroundings<'_>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let end = transmit(&mut stream, input, export.as_ref(), terms, surroundings).await;
    match &end {
        End::Disconnected | End::Eof | End::Drained => debug!(%end, "connection ends"),
        End::Abandoned | End::Stalled | End::Oversized(_) | End::Protocol(_) | End::Broken(_) => {
            warn!(error = %Chain(&end), "connection ends");
        }
    }
    // Before the connection: a client that waits for its end may then open the export again.
    export.close().await;
    match end {
        End::Broken(_) | End::Stalled | End::Eof => {}
        End::Disconnected => drop(stream.shutdown().await),
        End::Drained | End::Abandoned | End::Oversized(_) | End::Protocol(_) => {
            part(&mut stream).await;
        }
    }
}

/// Says goodbye: our side is closed, and what the client still sends is thrown away for a moment.
async fn part<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let mut waste = [0; 4096];
    let drained = async { while matches!(stream.read(&mut waste).await, Ok(1..)) {} };
    let _ = timeout(LINGER, drained).await;
}
