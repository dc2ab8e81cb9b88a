//! Scripts of what clients send, and all that they are answered.

use std::fmt::Write;

use bytes::{Buf, BytesMut};
use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;
use crate::wire::option::tests::{encode, encode_contexts, encode_info};
use crate::wire::option::{
    CLIENT_FIXED_NEWSTYLE, CLIENT_NO_ZEROES, OPT_ABORT, OPT_EXPORT_NAME, OPT_GO, OPT_INFO,
    OPT_LIST, OPT_LIST_META_CONTEXT, OPT_SET_META_CONTEXT, OPT_STARTTLS, OPT_STRUCTURED_REPLY,
};

const EXTENDED_HEADERS: u32 = 11;
const GREETING: usize = 18;

fn info() -> ExportInfo {
    ExportInfo { description: "a test".into(), ..ExportInfo::new(1 << 20) }
}

fn flags(bits: u32) -> Vec<u8> {
    bits.to_be_bytes().to_vec()
}

/// There is `vol`, and `busy` which somebody else uses.
fn answer(question: Question) -> Answer {
    let find = |name: String| match name.as_str() {
        "vol" => Ok(info()),
        "busy" => Err(OpenError::InUse { by: "10.0.0.7".into() }),
        _ => Err(OpenError::Unknown),
    };
    match question {
        Question::List => Answer::Listed(Ok(vec!["vol".into(), "busy".into()])),
        Question::Describe(name) => Answer::Described(find(name)),
        Question::Open(name) => Answer::Opened(find(name)),
    }
}

/// Runs a handshake on bytes that arrive in pieces of `cut`; the replies and how it ended.
fn run(sent: &[u8], cut: usize) -> (Vec<u8>, String, BytesMut) {
    let mut out = BytesMut::new();
    let mut handshake = Handshake::new(&mut out);
    let mut pieces = sent.chunks(cut);
    let mut step = Step::Receive;
    let mut questions = String::new();
    let end = loop {
        step = match step {
            Step::Receive => match pieces.next() {
                Some(piece) => {
                    handshake.input().extend_from_slice(piece);
                    handshake.step(&mut out)
                }
                None => break "waits".to_owned(),
            },
            Step::Ask(question) => {
                writeln!(questions, "asks {question:?}").unwrap();
                handshake.answer(answer(question), &mut out)
            }
            Step::Close(reason) => break format!("closes: {reason}"),
            Step::Agreed(Agreement { structured, block_status, .. }) => {
                break format!("agreed, structured {structured}, block status {block_status}");
            }
        };
    };
    let mut left = handshake.into_input();
    for piece in pieces {
        left.extend_from_slice(piece);
    }
    (out[GREETING..].to_vec(), questions + &end, left)
}

/// What a client makes of the replies.
fn transcript(mut replies: &[u8]) -> String {
    let mut text = String::new();
    while replies.len() >= 20 && replies.starts_with(&[0, 3, 0xe8, 0x89]) {
        let (option, kind) = ((&replies[8..]).get_u32(), (&replies[12..]).get_u32());
        let length = (&replies[16..]).get_u32() as usize;
        let data = replies[20..20 + length].escape_ascii();
        writeln!(text, "option {option}: {kind:#x} {data}").unwrap();
        replies = &replies[20 + length..];
    }
    if !replies.is_empty() {
        writeln!(text, "{} bytes: {}", replies.len(), replies.escape_ascii()).unwrap();
    }
    text
}

#[track_caller]
fn check(sent: &[Vec<u8>], expected: Expect) {
    let sent = sent.concat();
    let (replies, end, _) = run(&sent, usize::MAX);
    for cut in [1, 7, 33] {
        let pieces = run(&sent, cut);
        assert_eq!((&pieces.0, &pieces.1), (&replies, &end), "in pieces of {cut} bytes");
    }
    expected.assert_eq(&(transcript(&replies) + &end));
}

fn fixed() -> Vec<u8> {
    flags(CLIENT_FIXED_NEWSTYLE | CLIENT_NO_ZEROES)
}

#[test]
fn go() {
    check(
        &[fixed(), encode(OPT_GO, &encode_info("vol", &[1, 2, 3]))],
        expect![[r#"
            option 7: 0x3 \x00\x00\x00\x00\x00\x00\x00\x10\x00\x00\x0cm
            option 7: 0x3 \x00\x03\x00\x00\x00\x01\x00\x00\x10\x00\x02\x00\x00\x00
            option 7: 0x3 \x00\x01vol
            option 7: 0x3 \x00\x02a test
            option 7: 0x1 
            asks Open("vol")
            agreed, structured false, block status false"#]],
    );
}

#[test]
fn info_opens_nothing_and_go_on() {
    check(
        &[
            fixed(),
            encode(OPT_INFO, &encode_info("vol", &[])),
            encode(OPT_INFO, &encode_info("none", &[])),
            encode(OPT_GO, &encode_info("busy", &[])),
        ],
        expect![[r#"
            option 6: 0x3 \x00\x00\x00\x00\x00\x00\x00\x10\x00\x00\x0cm
            option 6: 0x3 \x00\x03\x00\x00\x00\x01\x00\x00\x10\x00\x02\x00\x00\x00
            option 6: 0x1 
            option 6: 0x80000006 no such export
            option 7: 0x80000002 in use by 10.0.0.7
            asks Describe("vol")
            asks Describe("none")
            asks Open("busy")
            waits"#]],
    );
}

#[test]
fn list_and_abort() {
    check(
        &[fixed(), encode(OPT_LIST, b""), encode(OPT_LIST, b"x"), encode(OPT_ABORT, b"bye")],
        expect![[r#"
            option 3: 0x2 \x00\x00\x00\x03vol
            option 3: 0x2 \x00\x00\x00\x04busy
            option 3: 0x1 
            option 3: 0x80000003 the option takes no data
            option 2: 0x1 
            asks List
            closes: the client aborted"#]],
    );
}

#[test]
fn export_name_with_and_without_zeroes() {
    check(
        &[fixed(), encode(OPT_EXPORT_NAME, b"vol")],
        expect![[r#"
            10 bytes: \x00\x00\x00\x00\x00\x10\x00\x00\x0cm
            asks Open("vol")
            agreed, structured false, block status false"#]],
    );
    let (replies, ..) = run(&[flags(0), encode(OPT_EXPORT_NAME, b"vol")].concat(), usize::MAX);
    assert_eq!(replies.len(), 134);
    check(
        &[fixed(), encode(OPT_EXPORT_NAME, b"none")],
        expect![[r#"
            asks Open("none")
            closes: EXPORT_NAME of an export that cannot be had"#]],
    );
}

#[test]
fn contexts_need_structured_replies() {
    check(
        &[fixed(), encode(OPT_SET_META_CONTEXT, &encode_contexts("vol", &["base:allocation"]))],
        expect![[r#"
            option 10: 0x80000003 structured replies come first
            waits"#]],
    );
}

#[test]
fn contexts_are_listed_and_selected() {
    check(
        &[
            fixed(),
            encode(OPT_STRUCTURED_REPLY, b""),
            encode(OPT_LIST_META_CONTEXT, &encode_contexts("vol", &[])),
            encode(OPT_LIST_META_CONTEXT, &encode_contexts("vol", &["qemu:", "base:"])),
            encode(OPT_SET_META_CONTEXT, &encode_contexts("vol", &["base:", "x-a:b"])),
            encode(OPT_SET_META_CONTEXT, &encode_contexts("vol", &["x:y", "base:allocation"])),
            encode(OPT_GO, &encode_info("vol", &[])),
        ],
        expect![[r#"
            option 8: 0x1 
            option 9: 0x4 \x00\x00\x00\x00base:allocation
            option 9: 0x1 
            option 9: 0x4 \x00\x00\x00\x00base:allocation
            option 9: 0x1 
            option 10: 0x1 
            option 10: 0x4 \x00\x00\x00\x01base:allocation
            option 10: 0x1 
            option 7: 0x3 \x00\x00\x00\x00\x00\x00\x00\x10\x00\x00\x0c\xed
            option 7: 0x3 \x00\x03\x00\x00\x00\x01\x00\x00\x10\x00\x02\x00\x00\x00
            option 7: 0x1 
            asks Describe("vol")
            asks Describe("vol")
            asks Describe("vol")
            asks Describe("vol")
            asks Open("vol")
            agreed, structured true, block status true"#]],
    );
}

/// CVE-2021-3716 and the like begin with state that outlives its reason.
#[test]
fn a_failed_or_foreign_selection_leaves_none() {
    let select = |name| encode(OPT_SET_META_CONTEXT, &encode_contexts(name, &["base:allocation"]));
    let structured = encode(OPT_STRUCTURED_REPLY, b"");
    let go = encode(OPT_GO, &encode_info("vol", &[]));
    let cases = [select("none"), select("busy"), encode(OPT_SET_META_CONTEXT, b"?")];
    for last in cases {
        let sent = [fixed(), structured.clone(), select("vol"), last, go.clone()].concat();
        let (_, end, _) = run(&sent, usize::MAX);
        assert!(end.ends_with("agreed, structured true, block status false"), "{end}");
    }
}

/// W28: unknown options dropped modern clients.
#[test]
fn unknown_options_are_refused_and_the_next_is_understood() {
    check(
        &[
            fixed(),
            encode(EXTENDED_HEADERS, b""),
            encode(OPT_STARTTLS, b""),
            encode(4, b"peek"),
            encode(0xffff_ffff, &[0; 1000]),
            encode(OPT_STRUCTURED_REPLY, b"x"),
            encode(OPT_INFO, b"short"),
            encode(99, &vec![0; 20_000]),
            encode(OPT_LIST, &vec![0; 20_000]),
            encode(OPT_ABORT, b""),
        ],
        expect![[r#"
            option 11: 0x80000001 
            option 5: 0x80000002 this server has no TLS
            option 4: 0x80000001 
            option 4294967295: 0x80000001 
            option 8: 0x80000003 the option takes no data
            option 6: 0x80000003 malformed request for an export
            option 99: 0x80000009 the option is too long
            option 3: 0x80000009 the option is too long
            option 2: 0x1 
            closes: the client aborted"#]],
    );
}

/// CVE-2022-26495 and -26496: lengths and names that a server believed.
#[test]
fn hostile_lengths_end_the_handshake() {
    let mut huge = encode(OPT_GO, b"");
    huge[12..].copy_from_slice(&[0xff; 4]);
    let too_much = "closes: more than 64 options, or more than 65536 bytes of them";
    assert_eq!(run(&[fixed(), huge.clone()].concat(), 5).1, too_much);
    huge[12..].copy_from_slice(&[0, 1, 0, 1]);
    assert_eq!(run(&[fixed(), huge].concat(), 5).1, too_much);
    assert_eq!(
        run(&[fixed(), encode(OPT_EXPORT_NAME, &[b'a'; 5000])].concat(), 5).1,
        "closes: EXPORT_NAME with a bad name"
    );
    let many = [fixed(), encode(99, b"").repeat(65)].concat();
    let (replies, end, _) = run(&many, usize::MAX);
    assert_eq!((transcript(&replies).lines().count(), end.as_str()), (64, too_much));
}

#[test]
fn what_is_no_handshake_ends_it() {
    check(&[flags(1 << 31)], expect!["closes: unknown client flags 0x80000000"]);
    check(
        &[fixed(), b"GET / HTTP/1.1\r\n".to_vec()],
        expect!["closes: an option without its magic"],
    );
}

#[test]
fn what_the_client_sends_ahead_is_kept() {
    let ahead = b"the first request".to_vec();
    let sent = [fixed(), encode(OPT_EXPORT_NAME, b"vol"), ahead.clone()].concat();
    for cut in [1, 50, usize::MAX] {
        assert_eq!(run(&sent, cut).2, ahead, "in pieces of {cut} bytes");
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        run(&bytes, 50);
    }

    /// Options with a true frame and random insides reach every decoder.
    #[test]
    fn random_options_are_all_answered(
        options in prop::collection::vec((0u32..13, prop::collection::vec(any::<u8>(), 0..40)), 0..20),
    ) {
        let options: Vec<_> = options.into_iter().filter(|(option, _)| {
            ![OPT_EXPORT_NAME, OPT_ABORT].contains(option)
        }).collect();
        let mut sent = fixed();
        options.iter().for_each(|(option, data)| sent.extend(encode(*option, data)));
        let (replies, end, _) = run(&sent, usize::MAX);
        let text = transcript(&replies);
        let answered = text.lines().filter(|line| line.contains(": 0x1 ") || line.contains(": 0x8"));
        prop_assert!(end.ends_with("waits") || end.contains("agreed"), "{}", end);
        prop_assert!(answered.count() <= options.len());
        if end.ends_with("waits") {
            prop_assert!(text.lines().count() >= options.len());
        }
    }
}
