//! Sizes as the API writes them, in bytes.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Bytes of a quantity, rounded up; `None` for what is no quantity, is negative or does not fit.
pub(super) fn bytes(quantity: &Quantity) -> Option<i64> {
    let text = quantity.0.trim();
    let number_end = text
        .find(|c: char| !c.is_ascii_digit() && !matches!(c, '.' | '+' | '-'))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(number_end);
    let binary = |power: u32| 1024_i128.checked_pow(power).map(|n| (n, 1));
    let decimal = |power: u32| 10_i128.checked_pow(power).map(|n| (n, 1));
    let (times, over) = match suffix {
        "" => Some((1, 1)),
        "m" => Some((1, 1000)),
        "u" => Some((1, 1_000_000)),
        "n" => Some((1, 1_000_000_000)),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        exponent => match exponent.strip_prefix(['e', 'E'])?.parse::<i32>().ok()? {
            power @ 0.. => decimal(power.unsigned_abs()),
            power => 10_i128.checked_pow(power.unsigned_abs()).map(|n| (1, n)),
        },
    }?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let scale = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let (product, divisor) = (digits.checked_mul(times)?, scale.checked_mul(over)?);
    let rounded = product.checked_add(divisor - 1)?.div_euclid(divisor);
    i64::try_from(rounded).ok().filter(|b| *b >= 0)
}

/// The quantity of so many bytes, in the largest binary unit that shows it exactly.
pub(super) fn quantity(bytes: i64) -> Quantity {
    let units = ["", "Ki", "Mi", "Gi", "Ti", "Pi"];
    let mut value = bytes;
    let mut unit = 0;
    while value != 0 && value % 1024 == 0 && unit + 1 < units.len() {
        value /= 1024;
        unit += 1;
    }
    Quantity(format!("{value}{}", units[unit]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_are_read_as_the_api_means_them() {
        let cases = [
            ("1Gi", Some(1 << 30)),
            ("1.5Gi", Some(3 << 29)),
            ("1G", Some(1_000_000_000)),
            ("1e3", Some(1000)),
            ("1E3", Some(1000)),
            ("2E", Some(2_000_000_000_000_000_000)),
            ("1500m", Some(2)),
            ("0", Some(0)),
            ("12", Some(12)),
            ("-1", None),
            ("1Xi", None),
            ("", None),
            ("1.2.3", None),
            ("99999999999999999999", None),
            ("1e99", None),
        ];
        for (text, expected) in cases {
            assert_eq!(bytes(&Quantity(text.into())), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn bytes_come_back(value in 0_i64..) {
            prop_assert_eq!(bytes(&quantity(value)), Some(value));
        }

        #[test]
        fn no_text_is_too_odd(text in ".{0,30}") {
            let _ = bytes(&Quantity(text));
        }
    }
}
