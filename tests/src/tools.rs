//! Where programs are found: our binaries and the stock clients.

use std::env;
use std::path::PathBuf;

/// One of our binaries: in `TORUS_BIN_DIR`, else in the target folder that the test runs from.
#[track_caller]
pub fn binary(name: &str) -> PathBuf {
    let folder = env::var_os("TORUS_BIN_DIR").map_or_else(
        || {
            let test = env::current_exe().expect("the test has a path");
            test.ancestors().nth(2).expect("target/release/deps/test").to_owned()
        },
        PathBuf::from,
    );
    let path = folder.join(name);
    assert!(
        path.is_file(),
        "no {name} in {}: run `make build`, or set TORUS_BIN_DIR",
        folder.display()
    );
    path
}

/// A stock program, by its name.
#[track_caller]
pub fn tool(name: &str) -> PathBuf {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    let found = folders.map(|folder| folder.join(name)).find(|file| file.is_file());
    found.unwrap_or_else(|| {
        let package = match name {
            "nbdcopy" | "nbdinfo" => "libnbd-bin",
            "qemu-img" | "qemu-nbd" => "qemu-utils",
            "mkfs.ext4" | "e2fsck" | "debugfs" => "e2fsprogs",
            other => other,
        };
        panic!("{name} is missing: install the package {package}, or run tests/setup")
    })
}
