//! Clients: each is at one node, with a connection that it opens again when it is lost, and does as it was told: write and read at
//! random, watch all that happens, or ask what the test asks.

use std::collections::BTreeMap;

use doozer::wire::frame::{self, Split};
use doozer::wire::{ErrCode, Request, Response, Verb};

use crate::Event;
use crate::chance::{Chance, Queue};
use crate::ledger::{self, Body, Id, Ledger, Outcome};
use crate::net::{At, Host, Net, PipeId, Read};

/// An answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    pub tag: i32,
    pub flags: i32,
    pub rev: Option<i64>,
    pub path: String,
    pub value: Option<Vec<u8>>,
    pub err: Option<ErrCode>,
    pub detail: String,
}

impl Answer {
    pub fn of(response: &Response<'_>) -> Answer {
        let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
        Answer {
            tag: response.tag.expect("an answer bears the request's tag"),
            flags: response.flags.unwrap_or(0),
            rev: response.rev,
            path: text(response.path),
            value: response.value.map(<[u8]>::to_vec),
            err: response.err_code.map(|code| ErrCode::try_from(code).expect("a code of the protocol")),
            detail: text(response.err_detail),
        }
    }

    fn event(&self) -> ledger::Event {
        let body = Body::of(self.value.as_deref().unwrap_or_default());
        ledger::Event { flags: self.flags, path: self.path.clone(), body }
    }
}

/// What a client does.
#[derive(Clone, Debug)]
pub enum Plan {
    /// Writes and reads at random.
    Load(Load),
    /// Watches every event.
    Watch,
    /// What the test asks.
    Hand,
}

/// How a client writes and reads at random.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Requests that are outstanding at a time.
    pub window: usize,
    /// Time between an answer and the next request, in microseconds.
    pub pause: u64,
    /// Size of values in bytes, at most.
    pub size: usize,
    /// Whether all it sends are plain writes.
    pub plain: bool,
}

impl Default for Load {
    fn default() -> Load {
        Load { window: 4, pause: 5_000, size: 200, plain: false }
    }
}

#[derive(Clone, Debug)]
enum Asked {
    Mutation(Id),
    Get { path: String, from: i64, at: Option<i64> },
    Sync { floor: i64 },
    Rev { from: i64 },
    Event { next: i64 },
    Hand,
}

/// What happens to a client.
#[derive(Clone, Copy, Debug)]
pub enum Wake {
    Connect,
    Go,
    Readable,
}

/// See the module.
pub struct Client {
    id: usize,
    pub node: Host,
    plan: Plan,
    /// It sends nothing more by itself.
    pub stopped: bool,
    /// Number of its connection, over all clients.
    serial: u64,
    pipe: Option<PipeId>,
    received: Vec<u8>,
    asked: BTreeMap<i32, (u64, Asked)>,
    tag: i32,
    /// The highest revision that it knows its server to have.
    knows: i64,
    /// The next event that it has not seen.
    pub next: i64,
    /// Revisions of the files that all write to.
    cas: BTreeMap<String, i64>,
    /// Not before this time.
    rests: u64,
    /// What the test was answered.
    pub answers: Vec<Answer>,
    /// Times of acknowledgements, in microseconds: of the last, and the longest time without one.
    pub last_done: u64,
    pub longest: u64,
    /// Errors that it was answered, and connections that it lost.
    pub readonly: usize,
    pub unknown: usize,
    pub lost: usize,
}

/// What a client meets outside of itself.
pub struct Outside<'a> {
    pub net: &'a mut Net,
    pub queue: &'a mut Queue<Event>,
    pub chance: &'a mut Chance,
    pub ledger: &'a mut Ledger,
}

impl Outside<'_> {
    fn at(&mut self) -> (&mut Net, At<'_>) {
        (self.net, At { queue: self.queue, chance: self.chance })
    }
}

impl Client {
    pub fn new(id: usize, node: Host, plan: Plan) -> Client {
        Client {
            id,
            node,
            plan,
            stopped: false,
            serial: 0,
            pipe: None,
            received: Vec::new(),
            asked: BTreeMap::new(),
            tag: 0,
            knows: 0,
            next: 1,
            cas: BTreeMap::new(),
            rests: 0,
            answers: Vec::new(),
            last_done: 0,
            longest: 0,
            readonly: 0,
            unknown: 0,
            lost: 0,
        }
    }

    pub fn is_connected(&self) -> bool {
        self.pipe.is_some()
    }

    pub fn is_watching(&self) -> bool {
        matches!(self.plan, Plan::Watch)
    }

    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// Requests that have to be answered some time, and are not.
    pub fn open(&self) -> usize {
        self.asked.values().filter(|(_, asked)| !matches!(asked, Asked::Event { .. })).count()
    }

    /// What it waits for, for a test that has failed.
    pub fn describe(&self) -> String {
        let Client { id, node, serial, asked, .. } = self;
        format!("client {id} at node {node}, connection {serial}, pipe {:?}, waits for {asked:?}", self.pipe)
    }

    /// It is connected now.
    pub fn connected(&mut self, serial: u64, pipe: PipeId, outside: &mut Outside<'_>) {
        (self.serial, self.pipe, self.knows, self.tag) = (serial, Some(pipe), 0, 0);
        self.received.clear();
        self.last_done = outside.queue.now();
        self.go(outside);
    }

    /// The connection is lost.
    fn lose(&mut self, outside: &mut Outside<'_>) {
        if let Some(pipe) = self.pipe.take() {
            self.lost += 1;
            let (net, mut at) = outside.at();
            net.close(pipe, 0, &mut at);
        }
        for (_, (_, asked)) in std::mem::take(&mut self.asked) {
            if let Asked::Mutation(id) = asked {
                outside.ledger.end(id, Outcome::Unknown);
            }
        }
        outside.queue.after(20_000, Event::Client(self.id, self.serial, Wake::Connect));
    }

    pub fn wake(&mut self, wake: Wake, outside: &mut Outside<'_>) {
        match wake {
            Wake::Connect => {}
            Wake::Go => self.go(outside),
            Wake::Readable => self.readable(outside),
        }
    }

    fn readable(&mut self, outside: &mut Outside<'_>) {
        while let Some(pipe) = self.pipe {
            let (net, mut at) = outside.at();
            match net.read(pipe, 0, &mut at) {
                Read::Nothing => break,
                Read::End | Read::Broken => return self.lose(outside),
                Read::Bytes(bytes) => self.received.extend_from_slice(&bytes),
            }
        }
        let received = std::mem::take(&mut self.received);
        let mut rest = &received[..];
        while let Split::Whole { body, consumed } = frame::split(rest).expect("a frame") {
            let answer = Answer::of(&Response::decode(&rest[body]).expect("a response"));
            self.answered(answer, outside);
            rest = &rest[consumed..];
        }
        self.received = rest.to_vec();
        self.go(outside);
    }

    // ---- asking ----

    /// Sends a request for the test.
    pub fn ask(&mut self, request: &Request<'_>, outside: &mut Outside<'_>) -> i32 {
        self.send(request, Asked::Hand, outside)
    }

    fn send(&mut self, request: &Request<'_>, asked: Asked, outside: &mut Outside<'_>) -> i32 {
        let pipe = self.pipe.expect("only who is connected asks");
        self.tag += 1;
        let mut bytes = Vec::new();
        Request { tag: Some(self.tag), ..*request }.encode(&mut bytes);
        let now = outside.queue.now();
        let (net, mut at) = outside.at();
        net.send(pipe, 0, &bytes, false, &mut at);
        self.asked.insert(self.tag, (now, asked));
        self.tag
    }

    /// Asks what is to be asked now.
    fn go(&mut self, outside: &mut Outside<'_>) {
        if self.stopped || self.pipe.is_none() {
            return;
        }
        match self.plan {
            Plan::Hand => {}
            Plan::Watch => {
                if self.asked.is_empty() {
                    let request = Request { path: Some(b"/**"), rev: Some(self.next), ..Request::new(Verb::Wait) };
                    self.send(&request, Asked::Event { next: self.next }, outside);
                }
            }
            Plan::Load(load) => {
                while self.asked.len() < load.window && outside.queue.now() >= self.rests {
                    self.ask_something(load, outside);
                    let pause = load.pause / 2 + outside.chance.below(load.pause + 1);
                    self.rest(pause, outside);
                }
            }
        }
    }

    fn rest(&mut self, us: u64, outside: &mut Outside<'_>) {
        self.rests = self.rests.max(outside.queue.now() + us);
        outside.queue.at(self.rests, Event::Client(self.id, self.serial, Wake::Go));
    }

    fn ask_something(&mut self, load: Load, outside: &mut Outside<'_>) {
        let own = format!("/load/{}/{}", self.id, outside.chance.below(8));
        match if load.plain { 0 } else { outside.chance.below(20) } {
            0..8 => self.write(&own, -1, load.size, outside),
            8 => self.write(&format!("/all/{}", outside.chance.below(3)), -1, load.size, outside),
            9..12 => {
                let path = format!("/cas/{}", outside.chance.below(3));
                match self.cas.get(&path) {
                    Some(rev) => self.write(&path, *rev, load.size, outside),
                    None => self.read(&path, None, outside),
                }
            }
            12 => {
                let path = ledger::nothing(outside.ledger.mutations.len());
                let id = outside.ledger.begin(ledger::Verb::Del, &path, 0, 0, self.serial);
                let request = Request { path: Some(path.as_bytes()), rev: Some(0), ..Request::new(Verb::Del) };
                self.send(&request, Asked::Mutation(id), outside);
            }
            13 => {
                let id = outside.ledger.begin(ledger::Verb::Nop, "/", -1, 0, self.serial);
                self.send(&Request::new(Verb::Nop), Asked::Mutation(id), outside);
            }
            14..17 => self.read(&own, None, outside),
            17 => {
                let floor = outside.ledger.acknowledged;
                self.send(&Request::new(Verb::Sync), Asked::Sync { floor }, outside);
            }
            18 => {
                self.send(&Request::new(Verb::Rev), Asked::Rev { from: self.knows }, outside);
            }
            _ => {
                let at = outside.ledger.acknowledged + i64::try_from(outside.chance.below(10)).expect("a small number");
                self.read(&own, Some(at.max(1)), outside);
            }
        }
    }

    fn write(&mut self, path: &str, rev: i64, size: usize, outside: &mut Outside<'_>) {
        let size = outside.chance.index(size + 1);
        let id = outside.ledger.begin(ledger::Verb::Set, path, rev, size, self.serial);
        let value = ledger::value(id, size);
        let request =
            Request { path: Some(path.as_bytes()), rev: Some(rev), value: Some(&value), ..Request::new(Verb::Set) };
        self.send(&request, Asked::Mutation(id), outside);
    }

    fn read(&mut self, path: &str, at: Option<i64>, outside: &mut Outside<'_>) {
        let request = Request { path: Some(path.as_bytes()), rev: at, ..Request::new(Verb::Get) };
        self.send(&request, Asked::Get { path: path.to_owned(), from: self.knows, at }, outside);
    }

    // ---- answers ----

    fn answered(&mut self, answer: Answer, outside: &mut Outside<'_>) {
        let (_, asked) = self.asked.remove(&answer.tag).unwrap_or_else(|| panic!("nobody asked: {answer:?}"));
        match asked {
            Asked::Hand => self.answers.push(answer),
            Asked::Mutation(id) => self.ended(id, &answer, outside),
            Asked::Get { path, from, at } => {
                assert_eq!(answer.err, None, "a read of {path} at {at:?}: {answer:?}");
                let rev = answer.rev.expect("GET gives a revision");
                outside.ledger.read(&path, rev, &answer.value.expect("GET gives a value"), from, at);
                self.knows = self.knows.max(rev);
                if path.starts_with("/cas/") {
                    self.cas.insert(path, rev);
                }
            }
            Asked::Sync { floor } => match answer.err {
                None => {
                    let rev = answer.rev.expect("SYNC gives a revision");
                    assert!(rev >= floor, "SYNC says {rev}, but {floor} was acknowledged before it was asked");
                    self.knows = self.knows.max(rev);
                }
                Some(ErrCode::Readonly) => self.refused(outside),
                Some(_) => panic!("SYNC: {answer:?}"),
            },
            Asked::Rev { from } => {
                let rev = answer.rev.expect("REV gives a revision");
                assert!(rev >= from, "the server was at {from}, and says {rev}");
                self.knows = self.knows.max(rev);
            }
            Asked::Event { next } => {
                assert_eq!((answer.err, answer.rev), (None, Some(next)), "the event of {next}: {answer:?}");
                outside.ledger.event(next, answer.event(), "one who watches");
                self.knows = self.knows.max(next);
                self.next = next + 1;
            }
        }
    }

    fn ended(&mut self, id: Id, answer: &Answer, outside: &mut Outside<'_>) {
        let mutation = &outside.ledger.mutations[id];
        let path = mutation.path.clone();
        let outcome = match answer.err {
            None => Outcome::Done(answer.rev),
            Some(ErrCode::Readonly) => Outcome::Refused,
            Some(ErrCode::RevMismatch) if mutation.rev >= 0 => Outcome::Mismatch,
            Some(ErrCode::Other) if answer.detail == "outcome unknown" => Outcome::Unknown,
            Some(ErrCode::Other) if answer.detail.starts_with("disk full: ") => Outcome::Refused,
            Some(_) => panic!("mutation {id}, {mutation:?}: {answer:?}"),
        };
        outside.ledger.end(id, outcome);
        match outcome {
            Outcome::Done(rev) => {
                let now = outside.queue.now();
                self.longest = self.longest.max(now - self.last_done);
                self.last_done = now;
                self.knows = self.knows.max(rev.unwrap_or(0));
                if path.starts_with("/cas/") {
                    self.cas.insert(path, rev.unwrap_or(0));
                }
            }
            Outcome::Refused => self.refused(outside),
            Outcome::Unknown => self.unknown += 1,
            _ => _ = self.cas.remove(&path),
        }
    }

    fn refused(&mut self, outside: &mut Outside<'_>) {
        self.readonly += 1;
        // Asks again after a while.
        self.rest(50_000, outside);
    }
}
