//! The session of an opener: kept alive while the volume is open; when it ended because the
//! metadata service was away, a new one takes the lock again with the old epoch.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use torus_blockstore::{Epoch, VolumeId};
use torus_metadata::{
    Command, Error as MetadataError, MetadataService, Outcome, Refusal, SessionId, SnapshotId,
};

use crate::Error;

/// Ends with the writer: dropping it stops the keep-alives.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: SessionId,
    task: Option<AbortHandle>,
}

/// What the session holds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Held {
    /// The lock of a volume.
    Lock { volume: VolumeId, epoch: Epoch },
    /// A snapshot, which is not to be deleted while it is read.
    Pin { volume: VolumeId, snapshot: SnapshotId },
}

impl Held {
    fn volume(self) -> VolumeId {
        match self {
            Self::Lock { volume, .. } | Self::Pin { volume, .. } => volume,
        }
    }
}

impl Session {
    /// Opens a session that nothing keeps alive yet.
    pub(crate) async fn open(
        meta: &Arc<dyn MetadataService>,
        owner: &str,
        ttl: Duration,
    ) -> Result<Self, MetadataError> {
        let id = open(meta, owner, ttl).await?;
        Ok(Self { id, task: None })
    }

    /// Keeps the session alive from now on; the receiver hears when the lock is gone for good.
    pub(crate) fn keep(
        &mut self,
        meta: Arc<dyn MetadataService>,
        owner: String,
        ttl: Duration,
        held: Held,
    ) -> oneshot::Receiver<Error> {
        let (lost, receiver) = oneshot::channel();
        let mut id = self.id;
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(ttl / 4).await;
                let ended = match meta.keep_alive(id).await {
                    Err(MetadataError::Refused(Refusal::NoSuchSession)) => true,
                    Err(error) => {
                        tracing::warn!(volume = %held.volume(), %error, "cannot renew the session");
                        false
                    }
                    Ok(()) => false,
                };
                if !ended {
                    continue;
                }
                match relock(&meta, &owner, ttl, held).await {
                    Ok(renewed) => id = renewed,
                    // The epoch is ours, so the holder is a session of ours: the answer to an
                    // earlier attempt was lost, and that session will end.
                    Err(MetadataError::Refused(Refusal::InUse { .. })) => {
                        tracing::info!(volume = %held.volume(), "waiting for a lost session to end");
                    }
                    Err(MetadataError::Refused(refusal)) => {
                        // The writer may have been closed meanwhile.
                        let _ = lost.send(lost_to(refusal));
                        return;
                    }
                    Err(error) => {
                        tracing::warn!(volume = %held.volume(), %error, "cannot take the lock again");
                    }
                }
            }
        });
        self.task = Some(task.abort_handle());
        receiver
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

async fn open(
    meta: &Arc<dyn MetadataService>,
    owner: &str,
    ttl: Duration,
) -> Result<SessionId, MetadataError> {
    let ttl_ms = u32::try_from(ttl.as_millis()).unwrap_or(u32::MAX);
    let command = Command::OpenSession { owner: owner.to_owned(), ttl_ms };
    match meta.execute(command).await?.outcome {
        Outcome::Session(id) => Ok(id),
        _ => Err(MetadataError::Protocol { what: "the answer to OpenSession is no session" }),
    }
}

async fn relock(
    meta: &Arc<dyn MetadataService>,
    owner: &str,
    ttl: Duration,
    held: Held,
) -> Result<SessionId, MetadataError> {
    let session = open(meta, owner, ttl).await?;
    meta.execute(match held {
        Held::Lock { volume, epoch } => Command::RelockVolume { volume, session, epoch },
        Held::Pin { volume, snapshot } => Command::PinSnapshot { volume, snapshot, session },
    })
    .await?;
    tracing::info!(volume = %held.volume(), "holds the volume again after the session had ended");
    Ok(session)
}

fn lost_to(refusal: Refusal) -> Error {
    match refusal {
        Refusal::StaleEpoch { current, .. } => Error::TakenOver { newest: current },
        other => Error::Refused(other),
    }
}
