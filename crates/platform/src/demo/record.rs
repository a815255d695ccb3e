//! Records of the demo: `<number> <checksum> <payload>`, one line each.

use sha2::{Digest, Sha256};

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// From 1, without gaps.
    pub number: u64,
    /// What was written: text without blanks or line ends.
    pub payload: String,
}

impl Record {
    /// The record that a client with this key writes under a number. It can be computed again by the check.
    pub fn new(key: &str, number: u64) -> Self {
        let payload = hex(&Sha256::digest(format!("{key}/{number}")));
        Self { number, payload }
    }

    /// The line that stands for it.
    pub fn line(&self) -> String {
        format!("{} {} {}\n", self.number, self.checksum(), self.payload)
    }

    /// Reads a line, and checks it.
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let number = words.next()?.parse().ok()?;
        let checksum = words.next()?;
        let payload = words.next()?.to_owned();
        let record = Self { number, payload };
        (words.next().is_none() && record.checksum() == checksum).then_some(record)
    }

    fn checksum(&self) -> String {
        let digest = Sha256::digest(format!("{} {}", self.number, self.payload));
        hex(&digest[..8])
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn lines_are_read_back_and_damage_shows(number: u64, key in "[a-z]{1,8}", at in 0usize..80) {
            let record = Record::new(&key, number);
            let line = record.line();
            prop_assert_eq!(Record::parse(line.trim_end()), Some(record));
            let mut damaged = line.trim_end().as_bytes().to_vec();
            let at = at % damaged.len();
            damaged[at] = if damaged[at] == b'7' { b'8' } else { b'7' };
            let damaged = String::from_utf8(damaged).expect("ASCII");
            prop_assert_eq!(Record::parse(&damaged), None);
        }

        #[test]
        fn no_line_makes_the_parser_panic(line in ".{0,100}") {
            let _ = Record::parse(&line);
        }
    }
}
