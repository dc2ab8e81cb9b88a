//! The blocks of the cluster: where they go, how they get there and how they are found again.

mod ring;

pub use ring::Placer;
