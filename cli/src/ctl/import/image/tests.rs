//! What is found in images of all kinds.

use std::io::Write;

use expect_test::{Expect, expect};
use futures::StreamExt;

use super::*;

/// A file with these bytes at these offsets, and holes between them.
fn sparse(size: u64, pieces: &[(u64, &[u8])]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(size).unwrap();
    for (offset, bytes) in pieces {
        file.as_file().write_all_at(bytes, *offset).unwrap();
    }
    file
}

/// An image that comes through a pipe.
fn pipe(bytes: Vec<u8>) -> Image {
    let (reader, mut writer) = io::pipe().unwrap();
    std::thread::spawn(move || writer.write_all(&bytes));
    let mut file = File::from(std::os::fd::OwnedFd::from(reader));
    let mut head = Vec::new();
    (&mut file).take(MAGIC_LENGTH).read_to_end(&mut head).unwrap();
    Image { file, size: None, head }
}

async fn open(path: &Path) -> Image {
    match Input::open(path).unwrap().input().await.unwrap() {
        Input::Image(image) => image,
        Input::Stream(stream) => panic!("a stream of {}", stream.header().volume),
    }
}

async fn check(image: Image, size: u64, expected: Expect) {
    let mut lines = Vec::new();
    let mut chunks = Box::pin(image.chunks(size));
    while let Some(chunk) = chunks.next().await {
        lines.push(match chunk {
            Ok(Chunk::Data { offset, data }) => format!("{offset}+{}: {}", data.len(), data[0]),
            Ok(Chunk::Zero { offset, length }) => format!("{offset}+{length}: zero"),
            Err(error) => error.to_string(),
        });
    }
    expected.assert_eq(&lines.join("\n"));
}

#[tokio::test]
async fn holes_and_zeroes_are_passed_over() {
    let file = sparse(10 << 20, &[(0, &[1; 4096]), (4096, &[0; 8192]), (5 << 20, &[2; 300_000])]);
    let image = open(file.path()).await;
    assert_eq!(image.size, Some(10 << 20));
    check(
        image,
        10 << 20,
        expect![[r#"
        0+4096: 1
        5242880+262144: 2
        5505024+40960: 2"#]],
    )
    .await;
}

#[tokio::test]
async fn an_image_may_end_within_a_page() {
    let file = sparse(5000, &[(4096, &[7; 904])]);
    check(open(file.path()).await, 8192, expect!["4096+4096: 7"]).await;
}

#[tokio::test]
async fn nothing_is_in_a_hole() {
    check(open(sparse(1 << 30, &[]).path()).await, 1 << 30, expect![]).await;
    check(open(sparse(0, &[]).path()).await, 4096, expect![]).await;
}

#[tokio::test]
async fn a_pipe_is_read_to_its_end() {
    let bytes = [vec![1; 300_000], vec![0; 700_000], vec![2; 5]].concat();
    check(
        pipe(bytes.clone()),
        10 << 20,
        expect![[r#"
        0+262144: 1
        262144+40960: 1
        999424+4096: 0"#]],
    )
    .await;
    check(
        pipe(bytes),
        1_003_520,
        expect![[r#"
        0+262144: 1
        262144+40960: 1
        999424+4096: 0"#]],
    )
    .await;
    check(pipe(vec![]), 4096, expect![]).await;
    check(pipe(vec![1]), 4096, expect!["0+4096: 1"]).await;
}

#[tokio::test]
async fn a_pipe_may_hold_too_much() {
    check(
        pipe(vec![1; 8192]),
        4096,
        expect![[r#"
        0+4096: 1
        the image is longer than 4096 bytes; give a larger --size"#]],
    )
    .await;
    check(pipe(vec![1; 8192]), 8192, expect!["0+8192: 1"]).await;
}

#[tokio::test]
async fn streams_are_known_by_their_beginning() {
    let mut file = sparse(0, &[]);
    file.write_all(b"TORUSVOL\x02\x00").unwrap();
    file.write_all(&[0; 200]).unwrap();
    let error = match Input::open(file.path()).unwrap().input().await {
        Err(failure) => failure.line(),
        Ok(_) => "opened".to_owned(),
    };
    expect!["the stream has format version 2, and this program knows only version 1"]
        .assert_eq(&error);
}

#[test]
fn what_cannot_be_read_is_named() {
    let error = |path: &str| Input::open(Path::new(path)).map(|_| ()).unwrap_err().to_string();
    expect!["/ is a directory; name an image"].assert_eq(&error("/"));
    expect!["cannot open /no/such/image"].assert_eq(&error("/no/such/image"));
}
