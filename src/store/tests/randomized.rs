//! Random lives of a store, each step of which is compared with the model.

use super::model::{Found, Model, naive_match, names};
use crate::store::*;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Op {
    Apply(Kind, String, i64, u8),
    /// Overwrites with a revision near the file's own.
    Near(Kind, String, i64),
    Walk(String, i64, i32, isize),
    List(String, i64, isize),
    Getdir(String, i64, i32, isize),
    ResumeWalk(usize),
    ResumeGetdir(usize),
    Wait(String, i64, isize),
    ResumeWait(usize),
    Cancel(usize),
    /// Goes on with matches that are pending.
    Match(usize),
    Await(i64),
    Pin,
    PinTo(usize, i64),
    Unpin(usize),
}

fn path() -> impl Strategy<Value = String> {
    let name = prop_oneof![4 => Just("a"), 3 => Just("b"), 1 => Just("a-"), 1 => Just("ab"), 1 => Just(".")];
    prop_oneof![
        20 => prop::collection::vec(name, 1..4).prop_map(|names| format!("/{}", names.join("/"))),
        1 => Just("/".to_owned()),
        1 => Just("/a/".to_owned()),
        1 => Just("a".to_owned()),
    ]
}

pub(super) fn glob() -> impl Strategy<Value = String> {
    let token =
        prop_oneof![4 => Just("a"), 2 => Just("b"), 1 => Just("-"), 3 => Just("*"), 2 => Just("**"), 2 => Just("?")];
    let name = prop::collection::vec(token, 1..4).prop_map(|tokens| tokens.concat());
    prop_oneof![
        12 => prop::collection::vec(name, 1..4).prop_map(|names| format!("/{}", names.join("/"))),
        2 => Just("/**".to_owned()),
        1 => Just("/*".to_owned()),
        1 => Just("/".to_owned()),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let kind = prop_oneof![6 => Just(Kind::Set), 3 => Just(Kind::Del)];
    prop_oneof![
        20 => (kind.clone(), path(), prop_oneof![6 => Just(-1), 4 => -4..40i64], any::<u8>()).prop_map(|(k, p, r, v)| Op::Apply(k, p, r, v)),
        4 => (kind, path(), -1..2i64).prop_map(|(k, p, r)| Op::Near(k, p, r)),
        1 => Just(Op::Apply(Kind::Nop, "/".to_owned(), 0, 0)),
        6 => (glob(), -8..1i64, -1..6, 1..9isize).prop_map(|(g, r, o, b)| Op::Walk(g, r, o, b)),
        2 => (glob(), -8..1i64, 1..9isize).prop_map(|(g, r, b)| Op::List(g, r, b)),
        6 => (path(), -8..1i64, -1..4, 1..5isize).prop_map(|(p, r, o, b)| Op::Getdir(p, r, o, b)),
        3 => any::<usize>().prop_map(Op::ResumeWalk),
        2 => any::<usize>().prop_map(Op::ResumeGetdir),
        6 => (glob(), -12..6i64, 1..9isize).prop_map(|(g, r, b)| Op::Wait(g, r, b)),
        3 => (path().prop_filter("a glob", |p| Glob::new(p.as_bytes()).is_ok()), -12..6i64, 1..9isize).prop_map(|(g, r, b)| Op::Wait(g, r, b)),
        3 => any::<usize>().prop_map(Op::ResumeWait),
        3 => any::<usize>().prop_map(Op::Cancel),
        5 => (1..60usize).prop_map(Op::Match),
        2 => (1..6i64).prop_map(Op::Await),
        1 => Just(Op::Pin),
        1 => (any::<usize>(), -8..1i64).prop_map(|(p, r)| Op::PinTo(p, r)),
        2 => any::<usize>().prop_map(Op::Unpin),
    ]
}

/// A waiter that the model knows of.
#[derive(Debug)]
struct Waiting {
    token: u64,
    /// None for a revision.
    glob: Option<String>,
    from: i64,
    id: WaiterId,
    /// The event with which the waiter entered the index, and whether it had to wait for that event.
    entered: (i64, bool),
}

struct Pair {
    store: Store,
    model: Model,
    waiting: Vec<Waiting>,
    /// Those that an event concerns, whose revision is given, and that the store has not matched yet, in order.
    due: Vec<(Waiting, i64)>,
    walks: Vec<(WalkState, String, i64, i32)>,
    getdirs: Vec<(GetdirState, String, i64, i32)>,
    waits: Vec<(WaitState, String, i64, u64)>,
    /// In the order of the model's.
    pins: Vec<PinId>,
    token: u64,
}

impl Pair {
    fn new(hist: i64, bytes: u8) -> Pair {
        Pair {
            store: Store::bounded(hist.unsigned_abs(), u64::from(bytes)),
            model: Model { bytes: usize::from(bytes), ..Model::new(hist) },
            waiting: Vec::new(),
            due: Vec::new(),
            walks: Vec::new(),
            getdirs: Vec::new(),
            waits: Vec::new(),
            pins: Vec::new(),
            token: 0,
        }
    }

    /// A revision that may be asked for, so many below the current.
    fn rev(&self, back: i64) -> i64 {
        (self.model.revision() + back).max(0)
    }

    fn apply(&mut self, kind: Kind, path: &str, rev: i64, value: &[u8]) {
        let mutation = match kind {
            Kind::Set => Mutation::Set { path: path.as_bytes(), rev, value },
            Kind::Del => Mutation::Del { path: path.as_bytes(), rev },
            Kind::Nop => Mutation::Nop,
        };
        let result = self.store.apply(mutation);
        assert_eq!(result, self.model.apply(kind, path, rev, value));
        let mut expected = Vec::new();
        if let Ok(rev) = result {
            let path = self.model.event(rev).1.clone();
            let matches = |w: &Waiting| {
                w.from <= rev && w.glob.as_ref().is_some_and(|g| naive_match(g.as_bytes(), path.as_bytes()))
            };
            let mut due: Vec<_> = self.waiting.extract_if(.., |w| matches(w)).collect();
            due.sort_by_key(|w| w.entered);
            self.due.extend(due.into_iter().map(|w| (w, rev)));
            let reached = self.waiting.extract_if(.., |w| w.glob.is_none() && w.from <= rev);
            expected.extend(reached.map(|w| Woken::Revision { token: w.token, rev: w.from }));
        }
        let mut woken = self.matched();
        woken.retain(|w| matches!(w, Woken::Revision { .. }));
        assert_eq!(woken, expected);
    }

    /// Takes what the store has woken, and compares those that fired by an event.
    fn matched(&mut self) -> Vec<Woken> {
        let mut woken = Vec::new();
        self.store.take_woken(usize::MAX, &mut woken);
        let mut late = None;
        for w in &woken {
            let Woken::Event { token, rev } = *w else { continue };
            if let Some(at) = self.due.iter().position(|(w, _)| w.token == token) {
                let (_, expected) = self.due.remove(at);
                assert!(expected == rev || expected > rev && rev < self.model.first, "{rev} for {expected}");
                // Those who are too late fire by order of arrival, whatever they missed.
                if expected > rev {
                    late = Some(rev);
                }
                assert!(at == 0 || late.is_some(), "fired out of turn");
            } else {
                // It is too late, though no event has come for it: who could tell.
                assert!(rev < self.model.first, "{rev} for none");
                late = Some(rev);
                let at = self.waiting.iter().position(|w| w.token == token).unwrap();
                let gone = self.waiting.remove(at);
                assert!(gone.from < self.model.first && gone.glob.is_some());
            }
        }
        if !self.store.has_pending_matches() {
            assert!(self.due.is_empty(), "{:?}", self.due);
        }
        woken
    }

    fn walked(model: &Model, found: Walk<'_>, path: &[u8], glob: &str, rev: i64, offset: i32) -> Option<WalkState> {
        let expected = usize::try_from(offset).ok().and_then(|offset| model.walk(glob, rev).get(offset).cloned());
        match found {
            Walk::Found { rev: written, value } => {
                let path = std::str::from_utf8(path).unwrap();
                assert_eq!(Some(path), expected.as_deref(), "{glob} {offset} at {rev}");
                assert_eq!(model.look(path, rev), Found::File(written, value.to_vec()));
            }
            Walk::Range => assert_eq!(None, expected, "{glob} {offset} at {rev}"),
            Walk::TooLate => assert!(rev < model.first),
            Walk::More(state) => return Some(state),
        }
        None
    }

    fn list_dir(model: &Model, found: Getdir, name: &[u8], path: &str, rev: i64, offset: i32) -> Option<GetdirState> {
        let entries = || {
            assert!(rev >= model.first);
            assert!(matches!(model.look(path, rev), Found::Dir(_)));
            model.entries(&names(path), rev)
        };
        let number = usize::try_from(offset).ok();
        match found {
            Getdir::Found => assert_eq!(name, entries()[number.unwrap()].as_bytes()),
            Getdir::Range => assert!(number.is_none_or(|number| number >= entries().len())),
            Getdir::NoEnt => assert_eq!(model.look(path, rev), Found::Missing),
            Getdir::NotDir => assert!(matches!(model.look(path, rev), Found::File(..))),
            Getdir::TooLate => assert!(rev < model.first),
            Getdir::More(state) => return Some(state),
        }
        None
    }

    fn waited(&mut self, wait: Wait, glob: String, from: i64, token: u64) {
        let expected = self.model.wait(&glob, from);
        match wait {
            Wait::Event { rev } => assert_eq!(Some(rev), expected),
            Wait::TooLate => assert!(from.max(1) < self.model.first),
            Wait::Waiting(id) => {
                assert_eq!(expected, None);
                let next = self.model.revision() + 1;
                let entered = (from.max(next), from > next || self.store.has_pending_matches());
                self.waiting.push(Waiting { token, glob: Some(glob), from, id, entered });
            }
            Wait::More(state) => self.waits.push((state, glob, from, token)),
        }
    }

    fn step(&mut self, op: Op) {
        let mut out = Vec::new();
        match op {
            Op::Apply(kind, path, rev, value) => self.apply(kind, &path, rev, &vec![value; usize::from(value % 4)]),
            Op::Near(kind, path, near) => {
                let rev = match self.model.look(&path, self.model.revision()) {
                    Found::File(rev, _) => rev + near,
                    Found::Dir(_) => near - 2,
                    Found::Missing => near,
                };
                self.apply(kind, &path, rev, b"near");
            }
            Op::Walk(glob, back, offset, mut budget) => {
                let rev = self.rev(back);
                let compiled = Glob::new(glob.as_bytes()).unwrap();
                let found = self.store.walk(&compiled, rev, offset, &mut budget, &mut out);
                if let Some(state) = Pair::walked(&self.model, found, &out, &glob, rev, offset) {
                    self.walks.push((state, glob, rev, offset));
                }
            }
            Op::List(glob, back, budget) => {
                let rev = self.rev(back);
                let compiled = Glob::new(glob.as_bytes()).unwrap();
                if rev < self.model.first {
                    return;
                }
                for offset in 0..i32::try_from(self.model.walk(&glob, rev).len()).unwrap() + 1 {
                    let mut left = budget;
                    let mut found = self.store.walk(&compiled, rev, offset, &mut left, &mut out);
                    while let Some(state) = Pair::walked(&self.model, found, &out, &glob, rev, offset) {
                        left = budget;
                        found = self.store.resume_walk(state, &mut left, &mut out);
                    }
                }
            }
            Op::Getdir(path, back, offset, mut budget) => {
                let rev = self.rev(back);
                let found = self.store.getdir(path.as_bytes(), rev, offset, &mut budget, &mut out);
                if let Some(state) = Pair::list_dir(&self.model, found, &out, &path, rev, offset) {
                    self.getdirs.push((state, path, rev, offset));
                }
            }
            Op::ResumeWalk(which) if !self.walks.is_empty() => {
                let (state, glob, rev, offset) = self.walks.swap_remove(which % self.walks.len());
                let found = self.store.resume_walk(state, &mut 3, &mut out);
                if let Some(state) = Pair::walked(&self.model, found, &out, &glob, rev, offset) {
                    self.walks.push((state, glob, rev, offset));
                }
            }
            Op::ResumeGetdir(which) if !self.getdirs.is_empty() => {
                let (state, path, rev, offset) = self.getdirs.swap_remove(which % self.getdirs.len());
                let found = self.store.resume_getdir(state, &mut 4, &mut out);
                if let Some(state) = Pair::list_dir(&self.model, found, &out, &path, rev, offset) {
                    self.getdirs.push((state, path, rev, offset));
                }
            }
            Op::Wait(glob, back, mut budget) => {
                let from = self.model.revision() + back;
                self.token += 1;
                let wait = self.store.wait(&Glob::new(glob.as_bytes()).unwrap(), from, self.token, &mut budget);
                self.waited(wait, glob, from, self.token);
            }
            Op::ResumeWait(which) if !self.waits.is_empty() => {
                let (state, glob, from, token) = self.waits.swap_remove(which % self.waits.len());
                let wait = self.store.resume_wait(state, &mut 3);
                self.waited(wait, glob, from, token);
            }
            Op::Match(mut budget) => {
                let before = self.store.has_pending_matches();
                self.store.match_more(&mut budget);
                let woken = self.matched();
                assert!(before || woken.is_empty());
            }
            Op::Cancel(which) if !self.due.is_empty() && which % 2 == 0 => {
                let (waiting, _) = self.due.remove(which / 2 % self.due.len());
                assert!(self.store.cancel(waiting.id));
                assert!(!self.store.cancel(waiting.id));
            }
            Op::Cancel(which) if !self.waiting.is_empty() => {
                let waiting = self.waiting.remove(which % self.waiting.len());
                assert!(self.store.cancel(waiting.id));
                assert!(!self.store.cancel(waiting.id));
            }
            Op::Await(ahead) => {
                self.token += 1;
                let from = self.model.revision() + ahead;
                let id = self.store.await_revision(from, self.token);
                let token = self.token;
                let at =
                    self.waiting.iter().position(|w| w.glob.is_none() && w.from > from).unwrap_or(self.waiting.len());
                self.waiting.insert(at, Waiting { token, glob: None, from, id, entered: (0, false) });
            }
            Op::Pin => {
                let (id, first) = self.store.pin();
                assert_eq!(first, self.model.first);
                self.pins.push(id);
                self.model.pins.push(first);
            }
            Op::PinTo(which, back) if !self.pins.is_empty() => {
                let (which, to) = (which % self.pins.len(), self.rev(back));
                self.model.pins[which] = self.model.pins[which].max(to);
                self.store.pin_to(self.pins[which], to);
            }
            Op::Unpin(which) if !self.pins.is_empty() => {
                let which = which % self.pins.len();
                self.model.pins.remove(which);
                self.store.unpin(self.pins.remove(which));
            }
            Op::PinTo(..) | Op::Unpin(_) => {}
            Op::ResumeWalk(_) | Op::ResumeGetdir(_) | Op::ResumeWait(_) | Op::Cancel(_) => {}
        }
    }

    fn compare(&self) {
        let (store, model) = (&self.store, &self.model);
        assert_eq!(store.revision(), model.revision());
        assert_eq!(store.first_revision(), model.first);
        assert_eq!(store.waiters(), self.waiting.len() + self.due.len());
        assert_eq!(store.tree.past(), u64::try_from(model.past()).unwrap());
        assert_eq!(store.tree.arena.len(), model.nodes(), "nodes leak or are missing");
        same(store, model);
    }
}

/// Compares all that is retained.
pub(super) fn same(store: &Store, model: &Model) {
    let mut path = Vec::new();
    for rev in model.first.max(1)..=model.revision() {
        let event = store.event(rev, &mut path).unwrap();
        let (kind, text, value) = model.event(rev);
        assert_eq!(
            (event.rev, event.kind, event.value, path.as_slice()),
            (rev, *kind, value.as_slice(), text.as_bytes())
        );
    }
    assert_eq!(store.event(model.first.max(1) - 1, &mut path), None);
    assert_eq!(store.event(model.revision() + 1, &mut path), None);
    for rev in model.first..=model.revision() {
        for text in model.events.iter().map(|(_, path, _)| path.as_str()).chain(["/", "/a", "/a/", "", "/a/b/c/d"]) {
            for end in text.match_indices('/').map(|(at, _)| at.max(1)).chain([text.len()]) {
                let path = &text[..end.min(text.len())];
                let found = match store.lookup(path.as_bytes(), rev) {
                    Lookup::Missing => Found::Missing,
                    Lookup::File { rev, value } => Found::File(rev, value.to_vec()),
                    Lookup::Dir { entries } => Found::Dir(usize::try_from(entries).unwrap()),
                };
                assert_eq!(found, model.look(path, rev), "{path} at {rev}");
            }
        }
        let mut files = Vec::new();
        let mut after = None;
        loop {
            let each = |path: &[u8], rev: i64, value: &[u8]| {
                files.push((names(std::str::from_utf8(path).unwrap()), (rev, value.to_vec())));
                files.len() % 2 == 1
            };
            after = store.files_at(rev, after.as_deref(), &mut 3, each);
            if after.is_none() {
                break;
            }
        }
        let expected: Vec<_> = model.at(rev).iter().map(|(names, file)| (names.clone(), file.clone())).collect();
        assert_eq!(files, expected, "files at {rev}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Everything at once: mutations that are refused or not, all reads at all revisions, cursors under writes, work that goes on
    /// after the tree has changed, waiters, pins and trimming.
    #[test]
    fn lives_as_the_model_does(hist in 1..12i64, bytes in 0..30u8, at_once in prop_oneof![Just(20_000), 0..40usize], ops in prop::collection::vec(op(), 1..80)) {
        let mut pair = Pair::new(hist, bytes);
        pair.store.waiters.set_at_once(at_once);
        for op in ops {
            pair.step(op);
            pair.compare();
        }
        while pair.store.has_pending_matches() {
            pair.store.match_more(&mut 1);
            pair.matched();
        }
        // What waits can be cancelled, and leaves nothing behind.
        for waiting in std::mem::take(&mut pair.waiting) {
            prop_assert!(pair.store.cancel(waiting.id));
        }
        prop_assert_eq!(pair.store.waiters.nodes(), 1);
        prop_assert_eq!(pair.store.waiters(), 0);
    }

    /// Any bytes may come as a glob.
    #[test]
    fn what_is_no_glob_is_refused_and_what_is_one_matches_without_a_panic(
        bytes in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..60),
            prop::collection::vec(prop::sample::select(b"//ab-.**??_ \x00\xff".to_vec()), 0..200),
        ],
        paths in prop::collection::vec(path(), 1..4),
    ) {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"/.-*?".contains(&b);
        let parts: Vec<&[u8]> = bytes.split(|&b| b == b'/').collect();
        let named = parts.len() > 1 && parts[0].is_empty() && parts[1..].iter().all(|part| !part.is_empty());
        let valid = bytes == b"/" || (named && bytes.iter().all(|&b| allowed(b)));
        let glob = Glob::new(&bytes);
        prop_assert_eq!(glob.is_ok(), valid);
        for path in paths.iter().filter(|p| Path::parse(p.as_bytes()).is_some()) {
            if let Ok(glob) = &glob {
                prop_assert!(glob.matches(path.as_bytes()) || bytes != path.as_bytes());
            }
        }
    }

    /// The automaton against the definition.
    #[test]
    fn globs_match_as_defined(glob in glob(), path in path().prop_filter("a path", |p| Path::parse(p.as_bytes()).is_some())) {
        let compiled = Glob::new(glob.as_bytes()).unwrap();
        prop_assert_eq!(compiled.matches(path.as_bytes()), naive_match(glob.as_bytes(), path.as_bytes()));
    }

    /// The index of waiters against one glob after the other, with many patterns in it at once.
    #[test]
    fn the_index_finds_what_each_glob_would(
        globs in prop::collection::vec(glob(), 1..60),
        paths in prop::collection::vec(path().prop_filter("a path", |p| Path::parse(p.as_bytes()).is_some()), 1..12),
        gone in prop::collection::vec(any::<bool>(), 60),
    ) {
        let mut waiters = super::super::waiters::Waiters::new();
        let mut left: Vec<(u64, &str)> = Vec::new();
        for ((token, glob), gone) in (0..).zip(&globs).zip(&gone) {
            let id = waiters.listen(Glob::new(glob.as_bytes()).unwrap().tokens(), token);
            if *gone {
                prop_assert!(waiters.cancel(id));
            } else {
                left.push((token, glob));
            }
        }
        for (rev, path) in (1..).zip(&paths) {
            waiters.applied(rev, path.as_bytes());
            let mut woken = Vec::new();
            waiters.take_woken(usize::MAX, &mut woken);
            let fired = left.extract_if(.., |(_, glob)| naive_match(glob.as_bytes(), path.as_bytes()));
            let expected: Vec<_> = fired.map(|(token, _)| Woken::Event { token, rev }).collect();
            prop_assert_eq!(woken, expected);
        }
        prop_assert_eq!(waiters.len(), left.len());
    }
}
