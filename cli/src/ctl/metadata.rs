//! `torusctl metadata`: the whole state of a cluster, out of it and back into an empty one.

mod dump;

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use torus_metadata::{Backup, BackupError, Command};

use super::arguments::MetadataCommand;
use super::cluster::Cluster;
use super::export::destination::Place;
use super::report::{Report, count};
use super::transfer::is_standard;
use crate::clock::{age, utc};
use crate::failure::Failure;
use crate::size::Bytes;

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
enum FileError {
    #[error("cannot read {}", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot use {}", .path.display())]
    Backup { path: PathBuf, source: BackupError },
}

pub(super) async fn run(cluster: &Cluster, command: &MetadataCommand) -> Result<Report, Failure> {
    match command {
        MetadataCommand::Backup { file, force } => backup(cluster, file, *force).await,
        MetadataCommand::Restore { file } => restore(cluster, file).await,
        MetadataCommand::Dump { from } => dump(cluster, from.as_deref()).await,
        MetadataCommand::ForgetLost => forget_lost(cluster).await,
    }
}

async fn backup(cluster: &Cluster, path: &Path, force: bool) -> Result<Report, Failure> {
    // Before anything is asked for: it may not be possible to write at all.
    let place = Place::check(path, force)?;
    let bytes = cluster.administer(cluster.admin.backup()).await?;
    // What would be refused when it is needed must not be kept.
    let backup = Backup::decode(&bytes)?;
    place.write_whole(&bytes)?;
    let mut json = about(&backup);
    json["file"] = json!(path);
    json["bytes"] = bytes.len().into();
    let text = format!(
        "Wrote {}: {} of cluster {}, generation {}, at revision {}.\n",
        Bytes(bytes.len() as u64),
        volumes(&backup),
        backup.info.cluster,
        backup.info.generation,
        backup.info.revision,
    );
    let report = Report::new(text, json);
    Ok(if is_standard(path) { report.aside() } else { report })
}

async fn restore(cluster: &Cluster, path: &Path) -> Result<Report, Failure> {
    let (bytes, backup) = read(path)?;
    let restored = cluster.administer(cluster.admin.restore(bytes)).await?;
    let created_ms = backup.info.created_ms;
    let warning = format!(
        "The backup is of {} ({} ago). What was changed since is not in it: a volume whose \
         checkpoint has moved since may lack blocks, and its reads of these wait; what was flushed \
         since may be gone; volumes that were created since are not there. Opening a volume deletes \
         from the peers what the backup does not know of it. See docs/operations.md before you open \
         one.",
        utc(created_ms),
        age(created_ms),
    );
    let text = format!(
        "Cluster {} goes on as generation {}, with {} and this daemon as its only member, {}.\n\
         WARNING: {warning}\nNext: start the other daemons with --join and without their old \
         metadata; they keep their blocks\n",
        restored.cluster,
        restored.generation,
        volumes(&backup),
        restored.node,
    );
    let mut json = about(&backup);
    json["generation"] = restored.generation.into();
    json["member"] = restored.node.0.into();
    json["warning"] = warning.into();
    Ok(Report::new(text, json))
}

async fn dump(cluster: &Cluster, from: Option<&Path>) -> Result<Report, Failure> {
    let backup = match from {
        Some(path) => read(path)?.1,
        None => Backup::decode(&cluster.administer(cluster.admin.backup()).await?)?,
    };
    let mut json = about(&backup);
    dump::facts(backup.state(), &mut json);
    Ok(Report::new(dump::text(&backup), json))
}

async fn forget_lost(cluster: &Cluster) -> Result<Report, Failure> {
    let is_anything_lost = cluster.has_lost_volumes().await?;
    let text = if is_anything_lost {
        cluster.execute(Command::ForgetLostVolumes).await?;
        "The peers delete the blocks of volumes that only a former generation knew.\n"
    } else {
        "No volumes are lost: there is nothing to forget.\n"
    };
    Ok(Report::new(text.to_owned(), json!({ "forgotten": is_anything_lost })))
}

fn read(path: &Path) -> Result<(Vec<u8>, Backup), Failure> {
    let mut bytes = Vec::new();
    let read = match is_standard(path) {
        true => io::stdin().read_to_end(&mut bytes).map(drop),
        false => fs::read(path).map(|all| bytes = all),
    };
    read.map_err(|source| FileError::Read { path: path.to_owned(), source })?;
    match Backup::decode(&bytes) {
        Ok(backup) => Ok((bytes, backup)),
        Err(source) => Err(FileError::Backup { path: path.to_owned(), source }.into()),
    }
}

fn volumes(backup: &Backup) -> String {
    count(dump::volumes(backup.state()).len(), "volume")
}

fn about(backup: &Backup) -> Value {
    let info = &backup.info;
    json!({
        "cluster": info.cluster.to_string(),
        "generation": info.generation,
        "revision": info.revision.0,
        "feature_level": info.level.0,
        "created_ms": info.created_ms,
        "created": utc(info.created_ms),
    })
}
