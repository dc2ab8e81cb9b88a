//! What an export is written to.
//!
//! A file is written under another name beside its own, and gets that when it is on the disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use tokio::io::{AsyncWriteExt, BufWriter};
use tokio::task::spawn_blocking;
use uuid::Uuid;

use crate::ctl::transfer::is_standard;
use crate::stream::{Chunk, Header, StreamError, StreamWriter};

/// Bytes that gather before they are written.
const BUFFER: usize = 1 << 20;
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub(in crate::ctl) enum DestinationError {
    #[error("this is nothing to look at; redirect standard output")]
    Terminal,
    #[error("{} exists; --force replaces it", .0.display())]
    Exists(PathBuf),
    #[error("{} is no regular file; write to - and redirect standard output to it", .0.display())]
    NotRegular(PathBuf),
    #[error("{} names no file", .0.display())]
    NoFile(PathBuf),
    #[error("cannot write {}", .path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
    #[error(transparent)]
    Stream(#[from] StreamError),
}

/// Where an export goes, before it begins.
#[derive(Debug)]
pub(in crate::ctl) enum Place {
    Output,
    File { path: PathBuf, replace: bool },
}

impl Place {
    /// Refuses what cannot be written, or should not.
    pub(in crate::ctl) fn check(path: &Path, replace: bool) -> Result<Self, DestinationError> {
        if is_standard(path) {
            return match io::stdout().is_terminal() {
                true => Err(DestinationError::Terminal),
                false => Ok(Self::Output),
            };
        }
        if path.file_name().is_none() {
            return Err(DestinationError::NoFile(path.to_owned()));
        }
        match fs::metadata(path) {
            Ok(metadata) if !metadata.is_file() => {
                Err(DestinationError::NotRegular(path.to_owned()))
            }
            Ok(_) if !replace => Err(DestinationError::Exists(path.to_owned())),
            // What a link names is replaced, not the link.
            Ok(_) => match fs::canonicalize(path) {
                Ok(path) => Ok(Self::File { path, replace }),
                Err(source) => Err(DestinationError::File { path: path.to_owned(), source }),
            },
            Err(_) => Ok(Self::File { path: path.to_owned(), replace }),
        }
    }

    /// Writes all of `bytes`; a file gets its name when they are on the disk.
    pub(in crate::ctl) fn write_whole(self, bytes: &[u8]) -> Result<(), DestinationError> {
        match self {
            Self::Output => {
                let mut output = io::stdout();
                let written = output.write_all(bytes).and_then(|()| output.flush());
                written.map_err(DestinationError::Output)
            }
            Self::File { path, replace } => {
                let (new, mut file) = NewFile::create(path, replace)?;
                let written = file.write_all(bytes).and_then(|()| file.sync_all());
                written.map_err(|source| new.error(source))?;
                new.keep()
            }
        }
    }
}

type Output = BufWriter<tokio::fs::File>;

/// An export that is being written.
pub(in crate::ctl) struct Destination {
    /// `None`: standard output.
    file: Option<NewFile>,
    form: Form,
}

enum Form {
    /// An image in a file, whose holes need not be written.
    Sparse(Arc<File>),
    /// An image, one byte after another.
    Plain { to: Output, position: u64, size: u64 },
    /// A stream; a full one says nothing of holes.
    Stream { to: StreamWriter<Output>, with_zeroes: bool },
}

impl Destination {
    /// Begins a stream if there is a `header`, else an image of `size` bytes.
    pub(in crate::ctl) async fn begin(
        place: Place,
        header: Option<Header>,
        size: u64,
    ) -> Result<Self, DestinationError> {
        let (file, output) = match place {
            Place::Output => {
                let output = io::stdout().as_fd().try_clone_to_owned();
                (None, File::from(output.map_err(DestinationError::Output)?))
            }
            Place::File { path, replace } => {
                let (file, output) = NewFile::create(path, replace)?;
                (Some(file), output)
            }
        };
        let buffered = |file| BufWriter::with_capacity(BUFFER, tokio::fs::File::from_std(file));
        let form = match (header, &file) {
            (Some(header), _) => {
                let with_zeroes = header.from.is_some();
                let to = StreamWriter::begin(buffered(output), &header).await?;
                Form::Stream { to, with_zeroes }
            }
            (None, Some(file)) => {
                output.set_len(size).map_err(|source| file.error(source))?;
                Form::Sparse(Arc::new(output))
            }
            (None, None) => Form::Plain { to: buffered(output), position: 0, size },
        };
        Ok(Self { file, form })
    }

    /// Writes a chunk that stands behind the one before; whether it is of use in this form.
    pub(in crate::ctl) async fn write(&mut self, chunk: &Chunk) -> Result<bool, DestinationError> {
        let result = match (&mut self.form, chunk) {
            (Form::Stream { with_zeroes: false, .. }, Chunk::Zero { .. })
            | (Form::Sparse(_) | Form::Plain { .. }, Chunk::Zero { .. }) => return Ok(false),
            (Form::Stream { to, .. }, Chunk::Zero { offset, length }) => {
                return Ok(to.zero(*offset, *length).await.map(|()| true)?);
            }
            (Form::Stream { to, .. }, Chunk::Data { offset, data }) => {
                return Ok(to.data(*offset, data).await.map(|()| true)?);
            }
            (Form::Sparse(file), Chunk::Data { offset, data }) => {
                let (file, offset, data) = (Arc::clone(file), *offset, data.clone());
                let writing = spawn_blocking(move || file.write_all_at(&data, offset));
                writing.await.unwrap_or_else(|error| Err(error.into()))
            }
            (Form::Plain { to, position, .. }, Chunk::Data { offset, data }) => {
                let gap = fill(to, *position, *offset).await;
                *position = chunk.end();
                match gap {
                    Ok(()) => to.write_all(data).await,
                    Err(error) => Err(error),
                }
            }
        };
        result.map(|()| true).map_err(|source| self.error(source))
    }

    /// Ends the content; a file has all of it on the disk then, and waits to get its name.
    pub(in crate::ctl) async fn end(self) -> Result<Option<NewFile>, DestinationError> {
        let Self { file, form } = self;
        match form {
            Form::Stream { to, .. } => to.end().await.map(|_| ())?,
            Form::Plain { mut to, position, size } => match fill(&mut to, position, size).await {
                Ok(()) => to.flush().await.map_err(DestinationError::Output)?,
                Err(error) => return Err(DestinationError::Output(error)),
            },
            Form::Sparse(_) => {}
        }
        if let Some(file) = &file {
            let path = file.temporary.clone();
            let syncing = spawn_blocking(move || File::open(path)?.sync_all());
            let synced = syncing.await.unwrap_or_else(|error| Err(error.into()));
            synced.map_err(|source| file.error(source))?;
        }
        Ok(file)
    }

    fn error(&self, source: io::Error) -> DestinationError {
        match &self.file {
            Some(file) => file.error(source),
            None => DestinationError::Output(source),
        }
    }
}

/// Writes zeroes from one position to another.
async fn fill(to: &mut Output, from: u64, end: u64) -> io::Result<()> {
    let mut left = end.saturating_sub(from);
    while left > 0 {
        let length = usize::try_from(left).map_or(ZEROES.len(), |left| left.min(ZEROES.len()));
        to.write_all(&ZEROES[..length]).await?;
        left -= length as u64;
    }
    Ok(())
}

/// A file that does not have its name yet; dropped before that, it is deleted.
#[derive(Debug)]
pub(in crate::ctl) struct NewFile {
    path: PathBuf,
    temporary: PathBuf,
    replace: bool,
    is_kept: bool,
}

impl NewFile {
    fn create(path: PathBuf, replace: bool) -> Result<(Self, File), DestinationError> {
        let Some(name) = path.file_name() else { return Err(DestinationError::NoFile(path)) };
        let mut beside = std::ffi::OsString::from(".");
        beside.push(name);
        beside.push(format!(".exporting-{}", &Uuid::new_v4().simple().to_string()[..8]));
        let temporary = path.with_file_name(beside);
        // Who may not read the file that is replaced may not read the new one.
        let former = fs::metadata(&path).map(|metadata| metadata.permissions()).ok();
        let mode = former.as_ref().map_or(0o666, |former| former.mode() & 0o777);
        let opened = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary);
        let file = match opened {
            Ok(file) => file,
            Err(source) => return Err(DestinationError::File { path, source }),
        };
        let new = Self { path, temporary, replace, is_kept: false };
        if let Some(former) = former {
            file.set_permissions(former).map_err(|source| new.error(source))?;
        }
        Ok((new, file))
    }

    /// Gives it its name.
    pub(in crate::ctl) fn keep(mut self) -> Result<(), DestinationError> {
        let kept = self
            .rename()
            .and_then(|()| File::open(parent(&self.path)))
            .and_then(|folder| folder.sync_all());
        match kept {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(DestinationError::Exists(self.path.clone()))
            }
            Err(error) => Err(self.error(error)),
        }
    }

    fn rename(&mut self) -> io::Result<()> {
        if !self.replace {
            let flags = RenameFlags::RENAME_NOREPLACE;
            match renameat2(AT_FDCWD, &self.temporary, AT_FDCWD, &self.path, flags) {
                Ok(()) => {
                    self.is_kept = true;
                    return Ok(());
                }
                // Some file systems cannot; it was not there when we began.
                Err(Errno::EINVAL | Errno::ENOSYS) => {}
                Err(error) => return Err(error.into()),
            }
        }
        fs::rename(&self.temporary, &self.path)?;
        self.is_kept = true;
        Ok(())
    }

    fn error(&self, source: io::Error) -> DestinationError {
        DestinationError::File { path: self.path.clone(), source }
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.is_kept {
            // Nothing is to be told of it: the error that brought us here is.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests;
