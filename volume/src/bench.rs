//! Micro-benchmarks of what each request passes through, run by `benches/volume.rs`.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use torus_blockstore::{
    BlockIndex, BlockKind, BlockRef, BlockSpec, Epoch, INodeIndex, Seal, VolumeId,
};

use crate::extent::Location;
use crate::log::{Allotment, Identity, Log, Send};
use crate::map::Map;
use crate::overlay::Overlay;
use crate::record::{ExtentKind, PAGE, Place, RecordExtent, decode_header, encode_header};

const INODE: INodeIndex = INodeIndex(1);

#[expect(clippy::expect_used, reason = "a benchmark may end there")]
fn volume() -> VolumeId {
    VolumeId::new(1).expect("volumes count from 1")
}

/// Well-mixed numbers below `limit`; always the same.
fn scattered(limit: u64) -> impl FnMut() -> u64 {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 20) % limit
    }
}

/// The headers of records with one page, as each lone write makes them, and with 127.
pub fn records(criterion: &mut Criterion) {
    let block =
        BlockRef { volume: volume(), kind: BlockKind::Data, inode: INODE, index: BlockIndex(7) };
    let place = Place { block, epoch: Epoch(3), sequence: 9, offset: 0, previous: None };
    for count in [1_u32, 127] {
        let extents = [RecordExtent { page: 4096, count, kind: ExtentKind::Data }];
        let crcs = vec![0x1234_5678; count as usize];
        let header = encode_header(&place, &extents, &crcs);
        criterion.bench_function(&format!("record/encode/{count}"), |bencher| {
            bencher.iter(|| encode_header(black_box(&place), &extents, black_box(&crcs)));
        });
        criterion.bench_function(&format!("record/decode/{count}"), |bencher| {
            bencher.iter(|| decode_header(black_box(&header), block, 0).is_ok());
        });
    }
    let page = vec![0xa5; PAGE as usize];
    let mut group = criterion.benchmark_group("crc");
    group.throughput(Throughput::Bytes(PAGE.into()));
    group.bench_function("page", |bencher| bencher.iter(|| crc32fast::hash(black_box(&page))));
    group.finish();
}

/// Pages set and looked up in a map of a GiB whose pages were all written in random order.
pub fn map(criterion: &mut Criterion) {
    const PAGES: u64 = (1 << 30) / PAGE as u64;
    let mut map = Map::new(volume(), BlockSpec::default());
    let block = map.table.add(INODE, BlockIndex(0));
    map.table.sealed(block, Seal { length: 1 << 19, crc: 0 });
    let mut page = scattered(PAGES);
    let location = |page: u64| Location { block, offset: (page % 1000) as u16, header: 0 };
    for _ in 0..2 * PAGES {
        let page = page();
        map.set(page, 1, Some(location(page)));
    }
    criterion.bench_function("map/set", |bencher| {
        bencher.iter(|| {
            let page = page();
            map.set(page, 1, Some(location(page)));
        });
    });
    criterion.bench_function("map/lookup", |bencher| {
        bencher.iter(|| map.lookup(page(), 1, |run| _ = black_box(run)));
    });
}

/// 32 scattered pages from the overlay into the log: record, checksums, map.
pub fn log(criterion: &mut Criterion) {
    const WRITES: u64 = 32;
    let identity =
        Identity { volume: volume(), inode: INODE, epoch: Epoch(1), block_size: 1 << 19 };
    let data = Bytes::from(vec![7; PAGE as usize]);
    let mut page = scattered(1 << 18);
    let mut log = Log::new(identity, 1 << 20);
    let (mut map, mut overlay) = (Map::new(volume(), BlockSpec::default()), Overlay::default());
    let mut next = BlockIndex(0);
    let mut group = criterion.benchmark_group("log");
    group.throughput(Throughput::Elements(WRITES));
    group.bench_function("cut", |bencher| {
        bencher.iter(|| {
            if log.allotted() < 2 {
                let allotment = Allotment { first: next, peers: vec![Vec::new(); 64] };
                next = allotment.end();
                log.allot(allotment);
            }
            for _ in 0..WRITES {
                overlay.write(page(), data.clone());
            }
            for send in log.cut(&mut overlay, &mut map, true) {
                match send {
                    Send::Append { append, end, .. } => {
                        log.acknowledged(append.block.index, end, append.sync);
                    }
                    Send::Seal { block, .. } => log.sealed(block.index),
                }
            }
        });
    });
    group.finish();
}
