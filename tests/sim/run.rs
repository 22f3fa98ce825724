//! A run: a seed's mix, from the first start to the last check.

use std::collections::BTreeMap;

use crate::chance::Chance;
use crate::client::Plan;
use crate::hostile::Hostile;
use crate::mix::{Kind, Mix};
use crate::weather::Weather;
use crate::world::World;

/// What a run was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// All that happened, as a number.
    pub trace: u32,
    /// How long it took in the simulated world, in microseconds.
    pub time: u64,
    pub steps: u64,
    /// Faults by kind.
    pub strikes: BTreeMap<Kind, u64>,
    /// More disks were harmed than the cluster promises to survive.
    pub lost: bool,
    pub acknowledged: usize,
    pub revisions: i64,
}

/// Runs a mix by a seed.
///
/// # Panics
/// When a promise is broken.
pub fn run(seed: u64, mix: &Mix) -> Report {
    let mut world = World::with(seed, mix.nodes(), mix.voters, mix.flags);
    for host in mix.voters..mix.nodes() {
        world.start(host);
    }
    // Before anyone can write a file where its directory is to be.
    if mix.crowd > 0 {
        world.crowd(0, mix.crowd);
    }
    let mut chance = Chance::new(seed ^ 0x00c1_1e47);
    for load in &mix.clients {
        let at = chance.index(mix.nodes());
        world.add_client(at, Plan::Load(*load));
    }
    for _ in 0..mix.watchers {
        let at = chance.index(mix.nodes());
        world.add_client(at, Plan::Watch);
    }
    if mix.hostile {
        for (host, letter) in (0..mix.voters).zip(b'Q'..) {
            world.add_client(host, Plan::Hostile(Box::new(Hostile::new(letter, mix.voters))));
        }
    }
    if mix.ballast > 0 {
        world.fill(0, mix.ballast, 100_000);
    }
    let mut weather = Weather::new(seed, mix, world.now());
    let until = world.now() + mix.seconds * 1_000;
    weather.rage(&mut world, until);
    let mut lost = weather.is_too_much(&world);
    if lost {
        lost = world.finish_without_a_majority();
    } else {
        world.finish();
    }
    Report {
        trace: world.trace(),
        time: world.queue.now(),
        steps: world.steps,
        strikes: weather.strikes,
        lost,
        acknowledged: world.checker.statistics().acknowledged,
        revisions: world.revision(),
    }
}
