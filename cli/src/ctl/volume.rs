//! `torusctl volume`.

mod change;
pub(super) mod show;

use serde_json::json;
use torus_blockstore::{BlockLayer, BlockLayerKind, BlockSpec};
use torus_metadata::{Command, Error, Outcome, Refusal};

use super::arguments::{Layers, NewVolume, VolumeCommand};
use super::cluster::Cluster;
use super::report::Report;
use super::{export, import, rehearsal, snapshot};
use crate::failure::Failure;
use crate::name::shown;
use crate::size::Bytes;

pub(super) use show::facts;

/// The size of a volume is a multiple of this: the largest unit in which clients write.
const SIZE_UNIT: u64 = 4096;

pub(super) async fn run(cluster: &Cluster, command: &VolumeCommand) -> Result<Report, Failure> {
    match command {
        VolumeCommand::CreateBlock(volume) => create(cluster, volume).await,
        VolumeCommand::List => show::all(cluster).await,
        VolumeCommand::Info { name } => show::one(cluster, name).await,
        VolumeCommand::Delete { name, force } => delete(cluster, name, *force).await,
        VolumeCommand::Rename { name, to } => change::rename(cluster, name, to).await,
        VolumeCommand::Resize { name, size, discard, limit } => {
            change::resize(cluster, name, *size, *discard, limit.timeout).await
        }
        VolumeCommand::Clone { source, name } => change::clone(cluster, source, name).await,
        VolumeCommand::Flatten { name } => change::flatten(cluster, name).await,
        VolumeCommand::Import(arguments) => import::run(cluster, arguments).await,
        VolumeCommand::Export(arguments) => export::run(cluster, arguments).await,
        VolumeCommand::Snapshot(command) => snapshot::run(cluster, command).await,
    }
}

/// Creates a volume and says how to use it.
pub(super) async fn create(cluster: &Cluster, volume: &NewVolume) -> Result<Report, Failure> {
    let size = check(&volume.name, volume.size)?;
    let spec = spec(cluster, &volume.layers).await?;
    let name = volume.name.clone();
    let applied = cluster.execute(Command::CreateVolume { name, size, spec }).await?;
    let Outcome::Volume(volume) = applied.outcome else {
        return Err(Error::Protocol { what: "a new volume" }.into());
    };
    let text = format!(
        "Created volume {name} of {size}.\n\
         Next: 'torusblk nbdserve {name}' serves it to any NBD client, and 'sudo torusblk nbd {name} \
         /dev/nbd0' attaches it to this machine's kernel.\n",
        name = volume.name,
        size = Bytes(volume.size),
    );
    Ok(Report::new(text, show::facts(&volume, &[])))
}

async fn delete(cluster: &Cluster, name: &str, force: bool) -> Result<Report, Failure> {
    // By its ID: a copy of the command that comes late must not meet another volume of the name.
    let volume = cluster.volume(name).await?.id;
    cluster.execute(Command::DeleteVolume { volume, force }).await?;
    let text = format!("Deleted volume {name}. The peers free its blocks by and by.\n");
    Ok(Report::new(text, json!({ "deleted": name })))
}

/// The size that such a volume gets.
pub(super) fn check(name: &str, size: Bytes) -> Result<u64, Failure> {
    let Bytes(bytes) = size;
    let bytes = bytes.checked_next_multiple_of(SIZE_UNIT).unwrap_or(u64::MAX);
    let Err(refusal) = rehearsal::volume(name, bytes) else { return Ok(bytes) };
    match &refusal {
        // A size that is well written, but more than there can be.
        Refusal::Invalid { what: "the size", why } if bytes > 0 => {
            Err(Failure::failed(format!("a volume of {size} cannot be made: {why}")))
        }
        Refusal::Invalid { what: "the size", .. } => {
            Err(Failure::usage(format!("size {size}: {refusal}")))
        }
        _ => Err(Failure::usage(format!("volume {}: {refusal}", shown(name)))),
    }
}

/// Whether a volume can have this name.
fn check_name(name: &str) -> Result<(), Failure> {
    check(name, Bytes(SIZE_UNIT)).map(|_| ())
}

/// The block spec that these layers make; `None` is the cluster's.
pub(super) async fn spec(cluster: &Cluster, layers: &Layers) -> Result<Option<BlockSpec>, Failure> {
    let Some(copies) = layers.replication else { return Ok(layers.block_spec.clone()) };
    // What makes no sense at all is told without the cluster.
    with_copies(&layers.block_spec.clone().unwrap_or_default(), copies)?;
    let spec = match &layers.block_spec {
        Some(spec) => spec.clone(),
        None => without_copies(&cluster.global().await?.block_spec),
    };
    with_copies(&spec, copies).map(Some)
}

/// The same layers with so many copies.
fn with_copies(spec: &BlockSpec, copies: u32) -> Result<BlockSpec, Failure> {
    match spec.copies() {
        Some(same) if same == copies => return Ok(spec.clone()),
        Some(other) => {
            return Err(Failure::usage(format!(
                "the block spec asks for {other} copies and --replication for {copies}; leave one out"
            )));
        }
        None => {}
    }
    let mut layers = spec.layers().to_vec();
    let base = layers.len().saturating_sub(1);
    let copies = Some(copies);
    layers.insert(base, BlockLayer { kind: BlockLayerKind::Replication, copies });
    BlockSpec::new(layers).map_err(Failure::usage)
}

fn without_copies(spec: &BlockSpec) -> BlockSpec {
    let layers = spec.layers().iter().copied();
    let others = layers.filter(|layer| layer.kind != BlockLayerKind::Replication).collect();
    // Without one of its layers it is still a spec.
    BlockSpec::new(others).unwrap_or_default()
}

#[cfg(test)]
pub(super) mod tests;
