//! The daemon's one port: the first bytes of a connection tell the data protocol from the others.

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;
use torus_metadata::{Member, Rewound};

use super::storage::Storage;
use super::threads::DataThreads;

/// How long a connection may take to say what it speaks.
const FIRST_BYTES: Duration = Duration::from_secs(10);
/// After a failed accept: the process may be out of descriptors, which others give back.
const RETRY: Duration = Duration::from_millis(100);
/// How often to look whether more of the first bytes have come.
const LOOK: Duration = Duration::from_millis(5);

/// Connections of clients that the group's own thread serves at a time, beside those of members. Their
/// requests wait for no other thread, which a client that is alone gains by; were there more of them,
/// they would take the thread's time from the group.
const NEAR: usize = 4;

/// Where the connections go that are not the group's own.
pub(super) struct Places {
    pub(super) storage: Arc<Storage>,
    pub(super) data: Arc<DataThreads>,
    /// The runtime of most calls.
    pub(super) calls: Handle,
}

/// Serves the port until `stop`: what is for `member` on this runtime, as a rule, and the rest in its
/// places.
pub(super) fn start(
    listener: TcpListener,
    member: &Member,
    places: Places,
    stop: CancellationToken,
) -> JoinHandle<()> {
    let Places { storage, data, calls } = places;
    let (others, incoming) = mpsc::channel::<io::Result<TcpStream>>(64);
    let incoming = member.divide(ReceiverStream::new(incoming));
    let (near, near_calls) = mpsc::channel(64);
    let (far, far_calls) = mpsc::channel(64);
    let servers = [
        tokio::spawn(serve(member.routes(), near_calls, stop.clone())),
        calls.spawn(serve(member.routes(), far_calls, stop.clone())),
    ];
    let stopped = stop.clone();
    let sharing = async move {
        stopped.run_until_cancelled(share(incoming, near, far, calls)).await;
    };
    tokio::spawn(sharing);
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop.cancelled() => break,
            };
            match accepted {
                Ok((stream, _)) => {
                    tokio::spawn(direct(stream, others.clone(), Arc::clone(&storage), data.next()));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
        drop(listener);
        for server in servers {
            if let Err(error) = server.await {
                tracing::error!(%error, "a gRPC server ended");
            }
        }
    })
}

/// Answers calls until `stop`.
async fn serve(routes: Routes, calls: mpsc::Receiver<Rewound<TcpStream>>, stop: CancellationToken) {
    let server = Server::builder()
        .tcp_nodelay(true)
        .http2_keepalive_interval(Some(Duration::from_secs(5)))
        .http2_keepalive_timeout(Some(Duration::from_secs(5)))
        .add_routes(routes);
    let calls = ReceiverStream::new(calls).map(Ok::<_, Infallible>);
    let ended = server.serve_with_incoming_shutdown(calls, stop.cancelled_owned()).await;
    if let Err(error) = ended {
        tracing::error!(%error, "the gRPC server ended");
    }
}

/// Gives the connections of members and of the first few clients to the server on this runtime and the
/// others to the one on `calls`.
async fn share(
    incoming: impl Stream<Item = io::Result<Rewound<TcpStream>>>,
    near: mpsc::Sender<Rewound<TcpStream>>,
    far: mpsc::Sender<Rewound<TcpStream>>,
    calls: Handle,
) {
    let places = Arc::new(Semaphore::new(NEAR));
    let mut incoming = pin!(incoming);
    while let Some(stream) = incoming.next().await {
        let stream = match stream {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!(%error, "a connection broke before its first call");
                continue;
            }
        };
        if stream.is_member() {
            drop(near.send(stream).await);
        } else if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
            drop(near.send(stream.keeping(place)).await);
        } else {
            // The socket moves to the other runtime's poller.
            let (far, moved) = (far.clone(), stream.try_map(TcpStream::into_std));
            calls.spawn(async move {
                match moved.and_then(|stream| stream.try_map(TcpStream::from_std)) {
                    Ok(stream) => drop(far.send(stream).await),
                    Err(error) => tracing::warn!(%error, "cannot serve a connection"),
                }
            });
        }
    }
}

/// Sends a connection where it belongs.
async fn direct(
    stream: TcpStream,
    others: mpsc::Sender<io::Result<TcpStream>>,
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
            } else if others.send(Ok(stream)).await.is_err() {
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

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio_stream::wrappers::TcpListenerStream;
    use torus_raft::MEMBER;

    use super::*;

    #[tokio::test]
    async fn members_and_a_few_clients_are_near_and_who_ends_makes_room() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let incoming = torus_raft::divide(TcpListenerStream::new(listener), || None);
        let ((near, mut is_near), (far, mut is_far)) = (mpsc::channel(64), mpsc::channel(64));
        let sharing = share(incoming, near, far, Handle::current());
        let clients = async {
            let begin = async |first: &[u8; 8]| {
                let mut client = TcpStream::connect(address).await.unwrap();
                client.write_all(first).await.unwrap();
                client
            };
            let mut clients = Vec::new();
            let mut served = Vec::new();
            for _ in 0..NEAR {
                clients.push(begin(b"PRI * HT").await);
                served.push(is_near.recv().await.unwrap());
            }
            clients.push(begin(b"PRI * HT").await);
            let moved = is_far.recv().await.unwrap();
            assert!(!moved.is_member());
            clients.push(begin(&MEMBER).await);
            assert!(is_near.recv().await.unwrap().is_member());
            drop(served.pop());
            clients.push(begin(b"PRI * HT").await);
            is_near.recv().await.unwrap();
        };
        tokio::select! {
            () = sharing => panic!("it does not end"),
            ended = tokio::time::timeout(FIRST_BYTES, clients) => ended.unwrap(),
        }
    }
}
