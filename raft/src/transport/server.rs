//! Answers the requests of the other members.

use std::convert::Infallible;
use std::io::{self, Write};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use openraft::errors::{LinearizableReadError, RaftError};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderError, TransferLeaderRequest,
    VoteRequest, VoteResponse,
};
use openraft::storage::Snapshot;
use openraft::{LinearizerOption, ReadPolicy};
use tokio::sync::Semaphore;
use tonic::codegen::{BoxFuture, http};
use tonic::server::NamedService;
use tonic::{Code, Request, Response, Status, Streaming, async_trait};

use super::admit;
use super::line::{Line, SILENCE};
use crate::config::{Entry, LogId, MESSAGE_SIZE_MAX, Raft, SnapshotMeta, TypeConfig, Vote};
use crate::error::DecodeError;
use crate::node::Space;
use crate::options::Identity;
use crate::snapshot::{Draft, Shelf, SnapshotFile, read_meta};
use crate::wire::proto::raft_server::{Raft as Service, RaftServer};
use crate::wire::{self, proto, required};

/// A leader that sends nothing of a snapshot for this long has given up.
const CHUNK_PATIENCE: Duration = Duration::from_secs(30);
/// An append by a line that takes longer is one that its leader has given up.
const APPEND_PATIENCE: Duration = Duration::from_secs(5);
/// Longest time that a member may ask the leader to try to confirm a read.
const READ_PATIENCE_MAX: Duration = Duration::from_secs(30);

/// The gRPC service of one node, to be added to a router of the node's address. What comes to that
/// address must be [divided](super::divide()), for appends come another way.
#[derive(Clone)]
pub struct Transport {
    service: RaftServer<Receiver>,
    receiver: Arc<Receiver>,
}

impl Transport {
    pub(crate) fn new(receiver: Receiver) -> Self {
        let receiver = Arc::new(receiver);
        let service = RaftServer::from_arc(Arc::clone(&receiver))
            .max_decoding_message_size(MESSAGE_SIZE_MAX)
            .max_encoding_message_size(MESSAGE_SIZE_MAX);
        Self { service, receiver }
    }

    /// Answers what comes by a line until that ends.
    pub(super) async fn serve(self, line: Line) {
        if let Err(error) = self.receiver.serve(line).await {
            tracing::debug!(%error, "a line broke");
        }
    }
}

impl NamedService for Transport {
    const NAME: &'static str = <RaftServer<Receiver> as NamedService>::NAME;
}

impl tonic::codegen::Service<http::Request<tonic::body::Body>> for Transport {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        self.service.call(request)
    }
}

pub(crate) struct Receiver {
    identity: Identity,
    raft: Raft,
    shelf: Arc<Shelf>,
    space: Arc<Space>,
    snapshot_size_max: u64,
    // One snapshot at a time: each may be as large as the disk has room for.
    receiving: Semaphore,
}

impl Receiver {
    pub(crate) fn new(
        identity: Identity,
        raft: Raft,
        shelf: Arc<Shelf>,
        space: Arc<Space>,
        snapshot_size_max: u64,
    ) -> Self {
        Self { identity, raft, shelf, space, snapshot_size_max, receiving: Semaphore::new(1) }
    }

    async fn serve(&self, mut line: Line) -> io::Result<()> {
        while let Ok(request) = tokio::time::timeout(SILENCE, line.receive()).await {
            let Some(request) = request? else { break };
            let appended = tokio::time::timeout(APPEND_PATIENCE, self.append(request)).await?;
            let (response, is_over) = match appended {
                Ok(outcome) => (outcome, false),
                Err(status) => {
                    let (code, text) = (status.code().into(), status.message().to_owned());
                    let refusal = proto::append_response::Refusal { code, text };
                    let outcome = proto::append_response::Outcome::Refusal(refusal);
                    // The node has ended; another may have begun in its place.
                    (outcome, status.code() == Code::Unavailable)
                }
            };
            line.send(&proto::AppendResponse { outcome: Some(response) }).await?;
            if is_over {
                break;
            }
        }
        Ok(())
    }

    async fn append(
        &self,
        request: proto::AppendRequest,
    ) -> Result<proto::append_response::Outcome, Status> {
        use proto::append_response::{Conflict, Outcome, Partial, Success};
        admit(self.identity, request.envelope.as_ref())?;
        let request = append_request(request)?;
        // Heartbeats pass, so the leader stays known and nobody campaigns.
        if !request.entries.is_empty() && self.space.is_exhausted() {
            return Err(Status::resource_exhausted("the disk of the log is full"));
        }
        let reply = self.raft.append_entries(request).await.map_err(|err| broken(&err))?;
        Ok(match reply {
            AppendEntriesResponse::Success => Outcome::Success(Success {}),
            AppendEntriesResponse::PartialSuccess(matched) => {
                Outcome::Partial(Partial { matched: matched.map(Into::into) })
            }
            AppendEntriesResponse::Conflict => Outcome::Conflict(Conflict {}),
            AppendEntriesResponse::HigherVote(vote) => Outcome::HigherVote(vote.into()),
        })
    }

    fn vote_request(&self, request: proto::VoteRequest) -> Result<VoteRequest<TypeConfig>, Status> {
        admit(self.identity, request.envelope.as_ref())?;
        let vote: Vote = required(request.vote, "vote").map_err(|err| refused(&err))?.into();
        let last = request.last.map(LogId::from);
        // A candidate's vote is not a leader's: taken for one, it would need no election.
        if vote.committed || !is_sane(&vote) || !last.as_ref().is_none_or(is_near) {
            return Err(refused(&DecodeError::Invalid { field: "vote" }));
        }
        let mut decoded = VoteRequest::new(vote, last);
        decoded.leadership_transfer = request.leadership_transfer;
        Ok(decoded)
    }

    /// Receives the file that `start` announced, up to its last byte.
    async fn receive(
        &self,
        size: u64,
        stream: &mut Streaming<proto::SnapshotChunk>,
    ) -> Result<(std::fs::File, Draft), Status> {
        if size > self.snapshot_size_max {
            let text = format!("{size} bytes exceed the limit of {}", self.snapshot_size_max);
            return Err(Status::resource_exhausted(text));
        }
        if !self.space.has_room(size) {
            let text = format!("the disk of the log has no room for a snapshot of {size} bytes");
            return Err(Status::resource_exhausted(text));
        }
        let (file, draft) = self.shelf.draft().map_err(|err| broken(&err))?;
        let file = Arc::new(file);
        let mut missing = size;
        while missing > 0 {
            let Some(proto::snapshot_chunk::Part::Data(data)) = next(stream).await? else {
                return Err(Status::aborted(format!(
                    "{missing} bytes of the snapshot are missing"
                )));
            };
            missing = missing
                .checked_sub(data.len() as u64)
                .ok_or_else(|| Status::invalid_argument("more bytes than announced"))?;
            let to = Arc::clone(&file);
            let write = move || (&*to).write_all(&data);
            let written = self.shelf.blocking().run(write).await.map_err(|err| broken(&err))?;
            written.map_err(|err| broken(&err))?;
        }
        let file = Arc::into_inner(file).ok_or_else(|| Status::internal("the file is in use"))?;
        Ok((file, draft))
    }

    /// Checks every byte of a received file.
    async fn check(&self, file: std::fs::File) -> Result<(std::fs::File, SnapshotMeta), Status> {
        let group = self.identity.group;
        let read = move || read_meta(&file, group).map(|meta| (file, meta));
        let blocking = self.shelf.blocking();
        let (file, meta) = blocking
            .run(read)
            .await
            .map_err(|err| broken(&err))?
            .map_err(|err| Status::data_loss(format!("the snapshot arrived damaged: {err}")))?;
        if meta.last_log_id.is_none() {
            return Err(Status::invalid_argument("the snapshot is of an empty log"));
        }
        Ok((file, meta))
    }
}

/// The next part of a snapshot; an error if the leader falls silent.
async fn next(
    stream: &mut Streaming<proto::SnapshotChunk>,
) -> Result<Option<proto::snapshot_chunk::Part>, Status> {
    let message = tokio::time::timeout(CHUNK_PATIENCE, stream.message())
        .await
        .map_err(|_| Status::deadline_exceeded("no part of the snapshot came"))??;
    Ok(message.and_then(|chunk| chunk.part))
}

fn refused(err: &DecodeError) -> Status {
    Status::invalid_argument(err.to_string())
}

fn broken(err: &impl std::error::Error) -> Status {
    Status::unavailable(err.to_string())
}

/// Only a leader's vote goes with entries and snapshots; openraft takes that for granted.
fn leader_vote(vote: Option<proto::Vote>) -> Result<Vote, Status> {
    let vote: Vote = required(vote, "vote").map_err(|err| refused(&err))?.into();
    if !vote.committed || !is_sane(&vote) {
        return Err(refused(&DecodeError::Invalid { field: "vote" }));
    }
    Ok(vote)
}

/// Terms and indexes count what happened; the second half of their range is never reached, and
/// arithmetic on a number from there would end the process.
const FAR: u64 = u64::MAX / 2;

fn is_sane(vote: &Vote) -> bool {
    vote.leader_id.term < FAR
}

fn is_near(id: &LogId) -> bool {
    id.index < FAR && id.leader_id.term < FAR
}

fn append_request(
    request: proto::AppendRequest,
) -> Result<AppendEntriesRequest<TypeConfig>, Status> {
    let vote = leader_vote(request.vote)?;
    let prev_log_id = request.previous.map(LogId::from);
    let committed = request.committed.map(LogId::from);
    if ![&prev_log_id, &committed].into_iter().flatten().all(is_near) {
        return Err(refused(&DecodeError::Invalid { field: "previous" }));
    }
    let entries: Vec<Entry> = request
        .entries
        .into_iter()
        .map(wire::entry)
        .collect::<Result<_, _>>()
        .map_err(|err| refused(&err))?;
    let first = prev_log_id.map_or(0, |id| id.index + 1);
    if !entries.iter().zip(first..).all(|(entry, index)| entry.log_id.index == index) {
        return Err(refused(&DecodeError::Invalid { field: "entries" }));
    }
    Ok(AppendEntriesRequest { vote, prev_log_id, entries, leader_commit: committed })
}

#[async_trait]
impl Service for Receiver {
    async fn vote(
        &self,
        request: Request<proto::VoteRequest>,
    ) -> Result<Response<proto::VoteResponse>, Status> {
        let request = self.vote_request(request.into_inner())?;
        let reply = self.raft.vote(request).await.map_err(|err| broken(&err))?;
        Ok(vote_response(&reply))
    }

    async fn pre_vote(
        &self,
        request: Request<proto::VoteRequest>,
    ) -> Result<Response<proto::VoteResponse>, Status> {
        let request = self.vote_request(request.into_inner())?;
        let reply = self.raft.pre_vote(request).await.map_err(|err| broken(&err))?;
        Ok(vote_response(&reply))
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<proto::SnapshotChunk>>,
    ) -> Result<Response<proto::SnapshotResponse>, Status> {
        let mut stream = request.into_inner();
        let Some(proto::snapshot_chunk::Part::Start(start)) = next(&mut stream).await? else {
            return Err(Status::invalid_argument("a snapshot begins with its announcement"));
        };
        admit(self.identity, start.envelope.as_ref())?;
        let vote = leader_vote(start.vote)?;
        let _permit = self
            .receiving
            .try_acquire()
            .map_err(|_| Status::unavailable("another snapshot is being received"))?;
        let (file, draft) = self.receive(start.size, &mut stream).await?;
        let (file, meta) = self.check(file).await?;
        let snapshot = Snapshot { meta, snapshot: SnapshotFile { file, draft: Some(draft) } };
        let reply =
            self.raft.install_full_snapshot(vote, snapshot).await.map_err(|err| broken(&err))?;
        Ok(Response::new(proto::SnapshotResponse { vote: Some(reply.vote.into()) }))
    }

    async fn transfer_leader(
        &self,
        request: Request<proto::TransferRequest>,
    ) -> Result<Response<proto::TransferResponse>, Status> {
        use proto::transfer_response::{Accepted, LogNotFlushed, Outcome, VoteChanged};
        let request = request.into_inner();
        admit(self.identity, request.envelope.as_ref())?;
        let from = leader_vote(request.from)?;
        let request = TransferLeaderRequest::new(from, request.to, request.last.map(LogId::from));
        let reply = self.raft.handle_transfer_leader(request).await.map_err(|err| broken(&err))?;
        let outcome = match reply {
            Ok(()) => Outcome::Accepted(Accepted {}),
            Err(TransferLeaderError::VoteChanged { expected, actual }) => {
                Outcome::VoteChanged(VoteChanged {
                    expected: Some(expected.into()),
                    actual: Some(actual.into()),
                })
            }
            Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
                Outcome::LogNotFlushed(LogNotFlushed {
                    expected: expected.map(Into::into),
                    actual: actual.map(Into::into),
                })
            }
        };
        Ok(Response::new(proto::TransferResponse { outcome: Some(outcome) }))
    }

    async fn read_index(
        &self,
        request: Request<proto::ReadIndexRequest>,
    ) -> Result<Response<proto::ReadIndexResponse>, Status> {
        use proto::read_index_response::{NotLeader, Outcome};
        let request = request.into_inner();
        admit(self.identity, request.envelope.as_ref())?;
        let patience = Duration::from_millis(request.patience_ms).min(READ_PATIENCE_MAX);
        let option = LinearizerOption::from(ReadPolicy::ReadIndex).with_wait_timeout(patience);
        let outcome = match self.raft.get_read_linearizer(option).await {
            Ok(linearizer) => Outcome::Read((*linearizer.read_log_id().log_id()).into()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(to))) => {
                let leader = to.leader_id.zip(to.leader_node);
                let leader = leader.map(|(node, at)| proto::Member { node, address: at.addr });
                Outcome::NotLeader(NotLeader { leader })
            }
            Err(err) => return Err(broken(&err)),
        };
        Ok(Response::new(proto::ReadIndexResponse { outcome: Some(outcome) }))
    }
}

fn vote_response(reply: &VoteResponse<TypeConfig>) -> Response<proto::VoteResponse> {
    Response::new(proto::VoteResponse {
        vote: Some(reply.vote.into()),
        granted: reply.vote_granted,
        last: reply.last_log_id.map(Into::into),
    })
}
