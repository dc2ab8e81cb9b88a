//! The simulated disk itself: like a real file while nothing crashes, and as bad as allowed when
//! something does.

use proptest::prelude::{Strategy, any, prop, prop_assert_eq, prop_oneof, proptest};

use super::{Fault, SimDisk};
use crate::{Disk, DiskFile, OsDisk};
use std::path::Path;

const FILE: &str = "/dir/file";

fn disk_with_file() -> (SimDisk, Box<dyn DiskFile>) {
    let disk = SimDisk::new(7, 1 << 30);
    disk.create_dir(Path::new("/dir")).unwrap();
    let file = disk.create(Path::new(FILE)).unwrap();
    disk.sync_dir(Path::new("/dir")).unwrap();
    (disk, file)
}

fn content(disk: &SimDisk) -> Vec<u8> {
    disk.content(Path::new(FILE))
}

#[test]
fn a_crash_keeps_what_was_synced() {
    let (disk, file) = disk_with_file();
    file.write_at(0, &[1; 1024]).unwrap();
    file.sync().unwrap();
    file.write_at(0, &[2; 1024]).unwrap();
    assert_eq!(content(&disk), [2; 1024]);
    assert_eq!(content(&disk.after_crash(0)), [1; 1024], "nothing un-synced survives");
    assert_eq!(content(&disk.after_crash(1)), [2; 1024], "everything survives");
}

#[test]
fn sectors_survive_one_by_one() {
    let (disk, file) = disk_with_file();
    file.write_at(0, &[1; 1024]).unwrap();
    file.sync().unwrap();
    file.write_at(0, &[2; 1024]).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for seed in 2..50 {
        let after = content(&disk.after_crash(seed));
        let (first, second) = after.split_at(512);
        assert!(first.iter().all(|byte| *byte == first[0]), "a sector is never torn");
        seen.insert((first[0], second[0]));
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [(1, 1), (1, 2), (2, 1), (2, 2)]);
}

#[test]
fn a_failed_sync_is_told_once_and_loses_what_it_should_have_written() {
    let (disk, file) = disk_with_file();
    file.write_at(0, &[1; 4096]).unwrap();
    file.sync().unwrap();
    file.write_at(0, &[2; 4096]).unwrap();
    disk.fail(1, Fault::Io);
    assert_eq!(file.sync().unwrap_err().raw_os_error(), Some(libc::EIO));
    file.sync().unwrap();
    assert_eq!(content(&disk), [2; 4096], "the cache still has it");
    assert!(content(&disk.after_crash(1)).contains(&1), "the medium does not");
    file.evict(0..4096).unwrap();
    assert!(content(&disk).contains(&1), "and neither has the cache when it was dropped");
}

#[test]
fn names_last_when_their_directory_is_synced() {
    let (disk, _) = disk_with_file();
    let other = Path::new("/dir/other");
    disk.create(other).unwrap();
    assert!(!disk.after_crash(0).exists(other).unwrap());
    disk.sync_dir(Path::new("/dir")).unwrap();
    assert!(disk.after_crash(0).exists(other).unwrap());
    disk.rename(Path::new(FILE), other).unwrap();
    for seed in 0..20 {
        let after = disk.after_crash(seed);
        assert!(after.exists(other).unwrap(), "a rename leaves the old file or the new");
    }
}

#[test]
fn a_machine_that_is_off_answers_nothing() {
    let (disk, file) = disk_with_file();
    disk.crash_after(1);
    file.write_at(0, &[1; 512]).unwrap();
    file.sync().unwrap_err();
    file.read_at(0, &mut [0; 512]).unwrap_err();
    assert_eq!(content(&disk.after_crash(0)), []);
}

#[test]
fn a_full_disk_takes_no_more() {
    let disk = SimDisk::new(7, 1024);
    disk.create_dir(Path::new("/dir")).unwrap();
    let file = disk.create(Path::new(FILE)).unwrap();
    file.allocate(1024).unwrap();
    assert_eq!(file.allocate(1025).unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    file.write_at(0, &[1; 1024]).unwrap();
    assert_eq!(disk.free_space(Path::new("/")).unwrap(), 0);
}

#[derive(Clone, Debug)]
enum Step {
    Write(u64, Vec<u8>),
    Allocate(u64),
    Sync,
    Evict(u64, u64),
}

fn step() -> impl Strategy<Value = Step> {
    let offset = 0..3000_u64;
    prop_oneof![
        (offset.clone(), prop::collection::vec(any::<u8>(), 0..1500))
            .prop_map(|(offset, data)| Step::Write(offset, data)),
        (0..5000_u64).prop_map(Step::Allocate),
        prop::strategy::Just(Step::Sync),
        (offset.clone(), offset).prop_map(|(start, length)| Step::Evict(start, length)),
    ]
}

fn run(file: &dyn DiskFile, steps: &[Step]) -> Vec<u8> {
    for step in steps {
        match step {
            Step::Write(offset, data) => file.write_at(*offset, data).unwrap(),
            Step::Allocate(length) => file.allocate(*length).unwrap(),
            Step::Sync => file.sync().unwrap(),
            Step::Evict(start, length) => file.evict(*start..*start + *length).unwrap(),
        }
    }
    let mut bytes = vec![0; usize::try_from(file.length().unwrap()).unwrap()];
    file.read_at(0, &mut bytes).unwrap();
    bytes
}

proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(64))]

    #[test]
    fn without_a_crash_it_is_like_a_real_file(steps in prop::collection::vec(step(), 0..12)) {
        let dir = tempfile::tempdir().unwrap();
        let real = OsDisk.create(&dir.path().join("file")).unwrap();
        let (_, simulated) = disk_with_file();
        prop_assert_eq!(run(&*real, &steps), run(&*simulated, &steps));
    }
}
