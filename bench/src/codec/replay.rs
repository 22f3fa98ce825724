//! The codecs against what real servers have said: `recorded/*.txt`.

use super::etcd::Etcd;
use super::zookeeper::ZooKeeper;
use super::{Answer, Codec, Event, Operation};

const VALUE: &[u8] = &[0xaf, 0xcd, 0x1d, 0x7b, 0x39, 0xa8, 0x20, 0xe2];

/// A step of the client's.
enum Step {
    Ask(u16, Operation<'static>),
    Close,
}
use Step::{Ask, Close};

/// Replays a connection: the client has to send what it sent then, taking `steps` as it needs them, and to learn what it
/// learned, however the bytes are cut. Returns that.
fn replay(mut codec: impl Codec, recorded: &str, steps: Vec<Step>, cut: usize) -> Vec<String> {
    let (mut steps, mut events) = (steps.into_iter(), Vec::new());
    let (mut input, mut output) = (Vec::new(), Vec::new());
    codec.open(&mut output);
    for line in recorded.lines().filter(|line| !line.starts_with('#')) {
        let (from, hex) = line.split_once(' ').unwrap();
        let bytes: Vec<u8> =
            (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
        if from == ">" {
            while output.len() < bytes.len() {
                match steps.next().unwrap_or_else(|| panic!("more was sent: {line}")) {
                    Ask(slot, operation) => codec.encode(slot, operation, &mut output),
                    Close => assert!(codec.close(&mut output)),
                }
            }
            assert_eq!(output, bytes);
            output.clear();
            continue;
        }
        for part in bytes.chunks(cut) {
            input.extend_from_slice(part);
            while let Some(taken) = codec.decode(&input, &mut output).unwrap() {
                events.extend(taken.event.map(|event| format!("{event:?}")));
                let consumed = taken.consumed;
                input.drain(..consumed);
            }
        }
    }
    assert!(steps.next().is_none() && input.is_empty(), "not all is said");
    events
}

fn check<C: Codec>(new: fn() -> C, recorded: &str, steps: fn() -> Vec<Step>, expected: &[Event<'_>]) {
    let expected: Vec<_> = expected.iter().map(|event| format!("{event:?}")).collect();
    for cut in [1, 7, usize::MAX] {
        assert_eq!(replay(new(), recorded, steps(), cut), expected, "cut into pieces of {cut}");
    }
}

fn written(slot: u16, revision: i64, token: i64) -> Event<'static> {
    Event::Answer { slot, answer: Answer::Written { revision, token } }
}

fn value(slot: u16, token: i64) -> Event<'static> {
    Event::Answer { slot, answer: Answer::Value { token, value: VALUE } }
}

#[test]
fn zookeeper_writes_and_reads() {
    const FILE: &[u8] = b"/bench-1795400754/s/000000";
    let steps = || {
        vec![
            Ask(0, Operation::Set { path: b"/bench-1795400754/count", value: b"" }),
            Ask(5, Operation::Set { path: FILE, value: VALUE }),
            Ask(0, Operation::Get { path: FILE }),
        ]
    };
    let expected = [Event::Open, written(0, 10, 1), written(5, 11, 1), value(0, 1)];
    check(ZooKeeper::new, include_str!("recorded/zookeeper-set-get.txt"), steps, &expected);
}

#[test]
fn zookeeper_refuses_a_compare_and_set_that_comes_too_late() {
    const PATH: &[u8] = b"/bench-1795400754/c/000000";
    let steps = || {
        let set = |token| Ask(0, Operation::CompareAndSet { path: PATH, value: VALUE, token });
        vec![Ask(0, Operation::Get { path: PATH }), set(0), Ask(0, Operation::Get { path: PATH }), set(1)]
    };
    let late = Event::Answer { slot: 0, answer: Answer::Mismatch };
    let expected = [Event::Open, value(0, 0), late, value(0, 1), written(0, 23, 2)];
    check(ZooKeeper::new, include_str!("recorded/zookeeper-cas.txt"), steps, &expected);
}

#[test]
fn zookeeper_wakes_a_watch() {
    const PATH: &[u8] = b"/bench-1795400791/l/lock";
    let steps = || {
        let create = || Ask(0, Operation::Create { path: PATH, value: b"held" });
        let delete = || Ask(0, Operation::Delete { path: PATH });
        vec![Ask(1, Operation::Watch { path: PATH }), create(), delete(), create(), delete(), Close]
    };
    let deleted = Event::Answer { slot: 0, answer: Answer::Deleted };
    let woken = Event::Woken { slot: 1, revision: None, deleted: true };
    let expected =
        [Event::Open, Event::Watching { slot: 1 }, woken, written(0, 40, 0), deleted, written(0, 42, 0), deleted];
    check(ZooKeeper::new, include_str!("recorded/zookeeper-lock.txt"), steps, &expected);
}

#[test]
fn etcd_writes_and_reads() {
    const FILE: &[u8] = b"/bench-1795400792/s/000000";
    let steps = || {
        vec![
            Ask(3, Operation::Set { path: b"/bench-1795400792/count", value: b"" }),
            Ask(0, Operation::Set { path: FILE, value: VALUE }),
            Ask(9, Operation::Get { path: FILE }),
        ]
    };
    let expected = [Event::Open, written(3, 10, 10), written(0, 11, 11), value(9, 11)];
    check(Etcd::new, include_str!("recorded/etcd-set-get.txt"), steps, &expected);
}

#[test]
fn etcd_refuses_a_compare_and_set_that_comes_too_late() {
    const PATH: &[u8] = b"/bench-1795400792/c/000000";
    let steps = || {
        let set = |token| Ask(0, Operation::CompareAndSet { path: PATH, value: VALUE, token });
        vec![Ask(0, Operation::Get { path: PATH }), set(13), Ask(0, Operation::Get { path: PATH }), set(15)]
    };
    let late = Event::Answer { slot: 0, answer: Answer::Mismatch };
    let expected = [Event::Open, value(0, 13), late, value(0, 15), written(0, 16, 16)];
    check(Etcd::new, include_str!("recorded/etcd-cas.txt"), steps, &expected);
}

#[test]
fn etcd_wakes_a_watch_again_and_again() {
    const PATH: &[u8] = b"/bench-1795400792/l/lock";
    let steps = || {
        let create = || Ask(0, Operation::Create { path: PATH, value: b"held" });
        let delete = || Ask(0, Operation::Delete { path: PATH });
        let count = Ask(0, Operation::Set { path: b"/bench-1795400792/count", value: b"" });
        vec![count, create(), delete(), Ask(1, Operation::Watch { path: PATH }), create(), delete()]
    };
    let deleted = Event::Answer { slot: 0, answer: Answer::Deleted };
    let woken = |revision, deleted| Event::Woken { slot: 1, revision: Some(revision), deleted };
    let expected = [
        Event::Open,
        written(0, 21, 21),
        written(0, 22, 22),
        deleted,
        Event::Watching { slot: 1 },
        woken(27, true),
        written(0, 28, 28),
        woken(28, false),
        deleted,
        woken(29, true),
    ];
    check(Etcd::new, include_str!("recorded/etcd-lock.txt"), steps, &expected);
}
