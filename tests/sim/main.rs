//! Whole clusters of the real replica in one thread: the network, the disks, the clocks and the clients are the simulator's, and
//! everything that is left to chance comes from one seed. So faults come when a scenario says, and what has failed once fails again.
//!
//! `world` has it all: `node` (a process around a replica, as the server is one), `boot` (how it starts), `disk`, `net`, `client`,
//! and the `ledger`, which holds what clients were told against the history of the cluster. `stories` are scenarios with names.

#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "tests")]

mod boot;
mod chance;
mod client;
mod disk;
mod ledger;
mod net;
mod node;
mod stories;
mod world;

use libtest_mimic::{Arguments, Trial};
use world::Event;

fn main() {
    let told = |name: &str, story: stories::Story| {
        Trial::test(name, move || {
            story();
            Ok(())
        })
    };
    let trials = stories::STORIES.iter().map(|(name, story)| told(name, *story)).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
