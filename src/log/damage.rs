//! What recovery says when it refuses: which file, where, what is wrong, what is the last good entry, what can be done.

use super::segment::NodeId;
use super::snapshot::SnapshotDamage;
use super::table::Fault;

/// What is wrong with a data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// The log.
    Log(Fault),
    /// A snapshot that nothing can stand in for.
    Snapshot(SnapshotDamage),
    /// The identity is damaged.
    Identity,
}

/// A data directory that a crash cannot have left so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Name of the file.
    pub file: String,
    /// Byte offset in it.
    pub offset: u64,
    /// What is wrong.
    pub wrong: Wrong,
    /// Index of the last entry before the damage; `None` if not even that is known.
    pub last: Option<u64>,
    /// How to go on with what precedes the damage; `None` if nothing does.
    pub salvage: Option<Salvage>,
}

/// What has to be done, in this order, to go on with what precedes the damage. Then recovery is to be run again: it may
/// find more.
///
/// What lies behind the damage was acknowledged and is lost by this, so it is done only when the operator asks for it, and never
/// by a member of a cluster, which must not vote or acknowledge on less than it once acknowledged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Salvage {
    /// Files to be moved out of the directory, to be kept.
    pub set_aside: Vec<String>,
    /// Files of which a copy is to be kept elsewhere, because they are changed.
    pub copy: Vec<String>,
    /// Bytes to be made zero, durably.
    pub erase: Vec<Erase>,
    /// Whether no segment is left: one is then to be prepared as for [`super::Log::create`], of generation 1.
    pub new_log: bool,
}

/// Bytes of a file that are to be made zero. Whole blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Erase {
    /// Name of the file.
    pub file: String,
    /// Byte offset in it.
    pub offset: u64,
    /// Count of bytes.
    pub length: u64,
}

/// Why a data directory is not used. Only [`Refusal::Damage`] proves that data is lost. With any other reason the data may be
/// whole, and nothing of it may be moved or changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal<E> {
    /// The data is damaged: no crash can have caused it.
    Damage(Box<Damage>),
    /// A file is of a format version that this program does not know. Nothing was touched.
    UnknownVersion {
        /// Name of the file.
        file: String,
        /// The version that it names.
        version: u32,
    },
    /// A segment belongs to another node.
    Foreign {
        /// Name of the file.
        file: String,
        /// Whose it is.
        owner: NodeId,
        /// Whose it should be.
        node: NodeId,
    },
    /// A file could not be read.
    Read {
        /// Name of the file.
        file: String,
        /// Byte offset in it.
        offset: u64,
        /// What the reader said.
        error: E,
    },
}

impl<E> From<Box<Damage>> for Refusal<E> {
    fn from(damage: Box<Damage>) -> Refusal<E> {
        Refusal::Damage(damage)
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Fault::Block => "a block is damaged: its crc is wrong",
            Fault::Hole => "a block is missing, though a later write is there",
            Fault::Astray => "a block was written for another place",
            Fault::Newer => "a block belongs to a later segment",
            Fault::BehindSeal => "something was written behind the end of the segment",
            Fault::NoSuccessor => "the segment is complete, and the one that follows it is missing",
            Fault::Unsealed => "the end of the segment is missing, though the next one has been written to",
            Fault::Surplus => "the end of the segment is missing, though two more follow it",
            Fault::Gap => "the segments before this one are missing, and no snapshot covers them",
            Fault::NoSnapshot => "the log goes on behind a snapshot that is missing",
            Fault::Disagree => "the snapshot contradicts committed entries of the log",
            Fault::Preface => "the first block is not that of a segment",
            Fault::Length => "the file has another length than it was made with",
            Fault::Misnamed => "the file was made under another name",
            Fault::Opening => "a write does not go on where the one before it ended",
            Fault::Record => "a record is malformed inside whole blocks",
            Fault::Sequence => "a record cannot follow the one before it",
            Fault::Number => "a number is impossible, though its crc is right",
            Fault::NoLog => "there is no segment of the log at all",
            Fault::NoIdentity => "the identity of the node is missing, though there is data",
        })
    }
}

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Wrong::Log(fault) => fault.fmt(f),
            Wrong::Snapshot(damage) => damage.fault.fmt(f),
            Wrong::Identity => f.write_str("the identity of the node is damaged"),
        }
    }
}

impl Damage {
    /// Returns where the damage is, and what is wrong.
    #[must_use]
    pub fn what(&self) -> String {
        format!("file {}, byte {}: {}", self.file, self.offset, self.wrong)
    }
}

impl std::fmt::Display for Damage {
    /// One line: where, what, what is left, what can be done.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.what())?;
        match self.last {
            _ if matches!(self.wrong, Wrong::Identity | Wrong::Log(Fault::NoIdentity)) => f.write_str(". ")?,
            Some(last) if last > 0 => write!(f, "; the last good entry is {last}. ")?,
            _ => f.write_str("; no good entry precedes it. ")?,
        }
        f.write_str("Restore the directory from a copy; in a cluster, start with an empty directory as a new node")?;
        if self.salvage.is_some() {
            f.write_str("; or give up what follows the damage with --salvage, which sets the damaged files aside")?;
        }
        f.write_str(".")
    }
}

impl std::error::Error for Damage {}

impl<E: std::fmt::Display> std::fmt::Display for Refusal<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refusal::Damage(damage) => damage.fmt(f),
            Refusal::UnknownVersion { file, version } => write!(
                f,
                "file {file} is of format version {version}, and this program knows version {}: use the program that wrote it. \
                 Nothing was changed.",
                super::preface::VERSION
            ),
            Refusal::Foreign { file, owner, node } => write!(
                f,
                "file {file} belongs to node {}, and this is node {}: the directory holds files of two nodes; move away those that do \
                 not belong here. Nothing was changed.",
                owner.escape_ascii(),
                node.escape_ascii()
            ),
            Refusal::Read { file, offset, error } => {
                write!(f, "file {file}, byte {offset}: cannot be read: {error}. Nothing was changed.")
            }
        }
    }
}

impl<E: std::fmt::Display + std::fmt::Debug> std::error::Error for Refusal<E> {}
