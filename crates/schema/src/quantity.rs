//! Resource quantities: `500m`, `1Gi`, `2e3`, in upstream's canonical form.

use std::cmp::Ordering;
use std::fmt;

/// Why a text is not a quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not of the form number and suffix.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// No such suffix.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// How a quantity is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// With powers of 1000: `500m`, `2k`.
    Decimal,
    /// With powers of 1024: `1Gi`.
    Binary,
    /// With an exponent: `2e3`.
    Exponent,
}

/// A fixed-point number of billionths (as precise as upstream) with the format that it was written in.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

const NANO: i128 = 1_000_000_000;

/// Above this, upstream caps (2^63 - 1 whole units).
const MAX_NANOS: i128 = (i64::MAX as i128) * NANO;

const DECIMAL: &[(&str, i32)] = &[
    ("n", -9),
    ("u", -6),
    ("m", -3),
    ("", 0),
    ("k", 3),
    ("M", 6),
    ("G", 9),
    ("T", 12),
    ("P", 15),
    ("E", 18),
];
const BINARY: &[(&str, u32)] = &[
    ("", 0),
    ("Ki", 10),
    ("Mi", 20),
    ("Gi", 30),
    ("Ti", 40),
    ("Pi", 50),
    ("Ei", 60),
];

impl Quantity {
    /// Zero.
    pub const ZERO: Quantity = Quantity {
        nanos: 0,
        format: Format::Decimal,
    };

    /// Parses a quantity. Digits beyond a billionth are rounded away from zero, as upstream does.
    pub fn parse(text: &str) -> Result<Quantity, QuantityError> {
        let (negative, rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            Some(_) => (false, text),
            None => return Err(QuantityError::Format),
        };
        let digits_end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(digits_end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
            return Err(QuantityError::Format);
        }
        let (format, scale) = parse_suffix(suffix)?;
        let magnitude = scaled_nanos(whole, fraction, scale);
        let nanos = if negative { -magnitude } else { magnitude };
        Ok(Quantity { nanos, format })
    }

    /// A whole number of units.
    pub fn from_units(units: i64) -> Quantity {
        Quantity {
            nanos: i128::from(units) * NANO,
            format: Format::Decimal,
        }
    }

    /// A number of bytes or the like, written with powers of 1024.
    pub fn from_bytes(bytes: i64) -> Quantity {
        Quantity {
            nanos: i128::from(bytes) * NANO,
            format: Format::Binary,
        }
    }

    /// A number of thousandths.
    pub fn from_millis(millis: i64) -> Quantity {
        Quantity {
            nanos: i128::from(millis) * 1_000_000,
            format: Format::Decimal,
        }
    }

    /// Whole units, rounded up.
    pub fn units(&self) -> i64 {
        clamp(div_ceil(self.nanos, NANO))
    }

    /// Thousandths, rounded up.
    pub fn millis(&self) -> i64 {
        clamp(div_ceil(self.nanos, 1_000_000))
    }

    /// Billionths.
    pub fn nanos(&self) -> i128 {
        self.nanos
    }

    /// The format that it is written in.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Less than zero.
    pub fn is_negative(&self) -> bool {
        self.nanos < 0
    }

    /// Zero.
    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    /// Whether it is a whole number of units.
    pub fn is_whole(&self) -> bool {
        self.nanos % NANO == 0
    }

    /// The sum, in this quantity's format unless that is zero.
    #[must_use]
    pub fn plus(&self, other: &Quantity) -> Quantity {
        let format = if self.is_zero() { other.format } else { self.format };
        Quantity {
            nanos: self.nanos + other.nanos,
            format,
        }
    }

    /// The difference, in this quantity's format.
    #[must_use]
    pub fn minus(&self, other: &Quantity) -> Quantity {
        Quantity {
            nanos: self.nanos - other.nanos,
            format: self.format,
        }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Quantity) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Quantity) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Quantity) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl std::str::FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Quantity, QuantityError> {
        Quantity::parse(text)
    }
}

impl fmt::Display for Quantity {
    /// The canonical form: no fraction, the largest suffix that keeps the number whole.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        // Upstream writes binary quantities with a fraction, or below 1024, in decimal.
        if self.format == Format::Binary && self.is_whole() && (self.nanos / NANO).abs() >= 1024 {
            let mut number = self.nanos / NANO;
            let mut step = 0;
            while number % 1024 == 0 && step + 1 < BINARY.len() {
                number /= 1024;
                step += 1;
            }
            return write!(f, "{number}{}", BINARY[step].0);
        }
        let mut number = self.nanos;
        let mut step = 0;
        while number % 1000 == 0 && step + 1 < DECIMAL.len() {
            number /= 1000;
            step += 1;
        }
        let (suffix, exponent) = DECIMAL[step];
        match self.format {
            Format::Exponent if exponent != 0 => write!(f, "{number}e{exponent}"),
            _ => write!(f, "{number}{suffix}"),
        }
    }
}

/// What a number is multiplied by.
#[derive(Clone, Copy)]
enum Scale {
    Ten(i32),
    Two(u32),
}

fn parse_suffix(suffix: &str) -> Result<(Format, Scale), QuantityError> {
    if let Some((_, power)) = DECIMAL.iter().find(|(s, _)| *s == suffix) {
        return Ok((Format::Decimal, Scale::Ten(*power)));
    }
    if let Some((_, power)) = BINARY.iter().find(|(s, _)| *s == suffix) {
        return Ok((Format::Binary, Scale::Two(*power)));
    }
    if let Some(exponent) = suffix.strip_prefix(['e', 'E']) {
        let exponent = exponent.strip_prefix('+').unwrap_or(exponent);
        let power: i32 = exponent.parse().map_err(|_| QuantityError::Suffix)?;
        return Ok((Format::Exponent, Scale::Ten(power)));
    }
    if suffix.chars().all(|c| "eEinumkKMGTP+-0123456789".contains(c)) {
        Err(QuantityError::Suffix)
    } else {
        Err(QuantityError::Format)
    }
}

/// The number in billionths, rounded up, capped at the largest that upstream holds.
fn scaled_nanos(whole: &str, fraction: &str, scale: Scale) -> i128 {
    /// Summed in 10^-18, so that the fraction of a binary multiple is exact.
    const FINE: i32 = 18;
    const MAX_FINE: i128 = MAX_NANOS * NANO;
    let (ten, two) = match scale {
        Scale::Ten(power) => (power, 0),
        Scale::Two(power) => (0, power),
    };
    let (mut sum, mut lost) = (0_i128, false);
    let highest = i32::try_from(whole.len())
        .unwrap_or(i32::MAX)
        .saturating_add(FINE - 1)
        .saturating_add(ten);
    for (index, digit) in whole.bytes().chain(fraction.bytes()).enumerate() {
        if digit == b'0' {
            continue;
        }
        let power = highest.saturating_sub(i32::try_from(index).unwrap_or(i32::MAX));
        match u32::try_from(power) {
            Ok(power) if power > 37 => return MAX_NANOS,
            Ok(power) => {
                sum = sum
                    .saturating_add(i128::from(digit - b'0') * 10_i128.pow(power))
                    .min(MAX_FINE);
            }
            Err(_) => lost = true,
        }
    }
    for _ in 0..two {
        sum = sum.saturating_mul(2).min(MAX_FINE);
    }
    let nanos = div_ceil(sum, NANO);
    if lost && sum % NANO == 0 {
        (nanos + 1).min(MAX_NANOS)
    } else {
        nanos
    }
}

fn div_ceil(a: i128, b: i128) -> i128 {
    let quotient = a / b;
    if a % b > 0 { quotient + 1 } else { quotient }
}

fn clamp(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn canonical(text: &str) -> String {
        Quantity::parse(text).unwrap().to_string()
    }

    #[test]
    fn canonical_forms() {
        for (text, expected) in [
            ("0", "0"),
            ("0Ki", "0"),
            ("1024Mi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("0.5", "500m"),
            ("0.1", "100m"),
            ("1000m", "1"),
            ("1000", "1k"),
            ("100Ki", "100Ki"),
            ("0.5Ki", "512"),
            ("1e3", "1e3"),
            ("9E", "9E"),
            ("12E", "9223372036854775807"),
            ("1.5e3", "1500"),
            ("-1.5", "-1500m"),
            ("+2", "2"),
            (".5", "500m"),
            ("5.", "5"),
            ("1n", "1n"),
            ("0.1n", "1n"),
            ("100u", "100u"),
            ("128974848", "128974848"),
            ("129e6", "129e6"),
            ("129M", "129M"),
            ("123Mi", "123Mi"),
            ("9223372036854775807", "9223372036854775807"),
        ] {
            assert_eq!(canonical(text), expected, "{text}");
        }
    }

    #[test]
    fn bad_quantities() {
        for text in ["", "x", "-", "1.1.1", "1Gb", "1 Gi", "1gi", "0x10", "Ki"] {
            assert_eq!(
                Quantity::parse(text).unwrap_err(),
                QuantityError::Format,
                "{text}"
            );
        }
        for text in ["1KiKi", "1e", "1mm", "1Kii"] {
            assert_eq!(
                Quantity::parse(text).unwrap_err(),
                QuantityError::Suffix,
                "{text}"
            );
        }
    }

    #[test]
    fn comparison_ignores_format() {
        assert_eq!(Quantity::parse("1Ki").unwrap(), Quantity::parse("1024").unwrap());
        assert!(Quantity::parse("1Gi").unwrap() > Quantity::parse("1G").unwrap());
        assert_eq!(Quantity::parse("1500m").unwrap().units(), 2);
        assert_eq!(Quantity::parse("1.5").unwrap().millis(), 1500);
    }

    proptest! {
        #[test]
        fn canonical_form_round_trips(number in -1_000_000_i64..1_000_000, fraction in 0_u32..1000,
                                      suffix in "(n|u|m||k|M|G|Ki|Mi|Gi|e3|E-3)") {
            let text = format!("{number}.{fraction:03}{suffix}");
            let quantity = Quantity::parse(&text).unwrap();
            let again = Quantity::parse(&quantity.to_string()).unwrap();
            prop_assert_eq!(quantity, again);
            prop_assert_eq!(again.to_string(), quantity.to_string());
        }
    }
}
