//! The handshake of one connection: fixed newstyle, from the greeting to the chosen export.
//!
//! Pure: bytes and answers in, replies and a [`Step`] out; no clock, no socket, no export.
//! [`negotiate`](crate::negotiate) reads, writes and asks.
//!
//! Invariants: an export is opened by `GO` and `EXPORT_NAME` only; every option but the last is
//! answered and the next one understood, whatever its number; no more than [`MAX_OPTIONS`] options
//! of [`MAX_BYTES`] in all are listened to, and no more than [`MAX_OPTION`] of one is kept.

#[cfg(test)]
mod tests;

use bytes::{Buf, Bytes, BytesMut};

use crate::wire::option::{self, ContextRequest, InfoRequest, Malformed, Reply};
use crate::wire::reply::ALLOCATION_CONTEXT;
use crate::{ExportInfo, OpenError, TransmissionFlags};

/// Options that a client may send.
pub(crate) const MAX_OPTIONS: u32 = 64;
/// Bytes of option data that a client may send, in all.
pub(crate) const MAX_BYTES: u32 = 64 * 1024;
/// The longest option that is understood: a name, and queries for metadata contexts.
pub(crate) const MAX_OPTION: u32 = 16 * 1024;

const ALLOCATION: &str = "base:allocation";
const BASE_WILDCARD: &str = "base:";

/// What the driver does next. Replies so far are in its buffer and go out first.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Receive more bytes.
    Receive,
    /// Ask the exports and bring the answer.
    Ask(Question),
    /// The handshake is done; what is left of the input belongs to the transmission.
    Agreed(Agreement),
    /// Close the connection.
    Close(Close),
}

/// What only the exports know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    List,
    Describe(String),
    Open(String),
}

/// The answer to a [`Question`], in the same order.
#[derive(Debug)]
pub(crate) enum Answer {
    Listed(Result<Vec<String>, OpenError>),
    Described(Result<ExportInfo, OpenError>),
    Opened(Result<ExportInfo, OpenError>),
}

/// What both sides hold to in the transmission.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Agreement {
    pub(crate) info: ExportInfo,
    pub(crate) structured: bool,
    pub(crate) block_status: bool,
}

/// Why a connection ends in the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Close {
    #[error("the client aborted")]
    Aborted,
    #[error("unknown client flags {0:#x}")]
    ClientFlags(u32),
    #[error("an option without its magic")]
    Magic,
    #[error("more than {MAX_OPTIONS} options, or more than {MAX_BYTES} bytes of them")]
    TooMuch,
    #[error("EXPORT_NAME with a bad name")]
    BadName,
    #[error("EXPORT_NAME of an export that cannot be had")]
    NoExport,
}

#[derive(Debug)]
enum State {
    ClientFlags,
    Head,
    Data { option: u32, length: u32 },
    Skip { left: u32 },
    Asking(Pending),
    Over,
}

/// The option that waits for an answer.
#[derive(Debug)]
enum Pending {
    List,
    ExportName { name: String },
    Info { option: u32, request: InfoRequest },
    Contexts { option: u32, request: ContextRequest },
}

/// One handshake.
#[derive(Debug)]
pub(crate) struct Handshake {
    state: State,
    input: BytesMut,
    options: u32,
    bytes: u32,
    no_zeroes: bool,
    structured: bool,
    /// The export for which `base:allocation` was selected last.
    selected: Option<String>,
}

impl Handshake {
    /// Starts with the greeting.
    pub(crate) fn new(out: &mut BytesMut) -> Self {
        option::greeting(out);
        Self {
            state: State::ClientFlags,
            input: BytesMut::new(),
            options: 0,
            bytes: 0,
            no_zeroes: false,
            structured: false,
            selected: None,
        }
    }

    /// Where received bytes go.
    pub(crate) fn input(&mut self) -> &mut BytesMut {
        &mut self.input
    }

    /// The bytes received after the handshake.
    pub(crate) fn into_input(self) -> BytesMut {
        self.input
    }

    /// Goes on with the bytes received so far.
    pub(crate) fn step(&mut self, out: &mut BytesMut) -> Step {
        loop {
            let progress = match self.state {
                State::ClientFlags => self.client_flags(),
                State::Head => self.head(out),
                State::Data { option, length } => self.data(option, length, out),
                State::Skip { left } => self.skip(left),
                State::Asking(_) | State::Over => Some(Step::Receive),
            };
            if let Some(step) = progress {
                if matches!(step, Step::Close(_) | Step::Agreed(_)) {
                    self.state = State::Over;
                }
                return step;
            }
        }
    }

    fn client_flags(&mut self) -> Option<Step> {
        let Ok(flags) = self.input.as_ref().try_get_u32() else { return Some(Step::Receive) };
        self.input.advance(option::CLIENT_FLAGS_LEN);
        if flags & !(option::CLIENT_FIXED_NEWSTYLE | option::CLIENT_NO_ZEROES) != 0 {
            return Some(Step::Close(Close::ClientFlags(flags)));
        }
        self.no_zeroes = flags & option::CLIENT_NO_ZEROES != 0;
        self.state = State::Head;
        None
    }

    fn head(&mut self, out: &mut BytesMut) -> Option<Step> {
        let Some(head) = self.input.first_chunk() else { return Some(Step::Receive) };
        let Some((option, length)) = option::decode_head(head) else {
            return Some(Step::Close(Close::Magic));
        };
        self.input.advance(option::OPTION_HEAD_LEN);
        self.options += 1;
        self.bytes = self.bytes.saturating_add(length);
        if self.options > MAX_OPTIONS || self.bytes > MAX_BYTES {
            return Some(Step::Close(Close::TooMuch));
        }
        self.state = if length <= MAX_OPTION {
            State::Data { option, length }
        } else if option == option::OPT_EXPORT_NAME {
            return Some(Step::Close(Close::BadName));
        } else {
            option::reply(out, option, Reply::TooBig, b"the option is too long");
            State::Skip { left: length }
        };
        None
    }

    fn skip(&mut self, left: u32) -> Option<Step> {
        let skipped = left.min(u32::try_from(self.input.len()).unwrap_or(u32::MAX));
        self.input.advance(skipped as usize);
        let left = left - skipped;
        self.state = if left == 0 { State::Head } else { State::Skip { left } };
        (left > 0).then_some(Step::Receive)
    }

    fn data(&mut self, option: u32, length: u32, out: &mut BytesMut) -> Option<Step> {
        let length = length as usize;
        if self.input.len() < length {
            return Some(Step::Receive);
        }
        let data = self.input.split_to(length).freeze();
        self.state = State::Head;
        self.option(option, &data, out)
    }

    /// One whole option.
    fn option(&mut self, option: u32, data: &Bytes, out: &mut BytesMut) -> Option<Step> {
        match option {
            option::OPT_EXPORT_NAME => Some(match option::name(data) {
                Ok(name) => {
                    self.ask(Pending::ExportName { name: name.clone() }, Question::Open(name))
                }
                Err(Malformed) => Step::Close(Close::BadName),
            }),
            option::OPT_ABORT => {
                option::reply(out, option, Reply::Ack, b"");
                Some(Step::Close(Close::Aborted))
            }
            option::OPT_LIST if data.is_empty() => Some(self.ask(Pending::List, Question::List)),
            option::OPT_INFO | option::OPT_GO => self.info(option, data, out),
            option::OPT_STRUCTURED_REPLY if data.is_empty() => {
                self.structured = true;
                option::reply(out, option, Reply::Ack, b"");
                None
            }
            option::OPT_LIST_META_CONTEXT | option::OPT_SET_META_CONTEXT => {
                self.contexts(option, data, out)
            }
            // Section "NOTLS mode".
            option::OPT_STARTTLS if data.is_empty() => {
                option::reply(out, option, Reply::Policy, b"this server has no TLS");
                None
            }
            option::OPT_LIST | option::OPT_STRUCTURED_REPLY | option::OPT_STARTTLS => {
                option::reply(out, option, Reply::Invalid, b"the option takes no data");
                None
            }
            _ => {
                option::reply(out, option, Reply::Unsupported, b"");
                None
            }
        }
    }

    fn info(&mut self, option: u32, data: &Bytes, out: &mut BytesMut) -> Option<Step> {
        let Ok(request) = InfoRequest::decode(data) else {
            option::reply(out, option, Reply::Invalid, b"malformed request for an export");
            return None;
        };
        let name = request.name.clone();
        let question =
            if option == option::OPT_GO { Question::Open(name) } else { Question::Describe(name) };
        Some(self.ask(Pending::Info { option, request }, question))
    }

    fn contexts(&mut self, option: u32, data: &Bytes, out: &mut BytesMut) -> Option<Step> {
        if option == option::OPT_SET_META_CONTEXT {
            // Section "Option types": a selection replaces the last one even when it fails.
            self.selected = None;
        }
        let error: &[u8] = match ContextRequest::decode(data) {
            Ok(request) if self.structured => {
                let question = Question::Describe(request.name.clone());
                return Some(self.ask(Pending::Contexts { option, request }, question));
            }
            Ok(_) => b"structured replies come first",
            Err(Malformed) => b"malformed request for metadata contexts",
        };
        option::reply(out, option, Reply::Invalid, error);
        None
    }

    fn ask(&mut self, pending: Pending, question: Question) -> Step {
        self.state = State::Asking(pending);
        Step::Ask(question)
    }

    /// Goes on with the answer to the last question.
    ///
    /// # Panics
    ///
    /// If the driver answers what was not asked.
    pub(crate) fn answer(&mut self, answer: Answer, out: &mut BytesMut) -> Step {
        let State::Asking(pending) = std::mem::replace(&mut self.state, State::Head) else {
            unreachable!("an answer without a question: {answer:?}")
        };
        let step = match (pending, answer) {
            (Pending::List, Answer::Listed(Ok(names))) => {
                names.iter().for_each(|name| option::server(out, option::OPT_LIST, name));
                option::reply(out, option::OPT_LIST, Reply::Ack, b"");
                None
            }
            (Pending::List, Answer::Listed(Err(error))) => refuse(out, option::OPT_LIST, &error),
            (Pending::ExportName { name }, Answer::Opened(Ok(info))) => {
                let flags = TransmissionFlags::new(&info, self.structured);
                option::export_name(out, &info, flags, !self.no_zeroes);
                Some(self.agree(&name, info))
            }
            (Pending::ExportName { .. }, Answer::Opened(Err(_))) => {
                Some(Step::Close(Close::NoExport))
            }
            (
                Pending::Info { option, request },
                Answer::Opened(Ok(info)) | Answer::Described(Ok(info)),
            ) => {
                let flags = TransmissionFlags::new(&info, self.structured);
                option::infos(out, option, &request, &info, flags);
                option::reply(out, option, Reply::Ack, b"");
                (option == option::OPT_GO).then(|| self.agree(&request.name, info))
            }
            (
                Pending::Info { option, .. } | Pending::Contexts { option, .. },
                Answer::Opened(Err(error)) | Answer::Described(Err(error)),
            ) => refuse(out, option, &error),
            (Pending::Contexts { option, request }, Answer::Described(Ok(_))) => {
                self.list_contexts(option, request, out);
                None
            }
            (pending, answer) => unreachable!("{answer:?} answers {pending:?}"),
        };
        match step {
            Some(step) => {
                self.state = State::Over;
                step
            }
            None => self.step(out),
        }
    }

    fn list_contexts(&mut self, option: u32, request: ContextRequest, out: &mut BytesMut) {
        let listing = option == option::OPT_LIST_META_CONTEXT;
        let matches = request
            .queries
            .iter()
            .any(|query| query == ALLOCATION || (listing && query == BASE_WILDCARD))
            || (listing && request.queries.is_empty());
        if matches {
            let id = if listing { 0 } else { ALLOCATION_CONTEXT };
            option::meta_context(out, option, id, ALLOCATION);
        }
        option::reply(out, option, Reply::Ack, b"");
        if matches && !listing {
            self.selected = Some(request.name);
        }
    }

    fn agree(&self, name: &str, info: ExportInfo) -> Step {
        let block_status = self.selected.as_deref() == Some(name);
        Step::Agreed(Agreement { info, structured: self.structured, block_status })
    }
}

fn refuse(out: &mut BytesMut, option: u32, error: &OpenError) -> Option<Step> {
    let kind = match error {
        OpenError::Unknown | OpenError::Failed(_) => Reply::Unknown,
        OpenError::InUse { .. } => Reply::Policy,
        OpenError::ShuttingDown => Reply::Shutdown,
    };
    // A message is a string of the protocol too.
    let text = error.to_string();
    let fits = |end: &usize| text.is_char_boundary(*end);
    let end = (0..=text.len().min(option::MAX_STRING)).rev().find(fits).unwrap_or(0);
    option::reply(out, option, kind, &text.as_bytes()[..end]);
    None
}
