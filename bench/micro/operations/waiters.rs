//! Ten thousand who wait, a quarter each for a path, in a directory, by the end of a name, and anywhere.

use std::hint::black_box;

use doozer::store::{Glob, Store, Wait, Woken};

use super::Listed;
use super::store::{by_halves, filled, set_one};

const TIMES: u32 = 500;
const WAITERS: u32 = 10_000;

pub const OPERATIONS: &[Listed] = &[
    ("waiters/set-wakes-none", TIMES, wakes_none),
    ("waiters/set-wakes-one", TIMES, wakes_one),
    ("waiters/wait-and-cancel", TIMES, wait_and_cancel),
];

fn pattern(i: u32) -> String {
    match i % 4 {
        0 => format!("/other/{i:05}/name"),
        1 => format!("/other/{i:05}/*"),
        2 => format!("/w/*{i:05}"),
        _ => format!("/**/x{i:05}"),
    }
}

/// What the waiter `i` waits for, and no other one.
fn awaited(i: u32) -> String {
    match i % 4 {
        0 => format!("/other/{i:05}/name"),
        1 => format!("/other/{i:05}/any"),
        2 => format!("/w/a{i:05}"),
        _ => format!("/w/x/x{i:05}"),
    }
}

fn waiting(waiters: u32) -> Store {
    let mut store = filled(1_000);
    for i in 0..waiters {
        let glob = Glob::new(pattern(i).as_bytes()).expect("a glob");
        let next = store.revision() + 1;
        assert!(matches!(store.wait(&glob, next, u64::from(i), &mut 9), Wait::Waiting(_)));
    }
    store
}

fn wakes_none() -> Box<dyn FnMut()> {
    let paths = (0..2 * TIMES).map(|i| format!("/w/none{i:05}-")).collect();
    by_halves(paths, (waiting(WAITERS), Vec::new()), |(store, woken), path| {
        set_one(store, path);
        store.take_woken(usize::MAX, woken);
        assert_eq!(*woken, []);
    })
}

fn wakes_one() -> Box<dyn FnMut()> {
    let paths = (0..2 * TIMES).map(awaited).collect();
    by_halves(paths, (waiting(WAITERS + 2 * TIMES), Vec::new()), |(store, woken), path| {
        set_one(store, path);
        store.take_woken(usize::MAX, woken);
        assert!(matches!(woken[..], [Woken::Event { .. }]));
        woken.clear();
    })
}

fn wait_and_cancel() -> Box<dyn FnMut()> {
    let mut store = waiting(WAITERS);
    let globs: Vec<Glob> = (0..TIMES).map(|i| Glob::new(pattern(WAITERS + i).as_bytes()).expect("a glob")).collect();
    Box::new(move || {
        let next = store.revision() + 1;
        for glob in &globs {
            let Wait::Waiting(id) = store.wait(black_box(glob), next, 1, &mut 9) else {
                panic!("nothing has happened")
            };
            assert!(store.cancel(black_box(id)));
        }
    })
}
