//! Tales: what happened in a cluster, and what clients were told, step by step. Each is told twice, once as it was, and once with a lie.

use doozer::wire::{ErrCode, FLAG_DEL, FLAG_SET, Request, Response, Verb};

use crate::checker::{Call, Checker, Conn, Moment, Statistics, Violation, value};

pub struct Tale {
    pub checker: Checker,
    at: Moment,
    clients: usize,
    named: u64,
    /// What really happened.
    pub history: Vec<(i32, String, Vec<u8>)>,
}

/// The tale is believed as it is, and with the lie there is this complaint.
#[track_caller]
pub fn differ(complaint: &str, tell: impl Fn(&mut Tale, bool)) {
    let told = |lie| {
        let mut tale = Tale::new();
        tell(&mut tale, lie);
        tale.end()
    };
    if let Err(violation) = told(false) {
        panic!("what is right is not believed: {violation}");
    }
    match told(true) {
        Ok(_) => panic!("the lie is believed, without the complaint: {complaint}"),
        Err(violation) => assert!(violation.text.contains(complaint), "not \"{complaint}\", but: {violation}"),
    }
}

/// The tale is believed.
#[track_caller]
pub fn believed(tell: impl Fn(&mut Tale)) {
    let mut tale = Tale::new();
    tell(&mut tale);
    if let Err(violation) = tale.end() {
        panic!("what is right is not believed: {violation}");
    }
}

impl Tale {
    pub fn new() -> Tale {
        Tale { checker: Checker::new(), at: 0, clients: 0, named: 0, history: Vec::new() }
    }

    /// All that happened is read at two nodes.
    pub fn end(mut self) -> Result<Statistics, Violation> {
        for node in 0..2 {
            for (rev, (flags, path, value)) in (1..).zip(&self.history) {
                self.checker.learn(node, rev, *flags, path.as_bytes(), value);
            }
        }
        self.checker.verify(self.last(), &[0, 1])
    }

    /// The last revision.
    pub fn last(&self) -> i64 {
        i64::try_from(self.history.len()).unwrap()
    }

    // ---- clients ----

    /// A new connection of a new client.
    pub fn connect(&mut self) -> Conn {
        self.at += 10;
        self.clients += 1;
        self.checker.connect(self.clients, self.clients % 3, self.at)
    }

    pub fn call(&mut self, conn: Conn, request: &Request<'_>) -> Call {
        self.at += 10;
        self.checker.call(conn, self.at, request)
    }

    pub fn says(&mut self, call: Call, response: &Response<'_>) {
        self.at += 10;
        self.checker.answer(call, self.at, response);
    }

    pub fn lost(&mut self, call: Call) {
        self.at += 10;
        self.checker.lost(call, self.at);
    }

    pub fn fails(&mut self, call: Call, code: ErrCode) {
        self.says(call, &Response::error(None, code, None));
    }

    pub fn fails_other(&mut self, call: Call, detail: &str) {
        self.says(call, &Response::error(None, ErrCode::Other, Some(detail.as_bytes())));
    }

    pub fn done(&mut self, call: Call) {
        self.says(call, &Response::default());
    }

    pub fn tells_rev(&mut self, call: Call, rev: i64) {
        self.says(call, &Response { rev: Some(rev), ..Response::default() });
    }

    /// A SET is called; its value.
    pub fn set(&mut self, conn: Conn, path: &str, rev: i64) -> (Call, Vec<u8>) {
        self.named += 1;
        let value = value(self.named, 20);
        (self.call(conn, &set(path, rev, &value)), value)
    }

    /// A SET is called, applied and acknowledged.
    pub fn writes(&mut self, conn: Conn, path: &str, rev: i64) -> i64 {
        let (call, value) = self.set(conn, path, rev);
        let rev = self.happens(FLAG_SET, path, &value);
        self.tells_rev(call, rev);
        rev
    }

    /// A DEL is called, applied and acknowledged.
    pub fn deletes(&mut self, conn: Conn, path: &str, rev: i64) -> i64 {
        let call = self.call(conn, &del(path, rev));
        let rev = self.happens(FLAG_DEL, path, b"");
        self.done(call);
        rev
    }

    /// Somebody reads a file, and sees this revision of it; 0 for nothing.
    pub fn sees(&mut self, conn: Conn, path: &str, at: Option<i64>, rev: i64) {
        let call = self.call(conn, &get(path, at));
        self.shows(call, rev);
    }

    /// The answer to a GET.
    pub fn shows(&mut self, call: Call, rev: i64) {
        let value = if rev == 0 { vec![] } else { self.event(rev).2.clone() };
        self.says(call, &Response { rev: Some(rev), value: Some(&value), ..Response::default() });
    }

    /// The answer to a WAIT or a WALK.
    pub fn is_event(&mut self, call: Call, rev: i64) {
        let (flags, path, value) = self.event(rev).clone();
        let (flags, path, value) = (Some(flags), Some(path.as_bytes()), Some(&value[..]));
        self.says(call, &Response { flags, rev: Some(rev), path, value, ..Response::default() });
    }

    // ---- what happens ----

    pub fn happens(&mut self, flags: i32, path: &str, value: &[u8]) -> i64 {
        self.history.push((flags, path.into(), value.to_vec()));
        self.last()
    }

    pub fn event(&self, rev: i64) -> &(i32, String, Vec<u8>) {
        &self.history[usize::try_from(rev - 1).unwrap()]
    }
}

pub fn set<'a>(path: &'a str, rev: i64, value: &'a [u8]) -> Request<'a> {
    Request { path: Some(path.as_bytes()), rev: Some(rev), value: Some(value), ..Request::new(Verb::Set) }
}

pub fn del(path: &str, rev: i64) -> Request<'_> {
    Request { path: Some(path.as_bytes()), rev: Some(rev), ..Request::new(Verb::Del) }
}

pub fn nop() -> Request<'static> {
    Request::new(Verb::Nop)
}

pub fn sync() -> Request<'static> {
    Request::new(Verb::Sync)
}

pub fn rev() -> Request<'static> {
    Request::new(Verb::Rev)
}

pub fn get(path: &str, rev: Option<i64>) -> Request<'_> {
    Request { path: Some(path.as_bytes()), rev, ..Request::new(Verb::Get) }
}

pub fn stat(path: &str, rev: Option<i64>) -> Request<'_> {
    Request { path: Some(path.as_bytes()), rev, ..Request::new(Verb::Stat) }
}

pub fn getdir(path: &str, offset: i32, rev: Option<i64>) -> Request<'_> {
    Request { path: Some(path.as_bytes()), offset: Some(offset), rev, ..Request::new(Verb::Getdir) }
}

pub fn walk(glob: &str, offset: i32, rev: Option<i64>) -> Request<'_> {
    Request { path: Some(glob.as_bytes()), offset: Some(offset), rev, ..Request::new(Verb::Walk) }
}

pub fn wait(glob: &str, rev: i64) -> Request<'_> {
    Request { path: Some(glob.as_bytes()), rev: Some(rev), ..Request::new(Verb::Wait) }
}
