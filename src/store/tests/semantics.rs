//! The protocol's rules, one by one, where they are easily got wrong.

use crate::limits::{DIR_BYTES, LEVELS_MAX};
use crate::store::*;

fn set(store: &mut Store, path: &str, rev: i64) -> Result<i64, Refused> {
    store.apply(Mutation::Set { path: path.as_bytes(), rev, value: b"v" })
}

fn del(store: &mut Store, path: &str, rev: i64) -> Result<i64, Refused> {
    store.apply(Mutation::Del { path: path.as_bytes(), rev })
}

fn glob(pattern: &str) -> Glob {
    Glob::new(pattern.as_bytes()).unwrap()
}

/// The order of the checks decides which error a client sees.
#[test]
fn checks_run_in_the_order_of_the_protocol() {
    let mut store = Store::new(10);
    assert_eq!(set(&mut store, "/d/f", 0), Ok(1));
    assert_eq!(set(&mut store, "/d/f/", -1), Err(Refused::BadPath));
    assert_eq!(set(&mut store, "/d/f/x", -5), Err(Refused::NotDir));
    assert_eq!(set(&mut store, "/d/f/x/y", -1), Err(Refused::NotDir));
    assert_eq!(set(&mut store, "/d/f", 0), Err(Refused::RevMismatch));
    assert_eq!(set(&mut store, "/d", -3), Err(Refused::RevMismatch));
    for rev in [-2, -1, 0, 7] {
        assert_eq!(set(&mut store, "/d", rev), Err(Refused::IsDir));
        assert_eq!(del(&mut store, "/d", rev), Err(Refused::IsDir));
        assert_eq!(set(&mut store, "/", rev), Err(Refused::IsDir));
    }
    assert_eq!(set(&mut store, "/", -3), Err(Refused::RevMismatch));
    assert_eq!(set(&mut store, "/new", -2), Err(Refused::RevMismatch));
    assert_eq!(del(&mut store, "/new", -2), Err(Refused::RevMismatch));
    assert_eq!(store.revision(), 1, "a refused mutation makes no revision");
    assert_eq!(set(&mut store, "/d/f", 100), Ok(2));
}

/// The original deleted `/f` when told to delete `/f/x`.
#[test]
fn deleting_below_a_file_leaves_the_file() {
    let mut store = Store::new(10);
    set(&mut store, "/f", -1).unwrap();
    assert_eq!(del(&mut store, "/f/x", 0), Ok(2));
    assert_eq!(del(&mut store, "/f/x", -2), Err(Refused::RevMismatch));
    assert_eq!(store.lookup(b"/f", 2), Lookup::File { rev: 1, value: b"v" });
    assert_eq!(store.lookup(b"/f/x", 2), Lookup::Missing);
    let mut path = Vec::new();
    assert_eq!(store.event(2, &mut path), Some(Event { rev: 2, kind: Kind::Del, value: b"" }));
    assert_eq!(path, b"/f/x");
    assert!(matches!(store.wait(&glob("/f/x"), 1, 7, &mut 10), Wait::Event { rev: 2 }));
}

#[test]
fn a_new_store_can_be_read_at_revision_0() {
    let mut store = Store::new(10);
    assert_eq!((store.first_revision(), store.revision()), (0, 0));
    assert_eq!(store.lookup(b"/", 0), Lookup::Dir { entries: 0 });
    assert_eq!(store.lookup(b"/a", 0), Lookup::Missing);
    assert!(matches!(store.walk(&glob("/**"), 0, 0, &mut 9, &mut Vec::new()), Walk::Range));
    assert!(matches!(store.getdir(b"/", 0, 0, &mut 9, &mut Vec::new()), Getdir::Range));
    assert!(matches!(store.wait(&glob("/**"), 0, 1, &mut 9), Wait::Waiting(_)));
    store.apply(Mutation::Nop).unwrap();
    assert_eq!((store.first_revision(), store.revision()), (1, 1));
    let mut woken = Vec::new();
    store.take_woken(usize::MAX, &mut woken);
    assert_eq!(woken, [Woken::Event { token: 1, rev: 1 }]);
}

/// `hist` revisions are readable, the current one among them.
#[test]
fn history_is_as_long_as_it_was_asked_to_be() {
    for (hist, kept) in [(0, 1), (1, 1), (2, 2), (5, 5)] {
        let mut store = Store::new(hist);
        for _ in 0..20 {
            set(&mut store, "/f", -1).unwrap();
        }
        assert_eq!(store.first_revision(), 20 - kept + 1);
        assert_eq!(store.lookup(b"/f", 20 - kept + 1), Lookup::File { rev: 20 - kept + 1, value: b"v" });
        assert_eq!(store.event(20 - kept, &mut Vec::new()), None);
    }
}

/// A snapshot holds trimming; when it lets go, catching up must not stall one unlucky mutation.
#[test]
fn trimming_catches_up_a_little_at_a_time() {
    let mut store = Store::new(10);
    store.apply(Mutation::Nop).unwrap();
    let (pin, first) = store.pin();
    assert_eq!(first, 1);
    for _ in 0..100 {
        set(&mut store, "/f", -1).unwrap();
    }
    assert_eq!(store.first_revision(), 1);
    store.unpin(pin);
    let mut before = 1;
    for _ in 0..60 {
        set(&mut store, "/f", -1).unwrap();
        assert!(store.first_revision() - before <= 3);
        before = store.first_revision();
    }
    assert_eq!(store.revision() - store.first_revision() + 1, 10);
}

/// 360,000 revisions of 1 MiB each are more than any machine holds: the past is bounded in bytes, however small what lies
/// before the large values is, and the current revision stays whatever its size.
#[test]
fn a_past_of_large_values_is_cut_short() {
    let mut store = Store::bounded(1_000_000, 100_000);
    let write = |store: &mut Store, size: usize| {
        store.apply(Mutation::Set { path: b"/f", rev: -1, value: &vec![0; size] }).unwrap();
    };
    for _ in 0..20_000 {
        write(&mut store, 1);
    }
    assert_eq!(store.first_revision(), 1);
    for _ in 0..1000 {
        write(&mut store, 10_000);
        assert!(store.tree.past() <= 110_000 + 256 * 20_000, "{}", store.tree.past());
    }
    assert_eq!(store.revision() - store.first_revision(), 10);
    write(&mut store, 1_000_000);
    write(&mut store, 1_000_000);
    assert_eq!(store.first_revision(), store.revision());
    assert!(matches!(store.lookup(b"/f", store.revision()), Lookup::File { value, .. } if value.len() == 1_000_000));
    store.apply(Mutation::Del { path: b"/f", rev: -1 }).unwrap();
    assert_eq!((store.first_revision(), store.tree.past()), (store.revision(), 0));
}

/// Deleting a file left its directories to the history, two thousand for a path of 4 KiB, until as many revisions had passed as the
/// history keeps; and so did deleting a file that never was. Files in a directory that stays cost nothing.
#[test]
fn a_past_of_deleted_directories_is_cut_short() {
    let most = 10_000;
    let mut store = Store::new(1_000_000);
    store.tree.set_dirs_max(most * DIR_BYTES);
    set(&mut store, "/live/file", 0).unwrap();
    for i in 0..5_000 {
        set(&mut store, &format!("/live/{i}"), 0).unwrap();
        del(&mut store, &format!("/live/{i}"), -1).unwrap();
        del(&mut store, &format!("/live/{i}-"), -1).unwrap();
    }
    assert_eq!((store.tree.dirs(), store.first_revision()), (0, 1));
    let live = store.tree.arena.len();
    let deep = "/a".repeat(LEVELS_MAX - 1);
    for i in 0..1_000 {
        if i % 2 == 0 {
            set(&mut store, &format!("/{i}{deep}"), 0).unwrap();
        }
        del(&mut store, &format!("/{i}{deep}"), -1).unwrap();
        // The bound is exceeded by less than two directories for each revision that was retained when it was reached.
        assert!(store.tree.dirs() <= (most + 30_000) * DIR_BYTES, "{}", store.tree.dirs());
        assert!(store.tree.arena.len() < live + 40_000 + LEVELS_MAX, "{}", store.tree.arena.len());
    }
    assert!(store.tree.dirs() <= most * DIR_BYTES && store.tree.arena.len() < 11_000, "{}", store.tree.arena.len());
    let retained = store.revision() - store.first_revision();
    assert!((30..70).contains(&retained), "{retained}");
    // What was trimmed is no longer counted, and is freed, but for the oldest event.
    store.tree.set_dirs_max(0);
    store.apply(Mutation::Nop).unwrap();
    (0..retained).for_each(|_| _ = store.apply(Mutation::Nop));
    assert_eq!(store.tree.dirs(), 0);
    assert!(store.tree.arena.len() <= 3 + LEVELS_MAX, "{}", store.tree.arena.len());
}

/// A snapshot that is being written needs its revision, whatever is written meanwhile.
#[test]
fn a_pin_holds_a_past_that_is_too_large() {
    let mut store = Store::bounded(100, 10);
    set(&mut store, "/f", -1).unwrap();
    let (pin, first) = store.pin();
    assert_eq!(first, 1);
    for _ in 0..50 {
        set(&mut store, "/f", -1).unwrap();
    }
    assert_eq!((store.first_revision(), store.tree.past()), (1, 50));
    store.pin_to(pin, 20);
    for _ in 0..20 {
        set(&mut store, "/f", -1).unwrap();
    }
    assert_eq!(store.first_revision(), 20);
    store.unpin(pin);
    for _ in 0..40 {
        set(&mut store, "/f", -1).unwrap();
    }
    assert_eq!(store.revision() - store.first_revision(), 10);
}

/// A snapshot to the disk and one to a new server are read off side by side: the one that is done first must not take the
/// other's revisions away.
#[test]
fn the_lowest_of_two_pins_holds_trimming() {
    let mut store = Store::new(1);
    let write = |store: &mut Store, times: i64| {
        for _ in 0..times {
            set(store, "/f", -1).unwrap();
        }
    };
    write(&mut store, 5);
    let (early, first) = store.pin();
    assert_eq!(first, 5);
    write(&mut store, 5);
    store.pin_to(early, 8);
    write(&mut store, 5);
    let (late, first) = store.pin();
    assert_eq!(first, 8);
    store.pin_to(late, 12);
    write(&mut store, 5);
    assert_eq!(store.first_revision(), 8, "the other one stays");
    store.pin_to(early, 15);
    write(&mut store, 5);
    assert_eq!(store.first_revision(), 12, "now the other one is the lowest");
    store.unpin(late);
    write(&mut store, 5);
    assert_eq!(store.first_revision(), 15);
    store.unpin(early);
    write(&mut store, 10);
    assert_eq!(store.first_revision(), store.revision());
}

/// One that begins where another one holds must hold there by itself; and who lets go twice lets go of nobody else's.
#[test]
fn a_pin_that_is_gone_is_nobody_elses() {
    let mut store = Store::new(1);
    set(&mut store, "/f", -1).unwrap();
    let (one, _) = store.pin();
    let (two, first) = store.pin();
    assert_eq!(first, 1);
    assert_ne!(one, two);
    store.unpin(one);
    store.unpin(one);
    store.pin_to(one, 100);
    let (three, _) = store.pin();
    assert_ne!(three, one);
    store.unpin(three);
    for _ in 0..10 {
        set(&mut store, "/f", -1).unwrap();
    }
    assert_eq!(store.first_revision(), 1);
    store.pin_to(two, 100);
    set(&mut store, "/f", -1).unwrap();
    assert_eq!(store.first_revision(), 4, "a pin goes no further than the current revision");
    for _ in 0..10 {
        set(&mut store, "/f", -1).unwrap();
    }
    assert_eq!(store.first_revision(), 11);
}

/// A snapshot may come from a server that allowed itself more.
#[test]
fn a_snapshot_of_a_large_past_is_cut_short_while_it_is_loaded() {
    let mut store = Loader::bounded(1000, 50).finish(1, Kind::Nop, b"/").unwrap();
    for rev in 2..200 {
        assert_eq!(store.replay(Kind::Set, b"/f", b"0123456789"), Ok(rev));
        assert!(store.tree.past() <= 50);
    }
    assert_eq!(store.first_revision(), 194);
}

/// One that waits from a revision far ahead must not be answered by an earlier event.
#[test]
fn a_wait_from_the_future_sleeps_through_the_present() {
    let mut store = Store::new(10);
    assert!(matches!(store.wait(&glob("/f"), 3, 1, &mut 9), Wait::Waiting(_)));
    let gone = store.await_revision(3, 2);
    let Wait::Waiting(cancelled) = store.wait(&glob("/*"), 2, 3, &mut 9) else { panic!() };
    let later = store.await_revision(3, 4);
    let mut woken = Vec::new();
    set(&mut store, "/f", -1).unwrap();
    assert!(store.cancel(gone) && store.cancel(cancelled));
    set(&mut store, "/f", -1).unwrap();
    store.take_woken(usize::MAX, &mut woken);
    assert_eq!(woken, []);
    set(&mut store, "/f", -1).unwrap();
    store.take_woken(usize::MAX, &mut woken);
    assert_eq!(woken, [Woken::Event { token: 1, rev: 3 }, Woken::Revision { token: 4, rev: 3 }]);
    assert!(!store.cancel(later));
    woken.clear();
    store.await_revision(3, 5);
    store.take_woken(usize::MAX, &mut woken);
    assert_eq!(woken, [Woken::Revision { token: 5, rev: 3 }]);
    assert_eq!(store.waiters(), 0);
}

#[test]
fn bad_globs_are_refused() {
    for bad in ["", "a", "*", "//", "/a/", "/*/", "/a[b]", "/a b", "/+", "/\u{e9}"] {
        assert_eq!(Glob::new(bad.as_bytes()).unwrap_err(), BadGlob, "{bad}");
    }
    for good in ["/", "/*", "/**", "/***", "/a?*/**/b"] {
        assert_eq!(glob(good).as_bytes(), good.as_bytes());
    }
    assert!(Glob::new(format!("/{}", "*".repeat(4095)).as_bytes()).is_ok());
    assert!(Glob::new(format!("/{}", "*".repeat(4096)).as_bytes()).is_err());
}

#[test]
fn globs_of_the_protocol() {
    for (pattern, path, matches) in [
        ("/", "/", true),
        ("/*", "/", true),
        ("/**", "/", true),
        ("/?", "/", false),
        ("/a", "/a", true),
        ("/a", "/ab", false),
        ("/a*", "/a", true),
        ("/a*", "/a/b", false),
        ("/a**", "/a/b/c", true),
        ("/**b", "/a/ab", true),
        ("/a/*/c", "/a/b/c", true),
        ("/a/*/c", "/a/b/b/c", false),
        ("/a/**/c", "/a/c", false),
        ("/a/**/c", "/a/b/b/c", true),
        ("/a**/c", "/a/c", true),
        ("/***x", "/a/x", true),
        ("/a?c", "/a/c", false),
        ("/a/?/c", "/a/b/c", true),
    ] {
        assert_eq!(glob(pattern).matches(path.as_bytes()), matches, "{pattern} {path}");
    }
}

/// The longest patterns have 65 words of states: a carry lost between two of them shows only there.
#[test]
fn globs_longer_than_a_word_carry_over() {
    for length in [1, 31, 62, 63, 64, 65, 127, 128, 129, 1000, 4093] {
        let path = format!("/{}b", "a".repeat(length));
        assert!(glob(&format!("/*{}b", "a".repeat(length))).matches(path.as_bytes()), "{length}");
        assert!(glob(&format!("/*{}?", "a".repeat(length - 1))).matches(path.as_bytes()), "{length}");
        assert!(!glob(&format!("/*{}c", "a".repeat(length))).matches(path.as_bytes()), "{length}");
        assert!(!glob(&format!("/?{}b", "a".repeat(length))).matches(path.as_bytes()), "{length}");
    }
}

/// A path may have 2,048 components: what recurses over them overflows the stack.
#[test]
fn the_deepest_path_needs_no_stack() {
    let mut store = Store::new(2);
    let path = "/a".repeat(2048);
    let run = move || {
        set(&mut store, &path, 0).unwrap();
        assert_eq!(store.lookup(b"/a/a/a", 1), Lookup::Dir { entries: 1 });
        let mut found = Vec::new();
        assert!(matches!(
            store.walk(&glob("/**a"), 1, 0, &mut isize::MAX.clone(), &mut found),
            Walk::Found { rev: 1, .. }
        ));
        assert_eq!(found, path.as_bytes());
        assert!(matches!(store.walk(&glob("/**a"), 1, 1, &mut isize::MAX.clone(), &mut found), Walk::Range));
        for at in [1, 2000] {
            assert!(matches!(store.wait(&glob(&"/*".repeat(at)), 2, 0, &mut 9), Wait::Waiting(_)));
        }
        assert!(matches!(store.wait(&glob(&"/*".repeat(2048)), 2, 0, &mut 9), Wait::Waiting(_)));
        del(&mut store, &path, -1).unwrap();
        store.take_woken(usize::MAX, &mut Vec::new());
        assert_eq!(store.waiters(), 2);
        store.apply(Mutation::Nop).unwrap();
        store.apply(Mutation::Nop).unwrap();
        assert_eq!(store.tree.arena.len(), 1);
    };
    std::thread::Builder::new().stack_size(128 << 10).spawn(run).unwrap().join().unwrap();
}

/// More entries than one row holds, added and taken away from both ends and from the middle.
#[test]
fn large_directories_stay_in_order() {
    let mut store = Store::new(1);
    let mut names = std::collections::BTreeSet::new();
    let mut seed = 1u64;
    for step in 0..6000u64 {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let name = match step % 3000 {
            0..700 => format!("n{step:05}"),
            700..1000 => format!("n{:05}", 10_000 - step),
            _ => format!("n{:05}", (seed >> 33) % 9000),
        };
        if step < 4000 && step % 3 > 0 || !names.contains(&name) && step % 2 == 0 {
            set(&mut store, &format!("/d/{name}"), -1).unwrap();
            names.insert(name);
        } else if let Some(name) = names.range(name..).next().cloned() {
            del(&mut store, &format!("/d/{name}"), -1).unwrap();
            names.remove(&name);
        }
        if step % 500 == 0 || step > 5990 {
            check(&store, &names);
        }
    }
    while let Some(name) = if names.len() % 2 == 0 { names.pop_first() } else { names.pop_last() } {
        del(&mut store, &format!("/d/{name}"), -1).unwrap();
        if names.len() % 97 == 0 || names.len() < 3 {
            check(&store, &names);
        }
    }
    store.apply(Mutation::Nop).unwrap();
    assert_eq!(store.tree.arena.len(), 1);

    fn check(store: &Store, names: &std::collections::BTreeSet<String>) {
        let mut found = Vec::new();
        let rest = store.files_at(store.revision(), None, &mut isize::MAX.clone(), |path, _, _| {
            found.push(String::from_utf8(path[3..].to_vec()).unwrap());
            true
        });
        assert_eq!(rest, None);
        assert!(found.iter().eq(names.iter()));
        let middle = names.iter().nth(names.len() / 2);
        assert!(
            middle
                .is_none_or(|name| store.lookup(format!("/d/{name}").as_bytes(), store.revision()) != Lookup::Missing)
        );
    }
}
