//! How statistics are printed: as tables, and as JSON.

use std::fmt::Write as _;

use crate::stats::{Histogram, Stats};

/// What a histogram is told by.
const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999)];

/// Two tables: the figures, and the histograms, times in microseconds.
pub fn table(stats: &Stats) -> String {
    let mut text = String::new();
    for (name, value) in &stats.figures {
        writeln!(text, "{name:<24}{value:>16}").expect("a string takes everything");
    }
    let heads = ["count", "mean", "p50", "p90", "p99", "p99.9", "max"];
    write!(text, "\n{:<24}", "").expect("a string takes everything");
    for head in heads {
        write!(text, "{head:>12}").expect("a string takes everything");
    }
    text.push('\n');
    for (name, histogram) in &stats.histograms {
        // A time is told in microseconds, and its name says so.
        let (name, scale) = match name.strip_suffix("_ns") {
            Some(name) => (format!("{name}_us"), 1_000.0),
            None => (name.clone(), 1.0),
        };
        write!(text, "{name:<24}{:>12}", histogram.count()).expect("a string takes everything");
        let values = QUANTILES.map(|(_, share)| float(histogram.quantile(share)));
        for value in [&[histogram.mean()], &values[..], &[float(histogram.max())]].concat() {
            write!(text, "{:>12.1}", value / scale).expect("a string takes everything");
        }
        text.push('\n');
    }
    text
}

#[allow(clippy::cast_precision_loss, reason = "it is printed with a few digits")]
fn float(value: u64) -> f64 {
    value as f64
}

/// One object with `figures` and `histograms`; names need no escape, as they are words of the server's.
pub fn json(stats: &Stats) -> String {
    let figures: Vec<String> = stats.figures.iter().map(|(name, value)| format!("{name:?}:{value}")).collect();
    let told = |histogram: &Histogram| {
        let quantiles = QUANTILES.map(|(name, share)| format!("{name:?}:{}", histogram.quantile(share)));
        let (count, mean, max) = (histogram.count(), histogram.mean(), histogram.max());
        format!(r#"{{"count":{count},"mean":{mean:.1},{},"max":{max}}}"#, quantiles.join(","))
    };
    let histograms: Vec<String> =
        stats.histograms.iter().map(|(name, histogram)| format!("{name:?}:{}", told(histogram))).collect();
    format!("{{\"figures\":{{{}}},\"histograms\":{{{}}}}}\n", figures.join(","), histograms.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Stats {
        let mut histogram = Histogram::default();
        for value in [100_000, 100_000, 7_000_000] {
            histogram.record(value);
        }
        Stats {
            figures: vec![("revision".into(), 18)],
            histograms: vec![("commit_write_ns".into(), histogram.clone()), ("none".into(), Histogram::default())],
        }
    }

    #[test]
    fn times_are_told_in_microseconds() {
        let table = table(&some());
        let line = table.lines().find(|line| line.starts_with("commit_write_us")).unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!((words[1], words[3]), ("3", "100.4"), "{table}");
        assert!(table.starts_with("revision "), "{table}");
        assert!(table.lines().all(|line| line.len() <= 120), "{table}");
    }

    #[test]
    fn json_is_one_object_on_a_line() {
        let json = json(&some());
        assert!(
            json.starts_with(r#"{"figures":{"revision":18},"histograms":{"commit_write_ns":{"count":3,"mean":"#),
            "{json}"
        );
        let none = r#""none":{"count":0,"mean":0.0,"p50":0,"p90":0,"p99":0,"p999":0,"max":0}}}"#;
        assert!(json.ends_with(&format!("{none}\n")), "{json}");
    }
}
