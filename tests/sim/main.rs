//! Whole clusters of the real replica in one thread: the network, the disks, the clocks and the clients are the simulator's, and
//! everything that is left to chance comes from one seed. So faults come when a scenario says, and what has failed once fails again.
//!
//! `world` has it all: `node` (a process around a replica, as the server is one), `boot` (how it starts), `disk`, `net`, `client`,
//! and the `checker`, which holds what clients were told against the history of the cluster. `stories` are scenarios with names.

#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "tests")]

mod boot;
mod chance;
#[path = "../shared/checker.rs"]
mod checker;
mod client;
mod disk;
mod mix;
#[cfg(feature = "faults")]
mod mutants;
mod net;
mod node;
mod run;
mod stories;
mod weather;
mod world;

/// Every event allocates a little.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

use libtest_mimic::{Arguments, Trial};
use world::Event;

pub fn quick() {
    let a: Vec<String> = std::env::args().collect();
    if std::env::var("ALL").is_ok() {
        world::TELL_ALL.store(true, std::sync::atomic::Ordering::Relaxed);
    }
    let (from, to): (u64, u64) = (a[2].parse().unwrap(), a[3].parse().unwrap());
    for seed in from..to {
        let began = std::time::Instant::now();
        let mix = if a[1] == "normal" { mix::Mix::normal(seed) } else { mix::Mix::of(seed) };
        let got = std::panic::catch_unwind(|| run::run(seed, &mix));
        match got {
            Ok(r) => eprintln!(
                "{seed}: {:.0} s virtual in {:.2} s = {:.0}x, {} steps, {} acks, {:?}",
                r.time as f64 / 1e6,
                began.elapsed().as_secs_f64(),
                r.time as f64 / 1e6 / began.elapsed().as_secs_f64(),
                r.steps,
                r.acknowledged,
                r.strikes.values().sum::<u64>()
            ),
            Err(_) => eprintln!("FAILED {seed}: {mix:?}"),
        }
    }
}

fn main() {
    #[cfg(feature = "faults")]
    if std::env::args().nth(1).as_deref() == Some("mutants") {
        return mutants::main();
    }
    if std::env::args().nth(1).is_some_and(|a| a == "normal" || a == "mix") {
        return quick();
    }
    let told = |name: &str, story: stories::Story| {
        Trial::test(name, move || {
            story();
            Ok(())
        })
    };
    let trials = stories::STORIES.iter().map(|(name, story)| told(name, *story)).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
