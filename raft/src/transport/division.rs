//! Lines and gRPC come to the same port: the first bytes of a connection tell which it is, and
//! whether it is a member that calls.

use std::any::Any;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use async_stream::stream;
use futures::stream::FuturesUnordered;
use futures::{Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::task::JoinSet;
use tonic::transport::server::Connected;
use torus_dial::Socket;

use super::line::{FAMILY, Line, MAGIC};
use super::server::Transport;

/// What members say before the gRPC of their calls, so that a server can tell them from clients: see
/// [`Dial::greeting`](torus_dial::Dial::greeting).
pub const MEMBER: [u8; MAGIC.len()] = *b"TORUSMC1";

/// How long a connection may take to say what it is.
const FIRST_BYTES: Duration = Duration::from_secs(10);

/// Serves the lines among `incoming` by what `transport` gives (`None`: they are not taken) and
/// passes the other connections on, as if nothing had been read of their gRPC.
///
/// Lines live until the stream ends or is dropped.
pub fn divide<S>(
    incoming: impl Stream<Item = io::Result<S>> + Send,
    transport: impl Fn() -> Option<Transport> + Send,
) -> impl Stream<Item = io::Result<Rewound<S>>> + Send
where
    S: Socket + 'static,
{
    stream! {
        let mut incoming = Box::pin(incoming.fuse());
        let mut new = FuturesUnordered::new();
        let mut lines = JoinSet::new();
        loop {
            tokio::select! {
                accepted = incoming.next() => match accepted {
                    Some(Ok(stream)) => new.push(tokio::time::timeout(FIRST_BYTES, begin(stream))),
                    Some(Err(error)) => yield Err(error),
                    None => return,
                },
                Some(begun) = new.next() => match begun {
                    Ok(Ok((first, stream))) if first == MAGIC => {
                        if let Some(transport) = transport() {
                            lines.spawn(transport.serve(Line::on(Box::new(stream))));
                        }
                    }
                    Ok(Ok((first, _))) if first.starts_with(FAMILY) => {
                        tracing::warn!("a member of another version wants to append to the log");
                    }
                    Ok(Ok((first, stream))) => {
                        let is_member = first == MEMBER;
                        let read = if is_member { first.len() } else { 0 };
                        yield Ok(Rewound { first, read, is_member, stream, kept: None });
                    }
                    Ok(Err(error)) => {
                        tracing::debug!(%error, "a connection ended before it said anything");
                    }
                    Err(_) => tracing::debug!("a connection said nothing"),
                },
                Some(ended) = lines.join_next() => {
                    if ended.is_err_and(|error| error.is_panic()) {
                        tracing::error!("a line's task panicked");
                    }
                }
            }
        }
    }
}

async fn begin<S: AsyncRead + Unpin>(mut stream: S) -> io::Result<([u8; MAGIC.len()], S)> {
    let mut first = [0; MAGIC.len()];
    stream.read_exact(&mut first).await?;
    Ok((first, stream))
}

/// A connection whose first bytes were looked at, and come again.
#[derive(Debug)]
pub struct Rewound<S> {
    first: [u8; MAGIC.len()],
    read: usize,
    is_member: bool,
    stream: S,
    kept: Option<Box<dyn Any + Send + Sync>>,
}

impl<S> Rewound<S> {
    /// The same connection with another stream for it.
    pub fn try_map<T>(self, map: impl FnOnce(S) -> io::Result<T>) -> io::Result<Rewound<T>> {
        let Self { first, read, is_member, stream, kept } = self;
        Ok(Rewound { first, read, is_member, stream: map(stream)?, kept })
    }

    /// Whether it says that it is a member's. Anybody can say so.
    pub fn is_member(&self) -> bool {
        self.is_member
    }

    /// Keeps something until the connection ends.
    #[must_use]
    pub fn keeping(self, kept: impl Send + Sync + 'static) -> Self {
        Self { kept: Some(Box::new(kept)), ..self }
    }
}

impl<S: Connected> Connected for Rewound<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> S::ConnectInfo {
        self.stream.connect_info()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewound<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let left = &self.first[self.read..];
        if left.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let count = left.len().min(buf.remaining());
        buf.put_slice(&left[..count]);
        self.read += count;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewound<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
