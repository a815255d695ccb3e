//! The handshake as a state machine without I/O: bytes in, bytes out, and what comes next.
//!
//! Fixed newstyle only. Whatever a client sends, at most [`MAX_OPTIONS`] options of bounded length are answered,
//! and the size of an export is that of the moment at which the client goes on with it.

use super::options::{self, Framed, RawOption, put_answer};
use super::wire::{self, answer, export, handshake, info, option};
use bytes::{Buf, BufMut};

/// Options of one connection. A client needs about five; more than this is not a client.
pub const MAX_OPTIONS: u32 = 512;
/// Largest read and largest payload of a write, bytes: what clients assume when they are told nothing.
pub const MAX_REQUEST_BYTES: u32 = 32 << 20;
/// Requests of this size and alignment are the fastest, bytes: a block of the replicas.
pub const PREFERRED_BYTES: u32 = 4096;
/// Zeroes that end the answer to `EXPORT_NAME`, unless both sides leave them out.
const PADDING: [u8; 124] = [0; 124];

/// What a client is told about an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportInfo {
    /// Canonical name.
    pub name: String,
    /// Words for people; may be empty.
    pub description: String,
    /// Size in bytes now.
    pub size_bytes: u64,
    /// Requests must be multiples of it; 1 if they need not be aligned.
    pub block_bytes: u32,
    /// Writes are refused.
    pub read_only: bool,
    /// Zeroing is much faster than writing zeroes.
    pub fast_zero: bool,
}

/// What a server has to offer.
pub trait Exports: Send + Sync {
    /// Names for `LIST`.
    fn names(&self) -> Vec<String>;
    /// The export of that name; the empty name asks for the default one.
    fn info(&self, name: &str) -> Option<ExportInfo>;
}

/// Whether connections are encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsState {
    /// This server has no TLS.
    Off,
    /// Nothing but `STARTTLS` is answered.
    Required,
    /// It is.
    Established,
}

/// What both sides agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The export, as the client knows it.
    pub export: ExportInfo,
    /// Replies come in chunks.
    pub structured: bool,
    /// `BLOCK_STATUS` may be asked for allocation.
    pub allocation: bool,
}

/// Why a connection is closed in the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    /// The client said goodbye.
    #[error("the client aborted")]
    Aborted,
    /// Flags that we do not know.
    #[error("unknown client flags")]
    Flags,
    /// Something else than an option.
    #[error("not an NBD option")]
    NotAnOption,
    /// An option longer than we take.
    #[error("an option is too long")]
    TooLong,
    /// More than [`MAX_OPTIONS`].
    #[error("too many options")]
    TooMany,
    /// `EXPORT_NAME` for what does not exist or cannot be had this way: the protocol has no other answer.
    #[error("no such export, or not without TLS")]
    NoExport,
    /// Bytes that came before TLS was agreed on: they could be an attacker's.
    #[error("data after STARTTLS outside of TLS")]
    Injected,
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// More bytes are needed.
    More,
    /// TLS is to be started; then goes on with [`Negotiation::secured`].
    Tls,
    /// Transmission begins.
    Transmit(Session),
    /// The connection is to be closed.
    Close(Closed),
}

/// The handshake of one connection.
#[derive(Debug)]
pub struct Negotiation {
    tls: TlsState,
    flags: Option<u32>,
    structured: bool,
    /// Canonical name of the export whose allocation was asked for.
    allocation_of: Option<String>,
    answered: u32,
}

impl Negotiation {
    /// The greeting goes out first.
    pub fn new(tls: TlsState, out: &mut Vec<u8>) -> Self {
        out.put_u64(wire::GREETING);
        out.put_u64(wire::OPTION_MAGIC);
        out.put_u16(handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES);
        Self {
            tls,
            flags: None,
            structured: false,
            allocation_of: None,
            answered: 0,
        }
    }

    /// TLS stands: what was agreed on before is forgotten.
    pub fn secured(&mut self) {
        self.tls = TlsState::Established;
        self.structured = false;
        self.allocation_of = None;
    }

    /// Takes what it can from the front of `input`, answers into `out`, and says how much it took.
    pub fn step(&mut self, input: &[u8], exports: &dyn Exports, out: &mut Vec<u8>) -> (usize, Next) {
        let mut taken = 0;
        if self.flags.is_none() {
            let Ok(flags) = (&input[..]).try_get_u32() else {
                return (0, Next::More);
            };
            taken = 4;
            self.flags = Some(flags);
            if flags & !u32::from(handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES) != 0 {
                return (taken, Next::Close(Closed::Flags));
            }
        }
        loop {
            match options::frame(&input[taken..]) {
                Framed::Incomplete => return (taken, Next::More),
                Framed::NotAnOption => return (taken, Next::Close(Closed::NotAnOption)),
                Framed::TooLong { number } => {
                    put_answer(out, number, answer::ERR_TOO_BIG, b"this option is too long");
                    return (taken, Next::Close(Closed::TooLong));
                }
                Framed::Whole(option, len) => {
                    taken += len;
                    self.answered += 1;
                    if self.answered > MAX_OPTIONS {
                        put_answer(out, option.number, answer::ERR_INVALID, b"too many options");
                        return (taken, Next::Close(Closed::TooMany));
                    }
                    match self.answer(&option, exports, out) {
                        Next::More => {}
                        Next::Tls if taken < input.len() => return (taken, Next::Close(Closed::Injected)),
                        next => return (taken, next),
                    }
                }
            }
        }
    }

    fn answer(&mut self, asked: &RawOption<'_>, exports: &dyn Exports, out: &mut Vec<u8>) -> Next {
        let refuse = |out: &mut Vec<u8>, kind: u32, why: &str| {
            put_answer(out, asked.number, kind, why.as_bytes());
            Next::More
        };
        if asked.number == option::EXPORT_NAME {
            return self.export_name(asked.data, exports, out);
        }
        if self.flags.unwrap_or(0) & u32::from(handshake::FIXED_NEWSTYLE) == 0 {
            return Next::Close(Closed::NotAnOption);
        }
        if asked.number == option::ABORT {
            put_answer(out, asked.number, answer::ACK, &[]);
            return Next::Close(Closed::Aborted);
        }
        if self.tls == TlsState::Required && asked.number != option::STARTTLS {
            return refuse(
                out,
                answer::ERR_TLS_REQD,
                "this server wants TLS with a client certificate",
            );
        }
        match asked.number {
            option::STARTTLS => match self.tls {
                _ if !asked.data.is_empty() => refuse(out, answer::ERR_INVALID, "STARTTLS has no data"),
                TlsState::Off => refuse(out, answer::ERR_UNSUP, "this server has no TLS"),
                TlsState::Established => refuse(out, answer::ERR_INVALID, "TLS is established already"),
                TlsState::Required => {
                    put_answer(out, asked.number, answer::ACK, &[]);
                    Next::Tls
                }
            },
            option::STRUCTURED_REPLY if !asked.data.is_empty() => {
                refuse(out, answer::ERR_INVALID, "STRUCTURED_REPLY has no data")
            }
            option::STRUCTURED_REPLY => {
                self.structured = true;
                put_answer(out, asked.number, answer::ACK, &[]);
                Next::More
            }
            option::LIST if !asked.data.is_empty() => refuse(out, answer::ERR_INVALID, "LIST has no data"),
            option::LIST => {
                for name in exports.names() {
                    let mut data = Vec::with_capacity(4 + name.len());
                    data.put_u32(name.len() as u32);
                    data.put_slice(name.as_bytes());
                    put_answer(out, asked.number, answer::SERVER, &data);
                }
                put_answer(out, asked.number, answer::ACK, &[]);
                Next::More
            }
            option::INFO | option::GO => self.info(asked, exports, out),
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => self.contexts(asked, exports, out),
            _ => refuse(out, answer::ERR_UNSUP, "unknown option"),
        }
    }

    fn export_name(&mut self, data: &[u8], exports: &dyn Exports, out: &mut Vec<u8>) -> Next {
        let found = options::parse_name(data).and_then(|name| exports.info(name));
        let Some(found) = found.filter(|_| self.tls != TlsState::Required) else {
            return Next::Close(Closed::NoExport);
        };
        out.put_u64(found.size_bytes);
        out.put_u16(transmission_flags(&found, self.structured));
        if self.flags.unwrap_or(0) & u32::from(handshake::NO_ZEROES) == 0 {
            out.put_slice(&PADDING);
        }
        self.transmit(found)
    }

    fn transmit(&self, export: ExportInfo) -> Next {
        let allocation = self.structured && self.allocation_of.as_deref() == Some(&export.name);
        Next::Transmit(Session {
            export,
            structured: self.structured,
            allocation,
        })
    }

    fn info(&mut self, asked: &RawOption<'_>, exports: &dyn Exports, out: &mut Vec<u8>) -> Next {
        let number = asked.number;
        let Some((name, wanted)) = options::parse_info(asked.data) else {
            put_answer(out, number, answer::ERR_INVALID, b"malformed");
            return Next::More;
        };
        let Some(found) = exports.info(name) else {
            put_answer(out, number, answer::ERR_UNKNOWN, b"no such export");
            return Next::More;
        };
        if found.block_bytes > 1 && number == option::GO && !wanted.contains(&info::BLOCK_SIZE) {
            let why = b"requests must be aligned: ask for the block size";
            put_answer(out, number, answer::ERR_BLOCK_SIZE_REQD, why);
            return Next::More;
        }
        let mut data = Vec::with_capacity(14);
        data.put_u16(info::EXPORT);
        data.put_u64(found.size_bytes);
        data.put_u16(transmission_flags(&found, self.structured));
        put_answer(out, number, answer::INFO, &data);
        for (kind, text) in [(info::NAME, &found.name), (info::DESCRIPTION, &found.description)] {
            if wanted.contains(&kind) {
                data.clear();
                data.put_u16(kind);
                data.put_slice(text.as_bytes());
                put_answer(out, number, answer::INFO, &data);
            }
        }
        data.clear();
        data.put_u16(info::BLOCK_SIZE);
        data.put_u32(found.block_bytes);
        data.put_u32(PREFERRED_BYTES.max(found.block_bytes));
        data.put_u32(MAX_REQUEST_BYTES);
        put_answer(out, number, answer::INFO, &data);
        put_answer(out, number, answer::ACK, &[]);
        if number == option::GO {
            return self.transmit(found);
        }
        Next::More
    }

    fn contexts(&mut self, asked: &RawOption<'_>, exports: &dyn Exports, out: &mut Vec<u8>) -> Next {
        let number = asked.number;
        let setting = number == option::SET_META_CONTEXT;
        if setting {
            // Whatever comes of it, the former choice is gone.
            self.allocation_of = None;
        }
        if !self.structured {
            put_answer(out, number, answer::ERR_INVALID, b"STRUCTURED_REPLY first");
            return Next::More;
        }
        let Some((name, queries)) = options::parse_contexts(asked.data) else {
            put_answer(out, number, answer::ERR_INVALID, b"malformed");
            return Next::More;
        };
        let Some(found) = exports.info(name) else {
            put_answer(out, number, answer::ERR_UNKNOWN, b"no such export");
            return Next::More;
        };
        // A list may be asked for everything, or for a whole namespace; a choice must be exact.
        let everything = !setting && (queries.is_empty() || queries.contains(&"base:"));
        if everything || queries.contains(&wire::BASE_ALLOCATION) {
            let mut data = Vec::with_capacity(4 + wire::BASE_ALLOCATION.len());
            data.put_u32(if setting { wire::BASE_ALLOCATION_ID } else { 0 });
            data.put_slice(wire::BASE_ALLOCATION.as_bytes());
            put_answer(out, number, answer::META_CONTEXT, &data);
            if setting {
                self.allocation_of = Some(found.name);
            }
        }
        put_answer(out, number, answer::ACK, &[]);
        Next::More
    }
}

/// What an export can do, for a client with or without structured replies.
pub fn transmission_flags(info: &ExportInfo, structured: bool) -> u16 {
    let mut flags = export::HAS_FLAGS | export::SEND_FLUSH | export::SEND_FUA | export::CAN_MULTI_CONN;
    if info.read_only {
        flags |= export::READ_ONLY;
    } else {
        flags |= export::SEND_TRIM | export::SEND_WRITE_ZEROES;
        if info.fast_zero {
            flags |= export::SEND_FAST_ZERO;
        }
    }
    if structured {
        flags |= export::SEND_DF;
    }
    flags
}

#[cfg(test)]
#[path = "negotiate_tests.rs"]
mod tests;
