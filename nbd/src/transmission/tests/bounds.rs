//! What runs together, in which order, how much of it, and what ends it.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use expect_test::expect;
use tokio::io::AsyncReadExt;
use tokio::sync::Semaphore;

use super::{Client, SIZE, check, disk, transcript};
use crate::memory::MemoryDisk;
use crate::transmission::{End, Late, MAX_BYTES, MAX_REQUESTS};
use crate::wire::request::{CMD_FLUSH, CMD_READ, CMD_TRIM, CMD_WRITE, FLAG_FUA};
use crate::{Errno, Export, ExportError, ExportInfo, ReadData};

/// An export whose requests wait until they are let go, and that notes in which order it had them.
struct Gate {
    inner: MemoryDisk,
    open: Semaphore,
    seen: Mutex<Vec<String>>,
}

impl Gate {
    fn new(size: u64) -> Arc<Self> {
        let open = Semaphore::new(0);
        Arc::new(Self { inner: MemoryDisk::new(size), open, seen: Mutex::default() })
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    async fn pass(&self, what: String) {
        self.seen.lock().unwrap().push(what);
        self.open.acquire().await.unwrap().forget();
    }

    /// Waits until so many requests came.
    async fn wait_for(&self, count: usize) {
        let seen = async {
            while self.seen().len() < count {
                tokio::task::yield_now().await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(20), seen).await;
        assert!(waited.is_ok(), "waited for {count} requests, saw {:?}", self.seen());
    }
}

#[async_trait]
impl Export for Gate {
    fn info(&self) -> ExportInfo {
        self.inner.info()
    }
    async fn read(&self, offset: u64, length: u32) -> Result<ReadData, ExportError> {
        self.pass(format!("read {offset}")).await;
        self.inner.read(offset, length).await
    }
    async fn write(&self, offset: u64, data: Bytes, fua: bool) -> Result<(), ExportError> {
        self.pass(format!("write {offset}")).await;
        self.inner.write(offset, data, fua).await
    }
    async fn flush(&self) -> Result<(), ExportError> {
        self.pass("flush".into()).await;
        // W6: a failed flush was answered with success.
        Err(ExportError::new(Errno::Io, "the disk is on fire"))
    }
    async fn trim(&self, offset: u64, length: u64, _: bool) -> Result<(), ExportError> {
        self.pass(format!("trim {offset}+{length}")).await;
        Ok(())
    }
    async fn write_zeroes(&self, o: u64, l: u64, f: bool, n: bool) -> Result<(), ExportError> {
        self.inner.write_zeroes(o, l, f, n).await
    }
    async fn close(&self) {}
}

#[tokio::test]
async fn requests_run_together_and_start_in_order() {
    let gate = Gate::new(SIZE);
    let mut client = Client::new(gate.clone(), true);
    for i in 0..40 {
        client.write(0, i * 512, &[7; 512]).await;
    }
    client.send(CMD_FLUSH, 0, 0, 0).await;
    gate.wait_for(41).await;
    let expected: Vec<_> = (0..40).map(|i| format!("write {}", i * 512)).collect();
    assert_eq!(gate.seen()[..40], expected[..]);
    assert_eq!(gate.seen()[40], "flush");
    gate.open.add_permits(41);
    let (replies, _) = client.finish().await;
    let replies = transcript(&replies, 0);
    assert_eq!(replies.lines().count(), 41);
    assert!(replies.contains("41: chunk done error 5: input/output error"), "{replies}");
}

#[tokio::test]
async fn requests_in_flight_are_bounded() {
    let gate = Gate::new(SIZE);
    let mut client = Client::new(gate.clone(), false);
    for _ in 0..MAX_REQUESTS + 50 {
        client.send(CMD_READ, 0, 0, 512).await;
    }
    gate.wait_for(MAX_REQUESTS).await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(gate.seen().len(), MAX_REQUESTS);
    gate.open.add_permits(MAX_REQUESTS + 50);
    let (replies, _) = client.finish().await;
    assert_eq!(transcript(&replies, 512).lines().count(), MAX_REQUESTS + 50);
}

#[tokio::test]
async fn bytes_in_flight_are_bounded() {
    let gate = Gate::new(1 << 30);
    let mut client = Client::with_pipe(gate.clone(), true, 64 << 20);
    for _ in 0..4 {
        client.send(CMD_READ, 0, 0, 32 << 20).await;
    }
    gate.wait_for(2).await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(gate.seen().len(), 2, "two reads are {MAX_BYTES} bytes");
    gate.open.add_permits(4);
    gate.wait_for(4).await;
    let (replies, end) = client.finish().await;
    assert!(matches!(end, End::Disconnected), "{end}");
    assert_eq!(transcript(&replies, 0).matches("1: chunk done").count(), 1);
}

#[tokio::test]
async fn a_shutdown_answers_what_is_in_flight() {
    let gate = Gate::new(SIZE);
    let mut client = Client::new(gate.clone(), false);
    client.write(0, 0, &[7; 512]).await;
    gate.wait_for(1).await;
    client.shutdown.cancel();
    client.send(CMD_FLUSH, 0, 0, 0).await;
    let mut refused = [0; 16];
    client.stream.read_exact(&mut refused).await.unwrap();
    assert_eq!(transcript(&refused, 0), "2: simple 108\n");
    gate.open.add_permits(1);
    check(
        &client.rest().await,
        0,
        &expect![[r#"
            1: simple 0
            the server shuts down
        "#]],
    );
}

#[tokio::test]
async fn a_shutdown_leaves_a_kernel_what_it_may_repeat() {
    let gate = Gate::new(SIZE);
    let mut client = Client::with_late(gate.clone(), false, 1 << 20, Late::Ignored);
    client.write(0, 0, &[7; 512]).await;
    gate.wait_for(1).await;
    client.shutdown.cancel();
    client.write(0, 0, &[8; 512]).await;
    client.send(CMD_FLUSH, 0, 0, 0).await;
    gate.open.add_permits(9);
    check(
        &client.rest().await,
        0,
        &expect![[r#"
            1: simple 0
            the server shuts down
        "#]],
    );
}

#[tokio::test]
async fn long_ranges_go_in_slices_that_a_departure_ends() {
    let gate = Gate::new(1 << 40);
    let mut client = Client::new(gate.clone(), false);
    client.send(CMD_TRIM, FLAG_FUA, 512, u32::MAX - 511).await;
    gate.wait_for(1).await;
    gate.open.add_permits(3);
    gate.wait_for(4).await;
    assert_eq!(gate.seen()[1], format!("trim {}+{}", 512 + (128 << 20), 128 << 20));
    client.shutdown.cancel();
    gate.open.add_permits(1);
    check(
        &client.rest().await,
        0,
        &expect![[r#"
            1: simple 108
            the server shuts down
        "#]],
    );
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_no_replies_is_left() {
    let disk = disk();
    disk.write(0, Bytes::from(vec![7; 1 << 20]), false).await.unwrap();
    let mut client = Client::with_pipe(disk, false, 4096);
    client.send(CMD_READ, 0, 0, 1 << 20).await;
    let end = Pin::new(&mut client.served).await.unwrap();
    assert!(matches!(end, End::Stalled), "{end}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stops_in_a_request_is_left_and_an_idle_one_is_not() {
    let mut idle = Client::new(disk(), false);
    let mut client = Client::new(disk(), false);
    client.send(CMD_WRITE, 0, 0, 512).await;
    let end = Pin::new(&mut client.served).await.unwrap();
    assert!(matches!(end, End::Stalled), "{end}");
    tokio::time::sleep(Duration::from_secs(3600)).await;
    idle.send(CMD_FLUSH, 0, 0, 0).await;
    let (replies, end) = idle.finish().await;
    assert_eq!(transcript(&replies, 0), "1: simple 0\n");
    assert!(matches!(end, End::Disconnected), "{end}");
}
