//! The numbers of the protocol: verbs, error codes, event flags.
//!
//! Messages carry them as bare `i32`, since a peer may send any; the enums here are the known ones.

use std::fmt;

/// Flag of an event or of a walked file: the file was set.
pub const FLAG_SET: i32 = 4;
/// Flag of an event: the file was deleted. An event without either flag is a nop.
pub const FLAG_DEL: i32 = 8;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(i32)]
pub enum Verb {
    /// A file's body at a revision.
    Get = 1,
    /// Compare and set a file.
    Set = 2,
    /// Compare and delete a file.
    Del = 3,
    /// The server's current revision.
    Rev = 5,
    /// The first matching event at or after a revision.
    Wait = 6,
    /// A revision that changes nothing.
    Nop = 7,
    /// The n-th file that matches a glob.
    Walk = 9,
    /// The n-th name in a directory.
    Getdir = 14,
    /// A file's revision and length.
    Stat = 16,
    /// The server's id.
    SelfId = 20,
    /// Answers once all that was acknowledged anywhere before is applied here. Not known to the original.
    Sync = 30,
    /// What the server measures of itself. Not known to the original.
    Stats = 31,
    /// Presents a secret.
    Access = 99,
}

impl Verb {
    /// Every verb, in the order of its number.
    pub const ALL: [Self; 13] = [
        Self::Get,
        Self::Set,
        Self::Del,
        Self::Rev,
        Self::Wait,
        Self::Nop,
        Self::Walk,
        Self::Getdir,
        Self::Stat,
        Self::SelfId,
        Self::Sync,
        Self::Stats,
        Self::Access,
    ];

    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> i32 {
        self as i32
    }
}

impl TryFrom<i32> for Verb {
    type Error = UnknownCode;

    fn try_from(code: i32) -> Result<Self, UnknownCode> {
        Ok(match code {
            1 => Self::Get,
            2 => Self::Set,
            3 => Self::Del,
            5 => Self::Rev,
            6 => Self::Wait,
            7 => Self::Nop,
            9 => Self::Walk,
            14 => Self::Getdir,
            16 => Self::Stat,
            20 => Self::SelfId,
            30 => Self::Sync,
            31 => Self::Stats,
            99 => Self::Access,
            _ => return Err(UnknownCode(code)),
        })
    }
}

/// Why a request was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(i32)]
pub enum ErrCode {
    /// Two outstanding requests share a tag. No server has ever sent it.
    TagInUse = 1,
    /// The verb is missing or not known.
    UnknownVerb = 2,
    /// The server cannot take writes now; this one was certainly not applied.
    Readonly = 3,
    /// The revision is older than the history.
    TooLate = 4,
    /// The file's revision is greater than the one that was given.
    RevMismatch = 5,
    /// The path is not one.
    BadPath = 6,
    /// A field that the verb needs is absent.
    MissingArg = 7,
    /// The offset is outside of the directory or of the walk.
    Range = 8,
    /// A file where a directory was expected.
    Notdir = 20,
    /// A directory where a file was expected.
    Isdir = 21,
    /// No such directory.
    Noent = 22,
    /// Anything else; the detail says what.
    Other = 127,
}

impl ErrCode {
    /// Every code, in the order of its number.
    pub const ALL: [Self; 12] = [
        Self::TagInUse,
        Self::UnknownVerb,
        Self::Readonly,
        Self::TooLate,
        Self::RevMismatch,
        Self::BadPath,
        Self::MissingArg,
        Self::Range,
        Self::Notdir,
        Self::Isdir,
        Self::Noent,
        Self::Other,
    ];

    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> i32 {
        self as i32
    }

    /// The protocol's name for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::TagInUse => "TAG_IN_USE",
            Self::UnknownVerb => "UNKNOWN_VERB",
            Self::Readonly => "READONLY",
            Self::TooLate => "TOO_LATE",
            Self::RevMismatch => "REV_MISMATCH",
            Self::BadPath => "BAD_PATH",
            Self::MissingArg => "MISSING_ARG",
            Self::Range => "RANGE",
            Self::Notdir => "NOTDIR",
            Self::Isdir => "ISDIR",
            Self::Noent => "NOENT",
            Self::Other => "OTHER",
        }
    }
}

impl fmt::Display for ErrCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl TryFrom<i32> for ErrCode {
    type Error = UnknownCode;

    fn try_from(code: i32) -> Result<Self, UnknownCode> {
        Ok(match code {
            1 => Self::TagInUse,
            2 => Self::UnknownVerb,
            3 => Self::Readonly,
            4 => Self::TooLate,
            5 => Self::RevMismatch,
            6 => Self::BadPath,
            7 => Self::MissingArg,
            8 => Self::Range,
            20 => Self::Notdir,
            21 => Self::Isdir,
            22 => Self::Noent,
            127 => Self::Other,
            _ => return Err(UnknownCode(code)),
        })
    }
}

/// A number that stands for no verb, or for no error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownCode(pub i32);

impl fmt::Display for UnknownCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown code {}", self.0)
    }
}

impl std::error::Error for UnknownCode {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_stands_for_one_verb_and_back() {
        let known: Vec<Verb> = (-200..200).filter_map(|n| Verb::try_from(n).ok()).collect();
        assert_eq!(known, Verb::ALL);
        assert!(Verb::ALL.iter().all(|v| Verb::try_from(v.code()) == Ok(*v)));
        assert_eq!(Verb::try_from(i32::MIN), Err(UnknownCode(i32::MIN)));
    }

    #[test]
    fn every_number_stands_for_one_error_and_back() {
        let known: Vec<ErrCode> = (-200..200).filter_map(|n| ErrCode::try_from(n).ok()).collect();
        assert_eq!(known, ErrCode::ALL);
        assert!(ErrCode::ALL.iter().all(|e| ErrCode::try_from(e.code()) == Ok(*e)));
    }
}
