//! Garbage collection beside the clients: reads victims, and copies what is alive in them to the end
//! of the log.
//!
//! A copy is a record like any other. It is cut only while the map still points at the original, in
//! one step with moving the map, so that it never overtakes a client's write; and it says what the
//! volume holds anyway, so that a recovery that stops before or behind it finds the same content.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use torus_blockstore::{BlockRef, ByteRange, PeerId};

use super::{Context, Event, IN_FLIGHT, Writer};
use crate::garbage::{Limit, can_shrink, survey};
use crate::overlay::Overlay;
use crate::record::{ExtentKind, Header, PAGE, UNIT};
use crate::recovery::whole_records;

/// Victims at a time while clients are busy, and while they are not or space is short.
const BESIDE_CLIENTS: usize = 1;
const ALONE: usize = 4;
/// Clients that asked for nothing for so long are not busy.
const IDLE: Duration = Duration::from_millis(200);

/// Of what is stored, the part that there should be room for at the peers.
const HEADROOM_PART: u64 = 16;

/// A block that was read to be copied forward.
pub(super) struct Victim {
    number: u32,
    /// Its number may be another block's by the time that it was read.
    block: BlockRef,
    /// `None`: no intact copy can be had now.
    content: Option<(Vec<Header>, Bytes)>,
}

#[derive(Default)]
pub(super) struct Collector {
    /// Chosen, best first; a number may be another block's by the time that it is one's turn.
    chosen: VecDeque<(u32, BlockRef)>,
    reading: usize,
    /// Read; they wait for the map or the log.
    read: VecDeque<Victim>,
    /// Blocks that cannot be read, or do not hold what the table says.
    passed_over: BTreeSet<BlockRef>,
    /// Bytes of log at which the last look found nothing; `None`: look whenever there is garbage.
    fruitless_at: Option<u64>,
    last_request: Option<Instant>,
    /// Clients make garbage faster than one victim at a time gives it back.
    is_behind: bool,
}

impl Collector {
    pub(super) fn is_busy(&self) -> bool {
        self.reading > 0
    }

    pub(super) fn note_requests(&mut self) {
        self.last_request = Some(Instant::now());
    }

    /// Snapshots or the map changed, so that a look may find more.
    pub(super) fn map_changed(&mut self) {
        self.fruitless_at = None;
    }

    /// What could not be read may be readable now.
    pub(super) fn tick(&mut self) {
        self.passed_over.clear();
    }

    fn is_idle(&self) -> bool {
        self.last_request.is_none_or(|last| last.elapsed() >= IDLE)
    }
}

impl Writer {
    pub(super) fn keep_collecting(&mut self) {
        if self.closing.is_some() || self.uncovered || self.mending {
            return;
        }
        self.copy_read_victims();
        let shortage = self.shortage();
        if self.collector.chosen.is_empty() && self.collector.reading == 0 {
            self.choose(shortage);
        }
        let is_pressing = self.collector.is_behind || shortage > self.headroom() / 2;
        let alone = self.collector.is_idle() || is_pressing;
        let most = if alone { ALONE } else { BESIDE_CLIENTS };
        while self.collector.reading + self.collector.read.len() < most
            && let Some((number, block)) = self.collector.chosen.pop_front()
        {
            self.read_victim(number, block);
        }
    }

    /// Whether there is more garbage than may stay while the peers are full.
    pub(super) fn has_garbage(&self) -> bool {
        let totals = self.map.table.totals();
        let live = totals.own_pages * u64::from(PAGE);
        can_shrink(live, totals.own_bytes.saturating_sub(live))
    }

    /// So much room the peers should have: clients go on writing into it until a checkpoint has
    /// given back what was collected.
    pub(super) fn headroom(&self) -> u64 {
        (self.map.table.totals().own_bytes / HEADROOM_PART).max(self.slack())
    }

    /// Bytes that the peers lack of the headroom, beside what they are about to get back.
    fn shortage(&mut self) -> u64 {
        let freed = self.reclaimer.coming() * u64::from(self.identity.block_size);
        let coming = self.map.table.dead_bytes() + freed;
        self.headroom().saturating_sub(self.room().saturating_add(coming))
    }

    fn choose(&mut self, shortage: u64) {
        let totals = self.map.table.totals();
        let passed_over = &self.collector.passed_over;
        if self.asks.is_flattening() && totals.foreign_pages > 0 {
            if self.map.want_table() {
                let table = &self.map.table;
                let foreign = table.iter().filter(|(_, entry)| !table.is_own(entry));
                let blocks = foreign.map(|(number, entry)| (number, entry.block));
                self.collector.chosen =
                    blocks.filter(|(_, block)| !passed_over.contains(block)).collect();
            }
            return;
        }
        let live = totals.own_pages * u64::from(PAGE);
        let stored = totals.own_bytes.saturating_sub(self.map.table.dead_bytes());
        let (written, slack) = (self.log.written(), self.slack());
        let is_pausing = self.collector.fruitless_at.is_some_and(|at| written < at + slack / 2);
        let limit = Limit { slack, shortage };
        let garbage = stored.saturating_sub(live);
        let allowed = limit.allowed(live, garbage);
        self.collector.is_behind = garbage > allowed + limit.allowed(live, u64::MAX) / 8;
        if garbage <= allowed || is_pausing || !self.map.want_table() {
            return;
        }
        let end = (self.identity.inode, self.log.end().map_or_else(Default::default, |end| end.0));
        let survey = survey(&self.map.table, self.reclaimer.pinned(), end, limit);
        let block = |number| Some((number, self.map.table.get(number)?.block));
        let blocks = survey.victims.into_iter().filter_map(block);
        self.collector.chosen = blocks.filter(|(_, block)| !passed_over.contains(block)).collect();
        let is_fruitless = self.collector.chosen.is_empty();
        self.collector.fruitless_at = is_fruitless.then_some(written);
    }

    /// Garbage of so many bytes is left: half a window of the log. After a look that found nothing
    /// to copy, half of it is written before the next.
    fn slack(&self) -> u64 {
        self.context.window_blocks * u64::from(self.identity.block_size) / 2
    }

    fn read_victim(&mut self, number: u32, block: BlockRef) {
        let entry = self.map.table.get(number);
        let entry = entry.filter(|entry| entry.block == block && entry.live > 0);
        let Some((entry, seal)) = entry.and_then(|entry| Some((entry, entry.seal?))) else {
            return;
        };
        if self.log.is_open_block(entry.block) {
            return;
        }
        self.collector.reading += 1;
        let context = self.context.clone();
        self.push_event(async move {
            let content = read_whole(&context, entry.block, seal.length).await;
            Event::Collected(Victim { number, block: entry.block, content })
        });
    }

    pub(super) fn collected(&mut self, victim: Victim) {
        self.collector.reading -= 1;
        if victim.content.is_some() {
            self.collector.read.push_back(victim);
        } else {
            self.collector.passed_over.insert(victim.block);
        }
    }

    fn copy_read_victims(&mut self) {
        while self.may_cut()
            && self.log.unacknowledged() < IN_FLIGHT
            && self.log.next_block().is_some()
            && let Some(victim) = self.collector.read.pop_front()
        {
            if let Some(waiting) = self.copy_forward(victim) {
                self.collector.read.push_back(waiting);
                return;
            }
        }
    }

    /// Copies what the map still points at; gives the victim back while parts of the map are being
    /// read.
    fn copy_forward(&mut self, victim: Victim) -> Option<Victim> {
        let Some((headers, bytes)) = &victim.content else { return None };
        let entry = self.map.table.get(victim.number);
        if entry.is_none_or(|entry| entry.block != victim.block) {
            // It died while it was read.
            return None;
        }
        let mut is_ready = true;
        for extent in headers.iter().flat_map(|header| &header.extents) {
            is_ready &=
                extent.kind == ExtentKind::Zero || self.map.ready(extent.page, extent.count);
        }
        if !is_ready {
            return Some(victim);
        }
        let mut copies = Overlay::default();
        for header in headers {
            let mut at = header.place.offset + header.length;
            for extent in header.extents.iter().filter(|extent| extent.kind == ExtentKind::Data) {
                let mut offset = at;
                self.map.lookup(extent.page, extent.count, |run| {
                    for index in 0..run.count {
                        let here = run.location.map(|location| location.advanced(index as u16));
                        let is_alive = here.is_some_and(|here| {
                            here.block == victim.number && u32::from(here.offset) * UNIT == offset
                        });
                        if is_alive {
                            let start = offset as usize;
                            let page = &bytes[start..start + PAGE as usize];
                            // A slice would keep the whole block in memory.
                            copies.write(run.page + u64::from(index), Bytes::copy_from_slice(page));
                        }
                        offset += PAGE;
                    }
                });
                at += extent.count * PAGE;
            }
        }
        let copied = copies.pages();
        let sends = self.log.cut(&mut copies, &mut self.map, false);
        sends.into_iter().for_each(|send| self.send(send));
        self.map.written.copied += (copied - copies.pages()) * u64::from(PAGE);
        let left = self.map.table.get(victim.number).map_or(0, |entry| entry.live);
        if left > 0 && copies.is_empty() {
            tracing::warn!(
                volume = %self.identity.volume,
                number = victim.number,
                left,
                "a block holds less than the map points at in it"
            );
            self.collector.passed_over.insert(victim.block);
        }
        None
    }
}

/// All of a block and its records, from whichever peer has it intact.
async fn read_whole(
    context: &Context,
    block: BlockRef,
    length: u32,
) -> Option<(Vec<Header>, Bytes)> {
    let mut avoid: Vec<PeerId> = Vec::new();
    loop {
        let range = vec![ByteRange { offset: 0, length }];
        let (peer, bytes) = match context.pool.read(block, range, Vec::new(), avoid.clone()).await {
            Ok(found) => found,
            Err(error) => {
                tracing::info!(%error, "a block is not collected now");
                return None;
            }
        };
        if let Some(headers) = whole_records(block, &bytes) {
            return Some((headers, bytes));
        }
        tracing::warn!(%peer, %block, "a copy fails its checksum");
        context.pool.suspect(peer, block);
        avoid.push(peer);
    }
}
