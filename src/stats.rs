//! What a server measures of itself, and how it is written down: as the value that STATS answers.
//!
//! A figure is a number as of now, or a histogram of all that was counted since the server was started; of two answers the later
//! can be taken as [since](Stats::since) the earlier. The text is made for programs, and can be read:
//!
//! ```text
//! figure revision 18
//! histogram commit_write_ns 201215:3 202751:1
//! ```
//!
//! A histogram's samples are `value:count`, where values within a hundredth of each other are one.

use std::fmt;
use std::fmt::Write as _;

use hdrhistogram::Histogram as Hdr;

/// Most figures, and most histograms, that are taken from a server: more than it has, by far.
const MOST: usize = 1_000;
/// Longest name of one.
const NAME_MAX: usize = 64;
/// Digits of a value that are kept.
const DIGITS: u8 = 2;

/// How often which values came, each to within a hundredth.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram(Hdr<u64>);

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram(Hdr::new(DIGITS).expect("so many digits are supported"))
    }
}

impl Histogram {
    /// Counts a value.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    fn record_n(&mut self, value: u64, count: u64) {
        // It grows as far as values can go.
        self.0.record_n(value, count).expect("a histogram that resizes itself takes every value");
    }

    /// How many values were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The least value that at least this share of all, of 0 to 1, is no greater than; 0 without any.
    #[must_use]
    pub fn quantile(&self, share: f64) -> u64 {
        self.0.value_at_quantile(share)
    }

    /// The greatest value; 0 without any.
    #[must_use]
    pub fn max(&self) -> u64 {
        self.0.max()
    }

    /// The mean of all; 0 without any.
    #[must_use]
    pub fn mean(&self) -> f64 {
        self.0.mean()
    }

    /// What was counted since `earlier`, which is of the same counting.
    #[must_use]
    fn since(&self, earlier: &Histogram) -> Histogram {
        let mut rest = Histogram::default();
        for (value, count) in self.samples() {
            let count = count.saturating_sub(earlier.0.count_at(value));
            if count > 0 {
                rest.record_n(value, count);
            }
        }
        rest
    }

    fn samples(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter_recorded().map(|sample| (sample.value_iterated_to(), sample.count_at_value()))
    }
}

/// What a server tells of itself. Names are in its order, which is for histograms of a commit that of its stages.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stats {
    /// Numbers as of now.
    pub figures: Vec<(String, u64)>,
    /// What was counted since the start of the server. A name says the unit, if there is one.
    pub histograms: Vec<(String, Histogram)>,
}

/// What a server has told is not what this program understands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadStats(String);

impl fmt::Display for BadStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a line of statistics: `{}`", self.0)
    }
}

impl std::error::Error for BadStats {}

impl Stats {
    /// The figure of this name.
    #[must_use]
    pub fn figure(&self, name: &str) -> Option<u64> {
        self.figures.iter().find(|(known, _)| known == name).map(|(_, value)| *value)
    }

    /// The histogram of this name.
    #[must_use]
    pub fn histogram(&self, name: &str) -> Option<&Histogram> {
        self.histograms.iter().find(|(known, _)| known == name).map(|(_, histogram)| histogram)
    }

    /// What is now, and what was counted since `earlier` was told by the same process. One that was started since, or another one,
    /// has counted all of its own.
    #[must_use]
    pub fn since(&self, earlier: &Stats) -> Stats {
        let other = ["raft_id", "boot_epoch"].iter().any(|name| self.figure(name) != earlier.figure(name));
        let restarted = other || self.figure("uptime_ms") < earlier.figure("uptime_ms");
        let since = |(name, histogram): &(String, Histogram)| match earlier.histogram(name) {
            Some(earlier) if !restarted => (name.clone(), histogram.since(earlier)),
            _ => (name.clone(), histogram.clone()),
        };
        Stats { figures: self.figures.clone(), histograms: self.histograms.iter().map(since).collect() }
    }

    /// The text.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        for (name, value) in &self.figures {
            writeln!(text, "figure {name} {value}").expect("a string takes everything");
        }
        for (name, histogram) in &self.histograms {
            write!(text, "histogram {name}").expect("a string takes everything");
            for (value, count) in histogram.samples() {
                write!(text, " {value}:{count}").expect("a string takes everything");
            }
            text.push('\n');
        }
        text
    }

    /// Takes the text apart. A kind of line that is not known is of a later version, and passed over.
    ///
    /// # Errors
    /// When a line of a known kind is not as it should be.
    pub fn decode(text: &str) -> Result<Stats, BadStats> {
        let mut stats = Stats::default();
        for line in text.lines() {
            let mut words = line.split(' ');
            let bad = || BadStats(line.chars().take(80).flat_map(char::escape_debug).collect());
            let (kind, name) = (words.next(), words.next());
            // Neither a terminal nor a reader of JSON is to be surprised by a name, nor the memory by their number.
            let known = matches!(kind, Some("figure" | "histogram"));
            if known && !(name.is_some_and(is_name) && stats.figures.len().max(stats.histograms.len()) < MOST) {
                return Err(bad());
            }
            match (kind, name) {
                (Some("figure"), Some(name)) => {
                    let value = words.next().and_then(|word| word.parse().ok()).ok_or_else(bad)?;
                    stats.figures.push((name.to_owned(), value));
                }
                (Some("histogram"), Some(name)) => {
                    let mut histogram = Histogram::default();
                    for word in words {
                        let (value, count) = word.split_once(':').ok_or_else(bad)?;
                        let (Ok(value), Ok(count)) = (value.parse(), count.parse()) else { return Err(bad()) };
                        // As large as time is long, so that no line makes a histogram that takes much memory.
                        if value > u64::MAX >> 1 {
                            return Err(bad());
                        }
                        histogram.record_n(value, count);
                    }
                    stats.histograms.push((name.to_owned(), histogram));
                }
                _ => {}
            }
        }
        Ok(stats)
    }
}

/// Whether this may be the name of a figure: a word of small letters, digits and underscores.
fn is_name(name: &str) -> bool {
    (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(values: &[u64]) -> Stats {
        let mut histogram = Histogram::default();
        for value in values {
            histogram.record(*value);
        }
        Stats {
            figures: vec![("uptime_ms".into(), values.len() as u64)],
            histograms: vec![("a_ns".into(), histogram), ("b".into(), Histogram::default())],
        }
    }

    /// A bucket that became another on the way would shift every figure by a little.
    #[test]
    fn what_is_told_is_what_was_counted() {
        let told = stats(&[0, 1, 127, 128, 1_000, 201_234, 201_235, 7_000_000_000]);
        let text = told.encode();
        let heard = Stats::decode(&text).unwrap();
        assert_eq!(heard.encode(), text);
        assert_eq!(heard.figures, told.figures);
        let (a, b) = (told.histogram("a_ns").unwrap(), heard.histogram("a_ns").unwrap());
        assert_eq!((a.count(), a.quantile(0.5), a.quantile(0.99)), (8, b.quantile(0.5), b.quantile(0.99)));
        assert_eq!((b.count(), b.quantile(0.1)), (8, 0));
    }

    #[test]
    fn values_are_kept_to_a_hundredth() {
        let mut value = 1;
        while value < 1 << 50 {
            let mut histogram = Histogram::default();
            histogram.record(value);
            let kept = histogram.quantile(0.5);
            assert!(kept.abs_diff(value) * 100 <= value, "{value} became {kept}");
            value = value * 21 / 16 + 1;
        }
    }

    #[test]
    fn of_two_answers_the_later_is_counted_from_the_earlier_on() {
        let (earlier, later) = (stats(&[5, 5_000]), stats(&[5, 5_000, 5_000, 9]));
        let since = later.since(&earlier);
        assert_eq!(since.encode(), "figure uptime_ms 4\nhistogram a_ns 9:1 5023:1\nhistogram b\n");
        assert_eq!(earlier.since(&later), earlier, "it was started in between");
        for name in ["raft_id", "boot_epoch"] {
            let of = |stats: &Stats, id| Stats {
                figures: [&stats.figures[..], &[(name.into(), id)]].concat(),
                ..stats.clone()
            };
            assert_eq!(of(&later, 2).since(&of(&earlier, 1)).histograms, later.histograms, "another {name}");
            assert_eq!(of(&later, 1).since(&of(&earlier, 1)).histograms, since.histograms, "the same {name}");
        }
    }

    /// Servers of other versions, or no servers at all.
    #[test]
    fn what_is_no_statistics_is_refused_and_what_is_new_passed_over() {
        for bad in [
            "figure",
            "figure a",
            "figure a b",
            "histogram",
            "histogram a 5",
            "histogram a 5:x",
            "histogram a 18446744073709551615:1",
            "figure a\u{1b}[31m 5",
            "figure \"a\" 5",
            "figure  5",
        ] {
            let said = Stats::decode(bad).unwrap_err().to_string();
            assert!(said.chars().all(|c| !c.is_control()), "{bad}");
        }
        let many = |line: &str| line.repeat(MOST + 1);
        assert!(Stats::decode(&many("figure a 5\n")).is_err() && Stats::decode(&many("histogram a\n")).is_err());
        assert!(Stats::decode(&format!("figure {} 5", "a".repeat(NAME_MAX + 1))).is_err());
        let some = Stats::decode("\nflag a\nfigure a 7\nfigure b 8 more\n").unwrap();
        assert_eq!((some.figure("a"), some.figure("b"), some.figure("c")), (Some(7), Some(8), None));
    }
}
