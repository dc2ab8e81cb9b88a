//! What is asked for, and what is said of it.

use std::path::PathBuf;

use expect_test::{Expect, expect};

use super::*;

fn arguments(source: &str, format: Option<Format>, since: Option<&str>) -> Export {
    Export {
        source: source.parse().unwrap(),
        file: PathBuf::from("disk.img"),
        format,
        since: since.map(str::to_owned),
        force: false,
    }
}

#[track_caller]
fn check(source: &str, format: Option<Format>, since: Option<&str>, expected: Expect) {
    let wanted = Wanted::check(&arguments(source, format, since));
    expected.assert_eq(&wanted.map_or_else(|error| error, |wanted| format!("{wanted:?}")));
}

#[test]
fn an_export_is_an_image_unless_a_stream_is_asked_for() {
    check("disk", None, None, expect![[r#"Full { source: Volume("disk"), format: Raw }"#]]);
    check(
        "disk@mon",
        None,
        None,
        expect![[
            r#"Full { source: Snapshot(SnapshotName { volume: "disk", snapshot: "mon" }), format: Raw }"#
        ]],
    );
    check(
        "disk@mon",
        Some(Format::Stream),
        None,
        expect![[
            r#"Full { source: Snapshot(SnapshotName { volume: "disk", snapshot: "mon" }), format: Stream }"#
        ]],
    );
}

#[test]
fn changes_are_a_stream_between_snapshots() {
    check(
        "disk@tue",
        None,
        Some("mon"),
        expect![[
            r#"Changes { since: SnapshotName { volume: "disk", snapshot: "mon" }, to: SnapshotName { volume: "disk", snapshot: "tue" } }"#
        ]],
    );
    check(
        "disk@tue",
        Some(Format::Stream),
        Some("disk@mon"),
        expect![[
            r#"Changes { since: SnapshotName { volume: "disk", snapshot: "mon" }, to: SnapshotName { volume: "disk", snapshot: "tue" } }"#
        ]],
    );
    check(
        "disk@tue",
        Some(Format::Raw),
        Some("mon"),
        expect!["what changed since a snapshot is no image; leave out --format raw"],
    );
    check(
        "disk",
        None,
        Some("mon"),
        expect![
            "--since needs a snapshot to end with: 'torusctl snapshot create disk@NAME', then export disk@NAME"
        ],
    );
    check(
        "disk@tue",
        None,
        Some("log@mon"),
        expect![[r#"--since "log@mon" names no snapshot of volume disk"#]],
    );
    check(
        "disk@tue",
        None,
        Some(""),
        expect![[r#"--since "" (empty) names no snapshot of volume disk"#]],
    );
}

#[test]
fn people_and_programs_learn_what_was_exported() {
    let tally = Tally { data: 3 << 30, zeroed: 0 };
    let arguments = arguments("disk@tue", None, Some("mon"));
    let report = report(&arguments, 10 << 30, tally, Duration::from_secs(2));
    expect![[r#"
        Exported disk@tue of 10.0 GiB: 3.0 GiB of data in 2.0 s, 1.5 GiB/s.
    "#]]
    .assert_eq(&report.text);
    expect![[r#"{"bytes":3221225472,"exported":"disk@tue","file":"disk.img","holes":7516192768,"seconds":2.0,"since":"mon","size":10737418240}"#]].assert_eq(&report.json.to_string());
}
