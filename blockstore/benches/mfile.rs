//! Appends to the store of blocks in a file, beside the program's own place, with and without a sync.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use torus_blockstore::{
    BlockIndex, BlockKind, BlockRef, BlockStore, Error, INodeIndex, Mfile, MfileOptions, OsDisk,
    PeerId, PeerIdentity, VolumeId,
};

const BLOCK_SIZE: u32 = 512 << 10;
/// Blocks that are kept: those before are deleted, so that slots are used again.
const KEPT: u64 = 64;

/// A log of blocks that are filled one after another.
struct Appender {
    store: Mfile,
    volume: VolumeId,
    index: u64,
    offset: u32,
}

impl Appender {
    fn block(&self, index: u64) -> BlockRef {
        let (kind, inode) = (BlockKind::Data, INodeIndex(1));
        BlockRef { volume: self.volume, kind, inode, index: BlockIndex(index) }
    }

    fn append(&mut self, data: &[u8]) -> Result<(), Error> {
        let end = self.offset as usize + data.len();
        if end > BLOCK_SIZE as usize {
            (self.index, self.offset) = (self.index + 1, 0);
            if let Some(old) = self.index.checked_sub(KEPT) {
                self.store.delete(self.block(old))?;
            }
        }
        self.store.append(self.block(self.index), self.offset, black_box(data))?;
        self.offset += u32::try_from(data.len()).unwrap_or(0);
        Ok(())
    }
}

#[expect(clippy::panic, reason = "a benchmark may end there")]
fn appends(criterion: &mut Criterion) {
    let folder = std::env::current_exe().and_then(|program| {
        tempfile::tempdir_in(program.parent().unwrap_or(std::path::Path::new(".")))
    });
    let (Ok(folder), Some(volume)) = (folder, VolumeId::new(1)) else {
        panic!("no folder for the store");
    };
    let peer = PeerId(uuid::Uuid::from_u128(1));
    let identity = PeerIdentity::open(OsDisk::shared(), folder.path(), peer);
    let options = MfileOptions { block_size: BLOCK_SIZE, capacity_bytes: 256 << 20 };
    let store = identity.and_then(|identity| Mfile::open(Arc::new(identity), options));
    let store = store.unwrap_or_else(|error| panic!("no store: {error}"));
    let mut appender = Appender { store, volume, index: 0, offset: 0 };
    for (name, length) in [("page", 4096 + 512), ("32 pages", 33 * 4096), ("block", 509 << 10)] {
        let data = vec![0xa5; length];
        let mut group = criterion.benchmark_group("mfile");
        group.throughput(Throughput::Bytes(length as u64));
        for sync in [false, true] {
            let what = if sync { "append and sync" } else { "append" };
            group.bench_function(format!("{what}/{name}"), |bencher| {
                bencher.iter(|| {
                    let appended = appender.append(&data);
                    appended.and_then(|()| if sync { appender.store.sync() } else { Ok(()) })
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, appends);
criterion_main!(benches);
