//! Where the mean of a load's operations goes: the stages of the batches that they were in, and what is left.

use serde::{Deserialize, Serialize};

use crate::compare::result::Row;
use crate::compare::turn::Sample;
use crate::figure::Spread;
use crate::stages::{REST, STAGES, rest};

/// What the rounds of a system have shown. Times are in microseconds.
#[derive(Debug, Serialize, Deserialize)]
pub struct Breakdown {
    /// Commands of a batch.
    pub batch_commands: Spread,
    /// The means of the [`STAGES`] over the batches, under their names.
    #[serde(flatten, with = "named")]
    pub stages: [Spread; STAGES.len()],
    /// What the medians of the stages leave of that of the mean, so that all add up.
    pub rest: f64,
    /// The mean of the operations, as the client saw them.
    pub mean: Spread,
}

/// The stages as members of an object, under their names.
mod named {
    use std::collections::BTreeMap;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::figure::Spread;
    use crate::stages::STAGES;

    type Stages = [Spread; STAGES.len()];

    pub fn serialize<S: Serializer>(stages: &Stages, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(STAGES.iter().zip(stages))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Stages, D::Error> {
        let named = BTreeMap::<String, Spread>::deserialize(deserializer)?;
        let stage = |name: &&'static str| named.get(*name).copied().ok_or_else(|| D::Error::missing_field(name));
        let stages = STAGES.iter().map(stage).collect::<Result<Vec<_>, _>>()?;
        Stages::try_from(stages).map_err(|_| D::Error::custom("not the stages of a commit"))
    }
}

impl Breakdown {
    /// Sums up rounds; none if one of them has no stages.
    pub fn of<'a>(rounds: impl Iterator<Item = &'a Sample>) -> Option<Breakdown> {
        let rounds = rounds.map(|sample| Some((sample.batches?, sample.latency.mean() / 1e3)));
        let rounds = rounds.collect::<Option<Vec<_>>>().filter(|rounds| !rounds.is_empty())?;
        let stages: [Spread; STAGES.len()] =
            std::array::from_fn(|at| Spread::of(rounds.iter().map(|(batches, _)| batches.stages[at])));
        let mean = Spread::of(rounds.iter().map(|(_, mean)| *mean));
        Some(Breakdown {
            batch_commands: Spread::of(rounds.iter().map(|(batches, _)| batches.commands)),
            rest: rest(mean.median, &stages.map(|stage| stage.median)),
            stages,
            mean,
        })
    }
}

/// Columns of the table.
const COLUMNS: usize = STAGES.len() + 5;

/// What the columns are; the first two are names.
pub fn heads() -> [&'static str; COLUMNS] {
    let [gather, submit, write, replicate, apply, answer] = STAGES;
    ["", "", "commands", gather, submit, write, replicate, apply, answer, REST, "mean us"]
}

/// A line of the table, column by column; none if the row has no stages.
pub fn cells(row: &Row) -> Option<[String; COLUMNS]> {
    let Breakdown { batch_commands, stages, rest, mean } = row.stages.as_ref()?;
    let numbers = [batch_commands.median].into_iter().chain(stages.iter().map(|stage| stage.median));
    let numbers = numbers.chain([*rest, mean.median]).map(|number| format!("{number:.1}"));
    let mut cells = [row.title(), row.system.to_string()].into_iter().chain(numbers);
    Some(std::array::from_fn(|_| cells.next().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::client::histogram;
    use crate::compare::definition::Definition;
    use crate::compare::result::{Comparison, Round};
    use crate::stages::Batches;
    use crate::system::Kind;

    fn round(commands: f64, write: f64, mean_us: u64, told: bool) -> Round {
        let mut latency = histogram();
        latency.record(mean_us * 1000).unwrap();
        let batches = Batches { count: 1, commands, stages: [1.0, 2.0, write, 0.0, 3.0, 4.0] };
        let (wall, client, batches) = (Duration::from_secs(1), Duration::ZERO, told.then_some(batches));
        Round { sample: Sample { latency, wall, unasked: 0, late: None, client, servers: None, batches }, floor: None }
    }

    fn row(rounds: &[Round]) -> Row {
        Row::new("set", None, None, Kind::Doozer, rounds)
    }

    /// A line that does not add up sends whoever looks for the time to a place where it is not.
    #[test]
    fn the_medians_add_up_to_the_mean() {
        let row = row(&[round(1.0, 100.0, 200, true), round(3.0, 120.0, 190, true), round(2.0, 300.0, 390, true)]);
        let cells = cells(&row).unwrap();
        assert_eq!(cells[..6], ["set", "doozer", "2.0", "1.0", "2.0", "120.0"]);
        let numbers: Vec<f64> = cells[3..].iter().map(|cell| cell.parse().unwrap()).collect();
        let (mean, parts) = numbers.split_last().unwrap();
        assert!((mean - 200.0).abs() < 0.3 && (parts.iter().sum::<f64>() - mean).abs() < 0.5, "{cells:?}");
        let json = serde_json::to_value(&row).unwrap();
        let of = |name: &str| json["stages"][name]["median"].as_f64();
        assert_eq!((of("batch_commands"), of("write"), of("answer")), (Some(2.0), Some(120.0), Some(4.0)), "{json}");
        assert!(json["stages"]["rest"].as_f64().is_some() && of("mean").is_some(), "{json}");
    }

    /// A round without stages must not be left out of the medians without a word.
    #[test]
    fn rounds_without_stages_have_none() {
        let row = row(&[round(1.0, 100.0, 200, true), round(1.0, 100.0, 200, false)]);
        assert!(cells(&row).is_none());
        assert_eq!(serde_json::to_value(&row).unwrap().get("stages"), None);
    }

    /// A line for each that tells, none for the others, and no table without any.
    #[test]
    fn the_lines_of_those_that_tell_are_below_the_table_and_on_the_page() {
        let told = [round(16.0, 100.0, 200, true)];
        let silent = [round(16.0, 100.0, 200, false)];
        let shown = |doozer: &[Round]| {
            let definition = Definition::find("one").unwrap();
            let rows = vec![row(doozer), Row::new("set", None, None, Kind::Etcd, &silent)];
            let comparison = Comparison { definition, versions: Vec::new(), remarks: Vec::new(), rows, floor: None };
            let text = comparison.to_string();
            let mut html = String::new();
            crate::compare::html::section(&mut html, &comparison);
            (text, html)
        };
        let (text, html) = shown(&told);
        let table = text.split_once("where the mean of a SET goes\n").unwrap().1;
        let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1][..4], ["set", "doozer", "16.0", "1.0"], "{text}");
        assert_eq!((lines[1].len(), &lines[2..]), (COLUMNS, &[vec![]][..]), "{text}");
        assert_eq!(html.matches("<td>set</td><td>doozer</td><td>16.0</td>").count(), 1, "{html}");
        let (text, html) = shown(&silent);
        assert!(!text.contains("the mean") && !html.contains("the mean"), "{text}{html}");
    }
}
