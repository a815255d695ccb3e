//! Kubernetes quantities (`500m`, `2Gi`, `1e3`) as whole numbers. Fractions round up, as upstream's
//! `Value` and `MilliValue` do.

/// The quantity in thousandths; for CPU. None when it is none.
pub fn milli(text: &str) -> Option<i64> {
    i64::try_from(divide_up(nano(text)?, 1_000_000)).ok()
}

/// The quantity in whole units; for bytes and counts. None when it is none.
pub fn whole(text: &str) -> Option<i64> {
    i64::try_from(divide_up(nano(text)?, 1_000_000_000)).ok()
}

fn divide_up(value: i128, by: i128) -> i128 {
    value.div_euclid(by) + i128::from(value.rem_euclid(by) != 0)
}

/// In units of 10^-9, the finest that quantities have.
fn nano(text: &str) -> Option<i128> {
    let text = text.trim();
    let end = text
        .find(|c: char| !matches!(c, '0'..='9' | '.' | '+' | '-'))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (negative, digits) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number.strip_prefix('+').unwrap_or(number)),
    };
    let (integer, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    // One sign at most.
    if digits.contains(['+', '-']) || (integer.is_empty() && fraction.is_empty()) {
        return None;
    }
    let mut mantissa: i128 = if integer.is_empty() {
        0
    } else {
        integer.parse().ok()?
    };
    let mut scale: i128 = 1;
    // More digits than this are below a billionth of the largest suffix.
    for digit in fraction.chars().take(18) {
        mantissa = mantissa
            .checked_mul(10)?
            .checked_add(i128::from(digit.to_digit(10)?))?;
        scale *= 10;
    }
    let value = mantissa.checked_mul(multiplier(suffix)?)?;
    let value = divide_up(value, scale);
    Some(if negative { -value } else { value })
}

fn multiplier(suffix: &str) -> Option<i128> {
    const UNIT: i128 = 1_000_000_000;
    let binary = |power: u32| 1024i128.checked_pow(power).map(|factor| factor * UNIT);
    match suffix {
        "n" => Some(1),
        "u" => Some(1_000),
        "m" => Some(1_000_000),
        "" => Some(UNIT),
        "k" => Some(UNIT * 1_000),
        "M" => Some(UNIT * 1_000_000),
        "G" => Some(UNIT * 1_000_000_000),
        "T" => Some(UNIT * 1_000_000_000_000),
        "P" => Some(UNIT * 1_000_000_000_000_000),
        "E" => Some(UNIT * 1_000_000_000_000_000_000),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            10i128.checked_pow(u32::try_from(exponent.checked_add(9)?).ok()?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        assert_eq!(milli("500m"), Some(500));
        assert_eq!(milli("2"), Some(2000));
        assert_eq!(milli("0.1"), Some(100));
        assert_eq!(milli("1u"), Some(1));
        assert_eq!(whole("1Gi"), Some(1 << 30));
        assert_eq!(whole("1.5Gi"), Some(3 << 29));
        assert_eq!(whole("1e3"), Some(1000));
        assert_eq!(whole("100k"), Some(100_000));
        assert_eq!(whole("128974848"), Some(128_974_848));
        assert_eq!(whole("1500m"), Some(2));
        assert_eq!(whole("-1"), Some(-1));
        for wrong in ["", "Gi", "1X", "1.2.3", "--1", "e3"] {
            assert_eq!(whole(wrong), None, "{wrong}");
        }
    }
}
