//! The desk: answers every request that needs no log, at once or when its time comes.
//!
//! Reads run against the store in the turn in which they come. One that asks for a revision of the future, and a WAIT
//! that finds nothing, is parked with the store; a scan that would hold up the loop is put aside and goes on a slice a
//! turn. Each parked request has a token, which the store gives back when it wakes it.
//!
//! Invariants: a token in the store's hands belongs to a parked request, for a session's end cancels them all; a
//! session with full output gets no answer composed, only noted ([`Deferred`]).

use std::collections::VecDeque;

use slab::Slab;

use super::session::{Access, Conn, Output, Pause, Sessions};
use crate::faults::{self, Fault};
use crate::limits;
use crate::store::{
    Event, Getdir, GetdirState, Glob, Kind, Lookup, Store, Wait, WaitState, WaiterId, Walk, WalkState, Woken,
};
use crate::wire::{ErrCode, FLAG_DEL, FLAG_SET, Response};

/// Requests and visited entries that one turn may cost, some milliseconds. Who comes later waits for the next.
const TURN_BUDGET: usize = 8_192;
/// Entries that a read may visit when it comes, before it is put aside.
const FIRST_BUDGET: usize = 2_000;
/// Entries that all reads that were put aside may visit in one turn.
const SCAN_BUDGET: usize = 2_000;
/// Places in the index of waits that the matching of events may visit in one turn, when it did not end at once.
const MATCH_BUDGET: usize = 50_000;
/// Entries that one of them may visit before it is another session's turn.
const SCAN_SLICE: usize = 250;
/// What a parked request is taken to cost beside its path.
const PARKED_OVERHEAD: usize = 256;

/// The secrets that grant access; an unset one is empty.
#[derive(Clone, Default)]
pub struct Secrets {
    /// Grants reading and writing.
    pub read_write: Vec<u8>,
    /// Grants reading.
    pub read_only: Vec<u8>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets(..)")
    }
}

impl Secrets {
    /// Adds what `secret` grants to `access`; `false` if it grants nothing.
    pub fn grant(&self, secret: &[u8], access: &mut Access) -> bool {
        // Both are compared in full, whatever the first says: the time tells nothing.
        let read_write = equal(secret, &self.read_write);
        let read_only = equal(secret, &self.read_only);
        access.write |= read_write;
        access.read |= read_write | read_only;
        read_write | read_only
    }
}

/// Compares in a time that depends on the lengths only.
pub(super) fn equal(a: &[u8], b: &[u8]) -> bool {
    let different = a.iter().zip(b).fold(0, |acc, (x, y)| acc | (x ^ y));
    a.len() == b.len() && std::hint::black_box(different) == 0
}

/// A read, but for its path and revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// GET.
    Get,
    /// STAT.
    Stat,
    /// GETDIR, of the entry at the offset.
    Getdir(i32),
    /// WALK, of the match at the offset.
    Walk(i32),
}

/// An answer that waits for room in its session's output.
#[derive(Debug)]
pub enum Deferred {
    /// The answer to a WAIT: the event of a revision.
    Event {
        /// The request's.
        tag: Option<i32>,
        /// The event's.
        rev: i64,
    },
    /// A read at a revision.
    Read {
        /// The request's.
        tag: Option<i32>,
        /// What is read.
        op: Op,
        /// Its path or glob.
        path: Box<[u8]>,
        /// The revision to read at.
        rev: i64,
    },
}

impl Deferred {
    /// What it is taken to cost.
    fn cost(&self) -> usize {
        match self {
            Deferred::Event { .. } => size_of::<Deferred>(),
            Deferred::Read { path, .. } => path.len() + PARKED_OVERHEAD,
        }
    }
}

#[derive(Debug)]
enum Work {
    /// A WAIT that is registered with the store.
    Event(WaiterId),
    /// A read of a future revision, registered with the store.
    Read {
        waiter: WaiterId,
        op: Op,
        path: Box<[u8]>,
        rev: i64,
    },
    /// Scans that are put aside. `None` while one is being continued.
    Wait(Option<WaitState>),
    Walk(Option<WalkState>),
    Getdir(Option<GetdirState>),
}

#[derive(Debug)]
struct Parked {
    conn: Conn,
    tag: Option<i32>,
    /// Where the session's list of parked requests has it.
    place: usize,
    cost: usize,
    work: Work,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Desk {
    /// The connections.
    pub sessions: Sessions,
    parked: Slab<Parked>,
    parked_bytes: usize,
    /// Sessions with scans that were put aside and room for their answers, each once; some may be gone.
    runnable: VecDeque<Conn>,
    /// What is left of the turn's budget.
    budget: usize,
    /// Connections that found the turn's budget used up, and those that go on with the next turn.
    starved: Vec<Conn>,
    next: Vec<Conn>,
    woken: Vec<Woken>,
    path: Vec<u8>,
}

/// The revision that a read names, against the history.
enum At {
    Now(i64),
    Future(i64),
    TooLate,
}

fn resolve(store: &Store, rev: Option<i64>) -> At {
    match rev.map(|r| if faults::is_armed(Fault::RevisionBelowOne) { r } else { r.max(1) }) {
        None => At::Now(store.revision()),
        Some(_) if faults::is_armed(Fault::FutureReadNow) => At::Now(store.revision()),
        Some(rev) if rev > store.revision() => At::Future(rev),
        Some(rev) if rev < store.first_revision() => At::TooLate,
        Some(rev) => At::Now(rev),
    }
}

impl Desk {
    /// There is work for another turn although nothing happens.
    pub fn has_work(&self) -> bool {
        !self.runnable.is_empty() || !self.next.is_empty()
    }

    /// Begins a turn: its budget is there, and those go on that the turn before had starved. The shell lets what was
    /// submitted leave in between.
    pub fn begin_turn(&mut self) {
        self.budget = TURN_BUDGET;
        if faults::is_armed(Fault::StarvedForEver) {
            self.starved.clear();
        }
        for conn in std::mem::replace(&mut self.next, std::mem::take(&mut self.starved)) {
            self.sessions.resume(conn, Pause::Turn);
        }
    }

    /// Takes one request's share of the turn's budget; `false` if that is used up, and the connection paused.
    pub fn charge(&mut self, conn: Conn) -> bool {
        if self.budget == 0 {
            self.sessions.pause(conn, Pause::Turn);
            self.starved.push(conn);
            return false;
        }
        self.budget -= 1;
        true
    }

    /// What a read may visit now.
    fn first_budget(&self) -> usize {
        self.budget.min(FIRST_BUDGET)
    }

    /// The client is gone: what it waits for is forgotten.
    pub fn leave(&mut self, store: &mut Store, conn: Conn) {
        let Some(session) = self.sessions.get(conn) else { return };
        let deferred = std::mem::take(&mut session.deferred);
        self.parked_bytes -= deferred.iter().map(Deferred::cost).sum::<usize>();
        self.cancel_all(store, conn);
        self.sessions.leave(conn);
    }

    /// The connection's end: no answer comes for it any more.
    pub fn close(&mut self, store: &mut Store, conn: Conn) {
        self.leave(store, conn);
        self.sessions.remove(conn);
    }

    /// The output last taken has been sent.
    pub fn sent(&mut self, conn: Conn) {
        self.sessions.sent(conn);
        self.queue_scans(conn);
    }

    /// Puts a session with scans into the round, unless it is there.
    fn queue_scans(&mut self, conn: Conn) {
        if let Some(session) = self.sessions.get(conn)
            && !session.queued
            && !session.scans.is_empty()
            && !session.full()
        {
            session.queued = true;
            self.runnable.push_back(conn);
        }
    }

    /// The client will send no more: what it has outstanding is answered, but for waits, which are dropped.
    pub fn end(&mut self, store: &mut Store, conn: Conn) {
        self.cancel_waits(store, conn);
        self.sessions.end(conn);
    }

    /// Answers a read.
    pub fn read(&mut self, store: &mut Store, conn: Conn, tag: Option<i32>, op: Op, path: &[u8], rev: Option<i64>) {
        match resolve(store, rev) {
            At::TooLate => self.fail(conn, tag, ErrCode::TooLate),
            At::Now(rev) => self.read_at(store, conn, tag, op, path, rev),
            At::Future(rev) => {
                if !self.may_park(conn, tag, path.len()) {
                    return;
                }
                let waiter = store.await_revision(rev, self.next_token() as u64);
                let work = Work::Read { waiter, op, path: path.into(), rev };
                self.park(conn, tag, path.len(), work);
            }
        }
    }

    /// Answers a read at a revision that has come, and may have left the history since: a snapshot from the leader skips revisions.
    fn read_retained(&mut self, store: &mut Store, conn: Conn, tag: Option<i32>, op: Op, path: &[u8], rev: i64) {
        if rev < store.first_revision() {
            self.fail(conn, tag, ErrCode::TooLate);
        } else {
            self.read_at(store, conn, tag, op, path, rev);
        }
    }

    /// Answers a read at a revision that is in the history.
    fn read_at(&mut self, store: &mut Store, conn: Conn, tag: Option<i32>, op: Op, path: &[u8], rev: i64) {
        let mut budget = self.first_budget();
        let before = budget;
        match op {
            Op::Get if faults::is_armed(Fault::GetOfPastIsOfPresent) && rev < store.revision() => {
                return self.read_at(store, conn, tag, op, path, store.revision());
            }
            Op::Get => match store.lookup(path, rev) {
                Lookup::Dir { .. } if !faults::is_armed(Fault::DirectoryReadAsMissing) => {
                    self.fail(conn, tag, ErrCode::Isdir)
                }
                found => {
                    let (rev, value) = match found {
                        Lookup::File { rev, value } => (rev, value),
                        _ => (0, &[][..]),
                    };
                    let response = Response { tag, rev: Some(rev), value: Some(value), ..Response::default() };
                    self.sessions.reply(conn, &response);
                }
            },
            Op::Stat => {
                let (rev, len) = match store.lookup(path, rev) {
                    Lookup::File { rev, value } => (rev, i32::try_from(value.len()).unwrap_or(i32::MAX)),
                    Lookup::Dir { entries } => (-2, i32::try_from(entries).unwrap_or(i32::MAX)),
                    Lookup::Missing => (0, 0),
                };
                let response = Response { tag, rev: Some(rev), len: Some(len), ..Response::default() };
                self.sessions.reply(conn, &response);
            }
            Op::Getdir(offset) => {
                let answer = store.getdir(path, rev, offset, &mut budget, &mut self.path);
                if let Some(state) = self.answer_getdir(conn, tag, answer)
                    && self.may_park(conn, tag, path.len())
                {
                    self.park_scan(conn, tag, path.len(), Work::Getdir(Some(state)));
                }
            }
            Op::Walk(offset) => {
                let Ok(glob) = Glob::new(path) else {
                    return self.bad_glob(conn, tag, path);
                };
                let answer = store.walk(&glob, rev, offset, &mut budget, &mut self.path);
                if let Some(state) = answer_walk(&mut self.sessions, &self.path, conn, tag, answer)
                    && self.may_park(conn, tag, path.len())
                {
                    self.park_scan(conn, tag, path.len(), Work::Walk(Some(state)));
                }
            }
        }
        self.budget -= before - budget;
    }

    /// Answers a WAIT, now or when it happens.
    pub fn wait(&mut self, store: &mut Store, conn: Conn, tag: Option<i32>, path: &[u8], rev: i64) {
        let Ok(glob) = Glob::new(path) else {
            return self.bad_glob(conn, tag, path);
        };
        let mut budget = self.first_budget();
        let before = budget;
        let answer = store.wait(&glob, rev, self.next_token() as u64, &mut budget);
        self.budget -= before - budget;
        match answer {
            Wait::Event { rev } => self.event(store, conn, tag, rev),
            Wait::TooLate => self.fail(conn, tag, ErrCode::TooLate),
            Wait::Waiting(waiter) => {
                if self.may_park(conn, tag, path.len()) {
                    self.park(conn, tag, path.len(), Work::Event(waiter));
                } else {
                    store.cancel(waiter);
                }
            }
            Wait::More(state) => {
                if self.may_park(conn, tag, path.len()) {
                    self.park_scan(conn, tag, path.len(), Work::Wait(Some(state)));
                }
            }
        }
    }

    /// How many requests are parked.
    pub fn parked(&self) -> usize {
        self.parked.len()
    }

    /// Goes on with matching events against waits, where that was too much for once, and wakes what it finds.
    pub fn run_matches(&mut self, store: &mut Store) {
        if store.has_pending_matches() {
            let mut budget = MATCH_BUDGET;
            store.match_more(&mut budget);
            self.wake(store);
        }
    }

    /// Wakes what the last applied mutation woke.
    pub fn wake(&mut self, store: &mut Store) {
        let mut woken = std::mem::take(&mut self.woken);
        store.take_woken(&mut woken);
        for w in woken.drain(..) {
            let (Woken::Event { token, .. } | Woken::Revision { token, .. }) = w;
            let parked = self.unpark(usize::try_from(token).expect("a token is an index"));
            match (parked.work, w) {
                (Work::Event(_), Woken::Event { rev, .. }) => {
                    self.event(store, parked.conn, parked.tag, rev);
                }
                (Work::Read { op, path, rev, .. }, Woken::Revision { .. }) => {
                    if self.full(parked.conn) {
                        self.defer(parked.conn, Deferred::Read { tag: parked.tag, op, path, rev });
                    } else {
                        self.read_retained(store, parked.conn, parked.tag, op, &path, rev);
                    }
                }
                (work, woken) => unreachable!("{woken:?} wakes {work:?}"),
            }
        }
        self.woken = woken;
    }

    /// Goes on with the scans that were put aside: a slice of one, a slice of another session's, until the turn's share is
    /// used up. Those of a session whose output is full wait until it is sent.
    pub fn run_scans(&mut self, store: &mut Store) {
        let mut budget = SCAN_BUDGET;
        while budget > 0
            && let Some(conn) = self.runnable.pop_front()
        {
            let Some(session) = self.sessions.get(conn) else { continue };
            session.queued = false;
            if session.full() {
                continue;
            }
            if let Some(token) = session.scans.pop_front()
                && self.parked.get(token).is_some_and(|parked| parked.conn == conn)
            {
                let before = budget.min(SCAN_SLICE);
                let mut slice = before;
                self.run_scan(store, token, &mut slice);
                // A scan that ends at once has its cost too.
                budget = budget.saturating_sub(before - slice + 1);
            }
            self.queue_scans(conn);
        }
    }

    /// Ends what goes on against this state of the store, which is to be replaced by a later one.
    pub fn finish(&mut self, store: &mut Store) {
        while store.has_pending_matches() {
            store.match_more(&mut usize::MAX.clone());
        }
        self.wake(store);
        let scans =
            self.parked.iter().filter(|(_, p)| matches!(p.work, Work::Wait(_) | Work::Walk(_) | Work::Getdir(_)));
        for token in scans.map(|(token, _)| token).collect::<Vec<_>>() {
            self.run_scan(store, token, &mut usize::MAX.clone());
        }
    }

    fn run_scan(&mut self, store: &mut Store, token: usize, budget: &mut usize) {
        let parked = &mut self.parked[token];
        let (conn, tag) = (parked.conn, parked.tag);
        let left = match &mut parked.work {
            Work::Wait(state) => {
                let state = state.take().expect("a state that is not being continued");
                match store.resume_wait(state, budget) {
                    Wait::More(state) => Some(Work::Wait(Some(state))),
                    Wait::Waiting(waiter) => {
                        parked.work = Work::Event(waiter);
                        return;
                    }
                    Wait::Event { rev } => {
                        self.event(store, conn, tag, rev);
                        None
                    }
                    Wait::TooLate => {
                        self.fail(conn, tag, ErrCode::TooLate);
                        None
                    }
                }
            }
            Work::Walk(state) => {
                let state = state.take().expect("a state that is not being continued");
                let answer = store.resume_walk(state, budget, &mut self.path);
                answer_walk(&mut self.sessions, &self.path, conn, tag, answer).map(|s| Work::Walk(Some(s)))
            }
            Work::Getdir(state) => {
                let state = state.take().expect("a state that is not being continued");
                let answer = store.resume_getdir(state, budget, &mut self.path);
                self.answer_getdir(conn, tag, answer).map(|s| Work::Getdir(Some(s)))
            }
            // The scan that had this token is over, and a wait has it now.
            Work::Event(_) | Work::Read { .. } => return,
        };
        match left {
            Some(work) => {
                self.parked[token].work = work;
                if let Some(session) = self.sessions.get(conn) {
                    session.scans.push_front(token);
                }
            }
            None => {
                self.unpark(token);
                self.sessions.touch(conn);
            }
        }
    }

    /// Takes a connection's output; see [`Sessions::output`]. Deferred answers are composed first.
    pub fn output(&mut self, store: &mut Store, conn: Conn, into: &mut Vec<u8>) -> Output {
        while let Some(session) = self.sessions.get(conn)
            && !session.full()
            && let Some(deferred) = session.deferred.pop_front()
        {
            self.parked_bytes -= deferred.cost();
            match deferred {
                Deferred::Event { tag, rev } => self.event(store, conn, tag, rev),
                Deferred::Read { tag, op, path, rev } => self.read_retained(store, conn, tag, op, &path, rev),
            }
        }
        self.sessions.output(conn, into)
    }

    /// A request that the log has to answer is on its way.
    pub fn asked(&mut self, conn: Conn) {
        if let Some(session) = self.sessions.get(conn) {
            session.unanswered += 1;
        }
    }

    /// The answer to a request that was [`Desk::asked`].
    pub fn answered(&mut self, conn: Conn, response: &Response<'_>) {
        self.sessions.reply(conn, response);
        if let Some(session) = self.sessions.get(conn) {
            session.unanswered -= 1;
        }
    }

    /// Answers with an error that needs no detail.
    pub fn fail(&mut self, conn: Conn, tag: Option<i32>, code: ErrCode) {
        self.sessions.reply(conn, &Response::error(tag, code, None));
    }

    /// Answers with an error of the kind OTHER.
    pub fn fail_other(&mut self, conn: Conn, tag: Option<i32>, detail: &str) {
        self.sessions.reply(conn, &Response::error(tag, ErrCode::Other, Some(detail.as_bytes())));
    }

    /// Answers that a glob is none.
    pub fn bad_glob(&mut self, conn: Conn, tag: Option<i32>, glob: &[u8]) {
        let mut detail = b"invalid glob pattern: ".to_vec();
        // A frame's worth of it would make an answer that is larger than any frame.
        detail.extend_from_slice(&glob[..glob.len().min(limits::PATH_MAX)]);
        self.sessions.reply(conn, &Response::error(tag, ErrCode::Other, Some(&detail)));
    }

    fn full(&mut self, conn: Conn) -> bool {
        self.sessions.get(conn).is_some_and(|s| s.full())
    }

    fn defer(&mut self, conn: Conn, deferred: Deferred) {
        if let Some(session) = self.sessions.get(conn)
            && !session.gone()
        {
            self.parked_bytes += deferred.cost();
            session.deferred.push_back(deferred);
        }
    }

    /// Answers a WAIT with the event of `rev`.
    fn event(&mut self, store: &Store, conn: Conn, tag: Option<i32>, rev: i64) {
        if self.full(conn) {
            if faults::is_armed(Fault::EventDropped) {
                return;
            }
            return self.defer(conn, Deferred::Event { tag, rev });
        }
        let mut path = std::mem::take(&mut self.path);
        match store.event(rev, &mut path) {
            None => self.fail(conn, tag, ErrCode::TooLate),
            Some(Event { rev, kind, value }) => {
                let flags = match kind {
                    Kind::Set => FLAG_SET,
                    Kind::Del => FLAG_DEL,
                    Kind::Nop => 0,
                };
                let response = Response {
                    tag,
                    flags: Some(flags),
                    rev: Some(rev),
                    path: Some(&path),
                    value: Some(value),
                    ..Response::default()
                };
                self.sessions.reply(conn, &response);
            }
        }
        self.path = path;
    }

    /// Answers a GETDIR whose entry is in `path`, unless it is to be continued.
    fn answer_getdir(&mut self, conn: Conn, tag: Option<i32>, answer: Getdir) -> Option<GetdirState> {
        match answer {
            Getdir::More(state) => return Some(state),
            Getdir::Range => self.fail(conn, tag, ErrCode::Range),
            Getdir::TooLate => self.fail(conn, tag, ErrCode::TooLate),
            Getdir::NoEnt => self.fail(conn, tag, ErrCode::Noent),
            Getdir::NotDir => self.fail(conn, tag, ErrCode::Notdir),
            Getdir::Found => {
                self.sessions.reply(conn, &Response { tag, path: Some(&self.path), ..Response::default() });
            }
        }
        None
    }

    fn next_token(&self) -> usize {
        self.parked.vacant_key()
    }

    /// Whether one more request may be parked; if not, it is answered with the reason.
    fn may_park(&mut self, conn: Conn, tag: Option<i32>, path: usize) -> bool {
        if self.parked_bytes + path + PARKED_OVERHEAD <= limits::PARKED_MAX {
            return true;
        }
        self.fail_other(conn, tag, "too many requests are waiting on this server; try another or later");
        false
    }

    fn park(&mut self, conn: Conn, tag: Option<i32>, path: usize, work: Work) -> usize {
        let cost = path + PARKED_OVERHEAD;
        let session = self.sessions.get(conn).expect("only a live session parks");
        let place = session.parked.len();
        let token = self.parked.insert(Parked { conn, tag, place, cost, work });
        session.parked.push(token);
        self.parked_bytes += cost;
        token
    }

    fn park_scan(&mut self, conn: Conn, tag: Option<i32>, path: usize, work: Work) {
        let token = self.park(conn, tag, path, work);
        if let Some(session) = self.sessions.get(conn) {
            session.scans.push_back(token);
        }
        self.queue_scans(conn);
    }

    fn unpark(&mut self, token: usize) -> Parked {
        let parked = self.parked.remove(token);
        self.parked_bytes -= parked.cost;
        let session = self.sessions.get(parked.conn).expect("a parked request has its session");
        session.parked.swap_remove(parked.place);
        if let Some(&moved) = session.parked.get(parked.place) {
            self.parked[moved].place = parked.place;
        }
        parked
    }

    fn cancel_all(&mut self, store: &mut Store, conn: Conn) {
        let tokens = match self.sessions.get(conn) {
            Some(session) => session.parked.clone(),
            None => return,
        };
        for token in tokens {
            self.cancel(store, token);
        }
    }

    /// Cancels what waits for the future; scans of the present go on.
    fn cancel_waits(&mut self, store: &mut Store, conn: Conn) {
        let Some(session) = self.sessions.get(conn) else { return };
        let tokens = session.parked.clone();
        for token in tokens {
            if !matches!(self.parked[token].work, Work::Walk(_) | Work::Getdir(_)) {
                self.cancel(store, token);
            }
        }
    }

    fn cancel(&mut self, store: &mut Store, token: usize) {
        let parked = self.unpark(token);
        if let Work::Event(waiter) | Work::Read { waiter, .. } = parked.work {
            store.cancel(waiter);
        }
    }
}

/// Answers a WALK whose match is at `path`, unless it is to be continued.
fn answer_walk(
    sessions: &mut Sessions,
    path: &[u8],
    conn: Conn,
    tag: Option<i32>,
    answer: Walk<'_>,
) -> Option<WalkState> {
    let response = match answer {
        Walk::More(state) => return Some(state),
        Walk::Range => Response::error(tag, ErrCode::Range, None),
        Walk::TooLate => Response::error(tag, ErrCode::TooLate, None),
        Walk::Found { rev, value } => Response {
            tag,
            flags: Some(FLAG_SET),
            rev: Some(rev),
            path: Some(path),
            value: Some(value),
            ..Response::default()
        },
    };
    sessions.reply(conn, &response);
    None
}
