//! The NBD handshake: whatever a client sends, in whatever pieces, it neither panics nor answers without bound,
//! and the answers do not depend on where the stream was cut.
#![no_main]

use hikube_blockdev::nbd::negotiate::{ExportInfo, Exports, MAX_OPTIONS, Negotiation, Next, TlsState};
use libfuzzer_sys::fuzz_target;

/// More than the longest answer to one option.
const MAX_ANSWER_BYTES: usize = 16 << 10;

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

fn negotiate(tls: TlsState, pieces: &[&[u8]]) -> (Vec<u8>, Next) {
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
        assert!(taken <= buffer.len());
        buffer.drain(..taken);
        next = after;
    }
    (out, next)
}

fuzz_target!(|input: (u8, u8, &[u8])| {
    let (state, cut, bytes) = input;
    let tls = match state % 3 {
        0 => TlsState::Off,
        1 => TlsState::Required,
        _ => TlsState::Established,
    };
    let whole = negotiate(tls, &[bytes]);
    assert!(whole.0.len() <= 18 + MAX_OPTIONS as usize * MAX_ANSWER_BYTES);
    if tls == TlsState::Required {
        assert!(!matches!(whole.1, Next::Transmit(_)), "nothing is served without TLS");
    }
    // Under TLS-to-be, bytes that come too early are an attack when they come together, and not seen when cut.
    if tls != TlsState::Required {
        let pieces: Vec<&[u8]> = bytes.chunks(usize::from(cut) + 1).collect();
        assert_eq!(negotiate(tls, &pieces), whole);
    }
});
