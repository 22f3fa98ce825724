//! What things are called: paths, globs, and values that name the mutation which wrote them.
//!
//! All of it is the plainest reading of the protocol: a path is split at its slashes, a glob is matched by trying everything.

use std::cmp::Ordering;

/// Longest path or glob.
const PATH_MAX: usize = 4096;

/// Whether these bytes are a path: `/`, or components of `[A-Za-z0-9.-]`, each behind a slash.
pub fn is_path(bytes: &[u8]) -> bool {
    is_path_of(bytes, |b| b.is_ascii_alphanumeric() || *b == b'.' || *b == b'-')
}

/// Whether these bytes are a glob: a path whose components may hold stars and question marks too.
pub fn is_glob(bytes: &[u8]) -> bool {
    is_path_of(bytes, |b| b.is_ascii_alphanumeric() || b".-*?".contains(b))
}

fn is_path_of(bytes: &[u8], allowed: impl Fn(&u8) -> bool) -> bool {
    let Some((b'/', rest)) = bytes.split_first() else { return false };
    bytes.len() <= PATH_MAX
        && (rest.is_empty() || rest.split(|b| *b == b'/').all(|name| !name.is_empty() && name.iter().all(&allowed)))
}

/// Whether a glob matches a path.
pub fn matches(glob: &[u8], path: &[u8]) -> bool {
    match glob {
        [] => path.is_empty(),
        [b'*', b'*', rest @ ..] => (0..=path.len()).any(|n| matches(rest, &path[n..])),
        [b'*', rest @ ..] => {
            let run = path.iter().take_while(|b| **b != b'/').count();
            (0..=run).any(|n| matches(rest, &path[n..]))
        }
        [b'?', rest @ ..] => matches!(path, [first, tail @ ..] if *first != b'/' && matches(rest, tail)),
        [byte, rest @ ..] => path.first() == Some(byte) && matches(rest, &path[1..]),
    }
}

/// The order in which a walk visits files: depth first, the entries of a directory in byte order.
pub fn walk_order(a: &[u8], b: &[u8]) -> Ordering {
    a.split(|b| *b == b'/').cmp(b.split(|b| *b == b'/'))
}

/// A path without its last component; `None` for the root.
pub fn parent(path: &[u8]) -> Option<&[u8]> {
    match path.iter().rposition(|b| *b == b'/')? {
        0 if path.len() == 1 => None,
        0 => Some(b"/"),
        slash => Some(&path[..slash]),
    }
}

/// The last component of a path.
pub fn base(path: &[u8]) -> &[u8] {
    path.rsplit(|b| *b == b'/').next().unwrap_or_default()
}

/// The value of the SET of this name, of about this size. Each name is for one SET.
pub fn value(name: u64, size: usize) -> Vec<u8> {
    let mut value = format!("w {name} ").into_bytes();
    let filler = u8::try_from(name % 251).expect("below 251");
    value.resize(value.len().max(size), filler);
    value
}

/// The name that a value bears.
pub fn name(value: &[u8]) -> Option<u64> {
    let rest = value.strip_prefix(b"w ")?;
    let digits = &rest[..rest.iter().position(|b| *b == b' ')?];
    std::str::from_utf8(digits).ok()?.parse().ok()
}
