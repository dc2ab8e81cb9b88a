//! Writes that do not begin or end with a page: the rest of their first and last page is read,
//! then whole pages are written. Later writes wait meanwhile, so that none is overtaken.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};

use super::{Event, Reply, Writer};
use crate::Error;
use crate::read::{self, Piece};
use crate::record::PAGE;

/// A write that needs the rest of its first or last page.
pub(super) struct Unaligned {
    pub(super) offset: u64,
    pub(super) data: Bytes,
    pub(super) fua: bool,
    pub(super) reply: Reply<()>,
}

impl Unaligned {
    fn end(&self) -> u64 {
        self.offset + self.data.len() as u64
    }

    /// The pages that are written in part: one or two.
    fn edges(&self) -> Vec<u64> {
        let page = u64::from(PAGE);
        let mut edges = Vec::new();
        if !self.offset.is_multiple_of(page) {
            edges.push(self.offset / page);
        }
        if !self.end().is_multiple_of(page) && edges.first() != Some(&(self.end() / page)) {
            edges.push(self.end() / page);
        }
        edges
    }

    /// The whole pages that the write makes of the edges' present content.
    fn merged(&self, edges: &BTreeMap<u64, Bytes>) -> (u64, Bytes) {
        let page = u64::from(PAGE);
        let (first, last) = (self.offset / page, (self.end() - 1) / page);
        let mut whole = BytesMut::zeroed(((last - first + 1) * page) as usize);
        for (number, content) in edges {
            let start = ((number - first) * page) as usize;
            whole[start..start + PAGE as usize].copy_from_slice(content);
        }
        let start = (self.offset - first * page) as usize;
        whole[start..start + self.data.len()].copy_from_slice(&self.data);
        (first, whole.freeze())
    }
}

impl Writer {
    pub(super) fn write_unaligned(&mut self, write: Unaligned) {
        if write.data.is_empty() {
            self.accept(0, Bytes::new(), write.fua, write.reply);
            return;
        }
        self.reading_edges = true;
        let edges = write.edges();
        // All are looked at, so that what is not there is read at once.
        let away = edges.iter().filter(|page| !self.map.ready(**page, 1)).count();
        if away > 0 {
            self.edge_waiting = Some(write);
            return;
        }
        let edges: Vec<(u64, Vec<Piece>)> =
            edges.into_iter().map(|page| (page, self.pieces(page, 1))).collect();
        let (pool, reader) = (self.context.pool.clone(), self.reclaimer.reader());
        self.push_event(async move {
            let _until_read = reader;
            let mut pages = BTreeMap::new();
            for (page, pieces) in edges {
                match read::fetch(&pool, pieces).await {
                    Ok(content) => pages.insert(page, Bytes::from(content.concat())),
                    Err(error) => return Event::Edges { write, pages: Err(error) },
                };
            }
            Event::Edges { write, pages: Ok(pages) }
        });
    }

    pub(super) fn edges_read(
        &mut self,
        write: Unaligned,
        pages: Result<BTreeMap<u64, Bytes>, Error>,
    ) {
        self.reading_edges = false;
        match (pages, &self.failed) {
            (Ok(_), Some(error)) => {
                let _ = write.reply.send(Err(error.clone()));
            }
            (Ok(_), None) if write.end() > self.size.get().next_multiple_of(PAGE.into()) => {
                // The volume shrank meanwhile.
                let (offset, end, size) = (write.offset, write.end(), self.size.get());
                let _ = write.reply.send(Err(Error::OutOfRange { offset, end, size }));
            }
            (Ok(pages), None) => {
                let (page, data) = write.merged(&pages);
                self.accept(page, data, write.fua, write.reply);
            }
            (Err(error), _) => {
                let _ = write.reply.send(Err(error));
            }
        }
    }
}
