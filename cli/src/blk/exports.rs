//! Volumes and snapshots as exports of the NBD server. The connections of one process share what is
//! open. A volume is this process's alone; a snapshot, named `VOLUME@SNAPSHOT`, is read-only, and
//! others may read it at the same time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use torus_metadata::{
    Answer, Error as MetadataError, Query, Refusal, Snapshot, Volume as Metadata,
};
use torus_nbd::{Errno, Export, ExportError, ExportInfo, Exports, Extent, OpenError, ReadData};
use torus_volume::{Error, OpenError as VolumeError, Services, Volume, open, open_snapshot};

use super::memory::Memory;
use crate::name::{SnapshotName, Source};

/// All volumes and snapshots of the cluster, or those that were named.
pub(super) struct VolumeExports {
    services: Services,
    /// `None`: all.
    named: Option<BTreeSet<String>>,
    memory: Memory,
    slots: Mutex<BTreeMap<String, Arc<Slot>>>,
}

/// An open volume or snapshot with the number of its users; the lock is held while it is opened or closed.
#[derive(Default)]
struct Slot {
    open: tokio::sync::Mutex<Option<(Arc<Volume>, usize)>>,
}

impl VolumeExports {
    pub(super) fn new(services: Services, named: &[String], memory: Memory) -> Self {
        let named = (!named.is_empty()).then(|| named.iter().cloned().collect());
        Self { services, named, memory, slots: Mutex::default() }
    }

    /// Opens a volume or a snapshot for this process, or shares the one that is open.
    pub(super) async fn take(&self, name: &str) -> Result<VolumeExport, VolumeError> {
        let slot = {
            let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(slots.entry(name.to_owned()).or_default())
        };
        let mut held = slot.open.lock().await;
        let volume = match &mut *held {
            Some((volume, users)) => {
                *users += 1;
                Arc::clone(volume)
            }
            None => {
                let opened = self.open_new(name).await?;
                let volume = Arc::new(opened);
                *held = Some((Arc::clone(&volume), 1));
                tracing::info!(volume = name, "opened");
                volume
            }
        };
        drop(held);
        // Clients that are connected go on with the size that they were told.
        let info = info(volume.size(), volume.is_snapshot());
        Ok(VolumeExport { name: name.to_owned(), info, volume, slot })
    }

    async fn open_new(&self, name: &str) -> Result<Volume, VolumeError> {
        let (services, options) = (self.services.clone(), self.memory.options());
        match name.parse() {
            Ok(Source::Volume(name)) => open(services, &name, options).await,
            Ok(Source::Snapshot(SnapshotName { volume, snapshot })) => {
                open_snapshot(services, &volume, &snapshot, options).await
            }
            Err(_) => Err(VolumeError::NoSuchVolume { name: name.to_owned() }),
        }
    }

    fn serves(&self, name: &str) -> bool {
        self.named.as_ref().is_none_or(|named| named.contains(name))
    }

    /// What clients are told of what need not be open, if there is such a thing.
    async fn describe(&self, source: &Source) -> Result<Option<ExportInfo>, MetadataError> {
        let name = source.volume().to_owned();
        let volume = match self.services.meta.query(Query::VolumeByName(name)).await {
            Ok(Answer::Volume { volume, .. }) => volume,
            Err(MetadataError::Refused(Refusal::NoSuchVolume { .. })) => None,
            Ok(_) => {
                let what = "the answer to VolumeByName is no volume";
                return Err(MetadataError::Protocol { what });
            }
            Err(error) => return Err(error),
        };
        Ok(volume.and_then(|volume| describe(&volume, source)))
    }
}

fn describe(volume: &Metadata, source: &Source) -> Option<ExportInfo> {
    match source {
        Source::Volume(_) => Some(info(volume.size, false)),
        Source::Snapshot(name) => {
            let snapshot = volume.snapshots.iter().find(|it| it.name == name.snapshot)?;
            Some(info(snapshot.size, true))
        }
    }
}

/// The names of everything that can be served.
fn names(volumes: &[Metadata]) -> impl Iterator<Item = String> {
    volumes.iter().flat_map(|volume| {
        let snapshot = |snapshot: &Snapshot| format!("{}@{}", volume.name, snapshot.name);
        std::iter::once(volume.name.clone()).chain(volume.snapshots.iter().map(snapshot))
    })
}

fn info(size: u64, read_only: bool) -> ExportInfo {
    // One writer orders the requests of all connections, so a flush on any covers them all.
    ExportInfo { read_only, multi_conn: true, ..ExportInfo::new(size) }
}

#[async_trait]
impl Exports for VolumeExports {
    async fn list(&self) -> Result<Vec<String>, ExportError> {
        match self.services.meta.query(Query::Volumes).await {
            Ok(Answer::Volumes { volumes, .. }) => {
                Ok(names(&volumes).filter(|name| self.serves(name)).collect())
            }
            Ok(_) => Err(Errno::Io.into()),
            Err(error) => Err(ExportError::new(Errno::Io, error)),
        }
    }

    async fn info(&self, name: &str) -> Result<ExportInfo, OpenError> {
        if !self.serves(name) {
            return Err(OpenError::Unknown);
        }
        let source = name.parse().map_err(|_| OpenError::Unknown)?;
        match self.describe(&source).await {
            Ok(Some(info)) => Ok(info),
            Ok(None) => Err(OpenError::Unknown),
            Err(error) => Err(OpenError::Failed(Box::new(error))),
        }
    }

    async fn open(&self, name: &str) -> Result<Arc<dyn Export>, OpenError> {
        if !self.serves(name) {
            return Err(OpenError::Unknown);
        }
        match self.take(name).await {
            Ok(export) => Ok(Arc::new(export)),
            Err(VolumeError::NoSuchVolume { .. } | VolumeError::NoSuchSnapshot { .. }) => {
                Err(OpenError::Unknown)
            }
            Err(VolumeError::InUse { owner, .. }) => Err(OpenError::InUse { by: owner }),
            Err(error) => Err(OpenError::Failed(Box::new(error))),
        }
    }
}

/// Writes of up to so many bytes are copied.
const COPIED: usize = 32 << 10;

/// One user's hold on an open volume or snapshot.
pub(super) struct VolumeExport {
    name: String,
    info: ExportInfo,
    volume: Arc<Volume>,
    slot: Arc<Slot>,
}

impl VolumeExport {
    /// Gives the hold up; the last one closes the volume.
    pub(super) async fn release(&self) -> Result<(), Error> {
        let mut held = self.slot.open.lock().await;
        let last = match &mut *held {
            Some((volume, users)) if Arc::ptr_eq(volume, &self.volume) => {
                *users -= 1;
                *users == 0
            }
            _ => false,
        };
        if !last {
            return Ok(());
        }
        *held = None;
        let closed = self.volume.close().await;
        tracing::info!(volume = self.name, "closed");
        closed
    }
}

fn refuse(error: Error) -> ExportError {
    let errno = match error {
        Error::OutOfRange { .. } => Errno::Invalid,
        Error::NoSpace => Errno::NoSpace,
        Error::ReadOnly => Errno::NotPermitted,
        Error::Closed | Error::TakenOver { .. } => Errno::ShuttingDown,
        _ => Errno::Io,
    };
    ExportError::new(errno, error)
}

#[async_trait]
impl Export for VolumeExport {
    fn info(&self) -> ExportInfo {
        self.info.clone()
    }

    async fn read(&self, offset: u64, length: u32) -> Result<ReadData, ExportError> {
        let pieces = self.volume.read(offset, length).await.map_err(refuse)?;
        Ok(pieces.into_iter().collect())
    }

    async fn write(&self, offset: u64, data: Bytes, fua: bool) -> Result<(), ExportError> {
        // The volume keeps what is written for a while, and a small slice would keep the whole
        // buffer that it was received in.
        let small = data.len() <= COPIED;
        let data = if small { Bytes::copy_from_slice(&data) } else { data };
        self.volume.write(offset, data, fua).await.map_err(refuse)
    }

    async fn flush(&self) -> Result<(), ExportError> {
        self.volume.flush().await.map_err(refuse)
    }

    async fn trim(&self, offset: u64, length: u64, fua: bool) -> Result<(), ExportError> {
        self.volume.trim(offset, length, fua).await.map_err(refuse)
    }

    async fn write_zeroes(
        &self,
        offset: u64,
        length: u64,
        fua: bool,
        _no_hole: bool,
    ) -> Result<(), ExportError> {
        // All space is thin: a log has no place to reserve for a later overwrite.
        self.volume.write_zeroes(offset, length, fua).await.map_err(refuse)
    }

    async fn block_status(&self, offset: u64, length: u64) -> Result<Vec<Extent>, ExportError> {
        // The answer may end early; 1 GiB is a quarter of a million pages.
        let length = u32::try_from(length.min(1 << 30)).unwrap_or(1 << 30);
        let runs = self.volume.mapped(offset, length).await.map_err(refuse)?;
        let extent = |(length, mapped): (u32, bool)| Extent {
            length: length.into(),
            hole: !mapped,
            zero: !mapped,
        };
        Ok(runs.into_iter().map(extent).collect())
    }

    fn zeroes_fast(&self, _offset: u64, _length: u64, _no_hole: bool) -> bool {
        true
    }

    async fn close(&self) {
        if let Err(error) = self.release().await {
            tracing::error!(
                volume = self.name,
                error = crate::failure::chain(&error),
                "cannot close"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::tests::{volume, with_snapshots};

    #[test]
    fn volumes_are_listed_with_their_snapshots() {
        let volumes = [with_snapshots(1, "disk"), volume(2, "log", None)];
        assert_eq!(names(&volumes).collect::<Vec<_>>(), ["disk", "disk@mon", "disk@tue", "log"]);
    }

    #[test]
    fn snapshots_are_read_only_and_have_their_own_size() {
        let mut disk = with_snapshots(1, "disk");
        disk.size = 4096;
        let told = |name: &str| {
            describe(&disk, &name.parse().unwrap()).map(|info| (info.size, info.read_only))
        };
        assert_eq!(told("disk"), Some((4096, false)));
        assert_eq!(told("disk@mon"), Some((10 << 30, true)));
        assert_eq!(told("disk@sun"), None);
    }
}
