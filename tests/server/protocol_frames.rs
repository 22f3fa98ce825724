//! Frames and connections: what is accepted though it is odd, what closes its connection, tags, pipelining, and the end of
//! a stream.

use std::io::Read;

use crate::common::process::{Setup, shared};
use crate::common::wire::*;
use doozer::limits::FRAME_MAX;
use doozer::wire::{Request, Verb};

/// A field: its key and its payload.
fn field(number: u64, wire: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = varint(number << 3 | wire);
    bytes.extend_from_slice(payload);
    bytes
}

fn varint(mut n: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while n >= 0x80 {
        bytes.push(u8::try_from(n & 0x7f).unwrap() | 0x80);
        n >>= 7;
    }
    bytes.push(u8::try_from(n).unwrap());
    bytes
}

fn number(field_number: u64, n: u64) -> Vec<u8> {
    field(field_number, 0, &varint(n))
}

fn bytes(field_number: u64, payload: &[u8]) -> Vec<u8> {
    field(field_number, 2, &[varint(payload.len() as u64), payload.to_vec()].concat())
}

const GET: u64 = 1;
const GETDIR: u64 = 14;

/// An overlong varint of `len` bytes.
fn overlong(n: u8, len: usize) -> Vec<u8> {
    let mut bytes = vec![n | 0x80];
    bytes.resize(len - 1, 0x80);
    bytes.push(0);
    bytes
}

/// What old clients' encoders may send, and the original accepts.
#[test]
fn an_odd_message_is_refused() {
    let mut c = Client::connect(shared());
    let name = c.ask(&get("/ctl/name"));
    let (verb, path) = (number(2, GET), bytes(4, b"/ctl/name"));
    let plain = [verb.clone(), path.clone()].concat();
    let group = |inner: &[u8]| [field(12, 3, inner), field(12, 4, b"")].concat();
    let odd: &[(&str, Vec<u8>)] = &[
        ("out of order", [path.clone(), verb.clone()].concat()),
        ("other_tag", [number(6, 5), plain.clone()].concat()),
        ("an unknown varint", [plain.clone(), number(3, 1 << 63), number(1000, 1)].concat()),
        ("an unknown 64-bit field", [field(8, 1, &[1; 8]), plain.clone()].concat()),
        ("an unknown 32-bit field", [field(8, 5, &[1; 4]), plain.clone()].concat()),
        ("unknown bytes", [verb.clone(), bytes(15, &[0xff; 300]), path.clone()].concat()),
        ("an unknown field without bytes", [plain.clone(), bytes(3, b"")].concat()),
        ("a group", [verb.clone(), group(&number(1, 1)), path.clone()].concat()),
        ("an empty group", [group(b""), plain.clone()].concat()),
        ("groups in groups", [group(&group(&group(&bytes(4, b"/x")))), plain.clone()].concat()),
        ("a group in the place of a known field", [plain.clone(), field(4, 3, b""), field(4, 4, b"")].concat()),
        ("a repeated path: the last wins", [verb.clone(), bytes(4, b"/missing"), path.clone()].concat()),
        ("a repeated verb: the last wins", [number(2, 99), plain.clone()].concat()),
        ("a path of another wire type, besides", [plain.clone(), number(4, 7)].concat()),
        ("a verb of another wire type, besides", [plain.clone(), field(2, 5, &[9; 4]), bytes(2, b"x")].concat()),
        ("a rev of another wire type", [plain.clone(), bytes(9, b"1"), field(9, 1, &[0xff; 8])].concat()),
        ("an overlong verb", [field(2, 0, &overlong(1, 10)), path.clone()].concat()),
        ("an overlong length", [verb.clone(), field(4, 2, &[overlong(9, 7), b"/ctl/name".to_vec()].concat())].concat()),
        ("an overlong key", [overlong(2 << 3, 5), vec![1], path.clone()].concat()),
        ("a verb beyond 32 bits", [number(2, (1 << 32) + GET), path.clone()].concat()),
    ];
    for (what, body) in odd {
        c.raw(&frame_of(body));
        assert_eq!(c.recv().to_string(), name, "{what}");
    }
    // The depth of groups is the sender's choice; it costs no stack.
    let deep = [field(12, 3, b"").repeat(1_000_000), field(12, 4, b"").repeat(1_000_000), plain.clone()].concat();
    c.raw(&frame_of(&deep));
    assert_eq!(c.recv().to_string(), name, "a million groups in one another");
    // A known field with the wrong wire type is as if absent.
    let absent: &[(&str, Vec<u8>, &str)] = &[
        ("the path as a number", [verb.clone(), number(4, 1)].concat(), "MISSING_ARG"),
        ("the path as a group", [verb.clone(), field(4, 3, b""), field(4, 4, b"")].concat(), "MISSING_ARG"),
        ("the verb as bytes", [bytes(2, &[1]), path.clone()].concat(), "UNKNOWN_VERB"),
        ("the verb as 32 bits", [field(2, 5, &[1, 0, 0, 0]), path.clone()].concat(), "UNKNOWN_VERB"),
        ("the tag as bytes", [bytes(1, &[1]), plain.clone()].concat(), &name),
        ("the tag as 64 bits", [field(1, 1, &[1; 8]), plain.clone()].concat(), &name),
        ("the offset as bytes", [number(2, GETDIR), path.clone(), bytes(7, &[0])].concat(), "MISSING_ARG"),
    ];
    for (what, body, expected) in absent {
        c.raw(&frame_of(body));
        assert_eq!(c.recv().to_string(), *expected, "{what}");
    }
    // Numbers of 32 bits keep their low bits, negative or not, however they are written.
    let tags: &[(u64, &str)] =
        &[((1 << 32) + 5, "5"), (0xffff_ffff, "-1"), (u64::MAX, "-1"), (1 << 31, "-2147483648"), (7 << 32, "0")];
    for (tag, expected) in tags {
        c.raw(&frame_of(&[number(1, *tag), plain.clone()].concat()));
        assert_eq!(c.recv().to_string(), format!("tag={expected} {name}"));
    }
    let getdir = [number(2, GETDIR), bytes(4, b"/ctl")].concat();
    for (offset, expected) in [(1 << 32, "path=\"cal\""), (0xffff_ffff, "RANGE"), (u64::MAX, "RANGE")] {
        c.raw(&frame_of(&[getdir.clone(), number(7, offset)].concat()));
        assert_eq!(c.recv().to_string(), expected, "offset {offset:#x}");
    }
}

/// One client sends an empty `path` with every verb.
#[test]
fn an_empty_path_troubles_a_verb_that_has_none() {
    let mut c = Client::connect(shared());
    let with = |verb| Request { path: Some(b""), ..bare(verb) };
    assert!(c.call(&with(Verb::Rev)).revision() > 0);
    assert_eq!(c.call(&with(Verb::SelfId)).value.unwrap().len(), 16);
    assert_eq!(c.ask(&with(Verb::Nop)), "ok");
    assert_eq!(c.ask(&with(Verb::Access)), "ok");
    assert!(c.call(&with(Verb::Sync)).revision() > 0);
    assert_eq!(c.ask(&with(Verb::Stat)), "rev=0 len=0");
    assert_eq!(c.ask(&Request { path: Some(b""), verb: Some(77), ..Request::default() }), "UNKNOWN_VERB");
}

/// A message of no bytes is a request without a verb; the connection goes on.
#[test]
fn a_message_of_no_bytes_closes_the_connection() {
    let mut c = Client::connect(shared());
    c.raw(&[0; 12]);
    for _ in 0..3 {
        assert_eq!(c.recv().to_string(), "UNKNOWN_VERB");
    }
    assert_eq!(c.ask(&bare(Verb::Access)), "ok");
}

/// What is no protobuf closes its connection, and no other; what came before it is still carried out.
#[test]
fn a_malformed_message_harms_another_connection() {
    let mut bystander = Client::connect(shared());
    let now = bystander.put("/malformed/start", b"");
    bystander.send(&wait("/malformed/end", now).tag(1));
    let verb = number(2, GET);
    let malformed: &[(&str, Vec<u8>)] = &[
        ("a key that is cut short", vec![0x80]),
        ("a number that is cut short", vec![2 << 3, 0x80]),
        ("a number that is missing", vec![2 << 3]),
        ("a length that is missing", vec![4 << 3 | 2]),
        ("bytes that are cut short", vec![4 << 3 | 2, 5, b'/', b'a']),
        ("bytes that are longer than memory", field(4, 2, &varint(u64::MAX))),
        ("bytes of 2^63", field(4, 2, &varint(1 << 63))),
        ("an unknown field that is cut short", field(15, 2, &[9, 1])),
        ("64 bits that are cut short", field(15, 1, &[1; 7])),
        ("32 bits that are cut short", field(15, 5, &[1; 3])),
        ("field number 0", number(0, 1)),
        ("field number 0 with bytes", bytes(0, b"x")),
        ("wire type 6", field(15, 6, b"")),
        ("wire type 7", field(15, 7, b"")),
        ("wire type 6 on a known field", field(4, 6, b"")),
        ("a number of 11 bytes", field(2, 0, &overlong(1, 11))),
        ("a key of 11 bytes", overlong(2 << 3, 11)),
        ("a length of 11 bytes", field(4, 2, &overlong(1, 11))),
        ("a group without an end", field(12, 3, b"")),
        ("a group without an end, in a group", [field(12, 3, b""), field(12, 3, b""), field(12, 4, b"")].concat()),
        ("wire type 7 in a group", [field(12, 3, b""), field(3, 7, b""), field(12, 4, b"")].concat()),
        ("field number 0 in a group", [field(12, 3, b""), number(0, 1), field(12, 4, b"")].concat()),
        ("what is well, and then not", [verb, bytes(4, b"/ctl/name"), vec![0x80]].concat()),
    ];
    for (i, (what, body)) in malformed.iter().enumerate() {
        let mut c = Client::connect(shared());
        let path = format!("/malformed/{i}");
        c.raw(&[framed(&set(&path, 0, b"")), frame_of(body)].concat());
        // The answer to what came before may be lost with the connection; the file is not.
        let answered = c.next();
        if let Some(reply) = answered {
            assert!(reply.revision() > now, "{what}");
            c.ends();
        }
        let mut other = Client::connect(shared());
        let made = other.call(&wait(&path, now)).revision();
        assert_eq!(other.ask(&get(&path)), format!("rev={made} value=\"\""), "{what}");
    }
    Client::connect(shared()).put("/malformed/end", b"");
    assert_eq!(bystander.recv().tag, Some(1));
}

/// In the original a huge or negative length kills the server, or hangs it. Ours closes the connection at once: it
/// waits for none of the announced bytes.
#[test]
fn a_huge_or_negative_length_kills_or_hangs_the_server() {
    let over = i32::try_from(FRAME_MAX).unwrap() + 1;
    for length in [-1, i32::MIN, -2, i32::MAX, over, 1 << 24, 0x7f00_0000] {
        let mut c = Client::connect(shared());
        assert_eq!(c.ask(&bare(Verb::Access)), "ok");
        c.raw(&length.to_be_bytes());
        c.ends();
    }
    // What a browser or a TLS client sends is such a length, too.
    for greeting in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x16\x03\x01\x02\x00\x01\x00"] {
        let mut c = Client::connect(shared());
        c.raw(greeting);
        c.ends();
    }
    assert_eq!(Client::connect(shared()).ask(&bare(Verb::Access)), "ok");
}

/// A frame of just the limit is read; the next byte is one too many.
#[test]
fn a_frame_at_the_limit_is_refused() {
    let mut c = Client::connect(shared());
    // An unknown field fills the frame up.
    let request = [number(2, GET), bytes(4, b"/ctl/name")].concat();
    let head = field(15, 2, &varint((FRAME_MAX - request.len() - 5) as u64));
    assert_eq!(head.len(), 5);
    let padded = [head, vec![b'x'; FRAME_MAX - request.len() - 5], request].concat();
    assert_eq!(padded.len(), FRAME_MAX);
    for _ in 0..3 {
        c.raw(&frame_of(&padded));
        assert_eq!(c.recv().to_string(), "rev=1 value=\"local\"");
    }
    let mut c = Client::connect(shared());
    c.raw(&u32::try_from(FRAME_MAX + 1).unwrap().to_be_bytes());
    c.ends();
}

/// A frame may come byte by byte, and others with it.
#[test]
fn a_partial_frame_is_not_waited_for() {
    let mut c = Client::connect(shared());
    let mut other = Client::connect(shared());
    let frames = [framed(&get("/ctl/name").tag(1)), framed(&stat("/ctl/name").tag(2)), frame_of(b"")].concat();
    for (i, byte) in frames.iter().enumerate() {
        c.raw(&[*byte]);
        if i % 7 == 0 {
            assert_eq!(other.ask(&bare(Verb::Access)), "ok");
        }
    }
    assert_eq!(c.recv().to_string(), "tag=1 rev=1 value=\"local\"");
    assert_eq!(c.recv().to_string(), "tag=2 rev=1 len=5");
    assert_eq!(c.recv().to_string(), "UNKNOWN_VERB");
    // In two parts, at every place, the second with the first of the next.
    let one = framed(&get("/ctl/name").tag(3));
    for cut in 1..one.len() {
        c.raw(&one[..cut]);
        assert_eq!(other.ask(&bare(Verb::Access)), "ok");
        c.raw(&one[cut..]);
        assert_eq!(c.recv().to_string(), "tag=3 rev=1 value=\"local\"");
    }
}

/// One old client reads the header and the body of an answer with a single `recv` each, so they have to come together.
#[test]
fn an_answer_comes_in_pieces() {
    let mut c = Client::connect(shared());
    let value = vec![b'v'; 1_000];
    let made = c.put("/whole", &value);
    let expected = format!("flags=4 rev={made} path=\"/whole\" value=<1000 bytes>");
    assert_eq!(c.ask(&walk("/whole", 0)), expected);
    for _ in 0..200 {
        c.send(&get("/whole"));
        let mut buffer = [0; 4096];
        let n = c.stream().read(&mut buffer).unwrap();
        let announced = u32::from_be_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]);
        assert_eq!(n, 4 + usize::try_from(announced).unwrap());
    }
}

/// Every tag is an ordinary one, none is none, and two requests with the same tag are two.
#[test]
fn a_tag_is_lost_or_taken_for_none() {
    let mut c = Client::connect(shared());
    assert_eq!(c.ask(&get("/ctl/name")), "rev=1 value=\"local\"");
    for tag in [0, 1, -1, 127, 128, 1 << 21, i32::MAX, i32::MIN] {
        assert_eq!(c.ask(&get("/ctl/name").tag(tag)), format!("tag={tag} rev=1 value=\"local\""));
        assert_eq!(c.ask(&bare(Verb::Get).tag(tag)), format!("tag={tag} MISSING_ARG"));
        assert_eq!(c.ask(&bare(Verb::Nop).tag(tag)), format!("tag={tag}"));
        assert_eq!(c.ask(&access("wrong").tag(tag)), format!("tag={tag} OTHER \"permission denied\""));
        let made = c.call(&set("/tag", -1, b"").tag(tag));
        assert_eq!(made.to_string(), format!("tag={tag} rev={}", made.revision()));
        let said = c.ask(&wait("/tag", made.revision()).tag(tag));
        assert_eq!(said, format!("tag={tag} flags=4 rev={} path=\"/tag\" value=\"\"", made.revision()));
    }
    // The same tag, outstanding at once: both waits, and what comes behind them.
    let now = c.rev();
    c.send_all(&[wait("/twice", now).tag(4), wait("/twice", now).tag(4), get("/ctl/name").tag(4)]);
    assert_eq!(c.recv().to_string(), "tag=4 rev=1 value=\"local\"");
    let made = Client::connect(shared()).put("/twice", b"");
    let event = format!("tag=4 flags=4 rev={made} path=\"/twice\" value=\"\"");
    assert_eq!(c.recv_sorted(2), [event.clone(), event]);
}

/// Pipelined mutations of one connection are applied in their order, and each is answered.
#[test]
fn pipelined_requests_are_lost_or_reordered() {
    let mut c = Client::connect(shared());
    let values: Vec<String> = (0..2_000).map(|i| i.to_string()).collect();
    let sets: Vec<_> = (0..).zip(&values).map(|(tag, v)| set("/pipe/f", -1, v.as_bytes()).tag(tag)).collect();
    c.send_all(&sets);
    let mut made = vec![0; values.len()];
    for _ in 0..values.len() {
        let said = c.recv();
        let tag = usize::try_from(said.tag.unwrap()).unwrap();
        assert_eq!(made[tag], 0, "answered once");
        made[tag] = said.revision();
    }
    assert!(made.is_sorted(), "in the order in which they were sent");
    for (value, rev) in values.iter().zip(made).step_by(97) {
        assert_eq!(c.ask(&get("/pipe/f").at(rev)), format!("rev={rev} value=\"{value}\""));
    }
    // With rev 0, only the first of a hundred gets it.
    let sets: Vec<_> = (0..100).map(|tag| set("/pipe/once", 0, b"").tag(tag)).collect();
    c.send_all(&sets);
    for _ in 0..100 {
        let said = c.recv();
        assert_eq!(said.err_code.is_none(), said.tag == Some(0), "{said}");
    }
}

/// After the client's end of stream, what was received is carried out and answered, waits apart; then the connection is
/// closed.
#[test]
fn the_end_of_a_stream_drops_what_came_before_it() {
    let mut c = Client::connect(shared());
    let now = c.rev();
    c.send_all(&[
        wait("/eos/never", now).tag(1),
        set("/eos/a", 0, b"x").tag(2),
        get("/ctl/name").tag(3),
        bare(Verb::Sync).tag(4),
        set("/eos/a/b", 0, b"").tag(5),
        del("/eos/none", 0).tag(6),
        wait("/eos/*", i64::MAX).tag(7),
        walk("/ctl/name", 0).tag(8),
    ]);
    c.half_close();
    let said = c.recv_sorted(6);
    let made = Client::connect(shared()).call(&get("/eos/a")).revision();
    assert_eq!(said[0], format!("tag=2 rev={made}"));
    assert_eq!(said[1], "tag=3 rev=1 value=\"local\"");
    assert!(said[2].starts_with("tag=4 rev="), "{said:?}");
    assert_eq!(said[3..5], ["tag=5 NOTDIR", "tag=6"]);
    assert_eq!(said[5], "tag=8 flags=4 rev=1 path=\"/ctl/name\" value=\"local\"");
    c.ends();
    // With nothing outstanding, with nothing ever sent, with half a frame.
    let whole = framed(&bare(Verb::Access));
    for (sent, answered) in [(&whole[..], true), (&whole[..whole.len() - 1], false), (&[], false)] {
        let mut c = Client::connect(shared());
        c.raw(sent);
        c.half_close();
        if answered {
            assert_eq!(c.recv().to_string(), "ok");
        }
        c.ends();
    }
    // A thousand writes and then the end: all are answered.
    let mut c = Client::connect(shared());
    let sets: Vec<_> = (0..1_000).map(|tag| set("/eos/many", -1, b"").tag(tag)).collect();
    c.send_all(&sets);
    c.half_close();
    (0..1_000).for_each(|_| assert!(c.recv().revision() > now));
    c.ends();
    // As are as many bytes as no socket holds.
    let value = vec![b'v'; 1 << 20];
    let made = Client::connect(shared()).put("/eos/large", &value);
    let mut c = Client::connect(shared());
    let gets: Vec<_> = (0..40).map(|tag| get("/eos/large").tag(tag)).collect();
    c.send_all(&gets);
    c.half_close();
    (0..40).for_each(|tag| assert_eq!(c.recv().to_string(), format!("tag={tag} rev={made} value=<{} bytes>", 1 << 20)));
    c.ends();
}

/// A mutation that was received is applied even if its sender has gone: with and without a reset of the connection.
#[test]
fn a_write_dies_with_its_sender() {
    let server = Setup::new().start();
    let mut watcher = server.connect();
    let now = watcher.rev();
    for i in 0..50 {
        let path = format!("/gone/{i}");
        watcher.send(&wait(&path, now));
        let mut c = server.connect();
        let write = set(&path, 0, path.as_bytes());
        if i % 2 == 0 {
            c.send(&write);
        } else {
            // An answer that nobody reads makes the close a reset.
            c.send_all(&[bare(Verb::Rev), write]);
        }
        drop(c);
        let said = watcher.recv();
        assert_eq!((said.path(), said.value), (path.clone(), Some(path.into_bytes())));
    }
}

/// A connection that is made before the server is ready waits, and is then served like any other: the original leaves it
/// READONLY for ever.
#[test]
fn a_connection_made_at_the_start_stays_read_only() {
    // A port that was free a moment ago; the server has it to itself as soon as it listens.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let server = Setup::new().listen(port).spawn();
    let stream = crate::common::eventually("it listens", || std::net::TcpStream::connect(port).ok());
    let mut c = Client::over(stream);
    let said = c.call(&set("/early", 0, b""));
    assert!(said.revision() > 0, "{said}");
    drop(server);
}
