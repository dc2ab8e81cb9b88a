//! How connections to the members of a cluster are made: by TCP, or by what a simulation has for it.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint, Uri};

/// How long a connection may take: a member on the same network answers at once or is down.
const LIMIT: Duration = Duration::from_secs(1);
/// How long one of the addresses of a name may take while there are others.
const EACH: Duration = Duration::from_millis(300);

/// A connection: bytes both ways.
pub trait Socket: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Socket for T {}

/// A connection that is being made.
pub type Connecting = BoxFuture<'static, io::Result<Box<dyn Socket>>>;

/// Makes the connection to what listens at a `HOST:PORT`.
#[derive(Clone)]
pub struct Dial {
    connect: Arc<dyn Fn(String) -> Connecting + Send + Sync>,
    greeting: &'static [u8],
}

impl Dial {
    /// Connections that `connect` makes.
    pub fn by(connect: impl Fn(String) -> Connecting + Send + Sync + 'static) -> Self {
        Self { connect: Arc::new(connect), greeting: &[] }
    }

    /// The same, but its gRPC channels begin with these bytes.
    #[must_use]
    pub fn greeting(self, greeting: &'static [u8]) -> Self {
        Self { greeting, ..self }
    }

    /// A new connection to `HOST:PORT`; an error after one second.
    pub async fn connect(&self, address: &str) -> io::Result<Box<dyn Socket>> {
        let limited = tokio::time::timeout(LIMIT, (self.connect)(address.to_owned())).await;
        limited.map_err(|late| io::Error::new(io::ErrorKind::TimedOut, late))?
    }

    /// The gRPC channel to an endpoint; nothing is connected before the first request.
    pub fn channel(&self, endpoint: &Endpoint) -> Channel {
        let dial = self.clone();
        endpoint.connect_with_connector_lazy(tower::service_fn(move |uri: Uri| {
            let dial = dial.clone();
            async move {
                let address = uri.authority().map_or("", |authority| authority.as_str());
                let mut socket = dial.connect(address).await?;
                socket.write_all(dial.greeting).await?;
                Ok::<_, io::Error>(TokioIo::new(socket))
            }
        }))
    }
}

impl Default for Dial {
    /// Connections by TCP.
    fn default() -> Self {
        Self::by(|address| tcp(address).boxed())
    }
}

async fn tcp(address: String) -> io::Result<Box<dyn Socket>> {
    let mut addresses = tokio::net::lookup_host(address).await?.peekable();
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    while let Some(address) = addresses.next() {
        let connecting = TcpStream::connect(address);
        let connected = match addresses.peek() {
            Some(_) => {
                tokio::time::timeout(EACH, connecting).await.map_err(io::Error::from).flatten()
            }
            None => connecting.await,
        };
        match connected {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(Box::new(stream));
            }
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

impl fmt::Debug for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dial")
    }
}
