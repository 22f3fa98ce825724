//! Recovery as four tables: every thing that a crash, or rot, may leave has exactly one row.
//!
//! What a crash can leave follows from how the log is written:
//! * One write is in flight. A crash leaves any subset of its blocks; the others still are what they were: zero or old.
//! * A write begins only when the one before it is durable. So nothing but the last write can be torn.
//! * A file has its name only when it is durable in its whole size. So no length, preface or block can be half there.
//! * The successor is durable before the seal, and a segment is sealed before its successor is written to.
//!
//! Everything else is damage, and is never cut silently. What cannot be told: a device that loses the last writes as a whole, every
//! block of them, though it said that they were durable, leaves what a crash before them would have left.
//!
//! | table | decides |
//! |---|---|
//! | [`BLOCKS`] | what a block means at the place where it is found |
//! | [`ENDS`] | what the end of a segment means, seen together with the segments behind it |
//! | [`SNAPSHOTS`] | which snapshot is used |
//! | [`JOINS`] | how the log goes on from the snapshot |

/// What a block is, seen from the segment that it lies in and from the write that is due, number n.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// All zeros.
    Zero,
    /// Whole, of an older generation: what the file held before it was recycled.
    Old,
    /// The block of write n that belongs here.
    Due,
    /// A block of write n that belongs elsewhere.
    Astray,
    /// Whole, of this generation, of a write before n.
    Past,
    /// Whole, of this generation, of a write after n.
    Later,
    /// Whole, of a generation that comes after this segment's.
    Newer,
    /// Neither zeros nor whole.
    Bad,
}

/// Where a block is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Directly behind the last block that was taken.
    Front,
    /// Further behind: the block at the front is missing.
    Behind,
    /// Behind the seal.
    Sealed,
    /// In a segment that was prepared ahead: the one before it is not sealed.
    Ahead,
}

/// What is to be done about a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Take it: the log goes on.
    Take,
    /// Nothing: the log ends before it.
    Nothing,
    /// The write at the front is torn: this is what came of it.
    Torn,
    /// The prepared segment has been written to.
    Used,
    /// Refuse to start.
    Damage(Fault),
}

/// Faults of the log that the tables name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A block is neither zeros nor whole: it rotted, or was overwritten by something else.
    Block,
    /// A block is missing, and a later write is there.
    Hole,
    /// A block is whole, but was written for another place.
    Astray,
    /// A block belongs to a generation that comes after its file's.
    Newer,
    /// Something was written behind the seal.
    BehindSeal,
    /// The segment is sealed, and its successor, which was durable before, is not there.
    NoSuccessor,
    /// The segment is not sealed, and its successor has been written to: the end of the segment is lost.
    Unsealed,
    /// A segment follows the one that was prepared ahead: the end of the log before it is lost.
    Surplus,
    /// Segments are missing between the snapshot and the first one that is there.
    Gap,
    /// The log goes on behind a snapshot that is not there.
    NoSnapshot,
    /// The log and the snapshot disagree about what is committed.
    Disagree,
    /// The first block is not the preface of a segment.
    Preface,
    /// The file has another length than its preface says.
    Length,
    /// The preface is that of another generation: the file was renamed.
    Misnamed,
    /// The write does not go on where the one before it ended.
    Opening,
    /// A record is malformed inside whole blocks.
    Record,
    /// A record cannot follow the one before it.
    Sequence,
    /// A number is larger than any that a log counts to, or the opening of the first write calls entries committed that are not in
    /// the log.
    Number,
    /// There is an identity, and not a single segment.
    NoLog,
    /// There are segments or snapshots, and no identity.
    NoIdentity,
}

/// One row of [`BLOCKS`].
pub(super) struct BlockRow {
    pub place: &'static [Place],
    pub seen: &'static [Seen],
    pub meaning: Meaning,
}

const EVERYWHERE: &[Place] = &[Place::Front, Place::Behind, Place::Sealed, Place::Ahead];

/// What a block means where it is found.
pub(super) const BLOCKS: &[BlockRow] = &[
    // A crash leaves a block as it was or as it was to be. This one rotted, also if it is in the last write.
    BlockRow { place: EVERYWHERE, seen: &[Seen::Bad], meaning: Meaning::Damage(Fault::Block) },
    // A generation is only ever written into its own file: a file was copied over another, or a device misplaced a
    // write.
    BlockRow { place: EVERYWHERE, seen: &[Seen::Newer], meaning: Meaning::Damage(Fault::Newer) },
    // It was never written in this generation: the log ends before it, unless something later is found.
    BlockRow { place: EVERYWHERE, seen: &[Seen::Zero, Seen::Old], meaning: Meaning::Nothing },
    // The log goes on.
    BlockRow { place: &[Place::Front], seen: &[Seen::Due], meaning: Meaning::Take },
    // A crash came while write n was in flight: some blocks of it are there, this one among them, and some are not.
    BlockRow { place: &[Place::Behind], seen: &[Seen::Due], meaning: Meaning::Torn },
    // A write after n began only when n was durable: what is missing of n was acknowledged, and is lost.
    BlockRow { place: &[Place::Front, Place::Behind], seen: &[Seen::Later], meaning: Meaning::Damage(Fault::Hole) },
    // Writes lie one behind the other, and what a torn one left is erased before another takes its number.
    BlockRow {
        place: &[Place::Front, Place::Behind],
        seen: &[Seen::Astray, Seen::Past],
        meaning: Meaning::Damage(Fault::Astray),
    },
    // The seal is the last write of its segment.
    BlockRow {
        place: &[Place::Sealed],
        seen: &[Seen::Due, Seen::Astray, Seen::Past, Seen::Later],
        meaning: Meaning::Damage(Fault::BehindSeal),
    },
    // The log went on in this segment, so the seal of the one before it was durable.
    BlockRow {
        place: &[Place::Ahead],
        seen: &[Seen::Due, Seen::Astray, Seen::Past, Seen::Later],
        meaning: Meaning::Used,
    },
];

/// How the writes of a segment end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// With the seal.
    Sealed,
    /// Nothing of a further write is there.
    Clean,
    /// Some blocks of one further write are there, and some are not.
    Torn,
}

/// The segment behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// There is none.
    Missing,
    /// It has not been written to.
    Empty,
    /// It has been written to.
    Used,
}

/// What the end of a segment means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The log goes on in the next segment.
    GoOn,
    /// The log ends here.
    End,
    /// The log ends here, and the next segment is the one prepared ahead.
    EndPrepared,
    /// As [`Verdict::End`], when the torn write is erased.
    Erase,
    /// As [`Verdict::EndPrepared`], when the torn write is erased.
    ErasePrepared,
    /// Refuse to start.
    Damage(Fault),
}

/// One row of [`ENDS`].
pub(super) struct EndRow {
    pub end: &'static [End],
    pub next: &'static [Next],
    /// Whether there is a segment behind the next one.
    pub beyond: &'static [bool],
    pub verdict: Verdict,
}

const EITHER: &[bool] = &[false, true];

/// What the end of a segment means, with what is behind it.
pub(super) const ENDS: &[EndRow] = &[
    // The successor is durable before a segment is sealed: it was lost, and with it what it may have held.
    EndRow {
        end: &[End::Sealed],
        next: &[Next::Missing],
        beyond: EITHER,
        verdict: Verdict::Damage(Fault::NoSuccessor),
    },
    // The usual way from one segment to the next; a crash may come before the first write to it.
    EndRow { end: &[End::Sealed], next: &[Next::Empty, Next::Used], beyond: EITHER, verdict: Verdict::GoOn },
    // A stop, or a crash with nothing in flight, while the next segment was not yet prepared.
    EndRow { end: &[End::Clean], next: &[Next::Missing], beyond: EITHER, verdict: Verdict::End },
    // A stop, or a crash with nothing in flight.
    EndRow { end: &[End::Clean], next: &[Next::Empty], beyond: &[false], verdict: Verdict::EndPrepared },
    // A crash in the midst of a write, or of erasing it: it was never acknowledged. Cut, and erased before anything
    // is written, so that its blocks are never taken for those of another write of its number.
    EndRow { end: &[End::Torn], next: &[Next::Missing], beyond: EITHER, verdict: Verdict::Erase },
    // The same, with the next segment prepared.
    EndRow { end: &[End::Torn], next: &[Next::Empty], beyond: &[false], verdict: Verdict::ErasePrepared },
    // The seal was durable before the next segment was written to: it is lost, perhaps with writes before it.
    EndRow { end: &[End::Clean], next: &[Next::Used], beyond: EITHER, verdict: Verdict::Damage(Fault::Unsealed) },
    // A write after the torn one began, so the torn one was durable: it is damaged.
    EndRow { end: &[End::Torn], next: &[Next::Used], beyond: EITHER, verdict: Verdict::Damage(Fault::Hole) },
    // Only one segment is prepared ahead, so a second one says that this one was sealed, and the seal is lost.
    EndRow {
        end: &[End::Clean, End::Torn],
        next: &[Next::Empty],
        beyond: &[true],
        verdict: Verdict::Damage(Fault::Surplus),
    },
];

/// What is found in a snapshot's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Whole,
    Damaged,
}

/// Whether the first segment that is there goes on from a snapshot's index, or from one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    Reaches,
    Short,
}

/// Which snapshot it is; the empty state at index 0 counts as the oldest, which is always whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rank {
    Newest,
    Older,
}

/// What is to be done about a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// Start from it; older ones are removed.
    Use,
    /// Start from it; the damaged ones that are newer are set aside, and it is said so.
    FallBack,
    /// Look at the next older one.
    Older,
    /// Refuse to start: segments are missing behind it.
    Gap,
    /// Refuse to start, because of what is wrong with the newest one.
    Damage,
}

/// One row of [`SNAPSHOTS`].
pub(super) struct SnapshotRow {
    pub rank: &'static [Rank],
    pub content: &'static [Content],
    pub reach: &'static [Reach],
    pub choice: Choice,
}

/// Which snapshot is used, seen from the newest to the oldest.
pub(super) const SNAPSHOTS: &[SnapshotRow] = &[
    // The usual case, also after a crash between a snapshot's rename and the removal of the one before it.
    SnapshotRow { rank: &[Rank::Newest], content: &[Content::Whole], reach: &[Reach::Reaches], choice: Choice::Use },
    // A segment is given up only when a snapshot covers it: some that none covers are missing.
    SnapshotRow { rank: &[Rank::Newest], content: &[Content::Whole], reach: &[Reach::Short], choice: Choice::Gap },
    // A snapshot is whole before it has its name: this is damage, but an older one may do if the log goes on from it.
    SnapshotRow {
        rank: &[Rank::Newest],
        content: &[Content::Damaged],
        reach: &[Reach::Reaches, Reach::Short],
        choice: Choice::Older,
    },
    // Nothing is lost if the log holds all that came after the older snapshot: its end tells (table JOINS).
    SnapshotRow {
        rank: &[Rank::Older],
        content: &[Content::Whole],
        reach: &[Reach::Reaches],
        choice: Choice::FallBack,
    },
    // Damaged too; there may be one that is older still.
    SnapshotRow { rank: &[Rank::Older], content: &[Content::Damaged], reach: &[Reach::Reaches], choice: Choice::Older },
    // The log does not go back to it, and less to any older one: what the newest snapshot held is lost.
    SnapshotRow {
        rank: &[Rank::Older],
        content: &[Content::Whole, Content::Damaged],
        reach: &[Reach::Short],
        choice: Choice::Damage,
    },
];

/// What the log holds at the snapshot's index S.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AtSnapshot {
    /// It ends before S.
    Before,
    /// An entry (or a restart, or its base) of the snapshot's term.
    Same,
    /// One of another term.
    Other,
    /// It goes on behind a later snapshot.
    Skipped,
    /// It ends before the index of a newer snapshot, which is damaged.
    Lacks,
}

/// How the log goes on from the snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Join {
    /// With the entries behind S.
    Keep,
    /// At S, without any entry: a restart is written.
    Restart,
    /// Refuse to start.
    Damage(Fault),
    /// Refuse to start, because of what is wrong with the newest snapshot.
    DamagedSnapshot,
}

/// One row of [`JOINS`].
pub(super) struct JoinRow {
    pub at: &'static [AtSnapshot],
    /// Whether the log's hard state calls an index committed that would be dropped.
    pub drops_committed: &'static [bool],
    pub join: Join,
}

/// How the log goes on from the snapshot.
pub(super) const JOINS: &[JoinRow] = &[
    // The snapshot was taken from this log.
    JoinRow { at: &[AtSnapshot::Same], drops_committed: EITHER, join: Join::Keep },
    // The snapshot came from the leader, and a crash before the restart was durable. Commit is never above the last
    // entry, so nothing is dropped.
    JoinRow { at: &[AtSnapshot::Before], drops_committed: EITHER, join: Join::Restart },
    // The same; the entries from S on are of a leader that lost, never committed.
    JoinRow { at: &[AtSnapshot::Other], drops_committed: &[false], join: Join::Restart },
    // Committed entries do not change: the snapshot or the log is that of another node.
    JoinRow { at: &[AtSnapshot::Other], drops_committed: &[true], join: Join::Damage(Fault::Disagree) },
    // A restart is written only when its snapshot is durable, and a snapshot is removed only for a newer one: it is
    // lost.
    JoinRow { at: &[AtSnapshot::Skipped], drops_committed: EITHER, join: Join::Damage(Fault::NoSnapshot) },
    // The damaged snapshot came from the leader, and the log alone does not hold what it held. If it was not yet
    // acknowledged nothing would be lost; but that cannot be told.
    JoinRow { at: &[AtSnapshot::Lacks], drops_committed: EITHER, join: Join::DamagedSnapshot },
];

/// The row's answer about a block.
pub(super) fn block(place: Place, seen: Seen) -> Meaning {
    let row = BLOCKS.iter().find(|row| row.place.contains(&place) && row.seen.contains(&seen));
    row.expect("the tests find a row for each").meaning
}

/// The row's answer about the end of a segment.
pub(super) fn end(end: End, next: Next, beyond: bool) -> Verdict {
    let row =
        ENDS.iter().find(|row| row.end.contains(&end) && row.next.contains(&next) && row.beyond.contains(&beyond));
    row.expect("the tests find a row for each").verdict
}

/// The row's answer about a snapshot.
pub(super) fn snapshot(rank: Rank, content: Content, reach: Reach) -> Choice {
    let fits =
        |row: &&SnapshotRow| row.rank.contains(&rank) && row.content.contains(&content) && row.reach.contains(&reach);
    SNAPSHOTS.iter().find(fits).expect("the tests find a row for each").choice
}

/// The row's answer about snapshot and log.
pub(super) fn join(at: AtSnapshot, drops_committed: bool) -> Join {
    let row = JOINS.iter().find(|row| row.at.contains(&at) && row.drops_committed.contains(&drops_committed));
    row.expect("the tests find a row for each").join
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEEN: [Seen; 8] =
        [Seen::Zero, Seen::Old, Seen::Due, Seen::Astray, Seen::Past, Seen::Later, Seen::Newer, Seen::Bad];

    /// A combination without a row would end the process with a panic; one with two rows would be decided by their order.
    #[test]
    fn every_combination_has_exactly_one_row() {
        for &place in EVERYWHERE {
            for seen in SEEN {
                let rows = BLOCKS.iter().filter(|row| row.place.contains(&place) && row.seen.contains(&seen));
                assert_eq!(rows.count(), 1, "{place:?} {seen:?}");
            }
        }
        for end in [End::Sealed, End::Clean, End::Torn] {
            for next in [Next::Missing, Next::Empty, Next::Used] {
                for &beyond in EITHER {
                    let rows = ENDS.iter().filter(|row| {
                        row.end.contains(&end) && row.next.contains(&next) && row.beyond.contains(&beyond)
                    });
                    assert_eq!(rows.count(), 1, "{end:?} {next:?} {beyond}");
                }
            }
        }
        for rank in [Rank::Newest, Rank::Older] {
            for content in [Content::Whole, Content::Damaged] {
                for reach in [Reach::Reaches, Reach::Short] {
                    let rows = SNAPSHOTS.iter().filter(|row| {
                        row.rank.contains(&rank) && row.content.contains(&content) && row.reach.contains(&reach)
                    });
                    assert_eq!(rows.count(), 1, "{rank:?} {content:?} {reach:?}");
                }
            }
        }
        for at in [AtSnapshot::Before, AtSnapshot::Same, AtSnapshot::Other, AtSnapshot::Skipped, AtSnapshot::Lacks] {
            for &drops in EITHER {
                let rows = JOINS.iter().filter(|row| row.at.contains(&at) && row.drops_committed.contains(&drops));
                assert_eq!(rows.count(), 1, "{at:?} {drops}");
            }
        }
    }
}
