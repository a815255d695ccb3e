//! The wire format of protocol buffers: fields with numbers, and nothing else.

/// A body is not what its content type says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not valid protobuf: {0}")]
pub struct WireError(pub &'static str);

/// The value of a field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Field<'a> {
    /// Integers and booleans.
    Number(u64),
    /// Floating point numbers and fixed-width integers.
    Fixed(u64),
    /// Text, bytes and messages.
    Bytes(&'a [u8]),
}

/// Walks the fields of a message.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the beginning of a message.
    pub(super) fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// The next field with its number; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<(u32, Field<'a>)>, WireError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let number = u32::try_from(key >> 3).map_err(|_| WireError("field number"))?;
        let field = match key & 7 {
            0 => Field::Number(self.varint()?),
            1 => Field::Fixed(u64::from_le_bytes(
                self.take(8)?.try_into().map_err(|_| WireError("fixed64"))?,
            )),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| WireError("length"))?;
                Field::Bytes(self.take(length)?)
            }
            5 => {
                let bytes = self.take(4)?.try_into().map_err(|_| WireError("fixed32"))?;
                Field::Fixed(u64::from(u32::from_le_bytes(bytes)))
            }
            _ => return Err(WireError("wire type")),
        };
        Ok(Some((number, field)))
    }

    fn varint(&mut self) -> Result<u64, WireError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.rest.split_first().ok_or(WireError("truncated"))?;
            self.rest = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(WireError("number too long"))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(WireError("truncated"))?;
        self.rest = rest;
        Ok(taken)
    }
}

/// Appends a number.
pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends an integer or boolean field.
pub(super) fn put_number(out: &mut Vec<u8>, number: u32, value: u64) {
    put_varint(out, u64::from(number) << 3);
    put_varint(out, value);
}

/// Appends a floating point field.
pub(super) fn put_double(out: &mut Vec<u8>, number: u32, value: f64) {
    put_varint(out, u64::from(number) << 3 | 1);
    out.extend_from_slice(&value.to_bits().to_le_bytes());
}

/// Appends a field of text, bytes or a finished message.
pub(super) fn put_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_varint(out, u64::from(number) << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends a message that `write` appends; its length is put before it afterwards.
pub(super) fn put_message<E>(
    out: &mut Vec<u8>,
    number: u32,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    put_varint(out, u64::from(number) << 3 | 2);
    // Most messages are shorter than 128 bytes: their length takes one byte, which is reserved.
    let start = out.len();
    out.push(0);
    write(out)?;
    let length = out.len() - start - 1;
    if length < 0x80 {
        out[start] = length as u8;
    } else {
        let mut prefix = Vec::with_capacity(5);
        put_varint(&mut prefix, length as u64);
        out.splice(start..=start, prefix);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for size in [0, 1, 127, 128, 300, 20_000] {
            let mut out = Vec::new();
            put_number(&mut out, 3, u64::MAX);
            put_double(&mut out, 2000, -0.5);
            put_message::<WireError>(&mut out, 7, |out| {
                out.resize(out.len() + size, 9);
                Ok(())
            })
            .unwrap();
            put_bytes(&mut out, 1, b"end");
            let mut reader = Reader::new(&out);
            assert_eq!(reader.next(), Ok(Some((3, Field::Number(u64::MAX)))));
            assert_eq!(reader.next(), Ok(Some((2000, Field::Fixed((-0.5f64).to_bits())))));
            assert_eq!(reader.next(), Ok(Some((7, Field::Bytes(&vec![9; size])))));
            assert_eq!(reader.next(), Ok(Some((1, Field::Bytes(b"end")))));
            assert_eq!(reader.next(), Ok(None));
        }
    }
}
