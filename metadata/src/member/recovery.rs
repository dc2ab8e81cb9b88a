//! The end of a group that has lost its majority for good, and the beginning of one that goes on
//! with what a single member had. Offline: the daemon of the data directory is stopped.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use torus_blockstore::PeerId;
use torus_raft::{Identity, Options, RaftNode, Remains};
use uuid::Uuid;

use super::backup::now_ms;
use super::machine::Applier;
use crate::machine::Machine;
use crate::replica::Replica;
use crate::wire::{Image, write_snapshot};
use crate::{NodeId, State};

/// Why nothing could be recovered. The folder that was read is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecoverError {
    #[error("the metadata in {} cannot be used", .dir.display())]
    Raft { dir: PathBuf, source: torus_raft::Error },
    #[error("the member of {} was in no cluster that had been initialised", .dir.display())]
    NotInitialised { dir: PathBuf },
}

/// What one member of a lost group had.
#[derive(Debug)]
pub struct Survivor {
    remains: Remains,
    machine: Machine,
}

/// A group of one that has taken its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refounded {
    pub cluster: Uuid,
    pub generation: u64,
    pub node: NodeId,
}

impl Survivor {
    /// Reads the folder of a member that does not run.
    pub async fn read(dir: &Path) -> Result<Self, RecoverError> {
        let replica = Arc::new(Replica::new());
        let remains =
            RaftNode::salvage(&Options::new(dir, ""), Applier(Arc::clone(&replica))).await;
        let remains =
            remains.map_err(|source| RecoverError::Raft { dir: dir.to_owned(), source })?;
        let machine = replica.update(std::mem::take);
        if machine.state.global.is_none() {
            return Err(RecoverError::NotInitialised { dir: dir.to_owned() });
        }
        Ok(Self { remains, machine })
    }

    pub fn cluster(&self) -> Uuid {
        Uuid::from_bytes(self.remains.identity.cluster)
    }

    /// Who it was.
    pub fn node(&self) -> NodeId {
        NodeId(self.remains.identity.node)
    }

    /// Where the group looked for it, if it was still a member.
    pub fn address(&self) -> Option<&str> {
        let own = self.remains.members.iter().find(|(node, _)| *node == self.node().0);
        own.map(|(_, address)| address.as_str())
    }

    /// The members of the lost group, with their addresses.
    pub fn members(&self) -> impl Iterator<Item = (NodeId, &str)> {
        self.remains.members.iter().map(|(node, address)| (NodeId(*node), address.as_str()))
    }

    /// Index of the last entry of the log.
    pub fn last_entry(&self) -> u64 {
        self.remains.last.index
    }

    /// How many entries at the end were not known to be committed; they count all the same.
    pub fn unconfirmed(&self) -> u64 {
        self.remains.unconfirmed
    }

    /// The state, as it was.
    pub fn state(&self) -> &State {
        &self.machine.state
    }

    /// Makes `dir`, which is new, the folder of a member that is alone in the next generation of
    /// the group, for the daemon `peer` at `address`.
    pub async fn found(
        self,
        dir: &Path,
        address: &str,
        peer: PeerId,
    ) -> Result<Refounded, RecoverError> {
        let (cluster, behind) = (self.cluster(), self.remains.last);
        let mut machine = self.machine.reborn(now_ms());
        let node = NodeId(behind.index + 1);
        machine.state.adopt(peer, node);
        let generation = machine.state.generation;
        let group = *Uuid::new_v4().as_bytes();
        let identity = Identity { cluster: *cluster.as_bytes(), group, node: node.0 };
        let image = Image::of(&machine);
        let state = Box::new(move |to: &mut dyn Write| write_snapshot(image, to));
        let founded = RaftNode::found(&Options::new(dir, address), identity, behind, state).await;
        founded.map_err(|source| RecoverError::Raft { dir: dir.to_owned(), source })?;
        Ok(Refounded { cluster, generation, node })
    }
}
