//! The names of a data directory's files.
//!
//! ```text
//! node                      identity, made last: a directory without it never acknowledged anything
//! {generation:016x}.log     a segment of the log
//! {index:016x}.snap         a snapshot at that raft index
//! any of these + .tmp       a file in the making: not yet renamed, so of no meaning after a crash
//! anything else             not ours: never touched
//! ```

/// Name of the identity file.
pub const IDENTITY: &str = "node";

/// What the server's trial of the disk is called; its file is a temporary one.
pub const PROBE: &str = "probe";

/// Name of the segment of this generation.
#[must_use]
pub fn segment(generation: u64) -> String {
    format!("{generation:016x}.log")
}

/// Name of the snapshot at this raft index.
#[must_use]
pub fn snapshot(index: u64) -> String {
    format!("{index:016x}.snap")
}

/// Name under which the file `name` is written before it is durable.
#[must_use]
pub fn temporary(name: &str) -> String {
    format!("{name}.tmp")
}

/// What a name says of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// A segment of this generation.
    Segment(u64),
    /// A snapshot at this raft index.
    Snapshot(u64),
    /// The identity file.
    Identity,
    /// A file in the making.
    Temporary,
    /// A file that is not ours.
    Other,
}

/// Reads a file's name.
#[must_use]
pub fn parse(name: &str) -> Name {
    if name == IDENTITY {
        Name::Identity
    } else if let Some(last) = name.strip_suffix(".tmp") {
        // Only what is made of our own names, lest a stranger's file be removed.
        if last == PROBE || !matches!(parse(last), Name::Temporary | Name::Other) {
            Name::Temporary
        } else {
            Name::Other
        }
    } else if let Some(generation) = name.strip_suffix(".log").and_then(number) {
        Name::Segment(generation)
    } else if let Some(index) = name.strip_suffix(".snap").and_then(number) {
        Name::Snapshot(index)
    } else {
        Name::Other
    }
}

/// Exactly 16 lower-case hexadecimal digits, not all zero: two names never mean one number.
fn number(digits: &str) -> Option<u64> {
    let plain = digits.len() == 16 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if plain { u64::from_str_radix(digits, 16).ok().filter(|&n| n > 0) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stranger's file in the data directory must be neither replayed nor removed.
    #[test]
    fn only_names_that_we_give_are_ours() {
        assert_eq!(parse(&segment(0x1f)), Name::Segment(0x1f));
        assert_eq!(parse(&snapshot(u64::MAX)), Name::Snapshot(u64::MAX));
        assert_eq!(parse(&temporary(&segment(2))), Name::Temporary);
        assert_eq!(parse("node"), Name::Identity);
        for other in [
            "0000000000000000.log",
            "000000000000001F.log",
            "+00000000000001f.log",
            "1f.log",
            "00000000000000001.log",
            "000000000000001f.log.old",
            "000000000000001f",
            "node.bak",
            "",
        ] {
            assert_eq!(parse(other), Name::Other, "{other}");
        }
    }
}
