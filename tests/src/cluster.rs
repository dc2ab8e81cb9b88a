//! A cluster of `torusd` processes on loopback, in a temporary folder.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::ports;
use crate::process::{Outcome, Process, run};
use crate::server::NbdServer;
use crate::tools::{binary, tool};
use crate::wait::wait_until;

const COMMAND_BOUND: Duration = Duration::from_secs(30);
const START_BOUND: Duration = Duration::from_secs(20);
const STOP_BOUND: Duration = Duration::from_secs(20);
/// Within it the lock of an opener that was killed is free: its session ends.
const LOCK_BOUND: Duration = Duration::from_secs(30);
/// Lines of each log that a failed test shows.
const LOG_LINES: usize = 60;

/// What a test's cluster is like.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    pub daemons: usize,
    /// Copies of each block.
    pub replication: usize,
    /// `--size` of each daemon.
    pub size: &'static str,
    /// Further arguments of `torusctl init`.
    pub init: &'static [&'static str],
    /// Runs the daemons under strace, so that their syncs can be counted.
    pub count_syncs: bool,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self { daemons: 3, replication: 3, size: "1GiB", init: &[], count_syncs: false }
    }
}

/// Daemons, the commands that talk to them, and a folder for all that they leave.
#[derive(Debug)]
pub struct Cluster {
    folder: TempDir,
    daemons: Vec<Daemon>,
    /// How many clients were started: each has a log of its own.
    started: usize,
    size: &'static str,
    count_syncs: bool,
}

#[derive(Debug)]
struct Daemon {
    port: u16,
    process: Option<Process>,
}

impl Cluster {
    /// Daemons that run, initialised, all of them in the ring.
    #[track_caller]
    pub fn start(options: &ClusterOptions) -> Self {
        let mut cluster = Self::bare(options.size);
        cluster.count_syncs = options.count_syncs;
        for _ in 0..options.daemons {
            cluster.add_daemon();
        }
        cluster.form(options);
        cluster
    }

    /// No daemon yet.
    #[track_caller]
    pub fn bare(size: &'static str) -> Self {
        let folder = tempfile::Builder::new().prefix("torus-").tempdir().expect("a folder");
        Self { folder, daemons: Vec::new(), started: 0, size, count_syncs: false }
    }

    /// The operator's part of the walk-through: `init`, then every daemon into the ring.
    #[track_caller]
    pub fn form(&self, options: &ClusterOptions) {
        let replication = options.replication.to_string();
        let mut init = vec!["init", "--replication", &replication];
        init.extend(options.init);
        self.ctl(&init).success();
        self.wait_for_peers(self.daemons.len());
        self.ctl(&["peer", "add", "--all-peers"]).success();
    }

    /// Starts one more daemon, which joins those that are there; its index.
    #[track_caller]
    pub fn add_daemon(&mut self) -> usize {
        let index = self.daemons.len();
        self.daemons.push(Daemon { port: ports::free(), process: None });
        self.restart(index);
        index
    }

    /// Starts daemon `index` again, as it was.
    #[track_caller]
    pub fn restart(&mut self, index: usize) {
        let mut command = self.daemon_command(index);
        if index > 0 {
            command.args(["--join", &self.address(0)]);
        }
        let process = Process::start(&name(index), &mut command, &self.log(&name(index)));
        let daemon = &mut self.daemons[index];
        let process = daemon.process.insert(process);
        wait_until(&format!("{} answers", name(index)), START_BOUND, || {
            if let Some(status) = process.ended() {
                panic!("{} ended: {status}\n{}", name(index), process.log());
            }
            TcpStream::connect(("127.0.0.1", daemon.port))
        });
    }

    /// `torusd` with the arguments of daemon `index`, but for `--join`.
    pub fn daemon_command(&self, index: usize) -> Command {
        let mut command = self.torusd(index);
        command.arg("--data-dir").arg(self.data_dir(index));
        command.args(["--size", self.size, "--peer-address", &self.address(index)]);
        command
    }

    fn torusd(&self, index: usize) -> Command {
        if !self.count_syncs {
            return Command::new(binary("torusd"));
        }
        // With -D the daemon is our child and strace is not; -y names the file of each call.
        let mut command = Command::new(tool("strace"));
        command.args(["-D", "-f", "-y", "-e", "trace=fdatasync", "-o"]);
        command.arg(self.trace(index)).arg(binary("torusd"));
        command
    }

    fn trace(&self, index: usize) -> PathBuf {
        self.folder.path().join(format!("{}.trace", name(index)))
    }

    /// How often daemon `index` has made its blocks durable, if the syncs are counted.
    #[track_caller]
    pub fn syncs(&self, index: usize) -> usize {
        let trace = fs::read_to_string(self.trace(index)).expect("a trace");
        let sync = |line: &&str| line.contains("fdatasync(") && line.contains("/data-current.blk");
        trace.lines().filter(sync).count()
    }

    /// `HOST:PORT` of daemon `index`.
    pub fn address(&self, index: usize) -> String {
        format!("127.0.0.1:{}", self.daemons[index].port)
    }

    pub fn data_dir(&self, index: usize) -> PathBuf {
        self.folder.path().join(name(index))
    }

    /// The folder of the cluster, free for a test's own files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Process id of daemon `index`, which runs.
    #[track_caller]
    pub fn pid(&mut self, index: usize) -> u32 {
        self.daemon(index).id()
    }

    pub fn kill9(&mut self, index: usize) {
        self.daemon(index).kill9();
        self.daemons[index].process = None;
    }

    /// `kill -9` of every daemon, as near to at once as it goes.
    pub fn kill9_all(&mut self) {
        thread::scope(|scope| {
            for process in self.daemons.iter_mut().filter_map(|daemon| daemon.process.as_mut()) {
                scope.spawn(|| process.kill9());
            }
        });
        for daemon in &mut self.daemons {
            daemon.process = None;
        }
    }

    /// Starts every daemon that does not run.
    #[track_caller]
    pub fn restart_all(&mut self) {
        for index in 0..self.daemons.len() {
            if self.daemons[index].process.is_none() {
                self.restart(index);
            }
        }
    }

    /// SIGTERM, its end awaited.
    #[track_caller]
    pub fn stop(&mut self, index: usize) {
        let process = self.daemon(index);
        let code = process.stop(STOP_BOUND);
        assert_eq!(code, 0, "{} did not end in order:\n{}", name(index), process.log());
        self.daemons[index].process = None;
    }

    /// Waits until daemon `index` ends by itself; its exit code and its log.
    #[track_caller]
    pub fn ended(&mut self, index: usize, bound: Duration) -> (i32, String) {
        let process = self.daemon(index);
        let ended = (process.wait(bound), process.log());
        self.daemons[index].process = None;
        ended
    }

    /// What a running daemon has logged.
    pub fn said(&mut self, index: usize) -> String {
        self.daemon(index).log()
    }

    pub fn pause(&mut self, index: usize) {
        self.daemon(index).pause();
    }

    pub fn resume(&mut self, index: usize) {
        self.daemon(index).resume();
    }

    /// Runs `torusctl` with the addresses of all daemons.
    #[track_caller]
    pub fn ctl(&self, arguments: &[&str]) -> Outcome {
        let members = self.members();
        let all = ["-C", &members].into_iter().chain(arguments.iter().copied());
        run(&binary("torusctl"), all, COMMAND_BOUND)
    }

    /// Runs `torusctl --json`, which has to succeed.
    #[track_caller]
    pub fn ctl_json(&self, arguments: &[&str]) -> Value {
        let json = ["--json"].into_iter().chain(arguments.iter().copied()).collect::<Vec<_>>();
        let outcome = self.ctl(&json).success();
        serde_json::from_str(&outcome.stdout)
            .unwrap_or_else(|err| panic!("torusctl {json:?} printed no JSON: {err}\n{outcome}"))
    }

    /// Starts `torusctl` and does not wait for its end.
    #[track_caller]
    pub fn ctl_begin(&mut self, arguments: &[&str]) -> Process {
        self.begin("torusctl", arguments)
    }

    /// Creates a volume, `size` as in `256MiB`.
    #[track_caller]
    pub fn create_volume(&self, name: &str, size: &str) {
        self.ctl(&["volume", "create-block", name, size]).success();
    }

    /// Serves a volume, which has to work as soon as a killed opener's lock is free.
    #[track_caller]
    pub fn serve(&mut self, volume: &str) -> NbdServer {
        self.serve_all(&[volume])
    }

    /// Serves volumes and snapshots in one process, the first of them under the server's name.
    #[track_caller]
    pub fn serve_all(&mut self, volumes: &[&str]) -> NbdServer {
        let what = format!("{volumes:?} are in use by nobody");
        let served = wait_until(&what, LOCK_BOUND, || match self.try_serve_all(volumes) {
            Err(outcome) if outcome.stderr.contains("in use by") => Err(outcome),
            served => Ok(served),
        });
        served.unwrap_or_else(|outcome| panic!("torusblk does not serve {volumes:?}: {outcome}"))
    }

    /// Serves a volume, or says how `torusblk` ended instead.
    #[track_caller]
    pub fn try_serve(&mut self, volume: &str) -> Result<NbdServer, Outcome> {
        self.try_serve_all(&[volume])
    }

    /// As [`serve_all`](Self::serve_all), or says how `torusblk` ended instead.
    #[track_caller]
    pub fn try_serve_all(&mut self, volumes: &[&str]) -> Result<NbdServer, Outcome> {
        let port = ports::free();
        let listen = format!("127.0.0.1:{port}");
        let arguments =
            ["nbdserve", "--listen", &listen].into_iter().chain(volumes.iter().copied());
        let process = self.torusblk(&arguments.collect::<Vec<_>>());
        let volume = volumes.first().copied().expect("a volume to serve").to_owned();
        NbdServer { process, port, volume }.ready()
    }

    /// Starts `torusblk` with the addresses of all daemons.
    #[track_caller]
    pub fn torusblk(&mut self, arguments: &[&str]) -> Process {
        self.begin("torusblk", arguments)
    }

    #[track_caller]
    fn begin(&mut self, program: &str, arguments: &[&str]) -> Process {
        self.started += 1;
        let name = format!("{program}-{}", self.started);
        let mut command = Command::new(binary(program));
        command.args(["-C", &self.members()]).args(arguments);
        Process::start(&name, &mut command, &self.log(&name))
    }

    /// The value of `-C`: every daemon, those that are down too.
    pub fn members(&self) -> String {
        let all: Vec<_> = (0..self.daemons.len()).map(|index| self.address(index)).collect();
        all.join(",")
    }

    /// What the cluster says of its peers.
    #[track_caller]
    pub fn peers(&self) -> Vec<Value> {
        rows(self.ctl_json(&["peer", "list"]), "peers")
    }

    /// Bytes of the store of daemon `index` that blocks take up.
    #[track_caller]
    pub fn used(&self, index: usize) -> u64 {
        let peers = self.peers();
        let peer = peers.iter().find(|peer| self.index_of(&peer["address"]) == Some(index));
        let used = peer.and_then(|peer| peer["used"].as_u64());
        used.unwrap_or_else(|| panic!("no use of {} in {peers:?}", name(index)))
    }

    /// Copies that the daemons have sent to places where they were missing, since their starts.
    #[track_caller]
    pub fn blocks_moved(&self) -> u64 {
        self.peers().iter().filter_map(|peer| peer["blocks_moved"].as_u64()).sum()
    }

    /// Waits until `count` daemons store blocks.
    #[track_caller]
    pub fn wait_for_peers(&self, count: usize) {
        wait_until(&format!("{count} peers are up"), START_BOUND, || {
            let list = self.ctl(&["--json", "peer", "list"]);
            let peers = serde_json::from_str(&list.stdout).map(|list| rows(list, "peers"));
            let up = |peers: Vec<Value>| peers.iter().filter(|peer| peer["state"] == "up").count();
            if peers.map(up).is_ok_and(|up| up == count) { Ok(()) } else { Err(list) }
        });
    }

    /// The daemon that leads the Raft group.
    #[track_caller]
    pub fn leader(&self) -> usize {
        wait_until("the group has a leader", START_BOUND, || {
            let members = rows(self.ctl_json(&["member", "list"]), "members");
            let leader = members.iter().find(|member| member["role"] == "leader");
            let index = leader.and_then(|member| self.index_of(&member["address"]));
            index.ok_or_else(|| format!("{members:?}"))
        })
    }

    /// The daemon that listens on `address`.
    fn index_of(&self, address: &Value) -> Option<usize> {
        (0..self.daemons.len()).find(|&index| *address == self.address(index).as_str())
    }

    #[track_caller]
    fn daemon(&mut self, index: usize) -> &mut Process {
        let process = self.daemons[index].process.as_mut();
        process.unwrap_or_else(|| panic!("{} does not run", name(index)))
    }

    fn log(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.log"))
    }

    /// Shows the end of every log.
    fn show_logs(&self) {
        let files = fs::read_dir(self.folder.path()).expect("our own folder");
        let mut logs: Vec<_> = files.filter_map(|file| Some(file.ok()?.path())).collect();
        logs.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
        logs.sort();
        for path in logs {
            let text = fs::read_to_string(&path).unwrap_or_default();
            let lines: Vec<_> = text.lines().collect();
            let from = lines.len().saturating_sub(LOG_LINES);
            let file = path.file_name().unwrap_or_default().display();
            eprintln!("---- {file}, from line {}\n{}", from + 1, lines[from..].join("\n"));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if thread::panicking() {
            self.show_logs();
        }
    }
}

fn name(index: usize) -> String {
    format!("torusd-{}", index + 1)
}

/// The rows of a list that `torusctl --json` printed.
#[track_caller]
pub(crate) fn rows(mut list: Value, key: &str) -> Vec<Value> {
    match list[key].take() {
        Value::Array(rows) => rows,
        _ => panic!("no array {key:?} in {list}"),
    }
}
