//! Opening a volume: lock, recover, begin a new generation of the log, serve.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use torus_blockstore::{BlockIndex, BlockPool, Epoch, INodeIndex};
use torus_metadata::{
    Answer, Command, Error as MetadataError, Head, LogPosition, MetadataService, Outcome, Query,
    Refusal, SessionId, Volume as Metadata,
};

use crate::log::{Allotment, Identity};
use crate::recovery::{Recovered, recover};
use crate::session::{Held, Session};
use crate::writer::{Context, Start, WindowPlan, Writer};
use crate::{Error, OpenError, Options, Volume};

/// INode indexes that an opener reserves: one generation, and checkpoints.
const INODES: u64 = 16;
/// Requests that wait for the volume's task.
const QUEUE: usize = 256;

/// What volumes are made of.
#[derive(Clone)]
pub struct Services {
    pub pool: Arc<dyn BlockPool>,
    pub meta: Arc<dyn MetadataService>,
}

/// Opens the volume `name`: takes its lock, so that any former writer is shut out, and recovers
/// what that one had written.
///
/// # Errors
/// [`OpenError::InUse`] while another client's session holds the lock. When peers without which the
/// log cannot be read do not answer within [`Options::attach_timeout`], the error names them.
pub async fn open(services: Services, name: &str, options: Options) -> Result<Volume, OpenError> {
    let found = find(&services, name).await?;
    let session = Session::open(&services.meta, &options.owner, options.session_ttl).await?;
    let id = session.id;
    let result = lock_and_start(&services, found, options, session).await;
    if result.is_err() {
        // Frees the lock at once rather than when the session expires; the error that brought us
        // here is the one to report.
        let _ = services.meta.execute(Command::CloseSession(id)).await;
    }
    result
}

async fn lock_and_start(
    services: &Services,
    found: Metadata,
    options: Options,
    mut session: Session,
) -> Result<Volume, OpenError> {
    let deadline = Instant::now() + options.attach_timeout;
    let epoch = lock(services, &found, session.id).await?;
    let lock_lost = session.keep(
        Arc::clone(&services.meta),
        options.owner.clone(),
        options.session_ttl,
        Held { volume: found.id, epoch },
    );
    let mut context = Context {
        pool: Arc::clone(&services.pool),
        meta: Arc::clone(&services.meta),
        identity: Identity {
            volume: found.id,
            inode: INodeIndex(0),
            epoch,
            block_size: services.pool.block_size(),
        },
        window_blocks: options.window_blocks,
    };
    // Under the lock: the former writer can commit neither a window nor a head any more.
    let volume = timeout_at(deadline, context.state()).await;
    let volume = volume.map_err(|_| OpenError::TimedOut)??;
    let Recovered { map, stored, replayed, tail } = recover(&context, &volume, deadline).await?;
    let uncovered = replayed || tail.is_some() || volume.head.is_none();
    let begun = timeout_at(deadline, begin(&mut context, &volume, uncovered)).await;
    let (head, allotment, inodes) = begun.map_err(|_| OpenError::TimedOut)??;
    let rewritten = tail.as_ref().map(|tail| (tail.peers.clone(), tail.block));
    let pool = Arc::clone(&context.pool);
    let start =
        Start { identity: context.identity, map, stored, head, uncovered, tail, allotment, inodes };
    let (sender, requests) = mpsc::channel(QUEUE);
    let writer = Writer::new(context, options, start, lock_lost);
    tokio::spawn(async move {
        writer.run(requests).await;
        drop(session);
    });
    let volume = Volume::new(sender, volume.size);
    if uncovered {
        // Only the head makes the new generation count: until it has moved, another recovery would
        // begin from the old log again.
        volume.checkpoint().await?;
    }
    if let Some((peers, block)) = rewritten
        && let Err(error) = pool.delete(peers, block, epoch).await
    {
        // It stays behind on these peers, of use to nobody.
        tracing::info!(%block, %error, "the former end of the log was not deleted everywhere");
    }
    Ok(volume)
}

/// Begins a new generation of the log: with the former checkpoint as its head, unless the map holds
/// more than that.
async fn begin(
    context: &mut Context,
    volume: &Metadata,
    uncovered: bool,
) -> Result<(Head, Allotment, Vec<INodeIndex>), Error> {
    let mut inodes = context.reserve_inodes(INODES).await?;
    context.identity.inode = inodes.remove(0);
    let plan = WindowPlan { first: BlockIndex(0), after: None, avoid: Default::default() };
    let allotment = context.clone().open_window(plan).await?;
    let head = first_head(volume, context.identity);
    if !uncovered {
        context.commit_head(head.clone()).await?;
    }
    Ok((head, allotment, inodes))
}

async fn find(services: &Services, name: &str) -> Result<Metadata, OpenError> {
    match services.meta.query(Query::VolumeByName(name.to_owned())).await? {
        Answer::Volume { volume: Some(volume), .. } => Ok(volume),
        Answer::Volume { volume: None, .. } => {
            Err(OpenError::NoSuchVolume { name: name.to_owned() })
        }
        _ => {
            Err(MetadataError::Protocol { what: "the answer to VolumeByName is no volume" }.into())
        }
    }
}

async fn lock(
    services: &Services,
    volume: &Metadata,
    session: SessionId,
) -> Result<Epoch, OpenError> {
    let command = Command::LockVolume { volume: volume.id, session };
    match services.meta.execute(command).await {
        Ok(applied) => match applied.outcome {
            Outcome::Epoch(epoch) => Ok(epoch),
            _ => {
                Err(MetadataError::Protocol { what: "the answer to LockVolume is no epoch" }.into())
            }
        },
        Err(MetadataError::Refused(Refusal::InUse { name, owner })) => {
            Err(OpenError::InUse { name, owner })
        }
        Err(MetadataError::Refused(Refusal::NoSuchVolumeId { .. })) => {
            Err(OpenError::NoSuchVolume { name: volume.name.clone() })
        }
        Err(error) => Err(error.into()),
    }
}

/// The head with which a generation begins: the checkpoint is still the former one, if there is one.
fn first_head(volume: &Metadata, identity: Identity) -> Head {
    let position = LogPosition { inode: identity.inode, block: BlockIndex(0), offset: 0 };
    let (inode, blocks) =
        volume.head.as_ref().map_or((INodeIndex(0), 0), |head| (head.inode, head.blocks));
    Head { inode, blocks, epoch: identity.epoch, position }
}
