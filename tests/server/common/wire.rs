//! A connection that speaks the client protocol, bare: it knows nothing of tags or order, and says what it got.

use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use doozer::wire::frame::{self, Split};
use doozer::wire::{ErrCode, Request, Response, Verb};

use super::LIMIT;

// ---- requests ----

pub fn get(path: &str) -> Request<'_> {
    Request { path: Some(path.as_bytes()), ..Request::new(Verb::Get) }
}

pub fn set<'a>(path: &'a str, rev: i64, value: &'a [u8]) -> Request<'a> {
    Request { path: Some(path.as_bytes()), rev: Some(rev), value: Some(value), ..Request::new(Verb::Set) }
}

pub fn del(path: &str, rev: i64) -> Request<'_> {
    Request { path: Some(path.as_bytes()), rev: Some(rev), ..Request::new(Verb::Del) }
}

pub fn stat(path: &str) -> Request<'_> {
    Request { path: Some(path.as_bytes()), ..Request::new(Verb::Stat) }
}

pub fn getdir(path: &str, offset: i32) -> Request<'_> {
    Request { path: Some(path.as_bytes()), offset: Some(offset), ..Request::new(Verb::Getdir) }
}

pub fn walk(glob: &str, offset: i32) -> Request<'_> {
    Request { path: Some(glob.as_bytes()), offset: Some(offset), ..Request::new(Verb::Walk) }
}

pub fn wait(glob: &str, rev: i64) -> Request<'_> {
    Request { path: Some(glob.as_bytes()), rev: Some(rev), ..Request::new(Verb::Wait) }
}

pub fn access(secret: &str) -> Request<'_> {
    Request { value: Some(secret.as_bytes()), ..Request::new(Verb::Access) }
}

pub fn bare(verb: Verb) -> Request<'static> {
    Request::new(verb)
}

/// A request with one more field.
pub trait With<'a> {
    /// At this revision.
    fn at(self, rev: i64) -> Request<'a>;
    /// With this tag.
    fn tag(self, tag: i32) -> Request<'a>;
}

impl<'a> With<'a> for Request<'a> {
    fn at(self, rev: i64) -> Request<'a> {
        Request { rev: Some(rev), ..self }
    }

    fn tag(self, tag: i32) -> Request<'a> {
        Request { tag: Some(tag), ..self }
    }
}

/// The frame of a request.
pub fn framed(request: &Request<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    request.encode(&mut bytes);
    bytes
}

/// A frame around any bytes.
pub fn frame_of(body: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend_from_slice(body);
    bytes
}

// ---- answers ----

/// A response, field by field. Its text names exactly the fields that are present:
/// `tag=1 flags=4 rev=7 path="/a" value="x"`, `MISSING_ARG`, `OTHER "permission denied"`, or `ok` for none at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    pub tag: Option<i32>,
    pub flags: Option<i32>,
    pub rev: Option<i64>,
    pub path: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub len: Option<i32>,
    pub err_code: Option<i32>,
    pub err_detail: Option<Vec<u8>>,
}

impl Reply {
    fn decode(body: &[u8]) -> Reply {
        let r = Response::decode(body).unwrap_or_else(|e| panic!("an answer is no message ({e}): {body:?}"));
        let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
        Reply {
            tag: r.tag,
            flags: r.flags,
            rev: r.rev,
            path: owned(r.path),
            value: owned(r.value),
            len: r.len,
            err_code: r.err_code,
            err_detail: owned(r.err_detail),
        }
    }

    /// The revision, of an answer that must have one.
    #[track_caller]
    pub fn revision(&self) -> i64 {
        assert!(self.err_code.is_none(), "{self}");
        self.rev.unwrap_or_else(|| panic!("no revision: {self}"))
    }

    /// The path as text.
    pub fn path(&self) -> String {
        String::from_utf8_lossy(self.path.as_deref().unwrap_or_default()).into_owned()
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted = |bytes: &Vec<u8>| match bytes.len() {
            0..=200 => format!("\"{}\"", bytes.escape_ascii()),
            long => format!("<{long} bytes>"),
        };
        let mut parts = Vec::new();
        parts.extend(self.tag.map(|n| format!("tag={n}")));
        parts.extend(self.flags.map(|n| format!("flags={n}")));
        parts.extend(self.rev.map(|n| format!("rev={n}")));
        parts.extend(self.path.as_ref().map(|bytes| format!("path={}", quoted(bytes))));
        parts.extend(self.value.as_ref().map(|bytes| format!("value={}", quoted(bytes))));
        parts.extend(self.len.map(|n| format!("len={n}")));
        parts.extend(self.err_code.map(|n| match ErrCode::try_from(n) {
            Ok(code) => code.name().to_string(),
            Err(unknown) => format!("error {unknown}"),
        }));
        parts.extend(self.err_detail.as_ref().map(quoted));
        if parts.is_empty() { f.write_str("ok") } else { f.write_str(&parts.join(" ")) }
    }
}

// ---- connections ----

/// A connection.
pub struct Client {
    stream: TcpStream,
    bytes: Vec<u8>,
    /// Where the next answer begins.
    at: usize,
    /// The server may be killed: an answer may be cut short.
    killed: bool,
}

impl Client {
    #[track_caller]
    pub fn connect(addr: SocketAddr) -> Client {
        let stream = TcpStream::connect_timeout(&addr, LIMIT).unwrap_or_else(|e| panic!("cannot connect: {e}"));
        Client::over(stream)
    }

    /// Over a connection that is there already.
    pub fn over(stream: TcpStream) -> Client {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        Client { stream, bytes: Vec::new(), at: 0, killed: false }
    }

    /// The socket.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Sends these bytes, whatever they are.
    #[track_caller]
    pub fn raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap_or_else(|e| panic!("cannot send: {e}"));
    }

    /// Sends a request.
    #[track_caller]
    pub fn send(&mut self, request: &Request<'_>) {
        self.raw(&framed(request));
    }

    /// Sends requests with one write.
    #[track_caller]
    pub fn send_all(&mut self, requests: &[Request<'_>]) {
        let mut bytes = Vec::new();
        for request in requests {
            request.encode(&mut bytes);
        }
        self.raw(&bytes);
    }

    /// Sends no more.
    pub fn half_close(&mut self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// The next answer, or `None` if the connection has ended.
    #[track_caller]
    pub fn next(&mut self) -> Option<Reply> {
        loop {
            match frame::split(&self.bytes[self.at..]).unwrap() {
                Split::Whole { body, consumed } => {
                    let reply = Reply::decode(&self.bytes[self.at + body.start..self.at + body.end]);
                    self.at += consumed;
                    return Some(reply);
                }
                Split::Partial { .. } => {}
            }
            self.bytes.drain(..self.at);
            self.at = 0;
            let mut chunk = [0; 65536];
            match self.stream.read(&mut chunk) {
                Ok(0) if self.bytes.is_empty() || self.killed => return None,
                Ok(0) => panic!("the connection ended within an answer: {:?}", self.bytes),
                Ok(n) => self.bytes.extend_from_slice(&chunk[..n]),
                Err(e) if e.kind() == ErrorKind::ConnectionReset => return None,
                Err(e) => panic!("no answer within {LIMIT:?}: {e}"),
            }
        }
    }

    /// Sends what can be sent to a server that may be killed meanwhile.
    pub fn try_raw(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// The next answer of a server that may be killed meanwhile, also in the midst of it.
    #[track_caller]
    pub fn try_next(&mut self) -> Option<Reply> {
        self.killed = true;
        self.next()
    }

    /// The next answer.
    #[track_caller]
    pub fn recv(&mut self) -> Reply {
        self.next().expect("an answer, not the end of the connection")
    }

    /// The next answers, each as text, sorted: they may come in any order.
    #[track_caller]
    pub fn recv_sorted(&mut self, n: usize) -> Vec<String> {
        let mut replies: Vec<String> = (0..n).map(|_| self.recv().to_string()).collect();
        replies.sort();
        replies
    }

    /// Sends a request and returns the next answer.
    #[track_caller]
    pub fn call(&mut self, request: &Request<'_>) -> Reply {
        self.send(request);
        self.recv()
    }

    /// The answer to a request, as text.
    #[track_caller]
    pub fn ask(&mut self, request: &Request<'_>) -> String {
        self.call(request).to_string()
    }

    /// Sets a file, whatever it holds, and returns the revision.
    #[track_caller]
    pub fn put(&mut self, path: &str, value: &[u8]) -> i64 {
        self.call(&set(path, -1, value)).revision()
    }

    /// The server's revision.
    #[track_caller]
    pub fn rev(&mut self) -> i64 {
        self.call(&bare(Verb::Rev)).revision()
    }

    /// Asserts that nothing more comes, and that the server closes the connection.
    #[track_caller]
    pub fn ends(&mut self) {
        if let Some(reply) = self.next() {
            panic!("the connection should have been closed; it answered {reply}");
        }
    }
}
