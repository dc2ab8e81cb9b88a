//! What is measured, each a line of text.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::Barrier;
use torus_blockstore::PeerId;
use torus_metadata::{Answer, Client, Command, MetadataService, Peer, Query, Revision, WatchItem};

use crate::Failure;
use crate::system::{Connection, System};

/// Keys and peers that are written at a time.
const FILLERS: usize = 64;
/// Writes before the leader is killed.
const WRITES_BEFORE: u64 = 200;
const SERVES_BOUND: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(2);

#[derive(Clone, Copy)]
pub(crate) enum Job {
    Put,
    Get,
}

/// `clients` at once, each as fast as it is answered, for `seconds`.
pub(crate) async fn load(
    system: &System,
    job: Job,
    clients: usize,
    seconds: f64,
) -> Result<String, Failure> {
    let barrier = Arc::new(Barrier::new(clients));
    let time = Duration::from_secs_f64(seconds);
    let mut tasks = Vec::new();
    for index in 0..clients {
        let connection = system.connect(index).await?;
        tasks.push(tokio::spawn(client(connection, job, Arc::clone(&barrier), time)));
    }
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await??);
    }
    latencies.sort_unstable();
    let at =
        |percent: usize| latencies.get(latencies.len() * percent / 100).map(Duration::as_micros);
    let (Some(median), Some(slow)) = (at(50), at(99)) else { return Err("no answer".into()) };
    let count = u32::try_from(latencies.len())?;
    Ok(format!("{count}\t{:.0}\t{median}\t{slow}", f64::from(count) / seconds))
}

/// How long each request took that began within `time`.
async fn client(
    connection: Connection,
    job: Job,
    barrier: Arc<Barrier>,
    time: Duration,
) -> Result<Vec<Duration>, Failure> {
    // Connected, and behind what an earlier load wrote.
    let mut number = connection.get().await?;
    barrier.wait().await;
    let start = Instant::now();
    let mut latencies = Vec::new();
    while start.elapsed() < time {
        let sent = Instant::now();
        match job {
            Job::Put => {
                number += 1;
                connection.put(number).await?;
            }
            Job::Get => {
                connection.get().await?;
            }
        }
        latencies.push(sent.elapsed());
    }
    if connection.get().await? != number {
        return Err("what was written last is not what is read".into());
    }
    Ok(latencies)
}

pub(crate) async fn fill(system: System, count: usize) -> Result<String, Failure> {
    let (system, start) = (&system, Instant::now());
    let connect = |index| async move { system.connect(index).await.map(drop) };
    let all = futures::stream::iter(0..count).map(connect).buffer_unordered(FILLERS);
    all.try_collect::<()>().await?;
    Ok(format!("{:.0}", start.elapsed().as_secs_f64() * 1000.0))
}

/// Peers that do not exist; all the cluster keeps of one is its record.
pub(crate) async fn peers(system: &System, count: u32) -> Result<String, Failure> {
    let client = &client_of(system)?;
    let register = |index: u32| async move {
        let [_, high, middle, low] = index.to_be_bytes();
        let peer = Peer {
            id: PeerId::random(),
            address: format!("127.{high}.{middle}.{low}:9"),
            zone: format!("zone-{}", index % 8),
            size_blocks: 1 << 20,
            node: None,
        };
        client.execute(Command::RegisterPeer(peer)).await.map(drop)
    };
    let all = futures::stream::iter(1..=count).map(register).buffer_unordered(FILLERS);
    all.try_collect::<()>().await?;
    Ok(count.to_string())
}

pub(crate) async fn failover(system: &System, pid: i32) -> Result<String, Failure> {
    let connection = system.connect(0).await?;
    let first = connection.get().await?;
    for number in 1..=WRITES_BEFORE {
        connection.put(first + number).await?;
    }
    let start = Instant::now();
    kill(Pid::from_raw(pid), Signal::SIGKILL)?;
    connection.put_until_accepted(first + WRITES_BEFORE + 1).await?;
    Ok(format!("{:.0}", start.elapsed().as_secs_f64() * 1000.0))
}

/// What a watcher does that has missed too much: it reads everything, and watches from there.
pub(crate) async fn resync(system: &System) -> Result<String, Failure> {
    let client = client_of(system)?;
    let start = Instant::now();
    let mut from = None;
    let mut records = 0;
    for query in [Query::Volumes, Query::Peers, Query::Ring(None), Query::Sessions] {
        let revision = match client.query(query).await? {
            Answer::Volumes { volumes, revision, .. } => {
                records += volumes.len();
                revision
            }
            Answer::Peers { peers, revision } => {
                records += peers.len();
                revision
            }
            Answer::Ring { revision, .. } | Answer::Sessions { revision, .. } => revision,
            other => return Err(format!("an unexpected answer: {other:?}").into()),
        };
        from = from.or(Some(revision));
    }
    let from = from.unwrap_or(Revision(0));
    let mut watch = client.watch(from, Vec::new());
    // The first mark of progress says that nothing is missing up to where it stands.
    while let WatchItem::Events { .. } = watch.next().await.ok_or("the watch ended")?? {}
    let ms = start.elapsed().as_secs_f64() * 1000.0;
    Ok(format!("{ms:.0}\t{records}"))
}

#[derive(Clone, PartialEq, prost::Message)]
struct QueryRequest {
    #[prost(message, optional, tag = "1")]
    query: Option<ClusterQuery>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ClusterQuery {
    #[prost(message, optional, tag = "1")]
    cluster: Option<()>,
}

/// As much of the reply as tells an answer (1) from a failure (2).
#[derive(Clone, PartialEq, prost::Message)]
struct QueryReply {
    #[prost(bytes = "vec", optional, tag = "1")]
    answer: Option<Vec<u8>>,
}

/// Waits until one member answers by itself; our own client would ask others too.
pub(crate) async fn serves(system: &System) -> Result<String, Failure> {
    let System::Torus(members) = system else { return Err("of torus alone".into()) };
    let address = members.first().ok_or("no member")?;
    let start = Instant::now();
    while start.elapsed() < SERVES_BOUND {
        if ask(address).await.is_ok_and(|reply| reply.answer.is_some()) {
            return Ok(format!("{:.0}", start.elapsed().as_secs_f64() * 1000.0));
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(format!("{address} does not serve").into())
}

async fn ask(address: &str) -> Result<QueryReply, Failure> {
    let channel =
        tonic::transport::Endpoint::from_shared(format!("http://{address}"))?.connect().await?;
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await?;
    let query = Some(ClusterQuery { cluster: Some(()) });
    let path = "/torus.metadata.v1.Metadata/Query".parse()?;
    let codec = tonic_prost::ProstCodec::<QueryRequest, QueryReply>::default();
    Ok(grpc.unary(tonic::Request::new(QueryRequest { query }), path, codec).await?.into_inner())
}

fn client_of(system: &System) -> Result<Client, Failure> {
    match system {
        System::Torus(members) => Ok(Client::new(members.clone())),
        System::Etcd(_) => Err("of torus alone".into()),
    }
}
