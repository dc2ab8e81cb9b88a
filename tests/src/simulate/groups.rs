//! Snapshots of two volumes at one instant, while both are written: no write in one of them may have
//! been sent after one was acknowledged which the other lacks.
//!
//! All clients share what gathers a group, as if one program had all volumes open; the volumes of
//! that program then fail one by one.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use torus_blockstore::VolumeId;
use torus_metadata::{AskId, Command, Outcome, Task, Volume};

use super::chance::Chance;
use super::cluster::{Client, Cluster, Tracked};
use super::node::lock;
use super::oracle::{Life, Snapshot};

/// How long the writers are asked.
const PATIENCE: Duration = Duration::from_secs(15);
/// Snapshots beyond which a volume is left alone.
const SNAPSHOTS_MAX: usize = 8;

/// Two snapshots of one instant.
pub(crate) type Cut = [Snapshot; 2];

/// A volume that is in use: its writer's life, and what of it was accepted before it was asked.
struct Member {
    volume: Tracked,
    id: VolumeId,
    life: Arc<Mutex<Life>>,
    from: usize,
}

/// Takes snapshots of two volumes again and again, until it is dropped.
pub(crate) async fn take(cluster: Arc<Cluster>) {
    let chance = Chance::new(cluster.context.seed, "groups");
    for number in 0.. {
        sleep(chance.millis(200..3000)).await;
        let volumes = cluster.tracked();
        let (one, other) = (chance.pick(&volumes), chance.pick(&volumes));
        if one.name == other.name {
            continue;
        }
        let (one, other) = (member(&cluster, one).await, member(&cluster, other).await);
        if let (Some(one), Some(other)) = (one, other) {
            let client = cluster.client(one.volume.host);
            take_one(&cluster, &client, &[one, other], format!("g{number}")).await;
        }
    }
}

async fn member(cluster: &Cluster, volume: &Tracked) -> Option<Member> {
    let present = cluster.present(volume).await?;
    let life = volume.history.last()?;
    let is_writer = is_of(&life, &present) && !lock(&life).is_deposed();
    let has_room = volume.history.snapshots().len() < SNAPSHOTS_MAX;
    let from = lock(&life).accepted();
    (is_writer && has_room).then(|| Member { volume: volume.clone(), id: present.id, life, from })
}

/// Whether the life is that of the writer which has the volume now.
fn is_of(life: &Mutex<Life>, volume: &Volume) -> bool {
    volume.lock.is_some() && lock(life).epoch == Some(volume.epoch)
}

async fn take_one(cluster: &Cluster, client: &Client, members: &[Member; 2], name: String) {
    let trace = &cluster.context.trace;
    let volumes = members.iter().map(|member| member.id).collect();
    let task = Task::Snapshot { name: name.clone(), created_ms: 0 };
    let asking = client.execute_until_answered(Command::AskWriters { volumes, task });
    let Ok(Ok(Outcome::Ask(ask))) = timeout(PATIENCE, asking).await else { return };
    let is_taken = wait(cluster, members, ask).await;
    trace.note("group", &[ask.0, is_taken.into()]);
    if is_taken && are_of_these_lives(cluster, members, &name).await {
        trace.sometimes("a group snapshot was taken");
        let [one, other] = members;
        let cut = [one, other].map(|it| Snapshot::new(name.clone(), &it.life, it.from));
        for (member, snapshot) in members.iter().zip(&cut) {
            member.volume.history.taken(snapshot.clone());
            if let Err(what) = lock(&member.life).flushed(member.from) {
                trace.violation(format!("{}: {what}", member.volume.name));
            }
        }
        return lock(&cluster.cuts).push(cut);
    }
    // What was taken by one of them alone stays behind, and nobody expects anything of it.
    let withdrawing = client.execute_until_answered(Command::WithdrawAsk { ask });
    if timeout(PATIENCE, withdrawing).await.is_ok() {
        trace.sometimes("a group snapshot was given up");
    }
}

/// Waits until both writers have answered; whether both have done it.
async fn wait(cluster: &Cluster, members: &[Member; 2], ask: AskId) -> bool {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        sleep(Duration::from_millis(50)).await;
        let mut answers = Vec::new();
        for member in members {
            let Some(present) = cluster.present(&member.volume).await else { return false };
            answers.extend(present.answers.into_iter().filter(|answer| answer.id == ask));
        }
        if answers.iter().any(|answer| answer.error.is_some()) {
            return false;
        }
        if answers.len() == members.len() {
            return true;
        }
    }
    false
}

/// Whether it was these writers that took the snapshots, and no later ones.
async fn are_of_these_lives(cluster: &Cluster, members: &[Member; 2], name: &str) -> bool {
    for member in members {
        let Some(present) = cluster.present(&member.volume).await else { return false };
        let snapshot = present.snapshots.iter().find(|snapshot| snapshot.name == name);
        let epoch = snapshot.map(|snapshot| snapshot.head.epoch);
        if epoch.is_none() || epoch != lock(&member.life).epoch {
            return false;
        }
    }
    true
}

/// Holds the snapshots of every group that were read against each other.
pub(crate) fn are_cuts(cluster: &Cluster) -> Result<(), String> {
    for [one, other] in &*lock(&cluster.cuts) {
        let found = [one.lacks_a_cause_of(other), other.lacks_a_cause_of(one)];
        if found.contains(&Some(true)) {
            return Err(format!("the snapshots {:?} of a group are not of one instant", one.name));
        }
        if found == [Some(false); 2] {
            cluster.context.trace.sometimes("a group snapshot was held against its writes");
        }
    }
    Ok(())
}
