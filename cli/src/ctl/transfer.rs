//! What import and export share: how much is under way at once, which pages are worth sending, what
//! is said of it.

use std::path::Path;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use serde_json::{Value, json};
use torus_volume::PAGE;

use crate::size::Bytes as Size;
use crate::stream::{Chunk, MAX_DATA};

/// Bytes that are read or written at once: enough for the peers to work with, and for a record.
pub(super) const PIECE: usize = 256 << 10;
/// So many are under way at once.
pub(super) const IN_FLIGHT: usize = 64;
const _: () = assert!(PIECE <= MAX_DATA && PIECE.is_multiple_of(PAGE as usize));

/// So much of a volume's map is looked at in one go.
pub(super) const WINDOW: u32 = 1 << 30;

static ZEROES: [u8; PAGE as usize] = [0; PAGE as usize];

/// Cuts what stands at `offset` into ranges of data and ranges of zero, by pages.
pub(super) fn sift(offset: u64, data: &Bytes) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    let mut run: Option<(usize, bool)> = None;
    let mut cut = |from: usize, to: usize, is_zero: bool| {
        let (at, length) = (offset + from as u64, (to - from) as u64);
        chunks.push(match is_zero {
            true => Chunk::Zero { offset: at, length },
            false => Chunk::Data { offset: at, data: owned(data, from, to) },
        });
    };
    for (index, page) in data.chunks(ZEROES.len()).enumerate() {
        let (at, is_zero) = (index * ZEROES.len(), page == &ZEROES[..page.len()]);
        match run {
            Some((_, same)) if same == is_zero => {}
            Some((from, other)) => {
                cut(from, at, other);
                run = Some((at, is_zero));
            }
            None => run = Some((at, is_zero)),
        }
    }
    if let Some((from, is_zero)) = run {
        cut(from, data.len(), is_zero);
    }
    chunks
}

/// A part of a buffer, of its own if it would keep a larger one in memory.
fn owned(data: &Bytes, from: usize, to: usize) -> Bytes {
    match to - from == data.len() {
        true => data.clone(),
        false => Bytes::copy_from_slice(&data[from..to]),
    }
}

/// Cuts a range into pieces that do not cross multiples of [`PIECE`]: offsets and lengths.
pub(super) fn pieces(offset: u64, length: u64) -> impl Iterator<Item = (u64, u32)> {
    let (mut at, end, piece) = (offset, offset + length, PIECE as u64);
    std::iter::from_fn(move || {
        let length = (end - at).min(piece - at % piece);
        let offset = at;
        at += length;
        u32::try_from(length).ok().filter(|length| *length > 0).map(|length| (offset, length))
    })
}

/// Pieces that stand one after another, as one.
pub(super) fn whole(pieces: Vec<Bytes>) -> Bytes {
    match <[Bytes; 1]>::try_from(pieces) {
        Ok([piece]) => piece,
        Err(pieces) => {
            let mut data = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
            pieces.iter().for_each(|piece| data.extend_from_slice(piece));
            data.freeze()
        }
    }
}

/// What was transferred.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Bytes of data.
    pub(super) data: u64,
    /// Bytes that became zero, of what an incremental stream says.
    pub(super) zeroed: u64,
}

impl Tally {
    pub(super) fn count(&mut self, chunk: &Chunk) {
        match chunk {
            Chunk::Data { data, .. } => self.data += data.len() as u64,
            Chunk::Zero { length, .. } => self.zeroed += length,
        }
    }

    /// The fields that import and export have in common. `size` is that of the volume.
    pub(super) fn facts(self, size: u64, elapsed: Duration) -> Value {
        json!({
            "size": size,
            "bytes": self.data,
            "holes": size.saturating_sub(self.data),
            "seconds": (elapsed.as_secs_f64() * 1000.0).round() / 1000.0,
        })
    }

    /// `1.2 GiB of data in 3.4 s, 360 MiB/s`.
    pub(super) fn sentence(self, elapsed: Duration) -> String {
        let seconds = elapsed.as_secs_f64();
        format!("{} of data in {seconds:.1} s, {}/s", Size(self.data), rate(self.data, elapsed))
    }
}

fn rate(bytes: u64, elapsed: Duration) -> Size {
    let milliseconds = elapsed.as_millis().max(1);
    Size(u64::try_from(u128::from(bytes) * 1000 / milliseconds).unwrap_or(u64::MAX))
}

/// Whether a path stands for standard input or output.
pub(super) fn is_standard(path: &Path) -> bool {
    path.as_os_str() == "-"
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    /// A page each: `.` zero, else data.
    #[track_caller]
    fn check(pages: &str, expected: Expect) {
        let bytes: Vec<u8> = pages
            .bytes()
            .flat_map(|page| [if page == b'.' { 0 } else { page }; PAGE as usize])
            .collect();
        let chunks = sift(1 << 20, &bytes.into()).into_iter().map(|chunk| match chunk {
            Chunk::Zero { offset, length } => format!("{} zero {}", offset >> 12, length >> 12),
            Chunk::Data { offset, data } => format!("{} data {}", offset >> 12, data.len() >> 12),
        });
        expected.assert_eq(&chunks.collect::<Vec<_>>().join(", "));
    }

    #[test]
    fn zero_pages_are_found() {
        check("", expect![""]);
        check("...", expect!["256 zero 3"]);
        check("abc", expect!["256 data 3"]);
        check(".ab..c", expect!["256 zero 1, 257 data 2, 259 zero 2, 261 data 1"]);
    }

    #[test]
    fn the_end_of_an_image_is_no_whole_page() {
        let chunks = sift(0, &Bytes::from_static(&[0, 0, 1]));
        assert_eq!(chunks, [Chunk::Data { offset: 0, data: Bytes::from_static(&[0, 0, 1]) }]);
        assert_eq!(sift(5, &Bytes::from_static(&[0; 3])), [Chunk::Zero { offset: 5, length: 3 }]);
    }

    #[test]
    fn pieces_are_aligned() {
        let piece = PIECE as u64;
        assert_eq!(pieces(0, 4096).collect::<Vec<_>>(), [(0, 4096)]);
        assert_eq!(
            pieces(piece - 4096, piece + 8192).collect::<Vec<_>>(),
            [(piece - 4096, 4096), (piece, 256 << 10), (2 * piece, 4096)]
        );
        assert_eq!(pieces(7, 0).count(), 0);
    }

    #[test]
    fn pieces_are_put_together() {
        let pieces = [&b"to"[..], b"", b"rus"].map(Bytes::from_static);
        assert_eq!(whole(pieces.to_vec()), "torus");
        assert_eq!(whole(vec![]), "");
    }

    #[test]
    fn figures_are_for_people_and_programs() {
        let tally = Tally { data: 3 << 20, zeroed: 0 };
        let elapsed = Duration::from_millis(1500);
        expect!["3.0 MiB of data in 1.5 s, 2.0 MiB/s"].assert_eq(&tally.sentence(elapsed));
        expect![[r#"{"bytes":3145728,"holes":1048576,"seconds":1.5,"size":4194304}"#]]
            .assert_eq(&tally.facts(4 << 20, elapsed).to_string());
    }
}
