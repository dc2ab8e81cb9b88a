//! The fence table on a disk that crashes and fails, and its bytes.

use std::sync::Arc;
use std::sync::mpsc;

use super::*;
use crate::disk::{Fault, SimDisk};
use crate::{Mfile, MfileOptions, PeerId};

fn volume(raw: u64) -> VolumeId {
    VolumeId::new(raw).unwrap()
}

fn path() -> PathBuf {
    Path::new("/data/block").join(FILE)
}

fn identity(disk: &SimDisk) -> Result<Arc<PeerIdentity>, Error> {
    let peer = PeerId(uuid::Uuid::from_u128(1));
    PeerIdentity::open(disk.shared(), Path::new("/data"), peer).map(Arc::new)
}

fn new_disk() -> SimDisk {
    let disk = SimDisk::new(1, 1 << 20);
    let options = MfileOptions { block_size: 512, capacity_bytes: 512 };
    Mfile::open(identity(&disk).unwrap(), options).unwrap();
    disk
}

fn open(disk: &SimDisk) -> Result<FenceTable, Error> {
    FenceTable::open(&*identity(disk)?)
}

#[test]
fn golden_bytes() {
    let record = encode_record(volume(5), Epoch(7), 9);
    #[rustfmt::skip]
    let bytes = [
        5, 0, 0, 0, 0, 0, 0, 0,
        7, 0, 0, 0, 0, 0, 0, 0,
        9, 0, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 0,
    ];
    assert_eq!(record[..CRC], bytes);
    assert_eq!(record[CRC..], crc32fast::hash(&bytes).to_le_bytes());
    let epochs = BTreeMap::from([(volume(5), Epoch(7)), (volume(6), Epoch(1))]);
    let file = encode(&epochs);
    assert_eq!(file[..12], *b"TORUSFNC\x01\0\0\0");
    assert_eq!(decode(Path::new("f"), &file).unwrap(), (epochs, 2));
}

#[test]
fn every_flipped_byte_is_refused_or_drops_the_last_record() {
    let epochs = BTreeMap::from([(volume(5), Epoch(7)), (volume(6), Epoch(1))]);
    let file = encode(&epochs);
    for index in 0..file.len() {
        let mut bytes = file.clone();
        bytes[index] ^= 0x20;
        match decode(Path::new("f"), &bytes) {
            Err(_) => assert!(index < 2 * LEN),
            Ok((found, 1)) => assert!(2 * LEN <= index && found.len() == 1),
            Ok(found) => panic!("{found:?}"),
        }
    }
    for len in 0..file.len() {
        match decode(Path::new("f"), &file[..len]) {
            Err(_) => assert!(len < LEN),
            Ok((_, records)) => assert_eq!(records, len / LEN - 1),
        }
    }
}

#[test]
fn older_epochs_are_refused() {
    for table in [FenceTable::in_memory(), open(&new_disk()).unwrap()] {
        assert_eq!(table.check(volume(1), Epoch(0)), Ok(()));
        assert_eq!(table.raise(volume(1), Epoch(3)).unwrap(), Epoch(3));
        assert_eq!(table.raise(volume(1), Epoch(2)).unwrap(), Epoch(3));
        assert_eq!(table.check(volume(1), Epoch(2)), Err(Epoch(3)));
        assert_eq!(table.admit(volume(1), Epoch(2)).err(), Some(Epoch(3)));
        assert_eq!(table.check(volume(1), Epoch(3)), Ok(()));
        assert_eq!(table.check(volume(2), Epoch(1)), Ok(()));
        drop(table.admit(volume(1), Epoch(3)).unwrap());
        assert_eq!(table.newest(volume(1)), Epoch(3));
    }
}

#[test]
fn a_raise_waits_for_older_appends() {
    let table = FenceTable::in_memory();
    let (told, raised) = mpsc::channel();
    std::thread::scope(|scope| {
        let older = table.admit(volume(1), Epoch(1)).unwrap();
        let newer = table.admit(volume(1), Epoch(2)).unwrap();
        let other = table.admit(volume(2), Epoch(1)).unwrap();
        scope.spawn(|| told.send(table.raise(volume(1), Epoch(2)).unwrap()).unwrap());
        while table.newest(volume(1)) != Epoch(2) {
            std::thread::yield_now();
        }
        assert!(table.admit(volume(1), Epoch(1)).is_err());
        assert!(!table.is_raised(volume(1), Epoch(2)));
        assert!(raised.try_recv().is_err(), "an older append is inside");
        drop(older);
        assert_eq!(raised.recv().unwrap(), Epoch(2));
        drop((newer, other));
    });
}

#[test]
fn a_raise_that_was_answered_survives_a_crash() {
    let base = new_disk();
    for operations in 0.. {
        let disk = base.after_crash(1);
        let mut told = BTreeMap::new();
        let mut asked = BTreeMap::new();
        let mut raise = |table: &FenceTable, number: u64, epoch: u64| -> Result<(), Error> {
            asked.insert(number, epoch);
            table.raise(volume(number), Epoch(epoch))?;
            told.insert(number, epoch);
            Ok(())
        };
        disk.crash_after(operations);
        let run = || -> Result<(), Error> {
            let table = open(&disk)?;
            for (number, epoch) in [(1, 1), (2, 5), (1, 2), (1, 3), (3, 1)] {
                raise(&table, number, epoch)?;
            }
            drop(table);
            let table = open(&disk)?;
            raise(&table, 2, 9)
        };
        let done = { run }().is_ok();
        for seed in 0..8 {
            let table = open(&disk.after_crash(seed)).unwrap();
            for (&number, &asked) in &asked {
                let newest = table.newest(volume(number)).0;
                let least = told.get(&number).copied().unwrap_or(0);
                assert!((least..=asked).contains(&newest), "volume {number}: {newest}");
            }
        }
        if done {
            return;
        }
    }
}

#[test]
fn opening_makes_the_log_short() {
    let disk = new_disk();
    let table = open(&disk).unwrap();
    for epoch in 1..100 {
        table.raise(volume(1), Epoch(epoch)).unwrap();
    }
    assert_eq!(disk.content(&path()).len(), 100 * LEN);
    drop(table);
    assert_eq!(open(&disk).unwrap().newest(volume(1)), Epoch(99));
    assert_eq!(disk.content(&path()).len(), 2 * LEN);
}

#[test]
fn after_a_failed_sync_no_raise_succeeds() {
    let disk = new_disk();
    let table = open(&disk).unwrap();
    table.raise(volume(1), Epoch(1)).unwrap();
    disk.fail(2, Fault::Io);
    table.raise(volume(1), Epoch(2)).unwrap_err();
    for epoch in 1..4 {
        let refused = table.raise(volume(1), Epoch(epoch)).unwrap_err();
        assert!(matches!(refused, Error::Poisoned { .. }));
    }
    // Older epochs stay out, and the one that failed is not taken for durable.
    assert_eq!(table.check(volume(1), Epoch(1)), Err(Epoch(2)));
    assert!(table.is_raised(volume(1), Epoch(1)));
    assert!(!table.is_raised(volume(1), Epoch(2)));
    drop(table);
    open(&disk).unwrap().raise(volume(1), Epoch(2)).unwrap();
}

#[test]
fn a_refused_write_is_an_error_for_that_raise_only() {
    let disk = new_disk();
    let table = open(&disk).unwrap();
    table.raise(volume(1), Epoch(1)).unwrap();
    for fault in [Fault::NoSpace, Fault::Io] {
        disk.fail(1, fault);
        table.raise(volume(2), Epoch(7)).unwrap_err();
        assert!(!table.is_raised(volume(2), Epoch(7)));
    }
    table.raise(volume(1), Epoch(2)).unwrap();
    assert_eq!(table.raise(volume(2), Epoch(1)).unwrap(), Epoch(7));
    let table = open(&disk.after_crash(0)).unwrap();
    assert_eq!((table.newest(volume(1)), table.newest(volume(2))), (Epoch(2), Epoch(7)));
}

#[test]
fn a_restart_after_a_failed_sync_does_not_believe_the_cache() {
    for seed in 0..32 {
        let disk = SimDisk::new(seed, 1 << 20);
        let options = MfileOptions { block_size: 512, capacity_bytes: 512 };
        Mfile::open(identity(&disk).unwrap(), options).unwrap();
        let table = open(&disk).unwrap();
        disk.fail(2, Fault::Io);
        table.raise(volume(1), Epoch(2)).unwrap_err();
        drop(table);
        // The process starts again on the same machine, whose cache has the record.
        let table = open(&disk).unwrap();
        let believed = table.newest(volume(1));
        let found = open(&disk.after_crash(0)).unwrap().newest(volume(1));
        assert_eq!(found, believed, "seed {seed}");
        table.raise(volume(1), Epoch(2)).unwrap();
        let found = open(&disk.after_crash(0)).unwrap().newest(volume(1));
        assert_eq!(found, Epoch(2));
    }
}

#[test]
fn damage_is_refused() {
    let disk = new_disk();
    let table = open(&disk).unwrap();
    table.raise(volume(1), Epoch(1)).unwrap();
    table.raise(volume(2), Epoch(1)).unwrap();
    drop(table);
    disk.corrupt(&path(), 40);
    let refused = open(&disk).err().unwrap().to_string();
    let expected = "/data/block/fence-current.log is damaged: \
                    a record before the last has a wrong checksum";
    assert_eq!(refused, expected);
    disk.remove(&path()).unwrap();
    assert!(matches!(open(&disk).err(), Some(Error::Damaged { what: "it is missing", .. })));
}
