//! The five daemons of a run, and what can be done to them.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use tokio::runtime::Handle;
use torus_metadata::{AdminClient, GroupRole, GroupStatus, NodeId};

use super::network::Network;
use crate::ports;
use crate::process::{Process, run};
use crate::tools::{binary, tool};
use crate::wait::{Stopwatch, wait_until};

pub(super) const DAEMONS: usize = 5;
const PORT: u16 = 45_200;
const FORM_BOUND: Duration = Duration::from_secs(40);
const LOOK: Duration = Duration::from_millis(20);
const COMMAND_BOUND: Duration = Duration::from_secs(40);

#[derive(Debug)]
pub(super) struct Group {
    handle: Handle,
    addresses: Vec<String>,
    /// Slow disks: strace, which delays the syncs of a daemon.
    tracers: Vec<(Process, PathBuf)>,
    processes: Vec<Option<Process>>,
    /// Those that are stopped where they are.
    paused: BTreeSet<usize>,
    // Dropped behind those that use them.
    pub(super) network: Option<Network>,
    folder: TempDir,
}

impl Group {
    /// Five daemons that run and all vote.
    #[track_caller]
    pub(super) fn form(handle: Handle, network: Option<Network>) -> Self {
        let folder = tempfile::Builder::new().prefix("torus-soak-").tempdir().expect("a folder");
        let address = |host| match &network {
            Some(network) => format!("{}:{PORT}", network.address(host)),
            None => format!("127.0.0.1:{}", ports::free()),
        };
        let addresses = (0..DAEMONS).map(address).collect();
        let processes = (0..DAEMONS).map(|_| None).collect();
        let (paused, tracers) = (BTreeSet::new(), Vec::new());
        let mut group = Self { handle, folder, network, addresses, processes, paused, tracers };
        // The first one is told of nobody, so it waits to be initialised.
        group.start_with(0, &[]);
        for host in 1..DAEMONS {
            group.start(host);
        }
        for address in &group.addresses {
            wait_until(&format!("{address} answers"), FORM_BOUND, || TcpStream::connect(address));
        }
        let init = ["init", "-C", &group.addresses[0], "--replication", "3"];
        run(&binary("torusctl"), init, COMMAND_BOUND).success();
        group.wait_for_voters(DAEMONS).expect("a group that forms");
        group
    }

    pub(super) fn addresses(&self) -> &[String] {
        &self.addresses
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Leaves the folder where it is, to be looked at.
    pub(super) fn keep(&mut self) -> PathBuf {
        self.folder.disable_cleanup(true);
        self.folder.path().to_owned()
    }

    /// Starts a daemon on what its folder holds.
    #[track_caller]
    pub(super) fn start(&mut self, host: usize) {
        let others = self.addresses.join(",");
        self.start_with(host, &["--join", &others]);
    }

    #[track_caller]
    fn start_with(&mut self, host: usize, more: &[&str]) {
        let mut command = match &self.network {
            Some(network) => network.command(host, &binary("torusd")),
            None => Command::new(binary("torusd")),
        };
        command.arg("--data-dir").arg(self.data_dir(host));
        command.args(["--size", "256MiB", "--peer-address", &self.addresses[host]]).args(more);
        let log = self.folder.path().join(format!("torusd-{}.log", host + 1));
        self.processes[host] = Some(Process::start("torusd", &mut command, &log));
    }

    /// Those that run and are not paused.
    pub(super) fn alive(&self) -> Vec<usize> {
        let runs = |host: &usize| self.processes[*host].is_some() && !self.paused.contains(host);
        (0..DAEMONS).filter(runs).collect()
    }

    /// A daemon that has ended although nobody killed it.
    pub(super) fn fallen(&mut self) -> Option<String> {
        let all = self.processes.iter_mut().enumerate();
        let mut ended = all.filter_map(|(host, process)| Some((host, process.as_mut()?.ended()?)));
        ended.next().map(|(host, status)| format!("torusd-{} ended by itself: {status}", host + 1))
    }

    pub(super) fn kill9(&mut self, host: usize) {
        self.resume(host);
        if let Some(mut process) = self.processes[host].take() {
            process.kill9();
        }
    }

    pub(super) fn pause(&mut self, host: usize) {
        if let Some(process) = &self.processes[host] {
            process.pause();
            self.paused.insert(host);
        }
    }

    pub(super) fn resume(&mut self, host: usize) {
        if let Some(process) = self.processes[host].as_ref().filter(|_| self.paused.remove(&host)) {
            process.resume();
        }
    }

    /// Has every sync of a daemon take `delay` longer.
    #[track_caller]
    pub(super) fn slow_disk(&mut self, host: usize, delay: Duration) {
        let Some(process) = &self.processes[host] else { return };
        let count = self.tracers.len();
        let trace = self.folder.path().join(format!("syncs-{}-{count}.trace", host + 1));
        let mut command = Command::new(tool("strace"));
        let inject = format!("inject=fsync,fdatasync:delay_enter={}", delay.as_micros());
        command.args(["-f", "-q", "-e", "trace=fsync,fdatasync", "-e", &inject, "-o"]).arg(&trace);
        command.args(["-p", &process.id().to_string()]);
        let log = self.folder.path().join("strace.log");
        self.tracers.push((Process::start("strace", &mut command, &log), trace));
    }

    /// Ends the slowness of all disks; returns how many syncs were delayed.
    pub(super) fn fast_disks(&mut self) -> u64 {
        let mut delayed = 0;
        for (mut tracer, trace) in self.tracers.drain(..) {
            tracer.interrupt();
            tracer.wait(COMMAND_BOUND);
            let text = fs::read_to_string(&trace).unwrap_or_default();
            delayed += text.matches("(DELAYED)").count() as u64;
            // It is long, and says no more.
            drop(fs::remove_file(trace));
        }
        delayed
    }

    /// Heals everything and starts who is down; returns how many packets had been dropped and how
    /// many syncs delayed.
    #[track_caller]
    pub(super) fn heal(&mut self) -> (u64, u64) {
        let dropped = self.network.as_ref().map_or(0, |net| net.heal().expect("a healed network"));
        for host in 0..DAEMONS {
            self.resume(host);
        }
        let delayed = self.fast_disks();
        for host in 0..DAEMONS {
            if self.processes[host].is_none() {
                self.start(host);
            }
        }
        (dropped, delayed)
    }

    /// Takes a member out of the group and has it come back as a new one, with an empty folder.
    pub(super) fn replace(&mut self, host: usize) -> Result<(), String> {
        let status = self.status().ok_or("no member says how the group is")?;
        let known = status.members.iter().find(|member| member.address == self.addresses[host]);
        let node = known.ok_or("it is no member")?.node;
        self.remove(node)?;
        self.kill9(host);
        fs::remove_dir_all(self.data_dir(host)).map_err(|err| err.to_string())?;
        self.start(host);
        Ok(())
    }

    fn remove(&self, node: NodeId) -> Result<(), String> {
        let admin = AdminClient::new(self.addresses.clone());
        self.handle.block_on(admin.remove_member(node)).map_err(|err| err.to_string())
    }

    pub(super) fn transfer_leader(&self) -> Result<(), String> {
        let admin = AdminClient::new(self.addresses.clone());
        self.handle.block_on(admin.transfer_leader(None)).map(drop).map_err(|err| err.to_string())
    }

    /// The group as the member of the highest term sees it.
    pub(super) fn status(&self) -> Option<GroupStatus> {
        let alive = self.alive();
        let asked = alive.iter().map(|host| {
            let admin = AdminClient::new([self.addresses[*host].clone()]);
            async move { admin.status().await.ok() }
        });
        let all = self.handle.block_on(futures::future::join_all(asked));
        all.into_iter().flatten().max_by_key(|status| (status.term, status.leader().is_some()))
    }

    /// Which daemon leads.
    pub(super) fn leader(&self) -> Option<usize> {
        let status = self.status()?;
        let leader = status.leader()?;
        self.addresses.iter().position(|address| *address == leader.address)
    }

    /// Waits until so many vote and no change of the group is under way.
    pub(super) fn wait_for_voters(&self, count: usize) -> Result<(), String> {
        let watch = Stopwatch::start();
        loop {
            let status = self.status();
            let settled = status.as_ref().is_some_and(|status| {
                let voters = status.members.iter().filter(|m| m.role == GroupRole::Voter).count();
                voters == count && status.leader().is_some() && !status.joint
            });
            if settled {
                return Ok(());
            }
            if watch.elapsed() > FORM_BOUND {
                return Err(format!("not {count} voters after {FORM_BOUND:?}: {status:?}"));
            }
            self.handle.block_on(async { tokio::time::sleep(LOOK).await });
        }
    }

    /// Whether a daemon has a snapshot of the metadata.
    pub(super) fn has_snapshot(&self, host: usize) -> bool {
        let mut folders = vec![self.data_dir(host).join("metadata")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                if entry.path().extension().is_some_and(|extension| extension == "snapshot") {
                    return true;
                }
                // What is no folder is not listed.
                folders.push(entry.path());
            }
        }
        false
    }

    fn data_dir(&self, host: usize) -> PathBuf {
        self.folder.path().join(format!("torusd-{}", host + 1))
    }
}
