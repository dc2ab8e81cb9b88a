//! Snapshots while their volume is written: read, held against what they must hold, cloned and
//! deleted. A clone is a volume with a past of its own.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use torus_metadata::Command;
use torus_volume::OpenError;

use super::chain;
use super::chance::Chance;
use super::cluster::{Client, Cluster, Tracked};
use super::oracle::History;
use super::workload::{Failure, User, read_whole};

/// Volumes that a run may have, its clones counted.
const VOLUMES_MAX: usize = 4;
/// How long reading a snapshot may take when all is well.
const READ_LIMIT: Duration = Duration::from_secs(120);

/// Uses a volume and its snapshots until it is dropped.
pub(crate) fn look_after(cluster: Arc<Cluster>, volume: Tracked) -> BoxFuture<'static, ()> {
    // Clones are looked after in the same way, so the future's size must not depend on itself.
    Box::pin(use_until_dropped(cluster, volume))
}

async fn use_until_dropped(cluster: Arc<Cluster>, volume: Tracked) {
    let seed = cluster.context.seed;
    let user = User {
        cluster: Arc::clone(&cluster),
        volume: volume.clone(),
        chance: Arc::new(Chance::new(seed, &format!("user of {}", volume.name))),
    };
    let _user = AbortOnDropHandle::new(tokio::spawn(user.run()));
    let chance = Chance::new(seed, &format!("snapshots of {}", volume.name));
    let mut clones = Vec::new();
    loop {
        sleep(chance.millis(300..4000)).await;
        if chance.happens(150_000) && cluster.context.swarm.renames {
            rename(&cluster, &volume).await;
        }
        let known = volume.history.snapshots().len();
        if known == 0 {
            continue;
        }
        let which = usize::try_from(chance.within(0..known as u64)).unwrap_or(0);
        match chance.within(0..10) {
            0..6 => {
                let read = read(&cluster, &volume, which);
                // Who is cut off from the peers waits for ever.
                let found = timeout(chance.millis(1000..40_000), read).await;
                if let Ok(Err(Failed::Wrong(what))) = found {
                    cluster.context.trace.violation(format!("{}: {what}", volume.name));
                }
            }
            6..9 => delete(&cluster, &volume, which).await,
            _ => clones.extend(clone(&cluster, &volume, which).await),
        }
    }
}

/// Gives a volume another name, in use or not.
async fn rename(cluster: &Arc<Cluster>, volume: &Tracked) {
    let Some(present) = cluster.present(volume).await else { return };
    // No other volume ever has this one, and the first name is free for one that is created anew.
    let to = format!("{}-{}", volume.name, cluster.context.trace.now());
    let client = cluster.client(volume.host);
    if client.execute(Command::RenameVolume { name: present.name, to }).await.is_ok() {
        cluster.context.trace.sometimes("a volume was renamed");
    }
}

/// Why a snapshot was not read.
enum Failed {
    /// It is not what it must be.
    Wrong(String),
    Unread(String),
}

/// Reads a snapshot and holds it against what it must hold.
async fn read(cluster: &Arc<Cluster>, volume: &Tracked, which: usize) -> Result<(), Failed> {
    let Some(snapshot) = volume.history.snapshots().get(which).cloned() else { return Ok(()) };
    let client = cluster.client(volume.host + 1);
    let Some(present) = cluster.present(volume).await else { return Ok(()) };
    let opened = client.open_snapshot(&present.name, &snapshot.name).await;
    let reader = opened.map_err(|error| match error {
        OpenError::NoSuchSnapshot { .. } if volume.history.has(&snapshot) => {
            Failed::Wrong(chain(&error))
        }
        error => Failed::Unread(chain(&error)),
    })?;
    let found = match read_whole(&reader, volume.history.sectors()).await {
        Ok(found) => found,
        Err(Failure::Wrong(what)) => {
            return Err(Failed::Wrong(format!("snapshot {:?}: {what}", snapshot.name)));
        }
        Err(Failure::Error(error)) => return Err(Failed::Unread(chain(&error))),
    };
    snapshot.check(found).map_err(Failed::Wrong)?;
    cluster.context.trace.sometimes("a snapshot was read");
    Ok(())
}

/// Reads all snapshots, which must be readable now.
pub(crate) async fn all_are_what_they_were(
    cluster: &Arc<Cluster>,
    volume: &Tracked,
) -> Result<(), String> {
    let count = volume.history.snapshots().len();
    for which in 0..count {
        let name = &volume.name;
        match timeout(READ_LIMIT, read(cluster, volume, which)).await {
            Ok(Ok(())) => {}
            Ok(Err(Failed::Wrong(what) | Failed::Unread(what))) => {
                return Err(format!("{name}: a snapshot: {what}"));
            }
            Err(_) => return Err(format!("{name}: a snapshot does not read")),
        }
    }
    Ok(())
}

/// The names by which the metadata knows a volume and one of its snapshots.
async fn ids(
    cluster: &Cluster,
    volume: &Tracked,
    snapshot: &str,
) -> Option<(torus_blockstore::VolumeId, torus_metadata::SnapshotId)> {
    let volume = cluster.present(volume).await?;
    let snapshot = volume.snapshots.iter().find(|it| it.name == snapshot)?;
    Some((volume.id, snapshot.id))
}

async fn delete(cluster: &Arc<Cluster>, volume: &Tracked, which: usize) {
    // From now on nobody may expect it to be there.
    let snapshot = volume.history.snapshots().remove(which);
    let Some((id, snapshot_id)) = ids(cluster, volume, &snapshot.name).await else {
        if volume.history.may_be_gone() {
            return;
        }
        let what = format!("{}: snapshot {:?} is gone", volume.name, snapshot.name);
        return cluster.context.trace.violation(what);
    };
    let client = cluster.client(volume.host);
    let command = Command::DeleteSnapshot { volume: id, snapshot: snapshot_id, force: false };
    if client.execute(command).await.is_ok() {
        cluster.context.trace.sometimes("a snapshot was deleted");
    }
}

/// Clones a snapshot whose content is known, and begins to use the clone.
async fn clone(
    cluster: &Arc<Cluster>,
    volume: &Tracked,
    which: usize,
) -> Option<AbortOnDropHandle<()>> {
    let number = cluster.tracked().len();
    if number >= VOLUMES_MAX {
        return None;
    }
    let (snapshot, content) = {
        let snapshots = volume.history.snapshots();
        let snapshot = snapshots.get(which)?;
        (snapshot.name.clone(), snapshot.content()?)
    };
    let (id, snapshot) = ids(cluster, volume, &snapshot).await?;
    let name = format!("clone-{number}-{}", cluster.context.trace.now());
    let client: Client = cluster.client(volume.host);
    let command = Command::CloneVolume { volume: id, snapshot, name: name.clone() };
    client.execute(command).await.ok()?;
    cluster.context.trace.sometimes("a snapshot was cloned");
    let tracked = cluster.track(name, History::of_clone(content)).await?;
    Some(AbortOnDropHandle::new(tokio::spawn(look_after(Arc::clone(cluster), tracked))))
}
