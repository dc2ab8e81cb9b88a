//! Does harm to the group, one kind after another, in an order and on targets that the seed decides.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use tokio::runtime::Handle;

use super::group::{DAEMONS, Group};
use super::record::Record;
use crate::history::Random;
use crate::wait::Stopwatch;

/// Answers that show that the group works again.
const RECOVERED_BY: u64 = 60;
const RECOVERY_BOUND: Duration = Duration::from_secs(40);
const LOOK: Duration = Duration::from_millis(20);
/// How long a paused leader may be before somebody else must lead.
const PAUSE_TELLS: Duration = Duration::from_secs(4);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Fault {
    KillLeader,
    KillFollower,
    KillTwo,
    KillAll,
    /// Two sides that hear nothing of each other, the leader on the smaller one as a rule.
    Partition,
    /// The others hear nothing from the leader, or the leader nothing from the others.
    OneWay,
    /// Two members do not hear each other, everybody else does.
    CutPair,
    PauseLeader,
    PauseFollower,
    SlowLeaderDisk,
    SlowFollowerDisk,
    ReplaceFollower,
    ReplaceLeader,
    TransferLeader,
}

impl Fault {
    pub(super) const ALL: [Self; 14] = [
        Self::KillLeader,
        Self::KillFollower,
        Self::KillTwo,
        Self::KillAll,
        Self::Partition,
        Self::OneWay,
        Self::CutPair,
        Self::PauseLeader,
        Self::PauseFollower,
        Self::SlowLeaderDisk,
        Self::SlowFollowerDisk,
        Self::ReplaceFollower,
        Self::ReplaceLeader,
        Self::TransferLeader,
    ];

    /// Whether it needs a network of namespaces.
    pub(super) fn needs_network(self) -> bool {
        matches!(self, Self::Partition | Self::OneWay | Self::CutPair)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What harm was done, and what shows that it was.
#[derive(Clone, Debug, Default)]
pub(super) struct Harm {
    pub(super) faults: BTreeMap<Fault, u64>,
    /// Packets that partitions kept from arriving, and syncs that took longer.
    pub(super) dropped: u64,
    pub(super) delayed: u64,
    /// Snapshots that new members were sent: none has written one itself so soon.
    pub(super) installed: u64,
    /// Answers that clients got while something was wrong.
    pub(super) answered_during: u64,
    pub(super) longest_pause: Duration,
    /// Faults that did not come about: nobody led just then, or a change was refused.
    pub(super) missed: Vec<String>,
    /// Clients got no answers although everything was healed; nothing more is done then.
    pub(super) stuck: Option<String>,
}

pub(super) struct Nemesis<'a> {
    pub(super) handle: Handle,
    pub(super) group: &'a mut Group,
    pub(super) record: &'a Record,
    pub(super) random: Random,
    /// How long a fault lasts, in ms.
    pub(super) lasts: std::ops::Range<u64>,
    pub(super) harm: Harm,
}

impl Nemesis<'_> {
    /// Does this harm once, heals it and waits until the clients go on.
    pub(super) fn strike(&mut self, fault: Fault) {
        let lasts = Duration::from_millis(self.random.within(self.lasts.clone()));
        self.strike_for(fault, lasts);
    }

    pub(super) fn strike_for(&mut self, fault: Fault, lasts: Duration) {
        if self.harm.stuck.is_some() {
            return;
        }
        let before = self.record.answered();
        let watch = Stopwatch::start();
        let (done, resumed) = match self.begin(fault) {
            Ok(hurt) => {
                self.wait(lasts);
                // Whether the harm is what it should be shows only while it lasts.
                (hurt.is_seen(self.group, lasts), hurt)
            }
            Err(why) => (Err(why), Hurt::None),
        };
        if matches!(resumed, Hurt::Paused { .. }) {
            self.harm.longest_pause = self.harm.longest_pause.max(watch.elapsed());
        }
        self.harm.answered_during += self.record.answered() - before;
        let (dropped, delayed) = self.group.heal();
        self.harm.dropped += dropped;
        self.harm.delayed += delayed;
        let done = done.and_then(|()| match resumed {
            Hurt::Cut if dropped == 0 => Err("no packet was dropped".to_owned()),
            Hurt::Slow if delayed == 0 => Err("no sync was delayed".to_owned()),
            _ => Ok(()),
        });
        match done {
            Ok(()) => *self.harm.faults.entry(fault).or_default() += 1,
            Err(why) => self.harm.missed.push(format!("{fault}: {why}")),
        }
        self.recover(fault);
    }

    /// Waits until clients get answers again, which they must.
    fn recover(&mut self, fault: Fault) {
        let (from, watch) = (self.record.answered(), Stopwatch::start());
        while self.harm.stuck.is_none() {
            let answered = self.record.answered() - from;
            if answered >= RECOVERED_BY {
                return;
            }
            if watch.elapsed() > RECOVERY_BOUND {
                self.harm.stuck = Some(format!(
                    "{answered} answers in {RECOVERY_BOUND:?} after {fault} was healed"
                ));
            }
            self.wait(LOOK);
        }
    }

    fn begin(&mut self, fault: Fault) -> Result<Hurt, String> {
        let leader = self.group.leader().ok_or("nobody led")?;
        let followers: Vec<usize> = (0..DAEMONS).filter(|host| *host != leader).collect();
        let follower = followers[self.below(followers.len())];
        let term = self.group.status().map_or(0, |status| status.term);
        match fault {
            Fault::KillLeader => self.group.kill9(leader),
            Fault::KillFollower => self.group.kill9(follower),
            Fault::KillTwo => {
                self.group.kill9(leader);
                self.group.kill9(follower);
            }
            Fault::KillAll => (0..DAEMONS).for_each(|host| self.group.kill9(host)),
            Fault::Partition => return self.part(leader, &followers),
            Fault::OneWay => return self.cut_one_way(leader, &followers),
            Fault::CutPair => {
                let other = if self.random.within(0..2) == 0 { leader } else { followers[0] };
                let one = followers.iter().find(|host| **host != other).copied().unwrap_or(leader);
                self.deafen(one, &[other])?;
                self.deafen(other, &[one])?;
                return Ok(Hurt::Cut);
            }
            Fault::PauseLeader => {
                self.group.pause(leader);
                return Ok(Hurt::Paused { led_in: Some(term) });
            }
            Fault::PauseFollower => {
                self.group.pause(follower);
                return Ok(Hurt::Paused { led_in: None });
            }
            Fault::SlowLeaderDisk | Fault::SlowFollowerDisk => {
                let slow = if fault == Fault::SlowLeaderDisk { leader } else { follower };
                let delay = Duration::from_millis(self.random.within(20..400));
                self.group.slow_disk(slow, delay);
                return Ok(Hurt::Slow);
            }
            Fault::ReplaceFollower | Fault::ReplaceLeader => {
                let gone = if fault == Fault::ReplaceLeader { leader } else { follower };
                self.group.replace(gone)?;
                self.group.wait_for_voters(DAEMONS)?;
                self.harm.installed += u64::from(self.group.has_snapshot(gone));
            }
            Fault::TransferLeader => {
                self.group.transfer_leader()?;
                return Ok(Hurt::Transferred { in_term: term });
            }
        }
        Ok(Hurt::None)
    }

    fn part(&mut self, leader: usize, followers: &[usize]) -> Result<Hurt, String> {
        let mut hosts = self.shuffled(followers);
        // Now and then the leader keeps its majority.
        let place = if self.random.within(0..4) == 0 { hosts.len() } else { 0 };
        hosts.insert(place, leader);
        let (small, large) = hosts.split_at(self.below(2) + 1);
        for host in small {
            self.deafen(*host, large)?;
        }
        for host in large {
            self.deafen(*host, small)?;
        }
        Ok(Hurt::Cut)
    }

    fn cut_one_way(&mut self, leader: usize, followers: &[usize]) -> Result<Hurt, String> {
        if self.random.within(0..2) == 0 {
            self.deafen(leader, followers)?;
        } else {
            for host in followers {
                self.deafen(*host, &[leader])?;
            }
        }
        Ok(Hurt::Cut)
    }

    fn deafen(&self, host: usize, others: &[usize]) -> Result<(), String> {
        let network = self.group.network.as_ref().ok_or("there is no network to cut")?;
        network.deafen(host, others)
    }

    pub(super) fn shuffled<T: Copy>(&mut self, items: &[T]) -> Vec<T> {
        let mut items = items.to_vec();
        for end in (1..items.len()).rev() {
            items.swap(end, self.below(end + 1));
        }
        items
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.random.within(0..bound as u64)).unwrap_or(0)
    }

    /// Lets the harm last.
    fn wait(&self, time: Duration) {
        self.handle.block_on(async { tokio::time::sleep(time).await });
    }
}

/// What was done, as far as it can be seen whether it had its effect.
#[derive(Clone, Copy, Debug)]
enum Hurt {
    None,
    Cut,
    Slow,
    /// In this term it led, if it did.
    Paused {
        led_in: Option<u64>,
    },
    Transferred {
        in_term: u64,
    },
}

impl Hurt {
    fn is_seen(self, group: &Group, lasts: Duration) -> Result<(), String> {
        // Somebody must have been elected since.
        let term = match self {
            Self::Paused { led_in: Some(term) } if lasts >= PAUSE_TELLS => term,
            Self::Transferred { in_term } => in_term,
            _ => return Ok(()),
        };
        let now = group.status().map_or(0, |status| status.term);
        if now > term { Ok(()) } else { Err(format!("term {now} behind {term}")) }
    }
}
