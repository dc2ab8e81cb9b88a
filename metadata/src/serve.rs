//! The gRPC side of a member: protobuf in, domain types out.

use std::sync::Arc;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use tokio::sync::watch;
use tonic::{Request, Response as Reply, Status};

use crate::machine::RequestId;
use crate::wire::proto::metadata_server::{Metadata, MetadataServer};
use crate::wire::{Failure, KeptAlive, Malformed, proto, watch_replies};
use crate::{
    Answer, Command, Error, EventKind, Query, Refusal, Response, Revision, SessionId, WatchItem,
};

/// The largest message that is taken; the list of all volumes is the one that grows.
pub(crate) const MESSAGE_MAX: usize = 256 << 20;

/// One member's own answers: a single attempt each, and a [`Failure`] where another attempt, or
/// another member, may do better.
pub(crate) trait Backend: Send + Sync + 'static {
    fn execute(
        &self,
        request: RequestId,
        command: Command,
    ) -> BoxFuture<'_, Result<Response, Failure>>;

    /// Linearizably, or by what this member knows, however old that is.
    fn query(&self, query: Query, freshness: Freshness) -> BoxFuture<'_, Result<Answer, Failure>>;

    fn keep_alive(&self, session: SessionId) -> BoxFuture<'_, Result<KeptAlive, Failure>>;

    /// The changes after `from`, or without it all there is and the changes after that.
    fn watch(
        &self,
        from: Option<Revision>,
        kinds: Vec<EventKind>,
    ) -> BoxStream<'static, Result<WatchItem, Error>>;
}

/// How new an answer must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// It contains every command that was answered before the question.
    Linearizable,
    /// Whatever the member knows will do.
    Stale,
}

/// Where the group's members listen, as replies tell clients; it changes as members come and go.
#[derive(Clone)]
pub(crate) struct Members(watch::Receiver<Vec<String>>);

impl From<Vec<String>> for Members {
    fn from(addresses: Vec<String>) -> Self {
        Self(watch::channel(addresses).1)
    }
}

impl From<watch::Receiver<Vec<String>>> for Members {
    fn from(addresses: watch::Receiver<Vec<String>>) -> Self {
        Self(addresses)
    }
}

impl Members {
    fn addresses(&self) -> Vec<String> {
        self.0.borrow().clone()
    }
}

/// The tonic service.
pub(crate) fn service(backend: Arc<dyn Backend>, members: Members) -> MetadataServer<Server> {
    MetadataServer::new(Server { backend, members }).max_decoding_message_size(MESSAGE_MAX)
}

pub(crate) struct Server {
    backend: Arc<dyn Backend>,
    members: Members,
}

#[tonic::async_trait]
impl Metadata for Server {
    async fn execute(
        &self,
        request: Request<proto::ExecuteRequest>,
    ) -> Result<Reply<proto::ExecuteReply>, Status> {
        use proto::execute_reply::Kind;
        let proto::ExecuteRequest { request, command } = request.into_inner();
        let request = request.ok_or(Malformed { what: "a request's identity" });
        let request = request.and_then(TryInto::try_into).map_err(invalid)?;
        let command = command.ok_or(Malformed { what: "a command" });
        let command = command.and_then(TryInto::try_into).map_err(invalid)?;
        let answer = match command {
            Command::ExpireSessions(_) => Ok(Err(Refusal::NOT_FOR_CLIENTS)),
            command => self.backend.execute(request, command).await,
        };
        let kind = match answer {
            Ok(response) => Kind::Response(response.into()),
            Err(failure) => Kind::Failure(failure.into()),
        };
        let members = self.members.addresses();
        Ok(Reply::new(proto::ExecuteReply { kind: Some(kind), members }))
    }

    async fn query(
        &self,
        request: Request<proto::QueryRequest>,
    ) -> Result<Reply<proto::QueryReply>, Status> {
        use proto::query_reply::Kind;
        let proto::QueryRequest { query, stale } = request.into_inner();
        let query = query.ok_or(Malformed { what: "a query" });
        let query = query.and_then(TryInto::try_into).map_err(invalid)?;
        let freshness = if stale { Freshness::Stale } else { Freshness::Linearizable };
        let kind = match self.backend.query(query, freshness).await {
            Ok(answer) => Kind::Answer(answer.into()),
            Err(failure) => Kind::Failure(failure.into()),
        };
        let members = self.members.addresses();
        Ok(Reply::new(proto::QueryReply { kind: Some(kind), members }))
    }

    async fn keep_alive(
        &self,
        request: Request<proto::KeepAliveRequest>,
    ) -> Result<Reply<proto::KeepAliveReply>, Status> {
        use proto::keep_alive_reply::Kind;
        let session = SessionId(request.into_inner().session);
        let kind = match self.backend.keep_alive(session).await {
            Ok(Ok(())) => Kind::Alive(proto::Nothing {}),
            Ok(Err(refusal)) => Kind::Refusal(refusal.into()),
            Err(failure) => Kind::Failure(failure.into()),
        };
        let members = self.members.addresses();
        Ok(Reply::new(proto::KeepAliveReply { kind: Some(kind), members }))
    }

    type WatchStream = BoxStream<'static, Result<proto::WatchReply, Status>>;

    async fn watch(
        &self,
        request: Request<proto::WatchRequest>,
    ) -> Result<Reply<Self::WatchStream>, Status> {
        use proto::watch_reply::Kind;
        let request = request.into_inner();
        let kinds: Result<Vec<EventKind>, Malformed> =
            request.kinds().map(TryInto::try_into).collect();
        let from = (!request.list).then_some(Revision(request.from));
        let items = self.backend.watch(from, kinds.map_err(invalid)?);
        let members = self.members.clone();
        let replies = items.flat_map(move |item| {
            let kinds = match item {
                Ok(item) => watch_replies(item),
                Err(Error::Compacted { compacted }) => vec![Kind::Compacted(compacted.0)],
                Err(Error::NotInitialised { .. }) => {
                    vec![Kind::Failure(Failure::NotInitialised.into())]
                }
                Err(_) => vec![Kind::Failure(Failure::Unavailable.into())],
            };
            let reply = |kind: Kind| {
                let members = match kind {
                    Kind::Progress(_) | Kind::Listed(_) => members.addresses(),
                    _ => Vec::new(),
                };
                Ok(proto::WatchReply { kind: Some(kind), members })
            };
            futures::stream::iter(kinds.into_iter().map(reply).collect::<Vec<_>>())
        });
        Ok(Reply::new(replies.boxed()))
    }
}

fn invalid(malformed: Malformed) -> Status {
    Status::invalid_argument(malformed.to_string())
}
