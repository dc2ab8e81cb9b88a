//! The storage daemon: `torusd`. One port, one data directory, no other process.

mod http;
mod listen;
mod storage;
mod threads;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use tokio::net::TcpSocket;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use torus_blockstore::{OsDisk, PeerId, PeerIdentity};
use torus_metadata::{Member, MemberOptions, MemberState};
use uuid::Uuid;

use crate::address::Address;
use crate::failure::Failure;
use crate::size::{SizeError, StoreSize};
use crate::{interrupt, logging};

use self::listen::Places;
use self::storage::{Storage, StorageOptions};
use self::threads::DataThreads;

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;
/// How long connections may take to end when the daemon stops.
const DRAIN: Duration = Duration::from_secs(5);
/// How long stopping after a failure may take altogether.
const LAST_PATIENCE: Duration = Duration::from_secs(15);
/// How long the metadata member may take to stop.
const CLOSE: Duration = Duration::from_secs(15);

/// A storage node of a Torus cluster.
#[derive(Debug, Parser)]
#[command(name = "torusd", version)]
pub struct Arguments {
    /// Where blocks and metadata are kept; made if it is missing.
    #[arg(long, value_name = "DIR", default_value = "torus-data")]
    data_dir: PathBuf,
    /// Space for blocks, as 20GiB, or a share of the file system, as 80%. Reserved at once.
    #[arg(long, value_name = "SIZE", default_value = "20GiB")]
    size: StoreSize,
    /// The one address for peers, clients and torusctl, as others reach it.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:40000")]
    peer_address: Address,
    /// Where to listen, if not at the peer address.
    #[arg(long, value_name = "HOST:PORT")]
    listen_address: Option<Address>,
    /// Daemons of the cluster to join; without, wait for 'torusctl init'.
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    join: Vec<Address>,
    /// Serve metrics and health over HTTP.
    #[arg(long, value_name = "HOST:PORT")]
    http_address: Option<Address>,
    /// Join the ring too, so that blocks are stored here without 'torusctl peer add'.
    #[arg(long)]
    auto_join: bool,
    /// The failure domain of this node; copies of a block go to different zones.
    #[arg(long, value_name = "ZONE")]
    zone: Option<String>,
    /// What to log: a level, or a list as info,torus_raft=debug.
    #[arg(long, value_name = "FILTER", env = "TORUS_LOG", default_value = "info,openraft=error")]
    log: String,
    /// Torus needed one.
    #[arg(long, hide = true, value_name = "URL")]
    etcd: Option<String>,
}

/// Runs the daemon until it is told to stop.
pub fn run(arguments: Arguments) -> Result<(), Failure> {
    if arguments.etcd.is_some() {
        let help =
            "no etcd is needed: leave --etcd out, and use --join HOST:PORT to join a cluster";
        return Err(Failure::usage(help));
    }
    if arguments.peer_address.is_unspecified() {
        return Err(Failure::usage(format!(
            "peers cannot reach {}; give --peer-address an address of this host (and \
             --listen-address {0} to listen on all)",
            arguments.peer_address
        )));
    }
    logging::start(&arguments.log)?;
    abort_on_panic();
    // The metadata group must answer however busy the disks are: it has a thread of its own.
    let control = threads::runtime("control", 1)?;
    let calls = threads::runtime("calls", 2)?;
    threads::guard(control.handle().clone(), calls.handle());
    let data = Arc::new(DataThreads::start()?);
    let result = control.block_on(serve(arguments, calls.handle(), &data));
    calls.shutdown_timeout(DRAIN / 3);
    control.shutdown_timeout(DRAIN / 3);
    if let Some(data) = Arc::into_inner(data) {
        data.shutdown(DRAIN / 3);
    }
    result
}

async fn serve(
    arguments: Arguments,
    calls: &Handle,
    data: &Arc<DataThreads>,
) -> Result<(), Failure> {
    let stop = interrupt::token()?;
    let identity =
        PeerIdentity::open(OsDisk::shared(), &arguments.data_dir, PeerId(Uuid::new_v4()))?;
    let size = store_size(&arguments)?;
    let listen = arguments.listen_address.as_ref().unwrap_or(&arguments.peer_address);
    // Taken now, so that a port in use is noticed before anything is written, and opened when there
    // is somebody to answer.
    let port = take_port(listen).await?;
    let http = match &arguments.http_address {
        Some(address) => Some(take_port(address).await?.listen(BACKLOG)?),
        None => None,
    };
    let member = Member::start(MemberOptions {
        dir: arguments.data_dir.join("metadata"),
        address: arguments.peer_address.to_string(),
        peer: identity.peer(),
        join: arguments.join.iter().map(Address::to_string).collect(),
        blocks_of: identity.cluster()?,
    })
    .await?;
    tracing::info!(peer = %identity.peer(), address = %arguments.peer_address, "torusd is up");
    announce(&member.state().borrow(), &arguments.peer_address);
    let listener = port.listen(BACKLOG)?;

    let storage = Arc::new(Storage::new());
    let places =
        Places { storage: Arc::clone(&storage), data: Arc::clone(data), calls: calls.clone() };
    let doors = listen::start(listener, &member, places, stop.clone());
    if let Some(listener) = http {
        tokio::spawn(http::serve(listener, Arc::clone(&storage), stop.clone()));
    }
    let options = StorageOptions {
        identity: Arc::new(identity),
        size,
        address: arguments.peer_address.to_string(),
        zone: arguments.zone.clone().unwrap_or_default(),
        auto_join: arguments.auto_join,
    };
    let result = live(&member, &storage, options, data, &stop, &arguments).await;

    tracing::info!("stopping");
    if let Err(failure) = &result {
        end_in_any_case(failure.line());
    }
    stop.cancel();
    storage.close();
    if tokio::time::timeout(DRAIN, doors).await.is_err() {
        tracing::info!("connections that did not end in time are cut");
    }
    // A log whose disk hangs cannot be closed, and the error that says so must come out.
    let patience = if result.is_ok() { CLOSE } else { DRAIN };
    if tokio::time::timeout(patience, member.shutdown()).await.is_err() {
        tracing::error!("the metadata member is not closed in time");
    }
    result
}

/// Ends the process even if it cannot be ended in order: threads that wait for a disk which hangs would
/// keep it for ever.
#[expect(clippy::disallowed_methods, reason = "it is the time that is waited for")]
fn end_in_any_case(failure: String) {
    std::thread::spawn(move || {
        std::thread::sleep(LAST_PATIENCE);
        tracing::error!(failure, "not stopped in order; the process ends as it is");
        std::process::abort();
    });
}

/// Gets the daemon into its cluster and opens its store, then waits for the end.
async fn live(
    member: &Member,
    storage: &Arc<Storage>,
    options: StorageOptions,
    data: &DataThreads,
    stop: &CancellationToken,
    arguments: &Arguments,
) -> Result<(), Failure> {
    let mut state = member.state();
    let mut options = Some(options);
    loop {
        let now = state.borrow_and_update().clone();
        match now {
            MemberState::WaitingForInit | MemberState::Joining { .. } => {}
            MemberState::Running { cluster, .. } => {
                if let Some(options) = options.take() {
                    let (service, own_service) = (member.service(), member.own_service());
                    let thread = data.next();
                    tokio::select! {
                        opened = storage.open(
                            options, cluster, service, own_service, &thread,
                        ) => opened?,
                        () = stop.cancelled() => return Ok(()),
                    }
                }
            }
            MemberState::Failed(error) => return Err(Failure::failed(SharedError(error))),
        }
        tokio::select! {
            changed = state.changed() => changed?,
            () = stop.cancelled() => return Ok(()),
        }
        announce(&state.borrow(), &arguments.peer_address);
    }
}

/// Says what the daemon waits for.
fn announce(state: &MemberState, address: &Address) {
    match state {
        MemberState::WaitingForInit => tracing::info!(
            "not initialised yet: run 'torusctl init -C {address}', or start with --join"
        ),
        MemberState::Joining { members } => {
            tracing::info!(members = members.join(","), "joining the cluster");
        }
        MemberState::Running { cluster, node } => {
            tracing::info!(%cluster, %node, "a member of the cluster");
        }
        // The process ends with the error.
        MemberState::Failed(_) => {}
    }
}

/// An error that others hold too.
#[derive(Debug, thiserror::Error)]
#[error("the metadata member cannot go on")]
struct SharedError(#[source] Arc<dyn std::error::Error + Send + Sync>);

/// The address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}; is another daemon running there?")]
struct BindError {
    address: Address,
    source: std::io::Error,
}

/// Takes a port without accepting connections on it yet.
async fn take_port(address: &Address) -> Result<TcpSocket, Failure> {
    let failed = |source| BindError { address: address.clone(), source };
    let mut last = std::io::ErrorKind::AddrNotAvailable.into();
    for found in tokio::net::lookup_host(address.as_str()).await.map_err(failed)? {
        let socket = if found.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        let socket = socket.map_err(failed)?;
        // A daemon that was killed leaves connections behind that would keep the port for a minute.
        socket.set_reuseaddr(true).map_err(failed)?;
        match socket.bind(found) {
            Ok(()) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(failed(last).into())
}

/// The store's size in bytes.
fn store_size(arguments: &Arguments) -> Result<u64, Failure> {
    match arguments.size {
        StoreSize::Bytes(0) => Err(Failure::usage(SizeError::NoSize { text: "0".to_owned() })),
        StoreSize::Bytes(bytes) => Ok(bytes),
        StoreSize::Percent(percent) => {
            Ok(total_space(&arguments.data_dir)? / 100 * u64::from(percent))
        }
    }
}

fn total_space(dir: &Path) -> Result<u64, Failure> {
    let found = nix::sys::statvfs::statvfs(dir)?;
    Ok(found.blocks() * found.fragment_size())
}

/// A daemon that has lost a part of itself must not go on as if it were whole.
fn abort_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        std::process::abort();
    }));
}
