//! Work, counted rather than timed: what must not grow with the size of the store, or with what others do.

use crate::store::*;

fn set(store: &mut Store, path: &str) {
    store.apply(Mutation::Set { path: path.as_bytes(), rev: -1, value: b"v" }).unwrap();
}

fn filled(files: usize, hist: u64) -> Store {
    let mut store = Store::new(hist);
    for i in 0..files {
        set(&mut store, &format!("/d{}/f{i:06}", i % 7));
    }
    store
}

/// The offset-th match is found by a search; n of them, one after the other, must not cost n searches.
#[test]
fn listing_by_offsets_costs_one_walk() {
    let mut store = filled(5000, 100);
    let rev = store.revision();
    let glob = Glob::new(b"/**").unwrap();
    let (mut used, mut path) = (0, Vec::new());
    for offset in 0..5000 {
        let mut budget = isize::MAX;
        assert!(matches!(store.walk(&glob, rev, offset, &mut budget, &mut path), Walk::Found { .. }));
        used += isize::MAX - budget;
    }
    assert!(used < 5000 * 10, "{used}");
    used = 0;
    for offset in 0..700 {
        let mut budget = isize::MAX;
        assert!(matches!(store.getdir(b"/d0", rev, offset, &mut budget, &mut path), Getdir::Found));
        used += isize::MAX - budget;
    }
    assert!(used < 700 * 10, "{used}");
}

/// A client that lists the newest entries first asks with falling offsets. No position found before lies before the next one, but a
/// search must not start at the first entry each time, even while the store is written to.
#[test]
fn listing_backwards_costs_little_more_than_forwards() {
    for writes in [false, true] {
        let mut store = filled(5000, 10_000);
        let glob = Glob::new(b"/**").unwrap();
        let (mut walked, mut listed, mut path) = (0, 0, Vec::new());
        for offset in (0..5000).rev() {
            if writes && offset % 3 == 0 {
                set(&mut store, if offset % 30 == 0 { "/d0/f000000" } else { "/d3/f000003" });
            }
            let rev = store.revision();
            let mut budget = isize::MAX;
            assert!(matches!(store.walk(&glob, rev, offset, &mut budget, &mut path), Walk::Found { .. }));
            walked += isize::MAX - budget;
            if offset % 1000 == 0 {
                let mut at = -1;
                store.files_at(rev, None, &mut isize::MAX.clone(), |file, _, _| {
                    at += 1;
                    assert!(at != offset || file == path);
                    true
                });
            }
            if offset < 714 {
                let mut budget = isize::MAX;
                assert!(matches!(store.getdir(b"/d3", rev, offset, &mut budget, &mut path), Getdir::Found));
                listed += isize::MAX - budget;
            }
        }
        assert!(walked < 5000 * 20, "{walked}");
        assert!(listed < 714 * 20, "{listed}");
    }
}

/// Clients list at the current revision, which moves on under them; and several at a time.
#[test]
fn listing_by_offsets_costs_one_walk_under_writes() {
    let mut store = filled(3000, 10_000);
    let glob = Glob::new(b"/**").unwrap();
    let (mut used, mut path) = (0, Vec::new());
    for step in 0..3000 {
        match step % 5 {
            0 => set(&mut store, &format!("/d3/g{step}")),
            1 if step % 3 == 0 => set(&mut store, &format!("/d0/a{step}")),
            2 => drop(store.apply(Mutation::Del { path: format!("/d0/f{:06}", step * 7).as_bytes(), rev: -1 })),
            _ => set(&mut store, "/d1/f000001"),
        }
        let rev = store.revision();
        for behind in 0..20 {
            let mut budget = isize::MAX;
            let offset = step - behind * 50;
            if offset >= 0 {
                assert!(matches!(store.walk(&glob, rev, offset, &mut budget, &mut path), Walk::Found { .. }));
            }
            used += isize::MAX - budget;
        }
        let mut files = Vec::new();
        if step % 500 == 250 {
            drop(store.files_at(rev, None, &mut isize::MAX.clone(), |path, _, _| {
                files.push(path.to_vec());
                true
            }));
            assert!(matches!(store.walk(&glob, rev, step - 1, &mut isize::MAX.clone(), &mut path), Walk::Found { .. }));
            assert_eq!(path, files[usize::try_from(step - 1).unwrap()]);
        }
    }
    assert!(used < 3000 * 20 * 10, "{used}");
}

/// A pattern that names its directory must not be searched for through its neighbours.
#[test]
fn a_walk_looks_only_where_matches_can_be() {
    let mut store = filled(5000, 100);
    for (pattern, most) in [
        ("/d3/f00001*", 20),
        ("/none/**", 5),
        ("/d3/f00001?/*", 20),
        ("/*/none", 20),
        ("/d3/x*", 5),
        ("/d?/f000012", 40),
    ] {
        let mut budget = 10_000;
        let walk = store.walk(&Glob::new(pattern.as_bytes()).unwrap(), 5000, 1000, &mut budget, &mut Vec::new());
        assert!(matches!(walk, Walk::Range));
        assert!(10_000 - budget <= most, "{pattern} {}", 10_000 - budget);
    }
}

/// Waiters on other paths cost an apply nothing: the places that a path reaches in the index are counted.
#[test]
fn a_hundred_thousand_waiters_elsewhere_do_not_show() {
    let mut store = Store::new(10);
    for i in 0..100_000u64 {
        let pattern = match i % 5 {
            0 => format!("/other/{i}/*"),
            1 => format!("/**/x{i}"),
            2 => format!("/w/*a{i}"),
            3 => format!("/w/f{i}"),
            _ => format!("/*/?/{i}?"),
        };
        assert!(matches!(store.wait(&Glob::new(pattern.as_bytes()).unwrap(), 1, i, &mut 9), Wait::Waiting(_)));
    }
    for path in ["/w/banana", "/a/b/c/d/e", "/w/f1234567", "/xx/x/y"] {
        set(&mut store, path);
        assert!(store.waiters.steps() < 100, "{path}: {}", store.waiters.steps());
    }
    assert_eq!(store.waiters(), 100_000);
    set(&mut store, "/w/za17");
    set(&mut store, "/any/x16");
    let mut woken = Vec::new();
    store.take_woken(usize::MAX, &mut woken);
    assert_eq!(woken, [Woken::Event { token: 17, rev: 5 }, Woken::Event { token: 16, rev: 6 }]);
}

/// Patterns made to be slow: each is done in one pass over the path, whatever it holds.
#[test]
fn hostile_globs_finish() {
    let path = format!("/{}", "a".repeat(4095));
    let mut store = Store::new(10);
    set(&mut store, &path);
    for pattern in [
        format!("/{}b", "*a".repeat(2046)),
        format!("/{}", "*?".repeat(2047)),
        format!("/{}b", "**a".repeat(1364)),
        format!("/{}b", "?*".repeat(2047)),
    ] {
        let glob = Glob::new(pattern.as_bytes()).unwrap();
        for _ in 0..3 {
            glob.matches(path.as_bytes());
        }
        let mut budget = 100_000;
        drop(store.walk(&glob, 1, 0, &mut budget, &mut Vec::new()));
        assert!(matches!(store.wait(&glob, 2, 1, &mut 9), Wait::Waiting(_)));
    }
    set(&mut store, &path);
    while store.has_pending_matches() {
        store.match_more(&mut 100_000);
    }
    let mut woken = Vec::new();
    store.take_woken(usize::MAX, &mut woken);
    assert_eq!((woken.len(), store.waiters()), (1, 3));
}

/// A pattern of hundreds of stars on long paths makes one event of the history cost a thousand times as much: counting events
/// let one slice of a WAIT stall the server for a third of a second.
#[test]
fn a_search_of_the_history_is_charged_for_its_work() {
    let mut store = Store::new(1000);
    for i in 0..100 {
        set(&mut store, &format!("/{}{i:03}", "a".repeat(4000)));
    }
    let glob = Glob::new(format!("/{}b", "*a".repeat(600)).as_bytes()).unwrap();
    let mut budget = 1000;
    let Wait::More(mut state) = store.wait(&glob, 1, 1, &mut budget) else { panic!() };
    assert!(budget <= 0, "{budget}");
    let mut slices = 1;
    loop {
        let mut budget = 1000;
        match store.resume_wait(state, &mut budget) {
            Wait::More(more) => state = more,
            Wait::Waiting(_) => break,
            other => panic!("{other:?}"),
        }
        slices += 1;
    }
    assert!(slices > 10, "{slices}");
    // A usual pattern pays for the length of the paths only.
    let mut budget = 2500;
    assert!(matches!(store.wait(&Glob::new(b"/*/b").unwrap(), 1, 1, &mut budget), Wait::Waiting(_)));
    assert!(budget > 0);
}

/// A listing's count was corrected by thousands of events for nothing, whatever the pattern cost.
#[test]
fn correcting_a_count_is_charged_for_its_work() {
    let mut store = Store::new(100_000);
    let long = |i: usize| format!("/{}{i:04}", "a".repeat(4000));
    set(&mut store, &format!("/{}", "b".repeat(4000)));
    for (pattern, hostile) in [(format!("/{}*", "*?".repeat(600)), true), ("/b*".to_owned(), false)] {
        let glob = Glob::new(pattern.as_bytes()).unwrap();
        let mut path = Vec::new();
        let rev = store.revision();
        assert!(matches!(store.walk(&glob, rev, 0, &mut isize::MAX.clone(), &mut path), Walk::Found { .. }));
        for i in 0..100 {
            store.apply(Mutation::Set { path: long(i).as_bytes(), rev: -1, value: b"v" }).unwrap();
            store.apply(Mutation::Del { path: long(i).as_bytes(), rev: -1 }).unwrap();
        }
        let mut budget = isize::MAX;
        let start =
            store.cursors.find(&store.tree, crate::store::cursor::Listing::Walk(&glob), rev + 200, 0, &mut budget);
        let used = isize::MAX - budget;
        assert!((200..5000).contains(&used), "{used}");
        assert_eq!(start.is_none(), hostile, "too much work for the first, little for the second");
    }
}

/// Thousands of searches may be put aside: each held its pattern compiled, 34 KB for 4 KB that were paid for.
#[test]
fn what_is_put_aside_holds_no_compiled_pattern() {
    let mut store = filled(10, 100);
    let pattern = format!("/**{}", "?".repeat(4090));
    let glob = Glob::new(pattern.as_bytes()).unwrap();
    let Wait::More(wait) = store.wait(&glob, 1, 1, &mut 1) else { panic!() };
    let Walk::More(walk) = store.walk(&glob, 10, 5, &mut 1, &mut Vec::new()) else { panic!() };
    for shown in [format!("{wait:?}"), format!("{walk:?}")] {
        assert!(!shown.contains("takes") && !shown.contains("Automaton"), "{shown}");
    }
    // And compiling it again is paid for.
    let mut budget = 1000;
    assert!(matches!(store.resume_wait(wait, &mut budget), Wait::Waiting(_)));
    assert!(budget < 1000 - 4093 / 64);
}

/// Twenty thousand waiters on patterns of many stars made one SET of a long path take seconds: what is done at once is
/// bounded, and what comes meanwhile finds its place.
#[test]
fn hostile_waiters_are_matched_in_slices() {
    let mut store = Store::new(1000);
    let mut waiting = Vec::new();
    for i in 0..300u64 {
        let tail: String =
            (0..6).map(|at| ["?", "?*", "?**"][usize::try_from(i / 3u64.pow(at) % 3).unwrap()]).collect();
        let pattern = format!("/**{tail}b");
        let Wait::Waiting(id) = store.wait(&Glob::new(pattern.as_bytes()).unwrap(), 1, i, &mut 9) else { panic!() };
        waiting.push((id, pattern));
    }
    let path = format!("/{}b", "a/aaaaa".repeat(280));
    set(&mut store, &path);
    let mut slices = 0;
    let mut before = 0;
    let mut woken = Vec::new();
    while store.has_pending_matches() {
        let done = store.waiters.steps();
        assert!(done - before <= 20_000, "{}", done - before);
        before = done;
        store.take_woken(usize::MAX, &mut woken);
        assert_eq!(woken, [], "nobody is woken before his event is found");
        match slices {
            3 => set(&mut store, "/other/aaaaaaaab"),
            // These come too late for the first event, and for the second.
            4 => {
                let found = store.wait(&Glob::new(b"/o*/**").unwrap(), 1, 1000, &mut 1_000);
                assert!(matches!(found, Wait::Event { rev: 2 }));
                let after = store.wait(&Glob::new(b"/**b").unwrap(), 3, 1001, &mut 9);
                assert!(matches!(after, Wait::Waiting(_)));
            }
            5 => (0..200).for_each(|i| assert!(store.cancel(waiting[i].0))),
            6 => set(&mut store, "/third/b"),
            7 => {
                store.await_revision(3, 1002);
                store.take_woken(usize::MAX, &mut woken);
                assert_eq!(woken, [Woken::Revision { token: 1002, rev: 3 }], "reads are not held up");
                woken.clear();
            }
            _ => {}
        }
        slices += 1;
        store.match_more(&mut 20_000);
        if store.waiters.steps() < before {
            // The next event's turn has come.
            break;
        }
    }
    assert!(slices > 10, "{slices}");
    while store.has_pending_matches() {
        store.match_more(&mut 20_000);
    }
    store.take_woken(usize::MAX, &mut woken);
    // As one glob after the other would have it, first event by first event.
    let matches = |i: u64, path: &str| {
        Glob::new(waiting[usize::try_from(i).unwrap()].1.as_bytes()).unwrap().matches(path.as_bytes())
    };
    let (first, second): (Vec<u64>, Vec<u64>) = (200..300).partition(|i| matches(*i, &path));
    assert!(first.len() > 50 && !second.is_empty() && second.iter().all(|i| matches(*i, "/other/aaaaaaaab")));
    let expected = first.into_iter().map(|token| Woken::Event { token, rev: 1 });
    let expected = expected.chain(second.into_iter().map(|token| Woken::Event { token, rev: 2 }));
    assert_eq!(woken, expected.chain([Woken::Event { token: 1001, rev: 3 }]).collect::<Vec<_>>());
    assert_eq!((store.waiters(), store.waiters.nodes()), (0, 1));
}

/// Whoever waits for an event that left the history before its turn came is told so, rather than waiting for another.
#[test]
fn an_event_that_is_trimmed_before_its_turn_makes_its_waiters_too_late() {
    let mut store = Store::new(2);
    store.waiters.set_at_once(1);
    let glob = Glob::new(b"/**x").unwrap();
    assert!(matches!(store.wait(&glob, 1, 1, &mut 9), Wait::Waiting(_)));
    assert!(matches!(store.wait(&Glob::new(b"/first").unwrap(), 1, 2, &mut 9), Wait::Waiting(_)));
    assert!(matches!(store.wait(&glob, 6, 3, &mut 9), Wait::Waiting(_)));
    set(&mut store, "/first");
    for path in ["/x", "/b", "/c", "/d"] {
        set(&mut store, path);
    }
    assert!(matches!(store.wait(&glob, 4, 4, &mut 9), Wait::Waiting(_)));
    let mut woken = Vec::new();
    while store.has_pending_matches() {
        store.match_more(&mut 1);
    }
    store.take_woken(usize::MAX, &mut woken);
    // The first event's path was kept.
    assert_eq!(woken, [Woken::Event { token: 2, rev: 1 }, Woken::Event { token: 1, rev: 2 }]);
    assert_eq!(store.event(2, &mut Vec::new()), None);
    woken.clear();
    set(&mut store, "/x");
    while store.has_pending_matches() {
        store.match_more(&mut 1);
    }
    store.take_woken(usize::MAX, &mut woken);
    assert_eq!(woken, [Woken::Event { token: 3, rev: 6 }, Woken::Event { token: 4, rev: 6 }]);
}

/// However little is done at a time, it comes to an end, and to the same end.
#[test]
fn the_smallest_budget_makes_progress() {
    let mut store = filled(100, 1000);
    for i in 0..50 {
        store.apply(Mutation::Del { path: format!("/d{}/f{i:06}", i % 7).as_bytes(), rev: -1 }).unwrap();
    }
    let rev = store.revision();
    let glob = Glob::new(b"/*/f*9*").unwrap();
    let mut path = Vec::new();
    let mut walk = store.walk(&glob, rev, 7, &mut 1, &mut path);
    let mut slices = 0;
    while let Walk::More(state) = walk {
        slices += 1;
        walk = store.resume_walk(state, &mut 3, &mut path);
    }
    assert!(matches!(walk, Walk::Found { .. }) && slices > 20);
    assert_eq!(path, store_path(&mut store, &glob, rev, 7));

    fn store_path(store: &mut Store, glob: &Glob, rev: i64, offset: i32) -> Vec<u8> {
        let mut path = Vec::new();
        assert!(matches!(store.walk(glob, rev, offset, &mut isize::MAX.clone(), &mut path), Walk::Found { .. }));
        path
    }
}

/// The waiters that an event wakes are taken a few at a time. In between they can be cancelled, and others can come; the event
/// stays readable for the rest, and the order is that of arrival.
#[test]
fn those_who_are_woken_are_taken_a_few_at_a_time() {
    let mut store = Store::new(2);
    let globs = ["/a", "/*", "/**", "/?"].map(|glob| Glob::new(glob.as_bytes()).unwrap());
    let mut ids = Vec::new();
    for token in 0..1000 {
        match store.wait(&globs[usize::try_from(token).unwrap() % 4], 1, token, &mut 9) {
            Wait::Waiting(id) => ids.push(id),
            other => panic!("{other:?}"),
        }
    }
    store.await_revision(1, 1000);
    set(&mut store, "/a");
    let mut woken = Vec::new();
    for round in 0_usize.. {
        let before = woken.len();
        store.take_woken(7, &mut woken);
        assert!(woken.len() - before <= 7);
        if !store.has_woken() {
            break;
        }
        set(&mut store, "/b");
        assert_eq!(store.first_revision(), 1, "the event is kept");
        if let Some(id) = ids.get(10 * round + 9) {
            assert_eq!(store.cancel(*id), 10 * round + 9 >= woken.len() + round);
        }
    }
    let tokens: Vec<u64> = woken
        .iter()
        .map(|woken| match *woken {
            Woken::Event { token, rev } | Woken::Revision { token, rev } => {
                assert_eq!(rev, 1);
                token
            }
        })
        .collect();
    assert!(tokens.is_sorted() && tokens.last() == Some(&1000), "{tokens:?}");
    assert_eq!((store.waiters(), store.waiters.nodes()), (0, 1));
    assert!(tokens.len() < 1001 - 50 && !tokens.contains(&999), "{}", tokens.len());
    for _ in 0..100 {
        set(&mut store, "/b");
    }
    assert_eq!(store.revision() - store.first_revision(), 1, "and trimmed then");
}

/// A walk below a path of two thousand components went down all of them again in each slice, and was charged for a slice only: a
/// request of 24 bytes cost as much as four million entries.
#[test]
fn a_slice_of_a_deep_walk_is_charged_for_going_down() {
    let mut store = Store::new(10_000);
    let deep = "/a".repeat(2_000);
    for i in 0..1_000 {
        set(&mut store, &format!("{deep}/{i}"));
    }
    let (glob, rev) = (Glob::new(b"/a/**/*x").unwrap(), store.revision());
    let (mut used, mut slices) = (0, 0);
    let mut path = Vec::new();
    let mut budget = 250;
    let mut walk = store.walk(&glob, rev, 0, &mut budget, &mut path);
    loop {
        used += 250 - budget;
        slices += 1;
        assert!(250 - budget <= 2 * 2_100, "a slice of {}", 250 - budget);
        budget = 250;
        match walk {
            Walk::More(state) => walk = store.resume_walk(state, &mut budget, &mut path),
            Walk::Range => break,
            other => panic!("{other:?}"),
        }
    }
    // What it costs without a pause is 3,000 entries; going down costs as much again.
    assert!((3_000..8_000).contains(&used) && slices < 20, "{used} in {slices} slices");
    // The same for a directory that deep.
    let (mut used, mut budget) = (0, 250);
    let mut getdir = store.getdir(deep.as_bytes(), rev, 999, &mut budget, &mut path);
    loop {
        used += 250 - budget;
        budget = 250;
        match getdir {
            Getdir::More(state) => getdir = store.resume_getdir(state, &mut budget, &mut path),
            Getdir::Found => break,
            other => panic!("{other:?}"),
        }
    }
    assert!((3_000..8_000).contains(&used), "{used}");
}

/// Twenty thousand woken walks each counted sixty thousand events again, and were charged for a few hundred entries: the events that
/// a correction passes over are paid for.
#[test]
fn a_correction_is_charged_for_the_events_that_it_passes_over() {
    let mut store = Store::new(100_000);
    set(&mut store, "/k");
    let glob = Glob::new(b"/**").unwrap();
    let mut path = Vec::new();
    assert!(matches!(store.walk(&glob, 1, 0, &mut isize::MAX.clone(), &mut path), Walk::Found { .. }));
    for _ in 0..60_000 {
        set(&mut store, "/m");
    }
    for _ in 0..2 {
        let mut budget = 250;
        let rev = store.revision();
        let mut walk = store.walk(&glob, rev, i32::MAX, &mut budget, &mut path);
        assert!(budget < 250 - 60_000 / 64, "{budget}");
        while let Walk::More(state) = walk {
            walk = store.resume_walk(state, &mut 250, &mut path);
        }
        assert!(matches!(walk, Walk::Range));
    }
}

/// Eight thousand intricate globs made each SET cost a tenth of a millisecond, and a turn applies thousands of SETs. All events that
/// a turn applies are matched within one budget, the rest later, and nobody's event is lost.
#[test]
fn the_events_of_a_turn_share_a_budget() {
    let mut store = Store::new(100_000);
    for i in 0..4_096u64 {
        let glob: String = (0..12).map(|bit| if i >> bit & 1 == 1 { '?' } else { 'a' }).collect();
        let glob = Glob::new(format!("/{glob}zz").as_bytes()).unwrap();
        assert!(matches!(store.wait(&glob, 1, i, &mut 9), Wait::Waiting(_)));
    }
    assert!(matches!(store.wait(&Glob::new(b"/other").unwrap(), 1, 9_999, &mut 9), Wait::Waiting(_)));
    store.limit_matches(20_000);
    let mut steps = 0;
    for _ in 0..1_000 {
        let before = store.has_pending_matches();
        set(&mut store, "/aaaaaaaaaaaa");
        // An event that finds another pending is not matched.
        steps += if before { 0 } else { store.waiters.steps() };
    }
    set(&mut store, "/other");
    assert!(steps <= 20_000 && store.has_pending_matches(), "{steps}");
    let mut turns = 0;
    while store.has_pending_matches() {
        store.match_more(&mut 20_000);
        turns += 1;
    }
    assert!(turns > 100, "{turns}");
    let mut woken = Vec::new();
    store.take_woken(usize::MAX, &mut woken);
    assert_eq!(woken, [Woken::Event { token: 9_999, rev: 1_001 }]);
}

/// An event that reaches a million places of the index: to sort them at each byte, and to look through them at the end, took a
/// turn of hundreds of milliseconds.
#[test]
fn a_set_of_many_places_is_sorted_in_one_go() {
    const LETTERS: u64 = 14;
    const SLICE: usize = 1_000;
    let mut store = Store::new(100);
    for i in 0..1 << LETTERS {
        let glob: String = (0..LETTERS).map(|bit| if i >> bit & 1 == 1 { '?' } else { 'a' }).collect();
        let glob = Glob::new(format!("/{glob}").as_bytes()).unwrap();
        assert!(matches!(store.wait(&glob, 1, i, &mut 9), Wait::Waiting(_)));
    }
    store.limit_matches(SLICE);
    set(&mut store, &format!("/{}", "a".repeat(14)));
    let (mut most, mut found) = (0, 0);
    while store.has_pending_matches() {
        let (places, hits) = store.waiters.at_a_time();
        assert!(hits <= found + SLICE, "{hits} matches, {found} before");
        (most, found) = (most.max(places), hits);
        store.match_more(&mut SLICE.clone());
    }
    assert!(most > 1_000 && most <= 4 << 10, "{most}");
    let mut woken = Vec::new();
    store.take_woken(usize::MAX, &mut woken);
    assert!(woken.iter().copied().eq((0..1 << LETTERS).map(|token| Woken::Event { token, rev: 1 })));
    assert_eq!((store.waiters(), store.waiters.nodes()), (0, 1));
}
