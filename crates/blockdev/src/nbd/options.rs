//! Options of the handshake: parsing their data, encoding their answers. Pure functions.

use super::wire::{OPTION_MAGIC, OPTION_REPLY_MAGIC};
use bytes::{Buf, BufMut};

/// Longest data of an option, bytes: a name of 4096 bytes and some queries of that length.
pub const MAX_OPTION_BYTES: u32 = 64 << 10;
/// Longest name of an export, bytes: the protocol's own limit for strings.
pub const MAX_NAME_BYTES: usize = 4096;
/// Bytes before an option's data.
pub const OPTION_HEADER_BYTES: usize = 16;

/// An option as the client sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawOption<'a> {
    /// Which.
    pub number: u32,
    /// Its data.
    pub data: &'a [u8],
}

/// What the bytes so far are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Framed<'a> {
    /// Not all of it has come.
    Incomplete,
    /// It does not begin with the magic word: this is no NBD client, or it is out of step.
    NotAnOption,
    /// Its data would be longer than [`MAX_OPTION_BYTES`].
    TooLong {
        /// Which option.
        number: u32,
    },
    /// An option and how many bytes it took.
    Whole(RawOption<'a>, usize),
}

/// Cuts one option from the front of `input`.
pub fn frame(input: &[u8]) -> Framed<'_> {
    let Some(mut header) = input.get(..OPTION_HEADER_BYTES) else {
        // A wrong beginning is found at once, not once sixteen bytes have come.
        let known = input.len().min(8);
        if input[..known] != OPTION_MAGIC.to_be_bytes()[..known] {
            return Framed::NotAnOption;
        }
        return Framed::Incomplete;
    };
    if header.get_u64() != OPTION_MAGIC {
        return Framed::NotAnOption;
    }
    let (number, len) = (header.get_u32(), header.get_u32());
    if len > MAX_OPTION_BYTES {
        return Framed::TooLong { number };
    }
    let end = OPTION_HEADER_BYTES + len as usize;
    match input.get(OPTION_HEADER_BYTES..end) {
        None => Framed::Incomplete,
        Some(data) => Framed::Whole(RawOption { number, data }, end),
    }
}

/// Data of `INFO` and `GO`: the export's name and the types of information asked for.
pub fn parse_info(mut data: &[u8]) -> Option<(&str, Vec<u16>)> {
    let name = take_string(&mut data)?;
    let count = usize::from(data.try_get_u16().ok()?);
    if data.len() != count * 2 {
        return None;
    }
    let wanted = data.chunks_exact(2).map(|c| u16::from_be_bytes([c[0], c[1]]));
    Some((name, wanted.collect()))
}

/// Data of the options about metadata: the export's name and the queries.
pub fn parse_contexts(mut data: &[u8]) -> Option<(&str, Vec<&str>)> {
    let name = take_string(&mut data)?;
    let count = data.try_get_u32().ok()?;
    let mut queries = Vec::new();
    for _ in 0..count {
        queries.push(take_string(&mut data)?);
    }
    data.is_empty().then_some((name, queries))
}

/// Data of `EXPORT_NAME`: nothing but the name.
pub fn parse_name(data: &[u8]) -> Option<&str> {
    if data.len() > MAX_NAME_BYTES {
        return None;
    }
    std::str::from_utf8(data).ok()
}

fn take_string<'a>(data: &mut &'a [u8]) -> Option<&'a str> {
    let len = data.try_get_u32().ok()? as usize;
    if len > MAX_NAME_BYTES || len > data.len() {
        return None;
    }
    let (text, rest) = data.split_at(len);
    *data = rest;
    std::str::from_utf8(text).ok()
}

/// Appends an answer to `option`.
pub fn put_answer(out: &mut Vec<u8>, option: u32, kind: u32, data: &[u8]) {
    out.put_u64(OPTION_REPLY_MAGIC);
    out.put_u32(option);
    out.put_u32(kind);
    out.put_u32(data.len() as u32);
    out.put_slice(data);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn option(number: u32, data: &[u8]) -> Vec<u8> {
        let mut bytes = OPTION_MAGIC.to_be_bytes().to_vec();
        bytes.extend(number.to_be_bytes());
        bytes.extend((data.len() as u32).to_be_bytes());
        bytes.extend(data);
        bytes
    }

    fn string(text: &str) -> Vec<u8> {
        let mut bytes = (text.len() as u32).to_be_bytes().to_vec();
        bytes.extend(text.as_bytes());
        bytes
    }

    proptest! {
        #[test]
        fn an_option_is_whole_only_with_its_last_byte(
            number in any::<u32>(),
            data in prop::collection::vec(any::<u8>(), 0..100),
            rest in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let mut bytes = option(number, &data);
            let len = bytes.len();
            for cut in 0..len {
                prop_assert_eq!(frame(&bytes[..cut]), Framed::Incomplete);
            }
            bytes.extend(rest);
            prop_assert_eq!(frame(&bytes), Framed::Whole(RawOption { number, data: &data }, len));
        }

        #[test]
        fn names_and_queries_come_back(
            name in "[a-z/é]{0,20}",
            wanted in prop::collection::vec(any::<u16>(), 0..5),
            queries in prop::collection::vec("[a-z:]{0,9}", 0..5),
        ) {
            let mut data = string(&name);
            data.extend((wanted.len() as u16).to_be_bytes());
            data.extend(wanted.iter().flat_map(|w| w.to_be_bytes()));
            prop_assert_eq!(parse_info(&data), Some((&name[..], wanted)));
            data.push(0);
            prop_assert_eq!(parse_info(&data), None);
            let mut data = string(&name);
            data.extend((queries.len() as u32).to_be_bytes());
            data.extend(queries.iter().flat_map(|q| string(q)));
            let found = parse_contexts(&data);
            prop_assert_eq!(found, Some((&name[..], queries.iter().map(String::as_str).collect())));
            for cut in 0..data.len() {
                prop_assert_eq!(parse_contexts(&data[..cut]), None);
            }
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = (frame(&bytes), parse_info(&bytes), parse_contexts(&bytes), parse_name(&bytes));
        }
    }

    #[test]
    fn what_is_not_nbd_is_found_at_its_first_wrong_byte() {
        assert_eq!(frame(b"GET"), Framed::NotAnOption);
        assert_eq!(frame(b"IHAVE"), Framed::Incomplete);
        let mut long = option(7, &[]);
        long[12..16].copy_from_slice(&(MAX_OPTION_BYTES + 1).to_be_bytes());
        assert_eq!(frame(&long), Framed::TooLong { number: 7 });
    }
}
