//! What a node refuses from those who can reach its port.

use std::time::Duration;

use bytes::Bytes;
use expect_test::{Expect, expect};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Status;
use tonic::transport::Channel;

use crate::RaftNode;
use crate::machine::{SnapshotWriter, StateMachine};
use crate::options::{Identity, Options};
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
        let router = tonic::transport::Server::builder().add_service(node.transport());
        tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
        let client = RaftClient::connect(format!("http://{address}")).await.unwrap();
        Self { node, dir, client }
    }

    async fn append(&mut self, request: proto::AppendRequest, expected: Expect) {
        expected.assert_eq(&refusal(self.client.append(request).await));
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
    let mut target = Target::start().await;
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
    let channels =
        super::Channels::new(from, crate::Dial::default(), crate::storage::Blocking::Threads);
    let patience = Duration::from_secs(5);
    for address in ["", "no port", "127.0.0.1:1"] {
        assert_eq!(super::read_index(&channels, 2, address, patience).await, None);
    }
}
