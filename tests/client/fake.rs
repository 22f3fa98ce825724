//! A server that does as a test tells it: each connection runs one script, on a thread of its own.
//!
//! It speaks through `doozer::wire` and knows no semantics. Whatever it waits for is bounded by [`PATIENCE`]; a script
//! that panics fails its test when the [`Fake`] is dropped.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use doozer::wire::frame::{Split, split};
use doozer::wire::{ErrCode, Request, Response, Verb};

/// What nothing here takes longer than, unless something is wrong.
pub const PATIENCE: Duration = Duration::from_secs(600);

pub struct Fake {
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
    /// Ended when the test ends: a client whose runtime no longer turns cannot close them.
    streams: Arc<Mutex<Vec<TcpStream>>>,
    listener: Option<JoinHandle<()>>,
}

impl Fake {
    /// `script` is told the number of its connection, from 0.
    pub fn start(script: impl Fn(usize, &mut Peer) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let streams = Arc::new(Mutex::new(Vec::new()));
        let accepted = Arc::clone(&streams);
        let script = Arc::new(script);
        let accept = move || {
            let mut peers = Vec::new();
            for (n, stream) in listener.incoming().enumerate() {
                if stopped.load(Ordering::SeqCst) {
                    break;
                }
                let stream = stream.expect("a connection");
                let clone = stream.try_clone().expect("a descriptor");
                accepted.lock().expect("no panic within").push(clone);
                let script = Arc::clone(&script);
                peers.push(thread::spawn(move || {
                    let mut peer = Peer::new(stream);
                    script(n, &mut peer);
                    peer.close();
                }));
            }
            drop(listener);
            for peer in peers {
                if let Err(panic) = peer.join() {
                    std::panic::resume_unwind(panic);
                }
            }
        };
        Self { address, stop, streams, listener: Some(thread::spawn(accept)) }
    }

    pub fn uri(&self) -> String {
        format!("doozer:?ca={}", self.address)
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the accept loop, which then sees that it is to stop.
        drop(TcpStream::connect(self.address));
        for stream in self.streams.lock().expect("no panic within").iter() {
            drop(stream.shutdown(Shutdown::Both));
        }
        let ended = self.listener.take().expect("dropped once").join();
        if ended.is_err() && !thread::panicking() {
            panic!("the fake server's script failed");
        }
    }
}

/// A request as it came, with its bytes.
#[derive(Clone, Debug)]
pub struct Asked {
    pub tag: Option<i32>,
    pub verb: Verb,
    pub path: String,
    pub value: Vec<u8>,
    pub offset: Option<i32>,
    pub rev: Option<i64>,
}

/// The server's end of one connection.
pub struct Peer {
    stream: TcpStream,
    input: Vec<u8>,
    knows_sync: bool,
}

impl Peer {
    fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_nodelay(true).expect("nodelay");
        Self { stream, input: Vec::new(), knows_sync: false }
    }

    /// From now on SYNC is a request like any other; else it is answered as a server of the original does, which does not know
    /// it. A client asks for SYNC by itself when a wait has lasted for a while, so a slow machine must not make a difference.
    pub fn knows_sync(&mut self) {
        self.knows_sync = true;
    }

    /// The next request; `None` when the client has gone.
    pub fn next(&mut self) -> Option<Asked> {
        loop {
            let asked = self.any()?;
            if asked.verb != Verb::Sync || self.knows_sync {
                return Some(asked);
            }
            self.fail(&asked, ErrCode::UnknownVerb, "");
        }
    }

    fn any(&mut self) -> Option<Asked> {
        loop {
            if let Split::Whole { body, consumed } = split(&self.input).expect("a client's frame") {
                let request = Request::decode(&self.input[body]).expect("a client's request");
                let asked = Asked {
                    tag: request.tag,
                    verb: Verb::try_from(request.verb.expect("a verb")).expect("a known verb"),
                    path: String::from_utf8(request.path.unwrap_or_default().to_vec()).expect("UTF-8"),
                    value: request.value.unwrap_or_default().to_vec(),
                    offset: request.offset,
                    rev: request.rev,
                };
                self.input.drain(..consumed);
                return Some(asked);
            }
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(n) => self.input.extend_from_slice(&chunk[..n]),
                Err(e) if e.kind() == ErrorKind::ConnectionReset => return None,
                Err(e) => panic!("the client said nothing: {e}"),
            }
        }
    }

    /// The next request, which must be there.
    pub fn ask(&mut self) -> Asked {
        self.next().expect("a request")
    }

    /// The next request, of this verb.
    pub fn expect(&mut self, verb: Verb) -> Asked {
        let asked = self.ask();
        assert_eq!(asked.verb, verb);
        asked
    }

    pub fn answer(&mut self, asked: &Asked, response: Response<'_>) {
        self.raw(&frame(asked, response));
    }

    pub fn fail(&mut self, asked: &Asked, code: ErrCode, detail: &str) {
        let detail = (!detail.is_empty()).then_some(detail.as_bytes());
        self.raw(&frame(asked, Response::error(None, code, detail)));
    }

    pub fn event(&mut self, asked: &Asked, rev: i64, path: &str, value: &str) {
        self.answer(asked, set_event(rev, path, value));
    }

    /// The client may have gone meanwhile; that is for it to report.
    pub fn raw(&mut self, bytes: &[u8]) {
        drop(self.stream.write_all(bytes));
    }

    pub fn close(&mut self) {
        drop(self.stream.shutdown(Shutdown::Both));
    }

    /// Reads what comes, and answers nothing, until the client goes.
    pub fn ignore(&mut self) {
        while self.next().is_some() {}
    }
}

pub fn set_event<'a>(rev: i64, path: &'a str, value: &'a str) -> Response<'a> {
    Response {
        flags: Some(4),
        rev: Some(rev),
        path: Some(path.as_bytes()),
        value: Some(value.as_bytes()),
        ..Response::default()
    }
}

pub fn rev(rev: i64) -> Response<'static> {
    Response { rev: Some(rev), ..Response::default() }
}

/// The bytes of an answer.
pub fn frame(asked: &Asked, response: Response<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    Response { tag: asked.tag, ..response }.encode(&mut out);
    out
}
