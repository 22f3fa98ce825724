//! A comparison as a table: a block a load, a line a system.

use std::fmt;

use crate::compare::breakdown;
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
        let widths = fit(&HEADS, &lines);
        writeln!(f, "    {}", aligned(&HEADS, &widths, 1))?;
        let mut title = String::new();
        for (row, cells) in self.rows.iter().zip(&lines) {
            if row.title() != title {
                title = row.title();
                writeln!(f, "  {title}")?;
            }
            writeln!(f, "    {}", aligned(cells, &widths, 1))?;
        }
        let lines: Vec<_> = self.rows.iter().filter_map(breakdown::cells).collect();
        if !lines.is_empty() {
            let heads = breakdown::heads();
            let widths = fit(&heads, &lines);
            writeln!(f, "  commands a batch, and where the mean of a SET goes")?;
            writeln!(f, "    {}", aligned(&heads, &widths, 2))?;
            lines.iter().try_for_each(|cells| writeln!(f, "    {}", aligned(cells, &widths, 2)))?;
        }
        for remark in self.remarks.iter().cloned().chain(self.rows.iter().filter_map(warning)) {
            writeln!(f, "  note: {remark}")?;
        }
        writeln!(f)
    }
}

/// How wide each column has to be.
fn fit<const N: usize>(heads: &[&str; N], lines: &[[String; N]]) -> [usize; N] {
    std::array::from_fn(|column| {
        let cells = lines.iter().map(|line| line[column].chars().count());
        cells.chain([heads[column].len()]).max().unwrap_or(0)
    })
}

/// A line whose first so many columns are text.
fn aligned<const N: usize>(cells: &[impl fmt::Display; N], widths: &[usize; N], texts: usize) -> String {
    let padded = cells.iter().zip(widths).enumerate();
    let padded = padded.map(
        |(column, (cell, &width))| {
            if column < texts { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        },
    );
    padded.collect::<Vec<_>>().join("  ").trim_end().to_string()
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
