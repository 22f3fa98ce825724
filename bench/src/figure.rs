//! What comes out: figures with their goals, as a table and as JSON.

use std::fmt;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::failure::{Context, Failure};

/// What a figure is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Unit {
    /// Microseconds.
    #[serde(rename = "us")]
    Micros,
    /// Seconds.
    #[serde(rename = "s")]
    Seconds,
    /// Operations a second.
    #[serde(rename = "1/s")]
    PerSecond,
    /// Megabytes, of 10^6 bytes.
    #[serde(rename = "MB")]
    Megabytes,
    /// Bytes.
    #[serde(rename = "B")]
    Bytes,
    /// Of the other.
    #[serde(rename = "ratio")]
    Ratio,
    /// Hundredths.
    #[serde(rename = "%")]
    Percent,
    /// Things.
    #[serde(rename = "count")]
    Count,
}

/// What a figure is to be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// This or less.
    AtMost(f64),
    /// This or more.
    AtLeast(f64),
}

/// Of several rounds: the one in the middle, the least, the most.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The one in the middle, or the mean of the two there.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
}

impl Spread {
    /// Of at least one value.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Spread {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let half = values.len() / 2;
        let median =
            if values.len().is_multiple_of(2) { f64::midpoint(values[half - 1], values[half]) } else { values[half] };
        Spread { median, min: values[0], max: values[values.len() - 1] }
    }
}

/// One measured number.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// What it is.
    pub name: String,
    /// What it is counted in.
    pub unit: Unit,
    /// The number, or the median of the rounds'.
    pub measured: f64,
    /// Least and most of the rounds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range: Option<(f64, f64)>,
    /// What it is to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub goal: Option<Goal>,
    /// Whether it is; absent where it cannot be judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub met: Option<bool>,
}

/// What one scenario has shown.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The scenario.
    pub scenario: &'static str,
    /// The figures, those with a goal among others that explain them.
    pub figures: Vec<Figure>,
    /// What else is to be known of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
    #[serde(skip)]
    judged: bool,
}

impl Report {
    /// An empty one. With small counts, goals are not `judged`.
    pub fn new(scenario: &'static str, judged: bool) -> Report {
        Report { scenario, figures: Vec::new(), remarks: Vec::new(), judged }
    }

    /// Adds a single number.
    pub fn add(&mut self, name: impl Into<String>, unit: Unit, measured: f64) -> &mut Figure {
        self.push(Figure { name: name.into(), unit, measured, range: None, goal: None, met: None })
    }

    /// Adds the numbers of several rounds.
    pub fn add_rounds(
        &mut self,
        name: impl Into<String>,
        unit: Unit,
        rounds: impl IntoIterator<Item = f64>,
    ) -> &mut Figure {
        let Spread { median, min, max } = Spread::of(rounds);
        let range = Some((min, max));
        self.push(Figure { name: name.into(), unit, measured: median, range, goal: None, met: None })
    }

    /// Adds three percentiles of the rounds' latencies.
    pub fn add_latencies(&mut self, name: &str, rounds: &[Histogram<u64>]) {
        for (label, quantile) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
            self.add_rounds(format!("{name} {label}"), Unit::Micros, rounds.iter().map(|r| micros(r, quantile)));
        }
    }

    fn push(&mut self, figure: Figure) -> &mut Figure {
        let at = self.figures.len();
        self.figures.push(figure);
        &mut self.figures[at]
    }

    /// Sets the goal of the figure that was added last.
    pub fn goal(&mut self, goal: Goal) {
        let judged = self.judged;
        if let Some(figure) = self.figures.last_mut() {
            figure.goal = Some(goal);
            figure.met = judged.then_some(match goal {
                Goal::AtMost(most) => figure.measured <= most,
                Goal::AtLeast(least) => figure.measured >= least,
            });
        }
    }
}

/// A scenario that is no result.
#[derive(Clone, Debug, Serialize)]
pub struct Failed {
    /// Its name.
    pub scenario: &'static str,
    /// Why.
    pub reason: String,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.scenario, self.reason)
    }
}

/// All that a run has shown.
#[derive(Debug, Serialize)]
pub struct Record<S> {
    /// Where and how it was measured.
    pub setting: S,
    /// What was.
    pub reports: Vec<Report>,
    /// What was to be measured, and failed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<Failed>,
}

impl<S: Serialize> Record<S> {
    /// An empty one.
    pub fn new(setting: S) -> Record<S> {
        Record { setting, reports: Vec::new(), failures: Vec::new() }
    }

    /// As JSON.
    ///
    /// # Errors
    /// A figure is not a number.
    pub fn json(&self) -> Result<String, Failure> {
        serde_json::to_string_pretty(self).context("cannot write JSON")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.scenario)?;
        table(f, self.figures.iter())?;
        for remark in &self.remarks {
            writeln!(f, "  note: {remark}")?;
        }
        writeln!(f)
    }
}

/// The figures that have goals, and what failed.
impl<S> fmt::Display for Record<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "summary")?;
        let named = self.reports.iter().flat_map(|report| {
            let with_goal = report.figures.iter().filter(|figure| figure.goal.is_some());
            with_goal.map(|figure| Figure { name: format!("{}: {}", report.scenario, figure.name), ..figure.clone() })
        });
        let figures: Vec<Figure> = named.collect();
        table(f, figures.iter())?;
        self.failures.iter().try_for_each(|failed| writeln!(f, "  FAILED  {failed}"))
    }
}

fn table<'a>(f: &mut fmt::Formatter<'_>, figures: impl Iterator<Item = &'a Figure>) -> fmt::Result {
    let heads = ["figure", "measured", "least .. most", "goal", ""].map(String::from);
    let rows: Vec<[String; 5]> = std::iter::once(heads).chain(figures.map(row)).collect();
    let widths: Vec<usize> =
        (0..5).map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
    for [name, measured, range, goal, verdict] in &rows {
        let line = format!(
            "  {name:<a$}  {measured:>b$}  {range:>c$}  {goal:>d$}  {verdict}",
            a = widths[0],
            b = widths[1],
            c = widths[2],
            d = widths[3],
        );
        writeln!(f, "{}", line.trim_end())?;
    }
    Ok(())
}

fn row(figure: &Figure) -> [String; 5] {
    let unit = figure.unit;
    let range = figure.range.map(|(min, max)| format!("{} .. {}", bare(unit, min), bare(unit, max)));
    let goal = figure.goal.map(|goal| match goal {
        Goal::AtMost(most) => format!("<= {}", with_unit(unit, most)),
        Goal::AtLeast(least) => format!(">= {}", with_unit(unit, least)),
    });
    let verdict = match (figure.goal, figure.met) {
        (None, _) => "",
        (Some(_), None) => "not judged",
        (Some(_), Some(true)) => "met",
        (Some(_), Some(false)) => "MISSED",
    };
    [
        figure.name.clone(),
        with_unit(unit, figure.measured),
        range.unwrap_or_default(),
        goal.unwrap_or_default(),
        verdict.to_string(),
    ]
}

fn bare(unit: Unit, number: f64) -> String {
    match unit {
        Unit::Micros | Unit::Megabytes | Unit::Percent => format!("{number:.1}"),
        Unit::Seconds | Unit::Ratio => format!("{number:.3}"),
        Unit::PerSecond | Unit::Bytes | Unit::Count => grouped(number),
    }
}

fn with_unit(unit: Unit, number: f64) -> String {
    let suffix = match unit {
        Unit::Micros => " us",
        Unit::Seconds => " s",
        Unit::PerSecond => " /s",
        Unit::Megabytes => " MB",
        Unit::Bytes => " B",
        Unit::Percent => " %",
        Unit::Ratio | Unit::Count => "",
    };
    bare(unit, number) + suffix
}

/// A whole number, with its thousands apart.
pub fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) && !out.ends_with('-') {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// A percentile of latencies in nanoseconds, in microseconds.
pub fn micros(latency: &Histogram<u64>, quantile: f64) -> f64 {
    float(latency.value_at_quantile(quantile)) / 1e3
}

/// A count as a number that can be divided.
#[allow(clippy::cast_precision_loss, reason = "a figure has three digits or so")]
pub fn float(count: u64) -> f64 {
    count as f64
}

/// Bytes in megabytes.
pub fn megabytes(bytes: u64) -> f64 {
    float(bytes) / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_of_rounds_is_between_two() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Spread { median: 2.0, min: 1.0, max: 3.0 });
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0]), Spread { median: 2.5, min: 1.0, max: 4.0 });
        assert_eq!(Spread::of([7.0]), Spread { median: 7.0, min: 7.0, max: 7.0 });
    }

    fn report(judged: bool) -> Report {
        let mut report = Report::new("latency", judged);
        report.add_rounds("ratio", Unit::Ratio, [1.1, 1.3, 1.2]);
        report.goal(Goal::AtMost(1.15));
        report.add("SET", Unit::PerSecond, 1_234_567.0);
        report.goal(Goal::AtLeast(200_000.0));
        report.add("other", Unit::Micros, 3.25);
        report.remarks.push("noisy".into());
        report
    }

    #[test]
    fn the_table_says_what_is_met_and_what_is_missed() {
        let text = report(true).to_string();
        let line = |name: &str| text.lines().find(|l| l.trim().starts_with(name)).unwrap().to_string();
        assert!(line("ratio").ends_with("MISSED") && line("ratio").contains("1.100 .. 1.300"), "{text}");
        assert!(line("SET").ends_with("met") && line("SET").contains("1,234,567 /s"), "{text}");
        assert!(line("other").ends_with("us"), "{text}");
        assert!(text.contains("note: noisy"), "{text}");
    }

    /// Small counts say nothing about the goals.
    #[test]
    fn a_quick_run_is_not_judged() {
        let report = report(false);
        assert!(report.figures.iter().all(|f| f.met.is_none()));
        assert!(report.to_string().contains("not judged"));
    }

    #[test]
    fn the_summary_holds_the_figures_with_goals_only() {
        let mut record = Record::new("here");
        record.reports.push(report(true));
        let text = record.to_string();
        assert!(text.contains("latency: ratio") && !text.contains("other"), "{text}");
    }

    /// What failed an hour ago is far above on the screen by then.
    #[test]
    fn the_summary_ends_with_what_failed_and_why() {
        let mut record = Record::new("here");
        record.reports.push(report(true));
        assert!(!record.to_string().contains("FAILED") && !record.json().unwrap().contains("failures"));
        record.failures.push(Failed { scenario: "disk", reason: "it is full".into() });
        assert!(record.to_string().ends_with("  FAILED  disk: it is full\n"), "{record}");
        let json: serde_json::Value = serde_json::from_str(&record.json().unwrap()).unwrap();
        assert_eq!(json["failures"][0]["reason"], "it is full");
    }

    #[test]
    fn json_says_the_same() {
        let mut record = Record::new("here");
        record.reports.push(report(true));
        let json: serde_json::Value = serde_json::from_str(&record.json().unwrap()).unwrap();
        let figure = &json["reports"][0]["figures"][0];
        assert_eq!(json["setting"], "here");
        assert_eq!((&figure["measured"], &figure["met"]), (&1.2.into(), &false.into()));
        assert_eq!((&figure["unit"], &figure["goal"]["at_most"]), (&"ratio".into(), &1.15.into()));
    }

    #[test]
    fn thousands_are_set_apart() {
        let all = [0.0, 999.0, 1000.0, 1_234_567.4, -1000.0, -999.0].map(grouped);
        assert_eq!(all, ["0", "999", "1,000", "1,234,567", "-1,000", "-999"]);
    }
}
