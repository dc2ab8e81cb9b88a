//! openraft's network: requests to one other member, each with a deadline.

use std::future::Future;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{self, BoxFuture};
use futures::stream::BoxStream;
use futures::{FutureExt, Stream, StreamExt};
use openraft::alias::{SnapshotOf, VoteOf};
use openraft::errors::{
    NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable,
};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderError,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{BasicNode, OptionalSend, RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use super::appends::Appended;
use super::channels::{Channels, Lane};
use super::envelope;
use super::line::Line;
use crate::config::{LogId, TypeConfig};
use crate::error::DecodeError;
use crate::snapshot::SnapshotFile;
use crate::storage::Blocking;
use crate::wire::proto::raft_client::RaftClient;
use crate::wire::{proto, required};

pub(super) type RpcError = RPCError<TypeConfig>;

const CHUNK_SIZE: usize = 512 << 10;

/// The way to one other member.
pub(crate) struct Network {
    pub(super) channels: Channels,
    target: u64,
    pub(super) address: String,
    lane: Lane,
    /// By which appends go, unless one is under way; made when it is needed. openraft has a network for
    /// heartbeats alone, so that they have a line of their own.
    pub(super) line: Option<Line>,
    /// A line that is being made.
    pub(super) connecting: Option<AbortOnDropHandle<io::Result<Line>>>,
}

impl RaftNetworkFactory<TypeConfig> for Channels {
    type Network = Network;

    async fn new_client(&mut self, target: u64, node: &BasicNode) -> Network {
        self.network(target, node, Lane::Calls)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &BasicNode) -> Network {
        self.network(target, node, Lane::Snapshot)
    }
}

impl Channels {
    pub(super) fn network(&self, target: u64, node: &BasicNode, lane: Lane) -> Network {
        let (channels, address) = (self.clone(), node.addr.clone());
        Network { channels, target, address, lane, line: None, connecting: None }
    }
}

impl Network {
    fn client(&self) -> Result<RaftClient<Channel>, RpcError> {
        self.channels.client(self.target, &self.address, self.lane).ok_or_else(|| {
            let text = format!("node {} has no usable address: {}", self.target, self.address);
            RPCError::Unreachable(Unreachable::from_string(text))
        })
    }

    pub(super) fn envelope(&self) -> Option<proto::Envelope> {
        Some(envelope(self.channels.from, self.target))
    }

    /// Waits for a reply, not longer than `limit`.
    async fn call<T>(
        &self,
        action: RPCTypes,
        limit: Duration,
        reply: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, RpcError> {
        match tokio::time::timeout(limit, reply).await {
            Ok(Ok(reply)) => Ok(reply.into_inner()),
            Ok(Err(status)) => Err(self.failed(&status)),
            Err(_) => Err(self.timeout(action, limit).into()),
        }
    }

    pub(super) fn timeout(&self, action: RPCTypes, timeout: Duration) -> Timeout<TypeConfig> {
        Timeout { action, id: self.channels.from.node, target: self.target, timeout }
    }

    /// A member that is away or is another node than expected is left alone for a while; one
    /// that answers nonsense is asked again.
    pub(super) fn failed(&self, status: &Status) -> RpcError {
        let text = format!("node {} at {}: {}", self.target, self.address, status.message());
        if status.code() == Code::FailedPrecondition {
            self.channels.note_refused();
        }
        match status.code() {
            Code::Internal | Code::DataLoss | Code::InvalidArgument => {
                RPCError::Network(NetworkError::from_string(text))
            }
            _ => RPCError::Unreachable(Unreachable::from_string(text)),
        }
    }

    async fn ask_for_vote(
        &self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
        pre: bool,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let request = proto::VoteRequest {
            envelope: self.envelope(),
            vote: Some(request.vote.into()),
            last: request.last_log_id.map(Into::into),
            leadership_transfer: request.leadership_transfer,
        };
        let mut client = self.client()?;
        let limit = option.soft_ttl();
        let reply = if pre {
            self.call(RPCTypes::Vote, limit, client.pre_vote(request)).await?
        } else {
            self.call(RPCTypes::Vote, limit, client.vote(request)).await?
        };
        let vote = required(reply.vote, "vote").map_err(|err| nonsense(&err))?;
        let last = reply.last.map(LogId::from);
        Ok(VoteResponse::new(VoteOf::<TypeConfig>::from(vote), last, reply.granted))
    }

    async fn send_snapshot(
        &self,
        vote: VoteOf<TypeConfig>,
        file: std::fs::File,
        cancel: impl Future<Output = ReplicationClosed>,
        patience: Duration,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let size = file.metadata().map_err(|err| unsendable(&err))?.len();
        let start = proto::snapshot_chunk::Start {
            envelope: self.envelope(),
            vote: Some(vote.into()),
            size,
        };
        let sent = Arc::new(AtomicU64::new(0));
        let mut client = self.client()?;
        // tonic reads the stream while it waits for the reply, which comes after the last chunk.
        let chunks = chunks(start, file, sent.clone(), self.channels.blocking);
        let reply = client.snapshot(chunks);
        tokio::pin!(reply, cancel);
        let mut sent_before = 0;
        loop {
            tokio::select! {
                reply = &mut reply => {
                    let reply = reply.map_err(|status| self.failed(&status))?.into_inner();
                    let vote = required(reply.vote, "vote").map_err(|err| nonsense(&err))?;
                    return Ok(SnapshotResponse::new(vote.into()));
                }
                closed = &mut cancel => return Err(closed.into()),
                () = tokio::time::sleep(patience) => {
                    let sent = sent.load(Ordering::Relaxed);
                    if sent == sent_before {
                        return Err(self.timeout(RPCTypes::InstallSnapshot, patience).into());
                    }
                    sent_before = sent;
                }
            }
        }
    }
}

/// The messages of a snapshot transfer. A file that cannot be read ends the stream early, which
/// the receiver notices by its size.
fn chunks(
    start: proto::snapshot_chunk::Start,
    file: std::fs::File,
    sent: Arc<AtomicU64>,
    blocking: Blocking,
) -> impl Stream<Item = proto::SnapshotChunk> + Send + 'static {
    use proto::snapshot_chunk::Part;
    async_stream::stream! {
        yield proto::SnapshotChunk { part: Some(Part::Start(start)) };
        let file = Arc::new(file);
        loop {
            let from = Arc::clone(&file);
            let chunk = match blocking.run(move || read_chunk(&from)).await {
                Ok(Ok(chunk)) if chunk.is_empty() => return,
                Ok(Ok(chunk)) => chunk,
                Ok(Err(err)) => {
                    tracing::error!(error = %err, "cannot read the snapshot that is being sent");
                    return;
                }
                // The runtime ends.
                Err(_) => return,
            };
            sent.fetch_add(1, Ordering::Relaxed);
            yield proto::SnapshotChunk { part: Some(Part::Data(Bytes::from(chunk))) };
        }
    }
}

fn read_chunk(file: &std::fs::File) -> io::Result<Vec<u8>> {
    let mut chunk = Vec::with_capacity(CHUNK_SIZE);
    file.take(CHUNK_SIZE as u64).read_to_end(&mut chunk)?;
    Ok(chunk)
}

fn unsendable(err: &io::Error) -> StreamingError<TypeConfig> {
    StreamingError::Network(NetworkError::new(err))
}

pub(super) fn nonsense(err: &DecodeError) -> RpcError {
    RPCError::Network(NetworkError::new(err))
}

impl RaftNetworkV2<TypeConfig> for Network {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RpcError> {
        self.append(request, option.soft_ttl()).await
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Appended>, RpcError>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        future::ready(Ok(self.appends(input, option.soft_ttl()).boxed())).boxed()
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        self.ask_for_vote(request, option, false).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        self.ask_for_vote(request, option, true).await
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<TypeConfig>,
        snapshot: SnapshotOf<TypeConfig, SnapshotFile>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        self.send_snapshot(vote, snapshot.snapshot.file, cancel, option.soft_ttl()).await
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        use proto::transfer_response::Outcome;
        let request = proto::TransferRequest {
            envelope: self.envelope(),
            from: Some((*request.from_leader()).into()),
            to: *request.to_node_id(),
            last: request.last_log_id().copied().map(Into::into),
        };
        let mut client = self.client()?;
        let limit = option.soft_ttl();
        let reply = self.call(RPCTypes::TransferLeader, limit, client.transfer_leader(request));
        let outcome = required(reply.await?.outcome, "outcome").map_err(|err| nonsense(&err))?;
        Ok(match outcome {
            Outcome::Accepted(_) => Ok(()),
            Outcome::VoteChanged(votes) => Err(TransferLeaderError::VoteChanged {
                expected: votes.expected.unwrap_or_default().into(),
                actual: votes.actual.unwrap_or_default().into(),
            }),
            Outcome::LogNotFlushed(ids) => Err(TransferLeaderError::LogNotFlushed {
                expected: ids.expected.map(Into::into),
                actual: ids.actual.map(Into::into),
            }),
        })
    }
}

/// Asks `leader` up to which entry a read must have been applied. `None` if it is no leader or
/// does not answer; another attempt may succeed.
pub(crate) async fn read_index(
    channels: &Channels,
    leader: u64,
    address: &str,
    patience: Duration,
) -> Option<u64> {
    let mut client = channels.client(leader, address, Lane::Calls)?;
    let request = proto::ReadIndexRequest {
        envelope: Some(envelope(channels.from, leader)),
        patience_ms: u64::try_from(patience.as_millis()).unwrap_or(u64::MAX),
    };
    match tokio::time::timeout(patience, client.read_index(request)).await.ok()? {
        Ok(reply) => match reply.into_inner().outcome? {
            proto::read_index_response::Outcome::Read(id) => Some(id.index),
            proto::read_index_response::Outcome::NotLeader(_) => None,
        },
        Err(status) => {
            tracing::debug!(leader, %address, error = %status, "the leader gave no read index");
            None
        }
    }
}
