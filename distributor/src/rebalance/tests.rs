//! Whole daemons over sockets: where blocks are after the ring, a peer or a volume changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use torus_blockstore::{
    Append, BlockKind, BlockPool, BlockRef, BlockState, BlockStore, ByteRange, Epoch, INodeIndex,
    PeerId, Placement, Seal,
};
use torus_metadata::{
    Command, Head, LogPosition, MetadataService, Outcome, RingVersion, SessionId, Window,
};

use super::Rebalancer;
use crate::lock::lock;
use crate::testing::{
    BLOCK_SIZE, CLUSTER, Cluster, Node, block, eventually, peer, set_ring, volume,
};
use crate::{Follower, Peers, Request, Response, Status, TcpPeers, Volumes};

/// What a daemon runs beside its server.
struct Daemon {
    rebalancer: Rebalancer,
    peers: Arc<dyn Peers>,
    _follower: Follower,
}

fn look_after(cluster: &Cluster, node: &Node) -> Daemon {
    let metadata = Arc::clone(&cluster.metadata) as Arc<dyn MetadataService>;
    let follower = Follower::start(Arc::clone(&metadata), Volumes::Followed);
    let server = node.server.clone();
    let view = follower.view();
    let peers = TcpPeers::start(CLUSTER, BLOCK_SIZE, Some(server.clone()), view.clone());
    let peers = Arc::new(peers) as Arc<dyn Peers>;
    let rebalancer = Rebalancer::start(&server, Arc::clone(&peers), metadata, view);
    Daemon { rebalancer, peers, _follower: follower }
}

fn look_after_all(cluster: &Cluster) -> Vec<Daemon> {
    cluster.nodes.iter().map(|node| look_after(cluster, node)).collect()
}

fn content(index: u64) -> Bytes {
    Bytes::from(vec![u8::try_from(index % 251).unwrap(); 3000])
}

async fn create_volume(cluster: &Cluster) {
    create_volume_with(cluster, 1, None).await;
}

/// Creates the volume that will have this ID.
async fn create_volume_with(cluster: &Cluster, id: u64, spec: Option<&str>) {
    let (name, size) = (format!("disk{id}"), 1 << 20);
    let spec = spec.map(|spec| spec.parse().unwrap());
    let created = Command::CreateVolume { name, size, spec };
    let applied = cluster.metadata.execute(created).await.unwrap();
    let Outcome::Volume(created) = applied.outcome else { panic!("{applied:?}") };
    assert_eq!(created.id, volume(id));
}

/// Writes sealed blocks 1 to `count` where the present ring wants them.
async fn store_blocks(cluster: &Cluster, count: u64) {
    let placement = cluster.pool.place_now().await.unwrap();
    for index in 1..=count {
        let peers = cluster.pool.peers_of(block(index), placement.clone()).await.unwrap();
        cluster.pool.put(peers, block(index), Epoch(1), content(index)).await.unwrap();
    }
}

/// Who holds which of the blocks 1 to `count`.
fn holders(cluster: &Cluster, count: u64) -> BTreeMap<u64, BTreeSet<PeerId>> {
    let holders = |index| {
        let nodes = cluster.nodes.iter().filter(move |node| node.holds(block(index)));
        nodes.map(|node| node.peer).collect()
    };
    (1..=count).map(|index| (index, holders(index))).collect()
}

/// Waits until the blocks are where the metadata's ring says, and nowhere else.
async fn balanced(cluster: &Cluster, count: u64) {
    let ring = cluster.ring().await;
    let places = |index| ring.places(&block(index), &BTreeSet::new(), None).into_iter().collect();
    let wanted: BTreeMap<u64, BTreeSet<PeerId>> =
        (1..=count).map(|index| (index, places(index))).collect();
    eventually("the blocks are in their places", || holders(cluster, count) == wanted).await;
}

async fn check_contents(cluster: &Cluster, count: u64) {
    for index in 1..=count {
        let whole = vec![ByteRange { offset: 0, length: 3000 }];
        let read = cluster.pool.read(block(index), whole, Vec::new(), Vec::new()).await;
        assert_eq!(read.unwrap().1, content(index));
    }
}

async fn status(cluster: &Cluster, peer: PeerId) -> Status {
    match cluster.pool.peers().request(peer, Request::Status).await {
        Ok(Response::Status(status)) => status,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_ring_change_moves_blocks_to_exactly_their_places() {
    let cluster = Cluster::start(4, 3, 2).await;
    create_volume(&cluster).await;
    store_blocks(&cluster, 60).await;
    let before = holders(&cluster, 60);
    let _daemons = look_after_all(&cluster);
    set_ring(&cluster.metadata, 3, 2, 1..=4).await;
    balanced(&cluster, 60).await;
    assert_ne!(holders(&cluster, 60), before);
    check_contents(&cluster, 60).await;
    // One peer is taken out, then another set altogether, with more copies.
    set_ring(&cluster.metadata, 4, 2, 2..=4).await;
    balanced(&cluster, 60).await;
    set_ring(&cluster.metadata, 5, 3, [1, 2, 4]).await;
    balanced(&cluster, 60).await;
    check_contents(&cluster, 60).await;
    let status = status(&cluster, peer(4)).await;
    assert_eq!((status.used_blocks, status.ring), (60, 5));
}

#[tokio::test]
async fn nothing_is_dropped_while_the_metadata_does_not_answer() {
    let cluster = Cluster::start(2, 1, 1).await;
    create_volume(&cluster).await;
    store_blocks(&cluster, 20).await;
    let dead = of_volume(2, 1);
    create_volume_with(&cluster, 2, None).await;
    cluster.pool.put(vec![peer(1)], dead, Epoch(1), content(1)).await.unwrap();
    delete_volume(&cluster, 2).await;
    let known = cluster.follower.view().borrow().clone();
    let (sender, view) = tokio::sync::watch::channel(known);
    let server = &cluster.nodes[0].server;
    let peers = TcpPeers::start(CLUSTER, BLOCK_SIZE, Some(server.clone()), view.clone());
    let metadata = Arc::clone(&cluster.metadata) as Arc<dyn MetadataService>;
    let _rebalancer = Rebalancer::start(server, Arc::new(peers), metadata, view);
    eventually("the volumes were read", || !cluster.nodes[0].holds(dead)).await;
    // The daemon hears of the ring, and cannot read the volumes again.
    cluster.metadata.set_reachable(false);
    cluster.nodes[1].server.keeper().enter_ring(RingVersion(3));
    sender.send_modify(|view| {
        let mut ring = view.ring.as_ref().unwrap().ring().clone();
        ring.version = RingVersion(3);
        ring.members[0].peer = peer(2);
        view.ring = Some(Arc::new(crate::Placer::new(&ring)));
    });
    let has_all = |node: &Node| (1..=20).all(|index| node.holds(block(index)));
    let left = || server.keeper().progress().status().blocks_to_move;
    eventually("the blocks are pushed", || has_all(&cluster.nodes[1]) && left() == 20).await;
    assert!(has_all(&cluster.nodes[0]));
    // As soon as it answers, they go.
    cluster.metadata.set_reachable(true);
    eventually("the blocks are gone", || cluster.nodes[0].store.used_blocks() == 0).await;
    check_contents(&cluster, 20).await;
}

#[tokio::test]
async fn blocks_of_volumes_that_are_not_known_stay() {
    let cluster = Cluster::start(2, 1, 1).await;
    store_blocks(&cluster, 5).await;
    let _daemons = look_after_all(&cluster);
    set_ring(&cluster.metadata, 3, 1, [2]).await;
    let held_back = || cluster.nodes[0].server.keeper().progress().status().blocks_to_move;
    let rings = || cluster.nodes.iter().map(|node| node.server.keeper().ring().0);
    eventually("all are held back", || held_back() == 5 && rings().eq([3, 3])).await;
    // How many copies there are to be is for the volume to say.
    assert_eq!(
        (cluster.nodes[0].store.used_blocks(), cluster.nodes[1].store.used_blocks()),
        (5, 0)
    );
    create_volume(&cluster).await;
    balanced(&cluster, 5).await;
}

/// Data block `index` of a volume.
fn of_volume(id: u64, index: u64) -> BlockRef {
    BlockRef { volume: volume(id), ..block(index) }
}

async fn delete_volume(cluster: &Cluster, id: u64) {
    let deleted = Command::DeleteVolume { volume: volume(id), force: false };
    cluster.metadata.execute(deleted).await.unwrap();
}

#[tokio::test]
async fn every_volume_has_its_own_number_of_copies() {
    let cluster = Cluster::start(4, 3, 2).await;
    let specs =
        [(1, None, 2), (2, Some("crc,rep=1"), 1), (3, Some("crc,rep=3"), 3), (4, Some("rep=9"), 4)];
    for (id, spec, _) in specs {
        create_volume_with(&cluster, id, spec).await;
    }
    // Whatever was written where: each block is on all of the present ring.
    for index in 1..=10 {
        for (id, _, _) in specs {
            let peers = (1..=3).map(peer).collect();
            cluster.pool.put(peers, of_volume(id, index), Epoch(1), content(index)).await.unwrap();
        }
    }
    let _daemons = look_after_all(&cluster);
    for (version, members) in [(3, 1..=4), (4, 1..=3), (5, 2..=4)] {
        set_ring(&cluster.metadata, version, 2, members.clone()).await;
        let ring = cluster.ring().await;
        for (id, _, copies) in specs {
            let wanted = copies.min(members.clone().count());
            for index in 1..=10 {
                let block = of_volume(id, index);
                let asked = Some(u32::try_from(copies).unwrap());
                let places = ring.places(&block, &BTreeSet::new(), asked);
                assert_eq!(places.len(), wanted);
                let are_right = || {
                    cluster
                        .nodes
                        .iter()
                        .all(|node| node.holds(block) == places.contains(&node.peer))
                };
                eventually("the block is in its places", are_right).await;
            }
        }
    }
}

#[tokio::test]
async fn a_window_keeps_as_many_copies_as_its_volume_has() {
    let cluster = Cluster::start(4, 3, 1).await;
    create_volume_with(&cluster, 1, Some("crc,rep=3")).await;
    let (_, epoch) = open_window(&cluster, 2, &[]).await;
    let placement = cluster.pool.place_now().await.unwrap();
    let placement = Placement { copies: Some(3), ..placement };
    let peers = cluster.pool.peers_of(block(1), placement).await.unwrap();
    assert_eq!(peers.len(), 3);
    cluster.pool.put(peers, block(1), epoch, content(1)).await.unwrap();
    let _daemons = look_after_all(&cluster);
    set_ring(&cluster.metadata, 3, 1, [4]).await;
    let held_back = |node: &Node| node.server.keeper().progress().status().blocks_to_move == 1;
    eventually("the new place has a copy", || cluster.nodes[3].holds(block(1))).await;
    eventually("the old places wait", || cluster.nodes[..3].iter().all(held_back)).await;
    assert!(cluster.nodes.iter().all(|node| node.holds(block(1))));
}

#[tokio::test]
async fn a_peer_without_room_gets_no_copies_until_it_has_some() {
    let cluster = Cluster::with_capacity(2, 1, 1, 40).await;
    create_volume(&cluster).await;
    store_blocks(&cluster, 10).await;
    // Ten blocks are its reserve.
    let other = &cluster.nodes[1].store;
    for index in 1..=30 {
        other.put(of_volume(1, 100 + index), &content(index)).unwrap();
    }
    set_ring(&cluster.metadata, 3, 1, [2]).await;
    let daemon = look_after(&cluster, &cluster.nodes[0]);
    let _other_daemon = look_after(&cluster, &cluster.nodes[1]);
    let left = || cluster.nodes[0].server.keeper().progress().status().blocks_to_move;
    // Ten are missing there, ten are here without need.
    eventually("the blocks wait", || left() == 20).await;
    assert_eq!((cluster.nodes[0].store.used_blocks(), other.used_blocks()), (10, 30));
    for index in 1..=15 {
        other.delete(of_volume(1, 100 + index)).unwrap();
    }
    let has_room = || daemon.peers.usage(peer(2)).is_some_and(|usage| usage.has_room());
    eventually("the peer has said so", has_room).await;
    daemon.rebalancer.trigger();
    eventually("the blocks have moved", || cluster.nodes[0].store.used_blocks() == 0).await;
    check_contents(&cluster, 10).await;
}

#[tokio::test]
async fn a_deleted_volume_leaves_nothing_behind() {
    let cluster = Cluster::start(3, 3, 2).await;
    create_volume(&cluster).await;
    store_blocks(&cluster, 20).await;
    let _daemons = look_after_all(&cluster);
    delete_volume(&cluster, 1).await;
    let is_empty = || cluster.nodes.iter().all(|node| node.store.used_blocks() == 0);
    eventually("all blocks are gone", is_empty).await;
}

/// Locks the volume and opens a window of its first generation; the session and the epoch.
async fn open_window(cluster: &Cluster, ring: u64, excluded: &[PeerId]) -> (SessionId, Epoch) {
    let opened = Command::OpenSession { owner: "test".to_owned(), ttl_ms: 60_000 };
    let applied = cluster.metadata.execute(opened).await.unwrap();
    let Outcome::Session(session) = applied.outcome else { panic!("{applied:?}") };
    let locked = Command::LockVolume { volume: volume(1), session };
    let applied = cluster.metadata.execute(locked).await.unwrap();
    let Outcome::Epoch(epoch) = applied.outcome else { panic!("{applied:?}") };
    let reserved = Command::ReserveINodes { volume: volume(1), epoch, count: 2 };
    let applied = cluster.metadata.execute(reserved).await.unwrap();
    assert_eq!(applied.outcome, Outcome::INode(INodeIndex(1)));
    let window = Window {
        epoch,
        inode: INodeIndex(1),
        ring: RingVersion(ring),
        excluded: excluded.iter().copied().collect(),
        first: block(1).index,
        count: 64,
        after: None,
    };
    let committed = Command::CommitWindow { volume: volume(1), window };
    cluster.metadata.execute(committed).await.unwrap();
    (session, epoch)
}

#[tokio::test]
async fn blocks_of_an_open_window_stay_until_a_checkpoint_is_past_them() {
    let cluster = Cluster::start(3, 2, 2).await;
    create_volume(&cluster).await;
    let (_, epoch) = open_window(&cluster, 2, &[]).await;
    store_blocks(&cluster, 20).await;
    let _daemons = look_after_all(&cluster);
    set_ring(&cluster.metadata, 3, 1, [3]).await;
    let has_all = |node: &Node| (1..=20).all(|index| node.holds(block(index)));
    eventually("the new place has copies", || has_all(&cluster.nodes[2])).await;
    let held_back = |node: &Node| node.server.keeper().progress().status().blocks_to_move == 20;
    eventually("the old places know what waits", || cluster.nodes[..2].iter().all(held_back)).await;
    assert!(cluster.nodes[..2].iter().all(has_all));
    let position = LogPosition { inode: INodeIndex(1), block: block(21).index, offset: 0 };
    let head = Head { volume: volume(1), inode: INodeIndex(2), blocks: 1, epoch, position };
    cluster.metadata.execute(Command::CommitHead { volume: volume(1), head }).await.unwrap();
    balanced(&cluster, 20).await;
    check_contents(&cluster, 20).await;
}

#[tokio::test]
async fn blocks_that_an_old_window_places_after_the_ring_changed_move_too() {
    let cluster = Cluster::start(2, 1, 1).await;
    create_volume(&cluster).await;
    let (_, epoch) = open_window(&cluster, 2, &[]).await;
    let placement = cluster.pool.place_now().await.unwrap();
    let _daemons = look_after_all(&cluster);
    set_ring(&cluster.metadata, 3, 1, [2]).await;
    let rings = || cluster.nodes.iter().map(|node| node.server.keeper().ring().0);
    eventually("all follow the ring", || rings().eq([3, 3])).await;
    let progress = || cluster.nodes[0].server.keeper().progress().status();
    eventually("a pass is over", || progress().unchecked_blocks == 0).await;
    for index in 1..=3 {
        let old = cluster.pool.peers_of(block(index), placement.clone()).await.unwrap();
        assert_eq!(old, [peer(1)]);
        cluster.pool.put(old, block(index), epoch, content(index)).await.unwrap();
    }
    let position = LogPosition { inode: INodeIndex(1), block: block(4).index, offset: 0 };
    let head = Head { volume: volume(1), inode: INodeIndex(2), blocks: 1, epoch, position };
    cluster.metadata.execute(Command::CommitHead { volume: volume(1), head }).await.unwrap();
    balanced(&cluster, 3).await;
}

#[tokio::test]
async fn open_blocks_stay() {
    let cluster = Cluster::start(2, 1, 1).await;
    create_volume(&cluster).await;
    let data = vec![Bytes::from_static(b"open")];
    let append =
        Append { block: block(1), epoch: Epoch(1), offset: 0, data, sync: true, past_cache: false };
    // The placement waits until the peers are known.
    cluster.pool.place_now().await.unwrap();
    cluster.pool.append(vec![peer(1)], append).await.unwrap();
    let daemons = look_after_all(&cluster);
    set_ring(&cluster.metadata, 3, 1, [2]).await;
    let progress = || cluster.nodes[0].server.keeper().progress().status();
    eventually("the block waits", || progress().blocks_to_move == 1).await;
    assert!(!cluster.nodes[1].holds(block(1)));
    let seal = Seal::of(b"open");
    cluster.pool.seal(vec![peer(1)], block(1), Epoch(1), seal).await.unwrap();
    daemons[0].rebalancer.trigger();
    balanced(&cluster, 1).await;
}

#[tokio::test]
async fn a_peer_that_comes_back_gets_what_it_missed() {
    let mut cluster = Cluster::start(3, 3, 3).await;
    create_volume(&cluster).await;
    cluster.pool.place_now().await.unwrap();
    cluster.nodes[2].kill().await;
    eventually("the peer is down", || !cluster.pool.peers().is_up(peer(3))).await;
    store_blocks(&cluster, 10).await;
    assert!((1..=10).all(|index| !cluster.nodes[2].holds(block(index))));
    let _daemons =
        [look_after(&cluster, &cluster.nodes[0]), look_after(&cluster, &cluster.nodes[1])];
    cluster.nodes[2].restart().await;
    let _third = look_after(&cluster, &cluster.nodes[2]);
    balanced(&cluster, 10).await;
    check_contents(&cluster, 10).await;
}

#[tokio::test]
async fn a_peer_that_missed_a_deletion_drops_its_copy() {
    let cluster = Cluster::start(3, 3, 3).await;
    create_volume(&cluster).await;
    store_blocks(&cluster, 2).await;
    // Two have deleted it, and remember; the third was away.
    let others = vec![peer(1), peer(2)];
    cluster.pool.delete(others, vec![block(1)], Epoch(1)).await.unwrap();
    assert_eq!(holders(&cluster, 1)[&1], [peer(3)].into());
    let _daemons = look_after_all(&cluster);
    eventually("the block is gone", || !cluster.nodes[2].holds(block(1))).await;
    assert_eq!(holders(&cluster, 2)[&1], [].into());
    assert_eq!(holders(&cluster, 2)[&2].len(), 3);
}

#[tokio::test]
async fn what_a_crash_left_is_settled_by_those_who_know() {
    let mut cluster = Cluster::start(2, 2, 2).await;
    create_volume(&cluster).await;
    let placement = cluster.pool.place_now().await.unwrap();
    let both = cluster.pool.peers_of(block(1), placement).await.unwrap();
    let append = |index, data: &'static [u8]| {
        let data = vec![Bytes::from_static(data)];
        Append {
            block: block(index),
            epoch: Epoch(1),
            offset: 0,
            data,
            sync: true,
            past_cache: false,
        }
    };
    for index in 1..=3 {
        cluster.pool.append(both.clone(), append(index, b"whole")).await.unwrap();
    }
    // Block 2 goes on at the first peer, which alone learns of the seals of 1 and 2.
    let more = Append { offset: 5, ..append(2, b" and more") };
    cluster.pool.append(vec![peer(1)], more).await.unwrap();
    for (index, data) in [(1, &b"whole"[..]), (2, b"whole and more")] {
        let seal = Seal::of(data);
        cluster.pool.seal(vec![peer(1)], block(index), Epoch(1), seal).await.unwrap();
    }
    cluster.nodes[1].kill().await;
    cluster.nodes[1].restart().await;
    let _second = look_after(&cluster, &cluster.nodes[1]);
    let state = |index| cluster.nodes[1].store.state(block(index));
    let sealed = |data| Some(BlockState::Sealed(Seal::of(data)));
    eventually("both are sealed", || {
        (state(1), state(2)) == (sealed(b"whole"), sealed(b"whole and more"))
    })
    .await;
    assert_eq!(state(3), Some(BlockState::Unsettled));
}

/// Leaves block 1 sealed and unsettled at peer 1, as after decay of its seal, with bad bytes or
/// good; peer 2 has a bad copy and peer 3 a good one.
async fn lose_a_seal(cluster: &Cluster, is_rotten: bool) {
    create_volume(cluster).await;
    store_blocks(cluster, 1).await;
    lock(&cluster.nodes[0].store.unsettled).extend([block(1)]);
    if is_rotten {
        lock(&cluster.nodes[0].store.rotten).extend([block(1)]);
    }
    lock(&cluster.nodes[1].store.rotten).extend([block(1)]);
}

async fn check_settled(cluster: &Cluster) {
    let whole = vec![ByteRange { offset: 0, length: 3000 }];
    let avoid = vec![peer(2)];
    let state = || cluster.nodes[0].store.state(block(1));
    let sealed = Some(BlockState::Sealed(Seal::of(&content(1))));
    let reading = async {
        // Whoever reads meanwhile gets the right bytes or none.
        while state() != sealed {
            let hint = vec![peer(1)];
            let read = cluster.pool.read(block(1), whole.clone(), hint, avoid.clone()).await;
            assert_eq!(read.unwrap().1, content(1));
        }
    };
    tokio::time::timeout(Duration::from_secs(20), reading).await.expect("the copy is settled");
    assert!(!lock(&cluster.nodes[0].store.rotten).contains(&block(1)));
    let copy = cluster.pool.fetch(peer(1), block(1)).await.unwrap();
    assert_eq!(copy.map(|(_, data)| data), Some(content(1)));
}

#[tokio::test]
async fn a_copy_that_lost_its_seal_is_settled_from_a_good_one() {
    for is_rotten in [false, true] {
        let cluster = Cluster::start(3, 3, 3).await;
        lose_a_seal(&cluster, is_rotten).await;
        let _daemon = look_after(&cluster, &cluster.nodes[0]);
        check_settled(&cluster).await;
    }
}

#[tokio::test]
async fn a_suspected_copy_that_lost_its_seal_is_settled_at_once() {
    let cluster = Cluster::start(3, 3, 3).await;
    let daemon = look_after(&cluster, &cluster.nodes[0]);
    let up = || [2, 3].into_iter().all(|number| daemon.peers.is_up(peer(number)));
    eventually("its daemon has nothing to do", up).await;
    lose_a_seal(&cluster, true).await;
    cluster.pool.suspect(peer(1), block(1));
    check_settled(&cluster).await;
}

#[tokio::test]
async fn a_suspected_copy_is_replaced_by_a_good_one() {
    let cluster = Cluster::start(3, 3, 3).await;
    create_volume(&cluster).await;
    store_blocks(&cluster, 2).await;
    let _daemons = look_after_all(&cluster);
    let store = &cluster.nodes[0].store;
    lock(&store.rotten).extend([block(1)]);
    // A second bad copy is no source.
    lock(&cluster.nodes[1].store.rotten).extend([block(1)]);
    cluster.pool.suspect(peer(1), block(1));
    cluster.pool.suspect(peer(1), block(2));
    eventually("the copy is good", || lock(&store.rotten).is_empty()).await;
    let copy = cluster.pool.fetch(peer(1), block(1)).await.unwrap();
    assert_eq!(copy.map(|(_, data)| data), Some(content(1)));
}

#[tokio::test]
async fn a_corrupt_copy_does_not_count_as_a_copy() {
    let cluster = Cluster::start(2, 1, 1).await;
    create_volume(&cluster).await;
    store_blocks(&cluster, 1).await;
    // The new place says that it holds the block; its bytes say otherwise.
    cluster.nodes[1].store.put(block(1), &content(1)).unwrap();
    lock(&cluster.nodes[1].store.rotten).extend([block(1)]);
    let _daemons = look_after_all(&cluster);
    set_ring(&cluster.metadata, 3, 1, [2]).await;
    balanced(&cluster, 1).await;
    check_contents(&cluster, 1).await;
}

#[tokio::test]
async fn inode_blocks_move_too() {
    let cluster = Cluster::start(2, 1, 1).await;
    create_volume(&cluster).await;
    let inode = BlockRef { kind: BlockKind::INode, ..block(1) };
    cluster.pool.place_now().await.unwrap();
    cluster.pool.put(vec![peer(1)], inode, Epoch(1), content(1)).await.unwrap();
    let _daemons = look_after_all(&cluster);
    set_ring(&cluster.metadata, 3, 1, [2]).await;
    let moved = || (cluster.nodes[0].holds(inode), cluster.nodes[1].holds(inode));
    eventually("the block has moved", || moved() == (false, true)).await;
}
