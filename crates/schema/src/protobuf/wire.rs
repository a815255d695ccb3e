//! The wire format of protocol buffers: fields with numbers, and nothing else.

/// A body is not what its content type says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not valid protobuf: {0}")]
pub struct WireError(pub &'static str);

/// The value of a field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Field<'a> {
    /// Integers and booleans.
    Number(u64),
    /// Floating point numbers and fixed-width integers.
    Fixed(u64),
    /// Text, bytes and messages.
    Bytes(&'a [u8]),
}

/// Walks the fields of a message.
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the beginning of a message.
    pub fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// The next field with its number; `None` at the end.
    pub fn next(&mut self) -> Result<Option<(u32, Field<'a>)>, WireError> {
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
