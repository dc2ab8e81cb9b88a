//! Steps of a watch, and what is printed of them.

use super::*;
use crate::ctl::tests::volume;
use expect_test::{Expect, expect};
use torus_blockstore::{BlockIndex, Epoch, INodeIndex};
use torus_metadata::{Error, GroupPlace, Head, Lock, LogPosition, NodeId};

#[track_caller]
fn check(kinds: &[Kind], steps: Vec<Followed>, expected: Expect) {
    let mut view = View::new(kinds.iter().copied().collect());
    let lines = steps.into_iter().flat_map(|step| view.take(step));
    // What is expected loses the indentation that all its lines have.
    let lines: Vec<_> = lines.filter_map(|line| line.text).map(|it| format!("|{it}")).collect();
    expected.assert_eq(&lines.join("\n"));
}

fn changed(revision: u64, event: Event) -> Followed {
    Followed::Changed { revision: Revision(revision), events: vec![event] }
}

fn listed(revision: u64, volumes: Vec<Volume>) -> Followed {
    let revision = Revision(revision);
    Followed::Listed(Answer::Volumes { volumes, volumes_minted: 9, lost: Vec::new(), revision })
}

/// A volume is listed, locked, gets a head, a name and is deleted; another is created.
fn story() -> Vec<Followed> {
    let first = volume(1, "disk", None);
    let lock = Lock { session: SessionId(13), epoch: Epoch(3), owner: "host".to_owned() };
    let locked = Volume { lock: Some(lock), ..first.clone() };
    let position = LogPosition { inode: INodeIndex(6), block: BlockIndex(0), offset: 0 };
    let head =
        Head { volume: first.id, inode: INodeIndex(5), blocks: 1, epoch: Epoch(3), position };
    let written = Volume { head: Some(head), ..locked.clone() };
    let renamed = Volume { name: "other".to_owned(), lock: None, ..written.clone() };
    vec![
        listed(7, vec![first.clone()]),
        changed(8, Event::VolumeChanged(locked)),
        changed(9, Event::VolumeChanged(written)),
        changed(10, Event::VolumeChanged(volume(2, "new", None))),
        changed(11, Event::VolumeChanged(renamed)),
        changed(12, Event::VolumeDeleted(first.id)),
        changed(13, Event::VolumeDeleted(VolumeId::new(99).unwrap())),
    ]
}

#[test]
fn volumes_heads_and_locks_change_apart() {
    check(
        &[],
        story(),
        expect![[r#"
            |       7  is       volume   disk, 10.0 GiB
            |       8  changed  lock     disk: by host (session 13, epoch 3)
            |       9  changed  head     disk: INode 5, 1 block (epoch 3)
            |      10  new      volume   new, 10.0 GiB
            |      11  changed  volume   other, 10.0 GiB: name
            |      11  gone     lock     other
            |      12  gone     volume   other, 10.0 GiB
            |      13  gone     volume   number 99"#]],
    );
    check(
        &[Kind::Locks],
        story(),
        expect![[r#"
            |       8  changed  lock     disk: by host (session 13, epoch 3)
            |      11  gone     lock     other"#]],
    );
}

#[test]
fn after_a_compaction_all_there_is_comes_again() {
    let error = Error::Unavailable { tried: "a:1".to_owned(), source: None };
    let place =
        |node, votes| GroupPlace { node: NodeId(node), address: format!("a:{node}"), votes };
    let group =
        Group { voters_max: 5, members: vec![place(1, true), place(2, false)], joint: true };
    check(
        &[],
        vec![
            changed(3, Event::VolumeChanged(volume(1, "disk", Some("host")))),
            changed(4, Event::SessionEnded(SessionId(2))),
            Followed::Current(Revision(4)),
            Followed::Interrupted(error),
            Followed::Compacted(Revision(70)),
            listed(80, vec![volume(1, "disk", Some("host"))]),
            Followed::Listed(Answer::Group { group, revision: Revision(80) }),
            changed(81, Event::VolumeChanged(volume(2, "new", None))),
        ],
        expect![[r#"
            |       3  changed  volume   disk, 10.0 GiB
            |       3  changed  lock     disk: by host (session 1, epoch 2)
            |       4  gone     session  2
            |compacted: what changed up to revision 70 is no longer kept; all there is follows
            |      80  is       volume   disk, 10.0 GiB
            |      80  is       lock     disk: by host (session 1, epoch 2)
            |      80  is       members  1 at a:1 (voter), 2 at a:2 (learner); a change is under way
            |      81  new      volume   new, 10.0 GiB"#]],
    );
}

#[test]
fn programs_get_an_object_a_line() {
    let mut view = View::new([Kind::Sessions].into());
    let session = Session { id: SessionId(5), owner: "host".to_owned(), ttl_ms: 1000 };
    let steps = [
        changed(5, Event::SessionOpened(session)),
        Followed::Current(Revision(6)),
        Followed::Compacted(Revision(9)),
    ];
    let lines: Vec<_> = steps.into_iter().flat_map(|step| view.take(step)).collect();
    let json: Vec<_> = lines.iter().map(|line| line.json.to_string()).collect();
    expect![[r#"
        {"action":"new","kind":"session","revision":5,"session":{"id":5,"owner":"host","ttl_ms":1000}}
        {"progress":6}
        {"compacted":9}"#]].assert_eq(&json.join("\n"));
}
