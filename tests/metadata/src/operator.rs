//! Who forms the group and looks after it: creates the volumes, notes who leads, hands the
//! leadership round, follows all changes, and reads everything once more in the end.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use torus_metadata::{
    AdminClient, Client, Command, GroupRole, InitOptions, MetadataService, Outcome, Query,
    Revision, RingKind, WatchItem,
};

use crate::client::Caller;
use crate::history::REPLICATION;
use crate::member::{address, addresses};
use crate::network::dial;
use crate::world::World;

type Ended = Result<(), Box<dyn Error>>;

const LOOK: Duration = Duration::from_millis(250);

pub(crate) async fn run(world: Arc<World>) -> Ended {
    let first = AdminClient::over(dial(), [address(0)]);
    let options = InitOptions {
        block_size: 512 << 10,
        block_spec: "crc".parse()?,
        replication: REPLICATION,
        ring: RingKind::Ketama,
        voters_max: None,
    };
    // All daemons are up before an operator says `init`.
    tokio::time::sleep(Duration::from_secs(1)).await;
    first.init(options).await?;
    wait_for_voters(&world, &first).await;
    let client = Client::over(dial(), addresses(&world));
    for number in 0..world.swarm.volumes {
        let name = format!("volume{number}");
        let create = Command::CreateVolume { name, size: 1 << 30, spec: None };
        if let Outcome::Volume(volume) = client.execute(create).await?.outcome {
            world.history.created(volume.id, volume.inode_index.0);
        }
    }
    world.trace.note("the group is formed");
    world.set_formed();
    tokio::spawn(follow_leader(Arc::clone(&world)));
    tokio::spawn(watch(Arc::clone(&world), client.clone()));
    if world.swarm.transfers {
        tokio::spawn(hand_round(Arc::clone(&world)));
    }
    while world.idle.load(std::sync::atomic::Ordering::Relaxed) < world.swarm.clients {
        tokio::time::sleep(LOOK).await;
    }
    last_reads(&world).await;
    world.set_judged();
    std::future::pending().await
}

async fn wait_for_voters(world: &World, admin: &AdminClient) {
    loop {
        if let Ok(status) = admin.status().await {
            let voters = status.members.iter().filter(|m| m.role == GroupRole::Voter).count();
            if voters == world.swarm.members && !status.joint {
                return;
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Notes every change of the leader.
async fn follow_leader(world: Arc<World>) {
    let admin = AdminClient::over(dial(), addresses(&world));
    let mut last = None;
    loop {
        if let Ok(status) = admin.status().await
            && let Some(leader) = status.leader()
        {
            let now = (status.term, leader.node);
            if last.is_some_and(|last| last < now) {
                world.trace.sometimes("the leader changed");
            }
            if last.is_none_or(|last| last < now) {
                world.trace.note(&format!("node {} leads in term {}", leader.node, status.term));
                last = Some(now);
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Hands the leadership to somebody else now and then.
async fn hand_round(world: Arc<World>) {
    let chance = world.chance("transfers");
    let admin = AdminClient::over(dial(), addresses(&world));
    while !world.is_calm() {
        tokio::time::sleep(chance.millis(1000..6000)).await;
        if admin.transfer_leader(None).await.is_ok() {
            world.trace.sometimes("the leadership was handed over");
        }
    }
}

/// Watches over the network: all changes, in order, none left out, wherever the watch goes on.
async fn watch(world: Arc<World>, client: Client) {
    let mut seen = Revision(0);
    loop {
        let mut items = client.watch(seen, Vec::new());
        let mut is_anew = true;
        while let Some(item) = items.next().await {
            match item {
                Ok(WatchItem::Events { revision, events }) => {
                    if revision <= seen {
                        let text = format!("a watch went from {seen:?} back to {revision:?}");
                        world.trace.violation(&text);
                    }
                    none_left_out(&world, seen, Revision(revision.0 - 1));
                    world.saw("a watch", revision, format!("{events:?}"));
                    if std::mem::take(&mut is_anew) {
                        world.trace.sometimes("a watch went on elsewhere");
                    }
                    seen = revision;
                }
                Ok(WatchItem::Progress(revision)) => none_left_out(&world, seen, revision),
                // No list was asked for.
                Ok(WatchItem::Listed(_)) => {}
                Err(torus_metadata::Error::Compacted { compacted }) => {
                    world.trace.sometimes("a watch was told that changes are not kept");
                    seen = seen.max(compacted);
                }
                Err(_) => {}
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn none_left_out(world: &World, seen: Revision, to: Revision) {
    if let Some(missed) = world.knows_between(seen, to) {
        world.trace.violation(&format!("a watch came to {to:?} and left out {missed:?}"));
    }
}

/// Reads everything, so that what was acknowledged and lost shows in the history.
async fn last_reads(world: &Arc<World>) {
    let caller = Caller::new(world, "operator");
    for volume in world.history.volumes() {
        while !caller.read_volume(volume).await {}
    }
    while caller.read_ring().await.is_none() {}
    // And that the service takes commands again.
    let client = Client::over(dial(), addresses(world));
    let open = || Command::OpenSession { owner: "operator".to_owned(), ttl_ms: 60_000 };
    while client.execute(open()).await.is_err() {}
    while client.query(Query::Sessions).await.is_err() {}
}
