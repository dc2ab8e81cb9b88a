//! `torusblk nbdserve`: volumes for NBD clients over TCP or a unix socket.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use torus_nbd::{Listener, Server, ServerOptions};

use super::exports::VolumeExports;
use super::memory::Memory;
use crate::connection::Connection;
use crate::failure::Failure;
use crate::interrupt;

const DEFAULT_LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 10809);

/// Serves until told to stop. Volumes that are named are opened, and so locked, for all that time.
#[expect(clippy::print_stdout, reason = "says where clients connect")]
pub(super) async fn run(
    addresses: Vec<String>,
    volumes: Vec<String>,
    listen: Option<SocketAddr>,
    unix: Option<PathBuf>,
    memory: Memory,
) -> Result<(), Failure> {
    let stop = interrupt::token()?;
    let tcp = match (listen, &unix) {
        (None, Some(_)) => None,
        (listen, _) => Some(Listener::tcp(listen.unwrap_or(DEFAULT_LISTEN)).await?),
    };
    let connection = Connection::open(addresses).await?;
    let exports = Arc::new(VolumeExports::new(connection.services.clone(), &volumes, memory));
    let mut held = Vec::new();
    for name in &volumes {
        held.push(exports.take(name).await?);
    }
    let socket = match unix {
        Some(path) => Some((Listener::unix(&path).await?, path)),
        None => None,
    };
    let name = volumes.first().map_or("VOLUME", String::as_str);
    let mut servers = Vec::new();
    if let Some(listener) = tcp {
        if let Some(address) = listener.tcp_address() {
            println!("serving nbd://{address}/{name}");
        }
        servers.push(listener);
    }
    if let Some((listener, path)) = socket {
        println!("serving nbd+unix:///{name}?socket={}", path.display());
        servers.push(listener);
    }
    let serving = servers.into_iter().map(|listener| {
        Server::serve(listener, exports.clone(), stop.clone(), ServerOptions::default())
    });
    let closing = async {
        futures::future::join_all(serving).await;
        let mut result = Ok(());
        for export in held {
            if let Err(error) = export.release().await {
                result = Err(error.into());
            }
        }
        result
    };
    tokio::select! {
        result = closing => result,
        () = too_late(&stop) => Err(NotClosed.into()),
    }
}

/// How long closing may take once the process was told to stop.
const CLOSE: Duration = Duration::from_secs(60);

/// The peers or the metadata service that closing needs do not answer.
#[derive(Debug, thiserror::Error)]
#[error(
    "not all volumes could be closed in order: what was not flushed may be lost, and their locks \
     are freed when the session ends"
)]
struct NotClosed;

async fn too_late(stop: &CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(CLOSE).await;
}
