//! The oracle itself: what it must accept and what it must not.

use super::*;

/// Sector values of a volume of two pages.
fn state(first: u64, second: u64) -> Vec<u64> {
    [vec![first; 8], vec![second; 8]].concat()
}

/// A life that wrote 1 to both pages, then 2 to the first and 3 to the second; `flushed` effects
/// (a page each) were flushed.
fn history(flushed: usize) -> (History, Arc<Mutex<Life>>) {
    let history = History::new(16);
    let life = history.begin(state(0, 0)).unwrap();
    {
        let mut life = lock(&life);
        for (first, end, value) in [(0, 16, 1), (0, 8, 2), (8, 16, 3)] {
            let span = life.issue(first, end, value);
            life.accept(span);
        }
        life.flushed(flushed).unwrap();
    }
    (history, life)
}

#[track_caller]
fn check(flushed: usize, found: Vec<u64>, is_right: bool) {
    let begun = history(flushed).0.begin(found);
    assert_eq!(begun.is_ok(), is_right, "{:?}", begun.err());
}

#[test]
fn any_prefix_that_holds_all_that_was_flushed_is_right() {
    check(0, state(0, 0), true);
    check(0, state(1, 0), true);
    check(0, state(2, 1), true);
    check(0, state(2, 3), true);
    check(3, state(2, 1), true);
}

#[test]
fn lost_flushed_writes_and_holes_are_wrong() {
    check(3, state(1, 1), false);
    check(0, state(1, 3), false);
    check(0, state(0, 1), false);
    check(0, state(9, 0), false);
}

#[test]
fn a_late_flush_must_not_reach_beyond_what_the_successor_found() {
    let (history, old) = history(0);
    history.begin(state(1, 1)).unwrap();
    assert!(lock(&old).flushed(2).is_ok());
    assert!(lock(&old).flushed(3).is_err());
}

#[test]
fn what_was_found_stays() {
    let (history, _) = history(0);
    history.begin(state(1, 1)).unwrap();
    assert!(history.begin(state(2, 1)).is_err());
    assert!(history.begin(state(1, 1)).is_ok());
}

#[test]
fn a_read_shows_what_was_accepted_or_came_meanwhile() {
    let (_, life) = history(0);
    let mut life = lock(&life);
    let reading = life.begin_read(0, 16);
    assert!(life.end_read(&reading, &state(2, 3)).is_ok());
    assert!(life.end_read(&reading, &state(1, 3)).is_err());
    life.issue(0, 8, 4);
    assert!(life.end_read(&reading, &state(4, 3)).is_ok());
    assert!(life.end_read(&reading, &state(2, 4)).is_err());
}

#[test]
fn a_sector_says_what_was_written_and_where() {
    let bytes = content(3, 5, 7);
    assert_eq!(values(3, &bytes), Ok(vec![7, 7]));
    assert!(values(4, &bytes).is_err());
    let mut torn = bytes;
    torn[40] ^= 1;
    assert!(values(3, &torn).is_err());
    assert_eq!(values(3, &[0; 512]), Ok(vec![0]));
}
