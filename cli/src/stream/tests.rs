//! The bytes of a stream, and what becomes of other bytes.

use bytes::Bytes;
use expect_test::{Expect, expect};
use uuid::Uuid;

use super::*;

fn header(incremental: bool) -> Header {
    let moment = |id: u64, name: &str| Moment {
        id,
        name: name.to_owned(),
        created_ms: 1_700_000_000_000 + id,
        size: 1 << 20,
    };
    Header {
        cluster: Uuid::from_u128(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10),
        volume_id: 5,
        volume: "disk".to_owned(),
        to: moment(7, "tue"),
        from: incremental.then(|| moment(6, "mon")),
    }
}

/// A page of data and a range of zeroes.
fn chunks() -> Vec<Chunk> {
    vec![
        Chunk::Data { offset: 4096, data: Bytes::from_static(b"torus") },
        Chunk::Zero { offset: 8192, length: 65536 },
        Chunk::Data { offset: 1_000_000, data: Bytes::from_static(b"!") },
    ]
}

async fn write(header: &Header, chunks: &[Chunk]) -> Vec<u8> {
    let mut stream = StreamWriter::begin(Vec::new(), header).await.unwrap();
    for chunk in chunks {
        match chunk {
            Chunk::Data { offset, data } => stream.data(*offset, data).await.unwrap(),
            Chunk::Zero { offset, length } => stream.zero(*offset, *length).await.unwrap(),
        }
    }
    stream.end().await.unwrap()
}

async fn read(bytes: &[u8]) -> Result<(Header, Vec<Chunk>), StreamError> {
    let mut stream = StreamReader::begin(bytes).await?;
    let mut chunks = Vec::new();
    while let Some(chunk) = stream.next().await? {
        chunks.push(chunk);
    }
    Ok((stream.header().clone(), chunks))
}

async fn check(bytes: &[u8], expected: Expect) {
    let found = match read(bytes).await {
        Ok((header, chunks)) => format!("{} chunks of {}", chunks.len(), header.volume),
        Err(error) => error.to_string(),
    };
    expected.assert_eq(&found);
}

#[tokio::test]
async fn golden_bytes() {
    #[rustfmt::skip]
    let bytes = [
        b'T', b'O', b'R', b'U', b'S', b'V', b'O', b'L',
        1, 0, 2, 4, 3, 3, 0, 0,
        1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16,
        5, 0, 0, 0, 0, 0, 0, 0,
        7, 0, 0, 0, 0, 0, 0, 0,
        7, 0x68, 0xe5, 0xcf, 0x8b, 1, 0, 0,
        0, 0, 0x10, 0, 0, 0, 0, 0,
        6, 0, 0, 0, 0, 0, 0, 0,
        6, 0x68, 0xe5, 0xcf, 0x8b, 1, 0, 0,
        0, 0, 0x10, 0, 0, 0, 0, 0,
        b'd', b'i', b's', b'k', b't', b'u', b'e', b'm', b'o', b'n',
        0x1b, 6, 0xda, 0xf9,
        1, 0, 0, 0, 0x4c, 0x47, 4, 0x65,
        0, 0x10, 0, 0, 0, 0, 0, 0,
        5, 0, 0, 0, 0, 0, 0, 0,
        0xe9, 0x24, 0x2b, 0xc3,
        b't', b'o', b'r', b'u', b's',
        2, 0, 0, 0, 0, 0, 0, 0,
        0, 0x20, 0, 0, 0, 0, 0, 0,
        0, 0, 1, 0, 0, 0, 0, 0,
        0x4b, 0x78, 0x1f, 0x41,
        1, 0, 0, 0, 0xd3, 0xff, 0x6b, 0x9e,
        0x40, 0x42, 0x0f, 0, 0, 0, 0, 0,
        1, 0, 0, 0, 0, 0, 0, 0,
        0x0a, 0x4c, 7, 0x48,
        b'!',
        3, 0, 0, 0, 0, 0, 0, 0,
        3, 0, 0, 0, 0, 0, 0, 0,
        6, 0, 0, 0, 0, 0, 0, 0,
        0xd4, 0x14, 0x88, 0x77,
    ];
    let stream = write(&header(true), &chunks()).await;
    assert_eq!(stream, bytes);
}

#[tokio::test]
async fn what_was_written_is_read() {
    for header in [header(true), header(false)] {
        let found = read(&write(&header, &chunks()).await).await.unwrap();
        assert_eq!(found, (header.clone(), chunks()));
        assert_eq!(read(&write(&header, &[]).await).await.unwrap(), (header, vec![]));
    }
    let mut of_the_volume = header(false);
    (of_the_volume.to.id, of_the_volume.to.name) = (0, String::new());
    assert_eq!(read(&write(&of_the_volume, &[]).await).await.unwrap().0, of_the_volume);
}

#[tokio::test]
async fn every_flipped_bit_is_refused() {
    let bytes = write(&header(true), &chunks()).await;
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            assert!(read(&flipped).await.is_err(), "bit {bit} of byte {at}");
        }
    }
}

#[tokio::test]
async fn every_shorter_stream_is_refused() {
    let bytes = write(&header(true), &chunks()).await;
    for length in 0..bytes.len() {
        let result = read(&bytes[..length]).await;
        assert!(matches!(result, Err(StreamError::Truncated { .. })), "{length} bytes");
    }
}

#[tokio::test]
async fn chunks_count_only_at_their_own_place() {
    let (whole, one) = (write(&header(true), &chunks()).await, write(&header(true), &[]).await);
    let start = one.len() - chunk::Fixed::LEN;
    let (first, second) = (start + chunk::Fixed::LEN + 5, start + 2 * chunk::Fixed::LEN + 5);
    let without_second = [&whole[..first], &whole[second..]].concat();
    check(&without_second, expect!["the stream is damaged at byte 135"]).await;
    let doubled = [&whole[..first], &whole[start..]].concat();
    check(&doubled, expect!["the stream is damaged at byte 135"]).await;
    let of_another = [&one[..start], &write(&header(false), &chunks()).await[start - 3..]].concat();
    check(&of_another, expect!["the stream is damaged at byte 102"]).await;
}

#[tokio::test]
async fn names_cannot_command_a_terminal() {
    let mut evil = header(false);
    evil.volume = "disk\x1b[2J".to_owned();
    check(&write(&evil, &[]).await, expect!["the header of the stream is damaged"]).await;
}

#[tokio::test]
async fn other_bytes_are_named() {
    let bytes = write(&header(true), &chunks()).await;
    check(&[0; 512], expect!["this is no stream of torusctl volume export"]).await;
    let mut newer = bytes.clone();
    newer[8] = 2;
    check(
        &newer,
        expect!["the stream has format version 2, and this program knows only version 1"],
    )
    .await;
    let longer = [&bytes[..], b"\n"].concat();
    check(&longer, expect!["something stands behind the end of the stream, at byte 220"]).await;
    check(&bytes, expect!["3 chunks of disk"]).await;
}
