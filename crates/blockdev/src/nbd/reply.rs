//! Replies: encoding. Pure functions.

use super::wire::{self, CHUNK_MAGIC, SIMPLE_REPLY_MAGIC, chunk};
use crate::{Allocation, Extent};
use bytes::{BufMut, Bytes};

/// Extents told in one reply; a client asks again for the rest.
pub const MAX_EXTENTS: usize = 8192;

/// What a request came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done.
    Done,
    /// Refused or failed.
    Failed {
        /// The protocol's number.
        errno: u32,
        /// In words, for clients with structured replies.
        why: &'static str,
    },
    /// Data that was read from `offset` on. With `whole` it must go as data, in one chunk.
    Data {
        /// First byte.
        offset: u64,
        /// The bytes.
        data: Bytes,
        /// DF.
        whole: bool,
    },
    /// Extents from the beginning of the range on.
    Extents {
        /// In order.
        extents: Vec<Extent>,
        /// Length of the range.
        len: u32,
        /// Only the first.
        one: bool,
    },
}

/// Appends a reply's bytes to `out`. Data is not copied: it is returned, and follows what was appended.
pub fn put_reply(out: &mut Vec<u8>, structured: bool, cookie: u64, outcome: Outcome) -> Option<Bytes> {
    if !structured {
        let (errno, data) = match outcome {
            Outcome::Failed { errno, .. } => (errno, None),
            Outcome::Data { data, .. } => (0, Some(data)),
            Outcome::Done | Outcome::Extents { .. } => (0, None),
        };
        out.put_u32(SIMPLE_REPLY_MAGIC);
        out.put_u32(errno);
        out.put_u64(cookie);
        return data;
    }
    let head = |out: &mut Vec<u8>, kind: u16, len: usize| {
        out.put_u32(CHUNK_MAGIC);
        out.put_u16(chunk::DONE);
        out.put_u16(kind);
        out.put_u64(cookie);
        out.put_u32(len as u32);
    };
    match outcome {
        Outcome::Done => head(out, chunk::NONE, 0),
        Outcome::Failed { errno, why } => {
            head(out, chunk::ERROR, 6 + why.len());
            out.put_u32(errno);
            out.put_u16(why.len() as u16);
            out.put_slice(why.as_bytes());
        }
        Outcome::Data { data, .. } if data.is_empty() => head(out, chunk::NONE, 0),
        Outcome::Data { offset, data, whole } if !whole && is_zero(&data) => {
            head(out, chunk::OFFSET_HOLE, 12);
            out.put_u64(offset);
            out.put_u32(data.len() as u32);
        }
        Outcome::Data { offset, data, .. } => {
            head(out, chunk::OFFSET_DATA, 8 + data.len());
            out.put_u64(offset);
            return Some(data);
        }
        Outcome::Extents { extents, len, one } => {
            let runs = descriptors(&extents, len, one);
            head(out, chunk::BLOCK_STATUS, 4 + runs.len() * 8);
            out.put_u32(wire::BASE_ALLOCATION_ID);
            for (len, state) in runs {
                out.put_u32(len);
                out.put_u32(state);
            }
        }
    }
    None
}

/// Extents as (length, state), neighbours of one state joined, not past `len`.
fn descriptors(extents: &[Extent], len: u32, one: bool) -> Vec<(u32, u32)> {
    let mut left = len;
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for extent in extents {
        let piece = extent.len.min(u64::from(left)) as u32;
        if piece == 0 {
            continue;
        }
        let state = match extent.state {
            Allocation::Data => 0,
            Allocation::Zero => wire::STATE_ZERO,
            Allocation::Hole => wire::STATE_HOLE | wire::STATE_ZERO,
        };
        let full = if one { 1 } else { MAX_EXTENTS };
        let count = runs.len();
        match runs.last_mut() {
            Some(last) if last.1 == state => last.0 += piece,
            _ if count == full => break,
            _ => runs.push((piece, state)),
        }
        left -= piece;
    }
    if runs.is_empty() {
        // A device that says nothing has data there.
        runs.push((len, 0));
    }
    runs
}

/// Whether all bytes are zero. Data that is not usually shows it in its first bytes.
pub fn is_zero(data: &[u8]) -> bool {
    let (words, rest) = data.as_chunks::<16>();
    words.iter().all(|word| u128::from_ne_bytes(*word) == 0) && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn extent() -> impl Strategy<Value = Extent> {
        let state = prop_oneof![
            Just(Allocation::Data),
            Just(Allocation::Zero),
            Just(Allocation::Hole)
        ];
        (0u64..5000, state).prop_map(|(len, state)| Extent { len, state })
    }

    proptest! {
        #[test]
        fn descriptors_cover_the_range_and_alternate(
            extents in prop::collection::vec(extent(), 0..20),
            len in 1u32..20_000,
            one in any::<bool>(),
        ) {
            let runs = descriptors(&extents, len, one);
            let total: u64 = runs.iter().map(|r| u64::from(r.0)).sum();
            let known: u64 = extents.iter().map(|e| e.len).sum();
            prop_assert!(total <= u64::from(len) && runs.iter().all(|r| r.0 > 0));
            prop_assert!(runs.windows(2).all(|w| w[0].1 != w[1].1));
            if one {
                prop_assert_eq!(runs.len(), 1);
            } else if known > 0 {
                prop_assert_eq!(total, known.min(u64::from(len)));
            }
        }

        #[test]
        fn zeroes_are_told_from_anything_else(len in 0usize..200, at in 0usize..200) {
            let mut data = vec![0; len];
            prop_assert!(is_zero(&data));
            if at < len {
                data[at] = 1;
                prop_assert!(!is_zero(&data));
            }
        }
    }

    #[test]
    fn data_of_a_client_that_wants_one_chunk_is_never_a_hole() {
        let outcome = |whole| Outcome::Data {
            offset: 5,
            data: Bytes::from_static(&[0; 64]),
            whole,
        };
        let mut out = Vec::new();
        assert_eq!(
            put_reply(&mut out, true, 1, outcome(true)).map(|d| d.len()),
            Some(64)
        );
        assert_eq!(out.len(), 20 + 8);
        out.clear();
        assert_eq!(put_reply(&mut out, true, 1, outcome(false)), None);
        assert_eq!((out[6..8].to_vec(), out.len()), (vec![0, 2], 20 + 12));
        out.clear();
        assert_eq!(
            put_reply(&mut out, false, 1, outcome(false)).map(|d| d.len()),
            Some(64)
        );
        assert_eq!(out.len(), 16);
    }
}
