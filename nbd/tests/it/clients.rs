//! Stock clients against the server: what they show, copy, compare and verify.

use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use torus_nbd::memory::{MemoryDisk, MemoryDisks};
use torus_nbd::{ExportInfo, ServerOptions};

use crate::serving::Serving;

const MIB: usize = 1 << 20;

/// Runs a program; its output if it succeeded.
async fn run(package: &'static str, program: &'static str, arguments: &[&str]) -> String {
    let line = format!("{program} {}", arguments.join(" "));
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    let ran = tokio::task::spawn_blocking(move || command.output()).await.unwrap();
    let Output { status, stdout, stderr } = ran.unwrap_or_else(|error| {
        panic!("cannot run {program}: {error}; install the Debian package {package}")
    });
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{line}: {status}\n{stdout}\n{stderr}");
    stdout.into_owned()
}

async fn serve(size: usize) -> Serving {
    let mut disks = MemoryDisks::new();
    disks.insert("vol", Arc::new(MemoryDisk::new(size as u64)));
    let read_only = ExportInfo { read_only: true, ..ExportInfo::new(MIB as u64) };
    disks.insert("frozen", Arc::new(MemoryDisk::with_info(read_only)));
    Serving::start(Arc::new(disks), ServerOptions::default()).await
}

#[tokio::test]
async fn nbdinfo_shows_the_exports() {
    let serving = serve(64 * MIB).await;
    let shown = run("libnbd-bin", "nbdinfo", &["--json", "--list", &serving.uri("")]).await;
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["protocol"], "newstyle-fixed");
    assert_eq!(shown["structured"], true);
    let [frozen, vol] = [0, 1].map(|index| &shown["exports"][index]);
    assert_eq!((&frozen["export-name"], &vol["export-name"]), (&"frozen".into(), &"vol".into()));
    assert_eq!(vol["export-size"], 64 * MIB);
    assert_eq!(vol["block_size_preferred"], 4096);
    assert_eq!(vol["contexts"][0], "base:allocation");
    for able in ["flush", "fua", "trim", "zero", "fast_zero", "df", "cache", "multi_conn"] {
        assert_eq!(vol[format!("can_{able}")], true, "{able}");
    }
    assert_eq!((&vol["is_read_only"], &frozen["is_read_only"]), (&false.into(), &true.into()));
    assert_eq!(frozen["can_trim"], false);
    let shown = run("libnbd-bin", "nbdinfo", &["--json", &serving.uri("vol")]).await;
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["exports"][0]["description"], "a disk in memory");
    serving.stop().await;
}

/// Data with holes, an odd end, and no run that repeats in the wrong place.
fn image(size: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut image = Vec::with_capacity(size + 8);
    while image.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let hole = (image.len() / (3 * MIB)) % 2 == 1;
        image.extend(if hole { 0 } else { state }.to_le_bytes());
    }
    image.truncate(size);
    image
}

#[tokio::test]
async fn images_go_in_and_come_out_unchanged() {
    let folder = tempfile::tempdir().unwrap();
    let [source, copy, converted] =
        ["source", "copy", "converted"].map(|name| folder.path().join(name).display().to_string());
    let size = 40 * MIB + 513;
    std::fs::write(&source, image(size)).unwrap();
    let serving = serve(size).await;
    let uri = serving.uri("vol");

    run("libnbd-bin", "nbdcopy", &["--flush", &source, &uri]).await;
    let raw = ["compare", "-f", "raw", "-F", "raw", &source, &uri];
    run("qemu-utils", "qemu-img", &raw).await;
    run("libnbd-bin", "nbdcopy", &[&uri, &copy]).await;
    assert!(std::fs::read(&copy).unwrap() == image(size), "nbdcopy brought other bytes back");
    let map = run("libnbd-bin", "nbdinfo", &["--map", "--json", &uri]).await;
    let map: serde_json::Value = serde_json::from_str(&map).unwrap();
    assert_eq!(map[1]["description"], "hole,zero", "{map}");
    assert_eq!(map[1]["length"], 3 * MIB, "{map}");
    let convert = ["convert", "-f", "raw", "-O", "raw", &uri, &converted];
    run("qemu-utils", "qemu-img", &convert).await;
    assert!(std::fs::read(&converted).unwrap()[..size] == image(size), "qemu-img brought others");
    // And without structured replies, one request at a time.
    let plain = ["--synchronous", "--allocated", &source, &uri];
    run("libnbd-bin", "nbdcopy", &plain).await;
    run("qemu-utils", "qemu-img", &raw).await;
    serving.stop().await;
}

#[tokio::test]
async fn fio_verifies_what_it_wrote() {
    let folder = tempfile::tempdir().unwrap();
    let serving = serve(64 * MIB).await;
    let uri = format!("--uri={}", serving.uri("vol"));
    let directory = format!("--aux-path={}", folder.path().display());
    let job = [
        "--name=verify",
        "--ioengine=nbd",
        &uri,
        &directory,
        "--rw=randrw",
        "--bsrange=512-256k",
        "--size=64m",
        "--iodepth=32",
        "--fsync=17",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--verify_state_save=0",
    ];
    run("fio", "fio", &job).await;
    serving.stop().await;
}
