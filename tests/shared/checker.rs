//! The checker: holds what the clients of a cluster were told against one history, and says what cannot be.
//!
//! It is told of every connection, call and answer in the order in which they happened, and, some time, of the whole history as each
//! node has it. It knows nothing of the server but the protocol: its model is a list of events and a map of paths. No I/O and no
//! clock: a moment is whatever number the caller counts in microseconds, and is for people only; the order of calls to the checker
//! is the order of things.
//!
//! Read in this order: `names` (paths, globs, values), `model` (what the history says), `calls` (what was asked), `claims` (what an
//! answer says of the history, and whether it is so), `answers` (what an answer has to hold), this file,
//! `authors` (whose the events are that do not say it), `story` (the text).
//!
//! # What is checked
//! * **One history**: an event is the same whoever tells of it; no revision is missing, or known to one node and not to another.
//!   No file is below a file, no directory is written or deleted, and only the servers write what no client has asked for.
//! * **Writes**: an acknowledged mutation is in the history once, one with an unknown outcome at most once, one that was refused
//!   not at all. It comes after every revision that anyone was told of before it was called, and before all that were called
//!   after it was answered; those of one connection come in their order. What it compares with is right at its place; a refusal
//!   for the sake of the store's state was right at some moment of its call.
//! * **Reads** at a revision are what the history says there. Others were so at some revision of their call: not before what their
//!   connection had been told, nor after what was called later. REV never goes back on a connection, and SYNC is not behind
//!   anything that anyone was told before.
//! * **Waits** are answered with the first event that matches.
//!
//! # How
//! Revisions that are known without a gap count as history ([`Model::advance`]). An answer waits in a queue until it is certain what
//! it may have seen: the first event whose mutation was called after the answer is beyond it. So nearly everything is judged
//! soon after it has happened, and forgotten. A SET names itself by its value ([`value`]). Deletions and NOPs do not: where only one of
//! them can be an event, it is this, and what is left is matched at the end.
#![allow(dead_code, unused_imports, reason = "each test uses its own part")]

#[path = "checker/answers.rs"]
mod answers;
#[path = "checker/authors.rs"]
mod authors;
#[path = "checker/calls.rs"]
mod calls;
#[path = "checker/claims.rs"]
mod claims;
#[path = "checker/model.rs"]
mod model;
#[path = "checker/names.rs"]
mod names;
#[path = "checker/story.rs"]
mod story;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use doozer::wire::{ErrCode, FLAG_DEL, FLAG_SET, Request, Response, Verb};

pub use calls::{Call, Conn, Outcome};
pub use names::{matches, value};

use calls::{Asked, Connection, Mutation, Said, What};
use claims::Claim;
use model::{Body, Event, Kind, Model, PathId, State};
use names::is_path;
use story::{About, Fault};

/// Microseconds of some clock.
pub type Moment = u64;

/// What cannot be, with its story.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// When it was noticed.
    pub at: Moment,
    /// What is wrong, and what is known about it, line by line.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Violation {}

/// What there was to be checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Events of the history.
    pub revisions: usize,
    /// Mutations that were acknowledged; refused for the lack of a quorum or of room; refused for the state of the store; neither.
    pub acknowledged: usize,
    pub unavailable: usize,
    pub refused: usize,
    pub unknown: usize,
    /// Answers to GET and STAT; to GETDIR and WALK; to WAIT; to SYNC.
    pub reads: usize,
    pub listings: usize,
    pub events: usize,
    pub syncs: usize,
    /// Mutations that do not name themselves and were found by elimination.
    pub matched: usize,
    /// Answers that were judged only some time after they came.
    pub deferred: usize,
}

/// An answer that is to be judged.
struct Answered {
    conn: Conn,
    verb: Option<Verb>,
    called: Moment,
    answered: Moment,
    /// Place of the answer in the order of things.
    answered_at: u64,
    /// The revision that it is of, or the first that it may be of.
    at: Option<i64>,
    from: i64,
    claim: Claim,
    /// The mutation that it refuses.
    mutation: Option<u32>,
}

/// Who has made an event.
enum Author {
    Is(u32),
    /// One of several, all of which were called at this place in the order of things, or later.
    CalledFrom(u64),
    Unknown,
}

/// Somebody was told of a revision that was not known to exist before.
struct Telling {
    rev: i64,
    at: Moment,
    conn: Conn,
    verb: Option<Verb>,
}

/// A SYNC that was answered.
struct Synced {
    asked_at: u64,
    rev: i64,
    conn: Conn,
    called: Moment,
}

/// See the module.
pub struct Checker {
    model: Model,
    mutations: Vec<Mutation>,
    connections: Vec<Connection>,
    calls: Vec<Option<(u64, Asked)>>,
    free: Vec<usize>,
    queue: VecDeque<Answered>,
    /// Mutations by the names in their values.
    names: BTreeMap<u64, u32>,
    /// Mutations that do not name themselves, and are not found yet, by what they asked for.
    nameless: BTreeMap<(PathId, Kind), Vec<u32>>,
    /// The author of some event that counts was not called before this.
    asked_at: u64,
    tellings: Vec<Telling>,
    syncs: Vec<Synced>,
    /// How far each node's history was read.
    learned: BTreeMap<usize, i64>,
    acknowledged: i64,
    /// Number of the last call or answer.
    order: u64,
    now: Moment,
    foreign: fn(&[u8]) -> bool,
    history: Option<i64>,
    statistics: Statistics,
    violation: Option<Box<Violation>>,
}

impl Default for Checker {
    fn default() -> Checker {
        Checker::new()
    }
}

impl Checker {
    pub fn new() -> Checker {
        Checker {
            model: Model::new(),
            mutations: Vec::new(),
            connections: Vec::new(),
            calls: Vec::new(),
            free: Vec::new(),
            queue: VecDeque::new(),
            names: BTreeMap::new(),
            nameless: BTreeMap::new(),
            asked_at: 0,
            tellings: Vec::new(),
            syncs: Vec::new(),
            learned: BTreeMap::new(),
            acknowledged: 0,
            order: 0,
            now: 0,
            foreign: |path| path.starts_with(b"/ctl/"),
            history: None,
            statistics: Statistics::default(),
            violation: None,
        }
    }

    /// Events of these paths may be of somebody who is not recorded. Without this call: those of `/ctl`.
    pub fn with_foreign(self, foreign: fn(&[u8]) -> bool) -> Checker {
        Checker { foreign, ..self }
    }

    /// All nodes keep so many revisions readable, so that TOO_LATE can be judged.
    pub fn with_history(self, revisions: u64) -> Checker {
        Checker { history: i64::try_from(revisions).ok(), ..self }
    }

    /// What cannot be, if anything was found. From then on nothing more is checked.
    pub fn violation(&self) -> Option<&Violation> {
        self.violation.as_deref()
    }

    /// The highest revision with which a mutation was acknowledged.
    pub fn acknowledged(&self) -> i64 {
        self.acknowledged
    }

    /// The highest revision that anyone was told of.
    pub fn told(&self) -> i64 {
        self.tellings.last().map_or(0, |telling| telling.rev)
    }

    /// What there was to be checked until now.
    pub fn statistics(&self) -> Statistics {
        self.statistics
    }

    // ---- what happens ----

    /// A client has connected to a node. What it asks on this connection is carried out in its order.
    pub fn connect(&mut self, client: usize, node: usize, at: Moment) -> Conn {
        self.now = at;
        self.connections.push(Connection { client, node, known: 0, applied: None });
        Conn(self.connections.len() - 1)
    }

    /// A request is about to be sent.
    pub fn call(&mut self, conn: Conn, at: Moment, request: &Request<'_>) -> Call {
        self.order += 1;
        self.now = at;
        let verb = request.verb.and_then(|verb| Verb::try_from(verb).ok());
        let (floor, known) = (self.told(), self.connections[conn.0].known);
        let what = match verb {
            None => What::Wrong(ErrCode::UnknownVerb),
            Some(verb @ (Verb::Set | Verb::Del | Verb::Nop)) => match calls::mutation(&mut self.model, verb, request) {
                Ok(said) => What::Mutation(self.mutation(conn, said)),
                Err(code) => What::Faulty(code),
            },
            Some(verb) => calls::read(&mut self.model, verb, request),
        };
        let at_rev = match what {
            What::Get(_) | What::Stat(_) | What::Getdir(..) | What::Walk(..) => request.rev.map(|rev| rev.max(1)),
            _ => None,
        };
        let asked = Asked { conn, called: at, asked_at: self.order, floor, known, at: at_rev, verb, what };
        let slot = self.free.pop().unwrap_or_else(|| {
            self.calls.push(None);
            self.calls.len() - 1
        });
        self.calls[slot] = Some((self.order, asked));
        Call { slot, serial: self.order }
    }

    fn mutation(&mut self, conn: Conn, said: Said) -> u32 {
        let id = u32::try_from(self.mutations.len()).expect("not so many mutations");
        let Said { kind, path, rev, body, name } = said;
        if let Some(name) = name {
            let before = self.names.insert(name, id);
            assert!(before.is_none(), "two calls have the name {name}");
        } else {
            self.nameless.entry((path, kind)).or_default().push(id);
        }
        self.mutations.push(Mutation {
            conn,
            kind,
            path,
            rev,
            body,
            is_named: name.is_some(),
            called: self.now,
            asked_at: self.order,
            answered_at: u64::MAX,
            answered: 0,
            floor: self.told(),
            outcome: Outcome::Open,
            found: None,
        });
        id
    }

    /// A call was answered.
    pub fn answer(&mut self, call: Call, at: Moment, answer: &Response<'_>) {
        self.order += 1;
        self.now = at;
        let asked = self.take(call);
        if self.violation.is_none() {
            let judged = self.answered(&asked, answer);
            self.keep(judged);
        }
    }

    /// A call will not be answered, for its connection is lost.
    pub fn lost(&mut self, call: Call, at: Moment) {
        self.order += 1;
        self.now = at;
        if let What::Mutation(id) = self.take(call).what {
            self.end(id, Outcome::Unknown);
        }
    }

    /// Somebody has read in a node's history what a revision is. Each node's is read from its beginning on (where the node has that)
    /// to its end, and may be read again.
    pub fn learn(&mut self, node: usize, rev: i64, flags: i32, path: &[u8], value: &[u8]) {
        if self.violation.is_some() {
            return;
        }
        let before = self.learned.insert(node, rev);
        if let Some(before) = before
            && rev > before + 1
        {
            self.keep(Err(Fault::new(format!("revision {rev} of node {node} follows on revision {before}"))));
            return;
        }
        let learned = self.event(rev, flags, path, value, None).map_err(|fault| fault.told(format!("node {node}")));
        self.keep(learned);
    }

    /// The history of a node is read from this revision on, once more or because it begins there.
    pub fn learn_from(&mut self, node: usize, rev: i64) {
        self.learned.insert(node, rev - 1);
    }

    /// Calls that could have been answered by any server that has the whole history: to be asked when all had time to.
    pub fn overdue(&mut self) -> usize {
        let (solid, model) = (self.model.solid(), &mut self.model);
        let mut is_due = |asked: &Asked| match asked.what {
            What::Wait(glob, rev) => model.first_match(glob, rev).is_some(),
            _ => asked.at.is_none_or(|at| at <= solid),
        };
        self.calls.iter().flatten().filter(|(_, asked)| is_due(asked)).count()
    }

    /// Judges what is left, when the history is known up to its last revision, and each of these nodes has been read.
    ///
    /// # Errors
    /// The first violation that was found, now or before.
    pub fn verify(&mut self, last: i64, nodes: &[usize]) -> Result<Statistics, Violation> {
        if self.violation.is_none() {
            let judged = self.verified(last, nodes);
            self.keep(judged);
        }
        match &self.violation {
            Some(violation) => Err((**violation).clone()),
            None => Ok(self.statistics),
        }
    }

    fn keep(&mut self, judged: Result<(), Fault>) {
        if let Err(fault) = judged {
            let text = self.tell_story(&fault);
            self.violation = Some(Box::new(Violation { at: self.now, text }));
        }
    }

    fn take(&mut self, call: Call) -> Asked {
        let taken = self.calls[call.slot].take().filter(|(serial, _)| *serial == call.serial);
        self.free.push(call.slot);
        taken.expect("a call has one end").1
    }

    /// Somebody was told, over this connection, that a revision exists.
    fn tell(&mut self, rev: i64, asked: &Asked) {
        let connection = &mut self.connections[asked.conn.0];
        connection.known = connection.known.max(rev);
        if rev > self.told() {
            let (conn, verb) = (asked.conn, asked.verb);
            self.tellings.push(Telling { rev, at: self.now, conn, verb });
        }
    }

    // ---- events ----

    /// Somebody tells what a revision is. If it is the acknowledgement of a mutation, that is its author.
    fn event(&mut self, rev: i64, flags: i32, path: &[u8], value: &[u8], author: Option<u32>) -> Result<(), Fault> {
        let kind = match flags {
            FLAG_SET => Kind::Set,
            FLAG_DEL => Kind::Del,
            0 => Kind::Nop,
            _ => return Err(Fault::new(format!("revision {rev} has flags {flags}"))),
        };
        let body = Body::of(value);
        if let Some(known) = self.model.event(rev) {
            let same = (known.kind, known.body) == (kind, body) && self.model.name(known.path) == path;
            if !same {
                let other = story::event(kind, path, &body);
                return Err(
                    Fault::new(format!("revision {rev} is two things; the other is {other}")).and(About::Event(rev))
                );
            }
            return Ok(());
        }
        let right = match kind {
            Kind::Set => path != b"/",
            Kind::Del => path != b"/" && value.is_empty(),
            Kind::Nop => path == b"/" && value.is_empty(),
        };
        if rev < 1 || !right || !is_path(path) {
            return Err(Fault::new(format!("revision {rev} cannot be {}", story::event(kind, path, &body))));
        }
        let named =
            if kind == Kind::Set { names::name(value).and_then(|name| self.names.get(&name).copied()) } else { None };
        let path = self.model.path(path);
        let event = Event { kind, path, body, author: None };
        self.model.learn(rev, event);
        match author.or(named) {
            Some(id) => self.is_of(rev, event, id)?,
            None if self.nameless.contains_key(&(path, kind)) || self.is_foreign(path) => {}
            None => return Err(Fault::new(format!("nobody asked for revision {rev}")).and(About::Event(rev))),
        }
        self.advance()
    }

    fn is_foreign(&self, path: PathId) -> bool {
        path != model::ROOT && (self.foreign)(self.model.name(path))
    }

    /// A revision is this mutation.
    fn is_of(&mut self, rev: i64, event: Event, id: u32) -> Result<(), Fault> {
        let mutation = &mut self.mutations[id as usize];
        let about = |what: String| Err(Fault::new(what).and(About::Mutation(id)).and(About::Event(rev)));
        if (mutation.kind, mutation.path, mutation.body) != (event.kind, event.path, event.body) {
            return about(format!("revision {rev} is not what was asked for"));
        }
        if let Some(before) = mutation.found.replace(rev) {
            return about(format!("applied twice, as revisions {before} and {rev}"));
        }
        match mutation.outcome {
            Outcome::Open | Outcome::Unknown | Outcome::Done(None) => {}
            Outcome::Done(Some(told)) if told == rev => {}
            Outcome::Done(Some(told)) => {
                return about(format!("acknowledged as revision {told}, and applied as {rev}"));
            }
            Outcome::Refused(_) => return about(format!("refused, and applied as revision {rev}")),
        }
        if rev <= mutation.floor {
            let floor = mutation.floor;
            let what = format!("it is revision {rev}, and revision {floor} was there before it was called");
            return Err(Fault::new(what).and(About::Mutation(id)).and(About::Event(rev)).and(About::Telling(floor)));
        }
        self.model.event_mut(rev).expect("it is known").author = Some(id);
        Ok(())
    }

    /// Events count, as far as there is no gap, and answers are judged that cannot have seen any more.
    fn advance(&mut self) -> Result<(), Fault> {
        loop {
            let next = self.model.solid() + 1;
            let counted = self.model.advance().map_err(|what| {
                let path = self.model.event(next).map_or(model::ROOT, |event| event.path);
                Fault::new(format!("revision {next}: {what}")).and(About::Event(next)).and(About::Path(path, next))
            })?;
            let Some((rev, event, before)) = counted else { return Ok(()) };
            let author = match event.author {
                Some(id) => Author::Is(id),
                None => self.author(rev, event, before)?,
            };
            let asked_at = match author {
                Author::Unknown => continue,
                Author::CalledFrom(asked_at) => asked_at,
                Author::Is(id) => {
                    self.applied(rev, id, before)?;
                    self.mutations[id as usize].asked_at
                }
            };
            self.asked_at = self.asked_at.max(asked_at);
            while let Some(answered) = self.queue.pop_front_if(|answered| answered.answered_at < asked_at) {
                self.judge_at_last(&answered, rev - 1)?;
            }
        }
    }

    /// Who may have made an event that does not say it.
    fn author(&mut self, rev: i64, event: Event, before: State) -> Result<Author, Fault> {
        let is_foreign = self.is_foreign(event.path);
        let Checker { nameless, mutations, connections, asked_at, .. } = self;
        let mut possible = (0, 0, u64::MAX);
        if let Some(ids) = nameless.get_mut(&(event.path, event.kind)) {
            ids.retain(|id| {
                let mutation = &mutations[*id as usize];
                let is_over = match mutation.outcome {
                    Outcome::Refused(_) => true,
                    Outcome::Done(_) => mutation.answered_at < *asked_at,
                    Outcome::Open | Outcome::Unknown => false,
                };
                let overtaken = connections[mutation.conn.0].applied.is_some_and(|(later, _)| later > *id);
                let is_past = is_over || overtaken || mutation.found.is_some();
                let compared = mutation.rev == -1 || before.rev() <= mutation.rev;
                if !is_past && compared && rev > mutation.floor && mutation.body == event.body {
                    possible = (possible.0 + 1, *id, possible.2.min(mutation.asked_at));
                }
                !is_past
            });
        }
        match possible {
            _ if is_foreign => Ok(Author::Unknown),
            (0, ..) => {
                let fault = Fault::new(format!("nobody can have made revision {rev}")).and(About::Event(rev));
                // Those who asked for the same, and are out of the question.
                let asked = |m: &Mutation| (m.kind, m.path, m.body) == (event.kind, event.path, event.body);
                let others = (0..).zip(&self.mutations).filter(|(_, mutation)| asked(mutation)).map(|(id, _)| id);
                let others: Vec<u32> = others.collect();
                let last = others[others.len().saturating_sub(3)..].iter().map(|id| About::Mutation(*id));
                Err(last.fold(fault, Fault::and).and(About::Path(event.path, rev)))
            }
            (1, id, _) => {
                self.is_of(rev, event, id)?;
                self.statistics.matched += 1;
                Ok(Author::Is(id))
            }
            (.., asked_at) => Ok(Author::CalledFrom(asked_at)),
        }
    }

    /// Holds a mutation against what was there when it was applied.
    fn applied(&mut self, rev: i64, id: u32, before: State) -> Result<(), Fault> {
        let Mutation { conn, rev: compared, path, .. } = self.mutations[id as usize];
        if compared != -1 && before.rev() > compared {
            let what = format!("revision {rev} was applied to what was of revision {}, not {compared}", before.rev());
            return Err(Fault::new(what).and(About::Mutation(id)).and(About::Path(path, rev)));
        }
        if let Some((earlier, at)) = self.connections[conn.0].applied.replace((id, rev))
            && earlier > id
        {
            let what = format!("revisions {at} and {rev} are of one connection, in the wrong order");
            return Err(Fault::new(what).and(About::Mutation(earlier)).and(About::Mutation(id)));
        }
        Ok(())
    }

    // ---- answers ----

    fn answered(&mut self, asked: &Asked, answer: &Response<'_>) -> Result<(), Fault> {
        let strange = |what: &str| Err(story::strange(what, answer).and(About::Asked(story::asked(asked))));
        let code = match answer.err_code.map(ErrCode::try_from) {
            None => None,
            Some(Ok(code)) => Some(code),
            Some(Err(_)) => return strange("an unknown error"),
        };
        if let Some(verb) = asked.verb
            && !answers::has_its_fields(verb, code.is_some(), answer)
        {
            return strange("not the fields of an answer to this");
        }
        // Whatever a server says of a revision, it has come to it.
        if let Some(at) = asked.at
            && !matches!(asked.what, What::Wrong(_))
        {
            self.tell(at, asked);
        }
        let detail = answer.err_detail.unwrap_or_default();
        let claim = match (&asked.what, code) {
            (What::Mutation(id), _) => return self.mutation_answered(*id, asked, code, answer),
            (What::Faulty(_), Some(ErrCode::Readonly)) => return Ok(()),
            (What::Faulty(_), Some(ErrCode::Other)) if detail.starts_with(b"disk full: ") => return Ok(()),
            (What::Faulty(expected) | What::Wrong(expected), _) if code == Some(*expected) => return Ok(()),
            (What::Faulty(_) | What::Wrong(_), _) => {
                return strange("a faulty request is not answered as it should be");
            }
            (What::BadGlob(glob), Some(ErrCode::Other))
                if detail == [b"invalid glob pattern: ", &glob[..]].concat() =>
            {
                return Ok(());
            }
            (What::Other, _) => return Ok(()),
            (What::Rev, None) => return self.rev_answered(asked, answer),
            (What::Sync, None) => return self.sync_answered(asked, answer),
            (What::Sync, Some(ErrCode::Readonly)) => return Ok(()),
            (What::Get(_) | What::Stat(_) | What::Getdir(..) | What::Walk(..), Some(ErrCode::TooLate)) => {
                let (Some(rev), Some(history)) = (asked.at, self.history) else {
                    return if asked.at.is_some() { Ok(()) } else { strange("too late for the present") };
                };
                Claim::TooOld { rev, history }
            }
            (What::Wait(_, rev), Some(ErrCode::TooLate)) => {
                self.tell(*rev, asked);
                let Some(history) = self.history else { return Ok(()) };
                Claim::TooOld { rev: *rev, history }
            }
            _ => match self.read_answered(asked, code, answer)? {
                Some(claim) => claim,
                None => return Ok(()),
            },
        };
        let at = match claim {
            Claim::TooOld { .. } => None,
            Claim::First { rev, .. } => Some(rev),
            _ => asked.at,
        };
        self.judge(Answered { at, ..self.claiming(asked, claim) })
    }

    fn rev_answered(&mut self, asked: &Asked, answer: &Response<'_>) -> Result<(), Fault> {
        let about = || About::Asked(story::asked(asked));
        let Some(rev) = answer.rev.filter(|rev| *rev >= 0) else {
            return Err(story::strange("no revision", answer).and(about()));
        };
        if rev < asked.known {
            let what = format!("the server is at revision {rev}, and was at {} when it was asked", asked.known);
            return Err(Fault::new(what).and(about()));
        }
        self.tell(rev, asked);
        Ok(())
    }

    fn sync_answered(&mut self, asked: &Asked, answer: &Response<'_>) -> Result<(), Fault> {
        self.statistics.syncs += 1;
        self.rev_answered(asked, answer)?;
        let rev = answer.rev.unwrap_or_default();
        if rev < asked.floor {
            let what = format!("SYNC says {rev}, and revision {} was there before it was asked", asked.floor);
            let about = About::Asked(story::asked(asked));
            return Err(Fault::new(what).and(about).and(About::Telling(asked.floor)));
        }
        self.syncs.push(Synced { asked_at: asked.asked_at, rev, conn: asked.conn, called: asked.called });
        Ok(())
    }

    /// What a read was answered, as a claim; `None` if that says nothing of the history.
    fn read_answered(
        &mut self,
        asked: &Asked,
        code: Option<ErrCode>,
        answer: &Response<'_>,
    ) -> Result<Option<Claim>, Fault> {
        let strange = || Err(story::strange("not an answer to this", answer).and(About::Asked(story::asked(asked))));
        let told_event = (answer.flags, answer.rev, answer.path, answer.value);
        let statistics = &mut self.statistics;
        match asked.what {
            What::Get(_) | What::Stat(_) => statistics.reads += 1,
            What::Wait(..) => statistics.events += 1,
            _ => statistics.listings += 1,
        }
        Ok(Some(match (&asked.what, code) {
            (What::Get(None), None) if answer.rev == Some(0) && answer.value == Some(b"") => return Ok(None),
            (What::Stat(None), None) if (answer.rev, answer.len) == (Some(0), Some(0)) => return Ok(None),
            (What::Getdir(None, _), Some(ErrCode::Noent)) => return Ok(None),
            (What::Get(Some(path)), None) => match (answer.rev, answer.value) {
                (Some(0), Some(b"")) => Claim::Missing { path: *path },
                (Some(rev), Some(value)) if rev > 0 => {
                    self.file(rev, *path, value, asked)?;
                    Claim::File { path: *path, rev, len: None }
                }
                _ => return strange(),
            },
            (What::Get(Some(path)), Some(ErrCode::Isdir)) => Claim::Directory { path: *path, entries: None },
            (What::Stat(Some(path)), None) => match (answer.rev, answer.len) {
                (Some(0), Some(0)) => Claim::Missing { path: *path },
                (Some(-2), len @ Some(_)) => Claim::Directory { path: *path, entries: len },
                (Some(rev), len @ Some(_)) if rev > 0 => {
                    self.tell(rev, asked);
                    Claim::File { path: *path, rev, len }
                }
                _ => return strange(),
            },
            (What::Getdir(Some(dir), offset), None) => match answer.path {
                Some(name) if !name.is_empty() => Claim::Listed { dir: *dir, name: name.into(), offset: *offset },
                _ => return strange(),
            },
            (What::Getdir(Some(dir), offset), Some(ErrCode::Range)) => Claim::NotListed { dir: *dir, offset: *offset },
            (What::Getdir(Some(path), _), Some(ErrCode::Noent)) => Claim::Missing { path: *path },
            (What::Getdir(Some(path), _), Some(ErrCode::Notdir)) => Claim::NotDirectory { path: *path },
            (What::Walk(glob, offset), None) => match told_event {
                (Some(FLAG_SET), Some(rev), Some(path), Some(value)) if rev > 0 && is_path(path) => {
                    let path = self.model.path(path);
                    self.file(rev, path, value, asked)?;
                    Claim::Walked { glob: *glob, offset: *offset, path, rev }
                }
                _ => return strange(),
            },
            (What::Walk(glob, offset), Some(ErrCode::Range)) => Claim::NotWalked { glob: *glob, offset: *offset },
            (What::Wait(glob, from), None) => match told_event {
                (Some(flags), Some(rev), Some(path), Some(value)) if rev >= *from => {
                    let by = || About::Asked(story::asked(asked));
                    self.event(rev, flags, path, value, None).map_err(|fault| fault.and(by()))?;
                    self.tell(rev, asked);
                    Claim::First { glob: *glob, from: *from, rev }
                }
                _ => return strange(),
            },
            _ => return strange(),
        }))
    }

    /// Somebody was shown a file.
    fn file(&mut self, rev: i64, path: PathId, value: &[u8], asked: &Asked) -> Result<(), Fault> {
        let path = self.model.name(path).to_vec();
        let by = || About::Asked(story::asked(asked));
        self.event(rev, FLAG_SET, &path, value, None).map_err(|fault| fault.and(by()))?;
        self.tell(rev, asked);
        Ok(())
    }

    fn mutation_answered(
        &mut self,
        id: u32,
        asked: &Asked,
        code: Option<ErrCode>,
        answer: &Response<'_>,
    ) -> Result<(), Fault> {
        let Mutation { kind, path, rev: compared, .. } = self.mutations[id as usize];
        let detail = answer.err_detail.unwrap_or_default();
        let (set, nop) = (kind == Kind::Set, kind == Kind::Nop);
        let strange = || Err(story::strange("not an answer to this", answer).and(About::Mutation(id)));
        let claim = match code {
            None => return self.acknowledge(id, asked, answer),
            Some(ErrCode::Readonly) => None,
            Some(ErrCode::Other) if detail.starts_with(b"disk full: ") => None,
            Some(ErrCode::Other) if detail == b"outcome unknown" => {
                self.end(id, Outcome::Unknown);
                return Ok(());
            }
            // What the rules of the membership forbid.
            Some(ErrCode::Other) if detail.starts_with(b"refused: ") && self.is_foreign(path) => None,
            Some(ErrCode::RevMismatch) if !nop && compared != -1 => {
                Some(Claim::Newer { path, rev: compared, write: set })
            }
            Some(ErrCode::Isdir) if !nop && compared >= -2 => Some(Claim::Directory { path, entries: None }),
            Some(ErrCode::Notdir) if set => Some(Claim::BelowFile { path }),
            _ => return strange(),
        };
        let code = code.expect("it is an error");
        self.end(id, Outcome::Refused(code));
        if let Some(rev) = self.mutations[id as usize].found {
            let what = format!("refused, and applied as revision {rev}");
            return Err(Fault::new(what).and(About::Mutation(id)).and(About::Event(rev)));
        }
        let Some(claim) = claim else { return Ok(()) };
        self.judge(Answered { from: asked.floor, mutation: Some(id), ..self.claiming(asked, claim) })
    }

    fn acknowledge(&mut self, id: u32, asked: &Asked, answer: &Response<'_>) -> Result<(), Fault> {
        let Mutation { kind, path, body, found, floor, .. } = self.mutations[id as usize];
        self.end(id, Outcome::Done(answer.rev));
        let Some(rev) = answer.rev else {
            // It has made a revision, after all that were there before.
            self.tell(floor + 1, asked);
            return Ok(());
        };
        if let Some(found) = found
            && found != rev
        {
            let what = format!("acknowledged as revision {rev}, and applied as {found}");
            return Err(Fault::new(what).and(About::Mutation(id)).and(About::Event(found)));
        }
        if found.is_none() {
            let event = Event { kind, path, body, author: None };
            match self.model.event(rev).copied() {
                Some(known) if (known.kind, known.path, known.body) != (kind, path, body) || known.author.is_some() => {
                    let what = format!("acknowledged as revision {rev}, which is something else");
                    return Err(Fault::new(what).and(About::Mutation(id)).and(About::Event(rev)));
                }
                Some(_) => self.is_of(rev, event, id)?,
                None => {
                    if rev < 1 {
                        return Err(Fault::new(format!("acknowledged as revision {rev}")).and(About::Mutation(id)));
                    }
                    self.model.learn(rev, event);
                    self.is_of(rev, event, id)?;
                    self.advance()?;
                }
            }
        }
        self.acknowledged = self.acknowledged.max(rev);
        self.tell(rev, asked);
        Ok(())
    }

    /// What became of a mutation is known, or never will be.
    fn end(&mut self, id: u32, outcome: Outcome) {
        let statistics = &mut self.statistics;
        match outcome {
            Outcome::Done(_) => statistics.acknowledged += 1,
            Outcome::Refused(ErrCode::Readonly | ErrCode::Other) => statistics.unavailable += 1,
            Outcome::Refused(_) => statistics.refused += 1,
            Outcome::Unknown => statistics.unknown += 1,
            Outcome::Open => {}
        }
        let mutation = &mut self.mutations[id as usize];
        (mutation.outcome, mutation.answered, mutation.answered_at) = (outcome, self.now, self.order);
    }

    // ---- judgement ----

    /// An answer that has just come, and what it claims: of no certain revision, but of none before what its connection knew.
    fn claiming(&self, asked: &Asked, claim: Claim) -> Answered {
        Answered {
            conn: asked.conn,
            verb: asked.verb,
            called: asked.called,
            answered: self.now,
            answered_at: self.order,
            at: None,
            from: asked.known,
            claim,
            mutation: None,
        }
    }

    /// Judges an answer now, if that can be done, or puts it aside until it can.
    fn judge(&mut self, answered: Answered) -> Result<(), Fault> {
        let (solid, told) = (self.model.solid(), self.told());
        let within = answered.at.map_or((answered.from, told), |at| (at, at));
        if within.1 <= solid {
            if answered.claim.holds(&mut self.model, within) {
                return Ok(());
            }
            // Where its revision is known, nothing later makes it right.
            if answered.at.is_some() {
                return Err(self.wrong(&answered, within));
            }
        }
        self.statistics.deferred += 1;
        self.queue.push_back(answered);
        Ok(())
    }

    /// Judges an answer that cannot have seen more than this revision.
    fn judge_at_last(&mut self, answered: &Answered, last: i64) -> Result<(), Fault> {
        let within = answered.at.map_or((answered.from, last), |at| (at, at));
        if answered.claim.holds(&mut self.model, within) { Ok(()) } else { Err(self.wrong(answered, within)) }
    }

    fn wrong(&self, answered: &Answered, within: (i64, i64)) -> Fault {
        let fault = Fault::new(self.claimed(answered, within));
        match answered.mutation {
            Some(id) => fault.and(About::Mutation(id)),
            None => fault.and(About::Asked(story::Asked {
                conn: answered.conn,
                verb: answered.verb,
                called: answered.called,
                answered: Some(answered.answered),
            })),
        }
        .and(About::Claim(answered.claim.clone(), within.1))
    }

    fn verified(&mut self, last: i64, nodes: &[usize]) -> Result<(), Fault> {
        self.statistics.revisions = usize::try_from(last).unwrap_or_default();
        if let Some(telling) = self.tellings.last().filter(|telling| telling.rev > last) {
            let what = format!("somebody was told of revision {}, and the history ends with {last}", telling.rev);
            return Err(Fault::new(what).and(About::Telling(telling.rev)));
        }
        let (solid, latest) = (self.model.solid(), self.model.latest());
        if solid < last {
            return Err(Fault::new(format!("nobody knows revision {}; the history ends with {last}", solid + 1)));
        }
        if latest > last {
            let what = format!("somebody has seen revision {latest}, and the history ends with {last}");
            return Err(Fault::new(what).and(About::Event(latest)));
        }
        for node in nodes {
            let until = self.learned.get(node).copied().unwrap_or(0);
            if until < last {
                return Err(Fault::new(format!("the history of node {node} ends with revision {until}, not {last}")));
            }
        }
        while let Some(answered) = self.queue.pop_front() {
            self.judge_at_last(&answered, last)?;
        }
        self.find_authors()?;
        self.in_order()
    }
}
