//! Figures as people read them: three significant digits.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods)]

use crate::stats::Summary;

/// Three significant digits, never in scientific notation.
pub fn short(value: f64) -> String {
    if value == 0.0 {
        return String::from("0");
    }
    let magnitude = value.abs().log10().floor() as i32;
    let decimals = (2 - magnitude).clamp(0, 6) as usize;
    format!("{value:.decimals$}")
}

/// A median with the range it lies in; a single sample alone.
pub fn with_spread(summary: &Summary) -> String {
    if summary.count < 2 {
        return short(summary.median);
    }
    let (low, high) = summary.spread();
    format!("{} ({}-{})", short(summary.median), short(low), short(high))
}

pub fn ratio(of: f64, to: f64) -> String {
    if to == 0.0 { String::from("-") } else { format!("{:.2}", of / to) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits() {
        let cases = [
            (0.0, "0"),
            (0.012345, "0.0123"),
            (0.5, "0.500"),
            (1.2345, "1.23"),
            (12.345, "12.3"),
            (123.45, "123"),
            (12345.0, "12345"),
            (0.000_000_12, "0.000000"),
        ];
        for (value, text) in cases {
            assert_eq!(short(value), text);
        }
    }

    #[test]
    fn spreads_and_ratios() {
        assert_eq!(with_spread(&Summary::of(&[1.0, 2.0, 3.0]).unwrap()), "2.00 (1.00-3.00)");
        assert_eq!(with_spread(&Summary::of(&[2.0]).unwrap()), "2.00");
        assert_eq!(ratio(1.0, 3.0), "0.33");
        assert_eq!(ratio(1.0, 0.0), "-");
    }
}
