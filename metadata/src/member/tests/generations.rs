//! Groups that go on with an old state, and members of different versions.

use super::*;
use crate::admin::Denied;
use crate::{Backup, FeatureLevel, Survivor};

async fn bytes_of(daemon: &Daemon) -> Vec<u8> {
    daemon.admin().backup().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_of_any_member_begins_another_group_of_the_same_cluster() {
    let [first, second, third] = three().await;
    first.client().execute(create("v")).await.unwrap();
    let session = open_session(&first.client(), 60_000).await;
    let cluster = first.admin().status().await.unwrap().cluster;
    let bytes = bytes_of(&third).await;
    let states = [bytes_of(&first).await, bytes_of(&second).await, bytes.clone()];
    let states = states.map(|bytes| Backup::decode(&bytes).unwrap());
    let names = |backup: &Backup| format!("{:?}", backup.state().answer(&Query::Volumes));
    assert!(states.iter().all(|backup| names(backup) == names(&states[0])));
    let from = states[2].state().revision();

    // A daemon in a cluster does not take it.
    let refused = second.admin().restore(bytes.clone()).await.unwrap_err();
    assert!(matches!(refused, AdminError::AlreadyMember { .. }), "{refused}");
    let empty = Daemon::start(7, &[]).await;
    let mut damaged = bytes.clone();
    damaged[40] ^= 1;
    let refused = empty.admin().restore(damaged).await.unwrap_err();
    assert!(matches!(refused, AdminError::UnusableBackup { .. }), "{refused}");
    let restored = empty.admin().restore(bytes).await.unwrap();
    assert_eq!((restored.cluster, restored.generation), (cluster, 2));

    let client = empty.client();
    assert_eq!(volume_names(&client).await, ["v".to_owned()].into());
    let refused = client.keep_alive(session).await.unwrap_err();
    assert!(matches!(refused, Error::Refused(Refusal::NoSuchSession)), "{refused}");
    let old = client.watch(from, Vec::new()).next().await;
    assert!(matches!(old, Some(Err(Error::Compacted { .. }))), "{old:?}");
    // The former group does not notice; it is another one.
    first.client().execute(create("w")).await.unwrap();
    assert_eq!(volume_names(&client).await, ["v".to_owned()].into());

    let next = Daemon::start(8, &[&empty]).await;
    next.node().await;
    assert_eq!(volume_names(&next.client()).await, ["v".to_owned()].into());
    for daemon in [first, second, third, empty, next] {
        daemon.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_of_a_former_generation_learns_it_and_ends() {
    let [first, second, third] = three().await;
    first.client().execute(create("v")).await.unwrap();
    let (number, address, dir) = first.kill().await;
    let (other, at, old) = second.kill().await;
    third.kill().await;
    let survivor = Survivor::read(&dir.path().join("raft")).await.unwrap();
    assert_eq!(survivor.address(), Some(&*address));
    assert_eq!(survivor.members().count(), 3);
    let fresh = TempDir::new().unwrap();
    let peer = fixtures::peer_id(number);
    let founded = survivor.found(&fresh.path().join("raft"), &address, peer).await.unwrap();
    assert_eq!(founded.generation, 2);
    let founder = Daemon::start_on(number, &address, fresh, Vec::new()).await;
    assert_eq!(founder.node().await, founded.node);
    founder.client().execute(create("w")).await.unwrap();

    let stale = Daemon::start_on(other, &at, old, Vec::new()).await;
    let mut state = stale.member.state();
    let failed = state.wait_for(|state| matches!(state, MemberState::Failed(_)));
    let failed = tokio::time::timeout(PATIENCE, failed).await.expect("it ends").unwrap().clone();
    let MemberState::Failed(why) = failed else { panic!("{failed:?}") };
    let why = why.to_string();
    assert!(why.contains("of generation 1") && why.contains(&format!("--join {address}")), "{why}");
    assert_eq!(founder.admin().status().await.unwrap().members.len(), 1);
    stale.kill().await;
    founder.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_level_of_a_cluster_is_that_of_its_oldest_member_and_does_not_fall() {
    let at = |level| Tuning { level: FeatureLevel(level), ..tuning() };
    let first = Daemon::start_as(1, &[], at(2)).await;
    first.admin().init(options()).await.unwrap();
    wait_for_level(&first, 2).await;
    first.client().execute(Command::ForgetLostVolumes).await.unwrap();
    // One that knows less is not taken in.
    let (peer, address) = (fixtures::peer_id(9), "127.0.0.1:1".to_owned());
    let old = Applicant { peer, address, level: FeatureLevel(1) };
    let refused = first.admin().join(old).await.unwrap().unwrap_err();
    assert!(matches!(refused, Denied::Level { .. }), "{refused:?}");
    // Nor when it is invited; whoever invites it hears why, and it waits for another cluster.
    let invited = Daemon::start_as(8, &[], at(1)).await;
    let refused = first.admin().invite(&invited.address).await.unwrap_err();
    assert!(matches!(refused, AdminError::Level { .. }), "{refused}");
    let mut state = invited.member.state();
    let waits = state.wait_for(|state| matches!(state, MemberState::WaitingForInit));
    tokio::time::timeout(PATIENCE, waits).await.expect("it waits").unwrap();
    invited.admin().init(options()).await.unwrap();
    invited.kill().await;
    first.kill().await;

    // A cluster in which one member is of an older version stays at its level.
    let old = Daemon::start_as(1, &[], at(1)).await;
    old.admin().init(options()).await.unwrap();
    let new = Daemon::start_as(2, &[&old], at(2)).await;
    new.node().await;
    let refused = new.client().execute(Command::ForgetLostVolumes).await.unwrap_err();
    assert!(refused.to_string().contains("needs feature level 2"), "{refused}");
    assert_eq!(old.admin().status().await.unwrap().level, FeatureLevel(1));
    // When that one is of the present version too, the level rises by itself.
    let (number, address, dir) = old.kill().await;
    let renewed = Daemon::start_with(number, &address, dir, Vec::new(), at(2)).await;
    wait_for_level(&renewed, 2).await;
    renewed.kill().await;
    new.kill().await;
}

async fn wait_for_level(daemon: &Daemon, level: u32) {
    let is = |status: &Result<GroupStatus, AdminError>| {
        status.as_ref().is_ok_and(|status| status.level == FeatureLevel(level))
    };
    let admin = daemon.admin();
    wait_until(&format!("level {level}"), async || admin.status().await, is).await;
}
