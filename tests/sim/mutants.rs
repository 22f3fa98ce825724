//! Deliberate faults of the system (`src/faults.rs`), one at a time: seeds are run until one fails. A fault that no seed notices is
//! a hole in what the simulator checks, or in what it does to the cluster.
//!
//! Each is hunted in the climate in which it thrives: that of all runs, or one in which something happens again and again that is
//! rare there. Seeds that fail without the fault prove nothing, and do not count.

use std::collections::BTreeMap;

use doozer::faults::{self, Fault};

use crate::boot::Sizes;
use crate::chance::Chance;
use crate::client::Load;
use crate::failure::{self, Tell};
use crate::mix::{Kind, Mix};
use crate::node::Flags;

/// What happens to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
}

impl Climate {
    pub const ALL: &[Climate] =
        &[Climate::Usual, Climate::Elections, Climate::Crashes, Climate::Links, Climate::Behind, Climate::Members];

    /// Its name on the command line.
    pub fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    /// What a seed does in it.
    pub fn mix(self, seed: u64) -> Mix {
        let mut chance = Chance::new(seed ^ 0x0c11_3a7e);
        let usual = Mix::of(seed);
        let load = |window, pause, size| Load { window, pause, size, plain: false, roams: true };
        let base = Mix {
            voters: 3,
            standbys: 0,
            flags: Flags { sizes: Sizes { segment: 1 << 20, ..Sizes::default() }, ..Flags::default() },
            clients: vec![load(4, 50_000, 100); 3],
            watchers: 1,
            ballast: 0,
            faults: BTreeMap::new(),
            longest: 1_500,
            seconds: 60,
        };
        let often = |kinds: &[(Kind, u64)]| kinds.iter().copied().collect::<BTreeMap<_, _>>();
        let small = chance.once_in(2);
        let few = Sizes { segment: 256 << 10, keep: 50_000, ..Sizes::default() };
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
            // What raft sends at once has to fit into a segment, or is never taken: so with small ones there is little of it.
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
        }
    }
}

/// Runs a seed with a fault, or with none: why it fails, if it does.
fn fails(fault: Option<Fault>, climate: Climate, seed: u64) -> Option<String> {
    faults::arm(fault);
    let failure = failure::catch(Tell::Nothing, || drop(crate::run::run(seed, &climate.mix(seed)))).err();
    faults::arm(None);
    failure.map(|failure| failure.why)
}

/// Runs seeds with a fault until one fails: which, and why.
pub fn hunt(fault: Fault, climate: Climate, seeds: impl IntoIterator<Item = u64>) -> Option<(u64, String)> {
    let caught = |seed| fails(Some(fault), climate, seed).map(|why| (seed, why));
    seeds.into_iter().filter_map(caught).find(|(seed, _)| fails(None, climate, *seed).is_none())
}

/// How each fault is caught: in which climate, and by one of so many seeds at the latest.
const CAUGHT: &[(Fault, Climate, u64)] = &[
    (Fault::EmptyValueLeftOut, Climate::Usual, 3),
    (Fault::ContextLeftOut, Climate::Usual, 3),
    (Fault::TombstoneCompared, Climate::Usual, 3),
    (Fault::EmptyDirectoryCounted, Climate::Usual, 30),
    (Fault::PastOffByOne, Climate::Usual, 3),
    (Fault::CursorOfAnyRevision, Climate::Usual, 3),
    (Fault::QuestionMarkTakesSlash, Climate::Usual, 5),
    (Fault::WalkOfPastIsOfPresent, Climate::Usual, 3),
    (Fault::DeletedListed, Climate::Usual, 3),
    (Fault::FirstPastEventSkipped, Climate::Usual, 3),
    (Fault::WaiterRegisteredLate, Climate::Usual, 3),
    (Fault::StarsMatchSomething, Climate::Usual, 5),
    (Fault::FirstWaiterWoken, Climate::Usual, 50),
    (Fault::WaitersMissSnapshot, Climate::Behind, 5),
    (Fault::SumsUnchecked, Climate::Behind, 10),
    (Fault::ProofOfTooMuch, Climate::Crashes, 30),
    (Fault::TornTailAccepted, Climate::Crashes, 60),
    (Fault::TornTailNotErased, Climate::Crashes, 60),
    (Fault::SegmentsReleasedEarly, Climate::Crashes, 20),
    (Fault::AnswerBeforeDurable, Climate::Crashes, 40),
    (Fault::AckBeforeDurable, Climate::Crashes, 20),
    (Fault::VoteNotPersisted, Climate::Elections, 150),
    (Fault::TermNotPersisted, Climate::Elections, 5),
    (Fault::NobodyStands, Climate::Usual, 3),
    (Fault::HandOverForEver, Climate::Members, 10),
    (Fault::ConflictServed, Climate::Elections, 5),
    (Fault::ConflictRecovered, Climate::Elections, 5),
    (Fault::LastEntryForgotten, Climate::Usual, 3),
    (Fault::UncommittedApplied, Climate::Crashes, 15),
    (Fault::EpochReused, Climate::Usual, 3),
    (Fault::AppliedTwice, Climate::Elections, 5),
    (Fault::GapAccepted, Climate::Elections, 5),
    (Fault::ComparedOnArrival, Climate::Usual, 3),
    (Fault::LastParcelLeftOut, Climate::Usual, 10),
    (Fault::NotSentAgain, Climate::Links, 5),
    (Fault::FirstParcelExpected, Climate::Links, 200),
    (Fault::ReadonlyThoughSent, Climate::Usual, 3),
    (Fault::ClosedForEver, Climate::Usual, 3),
    (Fault::AnswersSwapped, Climate::Usual, 3),
    (Fault::SyncNotAsked, Climate::Usual, 3),
    (Fault::SyncOfLeaderNotAsked, Climate::Usual, 50),
    (Fault::GetOfPastIsOfPresent, Climate::Usual, 3),
    (Fault::FutureReadNow, Climate::Usual, 3),
    (Fault::PausedForEver, Climate::Large, 10),
    (Fault::EventDropped, Climate::Large, 20),
    (Fault::SeenLeftOut, Climate::Usual, 3),
    (Fault::SnapshotIndexTooHigh, Climate::Usual, 3),
    (Fault::SnapshotOfLatestValues, Climate::Behind, 5),
    (Fault::ChunksWithGaps, Climate::Behind, 100),
    (Fault::InstallForgetsAskers, Climate::Behind, 100),
    (Fault::RelayLoops, Climate::Links, 5),
    (Fault::SilenceUnnoticed, Climate::Links, 5),
    (Fault::RetiredLinked, Climate::Members, 40),
    (Fault::RestartUnheard, Climate::Members, 5),
    (Fault::ChangeAppliedByLeader, Climate::Usual, 15),
    (Fault::DemotedStillVotes, Climate::Usual, 15),
    (Fault::PromotedUnseen, Climate::Members, 30),
    (Fault::OldIdGivenBack, Climate::Members, 5),
    (Fault::SlotsForgotten, Climate::Members, 5),
];

/// Hunts a fault as the table says.
///
/// # Panics
/// When it is not caught.
pub fn must_be_caught(fault: Fault) {
    let &(_, climate, seeds) = CAUGHT.iter().find(|(known, ..)| *known == fault).expect("each fault has its line");
    let caught = hunt(fault, climate, 0..seeds);
    assert!(caught.is_some(), "no seed of {seeds} has noticed {} in {}", fault.name(), fault.module());
}

/// `sim mutants [CLIMATE] [NAMES] [FROM..TO]`: hunts these faults, or all, as the table says or as it is said here, and
/// prints a line for each.
pub fn main() {
    let (mut faults, mut climate, mut seeds) = (Vec::new(), None, None);
    for arg in std::env::args().skip(2) {
        if let Some((from, to)) = arg.split_once("..") {
            seeds = Some(from.parse().unwrap()..to.parse().unwrap());
        } else if let Some(named) = Climate::ALL.iter().find(|climate| climate.name() == arg) {
            climate = Some(*named);
        } else {
            let by_name = |name: &str| Fault::by_name(name).unwrap_or_else(|| panic!("{name}: no fault"));
            faults.extend(arg.split(',').map(by_name));
        }
    }
    if faults.is_empty() {
        faults.extend(Fault::ALL);
    }
    for fault in faults {
        let line = CAUGHT.iter().find(|(known, ..)| *known == fault);
        let &(_, usual, count) = line.unwrap_or(&(fault, Climate::Usual, 50));
        let (climate, seeds) = (climate.unwrap_or(usual), seeds.clone().unwrap_or(0..count));
        let caught = hunt(fault, climate, seeds.clone());
        let (name, module) = (fault.name(), fault.module());
        match caught {
            Some((seed, why)) => {
                let why: String = why.chars().map(|c| if c == '\n' { ' ' } else { c }).take(170).collect();
                println!("{name} ({module}): {} {seed}: {why}", climate.name());
            }
            None => println!("{name} ({module}): not caught in {} {seeds:?}", climate.name()),
        }
    }
}
