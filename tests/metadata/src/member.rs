//! The process of one member: the real one, on the simulated disk and network, as a daemon runs it.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::watch;
use tonic::transport::Server;
use torus_blockstore::PeerId;
use torus_metadata::{
    Command, Member, MemberOptions, MemberState, MetadataService, Peer, Revision, Tuning, WatchItem,
};
use uuid::Uuid;

use crate::disk::SimStorage;
use crate::network::{PORT, dial, listen};
use crate::world::World;

type Ended = Result<(), Box<dyn Error>>;

/// The name of a member's host.
pub(crate) fn name(member: usize) -> String {
    format!("m{member}")
}

/// Where a member listens.
pub(crate) fn address(member: usize) -> String {
    format!("{}:{PORT}", name(member))
}

/// All members.
pub(crate) fn addresses(world: &World) -> Vec<String> {
    (0..world.swarm.members).map(address).collect()
}

fn tuning(world: &World, number: usize) -> Tuning {
    Tuning {
        snapshot_after: world.swarm.snapshot_after,
        keep_entries: world.swarm.keep_entries,
        dial: dial(),
        ..Tuning::on(Arc::new(SimStorage(Arc::clone(&world.disks[number]))))
    }
}

/// Runs until the process is killed.
pub(crate) async fn run(world: Arc<World>, number: usize, dir: PathBuf) -> Ended {
    world.trace.note(&format!("{} starts", name(number)));
    let options = MemberOptions {
        dir,
        address: address(number),
        peer: PeerId(Uuid::from_u128(number as u128 + 1)),
        // The first one begins the cluster; the others ask it and each other.
        join: if number == 0 { Vec::new() } else { addresses(&world) },
        blocks_of: None,
    };
    let peer = options.peer;
    let incoming = listen().await?;
    let member = match Member::start_with(options, tuning(&world, number)).await {
        Ok(member) => Arc::new(member),
        Err(error) => {
            world.trace.violation(&format!("{} cannot start: {}", name(number), chain(&error)));
            return Ok(());
        }
    };
    world.set_member(number, &member);
    let server = Server::builder()
        .tcp_nodelay(true)
        .http2_keepalive_interval(Some(Duration::from_secs(5)))
        .http2_keepalive_timeout(Some(Duration::from_secs(5)))
        .add_routes(member.routes());
    let incoming = member.divide(incoming);
    tokio::spawn(async move { server.serve_with_incoming(incoming).await });
    tokio::spawn(follow(Arc::clone(&world), number, member.own_service()));
    tokio::spawn(register(Arc::clone(&world), number, peer, member.state(), member.service()));
    let mut state = member.state();
    state.wait_for(|state| matches!(state, MemberState::Failed(_))).await?;
    world.trace.note(&format!("{} has failed", name(number)));
    world.has_failed(number);
    // The nemesis ends the process and starts another, as a supervisor would.
    std::future::pending().await
}

/// Says where its blocks would be, once it is a member.
async fn register(
    world: Arc<World>,
    number: usize,
    id: PeerId,
    mut state: watch::Receiver<MemberState>,
    service: Arc<dyn MetadataService>,
) {
    if state.wait_for(|state| matches!(state, MemberState::Running { .. })).await.is_err() {
        return;
    }
    let peer =
        Peer { id, address: address(number), zone: String::new(), size_blocks: 100, node: None };
    while service.execute(Command::RegisterPeer(peer.clone())).await.is_err() {
        world.trace.note(&format!("{} is not registered yet", name(number)));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Follows what this member applies: all must apply the same.
async fn follow(world: Arc<World>, number: usize, service: Arc<dyn MetadataService>) {
    let who = name(number);
    let mut from = Revision(0);
    loop {
        let mut items = service.watch(from, Vec::new());
        while let Some(item) = items.next().await {
            match item {
                Ok(WatchItem::Events { revision, events }) => {
                    world.saw(&who, revision, format!("{events:?}"));
                    from = revision;
                }
                Ok(WatchItem::Progress(_) | WatchItem::Listed(_)) => {}
                Err(torus_metadata::Error::Compacted { compacted }) => from = compacted,
                Err(_) => {}
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// An error with its causes.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
