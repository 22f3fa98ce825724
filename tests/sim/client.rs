//! Clients: each is at one node, with a connection that it opens again when it is lost, there or elsewhere, and does as it was told:
//! write and read at random, watch all that happens, or ask what the test asks. The checker is told of all of it.

use std::collections::BTreeMap;

use doozer::wire::frame::{self, Split};
use doozer::wire::{ErrCode, Request, Response, Verb};

use crate::Event;
use crate::anything::Anything;
use crate::chance::{Chance, Queue};
use crate::checker::{self, Call, Checker, Conn};
use crate::hostile::Hostile;
use crate::net::{At, Host, Net, PipeId, Read};
use crate::node::SECRET;

/// How many events a client waits for at a time, beside what else it asks.
const PARKED: usize = 8;
/// How many events of the past are asked for at once, after the first.
const AHEAD: i64 = 31;

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
}

/// What a client does.
#[derive(Clone, Debug)]
pub enum Plan {
    /// Writes and reads at random.
    Load(Load),
    /// Watches every event, and goes on where it was when its connection is lost.
    Watch,
    /// Reads the history of its node, up to a revision.
    History(i64),
    /// Reads all files of its node as they are at a revision.
    Files(i64),
    /// What the test asks.
    Hand,
    /// It is no client, but a member that does not keep to the protocol.
    Hostile(Box<Hostile>),
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
    /// Whether it connects to any node when it has lost its connection.
    pub roams: bool,
    /// Whether half of what it asks is [`Anything`].
    pub anything: bool,
}

impl Default for Load {
    fn default() -> Load {
        Load { window: 4, pause: 5_000, size: 200, plain: false, roams: false, anything: false }
    }
}

/// What an answer means to a client, beside what it means to the checker.
#[derive(Clone, Debug)]
enum Asked {
    /// A write of a file whose revision is of interest, if it is one.
    Write(Option<String>),
    Read(Option<String>),
    /// An event that may not have come yet.
    Event(i64),
    /// An event of the node's history.
    Past(i64),
    /// One of all files.
    File,
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
    /// Attempts to connect since it was connected.
    pub attempts: u32,
    received: Vec<u8>,
    conn: Option<Conn>,
    asked: BTreeMap<i32, (Call, Asked)>,
    tag: i32,
    /// The next event that it has not seen.
    pub next: i64,
    /// Revisions of such files, as far as it was told.
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
    pub checker: &'a mut Checker,
    /// How many values have been named.
    pub names: &'a mut u64,
    /// How many nodes there are.
    pub nodes: usize,
    /// Whether they want to hear [`SECRET`].
    pub secret: bool,
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
            attempts: 0,
            received: Vec::new(),
            conn: None,
            asked: BTreeMap::new(),
            tag: 0,
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

    /// Whether it goes wherever there is a server.
    pub fn roams(&self) -> bool {
        matches!(self.plan, Plan::Load(Load { roams: true, .. }))
    }

    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// Requests that have to be answered some time, and are not.
    pub fn open(&self) -> usize {
        self.asked.values().filter(|(_, asked)| !matches!(asked, Asked::Event(_))).count()
    }

    /// What it waits for, for a test that has failed.
    pub fn describe(&self) -> String {
        let Client { id, node, serial, asked, .. } = self;
        format!("client {id} at node {node}, connection {serial}, pipe {:?}, waits for {asked:?}", self.pipe)
    }

    /// It is connected now.
    pub fn connected(&mut self, serial: u64, pipe: PipeId, outside: &mut Outside<'_>) {
        (self.serial, self.pipe, self.tag, self.attempts) = (serial, Some(pipe), 0, 0);
        self.conn = Some(outside.checker.connect(self.id, self.node, outside.queue.now()));
        self.received.clear();
        self.last_done = outside.queue.now();
        if let Plan::Hostile(hostile) = &mut self.plan {
            let greeting = hostile.greeting();
            let (net, mut at) = outside.at();
            net.send(pipe, 0, &greeting, false, &mut at);
        } else if outside.secret {
            self.present_secret(pipe, outside);
        }
        self.go(outside);
    }

    /// Presents the secret, with the tag 0, which no other request has.
    fn present_secret(&self, pipe: PipeId, outside: &mut Outside<'_>) {
        let mut bytes = Vec::new();
        let request = Request { tag: Some(0), value: Some(SECRET.as_bytes()), ..Request::new(Verb::Access) };
        request.encode(&mut bytes);
        let (net, mut at) = outside.at();
        net.send(pipe, 0, &bytes, false, &mut at);
    }

    /// The connection is lost.
    fn lose(&mut self, outside: &mut Outside<'_>) {
        if let Some(pipe) = self.pipe.take() {
            self.lost += 1;
            let (net, mut at) = outside.at();
            net.close(pipe, 0, &mut at);
        }
        for (_, (call, asked)) in std::mem::take(&mut self.asked) {
            outside.checker.lost(call, outside.queue.now());
            self.unknown += usize::from(matches!(asked, Asked::Write(_)));
            if let Asked::Past(next) = asked {
                self.next = self.next.min(next);
            }
        }
        if self.roams() {
            self.node = outside.chance.index(outside.nodes);
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
        if let Plan::Hostile(hostile) = &mut self.plan {
            let (answer, over) = hostile.receive(&received);
            if over {
                return self.lose(outside);
            }
            let pipe = self.pipe.expect("it is connected");
            let (net, mut at) = outside.at();
            net.send(pipe, 0, &answer, false, &mut at);
            return self.go(outside);
        }
        let mut rest = &received[..];
        while let Split::Whole { body, consumed } = frame::split(rest).expect("a frame") {
            self.answered(&Response::decode(&rest[body]).expect("a response"), outside);
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
        let request = Request { tag: Some(self.tag), ..*request };
        request.encode(&mut bytes);
        let conn = self.conn.expect("a connection is known to the checker");
        let call = outside.checker.call(conn, outside.queue.now(), &request);
        let (net, mut at) = outside.at();
        net.send(pipe, 0, &bytes, false, &mut at);
        self.asked.insert(self.tag, (call, asked));
        self.tag
    }

    /// Requests that wait for events which may not come soon.
    fn parked(&self) -> usize {
        self.asked.len() - self.open()
    }

    /// Asks what is to be asked now.
    fn go(&mut self, outside: &mut Outside<'_>) {
        if self.stopped || self.pipe.is_none() {
            return;
        }
        match self.plan {
            Plan::Hostile(ref hostile) => {
                if hostile.is_linked() && outside.queue.now() >= self.rests {
                    let said = hostile.say(outside.chance);
                    let pipe = self.pipe.expect("it is connected");
                    let (net, mut at) = outside.at();
                    net.send(pipe, 0, &said, false, &mut at);
                    let pause = outside.chance.between((100, 20_000));
                    self.rest(pause, outside);
                }
            }
            Plan::Hand => {}
            Plan::Watch => {
                if self.asked.is_empty() {
                    // Several may come at once, and be more than its server sends at a time.
                    for rev in self.next..self.next + 8 {
                        self.wait("/**", rev, Asked::Event(rev), outside);
                    }
                }
            }
            Plan::History(last) => {
                if self.asked.is_empty() {
                    for rev in self.next..=last.min(self.next + AHEAD) {
                        self.wait("/**", rev, Asked::Past(rev), outside);
                    }
                }
            }
            Plan::Files(rev) => {
                if self.asked.is_empty() {
                    for _ in 0..AHEAD {
                        let offset = i32::try_from(self.next).expect("few files");
                        let glob = Some(&b"/**"[..]);
                        let request =
                            Request { path: glob, rev: Some(rev), offset: Some(offset), ..Request::new(Verb::Walk) };
                        self.send(&request, Asked::File, outside);
                        self.next += 1;
                    }
                }
            }
            Plan::Load(load) => {
                while self.asked.len() - self.parked() < load.window && outside.queue.now() >= self.rests {
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

    fn ask_anything(&mut self, outside: &mut Outside<'_>) {
        if outside.chance.once_in(60) {
            for nth in 0..10 {
                self.send(&Anything::laborious(nth).request(), Asked::Read(None), outside);
            }
        }
        let now = outside.checker.acknowledged();
        let anything = Anything::pick(outside.chance, now, outside.names);
        let asked = match anything {
            _ if anything.writes() => Asked::Write(anything.path().map(str::to_owned)),
            _ if anything.waits() && self.parked() >= PARKED => return self.get("/any/a", None, outside),
            _ if anything.waits() && !self.cas.is_empty() && outside.chance.once_in(2) => {
                // For what it knows to be there.
                let known = outside.chance.index(self.cas.len());
                let (path, rev) =
                    self.cas.iter().nth(known).map(|(path, rev)| (path.clone(), *rev)).expect("one of them");
                return self.wait(&path, rev, Asked::Event(0), outside);
            }
            _ if anything.waits() => Asked::Event(0),
            _ => Asked::Read(None),
        };
        self.send(&anything.request(), asked, outside);
    }

    fn ask_something(&mut self, load: Load, outside: &mut Outside<'_>) {
        if load.anything && outside.chance.once_in(2) {
            return self.ask_anything(outside);
        }
        let own = format!("/load/{}/{}", self.id, outside.chance.below(6));
        let all = format!("/all/{}", outside.chance.below(4));
        let mut kind = if load.plain { 0 } else { outside.chance.below(40) };
        if (34..36).contains(&kind) && self.parked() >= PARKED {
            kind = 12;
        }
        match kind {
            0..12 => self.set(&own, -1, load.size, outside),
            12..14 => self.set(&all, -1, load.size, outside),
            14..20 => {
                let path = format!("/cas/{}", outside.chance.below(3));
                match self.cas.get(&path).copied() {
                    // As often as not it is not the latest, and now and then one that is yet to come.
                    Some(rev) if outside.chance.once_in(16) => self.set(&path, rev + 3, load.size, outside),
                    Some(rev) if outside.chance.once_in(5) => self.del(&path, rev, outside),
                    Some(rev) => self.set(&path, rev, load.size, outside),
                    None => self.get(&path, None, outside),
                }
            }
            20 => self.del(&own, -1, outside),
            21 => self.del(&all, -1, outside),
            22 => self.del(&format!("/none/{}", outside.chance.below(3)), 0, outside),
            23 => _ = self.send(&Request::new(Verb::Nop), Asked::Write(None), outside),
            24..27 => self.get(&own, None, outside),
            27 => self.get(&all, None, outside),
            28..30 => {
                let at = self.some_revision(outside);
                self.get(&own, Some(at), outside);
            }
            30 => self.list(Verb::Getdir, &format!("/load/{}", self.id), None, outside),
            31 => {
                let at = self.some_revision(outside);
                let path = outside.chance.pick(&["/", "/load", "/all", "/none", "/cas"]);
                self.list(Verb::Getdir, path, Some(at), outside);
            }
            32 => self.list(Verb::Walk, "/load/*/*", None, outside),
            33 => {
                let at = self.some_revision(outside);
                let glob = outside.chance.pick(&["/all/*", "/**", "/cas/?", "/load/**/1", "/a?l?1", "/**/**"]);
                self.list(Verb::Walk, glob, Some(at), outside);
            }
            34 | 35 => {
                // From the past, the present, or the future.
                let at = self.some_revision(outside);
                let glob =
                    outside.chance.pick(&["/all/*", "/**", "/cas/1", "/load/*/0", "/n*/**", "/cas?1", "/l?a*/?/*"]);
                self.wait(glob, at, Asked::Event(0), outside);
            }
            36 | 37 => _ = self.send(&Request::new(Verb::Sync), Asked::Read(None), outside),
            38 => _ = self.send(&Request::new(Verb::Rev), Asked::Read(None), outside),
            _ => {
                let request = Request { path: Some(all.as_bytes()), ..Request::new(Verb::Stat) };
                self.send(&request, Asked::Read(None), outside);
            }
        }
    }

    /// A revision: mostly of the past, sometimes of the near future.
    fn some_revision(&self, outside: &mut Outside<'_>) -> i64 {
        let now = outside.checker.acknowledged();
        let back = outside.chance.pick(&[3, 30, 1_000_000]);
        let back = i64::try_from(outside.chance.below(back)).expect("a small number");
        let rev = if outside.chance.once_in(4) { now + back.min(5) } else { now - back % (now + 1) };
        rev.max(1)
    }

    fn set(&mut self, path: &str, rev: i64, size: usize, outside: &mut Outside<'_>) {
        let size = outside.chance.index(size + 1);
        *outside.names += 1;
        let value = checker::value(*outside.names, size);
        let request =
            Request { path: Some(path.as_bytes()), rev: Some(rev), value: Some(&value), ..Request::new(Verb::Set) };
        self.send(&request, Asked::Write(shared(path)), outside);
    }

    fn del(&mut self, path: &str, rev: i64, outside: &mut Outside<'_>) {
        let request = Request { path: Some(path.as_bytes()), rev: Some(rev), ..Request::new(Verb::Del) };
        self.send(&request, Asked::Write(shared(path)), outside);
    }

    fn get(&mut self, path: &str, at: Option<i64>, outside: &mut Outside<'_>) {
        let request = Request { path: Some(path.as_bytes()), rev: at, ..Request::new(Verb::Get) };
        self.send(&request, Asked::Read(shared(path)), outside);
    }

    fn list(&mut self, verb: Verb, path: &str, at: Option<i64>, outside: &mut Outside<'_>) {
        let offset = i32::try_from(outside.chance.below(6)).expect("a small number");
        let request = Request { path: Some(path.as_bytes()), rev: at, offset: Some(offset), ..Request::new(verb) };
        self.send(&request, Asked::Read(None), outside);
    }

    fn wait(&mut self, glob: &str, rev: i64, asked: Asked, outside: &mut Outside<'_>) {
        let request = Request { path: Some(glob.as_bytes()), rev: Some(rev), ..Request::new(Verb::Wait) };
        self.send(&request, asked, outside);
    }

    // ---- answers ----

    fn answered(&mut self, response: &Response<'_>, outside: &mut Outside<'_>) {
        if response.tag == Some(0) {
            assert!(response.err_code.is_none(), "the secret is refused: {response:?}");
            return;
        }
        let asked = response.tag.and_then(|tag| self.asked.remove(&tag));
        let (call, asked) = asked.unwrap_or_else(|| panic!("nobody asked: {response:?}"));
        let now = outside.queue.now();
        outside.checker.answer(call, now, response);
        let code = response.err_code.map(|code| ErrCode::try_from(code).expect("a code of the protocol"));
        match asked {
            Asked::Hand => self.answers.push(Answer::of(response)),
            Asked::Write(path) => match code {
                None => {
                    self.longest = self.longest.max(now - self.last_done);
                    self.last_done = now;
                    if let (Some(path), rev) = (path, response.rev.unwrap_or(0)) {
                        self.cas.insert(path, rev);
                    }
                }
                Some(ErrCode::Readonly) => self.refused(outside),
                Some(ErrCode::Other) => self.unknown += 1,
                Some(_) => _ = path.and_then(|path| self.cas.remove(&path)),
            },
            Asked::Read(path) => match (code, path) {
                (None, Some(path)) => _ = self.cas.insert(path, response.rev.unwrap_or(0)),
                (Some(ErrCode::Readonly), _) => self.refused(outside),
                _ => {}
            },
            Asked::Event(_) if code == Some(ErrCode::TooLate) => {
                self.next = outside.checker.acknowledged().max(self.next)
            }
            // The next of a watch.
            Asked::Event(next) => self.next = self.next.max(next + 1),
            // Behind the last.
            Asked::File => self.stopped |= code.is_some(),
            Asked::Past(rev) => {
                assert_eq!(code, None, "revision {rev} of node {} cannot be read", self.node);
                self.next = rev + 1;
            }
        }
        if let Some(violation) = outside.checker.violation() {
            panic!("{violation}");
        }
    }

    fn refused(&mut self, outside: &mut Outside<'_>) {
        self.readonly += 1;
        // Asks again after a while.
        self.rest(50_000, outside);
    }
}

/// The path, if it is of a file that all write to by compare-and-set.
fn shared(path: &str) -> Option<String> {
    path.starts_with("/cas/").then(|| path.to_owned())
}
