//! The handshake: greeting, options and their replies (sections "Newstyle negotiation" and on).
//!
//! The server's greeting, 18 bytes: `NBDMAGIC`, `IHAVEOPT`, u16 handshake flags. The client answers
//! with u32 client flags, then sends options:
//!
//! | offset | size | field  | meaning                               |
//! |-------:|-----:|--------|---------------------------------------|
//! |      0 |    8 | magic  | `IHAVEOPT`                            |
//! |      8 |    4 | option | [`OPT_EXPORT_NAME`] and its siblings  |
//! |     12 |    4 | length | of the data that follow               |
//!
//! and gets replies:
//!
//! | offset | size | field  | meaning                               |
//! |-------:|-----:|--------|---------------------------------------|
//! |      0 |    8 | magic  | 0x0003e889045565a9                    |
//! |      8 |    4 | option | which it answers                      |
//! |     12 |    4 | type   | [`Reply`]                             |
//! |     16 |    4 | length | of the data that follow               |

use bytes::{Buf, BufMut, BytesMut};

use crate::{ExportInfo, TransmissionFlags};

const NBDMAGIC: u64 = 0x4e42_444d_4147_4943;
const IHAVEOPT: u64 = 0x4948_4156_454f_5054;
const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;

const FIXED_NEWSTYLE: u16 = 1 << 0;
const NO_ZEROES: u16 = 1 << 1;

pub(crate) const CLIENT_FIXED_NEWSTYLE: u32 = 1 << 0;
pub(crate) const CLIENT_NO_ZEROES: u32 = 1 << 1;

pub(crate) const OPT_EXPORT_NAME: u32 = 1;
pub(crate) const OPT_ABORT: u32 = 2;
pub(crate) const OPT_LIST: u32 = 3;
pub(crate) const OPT_STARTTLS: u32 = 5;
pub(crate) const OPT_INFO: u32 = 6;
pub(crate) const OPT_GO: u32 = 7;
pub(crate) const OPT_STRUCTURED_REPLY: u32 = 8;
pub(crate) const OPT_LIST_META_CONTEXT: u32 = 9;
pub(crate) const OPT_SET_META_CONTEXT: u32 = 10;

const INFO_EXPORT: u16 = 0;
const INFO_NAME: u16 = 1;
const INFO_DESCRIPTION: u16 = 2;
const INFO_BLOCK_SIZE: u16 = 3;

/// The type of a reply to an option (section "Option reply types").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Reply {
    Ack = 1,
    Server = 2,
    Info = 3,
    MetaContext = 4,
    Unsupported = ERROR | 1,
    Policy = ERROR | 2,
    Invalid = ERROR | 3,
    Unknown = ERROR | 6,
    Shutdown = ERROR | 7,
    TooBig = ERROR | 9,
}

const ERROR: u32 = 1 << 31;

/// Size of the client flags, in bytes.
pub(crate) const CLIENT_FLAGS_LEN: usize = 4;
/// Size of the head of an option, in bytes.
pub(crate) const OPTION_HEAD_LEN: usize = 16;
/// The longest string that the protocol allows, in bytes.
pub(crate) const MAX_STRING: usize = 4096;

/// What the server says first.
pub(crate) fn greeting(out: &mut BytesMut) {
    out.put_u64(NBDMAGIC);
    out.put_u64(IHAVEOPT);
    out.put_u16(FIXED_NEWSTYLE | NO_ZEROES);
}

/// The head of an option: its number and the length of its data.
pub(crate) fn decode_head(bytes: &[u8; OPTION_HEAD_LEN]) -> Option<(u32, u32)> {
    let mut bytes = bytes.as_slice();
    (bytes.get_u64() == IHAVEOPT).then(|| (bytes.get_u32(), bytes.get_u32()))
}

/// A reply to an option. `data` is what we wrote ourselves, far below 4 GiB.
pub(crate) fn reply(out: &mut BytesMut, option: u32, kind: Reply, data: &[u8]) {
    out.put_u64(REPLY_MAGIC);
    out.put_u32(option);
    out.put_u32(kind as u32);
    put_length(out, data.len());
    out.put_slice(data);
}

fn put_length(out: &mut BytesMut, length: usize) {
    debug_assert!(u32::try_from(length).is_ok(), "{length} bytes in a reply");
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
}

/// One name in the answer to a list.
pub(crate) fn server(out: &mut BytesMut, option: u32, name: &str) {
    let mut data = BytesMut::with_capacity(4 + name.len());
    put_length(&mut data, name.len());
    data.put_slice(name.as_bytes());
    reply(out, option, Reply::Server, &data);
}

/// The answer to `EXPORT_NAME`, which has no head.
pub(crate) fn export_name(
    out: &mut BytesMut,
    info: &ExportInfo,
    flags: TransmissionFlags,
    zeroes: bool,
) {
    out.put_u64(info.size);
    out.put_u16(flags.bits());
    if zeroes {
        out.put_bytes(0, 124);
    }
}

/// The answers to `INFO` and `GO` before the final one: what a client must know, and what it asked.
pub(crate) fn infos(
    out: &mut BytesMut,
    option: u32,
    request: &InfoRequest,
    info: &ExportInfo,
    flags: TransmissionFlags,
) {
    let mut data = BytesMut::new();
    data.put_u16(INFO_EXPORT);
    data.put_u64(info.size);
    data.put_u16(flags.bits());
    reply(out, option, Reply::Info, &data);

    // Sent without being asked, since a client that knows the sizes is faster.
    data.clear();
    data.put_u16(INFO_BLOCK_SIZE);
    data.put_u32(info.min_block);
    data.put_u32(info.preferred_block);
    data.put_u32(info.max_block);
    reply(out, option, Reply::Info, &data);

    if request.asks(INFO_NAME) {
        data.clear();
        data.put_u16(INFO_NAME);
        data.put_slice(request.name.as_bytes());
        reply(out, option, Reply::Info, &data);
    }
    if request.asks(INFO_DESCRIPTION) && !info.description.is_empty() {
        data.clear();
        data.put_u16(INFO_DESCRIPTION);
        data.put_slice(info.description.as_bytes());
        reply(out, option, Reply::Info, &data);
    }
}

/// A metadata context in the answer to a list or a selection.
pub(crate) fn meta_context(out: &mut BytesMut, option: u32, id: u32, name: &str) {
    let mut data = BytesMut::with_capacity(4 + name.len());
    data.put_u32(id);
    data.put_slice(name.as_bytes());
    reply(out, option, Reply::MetaContext, &data);
}

/// The data of an option are not what the option takes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// The data of `INFO` and `GO`: u32 length, name, u16 count, u16 each information wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InfoRequest {
    pub(crate) name: String,
    wanted: Vec<u16>,
}

impl InfoRequest {
    pub(crate) fn decode(mut data: &[u8]) -> Result<Self, Malformed> {
        let name = string(&mut data)?;
        let count = data.try_get_u16().map_err(|_| Malformed)?;
        if data.len() != 2 * usize::from(count) {
            return Err(Malformed);
        }
        let wanted = data.chunks_exact(2).map(|mut item| item.get_u16()).collect();
        Ok(Self { name, wanted })
    }

    fn asks(&self, information: u16) -> bool {
        self.wanted.contains(&information)
    }
}

/// The data of the two options on metadata contexts: u32 length, name, u32 count, then for each
/// query u32 length and the query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ContextRequest {
    pub(crate) name: String,
    pub(crate) queries: Vec<String>,
}

impl ContextRequest {
    pub(crate) fn decode(mut data: &[u8]) -> Result<Self, Malformed> {
        let name = string(&mut data)?;
        let count = data.try_get_u32().map_err(|_| Malformed)?;
        let mut queries = Vec::new();
        // The count is the client's word; the data run out first if it lies.
        for _ in 0..count {
            queries.push(string(&mut data)?);
        }
        if data.is_empty() { Ok(Self { name, queries }) } else { Err(Malformed) }
    }
}

fn string(data: &mut &[u8]) -> Result<String, Malformed> {
    let length = data.try_get_u32().map_err(|_| Malformed)?;
    let length = usize::try_from(length).map_err(|_| Malformed)?;
    if length > MAX_STRING {
        return Err(Malformed);
    }
    let (text, rest) = data.split_at_checked(length).ok_or(Malformed)?;
    *data = rest;
    name(text)
}

/// A string of the protocol: UTF-8 without NUL.
pub(crate) fn name(bytes: &[u8]) -> Result<String, Malformed> {
    match std::str::from_utf8(bytes) {
        Ok(text) if bytes.len() <= MAX_STRING && !bytes.contains(&0) => Ok(text.to_owned()),
        _ => Err(Malformed),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An option as a client sends it.
    pub(crate) fn encode(option: u32, data: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.put_u64(IHAVEOPT);
        bytes.put_u32(option);
        bytes.put_u32(u32::try_from(data.len()).unwrap());
        bytes.put_slice(data);
        bytes
    }

    pub(crate) fn encode_info(name: &str, wanted: &[u16]) -> Vec<u8> {
        let mut data = Vec::new();
        data.put_u32(u32::try_from(name.len()).unwrap());
        data.put_slice(name.as_bytes());
        data.put_u16(u16::try_from(wanted.len()).unwrap());
        wanted.iter().for_each(|item| data.put_u16(*item));
        data
    }

    pub(crate) fn encode_contexts(name: &str, queries: &[&str]) -> Vec<u8> {
        let mut data = Vec::new();
        data.put_u32(u32::try_from(name.len()).unwrap());
        data.put_slice(name.as_bytes());
        data.put_u32(u32::try_from(queries.len()).unwrap());
        for query in queries {
            data.put_u32(u32::try_from(query.len()).unwrap());
            data.put_slice(query.as_bytes());
        }
        data
    }

    #[test]
    #[rustfmt::skip]
    fn golden_bytes() {
        let mut out = BytesMut::new();
        greeting(&mut out);
        assert_eq!(&out[..], b"NBDMAGICIHAVEOPT\x00\x03");

        out.clear();
        server(&mut out, OPT_LIST, "vol");
        assert_eq!(&out[..], [
            0, 3, 0xe8, 0x89, 4, 0x55, 0x65, 0xa9,  0, 0, 0, 3,  0, 0, 0, 2,  0, 0, 0, 7,
            0, 0, 0, 3,  b'v', b'o', b'l',
        ]);

        out.clear();
        reply(&mut out, 99, Reply::Unsupported, b"");
        assert_eq!(&out[..], [
            0, 3, 0xe8, 0x89, 4, 0x55, 0x65, 0xa9,  0, 0, 0, 99,  0x80, 0, 0, 1,  0, 0, 0, 0,
        ]);

        out.clear();
        let info = ExportInfo::new(0x10_0000);
        let request = InfoRequest { name: String::new(), wanted: Vec::new() };
        infos(&mut out, OPT_GO, &request, &info, TransmissionFlags::new(&info, false));
        assert_eq!(&out[..32], [
            0, 3, 0xe8, 0x89, 4, 0x55, 0x65, 0xa9,  0, 0, 0, 7,  0, 0, 0, 3,  0, 0, 0, 12,
            0, 0,  0, 0, 0, 0, 0, 0x10, 0, 0,  0x0c, 0x6d,
        ]);
        assert_eq!(&out[48..], [0, 0, 0, 14,  0, 3,  0, 0, 0, 1,  0, 0, 0x10, 0,  2, 0, 0, 0]);
    }

    #[test]
    fn requests_round_trip_and_no_shorter_or_longer_one_passes() {
        let info = encode_info("vol", &[0, 3]);
        assert_eq!(
            InfoRequest::decode(&info),
            Ok(InfoRequest { name: "vol".into(), wanted: vec![0, 3] })
        );
        let contexts = encode_contexts("vol", &["base:", "x:y"]);
        assert_eq!(
            ContextRequest::decode(&contexts),
            Ok(ContextRequest { name: "vol".into(), queries: vec!["base:".into(), "x:y".into()] })
        );
        for cut in 0..info.len() {
            assert_eq!(InfoRequest::decode(&info[..cut]), Err(Malformed), "cut at {cut}");
        }
        for cut in 0..contexts.len() {
            assert_eq!(ContextRequest::decode(&contexts[..cut]), Err(Malformed), "cut at {cut}");
        }
        assert_eq!(InfoRequest::decode(&[info, vec![0]].concat()), Err(Malformed));
        assert_eq!(ContextRequest::decode(&[contexts, vec![0]].concat()), Err(Malformed));
    }

    #[test]
    fn strings_are_utf8_without_nul() {
        assert_eq!(name(b"a\0b"), Err(Malformed));
        assert_eq!(name(b"\xff"), Err(Malformed));
        assert_eq!(name(&[b'a'; MAX_STRING + 1]), Err(Malformed));
        assert!(name(&[b'a'; MAX_STRING]).is_ok());
    }
}
