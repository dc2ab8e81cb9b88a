//! A RAM disk over NBD: what the protocol and this server allow, without any storage behind them.
//!
//! ```text
//! cargo run --release -p torus-nbd --example memory -- 127.0.0.1:10809 1024
//! cargo run --release -p torus-nbd --example memory -- /run/ram.sock 1024
//! ```

#![expect(clippy::print_stderr, reason = "a program for people")]

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use torus_nbd::memory::{MemoryDisk, MemoryDisks};
use torus_nbd::{Listener, Server, ServerOptions};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, mib] = &arguments[..] else {
        return Err("usage: memory HOST:PORT|PATH SIZE_IN_MIB".into());
    };
    let size = mib.parse::<u32>().map(u64::from).map_err(|_| "the size is a number of MiB")? << 20;
    let listener = match address.parse::<SocketAddr>() {
        Ok(address) => Listener::tcp(address).await?,
        Err(_) => Listener::unix(address).await?,
    };
    let mut disks = MemoryDisks::new();
    disks.insert("memory", Arc::new(MemoryDisk::new(size)));
    eprintln!("serving {mib} MiB as \"memory\" (or \"\") on {address}; Ctrl-C ends it");

    let shutdown = CancellationToken::new();
    let serving =
        Server::serve(listener, Arc::new(disks), shutdown.clone(), ServerOptions::default());
    tokio::pin!(serving);
    tokio::select! {
        () = &mut serving => {}
        interrupted = tokio::signal::ctrl_c() => {
            interrupted?;
            shutdown.cancel();
            serving.await;
        }
    }
    Ok(())
}
