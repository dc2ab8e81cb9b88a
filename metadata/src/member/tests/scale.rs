//! Ten thousand volumes and a thousand peers: listed, saved and restored. The times are printed, for
//! whoever wants to know (`--nocapture`); nothing is asserted of them.

use futures::stream;
use torus_raft::Role;

use super::*;
use crate::WatchItem;

const VOLUMES: usize = 10_000;
const PEERS: u128 = 1000;

async fn list(client: &Client) -> (usize, usize) {
    let mut items = client.list_and_watch(vec![]);
    let (mut volumes, mut peers) = (0, 0);
    loop {
        match items.next().await.unwrap().unwrap() {
            WatchItem::Listed(Answer::Volumes { volumes: listed, .. }) => volumes = listed.len(),
            WatchItem::Listed(Answer::Peers { peers: listed, .. }) => peers = listed.len(),
            // The last of the lists.
            WatchItem::Listed(Answer::Group { .. }) => return (volumes, peers),
            WatchItem::Listed(_) => {}
            other => panic!("{other:?} before the lists"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::print_stdout, reason = "how long each step took, for who runs it by hand")]
async fn a_large_state_is_listed_saved_and_restored() {
    let daemon = Daemon::start(1, &[]).await;
    daemon.admin().init(options()).await.unwrap();
    let client = daemon.client();
    let volumes = (0..VOLUMES).map(|number| create(&format!("volume-{number}")));
    let peers = (2..=PEERS).map(|number| Command::RegisterPeer(fixtures::peer(number)));
    let began = now();
    stream::iter(volumes.chain(peers))
        .for_each_concurrent(128, |command| async {
            client.execute(command).await.unwrap();
        })
        .await;
    println!("{VOLUMES} volumes and {PEERS} peers made in {:?}", began.elapsed());

    let all = (VOLUMES, usize::try_from(PEERS).unwrap());
    let began = now();
    assert_eq!(list(&client).await, all);
    println!("listed by a watch in {:?}", began.elapsed());

    let node = daemon.member.core.node().unwrap();
    let last = node.status().applied;
    let began = now();
    node.compact().await.unwrap();
    wait_until("a snapshot", async || node.status().snapshot, |found| *found >= last).await;
    println!("a snapshot in {:?}, {} bytes", began.elapsed(), daemon.snapshot().len());
    assert!(node.status().members.iter().all(|member| member.role == Role::Voter));
    drop(node);

    let before = daemon.snapshot();
    let (number, address, dir) = daemon.kill().await;
    let began = now();
    let daemon = Daemon::start_on(number, &address, dir, Vec::new()).await;
    assert_eq!(list(&daemon.client()).await, all);
    println!("serving again after {:?}", began.elapsed());
    // But for the tenure and what the start itself wrote.
    assert!(daemon.snapshot().len() + 1000 > before.len());
    daemon.kill().await;
}
