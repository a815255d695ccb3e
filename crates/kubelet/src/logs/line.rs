//! One line of a log. Pure.

use k8s_openapi::jiff::Timestamp;

/// A line in pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// When, as written.
    pub time: &'a [u8],
    /// `stdout` or `stderr`.
    pub stream: &'a [u8],
    /// The text goes on in the next line.
    pub partial: bool,
    /// The text.
    pub text: &'a [u8],
}

/// Takes a line without its line feed apart; `None` when it is not one of the format.
pub fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut pieces = line.splitn(4, |b| *b == b' ');
    let (time, stream, tags) = (pieces.next()?, pieces.next()?, pieces.next()?);
    if !matches!(stream, b"stdout" | b"stderr") {
        return None;
    }
    Some(Line {
        time,
        stream,
        partial: tags.split(|b| *b == b':').next() == Some(b"P"),
        text: pieces.next().unwrap_or_default(),
    })
}

/// Writes lines as a reader wants them.
#[derive(Clone, Debug, Default)]
pub struct Printer {
    /// Nothing older.
    pub since: Option<Timestamp>,
    /// With their times.
    pub timestamps: bool,
    /// Only `stdout` or `stderr`.
    pub stream: Option<String>,
    inside: bool,
}

impl Printer {
    /// A printer at the beginning of a line.
    pub fn new(since: Option<Timestamp>, timestamps: bool, stream: Option<String>) -> Self {
        Self {
            since,
            timestamps,
            stream,
            inside: false,
        }
    }

    /// Appends what a line shows to `out`.
    pub fn print(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let Some(line) = parse(line) else { return };
        if self.stream.as_ref().is_some_and(|s| s.as_bytes() != line.stream) {
            return;
        }
        if let Some(since) = self.since {
            let time = std::str::from_utf8(line.time)
                .ok()
                .and_then(|t| t.parse::<Timestamp>().ok());
            if time.is_none_or(|t| t < since) {
                return;
            }
        }
        if self.timestamps && !self.inside {
            out.extend_from_slice(line.time);
            out.push(b' ');
        }
        out.extend_from_slice(line.text);
        self.inside = line.partial;
        if !line.partial {
            out.push(b'\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn print(printer: &mut Printer, lines: &[&str]) -> String {
        let mut out = Vec::new();
        lines.iter().for_each(|l| printer.print(l.as_bytes(), &mut out));
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn joins_partial_lines() {
        let lines = [
            "2026-01-01T00:00:00Z stdout P ab",
            "2026-01-01T00:00:01Z stdout F c d",
            "rubbish",
        ];
        assert_eq!(print(&mut Printer::default(), &lines), "abc d\n");
        let mut timed = Printer {
            timestamps: true,
            ..Printer::default()
        };
        assert_eq!(print(&mut timed, &lines), "2026-01-01T00:00:00Z abc d\n");
    }

    #[test]
    fn skips_what_is_older() {
        let mut printer = Printer {
            since: Some("2026-01-01T00:00:01Z".parse().expect("a time")),
            ..Printer::default()
        };
        let lines = [
            "2026-01-01T00:00:00.9Z stdout F a",
            "2026-01-01T00:00:01.000000001Z stderr F b",
        ];
        assert_eq!(print(&mut printer, &lines), "b\n");
    }

    proptest! {
        #[test]
        fn never_panics(line in proptest::collection::vec(any::<u8>(), 0..60)) {
            let mut out = Vec::new();
            Printer { timestamps: true, since: Some(Timestamp::UNIX_EPOCH), ..Printer::default() }.print(&line, &mut out);
        }

        #[test]
        fn shows_the_text(text in "[^\n]{0,40}") {
            let line = format!("2026-01-01T00:00:00.123456789Z stderr F {text}");
            prop_assert_eq!(print(&mut Printer::default(), &[&line]), format!("{text}\n"));
        }
    }
}
