//! Numbers as people read them.

/// A measurement in as many digits as mean something.
pub fn number(value: f64) -> String {
    match value.abs() {
        0.0..10.0 => format!("{value:.2}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => in_threes(&format!("{value:.0}")),
    }
}

/// A count with a comma before each three digits.
pub fn grouped(count: u32) -> String {
    in_threes(&count.to_string())
}

/// Digits, perhaps after a sign, with a comma before each three.
fn in_threes(digits: &str) -> String {
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits), |digits| ("-", digits));
    let mut text = sign.to_owned();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measurements_have_as_many_digits_as_mean_something() {
        assert_eq!(
            [1.234, 12.34, 123.4, 1_234_567.0, -5.0, -1_234.0].map(number),
            ["1.23", "12.3", "123", "1,234,567", "-5.00", "-1,234"]
        );
    }

    #[test]
    fn digits_come_in_threes() {
        assert_eq!([7, 1_000, 1_234_567].map(grouped), ["7", "1,000", "1,234,567"]);
    }
}
