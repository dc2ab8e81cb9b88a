//! Writes that are acknowledged but not yet in a record: what the next record will hold, and what
//! reads of these pages see meanwhile.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::record::{ExtentKind, MAX_EXTENTS, MAX_PAGES, PAGE, RecordExtent};

/// One accepted write or zeroing, in whole pages.
#[derive(Clone, Debug)]
struct Pending {
    page: u64,
    count: u32,
    /// `None`: the pages are zeroed.
    data: Option<Bytes>,
}

impl Pending {
    fn is_long_zero(&self) -> bool {
        self.data.is_none() && self.count > INDEXED
    }

    fn cost(&self) -> usize {
        let indexed = if self.is_long_zero() { 0 } else { self.count as usize };
        OPERATION_COST + INDEX_COST * indexed + self.data.as_ref().map_or(0, Bytes::len)
    }
}

/// What one record will hold.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) extents: Vec<RecordExtent>,
    /// The pages of the data extents, in order; each piece is whole pages.
    pub(crate) data: Vec<Bytes>,
    pub(crate) pages: usize,
}

/// What a page of the overlay holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Page {
    Data(Bytes),
    Zero,
}

/// The queue of pending writes, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Overlay {
    queue: VecDeque<Pending>,
    /// Number of the queue's front, counting all that ever were in it.
    front: u64,
    /// Page to the newest pending write that covers it. Long zeroings are not in it: they are few,
    /// and looked up in the queue itself.
    index: BTreeMap<u64, u64>,
    /// Their number, first page and page behind them, oldest first.
    long_zeroes: VecDeque<(u64, u64, u64)>,
    bytes: usize,
}

/// Zeroings of more pages than this are not indexed page by page.
const INDEXED: u32 = 1024;
/// What an operation weighs beside its payload, and each page that is indexed, in bytes: zeroings
/// have no payload and must not pile up without bound.
const OPERATION_COST: usize = 64;
const INDEX_COST: usize = 32;

impl Overlay {
    /// Queues `data`, whole pages from `page` on.
    pub(crate) fn write(&mut self, page: u64, data: Bytes) {
        let count = data.len() as u32 / PAGE;
        self.push(Pending { page, count, data: Some(data) });
    }

    /// Queues the zeroing of pages.
    pub(crate) fn zero(&mut self, page: u64, count: u32) {
        self.push(Pending { page, count, data: None });
    }

    /// What waits, in bytes of payload, with something for what has none.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many pages wait, those to be zeroed included.
    pub(crate) fn pages(&self) -> u64 {
        self.queue.iter().map(|pending| u64::from(pending.count)).sum()
    }

    /// How many operations were ever queued.
    pub(crate) fn queued(&self) -> u64 {
        self.front + self.queue.len() as u64
    }

    /// How many of them were taken whole.
    pub(crate) fn taken(&self) -> u64 {
        self.front
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// The newest pending content of a page.
    pub(crate) fn page(&self, page: u64) -> Option<Page> {
        let indexed = self.index.get(&page).copied();
        let covers = |(_, first, end): &&(u64, u64, u64)| (*first..*end).contains(&page);
        let zeroed = self.long_zeroes.iter().rev().find(covers).map(|(number, _, _)| *number);
        let number = indexed.max(zeroed)?;
        let pending = self.queue.get(usize::try_from(number - self.front).ok()?)?;
        Some(match &pending.data {
            Some(data) => {
                let start = (page - pending.page) as usize * PAGE as usize;
                Page::Data(data.slice(start..start + PAGE as usize))
            }
            None => Page::Zero,
        })
    }

    /// The first page from `page` on that a pending write gives content, if there is one.
    pub(crate) fn first_from(&self, page: u64) -> Option<u64> {
        let data = self.queue.iter().filter(|pending| pending.data.is_some());
        let behind = data.filter(|pending| pending.page + u64::from(pending.count) > page);
        behind.map(|pending| pending.page.max(page)).min()
    }

    /// Takes from the front what fits into one record of at most `max_pages` pages.
    pub(crate) fn take_batch(&mut self, max_pages: usize) -> Batch {
        let mut batch = Batch::default();
        let room = max_pages.min(MAX_PAGES);
        while let Some(pending) = self.queue.front_mut() {
            if batch.extents.len() == MAX_EXTENTS {
                break;
            }
            let Some(data) = &mut pending.data else {
                let (page, count) = (pending.page, pending.count);
                batch.extents.push(RecordExtent { page, count, kind: ExtentKind::Zero });
                self.pop();
                continue;
            };
            let count = (pending.count as usize).min(room - batch.pages) as u32;
            if count == 0 {
                break;
            }
            let part = data.split_to((count * PAGE) as usize);
            self.bytes -= part.len() + INDEX_COST * count as usize;
            batch.extents.push(RecordExtent { page: pending.page, count, kind: ExtentKind::Data });
            batch.pages += count as usize;
            batch.data.push(part);
            let whole = count == pending.count;
            Self::forget(&mut self.index, pending.page, count, self.front);
            pending.page += u64::from(count);
            pending.count -= count;
            if whole {
                self.pop();
            }
        }
        batch
    }

    fn push(&mut self, pending: Pending) {
        let number = self.queued();
        let end = pending.page + u64::from(pending.count);
        if pending.is_long_zero() {
            self.long_zeroes.push_back((number, pending.page, end));
        } else {
            (pending.page..end).for_each(|page| {
                self.index.insert(page, number);
            });
        }
        self.bytes += pending.cost();
        self.queue.push_back(pending);
    }

    fn pop(&mut self) {
        if let Some(pending) = self.queue.pop_front() {
            self.bytes -= pending.cost();
            if pending.is_long_zero() {
                self.long_zeroes.pop_front();
            } else {
                Self::forget(&mut self.index, pending.page, pending.count, self.front);
            }
            self.front += 1;
        }
    }

    fn forget(index: &mut BTreeMap<u64, u64>, page: u64, count: u32, number: u64) {
        for page in page..page + u64::from(count) {
            if index.get(&page) == Some(&number) {
                index.remove(&page);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(fill: u8) -> Bytes {
        Bytes::from(vec![fill; PAGE as usize])
    }

    #[test]
    fn the_newest_write_of_a_page_is_seen() {
        let mut overlay = Overlay::default();
        overlay.write(5, page(1));
        overlay.write(5, page(2));
        assert_eq!(overlay.page(5), Some(Page::Data(page(2))));
        assert_eq!(overlay.page(6), None);
        overlay.zero(0, 5000);
        assert_eq!(overlay.page(5), Some(Page::Zero));
        overlay.write(5, page(3));
        assert_eq!(overlay.page(5), Some(Page::Data(page(3))));
    }

    #[test]
    fn a_batch_takes_writes_in_order_and_splits_long_ones() {
        let mut overlay = Overlay::default();
        overlay.write(0, page(1));
        overlay.write(10, Bytes::from([vec![2; 4096], vec![3; 4096], vec![4; 4096]].concat()));
        overlay.zero(0, 2);
        let batch = overlay.take_batch(3);
        assert_eq!((batch.pages, batch.extents.len()), (3, 2));
        assert_eq!(overlay.bytes(), 4096 + 2 * OPERATION_COST + 3 * INDEX_COST);
        assert_eq!(overlay.page(11), None);
        assert_eq!(overlay.page(12), Some(Page::Data(page(4))));
        assert_eq!(overlay.page(0), Some(Page::Zero));
        let batch = overlay.take_batch(3);
        assert_eq!(batch.extents[0], RecordExtent { page: 12, count: 1, kind: ExtentKind::Data });
        assert_eq!(batch.extents[1], RecordExtent { page: 0, count: 2, kind: ExtentKind::Zero });
        assert!(overlay.is_empty());
        assert_eq!((overlay.page(0), overlay.bytes()), (None, 0));
    }
}
