//! The consistent store and lock server that the rest of Torus talks to.

use futures::future::BoxFuture;
use futures::stream::BoxStream;

use crate::{Answer, Applied, Command, Error, Event, EventKind, Query, Revision, SessionId};

/// One item of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "moved once a list")]
pub enum WatchItem {
    /// All that one revision changed, of the kinds asked for.
    Events { revision: Revision, events: Vec<Event> },
    /// Nothing up to this revision is missing; sent now and then while nothing happens.
    Progress(Revision),
    /// All there is of one kind, for a watch that began with lists. Those of all its kinds come
    /// first, read at one revision; the events are of what came after it.
    Listed(Answer),
}

/// The metadata service, embedded (`temp`, `raft`) or over the network (`client`).
pub trait MetadataService: Send + Sync + 'static {
    /// Puts a command through the log. [`Error::Refused`] is the state machine's own answer; other
    /// errors leave open whether the command was or will be applied, except where their doc says
    /// otherwise. The service itself retries with a request identity, so that a command is applied
    /// once.
    fn execute(&self, command: Command) -> BoxFuture<'_, Result<Applied, Error>>;

    /// As [`execute`](Self::execute), but repeats the command with the same identity until the service
    /// answers: a copy that is still under way then is never carried out after the answer, and so
    /// not after what the caller does next.
    fn execute_until_answered(&self, command: Command) -> BoxFuture<'_, Result<Applied, Error>>;

    /// Reads the state linearizably: all commands answered before the call are seen.
    fn query(&self, query: Query) -> BoxFuture<'_, Result<Answer, Error>>;

    /// Every change after revision `from`, in order and without gaps, of the given kinds (all:
    /// empty). Ends with an error when the service breaks off: watch again from the last revision
    /// seen; [`Error::Compacted`] means that the changes since `from` are no longer kept: read the
    /// state, and watch from its revision.
    fn watch(
        &self,
        from: Revision,
        kinds: Vec<EventKind>,
    ) -> BoxStream<'static, Result<WatchItem, Error>>;

    /// All there is of the given kinds (all: empty), read linearizably at one revision, then every
    /// change after it as [`watch`](Self::watch) gives them. Nothing falls between.
    fn list_and_watch(&self, kinds: Vec<EventKind>)
    -> BoxStream<'static, Result<WatchItem, Error>>;

    /// Tells the service that the session's owner lives. [`Error::Refused`] with
    /// [`Refusal::NoSuchSession`](crate::Refusal::NoSuchSession): it has ended.
    fn keep_alive(&self, session: SessionId) -> BoxFuture<'_, Result<(), Error>>;
}
