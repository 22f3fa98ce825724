//! Snapshots: read off while the store goes on, loaded elsewhere.

use super::model::Model;
use super::randomized::same;
use crate::store::*;
use proptest::prelude::*;

/// Reads the store off from its pin: the files in slices, with `between` called after each, then the events.
fn copy(store: &mut Store, hist: u64, mut between: impl FnMut(&mut Store)) -> Result<Store, LoadError> {
    let (pin, first) = store.pin();
    let mut loader = Loader::new(hist);
    let mut after: Option<Vec<u8>> = None;
    loop {
        let mut result = Ok(());
        after = store.files_at(first, after.as_deref(), &mut 2, |path, rev, value| {
            result = loader.file(path, rev, value);
            true
        });
        result?;
        if after.is_none() {
            break;
        }
        between(store);
    }
    let mut path = Vec::new();
    let kind = store.event(first, &mut path).map_or(Kind::Nop, |event| event.kind);
    if first == 0 {
        path = b"/".to_vec();
    }
    let mut loaded = loader.finish(first, kind, &path)?;
    let mut rev = first;
    while rev < store.revision() {
        rev += 1;
        store.pin_to(pin, rev);
        let event = store.event(rev, &mut path).expect("pinned");
        assert_eq!(loaded.replay(event.kind, &path, event.value)?, rev);
    }
    store.unpin(pin);
    Ok(loaded)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// A follower that is sent a snapshot while the leader goes on has to answer everything as the leader does: a file that
    /// only the copy has kept, or lost, makes replicas diverge.
    #[test]
    fn a_copy_answers_as_the_original(
        hist in 1..10i64,
        before in prop::collection::vec((0..4u8, 0..14usize), 0..40),
        during in prop::collection::vec((0..4u8, 0..14usize), 0..40),
    ) {
        const PATHS: [&str; 14] = ["/a", "/a/a", "/a/b", "/a-", "/a/a/a", "/b", "/b/a", "/c/d/e", "/c/d/f", "/c/d-/x", "/c/g", "/z", "/c/d", "/z/y"];
        let mut store = Store::new(hist.unsigned_abs());
        let mut model = Model::new(hist);
        let step = |store: &mut Store, model: &mut Model, (what, which): (u8, usize)| {
            let path = PATHS[which];
            let (kind, mutation) = match what {
                0 | 1 => (Kind::Set, Mutation::Set { path: path.as_bytes(), rev: -1, value: b"x" }),
                2 => (Kind::Del, Mutation::Del { path: path.as_bytes(), rev: -1 }),
                _ => (Kind::Nop, Mutation::Nop),
            };
            let path = if kind == Kind::Nop { "/" } else { path };
            assert_eq!(store.apply(mutation), model.apply(kind, path, -1, b"x"));
        };
        for op in before {
            step(&mut store, &mut model, op);
        }
        let mut during = during.into_iter();
        model.pins.push(model.first);
        let mut loaded = copy(&mut store, hist.unsigned_abs(), |store| {
            if let Some(op) = during.next() {
                step(store, &mut model, op);
            }
        }).unwrap();
        // The copy trims as it goes; it may not have come as far as it will.
        same(&loaded, &Model { first: loaded.first_revision(), ..model.clone() });
        same(&store, &Model { first: store.first_revision(), ..model.clone() });
        // Both go on alike.
        model.pins.clear();
        for op in during {
            let mut other = model.clone();
            step(&mut store, &mut model, op);
            step(&mut loaded, &mut other, op);
            same(&loaded, &Model { first: loaded.first_revision(), ..model.clone() });
        }
        prop_assert_eq!(loaded.tree.arena.len(), Model { first: loaded.first_revision(), ..model.clone() }.nodes());
    }

    /// A snapshot is read from a disk or a peer: whatever it says, loading it is an error at worst.
    #[test]
    fn a_corrupt_snapshot_is_an_error_not_a_panic(
        files in prop::collection::vec((prop::sample::select(&["/", "/a", "/a/b", "/b", "", "/a-", "/b/", "x", "/a/b/c"][..]), -1..6i64), 0..5),
        first in -1..6i64,
        kind in prop::sample::select(&[Kind::Set, Kind::Del, Kind::Nop][..]),
        path in prop::sample::select(&["/", "/a", "/a/b", "/b", "", "/c"][..]),
        events in prop::collection::vec((prop::sample::select(&[Kind::Set, Kind::Del, Kind::Nop][..]), prop::sample::select(&["/", "/a", "/a/b", "/b", "", "/c"][..])), 0..12),
    ) {
        let mut loader = Loader::new(3);
        for (path, rev) in files {
            if loader.file(path.as_bytes(), rev, b"").is_err() {
                return Ok(());
            }
        }
        let Ok(mut store) = loader.finish(first, kind, path.as_bytes()) else { return Ok(()) };
        prop_assert_eq!(store.revision(), first);
        for (kind, path) in events {
            let before = store.revision();
            match store.replay(kind, path.as_bytes(), b"") {
                Ok(rev) => prop_assert_eq!(rev, before + 1),
                Err(_) => prop_assert_eq!(store.revision(), before),
            }
        }
    }
}

/// Walk order puts `/a/x` before `/a-x`; a snapshot sorted by bytes is refused rather than loaded wrongly.
#[test]
fn files_out_of_order_are_refused() {
    let load = |paths: &[&str]| {
        paths.iter().try_for_each({
            let mut loader = Loader::new(1);
            move |path| loader.file(path.as_bytes(), 1, b"")
        })
    };
    assert_eq!(load(&["/a/x", "/a-x", "/b"]), Ok(()));
    assert_eq!(load(&["/a-x", "/a/x"]), Err(LoadError::Order));
    assert_eq!(load(&["/a", "/a"]), Err(LoadError::Order));
    assert_eq!(load(&["/a", "/a/b"]), Err(LoadError::NotDir));
    assert_eq!(load(&["/"]), Err(LoadError::BadPath));
}
