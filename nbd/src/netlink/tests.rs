//! The bytes that a kernel expects, and those that it sends.

use proptest::prelude::*;

use super::*;

const CONNECT: Connect<'_> = Connect {
    index: Some(3),
    size: 1 << 30,
    block_size: 4096,
    server_flags: 0x6d,
    client_flags: 0,
    timeout: None,
    dead_conn_timeout: 30,
    sockets: &[7, 8],
};

#[test]
#[rustfmt::skip]
fn golden_requests() {
    assert_eq!(get_family(1, "nbd"), [
        28, 0, 0, 0,  0x10, 0,  5, 0,  1, 0, 0, 0,  0, 0, 0, 0,  3, 1, 0, 0,
        8, 0, 2, 0,  b'n', b'b', b'd', 0,
    ]);
    assert_eq!(connect(0x22, 2, &CONNECT), [
        116, 0, 0, 0,  0x22, 0,  5, 0,  2, 0, 0, 0,  0, 0, 0, 0,  1, 1, 0, 0,
        8, 0, 1, 0,  3, 0, 0, 0,
        12, 0, 2, 0,  0, 0, 0, 0x40, 0, 0, 0, 0,
        12, 0, 3, 0,  0, 0x10, 0, 0, 0, 0, 0, 0,
        12, 0, 5, 0,  0x6d, 0, 0, 0, 0, 0, 0, 0,
        12, 0, 6, 0,  0, 0, 0, 0, 0, 0, 0, 0,
        12, 0, 8, 0,  30, 0, 0, 0, 0, 0, 0, 0,
        28, 0, 7, 0,
            12, 0, 1, 0,  8, 0, 1, 0,  7, 0, 0, 0,
            12, 0, 1, 0,  8, 0, 1, 0,  8, 0, 0, 0,
    ]);
    assert_eq!(disconnect(0x22, 3, 5), [
        28, 0, 0, 0,  0x22, 0,  5, 0,  3, 0, 0, 0,  0, 0, 0, 0,  2, 1, 0, 0,
        8, 0, 1, 0,  5, 0, 0, 0,
    ]);
    assert_eq!(status(0x22, 4, 5)[16], 5);
    assert_eq!(reconfigure(0x22, 4, 5, &[9])[28..], [
        16, 0, 7, 0,  12, 0, 1, 0,  8, 0, 1, 0,  9, 0, 0, 0,
    ]);
}

#[test]
fn any_device_has_no_index() {
    let with = connect(0x22, 2, &CONNECT);
    let without = connect(0x22, 2, &Connect { index: None, timeout: Some(60), ..CONNECT });
    assert_eq!(with[20..28], [8, 0, 1, 0, 3, 0, 0, 0]);
    assert_eq!(without[20..24], [12, 0, 2, 0]);
    assert!(without.windows(5).any(|window| window == [12, 0, 4, 0, 60]));
}

/// An answer of family 0x22 to sequence 9.
fn answer(command: u8, attributes: &[u8]) -> Vec<u8> {
    let length = u8::try_from(20 + attributes.len()).unwrap();
    let head = [length, 0, 0, 0, 0x22, 0, 0, 0, 9, 0, 0, 0, 1, 2, 3, 4, command, 1, 0, 0];
    [&head, attributes].concat()
}

fn only(bytes: &[u8]) -> Attributes<'_> {
    match decode(bytes, 9).unwrap()[..] {
        [Message::Answer(attributes)] => attributes,
        ref other => panic!("{other:?}"),
    }
}

#[test]
#[rustfmt::skip]
fn golden_answers() {
    // As nlctrl sends it: the name before the number, and more behind.
    let family = answer(1, &[
        8, 0, 2, 0,  b'n', b'b', b'd', 0,  6, 0, 1, 0,  0x22, 0, 0, 0,  8, 0, 3, 0,  1, 0, 0, 0,
    ]);
    assert_eq!(only(&family).family(), Ok(0x22));
    let connected = answer(1, &[8, 0, 1, 0,  15, 0, 0, 0]);
    assert_eq!(only(&connected).index(), Ok(15));
    let status = answer(5, &[
        24, 0, 9, 0,  20, 0, 1, 0,  8, 0, 1, 0,  3, 0, 0, 0,  5, 0, 2, 0,  1, 0, 0, 0,
    ]);
    assert_eq!(only(&status).connected(3), Ok(true));
    assert_eq!(only(&status).connected(4), Ok(false));
    assert_eq!(only(&answer(5, &[4, 0, 9, 0])).connected(3), Ok(false));
    let refused = [
        36, 0, 0, 0,  2, 0,  0, 0,  9, 0, 0, 0,  0, 0, 0, 0,  0xf0, 0xff, 0xff, 0xff,
        28, 0, 0, 0,  0x22, 0,  5, 0,  9, 0, 0, 0,  0, 0, 0, 0,
    ];
    assert_eq!(decode(&refused, 9), Ok(vec![Message::Acknowledged { errno: 16 }]));
    let both = [connected, refused.to_vec()].concat();
    assert_eq!(decode(&both, 9).unwrap().len(), 2);
    assert_eq!(decode(&both, 8), Ok(vec![]), "answers to others");
}

#[test]
fn torn_answers_are_refused() {
    let family = answer(1, &[8, 0, 2, 0, b'n', b'b', b'd', 0, 6, 0, 1, 0, 0x22, 0, 0, 0]);
    for cut in 1..family.len() {
        assert_eq!(decode(&family[..cut], 9), Err(Malformed), "cut at {cut}");
    }
    assert_eq!(only(&answer(1, &[])).family(), Err(Malformed));
    assert_eq!(only(&answer(1, &[2, 0, 1, 0])).family(), Err(Malformed));
    assert_eq!(only(&answer(1, &[5, 0, 1, 0, 7])).family(), Err(Malformed));
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), index: u32) {
        if let Ok(messages) = decode(&bytes, 0) {
            for message in messages {
                if let Message::Answer(attributes) = message {
                    let _ = (attributes.family(), attributes.index(), attributes.connected(index));
                }
            }
        }
    }
}
