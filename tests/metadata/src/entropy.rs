//! Takes the last chance out of a process: what libraries ask of the system for randomness comes
//! from the seed, and what they ask for the time is the simulation's.
//!
//! `HashMap`s, tokio's `select!` and `rand` begin with `getrandom`; hyper and h2 measure time with
//! `clock_gettime`, past tokio's clock. Both names are the C library's; defined here, the linker
//! takes these. A process has one seed: tokio counts its runtimes in a static of its own.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use libc::{c_int, c_uint, c_void, clockid_t, size_t, ssize_t, timespec};

/// SplitMix64's state.
static RANDOM: AtomicU64 = AtomicU64::new(0);
/// Nanoseconds of simulated time, and one; 0: the system's clock is shown.
static NOW: AtomicU64 = AtomicU64::new(0);

/// What simulated clocks show at the beginning: any time that is long after 1970.
const EPOCH_SECONDS: i64 = 1_700_000_000;
const SECOND: u64 = 1_000_000_000;

/// From now on, all randomness follows from `seed`.
pub(crate) fn seed(seed: u64) {
    RANDOM.store(seed, Ordering::Relaxed);
}

/// From now on, all clocks stand at this time of the simulation.
pub(crate) fn set_clock(now: Duration) {
    let nanoseconds = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX - 1);
    NOW.store(nanoseconds + 1, Ordering::Relaxed);
}

fn draw() -> u64 {
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut z = RANDOM.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The C library's function of this name.
///
/// # Safety
/// `buffer` must be valid for writes of `length` bytes.
// SAFETY: the signature is the C library's, in whose place this one is linked.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut c_void, length: size_t, _flags: c_uint) -> ssize_t {
    // SAFETY: the caller promises it.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) };
    for part in bytes.chunks_mut(8) {
        part.copy_from_slice(&draw().to_le_bytes()[..part.len()]);
    }
    ssize_t::try_from(length).unwrap_or(ssize_t::MAX)
}

/// The C library's function of this name.
///
/// # Safety
/// `time` must be valid for a write.
// SAFETY: the signature is the C library's, in whose place this one is linked.
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: clockid_t, time: *mut timespec) -> c_int {
    let Some(now) = NOW.load(Ordering::Relaxed).checked_sub(1) else {
        // SAFETY: the system call has the arguments of this function.
        let result = unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) };
        return c_int::try_from(result).unwrap_or(-1);
    };
    let seconds = i64::try_from(now / SECOND).unwrap_or(i64::MAX);
    let tv_sec = EPOCH_SECONDS.saturating_add(seconds);
    let tv_nsec = i64::try_from(now % SECOND).unwrap_or(0);
    // SAFETY: the caller promises that it can be written.
    unsafe { time.write(timespec { tv_sec, tv_nsec }) };
    0
}
