//! Whole clusters of the real replica in one thread: the network, the disks, the clocks and the clients are the simulator's, and
//! everything that is left to chance comes from one seed. So faults come when a scenario says, and what has failed once fails again.
//!
//! * `world` has it all, and its clock: `chance` (the seed, and what is to happen), `node` (a process around a replica, as the
//!   server's shell is one), `boot` (how it starts), `disk` (of `file`s), `net`, `client` (and
//!   `anything`, what it may ask; `hostile`, a member that does not keep to the protocol); the `checker` holds what clients are told, and what
//!   each node applies, against one history.
//! * `run` carries out what a seed chooses: the `mix` of nodes, clients and faults, and the `weather` that brings the
//!   faults; a `climate` is what is chosen where a seed does not choose all of it.
//! * `stories` are scenarios with names, `mutants` hunts faults that were put into the system on purpose.
//! * `command` is `cargo sim`; `failure` makes failing runs smaller.
//!
//! `cargo test --test sim` tells the stories and runs a few seeds; `cargo soak` takes more seeds of both, and
//! `cargo sim --help` has more.

#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "tests")]

mod anything;
mod boot;
mod chance;
#[path = "../shared/checker.rs"]
mod checker;
mod client;
mod climate;
mod command;
mod disk;
mod failure;
mod file;
mod hostile;
mod mix;
#[cfg(feature = "faults")]
mod mutants;
mod net;
mod node;
#[path = "../shared/random.rs"]
mod random;
mod run;
mod stories;
mod weather;
mod world;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};
use world::Event;

/// Every event allocates a little.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The first argument with which `cargo sim` asks for the simulator's own command line: nothing that anyone filters tests by.
const COMMAND: &str = "cargo-sim";

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some(COMMAND) => command::main(std::env::args().skip(1)),
        _ => libtest_mimic::run(&Arguments::from_args(), trials()).exit_code(),
    }
}

/// So many of the fixed seeds run in each test run; all of them in a soak.
const FEW: u64 = 4;

/// What `cargo test` runs, and, marked as ignored, what `cargo soak` adds.
fn trials() -> Vec<Trial> {
    let trial = |name: String, test: Box<dyn FnOnce() + Send>| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    };
    let mut trials = Vec::new();
    for &(name, story) in stories::STORIES {
        trials.push(trial(name.to_owned(), Box::new(story)));
    }
    for seed in command::FIXED {
        let fixed = trial(format!("seeds::{seed}_keeps_every_promise"), Box::new(move || command::fixed(seed)));
        trials.push(fixed.with_ignored_flag(seed >= FEW));
    }
    for &(name, story) in stories::SOAKS {
        trials.push(trial(name.to_owned(), Box::new(move || stories::soak(story))).with_ignored_flag(true));
    }
    #[cfg(feature = "faults")]
    for &fault in doozer::faults::Fault::ALL {
        let name = format!("mutants::{}_is_caught", fault.name().replace('-', "_"));
        trials.push(trial(name, Box::new(move || mutants::must_be_caught(fault))));
    }
    trials.push(trial("seeds::the_same_seed_is_the_same_run".into(), Box::new(|| command::same_seed_same_run(3))));
    trials
}
