//! Two slots that both say they have a block, and slots that change hands under a reader.

use expect_test::expect;

use super::*;
use crate::mfile::slot::{self, SEAL_LEN, SlotIndex};
use crate::{Disk, DiskFile};

/// A copy of block 1 as the tables of one slot tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Copy {
    Intact,
    Unsettled,
    Broken,
    Unproven,
}

impl Copy {
    const ALL: [Self; 4] = [Self::Intact, Self::Unsettled, Self::Broken, Self::Unproven];

    /// Writes the slot; its number is the first byte of the content.
    fn write(self, disk: &SimDisk, slot: SlotIndex) {
        let file = |name: &str| -> Box<dyn DiskFile> {
            disk.open(&Path::new("/data/block").join(name)).unwrap()
        };
        let content = [u8::try_from(slot.0).unwrap(); 10];
        let mut seal = Seal::of(&content);
        if self == Self::Broken {
            seal.crc ^= 1;
        }
        let seal = if self == Self::Unsettled { None } else { Some(seal) };
        let mut entry = slot::encode(slot, block(1), seal);
        if self == Self::Unproven {
            entry[15] ^= 1;
        }
        file("data-current.blk").write_at(slot.0 * u64::from(BLOCK_SIZE), &content).unwrap();
        let name = block(1).encode();
        file("map-current.blk").write_at(slot.offset(BlockRef::LEN), &name).unwrap();
        file("seal-current.blk").write_at(slot.offset(SEAL_LEN), &entry).unwrap();
    }
}

#[test]
fn the_best_copy_is_kept_and_of_equals_the_lower() {
    let mut table = String::new();
    for first in Copy::ALL {
        for second in Copy::ALL {
            let (disk, store) = new_store();
            drop(store);
            first.write(&disk, SlotIndex(2));
            second.write(&disk, SlotIndex(5));
            let store = open(&disk).unwrap();
            assert_eq!(store.used_blocks(), 1);
            let (slot, state) = (read(&store, block(1), 1)[0], store.state(block(1)));
            let state = if state == Some(BlockState::Unsettled) { "unsettled" } else { "sealed" };
            table += &format!("{first:?} {second:?} -> slot {slot}, {state}\n");
            // The other slot is free, now and after a crash.
            let again = open(&disk.after_crash(0)).unwrap();
            assert_eq!(read(&again, block(1), 1)[0], slot);
            for index in 2..=CAPACITY {
                store.append(block(index), 0, &[9]).unwrap();
            }
            assert_eq!(read(&store, block(1), 1)[0], slot);
        }
    }
    expect![[r#"
        Intact Intact -> slot 2, sealed
        Intact Unsettled -> slot 2, sealed
        Intact Broken -> slot 2, sealed
        Intact Unproven -> slot 2, sealed
        Unsettled Intact -> slot 5, sealed
        Unsettled Unsettled -> slot 2, unsettled
        Unsettled Broken -> slot 2, unsettled
        Unsettled Unproven -> slot 2, unsettled
        Broken Intact -> slot 5, sealed
        Broken Unsettled -> slot 5, unsettled
        Broken Broken -> slot 2, sealed
        Broken Unproven -> slot 2, sealed
        Unproven Intact -> slot 5, sealed
        Unproven Unsettled -> slot 5, unsettled
        Unproven Broken -> slot 5, sealed
        Unproven Unproven -> slot 2, unsettled
    "#]]
    .assert_eq(&table);
}

#[test]
fn a_reader_never_gets_bytes_of_the_slots_next_block() {
    let (_disk, store) = new_store();
    store.put(block(1), &[1; 100]).unwrap();
    store.sync().unwrap();
    let mut buffer = [0; 100];
    let refused = store.read_with(block(1), 0, 100, |position| {
        // Between looking the block up and reading, its slot goes to another block.
        assert!(store.delete(block(1)).unwrap());
        store.sync().unwrap();
        store.put(block(2), &[2; 100]).unwrap();
        store.data.read_at(position, &mut buffer).map(|()| true)
    });
    assert!(matches!(refused, Err(Error::NoSuchBlock { .. })));
    assert_eq!(buffer, [2; 100], "the slot did change hands");
}

#[test]
fn a_reader_follows_a_block_that_is_replaced() {
    let (_disk, store) = new_store();
    store.put(block(1), &[1; 100]).unwrap();
    store.sync().unwrap();
    let mut buffer = [0; 100];
    let mut reads = 0;
    let read = store.read_with(block(1), 0, 100, |position| {
        reads += 1;
        if reads == 1 {
            store.put(block(1), &[3; 100]).unwrap();
            store.sync().unwrap();
            store.put(block(2), &[2; 100]).unwrap();
        }
        store.data.read_at(position, &mut buffer).map(|()| true)
    });
    assert!(read.unwrap());
    assert_eq!((buffer, reads), ([3; 100], 2));
}
