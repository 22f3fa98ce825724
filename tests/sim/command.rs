//! `cargo sim`: runs seeds, replays one, or soaks; and hunts deliberate faults.

#![allow(clippy::disallowed_methods, reason = "it measures how fast the simulator is")]

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use clap::{Parser, ValueEnum};
#[cfg(feature = "faults")]
use doozer::faults::{self, Fault};

use crate::climate::Climate;
use crate::failure::{self, Failure, Tell};
use crate::mix::{self, Kind, Less, Mix};
use crate::run::{self, Report};

/// Seeds that are run each time.
pub const FIXED: std::ops::Range<u64> = 0..16;
/// Runs that a search for a smaller failure may take.
const MINIMISING: usize = 60;
/// How often a soak says how far it is.
const TELL_SECONDS: u64 = 20;

/// Simulates whole clusters: without arguments, some fixed seeds and a fresh one.
#[derive(Debug, Parser)]
#[command(name = "cargo sim", bin_name = "cargo sim", disable_version_flag = true)]
struct Args {
    /// Runs these seeds: 17, or 17..30
    #[arg(value_name = "SEED", value_parser = range)]
    seeds: Vec<std::ops::Range<u64>>,
    /// Runs fresh seeds on all cores for so many hours, until one fails
    #[arg(long, value_name = "HOURS", value_parser = hours, conflicts_with_all = ["seeds", "without", "seconds", "clients", "bare", "timeline"])]
    hours: Option<Duration>,
    /// Begins with this seed when soaking
    #[arg(long, requires = "hours")]
    from: Option<u64>,
    /// Says how much faster than the world the simulator is, for three nodes under usual faults
    #[arg(long, exclusive = true)]
    speed: bool,
    /// Has what is usual in this climate, and not what the seed chooses; all of them take turns when soaking
    #[arg(long, value_enum)]
    climate: Option<Climate>,
    /// Leaves out kinds of faults
    #[arg(long, value_name = "KINDS", value_delimiter = ',', value_enum)]
    without: Vec<Kind>,
    /// Has faults for so many seconds of the simulated time at most
    #[arg(long)]
    seconds: Option<u64>,
    /// Has so many clients that write and read at most
    #[arg(long)]
    clients: Option<usize>,
    /// Has nobody who watches, and no files at the beginning
    #[arg(long)]
    bare: bool,
    /// Prints everything that happened, a line each
    #[arg(long)]
    timeline: bool,
    /// Arms a deliberate fault
    #[cfg(feature = "faults")]
    #[arg(long, value_parser = fault, conflicts_with = "hours")]
    fault: Option<Fault>,
}

#[cfg(feature = "faults")]
fn fault(name: &str) -> Result<Fault, String> {
    let names = || Fault::ALL.iter().map(|fault| fault.name()).collect::<Vec<_>>().join(", ");
    Fault::by_name(name).ok_or_else(|| format!("no such deliberate fault; there are {}", names()))
}

/// Does as the command line says.
pub fn main(args: impl IntoIterator<Item = String>) -> ExitCode {
    let args = Args::parse_from(args);
    if args.speed {
        return speed();
    }
    if let Some(hours) = args.hours {
        return soak(hours, args.from, args.climate);
    }
    let less = Less { without: args.without, clients: args.clients, seconds: args.seconds, bare: args.bare };
    let told = if args.timeline { Tell::All } else { Tell::Last };
    #[cfg(feature = "faults")]
    faults::arm(args.fault);
    let mut seeds = args.seeds;
    if seeds.is_empty() {
        let fresh = fresh();
        seeds.extend([FIXED, fresh..fresh + 1]);
    }
    let climate = args.climate.unwrap_or(Climate::Usual);
    for seed in seeds.into_iter().flatten() {
        let mix = climate.mix(seed).but(&less);
        let began = Instant::now();
        match failure::try_run(seed, &mix, told) {
            Ok(report) => println!("{}", describe(seed, &mix, &report, began.elapsed())),
            Err(failure) => {
                eprintln!("seed {seed} failed at {:.3} s: {}", seconds(failure.at), failure.why);
                if less == Less::default() {
                    say_smaller(seed, climate, failure);
                } else {
                    eprintln!("to run it again: {}{less}", again(seed, climate));
                }
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

fn range(words: &str) -> Result<std::ops::Range<u64>, String> {
    let seed = |words: &str| words.parse::<u64>().ok();
    let range = match words.split_once("..") {
        Some((from, to)) => seed(from).zip(seed(to)),
        None => seed(words).and_then(|seed| Some((seed, seed.checked_add(1)?))),
    };
    let range = range.map(|(from, to)| from..to).filter(|range| !range.is_empty());
    range.ok_or_else(|| "it is no seed, nor a range of seeds such as 17..30".into())
}

fn hours(words: &str) -> Result<Duration, String> {
    let hours: f64 = words.parse().map_err(|_| "it is no number")?;
    Duration::try_from_secs_f64(hours * 3_600.0).map_err(|_| "nobody has so many".into())
}

/// A seed that nobody has run yet.
fn fresh() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn seconds(us: u64) -> f64 {
    Duration::from_micros(us).as_secs_f64()
}

fn describe(seed: u64, mix: &Mix, report: &Report, took: Duration) -> String {
    let time = seconds(report.time);
    let kinds: Vec<String> =
        report.strikes.iter().map(|(kind, count)| format!("{count} {}", mix::name(*kind))).collect();
    format!(
        "seed {seed}: {} of {} nodes vote, {} clients, {time:.0} s in {:.2} s ({:.0} times as fast), trace {:08x}, \
         {} revisions, {} acknowledged{}; faults: {}",
        mix.voters,
        mix.nodes(),
        mix.clients.len(),
        took.as_secs_f64(),
        time / took.as_secs_f64(),
        report.trace,
        report.revisions,
        report.acknowledged,
        if report.lost { ", a majority of disks was harmed" } else { "" },
        if kinds.is_empty() { "none".to_owned() } else { kinds.join(", ") },
    )
}

/// What runs a seed again.
fn again(seed: u64, climate: Climate) -> String {
    let mut line = format!("cargo sim {seed}");
    if climate != Climate::Usual {
        line += &format!(" --climate {}", mix::name(climate));
    }
    #[cfg(feature = "faults")]
    if let Some(fault) = Fault::ALL.iter().find(|fault| faults::is_armed(**fault)) {
        line += &format!(" --fault {}", fault.name());
    }
    line
}

/// Every other run is usual, the others take the climates in turn.
fn climate_of(seed: u64) -> Climate {
    let climates = Climate::value_variants();
    let others = climates.len() as u64 - 1;
    let place = if seed.is_multiple_of(2) { 0 } else { 1 + seed / 2 % others };
    climates[usize::try_from(place).expect("few climates")]
}

/// Looks for a smaller run that fails as well, and says how it can be had.
fn say_smaller(seed: u64, climate: Climate, failure: Failure) {
    eprintln!("to run it again: {}\nlooking for a smaller one", again(seed, climate));
    let (less, failure) = failure::minimise(seed, &climate.mix(seed), failure, MINIMISING);
    eprintln!("it also fails at {:.3} s: {}", seconds(failure.at), failure.why);
    eprintln!("smaller: {}{less} --timeline", again(seed, climate));
}

// ---- speed ----

fn speed() -> ExitCode {
    let mut figures = Vec::new();
    for seed in 0..9 {
        let began = Instant::now();
        match failure::try_run(seed, &Mix::normal(seed), Tell::Last) {
            Ok(report) => figures.push(seconds(report.time) / began.elapsed().as_secs_f64()),
            Err(failure) => {
                eprintln!("usual faults, seed {seed}, at {:.3} s: {}", seconds(failure.at), failure.why);
                return ExitCode::FAILURE;
            }
        }
    }
    figures.sort_by(f64::total_cmp);
    println!(
        "three nodes under usual faults, one core: {:.0} times as fast as the world ({:.0} .. {:.0} in {} runs), {:.1} hours a minute",
        figures[figures.len() / 2],
        figures[0],
        figures[figures.len() - 1],
        figures.len(),
        figures[figures.len() / 2] / 60.0,
    );
    ExitCode::SUCCESS
}

// ---- soaking ----

#[derive(Debug, Default)]
struct Sum {
    seeds: u64,
    time: u64,
    steps: u64,
    acknowledged: u64,
    revisions: i64,
    lost: u64,
    strikes: BTreeMap<Kind, u64>,
}

impl Sum {
    fn add(&mut self, report: &Report) {
        self.seeds += 1;
        self.time += report.time;
        self.steps += report.steps;
        self.acknowledged += report.acknowledged as u64;
        self.revisions += report.revisions;
        self.lost += u64::from(report.lost);
        for (kind, count) in &report.strikes {
            *self.strikes.entry(*kind).or_default() += count;
        }
    }

    fn describe(&self, took: Duration) -> String {
        let hours = seconds(self.time) / 3_600.0;
        let faults: u64 = self.strikes.values().sum();
        format!(
            "{} seeds, {hours:.1} hours ({:.1} a minute), {} million steps, {faults} faults, {} revisions, {} acknowledged, \
             {} with too many harmed disks",
            self.seeds,
            hours / took.as_secs_f64() * 60.0,
            self.steps / 1_000_000,
            self.revisions,
            self.acknowledged,
            self.lost,
        )
    }
}

fn soak(hours: Duration, from: Option<u64>, climate: Option<Climate>) -> ExitCode {
    let climate_of = |seed: u64| climate.unwrap_or_else(|| climate_of(seed));
    let from = from.unwrap_or_else(fresh);
    let next = AtomicU64::new(from);
    let stop = AtomicBool::new(false);
    let sum = Mutex::new(Sum::default());
    let failed = Mutex::new(None);
    let began = Instant::now();
    let told = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    eprintln!("{threads} threads, seeds from {from} on");
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) && began.elapsed() < hours {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    match failure::try_run(seed, &climate_of(seed).mix(seed), Tell::Nothing) {
                        Ok(report) => {
                            let mut sum = sum.lock().expect("nobody panics with it");
                            sum.add(&report);
                            let times = began.elapsed().as_secs() / TELL_SECONDS;
                            if told.fetch_max(times, Ordering::Relaxed) < times {
                                eprintln!("{}", sum.describe(began.elapsed()));
                            }
                        }
                        Err(failure) => {
                            stop.store(true, Ordering::Relaxed);
                            failed.lock().expect("nobody panics with it").get_or_insert((seed, failure));
                        }
                    }
                }
            });
        }
    });
    let sum = sum.into_inner().expect("nobody panics with it");
    println!("{}", sum.describe(began.elapsed()));
    for (kind, count) in &sum.strikes {
        println!("  {count:>10} {}", mix::name(*kind));
    }
    match failed.into_inner().expect("nobody panics with it") {
        None => ExitCode::SUCCESS,
        Some((seed, failure)) => {
            eprintln!("seed {seed} failed at {:.3} s: {}", seconds(failure.at), failure.why);
            say_smaller(seed, climate_of(seed), failure);
            ExitCode::FAILURE
        }
    }
}

/// Runs a seed as a test, for a part of its time.
pub fn fixed(seed: u64) {
    let mix = Mix::of(seed);
    run::run(seed, &mix.but(&Less { seconds: Some(mix.seconds / 4), ..Less::default() }));
}

/// The same seed gives the same run, bit for bit.
pub fn same_seed_same_run(seed: u64) {
    let mix = Mix::of(seed).but(&Less { seconds: Some(20), ..Less::default() });
    let (one, other) = (run::run(seed, &mix), run::run(seed, &mix));
    assert_eq!(one, other, "seed {seed} has run in two ways");
}
