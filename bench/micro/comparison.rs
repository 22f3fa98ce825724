//! What was counted beside what is recorded.
//!
//! It passes if no operation costs more than [`TOLERANCE`] above its record, and each that was counted has one, and the other
//! way round: what is not compared has not passed.

use std::collections::BTreeMap;
use std::fmt;

/// How much dearer than recorded an operation may be, as a part of the record. The counts themselves do not vary.
pub const TOLERANCE: f64 = 0.05;

/// What one operation costs.
#[derive(Clone, Debug, PartialEq)]
pub struct Count {
    /// The operation's.
    pub name: String,
    /// Instructions per operation, in steps of a tenth.
    pub instructions: f64,
}

impl Count {
    /// Of so many instructions for so many operations.
    pub fn new(name: &str, total: u32, times: u32) -> Count {
        let instructions = (f64::from(total) * 10.0 / f64::from(times)).round() / 10.0;
        Count { name: name.to_owned(), instructions }
    }
}

/// What is to be said of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As recorded, within the tolerance.
    Same,
    /// Dearer than the tolerance allows.
    Dearer,
    /// Cheaper by more than the tolerance: the record hides what it may grow by again.
    Cheaper,
    /// It has no record.
    Unrecorded,
    /// It has a record and was not counted: there is no such operation any more.
    Gone,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Same => "",
            Verdict::Dearer => "DEARER",
            Verdict::Cheaper => "cheaper: renew the record",
            Verdict::Unrecorded => "NOT RECORDED",
            Verdict::Gone => "RECORDED, NOT COUNTED",
        })
    }
}

struct Row {
    name: String,
    counted: Option<f64>,
    recorded: Option<f64>,
}

impl Row {
    fn ratio(&self) -> Option<f64> {
        Some(self.counted? / self.recorded?)
    }

    fn verdict(&self) -> Verdict {
        match (self.counted, self.recorded) {
            (_, None) => Verdict::Unrecorded,
            (None, Some(_)) => Verdict::Gone,
            (Some(counted), Some(recorded)) if counted > recorded * (1.0 + TOLERANCE) => Verdict::Dearer,
            (Some(counted), Some(recorded)) if counted < recorded * (1.0 - TOLERANCE) => Verdict::Cheaper,
            _ => Verdict::Same,
        }
    }
}

/// The whole of it: as text, a table.
pub struct Comparison {
    rows: Vec<Row>,
}

impl Comparison {
    /// Holds what was counted against what is recorded, in the order in which it was counted.
    pub fn new(counted: &[Count], recorded: &BTreeMap<String, f64>) -> Comparison {
        let row = |count: &Count| Row {
            name: count.name.clone(),
            counted: Some(count.instructions),
            recorded: recorded.get(&count.name).copied(),
        };
        let mut rows: Vec<Row> = counted.iter().map(row).collect();
        let gone = recorded.iter().filter(|(name, _)| counted.iter().all(|count| count.name != **name));
        rows.extend(gone.map(|(name, was)| Row { name: name.clone(), counted: None, recorded: Some(*was) }));
        Comparison { rows }
    }

    /// The names of those that were counted and have no record.
    pub fn unrecorded(&self) -> Vec<&str> {
        let rows = self.rows.iter().filter(|row| row.verdict() == Verdict::Unrecorded);
        rows.map(|row| row.name.as_str()).collect()
    }

    /// Whether nothing became dearer, and everything was compared.
    pub fn passes(&self) -> bool {
        self.rows.iter().all(|row| matches!(row.verdict(), Verdict::Same | Verdict::Cheaper))
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wide = self.rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
        writeln!(f, "{:wide$}  {:>12}  {:>12}  {:>6}", "operation", "counted", "recorded", "ratio")?;
        for row in &self.rows {
            let number = |number: Option<f64>, digits| number.map_or("-".to_owned(), |n| format!("{n:.digits$}"));
            let (counted, recorded, ratio) = (number(row.counted, 1), number(row.recorded, 1), number(row.ratio(), 3));
            let line = format!("{:wide$}  {counted:>12}  {recorded:>12}  {ratio:>6}  {}", row.name, row.verdict());
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}
