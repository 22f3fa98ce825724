//! What clients were promised and have seen, held against the history of the cluster.
//!
//! Every mutation names itself, by its value or its path, so that it can be found in the history. What anyone sees of a revision,
//! an event, a file, an acknowledgement, is remembered and has to agree with what all others see of it: this is checked at
//! once. At the end the whole history is checked against what became of each mutation.

use std::collections::BTreeMap;

use doozer::wire::{FLAG_DEL, FLAG_SET};

/// A mutation's name.
pub type Id = usize;

/// What is remembered of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    len: usize,
    crc: u32,
    front: String,
}

impl Body {
    pub fn of(value: &[u8]) -> Body {
        let front = String::from_utf8_lossy(&value[..value.len().min(24)]).into_owned();
        Body { len: value.len(), crc: crc32fast::hash(value), front }
    }
}

/// A revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub flags: i32,
    pub path: String,
    pub body: Body,
}

/// What became of a mutation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is not answered.
    Open,
    /// It was acknowledged, with a revision if its verb is answered with one.
    Done(Option<i64>),
    /// It was certainly not applied.
    Refused,
    /// It was not applied, for the file has changed.
    Mismatch,
    /// Nobody can tell.
    Unknown,
}

/// What a mutation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Set,
    Del,
    Nop,
}

#[derive(Debug)]
pub struct Mutation {
    pub verb: Verb,
    pub path: String,
    pub rev: i64,
    pub size: usize,
    /// The connection that it was sent on: mutations of one are applied in their order.
    pub conn: u64,
    /// The highest revision that anyone had been told of when it was sent.
    floor: i64,
    pub outcome: Outcome,
}

/// A file that was read.
#[derive(Debug)]
struct Seen {
    path: String,
    rev: i64,
    body: Body,
    /// As of this revision, or a later one.
    from: i64,
    /// As of just this revision.
    at: Option<i64>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Ledger {
    pub mutations: Vec<Mutation>,
    pub events: BTreeMap<i64, Event>,
    seen: Vec<Seen>,
    /// The highest revision that anyone was told of by an acknowledgement.
    pub acknowledged: i64,
    /// How many mutations were acknowledged.
    pub done: usize,
    pub refused: usize,
    pub unknown: usize,
}

/// The value of a mutation.
pub fn value(id: Id, size: usize) -> Vec<u8> {
    let mut value = format!("w {id} ").into_bytes();
    let filler = u8::try_from(id % 251).expect("below 251");
    value.resize(value.len().max(size), filler);
    value
}

/// The path under which a mutation deletes nothing.
pub fn nothing(id: Id) -> String {
    format!("/none/{id}")
}

impl Ledger {
    /// A mutation is about to be sent.
    pub fn begin(&mut self, verb: Verb, path: &str, rev: i64, size: usize, conn: u64) -> Id {
        let path = path.to_owned();
        let floor = self.acknowledged;
        self.mutations.push(Mutation { verb, path, rev, size, conn, floor, outcome: Outcome::Open });
        self.mutations.len() - 1
    }

    /// What a mutation has come to.
    pub fn end(&mut self, id: Id, outcome: Outcome) {
        let mutation = &mut self.mutations[id];
        assert_eq!(mutation.outcome, Outcome::Open, "mutation {id} has two outcomes, the other is {outcome:?}");
        mutation.outcome = outcome;
        match outcome {
            Outcome::Done(rev) => {
                self.done += 1;
                if let Some(rev) = rev {
                    let (floor, path) = (mutation.floor, mutation.path.clone());
                    assert!(
                        rev > floor,
                        "mutation {id} is revision {rev}, but {floor} was acknowledged before it was sent"
                    );
                    let body = Body::of(&value(id, mutation.size));
                    self.event(rev, Event { flags: FLAG_SET, path, body }, "its acknowledgement");
                    self.acknowledged = self.acknowledged.max(rev);
                }
            }
            Outcome::Refused => self.refused += 1,
            Outcome::Unknown => self.unknown += 1,
            _ => {}
        }
    }

    /// Somebody was told of an event.
    pub fn event(&mut self, rev: i64, event: Event, by: &str) {
        if let Some(known) = self.events.get(&rev) {
            assert_eq!(*known, event, "revision {rev} is two things; the second by {by}");
            return;
        }
        self.events.insert(rev, event);
    }

    /// A file was read that is as of `from` or later, or of just `at`.
    pub fn read(&mut self, path: &str, rev: i64, value: &[u8], from: i64, at: Option<i64>) {
        let body = Body::of(value);
        if rev > 0 {
            let event = Event { flags: FLAG_SET, path: path.to_owned(), body: body.clone() };
            self.event(rev, event, "a read");
        }
        self.seen.push(Seen { path: path.to_owned(), rev, body, from, at });
    }

    /// Holds everything against the history, which is known up to `last`.
    pub fn verify(&self, last: i64) {
        if let Some((beyond, event)) = self.events.range(last + 1..).next() {
            panic!("somebody has seen revision {beyond}, but the history ends with {last}: {event:?}");
        }
        let mut found: BTreeMap<Id, i64> = BTreeMap::new();
        let mut nops = 0;
        // What became of each path: revisions that wrote or deleted it.
        let mut files: BTreeMap<&str, Vec<(i64, bool)>> = BTreeMap::new();
        for rev in 1..=last {
            let event = self.events.get(&rev).unwrap_or_else(|| panic!("revision {rev} is missing"));
            let id = match event.flags {
                FLAG_SET => event.body.front.strip_prefix("w ").and_then(|rest| rest.split(' ').next()?.parse().ok()),
                FLAG_DEL => event.path.strip_prefix("/none/").and_then(|rest| rest.parse().ok()),
                _ => {
                    nops += 1;
                    continue;
                }
            };
            let changes = files.entry(&event.path).or_default();
            if let Some(id) = id {
                self.found(id, rev, event, changes);
                if let Some(before) = found.insert(id, rev) {
                    panic!("mutation {id} was applied twice, as revisions {before} and {rev}");
                }
            }
            changes.push((rev, event.flags == FLAG_SET));
        }
        self.check_outcomes(&found, nops);
        self.check_order(&found);
        for seen in &self.seen {
            seen.check(files.get(&seen.path[..]).map_or(&[], Vec::as_slice));
        }
    }

    fn found(&self, id: Id, rev: i64, event: &Event, before: &[(i64, bool)]) {
        let mutation = &self.mutations[id];
        assert_eq!(event.path, mutation.path, "mutation {id}");
        let right = match mutation.outcome {
            Outcome::Open | Outcome::Unknown | Outcome::Done(None) => true,
            Outcome::Done(Some(told)) => told == rev,
            Outcome::Refused | Outcome::Mismatch => false,
        };
        assert!(right, "mutation {id} was applied as revision {rev}, and its sender was told: {:?}", mutation.outcome);
        assert!(
            rev > mutation.floor,
            "mutation {id} is revision {rev}, and {} was known when it was sent",
            mutation.floor
        );
        let current = before.last().map_or(0, |(rev, there)| if *there { *rev } else { 0 });
        assert!(
            mutation.rev == -1 || mutation.rev >= current,
            "mutation {id} was applied to a file of revision {current}, not {}",
            mutation.rev
        );
    }

    fn check_outcomes(&self, found: &BTreeMap<Id, i64>, nops: usize) {
        let (mut nops_done, mut nops_open) = (0, 0);
        for (id, mutation) in self.mutations.iter().enumerate() {
            let done = matches!(mutation.outcome, Outcome::Done(_));
            if mutation.verb == Verb::Nop {
                nops_done += usize::from(done);
                nops_open += usize::from(matches!(mutation.outcome, Outcome::Open | Outcome::Unknown));
            } else {
                assert!(
                    !done || found.contains_key(&id),
                    "mutation {id} was acknowledged, and is not there: {mutation:?}"
                );
            }
        }
        assert!(
            (nops_done..=nops_done + nops_open).contains(&nops),
            "{nops} NOPs in the history, of which {nops_done} were acknowledged, and {nops_open} may be there"
        );
    }

    /// Mutations of one connection are applied in the order in which they were sent.
    fn check_order(&self, found: &BTreeMap<Id, i64>) {
        let mut latest: BTreeMap<u64, (Id, i64)> = BTreeMap::new();
        for (id, mutation) in self.mutations.iter().enumerate() {
            let Some(rev) = found.get(&id) else { continue };
            if let Some((before, at)) = latest.insert(mutation.conn, (id, *rev)) {
                assert!(at < *rev, "mutation {id} overtook {before} of the same connection: {rev} before {at}");
            }
        }
    }
}

impl Seen {
    /// Holds it against the changes of its path.
    fn check(&self, changes: &[(i64, bool)]) {
        let Seen { path, rev, from, .. } = self;
        if let Some(at) = self.at {
            let there = changes.iter().rev().find(|(changed, _)| *changed <= at);
            let right = there.map_or(0, |(changed, there)| if *there { *changed } else { 0 });
            assert_eq!(*rev, right, "{path} as of revision {at}");
            return;
        }
        // It was the file as of some revision from `from` on: nothing came between.
        let right = if *rev == 0 {
            let there = changes.iter().rev().find(|(changed, _)| changed <= from).is_some_and(|(_, there)| *there);
            !there || changes.iter().any(|(changed, there)| changed > from && !there)
        } else {
            !changes.iter().any(|(changed, _)| changed > rev && changed <= from)
        };
        assert!(right, "{path} was read at revision {rev} by one who knew of {from}: {:?}", self.body);
    }
}
