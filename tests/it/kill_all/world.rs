//! A cluster with volumes, clones and snapshots, and all that is known of what they may show.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use torus_tests::{Cluster, ClusterOptions, History, NbdServer, Process, Random};

use crate::load::Load;

/// Pages of each volume that are written, over and over: 8 MiB.
const PAGES: u64 = 2048;
const DISK: &str = "disk";
const VOLUMES_MAX: usize = 3;
const SNAPSHOTS_MAX: usize = 3;
/// How long a command may take that was under way when its daemons died.
const COMMAND_BOUND: Duration = Duration::from_secs(60);

pub(super) struct World {
    cluster: Cluster,
    random: Random,
    volumes: BTreeMap<String, Volume>,
    /// Snapshots and clones made so far: their names are used once.
    made: u64,
    writes: u64,
    flushed: u64,
    snapshots_read: u64,
}

struct Volume {
    /// Not while a client goes on with it.
    history: Option<History>,
    /// What each snapshot shows.
    snapshots: BTreeMap<String, Vec<u64>>,
    parent: Option<String>,
}

/// A snapshot that may be there.
struct Taken {
    volume: String,
    snapshot: String,
    /// The writes after one of which it shows the volume; `None`: what a crash left, as any volume.
    moment: Option<RangeInclusive<u64>>,
    /// Whether it must be there.
    is_certain: bool,
}

/// What a round has under way.
struct Round {
    server: NbdServer,
    loads: BTreeMap<String, Load>,
    taken: Vec<Taken>,
    /// A snapshot that is being taken of all volumes, and the writes after which it shows them.
    taking: Option<(Process, String, BTreeMap<String, u64>)>,
    did: Vec<String>,
}

impl World {
    pub(super) fn new(random: Random) -> Self {
        let cluster = Cluster::start(&ClusterOptions::default());
        cluster.create_volume(DISK, "64MiB");
        let (history, snapshots) = (Some(History::new(PAGES)), BTreeMap::new());
        let disk = Volume { history, snapshots, parent: None };
        let volumes = BTreeMap::from([(DISK.to_owned(), disk)]);
        Self { cluster, random, volumes, made: 0, writes: 0, flushed: 0, snapshots_read: 0 }
    }

    pub(super) fn summary(&self) -> String {
        let Self { writes, flushed, snapshots_read, .. } = self;
        format!("{writes} writes so far, {flushed} flushed, {snapshots_read} snapshots read")
    }

    /// One round; what it did.
    #[track_caller]
    pub(super) fn round(&mut self) -> String {
        let mut round = self.begin();
        for _ in 0..self.random.within(0..3) {
            self.wait(&round);
            self.change(&mut round);
        }
        self.wait(&round);
        if self.random.within(0..3) == 0 {
            self.begin_snapshot(&mut round);
        }
        self.kill(round)
    }

    /// Serves all volumes in one process, and starts a client of each.
    #[track_caller]
    fn begin(&mut self) -> Round {
        let names: Vec<&str> = self.volumes.keys().map(String::as_str).collect();
        let server = self.cluster.serve_all(&names);
        let mut loads = BTreeMap::new();
        for (name, volume) in &mut self.volumes {
            let client = server.connect_to(name).unwrap();
            let history = volume.history.take().expect("nobody goes on with it");
            let load = Load::mixed(client, history, Random(self.random.draw()));
            loads.insert(name.clone(), load);
        }
        Round { server, loads, taken: Vec::new(), taking: None, did: Vec::new() }
    }

    /// Lets the clients work for a while.
    #[track_caller]
    fn wait(&mut self, round: &Round) {
        let count = self.random.within(1..200);
        round.loads[DISK].wait_for(count);
    }

    fn any_volume(&mut self) -> String {
        let index = usize::try_from(self.random.within(0..self.volumes.len() as u64)).unwrap();
        self.volumes.keys().nth(index).expect("an index of them").clone()
    }

    fn new_name(&mut self, kind: char) -> String {
        self.made += 1;
        format!("{kind}{}", self.made)
    }

    /// Has the cluster do something while the clients write. It has to succeed: everything is up.
    #[track_caller]
    fn change(&mut self, round: &mut Round) {
        let name = self.any_volume();
        match self.random.within(0..8) {
            0..3 => self.snapshot_all(round),
            3 => {
                let done = self.cluster.ctl_json(&["volume", "flatten", &name]);
                if done["snapshots_share"] == false {
                    self.volumes.get_mut(&name).expect("a volume").parent = None;
                }
                round.did.push(format!("flattened {name}"));
            }
            4..6 => self.delete_snapshot(&name, round),
            _ => self.clone_snapshot(&name, round),
        }
    }

    fn names_of_snapshots(&self, snapshot: &str) -> Vec<String> {
        self.volumes.keys().map(|volume| format!("{volume}@{snapshot}")).collect()
    }

    /// A snapshot of all volumes at one instant.
    #[track_caller]
    fn snapshot_all(&mut self, round: &mut Round) {
        if self.is_full() || !round.taken.is_empty() {
            return;
        }
        let snapshot = self.new_name('s');
        let written = self.written(round);
        let names = self.names_of_snapshots(&snapshot);
        self.cluster.snapshot(&names.iter().map(String::as_str).collect::<Vec<_>>());
        self.taken(round, &snapshot, &written, true, false);
        round.did.push(format!("took {}", names.join(" ")));
    }

    /// The last write that is acknowledged by now, of each volume.
    fn written(&self, round: &Round) -> BTreeMap<String, u64> {
        self.of_all(round, Load::written)
    }

    fn of_all(&self, round: &Round, of: impl Fn(&Load) -> u64) -> BTreeMap<String, u64> {
        let idle = |volume: &Volume| volume.history.as_ref().map_or(0, History::issued);
        let of = |(name, volume): (&String, &Volume)| match round.loads.get(name) {
            Some(load) => (name.clone(), of(load)),
            None => (name.clone(), idle(volume)),
        };
        self.volumes.iter().map(of).collect()
    }

    /// Notes that a snapshot was taken of all volumes, at some time since `written`.
    fn taken(
        &self,
        round: &mut Round,
        snapshot: &str,
        written: &BTreeMap<String, u64>,
        is_certain: bool,
        was_killed: bool,
    ) {
        let begun = self.of_all(round, Load::begun);
        for (volume, first) in written {
            let moment = (!was_killed).then(|| *first..=begun[volume]);
            let (volume, snapshot) = (volume.clone(), snapshot.to_owned());
            round.taken.push(Taken { volume, snapshot, moment, is_certain });
        }
    }

    /// Whether some volume has all the snapshots that it may have.
    fn is_full(&self) -> bool {
        self.volumes.values().any(|volume| volume.snapshots.len() >= SNAPSHOTS_MAX)
    }

    /// The same, not waiting for its end.
    #[track_caller]
    fn begin_snapshot(&mut self, round: &mut Round) {
        if self.is_full() {
            return;
        }
        let snapshot = self.new_name('s');
        let written = self.written(round);
        let names = self.names_of_snapshots(&snapshot);
        let arguments = ["snapshot", "create", "--timeout", "10"].map(str::to_owned).into_iter();
        let arguments: Vec<String> = arguments.chain(names.iter().cloned()).collect();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let process = self.cluster.ctl_begin(&arguments);
        round.taking = Some((process, snapshot, written));
        round.did.push(format!("was taking {}", names.join(" ")));
    }

    /// Deletes a snapshot that no clone needs.
    #[track_caller]
    fn delete_snapshot(&mut self, name: &str, round: &mut Round) {
        let parents: Vec<_> = self.volumes.values().filter_map(|it| it.parent.clone()).collect();
        let volume = self.volumes.get_mut(name).expect("a volume");
        let full = |snapshot: &str| format!("{name}@{snapshot}");
        let mut free = volume.snapshots.keys().filter(|it| !parents.contains(&full(it)));
        let Some(chosen) = free.next().cloned() else { return };
        self.cluster.ctl(&["snapshot", "delete", &full(&chosen)]).success();
        volume.snapshots.remove(&chosen);
        round.did.push(format!("deleted {}", full(&chosen)));
    }

    /// Makes a volume of a snapshot; a client has it from the next round on.
    #[track_caller]
    fn clone_snapshot(&mut self, name: &str, round: &mut Round) {
        let Some((snapshot, shown)) = self.volumes[name].snapshots.iter().next_back() else {
            return;
        };
        if self.volumes.len() >= VOLUMES_MAX {
            return;
        }
        let (parent, shown) = (format!("{name}@{snapshot}"), shown.clone());
        let clone = self.new_name('c');
        self.cluster.ctl(&["volume", "clone", &parent, &clone]).success();
        // Its writes have numbers of their own.
        let history = Some(History::going_on(shown, self.made << 32));
        let volume = Volume { history, snapshots: BTreeMap::new(), parent: Some(parent.clone()) };
        self.volumes.insert(clone.clone(), volume);
        round.did.push(format!("cloned {parent} to {clone}"));
    }

    /// Kills a random set of processes, starts the daemons again, and looks at everything.
    #[track_caller]
    fn kill(&mut self, mut round: Round) -> String {
        let set = match self.random.within(0..20) {
            all @ 16.. => all | 0b1111,
            some => some.max(1),
        };
        let daemons: Vec<usize> = (0..3).filter(|index| set & (1 << index) != 0).collect();
        let is_client_killed = set & 0b1000 != 0;
        if daemons.len() == 3 {
            self.cluster.kill9_all();
        } else {
            daemons.iter().for_each(|&index| self.cluster.kill9(index));
        }
        if is_client_killed {
            round.server.kill9();
        }
        self.cluster.restart_all();
        if !is_client_killed {
            // A pause, but no error.
            round.loads.values().for_each(|load| load.wait_for(20));
        }
        if let Some((mut process, snapshot, written)) = round.taking.take() {
            let is_certain = process.wait(COMMAND_BOUND) == 0;
            self.taken(&mut round, &snapshot, &written, is_certain, is_client_killed);
        }
        for (name, load) in std::mem::take(&mut round.loads) {
            let report = load.finish();
            assert_eq!(report.result.is_err(), is_client_killed, "{name}: {:?}", report.result);
            self.volumes.get_mut(&name).expect("a volume").history = Some(report.history);
        }
        if !is_client_killed {
            round.server.stop();
        }
        self.cluster.wait_for_peers(3);
        let killed = format!("killed daemons {daemons:?} and client: {is_client_killed}");
        round.did.push(killed);
        let did = round.did.join(", ");
        self.check_snapshots(&round.taken, &did);
        self.check_volumes(is_client_killed, &did);
        self.forget_a_clone();
        did
    }

    /// Reads all snapshots, in a process of their own.
    #[track_caller]
    fn check_snapshots(&mut self, taken: &[Taken], did: &str) {
        let mut names = Vec::new();
        for volume in self.volumes.keys() {
            let snapshots = self.cluster.snapshots(volume);
            names.extend(snapshots.into_iter().map(|snapshot| (volume.clone(), snapshot)));
        }
        let full: Vec<_> = names.iter().map(|(volume, name)| format!("{volume}@{name}")).collect();
        let full: Vec<&str> = full.iter().map(String::as_str).collect();
        let server = (!full.is_empty()).then(|| self.cluster.serve_all(&full));
        for ((name, snapshot), full) in names.iter().zip(full) {
            let volume = self.volumes.get_mut(name).expect("a volume");
            let history = volume.history.as_ref().expect("nobody goes on with it");
            let mut client = server.as_ref().expect("it serves").connect_to(full).unwrap();
            assert!(client.is_read_only(), "{full}");
            let shown = history.read(&mut client);
            let shown = shown.unwrap_or_else(|err| panic!("{full}: {err}; {did}"));
            self.snapshots_read += 1;
            if let Some(known) = volume.snapshots.get(snapshot) {
                assert!(*known == shown, "{full} has changed; {did}");
                continue;
            }
            let of = |it: &&Taken| it.volume == *name && it.snapshot == *snapshot;
            let taken = taken.iter().find(of);
            let taken = taken.unwrap_or_else(|| panic!("nobody took {full}; {did}"));
            let shows = match &taken.moment {
                Some(moment) => history.check_snapshot(&shown, moment.clone()),
                None => history.check_recovered(&shown),
            };
            shows.unwrap_or_else(|err| panic!("{full}: {err}; {did}"));
            volume.snapshots.insert(snapshot.clone(), shown);
        }
        let is_there = |name: &String, snapshot: &String| {
            names.iter().any(|(volume, it)| (volume, it) == (name, snapshot))
        };
        for Taken { volume, snapshot, .. } in taken.iter().filter(|it| it.is_certain) {
            assert!(is_there(volume, snapshot), "{volume}@{snapshot} is gone; {did}");
        }
        for (name, volume) in &self.volumes {
            let lost = volume.snapshots.keys().find(|&snapshot| !is_there(name, snapshot));
            assert_eq!(lost, None, "of {name}; {did}");
        }
        if let Some(server) = server {
            server.stop();
        }
    }

    /// Reads all volumes, and holds them against what was written.
    #[track_caller]
    fn check_volumes(&mut self, was_killed: bool, did: &str) {
        let names: Vec<&str> = self.volumes.keys().map(String::as_str).collect();
        let server = self.cluster.serve_all(&names);
        for (name, volume) in &mut self.volumes {
            let history = volume.history.as_mut().expect("nobody goes on with it");
            let before = history.known();
            let prefix = history.check(&mut server.connect_to(name).unwrap());
            let prefix = prefix.unwrap_or_else(|err| panic!("{name}: {err}; {did}"));
            assert!(was_killed || prefix.last == prefix.issued, "{name}: {prefix:?}; {did}");
            self.writes += prefix.issued - before;
            self.flushed += prefix.flushed - before;
        }
        server.stop();
    }

    /// Deletes a volume that no other was made from, when there are enough.
    #[track_caller]
    fn forget_a_clone(&mut self) {
        if self.volumes.len() < VOLUMES_MAX || self.random.within(0..2) == 0 {
            return;
        }
        let (name, _) = self.volumes.first_key_value().expect("the disk at least");
        let parents: Vec<_> = self.volumes.values().filter_map(|it| it.parent.clone()).collect();
        let is_parent = parents.iter().any(|it| it.starts_with(&format!("{name}@")));
        let name = name.clone();
        if name != DISK && !is_parent {
            self.cluster.ctl(&["volume", "delete", "--force", &name]).success();
            self.volumes.remove(&name);
        }
    }

    /// Deletes everything, and waits until no block is left.
    #[track_caller]
    pub(super) fn end(mut self) {
        while !self.volumes.is_empty() {
            let before = self.volumes.len();
            let cluster = &self.cluster;
            self.volumes
                .retain(|name, _| cluster.ctl(&["volume", "delete", "--force", name]).code != 0);
            assert!(self.volumes.len() < before, "no volume can be deleted");
        }
        self.cluster.wait_for_space(0);
    }
}
