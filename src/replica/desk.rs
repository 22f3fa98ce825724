//! The desk: answers every request that does not need the log, at once or later.
//!
//! Reads run against the store in the turn in which they come. A read of a future revision, and a WAIT that finds nothing, are
//! parked with the store. A scan that would hold up the loop is put aside, and continues with a slice each turn. Each parked
//! request has a token, which the store gives back when it wakes the request.
//!
//! One write can wake any number of waits, and each can ask for a large value. So a turn takes a limited number of waits off the
//! store, composes a limited number of bytes, and does a limited amount of work to find what it answers. If an answer has no room in
//! the turn, in its session's output or in the output of all sessions, the desk keeps a note of a few bytes instead ([`Deferred`]).
//! The desk serves the sessions with notes in rotation, one answer at a time, and each session's notes in order. The history is kept
//! for waiting notes, but not for ever: a client that does not read must not make the history grow.
//!
//! Invariants: a token that the store has belongs to a parked request, since the end of a session cancels all its requests (a slice
//! a turn if there are very many); for a session with full output the desk composes no answer, and only keeps a note.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Weak};

use super::session::{Access, Conn, Counted, Pause, Sessions};
use super::shares::{Shares, Weight};
use super::slots::Slots;
use super::tokens::Tokens;
use crate::faults::{self, Fault};
use crate::limits;
use crate::store::{
    Event, Getdir, GetdirState, Glob, Kind, Lookup, PinId, Queue, Store, Wait, WaitState, WaiterId, Walk, WalkState,
    Woken,
};
use crate::wire::{ErrCode, FLAG_DEL, FLAG_SET, Request, Response, Verb};

/// Entries that a read may visit when it comes, before it is put aside: the most, and the least.
const FIRST_BUDGET: isize = 2_000;
const FIRST_LEAST: isize = 32;
/// Entries that a read that was put aside may visit before it is another session's turn.
const SCAN_SLICE: isize = 250;
/// The most and the least work of a turn for the answers to earlier requests.
const LATE_MAX: isize = limits::LATE_WORK_TURN.cast_signed();
const LATE_MIN: isize = 256;
/// A turn of the least pace does this part of other work that proceeds in slices.
const PACED_LEAST: usize = 16;
/// This many of a session's parked requests are cancelled as soon as the session ends; the rest follow in slices.
const CANCELS_AT_ONCE: usize = 256;
/// What a parked request is taken to cost beside its path.
const PARKED_OVERHEAD: usize = 256;

/// Returns what a parked request with this path or glob is taken to cost.
fn parked_cost(path: &[u8]) -> usize {
    path.len() + PARKED_OVERHEAD
}

/// The same for a listing that is put aside: it remembers the path that it has come to, however short its glob is.
fn listing_cost(path: &[u8]) -> usize {
    parked_cost(path) + limits::PATH_MAX
}

/// Returns why a connection may not have waiting requests of `own` bytes, which would make `all` of all connections. Its first ones
/// it may always have: however many others wait, they leave room for these.
fn refusal(own: usize, all: usize) -> Option<&'static str> {
    if own > limits::PARKED_EACH {
        return Some(
            "too many requests of this connection are waiting; wait for fewer paths, or for a glob that matches many, and \
             send fewer searches ahead",
        );
    }
    let most = if own <= limits::PARKED_FIRST {
        usize::MAX
    } else if own <= limits::PARKED_FEW {
        limits::PARKED_FULL
    } else {
        limits::PARKED_SOFT
    };
    (all > most).then_some("too many requests are waiting on this server; try another or later")
}

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
    /// Returns whether any secret is set: if not, everyone has every access.
    pub fn are_set(&self) -> bool {
        !self.read_write.is_empty() || !self.read_only.is_empty()
    }

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
fn equal(a: &[u8], b: &[u8]) -> bool {
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

    /// Returns the revision at which the answer is read.
    fn rev(&self) -> i64 {
        let (Deferred::Event { rev, .. } | Deferred::Read { rev, .. }) = self;
        *rev
    }

    /// Returns the size of the answer in bytes, or an upper bound; and what finding it out costs.
    fn size(&self, store: &Store, scratch: &mut Vec<u8>) -> (usize, usize) {
        match self {
            Deferred::Event { rev, .. } => match store.event(*rev, scratch) {
                Some(event) => (event.value.len(), scratch.len() / limits::REQUEST_PATH),
                None => (0, 0),
            },
            Deferred::Read { op: Op::Get, path, rev, .. } => {
                let size = match store.lookup(path, *rev) {
                    Lookup::File { value, .. } => value.len(),
                    Lookup::Dir { .. } | Lookup::Missing => 0,
                };
                (size, path.len() / limits::REQUEST_PATH)
            }
            Deferred::Read { op: Op::Walk(_), .. } => (limits::VALUE_MAX, 0),
            Deferred::Read { op: Op::Stat | Op::Getdir(_), .. } => (0, 0),
        }
    }
}

/// Which budget pays for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Payer {
    /// The session's share of the turn: see [`Shares`].
    Fresh,
    /// [`limits::LATE_WORK_TURN`]: the request came in an earlier turn.
    Late,
}

/// What [`Desk::charge`] says of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Charged {
    /// It may be carried out, with these rights of the session. `gone` tells whether the client has gone.
    Paid {
        /// The session's.
        access: Access,
        /// See [`super::session::Session::gone`].
        gone: bool,
    },
    /// It has to come again in a later turn.
    Waits,
    /// The connection is closed.
    Closed,
}

/// The revisions of the history that the notes need, and the pin that keeps them.
#[derive(Debug, Default)]
struct Held {
    /// For each revision: how many notes need it, and since when it is kept.
    notes: BTreeMap<i64, (usize, u64)>,
    /// The revisions that are still kept.
    kept: BTreeSet<i64>,
    pin: Option<(PinId, i64)>,
}

impl Held {
    /// Counts one more note that needs `rev`.
    fn add(&mut self, store: &mut Store, rev: i64, now_ms: u64) {
        let (count, _) = self.notes.entry(rev).or_insert((0, now_ms));
        *count += 1;
        if *count == 1 {
            self.kept.insert(rev);
            self.move_pin(store);
        }
    }

    /// Counts one note less that needs `rev`. The caller then calls [`Held::move_pin`].
    fn remove(&mut self, rev: i64) {
        if let Some((count, _)) = self.notes.get_mut(&rev) {
            *count -= 1;
            if *count == 0 {
                self.notes.remove(&rev);
                self.kept.remove(&rev);
            }
        }
    }

    /// Gives up the revisions that have been kept for too long.
    fn expire(&mut self, now_ms: u64) {
        while let Some(first) = self.kept.first()
            && self.notes.get(first).is_none_or(|(_, since)| now_ms.saturating_sub(*since) >= limits::ANSWER_PIN_MS)
        {
            self.kept.pop_first();
        }
    }

    /// Moves the store's pin to the first revision that is still kept.
    fn move_pin(&mut self, store: &mut Store) {
        let first = self.kept.first().copied();
        if self.pin.map(|(_, at)| at) == first {
            return;
        }
        let old = self.pin.take();
        if let Some(first) = first {
            // A pin cannot move back.
            let pin = match old {
                Some((pin, at)) if at <= first => pin,
                _ => store.pin().0,
            };
            store.pin_to(pin, first);
            self.pin = Some((pin, first));
        }
        if let Some((old, _)) = old
            && self.pin.is_none_or(|(pin, _)| pin != old)
        {
            store.unpin(old);
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

/// What a closed session has left behind: notes, and tokens of parked requests.
#[derive(Debug, Default)]
struct Left {
    notes: Queue<Deferred>,
    parked: Tokens,
}

/// Answers the requests that do not need the log.
#[derive(Debug, Default)]
pub struct Desk {
    /// The connections.
    pub sessions: Sessions,
    parked: Slots<Parked>,
    parked_bytes: usize,
    /// Sessions with scans that were put aside and room for their answers, each once; some may be gone.
    runnable: VecDeque<Conn>,
    /// Sessions with deferred answers and room for them, each once. `crowded` are those that wait for room in the output of all.
    owed: VecDeque<Conn>,
    crowded: VecDeque<Conn>,
    held: Held,
    /// What closed sessions have left behind, still to be dropped.
    left: BTreeMap<Conn, Left>,
    /// Ended sessions whose waits the desk still has to drop, and the number of their parked requests that it has not examined.
    ending: VecDeque<(Conn, usize)>,
    shares: Shares,
    /// The rest of the turn's budgets: for scans that were put aside, for finding the answers to other earlier requests, for bytes
    /// of answers, for waking. What a turn has spent too much, the next has less.
    scans: isize,
    late: isize,
    answers: usize,
    wakes: usize,
    now_ms: u64,
    /// The large value that was answered last, as long as it is being sent, and the revision that wrote it: often many clients are
    /// sent the same.
    shared: Option<(i64, Weak<Counted>)>,
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
        !self.runnable.is_empty()
            || self.shares.has_waiting()
            || !self.owed.is_empty()
            || !self.left.is_empty()
            || !self.ending.is_empty()
            || self.sessions.is_late()
    }

    /// Sets the time, in milliseconds since some fixed moment.
    pub fn tick(&mut self, store: &mut Store, now_ms: u64) {
        self.now_ms = now_ms;
        self.sessions.set_now(now_ms);
        self.held.expire(now_ms);
        self.held.move_pin(store);
    }

    /// Begins a turn: its budgets are there, and connections that wait for their turn continue.
    pub fn begin_turn(&mut self) {
        self.shares.begin_turn(&mut self.sessions);
        self.scans = self.scans.clamp(-limits::PACE_MAX.cast_signed(), 0) + self.shares.pace();
        self.late = self.late.clamp(-LATE_MAX, 0) + self.late_turn();
        self.answers = limits::ANSWERS_TURN;
        self.wakes = limits::WAKES_TURN;
        self.sessions.begin_turn();
        if self.sessions.buffered() + limits::VALUE_MAX <= limits::OUTPUT_SOFT {
            self.owed.append(&mut self.crowded);
        }
    }

    /// Returns the work of a turn for the answers to earlier requests.
    fn late_turn(&self) -> isize {
        self.shares.pace().clamp(LATE_MIN, LATE_MAX)
    }

    /// Returns whether clients that read are owed answers that are not composed yet.
    pub fn owes_answers(&self) -> bool {
        !self.owed.is_empty()
    }

    /// Returns whether answers wait until some output is sent.
    pub fn is_crowded(&self) -> bool {
        !self.crowded.is_empty()
    }

    /// Charges a request of this many bytes to its connection's share of the turn, with its path or glob, which may have thousands
    /// of components. If the connection has to wait for its turn, this pauses it.
    #[inline]
    pub fn charge(
        &mut self,
        store: &Store,
        conn: Conn,
        verb: Option<Verb>,
        request: &Request<'_>,
        bytes: usize,
    ) -> Charged {
        let Some(session) = self.sessions.get(conn) else { return Charged::Closed };
        // Longer paths are refused at a glance.
        let path = request.path.map_or(0, |path| path.len().min(limits::PATH_MAX));
        let mut cost = 1 + bytes / limits::REQUEST_BYTES + path / limits::REQUEST_PATH;
        let weight = match verb {
            // At a revision to come, there is nothing to search yet.
            Some(Verb::Getdir | Verb::Walk | Verb::Wait) if request.rev.is_none_or(|rev| rev <= store.revision()) => {
                Weight::Search
            }
            Some(Verb::Stats) => {
                cost += limits::STATS_COST;
                Weight::Light
            }
            _ => Weight::Light,
        };
        if self.shares.charge(&mut session.share, cost, weight) {
            return Charged::Paid { access: session.access, gone: session.gone() };
        }
        self.shares.wait(conn, &mut session.share);
        self.sessions.pause(conn, Pause::Turn);
        Charged::Waits
    }

    /// Takes `cost` off a budget.
    fn pay(&mut self, conn: Conn, payer: Payer, cost: isize) {
        match payer {
            Payer::Late => self.late -= cost,
            Payer::Fresh if cost == 0 => {}
            Payer::Fresh => {
                if let Some(session) = self.sessions.get(conn) {
                    self.shares.pay(&mut session.share, cost);
                }
            }
        }
    }

    /// Returns how many entries a read may visit before it is put aside.
    fn first_budget(&mut self, conn: Conn, payer: Payer) -> isize {
        match payer {
            Payer::Fresh => {
                let allowance = self.sessions.get(conn).map_or(0, |session| self.shares.allowance(&session.share));
                allowance.clamp(FIRST_LEAST, FIRST_BUDGET)
            }
            // What that exceeds the turn is taken off the next. With less, many reads would become scans.
            Payer::Late => FIRST_BUDGET,
        }
    }

    /// The client is gone: what it waits for is forgotten.
    pub fn leave(&mut self, store: &mut Store, conn: Conn) {
        let Some(session) = self.sessions.get(conn) else { return };
        let notes = std::mem::take(&mut session.deferred);
        let parked = std::mem::take(&mut session.parked);
        self.sessions.leave(conn);
        if !parked.is_empty() || !notes.is_empty() {
            self.left.insert(conn, Left { notes, parked });
            self.drop_left(store, &mut CANCELS_AT_ONCE.clone());
        }
    }

    /// Continues to drop what closed sessions have left behind, and the waits of ended ones.
    pub fn run_cancels(&mut self, store: &mut Store) {
        let mut budget = self.paced(limits::CANCELS_TURN);
        self.drop_left(store, &mut budget);
        self.cancel_waits(store, &mut budget);
    }

    fn drop_left(&mut self, store: &mut Store, budget: &mut usize) {
        while *budget > 0
            && let Some(mut first) = self.left.first_entry()
        {
            let left = first.get_mut();
            if let Some(note) = left.notes.pop_front() {
                *budget -= 1;
                self.forget(&note);
            } else if let Some(token) = left.parked.last() {
                *budget -= 1;
                self.cancel(store, token);
            } else {
                first.remove();
            }
        }
        self.held.move_pin(store);
    }

    /// A note is answered or dropped.
    fn forget(&mut self, note: &Deferred) {
        self.parked_bytes -= note.cost();
        self.held.remove(note.rev());
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
        self.queue_answers(conn);
    }

    /// Puts a session with deferred answers into the rotation, unless it is there.
    fn queue_answers(&mut self, conn: Conn) {
        if let Some(session) = self.sessions.get(conn)
            && !session.owed
            && !session.deferred.is_empty()
            && !session.full()
        {
            session.owed = true;
            self.owed.push_back(conn);
        }
    }

    /// Composes deferred answers, one session after the other, until half of the turn's bytes or half of its work is used up. The
    /// rest is for the requests that this turn wakes.
    pub fn run_answers(&mut self, store: &mut Store) {
        while self.answers > limits::ANSWERS_TURN / 2
            && self.late > self.late_turn() / 2
            && let Some(conn) = self.owed.pop_front()
        {
            let Some(session) = self.sessions.get(conn) else { continue };
            session.owed = false;
            let full = session.full();
            let Some(note) = session.deferred.front().filter(|_| !full) else { continue };
            let (size, cost) = note.size(store, &mut self.path);
            self.pay(conn, Payer::Late, cost.cast_signed());
            if !self.may_compose(conn, size) {
                if let Some(session) = self.sessions.get(conn) {
                    session.owed = true;
                    self.crowded.push_back(conn);
                }
                continue;
            }
            let Some(note) = self.sessions.get(conn).and_then(|session| session.deferred.pop_front()) else { continue };
            self.forget(&note);
            match note {
                Deferred::Event { tag, rev } => self.event(store, conn, tag, rev, Payer::Late),
                Deferred::Read { tag, op, path, rev } => self.read_late(store, conn, tag, op, &path, rev),
            }
            self.queue_answers(conn);
        }
        self.held.move_pin(store);
    }

    /// Returns whether an answer of this many bytes may be composed now: the turn and the output of all sessions need room for it.
    /// A client without unsent output gets a small answer even if the output of all is full.
    fn may_compose(&mut self, conn: Conn, size: usize) -> bool {
        let waits = self.sessions.get(conn).is_some_and(|session| session.unsent() > 0);
        self.answers > 0
            && (self.sessions.buffered() + size <= limits::OUTPUT_SOFT || (size <= limits::ANSWER_SMALL && !waits))
    }

    /// Charges an answer of this many bytes to the turn's budget.
    fn spend(&mut self, conn: Conn, size: usize) {
        let is_first = self.sessions.get(conn).is_some_and(|session| !session.dirty());
        let cost = size + limits::ANSWER_COST + if is_first { limits::SEND_COST } else { 0 };
        self.answers = self.answers.saturating_sub(cost);
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
        if let Some(session) = self.sessions.get(conn) {
            self.ending.push_back((conn, session.parked.len()));
        }
        self.sessions.end(conn);
        self.cancel_waits(store, &mut CANCELS_AT_ONCE.clone());
    }

    /// Answers a read.
    pub fn read(&mut self, store: &mut Store, conn: Conn, tag: Option<i32>, op: Op, path: &[u8], rev: Option<i64>) {
        match resolve(store, rev) {
            At::TooLate => self.fail(conn, tag, ErrCode::TooLate),
            At::Now(rev) => self.read_at(store, conn, tag, op, path, rev, Payer::Fresh),
            At::Future(rev) => {
                let cost = parked_cost(path);
                if !self.may_park(conn, tag, cost) {
                    return;
                }
                let waiter = store.await_revision(rev, self.next_token() as u64);
                let work = Work::Read { waiter, op, path: path.into(), rev };
                self.park(conn, tag, cost, work);
            }
        }
    }

    /// Answers a read of an earlier turn, at a revision that has come, and may have left the history since: a snapshot from the leader
    /// skips revisions.
    fn read_late(&mut self, store: &mut Store, conn: Conn, tag: Option<i32>, op: Op, path: &[u8], rev: i64) {
        self.spend(conn, 0);
        if rev < store.first_revision() {
            self.fail(conn, tag, ErrCode::TooLate);
        } else {
            self.pay(conn, Payer::Late, (path.len() / limits::REQUEST_PATH).cast_signed());
            self.read_at(store, conn, tag, op, path, rev, Payer::Late);
        }
    }

    /// Answers a read at a revision that is in the history. The caller has paid for finding the path.
    #[expect(clippy::too_many_arguments, reason = "a request, where it is answered, and who pays")]
    fn read_at(
        &mut self,
        store: &mut Store,
        conn: Conn,
        tag: Option<i32>,
        op: Op,
        path: &[u8],
        rev: i64,
        payer: Payer,
    ) {
        let mut cost = 0;
        match op {
            Op::Get if faults::is_armed(Fault::GetOfPastIsOfPresent) && rev < store.revision() => {
                return self.read_at(store, conn, tag, op, path, store.revision(), payer);
            }
            Op::Get => match store.lookup(path, rev) {
                Lookup::Dir { .. } if !faults::is_armed(Fault::DirectoryReadAsMissing) => {
                    self.fail(conn, tag, ErrCode::Isdir)
                }
                found => {
                    let (written, value) = match found {
                        Lookup::File { rev, value } => (rev, value),
                        _ => (0, &[][..]),
                    };
                    if value.len() > limits::ANSWER_SMALL {
                        if !self.may_compose(conn, value.len()) {
                            return self.defer(store, conn, Deferred::Read { tag, op, path: path.into(), rev });
                        }
                        self.spend(conn, value.len());
                    }
                    cost = (value.len() / limits::REQUEST_BYTES).cast_signed();
                    let response = Response { tag, rev: Some(written), value: Some(value), ..Response::default() };
                    reply(&mut self.sessions, &mut self.shared, conn, &response);
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
                let mut budget = self.first_budget(conn, payer);
                let before = budget;
                let answer = store.getdir(path, rev, offset, &mut budget, &mut self.path);
                cost = before - budget;
                if let Some(state) = self.answer_getdir(conn, tag, answer)
                    && self.may_park(conn, tag, listing_cost(path))
                {
                    self.park_scan(conn, tag, listing_cost(path), Work::Getdir(Some(state)));
                }
            }
            Op::Walk(offset) => {
                let Ok(glob) = Glob::new(path) else {
                    return self.bad_glob(conn, tag, path);
                };
                let mut budget = self.first_budget(conn, payer);
                let before = budget;
                let large = self.may_compose(conn, limits::VALUE_MAX);
                let answer = store.walk(&glob, rev, offset, &mut budget, &mut self.path);
                cost = before - budget;
                match answer_walk(&mut self.sessions, &mut self.shared, &self.path, conn, tag, large, answer) {
                    Walked::Answered(size) if size > limits::ANSWER_SMALL => self.spend(conn, size),
                    Walked::Answered(_) => {}
                    // The path is remembered, so finding it again costs little.
                    Walked::TooLarge => self.defer(store, conn, Deferred::Read { tag, op, path: path.into(), rev }),
                    Walked::More(state) => {
                        if self.may_park(conn, tag, listing_cost(path)) {
                            self.park_scan(conn, tag, listing_cost(path), Work::Walk(Some(state)));
                        }
                    }
                }
            }
        }
        self.pay(conn, payer, cost);
    }

    /// Answers a WAIT, now or when it happens.
    pub fn wait(&mut self, store: &mut Store, conn: Conn, tag: Option<i32>, path: &[u8], rev: i64) {
        let Ok(glob) = Glob::new(path) else {
            return self.bad_glob(conn, tag, path);
        };
        let mut budget = self.first_budget(conn, Payer::Fresh);
        let before = budget;
        let answer = store.wait(&glob, rev, self.next_token() as u64, &mut budget);
        self.pay(conn, Payer::Fresh, before - budget);
        match answer {
            // A fresh WAIT need not queue behind those that events have woken.
            Wait::Event { rev } => self.event_in_turn(store, conn, tag, rev, Payer::Fresh),
            Wait::TooLate => self.fail(conn, tag, ErrCode::TooLate),
            Wait::Waiting(waiter) => {
                if self.may_park(conn, tag, parked_cost(path)) {
                    self.park(conn, tag, parked_cost(path), Work::Event(waiter));
                } else {
                    store.cancel(waiter);
                }
            }
            Wait::More(state) => {
                if self.may_park(conn, tag, parked_cost(path)) {
                    self.park_scan(conn, tag, parked_cost(path), Work::Wait(Some(state)));
                }
            }
        }
    }

    /// How many requests are parked.
    pub fn parked(&self) -> usize {
        self.parked.len()
    }

    /// Returns the part of a bound that is due to the pace of this turn.
    fn paced(&self, most: usize) -> usize {
        let least = most / PACED_LEAST;
        (most * self.shares.pace().unsigned_abs() / limits::PACE_MAX).max(least)
    }

    /// Continues to match events against waits, where that was too much for one turn, and wakes what it finds. What is left of the
    /// turn's budget is for the events that the turn applies.
    pub fn run_matches(&mut self, store: &mut Store) {
        let mut budget = self.paced(limits::MATCHES_TURN);
        if store.has_pending_matches() {
            store.match_more(&mut budget);
            self.wake(store);
        }
        store.limit_matches(budget);
    }

    /// Wakes the requests for which applied mutations have come, as many as the turn has room for; the others stay with the store.
    #[inline]
    pub fn wake(&mut self, store: &mut Store) {
        // Nearly all mutations wake nobody.
        if self.wakes > 0 && store.has_woken() {
            self.wake_some(store);
        }
    }

    fn wake_some(&mut self, store: &mut Store) {
        let mut woken = std::mem::take(&mut self.woken);
        // All at once: on the way there, each doubling would be the first touch of fresh memory.
        woken.reserve(limits::WAKES_TURN);
        store.take_woken(self.wakes, &mut woken);
        self.wakes -= woken.len();
        for w in woken.drain(..) {
            let (Woken::Event { token, .. } | Woken::Revision { token, .. }) = w;
            let parked = self.unpark(usize::try_from(token).expect("a token is an index"));
            let conn = parked.conn;
            // The request may be about to be cancelled.
            if self.sessions.get(conn).is_none_or(|session| session.ended() || session.gone()) {
                self.sessions.touch(conn);
                continue;
            }
            match (parked.work, w) {
                (Work::Event(_), Woken::Event { rev, .. }) => {
                    self.event_in_turn(store, conn, parked.tag, rev, Payer::Late);
                }
                (Work::Read { op, path, rev, .. }, Woken::Revision { .. }) => {
                    if self.full(conn) || self.answers == 0 || self.late <= 0 || self.owes(conn) {
                        self.defer(store, conn, Deferred::Read { tag: parked.tag, op, path, rev });
                    } else {
                        self.read_late(store, conn, parked.tag, op, &path, rev);
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
        while self.scans > 0
            && self.answers > 0
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
                let before = self.scans.min(SCAN_SLICE);
                let mut slice = before;
                self.run_scan(store, token, &mut slice);
                // A scan that ends at once has its cost too.
                self.scans -= before - slice + 1;
            }
            self.queue_scans(conn);
        }
    }

    /// The store was replaced with a later state of the same history, which has no pins. Scans continue on it.
    pub fn succeeded(&mut self, store: &mut Store) {
        self.held.pin = None;
        self.held.move_pin(store);
    }

    fn run_scan(&mut self, store: &mut Store, token: usize, budget: &mut isize) {
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
                        self.event_in_turn(store, conn, tag, rev, Payer::Late);
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
                match answer_walk(&mut self.sessions, &mut self.shared, &self.path, conn, tag, true, answer) {
                    Walked::More(state) => Some(Work::Walk(Some(state))),
                    Walked::Answered(size) => {
                        self.spend(conn, size);
                        None
                    }
                    Walked::TooLarge => unreachable!("an answer of any size was asked for"),
                }
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

    fn defer(&mut self, store: &mut Store, conn: Conn, deferred: Deferred) {
        if let Some(session) = self.sessions.get(conn)
            && !session.gone()
        {
            self.parked_bytes += deferred.cost();
            self.held.add(store, deferred.rev(), self.now_ms);
            session.deferred.push_back(deferred);
            self.queue_answers(conn);
        }
    }

    /// Answers a WAIT as [`Desk::event`] does, but after the session's deferred answers: a client that asks for one event after the
    /// other gets them in this order.
    fn event_in_turn(&mut self, store: &mut Store, conn: Conn, tag: Option<i32>, rev: i64, payer: Payer) {
        if self.owes(conn) || payer == Payer::Late && self.late <= 0 {
            self.defer(store, conn, Deferred::Event { tag, rev });
        } else {
            self.event(store, conn, tag, rev, payer);
        }
    }

    /// Returns whether a session has deferred answers.
    fn owes(&mut self, conn: Conn) -> bool {
        self.sessions.get(conn).is_some_and(|session| !session.deferred.is_empty())
    }

    /// Answers a WAIT with the event of `rev`, now or when there is room for the answer. A small value never waits for room if the
    /// WAIT came in this turn.
    fn event(&mut self, store: &mut Store, conn: Conn, tag: Option<i32>, rev: i64, payer: Payer) {
        let at_once = if payer == Payer::Fresh { limits::ANSWER_SMALL } else { 0 };
        if self.full(conn) {
            if faults::is_armed(Fault::EventDropped) {
                return;
            }
            return self.defer(store, conn, Deferred::Event { tag, rev });
        }
        let mut path = std::mem::take(&mut self.path);
        let found = store.event(rev, &mut path);
        if found.is_some() {
            self.pay(conn, payer, (path.len() / limits::REQUEST_PATH).cast_signed());
        }
        match found {
            None => {
                self.spend(conn, 0);
                self.fail(conn, tag, ErrCode::TooLate);
            }
            Some(event) if event.value.len() + 1 > at_once && !self.may_compose(conn, event.value.len()) => {
                self.defer(store, conn, Deferred::Event { tag, rev });
            }
            Some(Event { rev, kind, value }) => {
                self.spend(conn, path.len() + value.len());
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
                reply(&mut self.sessions, &mut self.shared, conn, &response);
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
        self.parked.vacant()
    }

    /// Whether one more request may be parked; if not, it is answered with the reason.
    fn may_park(&mut self, conn: Conn, tag: Option<i32>, cost: usize) -> bool {
        let own = cost + self.sessions.get(conn).map_or(0, |session| session.parked_bytes);
        let Some(detail) = refusal(own, self.parked_bytes + cost) else { return true };
        self.fail_other(conn, tag, detail);
        false
    }

    fn park(&mut self, conn: Conn, tag: Option<i32>, cost: usize, work: Work) -> usize {
        let session = self.sessions.get(conn).expect("only a live session parks");
        let place = session.parked.push(self.parked.vacant());
        let token = self.parked.insert(Parked { conn, tag, place, cost, work });
        session.parked_bytes += cost;
        self.parked_bytes += cost;
        token
    }

    fn park_scan(&mut self, conn: Conn, tag: Option<i32>, cost: usize, work: Work) {
        let token = self.park(conn, tag, cost, work);
        if let Some(session) = self.sessions.get(conn) {
            session.scans.push_back(token);
        }
        self.queue_scans(conn);
    }

    fn unpark(&mut self, token: usize) -> Parked {
        let parked = self.parked.remove(token);
        self.parked_bytes -= parked.cost;
        let tokens = match self.sessions.get(parked.conn) {
            Some(session) if !session.gone() => {
                session.parked_bytes -= parked.cost;
                &mut session.parked
            }
            _ => {
                let left = self.left.get_mut(&parked.conn);
                &mut left.expect("what a session leaves behind is kept until it is dropped").parked
            }
        };
        if let Some(moved) = tokens.swap_remove(parked.place) {
            self.parked[moved].place = parked.place;
        }
        parked
    }

    /// Continues to drop the waits of ended sessions; their scans of the present continue.
    fn cancel_waits(&mut self, store: &mut Store, budget: &mut usize) {
        while let Some((conn, left)) = self.ending.pop_front() {
            // Requests answered meanwhile have moved others to their places, but only to lower ones.
            let count = self.sessions.get(conn).map_or(0, |session| session.parked.len());
            let mut left = left.min(count);
            while left > 0 {
                if *budget == 0 {
                    return self.ending.push_front((conn, left));
                }
                *budget -= 1;
                left -= 1;
                let token = self.sessions.get(conn).and_then(|session| session.parked.get(left));
                if let Some(token) = token
                    && !matches!(self.parked[token].work, Work::Walk(_) | Work::Getdir(_))
                {
                    self.cancel(store, token);
                }
            }
            self.sessions.touch(conn);
        }
    }

    fn cancel(&mut self, store: &mut Store, token: usize) {
        let parked = self.unpark(token);
        if let Work::Event(waiter) | Work::Read { waiter, .. } = parked.work {
            store.cancel(waiter);
        }
    }
}

/// Answers with a file's value, which was written by the response's revision. A large value is not copied again if it was the last.
fn reply(sessions: &mut Sessions, shared: &mut Option<(i64, Weak<Counted>)>, conn: Conn, response: &Response<'_>) {
    let (Some(value), Some(written)) = (response.value, response.rev) else {
        return sessions.reply(conn, response);
    };
    if value.len() < limits::SHARED_MIN {
        return sessions.reply(conn, response);
    }
    let known = match shared {
        Some((rev, known)) if *rev == written => known.upgrade(),
        _ => None,
    };
    let value = known.unwrap_or_else(|| sessions.share(value));
    *shared = Some((written, Arc::downgrade(&value)));
    sessions.reply_shared(conn, response, value);
}

/// The outcome of a WALK.
enum Walked {
    /// The WALK was answered, with a value of this many bytes.
    Answered(usize),
    /// The answer is large and may not be composed now.
    TooLarge,
    /// The scan has to continue.
    More(WalkState),
}

/// Answers a WALK whose match is at `path`, unless the scan has to continue, or the answer is large and `large` is false.
fn answer_walk(
    sessions: &mut Sessions,
    shared: &mut Option<(i64, Weak<Counted>)>,
    path: &[u8],
    conn: Conn,
    tag: Option<i32>,
    large: bool,
    answer: Walk<'_>,
) -> Walked {
    let response = match answer {
        Walk::More(state) => return Walked::More(state),
        Walk::Range => Response::error(tag, ErrCode::Range, None),
        Walk::TooLate => Response::error(tag, ErrCode::TooLate, None),
        Walk::Found { value, .. } if value.len() > limits::ANSWER_SMALL && !large => return Walked::TooLarge,
        Walk::Found { rev, value } => Response {
            tag,
            flags: Some(FLAG_SET),
            rev: Some(rev),
            path: Some(path),
            value: Some(value),
            ..Response::default()
        },
    };
    reply(sessions, shared, conn, &response);
    Walked::Answered(response.value.map_or(0, <[u8]>::len))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Thousands of connections with some hundred waits each used up the place that was kept for connections with few, and the first
    /// wait of everybody else was refused.
    #[test]
    fn the_first_waits_of_a_connection_are_refused() {
        const CONNS: usize = 19_936;
        for (path, innocents) in [(2, CONNS / 10), (limits::PATH_MAX, CONNS / 10), (2, 1), (100, CONNS / 2)] {
            let cost = parked_cost(&vec![b'x'; path]);
            let (mut own, mut all) = (vec![0; CONNS - innocents], 0);
            loop {
                let before = all;
                for own in &mut own {
                    // Many at a time, as many as there is room for.
                    let mut more = 64 * cost;
                    while more >= cost && refusal(*own + more, all + more).is_some() {
                        more /= 2;
                    }
                    if more >= cost {
                        *own += more;
                        all += more;
                    }
                }
                if all == before {
                    break;
                }
            }
            assert!(all + cost > limits::PARKED_SOFT, "the others have all that they may have");
            for _ in 0..innocents {
                let (mut own, mut count) = (0, 0);
                for cost in [parked_cost(b"/in/*"), parked_cost(b"/in/f"), listing_cost(b"/in")] {
                    own += cost;
                    all += cost;
                    count += usize::from(refusal(own, all).is_none());
                }
                assert_eq!(count, 3);
            }
            assert!(all <= limits::PARKED_MAX, "{all}");
            assert!(
                refusal(limits::PARKED_FIRST, usize::MAX).is_none() && refusal(limits::PARKED_EACH + 1, 0).is_some()
            );
            assert!(refusal(listing_cost(&[b'x'; limits::PATH_MAX]), all).is_none());
        }
    }
}
