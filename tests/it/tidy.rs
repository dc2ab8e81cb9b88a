//! The taste that a machine can check: crate arrows, module docs, file lengths, left-overs.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use torus_tests::run;

/// Which of our crates each may use; `ARCHITECTURE.md` says why.
const ARROWS: &[(&str, &[&str])] = &[
    ("torus-blockstore", &[]),
    ("torus-dial", &[]),
    ("base2histogram", &[]),
    ("torus-raft", &["torus-dial"]),
    ("torus-nbd", &[]),
    ("torus-metadata", &["torus-raft", "torus-dial", "torus-blockstore"]),
    ("torus-distributor", &["torus-blockstore", "torus-metadata"]),
    ("torus-volume", &["torus-blockstore", "torus-metadata"]),
    (
        "torus-cli",
        &[
            "torus-blockstore",
            "torus-raft",
            "torus-metadata",
            "torus-distributor",
            "torus-volume",
            "torus-nbd",
        ],
    ),
    // The system tests link to none of them; the simulation does.
    ("torus-tests", &["torus-blockstore", "torus-metadata", "torus-distributor", "torus-volume"]),
    ("torus-simulate-metadata", &["torus-blockstore", "torus-dial", "torus-metadata"]),
];

/// Crates of others that only one of ours may use.
const OWNED: &[(&str, &str)] =
    &[("openraft", "torus-raft"), ("rocksdb", "torus-raft"), ("memmap2", "torus-blockstore")];

const LINES_MAX: usize = 600;

/// What belongs to somebody's machine. (In two halves, so that this file has none of them.)
const MACHINE_PATHS: &[&str] =
    &[concat!("/ho", "me/"), concat!("/ro", "ot/"), concat!("/Us", "ers/"), concat!("/wo", "rk/")];

fn root() -> PathBuf {
    let manifest = env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests");
    Path::new(&manifest).parent().expect("tests/ has a parent").to_owned()
}

/// The project's files, `target` and hidden folders left out; what begins with a dot is in only if
/// it is ours.
fn files() -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a readable folder") {
            let entry = entry.expect("a readable folder");
            let name = entry.file_name();
            let hidden =
                name.to_string_lossy().starts_with('.') && name != ".ci" && name != ".cargo";
            match entry.file_type().expect("a file type") {
                kind if kind.is_dir() && !hidden && name != "target" => folders.push(entry.path()),
                kind if kind.is_file() => files.push(entry.path()),
                _ => {}
            }
        }
    }
    files.sort();
    files
}

/// Every text file and its content.
fn texts() -> Vec<(PathBuf, String)> {
    files()
        .into_iter()
        .filter_map(|path| fs::read_to_string(&path).ok().map(|text| (path, text)))
        .collect()
}

fn sources() -> Vec<(PathBuf, String)> {
    let mut texts = texts();
    texts.retain(|(path, _)| path.extension().is_some_and(|extension| extension == "rs"));
    texts
}

/// Our crates and what each depends on, in tests and build scripts too.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let cargo = env::var_os("CARGO").expect("cargo runs the tests");
    let manifest = root().join("Cargo.toml").into_os_string();
    let arguments = ["metadata", "--format-version=1", "--no-deps", "--offline", "--manifest-path"]
        .map(Into::into);
    let arguments = arguments.into_iter().chain([manifest]);
    let outcome = run(Path::new(&cargo), arguments, Duration::from_secs(60)).success();
    let metadata: Value = serde_json::from_str(&outcome.stdout).expect("cargo prints JSON");
    let packages = metadata["packages"].as_array().expect("packages").iter();
    let name = |value: &Value| value["name"].as_str().expect("a name").to_owned();
    packages
        .map(|package| {
            let dependencies = package["dependencies"].as_array().expect("dependencies");
            (name(package), dependencies.iter().map(name).collect())
        })
        .collect()
}

#[track_caller]
fn assert_none(found: &[String], advice: &str) {
    assert!(found.is_empty(), "{advice}\n  {}", found.join("\n  "));
}

#[test]
fn crates_know_only_those_that_the_architecture_names() {
    let dependencies = dependencies();
    let known: Vec<_> = ARROWS.iter().map(|(name, _)| *name).collect();
    for name in dependencies.keys() {
        assert!(known.contains(&name.as_str()), "{name} has no place in the architecture");
    }
    let mut found = Vec::new();
    for (name, allowed) in ARROWS {
        for dependency in &dependencies[*name] {
            let ours = known.contains(&dependency.as_str());
            if ours && dependency != name && !allowed.contains(&dependency.as_str()) {
                found.push(format!("{name} -> {dependency}"));
            }
            let owner = OWNED.iter().find(|(owned, _)| owned == dependency);
            if let Some((_, owner)) = owner.filter(|(_, owner)| owner != name) {
                found.push(format!("{name} -> {dependency}, which only {owner} may use"));
            }
        }
    }
    assert_none(&found, "arrows that the architecture does not have:");
}

#[test]
fn every_module_says_what_it_is_for() {
    let silent = sources().into_iter().filter(|(_, text)| {
        let first = text.lines().find(|line| !line.trim().is_empty());
        let doc = first.and_then(|line| line.strip_prefix("//! ")).unwrap_or_default();
        doc.is_empty() || doc.starts_with("Placeholder")
    });
    let found: Vec<_> = silent.map(|(path, _)| path.display().to_string()).collect();
    assert_none(&found, "files that do not begin with a `//!` line:");
}

#[test]
fn no_file_is_too_long_to_read() {
    let lengths = sources().into_iter().map(|(path, text)| (path, text.lines().count()));
    let long = lengths.filter(|(_, lines)| *lines > LINES_MAX);
    let found: Vec<_> = long.map(|(path, lines)| format!("{lines} {}", path.display())).collect();
    assert_none(&found, "files of more than 600 lines; look for the second concept:");
}

#[test]
fn known_wrong_behaviour_has_an_issue() {
    let mark = concat!("FIX", "ME");
    let mut found = Vec::new();
    for (path, text) in sources() {
        for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| line.contains(mark)) {
            let behind = line.split(mark).nth(1).unwrap_or_default();
            let issue = behind.strip_prefix("(#").and_then(|rest| rest.split(')').next());
            if issue.is_none_or(|issue| issue.parse::<u32>().is_err()) {
                found.push(format!("{}:{number}", path.display()));
            }
        }
    }
    assert_none(&found, "marks without an issue, as in MARK(#12):");
}

#[test]
fn nothing_names_a_place_on_somebodys_machine() {
    let mut found = Vec::new();
    for (path, text) in texts() {
        for (number, line) in (1..).zip(text.lines()) {
            if MACHINE_PATHS.iter().any(|part| line.contains(part)) {
                found.push(format!("{}:{number}: {line}", path.display()));
            }
        }
    }
    assert_none(&found, "paths of a machine:");
}
