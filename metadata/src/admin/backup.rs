//! The calls that carry a whole state.

use std::time::Duration;

use tokio_stream::wrappers::ReceiverStream;
use torus_dial::Dial;

use super::client::{First, Missed, Silent, stub, within};
use super::{AdminClient, AdminError, Denied, Restored};
use crate::wire::proto::backup_chunk::Kind;
use crate::wire::{Failure, Malformed, proto};

/// How long a daemon may take to begin its backup, and again for each part of it.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a daemon may take with a restored state until it can be used.
const RESTORE_PATIENCE: Duration = Duration::from_secs(120);
/// Bytes of a backup in one message.
const CHUNK: usize = 256 << 10;

impl AdminClient {
    /// The bytes of a backup, of the first member that can make one. They are not checked.
    pub async fn backup(&self) -> Result<Vec<u8>, AdminError> {
        let mut silent = Silent::default();
        let mut denied = None;
        for address in &self.addresses {
            match backup_of(&self.dial, address).await {
                Ok(Ok(bytes)) => return Ok(bytes),
                Ok(Err(Denied::Failure(Failure::Unavailable))) => {
                    silent.tried.push(address.clone());
                }
                Ok(Err(said)) => denied = Some(said.at(address)),
                Err(missed) => silent.note(address, missed)?,
            }
        }
        Err(denied.filter(|_| silent.tried.is_empty()).unwrap_or_else(|| silent.error()))
    }

    /// Has the first of the daemons that answers, which has to wait for a cluster, go on with the
    /// state of a backup. None of them may be in a cluster already.
    pub async fn restore(&self, backup: Vec<u8>) -> Result<Restored, AdminError> {
        match self.find_first().await? {
            First::Member(address, status) => {
                let (address, cluster) = (address.to_owned(), status.cluster);
                Err(AdminError::AlreadyMember { address, cluster })
            }
            First::Waits(address) => match restore_at(&self.dial, address, &backup).await {
                Ok(result) => result.map_err(|denied| denied.at(address)),
                Err(missed) => Err(missed.outcome_unknown(address)),
            },
        }
    }
}

async fn backup_of(dial: &Dial, address: &str) -> Result<Result<Vec<u8>, Denied>, Missed> {
    let mut stub = stub(dial, address)?;
    let mut chunks = within(PATIENCE, stub.backup(proto::Nothing {})).await?;
    let mut bytes = Vec::new();
    loop {
        let chunk = tokio::time::timeout(PATIENCE, chunks.message());
        let Some(chunk) = chunk.await.map_err(|_| Missed::Timeout)?? else {
            return Ok(Ok(bytes));
        };
        match chunk.kind.ok_or(Malformed { what: "a part of a backup" })? {
            Kind::Data(data) => bytes.extend_from_slice(&data),
            Kind::Failure(failure) => return Ok(Err(failure.try_into()?)),
        }
    }
}

async fn restore_at(
    dial: &Dial,
    address: &str,
    backup: &[u8],
) -> Result<Result<Restored, Denied>, Missed> {
    let mut stub = stub(dial, address)?;
    let (sender, chunks) = tokio::sync::mpsc::channel(4);
    let parts: Vec<_> = backup.chunks(CHUNK).map(<[u8]>::to_vec).collect();
    // Beside the call, which is answered when it has the last of them.
    let feed = async move {
        for data in parts {
            if sender.send(proto::RestoreChunk { data }).await.is_err() {
                return;
            }
        }
    };
    let call = within(RESTORE_PATIENCE, stub.restore(ReceiverStream::new(chunks)));
    let (reply, ()) = tokio::join!(call, feed);
    Ok(reply?.try_into()?)
}
