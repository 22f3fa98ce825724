//! Deliberate faults, for the tests alone: each is a mistake that somebody could make, and that the simulator has to notice.
//!
//! A fault is one `if` at the place where the mistake would be. In a build for use there is none of them: without the feature
//! `faults`, which no other feature asks for and which only the tests may, [`is_armed`] is the constant `false`. With it, a test
//! arms one fault at a time, for all nodes that run on its thread.
//!
//! Invariant: a fault that is not armed changes nothing; so the same build also runs as it should.

macro_rules! faults {
    ($($(#[$story:meta])+ $fault:ident in $module:literal,)+) => {
        /// A deliberate fault: what goes wrong, and which promise that breaks.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Fault {
            $($(#[$story])+ $fault,)+
        }

        #[cfg(feature = "faults")]
        impl Fault {
            /// All of them, by module.
            pub const ALL: &[Fault] = &[$(Fault::$fault),+];

            /// The file in which it goes wrong.
            pub fn module(self) -> &'static str {
                match self {
                    $(Fault::$fault => $module,)+
                }
            }
        }
    };
}

faults! {
    // ---- wire ----

    /// An answer leaves out a value that is empty, as newer versions of its encoding do: an empty file cannot be told from an
    /// answer without a value. Breaks: `value` is always present.
    EmptyValueLeftOut in "wire/message.rs",

    /// A node's answer to a sign of life leaves out what it was asked with. Breaks: SYNC is answered.
    ContextLeftOut in "wire/peer/message.rs",

    // ---- store ----

    /// A compare-and-set is held against the revision at which a file was deleted, as long as its node is in the history: servers
    /// that keep different pasts decide differently. Breaks: one history, compare-and-set.
    TombstoneCompared in "store/tree.rs",
    /// A directory that has lost its last file goes on to count as an entry of its parent. Breaks: STAT and GETDIR say what is there.
    EmptyDirectoryCounted in "store/tree.rs",
    /// A file may be written below a file. Breaks: a directory is no file, nor a file a directory.
    FileBelowFile in "store/tree.rs",
    /// A directory can be deleted like a file. Breaks: a directory is no file.
    DirectoryDeleted in "store/tree.rs",
    /// A file that was written often is read at a past revision as it was before that revision, if just that wrote it. Breaks: every
    /// past revision is readable.
    PastOffByOne in "store/versions.rs",
    /// The entries of a directory that has many of them are not found by their names. Breaks: what was written is there.
    ManyNotFound in "store/children.rs",
    /// A listing is gone on with as if its files were in the order of their bytes. Breaks: WALK says what is there.
    CursorInByteOrder in "store/cursor.rs",
    /// A listing goes on from where another was at another revision. Breaks: WALK and GETDIR say what is there.
    CursorOfAnyRevision in "store/cursor.rs",
    /// A `?` matches the slash between two components. Breaks: it is one character of a component.
    QuestionMarkTakesSlash in "store/glob.rs",
    /// A WALK of a past revision walks through the present. Breaks: every past revision is readable.
    WalkOfPastIsOfPresent in "store/scan.rs",
    /// A GETDIR lists files that are deleted as long as the history names them. Breaks: GETDIR says what is there.
    DeletedListed in "store/scan.rs",
    /// A listing that is put aside for others counts one entry twice. Breaks: WALK and GETDIR say what is there.
    SliceCountsTwice in "store/scan.rs",
    /// A WAIT from the past skips the event at the very revision that it names, if later ones are there. Breaks: nothing is skipped.
    FirstPastEventSkipped in "store/scan.rs",
    /// A WAIT for the future is registered a revision late. Breaks: nothing is skipped.
    WaiterRegisteredLate in "store/scan.rs",
    /// A `**` of a WAIT has to match something. Breaks: it may match nothing (`/**` matches the `/` of a NOP).
    StarsMatchSomething in "store/trie.rs",
    /// Of those who wait for the same pattern only the first is woken. Breaks: nothing is skipped.
    FirstWaiterWoken in "store/waiters.rs",
    /// A read of a revision to come is answered a revision late. Breaks: it waits until that revision exists.
    RevisionWokenLate in "store/waiters.rs",
    /// Who waits while a snapshot takes the place of the state is not told what happened in between. Breaks: nothing is skipped.
    WaitersMissSnapshot in "store.rs",

    // ---- log ----

    /// Recovery looks neither at the checksums of blocks nor at that of a snapshot. Breaks: damage is never taken for data.
    SumsUnchecked in "log/block.rs",
    /// A write that has ended proves what was staged while it was under way too. Breaks: nothing is answered before it is durable.
    ProofOfTooMuch in "log/writer.rs",
    /// Recovery takes a hole in the log for its end. Breaks: damage is never cut silently.
    HoleTakenForEnd in "log/scan.rs",
    /// Recovery takes what is whole of a torn write, and goes on behind it. Breaks: a torn write is cut.
    TornTailAccepted in "log/scan.rs",
    /// Recovery cuts a torn write, but leaves its blocks where they are. Breaks: what recovery has decided stays decided.
    TornTailNotErased in "log/replay.rs",
    /// Recovery forgets the vote that precedes a torn write. Breaks: one vote a term.
    TornTailForgetsVote in "log/recovery.rs",
    /// A boot takes its number from the log alone, which does not contain a boot that wrote nothing. Breaks: a command is applied
    /// once, or not at all.
    EpochOfLogOnly in "log/identity.rs",
    /// What recovery has read may still be in a cache only, and is not made durable. Breaks: an acknowledged write survives a crash.
    RecoveredNotSynced in "log/recovery.rs",
    /// The space of old segments is given up when a snapshot is begun. Breaks: an acknowledged write survives a crash.
    SegmentsReleasedEarly in "replica.rs",

    // ---- replica: raft and the log ----

    /// A leader takes its own write of the log for durable as soon as it is staged. Breaks: nothing is answered before it is durable.
    AnswerBeforeDurable in "replica/group.rs",
    /// A follower acknowledges what its disk does not have yet. Breaks: nothing is acknowledged before it is durable.
    AckBeforeDurable in "replica/group.rs",
    /// The vote is not written down, the term is. Breaks: one vote a term.
    VoteNotPersisted in "replica/group.rs",
    /// Term and vote are written down only together with entries. Breaks: a term that was acknowledged does not come again.
    TermNotPersisted in "replica/group.rs",
    /// Nobody stands for election once the connection with the leader has ended. Breaks: the larger part goes on.
    NobodyStands in "replica/group.rs",
    /// A leader that hands over does not tell its heir, and never gives up: it proposes nothing any more. Breaks: writes go on.
    HandOverForEver in "replica/group.rs",
    /// Of two entries of the same index recovery takes the first, which a new leader has replaced. Breaks: one history.
    ConflictRecovered in "replica/rebuild.rs",
    /// An entry that a new leader replaces stays in memory, and is applied. Breaks: one history.
    ConflictServed in "replica/entries.rs",
    /// Recovery forgets the last entry of the log. Breaks: what was acknowledged to the leader is there.
    LastEntryForgotten in "replica/rebuild.rs",
    /// Recovery applies all entries that it finds, whether or not they are committed. Breaks: one history.
    UncommittedApplied in "replica/rebuild.rs",
    /// Every boot of a node has the same number. Breaks: a command is applied once, or not at all.
    EpochReused in "replica.rs",

    // ---- replica: commands ----

    /// What was applied is proposed again and applied again when it comes again. Breaks: a command is applied once.
    AppliedTwice in "replica/machine.rs",
    /// What comes while something before it, of the same server, is missing is taken and applied: the rest is then dropped for seen.
    /// Breaks: a mutation that was received is applied.
    GapAccepted in "replica/machine.rs",
    /// Compare-and-set is decided when the request comes, and not when it is applied. Breaks: it is right at its place in the history.
    ComparedOnArrival in "replica/machine.rs",
    /// A batch of several parcels leaves out the last. Breaks: a mutation that was received is applied.
    LastParcelLeftOut in "replica/batch.rs",
    /// What was sent to a leader is not sent again to the next. Breaks: a mutation that was received is answered.
    NotSentAgain in "replica/forward.rs",
    /// A new leader goes on from whichever parcel of a server comes first, though some before it were lost. Breaks: a mutation that was
    /// received is applied.
    FirstParcelExpected in "replica/forward.rs",
    /// Without a quorum READONLY is said of what is on its way as well. Breaks: READONLY only if it was certainly not applied.
    ReadonlyThoughSent in "replica/quorum.rs",
    /// Writes that are refused for want of a quorum are refused for ever. Breaks: writes go on when there is a quorum again.
    ClosedForEver in "replica/quorum.rs",
    /// A node without a reachable majority accepts writes for five times as long as it may. Breaks: READONLY comes within 1.5 s.
    RefusedLate in "replica/quorum.rs",
    /// The answer to a DEL bears its revision. Breaks: an answer has the fields of its verb, and no other.
    DeletionWithRevision in "replica/requests.rs",
    /// Two answers that are outstanding change places. Breaks: an answer is that of its request.
    AnswersSwapped in "replica.rs",

    // ---- replica: reads ----

    /// SYNC is answered at once with what is applied here. Breaks: it is linearizable.
    SyncNotAsked in "replica.rs",
    /// A leader answers SYNC without asking the others whether it still leads. Breaks: it is linearizable.
    SyncOfLeaderNotAsked in "replica.rs",
    /// A directory is read like a missing file. Breaks: it is ISDIR.
    DirectoryReadAsMissing in "replica/desk.rs",
    /// A revision below 1 is taken as it is. Breaks: it counts as 1.
    RevisionBelowOne in "replica/desk.rs",
    /// A connection for which a turn had no time is forgotten. Breaks: a request is answered.
    StarvedForEver in "replica/shares.rs",
    /// GET of a past revision reads the present. Breaks: every past revision is readable.
    GetOfPastIsOfPresent in "replica/desk.rs",
    /// A read of a revision to come reads the present. Breaks: it waits until that revision exists.
    FutureReadNow in "replica/desk.rs",
    /// A connection that had too much output takes no requests any more. Breaks: a request is answered.
    PausedForEver in "replica/session.rs",
    /// An event for a client whose output is full is dropped. Breaks: nothing is skipped.
    EventDropped in "replica/desk.rs",

    // ---- replica: snapshots ----

    /// A snapshot leaves out what was seen of each server. Breaks: a command is applied once.
    SeenLeftOut in "replica/snapshot.rs",
    /// A snapshot says that it covers one entry more than it does. Breaks: one history.
    SnapshotIndexTooHigh in "replica.rs",
    /// A snapshot leaves out the values that were written over since. Breaks: every past revision is readable.
    SnapshotOfLatestValues in "replica/snapshot.rs",
    /// Old snapshots are kept. Breaks: disk use is bounded by the data.
    SnapshotsKept in "replica/snapshot.rs",
    /// A snapshot leaves out how often a node has set its data aside: servers judge differently who is known. Breaks: the members are the
    /// same on every server.
    IncarnationsLeftOut in "replica/snapshot.rs",
    /// A part of a snapshot is taken though those before it are missing. Breaks: a state arrives whole.
    ChunksWithGaps in "replica/transfer.rs",
    /// Whoever asked for what a leader's snapshot covers is never answered. Breaks: a request that was taken is answered.
    InstallForgetsAskers in "replica/catch_up.rs",

    // ---- replica: links and members ----

    /// A relay hands a frame to any neighbour but the one that it came from, and takes no hop off. Breaks: it arrives, or ends.
    RelayLoops in "replica/mesh.rs",
    /// A link from which nothing comes any more is kept. Breaks: transitive connection.
    SilenceUnnoticed in "replica/mesh.rs",
    /// The raft id in a hello is not looked at: who was taken out is linked with as if he was not. Breaks: he notices, and comes back.
    RetiredLinked in "replica/mesh.rs",
    /// What a node says of its links and of itself after a restart is taken for old. Breaks: transitive connection, handing over.
    RestartUnheard in "replica/routes.rs",
    /// Followers do not tell raft of changes of the members. Breaks: the members are the same on every server.
    ChangeAppliedByLeader in "replica/stewardship.rs",
    /// A node does not say that it takes writes. Breaks: `/ctl/node/<id>/writable` is there.
    NeverWritable in "replica/introduce.rs",
    /// A member that was taken out goes on to count for raft. Breaks: an open slot never counts towards the quorum.
    DemotedStillVotes in "replica/stewardship.rs",
    /// A standby moves into an open slot whether or not it is heard and has caught up. Breaks: writes go on.
    PromotedUnseen in "replica/membership.rs",
    /// A node that comes back without its data gets its old raft id. Breaks: a raft id never stands for less than it acknowledged.
    OldIdGivenBack in "replica/members.rs",
    /// A standby is promoted into a slot that was emptied, filled or deleted after the leader had proposed the promotion. Breaks: a
    /// change of the members holds at its place in the history.
    SlotChangeUnnoticed in "replica/members.rs",
    /// The slots are not looked for in a snapshot's tree: servers judge a change of the members differently. Breaks: one history.
    SlotsForgotten in "replica/members.rs",
}

/// Whether a fault is to happen here.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub const fn is_armed(_fault: Fault) -> bool {
    false
}

#[cfg(feature = "faults")]
pub use armed::{arm, is_armed};

#[cfg(feature = "faults")]
mod armed {
    use super::Fault;
    use std::cell::Cell;

    thread_local! {
        static ARMED: Cell<Option<Fault>> = const { Cell::new(None) };
    }

    /// Arms a fault for everything that runs on this thread from now on, or none.
    pub fn arm(fault: Option<Fault>) {
        ARMED.set(fault);
    }

    /// Whether a fault is to happen here.
    pub fn is_armed(fault: Fault) -> bool {
        ARMED.get() == Some(fault)
    }

    impl Fault {
        /// Its name, such as `vote-not-persisted`.
        pub fn name(self) -> String {
            let mut name = String::new();
            for letter in format!("{self:?}").chars() {
                if letter.is_ascii_uppercase() && !name.is_empty() {
                    name.push('-');
                }
                name.push(letter.to_ascii_lowercase());
            }
            name
        }

        /// The fault of a name.
        pub fn by_name(name: &str) -> Option<Fault> {
            Fault::ALL.iter().copied().find(|fault| fault.name() == name)
        }
    }
}

#[cfg(feature = "faults")]
#[cfg(test)]
mod tests {
    use super::*;

    /// A fault that cannot be named cannot be armed from a command line, and one that is listed twice hides another.
    #[test]
    fn every_fault_has_a_name_of_its_own() {
        assert_eq!(Fault::VoteNotPersisted.name(), "vote-not-persisted");
        for fault in Fault::ALL {
            assert_eq!(Fault::by_name(&fault.name()), Some(*fault));
        }
        assert_eq!(Fault::by_name("none-of-them"), None);
    }

    /// A fault that stayed armed would be found in whatever runs next.
    #[test]
    fn a_fault_is_armed_on_its_thread_until_it_is_disarmed() {
        arm(Some(Fault::AppliedTwice));
        assert!(is_armed(Fault::AppliedTwice) && !is_armed(Fault::GapAccepted));
        std::thread::spawn(|| assert!(!is_armed(Fault::AppliedTwice))).join().unwrap();
        arm(None);
        assert!(Fault::ALL.iter().all(|fault| !is_armed(*fault)));
    }
}
