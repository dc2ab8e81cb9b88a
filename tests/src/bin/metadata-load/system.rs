//! The two systems under the same load: a write of a number to a key of its own, and its
//! linearizable read.
//!
//! On our side the key is a volume, its number the size: `ResizeVolume` is the cheapest command
//! that changes a record for good, and makes a revision and an event as etcd's `Put` does.

use std::sync::Mutex;
use std::time::Duration;

use torus_blockstore::VolumeId;
use torus_metadata::{
    AdminClient, Answer, Client, Command, Error, MetadataService, Outcome, Query, Refusal,
};

use crate::Failure;
use crate::etcd::Etcd;

/// Pause before another member is asked when one failed.
const PAUSE: Duration = Duration::from_millis(10);
/// How long one member of etcd may take while another one may do better.
const ATTEMPT: Duration = Duration::from_secs(1);

/// Which system, and where its members are.
pub(crate) enum System {
    Torus(Vec<String>),
    Etcd(Vec<String>),
}

/// One client: its own connection, and its own key.
pub(crate) enum Connection {
    Torus {
        client: Client,
        volume: VolumeId,
    },
    /// The first one leads, when the load begins.
    Etcd {
        members: Mutex<Vec<Etcd>>,
        key: String,
    },
}

impl System {
    pub(crate) fn parse(name: &str, members: &str) -> Result<Self, Failure> {
        let members = members.split(',').map(str::to_owned).collect();
        match name {
            "torus" => Ok(Self::Torus(members)),
            "etcd" => Ok(Self::Etcd(members)),
            _ => Err(format!("{name:?} is no system: torus or etcd").into()),
        }
    }

    /// Where the leader is.
    pub(crate) async fn leader(&self) -> Result<String, Failure> {
        match self {
            Self::Torus(members) => {
                let status = AdminClient::new(members.clone()).status().await?;
                let leader = status.leader().ok_or("the group has no leader")?;
                Ok(leader.address.clone())
            }
            Self::Etcd(members) => {
                for member in members {
                    if Etcd::new(member)?.leads().await? {
                        return Ok(member.clone());
                    }
                }
                Err("the group has no leader".into())
            }
        }
    }

    /// Client `index`, whose key is there afterwards.
    pub(crate) async fn connect(&self, index: usize) -> Result<Connection, Failure> {
        let key = format!("bench-{index:05}");
        match self {
            Self::Torus(members) => {
                let client = Client::new(members.clone());
                let volume = volume(&client, key).await?;
                Ok(Connection::Torus { client, volume })
            }
            Self::Etcd(addresses) => {
                let leader = self.leader().await?;
                let others = addresses.iter().filter(|address| **address != leader);
                let members = [&leader].into_iter().chain(others).map(|address| Etcd::new(address));
                let members = Mutex::new(members.collect::<Result<_, _>>()?);
                let connection = Connection::Etcd { members, key };
                connection.put(1).await?;
                Ok(connection)
            }
        }
    }
}

/// The volume of this name, made if it is missing.
async fn volume(client: &Client, name: String) -> Result<VolumeId, Failure> {
    let create = Command::CreateVolume { name: name.clone(), size: 1, spec: None };
    match client.execute(create).await {
        Ok(applied) => match applied.outcome {
            Outcome::Volume(volume) => Ok(volume.id),
            other => Err(format!("no volume, but {other:?}").into()),
        },
        Err(Error::Refused(Refusal::VolumeExists { .. })) => {
            match client.query(Query::VolumeByName(name)).await? {
                Answer::Volume { volume: Some(volume), .. } => Ok(volume.id),
                other => Err(format!("no volume, but {other:?}").into()),
            }
        }
        Err(error) => Err(error.into()),
    }
}

impl Connection {
    /// Writes a number, which must be at least the last one.
    pub(crate) async fn put(&self, number: u64) -> Result<(), Failure> {
        match self {
            Self::Torus { client, volume } => {
                let (volume, epoch, ask) = (*volume, None, None);
                let command = Command::ResizeVolume { volume, epoch, size: number, ask };
                client.execute(command).await?;
                Ok(())
            }
            Self::Etcd { key, .. } => self.etcd()?.put(key, number).await,
        }
    }

    /// Writes a number, by way of other members until one accepts it.
    pub(crate) async fn put_until_accepted(&self, number: u64) -> Result<(), Failure> {
        let Self::Etcd { members, .. } = self else { return self.put(number).await };
        while !matches!(tokio::time::timeout(ATTEMPT, self.put(number)).await, Ok(Ok(()))) {
            members.lock().map_err(|_| "poisoned")?.rotate_left(1);
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    pub(crate) async fn get(&self) -> Result<u64, Failure> {
        match self {
            Self::Torus { client, volume } => {
                match client.query(Query::VolumeById(*volume)).await? {
                    Answer::Volume { volume: Some(volume), .. } => Ok(volume.size),
                    other => Err(format!("no volume, but {other:?}").into()),
                }
            }
            Self::Etcd { key, .. } => self.etcd()?.get(key).await,
        }
    }

    fn etcd(&self) -> Result<Etcd, Failure> {
        let Self::Etcd { members, .. } = self else { return Err("not etcd".into()) };
        let members = members.lock().map_err(|_| "poisoned")?;
        members.first().cloned().ok_or_else(|| "no member".into())
    }
}
