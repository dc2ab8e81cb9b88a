//! A leader's side of a line against a scripted follower, by the paused clock.

use std::sync::Arc;

use futures::FutureExt;
use openraft::BasicNode;
use proto::append_response::{Outcome, Partial, Success};
use tokio::io::AsyncReadExt;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::UnboundedReceiverStream;
use torus_dial::{Dial, Socket};

use super::super::channels::{Channels, Lane};
use super::super::line::MAGIC;
use super::*;
use crate::config::{Entry, LeaderId, Payload, Vote};
use crate::options::Identity;
use crate::storage::Blocking;

const BUDGET: Duration = Duration::from_millis(200);
const LEADER: LeaderId = LeaderId { term: 1, node_id: 1 };

/// A leader's network, and what comes out at the other end of it.
struct Pair {
    network: Network,
    accepted: mpsc::UnboundedReceiver<Box<dyn Socket>>,
    /// A connection takes a permit, and waits for it.
    permits: Arc<Semaphore>,
}

impl Pair {
    fn new() -> Self {
        Self::that_connects(Semaphore::MAX_PERMITS)
    }

    /// Connections are made `times` times; the next waits for more permits.
    fn that_connects(times: usize) -> Self {
        let (accept, accepted) = mpsc::unbounded_channel();
        let permits = Arc::new(Semaphore::new(times));
        let gate = Arc::clone(&permits);
        let dial = Dial::by(move |_| {
            let (accept, gate) = (accept.clone(), Arc::clone(&gate));
            async move {
                gate.acquire().await.unwrap().forget();
                let (here, there) = tokio::io::duplex(1 << 16);
                accept.send(Box::new(there) as Box<dyn Socket>).unwrap();
                Ok(Box::new(here) as Box<dyn Socket>)
            }
            .boxed()
        });
        let channels = Channels::new(Identity::first([7; 16], 1), dial, Blocking::Threads);
        let node = BasicNode { addr: "there:1".to_owned() };
        Self { network: channels.network(2, &node, Lane::Calls), accepted, permits }
    }
}

/// The follower's end of the next connection.
async fn accept(accepted: &mut mpsc::UnboundedReceiver<Box<dyn Socket>>) -> Line {
    let mut socket = accepted.recv().await.unwrap();
    let mut magic = [0; MAGIC.len()];
    socket.read_exact(&mut magic).await.unwrap();
    assert_eq!(magic, MAGIC);
    Line::on(socket)
}

fn id(index: u64) -> LogId {
    LogId::new(LEADER, index)
}

/// The entries `previous + 1 ..= last`, committed up to `committed`.
fn request(previous: u64, last: u64, committed: u64) -> Request {
    let entry = |index| Entry { log_id: id(index), payload: Payload::Blank };
    AppendEntriesRequest {
        vote: Vote::new_committed(1, 1),
        prev_log_id: Some(id(previous)),
        entries: (previous + 1..=last).map(entry).collect(),
        leader_commit: Some(id(committed)),
    }
}

async fn got(line: &mut Line) -> (usize, u64) {
    let request: proto::AppendRequest = line.receive().await.unwrap().unwrap();
    (request.entries.len(), request.committed.unwrap().index)
}

async fn say(line: &mut Line, outcome: Outcome) {
    line.send(&proto::AppendResponse { outcome: Some(outcome) }).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn entries_wait_for_those_before_them_and_news_of_a_commit_for_entries() {
    let Pair { mut network, mut accepted, .. } = Pair::new();
    let (give, input) = mpsc::unbounded_channel();
    let leader = async {
        let mut answers = Box::pin(network.appends(UnboundedReceiverStream::new(input), BUDGET));
        let mut matched = Vec::new();
        while let Some(answer) = answers.next().await {
            matched.push(answer.unwrap().unwrap().unwrap().index);
        }
        matched
    };
    let follower = async {
        give.send(request(0, 2, 0)).unwrap();
        give.send(request(2, 5, 0)).unwrap();
        let mut line = accept(&mut accepted).await;
        assert_eq!(got(&mut line).await, (2, 0));
        // Nothing more comes before the answer.
        let early = tokio::time::timeout(BUDGET * 2, got(&mut line)).await;
        assert!(early.is_err(), "{early:?}");
        say(&mut line, Outcome::Success(Success {})).await;
        assert_eq!(got(&mut line).await, (3, 0));
        say(&mut line, Outcome::Success(Success {})).await;
        // The news goes with the entries that come at once,
        give.send(request(5, 5, 5)).unwrap();
        give.send(request(5, 6, 5)).unwrap();
        assert_eq!(got(&mut line).await, (1, 5));
        say(&mut line, Outcome::Success(Success {})).await;
        // alone when none come,
        let asked = Instant::now();
        give.send(request(6, 6, 6)).unwrap();
        assert_eq!(got(&mut line).await, (0, 6));
        assert!(asked.elapsed() >= HOLD && asked.elapsed() < HOLD * 4, "{:?}", asked.elapsed());
        // and then delays no entries.
        give.send(request(6, 7, 6)).unwrap();
        assert_eq!(got(&mut line).await, (1, 6));
        say(&mut line, Outcome::Success(Success {})).await;
        say(&mut line, Outcome::Success(Success {})).await;
        // What is held when there is no more goes at once.
        give.send(request(7, 7, 7)).unwrap();
        drop(give);
        assert_eq!(got(&mut line).await, (0, 7));
        say(&mut line, Outcome::Success(Success {})).await;
        line
    };
    let (matched, line) = tokio::join!(leader, follower);
    assert_eq!(matched, [2, 5, 6, 6, 7, 7]);
    // The line is used again, until the follower ends it.
    let again = |line: Line| async move {
        let mut line = line;
        assert_eq!(got(&mut line).await, (0, 7));
        say(&mut line, Outcome::Success(Success {})).await;
    };
    let (answer, ()) = tokio::join!(network.append(request(7, 7, 7), BUDGET), again(line));
    assert!(matches!(answer, Ok(AppendEntriesResponse::Success)), "{answer:?}");
    let answers = async { again(accept(&mut accepted).await).await };
    let (answer, ()) = tokio::join!(network.append(request(7, 7, 7), BUDGET), answers);
    assert!(matches!(answer, Ok(AppendEntriesResponse::Success)), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn nothing_follows_what_was_not_done_whole() {
    let partial = Outcome::Partial(Partial { matched: Some(id(1).into()) });
    let refusal = proto::append_response::Refusal { code: 8, text: "full".to_owned() };
    for (outcome, wanted) in [
        (
            Some(partial),
            "Some(Ok(Ok(Some(LogId { leader_id: LeaderId { term: 1, node_id: 1 }, index: 1 }))))",
        ),
        (Some(Outcome::Refusal(refusal)), "full"),
        // No answer in time.
        (None, "Timeout"),
    ] {
        let Pair { mut network, mut accepted, .. } = Pair::new();
        let input = stream::iter([request(0, 2, 0), request(2, 3, 0)]);
        let leader = async {
            let mut answers = Box::pin(network.appends(input, BUDGET));
            let first = format!("{:?}", answers.next().await);
            assert!(first.contains(wanted), "{first}");
            let second = answers.next().await;
            assert!(second.is_none(), "{second:?}");
        };
        let is_answered = outcome.is_some();
        let follower = async {
            let mut line = accept(&mut accepted).await;
            assert_eq!(got(&mut line).await, (2, 0));
            if let Some(outcome) = outcome {
                say(&mut line, outcome).await;
            }
            line
        };
        let ((), mut line) = tokio::join!(leader, follower);
        // An answer that comes too late would be taken for that to another request.
        assert_eq!(network.line.is_some(), is_answered);
        if !is_answered {
            assert_eq!(line.receive::<proto::AppendRequest>().await.unwrap(), None);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_line_that_is_given_up_or_has_been_idle_is_not_used_again() {
    let Pair { mut network, mut accepted, .. } = Pair::new();
    // openraft lets a stream go whenever it likes, here while an answer is due.
    let request_in_flight = async {
        let mut answers = Box::pin(network.appends(stream::iter([request(0, 1, 0)]), BUDGET));
        let early = tokio::time::timeout(BUDGET / 2, answers.next()).await;
        assert!(early.is_err(), "{early:?}");
    };
    let (mut first, ()) = tokio::join!(accept(&mut accepted), request_in_flight);
    assert_eq!(got(&mut first).await, (1, 0));
    assert_eq!(first.receive::<proto::AppendRequest>().await.unwrap(), None);

    let conflict = Outcome::Conflict(proto::append_response::Conflict {});
    let mut line = None;
    for (idle, outcome) in [(0, conflict), (29, Outcome::HigherVote(Vote::new(9, 2).into()))] {
        tokio::time::advance(Duration::from_secs(idle)).await;
        let follower = async {
            let mut used = match line.take() {
                Some(line) => line,
                None => accept(&mut accepted).await,
            };
            assert_eq!(got(&mut used).await, (1, 0));
            say(&mut used, outcome.clone()).await;
            used
        };
        let (answer, used) = tokio::join!(network.append(request(4, 5, 0), BUDGET), follower);
        match (&outcome, answer.unwrap()) {
            (Outcome::Conflict(_), AppendEntriesResponse::Conflict) => {}
            (Outcome::HigherVote(_), AppendEntriesResponse::HigherVote(vote)) => {
                assert_eq!(vote, Vote::new(9, 2));
            }
            other => panic!("{other:?}"),
        }
        line = Some(used);
    }
    tokio::time::advance(Duration::from_secs(31)).await;
    let follower = async {
        let mut line = accept(&mut accepted).await;
        assert_eq!(got(&mut line).await, (1, 0));
        say(&mut line, Outcome::Success(Success {})).await;
    };
    let (answer, ()) = tokio::join!(network.append(request(4, 5, 0), BUDGET), follower);
    assert!(matches!(answer, Ok(AppendEntriesResponse::Success)), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_takes_long_is_there_for_the_next_request() {
    let Pair { mut network, mut accepted, permits } = Pair::that_connects(0);
    let late = network.append(request(4, 4, 4), BUDGET).await;
    assert!(matches!(late, Err(RPCError::Timeout(_))), "{late:?}");
    permits.add_permits(1);
    let follower = async {
        let mut line = accept(&mut accepted).await;
        assert_eq!(got(&mut line).await, (0, 4));
        say(&mut line, Outcome::Success(Success {})).await;
    };
    let (answer, ()) = tokio::join!(network.append(request(4, 4, 4), BUDGET), follower);
    assert!(matches!(answer, Ok(AppendEntriesResponse::Success)), "{answer:?}");
}
