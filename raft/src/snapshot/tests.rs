//! The bytes of a snapshot file, and that no damaged one is accepted.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;
use std::path::PathBuf;

use openraft::BasicNode;
use tempfile::TempDir;

use super::Shelf;
use crate::config::{LeaderId, LogId, Membership, SnapshotMeta, StoredMembership};
use crate::error::{Error, SnapshotError};

const CLUSTER: [u8; 16] = [7; 16];

fn meta(index: u64) -> SnapshotMeta {
    let id = LogId::new(LeaderId { term: 3, node_id: 1 }, index);
    let nodes = BTreeMap::from([(1, BasicNode { addr: "a:1".to_owned() })]);
    let membership = Membership::new(vec![BTreeSet::from([1])], nodes).unwrap();
    let last_membership = StoredMembership::new(Some(id), membership);
    SnapshotMeta { last_log_id: Some(id), last_membership }
}

fn shelf(dir: &TempDir) -> Result<Shelf, Error> {
    Shelf::open(dir.path(), CLUSTER, crate::storage::Blocking::Threads)
}

fn write(shelf: &Shelf, index: u64, body: &'static [u8]) {
    shelf.write(&meta(index), Box::new(move |out| out.write_all(body))).unwrap();
}

fn files(dir: &TempDir) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn golden_bytes() {
    let dir = TempDir::new().unwrap();
    write(&shelf(&dir).unwrap(), 42, b"state");
    let files = files(&dir);
    let name = "00000000000000000042-00000000000000000003.snapshot";
    assert_eq!(files, [dir.path().join(name)]);
    #[rustfmt::skip]
    let header = [
        0x0a, 16, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
        0x12, 6, 0x08, 3, 0x10, 1, 0x18, 42,
        0x1a, 6, 0x08, 3, 0x10, 1, 0x18, 42,
        0x22, 14, 0x0a, 3, 0x0a, 1, 1, 0x12, 7, 0x08, 1, 0x12, 3, b'a', b':', b'1',
    ];
    let mut expected = b"TorusSnp".to_vec();
    expected.extend([1, 0, 0, 0, 50, 0, 0, 0]);
    expected.extend(header);
    expected.extend(b"state");
    expected.extend([5, 0, 0, 0, 0, 0, 0, 0]);
    expected.extend(crc32fast::hash(&expected).to_le_bytes());
    assert_eq!(fs::read(&files[0]).unwrap(), expected);
}

#[test]
fn the_newest_comes_back_and_the_older_ones_are_gone() {
    let dir = TempDir::new().unwrap();
    {
        let shelf = shelf(&dir).unwrap();
        write(&shelf, 5, b"five");
        write(&shelf, 9, b"nine");
        write(&shelf, 7, b"late");
        assert_eq!(shelf.last_index(), Some(9));
    }
    assert_eq!(files(&dir).len(), 1);
    fs::write(dir.path().join("3.tmp"), b"half a draft").unwrap();
    let (found, snapshot) = shelf(&dir).unwrap().open_current().unwrap().unwrap();
    assert_eq!(found, meta(9));
    let mut body = String::new();
    super::body(&snapshot.file).unwrap().read_to_string(&mut body).unwrap();
    assert_eq!(body, "nine");
    assert_eq!(files(&dir).len(), 1);
}

#[test]
fn every_flipped_bit_and_every_cut_is_refused() {
    let dir = TempDir::new().unwrap();
    write(&shelf(&dir).unwrap(), 42, b"state");
    let path = files(&dir).remove(0);
    let intact = fs::read(&path).unwrap();
    for at in 0..intact.len() {
        for bit in 0..8 {
            let mut damaged = intact.clone();
            damaged[at] ^= 1 << bit;
            fs::write(&path, damaged).unwrap();
            let found = shelf(&dir).err();
            assert!(matches!(found, Some(Error::SnapshotCorrupt { .. })), "byte {at} bit {bit}");
        }
        fs::write(&path, &intact[..at]).unwrap();
        let found = shelf(&dir).err();
        assert!(matches!(found, Some(Error::SnapshotCorrupt { .. })), "cut at {at}");
    }
    fs::write(&path, intact).unwrap();
    shelf(&dir).unwrap();
}

#[test]
fn a_snapshot_of_another_group_is_refused() {
    let dir = TempDir::new().unwrap();
    write(&shelf(&dir).unwrap(), 42, b"state");
    let file = File::open(files(&dir).remove(0)).unwrap();
    assert!(matches!(super::read_meta(&file, [8; 16]), Err(SnapshotError::Group)));
}

#[test]
fn a_dropped_draft_leaves_nothing() {
    let dir = TempDir::new().unwrap();
    let shelf = shelf(&dir).unwrap();
    drop(shelf.draft().unwrap());
    assert!(files(&dir).is_empty());
}
