//! What a leader appends to one follower's log, by a [line](super::line).

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use futures::stream::{self, Stream, StreamExt};
use openraft::RPCTypes;
use openraft::errors::{RPCError, Unreachable};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, StreamAppendError, StreamAppendResult,
};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Status};

use super::client::{Network, RpcError, nonsense};
use super::line::Line;
use crate::config::{LogId, TypeConfig};
use crate::error::DecodeError;
use crate::wire::{proto, required};

/// An append that carries entries waits for the disk of the follower, and openraft's own budget,
/// one heartbeat, would give a slow disk up for lost again and again. Liveness does not depend on
/// it: heartbeats have a connection and a budget of their own.
const APPEND_PATIENCE: u32 = 10;
/// Requests that may be unanswered.
const WINDOW: usize = 8;
/// How long to wait for entries before it is told how far the log is committed.
const HOLD: Duration = Duration::from_millis(1);

type Request = AppendEntriesRequest<TypeConfig>;

/// What one of a stream of appends gave.
pub(super) type Appended = Result<StreamAppendResult<TypeConfig>, RpcError>;

/// A request that is to be answered.
struct Sent {
    previous: Option<LogId>,
    last: Option<LogId>,
    has_entries: bool,
    limit: Duration,
    deadline: Instant,
}

impl Network {
    /// Appends, and waits for the answer.
    pub(super) async fn append(
        &mut self,
        request: Request,
        budget: Duration,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RpcError> {
        let last = Sent::new(&request, budget).last;
        // To the end of the stream, where the line is kept.
        let answers: Vec<_> = self.appends(stream::iter([request]), budget).collect().await;
        match answers.into_iter().next().transpose()? {
            Some(Ok(matched)) if matched == last => Ok(AppendEntriesResponse::Success),
            Some(Ok(matched)) => Ok(AppendEntriesResponse::PartialSuccess(matched)),
            Some(Err(StreamAppendError::Conflict(_))) => Ok(AppendEntriesResponse::Conflict),
            Some(Err(StreamAppendError::HigherVote(vote))) => {
                Ok(AppendEntriesResponse::HigherVote(vote))
            }
            None => Err(nonsense(&DecodeError::Missing { field: "outcome" })),
        }
    }

    /// Appends one request after the other, until one cannot be.
    pub(super) fn appends<'s, S>(
        &'s mut self,
        input: S,
        budget: Duration,
    ) -> impl Stream<Item = Appended> + Send + 's
    where
        S: Stream<Item = Request> + Send + Unpin + 's,
    {
        let line = self.line.take();
        let (sent, held) = (VecDeque::new(), None);
        let flow = Flow { network: self, input, budget, line, sent, held, state: State::Open };
        stream::unfold(flow, |mut flow| async { flow.next().await.map(|it| (it, flow)) })
    }

    /// Sends by the line that was kept, or by a new one.
    async fn transmit(
        &mut self,
        kept: Option<Line>,
        request: &proto::AppendRequest,
    ) -> io::Result<Line> {
        let mut line = match kept.filter(Line::is_fresh) {
            Some(line) => line,
            None => self.connected().await?,
        };
        line.send(request).await?;
        Ok(line)
    }

    /// A new line. One that takes longer to be made than a request may take is there for the next.
    async fn connected(&mut self) -> io::Result<Line> {
        let connecting = self.connecting.get_or_insert_with(|| {
            let (dial, address) = (self.channels.dial.clone(), self.address.clone());
            AbortOnDropHandle::new(tokio::spawn(async move { Line::open(&dial, &address).await }))
        });
        let line = connecting.await.map_err(io::Error::other);
        self.connecting = None;
        line?
    }

    fn broken(&self, error: &io::Error) -> RpcError {
        let text = format!("the member at {}: {error}", self.address);
        RPCError::Unreachable(Unreachable::from_string(text))
    }

    fn encode(&self, request: Request) -> proto::AppendRequest {
        proto::AppendRequest {
            envelope: self.envelope(),
            vote: Some(request.vote.into()),
            previous: request.prev_log_id.map(Into::into),
            entries: request.entries.iter().map(Into::into).collect(),
            committed: request.leader_commit.map(Into::into),
        }
    }

    fn decode(
        &self,
        response: proto::AppendResponse,
        sent: &Sent,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RpcError> {
        use proto::append_response::Outcome;
        match required(response.outcome, "outcome").map_err(|err| nonsense(&err))? {
            Outcome::Success(_) => Ok(AppendEntriesResponse::Success),
            Outcome::Partial(partial) => {
                Ok(AppendEntriesResponse::PartialSuccess(partial.matched.map(Into::into)))
            }
            // Nothing can conflict with the beginning of the log; openraft would panic.
            Outcome::Conflict(_) if sent.previous.is_none() => {
                Err(nonsense(&DecodeError::Invalid { field: "conflict" }))
            }
            Outcome::Conflict(_) => Ok(AppendEntriesResponse::Conflict),
            Outcome::HigherVote(vote) => Ok(AppendEntriesResponse::HigherVote(vote.into())),
            Outcome::Refusal(refusal) => {
                Err(self.failed(&Status::new(Code::from(refusal.code), refusal.text)))
            }
        }
    }
}

/// Requests on their way, and back.
///
/// New entries wait for the answer to those before them, and so share a sync of the follower's
/// disk. What merely tells how far the log is committed waits a moment for entries to go with, and
/// keeps none waiting.
struct Flow<'n, S> {
    network: &'n mut Network,
    input: S,
    budget: Duration,
    line: Option<Line>,
    sent: VecDeque<Sent>,
    /// A request without entries, and how long it waits for one that has some.
    held: Option<(Request, Instant)>,
    state: State,
}

#[derive(PartialEq, Eq)]
enum State {
    Open,
    /// There are no more requests; those that were sent are to be answered.
    Ending,
    Over,
}

/// What happens next.
enum Step {
    Answered(io::Result<proto::AppendResponse>),
    Late,
    Given(Option<Request>),
    HeldLongEnough,
}

impl<S: Stream<Item = Request> + Send + Unpin> Flow<'_, S> {
    async fn next(&mut self) -> Option<Appended> {
        while self.state != State::Over {
            let result = match self.step().await {
                Step::Answered(response) => match self.sent.pop_front() {
                    Some(sent) => Some(self.answered(&sent, response)),
                    // It ended while nobody used it, or brought what nobody asked for.
                    None => {
                        self.line = None;
                        None
                    }
                },
                Step::Late => {
                    let limit = self.sent.front().map_or(self.budget, |sent| sent.limit);
                    Some(Err(self.network.timeout(RPCTypes::AppendEntries, limit).into()))
                }
                Step::Given(Some(request)) if request.entries.is_empty() => {
                    let until = self.held.take().map(|(_, until)| until);
                    self.held = Some((request, until.unwrap_or_else(|| Instant::now() + HOLD)));
                    None
                }
                // It tells how far the log is committed as well as one that was held.
                Step::Given(Some(request)) => {
                    self.held = None;
                    self.send(request).await.err().map(Err)
                }
                Step::Given(None) => {
                    self.state = State::Ending;
                    self.send_held().await.err().map(Err)
                }
                Step::HeldLongEnough => self.send_held().await.err().map(Err),
            };
            let is_done = self.state == State::Ending && self.sent.is_empty();
            if is_done || matches!(result, Some(Err(_))) {
                self.state = State::Over;
            }
            // A line on which an answer is due would bring it to the next request.
            if self.state == State::Over && self.sent.is_empty() {
                self.network.line = self.line.take();
            }
            if result.is_some() {
                return result;
            }
        }
        None
    }

    async fn step(&mut self) -> Step {
        let may_send = self.state == State::Open
            && self.sent.len() < WINDOW
            && !self.sent.iter().any(|sent| sent.has_entries);
        let due = self.sent.front().map(|sent| sent.deadline);
        let held = self.held.as_ref().filter(|_| may_send).map(|(_, until)| *until);
        tokio::select! {
            biased;
            response = answer(self.line.as_mut()) => Step::Answered(response),
            () = until(due) => Step::Late,
            request = self.input.next(), if may_send => Step::Given(request),
            () = until(held) => Step::HeldLongEnough,
        }
    }

    /// What the answer to `sent` means; nothing follows one that leaves something open.
    fn answered(&mut self, sent: &Sent, response: io::Result<proto::AppendResponse>) -> Appended {
        let response = response.map_err(|error| {
            self.line = None;
            self.network.broken(&error)
        })?;
        let response = self.network.decode(response, sent)?;
        let appended = response.into_stream_result(sent.previous, sent.last);
        if !matches!(&appended, Ok(matched) if *matched == sent.last) {
            self.state = State::Over;
        }
        Ok(appended)
    }

    async fn send_held(&mut self) -> Result<(), RpcError> {
        match self.held.take() {
            Some((request, _)) => self.send(request).await,
            None => Ok(()),
        }
    }

    async fn send(&mut self, request: Request) -> Result<(), RpcError> {
        let sent = Sent::new(&request, self.budget);
        let request = self.network.encode(request);
        let kept = self.line.take();
        let sending = self.network.transmit(kept, &request);
        match tokio::time::timeout_at(sent.deadline, sending).await {
            Ok(Ok(line)) => self.line = Some(line),
            Ok(Err(error)) => return Err(self.network.broken(&error)),
            Err(_) => {
                return Err(self.network.timeout(RPCTypes::AppendEntries, sent.limit).into());
            }
        }
        self.sent.push_back(sent);
        Ok(())
    }
}

impl Sent {
    fn new(request: &Request, budget: Duration) -> Self {
        let has_entries = !request.entries.is_empty();
        let limit = if has_entries { budget * APPEND_PATIENCE } else { budget };
        let previous = request.prev_log_id;
        let last = request.entries.last().map(|entry| entry.log_id).or(previous);
        Self { previous, last, has_entries, limit, deadline: Instant::now() + limit }
    }
}

/// The next answer, or the end of a line on which none is due. Never, without a line.
async fn answer(line: Option<&mut Line>) -> io::Result<proto::AppendResponse> {
    match line {
        Some(line) => line.answer().await,
        None => std::future::pending().await,
    }
}

/// Never, without a time.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
