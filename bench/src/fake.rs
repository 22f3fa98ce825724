//! A server for the tests of the clients: a map in memory, one thread a connection.
//!
//! It has a few paths of its own: `/skip` skips a revision, `/close` closes the connection, `/lose` is not written
//! though it says so.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use doozer::stats::Stats;
use doozer::wire::frame::{Split, split};
use doozer::wire::{ErrCode, Request, Response, Verb};

/// The server. Its threads end with the test.
pub struct Fake {
    addr: SocketAddr,
}

#[derive(Default)]
struct Store {
    revision: i64,
    files: BTreeMap<Vec<u8>, (i64, Vec<u8>)>,
    /// Answers STATS after so many writes; none if it does not know the verb.
    stats: Option<fn(usize) -> Stats>,
    writes: usize,
    /// So many writes are refused with READONLY.
    refuse: usize,
}

impl Fake {
    pub fn start() -> Fake {
        Fake::of(Store::default())
    }

    /// One that answers STATS with this, of the number of its writes.
    pub fn telling(stats: fn(usize) -> Stats) -> Fake {
        Fake::of(Store { stats: Some(stats), ..Store::default() })
    }

    /// One that refuses the first `count` writes with READONLY.
    pub fn refusing(count: usize) -> Fake {
        Fake::of(Store { refuse: count, ..Store::default() })
    }

    fn of(store: Store) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let store = Arc::new(Mutex::new(store));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, store) = (stream.unwrap(), Arc::clone(&store));
                std::thread::spawn(move || serve(stream, &store));
            }
        });
        Fake { addr }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

fn serve(mut stream: TcpStream, store: &Mutex<Store>) {
    stream.set_nodelay(true).unwrap();
    let mut input = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let mut output = Vec::new();
        while let Split::Whole { body, consumed } = split(&input).unwrap() {
            let request = Request::decode(&input[body]).unwrap();
            if request.path == Some(b"/close") {
                return;
            }
            answer(&mut store.lock().unwrap(), &request, &mut output);
            input.drain(..consumed);
        }
        if stream.write_all(&output).is_err() {
            return;
        }
        match stream.read(&mut chunk) {
            Ok(n) if n > 0 => input.extend_from_slice(&chunk[..n]),
            _ => return,
        }
    }
}

fn answer(store: &mut Store, request: &Request<'_>, output: &mut Vec<u8>) {
    let path = request.path.unwrap_or_default();
    let ok = Response { tag: request.tag, ..Response::default() };
    match request.verb {
        Some(v) if v == Verb::Rev.code() => Response { rev: Some(store.revision), ..ok }.encode(output),
        Some(v) if v == Verb::Set.code() => {
            if !path.starts_with(b"/") {
                return Response::error(request.tag, ErrCode::BadPath, None).encode(output);
            }
            if store.refuse > 0 {
                store.refuse -= 1;
                return Response::error(request.tag, ErrCode::Readonly, None).encode(output);
            }
            let current = store.files.get(path).map_or(0, |f| f.0);
            if request.rev.is_some_and(|rev| rev != -1 && rev < current) {
                return Response::error(request.tag, ErrCode::RevMismatch, None).encode(output);
            }
            store.revision += if path == b"/skip" { 2 } else { 1 };
            if path != b"/lose" {
                store.files.insert(path.to_vec(), (store.revision, request.value.unwrap_or_default().to_vec()));
            }
            store.writes += 1;
            Response { rev: Some(store.revision), ..ok }.encode(output);
        }
        Some(v)
            if v == Verb::Stats.code()
                && let Some(stats) = store.stats =>
        {
            Response { value: Some(stats(store.writes).encode().as_bytes()), ..ok }.encode(output);
        }
        Some(v) if v == Verb::Get.code() => {
            let (rev, value) = store.files.get(path).map_or((0, &[][..]), |f| (f.0, &f.1[..]));
            Response { rev: Some(rev), value: Some(value), ..ok }.encode(output);
        }
        _ => Response::error(request.tag, ErrCode::UnknownVerb, None).encode(output),
    }
}
