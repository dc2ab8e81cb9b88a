//! `kill -9` at arbitrary moments: what was answered is there, and nothing else but what was
//! asked for next.
//!
//! A child process works through numbered steps and prints each one once it is durable; the
//! parent kills it, opens the log and compares with a model. A kill leaves the page cache, so
//! this tests order and recovery; that a sync is asked for at all, it cannot see.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};

use openraft::storage::{RaftLogReader, RaftLogStorage, RaftLogStorageExt};
use tempfile::TempDir;

use super::{entry, id, open};
use crate::config::Vote;

const CHILD_DIR: &str = "TORUS_RAFT_CRASH_TEST_DIR";

/// Votes, entries and purges as they should be.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    vote: u64,
    purged: Option<u64>,
    /// Index and term.
    entries: Vec<(u64, u64)>,
}

/// One thing asked of the log.
#[derive(Clone, Copy, Debug)]
enum Ask {
    Vote(u64),
    TruncateAfter(u64),
    Append { from: u64, count: u64, term: u64 },
    Purge(u64),
}

impl Model {
    fn next(&self) -> u64 {
        self.entries.last().map_or(0, |(index, _)| index + 1)
    }

    /// What step number `step` asks for: always a vote and entries, sometimes in place of others.
    fn asks(&self, step: u64) -> Vec<Ask> {
        let mut asks = vec![Ask::Vote(step)];
        let mut from = self.next();
        if step.is_multiple_of(5) {
            from -= 2;
            asks.push(Ask::TruncateAfter(from - 1));
        }
        asks.push(Ask::Append { from, count: 3, term: step });
        if step.is_multiple_of(7) {
            asks.push(Ask::Purge(from - 4));
        }
        asks
    }

    fn take(&mut self, ask: Ask) {
        match ask {
            Ask::Vote(term) => self.vote = term,
            Ask::TruncateAfter(last) => self.entries.retain(|(index, _)| *index <= last),
            Ask::Append { from, count, term } => {
                self.entries.extend((from..from + count).map(|index| (index, term)));
            }
            Ask::Purge(last) => {
                self.purged = Some(last);
                self.entries.retain(|(index, _)| *index > last);
            }
        }
    }

    fn take_step(&mut self, step: u64) {
        for ask in self.asks(step) {
            self.take(ask);
        }
    }

    /// The term of an entry that the model still holds.
    fn term(&self, index: u64) -> u64 {
        self.entries.iter().find(|(found, _)| *found == index).unwrap().1
    }
}

/// The child's part; a test only so that the test binary contains it.
#[tokio::test]
async fn child() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let mut log = open(Path::new(&dir)).unwrap();
    let mut model = Model::default();
    for step in 1.. {
        for ask in model.asks(step) {
            match ask {
                Ask::Vote(term) => log.save_vote(&Vote::new(term, 1)).await.unwrap(),
                Ask::TruncateAfter(last) => {
                    log.truncate_after(Some(id(model.term(last), last))).await.unwrap();
                }
                Ask::Append { from, count, term } => {
                    let entries = (from..from + count).map(|index| entry(term, index, 500));
                    log.blocking_append(entries).await.unwrap();
                }
                Ask::Purge(last) => log.purge(id(model.term(last), last)).await.unwrap(),
            }
            model.take(ask);
        }
        writeln(step);
    }
}

/// Prints past the test harness, which would keep the output until the test ends.
fn writeln(step: u64) {
    use std::io::Write;
    let mut out = std::io::stderr();
    writeln!(out, "step {step}").unwrap();
}

/// Runs the child, kills it once it has reported `steps` steps; returns the last one reported.
fn run_child(dir: &Path, steps: u64) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "log::tests::crash::child", "--nocapture"])
        .env(CHILD_DIR, dir)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut reports = BufReader::new(child.stderr.take().unwrap());
    let mut last = 0;
    let mut line = String::new();
    while last < steps {
        line.clear();
        assert_ne!(reports.read_line(&mut line).unwrap(), 0, "the child ended by itself");
        last = step_of(&line).unwrap_or(last);
    }
    child.kill().unwrap();
    child.wait().unwrap();
    line.clear();
    reports.read_to_string(&mut line).unwrap();
    line.lines().filter_map(step_of).next_back().unwrap_or(last)
}

fn step_of(line: &str) -> Option<u64> {
    line.trim().strip_prefix("step ")?.parse().ok()
}

async fn recovered(dir: &Path) -> Model {
    let mut log = open(dir).unwrap();
    let vote = log.read_vote().await.unwrap().map_or(0, |vote| vote.leader_id.term);
    let purged = log.get_log_state().await.unwrap().last_purged_log_id.map(|id| id.index);
    let entries = log.try_get_log_entries(..).await.unwrap();
    let entries = entries.iter().map(|entry| (entry.log_id.index, entry.log_id.leader_id.term));
    Model { vote, purged, entries: entries.collect() }
}

#[tokio::test]
async fn a_killed_node_has_what_it_answered() {
    for steps in [1, 2, 3, 5, 8, 14, 35, 100] {
        let dir = TempDir::new().unwrap();
        let last = run_child(dir.path(), steps);
        let mut model = Model::default();
        (1..=last).for_each(|step| model.take_step(step));

        let mut possible = vec![model.clone()];
        for ask in model.asks(last + 1) {
            model.take(ask);
            possible.push(model.clone());
        }
        // A purge is answered before it is durable, but nothing after it is durable without it.
        let mut unpurged = Model::default();
        (1..last).for_each(|step| unpurged.take_step(step));
        let asks = unpurged.asks(last);
        asks.into_iter()
            .filter(|ask| !matches!(ask, Ask::Purge(_)))
            .for_each(|ask| unpurged.take(ask));
        possible.push(unpurged);
        let found = recovered(dir.path()).await;
        assert!(possible.contains(&found), "after step {last}: {found:?}");
    }
}
