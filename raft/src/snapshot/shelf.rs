//! The folder of snapshot files: which is current, how a new one takes its place.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::file::{self, SnapshotFile};
use crate::config::{LogId, SnapshotMeta};
use crate::error::{Error, SnapshotError};
use crate::machine::SnapshotWriter;
use crate::storage::Blocking;

const COMPLETE: &str = "snapshot";
const DRAFT: &str = "tmp";

/// The snapshots of one node. At most one is current; it only ever moves forward.
pub(crate) struct Shelf {
    dir: PathBuf,
    group: [u8; 16],
    /// Held while a file is opened, never while one is written or synced: the node's thread asks.
    current: Mutex<Option<Current>>,
    /// Who makes a snapshot the current one.
    publishing: Mutex<()>,
    drafts: AtomicU64,
    blocking: Blocking,
}

struct Current {
    meta: SnapshotMeta,
    path: PathBuf,
}

/// A file that is not yet a snapshot; removed when dropped, unless it became one.
#[derive(Debug)]
pub(crate) struct Draft {
    path: PathBuf,
}

impl Drop for Draft {
    fn drop(&mut self) {
        match fs::remove_file(&self.path) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => {
                // The next start removes what is left.
                tracing::warn!(path = %self.path.display(), error = %err, "draft stays behind");
            }
            _ => {}
        }
    }
}

impl Shelf {
    /// Opens the folder, removes what a crash left and checks the newest snapshot completely.
    pub(crate) fn open(dir: &Path, group: [u8; 16], blocking: Blocking) -> Result<Self, Error> {
        let io_error = |source| Error::Io { path: dir.to_owned(), source };
        fs::create_dir_all(dir).map_err(io_error)?;
        if let Some(parent) = dir.parent() {
            // A snapshot is as durable as the entry of its folder.
            File::open(parent).and_then(|parent| parent.sync_all()).map_err(io_error)?;
        }
        let complete = tidy(dir).map_err(io_error)?;
        let mut current = None;
        if let Some((newest, older)) = complete.split_last() {
            let corrupt = |source| Error::SnapshotCorrupt { path: newest.clone(), source };
            let file =
                File::open(newest).map_err(|source| corrupt(SnapshotError::Read { source }))?;
            let meta = file::read_meta(&file, group).map_err(corrupt)?;
            for path in older {
                fs::remove_file(path).map_err(io_error)?;
            }
            current = Some(Current { meta, path: newest.clone() });
        }
        let current = Mutex::new(current);
        let (publishing, drafts) = (Mutex::default(), AtomicU64::new(0));
        Ok(Self { dir: dir.to_owned(), group, current, publishing, drafts, blocking })
    }

    /// Where work on its files goes.
    pub(crate) fn blocking(&self) -> Blocking {
        self.blocking
    }

    /// Whether `dir` has no snapshot.
    pub(crate) fn is_pristine(dir: &Path) -> bool {
        !fs::read_dir(dir).is_ok_and(|entries| {
            entries.flatten().any(|entry| has_extension(&entry.path(), COMPLETE))
        })
    }

    /// The last entry in the current snapshot.
    pub(crate) fn last(&self) -> Option<LogId> {
        self.current().as_ref().and_then(|current| current.meta.last_log_id)
    }

    /// Its index.
    pub(crate) fn last_index(&self) -> Option<u64> {
        self.last().map(|id| id.index)
    }

    /// Bytes of the current snapshot's file; 0 without one.
    pub(crate) fn size(&self) -> u64 {
        let path = self.current().as_ref().map(|current| current.path.clone());
        path.and_then(|path| fs::metadata(path).ok()).map_or(0, |found| found.len())
    }

    /// How long ago the current snapshot was written.
    pub(crate) fn age(&self) -> Option<Duration> {
        let path = self.current().as_ref()?.path.clone();
        let written = fs::metadata(path).ok()?.modified().ok()?;
        // A clock that was put back makes it new.
        Some(written.elapsed().unwrap_or_default())
    }

    /// The current snapshot, opened: it stays readable when a newer one takes its place.
    pub(crate) fn open_current(&self) -> io::Result<Option<(SnapshotMeta, SnapshotFile)>> {
        let current = self.current();
        let Some(current) = current.as_ref() else { return Ok(None) };
        let file = File::open(&current.path)?;
        Ok(Some((current.meta.clone(), SnapshotFile { file, draft: None })))
    }

    /// A new empty file, to be filled and then [published](Self::publish).
    pub(crate) fn draft(&self) -> io::Result<(File, Draft)> {
        let number = self.drafts.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join(format!("{number}.{DRAFT}"));
        let file =
            File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
        Ok((file, Draft { path }))
    }

    /// Writes a snapshot and makes it the current one, unless a newer one is there already.
    pub(crate) fn write(&self, meta: &SnapshotMeta, body: SnapshotWriter) -> io::Result<()> {
        let (file, draft) = self.draft()?;
        file::write(&file, self.group, meta, body)?;
        self.publish(meta, &file, draft)
    }

    /// Makes an installed snapshot the current one: a received draft as it is, any other file by
    /// a copy. At a restart it is the current one already.
    pub(crate) fn adopt(&self, meta: &SnapshotMeta, snapshot: SnapshotFile) -> io::Result<()> {
        let SnapshotFile { mut file, draft } = snapshot;
        if let Some(draft) = draft {
            return self.publish(meta, &file, draft);
        }
        if self.current().as_ref().is_some_and(|current| current.meta == *meta) {
            return Ok(());
        }
        let (mut copy, draft) = self.draft()?;
        file.seek(SeekFrom::Start(0))?;
        io::copy(&mut file, &mut copy)?;
        self.publish(meta, &copy, draft)
    }

    /// Makes a complete draft the current snapshot, unless a newer one is there already.
    pub(crate) fn publish(&self, meta: &SnapshotMeta, file: &File, draft: Draft) -> io::Result<()> {
        file.sync_all()?;
        let _publishing = self.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.last().is_some_and(|last| Some(last) >= meta.last_log_id) {
            return Ok(());
        }
        let path = self.dir.join(name(meta));
        fs::rename(&draft.path, &path)?;
        File::open(&self.dir)?.sync_all()?;
        let older = self.current().replace(Current { meta: meta.clone(), path: path.clone() });
        if let Some(older) = older.filter(|older| older.path != path) {
            fs::remove_file(older.path)?;
        }
        Ok(())
    }

    fn current(&self) -> MutexGuard<'_, Option<Current>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes drafts; returns the complete files, the newest last.
fn tidy(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut complete = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if has_extension(&path, DRAFT) {
            fs::remove_file(&path)?;
        } else if has_extension(&path, COMPLETE) {
            complete.push(path);
        }
    }
    complete.sort();
    Ok(complete)
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found == extension)
}

/// Sorts like the log. A snapshot holds committed entries, so indices alone order them.
fn name(meta: &SnapshotMeta) -> String {
    let (index, term) = meta.last_log_id.map_or((0, 0), |id| (id.index, id.leader_id.term));
    format!("{index:020}-{term:020}.{COMPLETE}")
}
