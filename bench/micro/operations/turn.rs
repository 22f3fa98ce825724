//! A turn of the loop: requests from the bytes in which they came to the bytes of their answers, through the whole replica. The
//! sockets and the disk are not there: a write is durable at once.

use std::hint::black_box;

use bytes::Bytes;
use doozer::limits::SEGMENT;
use doozer::log::{Log, Params};
use doozer::replica::desk::Secrets;
use doozer::replica::rebuild::Rebuild;
use doozer::replica::{Config, Conn, Output, Recovered, Replica, Then};
use doozer::wire::{Request, Verb};

use super::{Listed, VALUE, path};

/// Turns in a call.
const TURNS: u32 = 16;
const NODE: [u8; 16] = *b"ABCDEFGHIJKLMNOP";

pub const OPERATIONS: &[Listed] = &[
    ("turn/get-1", TURNS, || turns(get, 1, 1)),
    ("turn/get-64x16", TURNS * 64 * 16, || turns(get, 64, 16)),
    ("turn/set-1", TURNS, || turns(set, 1, 1)),
    ("turn/set-64x16", TURNS * 64 * 16, || turns(set, 64, 16)),
];

fn get(path: &[u8]) -> Request<'_> {
    Request { tag: Some(7), path: Some(path), ..Request::new(Verb::Get) }
}

fn set(path: &[u8]) -> Request<'_> {
    Request { tag: Some(7), path: Some(path), rev: Some(-1), value: Some(&VALUE.0), ..Request::new(Verb::Set) }
}

/// So many connections, each of which sends so many requests in each turn.
fn turns(request: fn(&[u8]) -> Request<'_>, connections: u32, requests: u32) -> Box<dyn FnMut()> {
    let mut node = Node::new();
    let conns: Vec<Conn> = (0..connections).map(|_| node.replica.open()).collect();
    let buffers = |request: fn(&[u8]) -> Request<'_>| -> Vec<Vec<u8>> {
        let of = |connection| {
            let mut buffer = Vec::new();
            (0..requests).for_each(|i| request(path(i * connections + connection).as_bytes()).encode(&mut buffer));
            buffer
        };
        (0..connections).map(of).collect()
    };
    // The files are there, whatever is asked.
    node.turn(&conns, &buffers(set));
    let buffers = buffers(request);
    Box::new(move || {
        for _ in 0..TURNS {
            node.turn(black_box(&conns), black_box(&buffers));
        }
    })
}

struct Node {
    replica: Replica,
    dirty: Vec<Conn>,
    output: Vec<u8>,
}

impl Node {
    /// A node that makes up a cluster, and serves.
    fn new() -> Node {
        let (machine, start) = Rebuild::new(NODE, 1_000).founded(1, 7);
        let log = Log::create(Params { segment_size: SEGMENT, node: NODE });
        let recovered = Recovered { machine, start, log, snapshot: 0, snapshot_bytes: 0 };
        let mut replica = Replica::new(config(), recovered).expect("a replica");
        replica.campaign().expect("a campaign");
        let mut node = Node { replica, dirty: Vec::new(), output: Vec::new() };
        node.settle();
        assert!(node.replica.serving());
        node
    }

    /// Turns until nothing is left to do, with a disk that does everything at once.
    fn settle(&mut self) {
        loop {
            self.replica.turn();
            if let Some(prepare) = self.replica.next_prepare() {
                self.replica.prepared(prepare.generation);
            }
            match self.replica.next_write() {
                Some(write) => self.replica.written(write),
                None if self.replica.has_work() => {}
                None => return,
            }
        }
    }

    /// Hands in what the connections have sent, and takes their answers.
    fn turn(&mut self, conns: &[Conn], buffers: &[Vec<u8>]) {
        for (conn, buffer) in conns.iter().zip(buffers) {
            let receipt = self.replica.receive(*conn, buffer);
            assert!(receipt.consumed == buffer.len() && matches!(receipt.then, Then::More { .. }));
        }
        self.settle();
        let mut answered = 0;
        let mut dirty = std::mem::take(&mut self.dirty);
        self.replica.take_dirty(&mut dirty);
        for conn in dirty.drain(..) {
            self.output.clear();
            let (output, piece) = self.replica.next_output(conn, &mut self.output);
            assert!(output == Output::Send && piece == Bytes::new());
            black_box(&self.output);
            self.replica.sent(conn);
            answered += 1;
        }
        assert_eq!(answered, conns.len(), "every connection has answers");
        self.dirty = dirty;
    }
}

fn config() -> Config {
    Config {
        id: String::from_utf8_lossy(&NODE).into_owned(),
        node: NODE,
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
        segment: SEGMENT,
        dir: "/data".into(),
        stopwatch: || black_box(1_000),
    }
}
