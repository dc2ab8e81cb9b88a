//! Who a data directory belongs to: the peer's UUID, drawn at the first start, and the lock that
//! keeps a second process out.
//!
//! It stands apart from the store, because a daemon must have a name before it joins a cluster,
//! and only then learns the block size.
//!
//! The file `peer`, 32 bytes, integers little-endian:
//!
//! | offset | size | field   | meaning                         |
//! |-------:|-----:|---------|---------------------------------|
//! |      0 |    8 | magic   | `TORUSPID`                      |
//! |      8 |    4 | version | 1                               |
//! |     12 |   16 | peer    | UUID, network order             |
//! |     28 |    4 | crc     | CRC-32 (IEEE) of all before it  |

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{DirLock, Disk, read_file, replace_file};
use crate::field::{array, u32_at};
use crate::{Error, PeerId};

const MAGIC: &[u8; 8] = b"TORUSPID";
/// The file beside it that names the cluster: the same bytes with this magic and the cluster's UUID.
const CLUSTER_FILE: &str = "cluster";
const CLUSTER_MAGIC: &[u8; 8] = b"TORUSCLU";
const VERSION: u32 = 1;
const PEER: usize = 12;
const CRC: usize = PEER + 16;
const LEN: usize = CRC + size_of::<u32>();

/// The directory of the block files, below the data directory.
pub(crate) const BLOCK_DIR: &str = "block";

/// A data directory that this process holds.
pub struct PeerIdentity {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    peer: PeerId,
    _lock: Box<dyn Send + Sync>,
}

impl PeerIdentity {
    /// Takes the data directory, which is created if it is missing. A new one belongs to `fresh`.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, fresh: PeerId) -> Result<Self, Error> {
        disk.create_dir(dir).map_err(Error::io("create", dir))?;
        let lock = match disk.lock_dir(dir).map_err(Error::io("lock", dir))? {
            DirLock::Held(lock) => lock,
            DirLock::Taken { pid } => return Err(Error::InUse { dir: dir.to_owned(), pid }),
        };
        let path = dir.join("peer");
        let exists = |path: &Path| disk.exists(path).map_err(Error::io("look for", path));
        let peer = if exists(&path)? {
            decode(&path, &read_file(&*disk, &path, LEN)?)?
        } else if exists(&dir.join(BLOCK_DIR))? {
            // The blocks have a name in the ring; a new one would make strangers of them.
            let what = "it is missing, although there are blocks";
            return Err(Error::Damaged { path, what });
        } else {
            replace_file(&*disk, &path, &encode(MAGIC, fresh))?;
            fresh
        };
        Ok(Self { disk, dir: dir.to_owned(), peer, _lock: lock })
    }

    /// The name of the peer.
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// The data directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The disk that the data directory is on.
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// The cluster that the data directory's blocks belong to; `None`: it never had any.
    pub fn cluster(&self) -> Result<Option<uuid::Uuid>, Error> {
        let path = self.dir.join(CLUSTER_FILE);
        if !self.disk.exists(&path).map_err(Error::io("look for", &path))? {
            return Ok(None);
        }
        let bytes = read_file(&*self.disk, &path, LEN)?;
        check_head(&path, &bytes, CLUSTER_MAGIC, VERSION, LEN)?;
        Ok(Some(uuid::Uuid::from_bytes(array(&bytes, PEER))))
    }

    /// Refuses a data directory whose blocks belong to another cluster, or whose blocks are gone:
    /// what it does not hold any more, others would take for never written.
    pub fn check_cluster(&self, cluster: uuid::Uuid) -> Result<(), Error> {
        let Some(found) = self.cluster()? else { return Ok(()) };
        if found != cluster {
            return Err(Error::OtherCluster { dir: self.dir.clone(), found, expected: cluster });
        }
        if self.lacks_blocks()? {
            let what = "it is missing; mount the disk that it is on, or, if that is lost, start with an \
                        empty data directory as a new peer ('torusctl recover' helps if nobody else \
                        has the metadata)";
            return Err(Error::Damaged { path: self.block_dir(), what });
        }
        Ok(())
    }

    /// Whether the data directory had blocks and has none now.
    pub fn lacks_blocks(&self) -> Result<bool, Error> {
        let blocks = self.block_dir();
        let exists = self.disk.exists(&blocks).map_err(Error::io("look for", &blocks))?;
        Ok(self.cluster()?.is_some() && !exists)
    }

    /// Notes, durably, that there are blocks now and whose they are.
    pub fn bind_cluster(&self, cluster: uuid::Uuid) -> Result<(), Error> {
        if self.cluster()? == Some(cluster) {
            return Ok(());
        }
        let bytes = encode(CLUSTER_MAGIC, PeerId(cluster));
        replace_file(&*self.disk, &self.dir.join(CLUSTER_FILE), &bytes)
    }

    pub(crate) fn block_dir(&self) -> PathBuf {
        self.dir.join(BLOCK_DIR)
    }
}

fn encode(magic: &[u8; 8], name: PeerId) -> [u8; LEN] {
    let mut bytes = [0; LEN];
    bytes[..8].copy_from_slice(magic);
    bytes[8..PEER].copy_from_slice(&VERSION.to_le_bytes());
    bytes[PEER..CRC].copy_from_slice(&name.encode());
    let crc = crc32fast::hash(&bytes[..CRC]);
    bytes[CRC..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn decode(path: &Path, bytes: &[u8]) -> Result<PeerId, Error> {
    check_head(path, bytes, MAGIC, VERSION, LEN)?;
    Ok(PeerId::decode(array(bytes, PEER)))
}

/// Checks what all our small files have: magic, version, length, and the CRC at the end.
pub(crate) fn check_head(
    path: &Path,
    bytes: &[u8],
    magic: &[u8; 8],
    known: u32,
    len: usize,
) -> Result<(), Error> {
    let damaged = |what| Error::Damaged { path: path.to_owned(), what };
    if bytes.len() >= 8 && bytes[..8] != *magic {
        return Err(Error::Foreign { path: path.to_owned() });
    }
    if bytes.len() != len {
        return Err(damaged("its length is wrong"));
    }
    // The checksum before the version: a flipped bit is no other release.
    if u32_at(bytes, len - 4) != crc32fast::hash(&bytes[..len - 4]) {
        return Err(damaged("its checksum is wrong"));
    }
    match u32_at(bytes, 8) {
        found if found == known => Ok(()),
        found => Err(Error::Version { path: path.to_owned(), found, known }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{OsDisk, SimDisk};

    const FRESH: PeerId = PeerId(uuid::Uuid::from_u128(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10));

    #[test]
    fn blocks_belong_to_one_cluster_and_must_not_vanish() {
        let disk = SimDisk::new(1, 1 << 20).shared();
        let dir = Path::new("/data");
        let identity = PeerIdentity::open(Arc::clone(&disk), dir, FRESH).unwrap();
        let (ours, theirs) = (uuid::Uuid::from_u128(1), uuid::Uuid::from_u128(2));
        identity.check_cluster(ours).unwrap();
        disk.create_dir(&dir.join(BLOCK_DIR)).unwrap();
        identity.bind_cluster(ours).unwrap();
        identity.check_cluster(ours).unwrap();
        let refused = identity.check_cluster(theirs);
        assert!(matches!(refused, Err(Error::OtherCluster { .. })), "{refused:?}");
        let without = SimDisk::new(2, 1 << 20).shared();
        let identity = PeerIdentity::open(without, dir, FRESH).unwrap();
        identity.bind_cluster(ours).unwrap();
        let refused = identity.check_cluster(ours);
        assert!(matches!(refused, Err(Error::Damaged { .. })), "{refused:?}");
    }

    #[test]
    fn golden_bytes() {
        #[rustfmt::skip]
        let bytes = [
            b'T', b'O', b'R', b'U', b'S', b'P', b'I', b'D',
            1, 0, 0, 0,
            1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16,
            0, 0, 0, 0,
        ];
        assert_eq!(encode(MAGIC, FRESH)[..CRC], bytes[..CRC]);
        assert_eq!(u32_at(&encode(MAGIC, FRESH), CRC), crc32fast::hash(&bytes[..CRC]));
        assert_eq!(decode(Path::new("peer"), &encode(MAGIC, FRESH)).unwrap(), FRESH);
    }

    #[test]
    fn every_flipped_byte_is_refused() {
        for index in 0..LEN {
            let mut bytes = encode(MAGIC, FRESH);
            bytes[index] ^= 0x10;
            decode(Path::new("peer"), &bytes).unwrap_err();
        }
        for len in 0..LEN {
            decode(Path::new("peer"), &encode(MAGIC, FRESH)[..len]).unwrap_err();
        }
    }

    #[test]
    fn the_first_name_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let first = PeerIdentity::open(OsDisk::shared(), &path, FRESH).unwrap();
        let second = PeerIdentity::open(OsDisk::shared(), &path, PeerId::random());
        let error = second.err().unwrap();
        assert!(matches!(error, Error::InUse { .. }), "{error}");
        drop(first);
        let again = PeerIdentity::open(OsDisk::shared(), &path, PeerId::random()).unwrap();
        assert_eq!(again.peer(), FRESH);
    }

    #[test]
    fn a_name_that_was_told_survives_a_crash() {
        let dir = Path::new("/data");
        for operations in 0.. {
            let disk = SimDisk::new(1, 1 << 20);
            disk.crash_after(operations);
            let told =
                PeerIdentity::open(disk.shared(), dir, FRESH).map(|identity| identity.peer());
            for seed in 0..8 {
                let other = PeerId::random();
                let after = disk.after_crash(seed);
                let found = PeerIdentity::open(after.shared(), dir, other).unwrap().peer();
                assert!(found == FRESH || told.is_err() && found == other);
            }
            if told.is_ok() {
                return;
            }
        }
    }
}
