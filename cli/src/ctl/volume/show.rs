//! `torusctl volume list` and `info`: what the metadata knows of volumes.

mod space;

use serde_json::{Value, json};
use torus_metadata::Volume;

use crate::ctl::cluster::Cluster;
use crate::ctl::report::{Report, count, table};
use crate::ctl::{import, snapshot};
use crate::failure::Failure;
use crate::size::Bytes;

pub(super) async fn all(cluster: &Cluster) -> Result<Report, Failure> {
    let volumes = cluster.volumes().await?;
    let facts: Vec<Value> = volumes.iter().map(|volume| facts(volume, &volumes)).collect();
    Ok(Report::new(list(&volumes), json!({ "volumes": facts })))
}

pub(super) async fn one(cluster: &Cluster, name: &str) -> Result<Report, Failure> {
    let volume = cluster.volume(name).await?;
    let volumes = cluster.volumes().await?;
    let space = space::read(cluster, &volume).await;
    let mut json = facts(&volume, &volumes);
    json["space"] = space::facts(&volume, space.as_ref().ok());
    let space = match &space {
        Ok(space) => space::describe(&volume, space),
        Err(failure) => format!("Space: unknown ({})\n", failure.line()),
    };
    Ok(Report::new(info(&volume, &volumes) + &space, json))
}

pub(super) fn list(all: &[Volume]) -> String {
    let mut volumes: Vec<_> = all.iter().collect();
    volumes.sort_by(|a, b| a.name.cmp(&b.name));
    let has_parents = volumes.iter().any(|volume| volume.parent.is_some());
    let mut heading = vec!["VOLUME NAME", ">SIZE", "TYPE", ">SNAPSHOTS", "STATUS"];
    if has_parents {
        heading.push("PARENT");
    }
    let row = |volume: &Volume| {
        let mut cells = vec![
            volume.name.clone(),
            Bytes(volume.size).to_string(),
            "block".to_owned(),
            volume.snapshots.len().to_string(),
            status(volume),
        ];
        if has_parents {
            cells.push(parent(volume, all).unwrap_or_default());
        }
        cells
    };
    table(&heading, volumes.into_iter().map(row))
}

fn status(volume: &Volume) -> String {
    match &volume.lock {
        Some(lock) => format!("in use by {}", lock.owner),
        None if import::is_temporary(&volume.name) => "left by an import".to_owned(),
        None => "free".to_owned(),
    }
}

/// What a clone was made from.
fn parent(volume: &Volume, volumes: &[Volume]) -> Option<String> {
    let parent = volume.parent?;
    let Some(found) = volumes.iter().find(|other| other.id == parent.volume) else {
        return Some(format!("volume {}, snapshot {}", parent.volume, parent.snapshot));
    };
    let snapshot = found.snapshots.iter().find(|snapshot| snapshot.id == parent.snapshot);
    let snapshot = snapshot.map_or_else(|| parent.snapshot.to_string(), |it| it.name.clone());
    Some(format!("{}@{snapshot}", found.name))
}

/// The volumes that were made from a snapshot of this one and need it.
fn clones<'a>(volume: &Volume, volumes: &'a [Volume]) -> Vec<&'a str> {
    let of = |snapshot| snapshot::clones(volume, snapshot, volumes);
    volume.snapshots.iter().flat_map(of).map(|clone| &*clone.name).collect()
}

pub(super) fn info(volume: &Volume, volumes: &[Volume]) -> String {
    let checkpoint = match &volume.head {
        Some(head) => format!("INode {}, {} blocks", head.inode.0, head.blocks),
        None => "none yet".to_owned(),
    };
    let names = |names: Vec<&str>| match &names[..] {
        [] => "none".to_owned(),
        names => names.join(", "),
    };
    let retired = match volume.retired.len() {
        0 => "none".to_owned(),
        number => format!("{}, whose space the writer frees", count(number, "checkpoint")),
    };
    format!(
        "Name: {}\nID: {}\nSize: {} ({} bytes)\nType: block\nBlock spec: {}\nStatus: {}\n\
         Parent: {}\nSnapshots: {}\nClones: {}\n\
         Opened: {} times\nCheckpoint: {checkpoint}\nOpen windows: {}\nRetired: {retired}\n",
        volume.name,
        volume.id,
        Bytes(volume.size),
        volume.size,
        volume.block_spec,
        status(volume),
        parent(volume, volumes).as_deref().unwrap_or("none"),
        names(volume.snapshots.iter().map(|snapshot| &*snapshot.name).collect()),
        names(clones(volume, volumes)),
        volume.epoch,
        volume.windows.len(),
    )
}

/// What programs learn of a volume.
pub(in crate::ctl) fn facts(volume: &Volume, volumes: &[Volume]) -> Value {
    let snapshots = volume.snapshots.iter();
    json!({
        "name": volume.name,
        "id": volume.id.get(),
        "size": volume.size,
        "type": "block",
        "block_spec": volume.block_spec.to_string(),
        "status": if volume.lock.is_some() { "in-use" } else { "free" },
        "in_use_by": volume.lock.as_ref().map(|lock| &lock.owner),
        "epoch": volume.epoch.0,
        "inode_index": volume.inode_index.0,
        "head": volume.head.as_ref().map(|head| head.inode.0),
        "windows": volume.windows.len(),
        "parent": parent(volume, volumes),
        "snapshots": snapshots.map(|it| snapshot::facts(volume, it, volumes)).collect::<Vec<_>>(),
        "clones": clones(volume, volumes),
        "retired": volume.retired.len(),
        "left_by_import": import::is_temporary(&volume.name) && volume.lock.is_none(),
    })
}
