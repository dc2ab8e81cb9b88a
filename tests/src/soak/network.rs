//! A network of namespaces for the daemons of a run: each has one of its own, all are on one bridge,
//! and the clients are on the bridge itself. What a daemon is not to hear from others is dropped
//! where it would arrive, and counted there.

use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};

use crate::tools::tool;

/// All that is made has a name that begins so; the process's number follows, and the network's letter.
const PREFIX: &str = "tsB";

/// How many networks this process has made. The kernel takes a deleted one away some time later, so the
/// next one cannot have its name.
static MADE: AtomicU8 = AtomicU8::new(0);

#[derive(Debug)]
pub(super) struct Network {
    /// Of this process and network.
    name: String,
    subnet: String,
    hosts: usize,
}

impl Network {
    /// A network of `hosts`, or why there can be none.
    pub(super) fn create(hosts: usize) -> Result<Self, String> {
        let id = std::process::id();
        let subnet = format!("10.{}.{}", 128 + id / 250 % 100, 1 + id % 250);
        let letter = char::from(b'a' + MADE.fetch_add(1, Ordering::Relaxed) % 26);
        let network = Self { name: format!("{PREFIX}{id}{letter}"), subnet, hosts };
        // Dropped on the way out, what was made so far is taken away again.
        let bridge = network.bridge();
        ip(&["link", "add", &bridge, "type", "bridge"])?;
        ip(&["address", "add", &format!("{}.254/24", network.subnet), "dev", &bridge])?;
        ip(&["link", "set", &bridge, "up"])?;
        for host in 0..hosts {
            network.add(host)?;
        }
        Ok(network)
    }

    fn add(&self, host: usize) -> Result<(), String> {
        let space = self.space(host);
        let link = format!("{}v{host}", self.name);
        let address = format!("{}/24", self.address(host));
        ip(&["netns", "add", &space])?;
        ip(&["link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", &space])?;
        ip(&["link", "set", &link, "master", &self.bridge(), "up"])?;
        ip(&["-n", &space, "address", "add", &address, "dev", "eth0"])?;
        ip(&["-n", &space, "link", "set", "eth0", "up"])?;
        ip(&["-n", &space, "link", "set", "lo", "up"])?;
        self.rules(
            host,
            "table ip soak {\n chain from {\n type filter hook input priority 0\n }\n}\n",
        )
    }

    pub(super) fn address(&self, host: usize) -> String {
        format!("{}.{}", self.subnet, host + 1)
    }

    /// A command that runs `program` as this host.
    pub(super) fn command(&self, host: usize, program: &std::path::Path) -> Command {
        let mut command = Command::new(tool("ip"));
        command.args(["netns", "exec", &self.space(host)]).arg(program);
        command
    }

    /// From now on `host` hears nothing from these others.
    pub(super) fn deafen(&self, host: usize, others: &[usize]) -> Result<(), String> {
        let mut rules = String::from("flush chain ip soak from\n");
        for other in others {
            let source = self.address(*other);
            rules += &format!("add rule ip soak from ip saddr {source} counter drop\n");
        }
        self.rules(host, &rules)
    }

    /// Everybody hears everybody again; returns how many packets had been dropped.
    pub(super) fn heal(&self) -> Result<u64, String> {
        let mut dropped = 0;
        for host in 0..self.hosts {
            let rules = self.nft(host, &["list", "chain", "ip", "soak", "from"], "")?;
            let text = String::from_utf8_lossy(&rules.stdout).into_owned();
            let mut words = text.split_whitespace();
            while words.by_ref().any(|word| word == "packets") {
                dropped += words.next().and_then(|count| count.parse().ok()).unwrap_or(0);
            }
            self.deafen(host, &[])?;
        }
        Ok(dropped)
    }

    fn rules(&self, host: usize, rules: &str) -> Result<(), String> {
        self.nft(host, &["-f", "-"], rules).map(drop)
    }

    fn nft(&self, host: usize, arguments: &[&str], input: &str) -> Result<Output, String> {
        let mut command = self.command(host, &tool("nft"));
        output(command.args(arguments), input)
    }

    fn bridge(&self) -> String {
        format!("{}b", self.name)
    }

    fn space(&self, host: usize) -> String {
        format!("{}n{host}", self.name)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for host in 0..self.hosts {
            // One that was never made is not there to be taken away.
            drop(ip(&["netns", "delete", &self.space(host)]));
        }
        drop(ip(&["link", "delete", &self.bridge()]));
    }
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    output(Command::new(tool("ip")).args(arguments), "").map(drop)
}

fn output(command: &mut Command, input: &str) -> Result<Output, String> {
    let called = format!("{command:?}");
    let failed = |what: &dyn std::fmt::Display| format!("{called}: {what}");
    let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = pipes.spawn().map_err(|err| failed(&err))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).map_err(|err| failed(&err))?;
    }
    let output = child.wait_with_output().map_err(|err| failed(&err))?;
    if output.status.success() {
        return Ok(output);
    }
    Err(failed(&String::from_utf8_lossy(&output.stderr).trim()))
}
