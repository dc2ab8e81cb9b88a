//! Data directories that earlier versions wrote are opened by this one.
//!
//! `tests/golden/make` says what is in them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use torus_tests::{Outcome, Process, binary, run, tool, wait_until};

const BOUND: Duration = Duration::from_secs(40);
/// Where the daemons of the archives were, and so are again. Nothing else of the tests is there.
const ADDRESS: &str = "127.0.0.77:11999";

fn archives() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut archives: Vec<_> =
        files.filter(|path| path.to_string_lossy().ends_with(".gz")).collect();
    archives.sort();
    archives
}

#[track_caller]
fn ctl(arguments: &[&str]) -> Outcome {
    let all = ["-C", ADDRESS].iter().chain(arguments).copied();
    run(&binary("torusctl"), all, BOUND)
}

fn content(line: &str) -> Vec<u8> {
    line.bytes().cycle().take(512 << 10).collect()
}

#[test]
fn what_earlier_versions_wrote_is_opened_and_served() {
    let archives = archives();
    assert!(!archives.is_empty(), "no archive of any version");
    for archive in archives {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().to_str().expect("a path in UTF-8");
        let from = archive.to_str().expect("a path in UTF-8");
        run(&tool("tar"), ["-xzf", from, "-C", at], BOUND).success();
        let mut command = Command::new(binary("torusd"));
        command.arg("--data-dir").arg(folder.path().join("data"));
        command.args(["--size", "4MiB", "--peer-address", ADDRESS]);
        let log = folder.path().join("torusd.log");
        let mut daemon = Process::start("torusd", &mut command, &log);
        let list = wait_until(&format!("{from} is opened"), BOUND, || {
            assert!(daemon.ended().is_none(), "{from}: {}", daemon.log());
            let list = ctl(&["--json", "volume", "list"]);
            if list.code == 0 { Ok(list.stdout) } else { Err(list) }
        });
        for name in ["\"disk\"", "\"copy\"", "\"first\""] {
            assert!(list.contains(name), "{from}: {list}");
        }
        let status = ctl(&["--json", "status"]).success();
        assert!(status.stdout.contains(ADDRESS), "{from}: {status}");
        for (source, line) in [("disk@first", "first\n"), ("disk", "second\n"), ("copy", "first\n")]
        {
            let out = folder.path().join("out");
            ctl(&["volume", "export", "--force", source, out.to_str().unwrap()]).success();
            let found = fs::read(&out).unwrap();
            assert!(found[..512 << 10] == content(line), "{from}: {source} has something else");
        }
        ctl(&["volume", "create-block", "new", "1MiB"]).success();
        assert_eq!(daemon.stop(BOUND), 0, "{from}: {}", daemon.log());
    }
}
