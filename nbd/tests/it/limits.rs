//! What strangers can take from a server, and how it goes down.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use torus_nbd::memory::{MemoryDisk, MemoryDisks};
use torus_nbd::{
    Export, ExportError, ExportInfo, Exports, Listener, OpenError, ReadData, Server, ServerOptions,
};

use crate::serving::{Serving, option, request};

const BOUND: Duration = Duration::from_secs(20);

fn disks() -> Arc<MemoryDisks> {
    let mut disks = MemoryDisks::new();
    disks.insert("vol", Arc::new(MemoryDisk::new(1 << 30)));
    Arc::new(disks)
}

/// Waits until the server hangs up; what it still said.
async fn hung_up(stream: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    // A reset is one way of hanging up.
    let _ = timeout(BOUND, stream.read_to_end(&mut rest)).await.expect("the server hangs up");
    rest
}

#[tokio::test]
async fn connections_are_counted() {
    let options = ServerOptions { max_connections: 2, ..ServerOptions::default() };
    let serving = Serving::start(disks(), options).await;
    let first = serving.open("vol").await;
    let _second = serving.connect().await;
    let mut third = TcpStream::connect(serving.address).await.unwrap();
    assert!(hung_up(&mut third).await.is_empty());
    drop(first);
    // Its place is free once the server saw it go.
    let again = async {
        loop {
            let mut stream = TcpStream::connect(serving.address).await.unwrap();
            if stream.read_exact(&mut [0; 18]).await.is_ok() {
                break;
            }
        }
    };
    timeout(BOUND, again).await.expect("a place becomes free");
    serving.stop().await;
}

#[tokio::test]
async fn a_slow_handshake_ends() {
    let options =
        ServerOptions { handshake_timeout: Duration::from_millis(50), ..ServerOptions::default() };
    let serving = Serving::start(disks(), options).await;
    let mut silent = serving.connect().await;
    let mut dripping = serving.connect().await;
    dripping.write_all(&[0, 0]).await.unwrap();
    hung_up(&mut silent).await;
    hung_up(&mut dripping).await;
    serving.stop().await;
}

#[tokio::test]
async fn the_empty_name_is_the_only_export() {
    let mut two = MemoryDisks::new();
    two.insert("a", Arc::new(MemoryDisk::new(512)));
    two.insert("b", Arc::new(MemoryDisk::new(512)));
    let serving = Serving::start(disks(), ServerOptions::default()).await;
    serving.open("").await;
    serving.stop().await;
    let serving = Serving::start(Arc::new(two), ServerOptions::default()).await;
    let mut stream = serving.connect().await;
    stream.write_all(&option(3, 1, b"")).await.unwrap();
    assert!(hung_up(&mut stream).await.is_empty());
    serving.stop().await;
}

/// Memory is taken for bytes that come, not for bytes that are announced.
#[tokio::test]
async fn announced_payloads_cost_no_memory() {
    let serving = Serving::start(disks(), ServerOptions::default()).await;
    let before = resident_kib();
    let mut clients = Vec::new();
    for _ in 0..60 {
        let mut client = serving.open("vol").await;
        client.write_all(&request(1, 1, 0, 32 << 20)).await.unwrap();
        client.write_all(&[7; 4096]).await.unwrap();
        clients.push(client);
    }
    // An honest client is served all the while, and its answer shows that the others were read.
    let mut honest = serving.open("vol").await;
    honest.write_all(&request(3, 2, 0, 0)).await.unwrap();
    timeout(BOUND, honest.read_exact(&mut [0; 16])).await.expect("a reply").unwrap();
    let grown = resident_kib().saturating_sub(before);
    assert!(grown < 64 << 10, "{grown} KiB for 60 clients that announced 32 MiB each");
    drop(clients);
    serving.stop().await;
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// One export whose writes wait; it counts who has it open.
struct Slow {
    open: AtomicUsize,
    begun: AtomicUsize,
    closed: AtomicUsize,
    gate: Semaphore,
}

#[derive(Clone)]
struct SlowGate(Arc<Slow>);

impl SlowGate {
    fn new() -> Self {
        let [open, begun, closed] = [(); 3].map(|()| AtomicUsize::new(0));
        Self(Arc::new(Slow { open, begun, closed, gate: Semaphore::new(0) }))
    }
}

#[async_trait]
impl Export for SlowGate {
    fn info(&self) -> ExportInfo {
        ExportInfo::new(1 << 20)
    }
    async fn read(&self, _: u64, length: u32) -> Result<ReadData, ExportError> {
        Ok(Bytes::from(vec![7; length as usize]).into())
    }
    async fn write(&self, _: u64, _: Bytes, _: bool) -> Result<(), ExportError> {
        self.0.begun.fetch_add(1, Ordering::SeqCst);
        drop(self.0.gate.acquire().await);
        Ok(())
    }
    async fn flush(&self) -> Result<(), ExportError> {
        Ok(())
    }
    async fn trim(&self, _: u64, _: u64, _: bool) -> Result<(), ExportError> {
        Ok(())
    }
    async fn write_zeroes(&self, _: u64, _: u64, _: bool, _: bool) -> Result<(), ExportError> {
        Ok(())
    }
    async fn close(&self) {
        self.0.closed.fetch_add(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Exports for SlowGate {
    async fn list(&self) -> Result<Vec<String>, ExportError> {
        Ok(vec!["slow".into()])
    }
    async fn info(&self, _: &str) -> Result<ExportInfo, OpenError> {
        Ok(Export::info(self))
    }
    async fn open(&self, name: &str) -> Result<Arc<dyn Export>, OpenError> {
        if name != "slow" {
            return Err(OpenError::Unknown);
        }
        self.0.open.fetch_add(1, Ordering::SeqCst);
        Ok(Arc::new(self.clone()))
    }
}

async fn wait_for(what: &str, state: impl Fn() -> bool) {
    let reached = async {
        while !state() {
            tokio::task::yield_now().await;
        }
    };
    assert!(timeout(BOUND, reached).await.is_ok(), "waited for: {what}");
}

#[tokio::test]
async fn a_shutdown_answers_closes_and_returns() {
    let slow = SlowGate::new();
    let serving = Serving::start(Arc::new(slow.clone()), ServerOptions::default()).await;
    let mut idle = serving.open("slow").await;
    let mut halfway = serving.connect().await;
    let mut busy = serving.open("slow").await;
    busy.write_all(&[request(1, 5, 0, 512), vec![7; 512]].concat()).await.unwrap();
    wait_for("the write", || slow.0.begun.load(Ordering::SeqCst) == 1).await;

    serving.shutdown.cancel();
    assert!(hung_up(&mut idle).await.is_empty());
    assert!(hung_up(&mut halfway).await.is_empty());
    assert!(!serving.server.is_finished(), "a write is in flight");
    slow.0.gate.add_permits(1);
    let reply = [&[0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0][..], &5u64.to_be_bytes()].concat();
    assert_eq!(hung_up(&mut busy).await, reply);
    timeout(BOUND, serving.server).await.expect("the server returns").unwrap();
    assert_eq!(slow.0.closed.load(Ordering::SeqCst), 2);
    assert!(TcpStream::connect(serving.address).await.is_err());
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_ever() {
    let slow = SlowGate::new();
    let options =
        ServerOptions { drain_timeout: Duration::from_millis(20), ..ServerOptions::default() };
    let serving = Serving::start(Arc::new(slow.clone()), options).await;
    let mut busy = serving.open("slow").await;
    busy.write_all(&[request(1, 5, 0, 512), vec![7; 512]].concat()).await.unwrap();
    wait_for("the write", || slow.0.begun.load(Ordering::SeqCst) == 1).await;
    serving.shutdown.cancel();
    timeout(BOUND, serving.server).await.expect("the server returns").unwrap();
    assert_eq!(slow.0.closed.load(Ordering::SeqCst), 1);
}

/// The export is closed whichever way a client goes, after its last request and once.
#[tokio::test]
async fn every_open_export_is_closed() {
    let slow = SlowGate::new();
    let serving = Serving::start(Arc::new(slow.clone()), ServerOptions::default()).await;
    // DISC, garbage, and an end in the middle of a payload.
    let goodbyes = [request(2, 0, 0, 0), vec![0; 28], [request(1, 1, 0, 512), vec![7; 9]].concat()];
    for goodbye in goodbyes {
        let mut client = serving.open("slow").await;
        client.write_all(&goodbye).await.unwrap();
        client.shutdown().await.unwrap();
        hung_up(&mut client).await;
    }
    // A client that leaves with a write in flight.
    let mut client = serving.open("slow").await;
    client.write_all(&[request(1, 1, 0, 512), vec![7; 512]].concat()).await.unwrap();
    wait_for("the write", || slow.0.begun.load(Ordering::SeqCst) == 1).await;
    drop(client);
    wait_for("three closed", || slow.0.closed.load(Ordering::SeqCst) == 3).await;
    slow.0.gate.add_permits(1);
    wait_for("all closed", || slow.0.closed.load(Ordering::SeqCst) == 4).await;
    assert_eq!(slow.0.open.load(Ordering::SeqCst), 4);
    serving.stop().await;
}

/// CVE-2019-14850: an export was opened for clients that had not chosen one.
#[tokio::test]
async fn nothing_is_opened_before_a_client_chooses() {
    let slow = SlowGate::new();
    let serving = Serving::start(Arc::new(slow.clone()), ServerOptions::default()).await;
    let mut client = serving.connect().await;
    // INFO of "slow", then ABORT, answered and closed.
    let info = option(3, 6, &[&4u32.to_be_bytes()[..], b"slow", &[0, 0]].concat());
    client.write_all(&[&info, &option(0, 2, b"")[4..]].concat()).await.unwrap();
    let replies = hung_up(&mut client).await;
    assert_eq!(replies[replies.len() - 12..], [0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0]);
    assert_eq!(slow.0.open.load(Ordering::SeqCst), 0);
    serving.stop().await;
}

#[tokio::test]
async fn a_unix_socket_serves_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nbd.sock");
    let listener = Listener::unix(&path).await.unwrap();
    let shutdown = tokio_util::sync::CancellationToken::new();
    let server =
        tokio::spawn(Server::serve(listener, disks(), shutdown.clone(), ServerOptions::default()));
    let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
    stream.read_exact(&mut [0; 18]).await.unwrap();
    stream.write_all(&option(3, 1, b"vol")).await.unwrap();
    stream.read_exact(&mut [0; 10]).await.unwrap();
    stream.write_all(&request(0, 1, 0, 512)).await.unwrap();
    stream.read_exact(&mut [0; 528]).await.unwrap();
    shutdown.cancel();
    server.await.unwrap();
    assert!(!path.exists());
}
