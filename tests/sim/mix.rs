//! What a seed chooses before anything happens: how large the cluster is, how it is set up, what its clients do, and which faults
//! come how often. The same choices can be made with some kinds of faults left out, or for a shorter time: so a failure is made small.

use std::collections::BTreeMap;
use std::fmt;

use clap::ValueEnum;
use doozer::limits;

use crate::boot::{HISTORY, SNAPSHOT_AFTER, Sizes};
use crate::chance::Chance;
use crate::client::Load;
use crate::node::Flags;

/// Kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Kind {
    /// A process is killed, and started again later.
    Kill,
    /// A process dies between two of its effects.
    Crash,
    /// A host loses its power: nobody is told.
    Power,
    /// A process hangs, and goes on later.
    Pause,
    /// A process is told to stop.
    Stop,
    /// Most processes are killed at once.
    Blackout,
    /// Nothing gets from a node to another, nor back.
    Cut,
    /// Nothing gets from a node to another.
    OneWay,
    /// A node is cut off from all others.
    Isolate,
    /// The ways that are left are a chain, a hub, two camps, …; who is connected to a majority has to be served.
    Shape,
    /// Connections break.
    Break,
    /// A way is slow.
    SlowWay,
    /// Frames between nodes are lost, come twice, or overtake each other.
    Frames,
    /// Clocks go at different speeds.
    Clock,
    /// Operations of a disk take long.
    SlowDisk,
    /// No operation of a disk comes to its end.
    StuckDisk,
    /// A disk fails to write.
    DiskError,
    /// A disk has no room for another file.
    FullDisk,
    /// A bit of a file changes.
    Flip,
    /// A sector of a file is lost.
    LostSector,
    /// What is written is not what was to be written.
    Corrupt,
    /// A disk loses everything.
    Wipe,
    /// Slots are made, emptied and deleted.
    Slots,
    /// A node is away for so long that it is put out of its slot, or forgotten.
    Leave,
    /// A snapshot is taken.
    Snapshot,
}

impl Kind {
    /// What a disk held is not there any more, or not as it was.
    pub fn harms(self) -> bool {
        matches!(self, Kind::Flip | Kind::LostSector | Kind::Corrupt | Kind::Wipe)
    }
}

/// What a choice is called on the command line.
pub fn name(of: impl ValueEnum) -> String {
    of.to_possible_value().expect("every choice has a name").get_name().to_owned()
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Mix {
    pub voters: usize,
    pub standbys: usize,
    pub flags: Flags,
    pub clients: Vec<Load>,
    /// One who reads the whole history as it is made, at so many nodes.
    pub watchers: usize,
    /// Files of 100,000 bytes that are there from the beginning.
    pub ballast: usize,
    /// Empty files in one directory, likewise.
    pub crowd: usize,
    /// At each voter a hostile member has a link.
    pub hostile: bool,
    /// Mean time between two faults of a kind, in milliseconds.
    pub faults: BTreeMap<Kind, u64>,
    /// How long faults last, at most, in milliseconds.
    pub longest: u64,
    /// How long there are faults, in seconds.
    pub seconds: u64,
}

/// What is left out of a mix, to see whether it fails without it too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Less {
    /// Kinds of faults that do not come.
    pub without: Vec<Kind>,
    /// So many clients are enough.
    pub clients: Option<usize>,
    /// So long is long enough, in seconds.
    pub seconds: Option<u64>,
    /// Nobody watches, and nothing is there at the beginning.
    pub bare: bool,
}

impl fmt::Display for Less {
    /// As it is said on the command line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.without.is_empty() {
            let names: Vec<String> = self.without.iter().map(|kind| name(*kind)).collect();
            write!(f, " --without {}", names.join(","))?;
        }
        if let Some(clients) = self.clients {
            write!(f, " --clients {clients}")?;
        }
        if let Some(seconds) = self.seconds {
            write!(f, " --seconds {seconds}")?;
        }
        f.write_str(if self.bare { " --bare" } else { "" })
    }
}

/// About how many steps a run has at most.
const STEPS: u64 = 1_000_000;

/// A number between two, the smaller ones as probable as the larger ones by their order of magnitude.
fn log_uniform(chance: &mut Chance, low: u64, high: u64) -> u64 {
    let doublings = (high / low).ilog2();
    let base = low << chance.below(u64::from(doublings) + 1);
    chance.between((base, (2 * base).min(high)))
}

impl Mix {
    /// What this seed chooses.
    pub fn of(seed: u64) -> Mix {
        let chance = &mut Chance::new(seed ^ 0x0006_d178);
        let voters = chance.pick(&[1, 2, 3, 3, 3, 3, 3, 3, 4, 5, 5, 7]);
        let standbys = chance.pick(&[0, 0, 0, 1, 1, 2]);
        // Everything but the network and the disks is as much slower.
        let pace = chance.pick(&[1, 1, 1, 2, 4, 16, 64]);
        let clients: Vec<Load> = (0..chance.between((2, 8)))
            .map(|_| Load {
                window: chance.pick(&[1, 1, 2, 4, 16]),
                pause: log_uniform(chance, 10_000, 2_000_000) * pace,
                size: chance.pick(&[50, 50, 300, 5_000]),
                roams: chance.once_in(2),
                ..Load::default()
            })
            .collect();
        let ballast = if chance.once_in(8) { 40 } else { 0 };
        let sizes = Sizes {
            keep: chance.pick(&[50_000, 1 << 20, limits::KEEP]),
            snapshot_after: chance.pick(&[1 << 20, 2 << 20, 8 << 20, SNAPSHOT_AFTER]),
            ..Sizes::default()
        };
        let sizes = sizes.with_segments(if ballast > 0 || clients.iter().any(|load| load.size > 1_000) {
            Sizes::default().segment
        } else {
            chance.pick(&[2 << 20, 2 << 20, 8 << 20])
        });
        let flags = Flags {
            heartbeat_ms: 50 * pace,
            election_ms: 400 * pace,
            timeout_ms: chance.pick(&[1_500, 4_000, 15_000, 60_000]) * pace,
            pulse_ms: chance.pick(&[0, 0, 1_000]) * pace,
            history: chance.pick(&[50, 500, HISTORY, HISTORY, HISTORY]),
            sizes,
            // Whatever the others choose stays what it is.
            secret: seed % 8 == 3,
        };
        let few = chance.once_in(3);
        let mut faults = BTreeMap::new();
        for kind in Kind::value_variants() {
            let on = if few { chance.once_in(8) } else { chance.once_in(2) };
            let mean = log_uniform(chance, 1_000, 120_000);
            if on && (!kind.harms() || voters >= 3) {
                // What shapes the whole cluster leaves no room for others meanwhile.
                let mean = if *kind == Kind::Shape { mean.max(20_000) } else { mean };
                faults.insert(*kind, mean * pace);
            }
        }
        let nodes = (voters + standbys) as u64;
        let asked: u64 = clients.iter().map(|load| 1_000_000 * pace / load.pause).sum();
        Mix {
            voters,
            standbys,
            flags,
            clients,
            watchers: chance.index(3),
            ballast,
            crowd: 0,
            hostile: false,
            faults,
            longest: log_uniform(chance, 500, 30_000) * pace,
            seconds: (log_uniform(chance, 30, 600) * pace).min(STEPS * pace / (nodes * nodes * 40 + asked * 15) + 10),
        }
    }

    /// The same with less.
    pub fn but(&self, less: &Less) -> Mix {
        let mut mix = self.clone();
        mix.faults.retain(|kind, _| !less.without.contains(kind));
        mix.clients.truncate(less.clients.unwrap_or(usize::MAX));
        mix.seconds = mix.seconds.min(less.seconds.unwrap_or(u64::MAX));
        if less.bare {
            (mix.watchers, mix.ballast, mix.crowd) = (0, 0, 0);
        }
        mix
    }

    /// Three nodes, each kind of fault now and then: by which speed is measured.
    pub fn normal(seed: u64) -> Mix {
        let chance = &mut Chance::new(seed);
        let kinds =
            Kind::value_variants().iter().filter(|kind| !matches!(kind, Kind::Shape | Kind::Slots | Kind::Leave));
        Mix {
            voters: 3,
            standbys: 0,
            flags: Flags { sizes: Sizes { snapshot_after: 2 << 20, ..Sizes::default() }, ..Flags::default() },
            clients: vec![Load { window: 2, pause: 300_000, size: 100, roams: true, ..Load::default() }; 4],
            watchers: 1,
            ballast: 0,
            crowd: 0,
            hostile: false,
            faults: kinds.map(|kind| (*kind, 200_000 + chance.below(200_000))).collect(),
            longest: 5_000,
            seconds: 600,
        }
    }

    pub fn nodes(&self) -> usize {
        self.voters + self.standbys
    }
}
