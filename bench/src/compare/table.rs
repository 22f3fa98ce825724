//! A comparison as a table: a block a load, a line a system.

use std::fmt;

use crate::compare::result::{Comparison, Row};
use crate::figure::{Spread, grouped};

/// Above this share of a core, the client may have been the limit.
const BUSY: f64 = 0.9;
/// Above this share of operations that were not sent, the servers did not keep up.
pub const UNASKED: f64 = 0.01;

/// What the columns are.
pub const HEADS: [&str; 11] =
    ["", "op/s", "least .. most", "p50", "p99", "p99.9 us", "p50", "p99", "p99.9 of floor", "server", "client us/op"];

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let versions: Vec<_> = self.versions.iter().map(|v| format!("{} {}", v.system, v.version)).collect();
        let rounds = self.definition.rounds;
        writeln!(
            f,
            "{}: {}; {}; medians of {rounds} rounds",
            self.definition.name,
            self.definition.about,
            versions.join(", ")
        )?;
        let lines: Vec<[String; 11]> = self.rows.iter().map(cells).collect();
        let widths: [usize; 11] = std::array::from_fn(|column| {
            let cells = lines.iter().map(|line| line[column].chars().count());
            cells.chain([HEADS[column].len()]).max().unwrap_or(0)
        });
        let mut write = |cells: &[String; 11], indent: &str| {
            let padded = cells.iter().zip(&widths).enumerate();
            let padded = padded.map(
                |(column, (cell, &width))| {
                    if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
                },
            );
            let text = padded.collect::<Vec<_>>().join("  ");
            writeln!(f, "{indent}{}", text.trim_end())
        };
        write(&HEADS.map(String::from), "    ")?;
        let mut title = String::new();
        for (row, cells) in self.rows.iter().zip(&lines) {
            if row.title() != title {
                title = row.title();
                write(&std::array::from_fn(|column| if column == 0 { title.clone() } else { String::new() }), "  ")?;
            }
            write(cells, "    ")?;
        }
        for remark in self.remarks.iter().cloned().chain(self.rows.iter().filter_map(warning)) {
            writeln!(f, "  note: {remark}")?;
        }
        writeln!(f)
    }
}

/// Operations that are sent so many microseconds after they were due make the client a part of what is measured.
const LATE: f64 = 1000.0;

/// A line of the table, column by column.
pub fn cells(row: &Row) -> [String; 11] {
    let ratio = |spread: Option<Spread>| spread.map_or(String::new(), |spread| format!("{:.2}", spread.median));
    let micros = |spread: Spread| format!("{:.0}", spread.median);
    [
        row.system.to_string(),
        grouped(row.rate.median),
        format!("{} .. {}", grouped(row.rate.min), grouped(row.rate.max)),
        micros(row.p50),
        micros(row.p99),
        micros(row.p999),
        ratio(row.p50_of_floor),
        ratio(row.p99_of_floor),
        ratio(row.p999_of_floor),
        row.server_cpu.map_or(String::new(), |spread| format!("{:.1}", spread.median)),
        format!("{:.1}", row.client_cpu.median),
    ]
}

/// What makes a line mean something else than it says.
pub fn warning(row: &Row) -> Option<String> {
    let (title, kind) = (row.title(), row.system);
    if row.unasked.is_some_and(|unasked| unasked > UNASKED) {
        let share = 100.0 * row.unasked.unwrap_or(0.0);
        return Some(format!("{title}: {kind} did not keep up; {share:.0} % of the operations were not sent"));
    }
    if let Some(late) = row.late.filter(|late| late.median > LATE) {
        let late = late.median / 1e3;
        return Some(format!(
            "{title}: 1 % of the operations to {kind} were sent more than {late:.0} ms after they were due"
        ));
    }
    let busy = row.client_busy.median;
    (busy > BUSY).then(|| format!("{title}: the client was busy for {:.0} % of the time with {kind}", busy * 100.0))
}
