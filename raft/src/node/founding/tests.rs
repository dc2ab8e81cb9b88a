//! A folder that outlived its group begins another one.

use std::time::Duration;

use super::super::tests::{CLUSTER, How, List, Member, SOON, options, three};
use super::*;
use tempfile::TempDir;

const GROUP: [u8; 16] = [9; 16];

fn of(dir: &TempDir) -> Options {
    options(dir, "127.0.0.1:1", 10)
}

/// Founds a group of node 90 on what `list` holds, in a folder of its own.
async fn found_on(list: &List, behind: Position, address: &str) -> Arc<TempDir> {
    let dir = Arc::new(TempDir::new().unwrap());
    let identity = Identity { cluster: CLUSTER, group: GROUP, node: 90 };
    let options = options(&dir, address, 10);
    RaftNode::found(&options, identity, behind, list.snapshot()).await.unwrap();
    dir
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_of_three_begins_a_group_to_which_others_come_and_from_which_old_ones_are_kept() {
    let [first, second, third] = three(10).await;
    for number in 0..25 {
        first.write(&format!("line {number}")).await.unwrap();
    }
    let all = first.node.status().last_log;
    // Of the three, only one that knows it is a voter campaigns later.
    for member in [&second, &third] {
        member.until("all entries", |now| now.last_log == all).await;
    }
    let lines = first.list.lines();
    let (old, address) = second.stop().await;
    first.stop().await;
    let (dir, at) = third.stop().await;

    let list = List::default();
    let remains = RaftNode::salvage(&of(&dir), list.clone()).await.unwrap();
    assert_eq!(list.lines(), lines);
    assert_eq!(remains.identity, Identity::first(CLUSTER, 3));
    assert_eq!((Some(remains.last.index), remains.members.len()), (all, 3));
    assert!(remains.members.contains(&(3, at.clone())));

    let dir = found_on(&list, remains.last, &at).await;
    let founder = Member::start_in(How::Open, 10, dir, &at).await.unwrap();
    founder.leads().await;
    let status = founder.node.status();
    assert_eq!((status.node, status.members.len()), (90, 1));
    assert!(status.last_log > all && status.term > remains.last.term, "{status:?}");
    founder.write("new").await.unwrap();
    assert_eq!(founder.list.lines(), [&lines[..], &["new".to_owned()]].concat());
    assert_eq!(founder.node.identity().group, GROUP);

    // One that comes gets the state by the snapshot.
    let identity = Identity { cluster: CLUSTER, group: GROUP, node: 91 };
    let newcomer = Member::start(How::JoinAs(identity), 10).await.unwrap();
    founder.node.add_learner(91, &newcomer.address).await.unwrap();
    let all = founder.node.status().last_log;
    newcomer.until("all entries", |now| now.applied >= all).await;
    assert_eq!(newcomer.list.lines(), founder.list.lines());

    // One of the old group finds nobody.
    let stale = Member::start_in(How::Open, 10, old, &address).await.unwrap();
    let term = founder.node.status().term;
    let refused = async {
        while !stale.node.was_refused() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, refused).await.unwrap();
    assert!(stale.node.linearize(SOON / 30).await.is_err(), "nobody leads it");
    assert_eq!(founder.node.status().term, term);
    for member in [founder, newcomer, stale] {
        member.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_folder_with_a_state_is_salvaged_and_only_a_pristine_one_is_founded_in() {
    let none = TempDir::new().unwrap();
    assert!(RaftNode::is_pristine(&of(&none)).unwrap());
    let missing = RaftNode::salvage(&of(&none), List::default()).await;
    assert!(matches!(missing, Err(Error::NotInitialized { .. })), "{missing:?}");

    let joined = Member::start(How::Join(4), 10).await.unwrap();
    let (dir, _) = joined.stop().await;
    assert!(!RaftNode::is_pristine(&of(&dir)).unwrap());
    let empty = RaftNode::salvage(&of(&dir), List::default()).await;
    assert!(matches!(empty, Err(Error::Empty { .. })), "{empty:?}");
    let identity = Identity { cluster: CLUSTER, group: GROUP, node: 90 };
    let list = List::default();
    let used = RaftNode::found(&of(&dir), identity, Position::default(), list.snapshot()).await;
    assert!(matches!(used, Err(Error::NotPristine { .. })), "{used:?}");

    let alone = Member::start(How::Bootstrap, 10).await.unwrap();
    alone.node.write("panic", SOON).await.unwrap_err();
    let (dir, _) = alone.stop().await;
    let unreadable = RaftNode::salvage(&of(&dir), List::default()).await;
    assert!(matches!(unreadable, Err(Error::Unreadable { .. })), "{unreadable:?}");
}
