//! Backups.

use super::*;
use crate::wire::{decode_backup, write_backup};
use crate::{BackupError, BackupInfo, FeatureLevel};

fn info() -> BackupInfo {
    BackupInfo {
        cluster: uuid::Uuid::from_u128(0xc1),
        generation: 1,
        revision: Revision(300),
        term: 4,
        index: 5,
        created_ms: 6,
        level: FeatureLevel(2),
    }
}

fn backup(machine: &Machine) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_backup(info(), Image::of(machine), &mut bytes).unwrap();
    bytes
}

#[test]
fn golden_backup() {
    let mut machine = Machine::default();
    machine.change(1, fixtures::init()).unwrap();
    expect!["544f52555342414b010000001f0000000a10000000000000000000000000000000c1100118ac022004280530063802544f5255534d4453010000002c0000000a2a080112200a10000000000000000000000000000000c1108080201a086372632c62617365200150015801080000001206080110041802000000008815a87c5000000000000000c7cdbd60"].assert_eq(&hex(&backup(&machine)));
}

#[test]
fn a_backup_has_everything_but_the_history() {
    let machine = example();
    let read = decode_backup(&backup(&machine)).unwrap();
    assert_eq!((read.info, read.state()), (info(), &machine.state));
    assert_eq!(read.machine.answered, machine.answered);
}

#[test]
fn every_damaged_byte_of_a_backup_is_noticed() {
    let bytes = backup(&example());
    for index in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[index] ^= 1;
        assert!(decode_backup(&damaged).is_err(), "byte {index}");
        assert!(decode_backup(&bytes[..index]).is_err(), "cut at {index}");
    }
    let check = |bytes: &[u8], expected: &str| {
        assert_eq!(decode_backup(bytes).unwrap_err().to_string(), expected);
    };
    check(b"something else that is long enough to be one", "this is no backup of the metadata");
    let mut later = bytes;
    later[8] = 2;
    check(&later, "the backup's format is 2; this version reads 1");
    assert!(matches!(
        decode_backup(&backup(&Machine::default())),
        Err(BackupError::NotInitialised)
    ));
}

#[test]
fn a_state_of_a_later_feature_level_is_refused() {
    let mut machine = example();
    machine.state.level = FeatureLevel(FeatureLevel::OWN.0 + 1);
    let refused = read_snapshot(&mut &*snapshot(&machine)).unwrap_err().to_string();
    assert_eq!(refused, "it is of feature level 3, and this version of Torus knows 2");
    let later = FeatureLevel(FeatureLevel::OWN.0 + 1);
    assert!(decode_proposal(&encode_proposal(Proposal::RaiseLevel(later))).is_err());
    let own = Proposal::RaiseLevel(FeatureLevel::OWN);
    assert_eq!(decode_proposal(&encode_proposal(own.clone())), Ok(own));
}

/// As it was written before there were generations and levels.
#[test]
fn an_older_snapshot_is_of_the_first_generation_and_level() {
    let old = "544f5255534d445301000000280000000a26080112200a10000000000000000000000000000000c1\
               108080201a086372632c62617365200108000000120608011004180200000000090dfc3b";
    let bytes: Vec<u8> = (0..old.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&old[at..at + 2], 16).unwrap())
        .collect();
    let read = read_snapshot(&mut &*bytes).unwrap();
    let mut machine = Machine::default();
    machine.change(1, fixtures::init()).unwrap();
    assert_eq!(read.state, machine.state);
    assert_eq!((read.state.generation(), read.state.level()), (1, FeatureLevel(1)));
}
