//! Opening a volume: lock, recover, begin a new generation of the log, serve.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use torus_blockstore::{BlockIndex, BlockPool, Epoch, INodeIndex};
use torus_metadata::{
    Answer, Command, Error as MetadataError, Head, LogPosition, MetadataService, Outcome, Query,
    Refusal, SessionId, SnapshotId, Volume as Metadata,
};

use crate::follow::follow_volume;
use crate::groups::Groups;
use crate::log::{Allotment, Identity};
use crate::recovery::{Recovered, recover};
use crate::session::{Held, Session};
use crate::size::Size;
use crate::writer::{Context, Start, WindowPlan, Writer};
use crate::{Error, OpenError, Options, Volume};

/// INode indexes that an opener reserves: one generation, and checkpoints.
const INODES: u64 = 16;
/// Requests that wait for the volume's task.
pub(crate) const QUEUE: usize = 256;

/// What volumes are made of.
#[derive(Clone)]
pub struct Services {
    pub pool: Arc<dyn BlockPool>,
    pub meta: Arc<dyn MetadataService>,
    /// The volumes opened with the same one can be in a snapshot of a group.
    pub groups: Groups,
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

/// Makes a volume what a snapshot of it holds. Nobody may have it open.
///
/// # Errors
/// [`OpenError::InUse`], [`OpenError::NoSuchSnapshot`], or why it cannot be recovered before: only
/// then is it certain that a former writer can add nothing.
pub async fn restore(
    services: Services,
    name: &str,
    snapshot: &str,
    options: Options,
) -> Result<(), OpenError> {
    loop {
        let found = find(&services, name).await?;
        let wanted = found.snapshots.iter().find(|it| it.name == snapshot);
        let Some(wanted) = wanted.map(|it| it.id) else {
            let (volume, snapshot) = (name.to_owned(), snapshot.to_owned());
            return Err(OpenError::NoSuchSnapshot { volume, snapshot });
        };
        open(services.clone(), name, options.clone()).await?.close().await?;
        let session = Session::open(&services.meta, &options.owner, options.session_ttl).await?;
        let restored = restore_locked(&services, &found, wanted, session.id).await;
        // Frees the lock at once rather than when the session expires.
        let _ = services.meta.execute(Command::CloseSession(session.id)).await;
        if restored? {
            return Ok(());
        }
        tracing::info!(volume = name, "somebody had the volume open meanwhile");
    }
}

/// Whether the head was moved: not while a log stands behind it that somebody has left there.
async fn restore_locked(
    services: &Services,
    volume: &Metadata,
    snapshot: SnapshotId,
    session: SessionId,
) -> Result<bool, OpenError> {
    let epoch = lock(services, volume, session).await?;
    let now = find(services, &volume.name).await?;
    if now.id != volume.id || !now.windows.is_empty() {
        return Ok(false);
    }
    let command = Command::RestoreSnapshot { volume: volume.id, epoch, snapshot };
    services.meta.execute(command).await?;
    Ok(true)
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
        Held::Lock { volume: found.id, epoch },
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
        copies: found.block_spec.copies(),
    };
    // Under the lock: the former writer can commit neither a window nor a head any more.
    let volume = timeout_at(deadline, context.state()).await;
    let volume = volume.map_err(|_| OpenError::TimedOut)??;
    let Recovered { map, replayed, tail } = recover(&context, &volume, deadline).await?;
    let uncovered = replayed || tail.is_some() || volume.head.is_none();
    let begun = timeout_at(deadline, begin(&mut context, &volume, uncovered)).await;
    let (head, allotment, inodes) = begun.map_err(|_| OpenError::TimedOut)??;
    let rewritten = tail.as_ref().map(|tail| (tail.peers.clone(), tail.block));
    let pool = Arc::clone(&context.pool);
    let size = Size::new(volume.size);
    let (following, changes) = follow_volume(Arc::clone(&services.meta), volume.id);
    let start = Start {
        identity: context.identity,
        map,
        head,
        uncovered,
        tail,
        allotment,
        inodes,
        size: size.clone(),
        metadata: volume,
        groups: services.groups.clone(),
    };
    let (sender, requests) = mpsc::channel(QUEUE);
    let writer = Writer::new(context, options, start, lock_lost);
    tokio::spawn(async move {
        writer.run(requests, changes).await;
        drop((session, following));
    });
    let volume = Volume::new(sender, size, false);
    if uncovered {
        // Only the head makes the new generation count: until it has moved, another recovery would
        // begin from the old log again.
        volume.checkpoint().await?;
    }
    if let Some((peers, block)) = rewritten
        && let Err(error) = pool.delete(peers, vec![block], epoch).await
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

pub(crate) async fn find(services: &Services, name: &str) -> Result<Metadata, OpenError> {
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
    match &volume.head {
        Some(head) => Head { epoch: identity.epoch, position, ..head.clone() },
        None => {
            let (inode, epoch) = (INodeIndex(0), identity.epoch);
            Head { volume: volume.id, inode, blocks: 0, epoch, position }
        }
    }
}
