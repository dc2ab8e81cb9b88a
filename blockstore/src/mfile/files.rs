//! The files of a store: created, opened and grown. Nothing is changed before it is known to be
//! ours and whole.
//!
//! A store is made under the name `block.new` and takes the name `block` when it is complete, so a
//! directory `block` without a superblock is not an interrupted start but someone else's.

use std::io;
use std::path::{Path, PathBuf};

use super::slot::{FREE, SEAL_LEN, SlotIndex};
use super::superblock::Superblock;
use crate::disk::{Disk, DiskFile, Mapping, fresh_name, replace_file, write_file};
use crate::{BlockRef, Error, FenceTable, Geometry, MfileOptions, PeerIdentity};

/// The open files of a store.
pub(super) struct Files {
    pub(super) geometry: Geometry,
    pub(super) data: Box<dyn DiskFile>,
    pub(super) data_path: PathBuf,
    pub(super) tables: Tables,
}

/// The two tables; see [`super::slot`].
pub(super) struct Tables {
    pub(super) map: Box<dyn Mapping>,
    pub(super) map_path: PathBuf,
    pub(super) seals: Box<dyn Mapping>,
    pub(super) seals_path: PathBuf,
}

/// Where the files are and how long each must be.
struct Layout {
    dir: PathBuf,
    geometry: Geometry,
}

impl Layout {
    fn superblock(&self) -> PathBuf {
        self.dir.join("superblock")
    }

    /// The files and their lengths: data, map, seal table.
    fn files(&self) -> [(PathBuf, u64); 3] {
        let Geometry { block_size, capacity_blocks } = self.geometry;
        [
            (self.dir.join("data-current.blk"), capacity_blocks * u64::from(block_size)),
            (self.dir.join("map-current.blk"), capacity_blocks * BlockRef::LEN as u64),
            (self.dir.join("seal-current.blk"), capacity_blocks * SEAL_LEN as u64),
        ]
    }

    fn bytes(&self) -> u64 {
        self.files().iter().map(|(_, length)| length).sum()
    }
}

/// Opens the store of a data directory, made or grown as the options say.
pub(super) fn open(identity: &PeerIdentity, options: MfileOptions) -> Result<Files, Error> {
    let asked = asked_geometry(options)?;
    let disk = &**identity.disk();
    let dir = identity.block_dir();
    if !disk.exists(&dir).map_err(Error::io("look for", &dir))? {
        create(identity, asked)?;
    }
    let superblock = read_superblock(identity, &dir)?;
    let found = superblock.geometry;
    if found.block_size != asked.block_size {
        return Err(Error::BlockSize { dir, found: found.block_size, asked: asked.block_size });
    }
    let files = open_files(disk, &Layout { dir: dir.clone(), geometry: found })?;
    if found.capacity_blocks < asked.capacity_blocks {
        drop(files);
        grow(identity, found, asked)?;
        return open_files(disk, &Layout { dir, geometry: asked });
    }
    if asked.capacity_blocks < found.capacity_blocks {
        return Err(cannot_shrink(&files, dir, options.capacity_bytes));
    }
    Ok(files)
}

/// The block size that the store's superblock names; `None`: there is no store.
pub(super) fn block_size_of(identity: &PeerIdentity) -> Result<Option<u32>, Error> {
    let dir = identity.block_dir();
    if !identity.disk().exists(&dir).map_err(Error::io("look for", &dir))? {
        return Ok(None);
    }
    Ok(Some(read_superblock(identity, &dir)?.geometry.block_size))
}

fn asked_geometry(options: MfileOptions) -> Result<Geometry, Error> {
    let MfileOptions { block_size, capacity_bytes } = options;
    if !block_size.is_power_of_two() || !(512..=1 << 30).contains(&block_size) {
        return Err(Error::InvalidBlockSize { asked: block_size });
    }
    match capacity_bytes / u64::from(block_size) {
        0 => Err(Error::TooSmall { asked: capacity_bytes, block_size }),
        capacity_blocks => Ok(Geometry { block_size, capacity_blocks }),
    }
}

fn create(identity: &PeerIdentity, geometry: Geometry) -> Result<(), Error> {
    let disk = &**identity.disk();
    let dir = identity.block_dir();
    let fresh = Layout { dir: fresh_name(&dir), geometry };
    // What an interrupted start left.
    disk.remove(&fresh.dir).map_err(Error::io("remove", &fresh.dir))?;
    check_space(identity, fresh.bytes())?;
    let created = fill(identity, &fresh).and_then(|()| {
        disk.rename(&fresh.dir, &dir).map_err(Error::io("rename", &fresh.dir))?;
        disk.sync_dir(identity.dir()).map_err(Error::io("sync", identity.dir()))
    });
    if created.is_err() {
        // Should this fail too, the next start removes it; the first error is the one to tell.
        let _ = disk.remove(&fresh.dir);
    }
    created
}

fn fill(identity: &PeerIdentity, layout: &Layout) -> Result<(), Error> {
    let disk = &**identity.disk();
    disk.create_dir(&layout.dir).map_err(Error::io("create", &layout.dir))?;
    for (path, length) in layout.files() {
        let file = disk.create(&path).map_err(Error::io("create", &path))?;
        allocate(identity, &*file, &path, length)?;
    }
    FenceTable::create(disk, &layout.dir)?;
    let superblock = Superblock { geometry: layout.geometry, peer: identity.peer() };
    write_file(disk, &layout.superblock(), &superblock.encode())?;
    disk.sync_dir(&layout.dir).map_err(Error::io("sync", &layout.dir))
}

fn grow(identity: &PeerIdentity, found: Geometry, asked: Geometry) -> Result<(), Error> {
    let disk = &**identity.disk();
    let layout = Layout { dir: identity.block_dir(), geometry: asked };
    let before = Layout { dir: identity.block_dir(), geometry: found };
    check_space(identity, layout.bytes() - before.bytes())?;
    for (path, length) in layout.files() {
        let file = disk.open(&path).map_err(Error::io("open", &path))?;
        allocate(identity, &*file, &path, length)?;
    }
    let superblock = Superblock { geometry: asked, peer: identity.peer() };
    replace_file(disk, &layout.superblock(), &superblock.encode())
}

fn check_space(identity: &PeerIdentity, needed: u64) -> Result<(), Error> {
    let dir = identity.dir();
    let free = identity.disk().free_space(dir).map_err(Error::io("measure", dir))?;
    if needed <= free {
        return Ok(());
    }
    Err(Error::NoSpace { dir: dir.to_owned(), needed, free })
}

fn allocate(
    identity: &PeerIdentity,
    file: &dyn DiskFile,
    path: &Path,
    length: u64,
) -> Result<(), Error> {
    match file.allocate(length) {
        // Somebody was faster than our check.
        Err(error) if error.kind() == io::ErrorKind::StorageFull => {
            check_space(identity, length)?;
            Err(Error::io("reserve", path)(error))
        }
        allocated => allocated.map_err(Error::io("reserve", path)),
    }?;
    file.sync().map_err(Error::io("sync", path))
}

fn read_superblock(identity: &PeerIdentity, dir: &Path) -> Result<Superblock, Error> {
    let disk = &**identity.disk();
    let path = dir.join("superblock");
    if !disk.exists(&path).map_err(Error::io("look for", &path))? {
        return Err(Error::Foreign { path: dir.to_owned() });
    }
    let superblock = Superblock::read(disk, &path)?;
    let (found, expected) = (superblock.peer, identity.peer());
    if found == expected { Ok(superblock) } else { Err(Error::OtherPeer { path, found, expected }) }
}

fn open_files(disk: &dyn Disk, layout: &Layout) -> Result<Files, Error> {
    let [data, map, seals] = layout.files();
    let (data, data_path) = (open_file(disk, &data.0, data.1)?, data.0);
    let mapping = |(path, length): (PathBuf, u64)| {
        let file = open_file(disk, &path, length)?;
        // What the medium has, not what a failed sync of an earlier run left in the cache.
        file.evict(0..length).map_err(Error::io("read", &path))?;
        let mapping = file.map(length).map_err(Error::io("map", &path))?;
        Ok((mapping, path))
    };
    let (map, map_path) = mapping(map)?;
    let (seals, seals_path) = mapping(seals)?;
    let tables = Tables { map, map_path, seals, seals_path };
    Ok(Files { geometry: layout.geometry, data, data_path, tables })
}

fn open_file(disk: &dyn Disk, path: &Path, length: u64) -> Result<Box<dyn DiskFile>, Error> {
    if !disk.exists(path).map_err(Error::io("look for", path))? {
        return Err(Error::Damaged { path: path.to_owned(), what: "it is missing" });
    }
    let file = disk.open(path).map_err(Error::io("open", path))?;
    if file.length().map_err(Error::io("measure", path))? < length {
        let what = "it is shorter than the superblock says";
        return Err(Error::Damaged { path: path.to_owned(), what });
    }
    // An earlier run may have left bytes that are only in the cache: what is found from now on is
    // on the medium.
    file.sync().map_err(Error::io("sync", path))?;
    Ok(file)
}

fn cannot_shrink(files: &Files, dir: PathBuf, asked: u64) -> Error {
    let Geometry { block_size, capacity_blocks } = files.geometry;
    let in_use = (0..capacity_blocks).filter(|&slot| {
        let mut entry = FREE;
        files.tables.seals.load(SlotIndex(slot).offset(SEAL_LEN), &mut entry);
        entry != FREE
    });
    let used = in_use.count() as u64 * u64::from(block_size);
    if asked < used {
        return Error::UsedExceeds { dir, used, asked };
    }
    Error::Shrink { dir, size: capacity_blocks * u64::from(block_size), asked }
}
