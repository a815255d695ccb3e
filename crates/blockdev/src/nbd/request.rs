//! Requests: parsing and judging. Pure functions.

use super::negotiate::{MAX_REQUEST_BYTES, Session};
use super::wire::{REQUEST_MAGIC, command, error, flag};
use bytes::Buf;

/// Bytes of a request without its payload.
pub const REQUEST_BYTES: usize = 28;

/// A request as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Flags of the command.
    pub flags: u16,
    /// Which command.
    pub kind: u16,
    /// Comes back with the reply.
    pub cookie: u64,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u32,
}

/// The client is out of step: what follows cannot be told apart any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a request does not begin as one")]
pub struct OutOfStep;

impl Request {
    /// Reads a header.
    pub fn parse(header: &[u8; REQUEST_BYTES]) -> Result<Self, OutOfStep> {
        let mut header = &header[..];
        if header.get_u32() != REQUEST_MAGIC {
            return Err(OutOfStep);
        }
        Ok(Self {
            flags: header.get_u16(),
            kind: header.get_u16(),
            cookie: header.get_u64(),
            offset: header.get_u64(),
            len: header.get_u32(),
        })
    }

    /// Bytes that follow the header, whether or not the request is good.
    pub fn payload_bytes(&self) -> u32 {
        if self.kind == command::WRITE { self.len } else { 0 }
    }
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Read; with `whole` in one chunk.
    Read {
        /// DF.
        whole: bool,
    },
    /// Write the payload.
    Write {
        /// Durable before the reply.
        fua: bool,
    },
    /// Make durable.
    Flush,
    /// Make zeroes.
    Zero {
        /// Its space may be freed.
        discard: bool,
        /// Durable before the reply.
        fua: bool,
    },
    /// Tell what is allocated.
    Extents {
        /// Only the first.
        one: bool,
    },
    /// Nothing: the answer is success.
    Nothing,
    /// End of the session.
    Disconnect,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The protocol's number.
    pub errno: u32,
    /// In words.
    pub why: &'static str,
}

const fn refuse(errno: u32, why: &'static str) -> Refusal {
    Refusal { errno, why }
}

/// Judges a request against what was agreed on and the device's size now.
pub fn judge(request: &Request, session: &Session, size_bytes: u64) -> Result<Command, Refusal> {
    let export = &session.export;
    // FUA is allowed on every command of an export that has it; it means nothing on those that change nothing.
    let allowed = flag::FUA
        | match request.kind {
            command::READ if session.structured => flag::DF,
            command::WRITE_ZEROES if export.fast_zero => flag::NO_HOLE | flag::FAST_ZERO,
            command::WRITE_ZEROES => flag::NO_HOLE,
            command::BLOCK_STATUS => flag::REQ_ONE,
            _ => 0,
        };
    if request.kind == command::DISC {
        return Ok(Command::Disconnect);
    }
    if request.flags & !allowed != 0 {
        return Err(refuse(error::EINVAL, "flags that were not agreed on"));
    }
    let fua = request.flags & flag::FUA != 0;
    let changes = matches!(
        request.kind,
        command::WRITE | command::TRIM | command::WRITE_ZEROES
    );
    if changes && export.read_only {
        return Err(refuse(error::EPERM, "the export is read-only"));
    }
    match request.kind {
        command::FLUSH if request.offset != 0 || request.len != 0 => {
            return Err(refuse(error::EINVAL, "FLUSH has no range"));
        }
        command::FLUSH => return Ok(Command::Flush),
        command::READ | command::WRITE | command::TRIM | command::WRITE_ZEROES => {}
        command::BLOCK_STATUS if session.allocation => {}
        command::BLOCK_STATUS => return Err(refuse(error::EINVAL, "no metadata was agreed on")),
        _ => return Err(refuse(error::EINVAL, "unknown command")),
    }
    range(request, export.block_bytes, size_bytes)?;
    let whole = request.flags & flag::DF != 0;
    if matches!(request.kind, command::READ | command::WRITE) && request.len > MAX_REQUEST_BYTES {
        let errno = if whole { error::EOVERFLOW } else { error::EINVAL };
        return Err(refuse(errno, "longer than the largest request"));
    }
    Ok(match request.kind {
        command::BLOCK_STATUS if request.len == 0 => return Err(refuse(error::EINVAL, "an empty range")),
        command::BLOCK_STATUS => Command::Extents {
            one: request.flags & flag::REQ_ONE != 0,
        },
        _ if request.len == 0 => Command::Nothing,
        command::READ => Command::Read { whole },
        command::WRITE => Command::Write { fua },
        command::TRIM => Command::Zero { discard: true, fua },
        _ => Command::Zero {
            discard: request.flags & flag::NO_HOLE == 0,
            fua,
        },
    })
}

fn range(request: &Request, block_bytes: u32, size_bytes: u64) -> Result<(), Refusal> {
    let end = request.offset.checked_add(u64::from(request.len));
    if end.is_none_or(|end| end > size_bytes) {
        let full = matches!(request.kind, command::WRITE | command::WRITE_ZEROES);
        let errno = if full { error::ENOSPC } else { error::EINVAL };
        return Err(refuse(errno, "past the end of the device"));
    }
    let block = u64::from(block_bytes);
    if !request.offset.is_multiple_of(block) || !u64::from(request.len).is_multiple_of(block) {
        return Err(refuse(error::EINVAL, "not aligned to the block size"));
    }
    Ok(())
}

/// The protocol's number for a device's errno.
pub fn error_number(errno: i32) -> u32 {
    match errno {
        libc::EPERM | libc::EROFS => error::EPERM,
        libc::ENOMEM => error::ENOMEM,
        libc::EINVAL => error::EINVAL,
        libc::ENOSPC | libc::EDQUOT | libc::EFBIG => error::ENOSPC,
        libc::EOPNOTSUPP => error::ENOTSUP,
        libc::ESHUTDOWN => error::ESHUTDOWN,
        _ => error::EIO,
    }
}

#[cfg(test)]
mod tests {
    use super::super::negotiate::ExportInfo;
    use super::*;
    use proptest::prelude::*;

    fn session(block_bytes: u32, read_only: bool) -> Session {
        Session {
            export: ExportInfo {
                name: "v".into(),
                description: String::new(),
                size_bytes: 1 << 30,
                block_bytes,
                read_only,
                fast_zero: false,
            },
            structured: true,
            allocation: true,
        }
    }

    fn request(kind: u16, flags: u16, offset: u64, len: u32) -> Request {
        Request {
            flags,
            kind,
            cookie: 7,
            offset,
            len,
        }
    }

    fn errno(session: &Session, request: Request) -> u32 {
        judge(&request, session, 1 << 30).unwrap_err().errno
    }

    proptest! {
        #[test]
        fn what_is_accepted_lies_inside_of_the_device(bytes in any::<[u8; REQUEST_BYTES]>(), magic in any::<bool>()) {
            let mut bytes = bytes;
            if magic {
                bytes[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
                bytes[6] = 0;
                bytes[7] %= 9;
                bytes[16..20].fill(0);
            }
            let Ok(request) = Request::parse(&bytes) else {
                prop_assert!(!magic);
                return Ok(());
            };
            if let Ok(command) = judge(&request, &session(512, false), 1 << 30)
                && !matches!(command, Command::Flush | Command::Disconnect)
            {
                prop_assert!(request.offset + u64::from(request.len) <= 1 << 30);
                prop_assert!(request.offset % 512 == 0 && request.len % 512 == 0);
                if request.kind <= command::WRITE {
                    prop_assert!(request.len <= MAX_REQUEST_BYTES);
                }
            }
        }
    }

    #[test]
    fn each_refusal_has_the_number_that_the_protocol_gives_it() {
        let plain = session(1, false);
        let end = 1u64 << 30;
        let cases = [
            (request(command::READ, 0, end - 1, 2), error::EINVAL),
            (request(command::WRITE, 0, end - 1, 2), error::ENOSPC),
            (request(command::WRITE_ZEROES, 0, end, 1), error::ENOSPC),
            (request(command::TRIM, 0, u64::MAX, 2), error::EINVAL),
            (request(command::READ, 0, 0, MAX_REQUEST_BYTES + 1), error::EINVAL),
            (
                request(command::READ, flag::DF, 0, MAX_REQUEST_BYTES + 1),
                error::EOVERFLOW,
            ),
            (
                request(command::WRITE, 0, 0, MAX_REQUEST_BYTES + 1),
                error::EINVAL,
            ),
            (request(command::WRITE, flag::DF, 0, 1), error::EINVAL),
            (
                request(command::WRITE_ZEROES, flag::FAST_ZERO, 0, 1),
                error::EINVAL,
            ),
            (request(command::FLUSH, 0, 0, 1), error::EINVAL),
            (request(command::BLOCK_STATUS, 0, 0, 0), error::EINVAL),
            (request(99, 0, 0, 0), error::EINVAL),
        ];
        for (request, expected) in cases {
            assert_eq!(errno(&plain, request), expected, "{request:?}");
        }
        let read_only = session(1, true);
        for kind in [command::WRITE, command::TRIM, command::WRITE_ZEROES] {
            assert_eq!(errno(&read_only, request(kind, 0, 0, 1)), error::EPERM);
        }
        assert_eq!(
            errno(&session(4096, false), request(command::READ, 0, 512, 4096)),
            error::EINVAL
        );
        let mut bare = session(1, false);
        (bare.structured, bare.allocation) = (false, false);
        assert_eq!(
            errno(&bare, request(command::READ, flag::DF, 0, 1)),
            error::EINVAL
        );
        assert_eq!(
            errno(&bare, request(command::BLOCK_STATUS, 0, 0, 1)),
            error::EINVAL
        );
    }

    #[test]
    fn flags_become_what_they_mean() {
        let plain = session(1, false);
        let good = |request| judge(&request, &plain, 1 << 30).unwrap();
        let zero = request(command::WRITE_ZEROES, flag::NO_HOLE | flag::FUA, 0, 9);
        assert_eq!(
            good(zero),
            Command::Zero {
                discard: false,
                fua: true
            }
        );
        assert_eq!(
            good(request(command::WRITE_ZEROES, 0, 0, 9)),
            Command::Zero {
                discard: true,
                fua: false
            }
        );
        assert_eq!(
            good(request(command::READ, flag::DF, 0, 9)),
            Command::Read { whole: true }
        );
        assert_eq!(
            good(request(command::READ, flag::FUA, 0, 9)),
            Command::Read { whole: false }
        );
        assert_eq!(
            good(request(command::WRITE, flag::FUA, 0, 9)),
            Command::Write { fua: true }
        );
        assert_eq!(good(request(command::READ, 0, 1 << 30, 0)), Command::Nothing);
        assert_eq!(
            good(request(command::BLOCK_STATUS, flag::REQ_ONE, 0, 9)),
            Command::Extents { one: true }
        );
        // A disconnection is never refused.
        assert_eq!(good(request(command::DISC, 0xffff, 9, 9)), Command::Disconnect);
    }
}
