//! What came of a run.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::nemesis::{Fault, Harm};

/// The account of one run.
#[derive(Clone, Debug)]
pub struct Report {
    pub seed: u64,
    pub time: Duration,
    /// Operations of clients that were answered, and that never were.
    pub answered: u64,
    pub unanswered: u64,
    pub(super) harm: Harm,
    /// Why the network was not touched, if it was not.
    pub(super) no_network: Option<String>,
    pub(super) terms: u64,
    /// Sessions that the service ended, epochs it found stale, swaps of the ring that came too late.
    pub(super) expired: u64,
    pub(super) stale: u64,
    pub(super) lost_swaps: u64,
    /// Revisions that watchers saw, how often a watch went on elsewhere or later, and how often it
    /// had to begin anew.
    pub(super) revisions: u64,
    pub(super) resumed: u64,
    pub(super) compacted: u64,
    /// Contradictions of what is promised.
    pub violations: Vec<String>,
    /// Things that should have happened and did not: the run proves nothing.
    pub vacuous: Vec<String>,
    /// Where everything is that a violation needs to be understood.
    pub kept: Option<PathBuf>,
}

impl Report {
    /// Whether the run counts, and found nothing.
    pub fn passed(&self) -> bool {
        self.violations.is_empty() && self.vacuous.is_empty()
    }

    /// How often each kind of harm was done.
    pub fn faults(&self) -> impl Iterator<Item = (String, u64)> {
        self.harm.faults.iter().map(|(fault, count)| (fault.to_string(), *count))
    }

    /// What did not happen although it was to.
    pub(super) fn find_vacuous(&mut self, wanted: &[Fault], is_long: bool) {
        let faults = &self.harm.faults;
        let missing = wanted.iter().filter(|fault| !faults.contains_key(fault));
        let mut vacuous: Vec<String> = missing.map(|fault| format!("no {fault}")).collect();
        let mut at_least = |what: &str, count: u64, least: u64| {
            if count < least {
                vacuous.push(format!("{what}: {count}, not {least}"));
            }
        };
        at_least("answers", self.answered, 500);
        at_least("answers during harm", self.harm.answered_during, 50);
        at_least("operations without an answer", self.unanswered, u64::from(is_long));
        at_least("terms", self.terms, 3);
        at_least("sessions that ended by themselves", self.expired, 1);
        at_least("stale epochs", self.stale, 1);
        at_least("swaps that came too late", self.lost_swaps, 1);
        at_least("snapshots sent to new members", self.harm.installed, u64::from(is_long));
        at_least("watches that went on", self.resumed, 5);
        if is_long && self.no_network.is_some() {
            vacuous.push("no network to do harm to".to_owned());
        }
        self.vacuous = vacuous;
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "seed {}, {:.0} s: {} operations, {} without an answer; {} terms",
            self.seed,
            self.time.as_secs_f64(),
            self.answered,
            self.unanswered,
            self.terms
        )?;
        for (fault, count) in &self.harm.faults {
            write!(f, ", {fault} {count}")?;
        }
        write!(
            f,
            "; {} packets dropped, {} syncs delayed, {} snapshots sent, {:.1} s the longest pause; {} sessions ended, \
             {} stale epochs, {} lost swaps; {} revisions watched, {} resumed, {} anew",
            self.harm.dropped,
            self.harm.delayed,
            self.harm.installed,
            self.harm.longest_pause.as_secs_f64(),
            self.expired,
            self.stale,
            self.lost_swaps,
            self.revisions,
            self.resumed,
            self.compacted
        )?;
        if let Some(why) = &self.no_network {
            write!(f, "\nno partitions, for there can be no network of namespaces: {why}")?;
        }
        for missed in &self.harm.missed {
            write!(f, "\nmissed: {missed}")?;
        }
        for vacuous in &self.vacuous {
            write!(f, "\nPROVES NOTHING: {vacuous}")?;
        }
        for violation in &self.violations {
            write!(f, "\nVIOLATION: {violation}")?;
        }
        if let Some(kept) = &self.kept {
            write!(f, "\nhistory and logs: {}", kept.display())?;
        }
        Ok(())
    }
}
