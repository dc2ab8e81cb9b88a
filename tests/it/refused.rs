//! What a refusal looks like: an exit code and one line that says what to do.

use torus_tests::Outcome;

pub(crate) const FAILURE: i32 = 1;
pub(crate) const USAGE: i32 = 2;

/// Asserts an exit code and a message of one line that contains `part`.
#[track_caller]
pub(crate) fn assert_refused(outcome: &Outcome, code: i32, part: &str) {
    assert_eq!(outcome.code, code, "{outcome}");
    assert!(outcome.stdout.is_empty(), "{outcome}");
    let lines: Vec<_> = outcome.stderr.lines().collect();
    assert_eq!(lines.len(), 1, "not one line: {outcome}");
    assert!(lines[0].contains(part), "nothing of {part:?}: {outcome}");
}
