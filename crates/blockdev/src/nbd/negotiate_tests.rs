//! Tests of the handshake.

use super::*;
use proptest::prelude::*;

struct One;

fn one() -> ExportInfo {
    ExportInfo {
        name: "disk".into(),
        description: "words".into(),
        size_bytes: 1 << 30,
        block_bytes: 4096,
        read_only: false,
        fast_zero: true,
    }
}

impl Exports for One {
    fn names(&self) -> Vec<String> {
        vec!["disk".into()]
    }

    fn info(&self, name: &str) -> Option<ExportInfo> {
        matches!(name, "" | "disk").then(one)
    }
}

fn option(number: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = wire::OPTION_MAGIC.to_be_bytes().to_vec();
    bytes.put_u32(number);
    bytes.put_u32(data.len() as u32);
    bytes.put_slice(data);
    bytes
}

fn go(name: &str, wanted: &[u16]) -> Vec<u8> {
    let mut data = Vec::new();
    data.put_u32(name.len() as u32);
    data.put_slice(name.as_bytes());
    data.put_u16(wanted.len() as u16);
    wanted.iter().for_each(|w| data.put_u16(*w));
    data
}

fn contexts(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut data = Vec::new();
    data.put_u32(name.len() as u32);
    data.put_slice(name.as_bytes());
    data.put_u32(queries.len() as u32);
    for query in queries {
        data.put_u32(query.len() as u32);
        data.put_slice(query.as_bytes());
    }
    data
}

/// A negotiation after the client's flags.
fn begun(tls: TlsState) -> Negotiation {
    let mut out = Vec::new();
    let mut negotiation = Negotiation::new(tls, &mut out);
    assert_eq!(out.len(), 18);
    assert_eq!(
        negotiation.step(&3u32.to_be_bytes(), &One, &mut out),
        (4, Next::More)
    );
    negotiation
}

/// Types of the answers in `out`.
fn answers(mut out: &[u8]) -> Vec<u32> {
    let mut kinds = Vec::new();
    while out.has_remaining() {
        assert_eq!(out.get_u64(), wire::OPTION_REPLY_MAGIC);
        out.get_u32();
        kinds.push(out.get_u32());
        let len = out.get_u32() as usize;
        out.advance(len);
    }
    kinds
}

fn ask(negotiation: &mut Negotiation, number: u32, data: &[u8]) -> (Vec<u32>, Next) {
    let mut out = Vec::new();
    let input = option(number, data);
    let (taken, next) = negotiation.step(&input, &One, &mut out);
    assert_eq!(taken, input.len());
    let kinds = match number {
        // Its answer has no header.
        option::EXPORT_NAME => Vec::new(),
        _ => answers(&out),
    };
    (kinds, next)
}

#[test]
fn a_modern_client_gets_what_it_asks_for() {
    let mut negotiation = begun(TlsState::Off);
    assert_eq!(
        ask(&mut negotiation, option::LIST, &[]).0,
        [answer::SERVER, answer::ACK]
    );
    let early = ask(
        &mut negotiation,
        option::SET_META_CONTEXT,
        &contexts("", &["base:allocation"]),
    );
    assert_eq!(early.0, [answer::ERR_INVALID], "only after structured replies");
    assert_eq!(
        ask(&mut negotiation, option::STRUCTURED_REPLY, &[]).0,
        [answer::ACK]
    );
    let list = ask(
        &mut negotiation,
        option::LIST_META_CONTEXT,
        &contexts("disk", &[]),
    );
    assert_eq!(list.0, [answer::META_CONTEXT, answer::ACK]);
    let none = ask(
        &mut negotiation,
        option::SET_META_CONTEXT,
        &contexts("disk", &["base:"]),
    );
    assert_eq!(none.0, [answer::ACK]);
    let set = ask(
        &mut negotiation,
        option::SET_META_CONTEXT,
        &contexts("", &["x:y", "base:allocation"]),
    );
    assert_eq!(set.0, [answer::META_CONTEXT, answer::ACK]);
    assert_eq!(
        ask(&mut negotiation, option::GO, &go("nothing", &[])).0,
        [answer::ERR_UNKNOWN]
    );
    assert_eq!(
        ask(&mut negotiation, option::GO, &go("disk", &[])).0,
        [answer::ERR_BLOCK_SIZE_REQD]
    );
    let wanted = [info::BLOCK_SIZE, info::NAME, info::DESCRIPTION];
    let asked = ask(&mut negotiation, option::INFO, &go("disk", &wanted));
    assert_eq!(
        asked.0,
        [
            answer::INFO,
            answer::INFO,
            answer::INFO,
            answer::INFO,
            answer::ACK
        ]
    );
    let (_, next) = ask(&mut negotiation, option::GO, &go("disk", &[info::BLOCK_SIZE]));
    let session = Session {
        export: one(),
        structured: true,
        allocation: true,
    };
    assert_eq!(next, Next::Transmit(session));
}

#[test]
fn an_old_client_gets_the_export_and_its_padding() {
    for (flags, padding) in [(1u32, 124), (3, 0), (0, 124)] {
        let mut out = Vec::new();
        let mut negotiation = Negotiation::new(TlsState::Off, &mut out);
        out.clear();
        let mut input = flags.to_be_bytes().to_vec();
        input.extend(option(option::EXPORT_NAME, b"disk"));
        let (_, next) = negotiation.step(&input, &One, &mut out);
        assert!(matches!(next, Next::Transmit(s) if !s.structured && !s.allocation));
        assert_eq!(out.len(), 10 + padding);
        assert_eq!(out[..8], (1u64 << 30).to_be_bytes());
    }
}

#[test]
fn nothing_is_told_before_tls_and_nothing_agreed_before_it_counts() {
    let mut negotiation = begun(TlsState::Required);
    for number in [
        option::LIST,
        option::INFO,
        option::GO,
        option::STRUCTURED_REPLY,
        77,
    ] {
        assert_eq!(ask(&mut negotiation, number, &[]).0, [answer::ERR_TLS_REQD]);
    }
    let (kinds, next) = ask(&mut negotiation, option::STARTTLS, &[]);
    assert_eq!((kinds, next), (vec![answer::ACK], Next::Tls));
    negotiation.secured();
    assert_eq!(
        ask(&mut negotiation, option::STARTTLS, &[]).0,
        [answer::ERR_INVALID]
    );
    assert_eq!(
        ask(&mut negotiation, option::LIST, &[]).0,
        [answer::SERVER, answer::ACK]
    );
    let (_, next) = ask(&mut negotiation, option::EXPORT_NAME, b"");
    assert!(matches!(next, Next::Transmit(_)));

    let mut negotiation = begun(TlsState::Required);
    assert_eq!(
        ask(&mut negotiation, option::EXPORT_NAME, b"").1,
        Next::Close(Closed::NoExport)
    );
    // What an attacker sends along with STARTTLS must not be taken for the client's words under TLS.
    let mut negotiation = begun(TlsState::Required);
    let mut both = option(option::STARTTLS, &[]);
    both.extend(option(option::LIST, &[]));
    let (_, next) = negotiation.step(&both, &One, &mut Vec::new());
    assert_eq!(next, Next::Close(Closed::Injected));
    let mut negotiation = begun(TlsState::Off);
    assert_eq!(
        ask(&mut negotiation, option::STARTTLS, &[]).0,
        [answer::ERR_UNSUP]
    );
}

#[test]
fn bad_clients_are_told_and_closed() {
    let mut out = Vec::new();
    let mut negotiation = Negotiation::new(TlsState::Off, &mut out);
    let (_, next) = negotiation.step(&4u32.to_be_bytes(), &One, &mut out);
    assert_eq!(next, Next::Close(Closed::Flags));
    out.clear();
    let (_, next) = begun(TlsState::Off).step(b"GET / HTTP/1.1\r\n", &One, &mut out);
    assert_eq!(next, Next::Close(Closed::NotAnOption));
    let mut long = option(option::GO, &[]);
    long[12..16].fill(0xff);
    let (_, next) = begun(TlsState::Off).step(&long, &One, &mut out);
    assert_eq!(
        (next, answers(&out)),
        (Next::Close(Closed::TooLong), vec![answer::ERR_TOO_BIG])
    );
    let mut negotiation = begun(TlsState::Off);
    for _ in 0..MAX_OPTIONS {
        assert_eq!(ask(&mut negotiation, 999, &[]).0, [answer::ERR_UNSUP]);
    }
    assert_eq!(
        ask(&mut negotiation, option::LIST, &[]).1,
        Next::Close(Closed::TooMany)
    );
    assert_eq!(
        ask(&mut begun(TlsState::Off), option::ABORT, &[]).1,
        Next::Close(Closed::Aborted)
    );
    for number in [option::INFO, option::LIST, option::STRUCTURED_REPLY] {
        assert_eq!(
            ask(&mut begun(TlsState::Off), number, b"x").0,
            [answer::ERR_INVALID]
        );
    }
}

proptest! {
    #[test]
    fn any_cut_of_the_stream_gives_the_same_answers(
        numbers in prop::collection::vec((0u32..12, prop::collection::vec(any::<u8>(), 0..40)), 0..20),
        cut in 1usize..40,
    ) {
        let mut input = 3u32.to_be_bytes().to_vec();
        for (number, data) in &numbers {
            input.extend(option(*number, data));
        }
        let mut whole_out = Vec::new();
        let mut whole = Negotiation::new(TlsState::Off, &mut whole_out);
        let (_, whole_next) = whole.step(&input, &One, &mut whole_out);
        let mut out = Vec::new();
        let mut pieces = Negotiation::new(TlsState::Off, &mut out);
        let (mut buffer, mut next) = (Vec::new(), Next::More);
        for piece in input.chunks(cut) {
            if next != Next::More {
                break;
            }
            buffer.extend_from_slice(piece);
            let (taken, after) = pieces.step(&buffer, &One, &mut out);
            buffer.drain(..taken);
            next = after;
        }
        prop_assert_eq!(out, whole_out);
        prop_assert_eq!(next, whole_next);
    }

    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300), required in any::<bool>()) {
        let tls = if required { TlsState::Required } else { TlsState::Off };
        let mut out = Vec::new();
        let mut negotiation = Negotiation::new(tls, &mut out);
        let (taken, _) = negotiation.step(&bytes, &One, &mut out);
        prop_assert!(taken <= bytes.len());
    }
}
