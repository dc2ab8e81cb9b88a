//! Requests over an in-memory pipe, and all that comes back.

mod bounds;

use std::fmt::Write as _;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Buf;
use expect_test::{Expect, expect};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::JoinHandle;

use super::*;
use crate::memory::MemoryDisk;
use crate::wire::request::{
    CMD_BLOCK_STATUS, CMD_DISC, CMD_FLUSH, CMD_READ, CMD_TRIM, CMD_WRITE_ZEROES, FLAG_DF,
    FLAG_FAST_ZERO, FLAG_FUA, FLAG_REQ_ONE,
};
use crate::{ExportError, ExportInfo, Extent, ReadData};

const SIZE: u64 = 1 << 20;

/// A connection to an export, and the task that serves it.
struct Client {
    stream: DuplexStream,
    served: JoinHandle<End>,
    shutdown: CancellationToken,
    cookie: u64,
}

impl Client {
    fn new(export: Arc<dyn Export>, structured: bool) -> Self {
        Self::with_pipe(export, structured, 1 << 20)
    }

    fn with_pipe(export: Arc<dyn Export>, structured: bool, pipe: usize) -> Self {
        Self::with_late(export, structured, pipe, Late::Refused)
    }

    fn with_late(export: Arc<dyn Export>, structured: bool, pipe: usize, late: Late) -> Self {
        let (stream, mut far) = duplex(pipe);
        let shutdown = CancellationToken::new();
        let token = shutdown.clone();
        let served = tokio::spawn(async move {
            let terms = Terms::new(&export.info(), structured, structured);
            let surroundings = Surroundings {
                shutdown: &token,
                budget: Budget::new(1 << 30),
                stall: Some(Duration::from_secs(30)),
                drain: Duration::from_secs(30),
                late,
            };
            transmit(&mut far, BytesMut::new(), export.as_ref(), terms, surroundings).await
        });
        Self { stream, served, shutdown, cookie: 0 }
    }

    /// Sends a request; its cookie counts from 1.
    async fn send(&mut self, command: u16, flags: u16, offset: u64, length: u32) {
        self.cookie += 1;
        let head = RequestHead { flags, command, cookie: self.cookie, offset, length };
        self.stream.write_all(&head.encode()).await.unwrap();
    }

    async fn write(&mut self, flags: u16, offset: u64, data: &[u8]) {
        self.send(CMD_WRITE, flags, offset, u32::try_from(data.len()).unwrap()).await;
        self.stream.write_all(data).await.unwrap();
    }

    /// Disconnects; all bytes that came back, and how the server saw the end.
    async fn finish(mut self) -> (Vec<u8>, End) {
        self.send(CMD_DISC, 0, 0, 0).await;
        self.rest().await
    }

    async fn rest(mut self) -> (Vec<u8>, End) {
        let mut replies = Vec::new();
        let end = self.served.await.unwrap();
        self.stream.read_to_end(&mut replies).await.unwrap();
        (replies, end)
    }
}

/// Decodes replies: simple ones to reads need the length that was asked.
fn transcript(mut bytes: &[u8], read_length: usize) -> String {
    let mut text = String::new();
    while !bytes.is_empty() {
        match bytes.get_u32() {
            0x6744_6698 => {
                let error = bytes.get_u32();
                write!(text, "{}: simple {error}", bytes.get_u64()).unwrap();
                if error == 0 && read_length > 0 {
                    write!(text, " {}", summary(&bytes[..read_length])).unwrap();
                    bytes.advance(read_length);
                }
            }
            0x668e_33ef => {
                let (flags, kind, cookie) = (bytes.get_u16(), bytes.get_u16(), bytes.get_u64());
                let mut payload = &bytes[4..][..(&bytes[..4]).get_u32() as usize];
                bytes.advance(4 + payload.len());
                let done = if flags == 1 { " done" } else { "" };
                write!(text, "{cookie}: chunk{done} ").unwrap();
                match kind {
                    0 => write!(text, "none"),
                    1 => write!(text, "data at {} {}", payload.get_u64(), summary(payload)),
                    2 => write!(text, "hole at {} of {}", payload.get_u64(), payload.get_u32()),
                    5 => write!(text, "status {payload:?}"),
                    _ => {
                        write!(text, "error {}: {}", payload.get_u32(), payload[2..].escape_ascii())
                    }
                }
                .unwrap();
            }
            other => panic!("{other:#x} starts no reply after\n{text}"),
        }
        text.push('\n');
    }
    text
}

/// Runs of equal bytes.
fn summary(data: &[u8]) -> String {
    let runs = data.chunk_by(|a, b| a == b).map(|run| format!("{}x{}", run.len(), run[0]));
    runs.collect::<Vec<_>>().join("+")
}

fn disk() -> Arc<MemoryDisk> {
    Arc::new(MemoryDisk::new(SIZE))
}

#[track_caller]
fn check((bytes, end): &(Vec<u8>, End), read_length: usize, expected: &Expect) {
    expected.assert_eq(&format!("{}{end}\n", transcript(bytes, read_length)));
}

#[tokio::test]
async fn simple_replies() {
    let mut client = Client::new(disk(), false);
    client.write(0, 1000, &[7; 50]).await;
    client.send(CMD_FLUSH, 0, 0, 0).await;
    client.send(CMD_TRIM, FLAG_FUA, 0, 512).await;
    client.send(CMD_READ, FLAG_DF, 0, 512).await;
    check(
        &client.finish().await,
        0,
        &expect![[r#"
            1: simple 0
            2: simple 0
            3: simple 0
            4: simple 22
            the client disconnected
        "#]],
    );
}

#[tokio::test]
async fn simple_reads_carry_holes_as_zeroes() {
    let disk = disk();
    disk.write(65_530, Bytes::from_static(&[7; 10]), false).await.unwrap();
    let mut client = Client::new(disk, false);
    client.send(CMD_READ, 0, 65_528, 16).await;
    client.send(CMD_READ, 0, 1 << 19, 16).await;
    check(
        &client.finish().await,
        16,
        &expect![[r#"
            1: simple 0 2x0+10x7+4x0
            2: simple 0 16x0
            the client disconnected
        "#]],
    );
}

#[tokio::test]
async fn structured_reads_have_holes_unless_they_must_be_whole() {
    let disk = disk();
    disk.write(65_536, Bytes::from_static(&[7; 4]), false).await.unwrap();
    let mut client = Client::new(disk, true);
    client.send(CMD_READ, 0, 65_532, 8).await;
    client.send(CMD_READ, FLAG_DF, 65_532, 8).await;
    client.send(CMD_READ, FLAG_DF, 0, 100).await;
    client.send(CMD_READ, 0, 0, 0).await;
    client.send(CMD_READ, 0, SIZE, 1).await;
    check(
        &client.finish().await,
        0,
        &expect![[r#"
            1: chunk hole at 65532 of 4
            1: chunk done data at 65536 4x7
            2: chunk done data at 65532 4x0+4x7
            3: chunk done hole at 0 of 100
            4: chunk done none
            5: chunk done error 22: invalid request
            the client disconnected
        "#]],
    );
}

#[tokio::test]
async fn block_status() {
    let disk = disk();
    disk.write(0, Bytes::from_static(&[7]), false).await.unwrap();
    let mut client = Client::new(disk, true);
    client.send(CMD_BLOCK_STATUS, 0, 0, 131_072).await;
    client.send(CMD_BLOCK_STATUS, FLAG_REQ_ONE, 65_535, 131_072).await;
    check(
        &client.finish().await,
        0,
        &expect![[r#"
            1: chunk done status [0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 3]
            2: chunk done status [0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0]
            the client disconnected
        "#]],
    );
}

#[tokio::test]
async fn fast_zeroes_are_fast_or_refused() {
    let mut client = Client::new(disk(), true);
    client.send(CMD_WRITE_ZEROES, FLAG_FAST_ZERO, 0, 4096).await;
    client.send(CMD_WRITE_ZEROES, FLAG_FAST_ZERO, 0, 1 << 19).await;
    check(
        &client.finish().await,
        0,
        &expect![[r#"
            1: chunk done error 95: operation not supported
            2: simple 0
            the client disconnected
        "#]],
    );
}

/// The payload of a refused write is skipped, and the next request understood.
#[tokio::test]
async fn refused_writes_do_not_lose_the_frame() {
    let info = ExportInfo { read_only: true, ..ExportInfo::new(SIZE) };
    let mut client = Client::new(Arc::new(MemoryDisk::with_info(info)), true);
    client.write(0, 0, &[7; 100_000]).await;
    client.send(CMD_READ, 0, 0, 8).await;
    check(
        &client.finish().await,
        0,
        &expect![[r#"
            1: chunk done error 1: operation not permitted
            2: chunk done hole at 0 of 8
            the client disconnected
        "#]],
    );

    let mut client = Client::new(disk(), true);
    client.write(0, SIZE - 1, &[7; 2]).await;
    client.send(99, 0, 0, 0).await;
    client.write(0, 0, &vec![7; 33 << 20]).await;
    client.send(CMD_READ, 0, 0, 8).await;
    check(
        &client.finish().await,
        0,
        &expect![[r#"
            1: chunk done error 28: no space left
            2: chunk done error 22: invalid request
            3: chunk done error 22: invalid request
            4: chunk done hole at 0 of 8
            the client disconnected
        "#]],
    );
}

#[tokio::test]
async fn hostile_requests_end_the_connection() {
    let mut client = Client::new(disk(), false);
    client.send(CMD_WRITE, 0, 0, u32::MAX).await;
    check(
        &client.rest().await,
        0,
        &expect![[r#"
            1: simple 22
            the client announced a payload of 4294967295 bytes
        "#]],
    );
    let mut client = Client::new(disk(), false);
    client.send(CMD_FLUSH, 0, 0, 0).await;
    client.stream.write_all(&[0; RequestHead::LEN]).await.unwrap();
    check(
        &client.rest().await,
        0,
        &expect![[r#"
            1: simple 0
            the client lost the protocol
        "#]],
    );
}

#[tokio::test]
async fn a_client_that_leaves_in_a_request_is_no_error() {
    for cut in [1, 27, 28, 40] {
        let mut client = Client::new(disk(), false);
        client.write(0, 0, &[7; 100]).await;
        let head = RequestHead { flags: 0, command: CMD_WRITE, cookie: 2, offset: 0, length: 100 };
        let torn = [head.encode(), vec![8; 100]].concat();
        client.stream.write_all(&torn[..cut]).await.unwrap();
        client.stream.shutdown().await.unwrap();
        let (replies, end) = client.rest().await;
        assert_eq!(transcript(&replies, 0), "1: simple 0\n");
        assert!(matches!(end, End::Eof), "{end}");
    }
}

/// An export that answers with the wrong number of bytes, or no extent.
struct Liar;

#[async_trait]
impl Export for Liar {
    fn info(&self) -> ExportInfo {
        ExportInfo::new(SIZE)
    }
    async fn read(&self, _: u64, length: u32) -> Result<ReadData, ExportError> {
        Ok(Bytes::from(vec![0; length as usize + 1]).into())
    }
    async fn write(&self, _: u64, _: Bytes, _: bool) -> Result<(), ExportError> {
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
    async fn block_status(&self, _: u64, _: u64) -> Result<Vec<Extent>, ExportError> {
        Ok(Vec::new())
    }
    async fn close(&self) {}
}

#[tokio::test]
async fn a_wrong_answer_of_an_export_is_an_error_and_no_desync() {
    let mut client = Client::new(Arc::new(Liar), true);
    client.send(CMD_READ, 0, 0, 8).await;
    client.send(CMD_BLOCK_STATUS, 0, 0, 8).await;
    client.send(CMD_FLUSH, 0, 0, 0).await;
    check(
        &client.finish().await,
        0,
        &expect![[r#"
            1: chunk done error 5: input/output error
            2: chunk done error 5: input/output error
            3: simple 0
            the client disconnected
        "#]],
    );
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        runtime().block_on(async {
            let mut client = Client::new(disk(), true);
            client.stream.write_all(&bytes).await.unwrap();
            client.stream.shutdown().await.unwrap();
            client.rest().await;
        });
    }

    /// Any requests with a true frame: each gets one whole reply.
    #[test]
    fn every_request_is_answered_once(
        requests in prop::collection::vec(
            (0u16..9, 0u16..32, 0u64..SIZE + 1000, 0u32..3000), 1..150),
        structured: bool,
    ) {
        runtime().block_on(async {
            let mut client = Client::new(disk(), structured);
            let requests: Vec<_> = requests.into_iter()
                // Simple replies to reads have no length of their own.
                .filter(|(command, ..)| *command != CMD_DISC && (structured || *command != CMD_READ))
                .collect();
            for &(command, flags, offset, length) in &requests {
                if command == CMD_WRITE {
                    client.write(flags, offset, &vec![7; length as usize]).await;
                } else {
                    client.send(command, flags, offset, length).await;
                }
            }
            let (replies, end) = client.finish().await;
            assert!(matches!(end, End::Disconnected), "{end}");
            let text = transcript(&replies, 0);
            for cookie in 1..=requests.len() {
                let last = |line: &&str| {
                    line.starts_with(&format!("{cookie}: simple"))
                        || line.starts_with(&format!("{cookie}: chunk done"))
                };
                assert_eq!(text.lines().filter(last).count(), 1, "{cookie} in\n{text}");
            }
        });
    }
}
