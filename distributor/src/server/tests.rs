//! The server as a client sees it that speaks the protocol by hand, well or badly.

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use torus_blockstore::{Append, ByteRange, Epoch};

use crate::lock::lock;
use crate::protocol::frame::{self, Body, Frame, FrameReader, Head, REPLY};
use crate::protocol::hello::{Hello, MAGIC, Welcome};
use crate::testing::{BLOCK_SIZE, CLUSTER, Node, block, peer};
use crate::{Refusal, Request};

async fn greet(node: &Node, hello: &Hello) -> (TcpStream, Welcome) {
    let mut stream = TcpStream::connect(&node.address).await.unwrap();
    stream.write_all(&hello.encode()).await.unwrap();
    let mut bytes = [0; Welcome::LEN];
    stream.read_exact(&mut bytes).await.unwrap();
    (stream, Welcome::decode(&bytes).unwrap())
}

fn hello() -> Hello {
    Hello { cluster: *CLUSTER.as_bytes(), peer: Some(peer(1)) }
}

fn bytes(id: u64, request: Request) -> Vec<u8> {
    let head = Head { op: request.op(), flags: request.flags(), status: 0, id };
    frame::encode(head, request.into_body()).concat()
}

fn append(index: u64, offset: u32, sync: bool) -> Request {
    let (block, data) = (block(index), vec![Bytes::from_static(b"hello")]);
    Request::Append(Append { block, epoch: Epoch(1), offset, data, sync, past_cache: false })
}

fn read(index: u64) -> Request {
    let ranges = vec![ByteRange { offset: 1, length: 4 }];
    Request::Read { block: block(index), ranges }
}

async fn next(frames: &mut FrameReader<TcpStream>) -> Option<Frame> {
    loop {
        if let Some(frame) = frames.buffered().unwrap() {
            return Some(frame);
        }
        if !frames.fill().await.unwrap_or(false) {
            return None;
        }
    }
}

#[tokio::test]
async fn replies_pass_those_that_wait_for_the_disk() {
    let node = Node::start(1, 10).await;
    let (mut stream, welcome) = greet(&node, &hello()).await;
    assert_eq!((welcome.refusal, welcome.block_size), (None, BLOCK_SIZE));
    let store = std::sync::Arc::clone(&node.store);
    let (release, released) = std::sync::mpsc::channel::<()>();
    let (held, is_held) = tokio::sync::oneshot::channel();
    let holder = std::thread::spawn(move || {
        let slow = lock(&store.slow_disk);
        held.send(()).unwrap();
        released.recv().ok();
        drop(slow);
    });
    is_held.await.unwrap();
    let requests = [bytes(1, append(1, 0, true)), bytes(2, append(1, 5, false)), bytes(3, read(1))];
    stream.write_all(&requests.concat()).await.unwrap();
    let mut frames = FrameReader::new(stream, BLOCK_SIZE);
    let ids = [next(&mut frames).await.unwrap(), next(&mut frames).await.unwrap()];
    let mut ids = ids.map(|frame| frame.head.id);
    ids.sort_unstable();
    assert_eq!(ids, [2, 3]);
    release.send(()).unwrap();
    let synced = next(&mut frames).await.unwrap();
    let head = Head { op: Request::APPEND | REPLY, flags: 0, status: 0, id: 1 };
    assert_eq!(synced, Frame { head, body: Bytes::new() });
    holder.join().unwrap();
}

#[tokio::test]
async fn strangers_are_told_why() {
    let node = Node::start(1, 10).await;
    let elsewhere = Hello { cluster: [9; 16], ..hello() };
    let (mut stream, welcome) = greet(&node, &elsewhere).await;
    assert_eq!(welcome.refusal, Some(Refusal::WrongCluster));
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    let (_, welcome) = greet(&node, &Hello { peer: Some(peer(2)), ..hello() }).await;
    assert_eq!((welcome.refusal, welcome.peer), (Some(Refusal::WrongPeer), peer(1)));
    let (_, welcome) = greet(&node, &Hello { peer: None, ..hello() }).await;
    assert_eq!(welcome.refusal, None);
}

#[tokio::test]
async fn another_protocol_is_hung_up_on() {
    let node = Node::start(1, 10).await;
    let mut stream = TcpStream::connect(&node.address).await.unwrap();
    let request = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n................................";
    assert_ne!(request[..8], MAGIC);
    stream.write_all(request).await.unwrap();
    // With bytes unread the close may show as a reset.
    assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn an_unknown_request_is_refused_and_the_connection_goes_on() {
    let node = Node::start(1, 10).await;
    let (mut stream, _) = greet(&node, &hello()).await;
    let head = Head { op: 77, flags: 0, status: 0, id: 1 };
    let unknown = frame::encode(head, Body::default()).concat();
    stream.write_all(&[unknown, bytes(2, Request::Status)].concat()).await.unwrap();
    let mut frames = FrameReader::new(stream, BLOCK_SIZE);
    let heads = [next(&mut frames).await.unwrap().head, next(&mut frames).await.unwrap().head];
    assert_eq!(heads.map(|head| (head.id, head.status)), [(1, 14), (2, 0)]);
}

#[tokio::test]
async fn a_frame_past_the_limit_ends_the_connection() {
    let node = Node::start(1, 10).await;
    let (mut stream, _) = greet(&node, &hello()).await;
    let big = Bytes::from(vec![0; 2 * BLOCK_SIZE as usize + 1]);
    let head = Head { op: Request::APPEND, flags: 0, status: 0, id: 1 };
    let body = Body { fields: BytesMut::new(), payload: vec![big] };
    stream.write_all(&frame::encode(head, body)[0]).await.unwrap();
    assert!(next(&mut FrameReader::new(stream, BLOCK_SIZE)).await.is_none());
}

#[tokio::test]
async fn a_client_that_does_not_read_is_not_read_from() {
    let node = Node::start(1, 10).await;
    let (stream, _) = greet(&node, &hello()).await;
    let (reader, mut writer) = stream.into_split();
    let whole = vec![Bytes::from(vec![7; BLOCK_SIZE as usize])];
    let append = Append {
        block: block(1),
        epoch: Epoch(1),
        offset: 0,
        data: whole,
        sync: false,
        past_cache: false,
    };
    writer.write_all(&bytes(0, Request::Append(append))).await.unwrap();
    let ranges = vec![ByteRange { offset: 0, length: BLOCK_SIZE }];
    let count = 2000_usize;
    // 125 MiB of answers: more than socket buffers and the server's bound take.
    let asking = tokio::spawn(async move {
        for id in 1..=count as u64 {
            let read = Request::Read { block: block(1), ranges: ranges.clone() };
            writer.write_all(&bytes(id, read)).await.unwrap();
        }
        writer
    });
    let stream = reader;
    let mut frames = FrameReader::new(stream, BLOCK_SIZE);
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < count + 1 {
        if let Some(frame) = frames.buffered().unwrap() {
            seen.insert(frame.head.id);
        } else {
            assert!(frames.fill().await.unwrap());
        }
    }
    asking.await.unwrap();
}
