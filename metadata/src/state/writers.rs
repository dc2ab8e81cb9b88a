//! What the writer of a volume commits: INode indexes, windows and heads, each under its epoch.

use std::collections::BTreeSet;

use torus_blockstore::{Epoch, INodeIndex, VolumeId};

use super::{Change, State};
use crate::{Event, Head, LogPosition, Outcome, Refusal, Volume, Window};

/// Blocks in one window.
const WINDOW_BLOCKS_MAX: u64 = 1 << 16;
/// Windows that one volume's head may lag behind.
const WINDOWS_MAX: usize = 4096;
/// Peers that a window may leave out: with the limit above, a volume's record stays far below what
/// a snapshot can hold.
const EXCLUDED_MAX: usize = 512;
/// INode indexes in one reservation.
const RESERVATION_MAX: u64 = 1 << 16;

impl State {
    pub(super) fn reserve_inodes(
        &mut self,
        volume: VolumeId,
        epoch: Epoch,
        count: u64,
    ) -> Result<Change, Refusal> {
        if !(1..=RESERVATION_MAX).contains(&count) {
            return Err(Refusal::INODE_COUNT);
        }
        let volume = self.volume_of_epoch(volume, epoch)?;
        let first = INodeIndex(volume.inode_index.0 + 1);
        volume.inode_index.0 += count;
        Change::with(Outcome::INode(first), vec![Event::VolumeChanged(volume.clone())])
    }

    pub(super) fn commit_window(
        &mut self,
        volume: VolumeId,
        window: Window,
    ) -> Result<Change, Refusal> {
        let ring_is_kept = self.rings.contains_key(&window.ring);
        let volume = self.volume_locked_by(volume, window.epoch)?;
        if !ring_is_kept {
            return Err(Refusal::NoSuchRing(window.ring));
        }
        let end = window.first.0.checked_add(window.count);
        if !(1..=WINDOW_BLOCKS_MAX).contains(&window.count) || end.is_none() {
            return Err(Refusal::WINDOW_COUNT);
        }
        is_reserved(volume, window.inode)?;
        if !follows(volume, &window) {
            return Err(Refusal::WindowOrder);
        }
        if window.excluded.len() > EXCLUDED_MAX {
            return Err(Refusal::WINDOW_LIMIT);
        }
        if volume.windows.len() >= WINDOWS_MAX {
            return Err(Refusal::WINDOW_LIMIT);
        }
        volume.windows.push(window);
        volume.is_clean = false;
        Change::done(vec![Event::VolumeChanged(volume.clone())])
    }

    pub(super) fn commit_head(&mut self, volume: VolumeId, head: Head) -> Result<Change, Refusal> {
        let volume = self.volume_of_epoch(volume, head.epoch)?;
        if head.blocks == 0 {
            return Err(Refusal::HEAD_EMPTY);
        }
        is_reserved(volume, head.position.inode)?;
        if volume.head.as_ref().is_some_and(|old| head.position < old.position) {
            return Err(Refusal::HeadOrder);
        }
        is_checkpoint_next(volume, &head)?;
        let position = head.position;
        volume.head = Some(head);
        let dropped: BTreeSet<_> = volume
            .windows
            .extract_if(.., |window| lies_before(window, position))
            .map(|window| window.ring)
            .collect();
        let changed = Event::VolumeChanged(volume.clone());
        self.forget_rings(&dropped);
        Change::done(vec![changed])
    }
}

fn is_reserved(volume: &Volume, inode: INodeIndex) -> Result<(), Refusal> {
    let reserved = INodeIndex(1)..=volume.inode_index;
    if reserved.contains(&inode) { Ok(()) } else { Err(Refusal::INODE_RESERVED) }
}

/// Whether `head` can follow the present one: the same checkpoint further along the log, or one of
/// the volume's own that is newer than all it knows of. Not only newer than the present one, which
/// is old after a restore: what was retired does not come back.
fn is_checkpoint_next(volume: &Volume, head: &Head) -> Result<(), Refusal> {
    if let Some(old) = volume.head.as_ref().filter(|old| old.has_inode_of(head)) {
        return if old.blocks == head.blocks { Ok(()) } else { Err(Refusal::HeadOrder) };
    }
    if head.volume != volume.id {
        return Err(Refusal::HEAD_FOREIGN);
    }
    is_reserved(volume, head.inode)?;
    let snapshots = volume.snapshots.iter().map(|snapshot| &snapshot.head);
    let known = volume.head.iter().chain(snapshots).chain(&volume.retired);
    let mut own = known.filter(|known| known.volume == volume.id);
    if own.all(|known| known.inode < head.inode) { Ok(()) } else { Err(Refusal::HeadOrder) }
}

/// Whether `window` goes on where the log ends: in a new generation, right behind the last window,
/// or, where the log was cut off, behind the cut.
fn follows(volume: &Volume, window: &Window) -> bool {
    let head = volume.head.as_ref().map(|head| head.position);
    let start = LogPosition { inode: window.inode, block: window.first, offset: 0 };
    if let Some(cut) = window.after
        && (head.is_some_and(|head| cut < head) || start < cut)
    {
        return false;
    }
    match volume.windows.last() {
        Some(last) if window.inode == last.inode => {
            // Never back: a window that a later one has passed over is void.
            let end = last.first.0 + last.count;
            window.first.0 == end || (window.after.is_some() && window.first.0 > end)
        }
        Some(last) => window.inode > last.inode,
        None => head.is_none_or(|head| (start.inode, start.block) >= (head.inode, head.block)),
    }
}

/// Whether all blocks of `window` stand before `position` in the log.
fn lies_before(window: &Window, position: LogPosition) -> bool {
    window.inode < position.inode
        || (window.inode == position.inode && window.first.0 + window.count <= position.block.0)
}
