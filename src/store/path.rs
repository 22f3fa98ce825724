//! Paths: `/`, or one or more components, each a `/` and one or more of `[A-Za-z0-9.-]`.
//!
//! A [`Path`] is a proof: whoever holds one has bytes that were checked, so nothing below checks again. Such bytes
//! are ASCII, hence `&str`; names of nodes are kept as strings for the same reason.
//!
//! Walk order is that of a depth-first walk with the entries of each directory in byte order: `/a/x` comes before
//! `/a-x`, though `-` sorts before `/`. [`walk_order`] is that comparison.

use crate::limits::{LEVELS_MAX, PATH_MAX};
use std::cmp::Ordering;

/// A valid path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path<'a>(&'a str);

impl<'a> Path<'a> {
    /// The root, `/`.
    pub const ROOT: Path<'static> = Path("/");

    /// Checks `bytes`. `None` for anything that is not a path: empty, relative, with an empty component (a trailing slash
    /// is one), with another character, or longer than [`PATH_MAX`].
    pub fn parse(bytes: &'a [u8]) -> Option<Path<'a>> {
        if !is_path_of(bytes, &PATH_BYTES) {
            return None;
        }
        std::str::from_utf8(bytes).ok().map(Path)
    }

    /// The path as it was given.
    pub fn as_str(self) -> &'a str {
        self.0
    }

    /// The path as it was given.
    pub fn as_bytes(self) -> &'a [u8] {
        self.0.as_bytes()
    }

    /// Whether this is `/`.
    pub fn is_root(self) -> bool {
        self.0.len() == 1
    }

    /// How many components there are.
    pub fn levels(self) -> usize {
        self.components().count()
    }

    /// Whether there are more components than SET may make. Only a long path is counted.
    pub fn is_too_deep(self) -> bool {
        self.0.len() > 2 * LEVELS_MAX && self.levels() > LEVELS_MAX
    }

    /// The components from the root down, without slashes; none for `/`.
    pub fn components(self) -> Components<'a> {
        Components(&self.0[1..])
    }
}

/// The components of a path that are still to come.
#[derive(Clone, Debug, Default)]
pub struct Components<'a>(&'a str);

impl<'a> Iterator for Components<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        if self.0.is_empty() {
            return None;
        }
        let bytes = self.0.as_bytes();
        let end = bytes.iter().position(|&b| b == b'/').unwrap_or(bytes.len());
        let name = &self.0[..end];
        self.0 = self.0.get(end + 1..).unwrap_or("");
        Some(name)
    }
}

/// What each byte is in a path or a glob: [`NAME`], [`SLASH`] or [`OTHER`].
pub(super) type Alphabet = [u8; 256];

/// A byte of a component.
const NAME: u8 = 1;
/// The byte in front of a component.
const SLASH: u8 = 2;
/// A byte that is not allowed.
const OTHER: u8 = 4;

/// The bytes of paths.
static PATH_BYTES: Alphabet = alphabet(b"");

/// The bytes of paths, and others that a component may contain.
pub(super) const fn alphabet(others: &[u8]) -> Alphabet {
    let mut of = [OTHER; 256];
    let mut byte: u8 = 0;
    while byte < 128 {
        if byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'-' {
            of[byte as usize] = NAME;
        }
        byte += 1;
    }
    let mut i = 0;
    while i < others.len() {
        of[others[i] as usize] = NAME;
        i += 1;
    }
    of[b'/' as usize] = SLASH;
    of
}

/// Returns whether `bytes` have the shape that paths and globs share; they differ in their alphabet.
pub(super) fn is_path_of(bytes: &[u8], alphabet: &Alphabet) -> bool {
    if bytes.len() > PATH_MAX || bytes.first() != Some(&b'/') {
        return false;
    }
    // Nearly every request comes here, so the loop has no branches: the bit of a slash stays if two follow each other.
    let (mut before, mut wrong) = (NAME, 0);
    for &byte in bytes {
        let this = alphabet[usize::from(byte)];
        wrong |= this & (before | OTHER);
        before = this;
    }
    wrong & (SLASH | OTHER) == 0 && (before == NAME || bytes.len() == 1)
}

/// Compares two paths by the order in which a walk visits them; a directory comes before what it holds.
pub fn walk_order(a: &[u8], b: &[u8]) -> Ordering {
    let common = a.iter().zip(b).position(|(x, y)| x != y);
    match common {
        None => a.len().cmp(&b.len()),
        // A slash ends a name, and the shorter name comes first: it counts as less than every other byte.
        Some(at) => match (a[at], b[at]) {
            (b'/', _) => Ordering::Less,
            (_, b'/') => Ordering::Greater,
            (x, y) => x.cmp(&y),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejects_what_is_not_a_path() {
        let long = vec![b'a'; PATH_MAX];
        let mut longest = long.clone();
        longest[0] = b'/';
        let mut too_long = longest.clone();
        too_long.push(b'a');
        for good in [&b"/"[..], b"/a", b"/a/b", b"/.", b"/..", b"/-/.-Z09", &longest] {
            assert!(Path::parse(good).is_some(), "{good:?}");
        }
        for bad in [
            &b""[..],
            b"a",
            b"a/b",
            b"//",
            b"//a",
            b"/a//b",
            b"/a/",
            b"/a_b",
            b"/a b",
            b"/\xc3\xa9",
            b"/a\0",
            b"/*",
            b"/?",
            &long,
            &too_long,
        ] {
            assert!(Path::parse(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn components_are_the_names_between_slashes() {
        let of = |p: &'static str| Path::parse(p.as_bytes()).unwrap().components().collect::<Vec<_>>();
        assert!(of("/").is_empty());
        assert_eq!(of("/a"), ["a"]);
        assert_eq!(of("/a/bc/."), ["a", "bc", "."]);
    }

    /// Byte order would put `/a-x` between `/a` and `/a/x`, and a walk resumed after it would skip a whole directory.
    #[test]
    fn walk_order_is_component_wise() {
        let sorted = ["/", "/a", "/a/x", "/a/x/y", "/a-", "/a-x", "/a.x", "/a0", "/aa", "/b"];
        for (i, a) in sorted.iter().enumerate() {
            for (j, b) in sorted.iter().enumerate() {
                assert_eq!(walk_order(a.as_bytes(), b.as_bytes()), i.cmp(&j), "{a} {b}");
            }
        }
    }
}
