//! A server on a loopback port, and the handshake of a client in a few lines.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use torus_nbd::{Exports, Listener, Server, ServerOptions};

pub(crate) struct Serving {
    pub(crate) address: SocketAddr,
    pub(crate) shutdown: CancellationToken,
    pub(crate) server: JoinHandle<()>,
}

impl Serving {
    pub(crate) async fn start(exports: Arc<dyn Exports>, options: ServerOptions) -> Self {
        let listener = Listener::tcp("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.tcp_address().unwrap();
        let shutdown = CancellationToken::new();
        let server = tokio::spawn(Server::serve(listener, exports, shutdown.clone(), options));
        Self { address, shutdown, server }
    }

    pub(crate) fn uri(&self, name: &str) -> String {
        format!("nbd://{}/{name}", self.address)
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.server.await.unwrap();
    }

    /// Connects and reads the greeting.
    pub(crate) async fn connect(&self) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting).await.unwrap();
        assert_eq!(&greeting, b"NBDMAGICIHAVEOPT\0\x03");
        stream
    }

    /// Connects and opens an export: simple replies, no zeroes.
    pub(crate) async fn open(&self, name: &str) -> TcpStream {
        let mut stream = self.connect().await;
        stream.write_all(&option(3, 1, name.as_bytes())).await.unwrap();
        let mut reply = [0; 10];
        stream.read_exact(&mut reply).await.unwrap();
        stream
    }
}

/// Client flags and one option.
pub(crate) fn option(flags: u32, option: u32, data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len()).unwrap();
    [&flags.to_be_bytes()[..], b"IHAVEOPT", &option.to_be_bytes(), &length.to_be_bytes(), data]
        .concat()
}

/// The head of a request.
pub(crate) fn request(command: u16, cookie: u64, offset: u64, length: u32) -> Vec<u8> {
    [
        &[0x25, 0x60, 0x95, 0x13, 0, 0][..],
        &command.to_be_bytes(),
        &cookie.to_be_bytes(),
        &offset.to_be_bytes(),
        &length.to_be_bytes(),
    ]
    .concat()
}
