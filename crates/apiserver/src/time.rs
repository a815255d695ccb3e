//! Times as the API writes them.

use jiff::Timestamp;

/// Now, in whole seconds since 1970.
pub fn unix_seconds() -> i64 {
    Timestamp::now().as_second()
}

/// `2026-01-02T03:04:05Z` of seconds since 1970.
pub fn format(seconds: i64) -> String {
    Timestamp::from_second(seconds).unwrap_or_default().to_string()
}

/// Now, in whole seconds.
pub fn now() -> String {
    format(unix_seconds())
}

/// Seconds since 1970 of an RFC 3339 time.
pub fn parse(text: &str) -> Option<i64> {
    text.parse::<Timestamp>().ok().map(Timestamp::as_second)
}

#[cfg(test)]
mod tests {
    #[test]
    fn times() {
        assert_eq!(super::format(0), "1970-01-01T00:00:00Z");
        assert_eq!(super::parse("1970-01-01T00:01:00.5Z"), Some(60));
        assert_eq!(super::parse("x"), None);
    }
}
