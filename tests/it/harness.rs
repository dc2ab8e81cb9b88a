//! The tests' own client and history are right about a server that is known to be right.

use std::fs::{self, File};
use std::io::Write;
use std::process::Command;
use std::time::Duration;

use torus_tests::{History, NbdClient, PAGE, Process, Random, free_port, tool, wait_until};

const BOUND: Duration = Duration::from_secs(20);

#[test]
fn a_stock_server_keeps_what_the_history_says_and_a_file_changed_behind_it_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.img");
    File::create(&path).unwrap().set_len(8 << 20).unwrap();
    let port = free_port();
    let mut command = Command::new(tool("qemu-nbd"));
    command.args([
        "-f",
        "raw",
        "-t",
        "-e",
        "2",
        "-x",
        "disk",
        "-b",
        "127.0.0.1",
        "-p",
        &port.to_string(),
    ]);
    command.arg(&path);
    let mut server = Process::start("qemu-nbd", &mut command, &folder.path().join("qemu-nbd.log"));
    let connect = || NbdClient::connect(port, "disk");
    let mut client = wait_until("qemu-nbd serves", BOUND, connect);
    assert_eq!(client.size(), 8 << 20);
    assert!(NbdClient::connect(port, "nowhere").is_err());

    let mut history = History::new((8 << 20) / PAGE as u64);
    let mut random = Random(5);
    history.flushed_writes(&mut client, &mut random, 100).unwrap();
    let prefix = history.check(&mut client).unwrap();
    assert_eq!((prefix.last, prefix.flushed), (100, 100));
    client.write_zeroes(0, 4096).unwrap();
    client.trim(4096, 4096).unwrap();
    assert!(client.read(8 << 20, 4096).is_err(), "behind the end");
    drop(client);
    server.kill9();

    let mut bytes = fs::read(&path).unwrap();
    bytes.fill(0);
    File::create(&path).unwrap().write_all(&bytes).unwrap();
    let mut server = Process::start("qemu-nbd", &mut command, &folder.path().join("qemu-nbd.log"));
    let mut client = wait_until("qemu-nbd serves again", BOUND, connect);
    let lost = history.check(&mut client).unwrap_err();
    assert!(lost.contains("flushed writes are lost"), "{lost}");
    server.kill9();
}
