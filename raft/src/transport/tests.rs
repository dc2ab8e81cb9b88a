//! What a node refuses from those who can reach its port.

use std::time::Duration;

use bytes::Bytes;
use expect_test::{Expect, expect};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Status;
use tonic::transport::Channel;
use torus_dial::Dial;

use super::line::{Line, MAGIC};
use crate::RaftNode;
use crate::machine::{SnapshotWriter, StateMachine};
use crate::options::{Identity, Options};
use crate::wire::proto::append_response::Outcome;
use crate::wire::proto::raft_client::RaftClient;
use crate::wire::proto::snapshot_chunk::{Part, Start};
use crate::wire::proto::{self, Envelope, LogId, SnapshotChunk, Vote};

const CLUSTER: [u8; 16] = [7; 16];
const LEADER: Vote = Vote { term: 1, node: 1, committed: true };
const CANDIDATE: Vote = Vote { term: 1, node: 1, committed: false };

struct Nothing;

impl StateMachine for Nothing {
    fn apply(&mut self, _: u64, _: &[u8]) -> Vec<u8> {
        Vec::new()
    }

    fn snapshot(&self) -> SnapshotWriter {
        Box::new(|_| Ok(()))
    }

    fn restore(&mut self, _: &mut dyn std::io::Read) -> std::io::Result<()> {
        Ok(())
    }
}

/// Node 2 of the group, which has joined and heard of nobody yet.
struct Target {
    node: RaftNode,
    dir: TempDir,
    address: String,
    client: RaftClient<Channel>,
}

impl Target {
    async fn start() -> Self {
        let dir = TempDir::new().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let mut options = Options::new(dir.path(), &address);
        options.snapshot_size_max = 1000;
        let identity = Identity::first(CLUSTER, 2);
        let node = RaftNode::join(options, identity, Nothing).await.unwrap();
        let transport = node.transport();
        let router = tonic::transport::Server::builder().add_service(transport.clone());
        let incoming = TcpListenerStream::new(listener);
        let incoming = crate::divide(incoming, move || Some(transport.clone()));
        tokio::spawn(router.serve_with_incoming(incoming));
        let client = RaftClient::connect(format!("http://{address}")).await.unwrap();
        Self { node, dir, address, client }
    }

    async fn line(&self) -> Line {
        Line::open(&Dial::default(), &self.address).await.unwrap()
    }

    async fn append(&self, request: proto::AppendRequest, expected: Expect) {
        let mut line = self.line().await;
        line.send(&request).await.unwrap();
        let Some(Outcome::Refusal(refusal)) = line.answer().await.unwrap().outcome else {
            panic!("{request:?} was taken")
        };
        expected.assert_eq(&format!("{:?}: {}", tonic::Code::from(refusal.code), refusal.text));
    }

    async fn snapshot(&mut self, parts: &[Part], expected: Expect) {
        let chunks: Vec<_> =
            parts.iter().map(|part| SnapshotChunk { part: Some(part.clone()) }).collect();
        let reply = self.client.snapshot(tokio_stream::iter(chunks)).await;
        expected.assert_eq(&refusal(reply));
    }

    /// Ends the node after a check that it has kept nothing of all that.
    async fn end(self) {
        assert_eq!(std::fs::read_dir(self.dir.path().join("snapshot")).unwrap().count(), 0);
        let status = self.node.status();
        assert_eq!((status.last_log, status.term), (None, 0));
        self.node.shutdown().await;
    }
}

fn refusal<T: std::fmt::Debug>(reply: Result<T, Status>) -> String {
    let status = reply.unwrap_err();
    format!("{:?}: {}", status.code(), status.message())
}

fn to_node_2() -> Option<Envelope> {
    Some(Envelope { group: CLUSTER.to_vec().into(), source: 1, target: 2 })
}

fn append() -> proto::AppendRequest {
    proto::AppendRequest {
        envelope: to_node_2(),
        vote: Some(LEADER),
        previous: None,
        entries: Vec::new(),
        committed: None,
    }
}

fn blank(index: u64) -> proto::Entry {
    let payload = Some(proto::entry::Payload::Blank(proto::Blank {}));
    proto::Entry { id: Some(LogId { term: 1, node: 1, index }), payload }
}

fn start(size: u64) -> Part {
    Part::Start(Start { envelope: to_node_2(), vote: Some(LEADER), size })
}

fn data(bytes: &'static [u8]) -> Part {
    Part::Data(Bytes::from_static(bytes))
}

#[tokio::test]
async fn appends() {
    let target = Target::start().await;
    target
        .append(
            proto::AppendRequest { envelope: None, ..append() },
            expect!["InvalidArgument: no envelope"],
        )
        .await;
    let elsewhere = Envelope { group: vec![8; 16].into(), source: 1, target: 2 };
    let request = proto::AppendRequest { envelope: Some(elsewhere), ..append() };
    target.append(request, expect!["FailedPrecondition: this node belongs to another group"]).await;
    let other = Envelope { target: 3, ..to_node_2().unwrap() };
    let request = proto::AppendRequest { envelope: Some(other), ..append() };
    target.append(request, expect!["FailedPrecondition: this is node 2, not node 3"]).await;
    target
        .append(
            proto::AppendRequest { vote: None, ..append() },
            expect!["InvalidArgument: field vote is missing"],
        )
        .await;
    let request = proto::AppendRequest { vote: Some(CANDIDATE), ..append() };
    target
        .append(request, expect!["InvalidArgument: field vote has a value that it cannot have"])
        .await;
    let request = proto::AppendRequest { entries: vec![blank(0), blank(2)], ..append() };
    target
        .append(request, expect!["InvalidArgument: field entries has a value that it cannot have"])
        .await;
    let half = proto::Entry { payload: None, ..blank(0) };
    target
        .append(
            proto::AppendRequest { entries: vec![half], ..append() },
            expect!["InvalidArgument: field payload is missing"],
        )
        .await;
    target.end().await;
}

/// Whether the other side ends a connection on which `bytes` came.
async fn ends_after(target: &Target, bytes: &[u8]) -> bool {
    let mut stream = TcpStream::connect(&target.address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer));
    read.await.is_ok() && answer.is_empty()
}

#[tokio::test]
async fn what_is_no_frame_ends_its_line() {
    let target = Target::start().await;
    let whole = |length: u32, rest: &[u8]| [&MAGIC[..], &length.to_le_bytes(), rest].concat();
    // Longer than any message, shorter than its checksum, with another checksum, no message.
    assert!(ends_after(&target, &whole(1 << 30, b"")).await);
    assert!(ends_after(&target, &whole(3, b"abc")).await);
    assert!(ends_after(&target, &whole(8, b"0000data")).await);
    let crc = crc32fast::hash(b"data").to_le_bytes();
    assert!(ends_after(&target, &whole(8, &[&crc[..], b"data"].concat())).await);
    // The port goes on, by a line and by gRPC.
    let mut line = target.line().await;
    line.send(&append()).await.unwrap();
    line.send(&append()).await.unwrap();
    for _ in 0..2 {
        let answer = line.answer().await.unwrap().outcome;
        assert!(matches!(answer, Some(Outcome::Success(_))), "{answer:?}");
    }
    let mut client = target.client.clone();
    let vote = proto::VoteRequest { envelope: to_node_2(), ..proto::VoteRequest::default() };
    assert_eq!(refusal(client.vote(vote).await), "InvalidArgument: field vote is missing");
    target.node.shutdown().await;
}

#[tokio::test]
async fn snapshots() {
    let mut target = Target::start().await;
    target.snapshot(&[], expect!["InvalidArgument: a snapshot begins with its announcement"]).await;
    target
        .snapshot(
            &[data(b"abc")],
            expect!["InvalidArgument: a snapshot begins with its announcement"],
        )
        .await;
    target
        .snapshot(&[start(1001)], expect!["ResourceExhausted: 1001 bytes exceed the limit of 1000"])
        .await;
    target
        .snapshot(
            &[start(10), data(b"four")],
            expect!["Aborted: 6 bytes of the snapshot are missing"],
        )
        .await;
    target
        .snapshot(&[start(3), data(b"four")], expect!["InvalidArgument: more bytes than announced"])
        .await;
    target
        .snapshot(&[start(10), start(10)], expect!["Aborted: 10 bytes of the snapshot are missing"])
        .await;
    let garbage = [start(40), data(b"0123456789012345678901234567890123456789")];
    target.snapshot(&garbage, expect!["DataLoss: the snapshot arrived damaged: the file does not begin with the magic of a snapshot"]).await;
    let candidate = Part::Start(Start { envelope: to_node_2(), vote: Some(CANDIDATE), size: 1 });
    target
        .snapshot(
            &[candidate, data(b"x")],
            expect!["InvalidArgument: field vote has a value that it cannot have"],
        )
        .await;
    let nobody = Part::Start(Start { envelope: None, vote: Some(LEADER), size: 1 });
    target.snapshot(&[nobody, data(b"x")], expect!["InvalidArgument: no envelope"]).await;
    target.end().await;
}

#[tokio::test]
async fn nobody_answers_at_an_address_that_is_none() {
    let from = Identity::first(CLUSTER, 1);
    let channels = super::Channels::new(from, Dial::default(), crate::storage::Blocking::Threads);
    let patience = Duration::from_secs(5);
    for address in ["", "no port", "127.0.0.1:1"] {
        assert_eq!(super::read_index(&channels, 2, address, patience).await, None);
    }
}
