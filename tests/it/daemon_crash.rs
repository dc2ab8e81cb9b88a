//! One daemon of three dies while a client copies.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use torus_tests::{Cluster, ClusterOptions, Image, Process, run, tool, wait_until};

const BOUND: Duration = Duration::from_secs(120);
const MEBIBYTES: u64 = 256;

/// `nbdcopy FROM TO` in the background.
fn copy(cluster: &Cluster, from: &str, to: &str) -> Process {
    let mut command = Command::new(tool("nbdcopy"));
    command.args(["--flush", from, to]);
    Process::start("nbdcopy", &mut command, &cluster.folder().join("nbdcopy.log"))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// Copies an image in, kills a daemon meanwhile, and then another one when the first is back: what
/// is read and written then, the first one serves.
fn check(replication: usize) {
    let mut cluster = Cluster::start(&ClusterOptions { replication, ..ClusterOptions::default() });
    let volume = format!("{}MiB", MEBIBYTES + 64);
    cluster.create_volume("disk", &volume);
    let server = cluster.serve("disk");
    let image = Image::create(cluster.folder(), MEBIBYTES);
    let out = cluster.folder().join("copy");
    let victim = 2;

    let mut copying = copy(&cluster, text(image.path()), &server.uri());
    wait_until("a quarter is copied", BOUND, || {
        assert!(copying.ended().is_none(), "nbdcopy ended early:\n{}", copying.log());
        let read = copying.bytes_read();
        if read >= MEBIBYTES << 18 { Ok(()) } else { Err(read) }
    });
    cluster.kill9(victim);
    assert!(copying.ended().is_none(), "the copy ended before the kill");
    assert_eq!(copying.wait(BOUND), 0, "{}", copying.log());
    assert_copied(&image, &server.uri(), &out);

    cluster.restart(victim);
    cluster.wait_for_peers(3);
    assert_copied(&image, &server.uri(), &out);

    cluster.kill9(0);
    assert_copied(&image, &server.uri(), &out);
    let mut client = server.connect().unwrap();
    let behind = MEBIBYTES << 20;
    client.write(behind, &[5; 1 << 20]).unwrap();
    client.flush().unwrap();
    assert_eq!(client.read(behind, 1 << 20).unwrap(), [5; 1 << 20]);
}

/// Asserts that the volume begins with the image.
#[track_caller]
fn assert_copied(image: &Image, uri: &str, out: &Path) {
    run(&tool("nbdcopy"), [uri, text(out)], BOUND).success();
    let file = std::fs::File::options().write(true).open(out).unwrap();
    file.set_len(MEBIBYTES << 20).unwrap();
    image.assert_same(out);
}

#[test]
fn with_two_copies_a_killed_daemon_is_not_noticed_and_serves_when_it_is_back() {
    check(2);
}

#[test]
fn with_three_copies_a_killed_daemon_is_not_noticed_and_serves_when_it_is_back() {
    check(3);
}
