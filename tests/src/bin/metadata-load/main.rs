//! The load of `make bench-metadata`: the same on our metadata service and on etcd.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line program")]
#![expect(clippy::disallowed_methods, reason = "it measures real processes")]

mod etcd;
mod measure;
mod system;

use std::process::ExitCode;

use system::System;

const USAGE: &str = "\
usage: metadata-load SYSTEM MEMBERS COMMAND, where SYSTEM is torus or etcd, MEMBERS HOST:PORT,..

  leader                 prints the address of the leader
  fill COUNT             writes COUNT keys (volumes)
  peers COUNT            registers COUNT peers (torus alone)
  put CLIENTS SECONDS    prints how many writes were made: count, each second, p50 and p99 in us
  get CLIENTS SECONDS    linearizable reads alike
  failover PID           kills the leader, PID; prints the ms until the next write is accepted
  resync                 reads all that is watched, watches from there; prints the ms (torus alone)
  serves                 waits until the first member itself reads linearizably (torus alone)";

/// What went wrong; the program ends with it.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let result = match builder.worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime.block_on(run(&words)),
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            let mut cause: Option<&dyn std::error::Error> = Some(error.as_ref());
            while let Some(error) = cause {
                eprintln!("metadata-load: {error}");
                cause = error.source();
            }
            ExitCode::FAILURE
        }
    }
}

async fn run(words: &[&str]) -> Result<String, Failure> {
    let [system, members, command @ ..] = words else { return Err(USAGE.into()) };
    let system = System::parse(system, members)?;
    match command {
        ["leader"] => system.leader().await,
        ["fill", count] => measure::fill(system, count.parse()?).await,
        ["peers", count] => measure::peers(&system, count.parse()?).await,
        ["put", clients, seconds] => {
            measure::load(&system, measure::Job::Put, clients.parse()?, seconds.parse()?).await
        }
        ["get", clients, seconds] => {
            measure::load(&system, measure::Job::Get, clients.parse()?, seconds.parse()?).await
        }
        ["failover", pid] => measure::failover(&system, pid.parse()?).await,
        ["resync"] => measure::resync(&system).await,
        ["serves"] => measure::serves(&system).await,
        _ => Err(USAGE.into()),
    }
}
