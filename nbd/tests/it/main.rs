//! The server from outside: over real sockets.
#![expect(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests fail by panicking, in their helpers too"
)]

mod clients; // stock clients: nbdinfo, nbdcopy, qemu-img, fio
mod limits; // connections, handshakes, shutdown, memory
mod serving; // a server for the others
