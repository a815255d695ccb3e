//! NBD requests: what is accepted lies inside of the device, is aligned and bounded; replies to it can be encoded.
#![no_main]

use hikube_blockdev::nbd::negotiate::{ExportInfo, MAX_REQUEST_BYTES, Session};
use hikube_blockdev::nbd::reply::{Outcome, put_reply};
use hikube_blockdev::nbd::request::{Command, REQUEST_BYTES, Request, judge};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, u64, &[u8])| {
    let (options, size, bytes) = input;
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
        allocation: options & 8 != 0 && options & 16 != 0,
    };
    for header in bytes.as_chunks::<REQUEST_BYTES>().0 {
        let mut header = *header;
        if options & 32 != 0 {
            // Otherwise little gets past the magic word.
            header[..4].copy_from_slice(&0x2560_9513u32.to_be_bytes());
        }
        let Ok(request) = Request::parse(&header) else {
            continue;
        };
        let outcome = match judge(&request, &session, size) {
            Err(refusal) => Outcome::Failed {
                errno: refusal.errno,
                why: refusal.why,
            },
            Ok(Command::Disconnect | Command::Flush) => Outcome::Done,
            Ok(command) => {
                let end = request.offset.checked_add(u64::from(request.len));
                assert!(end.is_some_and(|end| end <= size));
                assert!(request.offset % u64::from(session.export.block_bytes) == 0);
                if matches!(command, Command::Write { .. } | Command::Zero { .. }) {
                    assert!(!session.export.read_only);
                }
                if matches!(command, Command::Read { .. } | Command::Write { .. }) {
                    assert!(request.len <= MAX_REQUEST_BYTES);
                }
                Outcome::Done
            }
        };
        let mut out = Vec::new();
        assert!(put_reply(&mut out, session.structured, request.cookie, outcome).is_none());
        assert!(out.len() >= 16);
    }
});
