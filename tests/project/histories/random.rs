//! Servers that are right, and do everything at random that servers may: they lag behind each other, lose connections, refuse, and do
//! not know. What their clients see has to be accepted, always; and a lie about it has to be noticed.

#[path = "../../shared/random.rs"]
mod numbers;

use std::collections::VecDeque;

use doozer::store::{Event, Getdir, Glob, Kind, Lookup, Mutation, Refused, Store, Walk};
use doozer::wire::{ErrCode, FLAG_DEL, FLAG_SET, Request, Response, Verb};

use crate::checker::{Checker, Statistics, Violation, value};
use numbers::Random;

const NODES: usize = 3;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Asks {
    verb: i32,
    path: Option<Vec<u8>>,
    rev: Option<i64>,
    offset: Option<i32>,
    value: Option<Vec<u8>>,
}

impl Asks {
    fn new(verb: Verb) -> Asks {
        Asks { verb: verb.code(), ..Asks::default() }
    }

    fn of(verb: Verb, path: &str, rev: Option<i64>) -> Asks {
        Asks { path: Some(path.as_bytes().to_vec()), rev, ..Asks::new(verb) }
    }

    fn request(&self) -> Request<'_> {
        let Asks { verb, path, rev, offset, value } = self;
        let (path, value) = (path.as_deref(), value.as_deref());
        Request { verb: Some(*verb), path, rev: *rev, offset: *offset, value, ..Request::default() }
    }

    fn verb(&self) -> Verb {
        Verb::try_from(self.verb).unwrap()
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Says {
    flags: Option<i32>,
    rev: Option<i64>,
    path: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    len: Option<i32>,
    code: Option<ErrCode>,
    detail: Option<Vec<u8>>,
}

impl Says {
    fn error(code: ErrCode) -> Says {
        Says { code: Some(code), ..Says::default() }
    }

    fn response(&self) -> Response<'_> {
        let Says { flags, rev, path, value, len, code, detail } = self;
        Response {
            flags: *flags,
            rev: *rev,
            path: path.as_deref(),
            value: value.as_deref(),
            len: *len,
            err_code: code.map(ErrCode::code),
            err_detail: detail.as_deref(),
            ..Response::default()
        }
    }
}

/// What the checker is told.
#[derive(Clone, Debug)]
enum Step {
    Connect(usize),
    /// By the connection of this number.
    Call(usize, Asks),
    /// To the call of this number.
    Answer(usize, Says),
    Lost(usize),
    /// A node's history is read up to here.
    Learn(usize, i64),
}

/// What happened.
#[derive(Clone)]
struct Tape {
    steps: Vec<Step>,
    history: Vec<(i32, Vec<u8>, Vec<u8>)>,
    keep: u64,
}

impl Tape {
    fn judge(&self) -> Result<Statistics, Violation> {
        let mut checker = Checker::new().with_history(self.keep);
        let (mut conns, mut calls) = (Vec::new(), Vec::new());
        let learn = |checker: &mut Checker, node: usize, from: i64, until: i64| {
            for rev in from..=until {
                let (flags, path, value) = &self.history[usize::try_from(rev - 1).unwrap()];
                checker.learn(node, rev, *flags, path, value);
            }
        };
        let mut learned = [0; NODES];
        for (at, step) in (0..).zip(&self.steps) {
            match step {
                Step::Connect(node) => conns.push(checker.connect(conns.len(), *node, at)),
                Step::Call(conn, asks) => calls.push(checker.call(conns[*conn], at, &asks.request())),
                Step::Answer(call, says) => checker.answer(calls[*call], at, &says.response()),
                Step::Lost(call) => checker.lost(calls[*call], at),
                Step::Learn(node, until) => {
                    learn(&mut checker, *node, learned[*node] + 1, *until);
                    learned[*node] = (*until).max(learned[*node]);
                }
            }
        }
        let last = i64::try_from(self.history.len()).unwrap();
        (0..NODES).for_each(|node| learn(&mut checker, node, 1, last));
        checker.verify(last, &[0, 1, 2])
    }
}

/// A mutation in the log of all.
struct Entry {
    asks: Asks,
    /// Which node answers it, and which call.
    asker: Option<(usize, usize)>,
}

struct Node {
    store: Store,
    /// How much of the log it has applied.
    applied: usize,
    /// Calls that wait: until so much of the log is applied, or until a revision.
    syncs: Vec<(usize, usize)>,
    parked: Vec<(usize, Asks)>,
}

struct Conn {
    number: usize,
    node: usize,
    /// Requests on their way, and calls without an answer.
    inbox: VecDeque<(usize, Asks)>,
    open: Vec<usize>,
}

struct World {
    random: Random,
    log: Vec<Entry>,
    nodes: Vec<Node>,
    conns: Vec<Conn>,
    /// Answers on their way.
    answers: Vec<(usize, Says)>,
    tape: Tape,
    calls: usize,
    made: usize,
    /// The highest revision that some node has.
    latest: i64,
    cas: [i64; 4],
}

const FILES: &[&str] = &["/a", "/b/c", "/b/d", "/b/e/f", "/b-c", "/x/y/z", "/b", "/x/y", "/d/1", "/d/2", "/d/3", "/d"];
const GLOBS: &[&str] = &["/**", "/*", "/b/*", "/b/**", "/**c", "/?", "/d/?", "/x/y/z", "/", "/*/*", "/a"];
const STRANGE: &[&str] = &["", "b", "/b/", "//", "/a b", "/_"];

impl World {
    fn new(seed: u64, keep: u64) -> World {
        let node = || Node { store: Store::new(keep), applied: 0, syncs: vec![], parked: vec![] };
        let mut world = World {
            random: Random(seed),
            log: Vec::new(),
            nodes: (0..NODES).map(|_| node()).collect(),
            conns: Vec::new(),
            answers: Vec::new(),
            tape: Tape { steps: Vec::new(), history: Vec::new(), keep },
            calls: 0,
            made: 0,
            latest: 0,
            cas: [0; 4],
        };
        (0..8).for_each(|n| world.connect(n % NODES));
        world
    }

    fn connect(&mut self, node: usize) {
        self.tape.steps.push(Step::Connect(node));
        self.made += 1;
        let (inbox, open) = Default::default();
        self.conns.push(Conn { number: self.made - 1, node, inbox, open });
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..30 => self.ask(),
            30..60 => self.carry_out(),
            60..80 => {
                // One node lags behind by far.
                let node = self.random.below(NODES + 1).min(NODES - 1);
                let behind = self.log.len() - self.nodes[node].applied;
                if node > 0 || behind > 300 || self.random.once_in(3) {
                    self.apply(node);
                }
            }
            99 if self.random.once_in(20) => self.lose(),
            98 => {
                let node = self.random.below(NODES);
                let until = self.nodes[node].store.revision();
                self.tape.steps.push(Step::Learn(node, until));
            }
            _ => self.deliver(),
        }
    }

    fn choose(&mut self) -> Asks {
        let random = &mut self.random;
        let path = random.pick(FILES).to_owned();
        let name = self.calls as u64;
        let set = |path: &str, rev| Asks { value: Some(value(name, 40)), ..Asks::of(Verb::Set, path, Some(rev)) };
        let near = |random: &mut Random| {
            let back = i64::try_from(random.below(60)).unwrap();
            (back > 15).then_some(self.latest + 10 - back)
        };
        let offset = i32::try_from(random.below(6)).unwrap() - 1;
        match random.below(100) {
            0..20 => set(&path, -1),
            20..32 => set(&path, self.cas[random.below(4)]),
            32..36 => set(&path, 0),
            36 => set(random.pick(STRANGE), -1),
            37..44 => Asks::of(Verb::Del, &path, Some(-1)),
            44..50 => Asks::of(Verb::Del, &path, Some(self.cas[random.below(4)])),
            50 => Asks::of(Verb::Del, &path, Some(-3)),
            51..55 => Asks::new(Verb::Nop),
            55..57 => Asks { value: Some(b"open".to_vec()), ..Asks::of(Verb::Set, "/ctl/cal/7", Some(-1)) },
            57 => Asks { path: None, ..Asks::of(random_verb(random), &path, Some(1)) },
            58 => Asks::of(Verb::Get, random.pick(STRANGE), None),
            59..70 => Asks::of(Verb::Get, &path, near(random)),
            70..74 => Asks::of(Verb::Stat, &path, near(random)),
            74..82 => {
                let dir = if random.once_in(2) { "/b" } else { "/" };
                let dir = if random.once_in(4) { path } else { dir.to_owned() };
                Asks { offset: Some(offset), ..Asks::of(Verb::Getdir, &dir, near(random)) }
            }
            82..90 => Asks { offset: Some(offset), ..Asks::of(Verb::Walk, random.pick(GLOBS), near(random)) },
            90..96 => {
                let from = near(random).unwrap_or(self.latest);
                Asks::of(Verb::Wait, random.pick(GLOBS), Some(from))
            }
            96 => Asks::new(Verb::Rev),
            _ => Asks::new(Verb::Sync),
        }
    }

    fn ask(&mut self) {
        let asks = self.choose();
        let conn = self.random.below(self.conns.len());
        let conn = &mut self.conns[conn];
        if conn.open.len() < 12 {
            self.tape.steps.push(Step::Call(conn.number, asks.clone()));
            conn.inbox.push_back((self.calls, asks));
            conn.open.push(self.calls);
            self.calls += 1;
        }
    }

    /// A server takes a request.
    fn carry_out(&mut self) {
        let conn = self.random.below(self.conns.len());
        let Some((call, asks)) = self.conns[conn].inbox.pop_front() else { return };
        let node = self.conns[conn].node;
        let valid =
            |path: &Option<Vec<u8>>| path.as_deref().is_some_and(|path| doozer::store::Path::parse(path).is_some());
        match asks.verb() {
            Verb::Set | Verb::Del | Verb::Nop if self.random.once_in(40) => {
                self.answers.push((call, Says::error(ErrCode::Readonly)));
            }
            Verb::Set | Verb::Del if asks.path.is_none() => {
                self.answers.push((call, Says::error(ErrCode::MissingArg)));
            }
            Verb::Set | Verb::Del if !valid(&asks.path) => self.answers.push((call, Says::error(ErrCode::BadPath))),
            Verb::Set | Verb::Del | Verb::Nop => {
                let asker = Some((node, call));
                self.log.push(Entry { asks, asker });
                // The servers write too.
                if self.random.once_in(30) {
                    let asks = Asks { value: Some(b"7".to_vec()), ..Asks::of(Verb::Set, "/ctl/node/7", Some(-1)) };
                    self.log.push(Entry { asks, asker: None });
                }
            }
            Verb::Sync if self.random.once_in(20) => self.answers.push((call, Says::error(ErrCode::Readonly))),
            Verb::Sync => self.nodes[node].syncs.push((call, self.log.len())),
            Verb::Rev => {
                let rev = Some(self.nodes[node].store.revision());
                self.answers.push((call, Says { rev, ..Says::default() }));
            }
            _ => self.nodes[node].parked.push((call, asks)),
        }
        self.wake(node);
    }

    /// A node applies one more entry.
    fn apply(&mut self, node: usize) {
        let this = &mut self.nodes[node];
        let Some(entry) = self.log.get(this.applied) else { return };
        let Asks { path, rev, value, .. } = &entry.asks;
        let (path, rev) = (path.as_deref().unwrap_or_default(), rev.unwrap_or_default());
        let mutation = match entry.asks.verb() {
            Verb::Set => Mutation::Set { path, rev, value: value.as_deref().unwrap_or_default() },
            Verb::Del => Mutation::Del { path, rev },
            _ => Mutation::Nop,
        };
        let outcome = this.store.apply(mutation);
        this.applied += 1;
        if this.store.revision() > self.latest {
            self.latest += 1;
            let (mut path, rev) = (Vec::new(), self.latest);
            let Event { kind, value, .. } = this.store.event(rev, &mut path).unwrap();
            let flags = [FLAG_SET, FLAG_DEL, 0][kind as usize];
            assert_eq!([Kind::Set, Kind::Del, Kind::Nop][kind as usize], kind);
            let value = value.to_vec();
            self.tape.history.push((flags, path, value));
            if flags == FLAG_SET && self.random.once_in(3) {
                let at = self.random.below(4);
                self.cas[at] = rev;
            }
        }
        if let Some((of, call)) = entry.asker
            && of == node
        {
            let says = match outcome {
                _ if self.random.once_in(50) => {
                    Says { detail: Some(b"outcome unknown".to_vec()), ..Says::error(ErrCode::Other) }
                }
                Ok(rev) => Says { rev: (entry.asks.verb() == Verb::Set).then_some(rev), ..Says::default() },
                Err(refused) => Says::error(match refused {
                    Refused::BadPath => ErrCode::BadPath,
                    Refused::NotDir => ErrCode::Notdir,
                    Refused::RevMismatch => ErrCode::RevMismatch,
                    Refused::IsDir => ErrCode::Isdir,
                }),
            };
            self.answers.push((call, says));
        }
        self.wake(node);
    }

    /// A node answers what it can.
    fn wake(&mut self, node: usize) {
        let Node { store, applied, syncs, parked, .. } = &mut self.nodes[node];
        let rev = Some(store.revision());
        for (call, _) in syncs.extract_if(.., |(_, target)| *applied >= *target) {
            self.answers.push((call, Says { rev, ..Says::default() }));
        }
        let mut left = Vec::new();
        for (call, asks) in parked.drain(..) {
            match read(store, &asks) {
                Some(says) => self.answers.push((call, says)),
                None => left.push((call, asks)),
            }
        }
        *parked = left;
    }

    fn deliver(&mut self) {
        if self.answers.is_empty() {
            return;
        }
        let at = self.random.below(self.answers.len());
        let (call, says) = self.answers.swap_remove(at);
        if let Some(conn) = self.conns.iter_mut().find(|conn| conn.open.contains(&call)) {
            conn.open.retain(|open| *open != call);
            self.tape.steps.push(Step::Answer(call, says));
        }
    }

    /// A connection is lost; what was on its way may still come to its server, from the first on.
    fn lose(&mut self) {
        let at = self.random.below(self.conns.len());
        while !self.conns[at].inbox.is_empty() && !self.random.once_in(3) {
            let mut conn = self.conns.swap_remove(at);
            let first = conn.inbox.pop_front();
            let inbox = std::mem::replace(&mut conn.inbox, first.into_iter().collect());
            let others = std::mem::replace(&mut self.conns, vec![conn]);
            self.carry_out();
            self.conns[0].inbox = inbox;
            let conn = self.conns.pop().unwrap();
            self.conns = others;
            self.conns.push(conn);
            let last = self.conns.len() - 1;
            self.conns.swap(at, last);
        }
        let conn = self.conns.swap_remove(at);
        self.tape.steps.extend(conn.open.iter().map(|call| Step::Lost(*call)));
        let node = self.random.below(NODES);
        self.connect(node);
    }

    /// Lets everything come to its end.
    fn finish(mut self) -> Tape {
        for _ in 0..10_000 {
            self.carry_out();
        }
        for node in 0..NODES {
            while self.nodes[node].applied < self.log.len() {
                self.apply(node);
            }
        }
        while !self.answers.is_empty() {
            self.deliver();
        }
        self.tape
    }
}

fn random_verb(random: &mut Random) -> Verb {
    [Verb::Set, Verb::Del, Verb::Get, Verb::Stat, Verb::Getdir, Verb::Walk, Verb::Wait][random.below(7)]
}

/// What a store answers to a read; `None` if it has to wait.
fn read(store: &mut Store, asks: &Asks) -> Option<Says> {
    let verb = asks.verb();
    let fails = |code| Some(Says::error(code));
    let (Some(path), true) = (&asks.path, verb != Verb::Walk && verb != Verb::Getdir || asks.offset.is_some()) else {
        return if verb == Verb::Stat {
            let rev = asks.rev.unwrap_or(1);
            (rev <= store.revision()).then(|| match rev.max(1) < store.first_revision() {
                true => Says::error(ErrCode::TooLate),
                false => Says { rev: Some(0), len: Some(0), ..Says::default() },
            })
        } else {
            fails(ErrCode::MissingArg)
        };
    };
    let glob = Glob::new(path);
    if matches!(verb, Verb::Walk | Verb::Wait) && glob.is_err() {
        let detail = Some([b"invalid glob pattern: ", &path[..]].concat());
        return Some(Says { detail, ..Says::error(ErrCode::Other) });
    }
    if verb == Verb::Walk && asks.offset < Some(0) {
        return fails(ErrCode::Range);
    }
    let rev = asks.rev.map_or(store.revision(), |rev| rev.max(1));
    if asks.rev.is_some() && rev < store.first_revision() {
        return fails(ErrCode::TooLate);
    }
    if verb == Verb::Wait {
        let mut buffer = Vec::new();
        let first = (rev..=store.revision()).find(|rev| {
            store.event(*rev, &mut buffer);
            glob.as_ref().unwrap().matches(&buffer)
        })?;
        let Event { kind, value, .. } = store.event(first, &mut buffer).unwrap();
        let flags = Some([FLAG_SET, FLAG_DEL, 0][kind as usize]);
        let value = Some(value.to_vec());
        return Some(Says { flags, rev: Some(first), path: Some(buffer.clone()), value, ..Says::default() });
    }
    if rev > store.revision() {
        return None;
    }
    let (mut budget, mut buffer, offset) = (isize::MAX, Vec::new(), asks.offset.unwrap_or_default());
    Some(match (verb, store.lookup(path, rev)) {
        (Verb::Get, Lookup::Dir { .. }) => Says::error(ErrCode::Isdir),
        (Verb::Get, Lookup::Missing) => Says { rev: Some(0), value: Some(vec![]), ..Says::default() },
        (Verb::Get, Lookup::File { rev, value }) => {
            Says { rev: Some(rev), value: Some(value.to_vec()), ..Says::default() }
        }
        (Verb::Stat, Lookup::Missing) => Says { rev: Some(0), len: Some(0), ..Says::default() },
        (Verb::Stat, Lookup::Dir { entries }) => {
            Says { rev: Some(-2), len: Some(entries.cast_signed()), ..Says::default() }
        }
        (Verb::Stat, Lookup::File { rev, value }) => {
            Says { rev: Some(rev), len: Some(i32::try_from(value.len()).unwrap()), ..Says::default() }
        }
        (Verb::Getdir, _) => match store.getdir(path, rev, offset, &mut budget, &mut buffer) {
            Getdir::Found => Says { path: Some(buffer), ..Says::default() },
            Getdir::NoEnt => Says::error(ErrCode::Noent),
            Getdir::NotDir => Says::error(ErrCode::Notdir),
            Getdir::Range => Says::error(ErrCode::Range),
            other => panic!("{other:?}"),
        },
        _ => match store.walk(glob.as_ref().unwrap(), rev, offset, &mut budget, &mut buffer) {
            Walk::Found { rev, value } => {
                let (rev, value) = (Some(rev), Some(value.to_vec()));
                Says { flags: Some(FLAG_SET), rev, path: Some(buffer), value, ..Says::default() }
            }
            Walk::Range => Says::error(ErrCode::Range),
            other => panic!("{other:?}"),
        },
    })
}

fn play(seed: u64, steps: usize, keep: u64) -> Tape {
    let mut world = World::new(seed, keep);
    (0..steps).for_each(|_| world.step());
    world.finish()
}

/// A checker that complains of what is right is soon believed no more.
#[test]
fn whatever_servers_may_do_is_accepted() {
    for seed in 0..60 {
        let tape = play(seed, 6_000, if seed % 3 == 0 { 50 } else { 1_000_000 });
        match tape.judge() {
            Ok(statistics) => {
                let Statistics { acknowledged, refused, unknown, reads, listings, events, syncs, matched, .. } =
                    statistics;
                let all = [acknowledged, refused, unknown, reads, listings, events, syncs, matched];
                assert!(all.iter().all(|count| *count >= 5), "too little happens: {statistics:?}");
            }
            Err(violation) => panic!("seed {seed}: {violation}"),
        }
    }
}

/// What makes a tape a lie, if it finds an occasion after this step.
type Lie = fn(&mut Tape, usize) -> Option<()>;

/// The first answer, after a step, to a call that is so; with what was asked.
fn answer_to(tape: &mut Tape, after: usize, is_so: impl Fn(&Asks, &Says) -> bool) -> Option<(usize, Asks)> {
    let calls: Vec<&Asks> =
        tape.steps.iter().filter_map(|step| if let Step::Call(_, asks) = step { Some(asks) } else { None }).collect();
    let is_answer = |step: &Step| matches!(step, Step::Answer(call, says) if is_so(calls[*call], says));
    let at = (after..tape.steps.len()).find(|at| is_answer(&tape.steps[*at]))?;
    let Step::Answer(call, _) = &tape.steps[at] else { return None };
    Some((at, calls[*call].clone()))
}

fn says(tape: &mut Tape, at: usize) -> &mut Says {
    match &mut tape.steps[at] {
        Step::Answer(_, says) => says,
        other => panic!("{other:?} is no answer"),
    }
}

const LIES: &[(&str, Lie)] = &[
    ("a write was refused", |tape, after| {
        let (at, _) = answer_to(tape, after, |asks, says| asks.verb() == Verb::Set && says.rev.is_some())?;
        *says(tape, at) = Says::error(ErrCode::Readonly);
        Some(())
    }),
    ("a write has another revision", |tape, after| {
        let (at, _) = answer_to(tape, after, |asks, says| asks.verb() == Verb::Set && says.rev.is_some())?;
        says(tape, at).rev = says(tape, at).rev.map(|rev| rev + 1);
        Some(())
    }),
    ("a write was of something else", |tape, after| {
        let (at, _) = answer_to(tape, after, |asks, says| asks.verb() == Verb::Set && says.rev.is_some())?;
        let rev = says(tape, at).rev?;
        tape.history[usize::try_from(rev - 1).ok()?].2.push(b'x');
        Some(())
    }),
    ("a file was missing", |tape, after| {
        let is_so = |asks: &Asks, says: &Says| asks.verb() == Verb::Get && asks.rev.is_some() && says.rev > Some(0);
        let (at, _) = answer_to(tape, after, is_so)?;
        *says(tape, at) = Says { rev: Some(0), value: Some(vec![]), ..Says::default() };
        Some(())
    }),
    ("a directory had another size", |tape, after| {
        let is_so = |asks: &Asks, says: &Says| asks.verb() == Verb::Stat && asks.rev.is_some() && says.rev == Some(-2);
        let (at, _) = answer_to(tape, after, is_so)?;
        says(tape, at).len = says(tape, at).len.map(|len| len + 1);
        Some(())
    }),
    ("a directory held something else", |tape, after| {
        let is_so = |asks: &Asks, says: &Says| asks.verb() == Verb::Getdir && says.path.is_some();
        let (at, _) = answer_to(tape, after, is_so)?;
        says(tape, at).path.as_mut()?.push(b'x');
        Some(())
    }),
    ("a walk ended early", |tape, after| {
        let is_so = |asks: &Asks, says: &Says| asks.verb() == Verb::Walk && asks.rev.is_some() && says.path.is_some();
        let (at, _) = answer_to(tape, after, is_so)?;
        *says(tape, at) = Says::error(ErrCode::Range);
        Some(())
    }),
    ("a walk began elsewhere", |tape, after| {
        let is_so = |asks: &Asks, says: &Says| asks.verb() == Verb::Walk && asks.rev.is_some() && says.path.is_some();
        let (at, _) = answer_to(tape, after, is_so)?;
        let Step::Answer(answered, _) = tape.steps[at] else { return None };
        let calls =
            tape.steps.iter_mut().filter_map(|step| if let Step::Call(_, asks) = step { Some(asks) } else { None });
        let offset = &mut calls.into_iter().nth(answered)?.offset;
        *offset = offset.map(|n| n + 1);
        Some(())
    }),
    ("an event was skipped", |tape, after| {
        let is_so = |asks: &Asks, says: &Says| {
            asks.verb() == Verb::Wait && asks.path.as_deref() == Some(b"/**") && says.rev.is_some()
        };
        let (at, _) = answer_to(tape, after, is_so)?;
        let rev = says(tape, at).rev? + 1;
        let (flags, path, value) = tape.history.get(usize::try_from(rev - 1).ok()?)?.clone();
        *says(tape, at) =
            Says { flags: Some(flags), rev: Some(rev), path: Some(path), value: Some(value), ..Says::default() };
        Some(())
    }),
    ("a SYNC was behind", |tape, after| {
        let (at, _) = answer_to(tape, after, |asks, says| asks.verb() == Verb::Sync && says.rev > Some(30))?;
        says(tape, at).rev = Some(2);
        Some(())
    }),
    ("a revision was swapped with the next", |tape, _| {
        let named = |at: &usize| tape.history[*at..at + 2].iter().all(|(.., value)| value.starts_with(b"w "));
        let at = (tape.history.len() / 2..tape.history.len() - 1).find(named)?;
        tape.history.swap(at, at + 1);
        Some(())
    }),
    ("a deletion never was", |tape, after| {
        let event = tape.history.iter_mut().skip(after / 10).find(|(flags, ..)| *flags == FLAG_DEL)?;
        *event = (0, b"/".to_vec(), Vec::new());
        Some(())
    }),
];

/// Among thousands of right answers, in all that goes on at the same time, a single wrong one stands out.
#[test]
fn every_lie_is_noticed_among_the_rest() {
    for (what, lie) in LIES {
        let mut told = 0;
        for seed in 0..12 {
            let mut tape = play(1_000 + seed, 8_000, 1_000_000);
            let after = tape.steps.len() / 3;
            if lie(&mut tape, after).is_some() {
                told += 1;
                assert!(tape.judge().is_err(), "nobody notices the lie that {what}, seed {seed}");
            }
        }
        assert!(told > 6, "there is hardly an occasion for the lie that {what}");
    }
}

/// Run with `--ignored --nocapture`: how long the checker takes, per call.
#[test]
#[ignore = "a measurement"]
fn how_long_it_takes() {
    for steps in [30_000, 300_000, 1_000_000] {
        let tape = play(1, steps, 1_000_000);
        let calls = tape.steps.iter().filter(|step| matches!(step, Step::Call(..))).count();
        #[allow(clippy::disallowed_methods, reason = "a measurement")]
        let began = std::time::Instant::now();
        let statistics = tape.judge().unwrap();
        println!("{calls} calls in {:?}: {statistics:?}", began.elapsed());
    }
}
