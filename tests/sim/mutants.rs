//! Deliberate faults of the system (`src/faults.rs`), one at a time: seeds are run until one fails. A fault that no seed notices is
//! a hole in what the simulator checks, or in what it does to the cluster.
//!
//! Each is hunted in the climate in which it thrives: that of all runs, or one in which something happens again and again that is
//! rare there. Seeds that fail without the fault prove nothing, and do not count.

use doozer::faults::{self, Fault};

use crate::climate::Climate;
use crate::failure::{self, Tell};
use crate::stories::STORIES;

/// Whether a seed fails with a fault, or with none.
fn fails(fault: Option<Fault>, climate: Climate, seed: u64) -> bool {
    faults::arm(fault);
    let failed = failure::try_run(seed, &climate.mix(seed), Tell::Nothing).is_err();
    faults::arm(None);
    failed
}

/// Faults that a story catches, for they show only in a certain order of events: the story's name.
const CAUGHT_BY_STORIES: &[(Fault, &str)] = &[
    (Fault::RefusedLate, "partitions::writes_are_refused_within_the_time_that_is_promised"),
    (Fault::SlotChangeUnnoticed, "members::a_slot_that_goes_while_a_promotion_into_it_is_on_its_way_stays_gone"),
];

/// How each of the others is caught: in which climate, and by one of so many seeds at the latest.
const CAUGHT: &[(Fault, Climate, u64)] = &[
    (Fault::EmptyValueLeftOut, Climate::Usual, 10),
    (Fault::ContextLeftOut, Climate::Usual, 10),
    (Fault::TombstoneCompared, Climate::Usual, 10),
    (Fault::EmptyDirectoryCounted, Climate::Usual, 60),
    (Fault::FileBelowFile, Climate::Requests, 10),
    (Fault::DirectoryDeleted, Climate::Requests, 10),
    (Fault::PastOffByOne, Climate::Usual, 10),
    (Fault::ManyNotFound, Climate::Requests, 30),
    (Fault::CursorInByteOrder, Climate::Requests, 10),
    (Fault::CursorOfAnyRevision, Climate::Usual, 10),
    (Fault::QuestionMarkTakesSlash, Climate::Usual, 10),
    (Fault::WalkOfPastIsOfPresent, Climate::Usual, 10),
    (Fault::DeletedListed, Climate::Usual, 10),
    (Fault::SliceCountsTwice, Climate::Requests, 10),
    (Fault::FirstPastEventSkipped, Climate::Usual, 10),
    (Fault::WaiterRegisteredLate, Climate::Usual, 10),
    (Fault::StarsMatchSomething, Climate::Usual, 10),
    (Fault::FirstWaiterWoken, Climate::Usual, 50),
    (Fault::RevisionWokenLate, Climate::Usual, 10),
    (Fault::WaitersMissSnapshot, Climate::Behind, 10),
    (Fault::SumsUnchecked, Climate::Behind, 10),
    (Fault::ProofOfTooMuch, Climate::Crashes, 60),
    (Fault::HoleTakenForEnd, Climate::Behind, 20),
    (Fault::TornTailAccepted, Climate::Crashes, 30),
    (Fault::TornTailNotErased, Climate::Crashes, 300),
    (Fault::TornTailForgetsVote, Climate::Crashes, 30),
    (Fault::EpochOfLogOnly, Climate::Crashes, 20),
    (Fault::RecoveredNotSynced, Climate::Crashes, 20),
    (Fault::SegmentsReleasedEarly, Climate::Crashes, 60),
    (Fault::AnswerBeforeDurable, Climate::Crashes, 40),
    (Fault::AckBeforeDurable, Climate::Crashes, 50),
    (Fault::VoteNotPersisted, Climate::Elections, 150),
    (Fault::TermNotPersisted, Climate::Elections, 10),
    (Fault::NobodyStands, Climate::Usual, 10),
    (Fault::HandOverForEver, Climate::Members, 10),
    (Fault::ConflictServed, Climate::Elections, 10),
    (Fault::ConflictRecovered, Climate::Elections, 10),
    (Fault::LastEntryForgotten, Climate::Usual, 10),
    (Fault::UncommittedApplied, Climate::Crashes, 15),
    (Fault::EpochReused, Climate::Usual, 10),
    (Fault::AppliedTwice, Climate::Elections, 10),
    (Fault::GapAccepted, Climate::Elections, 10),
    (Fault::ComparedOnArrival, Climate::Usual, 10),
    (Fault::LastParcelLeftOut, Climate::Usual, 10),
    (Fault::NotSentAgain, Climate::Links, 10),
    (Fault::FirstParcelExpected, Climate::Links, 200),
    (Fault::ReadonlyThoughSent, Climate::Usual, 10),
    (Fault::ClosedForEver, Climate::Usual, 10),
    (Fault::DeletionWithRevision, Climate::Usual, 10),
    (Fault::AnswersSwapped, Climate::Usual, 10),
    (Fault::SyncNotAsked, Climate::Usual, 10),
    (Fault::SyncOfLeaderNotAsked, Climate::Usual, 50),
    (Fault::DirectoryReadAsMissing, Climate::Requests, 10),
    (Fault::RevisionBelowOne, Climate::Requests, 10),
    (Fault::StarvedForEver, Climate::Requests, 10),
    (Fault::GetOfPastIsOfPresent, Climate::Usual, 10),
    (Fault::FutureReadNow, Climate::Usual, 10),
    (Fault::PausedForEver, Climate::Large, 10),
    (Fault::EventDropped, Climate::Large, 20),
    (Fault::SeenLeftOut, Climate::Usual, 10),
    (Fault::SnapshotIndexTooHigh, Climate::Usual, 10),
    (Fault::SnapshotOfLatestValues, Climate::Behind, 10),
    (Fault::SnapshotsKept, Climate::Behind, 20),
    (Fault::IncarnationsLeftOut, Climate::Members, 20),
    (Fault::ChunksWithGaps, Climate::Behind, 100),
    (Fault::InstallForgetsAskers, Climate::Behind, 100),
    (Fault::RelayLoops, Climate::Links, 10),
    (Fault::SilenceUnnoticed, Climate::Links, 10),
    (Fault::RetiredLinked, Climate::Members, 80),
    (Fault::RestartUnheard, Climate::Members, 10),
    (Fault::ChangeAppliedByLeader, Climate::Usual, 30),
    (Fault::NeverWritable, Climate::Members, 10),
    (Fault::DemotedStillVotes, Climate::Usual, 60),
    (Fault::PromotedUnseen, Climate::Members, 30),
    (Fault::OldIdGivenBack, Climate::Members, 10),
    (Fault::SlotsForgotten, Climate::Members, 10),
];

/// Hunts a fault as the table says.
///
/// # Panics
/// When it is not caught.
pub fn must_be_caught(fault: Fault) {
    if let Some((_, name)) = CAUGHT_BY_STORIES.iter().find(|(known, _)| *known == fault) {
        let (_, story) = STORIES.iter().find(|(known, _)| known == name).expect("a story of this name");
        faults::arm(Some(fault));
        let told = failure::try_story(*story);
        faults::arm(None);
        assert!(told.is_err(), "{name} has not noticed {} in {}", fault.name(), fault.module());
        return;
    }
    let &(_, climate, seeds) = CAUGHT.iter().find(|(known, ..)| *known == fault).expect("each fault has its line");
    let caught = (0..seeds).any(|seed| fails(Some(fault), climate, seed) && !fails(None, climate, seed));
    assert!(caught, "no seed of {seeds} has noticed {} in {}", fault.name(), fault.module());
}
