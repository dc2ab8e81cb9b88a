//! One call to one member, and one watch of one member.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_stream::{stream, try_stream};
use futures::{Stream, StreamExt};
use tonic::Status;
use tonic::transport::Channel;

use super::{Call, Client, Reply, WATCH_SILENCE};
use crate::error::call_failed;
use crate::serve::{Backend, Freshness, MESSAGE_MAX};
use crate::wire::proto::metadata_client::MetadataClient;
use crate::wire::proto::{execute_reply, keep_alive_reply, query_reply, watch_reply};
use crate::wire::{Failure, Malformed, Parts, proto};
use crate::{Error, EventKind, Revision, WatchItem};

/// Why an attempt gave no answer.
#[derive(Debug)]
pub(super) enum Missed {
    Failure(Failure),
    /// The member cannot be reached, or broke off.
    Status(Box<Status>),
    Malformed(Malformed),
    /// What should be `HOST:PORT` is not.
    Address,
}

impl From<Status> for Missed {
    fn from(status: Status) -> Self {
        match status.code() {
            // Trying again would be of no use.
            tonic::Code::Unimplemented | tonic::Code::InvalidArgument => {
                Self::Malformed(Malformed { what: "the request" })
            }
            _ => Self::Status(Box::new(status)),
        }
    }
}

impl From<Malformed> for Missed {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

/// Asks the member in this process.
pub(super) async fn here(backend: &Arc<dyn Backend>, call: &Call) -> Result<Reply, Failure> {
    match call.clone() {
        Call::Execute(request, command) => {
            backend.execute(request, command).await.map(Reply::Response)
        }
        Call::Query(query, freshness) => backend.query(query, freshness).await.map(Reply::Answer),
        Call::KeepAlive(session) => backend.keep_alive(session).await.map(Reply::KeptAlive),
    }
}

/// Asks a member over the network; gives its answer and the members that it knows.
pub(super) async fn there(
    channel: Channel,
    call: &Call,
) -> Result<(Result<Reply, Failure>, Vec<String>), Missed> {
    let mut client = client(channel);
    match call.clone() {
        Call::Execute(request, command) => {
            use execute_reply::Kind;
            let (request, command) = (Some(request.into()), Some(command.into()));
            let request = proto::ExecuteRequest { request, command };
            let reply = client.execute(request).await?.into_inner();
            let answer = match reply.kind.ok_or(Malformed { what: "the answer to a command" })? {
                Kind::Response(response) => Ok(Reply::Response(response.try_into()?)),
                Kind::Failure(failure) => Err(failure.try_into()?),
            };
            Ok((answer, reply.members))
        }
        Call::Query(query, freshness) => {
            use query_reply::Kind;
            let stale = freshness == Freshness::Stale;
            let request = proto::QueryRequest { query: Some(query.into()), stale };
            let reply = client.query(request).await?.into_inner();
            let answer = match reply.kind.ok_or(Malformed { what: "the answer to a query" })? {
                Kind::Answer(answer) => Ok(Reply::Answer(answer.try_into()?)),
                Kind::Failure(failure) => Err(failure.try_into()?),
            };
            Ok((answer, reply.members))
        }
        Call::KeepAlive(session) => {
            use keep_alive_reply::Kind;
            let request = proto::KeepAliveRequest { session: session.0 };
            let reply = client.keep_alive(request).await?.into_inner();
            let answer = match reply.kind.ok_or(Malformed { what: "the answer to a keep-alive" })? {
                Kind::Alive(_) => Ok(Reply::KeptAlive(Ok(()))),
                Kind::Refusal(refusal) => Ok(Reply::KeptAlive(Err(refusal.try_into()?))),
                Kind::Failure(failure) => Err(failure.try_into()?),
            };
            Ok((answer, reply.members))
        }
    }
}

/// Watches a member until that breaks off. The next watch asks another.
///
/// How far back a member's changes go depends on when it began, so that `compacted` is said only
/// when no member that answers has all that is asked for.
pub(super) fn watch(
    client: Client,
    from: Option<Revision>,
    kinds: Vec<EventKind>,
) -> impl Stream<Item = Result<WatchItem, Error>> + Send {
    stream! {
        // A watch needs no leader, so any member will do, and load is spread: the leader comes last.
        let order = client.contacts(|contacts| {
            contacts.turn();
            contacts.order()
        });
        let mut all_compacted: Option<Revision> = None;
        for address in order.into_iter().rev() {
            // There is an answer already; one that is silent is not to hold it up for long.
            let patience = if all_compacted.is_some() { WATCH_SILENCE / 2 } else { WATCH_SILENCE };
            let mut items = pin!(watch_at(&client, address, from, kinds.clone(), patience));
            let mut begun = false;
            while let Some(item) = items.next().await {
                match item {
                    Ok(item) => {
                        begun = true;
                        yield Ok(item);
                    }
                    Err(Error::Compacted { compacted }) if !begun => {
                        all_compacted = Some(all_compacted.map_or(compacted, |it| it.min(compacted)));
                    }
                    // One that cannot be reached might have them, but need not come back.
                    Err(_) if !begun && all_compacted.is_some() => {}
                    Err(error) => {
                        yield Err(error);
                        return;
                    }
                }
            }
        }
        yield Err(match all_compacted {
            Some(compacted) => Error::Compacted { compacted },
            None => Error::Unavailable { tried: String::new(), source: None },
        });
    }
}

/// Watches the member at `address`, which has `patience` to begin; ends with an error.
fn watch_at(
    client: &Client,
    address: String,
    from: Option<Revision>,
    kinds: Vec<EventKind>,
    mut patience: Duration,
) -> impl Stream<Item = Result<WatchItem, Error>> + Send {
    try_stream! {
        let mut replies = open(client, &address, from, kinds, patience).await?;
        let mut parts = Parts::default();
        loop {
            let mut reply = match tokio::time::timeout(patience, replies.message()).await {
                Ok(Ok(Some(reply))) => reply,
                Ok(Err(status)) => Err(unavailable(address.clone(), status))?,
                Ok(Ok(None)) | Err(_) => {
                    Err(Error::Unavailable { tried: address.clone(), source: None })?
                }
            };
            client.contacts(|contacts| contacts.learn(std::mem::take(&mut reply.members)));
            patience = WATCH_SILENCE;
            // Some lists come in parts.
            if let Some(item) = decode(reply, &address, &mut parts)? {
                yield item;
            }
        }
    }
}

async fn open(
    client: &Client,
    address: &str,
    from: Option<Revision>,
    kinds: Vec<EventKind>,
    patience: Duration,
) -> Result<tonic::Streaming<proto::WatchReply>, Error> {
    let unknown = Error::Protocol { what: "the address of a member" };
    let channel = client.contacts(|contacts| contacts.channel(address)).map_err(|_| unknown)?;
    let kinds = kinds.into_iter().map(|kind| proto::EventKind::from(kind).into()).collect();
    let list = from.is_none();
    let request = proto::WatchRequest { from: from.unwrap_or_default().0, kinds, list };
    let mut member = self::client(channel);
    match tokio::time::timeout(patience, member.watch(request)).await {
        Ok(Ok(replies)) => Ok(replies.into_inner()),
        Ok(Err(status)) => Err(unavailable(address.to_owned(), status)),
        Err(_) => Err(Error::Unavailable { tried: address.to_owned(), source: None }),
    }
}

/// The item that a reply is or completes.
fn decode(
    reply: proto::WatchReply,
    address: &str,
    parts: &mut Parts,
) -> Result<Option<WatchItem>, Error> {
    use watch_reply::Kind;
    match reply.kind.ok_or(Malformed { what: "an item of a watch" })? {
        Kind::Events(events) => Ok(Some(events.try_into()?)),
        Kind::Progress(revision) => Ok(Some(WatchItem::Progress(Revision(revision)))),
        Kind::Listed(listed) => Ok(parts.take(listed)?.map(WatchItem::Listed)),
        Kind::Compacted(revision) => Err(Error::Compacted { compacted: Revision(revision) }),
        Kind::Failure(failure) => match failure.try_into()? {
            Failure::NotInitialised => Err(Error::NotInitialised { address: address.to_owned() }),
            Failure::NotLeader { .. } | Failure::Unavailable | Failure::NoSpace => {
                Err(Error::Unavailable { tried: address.to_owned(), source: None })
            }
        },
    }
}

fn client(channel: Channel) -> MetadataClient<Channel> {
    MetadataClient::new(channel).max_decoding_message_size(MESSAGE_MAX)
}

fn unavailable(tried: String, status: Status) -> Error {
    Error::Unavailable { tried, source: Some(call_failed(status)) }
}
