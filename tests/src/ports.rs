//! Free ports on loopback.
//!
//! They lie below the range from which the kernel takes the ports of outgoing connections, so that
//! a killed daemon finds its port free when it comes back.

use std::net::TcpListener;
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

const FIRST: u32 = 12_000;
const COUNT: u32 = 20_000;

/// Ports handed out so far by this process.
static TAKEN: AtomicU32 = AtomicU32::new(0);

/// A port on which nothing listens, and that no later call of this process returns.
pub fn free() -> u16 {
    // Processes begin at different places, so that two test runs seldom ask for the same port.
    let start = process::id().wrapping_mul(97);
    for _ in 0..COUNT {
        let step = TAKEN.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + start.wrapping_add(step) % COUNT;
        let port = u16::try_from(port).expect("the range ends below 65536");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free from {FIRST} to {}", FIRST + COUNT - 1);
}
