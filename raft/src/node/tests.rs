//! Real nodes in one process, over gRPC on loopback.

mod concurrent;

use std::io::{self, Read};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use expect_test::expect;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;

use super::RaftNode;
use crate::error::{Error, MemberError, ReadError, WriteError};
use crate::machine::{SnapshotWriter, StateMachine};
use crate::options::{Identity, Options, Timing};
use crate::status::{Role, Status};

pub(super) const CLUSTER: [u8; 16] = [7; 16];
pub(super) const SOON: Duration = Duration::from_secs(30);

/// Appends every command to a list, which the test can look at, and answers its new length.
#[derive(Clone, Default)]
pub(super) struct List(Arc<Mutex<Vec<String>>>);

impl List {
    pub(super) fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl StateMachine for List {
    fn apply(&mut self, _: u64, command: &[u8]) -> Vec<u8> {
        let mut lines = self.0.lock().unwrap();
        let line = String::from_utf8(command.to_vec()).unwrap();
        assert_ne!(line, "panic", "the command says so");
        lines.push(line);
        lines.len().to_string().into_bytes()
    }

    fn snapshot(&self) -> SnapshotWriter {
        let lines = self.lines();
        Box::new(move |out| lines.iter().try_for_each(|line| writeln!(out, "{line}")))
    }

    fn restore(&mut self, reader: &mut dyn Read) -> io::Result<()> {
        let mut text = String::new();
        reader.read_to_string(&mut text)?;
        *self.0.lock().unwrap() = text.lines().map(str::to_owned).collect();
        Ok(())
    }
}

/// One node with its server and its folder, which outlives it.
pub(super) struct Member {
    pub(super) node: RaftNode,
    pub(super) list: List,
    dir: Arc<TempDir>,
    pub(super) address: String,
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
}

pub(super) fn options(dir: &TempDir, address: &str, snapshot_after: u64) -> Options {
    Options {
        timing: Timing { heartbeat_ms: 50, election_min_ms: 300, election_max_ms: 500 },
        snapshot_after,
        keep_entries: snapshot_after.min(20_000) / 4,
        ..Options::new(dir.path(), address)
    }
}

pub(super) enum How {
    Bootstrap,
    Join(u64),
    JoinAs(Identity),
    Open,
}

impl Member {
    pub(super) async fn start(how: How, snapshot_after: u64) -> Result<Self, Error> {
        Self::start_in(how, snapshot_after, Arc::new(TempDir::new().unwrap()), "127.0.0.1:0").await
    }

    pub(super) async fn start_in(
        how: How,
        snapshot_after: u64,
        dir: Arc<TempDir>,
        address: &str,
    ) -> Result<Self, Error> {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let options = options(&dir, &address, snapshot_after);
        let list = List::default();
        let app = list.clone();
        let node = match how {
            How::Bootstrap => RaftNode::bootstrap(options, CLUSTER, app).await?,
            How::Join(node) => RaftNode::join(options, Identity::first(CLUSTER, node), app).await?,
            How::JoinAs(identity) => RaftNode::join(options, identity, app).await?,
            How::Open => RaftNode::open(options, app).await?,
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let transport = node.transport();
        let router = tonic::transport::Server::builder().add_service(transport.clone());
        let server = tokio::spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            let incoming = crate::divide(incoming, move || Some(transport.clone()));
            tokio::select! {
                served = router.serve_with_incoming(incoming) => served.unwrap(),
                _ = stopped => {}
            }
        });
        Ok(Self { node, list, dir, address, stop, server })
    }

    pub(super) async fn write(&self, line: &str) -> Result<Vec<u8>, WriteError> {
        self.node.write(line.to_owned(), SOON).await
    }

    /// Waits until the status of this node is as wanted; fails with the last one seen.
    pub(super) async fn until(&self, what: &str, wanted: impl Fn(&Status) -> bool) -> Status {
        let mut metrics = crate::metrics::Watcher::of(&self.node.raft);
        let found = metrics.wait_for(|now| wanted(&Status::of(now, &self.address)));
        match tokio::time::timeout(SOON, found).await {
            Ok(_) => self.node.status(),
            Err(_) => panic!("{what} did not come, but {:#?}", self.node.status()),
        }
    }

    pub(super) async fn leads(&self) {
        let mut leadership = self.node.leadership();
        let leads = tokio::time::timeout(SOON, leadership.wait_for(|now| now.is_self)).await;
        assert!(leads.is_ok(), "it does not lead: {:#?}", self.node.status());
    }

    /// Stops the node and its server; returns what another one can be started from.
    pub(super) async fn stop(self) -> (Arc<TempDir>, String) {
        // The receiver is gone if the server has ended by itself.
        self.stop.send(()).ok();
        self.server.await.unwrap();
        self.node.shutdown().await;
        (self.dir, self.address)
    }
}

/// A group of three voters; the first one leads.
pub(super) async fn three(snapshot_after: u64) -> [Member; 3] {
    let first = Member::start(How::Bootstrap, snapshot_after).await.unwrap();
    let second = Member::start(How::Join(2), snapshot_after).await.unwrap();
    let third = Member::start(How::Join(3), snapshot_after).await.unwrap();
    first.node.add_learner(2, &second.address).await.unwrap();
    first.node.add_learner(3, &third.address).await.unwrap();
    first.node.set_voters([1, 2, 3].into()).await.unwrap();
    [first, second, third]
}

/// The node that leads among these, once one does.
async fn leader<'a>(members: &[&'a Member]) -> &'a Member {
    let leads = members.iter().map(|member| Box::pin(member.leads()));
    let ((), at, _) = futures::future::select_all(leads).await;
    members[at]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_of_one_survives_a_restart() {
    let first = Member::start(How::Bootstrap, 1000).await.unwrap();
    assert_eq!(first.write("a").await.unwrap(), b"1");
    assert_eq!(first.write("b").await.unwrap(), b"2");
    let status = first.node.status();
    assert_eq!((status.node, status.members.len(), status.joint), (1, 1, false));
    assert_eq!(status.members[0].role, Role::Voter);
    assert_eq!(status.quorum_acked_ms, Some(0));
    let (dir, address) = first.stop().await;
    let identity = Identity::first(CLUSTER, 1);
    assert_eq!(RaftNode::identity_of(&crate::RocksStorage, dir.path()).unwrap(), Some(identity));

    let again = Member::start_in(How::Open, 1000, dir, &address).await.unwrap();
    again.node.linearize(SOON).await.unwrap();
    assert_eq!(again.list.lines(), ["a", "b"]);
    assert_eq!(again.write("c").await.unwrap(), b"3");
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_restores_the_snapshot_and_the_log_behind_it() {
    let first = Member::start(How::Bootstrap, 20).await.unwrap();
    for line in 0..50 {
        first.write(&line.to_string()).await.unwrap();
    }
    first.until("a purge", |now| now.purged.is_some() && now.snapshot.is_some()).await;
    let lines = first.list.lines();
    let (dir, address) = first.stop().await;
    let again = Member::start_in(How::Open, 20, dir.clone(), &address).await.unwrap();
    again.node.linearize(SOON).await.unwrap();
    assert_eq!(again.list.lines(), lines);
    again.stop().await;

    let snapshots = dir.path().join("snapshot");
    std::fs::remove_dir_all(&snapshots).unwrap();
    let found = Member::start_in(How::Open, 20, dir, &address).await.err();
    assert!(matches!(found, Some(Error::SnapshotMissing { snapshot: None, .. })), "{found:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_go_on_without_their_leader_and_take_it_back() {
    let [first, second, third] = three(1000).await;
    first.write("a").await.unwrap();
    match second.write("refused").await {
        Err(WriteError::NotLeader { leader: Some(leader) }) => {
            assert_eq!((leader.node, &leader.address), (1, &first.address));
        }
        other => panic!("{other:?}"),
    }
    let (dir, address) = first.stop().await;

    let now = leader(&[&second, &third]).await;
    now.write("b").await.unwrap();
    for member in [&second, &third] {
        member.node.linearize(SOON).await.unwrap();
        assert_eq!(member.list.lines(), ["a", "b"]);
    }

    let first = Member::start_in(How::Open, 1000, dir, &address).await.unwrap();
    first.node.linearize(SOON).await.unwrap();
    assert_eq!(first.list.lines(), ["a", "b"]);
    for member in [first, second, third] {
        member.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_on_a_follower_sees_every_write_that_returned() {
    let [first, second, third] = three(1000).await;
    for line in 0..20 {
        let line = line.to_string();
        first.write(&line).await.unwrap();
        let (left, right) = tokio::join!(second.node.linearize(SOON), third.node.linearize(SOON));
        left.unwrap();
        right.unwrap();
        for follower in [&second, &third] {
            assert_eq!(follower.list.lines().last(), Some(&line));
        }
    }
    let many = (0..50).map(|_| second.node.linearize(SOON));
    assert!(futures::future::join_all(many).await.iter().all(Result::is_ok));

    let (_, _) = first.stop().await;
    let (_, _) = third.stop().await;
    let term = second.node.status().term;
    // Longer than it takes to miss the leader and to campaign.
    let alone = second.node.linearize(Duration::from_secs(3)).await;
    assert!(matches!(alone, Err(ReadError::Unavailable { .. })), "{alone:?}");
    assert_eq!(second.node.status().term, term, "a pre-vote that nobody grants starts no term");
    let alone = second.node.write("x", Duration::from_millis(300)).await;
    assert!(matches!(alone, Err(WriteError::NotLeader { .. } | WriteError::Unknown)));
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_that_joins_after_compaction_gets_the_snapshot() {
    let first = Member::start(How::Bootstrap, 20).await.unwrap();
    let long = "x".repeat(100_000);
    for line in 0..60 {
        first.write(&format!("{line} {long}")).await.unwrap();
    }
    let status = first.until("a purge", |now| now.purged.is_some()).await;
    assert!(status.purged.unwrap() > 5, "the log must not begin at its beginning: {status:?}");

    let second = Member::start(How::Join(2), 20).await.unwrap();
    first.node.add_learner(2, &second.address).await.unwrap();
    second.until("a snapshot", |now| now.snapshot.is_some()).await;
    second.node.linearize(SOON).await.unwrap();
    assert_eq!(second.list.lines(), first.list.lines());
    let target = first.node.status().last_log;
    let status = first
        .until("a match", |now| now.members.len() == 2 && now.members[1].matched >= target)
        .await;
    assert_eq!(status.members[1].role, Role::Learner);

    let lines = second.list.lines();
    let (dir, address) = second.stop().await;
    let second = Member::start_in(How::Open, 20, dir, &address).await.unwrap();
    second.node.linearize(SOON).await.unwrap();
    assert_eq!(second.list.lines(), lines, "restored from the received file");
    second.stop().await;
    first.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_moves_and_members_leave() {
    let [first, second, third] = three(1000).await;
    first.node.transfer_leader(Some(2)).await.unwrap();
    second.leads().await;
    let stale = first.node.set_voters([1].into()).await;
    assert!(matches!(stale, Err(MemberError::NotLeader { .. })), "{stale:?}");
    second.write("a").await.unwrap();

    let own = second.node.remove(2).await;
    assert!(matches!(own, Err(MemberError::NotLeader { .. })), "{own:?}");
    let now = leader(&[&first, &third]).await;
    now.node.remove(2).await.unwrap();
    now.write("b").await.unwrap();
    let status = now.node.status();
    let members: Vec<u64> = status.members.iter().map(|member| member.node).collect();
    assert_eq!((members.as_slice(), status.joint), ([1, 3].as_slice(), false));

    let unknown = now.node.remove(2).await;
    expect![[r#"Err(NotMember { node: 2 })"#]].assert_eq(&format!("{unknown:?}"));
    let unknown = now.node.set_voters([1, 9].into()).await;
    expect![[r#"Err(NotMember { node: 9 })"#]].assert_eq(&format!("{unknown:?}"));
    let none = now.node.set_voters([].into()).await;
    expect![[r#"Err(NoVoter)"#]].assert_eq(&format!("{none:?}"));
    let taken = now.node.add_learner(3, "elsewhere:1").await;
    assert!(matches!(taken, Err(MemberError::Taken { node: 3, .. })), "{taken:?}");
    for member in [first, second, third] {
        member.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_for_another_group_or_node_are_refused() {
    let first = Member::start(How::Bootstrap, 1000).await.unwrap();
    let voted = first.node.status().term;
    for (cluster, target) in [([8; 16], 1), (CLUSTER, 2)] {
        let from = Identity::first(cluster, 9);
        let channels = crate::transport::Channels::new(
            from,
            torus_dial::Dial::default(),
            crate::storage::Blocking::Threads,
        );
        let found = crate::transport::read_index(&channels, target, &first.address, SOON).await;
        assert_eq!(found, None);
    }
    let from = Identity::first(CLUSTER, 9);
    let channels = crate::transport::Channels::new(
        from,
        torus_dial::Dial::default(),
        crate::storage::Blocking::Threads,
    );
    let found = crate::transport::read_index(&channels, 1, &first.address, SOON).await;
    assert!(found.is_some(), "the same question, rightly addressed");

    // A leader of another group cannot make a stranger its follower.
    let stranger = Member::start(How::Join(2), 1000).await.unwrap();
    let other = Arc::new(TempDir::new().unwrap());
    let options = options(&other, "127.0.0.1:1", 1000);
    let lead = RaftNode::bootstrap(options, [8; 16], List::default()).await.unwrap();
    lead.add_learner(2, &stranger.address).await.unwrap();
    lead.write("x", SOON).await.unwrap();
    let unheard = lead.status().members[1].matched;
    assert_eq!(unheard, None);
    assert_eq!(stranger.node.status().last_log, None);
    assert_eq!(first.node.status().term, voted);
    lead.shutdown().await;
    stranger.stop().await;
    first.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn folders_are_used_for_what_they_hold() {
    let dir = Arc::new(TempDir::new().unwrap());
    assert_eq!(RaftNode::identity_of(&crate::RocksStorage, dir.path()).unwrap(), None);
    let none = Member::start_in(How::Open, 1000, dir.clone(), "127.0.0.1:0").await.err();
    assert!(matches!(none, Some(Error::NotInitialized { .. })), "{none:?}");

    let joined = Member::start_in(How::Join(4), 1000, dir.clone(), "127.0.0.1:0").await.unwrap();
    let (dir, address) = joined.stop().await;
    let joined = Member::start_in(How::Join(4), 1000, dir, &address).await.unwrap();
    let (dir, address) = joined.stop().await;
    for how in [How::Join(5), How::Bootstrap] {
        let refused = Member::start_in(how, 1000, dir.clone(), &address).await.err();
        assert!(matches!(refused, Some(Error::NotPristine { .. })), "{refused:?}");
    }
    let zero = Member::start(How::Join(0), 1000).await.err();
    assert!(matches!(zero, Some(Error::ZeroNode)), "{zero:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bootstrap_that_was_interrupted_is_completed() {
    let dir = Arc::new(TempDir::new().unwrap());
    let database =
        crate::log::Database::open(&crate::RocksStorage, &super::log_dir(dir.path())).unwrap();
    let identity = Identity::first(CLUSTER, 1);
    database.set_identity(identity, crate::log::Founding::Bootstrap).unwrap();
    database.close();
    let first = Member::start_in(How::Open, 1000, dir, "127.0.0.1:0").await.unwrap();
    assert_eq!(first.write("a").await.unwrap(), b"1");
    first.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_applied_stops_the_node() {
    let first = Member::start(How::Bootstrap, 1000).await.unwrap();
    let large = first.node.write(vec![0; (1 << 20) + 1], SOON).await;
    assert!(matches!(large, Err(WriteError::TooLarge { .. })), "{large:?}");
    first.node.write(vec![b'x'; 1 << 20], SOON).await.unwrap();
    let failed = first.node.failed();
    let lost = first.write("panic").await;
    assert!(matches!(lost, Err(WriteError::Stopped | WriteError::Unknown)), "{lost:?}");
    let failure = tokio::time::timeout(SOON, failed).await.unwrap().to_string();
    assert!(failure.contains("Raft stopped"), "{failure}");
    first.stop().await;
}

#[test]
fn times_that_contradict_each_other_are_refused() {
    let dir = TempDir::new().unwrap();
    let mut options = options(&dir, "127.0.0.1:1", 1000);
    options.timing.election_min_ms = options.timing.heartbeat_ms;
    assert!(matches!(options.engine(), Err(Error::Timing { .. })));
    let production = Options::new(dir.path(), "127.0.0.1:1").engine();
    assert!(production.is_ok());
}
