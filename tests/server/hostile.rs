//! Bad clients: noise, half frames, connections that go away at any byte, crowds, and those that never read. The server
//! stays up, others are served, and its memory stays bounded.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::common::process::{Server, Setup, shared};
use crate::common::wire::*;
use crate::common::{Random, eventually};
use doozer::limits::{FRAME_MAX, OUTPUT_MAX, RECEIVE_MAX, VALUE_MAX};
use doozer::wire::{Request, Verb};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};

/// Those tests that take much memory or many connections go one after the other.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// So many connections, or as many as the limit of open files allows, with a word.
fn files(count: usize) -> usize {
    let limit = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: limit, maximum: limit }).unwrap();
    let most = usize::try_from(limit.unwrap_or(u64::MAX)).unwrap().saturating_sub(300);
    if most < count {
        eprintln!("only {most} connections, for the limit of open files is {limit:?}");
    }
    most.min(count)
}

/// Another client is served: it writes, and reads what it wrote.
#[track_caller]
fn serves(addr: SocketAddr) {
    let mut c = Client::connect(addr);
    let made = c.put("/served", b"yes");
    assert_eq!(c.ask(&get("/served")), format!("rev={made} value=\"yes\""));
}

/// Sends what the server takes, and stops when it takes no more for a while, or closes. Reads nothing.
fn push(stream: &mut TcpStream, mut bytes: &[u8]) {
    stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// Waits until the server has no more connections than before.
#[track_caller]
fn forgets_them(server: &Server, open: usize) {
    eventually("the server closes what its clients have closed", || (server.open_files() <= open).then_some(()));
}

fn mib(bytes: usize) -> u64 {
    bytes as u64 >> 20
}

/// Whatever bytes come: the worst is that their connection is closed.
#[test]
fn noise_stops_the_server() {
    let mut random = Random(1);
    let server = Setup::new().start();
    let open = {
        serves(server.addr());
        server.open_files()
    };
    for round in 0..400 {
        let len = random.below(3_000);
        let noise = random.bytes(len);
        let mut stream = TcpStream::connect(server.addr()).unwrap();
        match round % 4 {
            // Bare noise; in frames; in frames of one field; behind a true request.
            0 => push(&mut stream, &noise),
            1 => noise.chunks(50).for_each(|chunk| push(&mut stream, &frame_of(chunk))),
            2 => {
                for chunk in noise.chunks(20) {
                    let key = [u8::try_from(random.below(16)).unwrap() << 3 | u8::try_from(random.below(6)).unwrap()];
                    push(&mut stream, &frame_of(&[&key, chunk].concat()));
                }
            }
            _ => push(&mut stream, &[framed(&get("/ctl/name")), noise].concat()),
        }
        if round % 50 == 0 {
            serves(server.addr());
        }
    }
    serves(server.addr());
    forgets_them(&server, open + 1);
}

/// Every well-formed request has one answer, however little sense it makes.
#[test]
fn senseless_requests_stop_the_server_or_go_unanswered() {
    let mut random = Random(2);
    let mut c = Client::connect(shared());
    let paths: &[&[u8]] = &[
        b"/",
        b"",
        b"x",
        b"/n",
        b"/n/a",
        b"/n/a/b",
        b"/n/*",
        b"/**",
        b"/?",
        b"//",
        b"/n/",
        b"/ctl",
        b"/ctl/name",
        b"\xff",
        b"/n/**/b",
        b"/***/****",
    ];
    let numbers = [i64::MIN, -3, -2, -1, 0, 1, 2, 9, 100];
    // None of them is in the future.
    while c.rev() < 100 {
        assert_eq!(c.ask(&bare(Verb::Nop)), "ok");
    }
    for round in 0..3_000 {
        let verb = match random.below(14) {
            n if n < Verb::ALL.len() => Verb::ALL[n].code(),
            n => i32::try_from(n).unwrap() * 1_000,
        };
        let mut pick = |n: usize| if random.below(8) == 0 { None } else { Some(random.below(n)) };
        let request = Request {
            tag: Some(round),
            verb: Some(verb),
            path: pick(paths.len()).map(|i| paths[i]),
            value: pick(3).map(|i| [&b""[..], b"v", b"wrong"][i]),
            offset: pick(5).map(|i| [i32::MIN, -1, 0, 1, i32::MAX][i]),
            rev: pick(numbers.len()).map(|i| numbers[i]),
        };
        if verb == Verb::Wait.code() {
            // It may have to wait; this wakes whatever it waits for.
            c.send(&request);
            c.send(&bare(Verb::Rev).tag(-1));
            let first = c.recv();
            if first.tag == Some(-1) {
                let mut other = Client::connect(shared());
                other.put("/n/w", b"");
                other.send_all(&[set("/n/a/b", -1, b""), del("/n/a/b", -1), set("/n/a", -1, b""), bare(Verb::Nop)]);
                other.recv_sorted(4);
                c.send(&bare(Verb::Rev).tag(-1));
                if c.recv().tag == Some(-1) {
                    // It waits for a path that cannot be.
                    c = Client::connect(shared());
                } else {
                    assert_eq!(c.recv().tag, Some(-1));
                }
            } else {
                assert_eq!(c.recv().tag, Some(-1));
            }
            continue;
        }
        let reply = c.call(&request);
        assert_eq!(reply.tag, Some(round), "{request:?}: {reply}");
    }
}

/// A connection that ends at any byte of what it sends: what was whole is carried out, and nothing of it is left.
#[test]
fn a_connection_that_ends_at_some_byte_is_never_forgotten() {
    let server = Setup::new().start();
    let addr = server.addr();
    serves(addr);
    let (mut watcher, open) = (server.connect(), server.open_files() + 1);
    let whole = |path: &str| {
        let parts = [framed(&set(path, 0, b"x")), framed(&get("/ctl/name")), framed(&wait("/never", 1))];
        (parts[0].len(), parts.concat())
    };
    let (_, bytes) = whole("/cut/000");
    for end in 0..=bytes.len() {
        for read in [false, true] {
            let path = format!("/cut/{end:03}/{read}");
            let (first, bytes) = whole(&path);
            let mut c = Client::connect(addr);
            c.raw(&bytes[..end.min(bytes.len())]);
            if read && end >= first {
                assert!(c.recv().revision() > 0);
            }
            drop(c);
            if end >= first {
                assert!(watcher.call(&wait(&path, 1)).revision() > 0, "{end} of {}", bytes.len());
            } else if end % 10 == 0 {
                assert_eq!(watcher.ask(&get(&path)), "rev=0 value=\"\"");
            }
        }
    }
    forgets_them(&server, open);
    serves(addr);
}

/// One old client opens a connection per call.
#[test]
fn a_connection_per_call_leaves_something_behind() {
    let server = Setup::new().start();
    let call = || assert_eq!(server.connect().ask(&get("/ctl/name")), "rev=1 value=\"local\"");
    (0..300).for_each(|_| call());
    let (early, open) = (server.resident(), server.open_files());
    (0..6_000).for_each(|_| call());
    forgets_them(&server, open + 1);
    let late = server.resident();
    assert!(late < early + 10, "{early} MiB after 300 connections, {late} MiB after 6,300");
}

/// Ten thousand clients that just stay connected must cost little, and hold nobody up.
#[test]
fn a_crowd_of_idle_connections_locks_others_out() {
    let _alone = alone();
    let count = files(10_000);
    let server = Setup::new().start();
    serves(server.addr());
    let before = server.resident();
    let mut crowd: Vec<Client> = (0..count).map(|_| server.connect()).collect();
    serves(server.addr());
    // Each of them is there, and is no less a client for having been idle.
    for (i, c) in crowd.iter_mut().enumerate() {
        if i % 3 == 0 {
            assert_eq!(c.ask(&get("/ctl/name")), "rev=1 value=\"local\"");
        }
    }
    let grown = server.resident().saturating_sub(before);
    assert!(grown < 200, "{count} idle connections take {grown} MiB");
    serves(server.addr());
    let few = server.open_files() - count;
    drop(crowd);
    forgets_them(&server, few + 5);
    serves(server.addr());
}

/// A process that ends closes thousands of connections at once, and to close one takes some 30 µs: others were answered only after
/// all of them. The server stands still until it has all of that before it, and a request too.
#[test]
fn thousands_that_leave_at_once_hold_up_an_answer() {
    let _alone = alone();
    let count = files(3_000);
    let server = Setup::new().start();
    let mut c = server.connect();
    c.ask(&bare(Verb::Rev));
    let open = server.open_files();
    // Where another process takes the core from this one after the answer, it sees how many were open later only.
    eventually("an answer comes while most are still open", || {
        let crowd: Vec<Client> = (0..count).map(|_| server.connect()).collect();
        eventually("all are accepted", || (server.open_files() >= open + count).then_some(()));
        server.signal(Signal::STOP);
        drop(crowd);
        c.send(&bare(Verb::Rev));
        server.signal(Signal::CONT);
        c.recv();
        let left = server.open_files() - open;
        forgets_them(&server, open);
        (left > count / 2).then_some(())
    });
}

/// Connections beyond the limit of open files are closed; those that are there, and the log, which needs files of its own, go
/// on.
#[test]
fn connections_use_up_the_descriptors_that_the_log_needs() {
    let setup = Setup::new().run_by(["sh", "-c", "ulimit -n 80 && exec \"$0\" \"$@\""]).flags(["-hist", "10"]);
    let mut server = setup.start();
    let mut c = server.connect();
    let crowd: Vec<Client> = (0..120).map(|_| server.connect()).collect();
    server.says("closed a new connection: clients have all of their 30 places");
    // The log goes on into its third segment, and beyond.
    let value = vec![b'v'; VALUE_MAX];
    for _ in 0..200 {
        c.send(&set("/large", -1, &value));
        match c.next() {
            Some(reply) => assert!(reply.revision() > 0),
            None => panic!("the server ended: {}", server.exited().stderr),
        }
    }
    assert!(server.runs());
    drop(crowd);
    eventually("a place is free again", || {
        let mut late = server.connect();
        let asked = late.try_raw(&framed(&bare(Verb::Rev)));
        late.try_next().filter(|_| asked)
    });
}

/// A length is not memory: a client that announces 4 MiB and sends a byte must not be given 4 MiB.
#[test]
fn half_frames_take_memory() {
    let _alone = alone();
    let server = Setup::new().start();
    serves(server.addr());
    let before = server.resident();
    let announced = u32::try_from(FRAME_MAX).unwrap().to_be_bytes();
    let mut crowd: Vec<TcpStream> = (0..files(900)).map(|_| TcpStream::connect(server.addr()).unwrap()).collect();
    for stream in &mut crowd {
        push(stream, &[&announced[..], &[0x0a]].concat());
    }
    serves(server.addr());
    let grown = server.resident() - before;
    assert!(grown < 100, "900 announced frames take {grown} MiB");
    // If they send most of it, the server keeps to its limit, and closes those that are beyond.
    let most = vec![0x0a; FRAME_MAX - 100];
    for stream in &mut crowd[..150] {
        push(stream, &most);
    }
    serves(server.addr());
    let grown = server.resident() - before;
    assert!(grown < mib(RECEIVE_MAX) + 200, "half frames take {grown} MiB");
    server.says("receive buffers");
    drop(crowd);
    // What was taken is given back: large frames go on.
    let mut c = server.connect();
    for _ in 0..3 {
        eventually("the receive buffers are free again", || {
            c.send(&set("/large", -1, &vec![b'v'; VALUE_MAX]));
            c.next().or_else(|| {
                c = server.connect();
                None
            })
        });
    }
}

/// Thousands of connections hold an unfinished request of 60 kB each, and use up the receive buffers. A client that then sent 1 MiB
/// held the most, and lost its connection each time.
#[test]
fn unfinished_requests_keep_large_ones_out() {
    let _alone = alone();
    let count = files(RECEIVE_MAX / 60_000 + 100);
    let server = Setup::new().start();
    let mut c = server.connect();
    c.put("/large", b"");
    let part = framed(&set("/part", -1, &vec![b'v'; 200_000]));
    let mut crowd: Vec<TcpStream> = (0..count).map(|_| TcpStream::connect(server.addr()).unwrap()).collect();
    crowd.iter_mut().for_each(|stream| push(stream, &part[..62_000]));
    for _ in 0..5 {
        c.put("/large", &vec![b'v'; VALUE_MAX]);
    }
    if count * 60_000 > RECEIVE_MAX {
        server.says("its unfinished request has made no progress for the longest time");
    }
    // Those that are left may finish what they have begun.
    let mut last = Client::over(crowd.pop().unwrap());
    last.raw(&part[62_000..]);
    assert!(last.recv().revision() > 0);
}

/// Clients that ask for large values and never read cost a bounded amount each, and hold nobody else up.
#[test]
fn a_client_that_never_reads_takes_memory() {
    let _alone = alone();
    let server = Setup::new().start();
    let value = vec![b'v'; VALUE_MAX];
    let made = server.connect().put("/large", &value);
    let before = server.resident();
    let gets = framed(&get("/large")).repeat(50);
    let mut greedy: Vec<TcpStream> = (0..40).map(|_| TcpStream::connect(server.addr()).unwrap()).collect();
    greedy.iter_mut().for_each(|stream| push(stream, &gets));
    serves(server.addr());
    let grown = server.resident() - before;
    assert!(grown < 40 * 5, "40 connections that never read take {grown} MiB");
    // One that reads after all gets everything it asked for.
    let mut c = Client::over(greedy.pop().unwrap());
    let expected = format!("rev={made} value=<{VALUE_MAX} bytes>");
    (0..50).for_each(|_| assert_eq!(c.recv().to_string(), expected));
    assert_eq!(c.ask(&stat("/large")), format!("rev={made} len={VALUE_MAX}"));
    drop(greedy);
    serves(server.addr());
}

/// All unsent output together has a limit as well, in flight or not: a thousand clients that never read, each within its own.
#[test]
fn a_crowd_that_never_reads_takes_memory() {
    let _alone = alone();
    let server = Setup::new().start();
    let value = vec![b'v'; VALUE_MAX];
    server.connect().put("/large", &value);
    let before = server.resident();
    let gets = framed(&get("/large")).repeat(12);
    let mut crowd: Vec<TcpStream> = (0..files(1_000)).map(|_| TcpStream::connect(server.addr()).unwrap()).collect();
    let mut most = 0;
    for (i, stream) in crowd.iter_mut().enumerate() {
        push(stream, &gets);
        if i % 20 == 0 {
            serves(server.addr());
            most = most.max(server.resident() - before);
        }
    }
    serves(server.addr());
    most = most.max(server.resident() - before);
    assert!(most < mib(OUTPUT_MAX) + 250, "1000 connections that never read take {most} MiB");
    drop(crowd);
    serves(server.addr());
}

/// Thousands of waits that one SET of a large value wakes: their answers are not composed all at once.
#[test]
fn woken_waits_that_nobody_reads_take_memory() {
    let _alone = alone();
    let server = Setup::new().start();
    let mut c = server.connect();
    let now = c.rev();
    let waits = framed(&wait("/large", now + 1)).repeat(2_000);
    let mut waiting: Vec<Client> = (0..5).map(|_| server.connect()).collect();
    for c in &mut waiting {
        c.raw(&waits);
        c.send(&bare(Verb::Access).tag(1));
        assert_eq!(c.recv().to_string(), "tag=1");
    }
    let before = server.resident();
    let made = c.put("/large", &vec![b'v'; VALUE_MAX]);
    serves(server.addr());
    let grown = server.resident() - before;
    assert!(grown < 150, "10,000 woken waits take {grown} MiB");
    // Those who do read get them.
    let expected = format!("flags=4 rev={made} path=\"/large\" value=<{VALUE_MAX} bytes>");
    for c in &mut waiting {
        (0..20).for_each(|_| assert_eq!(c.recv().to_string(), expected));
    }
    // A new request of such a connection is answered in its turn, when there is room.
    let grown = server.resident() - before;
    assert!(grown < 150, "10,000 woken waits take {grown} MiB");
    drop(waiting);
    serves(server.addr());
}

/// Events for clients that never read would take all the room for output if each were charged for the value. One that does read gets
/// its event.
#[test]
fn a_crowd_that_never_reads_keeps_an_event_from_one_that_does() {
    let _alone = alone();
    let server = Setup::new().start();
    let mut writer = server.connect();
    let next = writer.rev() + 1;
    let registers = |waits: usize| {
        let mut c = server.connect();
        c.raw(&framed(&wait("/large", next)).repeat(waits));
        c.send(&bare(Verb::Access).tag(1));
        assert_eq!(c.recv().to_string(), "tag=1");
        c
    };
    let crowd: Vec<Client> = (0..files(600)).map(|_| registers(12)).collect();
    let mut reader = registers(1);
    let made = writer.put("/large", &vec![b'v'; VALUE_MAX]);
    assert_eq!(reader.recv().to_string(), format!("flags=4 rev={made} path=\"/large\" value=<{VALUE_MAX} bytes>"));
    drop(crowd);
    serves(server.addr());
}

/// A client that sends writes faster than the disk takes them is paused, not buffered; all are answered in the end.
#[test]
fn writes_that_outrun_the_disk_take_memory_or_get_lost() {
    let _alone = alone();
    let server = Setup::new().flags(["-hist", "10"]).start();
    serves(server.addr());
    let before = server.resident();
    let mut reader = server.connect();
    let mut writer = reader.stream().try_clone().unwrap();
    let count = 6_000;
    let sender = std::thread::spawn(move || {
        let value = vec![b'v'; 64 << 10];
        for tag in 0..count {
            writer.write_all(&framed(&set("/fast", -1, &value).tag(tag))).unwrap();
        }
    });
    let (mut most, mut last) = (0, 0);
    for tag in 0..count {
        let reply = reader.recv();
        assert_eq!(reply.tag, Some(tag));
        assert!(reply.revision() > last);
        last = reply.revision();
        if tag % 500 == 0 {
            serves(server.addr());
            most = most.max(server.resident() - before);
        }
    }
    sender.join().unwrap();
    assert!(most < 150, "a fast writer takes {most} MiB");
    assert_eq!(reader.ask(&stat("/fast")), format!("rev={last} len={}", 64 << 10));
}

/// A writer that never reads its answers is paused, and does not stop the others' writes.
#[test]
fn a_writer_that_never_reads_stops_the_others() {
    let server = Setup::new().flags(["-hist", "10"]).start();
    let mut stream = TcpStream::connect(server.addr()).unwrap();
    // An answer is about as long as this request: sockets and buffers are full before long.
    let nops = framed(&Request::default().tag(1)).repeat(3_000_000);
    push(&mut stream, &nops);
    serves(server.addr());
    let sets = framed(&set("/w", -1, b"")).repeat(100_000);
    let mut other = TcpStream::connect(server.addr()).unwrap();
    push(&mut other, &sets);
    serves(server.addr());
    assert!(server.resident() < 300);
}

/// Clients that never read, and others that never stop sending, must not keep a server from stopping.
#[test]
fn a_bad_client_keeps_the_server_from_stopping() {
    let server = Setup::new().start();
    server.connect().put("/large", &vec![b'v'; VALUE_MAX]);
    let mut greedy: Vec<TcpStream> = (0..5).map(|_| TcpStream::connect(server.addr()).unwrap()).collect();
    greedy.iter_mut().for_each(|stream| push(stream, &framed(&get("/large")).repeat(40)));
    let mut busy = TcpStream::connect(server.addr()).unwrap();
    let mut answers = busy.try_clone().unwrap();
    let drain = std::thread::spawn(move || std::io::copy(&mut answers, &mut std::io::sink()));
    let sending = std::thread::spawn(move || {
        let sets = framed(&set("/w", -1, b"x")).repeat(1_000);
        while busy.write_all(&sets).is_ok() {}
    });
    serves(server.addr());
    let ended = server.stop();
    assert_eq!(ended.status, Some(0), "{}", ended.stderr);
    sending.join().unwrap();
    drop(drain.join());
}

/// How much the server works until another client's write is answered: what that takes on a machine that has nothing else to do.
fn delay(server: &Server, path: &str) -> Duration {
    let mut c = server.connect();
    let began = server.cpu_ticks();
    c.put(path, b"");
    Duration::from_millis(10 * (server.cpu_ticks() - began))
}

/// Globs of more than a thousand stars, against paths of the greatest length.
fn stars(n: usize) -> String {
    format!("/**{}{}zz", "b".repeat(n), "a**".repeat(1_300))
}

/// A wait that a SET does not wake must not show in its time, whatever its glob.
#[test]
fn a_glob_of_many_stars_holds_up_every_write() {
    let server = Setup::new().start();
    let mut c = server.connect();
    for n in 0..10 {
        c.send(&wait(&stars(n), 1).tag(1));
    }
    assert_eq!(c.ask(&bare(Verb::Access)), "ok");
    let path = format!("/{}{}", "b".repeat(10), "a".repeat(4_080));
    let delay = delay(&server, &path);
    assert!(delay < Duration::from_secs(3), "10 waits hold up a write for {delay:?}");
}

/// Searches of the history, and walks, go on in slices; what an entry costs depends on the glob.
#[test]
fn a_search_with_many_stars_holds_up_the_others() {
    let server = Setup::new().start();
    let mut c = server.connect();
    let mut bytes = Vec::new();
    for i in 0..4_000 {
        set(&format!("/{}{i}", "a".repeat(4_080)), -1, b"").encode(&mut bytes);
    }
    c.raw(&bytes);
    (0..4_000).for_each(|_| assert!(c.recv().revision() > 0));
    for n in 0..5 {
        c.send(&wait(&stars(n), 1).tag(1));
        c.send(&walk(&stars(n), 0).tag(2));
    }
    let delay = delay(&server, "/x");
    assert!(delay < Duration::from_secs(2), "5 searches and 5 walks hold up a write for {delay:?}");
    (0..5).for_each(|_| assert_eq!(c.recv().to_string(), "tag=2 RANGE"));
}

/// Ten thousand waits of one connection, all woken by one SET, are all answered.
#[test]
fn ten_thousand_waits_on_one_connection_lose_an_event() {
    let (mut c, mut other) = (Client::connect(shared()), Client::connect(shared()));
    let now = other.put("/herd/start", b"");
    let mut bytes = Vec::new();
    let globs = ["/herd/f", "/herd/*", "/herd/**", "/*/f", "/herd/?"];
    for (tag, glob) in (0..10_000).zip(globs.iter().cycle()) {
        wait(glob, now + 1).tag(tag).encode(&mut bytes);
    }
    c.raw(&bytes);
    assert_eq!(c.ask(&bare(Verb::Access).tag(-1)), "tag=-1");
    let made = other.put("/herd/f", b"x");
    let mut tags: Vec<i32> = (0..10_000)
        .map(|_| {
            let reply = c.recv();
            let tag = reply.tag.unwrap();
            assert_eq!(reply.to_string(), format!("tag={tag} flags=4 rev={made} path=\"/herd/f\" value=\"x\""));
            tag
        })
        .collect();
    tags.sort_unstable();
    assert!(tags.into_iter().eq(0..10_000));
    other.put("/herd/f", b"y");
    assert_eq!(c.ask(&bare(Verb::Access).tag(-2)), "tag=-2", "each once");
}

/// In the original the WAITs of a closed connection leak for ever.
#[test]
fn waits_of_a_closed_connection_stay() {
    let _alone = alone();
    let server = Setup::new().start();
    serves(server.addr());
    let open = server.open_files();
    let mut bytes = Vec::new();
    for tag in 0..20_000 {
        // Of each kind: a path, a glob, a revision that is far ahead, a read of the future.
        let path = format!("/leak/{tag}");
        match tag % 4 {
            0 => wait(&path, 1).encode(&mut bytes),
            1 => wait(&format!("{path}/*/x"), 1).encode(&mut bytes),
            2 => wait(&path, i64::MAX).encode(&mut bytes),
            _ => get(&path).at(i64::MAX).encode(&mut bytes),
        }
    }
    let mut early = 0;
    for round in 0..24 {
        let mut c = server.connect();
        c.raw(&bytes);
        assert_eq!(c.ask(&bare(Verb::Access).tag(-1)), "tag=-1");
        if round % 2 == 0 {
            c.half_close();
            c.ends();
        }
        drop(c);
        forgets_them(&server, open + 1);
        if round == 4 {
            early = server.resident();
        }
    }
    let late = server.resident();
    assert!(late < early + 30, "{early} MiB after 5 rounds, {late} MiB after 24");
    serves(server.addr());
}

/// A connection that sends requests and reads answers as slowly as can be gets them whole.
#[test]
fn a_slow_reader_gets_torn_answers() {
    let mut c = Client::connect(shared());
    let value = Random(3).bytes(300_000);
    let made = c.put("/slow", &value);
    let count = 30;
    c.raw(&framed(&get("/slow").tag(1)).repeat(count));
    let mut all = Vec::new();
    let mut chunk = [0; 977];
    let expected = {
        let mut one = Vec::new();
        let response =
            doozer::wire::Response { tag: Some(1), rev: Some(made), value: Some(&value), ..Default::default() };
        response.encode(&mut one);
        one
    };
    while all.len() < count * expected.len() {
        let n = c.stream().read(&mut chunk).unwrap();
        assert!(n > 0, "the connection ended");
        all.extend_from_slice(&chunk[..n]);
    }
    assert!(all.chunks(expected.len()).all(|one| one == expected));
}
