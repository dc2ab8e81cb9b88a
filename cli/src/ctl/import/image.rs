//! What is imported: a raw image, from a file or a pipe, or a stream.

use std::fs::{File, Metadata};
use std::io::{self, Cursor, ErrorKind, IsTerminal, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use futures::Stream;
use nix::errno::Errno;
use nix::unistd::{Whence, lseek};
use tokio::io::{AsyncReadExt, BufReader, Chain};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use torus_volume::PAGE;

use crate::ctl::transfer::{PIECE, is_standard, sift};
use crate::failure::Failure;
use crate::stream::{Chunk, StreamReader, has_magic};

/// Pieces that were read and wait to be written.
const AHEAD: usize = 16;
/// So many bytes tell a stream from an image.
const MAGIC_LENGTH: u64 = 8;

/// Why something cannot be imported.
#[derive(Debug, thiserror::Error)]
pub(super) enum ImageError {
    #[error("cannot open {}", .path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("{} is a directory; name an image", .path.display())]
    Directory { path: PathBuf },
    #[error("an image cannot be typed; redirect one to standard input")]
    Terminal,
    #[error("cannot read the image")]
    Read(#[source] io::Error),
    #[error("the image became shorter than {size} bytes while it was read")]
    Shrunk { size: u64 },
    #[error("the image is longer than {size} bytes; give a larger --size")]
    Longer { size: u64 },
}

/// A stream that comes from a file or a pipe.
pub(super) type Incoming = StreamReader<Chain<Cursor<Vec<u8>>, BufReader<tokio::fs::File>>>;

/// What was opened.
pub(super) enum Input {
    Image(Image),
    Stream(Box<Incoming>),
}

/// A raw image.
#[derive(Debug)]
pub(super) struct Image {
    file: File,
    /// Bytes, of one that can be read at any place.
    pub(super) size: Option<u64>,
    /// The beginning of one that cannot.
    head: Vec<u8>,
}

impl Input {
    /// Opens a file, or standard input for `-`, and looks at what it is. Blocks.
    pub(super) fn open(path: &Path) -> Result<Opened, ImageError> {
        let cannot_open = |source| ImageError::Open { path: path.to_owned(), source };
        let mut file = if is_standard(path) {
            let stdin = io::stdin();
            if stdin.is_terminal() {
                return Err(ImageError::Terminal);
            }
            stdin.as_fd().try_clone_to_owned().map_err(cannot_open)?.into()
        } else {
            File::open(path).map_err(cannot_open)?
        };
        let metadata = file.metadata().map_err(cannot_open)?;
        if metadata.is_dir() {
            return Err(ImageError::Directory { path: path.to_owned() });
        }
        let size = size(&mut file, &metadata).map_err(ImageError::Read)?;
        let mut head = Vec::new();
        (&mut file).take(MAGIC_LENGTH).read_to_end(&mut head).map_err(ImageError::Read)?;
        let is_stream = has_magic(&head);
        Ok(Opened { image: Image { file, size, head }, is_stream })
    }
}

/// An input whose beginning was read.
pub(super) struct Opened {
    image: Image,
    is_stream: bool,
}

impl Opened {
    pub(super) async fn input(self) -> Result<Input, Failure> {
        if !self.is_stream {
            return Ok(Input::Image(self.image));
        }
        let file = tokio::fs::File::from_std(self.image.file);
        let reader = BufReader::with_capacity(PIECE, file);
        let head = Cursor::new(self.image.head);
        let stream = StreamReader::begin(AsyncReadExt::chain(head, reader)).await?;
        Ok(Input::Stream(Box::new(stream)))
    }
}

/// The size of what can be read at any place: a file from its beginning, or a block device.
fn size(file: &mut File, metadata: &Metadata) -> io::Result<Option<u64>> {
    let kind = metadata.file_type();
    if !(kind.is_file() || kind.is_block_device()) || file.stream_position()? != 0 {
        return Ok(None);
    }
    let size = file.seek(SeekFrom::End(0))?;
    file.rewind()?;
    Ok(Some(size))
}

impl Image {
    /// The ranges of the image that are not zero, in their order. No more than `size` bytes are
    /// read; it is an error if there are more.
    pub(super) fn chunks(self, size: u64) -> impl Stream<Item = Result<Chunk, ImageError>> {
        let (sender, receiver) = mpsc::channel(AHEAD);
        tokio::task::spawn_blocking(move || {
            let send = |chunk| sender.blocking_send(Ok(chunk)).map_err(|_| Stop::Unwanted);
            let result = match self.size {
                Some(length) => send_file(&self.file, length.min(size), send),
                None => {
                    let whole = Read::chain(Cursor::new(self.head), self.file);
                    send_pipe(whole, size, send)
                }
            };
            if let Err(Stop::Failed(error)) = result {
                // Whoever does not listen any more need not know.
                let _ = sender.blocking_send(Err(error));
            }
        });
        ReceiverStream::new(receiver)
    }
}

/// Why reading ends early.
#[derive(Debug)]
enum Stop {
    /// Nobody listens any more.
    Unwanted,
    Failed(ImageError),
}

fn send_file(
    file: &File,
    size: u64,
    mut send: impl FnMut(Chunk) -> Result<(), Stop>,
) -> Result<(), Stop> {
    let mut at = 0;
    while let Some((from, to)) = next_data(file, at, size) {
        at = from;
        while at < to {
            let piece = PIECE as u64;
            let length = (to - at).min(piece - at % piece);
            let mut data = BytesMut::zeroed(usize::try_from(length).unwrap_or(PIECE));
            file.read_exact_at(&mut data, at).map_err(|error| {
                Stop::Failed(match error.kind() {
                    ErrorKind::UnexpectedEof => ImageError::Shrunk { size },
                    _ => ImageError::Read(error),
                })
            })?;
            send_data(at, data, &mut send)?;
            at += length;
        }
    }
    Ok(())
}

/// The next range that may hold data, widened to whole pages; all the rest where the file system
/// does not tell.
fn next_data(file: &File, at: u64, size: u64) -> Option<(u64, u64)> {
    if at >= size {
        return None;
    }
    let seek = |at: u64, whence| {
        let at = i64::try_from(at).map_err(|_| Errno::EINVAL)?;
        lseek(file, at, whence).map(i64::cast_unsigned)
    };
    match seek(at, Whence::SeekData) {
        // Nothing but a hole.
        Err(Errno::ENXIO) => None,
        Err(_) => Some((at, size)),
        Ok(from) if from >= size => None,
        Ok(from) => {
            let to = seek(from, Whence::SeekHole).unwrap_or(size);
            let page = u64::from(PAGE);
            let from = (from - from % page).max(at);
            Some((from, to.next_multiple_of(page).min(size)))
        }
    }
}

fn send_pipe(
    mut from: impl Read,
    size: u64,
    mut send: impl FnMut(Chunk) -> Result<(), Stop>,
) -> Result<(), Stop> {
    let read_error = |error| Stop::Failed(ImageError::Read(error));
    let mut at = 0;
    loop {
        let room = usize::try_from(size - at).map_or(PIECE, |room| room.min(PIECE));
        let mut data = BytesMut::zeroed(room);
        let mut length = 0;
        while length < room {
            match from.read(&mut data[length..]) {
                Ok(0) => break,
                Ok(count) => length += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(read_error(error)),
            }
        }
        data.truncate(length);
        send_data(at, data, &mut send)?;
        at += length as u64;
        if length < room {
            return Ok(());
        }
        if at == size {
            return match from.read_exact(&mut [0]) {
                Ok(()) => Err(Stop::Failed(ImageError::Longer { size })),
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(()),
                Err(error) => Err(read_error(error)),
            };
        }
    }
}

/// Sends what is not zero, padded to whole pages.
fn send_data(
    at: u64,
    mut data: BytesMut,
    send: &mut impl FnMut(Chunk) -> Result<(), Stop>,
) -> Result<(), Stop> {
    data.resize(data.len().next_multiple_of(PAGE as usize), 0);
    let data: Bytes = data.freeze();
    let chunks = sift(at, &data).into_iter();
    chunks.filter(|chunk| matches!(chunk, Chunk::Data { .. })).try_for_each(send)
}

#[cfg(test)]
mod tests;
