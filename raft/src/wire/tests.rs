//! The bytes of what is stored, and what is refused.

use std::collections::{BTreeMap, BTreeSet};

use expect_test::{Expect, expect};
use openraft::BasicNode;
use proptest::prelude::*;
use prost::Message;

use super::{decode, entry, proto};
use crate::config::{Command, Entry, LeaderId, LogId, Membership, Payload, Vote};

fn id(term: u64, node_id: u64, index: u64) -> LogId {
    LogId::new(LeaderId { term, node_id }, index)
}

fn membership(sets: &[&[u64]], members: &[u64]) -> Membership {
    let sets: Vec<BTreeSet<u64>> = sets.iter().map(|set| set.iter().copied().collect()).collect();
    let node = |node: &u64| (*node, BasicNode { addr: format!("h:{node}") });
    let members: BTreeMap<_, _> = members.iter().map(node).collect();
    Membership::new(sets, members).unwrap()
}

/// Encodes an entry, compares its bytes in hex, and decodes it again.
#[track_caller]
fn check(payload: Payload, expected: Expect) {
    let stored = Entry { log_id: id(3, 2, 300), payload };
    let bytes = proto::Entry::from(&stored).encode_to_vec();
    let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    expected.assert_eq(&hex.join(" "));
    assert_eq!(entry(decode(bytes.as_slice()).unwrap()).unwrap(), stored);
}

#[test]
fn golden_bytes_of_entries() {
    check(Payload::Blank, expect!["0a 07 08 03 10 02 18 ac 02 12 00"]);
    check(
        Payload::Normal(Command(b"cmd"[..].into())),
        expect!["0a 07 08 03 10 02 18 ac 02 1a 03 63 6d 64"],
    );
    check(Payload::Normal(Command(b""[..].into())), expect!["0a 07 08 03 10 02 18 ac 02 1a 00"]);
    check(
        Payload::Membership(membership(&[&[1], &[1, 2]], &[1, 2, 3])),
        expect![
            "0a 07 08 03 10 02 18 ac 02 22 26 0a 03 0a 01 01 0a 04 0a 02 01 02 12 07 08 01 12 03 68 3a 31 12 07 08 02 12 03 68 3a 32 12 07 08 03 12 03 68 3a 33"
        ],
    );
}

#[test]
fn votes_survive() {
    for vote in [Vote::new(0, 0), Vote::new(7, 1), Vote::new_committed(u64::MAX, 3)] {
        let bytes = proto::Vote::from(vote).encode_to_vec();
        assert_eq!(Vote::from(decode::<proto::Vote>(bytes.as_slice()).unwrap()), vote);
    }
}

/// Says why an entry is refused.
#[track_caller]
fn refused(stored: proto::Entry, expected: Expect) {
    expected.assert_eq(&entry(stored).unwrap_err().to_string());
}

#[test]
fn half_an_entry_is_refused() {
    use proto::entry::Payload::{Blank, Membership};
    refused(
        proto::Entry { id: Some(id(1, 1, 1).into()), payload: None },
        expect!["field payload is missing"],
    );
    refused(
        proto::Entry { id: None, payload: Some(Blank(proto::Blank {})) },
        expect!["field id is missing"],
    );
    let voters = vec![proto::VoterSet { nodes: vec![1] }];
    let stranger = proto::Membership { voters, members: Vec::new() };
    let payload = Some(Membership(stranger));
    refused(
        proto::Entry { id: Some(id(1, 1, 1).into()), payload },
        expect!["field membership has a value that it cannot have"],
    );
}

proptest! {
    #[test]
    fn any_entry_survives(term: u64, node: u64, index: u64, command: Vec<u8>) {
        let payload = Payload::Normal(Command(command.into()));
        let stored = Entry { log_id: id(term, node, index), payload };
        let bytes = proto::Entry::from(&stored).encode_to_vec();
        prop_assert_eq!(entry(decode(bytes.as_slice()).unwrap()).unwrap(), stored);
    }

    #[test]
    fn any_bytes_are_decoded_or_refused(bytes: Vec<u8>) {
        drop(decode::<proto::Entry>(bytes.as_slice()).map(entry));
    }
}
