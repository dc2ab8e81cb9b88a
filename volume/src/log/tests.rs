//! Scripts of writes, cuts and acknowledgements, and what is handed out and durable then.

use super::*;
use expect_test::{Expect, expect};
use torus_blockstore::{BlockSpec, INodeRef};

/// Blocks of 64 KiB: eight pages and their headers nearly fill a quarter.
const BLOCK_SIZE: u32 = 64 * 1024;

struct Story {
    log: Log,
    overlay: Overlay,
    map: Map,
    told: String,
}

impl Story {
    fn new(blocks: usize) -> Self {
        let identity = Identity {
            volume: VolumeId::new(1).unwrap(),
            inode: INodeIndex(2),
            epoch: Epoch(3),
            block_size: BLOCK_SIZE,
        };
        let mut log = Log::new(identity, 1 << 20);
        log.allot(Allotment { first: BlockIndex(0), peers: vec![Vec::new(); blocks] });
        let map = Map::new(identity.volume, BlockSpec::default());
        Self { log, overlay: Overlay::default(), map, told: String::new() }
    }

    fn told(&mut self, what: &str, sends: Vec<Send>) {
        self.told.push_str(what);
        self.told.push(':');
        for send in sends {
            let text = match send {
                Send::Append { append, end, .. } => {
                    let sync = if append.sync { " sync" } else { "" };
                    format!(" [{} {}..{end}{sync}]", append.block.index.0, append.offset)
                }
                Send::Seal { block, seal, .. } => {
                    format!(" [seal {} at {}]", block.index.0, seal.length)
                }
            };
            self.told.push_str(&text);
        }
        self.told.push_str(&format!(" durable {}/{}\n", self.log.durable(), self.log.sequence()));
    }
}

/// Plays a script of `wPAGE+COUNT` (write), `zPAGE+COUNT` (zero), `cut`, `sync`, `close`,
/// `aBLOCK@END` (acknowledged), `sBLOCK@END` (synced), `xBLOCK` (sealed).
#[track_caller]
fn check(blocks: usize, script: &str, expected: Expect) {
    let mut story = Story::new(blocks);
    for step in script.split_whitespace() {
        let numbers: Vec<u32> =
            step.split(|c: char| !c.is_ascii_digit()).flat_map(str::parse).collect();
        let Story { log, overlay, map, .. } = &mut story;
        let index = |number: u32| BlockIndex(u64::from(number));
        let sends = match step.as_bytes() {
            b"cut" => log.cut(overlay, map, false),
            b"sync" => log.cut(overlay, map, true),
            b"close" => log.close_block(map).into_iter().collect(),
            [b'w', ..] => {
                let bytes = vec![7; (numbers[1] * PAGE) as usize];
                overlay.write(u64::from(numbers[0]), Bytes::from(bytes));
                continue;
            }
            [b'z', ..] => {
                overlay.zero(u64::from(numbers[0]), numbers[1]);
                continue;
            }
            [b'a', ..] => {
                log.acknowledged(index(numbers[0]), numbers[1], false);
                Vec::new()
            }
            [b's', ..] => {
                log.acknowledged(index(numbers[0]), numbers[1], true);
                Vec::new()
            }
            [b'x', ..] => {
                log.sealed(index(numbers[0]));
                Vec::new()
            }
            _ => panic!("unknown step {step}"),
        };
        story.told(step, sends);
    }
    expected.assert_eq(&story.told);
}

#[test]
fn a_write_and_a_flush_are_one_append() {
    check(
        4,
        "w0+1 sync s0@4608 sync",
        expect![[r#"
        sync: [0 0..4608 sync] durable 0/1
        s0@4608: durable 1/1
        sync: durable 1/1
    "#]],
    );
}

#[test]
fn a_flush_of_what_was_sent_before_is_an_append_of_nothing() {
    check(
        4,
        "w0+1 cut a0@4608 sync s0@4608",
        expect![[r#"
        cut: [0 0..4608] durable 0/1
        a0@4608: durable 0/1
        sync: [0 4608..4608 sync] durable 0/1
        s0@4608: durable 1/1
    "#]],
    );
}

#[test]
fn writes_of_one_batch_share_a_record() {
    check(
        4,
        "w0+1 w9+1 z5+2 cut",
        expect![[r#"
        cut: [0 0..8704] durable 0/1
    "#]],
    );
}

#[test]
fn a_full_block_is_sealed_and_the_next_goes_on() {
    check(
        4,
        "w0+20 sync x0 s1@20992",
        expect![[r#"
        sync: [0 0..61952] [seal 0 at 61952] [1 0..20992 sync] durable 0/2
        x0: durable 1/2
        s1@20992: durable 2/2
    "#]],
    );
}

#[test]
fn nothing_is_durable_before_what_stands_before_it() {
    check(
        4,
        "w0+20 sync s1@20992 x0",
        expect![[r#"
        sync: [0 0..61952] [seal 0 at 61952] [1 0..20992 sync] durable 0/2
        s1@20992: durable 0/2
        x0: durable 2/2
    "#]],
    );
}

#[test]
fn without_a_block_writes_wait() {
    check(
        1,
        "w0+20 sync",
        expect![[r#"
        sync: [0 0..61952] [seal 0 at 61952] durable 0/1
    "#]],
    );
}

#[test]
fn content_of_open_blocks_is_at_hand() {
    let mut story = Story::new(2);
    let data = Bytes::from([vec![1; 4096], vec![2; 4096]].concat());
    story.overlay.write(3, data.clone());
    story.log.cut(&mut story.overlay, &mut story.map, false);
    let mut found = Vec::new();
    story.map.lookup(4, 1, |run| found.push(run));
    let location = found[0].location.unwrap();
    let offset = u32::from(location.offset) * UNIT;
    let block = story.map.table.get(location.block).unwrap().block;
    let piece = story.log.read(block, offset).unwrap();
    assert_eq!(piece, data.slice(4096..));
    let content = story.log.give_up_blocks(&mut story.map);
    assert_eq!(content[0].seal.length, 512 + 8192);
    let mut crc = crc32fast::Hasher::new();
    content[0].data.iter().for_each(|piece| crc.update(piece));
    assert_eq!(content[0].seal.crc, crc.finalize());
}

/// Writes so many pages into blocks of 512 KiB, the size that clusters have by default; what the
/// map and the block table take then, in bytes for each of the volume's.
fn memory_of(pages: u64, page: impl Fn(u64) -> u64, run: u32) -> f64 {
    let identity = Identity {
        volume: VolumeId::new(1).unwrap(),
        inode: INodeIndex(2),
        epoch: Epoch(3),
        block_size: 512 * 1024,
    };
    let (mut log, mut overlay) = (Log::new(identity, 0), Overlay::default());
    let mut map = Map::new(identity.volume, BlockSpec::default());
    let blocks = pages as usize / 64;
    log.allot(Allotment { first: BlockIndex(0), peers: vec![Vec::new(); blocks] });
    let data = Bytes::from(vec![0; (run * PAGE) as usize]);
    for index in 0..pages / u64::from(run) {
        overlay.write(page(index) * u64::from(run), data.clone());
        for send in log.cut(&mut overlay, &mut map, false) {
            if let Send::Seal { block, .. } = send {
                log.sealed(block.index);
            }
        }
    }
    if let Some(Send::Seal { block, .. }) = log.close_block(&mut map) {
        log.sealed(block.index);
    }
    let inode = INodeRef { volume: identity.volume, inode: INodeIndex(3) };
    map.prepare(inode, identity.epoch, 0);
    map.memory() as f64 / (pages * u64::from(PAGE)) as f64
}

#[test]
fn the_map_takes_little_memory() {
    const MIB_PER_GIB: f64 = 1.0 / 1024.0;
    let sequential = memory_of(1 << 17, |index| index, 256);
    assert!(sequential <= 0.1 * MIB_PER_GIB, "{} MiB a GiB", sequential / MIB_PER_GIB);
    // Every page at another place of the volume than the one before.
    let random = memory_of(1 << 14, |index| index * 4099 % (1 << 14), 1);
    assert!(random <= 2.5 * MIB_PER_GIB, "{} MiB a GiB", random / MIB_PER_GIB);
}
