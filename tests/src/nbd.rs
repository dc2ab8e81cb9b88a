//! An NBD client of our own, small enough to trust: what a crash test asks of the protocol.
//!
//! Fixed newstyle with `NBD_OPT_GO` and simple replies, one request at a time, so that the order of
//! the requests is also the order of their acknowledgements. Integers on this wire are big-endian.
//! Source: the NBD project's `doc/proto.md`.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

const MAGIC: u64 = 0x4e42_444d_4147_4943;
const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;

const CLIENT_FLAGS: u32 = 0b11; // fixed newstyle, no zeroes
const OPTION_GO: u32 = 7;
const REPLY_ACK: u32 = 1;
const REPLY_INFO: u32 = 3;
const REPLY_ERROR: u32 = 1 << 31;
const INFO_EXPORT: u16 = 0;

const READ: u16 = 0;
const WRITE: u16 = 1;
const DISCONNECT: u16 = 2;
const FLUSH: u16 = 3;
const TRIM: u16 = 4;
const WRITE_ZEROES: u16 = 6;
const FUA: u16 = 1; // a flag of requests

const IS_READ_ONLY: u16 = 1 << 1; // a flag of exports

/// How long a server that may be just starting has for each part of the greeting.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a reply may take before the connection counts as dead.
const REPLY_TIMEOUT: Duration = Duration::from_secs(60);

/// A connection to one export.
#[derive(Debug)]
pub struct NbdClient {
    stream: TcpStream,
    size: u64,
    flags: u16,
    cookie: u64,
}

impl NbdClient {
    /// Opens `export` of the server at `127.0.0.1:port`.
    pub fn connect(port: u16, export: &str) -> io::Result<Self> {
        Self::greet(TcpStream::connect(("127.0.0.1", port))?, export, REPLY_TIMEOUT)
    }

    /// As [`connect`](Self::connect), but a server that is still starting, or ending, is not waited
    /// for.
    pub(crate) fn probe(port: u16, export: &str) -> io::Result<Self> {
        Self::greet(TcpStream::connect(("127.0.0.1", port))?, export, PROBE_TIMEOUT)
    }

    fn greet(mut stream: TcpStream, export: &str, patience: Duration) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        expect(u64::from_be_bytes(take(&mut stream)?), MAGIC, "magic")?;
        expect(u64::from_be_bytes(take(&mut stream)?), OPTION_MAGIC, "option magic")?;
        take::<2>(&mut stream)?;

        let name = export.as_bytes();
        let name_len = u32::try_from(name.len()).map_err(io::Error::other)?;
        let mut hello = CLIENT_FLAGS.to_be_bytes().to_vec();
        hello.extend(OPTION_MAGIC.to_be_bytes());
        hello.extend(OPTION_GO.to_be_bytes());
        hello.extend((name_len + 6).to_be_bytes());
        hello.extend(name_len.to_be_bytes());
        hello.extend(name);
        hello.extend(0u16.to_be_bytes()); // no information asked for by name
        stream.write_all(&hello)?;

        let mut export = None;
        loop {
            expect(u64::from_be_bytes(take(&mut stream)?), OPTION_REPLY_MAGIC, "reply magic")?;
            take::<4>(&mut stream)?;
            let kind = u32::from_be_bytes(take(&mut stream)?);
            let len = u32::from_be_bytes(take(&mut stream)?);
            let mut payload = vec![0; len as usize];
            stream.read_exact(&mut payload)?;
            match kind {
                REPLY_ACK => break,
                REPLY_INFO => export = export_info(&payload).or(export),
                error if error & REPLY_ERROR != 0 => {
                    let text = String::from_utf8_lossy(&payload);
                    return Err(io::Error::other(format!("refused ({error:#x}): {text}")));
                }
                other => return Err(io::Error::other(format!("option reply {other:#x}"))),
            }
        }
        let export = export.ok_or_else(|| io::Error::other("the server named no size"))?;
        let (size, flags) = export;
        Ok(Self { stream, size, flags, cookie: 0 })
    }

    /// Bytes in the export.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether the server takes no writes.
    pub fn is_read_only(&self) -> bool {
        self.flags & IS_READ_ONLY != 0
    }

    pub fn read(&mut self, offset: u64, len: u32) -> io::Result<Vec<u8>> {
        self.request(READ, offset, len, &[])?;
        let mut data = vec![0; len as usize];
        self.stream.read_exact(&mut data)?;
        Ok(data)
    }

    pub fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        let len = u32::try_from(data.len()).map_err(io::Error::other)?;
        self.request(WRITE, offset, len, data)
    }

    /// Writes with FUA: it is durable once it is acknowledged.
    pub fn write_through(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        let len = u32::try_from(data.len()).map_err(io::Error::other)?;
        self.send(FUA, WRITE, offset, len, data)?;
        self.reply()
    }

    pub fn flush(&mut self) -> io::Result<()> {
        self.request(FLUSH, 0, 0, &[])
    }

    pub fn trim(&mut self, offset: u64, len: u32) -> io::Result<()> {
        self.request(TRIM, offset, len, &[])
    }

    pub fn write_zeroes(&mut self, offset: u64, len: u32) -> io::Result<()> {
        self.request(WRITE_ZEROES, offset, len, &[])
    }

    /// Sends one request and awaits its reply; an error number becomes an error.
    fn request(&mut self, kind: u16, offset: u64, len: u32, data: &[u8]) -> io::Result<()> {
        self.send(0, kind, offset, len, data)?;
        self.reply()
    }

    fn reply(&mut self) -> io::Result<()> {
        expect(u32::from_be_bytes(take(&mut self.stream)?), REPLY_MAGIC, "reply magic")?;
        let error = u32::from_be_bytes(take(&mut self.stream)?);
        expect(u64::from_be_bytes(take(&mut self.stream)?), self.cookie, "cookie")?;
        match i32::try_from(error) {
            Ok(0) => Ok(()),
            Ok(number) => Err(io::Error::from_raw_os_error(number)),
            Err(err) => Err(io::Error::other(err)),
        }
    }

    fn send(
        &mut self,
        flags: u16,
        kind: u16,
        offset: u64,
        len: u32,
        data: &[u8],
    ) -> io::Result<()> {
        self.cookie += 1;
        let mut request = REQUEST_MAGIC.to_be_bytes().to_vec();
        request.extend(flags.to_be_bytes());
        request.extend(kind.to_be_bytes());
        request.extend(self.cookie.to_be_bytes());
        request.extend(offset.to_be_bytes());
        request.extend(len.to_be_bytes());
        request.extend(data);
        self.stream.write_all(&request)
    }
}

impl Drop for NbdClient {
    fn drop(&mut self) {
        // A courtesy to a server that may be dead: nothing depends on it.
        let _sent = self.send(0, DISCONNECT, 0, 0, &[]);
        let _closed = self.stream.shutdown(Shutdown::Both);
    }
}

/// The size and the flags of the export.
fn export_info(payload: &[u8]) -> Option<(u64, u16)> {
    let (kind, rest) = payload.split_first_chunk()?;
    let (size, rest) = rest.split_first_chunk()?;
    let (flags, _) = rest.split_first_chunk()?;
    let is_export = u16::from_be_bytes(*kind) == INFO_EXPORT;
    is_export.then(|| (u64::from_be_bytes(*size), u16::from_be_bytes(*flags)))
}

fn take<const N: usize>(stream: &mut TcpStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn expect<T: PartialEq + std::fmt::LowerHex>(found: T, expected: T, what: &str) -> io::Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(io::Error::other(format!("{what} is {found:#x}, expected {expected:#x}")))
}
