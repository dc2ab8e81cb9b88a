//! How much memory each open volume may take.

use clap::Args;
use torus_volume::Options;

use crate::clock::now_ms;
use crate::connection::owner;
use crate::size::{Bytes, SizeError};

/// Limits of each open volume.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct Memory {
    /// Memory for recently written blocks, from which reads are served, of each volume.
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = limit, global = true)]
    cache: usize,
    /// Memory for the map of each volume; what changed since the last checkpoint comes on top.
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = limit, global = true)]
    map_memory: usize,
    /// Acknowledged writes of each volume that may be on their way to the daemons; past it writes
    /// wait. A crash of this process loses them, as far as they were not flushed.
    #[arg(long, value_name = "SIZE", default_value = "16MiB", value_parser = limit, global = true)]
    write_buffer: usize,
}

impl Memory {
    /// Options to open a volume with.
    pub(super) fn options(self) -> Options {
        Options {
            cache_bytes: self.cache,
            map_bytes: self.map_memory,
            buffer_bytes: self.write_buffer,
            ..Options::new(owner("torusblk"), now_ms)
        }
    }
}

/// Less than a MiB leaves no room to work in.
fn limit(text: &str) -> Result<usize, String> {
    let Bytes(bytes) = text.parse().map_err(|error: SizeError| error.to_string())?;
    match usize::try_from(bytes) {
        Ok(bytes) if 1 << 20 <= bytes => Ok(bytes),
        Ok(_) => Err("at least 1MiB".to_owned()),
        Err(_) => Err("more than this machine can address".to_owned()),
    }
}
