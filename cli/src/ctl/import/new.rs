//! A new volume that an import fills.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use torus_blockstore::{BlockSpec, VolumeId};
use torus_metadata::{Command, Error, Outcome, Refusal};
use torus_volume::Volume;
use uuid::Uuid;

use crate::ctl::cluster::{Cluster, Refused};
use crate::ctl::storage::{self, interrupted};
use crate::failure::Failure;
use crate::stream::Moment;

/// Stands behind the name of a volume that is being imported, before eight digits.
const MARK: &str = ".importing-";
const DIGITS: usize = 8;
/// No name is longer.
const NAME_MAX: usize = 255;
/// How long a volume that was given up may stay locked by the session that was.
const RELEASE: Duration = Duration::from_secs(15);
const RELEASE_POLL: Duration = Duration::from_millis(250);

/// Whether a volume has the name of an import that has not ended well.
pub(in crate::ctl) fn is_temporary(name: &str) -> bool {
    let digits = name.rsplit_once(MARK).map(|(_, digits)| digits);
    digits.is_some_and(|it| it.len() == DIGITS && it.bytes().all(|c| c.is_ascii_hexdigit()))
}

/// A name for a volume while it is imported; that of its own may be too long for more.
fn temporary(name: &str) -> String {
    let id = Uuid::new_v4().simple().to_string();
    let room = NAME_MAX - MARK.len() - DIGITS;
    let kept = name.get(..room).unwrap_or(name);
    format!("{kept}{MARK}{}", &id[..DIGITS])
}

/// A volume that does not have its own name yet.
pub(super) struct New<'a> {
    cluster: &'a Cluster,
    name: &'a str,
    temporary: String,
    volume: VolumeId,
}

impl<'a> New<'a> {
    /// Creates it; `name` must not be taken.
    pub(super) async fn create(
        cluster: &'a Cluster,
        name: &'a str,
        size: u64,
        spec: Option<BlockSpec>,
    ) -> Result<Self, Failure> {
        if cluster.find(name).await?.is_some() {
            return Err(Refused::Refusal(Refusal::VolumeExists { name: name.to_owned() }).into());
        }
        let temporary = temporary(name);
        let create = Command::CreateVolume { name: temporary.clone(), size, spec };
        let Outcome::Volume(volume) = cluster.execute(create).await?.outcome else {
            return Err(Error::Protocol { what: "a new volume" }.into());
        };
        Ok(Self { cluster, name, temporary, volume: volume.id })
    }

    /// Has it filled, takes a snapshot if there is to be one, and gives the volume its name. If any
    /// of that fails, the volume is deleted.
    pub(super) async fn fill<T>(
        self,
        snapshot: Option<&Moment>,
        stop: &CancellationToken,
        work: impl AsyncFnOnce(&Volume) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let result = match self.filled(snapshot, stop, work).await {
            Ok(done) => self.give_name().await.map(|()| done),
            Err(failure) => Err(failure),
        };
        match result {
            Ok(done) => Ok(done),
            Err(failure) => Err(self.discard(failure).await),
        }
    }

    async fn filled<T>(
        &self,
        snapshot: Option<&Moment>,
        stop: &CancellationToken,
        work: impl AsyncFnOnce(&Volume) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let opening = async {
            let connection = self.cluster.connect_for_blocks().await?;
            let volume = storage::open(&connection, &self.temporary).await?;
            Ok::<_, Failure>((connection, volume))
        };
        let (_connection, volume) =
            stop.run_until_cancelled(opening).await.ok_or_else(interrupted)??;
        let working = async {
            let done = work(&volume).await?;
            volume.flush().await?;
            if let Some(moment) = snapshot {
                volume.snapshot(&moment.name, moment.created_ms).await?;
            }
            volume.close().await?;
            Ok(done)
        };
        let result = stop.run_until_cancelled(working).await.ok_or_else(interrupted);
        let result = result.and_then(|result| result);
        if result.is_err() {
            storage::abandon(&volume).await;
        }
        result
    }

    async fn give_name(&self) -> Result<(), Failure> {
        let (name, to) = (self.temporary.clone(), self.name.to_owned());
        self.cluster.execute(Command::RenameVolume { name, to }).await?;
        Ok(())
    }

    /// Deletes the volume because of `failure`; says so too if that fails.
    async fn discard(&self, failure: Failure) -> Failure {
        let name = &self.temporary;
        let deleting = async {
            loop {
                let delete = Command::DeleteVolume { volume: self.volume, force: true };
                match self.cluster.attempt(delete).await {
                    Err(Refused::Refusal(Refusal::InUse { .. })) => {
                        tokio::time::sleep(RELEASE_POLL).await;
                    }
                    Ok(_) | Err(Refused::Refusal(Refusal::NoSuchVolumeId { .. })) => return true,
                    Err(_) => return false,
                }
            }
        };
        match tokio::time::timeout(RELEASE, deleting).await {
            Ok(true) => failure,
            Ok(false) | Err(_) => Failure::failed(format!(
                "{}; what was imported could not be deleted: 'torusctl volume delete --force \
                 {name}' does it",
                failure.line()
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_that_is_not_whole_says_so() {
        let name = temporary("disk");
        assert!(is_temporary(&name) && name.starts_with("disk.importing-"), "{name}");
        let long = temporary(&"x".repeat(255));
        assert!(is_temporary(&long) && long.len() == 255, "{long}");
        for name in ["disk", "disk.importing-", "disk.importing-1234567", "disk.importing-1234567z"]
        {
            assert!(!is_temporary(name), "{name}");
        }
    }
}
