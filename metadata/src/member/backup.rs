//! The state out of the group as a backup, and a daemon that waits as the first member of a group
//! that goes on with one.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::mpsc;
use torus_raft::{Identity, Position, RaftNode};
use uuid::Uuid;

use super::admin::chain;
use super::core::{Core, linearize};
use super::lifecycle::fail;
use crate::admin::{Denied, Restored};
use crate::machine::Machine;
use crate::wire::{Failure, Image, write_backup, write_snapshot};
use crate::{Backup, BackupInfo, MetadataService, NodeId, Query};

/// Bytes of a backup in one message.
const CHUNK: usize = 256 << 10;
/// Chunks that wait for a slow reader.
const CHUNKS: usize = 4;

/// The bytes of a backup that has all that was committed before the call.
pub(super) async fn make(core: &Core) -> Result<mpsc::Receiver<Vec<u8>>, Denied> {
    let node = core.member()?;
    linearize(&node).await?;
    let image = Image::of(&core.replica.read());
    // Looked at after the state, so not older than it.
    let status = node.status();
    let global = image.state().global.as_ref().ok_or(Failure::NotInitialised)?;
    let info = BackupInfo {
        cluster: global.cluster,
        generation: image.state().generation,
        revision: image.state().revision(),
        term: status.term,
        index: status.applied.unwrap_or(0),
        created_ms: now_ms(),
        level: image.state().level(),
    };
    let (chunks, receiver) = mpsc::channel(CHUNKS);
    tokio::task::spawn_blocking(move || {
        let mut to = Chunks { to: chunks, buffer: Vec::with_capacity(CHUNK) };
        let written = write_backup(info, image, &mut to).and_then(|()| to.flush());
        if let Err(err) = written {
            tracing::debug!(error = %err, "nobody waits for the backup any more");
        }
    });
    Ok(receiver)
}

/// Cuts what is written into chunks.
struct Chunks {
    to: mpsc::Sender<Vec<u8>>,
    buffer: Vec<u8>,
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let chunk = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK));
        self.to.blocking_send(chunk).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// Begins a group of this daemon alone, with the state of a backup.
pub(super) async fn restore(core: &Arc<Core>, backup: Backup) -> Result<Restored, Denied> {
    let cluster = backup.info.cluster;
    if let Some(found) = core.options.blocks_of.filter(|found| *found != cluster) {
        return Err(Denied::OtherCluster(found));
    }
    let behind = Position { term: backup.info.term, index: backup.info.index };
    let mut machine = backup.machine.reborn(now_ms());
    let (group, node) = (Uuid::new_v4(), NodeId(behind.index + 1));
    machine.state.adopt(core.options.peer, node);
    let generation = machine.state.generation;
    let identity =
        Identity { cluster: *cluster.as_bytes(), group: *group.as_bytes(), node: node.0 };
    let options = core.raft_options();
    // Nothing has changed yet if that fails.
    let founded = found(&options, identity, behind, machine).await;
    founded.map_err(|err| Denied::UnusableBackup(chain(&err)))?;
    let node = RaftNode::open(options, core.machine()).await.map_err(|err| fail(core, err))?;
    let id = NodeId(node.identity().node);
    core.install(node);
    // Once it is answered, the group can be used.
    if let Err(err) = core.client().query(Query::Cluster).await {
        tracing::warn!(error = %err, "the restored group does not answer yet");
    }
    core.run();
    tracing::warn!(%cluster, generation, node = %id, "the metadata was restored from a backup");
    Ok(Restored { cluster, generation, node: id })
}

/// Makes the folder of a member that is alone in its group, complete or not at all.
async fn found(
    options: &torus_raft::Options,
    identity: Identity,
    behind: Position,
    machine: Machine,
) -> Result<(), torus_raft::Error> {
    let dir = &options.dir;
    let building = PathBuf::from(format!("{}.restoring", dir.display()));
    if !RaftNode::is_pristine(options)? {
        return Err(torus_raft::Error::Foreign { dir: dir.clone() });
    }
    // What an attempt left that was interrupted.
    remove(&building)?;
    let build = torus_raft::Options { dir: building.clone(), ..options.clone() };
    let image = Image::of(&machine);
    let state = Box::new(move |to: &mut dyn Write| write_snapshot(image, to));
    RaftNode::found(&build, identity, behind, state).await?;
    remove(dir)?;
    let failed = |source| torus_raft::Error::Io { path: dir.clone(), source };
    std::fs::rename(&building, dir).map_err(failed)?;
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = std::fs::File::open(parent.unwrap_or(Path::new(".")));
    parent.and_then(|parent| parent.sync_all()).map_err(failed)
}

fn remove(dir: &Path) -> Result<(), torus_raft::Error> {
    match std::fs::remove_dir_all(dir) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(torus_raft::Error::Io { path: dir.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Milliseconds since 1970.
#[expect(clippy::disallowed_methods, reason = "backups and generations have a time of the world")]
pub(super) fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}
