//! What a volume may hold after a crash, given what was written, acknowledged and flushed.
//!
//! Every page that a [`History`] writes names the write that it belongs to, so the pages of a
//! recovered volume say which write each of them shows. They must all be explained by one prefix of
//! the order in which the writes were issued, and that prefix must contain every flushed write.
//! The last write of the prefix may be there in part, unless it was flushed: 4 KiB are atomic, a
//! longer write is not.

use std::collections::BTreeMap;
use std::env;
use std::io;
use std::ops::Range;

use crate::nbd::NbdClient;

/// Bytes in a page, the unit in which a volume is written.
pub const PAGE: usize = 4096;
const MARK: u64 = 0x7473_6574_5f73_7574;
const PAGES_PER_READ: usize = 256;

/// A generator of reproducible numbers (SplitMix64).
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// Begins with `seed`, or with `TORUS_TEST_SEED` if it is set, and prints it.
    #[track_caller]
    pub fn seeded(seed: u64) -> Self {
        let chosen = env::var("TORUS_TEST_SEED").ok();
        let seed = chosen.map_or(seed, |text| text.parse().expect("TORUS_TEST_SEED is a number"));
        println!("seed {seed}");
        Self(seed)
    }

    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number of `range`.
    pub fn within(&mut self, range: Range<u64>) -> u64 {
        range.start + self.draw() % (range.end - range.start)
    }
}

/// The writes to the first pages of one volume, and what became of them.
///
/// Writes are numbered from 1; number 0 is the zero page of a new volume.
#[derive(Debug)]
pub struct History {
    /// For each page, the write that the last recovery showed.
    base: Vec<u64>,
    /// The writes issued since then.
    writes: BTreeMap<u64, Range<u64>>,
    /// The last write issued, ever.
    issued: u64,
    /// The last write known to be durable.
    flushed: u64,
}

/// The prefix that a recovered volume shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// The last write that is there.
    pub last: u64,
    pub flushed: u64,
    pub issued: u64,
}

impl History {
    /// Of a volume of zeroes, whose first `pages` pages are to be written.
    pub fn new(pages: u64) -> Self {
        let base = vec![0; usize::try_from(pages).expect("pages that fit in memory")];
        Self { base, writes: BTreeMap::new(), issued: 0, flushed: 0 }
    }

    pub fn issued(&self) -> u64 {
        self.issued
    }

    /// Writes 1 to 16 pages somewhere.
    pub fn write(&mut self, client: &mut NbdClient, random: &mut Random) -> io::Result<()> {
        let pages = self.base.len() as u64;
        let count = random.within(1..17.min(pages + 1));
        let first = random.within(0..pages - count + 1);
        self.issued += 1;
        self.writes.insert(self.issued, first..first + count);
        let data: Vec<u8> =
            (first..first + count).flat_map(|index| content(self.issued, index)).collect();
        client.write(first * PAGE as u64, &data)
    }

    /// Flushes what was written so far.
    pub fn flush(&mut self, client: &mut NbdClient) -> io::Result<()> {
        client.flush()?;
        self.flushed = self.issued;
        Ok(())
    }

    /// Reads the volume after a crash and holds it against the writes. The history goes on from
    /// what was read.
    pub fn check(&mut self, client: &mut NbdClient) -> Result<Prefix, String> {
        let shown = self.read(client).map_err(|err| format!("cannot read the volume: {err}"))?;
        let prefix = self.explain(&shown)?;
        self.base = shown;
        self.writes.clear();
        self.flushed = self.issued;
        Ok(prefix)
    }

    /// The write that each page shows.
    fn read(&self, client: &mut NbdClient) -> io::Result<Vec<u64>> {
        let pages = self.base.len() as u64;
        let mut shown = Vec::new();
        for first in (0..pages).step_by(PAGES_PER_READ) {
            let count = (pages - first).min(PAGES_PER_READ as u64);
            let len = u32::try_from(count * PAGE as u64).map_err(io::Error::other)?;
            let data = client.read(first * PAGE as u64, len)?;
            for (index, page) in (first..).zip(data.chunks(PAGE)) {
                shown.push(number(page, index).map_err(io::Error::other)?);
            }
        }
        Ok(shown)
    }

    fn explain(&self, shown: &[u64]) -> Result<Prefix, String> {
        let before = self.issued - self.writes.len() as u64;
        let last = shown.iter().copied().max().unwrap_or(0).max(before);
        let prefix = Prefix { last, flushed: self.flushed, issued: self.issued };
        if last < self.flushed {
            return Err(format!("flushed writes are lost: {prefix:?}"));
        }
        for (page, &found) in (0u64..).zip(shown) {
            let wrote =
                |number: u64| self.writes.get(&number).is_some_and(|pages| pages.contains(&page));
            let index = usize::try_from(page).map_err(|err| err.to_string())?;
            let whole = self.last_write(page, last).unwrap_or(self.base[index]);
            // Only the last write may be there in part, and only if no flush covered it.
            let torn = (last > self.flushed && wrote(last))
                .then(|| self.last_write(page, last - 1).unwrap_or(self.base[index]));
            if found != whole && Some(found) != torn {
                return Err(format!(
                    "page {page} shows write {found}, not {whole}: no prefix explains it, {prefix:?}"
                ));
            }
        }
        Ok(prefix)
    }

    /// The last write of `page` since the base, up to write `limit`.
    fn last_write(&self, page: u64, limit: u64) -> Option<u64> {
        let mut writes = self.writes.range(..=limit).rev();
        writes.find(|(_, pages)| pages.contains(&page)).map(|(&number, _)| number)
    }
}

/// The page that write `number` leaves at `index`: both, and what only they can have made.
fn content(number: u64, index: u64) -> [u8; PAGE] {
    let mut page = [0; PAGE];
    let mut random = Random(number.rotate_left(32) ^ index);
    let head = [MARK, number, index];
    let words = head.into_iter().chain(std::iter::repeat_with(|| random.draw()));
    for (place, word) in page.chunks_mut(8).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    page
}

/// The write that left `page` at `index`; an error if none can have.
fn number(page: &[u8], index: u64) -> Result<u64, String> {
    if page.iter().all(|&byte| byte == 0) {
        return Ok(0);
    }
    let field = page[8..16].try_into().expect("eight bytes");
    let number = u64::from_le_bytes(field);
    if page == content(number, index) {
        return Ok(number);
    }
    Err(format!("page {index} holds what was never written there: {:02x?}", &page[..32]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A history of four pages: writes of `AB`, `BC`, `C` in that order, the first two flushed.
    fn history() -> History {
        let writes = BTreeMap::from([(1, 0..2), (2, 1..3), (3, 2..3)]);
        History { base: vec![0; 4], writes, issued: 3, flushed: 2 }
    }

    #[track_caller]
    fn check(shown: [u64; 4], expected: Result<u64, &str>) {
        let found = history().explain(&shown).map(|prefix| prefix.last);
        match (&found, expected) {
            (Ok(last), Ok(wanted)) => assert_eq!(*last, wanted),
            (Err(text), Err(part)) => assert!(text.contains(part), "{text}"),
            _ => panic!("{shown:?}: {found:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn a_prefix_with_all_that_was_flushed_is_right() {
        check([1, 2, 2, 0], Ok(2));
        check([1, 2, 3, 0], Ok(3));
    }

    #[test]
    fn a_lost_flushed_write_is_found() {
        check([1, 1, 0, 0], Err("flushed writes are lost"));
        check([1, 2, 0, 0], Err("page 2 shows write 0, not 2"));
    }

    #[test]
    fn a_hole_in_the_order_is_found() {
        check([0, 2, 3, 0], Err("page 0 shows write 0, not 1"));
        check([1, 1, 3, 0], Err("page 1 shows write 1, not 2"));
    }

    #[test]
    fn the_last_write_may_be_torn_at_pages_unless_it_was_flushed() {
        let mut history = history();
        history.flushed = 1;
        history.writes.remove(&3);
        history.issued = 2;
        assert!(history.explain(&[1, 2, 0, 0]).is_ok());
        history.flushed = 2;
        assert!(history.explain(&[1, 2, 0, 0]).is_err());
    }

    #[test]
    fn a_page_says_its_write_and_place_and_no_byte_of_it_may_change() {
        let mut page = content(7, 9);
        assert_eq!(number(&page, 9), Ok(7));
        assert!(number(&page, 8).is_err());
        page[PAGE - 1] ^= 1;
        assert!(number(&page, 9).is_err());
    }
}
