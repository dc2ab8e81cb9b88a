//! Administration: `torusctl`. Each command asks the daemons, changes at most one thing, and makes
//! a [`report::Report`] of it: text for people, JSON for programs.
//!
//! Arguments that the cluster could not accept are refused before anything is sent, by the rules
//! of the state machine itself ([`rehearsal`]).

mod arguments;
mod cluster;
mod progress;
mod rehearsal;
mod report;
mod storage;
mod transfer;

mod export;
mod import;
mod init;
mod member;
mod metadata;
mod peer;
mod recover;
mod ring;
mod snapshot;
mod status;
mod volume;
mod watch;

use clap::CommandFactory;
use clap_complete::Shell;
use serde_json::json;

use crate::failure::Failure;
use arguments::{BlockCommand, Command};
use cluster::Cluster;
use report::Report;

pub use arguments::Arguments;

/// Runs one command and prints what came of it.
pub fn run(arguments: Arguments) -> Result<(), Failure> {
    if let Some(never) = arguments.etcd {
        match never {}
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().thread_name("torusctl").enable_all().build()?;
    let report = runtime.block_on(execute(&arguments));
    // A lookup of a name that hangs is not waited for, nor a pipe that nobody writes to.
    runtime.shutdown_background();
    match report? {
        Some(report) => report.print(arguments.json),
        None => Ok(()),
    }
}

/// `None`: it has printed what there is by itself.
async fn execute(arguments: &Arguments) -> Result<Option<Report>, Failure> {
    if arguments.stale && !arguments.command.only_reads() {
        return Err(Failure::usage("--stale is only for commands that read, and not for 'watch'"));
    }
    let cluster = Cluster::new(&arguments.cluster);
    let cluster = if arguments.stale { cluster.stale() } else { cluster };
    let report = match &arguments.command {
        Command::Watch(what) => {
            watch::run(&cluster, what, arguments.json).await?;
            return Ok(None);
        }
        Command::Init(options) => init::run(&cluster, options).await,
        Command::Member(command) => member::run(&cluster, command).await,
        Command::Peer(command) => peer::run(&cluster, command).await,
        Command::Ring(command) => ring::run(&cluster, command).await,
        Command::Volume(command) => volume::run(&cluster, command).await,
        Command::Snapshot(command) => snapshot::run(&cluster, command).await,
        Command::Block(BlockCommand::Create(volume)) => volume::create(&cluster, volume).await,
        Command::Block(BlockCommand::Snapshot(command)) => snapshot::run(&cluster, command).await,
        Command::Metadata(command) => metadata::run(&cluster, command).await,
        Command::Recover(arguments) => recover::run(arguments).await,
        Command::Status => status::run(&cluster).await,
        Command::Version => Ok(version()),
        Command::Completion { shell } => Ok(completion(*shell)),
    };
    report.map(Some)
}

fn version() -> Report {
    let version = env!("CARGO_PKG_VERSION");
    Report::new(format!("torusctl {version}\n"), json!({ "version": version }))
}

fn completion(shell: Shell) -> Report {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "torusctl", &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    let json = json!({ "shell": shell.to_string(), "script": script });
    Report::new(script, json)
}

/// Examples for the tests of other modules.
#[cfg(test)]
pub(crate) mod tests {
    pub(crate) use super::snapshot::tests::with_snapshots;
    pub(crate) use super::volume::tests::volume;
}
