//! The replica driven by hand: bytes in, bytes out, a disk that is done when the test says so.

use std::collections::BTreeMap;

use super::batch::Registration;
use super::members::Change;
use super::rebuild::Rebuild;
use super::snapshot::{Part, Restore};
use super::*;
use crate::limits;
use crate::log::{Params, Piece, SnapshotReader};
use crate::store::{Lookup, Mutation};
use crate::wire::peer;
use crate::wire::{ErrCode, Verb};

mod strangers;

const NODE: &[u8; 16] = b"ABCDEFGHIJKLMNOP";
const SEGMENT: u64 = 64 << 20;

struct Node {
    replica: Replica,
}

/// A decoded answer, owned.
#[derive(Clone, Debug, Default, PartialEq)]
struct Answer {
    tag: Option<i32>,
    flags: Option<i32>,
    rev: Option<i64>,
    path: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    err: Option<i32>,
    detail: Option<String>,
}

pub(super) fn config() -> Config {
    Config {
        id: String::from_utf8(NODE.to_vec()).unwrap(),
        node: *NODE,
        raft_id: 1,
        epoch: 1,
        incarnation: 0,
        cluster: "local".into(),
        cluster_id: 77,
        seeds: vec![],
        earlier: vec![],
        heartbeat_ms: 50,
        election_ms: 400,
        timeout_ms: 60_000,
        history: 1_000,
        addr: "127.0.0.1:8046".into(),
        hostname: "host".into(),
        version: "1".into(),
        secrets: Secrets::default(),
        challenges: [3; 32],
        readers: 1_000,
        pulse_ms: 0,
        segment: limits::SEGMENT,
        dir: "/data".into(),
        stopwatch: || 0,
    }
}

fn request(verb: Verb, tag: i32) -> Request<'static> {
    Request { tag: Some(tag), ..Request::new(verb) }
}

fn set<'a>(tag: i32, path: &'a str, rev: i64, value: &'a [u8]) -> Request<'a> {
    Request { path: Some(path.as_bytes()), rev: Some(rev), value: Some(value), ..request(Verb::Set, tag) }
}

fn wait(tag: i32, path: &str, rev: i64) -> Request<'_> {
    Request { path: Some(path.as_bytes()), rev: Some(rev), ..request(Verb::Wait, tag) }
}

/// Returns where the last whole frame ends.
fn whole(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Ok(frame::Split::Whole { consumed, .. }) = frame::split(&bytes[at..]) {
        at += consumed;
    }
    at
}

impl Node {
    /// A node that has made itself known.
    fn new(history: u64) -> Node {
        let mut node = Node::fresh(history);
        node.settle();
        assert!(node.replica.serving());
        node
    }

    fn fresh(history: u64) -> Node {
        Node::with(config(), history)
    }

    fn with(config: Config, history: u64) -> Node {
        let (machine, start) = Rebuild::new(*NODE, history).founded(1, 7);
        let mut log = Log::create(Params { segment_size: SEGMENT, node: *NODE });
        let first = log.wants_segment().unwrap();
        log.prepared(first.generation);
        let recovered = Recovered { machine, start, log, snapshot: 0, snapshot_bytes: 0 };
        let mut replica = Replica::new(config, recovered).unwrap();
        replica.campaign().unwrap();
        Node { replica }
    }

    /// Turns, and a disk that does everything at once, until there is nothing left to do.
    fn settle(&mut self) {
        loop {
            self.replica.turn();
            if let Some(prepare) = self.replica.next_prepare() {
                self.replica.prepared(prepare.generation);
            }
            match self.replica.next_write() {
                Some(write) => self.replica.written(write),
                None if self.replica.has_work() => {}
                None => break,
            }
        }
    }

    fn send(&mut self, conn: Conn, requests: &[Request<'_>]) -> Receipt {
        let mut bytes = Vec::new();
        for request in requests {
            request.encode(&mut bytes);
        }
        self.replica.receive(conn, &bytes)
    }

    fn answers(&mut self, conn: Conn) -> (Vec<Answer>, Output) {
        let mut bytes = Vec::new();
        let output = self.replica.output(conn, &mut bytes);
        // A large output comes in pieces.
        while matches!(frame::split(&bytes[whole(&bytes)..]), Ok(frame::Split::Partial { needed: Some(_) })) {
            let mut more = Vec::new();
            self.replica.sent(conn);
            if self.replica.output(conn, &mut more) == Output::Nothing {
                self.replica.turn();
            }
            bytes.append(&mut more);
        }
        let mut rest = &bytes[..];
        let mut answers = Vec::new();
        while let frame::Split::Whole { body, consumed } = frame::split(rest).unwrap() {
            let r = Response::decode(&rest[body]).unwrap();
            answers.push(Answer {
                tag: r.tag,
                flags: r.flags,
                rev: r.rev,
                path: r.path.map(<[u8]>::to_vec),
                value: r.value.map(<[u8]>::to_vec),
                err: r.err_code,
                detail: r.err_detail.map(|d| String::from_utf8(d.to_vec()).unwrap()),
            });
            rest = &rest[consumed..];
        }
        assert!(rest.is_empty(), "answers are whole");
        (answers, output)
    }

    /// Writes a file as a node of an earlier version did, which took deeper paths from its clients.
    fn put(&mut self, path: &str, value: &[u8]) {
        self.begin_put(path, value);
        self.settle();
    }

    fn begin_put(&mut self, path: &str, value: &[u8]) {
        let mutation = Mutation::Set { path: path.as_bytes(), rev: -1, value };
        self.replica.enqueue(requests::Pending { asker: requests::Asker::Own }, &mutation.into());
    }

    fn call(&mut self, conn: Conn, request: Request<'_>) -> Answer {
        self.send(conn, &[request]);
        self.settle();
        let (mut answers, _) = self.answers(conn);
        assert_eq!(answers.len(), 1);
        answers.remove(0)
    }

    fn revision_of(&self, path: &str) -> i64 {
        let store = &self.replica.machine.store;
        match store.lookup(path.as_bytes(), store.revision()) {
            Lookup::File { rev, .. } => rev,
            _ => 0,
        }
    }
}

/// The promise that all others rest on: while the write is on its way to the disk, the client hears nothing, and no
/// reader sees what may yet be lost.
#[test]
fn nothing_is_answered_or_shown_before_it_is_durable() {
    let mut node = Node::new(100);
    let (writer, reader) = (node.replica.open(), node.replica.open());
    node.send(writer, &[set(1, "/a", 0, b"x")]);
    node.replica.turn();
    let write = node.replica.next_write().expect("a batch to write");
    for _ in 0..3 {
        node.replica.turn();
        assert_eq!(node.answers(writer), (vec![], Output::Nothing));
        node.send(reader, &[Request { path: Some(b"/a"), ..request(Verb::Get, 2) }]);
        assert_eq!(node.answers(reader).0[0].rev, Some(0));
    }
    node.replica.written(write);
    node.replica.turn();
    assert_eq!(node.answers(writer).0[0].rev, Some(node.revision_of("/a")));
}

/// While one batch is being written the next gathers, and all of it becomes one write.
#[test]
fn what_comes_during_a_write_becomes_one_batch() {
    let mut node = Node::new(100);
    let conn = node.replica.open();
    node.send(conn, &[set(0, "/a", -1, b"x")]);
    node.replica.turn();
    let write = node.replica.next_write().unwrap();
    for tag in 1..=50 {
        node.send(conn, &[set(tag, "/a", -1, b"y")]);
        node.replica.turn();
        assert!(node.replica.next_write().is_none(), "one write at a time");
    }
    node.replica.written(write);
    node.replica.turn();
    let second = node.replica.next_write().unwrap();
    node.replica.written(second);
    node.replica.turn();
    assert!(node.replica.next_write().is_none());
    let tags: Vec<_> = node.answers(conn).0.iter().map(|a| a.tag.unwrap()).collect();
    assert_eq!(tags, (0..=50).collect::<Vec<_>>());
}

/// A client that has sent its write and gone must find it done when it comes back; the slot of its connection may have
/// been given to another by then, which must not get the answer.
#[test]
fn a_write_outlives_its_connection_and_its_answer_meets_nobody_else() {
    let mut node = Node::new(100);
    let gone = node.replica.open();
    node.send(gone, &[set(1, "/a", 0, b"x")]);
    node.replica.turn();
    node.replica.close(gone);
    let next = node.replica.open();
    node.settle();
    assert!(node.revision_of("/a") > 0);
    assert_eq!(node.answers(next), (vec![], Output::Nothing));
}

/// A client that closes its sending side still gets what it asked for, waits apart, and then the end.
#[test]
fn after_the_end_of_stream_writes_are_answered_and_waits_are_dropped() {
    let mut node = Node::new(100);
    let conn = node.replica.open();
    let future = Request { path: Some(b"/a"), rev: Some(1000), ..request(Verb::Get, 3) };
    node.send(conn, &[wait(1, "/never", 1), set(2, "/a", 0, b"x"), future, request(Verb::Sync, 4)]);
    node.replica.end_of_stream(conn);
    assert_eq!(node.answers(conn).1, Output::Nothing, "not yet: a write is on its way");
    node.settle();
    let (answers, output) = node.answers(conn);
    let mut tags: Vec<_> = answers.iter().map(|a| a.tag.unwrap()).collect();
    tags.sort_unstable();
    assert_eq!((tags, output), (vec![2, 4], Output::Send));
    assert_eq!(node.answers(conn), (vec![], Output::Finish));
    assert_eq!(node.replica.machine.store.waiters(), 0);
}

/// A thousand waits on a large file, one write, and a client that does not read: the answers are a gigabyte, and must
/// not be composed before there is room for them.
#[test]
fn the_events_of_a_client_that_does_not_read_take_no_memory() {
    let mut node = Node::new(100);
    let conn = node.replica.open();
    let waits: Vec<_> = (0..1000).map(|tag| wait(tag, "/big", 1)).collect();
    node.send(conn, &waits);
    let big = vec![7; limits::VALUE_MAX];
    let other = node.replica.open();
    node.call(other, set(0, "/big", 0, &big));
    assert!(node.replica.buffered() <= session::OUTPUT_HIGH + limits::VALUE_MAX + 100);
    let mut tags = Vec::new();
    loop {
        let (answers, output) = node.answers(conn);
        if output == Output::Nothing {
            break;
        }
        assert!(answers.len() <= 2);
        assert!(answers.iter().all(|a| a.value.as_ref().unwrap().len() == big.len()));
        tags.extend(answers.iter().map(|a| a.tag.unwrap()));
        node.replica.sent(conn);
        node.replica.turn();
        assert!(node.replica.buffered() <= session::OUTPUT_HIGH + limits::VALUE_MAX + 100);
    }
    assert_eq!(tags, (0..1000).collect::<Vec<_>>());
}

/// An event leaves the history because its client did not read for long. The client must get an error, not silence and not another
/// event, and the history must not be kept for it for ever.
#[test]
fn an_event_that_is_gone_before_it_could_be_sent_is_too_late() {
    let mut node = Node::new(5);
    let conn = node.replica.open();
    let next = node.replica.revision() + 1;
    node.send(conn, &[wait(1, "/big", next), wait(2, "/big", next)]);
    let other = node.replica.open();
    node.call(other, set(0, "/big", -1, &vec![1; limits::VALUE_MAX]));
    node.replica.tick(limits::ANSWER_PIN_MS);
    for tag in 1..20 {
        node.call(other, set(tag, "/x", -1, b""));
    }
    let (first, _) = node.answers(conn);
    assert_eq!((first.len(), first[0].tag, first[0].err), (1, Some(1), None));
    node.replica.sent(conn);
    node.settle();
    let (second, _) = node.answers(conn);
    assert_eq!((second.len(), second[0].tag, second[0].err), (1, Some(2), Some(ErrCode::TooLate.code())));
}

/// Returns a node, a large value, and many connections that wait for it.
fn many_wait(history: u64, readers: usize) -> (Node, Vec<Conn>, Vec<u8>) {
    let mut node = Node::new(history);
    let next = node.replica.revision() + 1;
    let conns: Vec<_> = (0..readers).map(|_| node.replica.open()).collect();
    for conn in &conns {
        node.send(*conn, &[wait(1, "/big", next)]);
    }
    (node, conns, vec![7; limits::VALUE_MAX])
}

/// When one write of a large file woke many waits, everybody had to wait until all were answered. Now each turn composes and hands
/// out a few megabytes, other requests are answered in the turn in which they come, and no connection is closed because of the
/// burst.
#[test]
fn one_write_that_many_wait_for_is_answered_in_slices() {
    let (mut node, conns, big) = many_wait(100, 40);
    let (writer, other) = (node.replica.open(), node.replica.open());
    node.send(writer, &[set(0, "/big", -1, &big)]);
    node.replica.turn();
    let write = node.replica.next_write().unwrap();
    node.replica.written(write);
    let (mut got, mut turns) = (vec![0; conns.len()], 0);
    loop {
        let before = node.replica.buffered();
        node.replica.turn();
        turns += 1;
        assert!(node.replica.buffered() <= before + limits::ANSWERS_TURN + limits::VALUE_MAX + 10_000);
        node.send(other, &[request(Verb::Rev, 2)]);
        assert_eq!(node.answers(other).0.len(), 1, "others are answered at once");
        node.replica.sent(other);
        let mut handed = 0;
        for (conn, got) in conns.iter().zip(&mut got) {
            let mut bytes = Vec::new();
            while node.replica.output(*conn, &mut bytes) == Output::Send {
                node.replica.sent(*conn);
                handed += bytes.len();
                *got += bytes.len();
                bytes.clear();
            }
        }
        assert!(handed <= limits::OUTPUT_TURN + limits::OUTPUT_PIECE, "a turn hands out {handed}");
        assert_eq!(node.replica.over_output_limit(), None);
        if !node.replica.has_work() {
            break;
        }
    }
    assert!(turns >= 20, "{turns}");
    assert!(got.iter().all(|got| *got > big.len()), "all have been answered: {got:?}");
}

/// Clients whose turn has not come must not pay for it: while the server is busy with the burst, the history may move on beyond the
/// event.
#[test]
fn an_event_is_kept_for_those_whose_turn_has_not_come() {
    let (mut node, conns, big) = many_wait(3, 40);
    let writer = node.replica.open();
    for i in 0..10 {
        let (path, value) = if i == 0 { ("/big", &big[..]) } else { ("/x", &b""[..]) };
        node.send(writer, &[set(i, path, -1, value)]);
        node.replica.turn();
        while let Some(write) = node.replica.next_write() {
            node.replica.written(write);
        }
    }
    node.settle();
    for conn in conns {
        node.replica.turn();
        let (answers, _) = node.answers(conn);
        assert_eq!(answers.iter().map(|a| a.value.as_ref().map(Vec::len)).collect::<Vec<_>>(), [Some(big.len())]);
    }
    node.answers(writer);
    for tag in 0..10 {
        node.call(writer, request(Verb::Nop, tag));
    }
    let store = &node.replica.machine.store;
    assert_eq!(store.revision() - store.first_revision() + 1, 3, "and is trimmed when they were served");
}

/// One write woke tens of thousands of reads with paths of thousands of components, all in the same turn: other clients waited for
/// seconds, and so did the heartbeats. Counted by the answers: what an answer costs at least is known.
#[test]
fn costly_reads_that_one_write_wakes_are_answered_in_slices() {
    const CONNS: usize = 4;
    let deep = "/a".repeat(2_000);
    let missing = "/b".repeat(2_000);
    // For each kind of request: its path, and how many answers a turn may bring. One turn handles fewer than 200,000 components,
    // the bytes of the answers apart.
    let most = 200_000 / 2_000;
    let get = |path, tag, rev| Request { path: Some(path), rev: Some(rev), ..request(Verb::Get, tag) };
    let stat = |path, tag, rev| Request { path: Some(path), rev: Some(rev), ..request(Verb::Stat, tag) };
    let walk =
        |path, tag, rev| Request { path: Some(path), rev: Some(rev), offset: Some(0), ..request(Verb::Walk, tag) };
    let getdir =
        |path, tag, rev| Request { path: Some(path), rev: Some(rev), offset: Some(0), ..request(Verb::Getdir, tag) };
    let wait = |path, tag, rev| Request { path: Some(path), rev: Some(rev), ..request(Verb::Wait, tag) };
    type Ask<'a> = &'a dyn Fn(&'a [u8], i32, i64) -> Request<'a>;
    let (deep_bytes, parent) = (deep.as_bytes(), &deep.as_bytes()[..3_998]);
    let kinds: [(&str, Ask<'_>, &[u8], usize); 9] = [
        ("GET of a deep path", &get, deep_bytes, most),
        ("GET of a missing path", &get, missing.as_bytes(), most),
        ("STAT of a deep path", &stat, deep_bytes, most),
        ("GETDIR of a deep path", &getdir, parent, most),
        ("WALK of a deep path", &walk, deep_bytes, most),
        ("WALK that finds a deep path", &walk, b"/a/**", most),
        ("WAIT for a deep path", &wait, b"/a/**", most),
        ("GET of 4 KiB", &get, b"/4k", limits::ANSWERS_TURN / limits::ANSWER_SMALL),
        ("STAT", &stat, b"/4k", limits::ANSWERS_TURN / limits::ANSWER_COST),
    ];
    for (kind, ask, path, most) in kinds {
        for reads_early in [true, false] {
            let mut node = Node::new(100_000);
            let (writer, other) = (node.replica.open(), node.replica.open());
            node.put(&deep, b"x");
            node.call(writer, set(0, "/4k", -1, &[7; limits::ANSWER_SMALL]));
            let next = node.replica.revision() + 1;
            let each = if most > 1_000 { 5_000 } else { 500 };
            let conns: Vec<_> = (0..CONNS).map(|_| node.replica.open()).collect();
            for first in (0..each).step_by(100) {
                for conn in &conns {
                    let requests: Vec<_> = (first..first + 100).map(|tag| ask(path, tag, next)).collect();
                    assert_eq!(node.send(*conn, &requests).then, Then::More { needed: None }, "{kind}");
                    node.settle();
                }
            }
            assert_eq!(node.replica.desk.parked(), CONNS * usize::try_from(each).unwrap(), "{kind}");
            node.begin_put(&deep, b"y");
            node.replica.turn();
            let write = node.replica.next_write().unwrap();
            node.replica.written(write);
            let mut tags = vec![Vec::new(); CONNS];
            let mut turns = 0;
            loop {
                node.replica.turn();
                turns += 1;
                node.send(other, &[request(Verb::Rev, 2)]);
                assert_eq!(node.answers(other).0.len(), 1, "{kind}: others are answered at once");
                node.replica.sent(other);
                let has_work = node.replica.has_work();
                let mut answered = 0;
                for (conn, tags) in conns.iter().zip(&mut tags).take_while(|_| reads_early || !has_work) {
                    let (answers, output) = node.answers(*conn);
                    answered += answers.len();
                    tags.extend(answers.iter().map(|answer| answer.tag.unwrap()));
                    if output == Output::Send {
                        node.replica.sent(*conn);
                    }
                }
                assert!(!reads_early || answered <= most, "{kind}: {answered} answers in a turn");
                if !has_work && answered == 0 && !node.replica.has_work() {
                    break;
                }
            }
            assert!(turns > CONNS * usize::try_from(each).unwrap() / most, "{kind}: {turns} turns");
            for tags in tags {
                assert_eq!(tags, (0..each).collect::<Vec<_>>(), "{kind}: each answer, in order");
            }
        }
    }
}

/// A listing that is put aside remembers the path that it has come to, which may be long where the glob is short: thousands of them
/// must not hold more memory than waits may.
#[test]
fn listings_that_are_put_aside_cost_as_little_as_their_globs() {
    let mut node = Node::new(100);
    let conn = node.replica.open();
    for number in 0..5_000 {
        node.call(conn, set(0, &format!("/d/{number}"), -1, b""));
    }
    let held = |node: &mut Node| node.replica.desk.sessions.get(conn).map_or(0, |session| session.parked_bytes);
    let walk = |tag| Request { path: Some(b"/**"), offset: Some(i32::MAX), ..request(Verb::Walk, tag) };
    let getdir = |tag| Request { path: Some(b"/d"), offset: Some(4_999), ..request(Verb::Getdir, tag) };
    let wait = |tag| wait(tag, "/e", 1 << 40);
    for (ask, least) in [(walk(0), limits::PATH_MAX), (getdir(0), limits::PATH_MAX), (wait(0), 1)] {
        let before = node.replica.desk.parked();
        node.send(conn, &[ask]);
        assert_eq!(node.replica.desk.parked(), before + 1);
        assert!(held(&mut node) >= least, "{}", held(&mut node));
        assert!(least > 1 || held(&mut node) < limits::PATH_MAX, "{}", held(&mut node));
        node.settle();
        if least > 1 {
            assert_eq!(held(&mut node), 0, "it is answered");
        }
    }
}

/// One write wakes a hundred thousand waits of one connection, or the connection's end cancels them: a limited number each turn.
#[test]
fn waits_are_woken_and_cancelled_in_slices() {
    for ends in [false, true] {
        let mut node = Node::new(100);
        let conn = node.replica.open();
        let next = node.replica.revision() + 1;
        for first in (0..100_000).step_by(1_000) {
            let waits: Vec<_> = (first..first + 1_000).map(|tag| wait(tag, "/a", next)).collect();
            assert_eq!(node.send(conn, &waits).then, Then::More { needed: None });
            node.replica.turn();
        }
        let other = node.replica.open();
        if ends {
            node.replica.close(conn);
        } else {
            node.send(other, &[set(0, "/a", 0, b"x")]);
            node.replica.turn();
            let write = node.replica.next_write().unwrap();
            node.replica.written(write);
        }
        let mut answered = 0;
        while node.replica.machine.store.waiters() > 0 || node.replica.has_work() {
            let before = node.replica.desk.parked();
            node.replica.turn();
            assert!(before - node.replica.desk.parked() <= limits::WAKES_TURN.max(limits::CANCELS_TURN));
            if !ends {
                let (answers, output) = node.answers(conn);
                answered += answers.len();
                if output == Output::Send {
                    node.replica.sent(conn);
                }
            }
        }
        assert_eq!(node.replica.desk.parked(), 0);
        assert!(ends || answered == 100_000, "{answered}");
    }
}

/// Answers wait for room that only clients who do not read take up: these are closed, one after the other, and no client that reads
/// is.
#[test]
fn whoever_takes_nothing_makes_room_for_those_who_wait() {
    // Values that are copied for each client, so that the output of all gets full.
    const SIZE: usize = 60_000;
    let mut node = Node::new(100);
    let writer = node.replica.open();
    node.call(writer, set(0, "/part", -1, &[7; SIZE]));
    let most = limits::OUTPUT_SOFT / (session::OUTPUT_HIGH.next_multiple_of(SIZE));
    let conns: Vec<_> = (0..most + 10).map(|_| node.replica.open()).collect();
    let gets = [Request { path: Some(b"/part"), ..request(Verb::Get, 1) }; 8];
    for conn in &conns {
        node.send(*conn, &gets);
        node.replica.turn();
    }
    assert!(node.replica.buffered() <= limits::OUTPUT_SOFT, "{}", node.replica.buffered());
    // All except the last ten have been handed output.
    let mut bytes = Vec::new();
    for conn in &conns {
        node.replica.turn();
        bytes.clear();
        node.replica.output(*conn, &mut bytes);
    }
    assert_eq!(node.replica.over_output_limit(), None, "they have time to read");
    node.replica.tick(limits::OUTPUT_PATIENCE_MS - 1);
    let reads = conns[0];
    node.send(reads, &gets[..1]);
    node.replica.sent(reads);
    bytes.clear();
    node.replica.output(reads, &mut bytes);
    node.replica.tick(limits::OUTPUT_PATIENCE_MS);
    let mut closed = 0;
    while let Some(conn) = node.replica.over_output_limit() {
        assert_ne!(conn, reads);
        node.replica.close(conn);
        node.settle();
        closed += 1;
    }
    assert!((1..=60).contains(&closed), "{closed}");
    let last = *conns.last().unwrap();
    assert!(!node.answers(last).0.is_empty());
}

/// A thousand clients ask for one large value and do not read. Each was charged for all of it, so that others waited for room that
/// nobody used.
#[test]
fn readers_of_one_value_keep_others_waiting() {
    let mut node = Node::new(100);
    let writer = node.replica.open();
    node.call(writer, set(0, "/big", -1, &vec![7; limits::VALUE_MAX]));
    node.call(writer, set(0, "/other", -1, &vec![8; limits::VALUE_MAX]));
    for _ in 0..1_000 {
        let conn = node.replica.open();
        node.send(conn, &[Request { path: Some(b"/big"), ..request(Verb::Get, 1) }; 8]);
    }
    node.settle();
    let answer = node.call(writer, Request { path: Some(b"/other"), ..request(Verb::Get, 1) });
    assert_eq!(answer.value.map(|value| value.len()), Some(limits::VALUE_MAX));
    assert!(!node.replica.desk.is_crowded());
    node.replica.tick(2 * limits::OUTPUT_PATIENCE_MS);
    assert_eq!(node.replica.over_output_limit(), None, "nobody has to go");
}

/// A client that pipelines reads of a large file without reading the answers is paused, and goes on when it reads.
#[test]
fn a_client_that_does_not_read_is_paused_and_goes_on() {
    let mut node = Node::new(100);
    let conn = node.replica.open();
    node.call(conn, set(0, "/big", 0, &vec![7; limits::VALUE_MAX]));
    let mut bytes = Vec::new();
    for tag in 1..=20 {
        Request { path: Some(b"/big"), ..request(Verb::Get, tag) }.encode(&mut bytes);
    }
    let mut used = 0;
    let mut answered = 0;
    while answered < 20 {
        let receipt = node.replica.receive(conn, &bytes[used..]);
        used += receipt.consumed;
        assert!(node.replica.buffered() <= session::OUTPUT_HIGH + limits::VALUE_MAX + 100);
        answered += node.answers(conn).0.len();
        let mut resumed = Vec::new();
        node.replica.sent(conn);
        node.replica.turn();
        node.replica.take_resumed(&mut resumed);
        assert_eq!(resumed.is_empty(), receipt.then != Then::Paused);
    }
    assert_eq!(used, bytes.len());
}

/// A writer that is faster than the disk fills one batch and is then held back, not buffered.
#[test]
fn a_writer_that_is_faster_than_the_disk_is_paused() {
    let mut node = Node::new(10);
    let conn = node.replica.open();
    let value = vec![1; 100_000];
    let mut bytes = Vec::new();
    for tag in 0..100 {
        set(tag, "/a", -1, &value).encode(&mut bytes);
    }
    let receipt = node.replica.receive(conn, &bytes);
    assert_eq!(receipt.then, Then::Paused);
    assert!(receipt.consumed <= limits::BATCH_SOFT + value.len() + 1000);
    let (mut used, mut answers, mut resumed) = (receipt.consumed, 0, Vec::new());
    while answers < 100 {
        node.settle();
        answers += node.answers(conn).0.len();
        node.replica.take_resumed(&mut resumed);
        if !resumed.is_empty() {
            resumed.clear();
            used += node.replica.receive(conn, &bytes[used..]).consumed;
        }
    }
    assert_eq!(used, bytes.len());
}

/// Applying a batch holds up everybody: a batch of the smallest writes, or of the longest paths, must not contain as many as fit
/// into its bytes.
#[test]
fn a_batch_holds_a_bounded_amount_of_work() {
    let mut node = Node::new(10);
    let conn = node.replica.open();
    let long = format!("/{}", "a".repeat(limits::PATH_MAX - 1));
    let nop = request(Verb::Nop, 1);
    for (request, most) in [
        (nop, limits::BATCH_WORK),
        (set(1, &long, -1, b""), limits::BATCH_WORK / (limits::PATH_MAX / limits::WORK_PATH)),
    ] {
        let mut bytes = Vec::new();
        (0..most + 1_000).for_each(|_| request.encode(&mut bytes));
        let mut used = 0;
        // Nothing is written meanwhile, so the batch takes commands for as long as it may.
        loop {
            let receipt = node.replica.receive(conn, &bytes[used..]);
            used += receipt.consumed;
            node.replica.desk.begin_turn();
            if receipt.consumed == 0 {
                break;
            }
        }
        let taken = used / request.frame_len();
        assert!((most / 2..=most).contains(&taken), "{taken}");
        node.settle();
        let mut resumed = Vec::new();
        node.replica.take_resumed(&mut resumed);
        node.answers(conn);
        node.replica.sent(conn);
    }
}

/// A walk far into a large tree must not hold up the commits of others: it goes on a slice a turn.
#[test]
fn a_long_walk_lets_others_through() {
    let mut node = Node::new(100_000);
    let conn = node.replica.open();
    let files: Vec<String> = (0..20_000).map(|i| format!("/d/{i:05}")).collect();
    for chunk in files.chunks(1000) {
        let sets: Vec<_> = chunk.iter().map(|path| set(0, path, 0, b"")).collect();
        node.send(conn, &sets);
        node.settle();
        node.answers(conn);
    }
    let walk = Request { path: Some(b"/d/*"), offset: Some(19_999), ..request(Verb::Walk, 1) };
    let getdir = Request { path: Some(b"/d"), offset: Some(19_999), ..request(Verb::Getdir, 2) };
    let second = node.replica.open();
    node.send(conn, &[walk]);
    node.send(second, &[getdir]);
    node.replica.turn();
    assert_eq!(node.answers(conn).0, vec![], "it takes more than a turn");
    assert_eq!(node.answers(second).0, vec![], "it takes more than a turn");
    assert!(node.replica.has_work());
    let other = node.replica.open();
    node.send(other, &[set(9, "/x", 0, b"")]);
    node.replica.turn();
    let write = node.replica.next_write().expect("the commit does not wait for the walk");
    node.replica.written(write);
    node.settle();
    assert_eq!(node.answers(conn).0[0].path.as_deref(), Some(&b"/d/19999"[..]));
    assert_eq!(node.answers(second).0[0].path.as_deref(), Some(&b"19999"[..]));
}

/// The scan of a closed connection ends with it; its place may be taken by a wait, which the scan must not touch.
#[test]
fn a_scan_ends_with_its_connection() {
    let mut node = Node::new(100_000);
    let conn = node.replica.open();
    for chunk in (0..5000).collect::<Vec<_>>().chunks(1000) {
        let paths: Vec<_> = chunk.iter().map(|i| format!("/d/{i}")).collect();
        let sets: Vec<_> = paths.iter().map(|path| set(0, path, 0, b"")).collect();
        node.send(conn, &sets);
        node.settle();
        node.answers(conn);
    }
    let walk = Request { path: Some(b"/**"), offset: Some(4_999), ..request(Verb::Walk, 1) };
    node.send(conn, &[walk]);
    node.replica.close(conn);
    let other = node.replica.open();
    node.send(other, &[wait(5, "/w", 1)]);
    node.settle();
    assert_eq!(node.answers(other).0, vec![]);
    let third = node.replica.open();
    let made = node.call(third, set(6, "/w", 0, b"")).rev;
    assert_eq!(node.answers(other).0[0].rev, made);
}

/// A snapshot is read off while commits go on. What is read back must be the state at its beginning, with every
/// retained revision, whatever came meanwhile.
#[test]
fn a_snapshot_is_the_state_at_its_beginning_though_commits_go_on() {
    let mut node = Node::new(300);
    let conn = node.replica.open();
    for i in 0..2000 {
        let path = format!("/d{}/{}", i % 7, i % 400);
        node.call(conn, set(0, &path, -1, format!("{i}").as_bytes()));
        if i % 5 == 0 {
            let gone = format!("/d{}/{}", (i + 3) % 7, (i + 3) % 400);
            node.call(conn, Request { path: Some(gone.as_bytes()), rev: Some(-1), ..request(Verb::Del, 0) });
        }
        if i % 50 == 0 {
            node.call(conn, request(Verb::Nop, 0));
        }
    }
    let store = &node.replica.machine.store;
    let (first, last) = (store.first_revision(), store.revision());
    let mut tree = BTreeMap::new();
    let mut events = BTreeMap::new();
    let mut path = Vec::new();
    for rev in first..=last {
        let mut files = Vec::new();
        store.files_at(rev, None, &mut isize::MAX.clone(), |path, rev, value| {
            files.push((path.to_vec(), rev, value.to_vec()));
            true
        });
        tree.insert(rev, files);
        let event = store.event(rev, &mut path).unwrap();
        events.insert(rev, (event.kind, path.clone(), event.value.to_vec()));
    }
    let (index, term) = (node.replica.group.applied(), node.replica.group.applied_term());
    node.replica.snapshots.begin(&mut node.replica.machine, NODE, index, term);
    assert!(node.replica.snapshots.take_in_hand());

    let mut file = Vec::new();
    let mut i = 0;
    loop {
        match node.replica.next_snapshot_part() {
            Part::Nothing => break,
            Part::Wait | Part::Abandon => panic!("it is the replica's own, and wanted"),
            Part::Later => {
                for _ in 0..100 {
                    i += 1;
                    node.call(conn, set(0, &format!("/d{}/{}", i % 7, i % 400), -1, b"later"));
                }
            }
            Part::Write(part) => {
                assert_eq!(part.offset, file.len() as u64);
                file.extend_from_slice(part.bytes());
                node.replica.snapshot_part_written(part);
            }
        }
    }
    assert!(i > 300, "commits went on until the history of the beginning would have been gone");

    let mut restore = None;
    let mut reader = SnapshotReader::new();
    reader
        .feed(&file, &mut |piece| match piece {
            Piece::Meta { meta, .. } => restore = Some(Restore::begin(meta, NODE, 300).unwrap()),
            Piece::Record(record) => restore.as_mut().unwrap().record(record).unwrap(),
        })
        .unwrap();
    let summary = reader.finish().unwrap();
    assert_eq!((summary.index, summary.term), (index, term));
    let machine = restore.unwrap().finish().unwrap();
    assert_eq!(machine.members.voters(), [1]);
    let store = &machine.store;
    assert_eq!((store.first_revision(), store.revision()), (first, last));
    for rev in first..=last {
        let mut files = Vec::new();
        store.files_at(rev, None, &mut isize::MAX.clone(), |path, rev, value| {
            files.push((path.to_vec(), rev, value.to_vec()));
            true
        });
        assert_eq!(files, tree[&rev], "revision {rev}");
        let event = store.event(rev, &mut path).unwrap();
        assert_eq!((event.kind, path.clone(), event.value.to_vec()), events[&rev], "revision {rev}");
    }
    node.replica.snapshot_done();
    for _ in 0..1000 {
        node.call(conn, set(0, "/x", -1, b""));
    }
    let store = &node.replica.machine.store;
    assert_eq!(store.revision() - store.first_revision() + 1, 300, "the history is trimmed again");
}

/// With a full disk there is no room for the next segment. Writes must be refused with the reason before one is lost,
/// reads must go on, and everything by itself once there is room.
#[test]
fn without_room_for_the_log_writes_are_refused_and_reads_go_on() {
    let mut node = Node::fresh(10);
    let conn = node.replica.open();
    let value = vec![1; 1 << 20];
    let mut failing = None;
    let mut accepted = 0;
    let refused = loop {
        node.replica.turn();
        if let Some(prepare) = node.replica.next_prepare() {
            failing = Some(prepare.generation);
            node.replica.prepare_failed(prepare.generation);
        }
        while let Some(write) = node.replica.next_write() {
            node.replica.written(write);
            node.replica.turn();
        }
        node.send(conn, &[set(1, "/a", -1, &value)]);
        node.replica.turn();
        while let Some(write) = node.replica.next_write() {
            node.replica.written(write);
            node.replica.turn();
        }
        let (mut answers, _) = node.answers(conn);
        let answer = answers.remove(0);
        if answer.err.is_some() {
            break answer;
        }
        accepted += 1;
    };
    assert!(accepted > 30, "the first segment serves first: {accepted}");
    assert_eq!(refused.err, Some(ErrCode::Other.code()));
    assert!(refused.detail.unwrap().starts_with("disk full: "));
    let revision = node.revision_of("/a");
    let get = Request { path: Some(b"/a"), ..request(Verb::Get, 2) };
    node.send(conn, &[get]);
    assert_eq!(node.answers(conn).0[0].rev, Some(revision));
    node.replica.retry_prepare();
    let again = node.replica.next_prepare().unwrap();
    assert_eq!(Some(again.generation), failing);
    node.replica.prepared(again.generation);
    assert_eq!(node.call(conn, set(3, "/a", -1, &value)).rev, Some(revision + 1));
}

/// Bytes may be cut anywhere between two receives: the outcome is the same.
#[test]
fn frames_may_be_cut_anywhere() {
    let mut bytes = Vec::new();
    for tag in 0..3 {
        set(tag, "/a", -1, b"body").encode(&mut bytes);
        Request { path: Some(b"/a"), ..request(Verb::Get, tag + 10) }.encode(&mut bytes);
    }
    for cut in 0..=bytes.len() {
        let mut node = Node::new(10);
        let conn = node.replica.open();
        let used = node.replica.receive(conn, &bytes[..cut]).consumed;
        node.settle();
        assert_eq!(used + node.replica.receive(conn, &bytes[used..]).consumed, bytes.len());
        node.settle();
        assert_eq!(node.answers(conn).0.len(), 6, "cut at {cut}");
    }
}

/// A client pipelines reads of a large file and then a write, reads nothing, and goes. The server has received the
/// write, behind reads that were paused for want of room: it is carried out all the same.
#[test]
fn a_write_behind_paused_reads_is_carried_out_though_its_sender_has_gone() {
    let mut node = Node::new(100);
    let conn = node.replica.open();
    node.call(conn, set(0, "/big", 0, &vec![7; limits::VALUE_MAX]));
    let mut bytes = Vec::new();
    for tag in 1..=8 {
        Request { path: Some(b"/big"), ..request(Verb::Get, tag) }.encode(&mut bytes);
    }
    set(9, "/late", 0, b"x").encode(&mut bytes);
    let receipt = node.replica.receive(conn, &bytes);
    assert_eq!(receipt.then, Then::Paused);
    node.replica.sent(conn);
    node.replica.leave(conn);
    assert_eq!(node.replica.buffered(), 0);
    let rest = node.replica.receive(conn, &bytes[receipt.consumed..]);
    assert_eq!((rest.consumed, rest.then), (bytes.len() - receipt.consumed, Then::More { needed: None }));
    node.settle();
    assert!(node.revision_of("/late") > 0);
    node.replica.close(conn);
    assert_eq!(node.replica.connections(), 0);
}

/// A connection that pipelines a hundred thousand cheap requests must not hold the turn of all others: it gets its
/// share of a turn, and goes on with a later one.
#[test]
fn a_turn_carries_out_a_bounded_number_of_requests() {
    let mut node = Node::new(100);
    let conn = node.replica.open();
    let mut bytes = Vec::new();
    for tag in 0..100_000 {
        request(Verb::Rev, tag).encode(&mut bytes);
    }
    let (mut used, mut turns, mut answered, mut resumed) = (0, 0, 0, Vec::new());
    while answered < 100_000 {
        let receipt = node.replica.receive(conn, &bytes[used..]);
        used += receipt.consumed;
        let (answers, _) = node.answers(conn);
        assert!(answers.len() < 20_000);
        answered += answers.len();
        node.replica.sent(conn);
        if receipt.then == Then::Paused {
            while resumed.is_empty() {
                node.replica.turn();
                node.replica.take_resumed(&mut resumed);
                turns += 1;
            }
            resumed.clear();
        }
    }
    assert!(turns > 5);
    assert!(!node.replica.has_work());
}

/// A client with scans that were put aside, full output, and no mind to read it: its scans wait for it, and the loop
/// must not spin for them meanwhile.
#[test]
fn the_scans_of_a_client_that_does_not_read_do_not_keep_the_loop_awake() {
    let mut node = Node::new(100_000);
    let other = node.replica.open();
    for chunk in (0..6000).collect::<Vec<_>>().chunks(1000) {
        let paths: Vec<_> = chunk.iter().map(|i| format!("/d/{i}")).collect();
        let sets: Vec<_> = paths.iter().map(|path| set(0, path, 0, b"")).collect();
        node.send(other, &sets);
        node.settle();
        node.answers(other);
    }
    node.call(other, set(0, "/big", 0, &vec![7; limits::VALUE_MAX]));
    let conn = node.replica.open();
    let next = node.replica.revision() + 1;
    let future = Request { path: Some(b"/big"), rev: Some(next), ..request(Verb::Get, 1) };
    node.send(conn, &[future, wait(2, "/q/?", 1)]);
    node.replica.turn();
    node.send(conn, &[wait(3, "/q/?", 1)]);
    assert!(node.replica.has_work());
    node.send(other, &[request(Verb::Nop, 0)]);
    for _ in 0..1000 {
        node.replica.turn();
        while let Some(write) = node.replica.next_write() {
            node.replica.written(write);
        }
    }
    assert!(!node.replica.has_work(), "the scans wait for the client");
    assert_eq!(node.answers(conn).0.len(), 1);
    node.replica.sent(conn);
    node.settle();
    assert_eq!(node.replica.machine.store.waiters(), 2, "and go on when it reads");
}

proptest::proptest! {
    /// The contents of a snapshot may come from another version, or from a peer: what makes no sense is an error.
    #[test]
    fn arbitrary_snapshot_contents_are_an_error_not_a_panic(
        meta in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..60),
        records in proptest::collection::vec(
            (0..5_u8, proptest::collection::vec(proptest::sample::select(b"\x00\x01\x02\x03/ab.".to_vec()), 0..20)),
            0..20,
        ),
    ) {
        let mut whole = vec![1];
        whole.extend_from_slice(NODE);
        whole.extend_from_slice(&meta);
        for meta in [&meta, &whole] {
            if let Ok(mut restore) = Restore::begin(meta, NODE, 10) {
                for (what, rest) in &records {
                    let mut record = vec![*what];
                    record.extend_from_slice(rest);
                    let _outcome = restore.record(&record);
                }
                let _outcome = restore.finish();
            }
        }
    }
}

/// Anyone can open a connection and say that this node was taken out of its cluster: nobody may be made to give up its data so.
#[test]
fn a_strangers_word_that_the_node_was_taken_out_is_not_believed() {
    use crate::wire::peer::{self, Frame, PREAMBLE, Refusal, Route};
    let mut node = Node::new(10);
    let conn = node.replica.open();
    let mut bytes = PREAMBLE.to_vec();
    let refuse = Frame::Refuse { reason: Refusal::Retired, detail: "go" };
    peer::encode(Route { from: 2, to: 0, hops: 0 }, &refuse, &mut bytes);
    node.replica.receive(conn, &bytes);
    node.settle();
    assert_eq!(node.replica.take_fate(), None);
}

/// The directory remembers how many members there are, for the day when its data is damaged: the data of an only member must not
/// be given up for that of others, who have none. A standby is no member, nor is a node that was put out of its slot.
#[test]
fn a_standby_is_remembered_as_a_member() {
    const OTHER: &[u8; 16] = b"BBBBBBBBBBBBBBBB";
    let mut node = Node::new(1_000);
    let standing = |voters, voter, peers: &[&str]| Standing {
        voters,
        voter,
        peers: peers.iter().map(|p| p.to_string()).collect(),
    };
    assert_eq!(node.replica.take_standing(), Some(standing(1, true, &[])));
    let members = |node: &mut Node, change: Change| {
        assert!(node.replica.machine.change(&change), "{change:?}");
        node.replica.take_standing()
    };
    let other = Registration { raft_id: 0, node: *OTHER, incarnation: 0, addr: b"127.0.0.1:2" };
    assert_eq!(node.replica.machine.members.register(&other), Ok(2));
    let peers = &["127.0.0.1:2"];
    assert_eq!(node.replica.take_standing(), Some(standing(1, true, peers)));
    assert_eq!(members(&mut node, Change::Admit(2)), None, "the directory remembers the same as before");

    let conn = node.replica.open();
    let slot = node.call(conn, set(1, "/ctl/cal/1", 0, b"")).rev.unwrap();
    assert_eq!(members(&mut node, Change::Promote(2, b"/ctl/cal/1".to_vec(), slot)), Some(standing(2, true, peers)));
    let own = Some((b"/ctl/cal/0".to_vec(), node.revision_of("/ctl/cal/0")));
    assert_eq!(members(&mut node, Change::Demote(1, own)), Some(standing(1, false, peers)));
}

/// What the peer with raft id 2 says of itself, with this in the place of the secret.
fn peers_hello(secret: &[u8]) -> peer::Hello<'_> {
    peer::Hello {
        version: peer::VERSION,
        cluster: "local",
        node: *b"PEERPEERPEERPEER",
        raft_id: 2,
        epoch: 3,
        life: 4,
        incarnation: 0,
        cluster_id: 77,
        secret,
        addr: "127.0.0.1:8047",
    }
}

/// What that peer sends first on a connection that it has dialed.
fn peers_greeting() -> Vec<u8> {
    let mut bytes = peer::PREAMBLE.to_vec();
    peer::encode(PEERS_ROUTE, &peer::Frame::Hello(peers_hello(b"")), &mut bytes);
    bytes
}

/// What that peer sends once it has heard the node.
fn peers_links() -> Vec<u8> {
    let links = peer::Links { node: 2, epoch: 3, version: 1, flags: 0, peers: vec![1] };
    let mut bytes = Vec::new();
    peer::encode(PEERS_ROUTE, &peer::Frame::Links(links), &mut bytes);
    bytes
}

const PEERS_ROUTE: peer::Route = peer::Route { from: 2, to: 0, hops: 0 };

/// A node that starts slowly finds connections that its peers have dialed one after the other, and given up. Their greetings are
/// old: the log said of each link that it was up, and then that it was lost.
#[test]
fn a_link_is_up_that_was_given_up_long_ago() {
    let mut node = Node::new(10);
    let greeting = peers_greeting();
    let lines = |node: &mut Node| {
        let mut lines = Vec::new();
        node.replica.take_lines(&mut lines);
        lines.into_iter().map(|line| line.text).filter(|line| line.contains("link to")).collect::<Vec<_>>()
    };
    for _ in 0..3 {
        let conn = node.replica.open();
        assert_eq!(node.replica.receive(conn, &greeting).consumed, greeting.len());
        node.settle();
        node.replica.end_of_stream(conn);
        node.replica.close(conn);
        assert_eq!(lines(&mut node), [""; 0]);
        assert!(!node.replica.mesh.reaches(2));
    }
    // A peer that continues to talk has heard the answer.
    let conn = node.replica.open();
    node.replica.receive(conn, &greeting);
    node.replica.receive(conn, &peers_links());
    node.settle();
    let said = lines(&mut node);
    assert!(said.len() == 1 && said[0].ends_with("is up"), "{said:?}");
    assert!(node.replica.mesh.reaches(2));
    assert_eq!(node.replica.mesh.epoch(2), 3);
}

/// A link of the peer with raft id 2 to a node.
struct Peer {
    conn: Conn,
}

impl Peer {
    fn linked(node: &mut Node) -> Peer {
        let conn = node.replica.open();
        node.replica.receive(conn, &[peers_greeting(), peers_links()].concat());
        node.settle();
        assert!(node.replica.mesh.reaches(2));
        Peer { conn }
    }

    /// Sends a frame, and returns whether the link stays.
    fn says(&self, node: &mut Node, frame: &peer::Frame<'_>) -> bool {
        let mut bytes = Vec::new();
        peer::encode(peer::Route { from: 2, to: 1, hops: 8 }, frame, &mut bytes);
        let receipt = node.replica.receive(self.conn, &bytes);
        node.settle();
        receipt.then != Then::Close
    }
}

/// A node with which the peer is registered, so that its mutations count.
fn registered() -> Node {
    let mut node = Node::new(1_000);
    let other = Registration { raft_id: 0, node: *b"PEERPEERPEERPEER", incarnation: 0, addr: b"127.0.0.1:8047" };
    assert_eq!(node.replica.machine.members.register(&other), Ok(2));
    node
}

/// The same, with the peer's link.
fn with_peer() -> (Node, Peer) {
    let mut node = registered();
    let peer = Peer::linked(&mut node);
    (node, peer)
}

/// A single part of a snapshot replaced all data of the node that got it.
#[test]
fn a_snapshot_from_a_node_that_does_not_lead_is_ignored() {
    use super::transfer::Sending;
    use crate::wire::peer::Frame;
    let (mut node, peer) = with_peer();
    let conn = node.replica.open();
    node.call(conn, set(1, "/jewel", -1, b"precious"));
    let mut empty = machine::Machine::founding(10);
    let term = node.replica.group.term();
    let mut sending = Sending::begin(&mut empty, (1, 1), 9, term, (1 << 40, term), 0);
    while sending.wants_slice() {
        sending.slice(&mut empty.store);
    }
    let mut parts = Vec::new();
    sending.send(|chunk| {
        parts.push(chunk.clone());
        true
    });
    for chunk in &parts {
        let frame = Frame::Chunk { transfer: 9, seq: chunk.seq, last: chunk.last, records: &chunk.records };
        assert!(peer.says(&mut node, &frame));
    }
    assert!(node.replica.snapshots.is_idle() && !node.replica.wants_snapshot());
    let rev = node.replica.revision();
    assert!(matches!(node.replica.machine.store.lookup(b"/jewel", rev), Lookup::File { value: b"precious", .. }));
}

/// A member that is wrong about raft was believed until raft's assertion ended the process.
#[test]
fn a_peer_that_violates_the_protocol_loses_its_link() {
    use crate::wire::peer::Frame;
    use raft::eraftpb::{Message, MessageType};
    let (mut node, peer) = with_peer();
    let read = Message { msg_type: MessageType::MsgReadIndex, from: 2, to: 1, ..Message::default() };
    assert!(!peer.says(&mut node, &Frame::Raft(Box::new(read))));
    let mut lines = Vec::new();
    node.replica.take_lines(&mut lines);
    let said = lines.iter().filter(|line| line.text.starts_with("closed the link to PEERPEERPEERPEER"));
    assert_eq!(said.count(), 1, "{lines:?}");
    // It gets no other link for a while.
    let again = node.replica.open();
    node.replica.receive(again, &peers_greeting());
    assert!(!node.replica.knows_peer(again));
}

/// A member used up the numbers of another one's later boots, or wrote in its name.
#[test]
fn mutations_count_only_in_the_boot_that_their_node_announced() {
    use crate::wire::peer::Frame;
    let (mut node, peer) = with_peer();
    let mut forward = |epoch: u64, of: u64| {
        let mut gather = Gather::new(Origin { node: of, epoch });
        gather.push(&crate::store::Mutation::Set { path: b"/forged", rev: -1, value: b"" }.into());
        let batch = gather.take().unwrap();
        let stays = peer.says(&mut node, &Frame::Forward(&batch));
        (stays, node.replica.machine.seen().get(&2).map_or(0, |seen| seen.epoch))
    };
    assert_eq!(forward(4, 2), (true, 0), "a later boot than the announced one");
    assert_eq!(forward(3, 2), (true, 3));
    assert_eq!(forward(3, 1), (false, 3), "another node's name ends the link");
}

/// One parcel used up all boot numbers of a node that was down, and from then on the cluster dropped the writes of the real node.
#[test]
fn a_claim_uses_up_the_boots_of_a_node() {
    use crate::wire::peer::Frame;
    let epoch = limits::EPOCH_SKIP + 1;
    let mut node = registered();
    let greeting = |frame: &Frame<'_>| {
        let mut bytes = Vec::new();
        peer::encode(PEERS_ROUTE, frame, &mut bytes);
        bytes
    };
    let hello = greeting(&Frame::Hello(peer::Hello { epoch, ..peers_hello(b"") }));
    let links = greeting(&Frame::Links(peer::Links { node: 2, epoch, version: 1, flags: 0, peers: vec![1] }));
    let conn = node.replica.open();
    let first = [peer::PREAMBLE.to_vec(), hello, links].concat();
    node.replica.receive(conn, &first);
    assert_eq!(node.replica.mesh.epoch(2), epoch);
    let mut forward = |epoch| {
        let mut gather = Gather::new(Origin { node: 2, epoch });
        gather.push(&crate::store::Mutation::Nop.into());
        let stays = Peer { conn }.says(&mut node, &Frame::Forward(&gather.take().unwrap()));
        (stays, node.replica.machine.seen().get(&2).map_or(0, |seen| seen.epoch))
    };
    assert_eq!(forward(epoch - 1), (true, epoch - 1));
    assert_eq!(forward(epoch), (true, epoch), "from there on it may be as far again");
    let (mut node, conn) = {
        let mut node = registered();
        let conn = node.replica.open();
        node.replica.receive(conn, &first);
        (node, conn)
    };
    let mut gather = Gather::new(Origin { node: 2, epoch });
    gather.push(&crate::store::Mutation::Nop.into());
    assert!(!Peer { conn }.says(&mut node, &Frame::Forward(&gather.take().unwrap())));
    assert_eq!(node.replica.machine.seen().get(&2), None);
}

/// A node whose later boot somebody else had made up answered no write for ever.
#[test]
fn a_node_waits_for_answers_to_writes_of_a_boot_that_is_over() {
    let mut node = Node::new(1_000);
    let epoch = node.replica.config.epoch + 5;
    let mut gather = Gather::new(Origin { node: 1, epoch });
    gather.push(&crate::store::Mutation::Nop.into());
    node.replica.tick(1_000);
    assert_eq!(node.replica.take_fate(), None);
    assert!(node.replica.group.propose(bytes::Bytes::from(gather.take().unwrap())));
    node.settle();
    node.replica.tick(2_000);
    assert_eq!(node.replica.take_fate(), Some(Fate::Restart));
}

/// A member pushed a node so many terms ahead that the others took the node for hostile, for good.
#[test]
fn nodes_do_not_follow_one_that_was_pushed_far_ahead() {
    use crate::wire::peer::Frame;
    use raft::eraftpb::{Message, MessageType};
    let (mut node, peer) = with_peer();
    let first = node.replica.group.term();
    let far = first + 9 * limits::TERM_STEP;
    let mut now = 1_000;
    let mut says = |node: &mut Node, later: u64| {
        now += later;
        node.replica.tick(now);
        let message =
            Message { msg_type: MessageType::MsgHeartbeatResponse, from: 2, to: 1, term: far, ..Message::default() };
        assert!(peer.says(node, &Frame::Raft(Box::new(message))), "the link stays");
        node.replica.group.term()
    };
    // It is the only voter, and may have elected itself again meanwhile.
    let mut steps = |node: &mut Node, later: u64| (says(node, later) - first) / limits::TERM_STEP;
    assert_eq!(steps(&mut node, 0), 1);
    assert_eq!(steps(&mut node, 0), 1, "the next step takes its time");
    assert_eq!(steps(&mut node, limits::TERM_LEAP_MS), 2);
    assert_eq!(steps(&mut node, limits::TERM_LEAP_MS), 3);
}

/// A link that knew the secret, and that no cluster had let in, deposed one leader after the other.
#[test]
fn nodes_that_are_no_members_depose_the_leader() {
    use crate::wire::peer::Frame;
    use raft::eraftpb::{Message, MessageType};
    let mut node = Node::new(1_000);
    let peer = Peer::linked(&mut node);
    let term = node.replica.group.term();
    let context = bytes::Bytes::from_static(b"CampaignTransfer");
    for (msg_type, context) in [
        (MessageType::MsgRequestVote, context),
        (MessageType::MsgRequestVote, bytes::Bytes::new()),
        (MessageType::MsgHeartbeat, bytes::Bytes::new()),
        (MessageType::MsgAppend, bytes::Bytes::new()),
        (MessageType::MsgHeartbeatResponse, bytes::Bytes::new()),
    ] {
        let message = Message { msg_type, from: 2, to: 1, term: term + 1, context, ..Message::default() };
        peer.says(&mut node, &Frame::Raft(Box::new(message)));
        assert_eq!((node.replica.group.term(), node.replica.group.leads()), (term, true), "{msg_type:?}");
    }
}

/// A node applies commands in its own name that it never sent, if the leader is hostile. It must not panic, and must not wait for an
/// answer under the numbers that are used up.
#[test]
fn writes_in_this_nodes_name_that_it_never_sent_use_up_their_numbers() {
    let mut node = Node::new(1_000);
    let mut gather = Gather::new(node.replica.origin);
    gather.skip_to(node.replica.pending_first);
    for _ in 0..3 {
        gather.push(&crate::store::Mutation::Nop.into());
    }
    let forged = bytes::Bytes::from(gather.take().unwrap());
    assert!(node.replica.group.propose(forged));
    node.settle();
    // The next leader looks up which numbers come next.
    node.replica.forward = Forward::default();
    let conn = node.replica.open();
    let answer = node.call(conn, set(1, "/a", -1, b"body"));
    assert_eq!((answer.err, answer.rev), (None, Some(node.replica.revision())));
}

/// Connections that never stopped asking for the end of a listing kept a REV of another waiting for seconds, and each other for
/// longer. However many they are: REV, GET, STAT and SET of others are carried out as they come, and each greedy connection gets its
/// share.
#[test]
fn light_requests_wait_behind_the_searches_of_others() {
    const EACH: usize = 40;
    let mut node = Node::new(100_000);
    let writer = node.replica.open();
    for first in (0..3_000).step_by(500) {
        let paths: Vec<_> = (first..first + 500).map(|i| format!("/d/{i:05}")).collect();
        let sets: Vec<_> = paths.iter().map(|path| set(0, path, 0, b"")).collect();
        assert_eq!(node.send(writer, &sets).then, Then::More { needed: None });
        node.settle();
        node.answers(writer);
        node.replica.sent(writer);
    }
    let getdir = |tag, offset| Request { path: Some(b"/d"), offset: Some(offset), ..request(Verb::Getdir, tag) };
    let walk = |tag, offset| Request { path: Some(b"/*/*"), offset: Some(offset), ..request(Verb::Walk, tag) };
    let wait = |tag, _| wait(tag, "/*/x", 1);
    type Ask<'a> = &'a dyn Fn(i32, i32) -> Request<'a>;
    let kinds: [(&str, Ask<'_>); 3] = [("GETDIR", &getdir), ("WALK", &walk), ("WAIT", &wait)];
    for (kind, ask) in kinds {
        for count in [10, 100] {
            let greedy: Vec<_> = (0..count).map(|_| node.replica.open()).collect();
            let other = node.replica.open();
            let mut bytes = Vec::new();
            (0..EACH)
                .for_each(|i| ask(i.try_into().unwrap(), 2_999 - i32::try_from(i % 7).unwrap()).encode(&mut bytes));
            let mut used = BTreeMap::new();
            let mut running = greedy.clone();
            let mut turns = 0;
            while !running.is_empty() || node.replica.has_work() {
                for conn in running.drain(..) {
                    let Some(at) = used.get(&conn).copied().or_else(|| greedy.contains(&conn).then_some(0)) else {
                        continue;
                    };
                    let receipt = node.replica.receive(conn, &bytes[at..]);
                    used.insert(conn, at + receipt.consumed);
                    if node.answers(conn).1 == Output::Send {
                        node.replica.sent(conn);
                    }
                }
                let asked = [
                    request(Verb::Rev, 1),
                    Request { path: Some(b"/d/00000"), ..request(Verb::Get, 2) },
                    Request { path: Some(b"/d"), ..request(Verb::Stat, 3) },
                ];
                if turns % 100 == 0 {
                    let receipt = node.send(other, &asked);
                    assert_eq!(
                        receipt.then,
                        Then::More { needed: None },
                        "{kind} of {count}: a request waits in turn {turns}"
                    );
                    assert_eq!(node.answers(other).0.len(), 3);
                    node.replica.sent(other);
                }
                node.replica.turn();
                node.replica.take_resumed(&mut running);
                turns += 1;
                assert!(turns < 1_000_000, "{kind} of {count}: they are not answered");
            }
            assert_eq!(used.len(), count);
            assert!(used.values().all(|used| *used == bytes.len()), "{kind} of {count}: all have asked everything");
            for conn in greedy {
                node.replica.close(conn);
            }
            node.settle();
        }
    }
}

/// One client could make all others' waits be refused, because it had used up what all may have. It is refused before, and told why.
#[test]
fn one_connection_takes_the_room_for_all_waits() {
    let mut node = Node::new(100);
    let path = format!("/{}", "w".repeat(4_000));
    let next = node.replica.revision() + 1;
    let waits = |node: &mut Node, conn: Conn| {
        let mut refused = None;
        for tag in 0..i32::MAX {
            node.send(conn, &[wait(tag, &path, next)]);
            node.replica.turn();
            let (answers, _) = node.answers(conn);
            if let Some(answer) = answers.into_iter().next() {
                node.replica.sent(conn);
                refused = answer.detail;
                break;
            }
        }
        refused.unwrap()
    };
    let mut greedy = Vec::new();
    loop {
        let conn = node.replica.open();
        let refused = waits(&mut node, conn);
        greedy.push(conn);
        if !refused.contains("of this connection") {
            assert!(refused.contains("on this server"), "{refused}");
            break;
        }
    }
    assert!((3..=4).contains(&greedy.len()), "{}", greedy.len());
    let few = node.replica.open();
    node.send(few, &[wait(1, "/a", next)]);
    assert!(node.answers(few).0.is_empty(), "a client with few waits still has room");
    for conn in greedy {
        node.replica.close(conn);
    }
    while node.replica.has_work() {
        node.replica.turn();
    }
    assert_eq!(node.replica.desk.parked(), 1);
}

/// A client made sixty thousand slots, and each later change of one cost a third of a millisecond.
#[test]
fn the_slots_are_bounded() {
    let mut node = Node::new(100_000);
    let conn = node.replica.open();
    let before = node.replica.machine.members.slots().len();
    let paths: Vec<_> = (0..limits::SLOTS_MAX + 10).map(|i| format!("/ctl/cal/x{i}")).collect();
    let mut refused = 0;
    // Many in one batch, before any of them is applied.
    for chunk in paths.chunks(500) {
        let sets: Vec<_> = chunk.iter().map(|path| set(1, path, -1, b"")).collect();
        assert_eq!(node.send(conn, &sets).then, Then::More { needed: None });
        node.replica.turn();
    }
    node.settle();
    let (answers, _) = node.answers(conn);
    for answer in &answers {
        if let Some(detail) = &answer.detail {
            assert!(detail.contains("/ctl/cal has 1024 slots"), "{detail}");
            refused += 1;
        }
    }
    node.replica.sent(conn);
    assert_eq!((node.replica.machine.members.slots().len(), refused), (limits::SLOTS_MAX, 10 + before));
    // Those that exist may be changed, and one that is deleted makes room.
    assert_eq!(node.call(conn, set(2, "/ctl/cal/x1", -1, b"")).err, None);
    assert!(node.call(conn, set(3, "/ctl/cal/new", -1, b"")).err.is_some());
    let del = Request { path: Some(b"/ctl/cal/x1"), rev: Some(-1), ..request(Verb::Del, 4) };
    assert_eq!(node.call(conn, del).err, None);
    assert_eq!(node.call(conn, set(5, "/ctl/cal/new", -1, b"")).err, None);
}

/// Thousands of clients that were sent one large file took as many copies of it. They share one, however they have asked, and so do
/// the pieces that are being sent.
#[test]
fn the_answers_to_many_hold_a_copy_of_the_value_each() {
    const CONNS: usize = 60;
    let (mut node, waiting, big) = many_wait(100, CONNS);
    let writer = node.replica.open();
    node.call(writer, set(0, "/big", -1, &big));
    let get = Request { path: Some(b"/big"), ..request(Verb::Get, 1) };
    let walk = Request { path: Some(b"/b*"), offset: Some(0), ..request(Verb::Walk, 1) };
    let mut conns = waiting;
    for asked in [get, walk] {
        for _ in 0..CONNS {
            let conn = node.replica.open();
            node.send(conn, &[asked]);
            conns.push(conn);
        }
    }
    node.settle();
    let unsent: usize = conns.iter().map(|conn| node.replica.desk.sessions.get(*conn).unwrap().unsent()).sum();
    assert!(unsent >= conns.len() * big.len(), "all of them are answered");
    assert!(node.replica.buffered() < 2 * big.len(), "the bound counts the value once");
    // The first piece of each value, kept as if it were being sent.
    let mut pieces = Vec::new();
    let mut turns = 0;
    while !conns.is_empty() {
        node.replica.turn();
        turns += 1;
        assert!(turns < 10_000);
        conns.retain(|conn| {
            let mut bytes = Vec::new();
            let (output, piece) = node.replica.next_output(*conn, &mut bytes);
            if output == Output::Nothing {
                return true;
            }
            assert!(bytes.is_empty(), "what is large is not copied");
            if piece.len() < limits::OUTPUT_PIECE {
                // What comes before the value.
                node.replica.sent(*conn);
                return true;
            }
            pieces.push(piece);
            false
        });
    }
    assert_eq!(pieces.len(), 3 * CONNS);
    let copies: std::collections::BTreeSet<_> = pieces.iter().map(|piece| piece.as_ptr()).collect();
    assert_eq!(copies.len(), 1, "all pieces are of one copy");
    assert!(pieces.iter().all(|piece| piece[..] == big[..limits::OUTPUT_PIECE]));
}

/// A member forwarded more writes in one parcel than any node gathers, and all nodes were busy with it for a second.
#[test]
fn a_member_that_forwards_too_much_at_once_loses_its_link() {
    use crate::wire::peer::Frame;
    let (mut node, peer) = with_peer();
    let rev = node.replica.revision();
    let mut gather = Gather::new(Origin { node: 2, epoch: 3 });
    for commands in [limits::BATCH_WORK, limits::PARCEL_WORK + 1] {
        (0..commands).for_each(|_| _ = gather.push(&crate::store::Mutation::Nop.into()));
        let batch = gather.take().unwrap();
        let is_honest = commands <= limits::BATCH_WORK;
        assert_eq!(peer.says(&mut node, &Frame::Forward(&batch)), is_honest, "{commands}");
        assert_eq!(node.replica.revision() - rev, limits::BATCH_WORK as i64, "{commands}");
    }
}

/// A SET of two thousand levels took 360 kB of memory, and 90 times its bytes. Files that an earlier version made so deep can be read,
/// and deleted, but not written.
#[test]
fn a_set_makes_no_more_levels_than_allowed() {
    let mut node = Node::new(100);
    let conn = node.replica.open();
    let deepest = "/a".repeat(limits::LEVELS_MAX);
    let deeper = format!("{deepest}/b");
    let del = |path| Request { path: Some(path), rev: Some(-1), ..request(Verb::Del, 3) };
    let made = node.call(conn, set(1, &deepest, -1, b"x"));
    assert_eq!(made.err, None);
    node.call(conn, del(deepest.as_bytes()));
    let before = node.replica.revision();
    let refused = "path too deep: 257 levels, the limit is 256";
    for request in [set(2, &deeper, -1, b""), del(deeper.as_bytes())] {
        let answer = node.call(conn, request);
        assert_eq!(answer.err, Some(ErrCode::Other as i32));
        assert_eq!(answer.detail.as_deref(), Some(refused));
    }
    assert_eq!(node.replica.revision(), before, "what is refused changes nothing");
    node.put(&deeper, b"old");
    let get = Request { path: Some(deeper.as_bytes()), ..request(Verb::Get, 4) };
    assert_eq!(node.call(conn, get).value.as_deref(), Some(&b"old"[..]));
    assert_eq!(node.call(conn, set(5, &deeper, -1, b"new")).detail.as_deref(), Some(refused));
    assert_eq!(node.call(conn, del(deeper.as_bytes())).err, None);
    assert_eq!(node.call(conn, get).rev, Some(0));
}
