//! The text of a notification: lines `NAME=value`.

/// Longest name, bytes (sd_pid_notify_with_fds(3)).
const MAX_NAME: usize = 255;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// Keep the descriptor that comes along.
    Store(String),
    /// Close what is kept under the name.
    Remove(String),
}

impl Message {
    /// What to send.
    pub fn text(&self) -> String {
        match self {
            Message::Store(name) => format!("FDSTORE=1\nFDNAME={name}\n"),
            Message::Remove(name) => format!("FDSTOREREMOVE=1\nFDNAME={name}\n"),
        }
    }

    /// Reads a notification; `None` if it is about other things or has no usable name.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let (mut name, mut store, mut remove) = (None, false, false);
        for line in text.lines() {
            match line.split_once('=') {
                Some(("FDNAME", value)) => name = Some(value),
                Some(("FDSTORE", "1")) => store = true,
                Some(("FDSTOREREMOVE", "1")) => remove = true,
                _ => {}
            }
        }
        let name = name.filter(|name| valid(name))?.to_owned();
        match (store, remove) {
            (true, false) => Some(Message::Store(name)),
            (false, true) => Some(Message::Remove(name)),
            _ => None,
        }
    }
}

/// Names go into an environment variable, separated by colons.
pub(crate) fn valid(name: &str) -> bool {
    let good = |c: char| c.is_ascii() && !c.is_ascii_control() && c != ':';
    !name.is_empty() && name.len() <= MAX_NAME && name.chars().all(good)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_understood() {
        for message in [
            Message::Store("fuse.v-1".into()),
            Message::Remove("fuse.v-1".into()),
        ] {
            assert_eq!(Message::parse(message.text().as_bytes()), Some(message));
        }
    }

    #[test]
    fn what_is_not_about_descriptors_is_passed_over() {
        let cases: [&[u8]; 7] = [
            b"READY=1\nSTATUS=up",
            b"FDSTORE=1",
            b"FDSTORE=1\nFDNAME=",
            b"FDSTORE=1\nFDNAME=a:b",
            b"FDSTORE=1\nFDSTOREREMOVE=1\nFDNAME=a",
            b"FDSTORE=0\nFDNAME=a",
            b"FDSTORE=1\nFDNAME=\xff",
        ];
        for text in cases {
            assert_eq!(Message::parse(text), None, "{}", String::from_utf8_lossy(text));
        }
        let long = format!("FDSTORE=1\nFDNAME={}", "x".repeat(256));
        assert_eq!(Message::parse(long.as_bytes()), None);
        // Other lines may stand between.
        let text = b"MAINPID=3\nFDNAME=a b\nFDPOLL=0\nFDSTORE=1\n";
        assert_eq!(Message::parse(text), Some(Message::Store("a b".into())));
    }
}
