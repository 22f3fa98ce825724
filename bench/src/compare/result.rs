//! What a comparison has shown, as it is kept: medians of the rounds, and curves of all rounds together.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::client::histogram;
use crate::compare::breakdown::Breakdown;
use crate::compare::definition::{Definition, Pace};
use crate::compare::turn::Sample;
use crate::figure::{Spread, float, micros};
use crate::system::Kind;

/// One run of one or several definitions.
#[derive(Debug, Serialize, Deserialize)]
pub struct Record<S> {
    /// Where and how it was measured.
    pub setting: S,
    /// Those who took part, and who did not.
    pub comparisons: Vec<Comparison>,
}

/// The result of a definition.
#[derive(Debug, Serialize, Deserialize)]
pub struct Comparison {
    /// What was measured, as it was.
    pub definition: Definition,
    /// Those who took part.
    pub versions: Vec<Version>,
    /// What else is to be known of it.
    pub remarks: Vec<String>,
    /// For each load, pace and system, in this order.
    pub rows: Vec<Row>,
    /// The floor in all rounds together, if the systems run here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub floor: Option<Row>,
}

/// Who took part.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Version {
    /// The system.
    pub system: Kind,
    /// Its version.
    pub version: String,
}

/// What one system has shown under one load. Latencies are in microseconds.
#[derive(Debug, Serialize, Deserialize)]
pub struct Row {
    /// The load's name.
    pub load: String,
    /// The pace, of an open loop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pace: Option<Pace>,
    /// The system.
    pub system: Kind,
    /// Operations that were measured, in all rounds.
    pub operations: u64,
    /// Operations a second that were to be sent, of an open loop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offered: Option<f64>,
    /// Share of those that were not sent, because the servers did not keep up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unasked: Option<f64>,
    /// 99 % of those that were sent were not later than that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub late: Option<Spread>,
    /// Operations a second.
    pub rate: Spread,
    /// Half of them took so long or less.
    pub p50: Spread,
    /// 90 % did.
    pub p90: Spread,
    /// 99 %.
    pub p99: Spread,
    /// 99.9 %.
    pub p999: Spread,
    /// The longest.
    pub max: Spread,
    /// The p50 by that of the floor in the same round.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50_of_floor: Option<Spread>,
    /// The p99 by that of the floor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99_of_floor: Option<Spread>,
    /// The p99.9 by that of the floor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p999_of_floor: Option<Spread>,
    /// CPU time of all servers for an operation, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_cpu: Option<Spread>,
    /// CPU time of the client for one.
    pub client_cpu: Spread,
    /// Share of a core that the client was busy: near 1 the client was the limit.
    pub client_busy: Spread,
    /// Where the mean goes, where the servers tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stages: Option<Breakdown>,
    /// Share of operations, and the latency within which they were complete; of all rounds together.
    pub curve: Vec<(f64, f64)>,
}

impl Row {
    /// Sums up the rounds of a system, beside those of the floor.
    pub fn new(load: &str, pace: Option<Pace>, offered: Option<f64>, system: Kind, rounds: &[Round]) -> Row {
        let spread = |of: &dyn Fn(&Sample) -> f64| Spread::of(rounds.iter().map(|round| of(&round.sample)));
        let latency = |quantile: f64| spread(&|sample| micros(&sample.latency, quantile));
        let of_floor = |quantile: f64| {
            let ratio = |round: &Round| {
                let floor = micros(round.floor.as_ref()?, quantile);
                Some(micros(&round.sample.latency, quantile) / floor)
            };
            let ratios: Option<Vec<f64>> = rounds.iter().map(ratio).collect();
            ratios.map(Spread::of)
        };
        let each = |sample: &Sample, time: std::time::Duration| time.as_secs_f64() * 1e6 / float(sample.latency.len());
        let servers: Option<Vec<f64>> =
            rounds.iter().map(|round| Some(each(&round.sample, round.sample.servers?))).collect();
        let late = |round: &Round| Some(micros(round.sample.late.as_ref()?, 0.99));
        let late: Option<Vec<f64>> = rounds.iter().map(late).collect();
        let mut all = histogram();
        rounds.iter().for_each(|round| all += &round.sample.latency);
        let unasked: u64 = rounds.iter().map(|round| round.sample.unasked).sum();
        Row {
            load: load.to_string(),
            pace,
            system,
            operations: all.len(),
            offered,
            unasked: offered.map(|_| float(unasked) / float(unasked + all.len())),
            late: late.map(Spread::of),
            rate: spread(&|sample| float(sample.latency.len()) / sample.wall.as_secs_f64()),
            p50: latency(0.5),
            p90: latency(0.9),
            p99: latency(0.99),
            p999: latency(0.999),
            max: latency(1.0),
            p50_of_floor: of_floor(0.5),
            p99_of_floor: of_floor(0.99),
            p999_of_floor: of_floor(0.999),
            server_cpu: servers.map(Spread::of),
            client_cpu: spread(&|sample| each(sample, sample.client)),
            client_busy: spread(&|sample| sample.client.as_secs_f64() / sample.wall.as_secs_f64()),
            stages: Breakdown::of(rounds.iter().map(|round| &round.sample)),
            curve: curve(&all),
        }
    }

    /// The load's name and, of an open loop, the pace.
    pub fn title(&self) -> String {
        match self.pace {
            None => self.load.clone(),
            Some(Pace::Rate(rate)) => format!("{} at {rate:.0}/s", self.load),
            Some(Pace::Share(share)) => format!("{} at {:.0} %", self.load, share * 100.0),
        }
    }
}

/// A turn of a system, and that of the floor in the same round.
#[derive(Debug)]
pub struct Round {
    /// The system's.
    pub sample: Sample,
    /// The floor's latencies.
    pub floor: Option<Histogram<u64>>,
}

/// Latencies at shares of the operations that come nearer and nearer to all.
fn curve(latency: &Histogram<u64>) -> Vec<(f64, f64)> {
    let mut curve: Vec<(f64, f64)> = Vec::new();
    for step in latency.iter_quantiles(8) {
        let point = (step.quantile_iterated_to(), float(step.value_iterated_to()) / 1e3);
        // Where there are few operations, many shares end at the same one.
        match curve.last_mut() {
            Some(last) if (last.1 - point.1).abs() < f64::EPSILON => *last = point,
            _ => curve.push(point),
        }
    }
    curve
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn round(latencies: &[u64], floor: u64) -> Round {
        let mut latency = histogram();
        latencies.iter().for_each(|&us| latency.record(us * 1000).unwrap());
        let mut of_floor = histogram();
        of_floor.record(floor * 1000).unwrap();
        let (wall, client) = (Duration::from_secs(2), Duration::from_millis(1));
        let servers = Some(Duration::from_millis(4));
        Round {
            sample: Sample { latency, wall, unasked: 1, late: None, client, servers, batches: None },
            floor: Some(of_floor),
        }
    }

    /// A multiple of the floor is that of the same round: the machine may have been slower in another.
    #[test]
    fn rounds_are_summed_up_by_their_medians_and_ratios_by_round() {
        let rounds = [round(&[100, 100], 50), round(&[300, 300], 100), round(&[900, 900], 300)];
        let row = Row::new("a", Some(Pace::Share(0.5)), Some(10.0), Kind::Etcd, &rounds);
        let near = |one: f64, two: f64| (one - two).abs() < two / 500.0;
        assert!(near(row.p50.median, 300.0) && near(row.p50.min, 100.0) && near(row.p50.max, 900.0), "{row:?}");
        assert!(near(row.p50_of_floor.unwrap().median, 3.0), "{row:?}");
        assert!(near(row.rate.median, 1.0) && near(row.server_cpu.unwrap().median, 2000.0), "{row:?}");
        assert!(near(row.client_cpu.median, 500.0) && near(row.client_busy.median, 0.0005), "{row:?}");
        assert!(near(row.unasked.unwrap(), 3.0 / 9.0));
        assert_eq!((row.operations, row.title()), (6, "a at 50 %".to_string()));
    }

    #[test]
    fn a_curve_rises_to_the_last_operation() {
        let mut latency = histogram();
        (1..=10_000).for_each(|us| latency.record(us * 1000).unwrap());
        let curve = curve(&latency);
        assert!(curve.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1), "{curve:?}");
        let last = curve[curve.len() - 1];
        assert!(last.0 == 1.0 && (last.1 - 10_000.0).abs() < 10.0, "{last:?}");
        assert!(curve.iter().any(|point| (0.9985..0.9999).contains(&point.0)), "{curve:?}");
    }
}
