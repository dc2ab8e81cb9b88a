//! What only the writer of a volume can do: it is asked where there is one, and where there is none
//! the volume is opened here.
//!
//! Volumes that are not in use are opened, and so cannot change, before the writers of the others
//! are asked: snapshots of several volumes show one instant wherever they are in use.

mod ask;

use std::time::Duration;

use futures::future::join_all;
use tokio_util::sync::CancellationToken;
use torus_metadata::{Command, Snapshot, Task, Volume as Metadata};
use torus_volume::{Error, OpenError, Options, Volume};

use super::cluster::Cluster;
use crate::clock::now_ms;
use crate::connection::{Connection, owner};
use crate::failure::Failure;
use crate::name::SnapshotName;
use ask::Asked;

/// How often it is tried again when others open or close a volume meanwhile.
const RACES: usize = 16;
/// How long is waited until space was given back.
const RECLAIM: Duration = Duration::from_secs(60);
/// How long closing a volume may take that failed, or of which nothing is to be kept.
const ABANDON: Duration = Duration::from_secs(10);

/// Has `task` done to these volumes: to all of them, or to none if it is a snapshot. `limit` is for
/// those who have them in use.
pub(super) async fn perform(
    cluster: &Cluster,
    names: &[String],
    task: &Task,
    limit: Option<Duration>,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    let mut connection = None;
    for _ in 0..RACES {
        let mut volumes = Vec::new();
        for name in names {
            volumes.push(cluster.volume(name).await?);
        }
        let is_free = |volume: &&Metadata| volume.lock.is_none();
        let free: Vec<&Metadata> = volumes.iter().filter(is_free).collect();
        // Whoever only asks needs no way to the blocks.
        if connection.is_none() && !free.is_empty() {
            connection = Some(cluster.connect_for_blocks().await?);
        }
        let mut opened = Vec::new();
        let result: Result<(), Undone> = async {
            if let Some(connection) = &connection {
                let opening = stop.run_until_cancelled(open_all(connection, &free, &mut opened));
                opening.await.ok_or_else(interrupted)??;
            }
            let used: Vec<_> = volumes.iter().filter(|volume| !is_free(volume)).collect();
            perform_at_once(cluster, &used, &opened, task, limit, stop).await
        }
        .await;
        let closed = close_all(&opened, result.is_ok()).await;
        if result.is_err() {
            // Now that nothing is under way any more.
            undo(cluster, &volumes, task).await;
        }
        match result {
            Ok(()) => return closed,
            Err(Undone::Raced) => {}
            Err(Undone::Failed(failure)) => return Err(failure),
        }
    }
    let names = names.join(", ");
    Err(Failure::failed(format!(
        "others keep opening and closing {names}; look at 'torusctl volume list'"
    )))
}

/// Why a task was not done.
enum Undone {
    /// Somebody opened or closed a volume meanwhile.
    Raced,
    Failed(Failure),
}

impl<E: Into<Failure>> From<E> for Undone {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

async fn open_all(
    connection: &Connection,
    volumes: &[&Metadata],
    opened: &mut Vec<Volume>,
) -> Result<(), Undone> {
    for metadata in volumes {
        match open(connection, &metadata.name).await {
            Ok(volume) => opened.push(volume),
            Err(OpenError::InUse { .. }) => return Err(Undone::Raced),
            Err(error) => return Err(Failure::failed(error).into()),
        }
    }
    Ok(())
}

async fn perform_at_once(
    cluster: &Cluster,
    used: &[&Metadata],
    opened: &[Volume],
    task: &Task,
    limit: Option<Duration>,
    stop: &CancellationToken,
) -> Result<(), Undone> {
    if !used.is_empty() {
        match ask::ask(cluster, used, task, limit, stop).await? {
            Asked::Done => {}
            Asked::WriterGone => return Err(Undone::Raced),
        }
    }
    let doing = join_all(opened.iter().map(|volume| perform_here(volume, task)));
    let done = stop.run_until_cancelled(doing).await.ok_or_else(interrupted)?;
    done.into_iter().collect::<Result<(), Error>>().map_err(|error| Failure::failed(error).into())
}

async fn perform_here(volume: &Volume, task: &Task) -> Result<(), Error> {
    match task {
        Task::Snapshot { name, created_ms } => volume.snapshot(name, *created_ms).await.map(|_| ()),
        Task::Resize { size, discard } => volume.resize(*size, *discard).await,
        Task::Flatten => volume.flatten().await,
    }
}

/// Deletes the snapshots of a group that does not have all of them.
async fn undo(cluster: &Cluster, volumes: &[Metadata], task: &Task) {
    let Task::Snapshot { name, created_ms } = task else { return };
    let is_ours =
        |snapshot: &&Snapshot| snapshot.name == *name && snapshot.created_ms == *created_ms;
    for volume in volumes {
        let Ok(now) = cluster.volume_by_id(volume.id).await else { continue };
        if let Some(snapshot) = now.snapshots.iter().find(is_ours) {
            let (volume, snapshot) = (now.id, snapshot.id);
            let delete = Command::DeleteSnapshot { volume, snapshot, force: true };
            // The error that brought us here is the one to report.
            let _ = cluster.attempt(delete).await;
        }
    }
}

/// Closes volumes; what goes wrong then matters only where something was done.
async fn close_all(volumes: &[Volume], matters: bool) -> Result<(), Failure> {
    let closing = volumes.iter().map(async |volume| {
        if matters {
            volume.close().await.map_err(Failure::failed)
        } else {
            abandon(volume).await;
            Ok(())
        }
    });
    join_all(closing).await.into_iter().collect()
}

/// Closes a volume that failed, or of which nothing is to be kept.
pub(super) async fn abandon(volume: &Volume) {
    // Its session ends soon if it cannot be closed in order.
    let _ = tokio::time::timeout(ABANDON, volume.close()).await;
}

/// How this process opens volumes and snapshots.
fn options() -> Options {
    Options::new(owner("torusctl"), now_ms)
}

/// Opens a volume for this process alone.
pub(super) async fn open(connection: &Connection, name: &str) -> Result<Volume, OpenError> {
    torus_volume::open(connection.services.clone(), name, options()).await
}

/// Opens a snapshot to be read.
pub(super) async fn open_snapshot(
    connection: &Connection,
    name: &SnapshotName,
) -> Result<Volume, OpenError> {
    let services = connection.services.clone();
    torus_volume::open_snapshot(services, &name.volume, &name.snapshot, options()).await
}

/// Makes a volume, which nobody may have open, what a snapshot of it holds.
pub(super) async fn restore(connection: &Connection, name: &SnapshotName) -> Result<(), OpenError> {
    let services = connection.services.clone();
    torus_volume::restore(services, &name.volume, &name.snapshot, options()).await
}

/// Has the space given back that a volume needs no more: by its writer where it has one, else here.
/// Says what comes of it.
pub(super) async fn reclaim(cluster: &Cluster, name: &str) -> Result<&'static str, Failure> {
    const SOON: &str = "Its space comes back within a minute.";
    const LATER: &str = "Its space comes back when the volume is opened next.";
    let volume = cluster.volume(name).await?;
    if volume.retired.is_empty() {
        return Ok("It had no space to itself.");
    }
    if volume.lock.is_some() {
        return Ok(SOON);
    }
    let connection = cluster.connect_for_blocks().await?;
    let volume = match open(&connection, name).await {
        Ok(volume) => volume,
        Err(OpenError::InUse { .. }) => return Ok(SOON),
        // What was asked for is done; peers that do not answer only keep the space for a while.
        Err(_) => return Ok(LATER),
    };
    let reclaimed = tokio::time::timeout(RECLAIM, volume.reclaim()).await;
    abandon(&volume).await;
    Ok(if matches!(reclaimed, Ok(Ok(true))) { "Its space is free." } else { LATER })
}

/// Why a volume could not be opened by a command that needs it for itself.
pub(super) fn cannot_open(error: OpenError) -> Failure {
    match error {
        OpenError::InUse { .. } => Failure::failed(format!("{error}; stop that program first")),
        error => error.into(),
    }
}

/// The snapshot of this name.
pub(super) async fn find_snapshot(
    cluster: &Cluster,
    name: &SnapshotName,
) -> Result<(Metadata, Snapshot), Failure> {
    let volume = cluster.volume(&name.volume).await?;
    match volume.snapshots.iter().find(|snapshot| snapshot.name == name.snapshot) {
        Some(snapshot) => {
            let snapshot = snapshot.clone();
            Ok((volume, snapshot))
        }
        None => Err(Failure::failed(format!(
            "there is no snapshot {name}; 'torusctl snapshot list {}' shows what there is",
            name.volume
        ))),
    }
}

/// The person does not want it any more.
pub(super) fn interrupted() -> Failure {
    Failure::failed("interrupted; nothing was changed")
}
