//! Checks what a peer sends before raft, the log and the state believe it.
//!
//! The `raft` crate trusts its messages: it asserts what only a faulty or hostile node would violate, and an assertion ends the
//! process. So [`message`] checks each message against everything that raft 0.7 asserts about it, and [`entry`] checks that an entry
//! can be applied before it is stored, because a log with an entry that cannot be applied is lost. A member that sends such a message
//! loses its link, and the log names it.
//!
//! What raft asserts, by the place in its source, and the check that comes before it:
//!
//! | raft 0.7 | asserts | check |
//! |---|---|---|
//! | `step` | a message of term 0 is the node's own | [`Violation::Term`] |
//! | `send` | an answer to a vote has a term, and no other message has one | [`Violation::Term`] |
//! | `step_leader`, `add_request`, `handle_ready_read_index` | a read has an entry | [`Violation::Read`] |
//! | `advance` (reads) | each context is pending once | [`Violation::Read`]: a context is its sender's own |
//! | `commit_to` | a heartbeat commits no entry that the log lacks | [`Violation::Commit`] |
//! | `maybe_update`, `maybe_commit` | a follower acknowledges no entry that the leader lacks | [`Violation::Index`] |
//! | `maybe_decr_to` | a rejection hints at an entry that the leader has | [`Violation::Index`] |
//! | `find_conflict` | entries are consecutive | [`Violation::Gap`] |
//! | `match_term` | only index 0 has term 0: an index after the last entry counts as term 0 | [`Violation::Gap`] |
//! | `maybe_append` | no committed entry is replaced | [`Violation::Gap`]: raft reads no entries before the committed one |
//! | `truncate_and_append`, the log | terms do not fall | [`Violation::Falling`] |
//! | `become_leader` | all entries are durable | [`Verdict::Drop`]: a vote that nobody can have given yet |
//! | `hup` | the entries that are not applied are in the log | [`Verdict::Drop`] by [`Group::step`](super::group::Group::step) |
//! | `restore` | the members of a snapshot make sense | [`members`] |

use raft::eraftpb::{ConfState, Entry, EntryType, Message, MessageType};

use super::batch;
use super::group::{change_of, read_origin};
use crate::limits;

/// Longest context of a message in bytes: that of a read, or raft's name for a kind of election.
const CONTEXT_MAX: usize = 32;
/// Reads of other nodes that a leader keeps until a majority has confirmed it.
const READS_MAX: usize = 4_096;

/// What raft knows, as far as it decides which messages make sense.
#[derive(Clone, Copy, Debug, Default)]
pub struct View {
    /// This node's raft id.
    pub me: u64,
    /// The leader of the current term; 0 if it is unknown.
    pub leader: u64,
    /// True if this node was elected.
    pub is_leader: bool,
    /// The current term.
    pub term: u64,
    /// Index of the last entry.
    pub last: u64,
    /// Index and term of the last entry that is known to be committed.
    pub committed: (u64, u64),
    /// True if all entries are durable.
    pub is_durable: bool,
    /// Number of reads that wait for a majority.
    pub reads: usize,
}

/// What to do with a message that follows the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Hand it to raft.
    Take,
    /// Ignore it: it comes at the wrong moment.
    Drop,
    /// Step to this term, and ignore the rest of the message: its term is too far ahead. Somebody may have pushed an honest node there,
    /// and the others must be able to follow.
    Follow(u64),
}

/// Why a message cannot come from a node that follows the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// Nodes do not send each other such messages, or not with these fields.
    Kind,
    /// The message names another sender, or another receiver.
    Name,
    /// No election can have led to the term.
    Term,
    /// A second leader claims the same term.
    Leader,
    /// The read is not the sender's own.
    Read,
    /// The message commits entries that were never sent.
    Commit,
    /// The message acknowledges, or rejects, entries that were never sent.
    Index,
    /// The entries are not consecutive.
    Gap,
    /// The terms of the entries fall, or exceed the message's.
    Falling,
    /// An entry is neither a batch nor a change of the members.
    Entry,
    /// A forwarded batch has more work than a node gathers.
    Work,
    /// The node was started more often than it can have been.
    Boot,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Violation::Kind => "a message that nodes do not send each other",
            Violation::Name => "a message in the name of another node",
            Violation::Term => "a message of a term that no election can have reached",
            Violation::Leader => "a message of a second leader in the same term",
            Violation::Read => "a read that is not its own",
            Violation::Commit => "a commit of entries that were never sent",
            Violation::Index => "an answer about entries that were never sent",
            Violation::Gap => "entries with a gap",
            Violation::Falling => "entries whose terms fall",
            Violation::Entry => "an entry that no node can apply",
            Violation::Work => "more writes at once than a node gathers",
            Violation::Boot => "commands of a boot that it cannot have reached",
        })
    }
}

/// Checks a message that came from the node with raft id `from`.
///
/// # Errors
/// What no node that follows the protocol would send.
pub fn message(message: &Message, from: u64, view: &View) -> Result<Verdict, Violation> {
    use MessageType::*;
    let kind = message.msg_type;
    let is_append = kind == MsgAppend;
    let is_read = matches!(kind, MsgReadIndex | MsgReadIndexResp);
    if message.from != from || message.to != view.me || from == view.me || from == 0 {
        return Err(Violation::Name);
    }
    if message.snapshot.is_some()
        || message.request_snapshot != 0
        || message.context.len() > CONTEXT_MAX
        || !(message.entries.is_empty() || is_append || is_read)
    {
        return Err(Violation::Kind);
    }
    // A node sends a read to the leader without a term.
    if (message.term == 0) != (kind == MsgReadIndex) || message.term > limits::TERM_MAX {
        return Err(Violation::Term);
    }
    // What an earlier term's message says was checked against an earlier state. raft does not look at it.
    let is_current = message.term == view.term;
    match kind {
        MsgAppend => {
            append(message, view)?;
            leader(message, view)?;
        }
        MsgHeartbeat => {
            leader(message, view)?;
            if message.term >= view.term && message.commit > view.last {
                return Err(Violation::Commit);
            }
        }
        MsgAppendResponse => {
            let (index, hint) = (message.index, message.reject_hint);
            if is_current && view.is_leader && (index > view.last || (message.reject && hint > view.last)) {
                return Err(Violation::Index);
            }
        }
        MsgReadIndex => {
            if read_origin(message).is_none_or(|node| node != from) {
                return Err(Violation::Read);
            }
            if !view.is_leader || view.reads >= READS_MAX {
                return Ok(Verdict::Drop);
            }
        }
        MsgReadIndexResp => {
            if read_origin(message).is_none() {
                return Err(Violation::Read);
            }
            if is_current && view.leader != from {
                return if view.leader == 0 { Ok(Verdict::Drop) } else { Err(Violation::Leader) };
            }
        }
        MsgTimeoutNow if !is_current || view.leader != from => return Ok(Verdict::Drop),
        MsgRequestVoteResponse | MsgRequestPreVoteResponse if !view.is_durable => return Ok(Verdict::Drop),
        MsgTimeoutNow
        | MsgHeartbeatResponse
        | MsgRequestVote
        | MsgRequestPreVote
        | MsgRequestVoteResponse
        | MsgRequestPreVoteResponse => {}
        MsgHup | MsgBeat | MsgPropose | MsgSnapshot | MsgUnreachable | MsgSnapStatus | MsgCheckQuorum
        | MsgTransferLeader => return Err(Violation::Kind),
    }
    let most = view.term + limits::TERM_STEP;
    Ok(if message.term > most { Verdict::Follow(most) } else { Verdict::Take })
}

/// Returns whether to consider a message of a node that this node does not know as a member. A node that was down for long may know none
/// of the present members, so it must be able to follow an unknown leader, and to vote for one. But while this node follows a leader
/// that it knows, it needs no word of unknown nodes.
pub fn from_unknown(message: &Message, knows_leader: bool) -> bool {
    use MessageType::*;
    match message.msg_type {
        MsgRequestPreVote => true,
        MsgAppend | MsgHeartbeat => !knows_leader,
        MsgRequestVote => !knows_leader && !is_forced(message),
        _ => false,
    }
}

/// Returns whether a request for a vote counts although the leader is there: the leader has told the candidate to take over.
pub fn is_forced(message: &Message) -> bool {
    message.msg_type == MessageType::MsgRequestVote && !message.context.is_empty()
}

/// Checks that no other node leads in the term of a leader's message.
fn leader(message: &Message, view: &View) -> Result<(), Violation> {
    let another = view.leader != 0 && view.leader != message.from;
    if message.term == view.term && another { Err(Violation::Leader) } else { Ok(()) }
}

/// Checks the entries of an append, and the place where they go.
fn append(message: &Message, view: &View) -> Result<(), Violation> {
    let (index, log_term) = (message.index, message.log_term);
    if (index == 0) != (log_term == 0) {
        return Err(Violation::Gap);
    }
    // A leader has all committed entries, so what comes after them is not older. A late message may come from a former leader.
    let is_late = message.term < view.term;
    if log_term > message.term || (!is_late && index >= view.committed.0 && log_term < view.committed.1) {
        return Err(Violation::Falling);
    }
    let mut before = (index, log_term);
    for found in message.entries.iter() {
        if before.0.checked_add(1) != Some(found.index) {
            return Err(Violation::Gap);
        }
        if found.term < before.1 || found.term == 0 || found.term > message.term {
            return Err(Violation::Falling);
        }
        before = (found.index, found.term);
        if !entry(found) {
            return Err(Violation::Entry);
        }
    }
    Ok(())
}

/// Returns whether every node can apply an entry.
pub fn entry(entry: &Entry) -> bool {
    if !entry.context.is_empty() {
        return false;
    }
    match entry.entry_type {
        // A new leader's first entry is empty, and so is a change of the members that raft has dropped.
        EntryType::EntryNormal => entry.data.is_empty() || batch::verify_entry(&entry.data).is_ok(),
        EntryType::EntryConfChangeV2 => change_of(entry).is_some(),
        EntryType::EntryConfChange => false,
    }
}

/// Returns whether raft can start from these members: every cluster has a voter, and no node is a member twice.
pub fn members(conf: &ConfState, next: u64) -> bool {
    let mut ids: Vec<u64> = conf.voters.iter().chain(&conf.learners).copied().collect();
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    let joint = !conf.voters_outgoing.is_empty() || !conf.learners_next.is_empty() || conf.auto_leave;
    !conf.voters.is_empty()
        && !joint
        && ids.len() == count
        && count <= limits::NODES_MAX
        && ids.iter().all(|id| *id != 0 && *id < next)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use protobuf::SingularPtrField;
    use raft::eraftpb::Snapshot;

    use super::super::batch::{Gather, Origin};
    use super::super::members::Change;
    use super::*;
    use crate::store::Mutation;

    const ME: u64 = 1;
    const PEER: u64 = 2;

    /// A follower of node 2 in term 5, with entries up to 20, of which 10 are committed.
    const FOLLOWER: View = View {
        me: ME,
        leader: PEER,
        is_leader: false,
        term: 5,
        last: 20,
        committed: (10, 4),
        is_durable: true,
        reads: 0,
    };
    const LEADER: View = View { leader: ME, is_leader: true, ..FOLLOWER };

    fn of(msg_type: MessageType) -> Message {
        let term = if msg_type == MessageType::MsgReadIndex { 0 } else { 5 };
        Message { msg_type, from: PEER, to: ME, term, ..Message::default() }
    }

    fn batch() -> Bytes {
        let mut gather = Gather::new(Origin { node: PEER, epoch: 1 });
        gather.push(&Mutation::Set { path: b"/a", rev: -1, value: b"body" }.into());
        gather.take().unwrap().into()
    }

    fn with(msg_type: MessageType, entries: Vec<Entry>) -> Message {
        Message { entries: entries.into(), ..of(msg_type) }
    }

    fn appended(index: u64, log_term: u64, entries: &[(u64, u64)]) -> Message {
        let entry = |&(index, term): &(u64, u64)| Entry { index, term, data: batch(), ..Entry::default() };
        let entries = entries.iter().map(entry).collect();
        Message { index, log_term, ..with(MessageType::MsgAppend, entries) }
    }

    fn read(node: u64) -> Vec<Entry> {
        let data = [node, 1, 9].map(u64::to_le_bytes).concat();
        vec![Entry { data: data.into(), ..Entry::default() }]
    }

    /// What an honest node sends must pass, in every state of the receiver: a link that is closed for nothing costs availability.
    #[test]
    fn what_honest_nodes_send_is_taken() {
        use MessageType::*;
        let honest = [
            (appended(10, 4, &[(11, 4), (12, 5)]), FOLLOWER),
            (appended(0, 0, &[(1, 1)]), FOLLOWER),
            (appended(30, 5, &[]), FOLLOWER),
            (appended(0, 0, &[(1, 1)]), View { committed: (0, 0), last: 0, leader: 0, term: 0, ..FOLLOWER }),
            (Message { commit: 20, ..of(MsgHeartbeat) }, FOLLOWER),
            (Message { term: 6, ..of(MsgHeartbeat) }, LEADER),
            (Message { index: 20, ..of(MsgAppendResponse) }, LEADER),
            (Message { index: 15, reject: true, reject_hint: 12, log_term: 3, ..of(MsgAppendResponse) }, LEADER),
            // An answer to a former leader, which had more entries.
            (Message { index: 99, term: 4, ..of(MsgAppendResponse) }, LEADER),
            // A former leader, whose entries were replaced by later ones.
            (Message { term: 3, ..appended(15, 2, &[(16, 3)]) }, FOLLOWER),
            (Message { term: 4, from: 3, ..of(MsgHeartbeat) }, FOLLOWER),
            (with(MsgReadIndex, read(PEER)), LEADER),
            (Message { index: 30, ..with(MsgReadIndexResp, read(ME)) }, FOLLOWER),
            (Message { index: 99, log_term: 9, term: 9, ..of(MsgRequestVote) }, FOLLOWER),
            (Message { term: 6, context: (&b"CampaignTransfer"[..]).into(), ..of(MsgRequestVote) }, LEADER),
            (Message { term: 6, ..of(MsgRequestPreVote) }, FOLLOWER),
            (Message { term: 6, ..of(MsgRequestPreVoteResponse) }, FOLLOWER),
            (of(MsgRequestVoteResponse), FOLLOWER),
            (of(MsgHeartbeatResponse), LEADER),
            (of(MsgTimeoutNow), FOLLOWER),
        ];
        for (honest, view) in honest {
            assert_eq!(message(&honest, honest.from, &view), Ok(Verdict::Take), "{honest:?}");
        }
    }

    /// Each of these aborts raft 0.7, or makes it wait for ever.
    #[test]
    fn what_raft_asserts_is_refused_before() {
        use MessageType::*;
        use Violation::{Commit, Falling, Gap, Index, Kind, Leader, Name, Read, Term};
        let hostile = [
            (with(MsgReadIndex, vec![]), LEADER, Read),
            (with(MsgReadIndex, vec![Entry::default()]), LEADER, Read),
            (with(MsgReadIndex, read(3)), LEADER, Read),
            (Message { term: 7, ..with(MsgReadIndex, read(PEER)) }, LEADER, Term),
            (with(MsgReadIndexResp, vec![]), FOLLOWER, Read),
            (Message { term: 0, ..of(MsgRequestVote) }, FOLLOWER, Term),
            (Message { term: 0, ..of(MsgRequestPreVote) }, FOLLOWER, Term),
            (Message { term: 0, ..appended(10, 4, &[]) }, FOLLOWER, Term),
            (Message { term: u64::MAX, ..of(MsgRequestVote) }, FOLLOWER, Term),
            (Message { term: u64::MAX - 1, ..of(MsgHeartbeat) }, FOLLOWER, Term),
            (Message { commit: 21, ..of(MsgHeartbeat) }, FOLLOWER, Commit),
            (Message { commit: u64::MAX, term: 6, ..of(MsgHeartbeat) }, LEADER, Commit),
            (Message { index: 21, ..of(MsgAppendResponse) }, LEADER, Index),
            (Message { reject: true, reject_hint: u64::MAX, ..of(MsgAppendResponse) }, LEADER, Index),
            (Message { request_snapshot: 1, ..of(MsgAppendResponse) }, LEADER, Kind),
            (appended(10, 4, &[(12, 5)]), FOLLOWER, Gap),
            (appended(10, 4, &[(11, 5), (13, 5)]), FOLLOWER, Gap),
            (appended(u64::MAX, 5, &[(0, 5)]), FOLLOWER, Gap),
            (appended(30, 0, &[(31, 5)]), FOLLOWER, Gap),
            (appended(0, 1, &[(1, 1)]), FOLLOWER, Gap),
            (appended(10, 4, &[(11, 3)]), FOLLOWER, Falling),
            (appended(10, 4, &[(11, 5), (12, 4)]), FOLLOWER, Falling),
            (appended(10, 4, &[(11, 6)]), FOLLOWER, Falling),
            (appended(10, 3, &[]), FOLLOWER, Falling),
            (appended(10, 6, &[]), FOLLOWER, Falling),
            (Message { from: 3, ..of(MsgHeartbeat) }, FOLLOWER, Name),
            (Message { to: 3, ..of(MsgHeartbeat) }, FOLLOWER, Name),
            (of(MsgHeartbeat), LEADER, Leader),
            (appended(10, 4, &[]), View { leader: 3, ..FOLLOWER }, Leader),
            (with(MsgReadIndexResp, read(ME)), View { leader: 3, ..FOLLOWER }, Leader),
            (with(MsgHeartbeat, read(PEER)), FOLLOWER, Kind),
            (Message { context: vec![0; 33].into(), ..of(MsgHeartbeat) }, FOLLOWER, Kind),
            (Message { snapshot: SingularPtrField::some(Snapshot::default()), ..of(MsgAppend) }, FOLLOWER, Kind),
        ];
        for (hostile, view, violation) in hostile {
            assert_eq!(message(&hostile, PEER, &view), Err(violation), "{hostile:?}");
        }
        for kind in
            [MsgHup, MsgBeat, MsgPropose, MsgSnapshot, MsgUnreachable, MsgSnapStatus, MsgCheckQuorum, MsgTransferLeader]
        {
            assert_eq!(message(&of(kind), PEER, &LEADER), Err(Kind), "{kind:?}");
        }
    }

    /// A node that is far behind, or that the others are far behind, comes to their term step by step.
    #[test]
    fn a_term_far_ahead_is_reached_in_steps() {
        let most = FOLLOWER.term + limits::TERM_STEP;
        for (term, verdict) in [
            (most, Ok(Verdict::Take)),
            (most + 1, Ok(Verdict::Follow(most))),
            (limits::TERM_MAX, Ok(Verdict::Follow(most))),
            (limits::TERM_MAX + 1, Err(Violation::Term)),
        ] {
            let comes = Message { term, ..of(MessageType::MsgRequestVote) };
            assert_eq!(message(&comes, PEER, &FOLLOWER), verdict, "{term}");
        }
    }

    /// These are honest, but come at a moment when raft would assert, or when they would do harm.
    #[test]
    fn what_comes_at_the_wrong_moment_is_dropped() {
        use MessageType::*;
        let dropped = [
            (of(MsgRequestVoteResponse), View { is_durable: false, ..FOLLOWER }),
            (Message { term: 6, ..of(MsgRequestPreVoteResponse) }, View { is_durable: false, ..FOLLOWER }),
            (with(MsgReadIndex, read(PEER)), FOLLOWER),
            (with(MsgReadIndex, read(PEER)), View { reads: READS_MAX, ..LEADER }),
            (with(MsgReadIndexResp, read(ME)), View { leader: 0, ..FOLLOWER }),
            (of(MsgTimeoutNow), View { leader: 3, ..FOLLOWER }),
            (Message { term: 6, ..of(MsgTimeoutNow) }, FOLLOWER),
        ];
        for (late, view) in dropped {
            assert_eq!(message(&late, PEER, &view), Ok(Verdict::Drop), "{late:?}");
        }
    }

    /// An entry that cannot be applied ends the process of each node that stores it, at this start and at every later one.
    #[test]
    fn only_what_can_be_applied_is_stored() {
        let normal = |data: Bytes| Entry { data, ..Entry::default() };
        let change = |data: Bytes| Entry { entry_type: EntryType::EntryConfChangeV2, data, ..Entry::default() };
        assert!(entry(&normal(Bytes::new())) && entry(&normal(batch())));
        let admit = protobuf::Message::write_to_bytes(&Change::Admit(7).to_raft()).unwrap();
        assert!(entry(&change(admit.clone().into())));
        assert!(!entry(&normal(b"not a batch".to_vec().into())));
        assert!(!entry(&normal(batch().slice(..batch().len() - 1))));
        assert!(!entry(&change(Bytes::new())) && !entry(&change(batch())));
        assert!(!entry(&Entry { entry_type: EntryType::EntryConfChange, ..change(admit.clone().into()) }));
        assert!(!entry(&Entry { context: batch(), ..normal(batch()) }));
        // Groups within groups: the decoder calls itself for each, until the stack is full.
        let nested = [&admit[..], &[0x63; 200_000]].concat();
        assert!(!entry(&change(nested.into())));
    }

    /// raft refuses to start from members that make no sense, and ends the process.
    #[test]
    fn members_that_make_no_sense_are_refused() {
        let conf = |voters: &[u64], learners: &[u64]| ConfState::from((voters.to_vec(), learners.to_vec()));
        assert!(members(&conf(&[1, 2], &[3]), 4));
        let joint = ConfState { voters_outgoing: vec![1], ..conf(&[1, 2], &[]) };
        for bad in [conf(&[], &[1]), conf(&[1, 1], &[]), conf(&[1], &[1]), conf(&[0], &[]), conf(&[1, 9], &[]), joint] {
            assert!(!members(&bad, 4), "{bad:?}");
        }
    }

    // ---- against raft itself ----

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::Staging;
    use super::super::group::{Group, Start};
    use crate::log::{Log, Params};

    /// What happens to a node of three.
    #[derive(Clone, Debug)]
    enum Step {
        /// A message comes whose numbers are so far from the node's own.
        Comes { kind: usize, from: u64, numbers: [i64; 6], flags: [bool; 2], entries: Vec<(i64, i64, u8)> },
        /// Many ticks without a leader.
        TimesOut,
        /// The disk has written everything.
        Persists,
        /// The node proposes a batch, if it leads.
        Proposes,
        /// The node applies what is committed.
        Applies,
    }

    const KINDS: [MessageType; 11] = {
        use MessageType::*;
        [
            MsgAppend,
            MsgAppendResponse,
            MsgRequestVote,
            MsgRequestVoteResponse,
            MsgHeartbeat,
            MsgHeartbeatResponse,
            MsgReadIndex,
            MsgReadIndexResp,
            MsgTimeoutNow,
            MsgRequestPreVote,
            MsgRequestPreVoteResponse,
        ]
    };

    fn any_step() -> impl Strategy<Value = Step> {
        let near = || prop_oneof![12 => Just(0_i64), 4 => -1_i64..=1, 1 => -5_i64..=5, 1 => any::<i64>()];
        let entry = (prop_oneof![9 => Just(0_i64), 1 => any::<i64>()], -1_i64..=1, 0_u8..4);
        let numbers = prop::array::uniform6(near());
        let comes = (0..KINDS.len(), 2_u64..=3, numbers, any::<[bool; 2]>(), vec(entry, 0..4))
            .prop_map(|(kind, from, numbers, flags, entries)| Step::Comes { kind, from, numbers, flags, entries });
        prop_oneof![
            12 => comes,
            1 => Just(Step::TimesOut),
            3 => Just(Step::Persists),
            1 => Just(Step::Proposes),
            2 => Just(Step::Applies),
        ]
    }

    /// A node of raft, and its log.
    struct Node {
        group: Group,
        log: Log,
    }

    impl Node {
        fn new() -> Node {
            let conf_state = ConfState::from((vec![1, 2, 3], vec![]));
            let group = Group::new(Start { id: ME, seed: 7, conf_state, ..Start::default() }, 8).unwrap();
            let mut log = Log::create(Params { segment_size: limits::SEGMENT, node: *b"ABCDEFGHIJKLMNOP" });
            let first = log.wants_segment().unwrap();
            log.prepared(first.generation);
            Node { group, log }
        }

        fn does(&mut self, step: &Step) {
            match step {
                Step::Comes { kind, from, numbers, flags, entries } => {
                    let view = self.group.view();
                    let [term, index, log_term, commit, commit_term, hint] = *numbers;
                    let near = |of: u64, by: i64| of.saturating_add_signed(by);
                    let index = near(view.last, index);
                    let log_term = if index == 0 { 0 } else { near(view.term, log_term) };
                    let msg_type = KINDS[*kind];
                    let mut comes = Message {
                        msg_type,
                        from: *from,
                        to: ME,
                        term: match msg_type {
                            MessageType::MsgReadIndex => 0,
                            // Such a vote is for the next term.
                            MessageType::MsgRequestPreVoteResponse => near(view.term + 1, term),
                            _ => near(view.term, term),
                        },
                        index,
                        log_term,
                        commit: near(view.committed.0, commit),
                        commit_term: near(view.committed.1, commit_term),
                        reject: flags[0],
                        reject_hint: near(index, hint),
                        ..Message::default()
                    };
                    let entry = |(nth, (by, term, data)): (u64, &(i64, i64, u8))| Entry {
                        index: near(index.saturating_add(1 + nth), *by),
                        term: near(log_term, *term),
                        data: if *data == 0 { Bytes::new() } else { batch() },
                        ..Entry::default()
                    };
                    let entries: Vec<Entry> = match msg_type {
                        MessageType::MsgReadIndex if flags[1] => read(*from),
                        MessageType::MsgReadIndexResp if flags[1] => read(ME),
                        MessageType::MsgAppend | MessageType::MsgReadIndex => (0..).zip(entries).map(entry).collect(),
                        _ => Vec::new(),
                    };
                    comes.set_entries(entries.into());
                    match message(&comes, *from, &view) {
                        Ok(Verdict::Take) => self.group.step(comes),
                        Ok(Verdict::Follow(term)) => self.group.follow(*from, term),
                        Ok(Verdict::Drop) | Err(_) => {}
                    }
                }
                Step::TimesOut => (0..20).for_each(|_| self.group.tick()),
                Step::Persists => {
                    while let Some(write) = self.log.next_write() {
                        let durable = self.log.written(write);
                        self.group.persisted(durable);
                    }
                }
                Step::Proposes => _ = self.group.propose(batch()),
                Step::Applies => {
                    while self.group.next_committed().is_some() {}
                    self.group.applied_all(0, 0);
                }
            }
            self.group.pump(&mut Staging(&mut self.log));
            self.group.take_messages();
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        /// The table of what raft asserts is only as good as its reading. Whatever passes is stepped, in states that hostile messages
        /// have led to, and raft must not panic.
        #[test]
        fn raft_survives_whatever_passes(steps in vec(any_step(), 1..60)) {
            let mut node = Node::new();
            for step in &steps {
                node.does(step);
            }
        }
    }
}
