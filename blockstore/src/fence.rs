//! The newest epoch that this peer has seen of each volume, kept over restarts: what stops a writer
//! whose volume was taken over.
//!
//! An append is let in by [`FenceTable::admit`] and holds its [`Admission`] while it writes. A
//! [`raise`](FenceTable::raise) waits for the older ones inside, so that what a new owner reads
//! after its raise was answered is all that the old one will ever have written here.
//!
//! An epoch keeps older ones out as soon as it is being raised, and counts for nothing else before
//! it is durable: a restart could forget it.
//!
//! `block/fence-current.log` is a row of 32-byte records, integers little-endian; none crosses a
//! sector. The first is the head:
//!
//! | offset | size | field   | meaning                         |
//! |-------:|-----:|---------|---------------------------------|
//! |      0 |    8 | magic   | `TORUSFNC`                      |
//! |      8 |    4 | version | 1                               |
//! |     12 |   16 |         | zero                            |
//! |     28 |    4 | crc     | CRC-32 (IEEE) of all before it  |
//!
//! and each further one a raised epoch; the highest of a volume counts:
//!
//! | offset | size | field   | meaning                         |
//! |-------:|-----:|---------|---------------------------------|
//! |      0 |    8 | volume  | [`VolumeId`]                    |
//! |      8 |    8 | epoch   | [`Epoch`]                       |
//! |     16 |    8 | number  | of the record, from 1           |
//! |     24 |    4 |         | zero                            |
//! |     28 |    4 | crc     | CRC-32 (IEEE) of all before it  |
//!
//! A record is synced before the next is written. So only the last can be torn, and nobody was
//! told of it: it is dropped. Anything else that is no record is damage, and the table is refused:
//! to forget an epoch is to let two writers in.
//!
//! After a failed sync the cache may show a record that the medium lacks, and a later sync of the
//! same file says nothing about it. So the table takes no more raises then, and is written to a new
//! file whenever it is opened: what is believed from then on was synced by this process.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::disk::{Disk, DiskFile, read_file, replace_file, write_file};
use crate::field::u64_at;
use crate::identity::check_head;
use crate::{Epoch, Error, PeerIdentity, VolumeId};

const MAGIC: &[u8; 8] = b"TORUSFNC";
const VERSION: u32 = 1;
const FILE: &str = "fence-current.log";
const VOLUME: usize = 0;
const EPOCH: usize = 8;
const NUMBER: usize = 16;
const ZERO: usize = 24;
const CRC: usize = ZERO + size_of::<u32>();
const LEN: usize = CRC + size_of::<u32>();
/// A table of this size has seen every volume of 32 million; a longer file is not ours.
const LIMIT: usize = 1 << 30;

type Record = [u8; LEN];

/// The newest epoch of each volume.
pub struct FenceTable {
    gates: Mutex<BTreeMap<VolumeId, Gate>>,
    /// Told when an admission ends.
    left: Condvar,
    log: Mutex<Log>,
}

#[derive(Default)]
struct Gate {
    newest: Epoch,
    /// As of [`Log::durable`].
    durable: Epoch,
    /// How many are inside, by epoch.
    inside: BTreeMap<Epoch, usize>,
}

/// What is durable.
struct Log {
    /// `None`: in memory only.
    file: Option<(Box<dyn DiskFile>, PathBuf)>,
    records: u64,
    durable: BTreeMap<VolumeId, Epoch>,
    poisoned: bool,
}

/// Leave to append: the volume's epoch is not raised while it lasts. Not to be held while waiting
/// for anything but the write itself.
pub struct Admission<'a> {
    table: &'a FenceTable,
    volume: VolumeId,
    epoch: Epoch,
}

impl FenceTable {
    /// A table that the process takes with it.
    pub fn in_memory() -> Self {
        Self::with(BTreeMap::new(), None, 0)
    }

    /// The table of a data directory, which [`Mfile::open`](crate::Mfile::open) has made.
    pub fn open(identity: &PeerIdentity) -> Result<Self, Error> {
        let path = identity.block_dir().join(FILE);
        let disk = &**identity.disk();
        if !disk.exists(&path).map_err(Error::io("look for", &path))? {
            return Err(Error::Damaged { path, what: "it is missing" });
        }
        let bytes = read_file(disk, &path, LIMIT)?;
        let (durable, _) = decode(&path, &bytes)?;
        replace_file(disk, &path, &encode(&durable))?;
        let file = disk.open(&path).map_err(Error::io("open", &path))?;
        let records = durable.len() as u64;
        Ok(Self::with(durable, Some((file, path)), records))
    }

    /// Makes an empty table in a directory; its name is durable when the directory is synced.
    pub(crate) fn create(disk: &dyn Disk, dir: &Path) -> Result<(), Error> {
        write_file(disk, &dir.join(FILE), &encode(&BTreeMap::new()))
    }

    fn with(
        durable: BTreeMap<VolumeId, Epoch>,
        file: Option<(Box<dyn DiskFile>, PathBuf)>,
        records: u64,
    ) -> Self {
        let gate = |newest| Gate { newest, durable: newest, inside: BTreeMap::new() };
        let gates = durable.iter().map(|(&volume, &epoch)| (volume, gate(epoch))).collect();
        let log = Log { file, records, durable, poisoned: false };
        Self { gates: Mutex::new(gates), left: Condvar::new(), log: Mutex::new(log) }
    }

    /// The newest epoch seen of a volume; 0 if none was.
    pub fn newest(&self, volume: VolumeId) -> Epoch {
        self.gates().get(&volume).map_or(Epoch(0), |gate| gate.newest)
    }

    /// Whether a raise of `volume` to `epoch` or higher has succeeded.
    pub fn is_raised(&self, volume: VolumeId, epoch: Epoch) -> bool {
        self.gates().get(&volume).map_or(Epoch(0), |gate| gate.durable) >= epoch
    }

    /// Whether `epoch` is not older than the newest one, which an error tells. The answer may be
    /// out of date at once: an append needs [`admit`](Self::admit).
    pub fn check(&self, volume: VolumeId, epoch: Epoch) -> Result<(), Epoch> {
        let newest = self.newest(volume);
        if newest <= epoch { Ok(()) } else { Err(newest) }
    }

    /// As [`check`](Self::check), and keeps newer epochs out until the admission is dropped. What is
    /// written under it outlives a restart: see to it first that `epoch`
    /// [`is_raised`](Self::is_raised).
    pub fn admit(&self, volume: VolumeId, epoch: Epoch) -> Result<Admission<'_>, Epoch> {
        let mut gates = self.gates();
        let gate = gates.entry(volume).or_default();
        if epoch < gate.newest {
            return Err(gate.newest);
        }
        *gate.inside.entry(epoch).or_default() += 1;
        Ok(Admission { table: self, volume, epoch })
    }

    /// Refuses epochs of `volume` below `epoch` from now on and after any restart. Returns the
    /// newest epoch: a higher one means that the caller is itself fenced.
    pub fn raise(&self, volume: VolumeId, epoch: Epoch) -> Result<Epoch, Error> {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.check()?;
        let newest = self.shut(volume, epoch);
        log.keep(volume, newest)?;
        self.gates().entry(volume).or_default().durable = newest;
        Ok(newest)
    }

    /// Lets no older epoch in, and waits until those inside have left.
    fn shut(&self, volume: VolumeId, epoch: Epoch) -> Epoch {
        let mut gates = self.gates();
        loop {
            let gate = gates.entry(volume).or_default();
            gate.newest = gate.newest.max(epoch);
            let newest = gate.newest;
            if gate.inside.keys().all(|&inside| newest <= inside) {
                return newest;
            }
            gates = self.left.wait(gates).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn gates(&self) -> MutexGuard<'_, BTreeMap<VolumeId, Gate>> {
        self.gates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        let mut gates = self.table.gates();
        let gate = gates.entry(self.volume).or_default();
        let newest = gate.newest;
        if let Some(count) = gate.inside.get_mut(&self.epoch) {
            *count -= 1;
            if *count == 0 {
                gate.inside.remove(&self.epoch);
                // Only a raise waits, and only for older ones.
                if self.epoch < newest {
                    self.table.left.notify_all();
                }
            }
        }
    }
}

impl Log {
    fn check(&self) -> Result<(), Error> {
        match &self.file {
            Some((_, path)) if self.poisoned => Err(Error::Poisoned { path: path.clone() }),
            _ => Ok(()),
        }
    }

    fn keep(&mut self, volume: VolumeId, epoch: Epoch) -> Result<(), Error> {
        if self.durable.get(&volume).is_some_and(|&durable| epoch <= durable) {
            return Ok(());
        }
        if let Some((file, path)) = &self.file {
            let number = self.records + 1;
            // If this fails, the next record is written over what it left.
            file.write_at(number * LEN as u64, &encode_record(volume, epoch, number))
                .map_err(Error::io("write", path))?;
            let synced = file.sync();
            self.poisoned = synced.is_err();
            synced.map_err(Error::io("sync", path))?;
            self.records = number;
        }
        self.durable.insert(volume, epoch);
        Ok(())
    }
}

fn encode(epochs: &BTreeMap<VolumeId, Epoch>) -> Vec<u8> {
    let mut head = [0; LEN];
    head[..8].copy_from_slice(MAGIC);
    head[8..12].copy_from_slice(&VERSION.to_le_bytes());
    let mut bytes = finish(head).to_vec();
    for ((&volume, &epoch), number) in epochs.iter().zip(1..) {
        bytes.extend(encode_record(volume, epoch, number));
    }
    bytes
}

fn encode_record(volume: VolumeId, epoch: Epoch, number: u64) -> Record {
    let mut record = [0; LEN];
    record[VOLUME..EPOCH].copy_from_slice(&volume.get().to_le_bytes());
    record[EPOCH..NUMBER].copy_from_slice(&epoch.0.to_le_bytes());
    record[NUMBER..ZERO].copy_from_slice(&number.to_le_bytes());
    finish(record)
}

fn finish(mut record: Record) -> Record {
    let crc = crc32fast::hash(&record[..CRC]);
    record[CRC..].copy_from_slice(&crc.to_le_bytes());
    record
}

/// The epochs of a file and how many records it has.
fn decode(path: &Path, bytes: &[u8]) -> Result<(BTreeMap<VolumeId, Epoch>, usize), Error> {
    check_head(path, &bytes[..bytes.len().min(LEN)], MAGIC, VERSION, LEN)?;
    let mut epochs = BTreeMap::new();
    let records: Vec<&[u8]> = bytes[LEN..].chunks(LEN).collect();
    for (index, (record, number)) in records.iter().zip(1..).enumerate() {
        let Some((volume, epoch)) = decode_record(record, number) else {
            if index + 1 < records.len() {
                let what = "a record before the last has a wrong checksum";
                return Err(Error::Damaged { path: path.to_owned(), what });
            }
            return Ok((epochs, index));
        };
        let newest = epochs.entry(volume).or_insert(epoch);
        *newest = epoch.max(*newest);
    }
    Ok((epochs, records.len()))
}

fn decode_record(record: &[u8], number: u64) -> Option<(VolumeId, Epoch)> {
    let record: &Record = record.try_into().ok()?;
    if *record != finish(*record) || u64_at(record, NUMBER) != number {
        return None;
    }
    Some((VolumeId::new(u64_at(record, VOLUME))?, Epoch(u64_at(record, EPOCH))))
}

#[cfg(test)]
mod tests;
