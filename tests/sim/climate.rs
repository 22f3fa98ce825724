//! Climates: in most runs a seed chooses everything; in some, what is rare there happens again and again.

use std::collections::BTreeMap;

use clap::ValueEnum;

use crate::boot::Sizes;
use crate::chance::Chance;
use crate::client::Load;
use crate::mix::{Kind, Mix};
use crate::node::Flags;

/// What happens to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Climate {
    /// Whatever a seed chooses, as in all other runs.
    Usual,
    /// Leaders come and go: nodes die at once after what they did, and are cut off.
    Elections,
    /// Nodes die while much is on its way to their disks.
    Crashes,
    /// What is sent between nodes is lost, comes twice, or too late.
    Links,
    /// Nodes fall behind for longer than the log goes back, and their disks rot.
    Behind,
    /// Values are so large that a few of them are more than a connection takes at a time.
    Large,
    /// Slots and nodes come and go.
    Members,
    /// Clients ask for anything, also for what is to be refused, and list what is more than is listed at once.
    Requests,
    /// A hostile member at each node says what no program of ours would, while nodes die and are cut off.
    Hostile,
}

impl Climate {
    /// What a seed does in it. Where links and nodes come and go, nodes have to prove a secret in every other seed.
    pub fn mix(self, seed: u64) -> Mix {
        let mut mix = self.choose(seed);
        mix.flags.secret |= matches!(self, Climate::Links | Climate::Members) && !seed.is_multiple_of(2);
        mix
    }

    fn choose(self, seed: u64) -> Mix {
        let mut chance = Chance::new(seed ^ 0x0c11_3a7e);
        let usual = Mix::of(seed);
        let load = |window, pause, size| Load { window, pause, size, roams: true, ..Load::default() };
        let base = Mix {
            voters: 3,
            standbys: 0,
            flags: Flags { sizes: Sizes::default().with_segments(1 << 20), ..Flags::default() },
            clients: vec![load(4, 50_000, 100); 3],
            watchers: 1,
            ballast: 0,
            crowd: 0,
            hostile: false,
            faults: BTreeMap::new(),
            longest: 1_500,
            seconds: 60,
        };
        let often = |kinds: &[(Kind, u64)]| kinds.iter().copied().collect::<BTreeMap<_, _>>();
        let small = chance.once_in(2);
        let few = Sizes::default().with_segments(256 << 10);
        match self {
            Climate::Usual => usual,
            Climate::Elections => Mix {
                voters: chance.pick(&[3, 3, 5]),
                faults: often(&[
                    (Kind::Crash, 500),
                    (Kind::Kill, 1_000),
                    (Kind::Isolate, 700),
                    (Kind::Cut, 1_000),
                    (Kind::OneWay, 2_000),
                    (Kind::Pause, 3_000),
                    (Kind::Frames, 5_000),
                    (Kind::SlowDisk, 1_000),
                ]),
                ..base
            },
            // Small segments need small values: what raft sends at once has to fit into one.
            Climate::Crashes => Mix {
                voters: chance.pick(&[1, 2, 3, 3]),
                flags: Flags { sizes: if small { few } else { Sizes::default() }, ..Flags::default() },
                clients: vec![load(8, 10_000, if small { 1_000 } else { 5_000 }); 3],
                faults: often(&[
                    (Kind::Crash, 300),
                    (Kind::Power, 1_500),
                    (Kind::Blackout, 3_000),
                    (Kind::SlowDisk, 1_000),
                    (Kind::Snapshot, 500),
                ]),
                seconds: 20,
                ..base
            },
            Climate::Links => Mix {
                voters: chance.pick(&[3, 4, 5]),
                clients: vec![load(4, 20_000, 100); 4],
                faults: often(&[
                    (Kind::Frames, 1_500),
                    (Kind::Break, 1_000),
                    (Kind::OneWay, 3_000),
                    (Kind::Kill, 5_000),
                    (Kind::Shape, 10_000),
                ]),
                longest: 5_000,
                ..base
            },
            Climate::Behind => Mix {
                standbys: 1,
                flags: Flags {
                    history: chance.pick(&[50, 500, 1_000_000]),
                    timeout_ms: 60_000,
                    sizes: Sizes { keep: 50_000, snapshot_after: 1 << 20, segment: 8 << 20 },
                    ..Flags::default()
                },
                clients: vec![load(8, 10_000, 5_000); 4],
                watchers: 2,
                ballast: 40,
                faults: often(&[
                    (Kind::Isolate, 3_000),
                    (Kind::Kill, 3_000),
                    (Kind::Break, 1_000),
                    (Kind::Frames, 2_000),
                    (Kind::Snapshot, 2_000),
                    (Kind::Flip, 4_000),
                    (Kind::LostSector, 8_000),
                    (Kind::Wipe, 20_000),
                ]),
                longest: 6_000,
                ..base
            },
            Climate::Large => Mix {
                flags: Flags { sizes: Sizes::default(), ..Flags::default() },
                clients: vec![load(8, 100_000, 200_000); 4],
                faults: often(&[(Kind::SlowWay, 2_000), (Kind::Pause, 5_000), (Kind::Break, 10_000)]),
                seconds: 30,
                ..base
            },
            Climate::Members => Mix {
                standbys: 2,
                flags: Flags { timeout_ms: 1_500, ..base.flags },
                faults: often(&[
                    (Kind::Slots, 2_000),
                    (Kind::Leave, 6_000),
                    (Kind::Stop, 30_000),
                    (Kind::Kill, 20_000),
                    (Kind::Flip, 20_000),
                    (Kind::Frames, 10_000),
                    (Kind::StuckDisk, 10_000),
                    (Kind::Shape, 30_000),
                ]),
                longest: 5_000,
                seconds: 120,
                ..base
            },
            Climate::Requests => Mix {
                voters: chance.pick(&[1, 3, 3]),
                flags: Flags {
                    history: chance.pick(&[50, 1_000_000, 1_000_000]),
                    sizes: Sizes { keep: 50_000, snapshot_after: 1 << 20, ..Sizes::default() },
                    ..Flags::default()
                },
                clients: vec![Load { anything: true, ..load(4, 20_000, 100) }; 4],
                crowd: chance.pick(&[0, 2_500, 2_500]),
                faults: often(&[
                    (Kind::Kill, 4_000),
                    (Kind::Isolate, 4_000),
                    (Kind::Break, 2_000),
                    (Kind::Snapshot, 2_000),
                ]),
                seconds: 20,
                ..base
            },
            Climate::Hostile => Mix {
                voters: chance.pick(&[1, 3, 3, 5]),
                hostile: true,
                faults: often(&[
                    (Kind::Kill, 4_000),
                    (Kind::Isolate, 4_000),
                    (Kind::Break, 2_000),
                    (Kind::Frames, 4_000),
                    (Kind::Snapshot, 4_000),
                ]),
                seconds: 20,
                ..base
            },
        }
    }
}
