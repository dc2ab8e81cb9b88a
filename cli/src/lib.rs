//! The three programs: `torusd`, `torusctl`, `torusblk`. Arguments, wiring and output; decisions
//! are made elsewhere.

pub mod address;
pub mod blk;
mod clock;
pub mod connection;
pub mod ctl;
pub mod daemon;
pub mod failure;
pub mod interrupt;
pub mod logging;
pub mod name;
pub mod size;
pub mod stream;
