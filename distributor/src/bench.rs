//! Micro-benchmarks of the frames, run by `benches/distributor.rs`.

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use criterion::{Criterion, Throughput};

use crate::protocol::frame::{Body, FrameReader, Head, encode};

/// Frames with the payload of a lone page, and of a whole block, there and back.
pub fn frames(criterion: &mut Criterion) {
    let head = Head { op: 1, flags: 0, status: 0, id: 7 };
    for length in [4096_usize + 512, 1 << 19] {
        let body = || Body {
            fields: BytesMut::from(&[5; 40][..]),
            payload: vec![Bytes::from(vec![0xa5; length])],
        };
        let mut group = criterion.benchmark_group("frame");
        group.throughput(Throughput::Bytes(length as u64));
        let template = body();
        group.bench_function(format!("encode/{length}"), |bencher| {
            bencher.iter(|| encode(head, black_box(template.clone())));
        });
        let bytes = encode(head, body()).concat();
        group.bench_function(format!("decode/{length}"), |bencher| {
            let mut reader = FrameReader::new(&[][..], 1 << 20);
            bencher.iter(|| {
                reader.receive(black_box(&bytes));
                reader.buffered().is_ok_and(|frame| frame.is_some())
            });
        });
        group.finish();
    }
}
