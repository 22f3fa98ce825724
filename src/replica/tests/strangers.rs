//! Strangers: peers that do not prove the secret, clients that do not know it, and those that say nothing.

use super::*;
use crate::replica::join::{self, Joiner};
use crate::wire::peer::{self, Frame, Hello, PREAMBLE, Refusal, Route, UNPROVED};

const SECRET: &str = "open sesame";

/// A node that has a secret.
fn guarded() -> Node {
    let secrets = Secrets { read_write: SECRET.into(), read_only: b"for readers".to_vec() };
    let mut node = Node::with(Config { secrets, ..config() }, 10);
    node.settle();
    node
}

fn encoded(frame: &Frame<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    peer::encode(Route::default(), frame, &mut bytes);
    bytes
}

/// A connection that begins as a peer's.
fn accepted(node: &mut Node) -> Conn {
    let conn = node.replica.open_from("10.0.0.9");
    assert_eq!(node.replica.receive(conn, &PREAMBLE).then, Then::More { needed: None });
    conn
}

/// What a node sends now.
fn output(node: &mut Node, conn: Conn) -> (Vec<u8>, Output) {
    let mut bytes = Vec::new();
    node.settle();
    let output = node.replica.output(conn, &mut bytes);
    node.replica.sent(conn);
    (bytes, output)
}

fn lines(node: &mut Node) -> Vec<String> {
    let mut lines = Vec::new();
    node.replica.take_lines(&mut lines);
    lines.into_iter().map(|line| line.text).collect()
}

fn aborted(node: &mut Node) -> Vec<Conn> {
    let mut conns = Vec::new();
    node.replica.take_aborted(usize::MAX, &mut conns);
    conns
}

/// Time passes, tick by tick, until a moment.
fn pass(node: &mut Node, from_ms: u64, to_ms: u64) {
    for now in (from_ms / 50 + 1)..=(to_ms / 50) {
        node.replica.tick(now * 50);
        node.settle();
    }
}

/// A peer with the wrong secret that goes on after its refusal, and reads nothing, made the server buffer an answer for each frame: 4 GB
/// in 16 s. Nothing is read behind a refusal, and one answer is all that there is.
#[test]
fn a_refused_peer_is_read_from() {
    let none = || Node::new(10);
    for (mut node, first) in [
        (guarded(), Frame::Hello(peers_hello(b"wrong"))),
        (guarded(), Frame::Hello(peers_hello(SECRET.as_bytes()))),
        (guarded(), Frame::Hello(peers_hello(b""))),
        (guarded(), Frame::Proof([0; 32])),
        (guarded(), Frame::Join { incarnation: 0, addr: "127.0.0.1:1" }),
        (none(), Frame::Hello(Hello { cluster_id: 78, ..peers_hello(b"") })),
        (none(), Frame::Hello(peers_hello(b"wrong"))),
        (none(), Frame::Hello(Hello { version: 9, ..peers_hello(b"") })),
        (none(), Frame::Challenge([1; 32])),
    ] {
        let conn = accepted(&mut node);
        let bytes = encoded(&first);
        let receipt = node.replica.receive(conn, &bytes.repeat(1_000));
        assert_eq!(receipt, Receipt { consumed: bytes.len(), then: Then::Close }, "{first:?}");
        for _ in 0..10 {
            assert_eq!(node.replica.receive(conn, &bytes).then, Then::Close, "{first:?}");
        }
        let (said, sends) = output(&mut node, conn);
        assert_eq!(sends, Output::Send);
        assert_eq!(peer::split(&said), Ok(peer::Split::Whole { size: said.len() }), "one frame");
        assert!(matches!(peer::decode(&said).unwrap().frame, Frame::Refuse { .. }));
        assert_eq!(output(&mut node, conn).1, Output::Finish);
    }
}

/// All that a peer without the secret ever gets is the same refusal, whatever it says: no name, no id, no address, no version.
#[test]
fn a_stranger_learns_who_the_node_is() {
    let (challenge, ping) = (Frame::Challenge([9; 32]), Frame::Ping);
    let sayings: [&[Frame<'_>]; 7] = [
        &[Frame::Hello(peers_hello(b"wrong"))],
        &[Frame::Hello(Hello { version: 7, ..peers_hello(b"") })],
        &[Frame::Hello(Hello { node: *NODE, ..peers_hello(b"") })],
        &[ping],
        &[challenge, Frame::Proof([0; 32])],
        &[Frame::Challenge([9; 32]), Frame::Hello(peers_hello(SECRET.as_bytes()))],
        &[Frame::Challenge([9; 32]), Frame::Challenge([9; 32])],
    ];
    for frames in sayings {
        let mut node = guarded();
        let conn = accepted(&mut node);
        let bytes: Vec<u8> = frames.iter().flat_map(encoded).collect();
        assert_eq!(node.replica.receive(conn, &bytes).then, Then::Close, "{frames:?}");
        let (mut said, _) = output(&mut node, conn);
        if matches!(frames[0], Frame::Challenge(_)) {
            let size = encoded(&Frame::Challenge([0; 32])).len();
            let challenge = said.drain(..size).collect::<Vec<u8>>();
            assert!(matches!(peer::decode(&challenge).unwrap().frame, Frame::Challenge(_)));
            assert_eq!(peer::route(&challenge), Route::default());
        }
        assert_eq!(said, encoded(&UNPROVED), "{frames:?}");
    }
}

/// A node that attaches with the right secret is let in, and the secret is not on the wire. One with another secret, or with none,
/// is refused, and both operators learn why.
#[test]
fn a_node_attaches_without_the_secret() {
    let joiner = |secret: &str| Joiner {
        node: *b"NEWNEWNEWNEWNEWN",
        incarnation: 0,
        cluster: String::new(),
        cluster_id: 0,
        key: Key::of_secret(secret.as_bytes()),
        addr: "127.0.0.1:8050".into(),
    };
    let mut node = guarded();
    for (n, secret) in [SECRET, "wrong", ""].into_iter().enumerate() {
        let conn = node.replica.open_from("10.0.0.9");
        let mut attempt = joiner(secret).attempt([u8::try_from(n).unwrap(); 32]);
        let (mut to_node, mut to_joiner) = (attempt.opening(), Vec::new());
        let mut all = to_node.clone();
        let answer = loop {
            let receipt = node.replica.receive(conn, &to_node);
            assert!(receipt.then == Then::Close || receipt.consumed == to_node.len());
            to_node.clear();
            let (said, _) = output(&mut node, conn);
            assert!(!said.is_empty(), "nothing more comes");
            all.extend_from_slice(&said);
            to_joiner.extend_from_slice(&said);
            let (used, answer) = attempt.receive(&to_joiner, &mut to_node).unwrap();
            to_joiner.drain(..used);
            all.extend_from_slice(&to_node);
            if let Some(answer) = answer {
                break answer;
            }
        };
        assert!(!all.windows(SECRET.len()).any(|bytes| bytes == SECRET.as_bytes()), "{secret}");
        let said = lines(&mut node);
        if secret == SECRET {
            assert_eq!(answer, join::Answer::Welcome { raft_id: 2, cluster_id: 77, cluster: "local".into() });
            assert!(!node.replica.is_stranger(conn));
        } else {
            let join::Answer::Refused(why) = answer else { panic!("{answer:?}") };
            assert!(why.contains("DOOZER_RWSECRET"), "{why}");
            assert!(said.iter().any(|line| line.contains("10.0.0.9") && line.contains("DOOZER_RWSECRET")), "{said:?}");
        }
    }
}

/// During an upgrade, the operator of a cluster with a secret needs to know that all nodes must be stopped, and which node is old.
#[test]
fn an_earlier_version_is_refused_without_a_word_of_the_remedy() {
    let mut node = guarded();
    let conn = accepted(&mut node);
    node.replica.receive(conn, &encoded(&Frame::Hello(peers_hello(SECRET.as_bytes()))));
    let said = lines(&mut node);
    let line = said.iter().find(|line| line.contains("PEERPEERPEERPEER")).unwrap_or_else(|| panic!("{said:?}"));
    assert!(line.contains("earlier version") && line.contains("stop all nodes"), "{line}");
    assert!(!line.contains(SECRET), "{line}");
}

/// What a stranger says must not make its time longer, and a node that has proved the secret must get somewhere too.
#[test]
fn frames_keep_a_connection_that_is_not_linked() {
    // Bytes of a frame that never ends.
    let mut node = Node::new(10);
    let conn = accepted(&mut node);
    let half = encoded(&Frame::Hello(peers_hello(b"")));
    pass(&mut node, 0, limits::GREETING_MS);
    assert_eq!(node.replica.receive(conn, &half[..half.len() - 1]).consumed, 0);
    assert_eq!(aborted(&mut node), []);
    pass(&mut node, limits::GREETING_MS, limits::GREETING_MS + 100);
    assert_eq!(aborted(&mut node), [conn]);
    // A node that attaches, and only pings.
    let mut node = Node::new(10);
    let conn = accepted(&mut node);
    node.replica.receive(conn, &encoded(&Frame::Hello(Hello { raft_id: 0, cluster_id: 0, ..peers_hello(b"") })));
    for now in (0..=limits::ATTACHING_MS).step_by(50) {
        node.replica.tick(now);
        assert!(!matches!(node.replica.receive(conn, &encoded(&Frame::Ping)).then, Then::Close), "at {now}");
        output(&mut node, conn);
    }
    assert_eq!(aborted(&mut node), []);
    pass(&mut node, limits::ATTACHING_MS, limits::ATTACHING_MS + 100);
    assert_eq!(aborted(&mut node), [conn]);
}

/// A second hello would let a link speak in another's name.
#[test]
fn a_link_greets_twice() {
    let mut node = Node::new(10);
    let conn = accepted(&mut node);
    assert_eq!(node.replica.receive(conn, &encoded(&Frame::Hello(peers_hello(b"")))).then, Then::More { needed: None });
    let again = Hello { node: *b"QEERQEERQEERQEER", ..peers_hello(b"") };
    assert_eq!(node.replica.receive(conn, &encoded(&Frame::Hello(again))).then, Then::Close);
}

/// A cluster without a secret can be upgraded one node at a time: its nodes greet as they always did.
#[test]
fn without_a_secret_a_node_greets_otherwise_than_before() {
    let mut node = Node::new(10);
    let conn = node.replica.dialed("10.0.0.2:8046");
    let (said, _) = output(&mut node, conn);
    let own = Hello {
        node: *NODE,
        raft_id: 1,
        epoch: 1,
        life: 7,
        cluster_id: 77,
        addr: "127.0.0.1:8046",
        ..peers_hello(b"")
    };
    let mut expected = PREAMBLE.to_vec();
    peer::encode(Route { from: 1, to: 0, hops: 0 }, &Frame::Hello(own), &mut expected);
    assert_eq!(said, expected);
    let conn = accepted(&mut node);
    node.replica.receive(conn, &encoded(&Frame::Hello(peers_hello(b""))));
    assert_eq!(output(&mut node, conn).0, expected[PREAMBLE.len()..]);
}

/// One who listens at an address that a node dials gets a challenge and a proof, and its refusals change nothing: the node does not
/// take the address for its own, does not give up its data, and repeats nobody's words in its log.
#[test]
fn a_node_believes_a_stranger_that_listens_where_it_dials() {
    for answers in [0, 1] {
        for reason in [Refusal::Myself, Refusal::Retired, Refusal::Cluster, Refusal::Secret] {
            let mut node = guarded();
            let conn = node.replica.dialed("10.0.0.2:8046");
            let (mut said, _) = output(&mut node, conn);
            let mut bytes = encoded(&Frame::Challenge([5; 32])).repeat(answers);
            bytes.extend(encoded(&Frame::Refuse { reason, detail: "words of a stranger" }));
            assert_eq!(node.replica.receive(conn, &bytes).then, Then::Close);
            said.extend(output(&mut node, conn).0);
            assert_eq!(node.replica.take_fate(), None, "{reason:?}");
            for secret in [SECRET.as_bytes(), NODE, b"local", b"127.0.0.1"] {
                assert!(!said.windows(secret.len()).any(|bytes| bytes == secret), "{reason:?}");
            }
            let lines = lines(&mut node);
            assert!(lines.iter().any(|line| line.contains("DOOZER_RWSECRET")), "{lines:?}");
            assert!(!lines.iter().any(|line| line.contains("words")), "{lines:?}");
        }
    }
}

/// Idle strangers kept their connections for ever. Those that are known keep theirs.
#[test]
fn strangers_stay_for_ever() {
    let mut node = guarded();
    let conns: Vec<Conn> = (0..10).map(|_| node.replica.open()).collect();
    let access = |secret: &'static [u8]| Request { value: Some(secret), ..request(Verb::Access, 1) };
    assert_eq!(node.call(conns[0], access(b"for readers")).err, None);
    assert_eq!(node.call(conns[1], access(SECRET.as_bytes())).err, None);
    assert!(node.call(conns[2], access(b"wrong")).err.is_some());
    accepted(&mut node);
    assert_eq!(node.replica.strangers(), 9);
    // Neither requests, nor wrong secrets, make the time longer.
    pass(&mut node, 0, limits::STRANGER_MS - 50);
    assert!(node.call(conns[2], access(b"wrong")).err.is_some());
    node.call(conns[3], request(Verb::Rev, 2));
    aborted(&mut node);
    pass(&mut node, limits::STRANGER_MS - 50, limits::STRANGER_MS);
    assert_eq!(
        aborted(&mut node).iter().filter(|conn| conns.contains(conn)).collect::<Vec<_>>(),
        conns[2..].iter().collect::<Vec<_>>()
    );
    assert_eq!(node.replica.strangers(), 0);
    assert!(lines(&mut node).iter().any(|line| line.contains("neither presented a secret")));
    pass(&mut node, limits::STRANGER_MS, 3 * limits::STRANGER_MS);
    assert!(lines(&mut node).iter().any(|line| line.contains("closed 8 more connections")));
    assert_eq!(aborted(&mut node), []);
    // If everyone may read, a client has access as soon as it is one.
    let secrets = Secrets { read_write: SECRET.into(), read_only: Vec::new() };
    let mut node = Node::with(Config { secrets, ..config() }, 10);
    node.settle();
    let (silent, reader) = (node.replica.open(), node.replica.open());
    node.call(reader, request(Verb::Rev, 2));
    pass(&mut node, 0, limits::STRANGER_MS);
    assert_eq!(aborted(&mut node), [silent]);
    // But if too many are there for that reason alone, the others need the secret to stay.
    let secrets = Secrets { read_write: SECRET.into(), read_only: Vec::new() };
    let mut node = Node::with(Config { secrets, readers: 2, ..config() }, 10);
    node.settle();
    let readers: Vec<Conn> = (0..5).map(|_| node.replica.open()).collect();
    readers.iter().for_each(|conn| assert!(node.call(*conn, request(Verb::Sync, 1)).rev.is_some()));
    assert_eq!(node.call(readers[2], access(SECRET.as_bytes())).err, None);
    assert_eq!(node.call(readers[3], access(b"")).err, None);
    assert_eq!(node.replica.strangers(), 2);
    pass(&mut node, 0, limits::STRANGER_MS);
    assert_eq!(aborted(&mut node), readers[3..]);
    // Who presents the secret makes room for another reader.
    assert_eq!(node.call(readers[0], access(SECRET.as_bytes())).err, None);
    let next = node.replica.open();
    node.call(next, request(Verb::Rev, 1));
    assert!(!node.replica.is_stranger(next));
    node.replica.close(next);
    node.replica.close(readers[1]);
    assert_eq!(node.replica.desk.sessions.count(), 4);
    // Without a secret nobody is a stranger.
    let mut node = Node::new(10);
    node.replica.open();
    assert_eq!(node.replica.strangers(), 0);
    pass(&mut node, 0, 3 * limits::STRANGER_MS);
    assert_eq!(aborted(&mut node), []);
}

/// A stranger makes room for another when it has had its time, the oldest first, and those that say nothing before others.
#[test]
fn a_client_that_has_just_come_is_closed_for_another() {
    let mut node = guarded();
    let conns: Vec<Conn> = (0..3).map(|_| node.replica.open()).collect();
    node.send(conns[0], &[request(Verb::Rev, 1)]);
    assert!(!node.replica.evict_stranger());
    pass(&mut node, 0, limits::STRANGER_SILENT_MS - 50);
    assert!(!node.replica.evict_stranger());
    pass(&mut node, limits::STRANGER_SILENT_MS - 50, limits::STRANGER_SILENT_MS);
    assert!(node.replica.evict_stranger() && node.replica.evict_stranger() && !node.replica.evict_stranger());
    // Its secret comes at the last moment.
    let access = Request { value: Some(SECRET.as_bytes()), ..request(Verb::Access, 1) };
    assert_eq!(node.call(conns[2], access).err, None);
    assert_eq!(aborted(&mut node), [conns[1]]);
    pass(&mut node, limits::STRANGER_SILENT_MS, limits::STRANGER_HEARD_MS);
    assert!(node.replica.evict_stranger());
    assert_eq!(aborted(&mut node), [conns[0]]);
}

/// A client could try 300,000 secrets in 0.04 s. Its connection pauses after each, longer and longer; what it has sent meanwhile stays
/// where it is, and the log says how many there were.
#[test]
fn a_client_tries_secrets_as_fast_as_it_can() {
    let mut node = guarded();
    let conn = node.replica.open_from("10.0.0.9");
    // It has access already, so that it is not closed as a stranger.
    let right = Request { value: Some(SECRET.as_bytes()), ..request(Verb::Access, 1) };
    node.call(conn, right);
    let wrong = Request { value: Some(b"guess"), ..request(Verb::Access, 1) };
    let mut bytes = Vec::new();
    wrong.encode(&mut bytes);
    let flood = bytes.repeat(1_000);
    let receipt = node.replica.receive(conn, &flood);
    let first = usize::try_from(limits::ACCESS_FREE).unwrap() + 1;
    assert_eq!(receipt, Receipt { consumed: first * bytes.len(), then: Then::Paused });
    let (mut answered, mut resumed) = (node.answers(conn).0.len(), Vec::new());
    assert_eq!(answered, first);
    let mut times = Vec::new();
    for now in 1..=1_200 {
        node.replica.tick(now * 50);
        node.settle();
        node.replica.take_resumed(&mut resumed);
        if resumed.drain(..).any(|resumed| resumed == conn) {
            assert_eq!(node.replica.receive(conn, &flood), Receipt { consumed: bytes.len(), then: Then::Paused });
            let (answers, _) = node.answers(conn);
            assert_eq!(answers.len(), 1);
            node.replica.sent(conn);
            answered += 1;
            times.push(now * 50);
        }
    }
    assert!((60..70).contains(&answered), "{answered} guesses in a minute");
    assert!(times.windows(3).all(|t| t[2] - t[1] >= t[1] - t[0]), "{times:?}");
    let said: Vec<String> = lines(&mut node).into_iter().filter(|line| line.contains("wrong secret")).collect();
    assert!(said.len() <= 7 && said[0].contains("10.0.0.9") && said[1].contains("more wrong secrets"), "{said:?}");
    // It has the right one in the end, and is served as before.
    let mut last = 60_000;
    while !resumed.contains(&conn) {
        last += 50;
        node.replica.tick(last);
        node.settle();
        node.replica.take_resumed(&mut resumed);
    }
    let right = Request { value: Some(SECRET.as_bytes()), ..request(Verb::Access, 7) };
    assert_eq!(node.call(conn, right), Answer { tag: Some(7), ..Answer::default() });
    assert!(node.call(conn, set(8, "/x", -1, b"")).rev.is_some());
}

/// A paused connection that breaks is forgotten like any other: what it sent is handed in to the end.
#[test]
fn a_paused_connection_that_breaks_stays() {
    let mut node = guarded();
    let conn = node.replica.open();
    let wrong = Request { value: Some(b"guess"), ..request(Verb::Access, 1) };
    let mut bytes = Vec::new();
    wrong.encode(&mut bytes);
    assert_eq!(node.replica.receive(conn, &bytes.repeat(3)).then, Then::Paused);
    node.replica.leave(conn);
    let receipt = node.replica.receive(conn, &bytes);
    assert_eq!(receipt, Receipt { consumed: bytes.len(), then: Then::More { needed: None } });
    let connections = node.replica.connections();
    node.replica.close(conn);
    assert_eq!((node.replica.connections(), node.replica.strangers()), (connections - 1, 0));
    pass(&mut node, 0, 2_000);
}

/// Clients without access must not fill the room for everybody's answers.
#[test]
fn a_stranger_that_does_not_read_has_as_much_output_as_others() {
    let mut node = guarded();
    let conn = node.replica.open();
    let mut bytes = Vec::new();
    request(Verb::Rev, 1).encode(&mut bytes);
    let receipt = node.replica.receive(conn, &bytes.repeat(5_000));
    assert_eq!(receipt.then, Then::Paused);
    assert!(node.replica.buffered() <= limits::STRANGER_OUTPUT + 100, "{}", node.replica.buffered());
}
