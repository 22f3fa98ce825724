//! Writers all over a cluster that note what they were told, and the check of it against what the nodes remember.
//!
//! Every mutation names itself: a set by its value, a deletion by its path, a nop by nothing, so nops are counted. The
//! nodes' histories, read event by event from the first revision on, must be one and the same, without a gap, and:
//! * every acknowledged mutation is in it exactly once, with the revision it was given;
//! * one that was refused, or met READONLY, is not in it;
//! * one whose outcome the writer could not learn is in it at most once;
//! * a mutation, and a SYNC, that was sent after another was acknowledged has a later revision (SYNC: or the same);
//! * what one connection sent was applied in the order in which it was sent;
//! * a compare-and-set found what it compared with, and one that was refused for a mismatch did not;
//! * a read shows what the history holds, nothing older than what its connection had been told before.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::fmt;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use doozer::wire::{ErrCode, Request, Verb};

use super::cluster::{Cluster, Downtime};
use super::wire::*;
use super::{Random, eventually};

/// Requests that a writer has outstanding at a time, at most.
const WINDOW: usize = 16;
/// Events that are asked for at a time.
const CHUNK: i64 = 500;

// ---- what was asked, and what was told ----

/// What a writer asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    Set { path: String, rev: i64 },
    Del { path: String, rev: i64 },
    Nop,
    Get { path: String },
    Sync,
}

impl Op {
    /// Whether it makes a revision.
    pub fn mutates(&self) -> bool {
        matches!(self, Op::Set { .. } | Op::Del { .. } | Op::Nop)
    }
}

/// What became of it, as far as the writer knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was done. The revision and the value are those of the answer, where that has them.
    Done { rev: Option<i64>, value: Option<Vec<u8>> },
    /// A compare-and-set that did not find what it compared with.
    Mismatch,
    /// No quorum: certainly not done.
    Readonly,
    /// The connection was lost before the answer.
    Lost,
    /// The server says that it cannot know.
    Unknown,
    /// Any other error.
    Refused(String),
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
    pub outcome: Outcome,
    /// Some moment before it left.
    pub sent: Instant,
    /// Some moment after its outcome came.
    pub done: Instant,
    /// Bytes that are added to its value.
    more: usize,
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Call { node, writer, number, connection, op, outcome, .. } = self;
        write!(f, "number {number} of writer {writer}, connection {connection} to node {node}: {op:?}, ")?;
        match outcome {
            Outcome::Done { rev, value } => write!(f, "done: {rev:?} {}", short(value.as_deref().unwrap_or_default()))?,
            other => write!(f, "{other:?}")?,
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
    fn acknowledged(&self) -> bool {
        self.op.mutates() && matches!(self.outcome, Outcome::Done { .. })
    }

    /// The revision that the answer told.
    fn told(&self) -> Option<i64> {
        match self.outcome {
            Outcome::Done { rev, .. } => rev,
            _ => None,
        }
    }
}

/// The value that a writer's set of this number has, made longer by `more` bytes.
fn value(writer: usize, number: usize, more: usize) -> Vec<u8> {
    let mut random = Random(writer as u64 * 1_000_003 + number as u64);
    let len = match random.below(100) {
        0 => 10_000 + random.below(20_000),
        n if n < 20 => 0,
        _ => random.below(300),
    };
    let mut value = format!("{writer} {number} ").into_bytes();
    value.extend(random.bytes(len + more));
    value
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
        let (calls, connection, outstanding) = Default::default();
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
                self.connection += 1;
                self.converse(Client::over(stream));
                let now = Instant::now();
                for call in std::mem::take(&mut self.outstanding) {
                    self.calls[call].done = now;
                }
            }
            // The node is down; it is asked again, gently.
            std::thread::sleep(Duration::from_millis(10));
        }
        self.calls
    }

    /// Until the connection is lost; or the writer is to stop, and has all answers.
    fn converse(&mut self, mut c: Client) {
        loop {
            let mut bytes = Vec::new();
            while !self.stopping() && self.outstanding.len() < WINDOW {
                let op = self.choose();
                self.begin(op, &mut bytes);
            }
            if self.outstanding.is_empty() {
                return;
            }
            let sent = c.try_raw(&bytes);
            // What is acknowledged before the end may still be on its way to us.
            let keep = if sent && !self.stopping() { WINDOW / 2 } else { 0 };
            while self.outstanding.len() > keep {
                let Some(reply) = c.try_next() else { return };
                self.told(&reply);
            }
            std::thread::sleep(self.pause);
        }
    }

    fn choose(&mut self) -> Op {
        if let Some(path) = self.ask.pop_front() {
            return Op::Get { path };
        }
        let (id, number) = (self.id, self.calls.len());
        match self.random.below(100) {
            n if n < 45 => Op::Set { path: format!("/h/shared/{}", self.random.below(40)), rev: -1 },
            n if n < 60 => {
                let path = format!("/h/cas/{}", self.random.below(8));
                let rev = self.seen.get(&path).copied().unwrap_or(0);
                Op::Set { path, rev }
            }
            n if n < 70 => Op::Set { path: format!("/h/own/{id}/{number}"), rev: 0 },
            n if n < 80 && !self.own.is_empty() => {
                let own = self.random.below(self.own.len());
                let (path, rev) = self.own.swap_remove(own);
                Op::Del { path, rev: if n % 2 == 0 { rev } else { -1 } }
            }
            n if n < 85 => Op::Del { path: format!("/h/none/{id}/{number}"), rev: 0 },
            n if n < 90 => Op::Nop,
            n if n < 97 => Op::Get { path: format!("/h/shared/{}", self.random.below(40)) },
            _ => Op::Sync,
        }
    }

    fn begin(&mut self, op: Op, bytes: &mut Vec<u8>) {
        let number = self.calls.len();
        let tag = i32::try_from(number).expect("not so many calls");
        let value = value(self.id, number, self.more);
        let request = match &op {
            Op::Set { path, rev } => set(path, *rev, &value),
            Op::Del { path, rev } => del(path, *rev),
            Op::Nop => bare(Verb::Nop),
            Op::Get { path } => get(path),
            Op::Sync => bare(Verb::Sync),
        };
        request.tag(tag).encode(bytes);
        let Writer { node, id: writer, connection, connected, more, .. } = *self;
        let (now, outcome) = (Instant::now(), Outcome::Lost);
        self.calls.push(Call { node, writer, number, connection, connected, op, outcome, sent: now, done: now, more });
        self.outstanding.push_back(number);
    }

    fn told(&mut self, reply: &Reply) {
        let tag = reply.tag.and_then(|tag| usize::try_from(tag).ok());
        let at = self.outstanding.iter().position(|call| Some(*call) == tag);
        let at = at.unwrap_or_else(|| panic!("node {} answers what nobody asked: {reply}", self.node));
        let number = self.outstanding.remove(at).expect("it is there");
        let call = &mut self.calls[number];
        call.done = Instant::now();
        let code = reply.err_code.map(|code| ErrCode::try_from(code).expect("a known error"));
        let cas = matches!(call.op, Op::Set { rev, .. } if rev >= 0);
        call.outcome = match code {
            None => Outcome::Done { rev: reply.rev, value: reply.value.clone() },
            Some(ErrCode::RevMismatch) if cas => Outcome::Mismatch,
            Some(ErrCode::Readonly) => Outcome::Readonly,
            Some(ErrCode::Other) if reply.to_string().contains("outcome unknown") => Outcome::Unknown,
            Some(_) => Outcome::Refused(reply.to_string()),
        };
        match (&call.op, &call.outcome, reply.rev) {
            (Op::Set { path, .. }, Outcome::Done { .. }, Some(rev)) if path.starts_with("/h/own/") => {
                self.own.push((path.clone(), rev));
            }
            (Op::Set { path, .. } | Op::Get { path }, Outcome::Done { .. }, Some(rev))
                if path.starts_with("/h/cas/") =>
            {
                self.seen.insert(path.clone(), rev);
            }
            (Op::Set { path, .. }, Outcome::Mismatch, _) => self.ask.push_back(path.clone()),
            _ => {}
        }
        if call.acknowledged() {
            self.shared.acknowledged[&self.node].fetch_add(1, Ordering::Relaxed);
        }
        if call.outcome == Outcome::Readonly {
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

/// A history, and where in it each mutation was found.
#[derive(Default)]
pub struct Found {
    pub events: Vec<Event>,
    /// Of each path, the revisions that changed it, and whether it is there since.
    versions: BTreeMap<String, Vec<(i64, bool)>>,
    /// Of each writer's mutation, the revision.
    revs: BTreeMap<(usize, usize), i64>,
    nops: usize,
}

/// What the check of a load came to.
#[derive(Debug)]
pub struct Checked {
    /// The revision up to which the histories were compared.
    pub revision: i64,
    pub acknowledged: usize,
    /// Those that were certainly not done: a mismatch, or READONLY.
    pub refused: usize,
    pub unknown: usize,
}

/// Compares the histories of all live nodes with each other, and with what the writers were told.
///
/// # Panics
/// If anything is not as the description of this file says.
#[track_caller]
pub fn check(calls: &[Call], cluster: &Cluster) -> Checked {
    let last = cluster.converges();
    let nodes = cluster.live();
    let mut events = Vec::new();
    history(&mut cluster.connect(nodes[0]), last, |_, event| events.push(event));
    for node in &nodes[1..] {
        let mut expected = events.iter();
        history(&mut cluster.connect(*node), last, |rev, event| {
            let other = expected.next().expect("as many");
            assert!(event == *other, "revision {rev} is {event:?} on node {node}, and {other:?} on node {}", nodes[0]);
        });
    }
    let found = judge(calls, events);
    nodes.iter().for_each(|node| files(cluster, *node, last, &found));
    let count = |is: fn(&Call) -> bool| calls.iter().filter(|call| is(call)).count();
    let checked = Checked {
        revision: last,
        acknowledged: count(Call::acknowledged),
        refused: count(|c| matches!(c.outcome, Outcome::Mismatch | Outcome::Readonly)),
        unknown: count(|c| c.op.mutates() && matches!(c.outcome, Outcome::Lost | Outcome::Unknown)),
    };
    eprintln!("{checked:?}");
    checked
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
pub fn judge(calls: &[Call], events: Vec<Event>) -> Found {
    let mut found = Found { events, ..Found::default() };
    find(calls, &mut found);
    outcomes(calls, &found);
    compared(calls, &found);
    in_order(calls, &found);
    in_time(calls, &found);
    reads(calls, &found);
    found
}

/// Finds whose each event is, and that it is what it was asked to be.
#[track_caller]
fn find(calls: &[Call], found: &mut Found) {
    let names: BTreeMap<(usize, usize), &Call> = calls.iter().map(|c| ((c.writer, c.number), c)).collect();
    let deletions: BTreeMap<&str, &Call> = calls
        .iter()
        .filter_map(|call| match &call.op {
            Op::Del { path, .. } => Some((path.as_str(), call)),
            _ => None,
        })
        .collect();
    for (rev, event) in (1..).zip(&found.events) {
        found.versions.entry(event.path.clone()).or_default().push((rev, event.flags == 4));
        if event.path == "/" {
            assert_eq!((event.flags, event.value.len()), (0, 0), "revision {rev}: {event:?}");
            found.nops += 1;
        }
        if !event.path.starts_with("/h/") {
            continue;
        }
        let call = match event.flags {
            4 => named(&event.value).and_then(|name| names.get(&name)),
            8 => deletions.get(event.path.as_str()),
            _ => None,
        };
        let call = call.unwrap_or_else(|| panic!("nobody wrote revision {rev}: {event:?}"));
        let expected = match &call.op {
            Op::Set { path, .. } => (path, value(call.writer, call.number, call.more)),
            Op::Del { path, .. } => (path, Vec::new()),
            other => panic!("revision {rev} is of {other:?}: {event:?}"),
        };
        assert!((&event.path, &event.value) == (expected.0, &expected.1), "revision {rev} is not {call:?}: {event:?}");
        let before = found.revs.insert((call.writer, call.number), rev);
        assert_eq!(before, None, "done twice, the second time by revision {rev}: {call:?}");
    }
}

/// The writer and number that a value names.
fn named(value: &[u8]) -> Option<(usize, usize)> {
    let mut words = value.splitn(3, |byte| *byte == b' ').map(|word| std::str::from_utf8(word).ok()?.parse().ok());
    Some((words.next()??, words.next()??))
}

/// Acknowledged: there, under its revision. Refused: not there.
#[track_caller]
fn outcomes(calls: &[Call], found: &Found) {
    let (mut nops, mut perhaps) = (0, 0);
    for call in calls {
        let rev = found.revs.get(&(call.writer, call.number)).copied();
        match &call.outcome {
            Outcome::Refused(why) => panic!("refused with {why}: {call:?}"),
            Outcome::Done { .. } if call.op == Op::Nop => nops += 1,
            Outcome::Lost | Outcome::Unknown if call.op == Op::Nop => perhaps += 1,
            Outcome::Done { .. } if call.op.mutates() => {
                assert!(rev.is_some(), "acknowledged and not there: {call:?}");
                let told = call.told();
                assert!(told.is_none() || told == rev, "acknowledged as {told:?}, there as {rev:?}: {call:?}");
                assert_eq!(told.is_some(), matches!(call.op, Op::Set { .. }), "{call:?}");
            }
            Outcome::Mismatch | Outcome::Readonly => assert_eq!(rev, None, "refused and done: {call:?}"),
            Outcome::Done { .. } | Outcome::Lost | Outcome::Unknown => {}
        }
    }
    let there = found.nops;
    assert!((nops..=nops + perhaps).contains(&there), "{nops} nops were acknowledged, {there} are there");
}

/// What a path had before a revision: the revision that wrote it, 0 if it was missing.
fn before(found: &Found, path: &str, rev: i64) -> i64 {
    let versions = found.versions.get(path).map_or(&[][..], Vec::as_slice);
    match versions.partition_point(|(at, _)| *at < rev).checked_sub(1).map(|i| versions[i]) {
        Some((at, true)) => at,
        Some((_, false)) | None => 0,
    }
}

/// A compare-and-set found what it compared with; one that was refused did not at some moment.
#[track_caller]
fn compared(calls: &[Call], found: &Found) {
    for call in calls {
        let (Op::Set { path, rev } | Op::Del { path, rev }) = &call.op else { continue };
        if let Some(at) = found.revs.get(&(call.writer, call.number)) {
            let was = before(found, path, *at);
            assert!(*rev == -1 || was <= *rev, "done at {at} although the file was of {was}: {call:?}");
        }
        if call.outcome == Outcome::Mismatch {
            let versions = found.versions.get(path).map_or(&[][..], Vec::as_slice);
            let later = versions.iter().any(|(at, set)| *set && at > rev);
            assert!(later, "a mismatch although the file was never later than that: {call:?}");
        }
    }
}

/// One connection's mutations were applied in their order.
#[track_caller]
fn in_order(calls: &[Call], found: &Found) {
    let mut last: BTreeMap<(usize, usize), (i64, &Call)> = BTreeMap::new();
    for call in calls {
        let Some(rev) = found.revs.get(&(call.writer, call.number)) else { continue };
        if let Some((before, earlier)) = last.insert((call.writer, call.connection), (*rev, call)) {
            assert!(before < *rev, "revision {before} is {earlier:?}, sent before what is revision {rev}: {call:?}");
        }
    }
}

/// What was sent after another was acknowledged, by whichever node, comes after it.
#[track_caller]
fn in_time(calls: &[Call], found: &Found) {
    let there = |call: &Call| match call.op {
        Op::Sync => call.told(),
        _ => found.revs.get(&(call.writer, call.number)).copied(),
    };
    let mut sent: Vec<(&Call, i64)> = calls.iter().filter_map(|call| Some((call, there(call)?))).collect();
    let mut done: Vec<(&Call, i64)> =
        sent.iter().filter(|(c, _)| matches!(c.outcome, Outcome::Done { .. })).copied().collect();
    sent.sort_by_key(|(call, _)| call.sent);
    done.sort_by_key(|(call, _)| call.done);
    let mut done = done.into_iter().peekable();
    let mut latest: Option<(&Call, i64)> = None;
    for (call, rev) in sent {
        while let Some(next) = done.next_if(|(earlier, _)| earlier.done < call.sent) {
            if latest.is_none_or(|(_, known)| known < next.1) {
                latest = Some(next);
            }
        }
        if let Some((earlier, known)) = latest {
            let after = rev > known || (call.op == Op::Sync && rev == known);
            assert!(after, "revision {known} was told before revision {rev} was asked for: {earlier:?}, {call:?}");
        }
    }
}

/// Reads show what the history holds, as of a moment no earlier than what the connection had been told.
#[track_caller]
fn reads(calls: &[Call], found: &Found) {
    let mut connections: BTreeMap<(usize, usize), Vec<&Call>> = BTreeMap::new();
    for call in calls.iter().filter(|call| matches!(call.outcome, Outcome::Done { .. })) {
        connections.entry((call.writer, call.connection)).or_default().push(call);
    }
    for of_one in connections.values() {
        let told =
            |call: &&Call| Some((call.done, call.told().or(found.revs.get(&(call.writer, call.number)).copied())?));
        let mut known: Vec<(Instant, i64)> = of_one.iter().filter_map(told).collect();
        known.sort();
        let mut known = known.into_iter().peekable();
        let mut least = 0;
        for call in of_one {
            while let Some((_, rev)) = known.next_if(|(done, _)| *done < call.sent) {
                least = least.max(rev);
            }
            let Op::Get { path } = &call.op else { continue };
            let Outcome::Done { rev: Some(rev), value } = &call.outcome else { panic!("no revision: {call:?}") };
            let versions = found.versions.get(path).map_or(&[][..], Vec::as_slice);
            if *rev == 0 {
                let missing =
                    before(found, path, least + 1) == 0 || versions.iter().any(|(at, set)| !set && *at > least);
                assert!(missing, "not missing since revision {least}: {call:?}");
                continue;
            }
            let at = versions.iter().position(|version| *version == (*rev, true));
            let at = at.unwrap_or_else(|| panic!("what was read was never written: {call:?}"));
            let event = &found.events[usize::try_from(*rev - 1).expect("a revision")];
            assert!(value.as_ref() == Some(&event.value), "not the value of revision {rev}: {call:?}");
            let until = versions.get(at + 1).map_or(i64::MAX, |(rev, _)| *rev);
            assert!(until > least, "gone since revision {until}, told of {least} before it was asked: {call:?}");
        }
    }
}

/// A node holds the files that the history leaves.
#[track_caller]
fn files(cluster: &Cluster, node: usize, last: i64, found: &Found) {
    let files = found.versions.keys().filter(|path| *path != "/");
    let files: Vec<(&String, i64)> = files.map(|path| (path, before(found, path, last + 1))).collect();
    let count = i64::try_from(files.len()).expect("a small number");
    let file = |n: i64| files[usize::try_from(n).expect("a place")];
    ask_all(
        &mut cluster.connect(node),
        count,
        |n| get(file(n).0).at(last),
        |n, reply| {
            let (path, rev) = file(n);
            let value = usize::try_from(rev - 1).map_or(&[][..], |at| &found.events[at].value);
            assert_eq!(reply.rev, Some(rev), "{path} on node {node}: {reply}");
            assert!(reply.value.as_deref() == Some(value), "{path} of revision {rev} on node {node}: {reply}");
        },
    );
}

// ---- who may have seen an error ----

/// Asserts that nobody saw an error, or lost a connection, but while the node that he asked was down.
#[track_caller]
pub fn untroubled(calls: &[Call], downtimes: &[Downtime]) {
    for call in calls {
        if matches!(call.outcome, Outcome::Done { .. } | Outcome::Mismatch) {
            continue;
        }
        // A writer that slept meanwhile sends into a connection that is dead already.
        let since = if call.outcome == Outcome::Lost { call.connected } else { call.sent };
        let down = downtimes.iter().any(|time| {
            time.node == call.node && time.from <= call.done && time.until.is_none_or(|until| since <= until)
        });
        let ago = |at: Instant| at.elapsed();
        let times = downtimes.iter().filter(|time| time.node == call.node);
        let times: Vec<_> = times.map(|time| (ago(time.from), time.until.map(ago))).collect();
        assert!(down, "an error from node {}, which was down from and until (ago) {times:?}: {call:?}", call.node);
    }
}

/// The longest that an acknowledged mutation took at one of these nodes.
pub fn slowest(calls: &[Call], nodes: &[usize]) -> Duration {
    let took = calls.iter().filter(|call| call.acknowledged() && nodes.contains(&call.node));
    took.map(|call| call.done - call.sent).max().unwrap_or_default()
}
