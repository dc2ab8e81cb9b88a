//! Block volumes: a log of records on replicated blocks, and the map that finds a page in it.
//!
//! [`open`] takes a volume's lock, recovers it, and hands out a [`Volume`], which a task of its own
//! serves. What a flush acknowledged survives the loss of all but one of the peers that held it.

#![expect(
    clippy::cast_possible_truncation,
    reason = "offsets in a block, pages of a record and lengths of requests are bounded where they arise"
)]

#[cfg(feature = "bench")]
pub mod bench;
mod checkpoint;
mod error;
mod extent;
mod figures;
mod follow;
mod garbage;
mod groups;
mod log;
mod map;
mod open;
mod overlay;
mod planted;
mod read;
mod record;
mod recovery;
mod retry;
mod session;
mod size;
mod snapshot;
mod table;
mod volume;
mod writer;

pub use checkpoint::LoadError;
pub use error::{Error, OpenError};
pub use figures::{Figures, SnapshotFigures, figures, needed_blocks, snapshot_figures};
pub use groups::Groups;
pub use open::{Services, open, restore};
#[cfg(feature = "planted")]
pub use planted::{Planted, plant};
pub use record::PAGE;
pub use snapshot::{Change, changes, open_snapshot};
pub use volume::{Options, Volume};
pub use writer::Info;
