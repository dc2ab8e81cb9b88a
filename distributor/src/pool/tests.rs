//! Replicated operations over sockets, with peers that fail.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use torus_blockstore::{
    Append, BlockPool, BlockRef, BlockState, BlockStore, ByteRange, CutOff, Epoch, PeerId,
    Placement, PoolError, Seal,
};
use torus_metadata::MetadataService;

use super::Distributor;
use crate::lock::lock;
use crate::testing::{Cluster, block, eventually, peer, set_ring, volume};
use crate::{Health, Peers, Request, Response};

fn append(epoch: u64, offset: u32, data: &'static [u8], sync: bool) -> Append {
    let data = vec![Bytes::from_static(data)];
    Append { block: block(1), epoch: Epoch(epoch), offset, data, sync, past_cache: false }
}

fn ranges(list: &[(u32, u32)]) -> Vec<ByteRange> {
    list.iter().map(|&(offset, length)| ByteRange { offset, length }).collect()
}

async fn peers_of_one(pool: &Distributor) -> Vec<PeerId> {
    let placement = pool.place_now().await.unwrap();
    pool.peers_of(block(1), placement).await.unwrap()
}

/// Writes "hello world" to all of block 1's peers and seals it; who they are.
async fn store_one(pool: &Distributor) -> Vec<PeerId> {
    let peers = peers_of_one(pool).await;
    pool.append(peers.clone(), append(1, 0, b"hello world", true)).await.unwrap();
    let seal = Seal::of(b"hello world");
    pool.seal(peers.clone(), block(1), Epoch(1), seal).await.unwrap();
    peers
}

#[tokio::test]
async fn an_append_is_on_every_peer() {
    let cluster = Cluster::start(4, 4, 3).await;
    let pool = &cluster.pool;
    let peers = peers_of_one(pool).await;
    assert_eq!(peers.len(), 3);
    assert_eq!(pool.replication(), 3);
    // Both are on their way before either is waited for.
    let first = pool.append(peers.clone(), append(1, 0, b"hello ", false));
    let second = pool.append(peers.clone(), append(1, 6, b"world", true));
    second.await.unwrap();
    first.await.unwrap();
    for &peer in &peers {
        let copy = pool.fetch(peer, block(1)).await.unwrap();
        let open = BlockState::Open { length: 11 };
        assert_eq!(copy, Some((open, Bytes::from_static(b"hello world"))));
        let asked = ranges(&[(6, 5), (0, 1)]);
        let avoid = peers.iter().copied().filter(|&other| other != peer).collect();
        let read = pool.read(block(1), asked, Vec::new(), avoid).await.unwrap();
        assert_eq!(read, (peer, Bytes::from_static(b"worldh")));
    }
    let outsider = cluster.nodes.iter().find(|node| !peers.contains(&node.peer)).unwrap();
    assert_eq!(pool.fetch(outsider.peer, block(1)).await, Ok(None));
    let seal = Seal::of(b"hello world");
    pool.seal(peers.clone(), block(1), Epoch(1), seal).await.unwrap();
    for &peer in &peers {
        let copy = pool.fetch(peer, block(1)).await.unwrap();
        assert_eq!(copy.map(|(state, _)| state), Some(BlockState::Sealed(seal)));
    }
}

#[tokio::test]
async fn a_sync_without_bytes_vouches_for_those_before() {
    let cluster = Cluster::start(2, 2, 2).await;
    let pool = &cluster.pool;
    let peers = peers_of_one(pool).await;
    let sync = |offset| {
        let append = Append { data: Vec::new(), ..append(1, offset, b"", true) };
        pool.append(peers.clone(), append)
    };
    pool.append(peers.clone(), append(1, 0, b"hello", false)).await.unwrap();
    sync(5).await.unwrap();
    assert!(matches!(sync(6).await, Err(CutOff::Lost { .. })));
}

#[tokio::test]
async fn a_peer_killed_while_appending_is_named() {
    let mut cluster = Cluster::start(4, 4, 3).await;
    let pool = cluster.pool.clone();
    let peers = peers_of_one(&pool).await;
    pool.append(peers.clone(), append(1, 0, b"hello ", true)).await.unwrap();
    cluster.node_mut(peers[1]).kill().await;
    let cut_off = pool.append(peers.clone(), append(1, 6, b"world", true)).await;
    assert_eq!(cut_off, Err(CutOff::Lost { failed: vec![peers[1]] }));
    eventually("the peer is down", || !pool.peers().is_up(peers[1])).await;
    let placement = pool.place_now().await.unwrap();
    assert_eq!(placement.excluded, [peers[1]]);
    let others = pool.peers_of(block(2), placement).await.unwrap();
    assert_eq!(others.len(), 3);
    assert!(!others.contains(&peers[1]));
    cluster.node_mut(peers[1]).restart().await;
    eventually("the peer is up again", || pool.peers().is_up(peers[1])).await;
    // Its copy was cut short: it takes no appends, and is no source for readers.
    let cut_off = pool.append(vec![peers[1]], append(1, 6, b"world", true)).await;
    assert_eq!(cut_off, Err(CutOff::Lost { failed: vec![peers[1]] }));
    let hint = vec![peers[1]];
    let (reader, data) = pool.read(block(1), ranges(&[(0, 5)]), hint, Vec::new()).await.unwrap();
    assert_eq!((reader == peers[1], data), (false, Bytes::from_static(b"hello")));
}

#[tokio::test]
async fn a_fenced_writer_is_told() {
    let cluster = Cluster::start(3, 3, 3).await;
    let pool = &cluster.pool;
    let peers = peers_of_one(pool).await;
    pool.append(peers.clone(), append(4, 0, b"hello ", true)).await.unwrap();
    assert_eq!(pool.fence(peers[2], volume(1), Epoch(5)).await, Ok(Epoch(5)));
    assert_eq!(pool.fence(peers[2], volume(1), Epoch(3)).await, Ok(Epoch(5)));
    let fenced = Err(CutOff::Fenced { newest: Epoch(5) });
    assert_eq!(pool.append(peers.clone(), append(4, 6, b"world", true)).await, fenced);
    let seal = Seal::of(b"hello ");
    assert_eq!(pool.seal(peers.clone(), block(1), Epoch(4), seal).await, fenced);
    let data = Bytes::from_static(b"other");
    assert_eq!(pool.put(peers.clone(), block(1), Epoch(4), data).await, fenced);
    // An append of a newer epoch fences too, and other volumes do not care.
    pool.append(vec![peers[0]], Append { block: block(2), ..append(6, 0, b"x", true) })
        .await
        .unwrap();
    let newest = pool.fence(peers[0], volume(1), Epoch(1)).await;
    assert_eq!(newest, Ok(Epoch(6)));
    assert_eq!(pool.fence(peers[0], volume(2), Epoch(1)).await, Ok(Epoch(1)));
}

#[tokio::test]
async fn a_read_passes_over_missing_and_unsettled_copies() {
    let cluster = Cluster::start(3, 3, 3).await;
    let pool = &cluster.pool;
    let peers = store_one(pool).await;
    cluster.node(peers[0]).store.delete(block(1)).unwrap();
    lock(&cluster.node(peers[1]).store.unsettled).insert(block(1));
    let hint = peers.clone();
    let read = pool.read(block(1), ranges(&[(0, 5)]), hint, Vec::new()).await;
    assert_eq!(read, Ok((peers[2], Bytes::from_static(b"hello"))));
    // Past the end there is nothing anywhere.
    let read = pool.read(block(1), ranges(&[(7, 5)]), Vec::new(), Vec::new()).await;
    assert!(matches!(read, Err(PoolError::Unavailable { .. })), "{read:?}");
    let unknown = pool.read(block(9), ranges(&[(0, 5)]), Vec::new(), Vec::new()).await;
    assert_eq!(unknown, Err(PoolError::NoSuchBlock { block: block(9) }));
}

#[tokio::test]
async fn a_corrupt_copy_is_not_handed_out_and_can_be_avoided() {
    let cluster = Cluster::start(2, 2, 2).await;
    let pool = &cluster.pool;
    let peers = store_one(pool).await;
    lock(&cluster.node(peers[0]).store.rotten).insert(block(1));
    let fetched = pool.fetch(peers[0], block(1)).await;
    assert!(matches!(fetched, Err(PoolError::Refused { .. })), "{fetched:?}");
    let avoid = vec![peers[0]];
    let read = pool.read(block(1), ranges(&[(0, 5)]), peers.clone(), avoid).await;
    assert_eq!(read, Ok((peers[1], Bytes::from_static(b"hello"))));
    let nobody = pool.read(block(1), ranges(&[(0, 5)]), Vec::new(), peers.clone()).await;
    assert!(matches!(nobody, Err(PoolError::Unavailable { .. })), "{nobody:?}");
}

#[tokio::test]
async fn a_broken_disk_acknowledges_nothing_and_gets_no_new_blocks() {
    let cluster = Cluster::start(3, 3, 2).await;
    let pool = &cluster.pool;
    let peers = peers_of_one(pool).await;
    cluster.node(peers[0]).store.sync_fails.store(true, Ordering::Relaxed);
    let cut_off = pool.append(peers.clone(), append(1, 0, b"hello", true)).await;
    assert_eq!(cut_off, Err(CutOff::Lost { failed: vec![peers[0]] }));
    assert_eq!(pool.place_now().await.unwrap().excluded, [peers[0]]);
}

#[tokio::test]
async fn a_put_takes_the_place_of_an_open_copy() {
    let cluster = Cluster::start(2, 2, 2).await;
    let pool = &cluster.pool;
    let peers = peers_of_one(pool).await;
    pool.append(peers.clone(), append(1, 0, b"hello", true)).await.unwrap();
    let data = Bytes::from_static(b"something else");
    pool.put(peers.clone(), block(1), Epoch(2), data.clone()).await.unwrap();
    for &peer in &peers {
        let sealed = BlockState::Sealed(Seal::of(&data));
        assert_eq!(pool.fetch(peer, block(1)).await, Ok(Some((sealed, data.clone()))));
    }
}

#[tokio::test]
async fn an_older_ring_still_says_where_its_blocks_are() {
    let cluster = Cluster::start(4, 3, 2).await;
    let pool = &cluster.pool;
    let old = pool.place_now().await.unwrap();
    let peers = pool.peers_of(block(1), old.clone()).await.unwrap();
    set_ring(&cluster.metadata, 3, 2, [4]).await;
    let view = cluster.follower.view();
    let version = || view.borrow().ring.as_ref().map(|ring| ring.version().0);
    eventually("the ring is followed", || version() == Some(3)).await;
    let new = pool.place_now().await.unwrap();
    assert_eq!(pool.peers_of(block(1), new).await, Ok(vec![peer(4)]));
    let found = pool.peers_of(block(1), old).await;
    assert!(found == Ok(peers) || found == Err(PoolError::UnknownRing { version: 2 }), "{found:?}");
}

#[tokio::test]
async fn the_ring_is_followed_after_the_metadata_was_away() {
    let cluster = Cluster::start(3, 2, 2).await;
    let pool = &cluster.pool;
    let peers = store_one(pool).await;
    cluster.metadata.set_reachable(false);
    // Reads and writes go on.
    let read = pool.read(block(1), ranges(&[(0, 5)]), Vec::new(), Vec::new()).await;
    assert!(read.is_ok(), "{read:?}");
    let placement = pool.place_now().await.unwrap();
    assert_eq!(pool.peers_of(block(1), placement).await, Ok(peers));
    cluster.metadata.set_reachable(true);
    set_ring(&cluster.metadata, 3, 3, [1, 2, 3]).await;
    eventually("the ring is followed", || pool.replication() == 3).await;
}

#[tokio::test]
async fn peers_of_another_cluster_are_down() {
    let cluster = Cluster::start(1, 1, 1).await;
    let view = cluster.follower.view();
    let stranger = crate::TcpPeers::start(uuid::Uuid::from_u128(9), 64 * 1024, None, view);
    let mut health = stranger.health();
    let is_down = health.wait_for(|health| health.get(&peer(1)) == Some(&Health::Down));
    drop(is_down.await.unwrap());
    assert!(stranger.request(peer(1), Request::Status).await.is_err());
}

#[tokio::test]
async fn the_local_peer_is_called_without_a_socket() {
    let mut cluster = Cluster::start(2, 2, 2).await;
    let server = cluster.nodes[0].server.clone();
    let view = cluster.follower.view();
    let peers =
        crate::TcpPeers::start(crate::testing::CLUSTER, 64 * 1024, Some(server), view.clone());
    assert_eq!(peers.local(), Some(peer(1)));
    let metadata = std::sync::Arc::clone(&cluster.metadata) as std::sync::Arc<dyn MetadataService>;
    let pool = Distributor::new(64 * 1024, metadata, std::sync::Arc::new(peers), view);
    store_one(&pool).await;
    let (reader, _) =
        pool.read(block(1), ranges(&[(0, 5)]), vec![peer(2)], Vec::new()).await.unwrap();
    assert_eq!(reader, peer(1), "the local copy is the nearest");
    cluster.nodes[1].kill().await;
    let status = pool.peers().request(peer(1), Request::Status).await;
    let Ok(Response::Status(status)) = status else { panic!("{status:?}") };
    assert_eq!((status.used_blocks, status.capacity_blocks), (1, 1000));
}

#[tokio::test]
async fn a_list_names_the_blocks_of_a_volume() {
    let cluster = Cluster::start(1, 1, 1).await;
    let pool = &cluster.pool;
    for index in 1..=3 {
        let append = Append { block: block(index), ..append(1, 0, b"x", true) };
        pool.append(vec![peer(1)], append).await.unwrap();
    }
    let list = |volume, after, limit| {
        let answer = pool.peers().request(peer(1), Request::List { volume, after, limit });
        async move {
            match answer.await {
                Ok(Response::Blocks(blocks)) => {
                    blocks.iter().map(|(block, _)| block.index.0).collect::<Vec<_>>()
                }
                other => panic!("{other:?}"),
            }
        }
    };
    assert_eq!(list(None, None, 9).await, [1, 2, 3]);
    assert_eq!(list(Some(volume(1)), None, 2).await, [1, 2]);
    assert_eq!(list(Some(volume(1)), Some(block(2)), 9).await, [3]);
    assert!(list(Some(volume(2)), None, 9).await.is_empty());
    let delete = Request::Delete { epoch: Epoch(1), blocks: vec![block(1), block(3)] };
    assert_eq!(pool.peers().request(peer(1), delete).await, Ok(Response::Done));
    assert_eq!(list(None, None, 9).await, [2]);
}

#[tokio::test]
async fn many_writers_get_their_own_answers() {
    let cluster = Cluster::start(3, 3, 3).await;
    let pool = &cluster.pool;
    let placement = pool.place_now().await.unwrap();
    let mut writes = BTreeMap::new();
    for index in 1..=200 {
        let peers = pool.peers_of(block(index), placement.clone()).await.unwrap();
        let data = vec![Bytes::from(vec![u8::try_from(index).unwrap(); 5000])];
        let append = Append {
            block: block(index),
            epoch: Epoch(1),
            offset: 0,
            data,
            sync: true,
            past_cache: false,
        };
        writes.insert(index, pool.append(peers, append));
    }
    for write in writes.into_values() {
        write.await.unwrap();
    }
    let reads = (1..=200_u64).map(|index| {
        (index, pool.read(block(index), ranges(&[(4000, 1000)]), Vec::new(), Vec::new()))
    });
    for (index, read) in reads.collect::<Vec<_>>() {
        assert_eq!(read.await.unwrap().1, vec![u8::try_from(index).unwrap(); 1000]);
    }
}

#[tokio::test]
async fn blocks_are_deleted_in_batches_on_every_peer() {
    let mut cluster = Cluster::with_capacity(3, 3, 2, 4000).await;
    let pool = cluster.pool.clone();
    let both = vec![peer(1), peer(2)];
    let fill = |cluster: &Cluster| {
        for node in &cluster.nodes[..2] {
            for index in 1..=2500 {
                node.store.put(block(index), b"x").unwrap();
            }
        }
    };
    fill(&cluster);
    // Some that nobody has are deleted too.
    let blocks: Vec<_> = (2..=2600).map(block).collect();
    let all: Vec<_> = vec![peer(1), peer(2), peer(3)];
    pool.place_now().await.unwrap();
    assert_eq!(pool.delete(all, blocks.clone(), Epoch(3)).await, Ok(()));
    let left = |cluster: &Cluster| [0, 1, 2].map(|node| cluster.nodes[node].store.used_blocks());
    assert_eq!(left(&cluster), [1, 1, 0]);
    assert_eq!(pool.delete(both.clone(), Vec::new(), Epoch(3)).await, Ok(()));
    assert_eq!(pool.delete(Vec::new(), blocks.clone(), Epoch(3)).await, Ok(()));
    fill(&cluster);
    let fenced = pool.delete(both.clone(), blocks.clone(), Epoch(2)).await;
    assert_eq!(fenced, Err(CutOff::Fenced { newest: Epoch(3) }));
    assert_eq!(left(&cluster)[..2], [2500, 2500]);
    cluster.nodes[0].kill().await;
    let lost = pool.delete(both, blocks, Epoch(3)).await;
    assert_eq!(lost, Err(CutOff::Lost { failed: vec![peer(1)] }));
    assert_eq!(left(&cluster)[1], 1, "the others were not waited for in vain");
}

#[tokio::test]
async fn a_volume_is_listed_in_pages() {
    let cluster = Cluster::with_capacity(1, 1, 1, 4000).await;
    let pool = &cluster.pool;
    let other = |index| BlockRef { volume: volume(2), ..block(index) };
    for index in 1..=2500 {
        cluster.nodes[0].store.put(block(index), b"x").unwrap();
    }
    for index in 1..=1000 {
        cluster.nodes[0].store.put(other(index), b"x").unwrap();
    }
    pool.place_now().await.unwrap();
    let mut found = Vec::new();
    loop {
        let page = pool.list(peer(1), volume(1), found.last().copied()).await.unwrap();
        if page.is_empty() {
            break;
        }
        found.extend(page.into_iter().map(|(block, state)| {
            assert_eq!(state, BlockState::Sealed(Seal::of(b"x")));
            block
        }));
    }
    assert!(found.into_iter().eq((1..=2500).map(block)));
    assert_eq!(pool.list(peer(1), volume(3), None).await, Ok(Vec::new()));
    assert_eq!(pool.list(peer(9), volume(1), None).await, Err(PoolError::Silent { peer: peer(9) }));
}

#[tokio::test]
async fn a_placement_has_the_volumes_number_of_copies() {
    let cluster = Cluster::start(4, 4, 2).await;
    let placement = cluster.pool.place_now().await.unwrap();
    for (copies, expected) in [(None, 2), (Some(1), 1), (Some(3), 3), (Some(16), 4)] {
        let placement = Placement { copies, ..placement.clone() };
        assert_eq!(cluster.pool.peers_of(block(1), placement).await.unwrap().len(), expected);
    }
}

/// Fills or empties a node's store until `free` of its blocks are free.
fn leave_free(cluster: &Cluster, node: usize, free: u64) {
    let store = &cluster.nodes[node].store;
    let used = store.geometry().capacity_blocks - free;
    for index in 1..=store.geometry().capacity_blocks {
        let block = block(10_000 + index);
        if index <= used {
            store.put(block, b"x").unwrap();
        } else {
            store.delete(block).unwrap();
        }
    }
}

fn is_full(pool: &impl BlockPool) -> bool {
    pool.room() == 0
}

#[tokio::test]
async fn a_pool_is_full_when_too_few_peers_have_room_and_not_for_longer() {
    // Ten blocks are a peer's reserve.
    let mut cluster = Cluster::with_capacity(3, 3, 2, 40).await;
    let pool = cluster.pool.clone();
    assert!(!is_full(&pool), "nothing is known yet");
    for _ in 0..2 {
        leave_free(&cluster, 0, 10);
        let has_said = |number, free| {
            pool.peers().usage(peer(number)).is_some_and(|usage| usage.free_blocks() == free)
        };
        eventually("a peer has no room", || has_said(1, 10)).await;
        assert!(!is_full(&pool));
        leave_free(&cluster, 1, 3);
        eventually("the pool is full", || is_full(&pool)).await;
        // Who holds a volume goes on in the reserve.
        assert!(pool.place_now().await.unwrap().excluded.is_empty());
        leave_free(&cluster, 1, 11);
        eventually("the pool is not full", || !is_full(&pool)).await;
        leave_free(&cluster, 0, 40);
    }
    // Two peers of three are up, and one has room.
    leave_free(&cluster, 0, 10);
    eventually("a peer has no room", || !pool.peers().usage(peer(1)).unwrap().has_room()).await;
    assert!(!is_full(&pool));
    cluster.nodes[2].kill().await;
    eventually("the pool is full", || is_full(&pool)).await;
    assert_eq!(pool.peers().usage(peer(3)), None);
}

#[tokio::test]
async fn peers_that_are_all_but_full_are_passed_over_for_as_long_as_they_are() {
    let cluster = Cluster::with_capacity(3, 3, 2, 40).await;
    let pool = &cluster.pool;
    pool.place_now().await.unwrap();
    let says = async |free: u64| {
        let usage = || pool.peers().usage(peer(1)).map(|usage| usage.free_blocks());
        eventually("the peer has said so", || usage() == Some(free)).await;
    };
    for index in 1..=2 {
        leave_free(&cluster, 0, 2);
        says(2).await;
        assert_eq!(pool.place_now().await.unwrap().excluded, [peer(1)]);
        leave_free(&cluster, 0, 0);
        says(0).await;
        // It answers at once.
        let began = tokio::time::Instant::now();
        let append = Append { block: block(index), ..append(1, 0, b"x", true) };
        let cut_off = pool.append(vec![peer(1), peer(2)], append).await;
        assert_eq!(cut_off, Err(CutOff::Lost { failed: vec![peer(1)] }));
        assert!(began.elapsed() < std::time::Duration::from_secs(3));
        leave_free(&cluster, 0, 3);
        let mut look = tokio::time::interval(std::time::Duration::from_millis(20));
        let begins_again = async {
            while !pool.place_now().await.unwrap().excluded.is_empty() {
                look.tick().await;
            }
        };
        let within = std::time::Duration::from_secs(5);
        tokio::time::timeout(within, begins_again).await.expect("it gets blocks again");
    }
}
