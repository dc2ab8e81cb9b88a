//! Images and streams, in and out.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use torus_tests::{Cluster, ClusterOptions, Outcome, Process, Random, binary, run, wait_until};

use crate::refused::{FAILURE, assert_refused};

const MIB: u64 = 1 << 20;
const MEBIBYTES: u64 = 64;
const BOUND: Duration = Duration::from_secs(60);

fn cluster() -> Cluster {
    Cluster::start(&ClusterOptions { replication: 2, ..ClusterOptions::default() })
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// A sparse image: data in every eighth mebibyte.
fn image(folder: &Path) -> PathBuf {
    let path = folder.join("image");
    let file = File::create(&path).unwrap();
    file.set_len(MEBIBYTES * MIB).unwrap();
    let mut random = Random(51);
    for mebibyte in (0..MEBIBYTES).step_by(8) {
        let words = std::iter::repeat_with(|| random.draw()).take(1 << 17);
        let data: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
        file.write_all_at(&data, mebibyte * MIB).unwrap();
    }
    path
}

/// Asserts that two files hold the same, which may be large.
#[track_caller]
fn assert_same(one: &Path, other: &Path) {
    let (one, other) = (fs::read(one).unwrap(), fs::read(other).unwrap());
    assert!(one == other, "the files differ: {} and {} bytes", one.len(), other.len());
}

/// Runs a line of shell with `torusctl` as `$ctl`, to its end.
#[track_caller]
fn shell(cluster: &Cluster, line: &str) -> Outcome {
    let ctl = format!("{} -C {}", text(&binary("torusctl")), cluster.members());
    let line = format!("set -o pipefail; ctl='{ctl}'; cd '{}'; {line}", text(cluster.folder()));
    run(Path::new("/bin/bash"), ["-c", &line], BOUND)
}

/// An import in the background, of a pipe that `feeder` fills and does not close.
#[track_caller]
fn import_of(cluster: &Cluster, feeder: &str) -> Process {
    let mut command = Command::new("/bin/bash");
    let ctl = format!("{} -C {}", text(&binary("torusctl")), cluster.members());
    let line = format!("exec {ctl} volume import --size 64MiB - new < <({feeder}; exec sleep 60)");
    command.args(["-c", &line]).current_dir(cluster.folder());
    Process::start("import", &mut command, &cluster.folder().join("import.log"))
}

#[test]
fn an_image_comes_out_as_it_went_in_with_its_holes() {
    let mut cluster = cluster();
    let folder = cluster.folder().to_owned();
    let image = image(&folder);
    let imported = cluster.ctl_json(&["volume", "import", text(&image), "disk"]);
    let data = MEBIBYTES / 8 * MIB;
    assert_eq!((&imported["bytes"], &imported["size"]), (&data.into(), &(MEBIBYTES * MIB).into()));
    assert_eq!(cluster.info("disk")["space"]["mapped"], data, "holes are stored");
    let out = folder.join("out");
    cluster.ctl(&["volume", "export", "disk", text(&out)]).success();
    assert_same(&image, &out);
    let blocks = fs::metadata(&out).unwrap().blocks() * 512;
    assert!(blocks <= data + MIB, "{blocks} bytes of a sparse file");
    assert_refused(&cluster.ctl(&["volume", "export", "disk", text(&out)]), FAILURE, "--force");

    // Through pipes, with a size that is more than the image has.
    let line = "cat image | $ctl volume import --size 65MiB - piped && \
                $ctl volume export piped - | cat > piped && cmp -n 67108864 piped image";
    shell(&cluster, line).success();
    assert_eq!(cluster.info("piped")["size"], 65 * MIB);

    // What is served can be imported from, and a snapshot exported while the volume is written.
    cluster.snapshot(&["disk@s"]);
    let server = cluster.serve("disk");
    let mut client = server.connect().unwrap();
    client.write(0, &[1; 1 << 20]).unwrap();
    client.flush().unwrap();
    assert_refused(&cluster.ctl(&["volume", "export", "disk", "-"]), FAILURE, "in use by");
    cluster.ctl(&["volume", "export", "--force", "disk@s", text(&out)]).success();
    assert_same(&image, &out);
}

/// A volume with three snapshots, each with changes of all kinds.
fn cluster_with_snapshots() -> Cluster {
    let mut cluster = cluster();
    let image = image(cluster.folder());
    cluster.ctl(&["volume", "import", text(&image), "disk"]).success();
    cluster.snapshot(&["disk@one"]);
    let server = cluster.serve("disk");
    let mut client = server.connect().unwrap();
    client.write(3 * MIB, &[3; 1 << 20]).unwrap();
    client.write(8 * MIB + 4096, &[4; 4096]).unwrap();
    client.trim(16 * MIB, 1 << 20).unwrap();
    client.flush().unwrap();
    cluster.snapshot(&["disk@two"]);
    cluster.ctl(&["volume", "resize", "disk", "96MiB"]).success();
    let mut client = server.connect().unwrap();
    client.write(90 * MIB, &[5; 4096]).unwrap();
    client.flush().unwrap();
    cluster.snapshot(&["disk@three"]);
    cluster
}

/// Asserts that two volumes or snapshots hold the same.
#[track_caller]
fn assert_equal(cluster: &Cluster, one: &str, other: &str) {
    let line = format!("cmp <($ctl volume export {one} -) <($ctl volume export {other} -)");
    shell(cluster, &line).success();
}

#[test]
fn streams_carry_a_volume_and_its_changes() {
    let cluster = cluster_with_snapshots();
    shell(&cluster, "$ctl volume export --format stream disk@one one").success();
    shell(&cluster, "$ctl volume export disk@two --since one one-two").success();
    shell(&cluster, "$ctl volume export disk@three --since two two-three").success();
    let length = |file: &str| fs::metadata(cluster.folder().join(file)).unwrap().len();
    assert!(length("one-two") < 2 * MIB, "{} bytes for 1 MiB of changes", length("one-two"));

    shell(&cluster, "$ctl volume import one copy").success();
    let wrong = shell(&cluster, "$ctl volume import two-three copy");
    assert_refused(&wrong, FAILURE, "since disk@two");
    shell(&cluster, "cat one-two | $ctl volume import - copy").success();
    let twice = shell(&cluster, "$ctl volume import one-two copy");
    assert_refused(&twice, FAILURE, "two already");
    shell(&cluster, "$ctl volume import two-three copy").success();
    assert_eq!(cluster.snapshots("copy"), ["one", "two", "three"]);
    assert_eq!(cluster.info("copy")["size"], 96 * MIB);
    for snapshot in ["one", "two", "three"] {
        let [disk, copy] = ["disk", "copy"].map(|volume| format!("{volume}@{snapshot}"));
        assert_equal(&cluster, &disk, &copy);
    }
}

#[test]
fn changes_are_not_applied_to_a_volume_that_was_written_since() {
    let mut cluster = cluster_with_snapshots();
    shell(&cluster, "$ctl volume export --format stream disk@one one").success();
    shell(&cluster, "$ctl volume export disk@two --since one one-two").success();
    shell(&cluster, "$ctl volume import one copy").success();
    let server = cluster.serve("copy");
    let mut client = server.connect().unwrap();
    client.write(60 * MIB, &[1; 4096]).unwrap();
    client.flush().unwrap();
    assert_refused(&shell(&cluster, "$ctl volume import one-two copy"), FAILURE, "in use by");
    drop(client);
    server.stop();
    assert_refused(&shell(&cluster, "$ctl volume import one-two copy"), FAILURE, "--force");
    let server = cluster.serve("copy");
    assert_eq!(server.connect().unwrap().read(60 * MIB, 4096).unwrap(), [1; 4096]);
    server.stop();
    shell(&cluster, "$ctl volume import --force one-two copy").success();
    assert_equal(&cluster, "disk@two", "copy");
}

#[test]
fn damaged_streams_change_nothing() {
    let cluster = cluster_with_snapshots();
    shell(&cluster, "$ctl volume export --format stream disk@one one").success();
    shell(&cluster, "$ctl volume export disk@two --since one one-two").success();
    shell(&cluster, "$ctl volume import one copy").success();
    let volumes = cluster.volumes();
    let mut random = Random::seeded(52);
    for (stream, name) in [("one", "new"), ("one-two", "copy")] {
        let bytes = fs::read(cluster.folder().join(stream)).unwrap();
        let length = bytes.len() as u64;
        let import = format!("$ctl volume import bad {name}");
        let check = |bad: &[u8], what: &str| {
            fs::write(cluster.folder().join("bad"), bad).unwrap();
            let outcome = shell(&cluster, &import);
            assert_refused(&outcome, FAILURE, "stream");
            assert_eq!(cluster.volumes(), volumes, "{stream}, {what}");
            assert_eq!(cluster.snapshots("copy"), ["one"], "{stream}, {what}");
        };
        for _ in 0..3 {
            let cut = usize::try_from(random.within(100..length)).unwrap();
            check(&bytes[..cut], &format!("cut at {cut}"));
            let at = usize::try_from(random.within(12..length)).unwrap();
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << random.within(0..8);
            check(&flipped, &format!("flipped at {at}"));
        }
        check(&[&bytes[..], b"x"].concat(), "a byte too many");
    }
    assert_equal(&cluster, "disk@one", "copy");
    shell(&cluster, "$ctl volume import one-two copy").success();
    assert_equal(&cluster, "disk@two", "copy");
}

/// The volumes whose import is under way, or was killed.
#[track_caller]
fn unfinished(cluster: &Cluster) -> Vec<Value> {
    let mut list = cluster.ctl_json(&["volume", "list"]);
    let Value::Array(mut volumes) = list["volumes"].take() else { panic!("no volumes") };
    volumes.retain(|volume| volume["name"] != "new");
    assert!(cluster.volumes().iter().all(|name| name != "new"), "it looks whole");
    volumes
}

#[test]
fn an_import_that_is_interrupted_leaves_nothing_and_one_that_is_killed_nothing_that_looks_whole() {
    let cluster = cluster();
    image(cluster.folder());
    for is_killed in [false, true] {
        let mut import = import_of(&cluster, "head -c 33554432 image");
        wait_until("some of the image is with the peers", BOUND, || {
            match cluster.copies_stored() {
                0..4 => Err(import.log()),
                _ => Ok(()),
            }
        });
        let [volume] = unfinished(&cluster).try_into().unwrap();
        assert!(volume["name"].as_str().unwrap().contains(".importing-"), "{volume}");
        if is_killed {
            import.kill9();
            wait_until("the volume says what it is", BOUND, || match &unfinished(&cluster)[..] {
                [volume] if volume["left_by_import"] == true => Ok(()),
                volumes => Err(format!("{volumes:?}")),
            });
            let name = volume["name"].as_str().unwrap();
            cluster.ctl(&["volume", "delete", name]).success();
        } else {
            import.interrupt();
            let code = import.wait(BOUND);
            let stderr = import.log().lines().last().unwrap_or_default().to_owned();
            let outcome = Outcome { code, stdout: String::new(), stderr };
            assert_refused(&outcome, FAILURE, "interrupted");
        }
        assert!(unfinished(&cluster).is_empty());
        cluster.wait_for_space(0);
    }
}
