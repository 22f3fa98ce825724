//! The systems in turns, A B C A B C, with the floor before each round: what disturbs the machine for a while disturbs all
//! of them.
//!
//! All run all the time, for a cluster that is stopped and started is not the one that it was. What those cost whose
//! turn it is not is told.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use crate::compare::definition::{Assert, At, Definition, Load, Pace, Work};
use crate::compare::result::{Round, Row};
use crate::compare::say;
use crate::compare::subject::Subject;
use crate::compare::turn::{self, Sample, Times};
use crate::failure::{Context, Failure};
use crate::system::{self, Kind};

/// The longest that a turn of the floor takes.
const FLOOR: Duration = Duration::from_secs(1);

/// The systems, while they run.
pub struct Running<'a> {
    /// What is measured.
    pub definition: &'a Definition,
    /// Those who take part.
    pub subjects: Vec<Subject>,
    /// What they are compared with.
    pub floor: Option<Subject>,
}

/// What the rounds have shown.
#[derive(Debug, Default)]
pub struct Shown {
    /// For each load, pace and system, in this order.
    pub rows: Vec<Row>,
    /// The turns of the floor.
    floors: Vec<Round>,
    idle: BTreeMap<Kind, Idle>,
}

impl Shown {
    /// The floor in all rounds together.
    pub fn floor(&self) -> Option<Row> {
        (!self.floors.is_empty()).then(|| Row::new("floor", None, None, Kind::Floor, &self.floors))
    }

    /// What the systems took while it was not their turn.
    pub fn remarks(&self) -> impl Iterator<Item = String> {
        self.idle.iter().map(|(kind, idle)| {
            let percent = 100.0 * idle.cpu.as_secs_f64() / idle.wall.as_secs_f64();
            format!("{kind} took {percent:.1} % of a core while it was not its turn")
        })
    }
}

/// CPU time that a system has taken while it was not asked, of so much time.
#[derive(Clone, Copy, Debug, Default)]
struct Idle {
    cpu: Duration,
    wall: Duration,
}

impl Running<'_> {
    /// Measures all loads.
    ///
    /// # Errors
    /// The run is no result.
    pub fn run(&self) -> Result<Shown, Failure> {
        // Wake up when an operation is due, not up to 50 µs later.
        rustix::thread::set_current_timer_slack(NonZeroU64::new(1)).context("PR_SET_TIMERSLACK")?;
        let mut shown = Shown::default();
        for load in &self.definition.loads {
            let within = |e: Failure| e.within(&load.name);
            for subject in &self.subjects {
                subject.prepare(load).map_err(|e| within(e.within(&subject.kind.to_string())))?;
            }
            let paces: Vec<_> = load.paces().into_iter().map(Some).collect();
            for pace in if paces.is_empty() { vec![None] } else { paces } {
                self.load(load, pace, &mut shown).map_err(within)?;
            }
        }
        Ok(shown)
    }

    fn load(&self, load: &Load, pace: Option<Pace>, shown: &mut Shown) -> Result<(), Failure> {
        let seconds = Duration::from_secs_f64;
        let times = Times { warm_up: seconds(self.definition.warm_up), measured: seconds(self.definition.seconds) };
        let mut rounds: Vec<Vec<Round>> = self.subjects.iter().map(|_| Vec::new()).collect();
        let rates: Vec<_> = self.subjects.iter().map(|subject| rate(subject.kind, load, pace, &shown.rows)).collect();
        for round in 1..=self.definition.rounds {
            let floor = self.floor(times)?;
            let of_floor = floor.as_ref().map(|sample| sample.latency.clone());
            shown.floors.extend(floor.map(|sample| Round { sample, floor: None }));
            for ((subject, rounds), rate) in self.subjects.iter().zip(&mut rounds).zip(&rates) {
                let (begun, before) = (Instant::now(), self.cpu_of_others(subject.kind)?);
                let sample = turn::run(subject, load, *rate, times)?;
                for (kind, cpu) in self.cpu_of_others(subject.kind)? {
                    let idle = shown.idle.entry(kind).or_default();
                    idle.cpu += cpu.saturating_sub(before.get(&kind).copied().unwrap_or_default());
                    idle.wall += begun.elapsed();
                }
                rounds.push(Round { sample, floor: of_floor.clone() });
                let row = Row::new(&load.name, pace, *rate, subject.kind, &rounds[rounds.len() - 1..]);
                let (title, kind, count) = (row.title(), subject.kind, self.definition.rounds);
                let (rate, p50) = (row.rate.median, row.p50.median);
                say(
                    self.definition,
                    &format!("{title}, round {round} of {count}: {kind} {rate:.0}/s, p50 {p50:.0} us"),
                );
            }
        }
        for ((subject, rounds), rate) in self.subjects.iter().zip(&rounds).zip(&rates) {
            shown.rows.push(Row::new(&load.name, pace, *rate, subject.kind, rounds));
        }
        Ok(())
    }

    /// One turn of the floor, which is always that of one connection with one outstanding.
    fn floor(&self, times: Times) -> Result<Option<Sample>, Failure> {
        let load = Load {
            name: "floor".to_string(),
            work: Work::Set,
            value: 128,
            files: 1,
            connections: 1,
            outstanding: 1,
            at: At::Leader,
            idle_watches: 0,
            rates: None,
            shares: None,
            assert: Assert { revisions: 1.0, wakes: 0 },
        };
        let shorter = |time: Duration| time.min(FLOOR);
        let times = Times { warm_up: shorter(times.warm_up) / 4, measured: shorter(times.measured) };
        let run = |floor: &Subject| turn::run(floor, &load, None, times);
        self.floor.as_ref().map(run).transpose()
    }

    fn cpu_of_others(&self, than: Kind) -> Result<BTreeMap<Kind, Duration>, Failure> {
        let mut all = BTreeMap::new();
        for subject in self.subjects.iter().filter(|subject| subject.kind != than) {
            if let Some(cpu) = system::cpu(&*subject.system)? {
                all.insert(subject.kind, cpu);
            }
        }
        Ok(all)
    }
}

/// The rate that a pace means for a system.
fn rate(kind: Kind, load: &Load, pace: Option<Pace>, rows: &[Row]) -> Option<f64> {
    match pace? {
        Pace::Rate(rate) => Some(rate),
        Pace::Share(share) => {
            let of = &load.shares.as_ref()?.of;
            let row = rows.iter().find(|row| row.load == *of && row.system == kind)?;
            Some(row.rate.median * share)
        }
    }
}
