//! Clients that work on registers, counters and the ring, and record what they asked and were told.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio_util::sync::CancellationToken;
use torus_blockstore::{Epoch, PeerId, VolumeId};
use torus_metadata::{
    Answer, Applied, Client, Command, Error, MetadataService, Outcome, Query, Refusal, Revision,
    Ring, RingKind, RingMember, RingVersion, Volume,
};

use super::model::{Input, Output};
use super::record::{Object, Record};
use super::search::Operation;
use super::watchers::Expected;
use crate::history::Random;

/// The longest pause between two operations of a client.
const PAUSE_MS: u64 = 40;
/// How long a client waits for an answer; then it goes on, and never learns what came of it.
const DEADLINES_MS: [u64; 3] = [1_500, 4_000, 10_000];
const COUNT_MAX: u64 = 1000;

/// The volumes of one stretch of time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stretch {
    pub(super) register: VolumeId,
    pub(super) counter: VolumeId,
    pub(super) lock: VolumeId,
}

/// What all clients of a run share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) record: Record,
    pub(super) addresses: Vec<String>,
    pub(super) stretches: Vec<Stretch>,
    pub(super) stretch: Duration,
    /// Names the ring's only member.
    pub(super) peer: PeerId,
    pub(super) stop: CancellationToken,
}

impl Shared {
    /// The present stretch and its number; the last one goes on for ever.
    pub(super) fn now(&self) -> (usize, Stretch) {
        let passed = u128::from(self.record.now()) / self.stretch.as_nanos();
        let last = self.stretches.len() - 1;
        let number = usize::try_from(passed).unwrap_or(last).min(last);
        (number, self.stretches[number])
    }

    /// Waits, unless the run is over; whether it is.
    pub(super) async fn pause(&self, time: Duration) -> bool {
        self.stop.run_until_cancelled(tokio::time::sleep(time)).await.is_none()
    }
}

/// One client. It knows one address at first, and a number that no other has.
pub(super) struct Worker {
    shared: Arc<Shared>,
    number: u64,
    random: Random,
    client: Client,
    /// Knows no leader, so it reads from whatever member its turn is.
    reader: Client,
    /// Makes each value that it writes unique.
    written: u64,
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>, number: u64, seed: u64) -> Self {
        let index = usize::try_from(number).unwrap_or(0) % shared.addresses.len();
        let known = || Client::new([shared.addresses[index].clone()]);
        let (client, reader) = (known(), known());
        Self { shared, number, random: Random(seed), client, reader, written: 0 }
    }

    /// Works until the run is over.
    pub(super) async fn run(mut self) {
        loop {
            let (number, stretch) = self.shared.now();
            let (register, counter) = (Object::Register(number), Object::Counter(number));
            match self.random.within(0..100) {
                0..20 => self.write(register, stretch.register).await,
                20..45 => self.read(register, stretch.register).await,
                45..60 => self.add(counter, stretch.counter).await,
                60..70 => self.read(counter, stretch.counter).await,
                70..85 => self.swap().await,
                85..98 => drop(self.read_ring().await),
                _ => self.turn().await,
            }
            let pause = Duration::from_millis(self.random.within(0..PAUSE_MS));
            if self.shared.pause(pause).await {
                return;
            }
        }
    }

    async fn write(&mut self, object: Object, volume: VolumeId) {
        let size = self.unique();
        let command = Command::ResizeVolume { volume, epoch: Some(Epoch(0)), size, ask: None };
        let expected = Expected::Size { volume, size };
        self.command(object, Input::Write(size), command, |outcome| match outcome {
            Ok(Outcome::Done) => Some((Output::Done, Some(expected))),
            _ => None,
        })
        .await;
    }

    async fn add(&mut self, object: Object, volume: VolumeId) {
        let count = self.random.within(1..COUNT_MAX);
        let command = Command::ReserveINodes { volume, epoch: Epoch(0), count };
        self.command(object, Input::Add(count), command, |outcome| match outcome {
            Ok(Outcome::INode(first)) => {
                let last = first.0 + count - 1;
                Some((Output::First(first.0), Some(Expected::Reserved { volume, last })))
            }
            _ => None,
        })
        .await;
    }

    async fn read(&mut self, object: Object, volume: VolumeId) {
        self.query(object, Query::VolumeById(volume), |answer| match (object, answer) {
            (Object::Register(_), Answer::Volume { volume: Some(volume), .. }) => {
                Some(Output::Value(volume.size))
            }
            (Object::Counter(_), Answer::Volume { volume: Some(volume), .. }) => {
                Some(Output::Value(volume.inode_index.0))
            }
            _ => None,
        })
        .await;
    }

    async fn read_ring(&mut self) -> Option<u64> {
        let seen = self.query(Object::Ring, Query::Ring(None), |answer| match answer {
            Answer::Ring { ring: Some(ring), .. } => {
                let weight = ring.members.first()?.weight;
                Some(Output::Ring { version: ring.version.0, weight })
            }
            _ => None,
        });
        match seen.await {
            Some(Output::Ring { version, .. }) => Some(version),
            _ => None,
        }
    }

    /// Compare-and-swap: reads the ring and puts the next one in its place.
    async fn swap(&mut self) {
        let Some(seen) = self.read_ring().await else { return };
        let (version, weight) = (seen + 1, self.unique());
        let ring = ring(self.shared.peer, version, weight);
        let input = Input::Swap { version, weight };
        self.command(Object::Ring, input, Command::SetRing(ring), |outcome| match outcome {
            Ok(Outcome::Done) => Some((Output::Done, Some(Expected::Ring { version, weight }))),
            Err(Refusal::RingVersion { current, .. }) => Some((Output::RingIsAt(current.0), None)),
            _ => None,
        })
        .await;
    }

    /// Has reads go to another member from now on; they stay with one that answers.
    async fn turn(&mut self) {
        let mut watch = self.reader.watch(Revision(u64::MAX), Vec::new());
        // Whatever it says, it was asked.
        drop(tokio::time::timeout(Duration::from_millis(100), watch.next()).await);
    }

    /// Larger than all sizes that others write, and used once.
    fn unique(&mut self) -> u64 {
        self.written += 1;
        (self.number + 1) << 32 | self.written
    }

    fn deadline(&mut self) -> Duration {
        let choice = usize::try_from(self.random.within(0..3)).unwrap_or(0);
        Duration::from_millis(DEADLINES_MS[choice])
    }

    async fn command(
        &mut self,
        object: Object,
        input: Input,
        command: Command,
        read: impl FnOnce(Result<Outcome, Refusal>) -> Option<(Output, Option<Expected>)>,
    ) {
        let deadline = self.deadline();
        let client = self.client.with_deadline(deadline);
        execute(&self.shared.record, &client, self.number, object, input, command, read).await;
    }

    async fn query(
        &mut self,
        object: Object,
        query: Query,
        read: impl FnOnce(Answer) -> Option<Output>,
    ) -> Option<Output> {
        let deadline = self.deadline();
        let client = self.reader.with_deadline(deadline);
        ask(&self.shared.record, &client, self.number, object, query, read).await
    }
}

/// The ring with one member, whose weight is the value.
pub(super) fn ring(peer: PeerId, version: u64, weight: u64) -> Ring {
    let members = vec![RingMember { peer, weight, zone: String::new() }];
    Ring { version: RingVersion(version), kind: RingKind::Mod, replication: 1, members }
}

/// Gives a command and records it; `None` if it was not answered.
pub(super) async fn execute(
    record: &Record,
    client: &Client,
    number: u64,
    object: Object,
    input: Input,
    command: Command,
    read: impl FnOnce(Result<Outcome, Refusal>) -> Option<(Output, Option<Expected>)>,
) -> Option<Output> {
    let call = record.now();
    let result = client.execute(command).await;
    let (outcome, applied) = match result {
        Ok(Applied { revision, outcome }) => {
            let applied = Applied { revision, outcome: Outcome::Done };
            (Ok(outcome), Some(applied))
        }
        Err(Error::Refused(refusal)) => (Err(refusal), None),
        // The member that was asked had been taken out, or none was in reach.
        Err(Error::Unavailable { .. } | Error::NotInitialised { .. }) => {
            record.add(object, Operation { client: number, call, input, answer: None });
            return None;
        }
        Err(error) => {
            record.odd(format!("{object}: {input:?} failed: {error}"));
            return None;
        }
    };
    let said = format!("{outcome:?}");
    let Some((output, expected)) = read(outcome) else {
        record.odd(format!("{object}: {input:?} was answered by {said}"));
        return None;
    };
    if let Some(applied) = applied {
        record.stamp(call, &applied, expected);
    }
    let answer = Some((record.now(), output.clone()));
    record.add(object, Operation { client: number, call, input, answer });
    Some(output)
}

/// Reads and records it; `None` if it was not answered.
pub(super) async fn ask(
    record: &Record,
    client: &Client,
    number: u64,
    object: Object,
    query: Query,
    read: impl FnOnce(Answer) -> Option<Output>,
) -> Option<Output> {
    let (call, input) = (record.now(), Input::Read);
    let answer = match client.query(query).await {
        Ok(answer) => answer,
        Err(Error::Unavailable { .. } | Error::NotInitialised { .. }) => {
            record.add(object, Operation { client: number, call, input, answer: None });
            return None;
        }
        Err(error) => {
            record.odd(format!("{object} could not be read: {error}"));
            return None;
        }
    };
    record.stamp_read(call, &answer);
    let said = format!("{answer:?}");
    let Some(output) = read(answer) else {
        record.odd(format!("{object} was read as {said}"));
        return None;
    };
    let answer = Some((record.now(), output.clone()));
    record.add(object, Operation { client: number, call, input, answer });
    Some(output)
}

/// Makes a volume; only before any harm is done.
pub(super) async fn create(client: &Client, name: String) -> Result<Volume, String> {
    let command = Command::CreateVolume { name, size: super::record::FIRST_VALUE, spec: None };
    match client.execute(command).await {
        Ok(Applied { outcome: Outcome::Volume(volume), .. }) => Ok(volume),
        other => Err(format!("no volume, but {other:?}")),
    }
}
