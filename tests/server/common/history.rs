//! Writers all over a cluster that note what they were told, and the check of it against what the nodes remember.
//!
//! They do all that a client can: set and delete by compare-and-set or without, on files of their own and on such that all write to,
//! read the present, the past and the future, list, walk, wait, and synchronize. What they were told, and the nodes' histories, read
//! event by event from the first revision on, go to the [`checker`], which says what is checked. Beside that: who may
//! have seen an error, and how long things took.

#[path = "../../shared/checker.rs"]
pub mod checker;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use checker::{Checker, Conn};
use doozer::wire::{ErrCode, Request, Response, Verb};

use super::cluster::{Cluster, Downtime};
use super::wire::*;
use super::{Random, eventually};

/// Requests that a writer has outstanding at a time, at most; beside those that may have to wait.
const WINDOW: usize = 16;
/// Requests that may have to wait for others' writes.
const PATIENT: usize = 4;
/// Events that are asked for at a time.
const CHUNK: i64 = 500;

// ---- what was asked, and what was told ----

/// What a writer asks for. The value of a SET follows from who sends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    pub verb: Verb,
    pub path: String,
    pub rev: Option<i64>,
    pub offset: Option<i32>,
}

impl Op {
    fn new(verb: Verb, path: impl Into<String>, rev: impl Into<Option<i64>>) -> Op {
        Op { verb, path: path.into(), rev: rev.into(), offset: None }
    }

    fn request<'a>(&'a self, value: &'a [u8]) -> Request<'a> {
        let path = (!self.path.is_empty()).then_some(self.path.as_bytes());
        let value = (self.verb == Verb::Set).then_some(value);
        Request { path, value, rev: self.rev, offset: self.offset, ..Request::new(self.verb) }
    }

    /// Whether it makes a revision.
    pub fn mutates(&self) -> bool {
        matches!(self.verb, Verb::Set | Verb::Del | Verb::Nop)
    }
}

/// What became of it, as far as the writer knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was done.
    Done,
    /// What is in the files is the reason that it was not: a compare-and-set did not find what it compared with, a directory has no
    /// entry of that number. Whether that is so is the checker's business.
    Refused,
    /// No quorum: certainly not done.
    Readonly,
    /// The connection was lost before the answer.
    Lost,
    /// The server says that it cannot know.
    Unknown,
    /// It was not answered when the writer stopped, and need not have been.
    Open,
    /// Any other error.
    Error,
}

/// One request of a writer.
#[derive(Clone)]
pub struct Call {
    /// The node that was asked.
    pub node: usize,
    pub writer: usize,
    pub number: usize,
    /// Which of the writer's connections it went over.
    pub connection: usize,
    /// Some moment before that was made.
    pub connected: Instant,
    pub op: Op,
    pub reply: Option<Reply>,
    /// It may have to wait for others' writes.
    patient: bool,
    /// It will not be answered, for its connection is lost.
    pub lost: bool,
    /// Some moment before it left.
    pub sent: Instant,
    /// Some moment after its outcome came.
    pub done: Instant,
    /// Bytes that are added to its value.
    more: usize,
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Call { node, writer, number, connection, op, reply, .. } = self;
        write!(f, "number {number} of writer {writer}, connection {connection} to node {node}: {op:?}, ")?;
        match reply {
            Some(reply) => write!(f, "answered: {reply}")?,
            None => write!(f, "{:?}", self.outcome())?,
        }
        write!(f, " (sent {:?} ago, took {:?})", self.sent.elapsed(), self.done - self.sent)
    }
}

/// A value, so that it can be read.
fn short(value: &[u8]) -> String {
    match value.len() {
        0..=60 => format!("\"{}\"", value.escape_ascii()),
        long => format!("\"{}...\" ({long} bytes)", value[..30].escape_ascii()),
    }
}

impl Call {
    pub fn outcome(&self) -> Outcome {
        let Some(reply) = &self.reply else {
            return if self.lost { Outcome::Lost } else { Outcome::Open };
        };
        let detail = reply.err_detail.as_deref().unwrap_or_default();
        match reply.err_code.map(|code| ErrCode::try_from(code).expect("a known error")) {
            None => Outcome::Done,
            Some(ErrCode::RevMismatch | ErrCode::Isdir | ErrCode::Notdir | ErrCode::Noent | ErrCode::Range) => {
                Outcome::Refused
            }
            Some(ErrCode::Readonly) => Outcome::Readonly,
            Some(ErrCode::Other) if detail == b"outcome unknown" => Outcome::Unknown,
            Some(_) => Outcome::Error,
        }
    }

    fn acknowledged(&self) -> bool {
        self.op.mutates() && self.outcome() == Outcome::Done
    }

    /// The value of its SET.
    fn value(&self) -> Vec<u8> {
        value(self.writer, self.number, self.more)
    }
}

/// The value that a writer's set of this number has, made longer by `more` bytes.
fn value(writer: usize, number: usize, more: usize) -> Vec<u8> {
    let name = (writer as u64) << 32 | number as u64;
    let mut random = Random(name);
    let len = match random.below(100) {
        0 => 10_000 + random.below(20_000),
        n if n < 20 => 0,
        _ => random.below(300),
    };
    checker::value(name, len + more)
}

// ---- the writers ----

struct Shared {
    stop: AtomicBool,
    /// Mutations that each node has acknowledged.
    acknowledged: BTreeMap<usize, AtomicUsize>,
    /// Mutations that each node has refused with READONLY.
    refused: BTreeMap<usize, AtomicUsize>,
}

/// Running writers. They stop when it is dropped.
pub struct Load {
    writers: Vec<JoinHandle<Vec<Call>>>,
    shared: Arc<Shared>,
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

impl Load {
    /// Starts writers at these nodes: so many connections to each, with about so many requests a second, and values that are
    /// by `more` bytes longer than the ordinary ones.
    pub fn start(targets: &[(usize, SocketAddr)], connections: usize, per_second: u32, more: usize) -> Load {
        static WRITERS: AtomicUsize = AtomicUsize::new(0);
        let counts = || targets.iter().map(|(node, _)| (*node, AtomicUsize::new(0))).collect();
        let shared = Arc::new(Shared { stop: AtomicBool::new(false), acknowledged: counts(), refused: counts() });
        let window = u32::try_from(WINDOW).expect("a small number");
        let pause = Duration::from_secs(1) * (window / 2) / per_second;
        let mut writers = Vec::new();
        for _ in 0..connections {
            for (node, addr) in targets.iter().copied() {
                let id = WRITERS.fetch_add(1, Ordering::Relaxed);
                let shared = Arc::clone(&shared);
                writers.push(std::thread::spawn(move || Writer::new(node, addr, id, pause, more, shared).run()));
            }
        }
        Load { writers, shared }
    }

    /// Mutations that a node has acknowledged.
    pub fn acknowledged(&self, node: usize) -> usize {
        self.shared.acknowledged[&node].load(Ordering::Relaxed)
    }

    /// Waits until each of these nodes has acknowledged so many mutations more than now.
    #[track_caller]
    pub fn gets_on(&self, nodes: &[usize], more: usize) {
        let goals: Vec<(usize, usize)> = nodes.iter().map(|n| (*n, self.acknowledged(*n) + more)).collect();
        for (node, goal) in goals {
            eventually(&format!("node {node} acknowledges {more} more of the writes"), || {
                let broken = self.writers.iter().any(JoinHandle::is_finished);
                assert!(!broken, "a writer has ended before its time");
                (self.acknowledged(node) >= goal).then_some(())
            });
        }
    }

    /// Waits until this node has refused so many mutations with READONLY.
    #[track_caller]
    pub fn is_refused(&self, node: usize, count: usize) {
        eventually(&format!("node {node} refuses {count} of the writes"), || {
            (self.shared.refused[&node].load(Ordering::Relaxed) >= count).then_some(())
        });
    }

    /// Ends the writers when they know the outcome of everything, and returns all that they did.
    #[track_caller]
    pub fn stop(mut self) -> Vec<Call> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let writers = std::mem::take(&mut self.writers);
        writers.into_iter().flat_map(|writer| writer.join().expect("a writer that saw no nonsense")).collect()
    }
}

/// One connection at a time to one node.
struct Writer {
    node: usize,
    addr: SocketAddr,
    id: usize,
    pause: Duration,
    more: usize,
    shared: Arc<Shared>,
    random: Random,
    calls: Vec<Call>,
    connection: usize,
    connected: Instant,
    /// Calls without an outcome.
    outstanding: VecDeque<usize>,
    /// The highest revision that the node has told of over this connection.
    known: i64,
    /// Contended files, as last seen.
    seen: BTreeMap<String, i64>,
    /// Contended files that are to be looked at.
    ask: VecDeque<String>,
    /// Files of its own, with their revisions.
    own: Vec<(String, i64)>,
}

impl Writer {
    fn new(node: usize, addr: SocketAddr, id: usize, pause: Duration, more: usize, shared: Arc<Shared>) -> Writer {
        let random = Random(id as u64 * 7_919 + 1);
        let (calls, connection, outstanding, known) = Default::default();
        let (seen, ask, own) = Default::default();
        let connected = Instant::now();
        Writer {
            node,
            addr,
            id,
            pause,
            more,
            shared,
            random,
            calls,
            connection,
            connected,
            outstanding,
            known,
            seen,
            ask,
            own,
        }
    }

    fn stopping(&self) -> bool {
        self.shared.stop.load(Ordering::Relaxed)
    }

    fn run(mut self) -> Vec<Call> {
        while !self.stopping() {
            self.connected = Instant::now();
            if let Ok(stream) = TcpStream::connect_timeout(&self.addr, Duration::from_secs(1)) {
                (self.connection, self.known) = (self.connection + 1, 0);
                let lost = self.converse(Client::over(stream)).is_none();
                let now = Instant::now();
                for call in std::mem::take(&mut self.outstanding) {
                    (self.calls[call].done, self.calls[call].lost) = (now, lost);
                }
            }
            // The node is down; it is asked again, gently.
            std::thread::sleep(Duration::from_millis(10));
        }
        self.calls
    }

    /// Until the writer is to stop, and has all answers that need not wait for others; `None` if the connection is lost.
    fn converse(&mut self, mut c: Client) -> Option<()> {
        loop {
            let mut bytes = Vec::new();
            while !self.stopping() && self.urgent() < WINDOW {
                let op = self.choose();
                self.begin(op, &mut bytes);
            }
            if self.urgent() == 0 {
                return Some(());
            }
            let sent = c.try_raw(&bytes);
            // What is acknowledged before the end may still be on its way to us.
            let keep = if sent && !self.stopping() { WINDOW / 2 } else { 0 };
            while self.urgent() > keep {
                self.told(c.try_next()?);
            }
            std::thread::sleep(self.pause);
        }
    }

    /// Calls without an outcome that do not have to wait.
    fn urgent(&self) -> usize {
        self.outstanding.iter().filter(|call| !self.calls[**call].patient).count()
    }

    fn choose(&mut self) -> Op {
        if let Some(path) = self.ask.pop_front() {
            return Op::new(Verb::Get, path, None);
        }
        // Whatever becomes of its writes, there is one that is answered soon: with READONLY, where no quorum is within reach.
        let syncs = self.outstanding.iter().filter(|call| self.calls[**call].op.verb == Verb::Sync);
        if self.urgent() + 1 == WINDOW && syncs.count() == 0 {
            return Op::new(Verb::Sync, "", None);
        }
        let (id, number) = (self.id, self.calls.len());
        let Writer { random, seen, own, known, .. } = self;
        let shared = format!("/h/shared/{}", random.below(40));
        let cas = format!("/h/cas/{}", random.below(8));
        let compared = seen.get(&cas).copied().unwrap_or(0);
        let past = i64::try_from(random.below(usize::try_from(*known).expect("a revision") + 1)).expect("a revision");
        match random.below(200) {
            0..76 => Op::new(Verb::Set, shared, -1),
            76..102 => Op::new(Verb::Set, cas, compared),
            102..118 => Op::new(Verb::Set, format!("/h/own/{id}/{number}"), 0),
            n @ 118..134 if !own.is_empty() => {
                let at = random.below(own.len());
                let (path, rev) = own.swap_remove(at);
                Op::new(Verb::Del, path, if n % 2 == 0 { rev } else { -1 })
            }
            n @ 134..142 => Op::new(Verb::Del, shared, if n % 4 == 0 { 0 } else { -1 }),
            142..147 => Op::new(Verb::Del, cas, compared),
            147..152 => Op::new(Verb::Del, format!("/h/none/{id}/{number}"), 0),
            // Where a directory or a file is: refused, as a rule. If one comes in the other's place, it goes again.
            152 => Op::new(Verb::Set, "/h/cas", -1),
            153 => Op::new(Verb::Del, "/h/cas", -1),
            154 => Op::new(Verb::Set, format!("{cas}/below"), -1),
            155 => Op::new(Verb::Del, format!("{cas}/below"), -1),
            156..162 => Op::new(Verb::Nop, "", None),
            162..170 => Op::new(Verb::Get, shared, None),
            170..176 => Op::new(Verb::Get, shared, past),
            176..178 => Op::new(Verb::Stat, if past % 2 == 0 { "/h/shared" } else { &shared }, past),
            178..183 => {
                let dir = ["/h", "/h/shared", "/h/cas", "/h/none", "/h/cas/1"][random.below(5)];
                let offset = i32::try_from(random.below(45)).expect("a small number");
                let rev = (past % 2 == 0).then_some(past);
                Op { offset: Some(offset % if dir == "/h/shared" { 45 } else { 9 }), ..Op::new(Verb::Getdir, dir, rev) }
            }
            183..188 => {
                let globs = ["/h/shared/*", "/h/cas/?", "/h/**/1", "/h/*/1?", "/h/s**", "/h/none/**"];
                let offset = i32::try_from(random.below(14)).expect("a small number");
                let rev = (past % 2 == 0).then_some(past);
                Op { offset: Some(offset), ..Op::new(Verb::Walk, globs[random.below(6)], rev) }
            }
            n @ 188..195 if self.outstanding.len() - self.urgent() < PATIENT => {
                let globs = ["/h/**", "/h/shared/?", "/h/cas/*", "/**/1", "/", "/h/none/**"];
                let soon = self.known + i64::try_from(n - 188).expect("a small number");
                Op::new(Verb::Wait, globs[self.random.below(6)], if n % 2 == 0 { past } else { soon })
            }
            195 if self.outstanding.len() - self.urgent() < PATIENT => Op::new(Verb::Get, shared, self.known + 20),
            196 => Op::new(Verb::Rev, "", None),
            _ => Op::new(Verb::Sync, "", None),
        }
    }

    fn begin(&mut self, op: Op, bytes: &mut Vec<u8>) {
        let number = self.calls.len();
        let tag = i32::try_from(number).expect("not so many calls");
        let value = value(self.id, number, self.more);
        op.request(&value).tag(tag).encode(bytes);
        let Writer { node, id: writer, connection, connected, more, .. } = *self;
        let future = op.rev.is_some_and(|rev| rev > self.known) && !op.mutates();
        let (patient, reply, lost) = (op.verb == Verb::Wait || future, None, false);
        let (sent, done) = (Instant::now(), Instant::now());
        let call = Call { node, writer, number, connection, connected, op, reply, patient, lost, sent, done, more };
        self.calls.push(call);
        self.outstanding.push_back(number);
    }

    fn told(&mut self, reply: Reply) {
        let tag = reply.tag.and_then(|tag| usize::try_from(tag).ok());
        let at = self.outstanding.iter().position(|call| Some(*call) == tag);
        let at = at.unwrap_or_else(|| panic!("node {} answers what nobody asked: {reply}", self.node));
        let number = self.outstanding.remove(at).expect("it is there");
        let call = &mut self.calls[number];
        let rev = reply.rev;
        (call.done, call.reply) = (Instant::now(), Some(reply));
        let Op { verb, path, .. } = &call.op;
        let of_cas = path.starts_with("/h/cas/") && call.op.rev.is_none_or(|_| call.op.mutates());
        match (verb, call.outcome(), rev) {
            (Verb::Set, Outcome::Done, Some(rev)) if path.starts_with("/h/own/") => self.own.push((path.clone(), rev)),
            (Verb::Set | Verb::Get, Outcome::Done, Some(rev)) if of_cas => _ = self.seen.insert(path.clone(), rev),
            (Verb::Del, Outcome::Done, _) if of_cas => _ = self.seen.insert(path.clone(), 0),
            (Verb::Set | Verb::Del, Outcome::Refused, _) if of_cas && !path.ends_with("/below") => {
                self.ask.push_back(path.clone());
            }
            _ => {}
        }
        if call.outcome() == Outcome::Done {
            self.known = self.known.max(rev.unwrap_or(0));
        }
        if call.acknowledged() {
            self.shared.acknowledged[&self.node].fetch_add(1, Ordering::Relaxed);
        }
        if call.op.mutates() && call.outcome() == Outcome::Readonly {
            self.shared.refused[&self.node].fetch_add(1, Ordering::Relaxed);
        }
    }
}

// ---- the watchers ----

/// Watchers of everything, one at each of these nodes, that go on by revision when they lose their connection.
pub struct Watch {
    watchers: Vec<JoinHandle<(usize, Vec<Event>)>>,
    from: i64,
    /// The last revision that they are to see.
    until: Arc<AtomicI64>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.until.store(0, Ordering::Relaxed);
    }
}

impl Watch {
    /// Watches at these nodes, from a revision on that has not come yet.
    #[track_caller]
    pub fn start(cluster: &Cluster, nodes: &[usize]) -> Watch {
        let (from, until) = (cluster.converges() + 1, Arc::new(AtomicI64::new(i64::MAX)));
        let watch = |node: &usize| {
            let (node, addr, until) = (*node, cluster.addr(*node), Arc::clone(&until));
            std::thread::spawn(move || (node, watch(addr, from, &until)))
        };
        Watch { watchers: nodes.iter().map(watch).collect(), from, until }
    }

    /// Ends the watchers when they have seen everything up to now, and compares that with the history.
    #[track_caller]
    pub fn stop(mut self, cluster: &Cluster) {
        let last = cluster.converges();
        self.until.store(last, Ordering::Relaxed);
        // One more, for those that have seen all of it and wait.
        let via = cluster.live()[0];
        eventually("a last write", || cluster.connect(via).call(&set("/watch/end", -1, b"")).rev);
        let history = read(cluster, via);
        let from = usize::try_from(self.from - 1).expect("a revision");
        let expected = &history[from..usize::try_from(last).expect("a revision")];
        for watcher in std::mem::take(&mut self.watchers) {
            let (node, seen) = watcher.join().expect("a watcher that saw no nonsense");
            // It may have been ahead of the word to stop.
            assert!(seen.starts_with(expected), "the watcher at node {node} has seen something else than the history");
        }
    }
}

/// Until it has seen revision `until`.
fn watch(addr: SocketAddr, from: i64, until: &AtomicI64) -> Vec<Event> {
    let mut seen = Vec::new();
    let mut next = from;
    loop {
        let Ok(stream) = TcpStream::connect_timeout(&addr, Duration::from_secs(1)) else {
            std::thread::sleep(Duration::from_millis(10));
            continue;
        };
        let mut c = Client::over(stream);
        while c.try_raw(&framed(&wait("/**", next))) {
            let Some(reply) = c.try_next() else { break };
            if next > until.load(Ordering::Relaxed) {
                return seen;
            }
            assert_eq!(reply.rev, Some(next), "a watcher of everything has missed something: {reply}");
            seen.push(event(reply));
            next += 1;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

// ---- the check ----

/// An event of a history. Its revision is its place.
#[derive(Clone, PartialEq, Eq)]
pub struct Event {
    pub flags: i32,
    pub path: String,
    pub value: Vec<u8>,
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "flags={} {} {}", self.flags, self.path, short(&self.value))
    }
}

/// Asks for what `requests` says, numbered from 0 on, with many outstanding, and hands in the answers in order.
#[track_caller]
fn ask_all<'a>(c: &mut Client, count: i64, request: impl Fn(i64) -> Request<'a>, mut each: impl FnMut(i64, Reply)) {
    let mut from = 0;
    while from < count {
        let until = count.min(from + CHUNK);
        let mut bytes = Vec::new();
        for (tag, n) in (0..).zip(from..until) {
            request(n).tag(tag).encode(&mut bytes);
        }
        c.raw(&bytes);
        let mut replies: Vec<Reply> = (from..until).map(|_| c.recv()).collect();
        replies.sort_by_key(|reply| reply.tag);
        (from..until).zip(replies).for_each(|(n, reply)| each(n, reply));
        from = until;
    }
}

fn event(reply: Reply) -> Event {
    let (flags, path) = (reply.flags.expect("flags of an event"), reply.path());
    Event { flags, path, value: reply.value.unwrap_or_default() }
}

/// Hands in the events from the first revision to the last one.
#[track_caller]
fn history(c: &mut Client, last: i64, mut each: impl FnMut(i64, Event)) {
    ask_all(
        c,
        last,
        |n| wait("/**", n + 1),
        |n, reply| {
            assert_eq!(reply.rev, Some(n + 1), "a gap in the history: {reply}");
            each(n + 1, event(reply));
        },
    );
}

/// What the check of a load came to.
#[derive(Debug)]
pub struct Checked {
    /// The revision up to which the histories were compared.
    pub revision: i64,
    pub acknowledged: usize,
    /// Those that were certainly not done: for what they compared with, or for the lack of a quorum.
    pub refused: usize,
    pub unknown: usize,
}

/// Tells the checker what the writers saw, in the order in which it was.
fn tell(calls: &[Call]) -> Checker {
    // What others have written is not recorded; the writers keep to themselves.
    let mut checker = Checker::new().with_foreign(|path| !path.starts_with(b"/h/"));
    let Some(first) = calls.iter().map(|call| call.sent).min() else { return checker };
    let since = |at: Instant| u64::try_from((at - first).as_micros()).expect("a short time");
    // Of what happens at the same moment, nothing is known to be after another: calls go first.
    let mut steps: Vec<(Instant, bool, usize)> = Vec::with_capacity(2 * calls.len());
    for (at, call) in calls.iter().enumerate() {
        steps.push((call.sent, false, at));
        if call.outcome() != Outcome::Open {
            steps.push((call.done, true, at));
        }
    }
    steps.sort_by_key(|(at, is_end, _)| (*at, *is_end));
    let mut conns: BTreeMap<(usize, usize), Conn> = BTreeMap::new();
    let mut open: BTreeMap<usize, checker::Call> = BTreeMap::new();
    for (moment, is_end, at) in steps {
        let (call, moment) = (&calls[at], since(moment));
        if !is_end {
            let conn = conns.entry((call.writer, call.connection));
            let conn = *conn.or_insert_with(|| checker.connect(call.writer, call.node, moment));
            let value = if call.op.verb == Verb::Set { call.value() } else { Vec::new() };
            open.insert(at, checker.call(conn, moment, &call.op.request(&value)));
            continue;
        }
        let asked = open.remove(&at).expect("it was asked before");
        match &call.reply {
            Some(reply) => checker.answer(asked, moment, &response(reply)),
            None => checker.lost(asked, moment),
        }
    }
    checker
}

fn response(reply: &Reply) -> Response<'_> {
    let Reply { tag, flags, rev, path, value, len, err_code, err_detail } = reply;
    Response {
        tag: *tag,
        flags: *flags,
        rev: *rev,
        path: path.as_deref(),
        value: value.as_deref(),
        len: *len,
        err_code: *err_code,
        err_detail: err_detail.as_deref(),
    }
}

fn learn(checker: &mut Checker, node: usize, rev: i64, event: &Event) {
    checker.learn(node, rev, event.flags, event.path.as_bytes(), &event.value);
}

#[track_caller]
fn verdict(mut checker: Checker, last: i64, nodes: &[usize]) -> checker::Statistics {
    checker.verify(last, nodes).unwrap_or_else(|violation| panic!("{violation}"))
}

/// Compares the histories of all live nodes, and the files that they hold, with each other and with what the writers were told.
///
/// # Panics
/// If anything is not as it should be: see the [`checker`].
#[track_caller]
pub fn check(calls: &[Call], cluster: &Cluster) -> Checked {
    let last = cluster.converges();
    let nodes = cluster.live();
    let mut checker = tell(calls);
    let mut paths = BTreeSet::new();
    for node in &nodes {
        history(&mut cluster.connect(*node), last, |rev, event| {
            learn(&mut checker, *node, rev, &event);
            if event.path != "/" {
                paths.insert(event.path);
            }
        });
    }
    let paths: Vec<String> = paths.into_iter().collect();
    nodes.iter().for_each(|node| files(cluster, *node, last, &paths, &mut checker));
    let checker::Statistics { acknowledged, unavailable, refused, unknown, .. } = verdict(checker, last, &nodes);
    let checked = Checked { revision: last, acknowledged, refused: refused + unavailable, unknown };
    eprintln!("{checked:?}");
    checked
}

/// Asks a node for all files that ever were, as of a revision.
#[track_caller]
fn files(cluster: &Cluster, node: usize, last: i64, paths: &[String], checker: &mut Checker) {
    let conn = checker.connect(usize::MAX, node, 0);
    let path = |n: i64| &paths[usize::try_from(n).expect("a place")];
    ask_all(
        &mut cluster.connect(node),
        i64::try_from(paths.len()).expect("a small number"),
        |n| get(path(n)).at(last),
        |n, reply| {
            let call = checker.call(conn, 0, &get(path(n)).at(last));
            checker.answer(call, 0, &response(&reply));
        },
    );
}

/// Reads the history of a node.
#[track_caller]
pub fn read(cluster: &Cluster, node: usize) -> Vec<Event> {
    let mut events = Vec::new();
    history(&mut cluster.connect(node), cluster.converges(), |_, event| events.push(event));
    events
}

/// Compares a history with what the writers were told.
///
/// # Panics
/// If they disagree.
#[track_caller]
pub fn judge(calls: &[Call], events: &[Event]) {
    let mut checker = tell(calls);
    (1..).zip(events).for_each(|(rev, event)| learn(&mut checker, 0, rev, event));
    verdict(checker, i64::try_from(events.len()).expect("a revision"), &[0]);
}

// ---- who may have seen an error ----

/// Asserts that nobody saw an error, or lost a connection, but while the node that he asked was down.
#[track_caller]
pub fn untroubled(calls: &[Call], downtimes: &[Downtime]) {
    for call in calls {
        if matches!(call.outcome(), Outcome::Done | Outcome::Refused | Outcome::Open) {
            continue;
        }
        // A writer that slept meanwhile sends into a connection that is dead already.
        let since = if call.lost { call.connected } else { call.sent };
        let down = downtimes.iter().any(|time| {
            time.node == call.node && time.from <= call.done && time.until.is_none_or(|until| since <= until)
        });
        let ago = |at: Instant| at.elapsed();
        let times = downtimes.iter().filter(|time| time.node == call.node);
        let times: Vec<_> = times.map(|time| (ago(time.from), time.until.map(ago))).collect();
        assert!(down, "an error from node {}, which was down from and until (ago) {times:?}: {call:?}", call.node);
    }
}
