//! The daemon's one port: the first bytes of a connection tell the data protocol from the others.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use torus_metadata::Member;

use super::storage::Storage;
use super::threads::DataThreads;

/// How long a connection may take to say what it speaks.
const FIRST_BYTES: Duration = Duration::from_secs(10);
/// After a failed accept: the process may be out of descriptors, which others give back.
const RETRY: Duration = Duration::from_millis(100);
/// How often to look whether more of the first bytes have come.
const LOOK: Duration = Duration::from_millis(5);

/// Serves the port until `stop`: what is for `member` here, data by `storage` on the threads `data`.
pub(super) fn start(
    listener: TcpListener,
    member: &Member,
    storage: Arc<Storage>,
    data: Arc<DataThreads>,
    stop: CancellationToken,
) -> JoinHandle<()> {
    let (calls, incoming) = mpsc::channel::<io::Result<TcpStream>>(64);
    let (routes, incoming) = (member.routes(), member.divide(ReceiverStream::new(incoming)));
    let stopped = stop.clone();
    let grpc = tokio::spawn(async move {
        let server = Server::builder()
            .tcp_nodelay(true)
            .http2_keepalive_interval(Some(Duration::from_secs(5)))
            .http2_keepalive_timeout(Some(Duration::from_secs(5)))
            .add_routes(routes);
        let ended = server.serve_with_incoming_shutdown(incoming, stopped.cancelled_owned()).await;
        if let Err(error) = ended {
            tracing::error!(%error, "the gRPC server ended");
        }
    });
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop.cancelled() => break,
            };
            match accepted {
                Ok((stream, _)) => {
                    tokio::spawn(direct(stream, calls.clone(), Arc::clone(&storage), data.next()));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
        drop((listener, calls));
        if let Err(error) = grpc.await {
            tracing::error!(%error, "the gRPC server ended");
        }
    })
}

/// Sends a connection where it belongs.
async fn direct(
    stream: TcpStream,
    calls: mpsc::Sender<io::Result<TcpStream>>,
    storage: Arc<Storage>,
    data: Handle,
) {
    match tokio::time::timeout(FIRST_BYTES, speaks_data(&stream)).await {
        Ok(Ok(true)) => {
            // The socket moves to the other runtime's poller.
            let moved = stream.into_std();
            data.spawn(async move {
                match moved.and_then(TcpStream::from_std) {
                    Ok(stream) => storage.serve(stream).await,
                    Err(error) => tracing::warn!(%error, "cannot serve a connection"),
                }
            });
        }
        Ok(Ok(false)) => {
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "a connection broke before its first call");
            } else if calls.send(Ok(stream)).await.is_err() {
                tracing::debug!("a connection came too late");
            }
        }
        Ok(Err(error)) => tracing::debug!(%error, "a connection ended before it said anything"),
        Err(_) => tracing::debug!("a connection said nothing"),
    }
}

/// Whether a connection begins with the data protocol's magic; none of its bytes are consumed.
async fn speaks_data(stream: &TcpStream) -> io::Result<bool> {
    let magic = torus_distributor::MAGIC;
    let mut first = [0; 8];
    loop {
        let count = stream.peek(&mut first).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if first[..count] != magic[..count] {
            return Ok(false);
        }
        if count == magic.len() {
            return Ok(true);
        }
        // A peek does not wait for more than there is.
        tokio::time::sleep(LOOK).await;
    }
}
