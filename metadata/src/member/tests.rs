//! Members in one process, over gRPC on loopback.

mod generations;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::reign::now;
use super::{Member, MemberOptions, MemberState, StartError, Timing, Tuning};
use crate::admin::{Applicant, Denied};
use crate::wire::{Image, write_snapshot};
use crate::{
    AdminClient, AdminError, Answer, Client, Command, Error, Event, EventKind, Followed, GroupRole,
    GroupStatus, InitOptions, MetadataService, NodeId, Outcome, Query, Refusal, RingKind,
    SessionId, fixtures, fixtures::create, follow,
};

/// Nothing that a test waits for takes longer, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(40);

mod membership;
mod scale;
mod watches;

/// A daemon: a member, its server, and a task that registers it as a peer.
struct Daemon {
    number: u128,
    dir: TempDir,
    address: String,
    member: Member,
    stop: CancellationToken,
    _registration: AbortOnDropHandle<()>,
}

fn tuning() -> Tuning {
    let timing = Timing { heartbeat_ms: 100, election_min_ms: 500, election_max_ms: 800 };
    Tuning { timing, snapshot_after: 50, keep_entries: 10, ..Tuning::default() }
}

impl Daemon {
    async fn start(number: u128, join: &[&Daemon]) -> Self {
        Self::start_as(number, join, tuning()).await
    }

    async fn start_as(number: u128, join: &[&Daemon], tuning: Tuning) -> Self {
        let join = join.iter().map(|daemon| daemon.address.clone()).collect();
        Self::start_with(number, "127.0.0.1:0", TempDir::new().unwrap(), join, tuning).await
    }

    async fn start_on(number: u128, at: &str, dir: TempDir, join: Vec<String>) -> Self {
        Self::start_with(number, at, dir, join, tuning()).await
    }

    async fn start_with(
        number: u128,
        at: &str,
        dir: TempDir,
        join: Vec<String>,
        tuning: Tuning,
    ) -> Self {
        let listener = TcpListener::bind(at).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let options = MemberOptions {
            dir: dir.path().join("raft"),
            address: address.clone(),
            peer: fixtures::peer_id(number),
            join,
            blocks_of: None,
        };
        let member = Member::start_with(options, tuning).await.unwrap();
        let stop = CancellationToken::new();
        let server = tonic::transport::Server::builder().add_routes(member.routes());
        let stopped = stop.clone().cancelled_owned();
        let incoming = member.divide(TcpListenerStream::new(listener));
        tokio::spawn(async move {
            server.serve_with_incoming_shutdown(incoming, stopped).await.unwrap();
        });
        let (mut state, service) = (member.state(), member.service());
        let peer = crate::Peer { address: address.clone(), ..fixtures::peer(number) };
        let registration = tokio::spawn(async move {
            state.wait_for(|state| matches!(state, MemberState::Running { .. })).await.unwrap();
            while service.execute(Command::RegisterPeer(peer.clone())).await.is_err() {}
        });
        let _registration = AbortOnDropHandle::new(registration);
        Self { number, dir, address, member, stop, _registration }
    }

    fn admin(&self) -> AdminClient {
        AdminClient::new([self.address.clone()])
    }

    fn client(&self) -> Client {
        Client::new([self.address.clone()])
    }

    async fn node(&self) -> NodeId {
        let mut state = self.member.state();
        let running = state.wait_for(|state| matches!(state, MemberState::Running { .. }));
        match &*tokio::time::timeout(PATIENCE, running).await.expect("it runs").unwrap() {
            MemberState::Running { node, .. } => *node,
            other => panic!("{other:?}"),
        }
    }

    fn snapshot(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let image = Image::of(&self.member.core.replica.read());
        write_snapshot(image, &mut bytes).unwrap();
        bytes
    }

    /// Stops without a word to the others.
    async fn kill(self) -> (u128, String, TempDir) {
        self.stop.cancel();
        self.member.halt().await;
        (self.number, self.address, self.dir)
    }
}

fn options() -> InitOptions {
    InitOptions {
        block_size: 512 << 10,
        block_spec: "crc".parse().unwrap(),
        replication: 2,
        ring: RingKind::Ketama,
        voters_max: None,
    }
}

/// Asks again until the answer is as wanted.
async fn wait_until<T: Debug>(
    what: &str,
    mut ask: impl AsyncFnMut() -> T,
    is: impl Fn(&T) -> bool,
) {
    let end = now() + PATIENCE;
    loop {
        let last = ask().await;
        if is(&last) {
            return;
        }
        assert!(now() < end, "{what}; the last answer was {last:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn voters(status: &GroupStatus) -> usize {
    status.members.iter().filter(|member| member.role == GroupRole::Voter).count()
}

async fn wait_for_voters(admin: &AdminClient, count: usize) {
    let is = |status: &Result<GroupStatus, AdminError>| {
        status.as_ref().is_ok_and(|status| {
            voters(status) == count && !status.joint && status.leader().is_some()
        })
    };
    wait_until(&format!("{count} voters"), async || admin.status().await, is).await;
}

/// Three daemons, all of which vote.
async fn three() -> [Daemon; 3] {
    let first = Daemon::start(1, &[]).await;
    let (second, third) = (Daemon::start(2, &[&first]).await, Daemon::start(3, &[&first]).await);
    // They have asked, so `init` waits for them.
    let asked = || first.member.core.applicants.lock().unwrap().len();
    wait_until("two applicants", async || asked(), |count| *count == 2).await;
    let initialised = first.admin().init(options()).await.unwrap();
    assert_eq!(initialised.peers, 3);
    wait_for_voters(&first.admin(), 3).await;
    [first, second, third]
}

async fn open_session(client: &Client, ttl_ms: u32) -> SessionId {
    let command = Command::OpenSession { owner: "host".to_owned(), ttl_ms };
    match client.execute(command).await.unwrap().outcome {
        Outcome::Session(session) => session,
        other => panic!("{other:?}"),
    }
}

async fn volume_names(client: &dyn MetadataService) -> BTreeSet<String> {
    match client.query(Query::Volumes).await.unwrap() {
        Answer::Volumes { volumes, .. } => volumes.into_iter().map(|v| v.name).collect(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_waits_and_then_begins_a_cluster() {
    let daemon = Daemon::start(1, &[]).await;
    assert!(matches!(*daemon.member.state().borrow(), MemberState::WaitingForInit));
    let error = daemon.client().query(Query::Cluster).await.unwrap_err();
    assert!(matches!(error, Error::NotInitialised { .. }), "{error}");
    let error = daemon.member.service().execute(create("v")).await.unwrap_err();
    assert!(matches!(error, Error::NotInitialised { .. }), "{error}");
    let error = daemon.admin().status().await.unwrap_err();
    assert!(matches!(error, AdminError::NotInitialised { .. }), "{error}");
    let odd = InitOptions { block_size: 100_000, ..options() };
    let error = daemon.admin().init(odd).await.unwrap_err();
    assert!(matches!(error, AdminError::Refused(Refusal::Invalid { .. })), "{error}");
    let none = InitOptions { replication: 0, ..options() };
    let error = daemon.admin().init(none).await.unwrap_err();
    assert!(matches!(error, AdminError::Refused(Refusal::Invalid { .. })), "{error}");

    let initialised = daemon.admin().init(options()).await.unwrap();
    assert_eq!(initialised.peers, 1);
    let error = daemon.admin().init(options()).await.unwrap_err();
    assert!(matches!(error, AdminError::Refused(Refusal::AlreadyInitialised)), "{error}");
    daemon.client().execute(create("v")).await.unwrap();

    // Started again, it is what it was, whatever it is told to join.
    let node = daemon.node().await;
    let (number, address, dir) = daemon.kill().await;
    let moved = MemberOptions {
        dir: dir.path().join("raft"),
        address: "127.0.0.1:1".to_owned(),
        peer: fixtures::peer_id(number),
        join: Vec::new(),
        blocks_of: None,
    };
    let error = Member::start_with(moved, tuning()).await.err().unwrap();
    assert!(matches!(error, StartError::Address { .. }), "{error}");
    let join = vec!["127.0.0.1:1".to_owned()];
    let daemon = Daemon::start_on(number, &address, dir, join).await;
    assert_eq!(daemon.node().await, node);
    assert_eq!(volume_names(&daemon.client()).await, ["v".to_owned()].into());
    let status = daemon.admin().status().await.unwrap();
    assert_eq!((status.cluster, status.node), (initialised.cluster, node));
    daemon.member.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_leader_is_replaced() {
    let daemons = three().await;
    let client = Client::new(daemons.iter().map(|daemon| daemon.address.clone()));
    for daemon in &daemons {
        let name = format!("v{}", daemon.number);
        daemon.member.service().execute(create(&name)).await.unwrap();
        assert!(volume_names(&*daemon.member.service()).await.contains(&name));
    }
    let mut seen = follow(Arc::new(client.clone()), vec![EventKind::Volume, EventKind::Session]);
    let kept = open_session(&client, 3000).await;
    let silent = open_session(&client, 3000).await;
    let (prolonged, mut times_prolonged) = tokio::sync::watch::channel(0);
    let keeper = AbortOnDropHandle::new(tokio::spawn({
        let client = client.clone();
        async move {
            while client.keep_alive(kept).await.is_ok() {
                prolonged.send_modify(|times| *times += 1);
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            panic!("a session that is kept alive has ended");
        }
    }));

    let leader = client.leader().await;
    let (lost, mut rest): (Vec<_>, Vec<_>) =
        daemons.into_iter().partition(|daemon| daemon.address == leader);
    // Two thirds of its time have gone when the leader is lost; then it has all of it again.
    times_prolonged.wait_for(|times| *times > 6).await.unwrap();
    let lost_at = now();
    let (number, address, dir) = lost.into_iter().next().unwrap().kill().await;
    client.execute(create("after")).await.unwrap();
    let outage = lost_at.elapsed();
    assert!(outage < Duration::from_secs(10), "{outage:?}");
    for daemon in &rest {
        assert!(volume_names(&daemon.client()).await.contains("after"));
    }

    // The follower misses nothing, and hears of the silent session's end not before its time.
    let mut volumes = BTreeSet::new();
    let ended = async {
        loop {
            match seen.next().await.unwrap() {
                Followed::Changed { events, .. } => {
                    for event in events {
                        match event {
                            Event::VolumeChanged(volume) => drop(volumes.insert(volume.name)),
                            Event::SessionEnded(session) => return session,
                            _ => {}
                        }
                    }
                }
                Followed::Listed(Answer::Volumes { volumes: listed, .. }) => {
                    volumes.extend(listed.into_iter().map(|volume| volume.name));
                }
                _ => {}
            }
        }
    };
    let ended = tokio::time::timeout(PATIENCE, ended).await.expect("the silent session ends");
    assert_eq!(ended, silent);
    assert!(lost_at.elapsed() >= Duration::from_millis(3000), "{:?}", lost_at.elapsed());
    let expected = ["after", "v1", "v2", "v3"].map(str::to_owned);
    assert_eq!(volumes, expected.into());
    assert!(!keeper.is_finished());

    // The lost one comes back and has all of it.
    let back = Daemon::start_on(number, &address, dir, Vec::new()).await;
    assert!(volume_names(&back.client()).await.contains("after"));
    rest.push(back);
    wait_for_voters(&rest[0].admin(), 3).await;
    drop(keeper);
    for daemon in rest {
        daemon.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_are_invited_removed_and_led_by_another() {
    let [first, second, third] = three().await;
    let admin = first.admin();
    // So many changes that a newcomer gets a snapshot.
    for number in 0..120 {
        first.client().execute(create(&format!("v{number}"))).await.unwrap();
    }
    let fourth = Daemon::start(4, &[]).await;
    let error = admin.invite("127.0.0.1:1").await.unwrap_err();
    assert!(matches!(error, AdminError::Unreachable { .. }), "{error}");
    let place = admin.invite(&fourth.address).await.unwrap();
    assert_eq!(place.node, fourth.node().await);
    let error = admin.invite(&fourth.address).await.unwrap_err();
    assert!(matches!(error, AdminError::AlreadyMember { .. }), "{error}");
    assert_eq!(volume_names(&*fourth.member.service()).await.len(), 120);
    let taken = Applicant {
        peer: fixtures::peer_id(9),
        address: second.address.clone(),
        level: crate::FeatureLevel::OWN,
    };
    let denied = admin.join(taken).await.unwrap().unwrap_err();
    assert!(matches!(denied, Denied::AddressTaken(_)), "{denied:?}");
    let daemons = [&first, &second, &third, &fourth];
    wait_until(
        "the same state on all members",
        async || daemons.map(Daemon::snapshot),
        |all| all.iter().all(|snapshot| *snapshot == all[0]),
    )
    .await;

    let status = admin.status().await.unwrap();
    let roles = |status: &GroupStatus| -> Vec<_> {
        status.members.iter().map(|member| (member.node, member.role)).collect()
    };
    assert_eq!(status.members.len(), 4);
    assert_eq!(voters(&status), 3);
    let error = admin.transfer_leader(Some(place.node)).await.unwrap_err();
    assert!(matches!(error, AdminError::NotAVoter(_)), "{error}");
    let error = admin.remove_member(NodeId(9999)).await.unwrap_err();
    assert!(matches!(error, AdminError::NoSuchMember(_)), "{error}");

    let to = if status.leader().unwrap().node == second.node().await { &third } else { &second };
    let leads = admin.transfer_leader(Some(to.node().await)).await.unwrap();
    assert_eq!(leads.node, to.node().await);

    // The leader goes: another takes over, and the newcomer gets its vote.
    let gone = to.node().await;
    admin.remove_member(gone).await.unwrap();
    let is = |status: &Result<GroupStatus, AdminError>| {
        status.as_ref().is_ok_and(|status| {
            voters(status) == 3 && status.members.iter().all(|member| member.node != gone)
        })
    };
    wait_until("three other voters", async || admin.status().await, is).await;
    let status = admin.status().await.unwrap();
    assert!(roles(&status).contains(&(place.node, GroupRole::Voter)), "{status:?}");
    first.client().execute(create("last")).await.unwrap();
    for daemon in [first, second, third, fourth] {
        daemon.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_lost_its_folder_joins_as_a_new_member() {
    let [first, second, third] = three().await;
    let old = third.node().await;
    let (number, address, _) = third.kill().await;
    let join = vec![first.address.clone(), address.clone()];
    let third = Daemon::start_on(number, &address, TempDir::new().unwrap(), join).await;
    let new = third.node().await;
    assert!(new > old, "{new} is a new identity");
    first.client().execute(create("v")).await.unwrap();
    assert!(volume_names(&third.client()).await.contains("v"));
    let admin = first.admin();
    let is = |status: &Result<GroupStatus, AdminError>| {
        status.as_ref().is_ok_and(|status| {
            let nodes: BTreeSet<_> = status.members.iter().map(|member| member.node).collect();
            nodes.contains(&new) && !nodes.contains(&old)
        })
    };
    wait_until("the old identity to go", async || admin.status().await, is).await;
    for daemon in [first, second, third] {
        daemon.kill().await;
    }
}

impl Client {
    /// The address of the member that leads.
    async fn leader(&self) -> String {
        let status = AdminClient::new(self.members()).status().await.unwrap();
        status.leader().expect("a leader").address.clone()
    }
}
