//! Durations as Go writes them: `1m30s`, `200ms`, `1.5h`; `0` alone needs no unit.

use std::time::Duration;

/// Nanoseconds of each unit. A unit comes before those that it begins with.
const UNITS: [(&str, u128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000), // U+00B5, the micro sign
    ("μs", 1_000), // U+03BC, the Greek letter
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// The longest that Go can say, about 292 years.
const MAX: u128 = i64::MAX as u128;

/// Reads a duration. `None` if it is not one, is negative, or is longer than Go's longest.
pub fn parse(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total = 0_u128;
    while !rest.is_empty() {
        let (whole, after) = digits(rest);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => digits(after),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let unit = UNITS.iter().find_map(|(name, nanos)| Some((after.strip_prefix(name)?, *nanos)));
        let (after, nanos) = unit?;
        let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        total = total.checked_add(whole.checked_mul(nanos)?)?.checked_add(part(fraction, nanos))?;
        rest = after;
    }
    if total > MAX {
        return None;
    }
    Some(Duration::from_nanos(u64::try_from(total).ok()?))
}

fn digits(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

/// Nanoseconds of a decimal fraction of a unit; what is below one is dropped.
fn part(fraction: &str, nanos: u128) -> u128 {
    // An hour has 3.6e12 nanoseconds: no digit after the 13th counts.
    let (mut value, mut scale) = (0_u128, 1_u128);
    for digit in fraction.bytes().take(18) {
        value = value * 10 + u128::from(digit - b'0');
        scale *= 10;
    }
    value * nanos / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nanos(text: &str) -> Option<u128> {
        parse(text).map(|d| d.as_nanos())
    }

    #[test]
    fn durations_mean_what_they_mean_to_go() {
        assert_eq!(nanos("0"), Some(0));
        assert_eq!(nanos("0s"), Some(0));
        assert_eq!(nanos("1m30s"), Some(90_000_000_000));
        assert_eq!(nanos("200ms"), Some(200_000_000));
        assert_eq!(nanos("1.5h"), Some(5_400_000_000_000));
        assert_eq!(nanos("+5s"), Some(5_000_000_000));
        assert_eq!(nanos(".5s"), Some(500_000_000));
        assert_eq!(nanos("5.s"), Some(5_000_000_000));
        assert_eq!(nanos("1h1m1s1ms1us1ns"), Some(3_661_001_001_001));
        assert_eq!(nanos("1s1s"), Some(2_000_000_000));
        assert_eq!(nanos("7µs"), Some(7_000));
        assert_eq!(nanos("7μs"), Some(7_000));
        assert_eq!(nanos("0.3333333333333333333h"), Some(1_199_999_999_999));
        assert_eq!(nanos("9223372036854775807ns"), Some(MAX));
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "[0-9]{0,30}\\.?[0-9]{0,30}(ns|us|µs|ms|s|m|h|\\PC)?[0-9.hms]{0,9}") {
            if let Some(duration) = parse(&text) {
                proptest::prop_assert!(duration.as_nanos() <= MAX);
            }
        }
    }

    #[test]
    fn what_go_refuses_is_refused() {
        for text in
            ["", "+", "1", "1.5", "s", ".s", "1x", "1 s", "-1s", "1s2", "1e3s", "9223372036854775808ns", "3000000h"]
        {
            assert_eq!(nanos(text), None, "{text:?}");
        }
    }
}
