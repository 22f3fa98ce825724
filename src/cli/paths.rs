//! Checks paths and globs, and says what is wrong with an invalid one.
//!
//! The protocol makes a server answer GET and STAT of an invalid path as it answers those of a missing file. A person who types a
//! command wants to know about the mistake, so the command checks first.

use std::fmt;

use crate::limits::PATH_MAX;
use crate::store::{Glob, Path};

/// A text that is not a valid path or glob.
#[derive(Debug, PartialEq, Eq)]
pub struct BadPath {
    text: String,
    glob: bool,
}

/// Checks a path.
pub fn check_path(text: &str) -> Result<(), BadPath> {
    match Path::parse(text.as_bytes()) {
        Some(_) => Ok(()),
        None => Err(BadPath { text: text.to_owned(), glob: false }),
    }
}

/// Checks a glob.
pub fn check_glob(text: &str) -> Result<(), BadPath> {
    match Glob::new(text.as_bytes()) {
        Ok(_) => Ok(()),
        Err(_) => Err(BadPath { text: text.to_owned(), glob: true }),
    }
}

impl BadPath {
    fn is_allowed(&self, c: char) -> bool {
        matches!(c, '/' | '.' | '-') || c.is_ascii_alphanumeric() || self.glob && matches!(c, '*' | '?')
    }
}

impl fmt::Display for BadPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The text begins with the server's words for a bad glob, as scripts may look for them.
        f.write_str(if self.glob { "invalid glob pattern: " } else { "" })?;
        let (text, kind) = (&self.text, if self.glob { "a glob" } else { "a path" });
        if text.len() > PATH_MAX {
            return write!(f, "{} bytes are too long for {kind}, the limit is {PATH_MAX}", text.len());
        }
        if text.is_empty() {
            return write!(f, "an empty text is not {kind}; the root is `/`");
        }
        write!(f, "{text}: ")?;
        if let Some(c) = text.chars().find(|c| !self.is_allowed(*c)) {
            let wildcards = if self.glob { ", and the wildcards `*` and `?`" } else { "" };
            write!(f, "{c:?} is not allowed; a name holds letters (A to Z, a to z), digits, `.` and `-`{wildcards}")
        } else if !text.starts_with('/') {
            write!(f, "{kind} begins with `/`")
        } else if text.contains("//") {
            f.write_str("there is an empty name between two slashes")
        } else {
            write!(f, "{kind} does not end with `/`")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(text: &str) -> String {
        check_path(text).unwrap_err().to_string()
    }

    #[test]
    fn the_reason_fits_the_slip() {
        assert_eq!(check_path("/"), Ok(()));
        assert_eq!(check_path("/a/b.c-1"), Ok(()));
        let names = "a name holds letters (A to Z, a to z), digits, `.` and `-`";
        assert_eq!(why("/a_b"), format!("/a_b: '_' is not allowed; {names}"));
        assert_eq!(why("/ä"), format!("/ä: 'ä' is not allowed; {names}"));
        assert_eq!(why("/a*"), format!("/a*: '*' is not allowed; {names}"));
        assert_eq!(why("a"), "a: a path begins with `/`");
        assert_eq!(why("/a/"), "/a/: a path does not end with `/`");
        assert_eq!(why("/a//b"), "/a//b: there is an empty name between two slashes");
        assert_eq!(why(""), "an empty text is not a path; the root is `/`");
        assert_eq!(why(&"/a".repeat(2049)), "4098 bytes are too long for a path, the limit is 4096");
        assert_eq!(check_glob("/a/**/x?"), Ok(()));
        let bad = check_glob("/a_b/*").unwrap_err().to_string();
        assert_eq!(
            bad,
            format!("invalid glob pattern: /a_b/*: '_' is not allowed; {names}, and the wildcards `*` and `?`")
        );
    }

    proptest::proptest! {
        /// Each reason is true: a text without any of the mistakes that the reasons name is a path.
        #[test]
        fn every_bad_path_has_a_reason_that_holds(text in "/?[a_/*.]{0,6}") {
            if let Err(bad) = check_path(&text) {
                let said = bad.to_string();
                proptest::prop_assert_eq!(said.contains("not allowed"), text.contains(['_', '*']));
                proptest::prop_assert!(!said.contains("does not end") || text.ends_with('/') && text.len() > 1);
                proptest::prop_assert!(!said.contains("begins with") || !text.starts_with('/'));
            }
        }
    }
}
