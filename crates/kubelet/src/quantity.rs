//! Kubernetes quantities (`500m`, `1.5`, `128Mi`, `2e3`) as integers, rounded up as upstream does.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Largest number of significant digits that is read; longer ones cannot be meant.
const MAX_DIGITS: usize = 24;

/// The value in units (bytes, cores), rounded up. `None` when it is not a quantity.
pub fn value(quantity: &Quantity) -> Option<i64> {
    scaled(&quantity.0, 1)
}

/// The value in thousandths (millicores), rounded up. `None` when it is not a quantity.
pub fn milli(quantity: &Quantity) -> Option<i64> {
    scaled(&quantity.0, 1000)
}

fn scaled(text: &str, scale: i128) -> Option<i64> {
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || whole.len() + fraction.len() > MAX_DIGITS {
        return None;
    }
    let digits: i128 = format!("0{whole}{fraction}").parse().ok()?;
    let (numerator, denominator) = multiplier(suffix)?;
    let denominator = denominator.checked_mul(10i128.checked_pow(u32::try_from(fraction.len()).ok()?)?)?;
    let product = digits.checked_mul(numerator)?.checked_mul(scale)?;
    let (quotient, remainder) = (product / denominator, product % denominator);
    // Away from zero, as upstream rounds.
    let magnitude = quotient + i128::from(remainder != 0);
    i64::try_from(if negative { -magnitude } else { magnitude }).ok()
}

/// What a suffix multiplies by, as a fraction.
fn multiplier(suffix: &str) -> Option<(i128, i128)> {
    let binary = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    if let Some(power) = binary.iter().position(|s| *s == suffix) {
        return Some((1i128 << (10 * (power + 1)), 1));
    }
    Some(match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1000),
        "k" => (1000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10i128.checked_pow(exponent.unsigned_abs().min(18))?;
            if exponent < 0 { (1, power) } else { (power, 1) }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn q(text: &str) -> Quantity {
        Quantity(text.into())
    }

    #[test]
    fn reads_what_upstream_reads() {
        assert_eq!(value(&q("128Mi")), Some(128 << 20));
        assert_eq!(value(&q("1.5Gi")), Some(3 << 29));
        assert_eq!(value(&q("2e3")), Some(2000));
        assert_eq!(value(&q("1k")), Some(1000));
        assert_eq!(value(&q("1m")), Some(1));
        assert_eq!(milli(&q("0.1")), Some(100));
        assert_eq!(milli(&q("250m")), Some(250));
        assert_eq!(milli(&q("2")), Some(2000));
        assert_eq!(milli(&q("1u")), Some(1));
        assert_eq!(value(&q("-1500m")), Some(-2));
    }

    #[test]
    fn refuses_what_is_none() {
        for text in ["", "Mi", "1Xi", "1.2.3", "e3", "99999999999999999999999999"] {
            assert_eq!(value(&q(text)), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in ".{0,24}") {
            let _ = value(&q(&text));
        }

        #[test]
        fn millis_of_whole_numbers(n in 0i64..1_000_000_000) {
            prop_assert_eq!(milli(&q(&n.to_string())), Some(n * 1000));
            prop_assert_eq!(milli(&q(&format!("{n}m"))), Some(n));
        }
    }
}
