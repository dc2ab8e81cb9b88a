//! Stock NBD clients find an ordinary disk.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use torus_tests::{Cluster, ClusterOptions, Image, NbdServer, Outcome, run, tool, wait_until};

const BOUND: Duration = Duration::from_secs(120);
const MEBIBYTES: u64 = 256;

/// Runs a stock client to its successful end.
#[track_caller]
fn client(name: &str, arguments: &[&str]) -> Outcome {
    run(&tool(name), arguments, BOUND).success()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

fn cluster_with_volume() -> (Cluster, NbdServer) {
    let mut cluster = Cluster::start(&ClusterOptions::default());
    cluster.create_volume("disk", &format!("{MEBIBYTES}MiB"));
    let server = cluster.serve("disk");
    (cluster, server)
}

#[test]
fn a_file_system_image_comes_out_as_it_went_in() {
    let (mut cluster, server) = cluster_with_volume();
    let image = Image::create(cluster.folder(), MEBIBYTES);
    let copy = cluster.folder().join("copy");
    client("nbdcopy", &["--flush", text(image.path()), &server.uri()]);
    client("nbdcopy", &[&server.uri(), text(&copy)]);
    image.assert_same(&copy);
    let compare = ["compare", "-f", "raw", "-F", "raw", text(image.path()), &server.uri()];
    client("qemu-img", &compare);

    // And so it does after the volume was closed and opened again.
    server.stop();
    let server = cluster.serve("disk");
    client("nbdcopy", &[&server.uri(), text(&copy)]);
    image.assert_same(&copy);
}

#[test]
fn nbdinfo_shows_the_size_and_what_the_disk_can_do() {
    let (_cluster, server) = cluster_with_volume();
    let info = client("nbdinfo", &["--json", &server.uri()]);
    let info: Value = serde_json::from_str(&info.stdout).unwrap();
    let export = &info["exports"][0];
    assert_eq!(info["protocol"], "newstyle-fixed", "{info}");
    assert_eq!(info["structured"], true, "{info}");
    assert_eq!(export["export-name"], "disk", "{info}");
    assert_eq!(export["export-size"], MEBIBYTES << 20, "{info}");
    assert_eq!(export["is_read_only"], false, "{info}");
    for flag in ["can_flush", "can_fua", "can_trim", "can_zero"] {
        assert_eq!(export[flag], true, "{flag}: {info}");
    }
}

#[test]
fn random_writes_of_fio_verify() {
    let (_cluster, server) = cluster_with_volume();
    let uri = format!("--uri={}", server.uri());
    let job = ["--name=verify", "--ioengine=nbd", &uri, "--rw=randwrite", "--size=64m"];
    let blocks = ["--bs=4k", "--iodepth=16", "--fsync=64"];
    // Without the last, fio leaves a file in the working folder.
    let verify = ["--verify=crc32c", "--do_verify=1", "--verify_fatal=1", "--verify_state_save=0"];
    client("fio", &[job.as_slice(), &blocks, &verify].concat());
}

#[test]
fn every_volume_is_served_on_a_unix_socket() {
    let mut cluster = Cluster::start(&ClusterOptions::default());
    cluster.create_volume("one", "16MiB");
    cluster.create_volume("two", "32MiB");
    let socket = cluster.folder().join("nbd.sock");
    let mut server = cluster.torusblk(&["nbdserve", "--unix", text(&socket)]);
    let uri = |volume: &str| format!("nbd+unix:///{volume}?socket={}", text(&socket));
    let two = wait_until("nbdinfo sees the second volume", BOUND, || {
        let info = run(&tool("nbdinfo"), ["--size", &uri("two")], BOUND);
        if info.code == 0 { Ok(info) } else { Err(format!("{info}{}", server.log())) }
    });
    assert_eq!(two.stdout.trim(), (32 << 20).to_string());
    let list = client("nbdinfo", &["--list", "--json", &uri("")]);
    let list: Value = serde_json::from_str(&list.stdout).unwrap();
    let exports = list["exports"].as_array().unwrap().iter();
    let names: Vec<_> = exports.filter_map(|export| export["export-name"].as_str()).collect();
    assert_eq!(names, ["one", "two"]);
    assert_eq!(server.stop(BOUND), 0, "{}", server.log());
    assert!(!socket.exists(), "the socket is left behind");
}

#[test]
fn trimmed_and_zeroed_ranges_read_as_zeroes_and_the_rest_stays() {
    let (_cluster, server) = cluster_with_volume();
    let mut client = server.connect().unwrap();
    client.write(0, &[1; 65536]).unwrap();
    client.trim(4096, 8192).unwrap();
    client.write_zeroes(32768, 100).unwrap();
    client.flush().unwrap();
    let mut expected = vec![1; 65536];
    expected[4096..12288].fill(0);
    expected[32768..32868].fill(0);
    assert_eq!(client.read(0, 65536).unwrap(), expected);
}
