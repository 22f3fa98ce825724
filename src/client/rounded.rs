//! Times, rounded for people.

use std::fmt;
use std::time::Duration;

/// A time with two or three digits and its unit: `250 ms`, `1.5 s`, `8 s`, `95 s`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rounded(pub Duration);

impl fmt::Display for Rounded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let round = |unit: u128| (self.0.as_nanos() + unit / 2) / unit;
        if self.0.is_zero() {
            return f.write_str("0 s");
        }
        if round(1_000) < 1_000 {
            return write!(f, "{} µs", round(1_000));
        }
        if round(1_000_000) < 1_000 {
            return write!(f, "{} ms", round(1_000_000));
        }
        match round(100_000_000) {
            tenths if tenths < 100 && tenths % 10 != 0 => write!(f, "{}.{} s", tenths / 10, tenths % 10),
            tenths if tenths < 100 => write!(f, "{} s", tenths / 10),
            _ => write!(f, "{} s", round(1_000_000_000)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_as_many_digits_as_people_read() {
        for (nanos, text) in [
            (0, "0 s"),
            (1_499, "1 µs"),
            (999_600, "1 ms"),
            (200_000_000, "200 ms"),
            (999_499_999, "999 ms"),
            (999_500_000, "1 s"),
            (1_540_000_000, "1.5 s"),
            (7_999_876_000, "8 s"),
            (9_960_000_000, "10 s"),
            (19_999_876_543, "20 s"),
            (90_000_000_000, "90 s"),
        ] {
            assert_eq!(Rounded(Duration::from_nanos(nanos)).to_string(), text);
        }
    }
}
