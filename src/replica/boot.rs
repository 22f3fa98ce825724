//! Decides how a node starts with the contents of its data directory. [`look`] reads the directory and returns a [`Plan`] or a
//! [`Refused`]; the server and the simulator carry it out.
//!
//! Invariants:
//! * [`look`] changes nothing, and a refusal is final: a refused node has written nothing.
//! * Data is moved or changed only after proven damage, [`log::Damage`]. For every other reason to refuse, the data stays as it is,
//!   because it may be whole: a newer program, another user or a repaired disk can read it.
//! * Data that the node gives up in favour of the others' copies stays where it is until another node has let this one in. Until then
//!   nobody knows that there are other copies: the node may have been alone, or may know only its own address.
//!
//! The table [`DECISIONS`] maps each finding to what the node does:
//!
//! | found | node | what the node does |
//! |---|---|---|
//! | damage | alone; `--salvage`, and there is data before the damage | continues with the data before the damage |
//! | damage | a voter or standby that the others can spare, and that knows where they are | comes back from them |
//! | damage of the identity | started with the address of another node (`-a`) | attaches as a new node |
//! | damage | any other | exits with status 65 |
//! | a newer version, another node's file, impossible contents | any | exits with status 65 |
//! | another cluster than that of `-c`, a file that cannot be read, no regular file, a link, a strange lock | any | exits with status 1 |

use std::fmt;

use super::batch::BadBatch;
use super::machine::Machine;
use super::rebuild::{Rebuild, Unusable};
use super::snapshot::BadSnapshot;
use super::{Recovered, group};
use crate::log::{self, Damage, FileInfo, Identity, Log, Params, Refusal, Survey, name};

/// Exit status of a server that could not start because of its surroundings: the flags, the machine, the network.
pub const EXIT_START: u8 = 1;
/// Exit status of a server whose data cannot be used (EX_DATAERR of sysexits.h).
pub const EXIT_DATA: u8 = 65;

/// A reason why a node cannot start with its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Proven damage: no crash can have caused it.
    Damage,
    /// A format that this program does not know, because another version wrote it.
    Version,
    /// A file of another node, of this cluster or another.
    OtherNode,
    /// The node belongs to another cluster than the one named at its start.
    OtherCluster,
    /// All checksums are right, but the contents are impossible: the program that wrote them has a bug.
    Contents,
    /// A permission to read a file is missing.
    Denied,
    /// Reading a file fails.
    Unreadable,
    /// The name of a file belongs to something that is not a file.
    NotAFile,
    /// A name of the server's own belongs to a symbolic link: what lies behind it is not this directory's.
    Link,
    /// The file that a running server locks holds something that no server wrote into it.
    NotALock,
}

/// The node's role in its cluster, which decides what it may do if its data is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The only voter of its cluster.
    Alone,
    /// One of two voters: both are needed.
    OneOfTwo,
    /// A standby, or one of at least three voters, that knows where other nodes are.
    Spare,
    /// A standby, or one of at least three voters, that knows no other node.
    Lost,
    /// The node's name is lost; it was told the address of another node.
    Nameless,
    /// The node's name is lost, and it was told no address, or only its own.
    Nobody,
}

impl Part {
    /// Reads the role from the identity. `attaches`: the node was told where another one is (`-a`).
    fn of(identity: &Identity, attaches: bool) -> Part {
        match (identity.voter, identity.voters) {
            (true, 0..=1) => Part::Alone,
            (true, 2) => Part::OneOfTwo,
            _ if attaches || !identity.peers.is_empty() => Part::Spare,
            _ => Part::Lost,
        }
    }
}

/// What a node does about a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The node does not start, and touches nothing.
    Exit(u8),
    /// The node continues with the data before the damage.
    Salvage,
    /// The node comes back from the others under another raft id. When they have let it in, it sets its data aside.
    ComeBack,
    /// The node attaches as a new node. When another node has let it in, it sets its data aside.
    Attach,
}

/// One row of [`DECISIONS`].
pub struct DecisionRow {
    /// What was found.
    pub found: &'static [Finding],
    /// The node's role.
    pub part: &'static [Part],
    /// Whether `--salvage` was given and there is data before the damage.
    pub salvage: &'static [bool],
    /// What the node does.
    pub decision: Decision,
}

const ANY: &[Part] = &[Part::Alone, Part::OneOfTwo, Part::Spare, Part::Lost, Part::Nameless, Part::Nobody];
const EITHER: &[bool] = &[false, true];

/// What a node does about each finding: exactly one row applies.
pub const DECISIONS: &[DecisionRow] = &[
    // The operator gives up the data after the damage; no other node has a copy of it.
    DecisionRow { found: &[Finding::Damage], part: &[Part::Alone], salvage: &[true], decision: Decision::Salvage },
    DecisionRow {
        found: &[Finding::Damage],
        part: &[Part::Alone],
        salvage: &[false],
        decision: Decision::Exit(EXIT_DATA),
    },
    // The others have everything that the node has acknowledged, and can elect a leader without it. Under its old raft id the node
    // might deny what it acknowledged, so it never continues with less.
    DecisionRow { found: &[Finding::Damage], part: &[Part::Spare], salvage: EITHER, decision: Decision::ComeBack },
    // The other voter alone is not a majority, so it could not let this one back in.
    DecisionRow {
        found: &[Finding::Damage],
        part: &[Part::OneOfTwo, Part::Lost, Part::Nobody],
        salvage: EITHER,
        decision: Decision::Exit(EXIT_DATA),
    },
    DecisionRow { found: &[Finding::Damage], part: &[Part::Nameless], salvage: EITHER, decision: Decision::Attach },
    // The program that wrote the data can read it.
    DecisionRow {
        found: &[Finding::Version, Finding::OtherNode, Finding::Contents],
        part: ANY,
        salvage: EITHER,
        decision: Decision::Exit(EXIT_DATA),
    },
    // The flags, the permissions or the disk need repair, not the data.
    DecisionRow {
        found: &[
            Finding::OtherCluster,
            Finding::Denied,
            Finding::Unreadable,
            Finding::NotAFile,
            Finding::Link,
            Finding::NotALock,
        ],
        part: ANY,
        salvage: EITHER,
        decision: Decision::Exit(EXIT_START),
    },
];

/// Returns the decision of the row that applies.
#[must_use]
pub fn decide(found: Finding, part: Part, salvage: bool) -> Decision {
    let row = DECISIONS
        .iter()
        .find(|row| row.found.contains(&found) && row.part.contains(&part) && row.salvage.contains(&salvage));
    row.expect("the tests find a row for each").decision
}

/// Why a file could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadError {
    /// True if a permission is missing; otherwise the disk has failed.
    pub denied: bool,
    /// The system's error message.
    pub said: String,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let remedy = if self.denied {
            "let the user that runs this server read and write the directory"
        } else {
            "see to the disk, and start again"
        };
        write!(f, "{}; {remedy}", self.said)
    }
}

/// Why a node does not start: one line that names the file and the remedy. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What was found.
    pub found: Finding,
    /// The exit status.
    pub status: u8,
    /// The line for the operator.
    pub line: String,
}

impl Refused {
    /// Makes a refusal that is the same for every role.
    ///
    /// # Panics
    /// If `found` is damage.
    #[must_use]
    pub fn for_all(found: Finding, line: String) -> Refused {
        assert!(found != Finding::Damage, "damage is decided about with what the node is");
        match decide(found, Part::Nobody, false) {
            Decision::Exit(status) => Refused { found, status, line },
            other => unreachable!("{found:?} leads to {other:?}"),
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}

impl std::error::Error for Refused {}

/// What to do with the data directory.
#[derive(Debug)]
pub enum Plan {
    /// The directory is empty: make a new node.
    New,
    /// The identity is damaged: attach as a new node, and then set everything aside. If it turns out that the node knows no address but
    /// its own, [`nobody`] is the refusal.
    Attach(Box<Damage>),
    /// The node has no raft id: join the cluster, and then set aside all but the identity.
    Join(Identity),
    /// The node has never had a log: begin one.
    Begin(Identity),
    /// Continue with the data in the files.
    Resume(Identity, Box<Held>),
    /// The node's data is damaged: give up the raft id, join again, and then set the data aside.
    ComeBack(Identity, Box<Damage>),
    /// Carry out [`Damage::salvage`], and look again.
    Salvage(Identity, Box<Damage>),
}

/// The data in a node's files.
pub struct Held {
    machine: Machine,
    start: group::Start,
    /// The steps that come before [`Held::resume`], and lines for the operator.
    pub found: log::Recovered,
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").field("start", &self.start).finish_non_exhaustive()
    }
}

impl Held {
    /// Returns where the replica continues, once the steps are carried out.
    #[must_use]
    pub fn resume(self, params: Params) -> Recovered {
        let Held { machine, start, found } = self;
        let snapshot = found.snapshot.map_or(0, |(index, _)| index);
        let log = Log::resume(params, &found);
        Recovered { machine, start, log, snapshot, snapshot_bytes: found.statistics.snapshot_bytes }
    }
}

/// What a node knows at its start beside its data.
#[derive(Clone, Copy, Debug)]
pub struct Told<'a> {
    /// The cluster's name, to check; `None` if none was given.
    pub cluster: Option<&'a str>,
    /// True if the node was told where another one is (`-a`). Its own address does not count.
    pub attaches: bool,
    /// True for `--salvage`.
    pub salvage: bool,
    /// How many past revisions stay readable.
    pub history: u64,
    /// How many bytes of applied entries are kept for peers, at most.
    pub keep: usize,
    /// A random number.
    pub seed: u64,
}

/// Reads the data directory and decides what to do. Changes nothing.
///
/// # Errors
/// If the node cannot start with this data.
pub fn look(told: &Told<'_>, listing: &[FileInfo], read: &mut log::Read<'_, ReadError>) -> Result<Plan, Refused> {
    let survey = log::survey(listing);
    let identity = match &survey {
        Ok(Survey::Empty) => return Ok(Plan::New),
        Ok(Survey::IdentityOnly | Survey::Founded) => log::read_identity(listing, read),
        Err(damage) => Err(Refusal::Damage(damage.clone())),
    };
    let identity = match identity {
        Ok(identity) => identity,
        Err(refusal) => {
            let damage = damage_of(refusal)?;
            inspect(None, listing, read)?;
            let part = if told.attaches { Part::Nameless } else { Part::Nobody };
            return match decide(Finding::Damage, part, false) {
                Decision::Attach => Ok(Plan::Attach(damage)),
                Decision::Exit(status) => Err(damaged(&damage, status, part)),
                other => unreachable!("a node without a name does not {other:?}"),
            };
        }
    };
    inspect(Some(&identity.node), listing, read)?;
    if let Some(wanted) = told.cluster
        && wanted != identity.cluster
        // A node that no cluster has let in yet is of none.
        && identity.cluster_id != 0
    {
        let line = format!(
            "-c {wanted}: file {} is that of a node of the cluster {}; leave -c away, or choose another directory with -d",
            name::IDENTITY,
            identity.cluster
        );
        return Err(Refused::for_all(Finding::OtherCluster, line));
    }
    if identity.raft_id == 0 {
        return Ok(Plan::Join(identity));
    }
    if identity.boot_epoch == 0 && survey == Ok(Survey::IdentityOnly) {
        return Ok(Plan::Begin(identity));
    }
    match recover(told, &identity, listing, read)? {
        Ok(held) => Ok(Plan::Resume(identity, Box::new(held))),
        Err(damage) => {
            let part = Part::of(&identity, told.attaches);
            match decide(Finding::Damage, part, told.salvage && damage.salvage.is_some()) {
                Decision::Salvage => Ok(Plan::Salvage(identity, damage)),
                Decision::ComeBack => Ok(Plan::ComeBack(identity, damage)),
                Decision::Exit(status) => Err(damaged(&damage, status, part)),
                Decision::Attach => unreachable!("the node has a name"),
            }
        }
    }
}

/// Checks that no file belongs to another node or another version.
fn inspect(
    node: Option<&log::NodeId>,
    listing: &[FileInfo],
    read: &mut log::Read<'_, ReadError>,
) -> Result<(), Refused> {
    // Reading everything later tells more about damage, so damage is no error here.
    log::inspect(node, listing, read).or_else(|refusal| damage_of(refusal).map(|_damage| ()))
}

/// Returns the data in the files, or the damage.
fn recover(
    told: &Told<'_>,
    identity: &Identity,
    listing: &[FileInfo],
    read: &mut log::Read<'_, ReadError>,
) -> Result<Result<Held, Box<Damage>>, Refused> {
    let mut rebuild = Rebuild::new(identity.node, told.history).keeping(told.keep);
    let found = log::recover(&identity.node, listing, read, &mut |event| rebuild.take(event));
    // Only a snapshot's contents tell that it is another node's, or of another version. That comes before any damage.
    if let Some(unusable) = rebuild.failure()
        && matches!(finding(unusable), Finding::Version | Finding::OtherNode)
    {
        return Err(unfit(unusable));
    }
    let found = match found {
        Ok(found) => found,
        Err(refusal) => return damage_of(refusal).map(Err),
    };
    let (machine, start) = rebuild.finish(identity.raft_id, told.seed, &found).map_err(|e| unfit(&e))?;
    Ok(Ok(Held { machine, start, found }))
}

/// Returns the damage, or a refusal for any other reason.
fn damage_of(refusal: Refusal<ReadError>) -> Result<Box<Damage>, Refused> {
    let found = match &refusal {
        Refusal::Damage(_) => Finding::Damage,
        Refusal::UnknownVersion { .. } => Finding::Version,
        Refusal::Foreign { .. } => Finding::OtherNode,
        Refusal::Read { error: ReadError { denied: true, .. }, .. } => Finding::Denied,
        Refusal::Read { .. } => Finding::Unreadable,
    };
    match refusal {
        Refusal::Damage(damage) => Ok(damage),
        other => Err(Refused::for_all(found, other.to_string())),
    }
}

fn unfit(unusable: &Unusable) -> Refused {
    let remedy = match finding(unusable) {
        Finding::Version => "use the program that wrote it",
        Finding::OtherNode => "move away the files that do not belong here",
        _ => "keep the directory, for the program that wrote it has a fault, and restore a copy of it",
    };
    Refused::for_all(finding(unusable), format!("{unusable}: {remedy}. Nothing was changed."))
}

fn finding(unusable: &Unusable) -> Finding {
    match unusable {
        Unusable::Snapshot { bad: BadSnapshot::Format(_), .. }
        | Unusable::Entry { .. }
        | Unusable::Batch { bad: BadBatch::Format(_) | BadBatch::Kind(_), .. } => Finding::Version,
        Unusable::Snapshot { bad: BadSnapshot::Foreign(_), .. } => Finding::OtherNode,
        Unusable::Snapshot { .. } | Unusable::Batch { .. } | Unusable::Epoch { .. } => Finding::Contents,
    }
}

/// Makes the refusal of a node whose identity is damaged, and which knows no address but its own.
///
/// # Panics
/// If [`DECISIONS`] lets such a node start.
#[must_use]
pub fn nobody(damage: &Damage) -> Refused {
    match decide(Finding::Damage, Part::Nobody, false) {
        Decision::Exit(status) => damaged(damage, status, Part::Nobody),
        other => unreachable!("a node that knows nobody leads to {other:?}"),
    }
}

fn damaged(damage: &Damage, status: u8, part: Part) -> Refused {
    // The others' copies are better than the data before the damage.
    let damage = match part {
        Part::Alone => damage.clone(),
        _ => Damage { salvage: None, ..damage.clone() },
    };
    let more = match part {
        Part::OneOfTwo => " The other member has a copy of its data: stop this node for good, or repair its disk.",
        Part::Lost => {
            " If it is told with -a where another node of its cluster is, it comes back from the others by itself."
        }
        Part::Nobody => " If it is told with -a where another node of its cluster is, it attaches as a new node.",
        Part::Alone | Part::Spare | Part::Nameless => "",
    };
    Refused { found: Finding::Damage, status, line: format!("{damage}{more} Nothing was changed.") }
}

#[cfg(test)]
mod tests;
