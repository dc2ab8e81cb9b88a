//! What a volume takes of the cluster's space, read from its checkpoints: by anybody, also while it
//! is in use.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use torus_blockstore::BlockRef;
use torus_metadata::{Snapshot, SnapshotId, Volume, Window};

use crate::Services;
use crate::checkpoint::{LoadError, Loader};
use crate::record::PAGE;

/// What a volume takes, in bytes of one copy, as its newest checkpoint says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Pages that hold something.
    pub mapped: u64,
    /// Its own sealed blocks.
    pub stored: u64,
    /// Of them, what is neither mapped nor needed for it: overwritten pages, and headers.
    pub garbage: u64,
    /// Pages that are still in the blocks of a clone's parents.
    pub in_parents: u64,
    /// INodes: the map and the block table.
    pub inodes: u64,
    /// What clients ever wrote.
    pub written: u64,
    /// When the checkpoint was made, in milliseconds since 1970, by its writer's clock; 0: never.
    pub made_ms: u64,
    /// Bytes that the log behind it may have: what a recovery may have to read.
    pub open_log: u64,
    /// What was ever written for that: records, copies and INodes.
    pub amplified: u64,
}

impl Figures {
    /// Bytes written for each that clients wrote; `None` before they wrote any.
    #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
    pub fn write_amplification(&self) -> Option<f64> {
        (self.written > 0).then(|| self.amplified as f64 / self.written as f64)
    }
}

/// What a snapshot alone takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotFigures {
    pub id: SnapshotId,
    /// Bytes that deleting it gives back.
    pub own: u64,
}

/// What `volume` takes, as its newest checkpoint says; one without a checkpoint takes nothing.
///
/// # Errors
/// The checkpoint cannot be read.
pub async fn figures(services: &Services, volume: &Volume) -> Result<Figures, LoadError> {
    let Some(head) = &volume.head else { return Ok(Figures::default()) };
    let root = Loader { pool: Arc::clone(&services.pool) }.root(head).await?;
    let (totals, page, made_ms) = (root.totals, u64::from(PAGE), root.made_ms);
    let behind = |window: &Window| {
        let end = window.first.0 + window.count;
        let from = if window.inode == head.position.inode { head.position.block.0 } else { 0 };
        end.saturating_sub(window.first.0.max(from))
    };
    let blocks: u64 = volume.windows.iter().map(behind).sum();
    let open_log = blocks * u64::from(services.pool.block_size());
    let inodes = root.inodes.values().map(|inode| inode.length).sum();
    if head.volume != volume.id {
        // A clone's first head: nothing of it is its own.
        let in_parents = (totals.own_pages + totals.foreign_pages) * page;
        return Ok(Figures {
            mapped: in_parents,
            in_parents,
            made_ms,
            open_log,
            ..Figures::default()
        });
    }
    let own = totals.own_pages * page;
    Ok(Figures {
        mapped: own + totals.foreign_pages * page,
        stored: totals.own_bytes,
        garbage: totals.own_bytes.saturating_sub(own),
        in_parents: totals.foreign_pages * page,
        inodes,
        written: root.written.client,
        made_ms,
        open_log,
        amplified: root.written.log + root.written.inodes,
    })
}

/// Every block of its own that `volume` needs for its checkpoints: what peers hold of it beside
/// these, when nobody has it open, is garbage.
///
/// # Errors
/// A checkpoint cannot be read.
pub async fn needed_blocks(
    services: &Services,
    volume: &Volume,
) -> Result<BTreeSet<BlockRef>, LoadError> {
    let loader = Loader { pool: Arc::clone(&services.pool) };
    let snapshots = volume.snapshots.iter().map(|snapshot| &snapshot.head);
    let mut needed = BTreeSet::new();
    for head in snapshots.chain(&volume.retired).chain(&volume.head) {
        needed.extend(loader.blocks(head, volume.id).await?.into_keys());
    }
    Ok(needed)
}

/// What each snapshot of `volume` alone takes. Reads the block tables of all of them.
///
/// # Errors
/// A checkpoint cannot be read.
pub async fn snapshot_figures(
    services: &Services,
    volume: &Volume,
) -> Result<Vec<SnapshotFigures>, LoadError> {
    let loader = Loader { pool: Arc::clone(&services.pool) };
    let snapshots = volume.snapshots.iter().map(|snapshot| (Some(snapshot.id), &snapshot.head));
    let heads = snapshots.chain(volume.head.iter().map(|head| (None, head)));
    // Each block with its length, and with the one that needs it, as long as there is only one.
    let mut needed: BTreeMap<BlockRef, (u64, Option<SnapshotId>)> = BTreeMap::new();
    for (id, head) in heads {
        for (block, length) in loader.blocks(head, volume.id).await? {
            let several = |(_, only): &mut (u64, Option<SnapshotId>)| *only = None;
            needed.entry(block).and_modify(several).or_insert((length, id));
        }
    }
    let mut own: BTreeMap<SnapshotId, u64> = BTreeMap::new();
    for (length, only) in needed.into_values() {
        if let Some(id) = only {
            *own.entry(id).or_default() += length;
        }
    }
    let figures = |snapshot: &Snapshot| SnapshotFigures {
        id: snapshot.id,
        own: own.get(&snapshot.id).copied().unwrap_or_default(),
    };
    Ok(volume.snapshots.iter().map(figures).collect())
}
