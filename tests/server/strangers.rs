//! Strangers: those who do not know the secret, at the port and at the addresses that nodes dial.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use crate::common::eventually;
use crate::common::process::{Server, Setup};
use crate::common::wire::*;
use doozer::wire::Verb;
use doozer::wire::peer::{self, Frame, Hello, PREAMBLE, Route, Split, UNPROVED, VERSION};

const SECRET: &str = "open-sesame";

fn guarded() -> Setup {
    Setup::new().env("DOOZER_RWSECRET", SECRET).env("DOOZER_ROSECRET", "for-readers")
}

/// A client that knows the secret is served.
#[track_caller]
fn serves(server: &Server) {
    let mut c = server.connect();
    assert_eq!(c.ask(&access(SECRET)), "ok");
    c.put("/served", b"yes");
}

fn encoded(frame: &Frame<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    peer::encode(Route::default(), frame, &mut bytes);
    bytes
}

fn wrong_hello(node: u64) -> Vec<u8> {
    let name = format!("{node:016}");
    encoded(&Frame::Hello(Hello {
        version: VERSION,
        cluster: "local",
        node: *name.as_bytes().first_chunk().unwrap(),
        secret: b"wrong",
        addr: "10.0.0.9:8046",
        ..Hello::default()
    }))
}

/// Sends what the other side takes, until it has had everything or closes the connection. Returns how much it took.
fn push(stream: &mut TcpStream, bytes: &[u8]) -> usize {
    stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut sent = 0;
    while sent < bytes.len() {
        match stream.write(&bytes[sent..]) {
            Ok(n) => sent += n,
            Err(_) => break,
        }
    }
    sent
}

/// One that sends hello after hello with a wrong secret, and never reads, took 4 GB. Its connection ends at the first, without a word
/// about the node, and a new name in each hello does not fill the log.
#[test]
fn a_peer_that_is_refused_takes_memory_and_fills_the_log() {
    let server = guarded().start();
    serves(&server);
    let before = server.resident();
    let log = server.stderr().len();
    for round in 0..200 {
        let mut stream = TcpStream::connect(server.addr()).unwrap();
        stream.write_all(&PREAMBLE).unwrap();
        let flood: Vec<u8> = (0..2_000).flat_map(|n| wrong_hello(round * 2_000 + n)).collect();
        push(&mut stream, &flood);
    }
    serves(&server);
    assert!(server.resident() < before + 20, "{} MiB, {before} before", server.resident());
    let said = server.stderr();
    assert!(said.len() - log < 10_000, "{} bytes of log: {said}", said.len() - log);
    assert!(said.contains("earlier version"), "{said}");
    // One that waits for the answer gets it, and nothing else.
    let mut stream = TcpStream::connect(server.addr()).unwrap();
    stream.write_all(&[&PREAMBLE[..], &wrong_hello(7)].concat()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, encoded(&UNPROVED));
}

/// A stranger that took the address of a node, here of one to attach to, was sent the secret. It gets a challenge, and a proof that is good
/// for this connection only; whatever it answers, it gets no more.
#[test]
fn one_who_listens_where_a_node_dials_is_sent_the_secret() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let _server = guarded().flags(["-a", &addr]).spawn();
    let lies = [
        vec![],
        encoded(&Frame::Challenge([1; 32])),
        [encoded(&Frame::Challenge([1; 32])), encoded(&Frame::Proof([2; 32]))].concat(),
        wrong_hello(1),
        encoded(&UNPROVED),
    ];
    let mut heard = Vec::new();
    let mut lies = lies.iter().cycle();
    for _ in 0..12 {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        let mut bytes = vec![0; 4_096];
        let got = stream.read(&mut bytes).unwrap_or(0);
        heard.extend_from_slice(&bytes[..got]);
        if !bytes.starts_with(&PREAMBLE) {
            // It asks first what listens here: it is to take it for a node.
            continue;
        }
        let lie = lies.next().unwrap();
        if *lie == encoded(&UNPROVED) {
            break;
        }
        stream.write_all(lie).unwrap();
        while let Ok(got @ 1..) = stream.read(&mut bytes) {
            heard.extend_from_slice(&bytes[..got]);
        }
    }
    for secret in [SECRET.as_bytes(), b"local", b"127.0.0.1"] {
        assert!(!heard.windows(secret.len()).any(|bytes| bytes == secret), "{}", secret.escape_ascii());
    }
    let mut kinds = Vec::new();
    let mut rest = &heard[..];
    while let Some(at) = rest.windows(PREAMBLE.len()).position(|bytes| bytes == PREAMBLE) {
        rest = &rest[at + PREAMBLE.len()..];
        while let Ok(Split::Whole { size }) = peer::split(rest)
            && let Ok(received) = peer::decode(&rest[..size])
        {
            kinds.push(rest[8]);
            assert!(matches!(received.frame, Frame::Challenge(_) | Frame::Proof(_)), "{:?}", received.frame);
            assert_eq!(received.route, Route::default());
            rest = &rest[size..];
        }
    }
    assert!(kinds.len() > 3, "{kinds:?}");
}

/// Strangers that only sit there took all connections for ever. They have places of their own; clients that have access keep theirs,
/// and new ones are served.
#[test]
fn idle_strangers_take_all_connections() {
    // 336 connections: 84 of strangers, 84 of peers, 168 of clients.
    let setup = guarded().run_by(["sh", "-c", "ulimit -n 400 && exec \"$0\" \"$@\""]);
    let server = setup.start();
    let mut known: Vec<Client> = (0..20).map(|_| server.connect()).collect();
    known.iter_mut().for_each(|c| assert_eq!(c.ask(&access(SECRET)), "ok"));
    let mut idle: Vec<TcpStream> = Vec::new();
    for n in 0..600 {
        let mut stream = TcpStream::connect(server.addr()).unwrap();
        if n % 3 == 1 {
            stream.write_all(&PREAMBLE).unwrap();
        } else if n % 3 == 2 {
            stream.write_all(&framed(&bare(Verb::Rev))).unwrap();
        }
        idle.push(stream);
        if n % 100 == 99 {
            serves(&server);
        }
    }
    serves(&server);
    assert!(server.open_files() < 400);
    known.iter_mut().for_each(|c| assert_eq!(c.call(&get("/served")).value.as_deref(), Some(&b"yes"[..])));
    // In the end all of them are closed, and nobody else.
    for stream in &mut idle {
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut rest = Vec::new();
        match stream.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => {}
            Err(e) => panic!("a stranger stays: {e}"),
        }
    }
    known.iter_mut().for_each(|c| assert!(c.call(&set("/known", -1, b"")).revision() > 0));
    server.says("neither presented a secret nor proved to be a node");
}

/// Clients with access take their places, and no others: members find theirs, and strangers may still present the secret.
#[test]
fn clients_with_access_take_the_places_of_peers() {
    let setup = guarded().run_by(["sh", "-c", "ulimit -n 100 && exec \"$0\" \"$@\""]);
    // 50 connections: 12 of strangers, 12 of peers, 26 of clients.
    let server = setup.start();
    let mut known = Vec::new();
    for _ in 0..60 {
        let mut c = server.connect();
        c.send(&access(SECRET));
        if c.try_next().is_some() {
            known.push(c);
        }
    }
    server.says("clients have all of their 26 places");
    let served = known.iter_mut().filter_map(|c| c.try_raw(&framed(&bare(Verb::Rev))).then(|| c.try_next())?).count();
    assert_eq!(served, 26);
    known.truncate(0);
    eventually("a place is free again", || {
        let mut late = server.connect();
        late.try_raw(&framed(&access(SECRET))).then(|| late.try_next())?
    });
}

/// A client could try 300,000 secrets in 0.04 s. It gets few answers, the server holds no more than its receive buffer for it, others
/// are served, and the log has two lines.
#[test]
fn a_client_that_tries_secrets_gets_all_answers_at_once() {
    let server = guarded().start();
    serves(&server);
    let before = server.resident();
    let flood = framed(&access("guess1234567").tag(1)).repeat(300_000);
    let mut streams: Vec<TcpStream> = (0..4).map(|_| TcpStream::connect(server.addr()).unwrap()).collect();
    let mut taken = 0;
    for stream in &mut streams {
        stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
        while let Ok(n @ 1..) = stream.write(&flood) {
            taken += n;
        }
    }
    assert!(taken < flood.len() * 4, "{taken} bytes were taken");
    serves(&server);
    assert!(server.resident() < before + 10, "{} MiB, {before} before", server.resident());
    let mut answers = vec![0; 1 << 20];
    let got = streams[0].read(&mut answers).unwrap();
    assert!(got < 20 * 40, "{got} bytes of answers");
    let said = server.stderr();
    assert_eq!(said.matches("presented a wrong secret").count(), 1, "{said}");
}
