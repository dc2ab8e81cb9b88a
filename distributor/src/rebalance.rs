//! Moves blocks to where the ring wants them, and mends copies that are not what they should be.
//!
//! Every daemon looks after what it holds itself: `plan` says what to do with a block, given what
//! its other places answer; `pass` asks them and does it, whenever `driver` sees a reason.

mod driver;
mod drop;
mod pass;
mod pins;
mod plan;
mod repair;
#[cfg(test)]
mod tests;

pub use driver::{Rebalancer, StoreWork};
