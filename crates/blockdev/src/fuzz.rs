//! Deterministic fuzzing of what NBD clients send: valid conversations and requests, damaged by a seeded generator. A case is a
//! seed, so a failure is repeated by its number. The tests run a bounded count, `cargo xtask fuzz` goes on for as long as it
//! is told; `fuzz/` does the same with coverage and a nightly compiler.

use crate::nbd::negotiate::{
    ExportInfo, Exports, MAX_OPTIONS, MAX_REQUEST_BYTES, Negotiation, Next, Session, TlsState,
};
use crate::nbd::reply::{Outcome, put_reply};
use crate::nbd::request::{Command, REQUEST_BYTES, Request, judge};
use crate::nbd::wire::{self, option};

/// More than the longest answer to one option.
const MAX_ANSWER_BYTES: usize = 16 << 10;
/// The greeting, before any option.
const GREETING_BYTES: usize = 18;
/// Requests of one case.
const REQUESTS: u64 = 32;
/// The word with which a request begins.
const REQUEST_MAGIC: u32 = 0x2560_9513;

/// What is fed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The handshake.
    Handshake,
    /// Requests after it.
    Requests,
}

impl Target {
    /// All of them.
    pub const ALL: [Target; 2] = [Target::Handshake, Target::Requests];
}

/// Runs one case; the error says what does not hold. Panics are failures too.
pub fn run(target: Target, seed: u64) -> Result<(), String> {
    let mut lottery = Lottery(seed);
    match target {
        Target::Handshake => handshake(&mut lottery).map(drop),
        Target::Requests => requests(&mut lottery).map(drop),
    }
}

/// SplitMix64.
struct Lottery(u64);

impl Lottery {
    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound
    }

    /// Numbers that sit at edges.
    fn number(&mut self) -> u64 {
        match self.below(7) {
            0 => 0,
            1 => u64::MAX - self.below(8192),
            2 => 1 << self.below(64),
            3 => u64::from(u32::MAX) - self.below(2),
            4 => self.below(1 << 20) * 4096,
            _ => self.below(70_000),
        }
    }
}

struct Two;

impl Exports for Two {
    fn names(&self) -> Vec<String> {
        vec!["a".into(), "b".into()]
    }

    fn info(&self, name: &str) -> Option<ExportInfo> {
        matches!(name, "" | "a" | "b").then(|| ExportInfo {
            name: if name == "b" { "b" } else { "a" }.into(),
            description: "fuzz".into(),
            size_bytes: 1 << 30,
            block_bytes: if name == "b" { 4096 } else { 1 },
            read_only: name == "b",
            fast_zero: true,
        })
    }
}

fn put_option(out: &mut Vec<u8>, number: u32, data: &[u8]) {
    out.extend_from_slice(&wire::OPTION_MAGIC.to_be_bytes());
    out.extend_from_slice(&number.to_be_bytes());
    out.extend_from_slice(&(data.len() as u32).to_be_bytes());
    out.extend_from_slice(data);
}

fn named(name: &str, rest: &[u8]) -> Vec<u8> {
    let mut data = (name.len() as u32).to_be_bytes().to_vec();
    data.extend_from_slice(name.as_bytes());
    data.extend_from_slice(rest);
    data
}

/// What a client could say, damaged.
fn conversation(lottery: &mut Lottery) -> Vec<u8> {
    let mut bytes = 3u32.to_be_bytes().to_vec();
    for _ in 0..lottery.below(6) {
        let name = ["", "a", "b", "none"][lottery.below(4) as usize];
        match lottery.below(7) {
            0 => put_option(&mut bytes, option::STRUCTURED_REPLY, &[]),
            1 => put_option(&mut bytes, option::LIST, &[]),
            2 => {
                let query = [
                    &1u32.to_be_bytes()[..],
                    &15u32.to_be_bytes()[..],
                    b"base:allocation",
                ]
                .concat();
                put_option(&mut bytes, option::SET_META_CONTEXT, &named(name, &query));
            }
            3 => put_option(&mut bytes, option::GO, &named(name, &[0, 1, 0, 3])),
            4 => put_option(&mut bytes, option::INFO, &named(name, &[0, 0])),
            5 => put_option(&mut bytes, option::STARTTLS, &[]),
            _ => put_option(&mut bytes, lottery.below(20) as u32, &[7; 30]),
        }
    }
    for _ in 0..lottery.below(4) {
        let at = lottery.below(bytes.len() as u64) as usize;
        match lottery.below(4) {
            0 => bytes[at] ^= 1 << lottery.below(8),
            1 => bytes.truncate(at.max(1)),
            2 => bytes.insert(at, lottery.draw() as u8),
            _ => {
                let value = (lottery.number() as u32).to_be_bytes();
                let end = (at + 4).min(bytes.len());
                bytes[at..end].copy_from_slice(&value[..end - at]);
            }
        }
    }
    bytes
}

fn negotiate(tls: TlsState, pieces: &[&[u8]]) -> Result<(Vec<u8>, Next), String> {
    let mut out = Vec::new();
    let mut negotiation = Negotiation::new(tls, &mut out);
    let mut buffer = Vec::new();
    let mut next = Next::More;
    for piece in pieces {
        if next != Next::More {
            break;
        }
        buffer.extend_from_slice(piece);
        let (taken, after) = negotiation.step(&buffer, &Two, &mut out);
        if taken > buffer.len() {
            return Err(format!("{taken} of {} bytes were taken", buffer.len()));
        }
        buffer.drain(..taken);
        next = after;
    }
    Ok((out, next))
}

/// Answers are bounded, do not depend on how the stream was cut, and nothing is served without TLS where it is required.
/// True: the client came through.
fn handshake(lottery: &mut Lottery) -> Result<bool, String> {
    let bytes = conversation(lottery);
    let tls = [TlsState::Off, TlsState::Required, TlsState::Established][lottery.below(3) as usize];
    let whole = negotiate(tls, &[&bytes])?;
    if whole.0.len() > GREETING_BYTES + MAX_OPTIONS as usize * MAX_ANSWER_BYTES {
        return Err(format!("an answer of {} bytes", whole.0.len()));
    }
    let through = matches!(whole.1, Next::Transmit(_));
    // Before TLS, bytes that come too early are an attack when they come together, and not seen when cut.
    if tls == TlsState::Required {
        return if through {
            Err("served without TLS".into())
        } else {
            Ok(false)
        };
    }
    let cut = 1 + lottery.below(40) as usize;
    let pieces: Vec<&[u8]> = bytes.chunks(cut).collect();
    if negotiate(tls, &pieces)? != whole {
        return Err(format!("another answer when cut at {cut}"));
    }
    Ok(through)
}

/// What is accepted lies inside of the device, is aligned and bounded; replies to it can be encoded. How many were accepted.
fn requests(lottery: &mut Lottery) -> Result<u64, String> {
    let options = lottery.draw();
    let size = lottery.number();
    let session = Session {
        export: ExportInfo {
            name: "a".into(),
            description: String::new(),
            size_bytes: size,
            block_bytes: if options & 1 == 0 { 1 } else { 4096 },
            read_only: options & 2 != 0,
            fast_zero: options & 4 != 0,
        },
        structured: options & 8 != 0,
        allocation: options & 24 == 24,
    };
    let mut accepted = 0;
    for _ in 0..REQUESTS {
        let header = request(lottery, size);
        let Ok(request) = Request::parse(&header) else {
            continue;
        };
        let outcome = match judge(&request, &session, size) {
            Err(refusal) => Outcome::Failed {
                errno: refusal.errno,
                why: refusal.why,
            },
            Ok(command) => {
                accepted += 1;
                check_accepted(&command, &request, &session, size)?;
                Outcome::Done
            }
        };
        let mut out = Vec::new();
        let data = put_reply(&mut out, session.structured, request.cookie, outcome);
        if data.is_some() || out.len() < 16 {
            return Err(format!("a reply of {} bytes to {request:?}", out.len()));
        }
    }
    Ok(accepted)
}

/// A header, nearly valid.
fn request(lottery: &mut Lottery, size: u64) -> [u8; REQUEST_BYTES] {
    let mut bytes = Vec::with_capacity(REQUEST_BYTES);
    bytes.extend_from_slice(&REQUEST_MAGIC.to_be_bytes());
    let flags = if lottery.below(4) == 0 {
        lottery.draw()
    } else {
        lottery.below(2)
    };
    bytes.extend_from_slice(&(flags as u16).to_be_bytes());
    bytes.extend_from_slice(&(lottery.below(9) as u16).to_be_bytes());
    bytes.extend_from_slice(&lottery.draw().to_be_bytes());
    let len = lottery.number() as u32;
    let offset = match lottery.below(3) {
        0 => lottery.number(),
        // To its very end, or over it.
        1 => size.wrapping_sub(u64::from(len)).wrapping_add(lottery.below(3)),
        _ => lottery.below(size.max(1)),
    };
    bytes.extend_from_slice(&offset.to_be_bytes());
    bytes.extend_from_slice(&len.to_be_bytes());
    let mut header = [0; REQUEST_BYTES];
    header.copy_from_slice(&bytes);
    if lottery.below(10) == 0 {
        header[lottery.below(REQUEST_BYTES as u64) as usize] ^= 1 << lottery.below(8);
    }
    header
}

fn check_accepted(command: &Command, request: &Request, session: &Session, size: u64) -> Result<(), String> {
    if matches!(command, Command::Disconnect | Command::Flush) {
        return Ok(());
    }
    let end = request.offset.checked_add(u64::from(request.len));
    let inside = end.is_some_and(|end| end <= size);
    let aligned = request
        .offset
        .is_multiple_of(u64::from(session.export.block_bytes));
    let writes = matches!(command, Command::Write { .. } | Command::Zero { .. });
    let carries = matches!(command, Command::Read { .. } | Command::Write { .. });
    let fits = !carries || request.len <= MAX_REQUEST_BYTES;
    if inside && aligned && fits && !(writes && session.export.read_only) {
        return Ok(());
    }
    Err(format!(
        "{request:?} is accepted by a device of {size} bytes: {session:?}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cases of an ordinary run, for each target.
    const CASES: u64 = 20_000;

    #[test]
    fn damaged_handshakes() {
        let mut through = 0;
        for seed in 0..CASES {
            match handshake(&mut Lottery(seed)) {
                Ok(came) => through += u64::from(came),
                Err(what) => panic!("seed {seed}: {what}"),
            }
        }
        assert!(through > CASES / 100, "only {through} came to their end");
    }

    #[test]
    fn damaged_requests() {
        let mut accepted = 0;
        for seed in 0..CASES {
            match requests(&mut Lottery(seed)) {
                Ok(count) => accepted += count,
                Err(what) => panic!("seed {seed}: {what}"),
            }
        }
        assert!(accepted > CASES, "only {accepted} were accepted");
    }
}
