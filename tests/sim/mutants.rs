//! Deliberate faults of the system (`src/faults.rs`), one at a time: seeds are run until one fails. A fault that no seed notices is
//! a hole in what the simulator checks, or in what it does to the cluster.

use doozer::faults::{self, Fault};

use crate::failure::{self, Tell};

/// Runs seeds with a fault until one fails: which, and why.
pub fn hunt(fault: Fault, seeds: impl IntoIterator<Item = u64>, mut run: impl FnMut(u64)) -> Option<(u64, String)> {
    faults::arm(Some(fault));
    let caught = seeds.into_iter().find_map(|seed| {
        let failure = failure::catch(Tell::Nothing, || run(seed)).err()?;
        Some((seed, failure.why))
    });
    faults::arm(None);
    caught
}

/// Runs a seed without any fault: why it fails, if it does.
pub fn baseline(seed: u64, run: impl FnOnce(u64)) -> Option<String> {
    failure::catch(Tell::Nothing, || run(seed)).err().map(|failure| failure.why)
}

/// `sim mutants [NAMES] [FROM..TO]`: hunts these faults, or all, and prints a line for each.
pub fn main() {
    let args: Vec<String> = std::env::args().skip(2).collect();
    let (mut faults, mut seeds) = (Vec::new(), 0..50);
    for arg in &args {
        if let Some((from, to)) = arg.split_once("..") {
            seeds = from.parse().unwrap()..to.parse().unwrap();
        } else {
            faults
                .extend(arg.split(',').map(|name| Fault::by_name(name).unwrap_or_else(|| panic!("{name}: no fault"))));
        }
    }
    if faults.is_empty() {
        faults.extend(Fault::ALL);
    }
    let run = |seed| drop(crate::run::run(seed, &crate::mix::Mix::of(seed)));
    let short = |why: String| why.chars().map(|c| if c == '\n' { ' ' } else { c }).take(170).collect::<String>();
    let began = std::time::SystemTime::now();
    let mut sound = Vec::new();
    for seed in seeds {
        match baseline(seed, run) {
            Some(why) => println!("seed {seed} fails without a fault: {}", short(why)),
            None => sound.push(seed),
        }
    }
    println!("{} sound seeds, {:.1} s", sound.len(), began.elapsed().unwrap().as_secs_f64());
    for fault in faults {
        let began = std::time::SystemTime::now();
        let caught = hunt(fault, sound.iter().copied(), run);
        let seconds = began.elapsed().unwrap().as_secs_f64();
        let (name, module) = (fault.name(), fault.module());
        match caught {
            Some((seed, why)) => println!("{name} ({module}): seed {seed}, {seconds:.1} s: {}", short(why)),
            None => println!("{name} ({module}): not caught, {seconds:.1} s"),
        }
    }
}
