//! Decides what a request means for an export, or which error it gets.
//!
//! Pure. What passes lies within the export, is aligned, is allowed, and carries only flags that
//! its command has.

use crate::wire::request::{
    CMD_BLOCK_STATUS, CMD_CACHE, CMD_DISC, CMD_FLUSH, CMD_READ, CMD_TRIM, CMD_WRITE,
    CMD_WRITE_ZEROES, FLAG_DF, FLAG_FAST_ZERO, FLAG_FUA, FLAG_NO_HOLE, FLAG_REQ_ONE, RequestHead,
};
use crate::{Errno, ExportInfo};

/// The longest payload of a request, in bytes. The protocol forbids to call less than this hostile.
pub(crate) const MAX_PAYLOAD: u32 = 32 << 20;

/// What holds for every request of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    pub(crate) size: u64,
    pub(crate) read_only: bool,
    pub(crate) min_block: u32,
    pub(crate) max_payload: u32,
    pub(crate) structured: bool,
    pub(crate) block_status: bool,
}

impl Terms {
    pub(crate) fn new(info: &ExportInfo, structured: bool, block_status: bool) -> Self {
        Self {
            size: info.size,
            read_only: info.read_only,
            min_block: info.min_block.max(1),
            max_payload: info.max_block.min(MAX_PAYLOAD),
            structured,
            block_status,
        }
    }
}

/// What a client wants, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// `whole`: in one chunk, holes as zeroes.
    Read {
        offset: u64,
        length: u32,
        whole: bool,
    },
    /// The payload follows.
    Write {
        offset: u64,
        length: u32,
        fua: bool,
    },
    Flush,
    Trim {
        offset: u64,
        length: u32,
        fua: bool,
    },
    Cache {
        offset: u64,
        length: u32,
    },
    /// `fast`: only if that is faster than a write.
    WriteZeroes {
        offset: u64,
        length: u32,
        fua: bool,
        no_hole: bool,
        fast: bool,
    },
    BlockStatus {
        offset: u64,
        length: u32,
        only_one: bool,
    },
    /// Nothing to do, and that succeeds: a length of 0.
    Nothing,
    Disconnect,
}

/// Checks a request (sections "Request types", "Error values", "Size constraints").
pub(crate) fn check(head: &RequestHead, terms: &Terms) -> Result<Command, Errno> {
    let RequestHead { flags, command, offset, length, .. } = *head;
    if command == CMD_DISC {
        return Ok(Command::Disconnect);
    }
    if flags & !allowed_flags(command, terms).ok_or(Errno::Invalid)? != 0 {
        return Err(Errno::Invalid);
    }
    let writes = matches!(command, CMD_WRITE | CMD_TRIM | CMD_WRITE_ZEROES);
    if writes && terms.read_only {
        return Err(Errno::NotPermitted);
    }
    if command == CMD_FLUSH {
        return if offset == 0 && length == 0 { Ok(Command::Flush) } else { Err(Errno::Invalid) };
    }
    if command == CMD_WRITE && length > terms.max_payload {
        return Err(Errno::Invalid);
    }
    let within = offset.checked_add(u64::from(length)).is_some_and(|end| end <= terms.size);
    if !within {
        let grows = matches!(command, CMD_WRITE | CMD_WRITE_ZEROES);
        return Err(if grows { Errno::NoSpace } else { Errno::Invalid });
    }
    if command == CMD_READ && length > terms.max_payload {
        // Section "NBD_CMD_READ": with structured replies a client may retry with less.
        return Err(if terms.structured { Errno::Overflow } else { Errno::Invalid });
    }
    let block = u64::from(terms.min_block);
    if offset % block != 0 || u64::from(length) % block != 0 {
        return Err(Errno::Invalid);
    }
    if command == CMD_BLOCK_STATUS && (length == 0 || !terms.block_status) {
        return Err(Errno::Invalid);
    }
    Ok(parse(head))
}

/// The command of a checked request that is neither a flush nor a disconnect.
fn parse(head: &RequestHead) -> Command {
    let RequestHead { flags, command, offset, length, .. } = *head;
    let fua = flags & FLAG_FUA != 0;
    match command {
        _ if length == 0 => Command::Nothing,
        CMD_READ => Command::Read { offset, length, whole: flags & FLAG_DF != 0 },
        CMD_WRITE => Command::Write { offset, length, fua },
        CMD_TRIM => Command::Trim { offset, length, fua },
        CMD_CACHE => Command::Cache { offset, length },
        CMD_WRITE_ZEROES => Command::WriteZeroes {
            offset,
            length,
            fua,
            no_hole: flags & FLAG_NO_HOLE != 0,
            fast: flags & FLAG_FAST_ZERO != 0,
        },
        CMD_BLOCK_STATUS => {
            Command::BlockStatus { offset, length, only_one: flags & FLAG_REQ_ONE != 0 }
        }
        _ => unreachable!("command {command} passed the check of its flags"),
    }
}

/// `None` if there is no such command. Every command may carry FUA (section "Command flags").
fn allowed_flags(command: u16, terms: &Terms) -> Option<u16> {
    Some(match command {
        CMD_READ if terms.structured => FLAG_FUA | FLAG_DF,
        CMD_READ | CMD_WRITE | CMD_FLUSH | CMD_TRIM | CMD_CACHE => FLAG_FUA,
        CMD_WRITE_ZEROES => FLAG_FUA | FLAG_NO_HOLE | FLAG_FAST_ZERO,
        CMD_BLOCK_STATUS => FLAG_FUA | FLAG_REQ_ONE,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    const SIZE: u64 = 1 << 20;

    fn terms() -> Terms {
        Terms::new(&ExportInfo { min_block: 512, ..ExportInfo::new(SIZE) }, true, true)
    }

    #[track_caller]
    fn check_one(terms: &Terms, (command, flags, offset, length): (u16, u16, u64, u32), e: Expect) {
        let head = RequestHead { flags, command, cookie: 0, offset, length };
        e.assert_eq(&match check(&head, terms) {
            Ok(command) => format!("{command:?}"),
            Err(errno) => format!("{errno}"),
        });
    }

    #[test]
    fn past_the_end() {
        let terms = terms();
        check_one(&terms, (CMD_READ, 0, SIZE - 512, 1024), expect!["invalid request"]);
        check_one(&terms, (CMD_WRITE, 0, SIZE - 512, 1024), expect!["no space left"]);
        check_one(&terms, (CMD_WRITE_ZEROES, 0, SIZE, 512), expect!["no space left"]);
        check_one(&terms, (CMD_TRIM, 0, u64::MAX - 511, 1024), expect!["invalid request"]);
        check_one(&terms, (CMD_BLOCK_STATUS, 0, 0, u32::MAX), expect!["invalid request"]);
        check_one(
            &terms,
            (CMD_READ, FLAG_DF, SIZE - 512, 512),
            expect!["Read { offset: 1048064, length: 512, whole: true }"],
        );
    }

    #[test]
    fn payloads_have_a_limit() {
        let big = Terms { size: 1 << 40, ..terms() };
        check_one(&big, (CMD_WRITE, 0, 0, MAX_PAYLOAD + 512), expect!["invalid request"]);
        check_one(&big, (CMD_READ, 0, 0, MAX_PAYLOAD + 512), expect!["request too large"]);
        let simple = Terms { structured: false, ..big.clone() };
        check_one(&simple, (CMD_READ, 0, 0, MAX_PAYLOAD + 512), expect!["invalid request"]);
        check_one(
            &big,
            (CMD_TRIM, 0, 0, u32::MAX - 511),
            expect!["Trim { offset: 0, length: 4294966784, fua: false }"],
        );
    }

    #[test]
    fn alignment() {
        check_one(&terms(), (CMD_READ, 0, 1, 512), expect!["invalid request"]);
        check_one(&terms(), (CMD_WRITE, 0, 512, 511), expect!["invalid request"]);
    }

    #[test]
    fn a_read_only_export_refuses_to_change() {
        let terms = Terms { read_only: true, ..terms() };
        for command in [CMD_WRITE, CMD_TRIM, CMD_WRITE_ZEROES] {
            check_one(&terms, (command, 0, 0, 512), expect!["operation not permitted"]);
        }
        check_one(&terms, (CMD_FLUSH, 0, 0, 0), expect!["Flush"]);
    }

    #[test]
    fn flags_belong_to_commands() {
        check_one(&terms(), (CMD_READ, FLAG_NO_HOLE, 0, 512), expect!["invalid request"]);
        check_one(&terms(), (CMD_WRITE, 1 << 15, 0, 512), expect!["invalid request"]);
        check_one(&terms(), (CMD_CACHE, FLAG_DF, 0, 512), expect!["invalid request"]);
        check_one(&terms(), (CMD_FLUSH, FLAG_FUA, 0, 0), expect!["Flush"]);
        let simple = Terms { structured: false, ..terms() };
        check_one(&simple, (CMD_READ, FLAG_DF, 0, 512), expect!["invalid request"]);
        check_one(
            &terms(),
            (CMD_WRITE_ZEROES, FLAG_FUA | FLAG_NO_HOLE | FLAG_FAST_ZERO, 512, 512),
            expect![
                "WriteZeroes { offset: 512, length: 512, fua: true, no_hole: true, fast: true }"
            ],
        );
    }

    #[test]
    fn odd_requests() {
        check_one(&terms(), (99, 0, 0, 0), expect!["invalid request"]);
        check_one(&terms(), (CMD_FLUSH, 0, 512, 512), expect!["invalid request"]);
        check_one(&terms(), (CMD_READ, 0, 512, 0), expect!["Nothing"]);
        check_one(&terms(), (CMD_WRITE, 0, SIZE, 0), expect!["Nothing"]);
        check_one(&terms(), (CMD_BLOCK_STATUS, 0, 0, 0), expect!["invalid request"]);
        check_one(&terms(), (CMD_DISC, 7, 7, 7), expect!["Disconnect"]);
        let unselected = Terms { block_status: false, ..terms() };
        check_one(&unselected, (CMD_BLOCK_STATUS, 0, 0, 512), expect!["invalid request"]);
    }

    proptest! {
        #[test]
        fn what_passes_lies_within(flags: u16, command in 0u16..9, offset: u64, length: u32) {
            let head = RequestHead { flags, command, cookie: 0, offset, length };
            if let Ok(Command::Read { offset, length, .. } | Command::Write { offset, length, .. }
                | Command::Trim { offset, length, .. } | Command::WriteZeroes { offset, length, .. })
                = check(&head, &terms())
            {
                prop_assert!(offset + u64::from(length) <= SIZE && length > 0);
            }
        }
    }
}
