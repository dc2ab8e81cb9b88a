//! What is on a simulated disk: files and directories, each as readers see it and as a crash
//! leaves it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::ops::Range;
use std::path::{Component, Path};
use std::sync::Arc;

use super::{SECTOR, SECTOR_LEN};

/// A file or directory, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NodeId(usize);

const ROOT: NodeId = NodeId(0);

/// All nodes that ever were; those without a name are kept, because a crash may bring it back.
#[derive(Clone)]
pub(super) struct Image(Vec<Node>);

#[derive(Clone)]
pub(super) enum Node {
    Dir(Dir),
    File(File),
}

type Names = BTreeMap<OsString, NodeId>;

#[derive(Clone, Default)]
pub(super) struct Dir {
    live: Names,
    durable: Names,
    /// What happened since the last sync.
    changes: Vec<Change>,
}

#[derive(Clone)]
enum Change {
    Link(OsString, NodeId),
    Unlink(OsString),
    Rename(OsString, OsString),
}

/// Sectors that were never written are absent and read as zeros.
type Sectors = BTreeMap<u64, Arc<[u8; SECTOR_LEN]>>;

#[derive(Clone, Default)]
pub(super) struct File {
    pub(super) length: u64,
    durable_length: u64,
    live: Sectors,
    durable: Sectors,
    dirty: BTreeSet<u64>,
}

impl Default for Image {
    fn default() -> Self {
        Self(vec![Node::Dir(Dir::default())])
    }
}

/// A crash's choice among so many possibilities, the first of which keeps least.
type Choose<'a> = dyn FnMut(u64) -> u64 + 'a;

impl Image {
    pub(super) fn node(&self, id: NodeId) -> &Node {
        &self.0[id.0]
    }

    pub(super) fn file(&self, id: NodeId) -> &File {
        match self.node(id) {
            Node::File(file) => file,
            Node::Dir(_) => unreachable!("handles are made for files only"),
        }
    }

    pub(super) fn file_mut(&mut self, id: NodeId) -> &mut File {
        match &mut self.0[id.0] {
            Node::File(file) => file,
            Node::Dir(_) => unreachable!("handles are made for files only"),
        }
    }

    pub(super) fn find(&self, path: &Path) -> Option<NodeId> {
        names(path).try_fold(ROOT, |id, name| match self.node(id) {
            Node::Dir(dir) => dir.live.get(name).copied(),
            Node::File(_) => None,
        })
    }

    /// Bytes of all files that have a name.
    pub(super) fn used(&self) -> u64 {
        self.used_below(ROOT)
    }

    fn used_below(&self, id: NodeId) -> u64 {
        match self.node(id) {
            Node::File(file) => file.length,
            Node::Dir(dir) => dir.live.values().map(|&id| self.used_below(id)).sum(),
        }
    }

    pub(super) fn unsynced_sectors(&self) -> usize {
        let dirty = |node: &Node| match node {
            Node::File(file) => file.dirty.len(),
            Node::Dir(_) => 0,
        };
        self.0.iter().map(dirty).sum()
    }

    pub(super) fn create_dir(&mut self, path: &Path) -> io::Result<()> {
        let mut id = ROOT;
        for name in names(path) {
            id = match self.dir_mut(id)?.live.get(name) {
                Some(&below) => below,
                None => {
                    let below = self.add(Node::Dir(Dir::default()));
                    let dir = self.dir_mut(id)?;
                    dir.change(Change::Link(name.to_owned(), below));
                    dir.sync();
                    below
                }
            };
        }
        self.dir_mut(id).map(|_| ())
    }

    pub(super) fn create_file(&mut self, path: &Path) -> io::Result<NodeId> {
        if self.find(path).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let (dir, name) = self.parent(path)?;
        let id = self.add(Node::File(File::default()));
        self.dir_mut(dir)?.change(Change::Link(name, id));
        Ok(id)
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        if self.find(path).is_some() {
            let (dir, name) = self.parent(path)?;
            self.dir_mut(dir)?.change(Change::Unlink(name));
        }
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.find(from).ok_or(io::ErrorKind::NotFound)?;
        let (dir, old) = self.parent(from)?;
        let (other, new) = self.parent(to)?;
        assert_eq!(dir, other, "names move within one directory only");
        self.dir_mut(dir)?.change(Change::Rename(old, new));
        Ok(())
    }

    pub(super) fn sync_dir(&mut self, id: NodeId) {
        if let Node::Dir(dir) = &mut self.0[id.0] {
            dir.sync();
        }
    }

    pub(super) fn after_crash(&self, choose: &mut Choose) -> Self {
        Self(self.0.iter().map(|node| node.after_crash(choose)).collect())
    }

    fn add(&mut self, node: Node) -> NodeId {
        self.0.push(node);
        NodeId(self.0.len() - 1)
    }

    fn parent(&self, path: &Path) -> io::Result<(NodeId, OsString)> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let parent = self.find(path.parent().unwrap_or(Path::new("")));
        Ok((parent.ok_or(io::ErrorKind::NotFound)?, name.to_owned()))
    }

    fn dir_mut(&mut self, id: NodeId) -> io::Result<&mut Dir> {
        match &mut self.0[id.0] {
            Node::Dir(dir) => Ok(dir),
            Node::File(_) => Err(io::ErrorKind::NotADirectory.into()),
        }
    }
}

fn names(path: &Path) -> impl Iterator<Item = &OsStr> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name),
        _ => None,
    })
}

impl Node {
    fn after_crash(&self, choose: &mut Choose) -> Self {
        match self {
            Self::Dir(dir) => Self::Dir(dir.after_crash(choose)),
            Self::File(file) => Self::File(file.after_crash(choose)),
        }
    }
}

impl Dir {
    fn change(&mut self, change: Change) {
        change.apply(&mut self.live);
        self.changes.push(change);
    }

    fn sync(&mut self) {
        self.durable = self.live.clone();
        self.changes.clear();
    }

    fn after_crash(&self, choose: &mut Choose) -> Self {
        let mut names = self.durable.clone();
        let kept = choose(self.changes.len() as u64 + 1);
        for (change, _) in self.changes.iter().zip(0..kept) {
            change.apply(&mut names);
        }
        Self { live: names.clone(), durable: names, changes: Vec::new() }
    }
}

impl Change {
    fn apply(&self, names: &mut Names) {
        match self {
            Self::Link(name, id) => {
                names.insert(name.clone(), *id);
            }
            Self::Unlink(name) => {
                names.remove(name);
            }
            Self::Rename(from, to) => {
                if let Some(id) = names.remove(from) {
                    names.insert(to.clone(), id);
                }
            }
        }
    }
}

impl File {
    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) {
        for_sectors(offset, buffer.len(), |sector, within, part| match self.live.get(&sector) {
            Some(bytes) => buffer[part].copy_from_slice(&bytes[within]),
            None => buffer[part].fill(0),
        });
    }

    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        for_sectors(offset, data.len(), |sector, within, part| {
            let bytes = self.live.entry(sector).or_insert_with(|| Arc::new([0; SECTOR_LEN]));
            Arc::make_mut(bytes)[within].copy_from_slice(&data[part]);
            self.dirty.insert(sector);
        });
        if !data.is_empty() {
            self.length = self.length.max(offset + data.len() as u64);
        }
    }

    /// As [`write`](Self::write), but no sync will know of it.
    pub(super) fn write_lost(&mut self, offset: u64, data: &[u8]) {
        let dirty = self.dirty.clone();
        self.write(offset, data);
        self.dirty = dirty;
    }

    /// Writes the dirty sectors of a range for which `written` says so; all become clean.
    pub(super) fn sync(&mut self, range: Range<u64>, written: &mut dyn FnMut() -> bool) {
        let sectors = range.start / SECTOR..range.end.div_ceil(SECTOR);
        let dirty: Vec<u64> = self.dirty.range(sectors).copied().collect();
        for sector in dirty {
            self.dirty.remove(&sector);
            if written() {
                self.keep(sector);
            }
        }
        if written() {
            self.durable_length = self.length;
        }
    }

    pub(super) fn evict(&mut self, range: Range<u64>) {
        let sectors = range.start / SECTOR..range.end.div_ceil(SECTOR);
        let clean = |sector: &u64| !self.dirty.contains(sector);
        let stale: Vec<u64> = self.live.range(sectors).map(|(&sector, _)| sector).collect();
        for sector in stale.into_iter().filter(clean) {
            match self.durable.get(&sector) {
                Some(bytes) => self.live.insert(sector, Arc::clone(bytes)),
                None => self.live.remove(&sector),
            };
        }
    }

    pub(super) fn corrupt(&mut self, offset: u64) {
        assert!(offset < self.length, "byte {offset} of a file of {} bytes", self.length);
        let mut byte = [0];
        self.read(offset, &mut byte);
        let sector = offset / SECTOR;
        let was_dirty = self.dirty.contains(&sector);
        self.write(offset, &[!byte[0]]);
        if !was_dirty {
            self.dirty.remove(&sector);
            self.keep(sector);
        }
    }

    fn keep(&mut self, sector: u64) {
        if let Some(bytes) = self.live.get(&sector) {
            self.durable.insert(sector, Arc::clone(bytes));
        }
    }

    fn after_crash(&self, choose: &mut Choose) -> Self {
        let mut after = self.clone();
        after.dirty.clear();
        for &sector in &self.dirty {
            if choose(2) == 1 {
                after.keep(sector);
            }
        }
        if self.length == self.durable_length || choose(2) == 1 {
            after.durable_length = self.length;
        }
        after.length = after.durable_length;
        after.durable.retain(|&sector, _| sector < after.length.div_ceil(SECTOR));
        after.live = after.durable.clone();
        after
    }
}

/// Cuts `length` bytes at `offset` at the borders of sectors: calls with the sector, the range in
/// it, and the range in the caller's bytes.
fn for_sectors(offset: u64, length: usize, mut call: impl FnMut(u64, Range<usize>, Range<usize>)) {
    let mut done = 0;
    while done < length {
        let position = offset + done as u64;
        let within = usize::try_from(position % SECTOR).unwrap_or(0);
        let count = (SECTOR_LEN - within).min(length - done);
        call(position / SECTOR, within..within + count, done..done + count);
        done += count;
    }
}
