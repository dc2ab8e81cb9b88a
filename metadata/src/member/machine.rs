//! The machine as the Raft node drives it: bytes in, bytes out.

use std::io::{self, Read};
use std::sync::Arc;

use torus_raft::{Role, SnapshotWriter, StateMachine};

use crate::replica::Replica;
use crate::wire::{Image, decode_proposal, encode_response, read_snapshot, write_snapshot};
use crate::{GroupPlace, NodeId};

/// Applies the log to the replica, from which the rest of the member reads.
pub(super) struct Applier(pub(super) Arc<Replica>);

impl StateMachine for Applier {
    #[expect(clippy::panic, reason = "a member that skips an entry would differ from the others")]
    fn apply(&mut self, index: u64, command: &[u8]) -> Vec<u8> {
        match decode_proposal(command) {
            Ok(proposal) => {
                encode_response(self.0.update(|machine| machine.apply(index, proposal)))
            }
            Err(err) => panic!("log entry {index}: {err}; it is of a later version of Torus"),
        }
    }

    fn regroup(&mut self, members: &[torus_raft::Member], joint: bool) {
        let place = |member: &torus_raft::Member| GroupPlace {
            node: NodeId(member.node),
            address: member.address.clone(),
            votes: member.role == Role::Voter,
        };
        let members = members.iter().map(place).collect();
        self.0.update(|machine| machine.regroup(members, joint));
    }

    fn snapshot(&self) -> SnapshotWriter {
        let image = Image::of(&self.0.read());
        Box::new(move |to| write_snapshot(image, to))
    }

    fn restore(&mut self, reader: &mut dyn Read) -> io::Result<()> {
        let restored = read_snapshot(reader).map_err(io::Error::other)?;
        self.0.update(|machine| *machine = restored);
        Ok(())
    }
}
