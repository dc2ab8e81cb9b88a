//! `torusctl recover`: when the majority of the members is lost for good, what one of them has is
//! made the beginning of a new group. Offline, on the data directory of a daemon that is stopped.
//!
//! The new metadata is built beside the old, and takes its place in one step; the old stays.

use std::fs::{self, File};
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use serde_json::json;
use torus_blockstore::{OsDisk, PeerId, PeerIdentity};
use torus_metadata::{Answer, Query, Survivor};
use uuid::Uuid;

use super::arguments::RecoverArguments;
use super::report::{Report, count};
use crate::clock::{age, utc};
use crate::failure::Failure;

/// What was asked cannot be done, and the metadata is as it was.
#[derive(Debug, thiserror::Error)]
enum RecoverError {
    #[error("{} is no data directory of a daemon: it has no metadata", .dir.display())]
    NoDataDir { dir: PathBuf },
    #[error(
        "the blocks of {0} are missing, and its daemon would not start without them: mount the disk that \
         they are on; if that is lost, move the files 'peer' and 'cluster' of {0} away and repeat the \
         command: the daemon is a new peer then",
        .dir.display()
    )]
    NoBlocks { dir: PathBuf },
    #[error(
        "the group did not know this member's address any more; say with --peer-address where the \
         daemon will be"
    )]
    NoAddress,
    #[error("nothing was recovered: confirm with 'yes', or use --yes")]
    NotConfirmed,
    #[error("cannot change {}", .path.display())]
    Io { path: PathBuf, source: io::Error },
}

pub(super) async fn run(arguments: &RecoverArguments) -> Result<Report, Failure> {
    let dir = &arguments.data_dir;
    let metadata = dir.join("metadata");
    if !metadata.exists() {
        return Err(RecoverError::NoDataDir { dir: dir.clone() }.into());
    }
    // Keeps a daemon from starting meanwhile, and is refused while one runs.
    let identity = PeerIdentity::open(OsDisk::shared(), dir, PeerId(Uuid::new_v4()))?;
    if identity.lacks_blocks()? {
        return Err(RecoverError::NoBlocks { dir: dir.clone() }.into());
    }
    let changed_ms = last_change(&metadata).map_err(|source| io_error(&metadata, source))?;
    let unique = Uuid::new_v4().simple().to_string();
    // Reading opens the log, and that changes files: what was there stays as it is.
    let copy = Scratch(dir.join(format!("metadata.reading-{}", &unique[..8])));
    copy_all(&metadata, &copy.0).map_err(|source| io_error(&metadata, source))?;
    let survivor = Survivor::read(&copy.0).await?;
    drop(copy);
    identity.check_cluster(survivor.cluster())?;
    let known = survivor.address().map(str::to_owned);
    let given = arguments.peer_address.as_ref().map(ToString::to_string);
    let address = given.or(known).ok_or(RecoverError::NoAddress)?;
    confirm(&describe(&survivor, changed_ms, &address), arguments.yes)?;

    let former = survivor.state().generation();
    let building = Scratch(dir.join(format!("metadata.recovering-{}", &unique[..8])));
    let founded = survivor.found(&building.0, &address, identity.peer()).await?;
    let kept = dir.join(format!("metadata.generation-{former}-{}", &unique[..8]));
    replace(&metadata, building, &kept).map_err(|source| io_error(&metadata, source))?;
    let text = format!(
        "Cluster {} goes on as generation {}, with member {} at {address} alone.\n\
         The former metadata is kept in {}.\n\
         Next: start this daemon as before; then the others with --join {address} and without their \
         old metadata, where they keep their blocks; and 'torusctl peer remove --force' for those \
         that are gone\n",
        founded.cluster,
        founded.generation,
        founded.node,
        kept.display(),
    );
    let json = json!({
        "cluster": founded.cluster.to_string(),
        "generation": founded.generation,
        "member": founded.node.0,
        "address": address,
        "last_change_ms": changed_ms,
        "former_metadata": kept,
    });
    Ok(Report::new(text, json))
}

/// A folder of this command's, deleted when dropped.
struct Scratch(PathBuf);

impl Scratch {
    /// The folder, which stays.
    fn keep(mut self) -> PathBuf {
        std::mem::take(&mut self.0)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.0.as_os_str().is_empty() {
            return;
        }
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %self.0.display(), %error, "a folder stays behind");
            }
            _ => {}
        }
    }
}

fn copy_all(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.metadata()?.is_dir() {
            copy_all(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

/// What is there, how old it is, and what is given up.
fn describe(survivor: &Survivor, changed_ms: u64, address: &str) -> String {
    let state = survivor.state();
    let volumes = match state.answer(&Query::Volumes) {
        Answer::Volumes { volumes, .. } => volumes.len(),
        other => unreachable!("the volumes, not {other:?}"),
    };
    let others: Vec<String> = survivor
        .members()
        .filter(|(node, _)| *node != survivor.node())
        .map(|(node, at)| format!("{node} at {at}"))
        .collect();
    format!(
        "Cluster {}, generation {}, as member {} had it:\n\
         \x20 last change on this disk: {} ({} ago)\n\
         \x20 revision {}, {}; the log ends with entry {}, {} at its end not known to be committed\n\
         RECOVERING MAKES THIS DAEMON, AT {address}, THE WHOLE GROUP.\n\
         \x20 given up: {}\n\
         \x20 What they decided and this one has not heard of is lost: checkpoints, volumes, snapshots.\n\
         \x20 A member that comes back with its old metadata is refused. If a majority of them can still\n\
         \x20 be started, start them instead.\n",
        survivor.cluster(),
        state.generation(),
        survivor.node(),
        utc(changed_ms),
        age(changed_ms),
        state.revision(),
        count(volumes, "volume"),
        survivor.last_entry(),
        match survivor.unconfirmed() {
            1 => "1 entry".to_owned(),
            more => format!("{more} entries"),
        },
        if others.is_empty() { "nobody".to_owned() } else { others.join(", ") },
    )
}

/// Shows what will be done, and goes on only with a clear word.
fn confirm(text: &str, yes: bool) -> Result<(), Failure> {
    let mut to = io::stderr();
    to.write_all(text.as_bytes())?;
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err(Failure::usage(RecoverError::NotConfirmed));
    }
    write!(to, "Type 'yes' to go on: ")?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    if line.trim() == "yes" { Ok(()) } else { Err(RecoverError::NotConfirmed.into()) }
}

/// When something below `dir` was written last, in milliseconds since 1970. RocksDB's own notes
/// change whenever it is opened.
fn last_change(dir: &Path) -> io::Result<u64> {
    let mut last = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        if metadata.is_dir() {
            last = last.max(last_change(&entry.path())?);
        } else if !entry.file_name().to_string_lossy().starts_with("LOG") {
            let since = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
            last = last.max(u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
        }
    }
    Ok(last)
}

/// Puts `new` in the place of `dir`, and what was there at `kept`.
fn replace(dir: &Path, new: Scratch, kept: &Path) -> io::Result<()> {
    match renameat2(AT_FDCWD, dir, AT_FDCWD, &new.0, RenameFlags::RENAME_EXCHANGE) {
        // It is the former metadata's name now.
        Ok(()) => fs::rename(new.keep(), kept)?,
        // Some file systems cannot. A crash between these leaves a daemon that waits for a cluster,
        // and both folders for the operator.
        Err(Errno::EINVAL | Errno::ENOSYS) => {
            fs::rename(dir, kept)?;
            fs::rename(new.keep(), dir)?;
        }
        Err(error) => return Err(error.into()),
    }
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

fn io_error(path: &Path, source: io::Error) -> RecoverError {
    RecoverError::Io { path: path.to_owned(), source }
}
