//! Numbers of the NBD protocol (its document is `doc/proto.md` of the NetworkBlockDevice project). All of them are
//! big-endian on the wire.

/// First word of the server's greeting, `NBDMAGIC`.
pub const GREETING: u64 = 0x4e42_444d_4147_4943;
/// Second word of the greeting, and the first of every option: `IHAVEOPT`.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// First word of an answer to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// First word of a request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// First word of a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// First word of a chunk of a structured reply.
pub const CHUNK_MAGIC: u32 = 0x668e_33ef;

/// Flags of greeting and client: fixed newstyle, and no padding after the answer to `EXPORT_NAME`.
pub mod handshake {
    /// Options other than `EXPORT_NAME` are answered.
    pub const FIXED_NEWSTYLE: u16 = 1;
    /// The 124 zeroes are left out if both agree.
    pub const NO_ZEROES: u16 = 2;
}

/// Options.
pub mod option {
    /// Go on with an export; cannot fail politely.
    pub const EXPORT_NAME: u32 = 1;
    /// Goodbye.
    pub const ABORT: u32 = 2;
    /// Names of all exports.
    pub const LIST: u32 = 3;
    /// Go on under TLS.
    pub const STARTTLS: u32 = 5;
    /// What an export is.
    pub const INFO: u32 = 6;
    /// What it is, and go on with it.
    pub const GO: u32 = 7;
    /// Replies may come in chunks.
    pub const STRUCTURED_REPLY: u32 = 8;
    /// Which metadata there is.
    pub const LIST_META_CONTEXT: u32 = 9;
    /// Which metadata `BLOCK_STATUS` is to tell.
    pub const SET_META_CONTEXT: u32 = 10;
}

/// Types of answers to options.
pub mod answer {
    /// Done.
    pub const ACK: u32 = 1;
    /// One export's name.
    pub const SERVER: u32 = 2;
    /// One piece of information.
    pub const INFO: u32 = 3;
    /// One metadata context.
    pub const META_CONTEXT: u32 = 4;
    /// The option is not known.
    pub const ERR_UNSUP: u32 = (1 << 31) | 1;
    /// The option's data is malformed or makes no sense now.
    pub const ERR_INVALID: u32 = (1 << 31) | 3;
    /// TLS first.
    pub const ERR_TLS_REQD: u32 = (1 << 31) | 5;
    /// No such export.
    pub const ERR_UNKNOWN: u32 = (1 << 31) | 6;
    /// The client has to ask for block sizes.
    pub const ERR_BLOCK_SIZE_REQD: u32 = (1 << 31) | 8;
    /// Too long.
    pub const ERR_TOO_BIG: u32 = (1 << 31) | 9;
}

/// Types of information about an export.
pub mod info {
    /// Size and transmission flags.
    pub const EXPORT: u16 = 0;
    /// Canonical name.
    pub const NAME: u16 = 1;
    /// Words for people.
    pub const DESCRIPTION: u16 = 2;
    /// Smallest, preferred and largest request.
    pub const BLOCK_SIZE: u16 = 3;
}

/// Transmission flags: what the export can do.
pub mod export {
    /// The other flags mean something.
    pub const HAS_FLAGS: u16 = 1 << 0;
    /// Writes are refused.
    pub const READ_ONLY: u16 = 1 << 1;
    /// FLUSH.
    pub const SEND_FLUSH: u16 = 1 << 2;
    /// The FUA flag.
    pub const SEND_FUA: u16 = 1 << 3;
    /// TRIM.
    pub const SEND_TRIM: u16 = 1 << 5;
    /// WRITE_ZEROES.
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    /// The DF flag.
    pub const SEND_DF: u16 = 1 << 7;
    /// Flush and FUA span connections.
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    /// The FAST_ZERO flag.
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
}

/// Types of requests.
pub mod command {
    /// Read.
    pub const READ: u16 = 0;
    /// Write; a payload follows.
    pub const WRITE: u16 = 1;
    /// End of the session; no reply.
    pub const DISC: u16 = 2;
    /// Make durable.
    pub const FLUSH: u16 = 3;
    /// The range is not needed.
    pub const TRIM: u16 = 4;
    /// The range is to read as zeroes.
    pub const WRITE_ZEROES: u16 = 6;
    /// What is allocated.
    pub const BLOCK_STATUS: u16 = 7;
}

/// Flags of requests.
pub mod flag {
    /// Durable before the reply.
    pub const FUA: u16 = 1 << 0;
    /// Zeroes that keep their space.
    pub const NO_HOLE: u16 = 1 << 1;
    /// One chunk only.
    pub const DF: u16 = 1 << 2;
    /// One extent only.
    pub const REQ_ONE: u16 = 1 << 3;
    /// Only if it is fast.
    pub const FAST_ZERO: u16 = 1 << 4;
}

/// Types of chunks.
pub mod chunk {
    /// Nothing more.
    pub const NONE: u16 = 0;
    /// Data at an offset.
    pub const OFFSET_DATA: u16 = 1;
    /// Zeroes at an offset.
    pub const OFFSET_HOLE: u16 = 2;
    /// Extents of a context.
    pub const BLOCK_STATUS: u16 = 5;
    /// The request failed.
    pub const ERROR: u16 = (1 << 15) | 1;
    /// Flag: the last chunk of its reply.
    pub const DONE: u16 = 1;
}

/// Errors of requests. They have Linux' numbers.
pub mod error {
    /// Read-only.
    pub const EPERM: u32 = 1;
    /// The device failed.
    pub const EIO: u32 = 5;
    /// No memory.
    pub const ENOMEM: u32 = 12;
    /// The request is wrong.
    pub const EINVAL: u32 = 22;
    /// Past the end, or full.
    pub const ENOSPC: u32 = 28;
    /// Too much for one chunk.
    pub const EOVERFLOW: u32 = 75;
    /// Not without being slow.
    pub const ENOTSUP: u32 = 95;
    /// The server ends.
    pub const ESHUTDOWN: u32 = 108;
}

/// The metadata context that we have.
pub const BASE_ALLOCATION: &str = "base:allocation";
/// Our number for it.
pub const BASE_ALLOCATION_ID: u32 = 1;
/// State flag of [`BASE_ALLOCATION`]: nothing is allocated.
pub const STATE_HOLE: u32 = 1;
/// State flag of [`BASE_ALLOCATION`]: reads as zeroes.
pub const STATE_ZERO: u32 = 2;
