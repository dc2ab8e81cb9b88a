//! The cluster that a command is for: its metadata service, its administration and its peers.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use tokio::net::TcpStream;
use tokio::sync::{OnceCell, watch};
use tokio::time::timeout;
use torus_blockstore::{PeerId, VolumeId};
use torus_distributor::{
    PeerError, Peers, Refusal as DataRefusal, Request, Response, Status, TcpPeers, View,
};
use torus_metadata::{
    AdminClient, AdminError, Answer, Applied, Client, Command, Error, GlobalMetadata, GroupStatus,
    MetadataService, Peer, Query, Refusal, Ring, Volume,
};

use crate::address::Address;
use crate::connection::Connection;
use crate::failure::{Failure, chain};

/// How long a daemon may take to accept a connection.
const CONNECT_PATIENCE: Duration = Duration::from_secs(4);
/// How long a member may take to say what it knows.
const STALE_PATIENCE: Duration = Duration::from_secs(5);
/// How long a peer may take to say how it is.
const STATUS_PATIENCE: Duration = Duration::from_secs(3);
/// How often a change is made again when others change the same thing.
const RACES: usize = 16;

/// How to reach the cluster.
pub(super) struct Cluster {
    addresses: Vec<Address>,
    /// Set once a daemon has accepted a connection.
    reached: OnceCell<()>,
    client: Client,
    pub(super) admin: AdminClient,
    /// Any member answers by what it knows, however old.
    pub(super) is_stale: bool,
}

impl Cluster {
    /// Connects nothing yet.
    pub(super) fn new(addresses: &[Address]) -> Self {
        let list = || addresses.iter().map(Address::to_string);
        Self {
            addresses: addresses.to_vec(),
            reached: OnceCell::new(),
            client: Client::new(list()),
            admin: AdminClient::new(list()),
            is_stale: false,
        }
    }

    /// The same, where nothing is waited for longer than `deadline`.
    pub(super) fn with_deadline(&self, deadline: Duration) -> Self {
        Self {
            addresses: self.addresses.clone(),
            reached: self.reached.clone(),
            client: self.client.with_deadline(deadline),
            admin: self.admin.clone(),
            is_stale: self.is_stale,
        }
    }

    /// The same, where any member answers by what it knows, however old.
    pub(super) fn stale(&self) -> Self {
        let client = self.client.stale();
        Self { client, is_stale: true, ..self.with_deadline(STALE_PATIENCE) }
    }

    /// Fails early and clearly where no daemon listens at all: a group without a leader is waited
    /// for, but nobody need wait for this.
    pub(super) async fn reach(&self) -> Result<(), Failure> {
        self.reached.get_or_try_init(|| self.connect_to_any()).await.copied()
    }

    async fn connect_to_any(&self) -> Result<(), Failure> {
        let attempts = self.addresses.iter().map(|address| connect(address.as_str()));
        let mut attempts: FuturesUnordered<_> = attempts.collect();
        let mut reason = None;
        while let Some(attempt) = attempts.next().await {
            match attempt {
                Ok(()) => return Ok(()),
                Err(error) => reason = Some(error),
            }
        }
        let addresses: Vec<_> = self.addresses.iter().map(Address::as_str).collect();
        let reason = reason.map_or_else(String::new, |error| format!(" ({error})"));
        Err(Failure::failed(format!(
            "no daemon answers at {}{reason}; start one with 'torusd --data-dir DIR \
             --peer-address HOST:PORT', or name one with -C HOST:PORT",
            addresses.join(", "),
        )))
    }

    /// What `init` wrote.
    pub(super) async fn global(&self) -> Result<GlobalMetadata, Failure> {
        match self.query(Query::Cluster).await? {
            Answer::Cluster { global: Some(global), .. } => Ok(global),
            Answer::Cluster { .. } => Err(refused(&Refusal::NotInitialised)),
            _ => Err(nonsense("the cluster")),
        }
    }

    /// The present ring.
    pub(super) async fn ring(&self) -> Result<Ring, Failure> {
        match self.query(Query::Ring(None)).await? {
            Answer::Ring { ring: Some(ring), .. } => Ok(ring),
            Answer::Ring { .. } => Err(refused(&Refusal::NotInitialised)),
            _ => Err(nonsense("the ring")),
        }
    }

    /// The registered peers.
    pub(super) async fn peers(&self) -> Result<Vec<Peer>, Failure> {
        match self.query(Query::Peers).await? {
            Answer::Peers { peers, .. } => Ok(peers),
            _ => Err(nonsense("the peers")),
        }
    }

    /// All volumes.
    pub(super) async fn volumes(&self) -> Result<Vec<Volume>, Failure> {
        match self.query(Query::Volumes).await? {
            Answer::Volumes { volumes, .. } => Ok(volumes),
            _ => Err(nonsense("the volumes")),
        }
    }

    /// Whether IDs of volumes are lost that a former generation may have given.
    pub(super) async fn has_lost_volumes(&self) -> Result<bool, Failure> {
        match self.query(Query::Volumes).await? {
            Answer::Volumes { lost, .. } => Ok(!lost.is_empty()),
            _ => Err(nonsense("the volumes")),
        }
    }

    /// The volume of this name.
    pub(super) async fn volume(&self, name: &str) -> Result<Volume, Failure> {
        match self.query(Query::VolumeByName(name.to_owned())).await? {
            Answer::Volume { volume: Some(volume), .. } => Ok(volume),
            Answer::Volume { .. } => Err(refused(&Refusal::NoSuchVolume { name: name.to_owned() })),
            _ => Err(nonsense("a volume")),
        }
    }

    /// The volume of this name, if there is one.
    pub(super) async fn find(&self, name: &str) -> Result<Option<Volume>, Failure> {
        self.reach().await?;
        match self.client.query(Query::VolumeByName(name.to_owned())).await {
            Ok(Answer::Volume { volume, .. }) => Ok(volume),
            Err(Error::Refused(Refusal::NoSuchVolume { .. })) => Ok(None),
            Ok(_) => Err(nonsense("a volume")),
            Err(error) => Err(failed(&error)),
        }
    }

    /// The volume of this ID.
    pub(super) async fn volume_by_id(&self, id: VolumeId) -> Result<Volume, Failure> {
        match self.query(Query::VolumeById(id)).await? {
            Answer::Volume { volume: Some(volume), .. } => Ok(volume),
            Answer::Volume { .. } => Err(refused(&Refusal::NoSuchVolumeId { id })),
            _ => Err(nonsense("a volume")),
        }
    }

    async fn query(&self, query: Query) -> Result<Answer, Failure> {
        self.reach().await?;
        self.client.query(query).await.map_err(|error| failed(&error))
    }

    /// Puts a command through the log.
    pub(super) async fn execute(&self, command: Command) -> Result<Applied, Failure> {
        self.reach().await?;
        self.client.execute(command).await.map_err(|error| failed(&error))
    }

    /// Puts a command through the log, where the caller knows what to make of a refusal.
    pub(super) async fn attempt(&self, command: Command) -> Result<Applied, Refused> {
        self.reach().await.map_err(Refused::Failure)?;
        self.client.execute(command).await.map_err(|error| match error {
            Error::Refused(refusal) => Refused::Refusal(refusal),
            error => Refused::Failure(failed(&error)),
        })
    }

    /// The metadata service.
    pub(super) fn meta(&self) -> Arc<dyn MetadataService> {
        Arc::new(self.client.clone())
    }

    /// What volumes are opened with.
    pub(super) async fn connect_for_blocks(&self) -> Result<Connection, Failure> {
        self.reach().await?;
        Connection::open(self.addresses.iter().map(Address::to_string).collect()).await
    }

    /// Replaces the ring by what `change` makes of it, and again when another change came first.
    /// `None`: nothing is to change. Answers the ring that is in place then.
    pub(super) async fn change_ring(
        &self,
        mut change: impl FnMut(&Ring) -> Result<Option<Ring>, Failure>,
    ) -> Result<Ring, Failure> {
        for _ in 0..RACES {
            let present = self.ring().await?;
            let Some(ring) = change(&present)? else { return Ok(present) };
            match self.client.execute(Command::SetRing(ring.clone())).await {
                Ok(_) => return Ok(ring),
                Err(Error::Refused(Refusal::RingVersion { .. })) => {}
                Err(error) => return Err(failed(&error)),
            }
        }
        Err(Failure::failed("others keep changing the ring; look at 'torusctl ring get'"))
    }

    /// Calls the administration of the daemons.
    pub(super) async fn administer<T>(
        &self,
        call: impl Future<Output = Result<T, AdminError>>,
    ) -> Result<T, Failure> {
        self.reach().await?;
        call.await.map_err(|error| denied(&error))
    }
}

/// Why a command did not take effect.
pub(super) enum Refused {
    /// The state machine's own word.
    Refusal(Refusal),
    Failure(Failure),
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Refusal(refusal) => self::refused(&refusal),
            Refused::Failure(failure) => failure,
        }
    }
}

/// What a daemon says of itself when it is asked for its place in a group.
#[derive(Clone, Debug)]
pub(super) enum Standing {
    Member(GroupStatus),
    /// It waits to be initialised or to join.
    Waits,
    Silent,
}

/// What the daemons at these addresses say of themselves.
pub(super) async fn standings(addresses: &[String]) -> Vec<Standing> {
    let ask = async |address: &String| {
        if connect(address).await.is_err() {
            return Standing::Silent;
        }
        match timeout(STATUS_PATIENCE, AdminClient::own_status(address)).await {
            Ok(Ok(status)) => Standing::Member(status),
            Ok(Err(AdminError::NotInitialised { .. })) => Standing::Waits,
            Ok(Err(_)) | Err(_) => Standing::Silent,
        }
    };
    join_all(addresses.iter().map(ask)).await
}

async fn connect(address: &str) -> Result<(), io::Error> {
    timeout(CONNECT_PATIENCE, TcpStream::connect(address)).await??;
    Ok(())
}

/// The data protocol to these peers.
pub(super) fn data_path(global: &GlobalMetadata, peers: &[Peer]) -> TcpPeers {
    let peers = peers.iter().map(|peer| (peer.id, peer.clone())).collect();
    let (_, view) = watch::channel(View { peers: Some(peers), ..View::default() });
    TcpPeers::start(global.cluster, global.block_size, None, view)
}

/// How each peer is, by its own word.
pub(super) type Statuses = BTreeMap<PeerId, Result<Status, PeerError>>;

/// Asks all peers at once how they are. Of those that do not answer it is asked whether another
/// cluster has their address.
pub(super) async fn statuses(global: &GlobalMetadata, peers: &[Peer]) -> Statuses {
    let mut statuses = answers(global, peers).await;
    let is_silent = |peer: &&Peer| matches!(statuses.get(&peer.id), Some(Err(PeerError::Silent)));
    let silent: Vec<_> = peers.iter().filter(is_silent).collect();
    let addresses: Vec<_> = silent.iter().map(|peer| peer.address.clone()).collect();
    for (peer, standing) in silent.into_iter().zip(standings(&addresses).await) {
        let error = match standing {
            Standing::Member(status) if status.cluster != global.cluster => {
                DataRefusal::WrongCluster
            }
            // Its folder is empty, or another's.
            Standing::Waits => DataRefusal::WrongPeer,
            Standing::Member(_) | Standing::Silent => continue,
        };
        statuses.insert(peer.id, Err(PeerError::Refused(error)));
    }
    statuses
}

async fn answers(global: &GlobalMetadata, peers: &[Peer]) -> Statuses {
    let path = data_path(global, peers);
    let ask = async |peer: &Peer| {
        let answer = timeout(STATUS_PATIENCE, path.request(peer.id, Request::Status)).await;
        let status = match answer {
            Ok(Ok(Response::Status(status))) => Ok(status),
            Ok(Ok(_)) | Err(_) => Err(PeerError::Silent),
            Ok(Err(error)) => Err(error),
        };
        (peer.id, status)
    };
    join_all(peers.iter().map(ask)).await.into_iter().collect()
}

/// What a refusal of the state machine means for the person.
pub(super) fn refused(refusal: &Refusal) -> Failure {
    let next = match refusal {
        Refusal::Invalid { .. } => return Failure::usage(refusal.to_string()),
        Refusal::AlreadyInitialised => "'torusctl status' shows it",
        Refusal::VolumeExists { .. } => "choose another name",
        Refusal::NoSuchVolume { .. } => "'torusctl volume list' shows what there is",
        Refusal::InUse { .. } => "stop that program first",
        Refusal::SnapshotExists { .. } => "choose another name",
        Refusal::NoSuchSnapshot { volume } => {
            return Failure::failed(format!(
                "{refusal}; 'torusctl snapshot list {volume}' shows them"
            ));
        }
        Refusal::Shrinks => "it was made larger meanwhile; ask again",
        Refusal::SeveralWriters => "take them one after another, or stop all but one program",
        Refusal::NoSuchPeer => "'torusctl peer list' shows what there is",
        Refusal::RingVersion { .. } => "look at 'torusctl ring get' and decide again",
        _ => return Failure::failed(refusal.clone()),
    };
    Failure::failed(format!("{refusal}; {next}"))
}

fn failed(error: &Error) -> Failure {
    match error {
        Error::Refused(refusal) => refused(refusal),
        Error::Unavailable { .. } => leaderless(error),
        _ => Failure::failed(chain(error)),
    }
}

fn denied(error: &AdminError) -> Failure {
    let next = match error {
        AdminError::Refused(refusal) => return refused(refusal),
        AdminError::Unavailable { .. } => return leaderless(error),
        AdminError::Joining { .. } => "run 'torusctl init' with -C and the address of one of those",
        AdminError::NoSuchMember(_) => "'torusctl member list' shows the members",
        AdminError::NotAVoter(_) => "'torusctl member list' shows who has a vote",
        AdminError::LastVoter => "add another member first",
        AdminError::NotReady(_) => "'torusctl member status' shows how far it is",
        AdminError::Unreachable { .. } => "start it with torusd, or correct the address",
        AdminError::AlreadyMember { .. } => "'torusctl member list' shows the members",
        _ => return Failure::failed(chain(error)),
    };
    Failure::failed(format!("{}; {next}", chain(error)))
}

fn leaderless(error: &dyn std::error::Error) -> Failure {
    Failure::failed(format!(
        "{}; more than half of the members must be up: see 'torusctl status'",
        chain(error)
    ))
}

fn nonsense(what: &'static str) -> Failure {
    failed(&Error::Protocol { what })
}
