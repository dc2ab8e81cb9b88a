//! Volumes as exports of the NBD server. The connections of one process share an open volume.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use torus_metadata::{Answer, Error as MetadataError, Query, Refusal};
use torus_nbd::{Errno, Export, ExportError, ExportInfo, Exports, Extent, OpenError, ReadData};
use torus_volume::{Error, OpenError as VolumeError, Options, Services, Volume, open};

use crate::connection::owner;

/// All volumes of the cluster, or those that were named.
pub(super) struct VolumeExports {
    services: Services,
    /// `None`: all.
    named: Option<BTreeSet<String>>,
    slots: Mutex<BTreeMap<String, Arc<Slot>>>,
}

/// An open volume with the number of its users; the lock is held while it is opened or closed.
#[derive(Default)]
struct Slot {
    open: tokio::sync::Mutex<Option<(Arc<Volume>, usize)>>,
}

impl VolumeExports {
    pub(super) fn new(services: Services, named: &[String]) -> Self {
        let named = (!named.is_empty()).then(|| named.iter().cloned().collect());
        Self { services, named, slots: Mutex::default() }
    }

    /// Opens a volume for this process, or shares the one that is open.
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
                let opened =
                    open(self.services.clone(), name, Options::new(owner("torusblk"))).await?;
                let volume = Arc::new(opened);
                *held = Some((Arc::clone(&volume), 1));
                tracing::info!(volume = name, "opened");
                volume
            }
        };
        drop(held);
        Ok(VolumeExport { name: name.to_owned(), volume, slot })
    }

    fn serves(&self, name: &str) -> bool {
        self.named.as_ref().is_none_or(|named| named.contains(name))
    }

    async fn size_of(&self, name: &str) -> Result<Option<u64>, MetadataError> {
        match self.services.meta.query(Query::VolumeByName(name.to_owned())).await {
            Ok(Answer::Volume { volume, .. }) => Ok(volume.map(|volume| volume.size)),
            Ok(_) => {
                Err(MetadataError::Protocol { what: "the answer to VolumeByName is no volume" })
            }
            Err(MetadataError::Refused(Refusal::NoSuchVolume { .. })) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn info(size: u64) -> ExportInfo {
    // One writer orders the requests of all connections, so a flush on any covers them all.
    ExportInfo { multi_conn: true, ..ExportInfo::new(size) }
}

#[async_trait]
impl Exports for VolumeExports {
    async fn list(&self) -> Result<Vec<String>, ExportError> {
        match self.services.meta.query(Query::Volumes).await {
            Ok(Answer::Volumes { volumes, .. }) => {
                let names = volumes.into_iter().map(|volume| volume.name);
                Ok(names.filter(|name| self.serves(name)).collect())
            }
            Ok(_) => Err(Errno::Io.into()),
            Err(error) => Err(ExportError::new(Errno::Io, error)),
        }
    }

    async fn info(&self, name: &str) -> Result<ExportInfo, OpenError> {
        if !self.serves(name) {
            return Err(OpenError::Unknown);
        }
        match self.size_of(name).await {
            Ok(Some(size)) => Ok(info(size)),
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
            Err(VolumeError::NoSuchVolume { .. }) => Err(OpenError::Unknown),
            Err(VolumeError::InUse { owner, .. }) => Err(OpenError::InUse { by: owner }),
            Err(error) => Err(OpenError::Failed(Box::new(error))),
        }
    }
}

/// Writes of up to so many bytes are copied.
const COPIED: usize = 32 << 10;

/// One user's hold on an open volume.
pub(super) struct VolumeExport {
    name: String,
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
        Error::Closed | Error::TakenOver { .. } => Errno::ShuttingDown,
        _ => Errno::Io,
    };
    ExportError::new(errno, error)
}

#[async_trait]
impl Export for VolumeExport {
    fn info(&self) -> ExportInfo {
        info(self.volume.size())
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
