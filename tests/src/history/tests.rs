//! What the history calls lost, torn or out of order.

use super::*;

/// A history of four pages: writes of `AB`, `BC`, `C` in that order, the first two flushed.
fn history() -> History {
    let changes = [(1, 0..2), (2, 1..3), (3, 2..3)];
    let write = |(number, pages)| (number, Change { pages, kind: Kind::Write });
    History { base: vec![0; 4], writes: changes.map(write).into(), issued: 3, flushed: 2 }
}

fn explain(history: &History, shown: [u64; 4]) -> Result<u64, String> {
    history.explain(&shown, history.flushed..=history.issued, true)
}

#[track_caller]
fn check(shown: [u64; 4], expected: Result<u64, &str>) {
    let found = explain(&history(), shown);
    match (&found, expected) {
        (Ok(last), Ok(wanted)) => assert_eq!(*last, wanted),
        (Err(text), Err(part)) => assert!(text.contains(part), "{text}"),
        _ => panic!("{shown:?}: {found:?}, expected {expected:?}"),
    }
}

#[test]
fn a_prefix_with_all_that_was_flushed_is_right() {
    check([1, 2, 2, 0], Ok(2));
    check([1, 2, 3, 0], Ok(3));
}

#[test]
fn a_lost_flushed_write_is_found() {
    check([1, 1, 0, 0], Err("flushed writes are lost"));
    check([1, 2, 0, 0], Err("page 2 shows write 0, not 2"));
}

#[test]
fn a_hole_in_the_order_is_found() {
    check([0, 2, 3, 0], Err("page 0 shows write 0, not 1"));
    check([1, 1, 3, 0], Err("page 1 shows write 1, not 2"));
    check([1, 2, 3, 4], Err("write 4 is there"));
}

#[test]
fn the_last_write_may_be_torn_at_pages_unless_it_was_flushed() {
    let mut history = history();
    history.flushed = 1;
    history.writes.remove(&3);
    history.issued = 2;
    assert_eq!(explain(&history, [1, 2, 0, 0]), Ok(2));
    assert!(history.check_snapshot(&[1, 2, 0, 0], 1..=2).is_err(), "snapshots show whole writes");
    history.flushed = 2;
    assert!(explain(&history, [1, 2, 0, 0]).is_err());
}

#[test]
fn what_was_trimmed_shows_no_write_and_counts_as_one() {
    let mut history = history();
    history.writes.insert(4, Change { pages: 0..3, kind: Kind::Trim });
    history.issued = 4;
    assert_eq!(explain(&history, [0, 0, 0, 0]), Ok(4));
    assert_eq!(explain(&history, [0, 2, 0, 0]), Ok(4), "it is not flushed");
    history.flushed = 4;
    assert!(explain(&history, [0, 2, 0, 0]).is_err());
    history.writes.insert(5, Change { pages: 3..4, kind: Kind::Zeroes });
    history.issued = 5;
    assert_eq!(explain(&history, [0, 0, 0, 0]), Ok(5), "the last that may be there");
}

#[test]
fn a_snapshot_shows_one_of_the_moments_in_which_it_was_taken() {
    let history = history();
    assert_eq!(history.check_snapshot(&[1, 1, 0, 0], 1..=2), Ok(1), "also before a flush");
    assert!(history.check_snapshot(&[1, 2, 3, 0], 1..=2).is_err(), "too new");
    assert!(history.check_snapshot(&[1, 1, 0, 0], 2..=3).is_err(), "too old");
}

#[test]
fn a_page_says_its_write_and_place_and_no_byte_of_it_may_change() {
    let mut page = content(7, 9);
    assert_eq!(number(&page, 9), Ok(7));
    assert!(number(&page, 8).is_err());
    page[PAGE - 1] ^= 1;
    assert!(number(&page, 9).is_err());
}
