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
use std::ops::{Range, RangeInclusive};

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
/// Writes are numbered from 1; number 0 is the zero page of a new volume, and of what was trimmed.
#[derive(Debug)]
pub struct History {
    /// For each page, the write that the last recovery showed.
    base: Vec<u64>,
    /// The writes issued since then.
    writes: BTreeMap<u64, Change>,
    /// The last write issued, ever.
    issued: u64,
    /// The last write known to be durable.
    flushed: u64,
}

/// What one write changes.
#[derive(Clone, Debug)]
struct Change {
    pages: Range<u64>,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Write,
    /// Durable when it is acknowledged.
    WriteThrough,
    Trim,
    Zeroes,
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
        Self::going_on(base, 0)
    }

    /// Of a volume that shows these writes of others, up to `issued`.
    pub fn going_on(shown: Vec<u64>, issued: u64) -> Self {
        assert!(shown.iter().all(|&number| number <= issued), "numbers are used once");
        Self { base: shown, writes: BTreeMap::new(), issued, flushed: issued }
    }

    pub fn issued(&self) -> u64 {
        self.issued
    }

    /// The last write before the base: those after it are still to be checked.
    pub fn known(&self) -> u64 {
        self.issued - self.writes.len() as u64
    }

    /// Writes 1 to 16 pages somewhere.
    pub fn write(&mut self, client: &mut NbdClient, random: &mut Random) -> io::Result<()> {
        self.change(client, random, Kind::Write)
    }

    /// Writes, writes through (FUA), trims or zeroes 1 to 16 pages somewhere.
    pub fn mixed(&mut self, client: &mut NbdClient, random: &mut Random) -> io::Result<()> {
        let kind = match random.within(0..10) {
            0 => Kind::WriteThrough,
            1 => Kind::Trim,
            2 => Kind::Zeroes,
            _ => Kind::Write,
        };
        self.change(client, random, kind)
    }

    fn change(
        &mut self,
        client: &mut NbdClient,
        random: &mut Random,
        kind: Kind,
    ) -> io::Result<()> {
        let count = random.within(1..17.min(self.pages() + 1));
        let first = random.within(0..self.pages() - count + 1);
        let pages = first..first + count;
        self.issued += 1;
        let number = self.issued;
        self.writes.insert(number, Change { pages: pages.clone(), kind });
        let (offset, length) = (first * PAGE as u64, count * PAGE as u64);
        let length = u32::try_from(length).map_err(io::Error::other)?;
        let data = || pages.flat_map(|index| content(number, index)).collect::<Vec<u8>>();
        match kind {
            Kind::Write => client.write(offset, &data()),
            Kind::WriteThrough => {
                client.write_through(offset, &data())?;
                // With it, all before it: a volume is a prefix of what was written.
                self.flushed = number;
                Ok(())
            }
            Kind::Trim => client.trim(offset, length),
            Kind::Zeroes => client.write_zeroes(offset, length),
        }
    }

    /// Writes so often, then flushes.
    pub fn flushed_writes(
        &mut self,
        client: &mut NbdClient,
        random: &mut Random,
        count: u64,
    ) -> io::Result<()> {
        for _ in 0..count {
            self.write(client, random)?;
        }
        self.flush(client)
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
        let last = self.check_recovered(&shown)?;
        let prefix = Prefix { last, flushed: self.flushed, issued: self.issued };
        self.base = shown;
        self.writes.clear();
        self.flushed = self.issued;
        Ok(prefix)
    }

    /// Holds what is shown after a crash against the writes since the last check; the last write
    /// that is there.
    pub fn check_recovered(&self, shown: &[u64]) -> Result<u64, String> {
        self.explain(shown, self.flushed..=self.issued, true)
    }

    /// Holds what a snapshot shows against the writes since the last check: it must be what the
    /// volume was after one of the writes of `taken`, which it returns.
    pub fn check_snapshot(&self, shown: &[u64], taken: RangeInclusive<u64>) -> Result<u64, String> {
        self.explain(shown, taken, false)
    }

    /// The write that each page shows.
    pub fn read(&self, client: &mut NbdClient) -> io::Result<Vec<u64>> {
        let mut shown = Vec::new();
        for first in (0..self.pages()).step_by(PAGES_PER_READ) {
            let count = (self.pages() - first).min(PAGES_PER_READ as u64);
            let len = u32::try_from(count * PAGE as u64).map_err(io::Error::other)?;
            let data = client.read(first * PAGE as u64, len)?;
            for (index, page) in (first..).zip(data.chunks(PAGE)) {
                shown.push(number(page, index).map_err(io::Error::other)?);
            }
        }
        Ok(shown)
    }

    fn pages(&self) -> u64 {
        self.base.len() as u64
    }

    /// The last write of `allowed` after which the volume may show this; the write may be there in
    /// part if it was not flushed, and `may_be_torn`.
    fn explain(
        &self,
        shown: &[u64],
        allowed: RangeInclusive<u64>,
        may_be_torn: bool,
    ) -> Result<u64, String> {
        let newest = shown.iter().copied().max().unwrap_or(0);
        if newest > *allowed.end() {
            return Err(format!("write {newest} is there, {}", self.told(&allowed)));
        }
        let before = self.known();
        let mut state = self.base.clone();
        let mut whole = (allowed.contains(&before) && state == shown).then_some(before);
        let mut torn = None;
        let mut nearest = None;
        for (&number, change) in &self.writes {
            let former = change.apply(number, &mut state);
            if !allowed.contains(&number) {
                continue;
            }
            let Some(page) = difference(&state, shown, |_| None) else {
                whole = Some(number);
                continue;
            };
            if number == newest.max(*allowed.start()) {
                nearest = Some(page);
            }
            let first = within(&change.pages).start;
            let before = |page: usize| former.get(page.checked_sub(first)?).copied();
            if may_be_torn && number > self.flushed && difference(&state, shown, before).is_none() {
                torn = Some(number);
            }
        }
        whole.or(torn).ok_or_else(|| {
            let what = match nearest {
                _ if newest < *allowed.start() => "flushed writes are lost".to_owned(),
                Some((page, wanted)) => format!(
                    "page {page} shows write {}, not {wanted}: no prefix explains it",
                    shown[page]
                ),
                None => "no prefix explains it".to_owned(),
            };
            format!("{what}, {}", self.told(&allowed))
        })
    }

    fn told(&self, allowed: &RangeInclusive<u64>) -> String {
        format!("allowed are {allowed:?}, {} are flushed, {} issued", self.flushed, self.issued)
    }
}

impl Change {
    /// Makes `state` what it is after this write; what its pages showed before.
    fn apply(&self, number: u64, state: &mut [u64]) -> Vec<u64> {
        let is_zero = matches!(self.kind, Kind::Trim | Kind::Zeroes);
        let pages = &mut state[within(&self.pages)];
        let former = pages.to_vec();
        pages.fill(if is_zero { 0 } else { number });
        former
    }
}

/// The first page that shows something else than it should, and what that would be. A page may also
/// show what is `allowed` for it.
fn difference(
    state: &[u64],
    shown: &[u64],
    allowed: impl Fn(usize) -> Option<u64>,
) -> Option<(usize, u64)> {
    let differs =
        |page: &usize| shown[*page] != state[*page] && Some(shown[*page]) != allowed(*page);
    (0..state.len()).find(differs).map(|page| (page, state[page]))
}

fn within(pages: &Range<u64>) -> Range<usize> {
    let index = |page: u64| usize::try_from(page).expect("pages that fit in memory");
    index(pages.start)..index(pages.end)
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
mod tests;
