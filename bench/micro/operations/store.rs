//! The tree, and globs on paths as they are in it.
//!
//! The history is short and full, as in a server that has run for a while: each mutation also drops a revision.

use std::hint::black_box;

use doozer::store::{Glob, Lookup, Mutation, Refused, Store};

use super::{Listed, VALUE, path};

const TIMES: u32 = 500;
const SMALL: u32 = 1_000;
const LARGE: u32 = 100_000;
const HISTORY: u64 = 1_000;

pub const OPERATIONS: &[Listed] = &[
    ("store/set-1000", TIMES, || set(SMALL)),
    ("store/set-100000", TIMES, || set(LARGE)),
    ("store/set-new-1000", TIMES, || set_new(SMALL)),
    ("store/set-new-100000", TIMES, || set_new(LARGE)),
    ("store/del-1000", TIMES, || del(SMALL)),
    ("store/del-100000", TIMES, || del(LARGE)),
    ("store/set-refused-1000", TIMES, || set_refused(SMALL)),
    ("store/set-refused-100000", TIMES, || set_refused(LARGE)),
    ("store/get-1000", TIMES, || get(SMALL)),
    ("store/get-100000", TIMES, || get(LARGE)),
    ("store/get-missing-100000", TIMES, || get_missing(LARGE)),
    ("glob/compile-star", TIMES, || compile("/dir0*/file*")),
    ("glob/compile-stars", TIMES, || compile("/**/file*7")),
    ("glob/compile-question", TIMES, || compile("/dir000?/file00000?")),
    ("glob/match-literal", TIMES, || matches("/dir0000/file000007", 1)),
    ("glob/match-star", TIMES, || matches("/dir0*/file*7", 50)),
    ("glob/match-stars", TIMES, || matches("/**7", 50)),
    ("glob/match-question", TIMES, || matches("/dir000?/file00000?", 10)),
    ("glob/match-long", TIMES, || {
        matches("/**?????????????????????????????????????????????????????????????????????", 0)
    }),
];

/// A store of so many files.
pub fn filled(files: u32) -> Store {
    let mut store = Store::new(HISTORY);
    for i in 0..files {
        set_one(&mut store, &path(i));
    }
    store
}

pub fn set_one(store: &mut Store, path: &str) {
    let made = store.apply(Mutation::Set { path: black_box(path.as_bytes()), rev: -1, value: black_box(&VALUE.0) });
    assert!(made.is_ok());
}

/// Twice [`TIMES`] paths of different files, not in their order.
fn paths(files: u32) -> Vec<String> {
    (0..2 * TIMES).map(|i| path(i * 7919 % files)).collect()
}

/// Gives the first half of `paths` to `each`, then the second, then the first again.
pub fn by_halves<S: 'static>(
    paths: Vec<String>,
    mut state: S,
    each: impl Fn(&mut S, &str) + 'static,
) -> Box<dyn FnMut()> {
    let half = paths.len() / 2;
    let mut second = false;
    Box::new(move || {
        let (front, back) = paths.split_at(half);
        for path in if second { back } else { front } {
            each(&mut state, path);
        }
        second = !second;
    })
}

fn set(files: u32) -> Box<dyn FnMut()> {
    by_halves(paths(files), filled(files), set_one)
}

fn set_new(files: u32) -> Box<dyn FnMut()> {
    let paths = paths(files).into_iter().map(|path| path + "-new").collect();
    by_halves(paths, filled(files), set_one)
}

fn del(files: u32) -> Box<dyn FnMut()> {
    by_halves(paths(files), filled(files), |store, path| {
        assert!(store.apply(Mutation::Del { path: black_box(path.as_bytes()), rev: i64::MAX }).is_ok());
    })
}

/// A compare-and-set that has come too late.
fn set_refused(files: u32) -> Box<dyn FnMut()> {
    by_halves(paths(files), filled(files), |store, path| {
        let mutation = Mutation::Set { path: black_box(path.as_bytes()), rev: 0, value: &VALUE.0 };
        assert_eq!(store.apply(mutation), Err(Refused::RevMismatch));
    })
}

fn get(files: u32) -> Box<dyn FnMut()> {
    by_halves(paths(files), filled(files), |store, path| {
        let found = store.lookup(black_box(path.as_bytes()), store.revision());
        assert!(matches!(black_box(found), Lookup::File { .. }));
    })
}

fn get_missing(files: u32) -> Box<dyn FnMut()> {
    let paths = paths(files).into_iter().map(|path| path + "-none").collect();
    by_halves(paths, filled(files), |store, path| {
        let found = store.lookup(black_box(path.as_bytes()), store.revision());
        assert_eq!(black_box(found), Lookup::Missing);
    })
}

fn compile(pattern: &str) -> Box<dyn FnMut()> {
    let pattern = pattern.to_owned();
    Box::new(move || {
        for _ in 0..TIMES {
            assert!(black_box(Glob::new(black_box(pattern.as_bytes()))).is_ok());
        }
    })
}

/// Holds paths of five directories against a glob that matches so many of them.
fn matches(pattern: &str, expected: u32) -> Box<dyn FnMut()> {
    let glob = Glob::new(pattern.as_bytes()).expect("a glob");
    let paths: Vec<String> = (0..TIMES).map(path).collect();
    Box::new(move || {
        let found = paths.iter().filter(|path| black_box(&glob).matches(black_box(path.as_bytes()))).count();
        assert_eq!(u32::try_from(found), Ok(expected));
    })
}
