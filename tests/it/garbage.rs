//! What is no message of ours on the daemon's port: it is refused, costs no memory, and nobody else
//! notices.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use torus_tests::{Cluster, ClusterOptions};

const BOUND: Duration = Duration::from_secs(20);
/// How much more memory a daemon may have needed at any time: far less than a message claims.
const MEMORY_MAX: u64 = 96 << 20;

/// The most memory that a process has had so far, in bytes.
fn peak_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib << 10
}

/// One frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short frame").to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The beginning of a gRPC call of `path`, whose message claims to have `length` bytes.
fn call(path: &str, length: u32) -> Vec<u8> {
    let text = |text: &str| {
        let length = u8::try_from(text.len()).expect("a short text");
        [&[length], text.as_bytes()].concat()
    };
    // POST and http by their places in HPACK's table; the rest literally.
    let headers = [
        vec![0x83, 0x86, 0x04],
        text(path),
        vec![0x01],
        text("torus"),
        vec![0x0f, 0x10],
        text("application/grpc"),
        vec![0x00],
        text("te"),
        text("trailers"),
    ];
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    bytes.extend(frame(1, 4, 1, &headers.concat()));
    let mut message = vec![0];
    message.extend(length.to_be_bytes());
    message.extend([0; 1000]);
    bytes.extend(frame(0, 0, 1, &message));
    bytes
}

/// Whether the server ends the call in time: by headers that end the stream, by resetting it, or by
/// closing the connection.
fn is_ended(stream: &mut TcpStream) -> bool {
    loop {
        let mut head = [0; 9];
        if let Err(error) = stream.read_exact(&mut head) {
            return !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
        }
        let (kind, flags) = (head[3], head[4]);
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).expect("a frame")];
        let is_whole = stream.read_exact(&mut payload).is_ok();
        if !is_whole || kind == 3 || kind == 7 || (kind == 1 && flags & 1 == 1) {
            return true;
        }
    }
}

fn connect(cluster: &Cluster) -> TcpStream {
    let stream = TcpStream::connect(cluster.address(0)).unwrap();
    stream.set_read_timeout(Some(BOUND)).unwrap();
    stream
}

#[test]
fn garbage_and_huge_messages_harm_nobody() {
    let mut cluster =
        Cluster::start(&ClusterOptions { daemons: 1, replication: 1, ..Default::default() });
    cluster.create_volume("disk", "16MiB");
    let pid = cluster.pid(0);
    let before = peak_memory(pid);

    // Bytes of no protocol, of the beginning of each, and none at all.
    let noise = |i: u32| i.wrapping_mul(2_654_435_761).to_be_bytes()[1];
    let noise: Vec<u8> = (0..1 << 16).map(noise).collect();
    for first in
        [&b""[..], b"\0", b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n", b"\x16\x03\x01", &noise]
    {
        let mut stream = connect(&cluster);
        // The daemon may have closed it already.
        let _ = stream.write_all(first).and_then(|()| stream.write_all(&noise));
    }
    for path in [
        "/torus.metadata.v1.Metadata/Execute",
        "/torus.metadata.v1.Metadata/Watch",
        "/torus.metadata.v1.Admin/Join",
        "/torus.raft.v1.Raft/Append",
        "/no.such.Service/Call",
    ] {
        for length in [1 << 30, u32::MAX] {
            let mut stream = connect(&cluster);
            stream.write_all(&call(path, length)).unwrap();
            assert!(is_ended(&mut stream), "{path} waits for {length} bytes");
        }
    }
    assert_eq!(cluster.pid(0), pid);
    let more = peak_memory(pid) - before;
    assert!(more < MEMORY_MAX, "{more} bytes more");
    cluster.create_volume("after", "16MiB");
    let status = cluster.ctl_json(&["member", "status"]);
    assert_eq!(status["problems"], serde_json::json!([]));
}
