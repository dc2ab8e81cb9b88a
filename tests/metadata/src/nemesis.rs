//! Does harm: kills processes, cuts and slows connections, spoils disks; and mends it all again.
//!
//! It acts between two steps of the simulation, so no host is in the middle of anything. Each harm
//! ends by itself after a while, so that harms overlap in all ways.

use std::sync::Arc;
use std::time::Duration;

use turmoil::Sim;

use crate::chance::Chance;
use crate::disk::Mood;
use crate::member::name;
use crate::world::World;

pub(crate) struct Nemesis {
    world: Arc<World>,
    chance: Chance,
    next: Duration,
    /// What ends when.
    ends: Vec<(Duration, End)>,
    /// Members without a process.
    down: Vec<usize>,
}

/// How a harm is mended.
#[derive(Clone, Debug)]
enum End {
    Start(usize),
    StartClient(usize),
    Repair(Vec<(String, String)>),
    Disk(usize),
    Jam(String, String),
}

#[derive(Clone, Copy, Debug)]
enum Harm {
    Crash,
    CrashAll,
    CrashClient,
    CutClient,
    Partition,
    OneWay,
    Isolate,
    Hold,
    Jam,
    SlowDisk,
    StuckDisk,
    FailedSync,
}

impl Nemesis {
    pub(crate) fn new(world: &Arc<World>) -> Self {
        let chance = Chance::new(world.seed, "nemesis");
        let world = Arc::clone(world);
        Self { world, chance, next: Duration::ZERO, ends: Vec::new(), down: Vec::new() }
    }

    /// Looks what is to be done now.
    pub(crate) fn act(&mut self, sim: &mut Sim<'_>) {
        let now = sim.elapsed();
        let (due, later): (Vec<_>, _) =
            std::mem::take(&mut self.ends).into_iter().partition(|(at, _)| *at <= now);
        self.ends = later;
        for (_, end) in due {
            self.mend(sim, end);
        }
        for member in self.world.take_failed() {
            self.kill(sim, member, now + self.chance.millis(100..2000));
        }
        let voted = self.world.take_voted();
        if self.world.is_calm() || !self.world.is_formed() {
            return;
        }
        for member in voted {
            if self.chance.happens(self.world.swarm.dies_after_vote) {
                self.kill_voter(sim, member, now);
            }
        }
        if now >= self.next {
            if self.next > Duration::ZERO
                && let Some(harm) = self.pick()
            {
                self.harm(sim, harm, now);
            }
            self.next = now + self.chance.millis(300..2500);
        }
    }

    /// Mends everything at once.
    pub(crate) fn heal(&mut self, sim: &mut Sim<'_>) {
        for (_, end) in std::mem::take(&mut self.ends) {
            self.mend(sim, end);
        }
    }

    fn pick(&self) -> Option<Harm> {
        let faults = &self.world.swarm.faults;
        let weights = [
            (Harm::Crash, faults.crash),
            (Harm::CrashAll, faults.crash_all),
            (Harm::CrashClient, faults.crash_client),
            (Harm::CutClient, faults.cut_client),
            (Harm::Partition, faults.partition),
            (Harm::OneWay, faults.one_way),
            (Harm::Isolate, faults.isolate),
            (Harm::Hold, faults.hold),
            (Harm::Jam, faults.jam),
            (Harm::SlowDisk, faults.slow_disk),
            (Harm::StuckDisk, faults.stuck_disk),
            (Harm::FailedSync, faults.failed_sync),
        ];
        let total: u64 = weights.iter().map(|(_, weight)| weight).sum();
        let mut left = self.chance.within(0..total.max(1));
        weights.into_iter().find_map(|(harm, weight)| {
            if left < weight {
                return Some(harm);
            }
            left -= weight;
            None
        })
    }

    fn harm(&mut self, sim: &mut Sim<'_>, harm: Harm, now: Duration) {
        let members = self.world.swarm.members;
        let member = self.member();
        let end = now + self.chance.millis(300..6000);
        match harm {
            Harm::Crash => self.kill(sim, member, now + self.chance.millis(50..5000)),
            Harm::CrashAll => {
                self.world.trace.sometimes("all members crashed at once");
                for member in 0..members {
                    self.kill(sim, member, now + self.chance.millis(50..2000));
                }
            }
            Harm::CrashClient => self.kill_client(sim, now + self.chance.millis(50..3000)),
            Harm::CutClient => self.cut_client(sim, now + self.chance.millis(1000..12_000)),
            Harm::Partition => {
                self.world.trace.sometimes("a partition");
                let minority: Vec<_> = (0..members).filter(|_| self.chance.happens(40)).collect();
                let is_in = |member: &usize| minority.contains(member);
                let pairs = pairs(members).filter(|(a, b)| is_in(a) != is_in(b)).collect();
                self.cut(sim, pairs, end);
            }
            Harm::OneWay => {
                let other = self.member();
                if member != other {
                    self.world.trace.sometimes("a one-way partition");
                    self.tell(&format!("nothing goes from m{member} to m{other}"));
                    sim.partition_oneway(name(member), name(other));
                    self.ends.push((end, End::Repair(vec![(name(member), name(other))])));
                }
            }
            Harm::Isolate => {
                self.world.trace.sometimes("a member alone");
                let pairs = pairs(members).filter(|(a, b)| *a == member || *b == member).collect();
                self.cut(sim, pairs, end);
            }
            Harm::Hold => {
                let other = self.member();
                if member != other {
                    self.world.trace.sometimes("messages held back");
                    self.tell(&format!("held back between m{member} and m{other}"));
                    sim.hold(name(member), name(other));
                    self.ends.push((end, End::Repair(vec![(name(member), name(other))])));
                }
            }
            Harm::Jam => {
                let other = self.member();
                if member != other {
                    self.tell(&format!("slow between m{member} and m{other}"));
                    let most = self.chance.millis(200..1500);
                    sim.set_link_max_message_latency(name(member), name(other), most);
                    self.ends.push((end, End::Jam(name(member), name(other))));
                }
            }
            Harm::SlowDisk => {
                self.world.trace.sometimes("a slow disk");
                self.spoil(member, Mood::Slow(self.chance.within(20..400)), end);
            }
            Harm::StuckDisk => {
                self.world.trace.sometimes("a stuck disk");
                let end = now + self.chance.millis(3000..12_000);
                self.spoil(member, Mood::StuckUntil(end), end);
            }
            Harm::FailedSync => self.world.disks[member].fail_next(),
        }
    }

    /// Kills a member right after it has voted, and lets it come back where few can reach it: if
    /// it has forgotten its vote, it may give another.
    fn kill_voter(&mut self, sim: &mut Sim<'_>, member: usize, now: Duration) {
        self.world.trace.sometimes("a voter crashed");
        self.kill(sim, member, now + self.chance.millis(5..150));
        let friend = self.member();
        let others = (0..self.world.swarm.members).filter(|o| *o != friend && *o != member);
        let pairs: Vec<_> = others.map(|other| (member, other)).collect();
        self.cut(sim, pairs, now + self.chance.millis(500..4000));
        if friend != member {
            // Whatever cut them apart ends now.
            sim.repair(name(member), name(friend));
        }
    }

    fn kill(&mut self, sim: &mut Sim<'_>, member: usize, until: Duration) {
        if self.down.contains(&member) {
            return;
        }
        self.tell(&format!("m{member} crashes"));
        self.world.trace.sometimes("a member crashed");
        sim.crash(name(member));
        self.world.disks[member].crash();
        self.down.push(member);
        self.ends.push((until, End::Start(member)));
    }

    fn kill_client(&mut self, sim: &mut Sim<'_>, until: Duration) {
        let client = self.chance.within(0..self.world.swarm.clients as u64);
        let client = usize::try_from(client).unwrap_or(0);
        let is_down = |end: &(Duration, End)| matches!(end.1, End::StartClient(c) if c == client);
        if self.ends.iter().any(is_down) {
            return;
        }
        self.tell(&format!("c{client} crashes"));
        self.world.trace.sometimes("a client crashed");
        sim.crash(format!("c{client}"));
        self.ends.push((until, End::StartClient(client)));
    }

    /// Long enough, and its session ends.
    fn cut_client(&mut self, sim: &mut Sim<'_>, until: Duration) {
        let client = format!("c{}", self.chance.within(0..self.world.swarm.clients as u64));
        self.world.trace.sometimes("a client was cut off");
        self.tell(&format!("{client} is cut off"));
        let pairs: Vec<_> =
            (0..self.world.swarm.members).map(|member| (client.clone(), name(member))).collect();
        for (client, member) in &pairs {
            sim.partition(client.as_str(), member.as_str());
        }
        self.ends.push((until, End::Repair(pairs)));
    }

    fn cut(&mut self, sim: &mut Sim<'_>, pairs: Vec<(usize, usize)>, until: Duration) {
        self.tell(&format!("cut: {pairs:?}"));
        for (a, b) in &pairs {
            sim.partition(name(*a), name(*b));
        }
        let named = pairs.into_iter().map(|(a, b)| (name(a), name(b))).collect();
        self.ends.push((until, End::Repair(named)));
    }

    fn spoil(&mut self, member: usize, mood: Mood, until: Duration) {
        self.tell(&format!("the disk of m{member}: {mood:?}"));
        self.world.disks[member].set_mood(mood);
        self.ends.push((until, End::Disk(member)));
    }

    fn mend(&mut self, sim: &mut Sim<'_>, end: End) {
        match end {
            End::Start(member) => {
                self.down.retain(|other| *other != member);
                sim.bounce(name(member));
            }
            End::StartClient(client) => sim.bounce(format!("c{client}")),
            End::Repair(pairs) => {
                self.tell(&format!("mended: {pairs:?}"));
                for (a, b) in pairs {
                    // What was held back arrives now; what was cut off is lost.
                    sim.release(a.clone(), b.clone());
                    sim.repair(a, b);
                }
            }
            End::Disk(member) => self.world.disks[member].set_mood(Mood::Well),
            End::Jam(a, b) => {
                let most = Duration::from_millis(self.world.swarm.latency_ms);
                sim.set_link_max_message_latency(a, b, most);
            }
        }
    }

    fn member(&self) -> usize {
        usize::try_from(self.chance.within(0..self.world.swarm.members as u64)).unwrap_or(0)
    }

    fn tell(&self, what: &str) {
        self.world.trace.note(&format!("nemesis: {what}"));
    }
}

fn pairs(members: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..members).flat_map(move |a| (a + 1..members).map(move |b| (a, b)))
}
