//! The attacks, one a row: what a client, or a stranger at the port, can do that others might feel.

use std::io::Write as _;
use std::net::TcpStream;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use doozer::limits::{FRAME_MAX, LEVELS_MAX, OUTPUT_MAX, PARKED_MAX, RECEIVE_MAX, VALUE_MAX};
use doozer::wire::{Request, Verb};

use super::frames::{PREAMBLE, challenge, hello, join, proof, request, set};
use super::innocent::Door;
use super::swarm::{Stop, Swarm, connect, end, reset};
use crate::client::Client;
use crate::failure::Failure;
use crate::traffic::Random;

/// Connections of most attacks.
const CONNS: usize = 100;
/// Requests that are sent ahead before their answers are read.
const AHEAD: u64 = 500;
/// What strangers and small requests may take of the server's memory, in bytes.
const LITTLE: usize = 64 << 20;
/// Frames that are sent at once.
const AT_ONCE: usize = 200;

/// What is attacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// A single server.
    One,
    /// The leader of a cluster of three.
    Leader,
    /// A follower.
    Follower,
}

/// Where an attack goes, and how large it is.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The server that is attacked.
    pub door: Door,
    /// Small counts.
    pub quick: bool,
}

impl Target {
    fn count<T>(self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }
}

/// A row of [`ATTACKS`].
pub struct Attack {
    /// Its name in the figures.
    pub name: &'static str,
    /// What it does, in a sentence.
    pub what: &'static str,
    /// What it is done to.
    pub on: On,
    /// Whether secrets are set: the attacker does not know them.
    pub secret: bool,
    /// Memory, in bytes, that README lets it take beside what the server held before.
    pub holds: usize,
    /// Whether the innocent client whose REV is timed connects anew for each.
    pub fresh: bool,
    /// Makes what it needs, as a client that may write.
    pub prepare: fn(Target) -> Result<(), Failure>,
    /// Attacks, until it is told to stop.
    pub act: fn(Target, &Stop) -> Result<(), Failure>,
}

/// What most attacks are.
const PLAIN: Attack = Attack {
    name: "",
    what: "",
    on: On::One,
    secret: false,
    holds: LITTLE,
    fresh: false,
    prepare: |_| Ok(()),
    act: |_, _| Ok(()),
};

/// All attacks.
pub const ATTACKS: &[Attack] = &[
    Attack {
        name: "hello flood",
        what: "Strangers at the leader's port send Hello after Hello with a wrong secret, and never read.",
        on: On::Leader,
        secret: true,
        act: |target, stop| {
            let swarm = Swarm { conns: CONNS, reads: false, returns: true };
            swarm.run(target.door.addr, stop, |_, turn, output| {
                if turn == 0 {
                    output.extend_from_slice(PREAMBLE);
                }
                output.extend_from_slice(&hello(7, b"local", b"wrong").repeat(AT_ONCE));
            });
            Ok(())
        },
        ..PLAIN
    },
    Attack {
        name: "hello ids",
        what: "The same at a single server, with another node id in each Hello, and reading.",
        secret: true,
        act: |target, stop| {
            let mut id = 0;
            let swarm = Swarm { conns: CONNS, reads: true, returns: true };
            swarm.run(target.door.addr, stop, |_, turn, output| {
                if turn == 0 {
                    output.extend_from_slice(PREAMBLE);
                }
                for _ in 0..AT_ONCE {
                    id += 1;
                    output.extend_from_slice(&hello(id, b"local", b"wrong"));
                }
            });
            Ok(())
        },
        ..PLAIN
    },
    Attack {
        name: "challenge flood",
        what: "Strangers challenge a server twice, which is once more than it answers, and come back when they are refused.",
        secret: true,
        act: |target, stop| {
            peers_that_come_back(target, stop, &challenge().repeat(2));
            Ok(())
        },
        ..PLAIN
    },
    Attack {
        name: "proof flood",
        what: "Strangers challenge the leader, answer its own challenge with a wrong proof, and come back when they are refused.",
        on: On::Leader,
        secret: true,
        act: |target, stop| {
            peers_that_come_back(target, stop, &[challenge(), proof().repeat(AT_ONCE)].concat());
            Ok(())
        },
        ..PLAIN
    },
    Attack {
        name: "connections at once",
        what: "15,000 connections open at once, say nothing, and close at once, and again.",
        holds: 4 * LITTLE,
        act: |target, stop| {
            while !stop.is_set() {
                let opened = (0..target.count(15_000, 100)).take_while(|_| !stop.is_set());
                let streams: Vec<_> = opened.map_while(|_| connect(target.door.addr, true).ok()).collect();
                stop.rest(Duration::from_millis(100));
                // Half as a process that is killed, half in order.
                for (number, stream) in streams.into_iter().enumerate() {
                    if number % 2 == 0 { reset(stream) } else { drop(stream) }
                }
                stop.rest(Duration::from_millis(500));
            }
            Ok(())
        },
        ..PLAIN
    },
    Attack {
        name: "fat readers",
        what: "Clients ask for a value of 1 MiB sixteen times each, and do not read.",
        holds: OUTPUT_MAX,
        prepare: big,
        act: |target, stop| {
            let get = request(Verb::Get, BIG, |_| ()).repeat(16);
            let swarm = Swarm { conns: target.count(4000, 50), reads: false, returns: true };
            swarm.run(target.door.addr, stop, |_, turn, output| {
                if turn == 0 {
                    output.extend_from_slice(&get);
                }
            });
            Ok(())
        },
        ..PLAIN
    },
    Attack {
        name: "fat waits",
        what: "Clients wait for a value of 1 MiB, which is set again and again, and do not read.",
        holds: OUTPUT_MAX,
        prepare: big,
        act: |target, stop| {
            let swarm = Swarm { conns: target.count(4000, 50), reads: false, returns: true };
            waves(target, stop, swarm, 1, |_, rev, output| {
                output.extend_from_slice(&request(Verb::Wait, BIG, |request| request.rev = Some(rev)));
            })
        },
        ..PLAIN
    },
    Attack {
        name: "idle strangers",
        what: "Strangers connect as often as the server lets them, and say nothing.",
        secret: true,
        holds: 4 * LITTLE,
        fresh: true,
        act: |target, stop| {
            let mut idle = Vec::new();
            while !stop.is_set() {
                match connect(target.door.addr, true) {
                    Ok(stream) if idle.len() < target.count(18_000, 200) => idle.push(stream),
                    _ => stop.rest(Duration::from_millis(50)),
                }
            }
            Ok(())
        },
        ..PLAIN
    },
    Attack {
        name: "wrong access",
        what: "Clients guess secrets in a stream of ACCESS.",
        secret: true,
        act: |target, stop| {
            again(target, stop, CONNS, &request(Verb::Access, b"", |request| request.value = Some(b"guess")));
            Ok(())
        },
        ..PLAIN
    },
    Attack {
        name: "end of a listing, 40 clients",
        what: "40 clients ask for the end of a long listing again and again.",
        prepare: listing,
        act: |target, stop| end_of_listing(target, stop, 40),
        ..PLAIN
    },
    Attack {
        name: "end of a listing, 200 clients",
        what: "200 clients ask for the end of a long listing again and again.",
        prepare: listing,
        act: |target, stop| end_of_listing(target, stop, 200),
        ..PLAIN
    },
    Attack {
        name: "deep walk",
        what: "Clients ask for a WALK over the deepest paths.",
        prepare: |target| {
            let deep = [&b"/deep"[..], &b"/a".repeat(LEVELS_MAX - 2)].concat();
            many(target, target.count(100, 2), |number| {
                let path = [&deep[..], format!("/{number}").as_bytes()].concat();
                set(&path)
            })
        },
        act: |target, stop| {
            again(target, stop, CONNS, &request(Verb::Walk, b"/deep/**/*x", |request| request.offset = Some(i32::MAX)));
            Ok(())
        },
        ..PLAIN
    },
    Attack {
        name: "walks of the next revision",
        what: "60,000 WALKs with globs of 4,000 bytes wait for a revision to come, and again.",
        holds: PARKED_MAX,
        act: |target, stop| {
            let glob = [&b"/"[..], &b"**a?".repeat(1000)].concat();
            let swarm = Swarm { conns: CONNS, reads: true, returns: true };
            let each = target.count(600, 6);
            waves(target, stop, swarm, AHEAD_OF_NOW, |_, rev, output| {
                let walk = |request: &mut Request<'_>| (request.rev, request.offset) = (Some(rev), Some(0));
                output.extend_from_slice(&request(Verb::Walk, &glob, walk).repeat(each));
            })
        },
        ..PLAIN
    },
    Attack {
        name: "walks that count again",
        what: "20,000 WALKs of the next revision, whose place has to be counted from far back.",
        holds: PARKED_MAX,
        prepare: |target| {
            let mut client = target.door.enter()?;
            client.set(b"/attack/first", b"")?;
            let _beyond = client.call(Request { path: Some(b"/**"), offset: Some(0), ..Request::new(Verb::Walk) })?;
            many(target, target.count(60_000, 500), |_| set(b"/attack/m"))
        },
        act: |target, stop| {
            let swarm = Swarm { conns: CONNS, reads: true, returns: true };
            let each = target.count(200, 2);
            waves(target, stop, swarm, AHEAD_OF_NOW, |_, rev, output| {
                let walk = |request: &mut Request<'_>| (request.rev, request.offset) = (Some(rev), Some(i32::MAX));
                output.extend_from_slice(&request(Verb::Walk, b"/**", walk).repeat(each));
            })
        },
        ..PLAIN
    },
    Attack {
        name: "intricate globs",
        what: "8,192 waits for globs that stay possible to the last letter, and SETs that each has to be held against.",
        holds: PARKED_MAX,
        act: |target, stop| {
            let waits = target.count(8192, 64);
            let set = set(b"/aaaaaaaaaaaaa");
            let swarm = Swarm { conns: CONNS, reads: true, returns: true };
            swarm.run(target.door.addr, stop, |number, turn, output| {
                if (number, turn) == (0, 0) {
                    (0..waits).for_each(|number| output.extend_from_slice(&wait(&intricate(number), 1)));
                } else {
                    output.extend_from_slice(&set.repeat(AT_ONCE));
                }
            });
            Ok(())
        },
        ..PLAIN
    },
    Attack {
        name: "slots",
        what: "60,000 empty files in /ctl/cal, and SETs and DELs.",
        prepare: |target| {
            many(target, target.count(60_000, 200), |number| {
                let path = format!("/ctl/cal/x{number}");
                set(path.as_bytes())
            })
        },
        act: |target, stop| {
            let set = set(b"/attack/s");
            let del = request(Verb::Del, b"/attack/s", |request| request.rev = Some(-1));
            again(target, stop, CONNS, &[set, del].concat());
            Ok(())
        },
        ..PLAIN
    },
    Attack {
        name: "waits and a close",
        what: "A million waits on 100 connections, which are all closed at once, and again.",
        holds: PARKED_MAX,
        act: |target, stop| {
            let each = target.count(10_000_u64, 50);
            while !stop.is_set() {
                let mut streams: Vec<_> = (0..CONNS).map_while(|_| connect(target.door.addr, true).ok()).collect();
                for (number, stream) in (0..).zip(&mut streams) {
                    let paths = (0..each).map(|wait| format!("/w/{}", number * each + wait));
                    let waits: Vec<u8> = paths.flat_map(|path| wait(path.as_bytes(), i64::MAX)).collect();
                    push(stream, &waits, stop);
                }
                // Half as a process that is killed, half in order.
                for (number, stream) in streams.into_iter().enumerate() {
                    if number % 2 == 0 { reset(stream) } else { end(stream) }
                }
                stop.rest(Duration::from_millis(10));
            }
            Ok(())
        },
        ..PLAIN
    },
    Attack {
        name: "join flood",
        what: "Peers ask a follower to be let into the cluster, without pause.",
        on: On::Follower,
        act: |target, stop| {
            let joins = join().repeat(AT_ONCE);
            let swarm = Swarm { conns: CONNS, reads: true, returns: true };
            swarm.run(target.door.addr, stop, |number, turn, output| {
                if turn == 0 {
                    output.extend_from_slice(PREAMBLE);
                    output.extend_from_slice(&hello(number as u64, b"", b""));
                }
                output.extend_from_slice(&joins);
            });
            Ok(())
        },
        ..PLAIN
    },
    Attack {
        name: "random bytes",
        what: "Connections send bytes that mean nothing, and come back when they are closed.",
        act: |target, stop| {
            let mut random = Random::new(7);
            let swarm = Swarm { conns: CONNS, reads: true, returns: true };
            swarm.run(target.door.addr, stop, |number, turn, output| {
                // A third pretend to be peers, a third send frames of a likely length.
                match number % 3 {
                    0 if turn == 0 => output.extend_from_slice(PREAMBLE),
                    1 => output.extend_from_slice(&[0, 0, 4, 0]),
                    _ => {}
                }
                (0..128).for_each(|_| output.extend_from_slice(&random.next().to_le_bytes()));
            });
            Ok(())
        },
        ..PLAIN
    },
    Attack {
        name: "half frames",
        what: "Clients begin frames of the largest size, and do not end them.",
        holds: RECEIVE_MAX + LITTLE,
        act: |target, stop| {
            let length = u32::try_from(FRAME_MAX).unwrap_or(u32::MAX).to_be_bytes();
            let half = [&length[..], &vec![0x0a; FRAME_MAX - 1000]].concat();
            let swarm = Swarm { conns: CONNS, reads: false, returns: true };
            swarm.run(target.door.addr, stop, |_, turn, output| {
                if turn == 0 {
                    output.extend_from_slice(&half);
                }
            });
            Ok(())
        },
        ..PLAIN
    },
];

/// A file with a value of 1 MiB.
const BIG: &[u8] = b"/attack/big";

fn big(target: Target) -> Result<(), Failure> {
    target.door.enter()?.set(BIG, &vec![b'v'; VALUE_MAX]).map(|_| ())
}

/// Files of a long listing.
fn files(target: Target) -> u64 {
    target.count(50_000, 500)
}

fn listing(target: Target) -> Result<(), Failure> {
    many(target, files(target), |number| {
        let path = format!("/attack/list/{number:06}");
        set(path.as_bytes())
    })
}

fn end_of_listing(target: Target, stop: &Stop, conns: usize) -> Result<(), Failure> {
    let last = i32::try_from(files(target) - 100).unwrap_or(0);
    again(target, stop, conns, &request(Verb::Getdir, b"/attack/list", |request| request.offset = Some(last)));
    Ok(())
}

/// Connections that begin as peers do, and come back when they are closed.
fn peers_that_come_back(target: Target, stop: &Stop, frames: &[u8]) {
    let swarm = Swarm { conns: CONNS, reads: true, returns: true };
    swarm.run(target.door.addr, stop, |_, turn, output| {
        if turn == 0 {
            output.extend_from_slice(PREAMBLE);
            output.extend_from_slice(frames);
        }
    });
}

/// A wait for a glob, from a revision on.
fn wait(glob: &[u8], rev: i64) -> Vec<u8> {
    request(Verb::Wait, glob, |request| request.rev = Some(rev))
}

/// A glob of thirteen letters that are `a` or `?`, another for each number, and an end that nothing has.
fn intricate(number: usize) -> Vec<u8> {
    let letters = (0..13).map(|bit| if number >> bit & 1 == 0 { b'a' } else { b'?' });
    [b"/"[..].to_vec(), letters.collect(), b"zz".to_vec()].concat()
}

/// Sends the same request again and again on so many connections, and reads the answers.
fn again(target: Target, stop: &Stop, conns: usize, request: &[u8]) {
    let requests = request.repeat(AT_ONCE);
    let swarm = Swarm { conns, reads: true, returns: true };
    swarm.run(target.door.addr, stop, |_, _, output| output.extend_from_slice(&requests));
}

/// Makes so many requests, a number of them ahead, and takes their answers. The server may refuse them: an attack that it refuses is
/// one that it has mended.
fn many(target: Target, count: u64, each: impl Fn(u64) -> Vec<u8>) -> Result<(), Failure> {
    let mut client = target.door.enter()?;
    for first in (0..count).step_by(usize::try_from(AHEAD).unwrap_or(1)) {
        let numbers = first..count.min(first + AHEAD);
        numbers.clone().for_each(|number| client.send_bytes(&each(number)));
        client.flush()?;
        for _ in numbers {
            match client.receive() {
                Err(e) if e.code().is_none() => return Err(e),
                _ => {}
            }
        }
    }
    Ok(())
}

/// How far ahead a revision is for which all requests of a wave wait: far enough for them to arrive first.
const AHEAD_OF_NOW: i64 = 500;
/// How long a wave may take to arrive, in milliseconds.
const ARRIVES_MS: u64 = 700;

/// Has each connection of a swarm send what `each` gives for a revision to come, and then brings that revision about, again and again.
fn waves(
    target: Target,
    stop: &Stop,
    swarm: Swarm,
    ahead: i64,
    mut each: impl FnMut(usize, i64, &mut Vec<u8>),
) -> Result<(), Failure> {
    let (wave, awaited) = (AtomicU64::new(0), AtomicI64::new(0));
    let mut joined = vec![0; swarm.conns];
    std::thread::scope(|scope| {
        let bring = || {
            let mut client: Client = target.door.enter()?;
            while !stop.is_set() {
                let rev = client.revision()? + ahead;
                awaited.store(rev, Ordering::Relaxed);
                wave.fetch_add(1, Ordering::Release);
                stop.rest(Duration::from_millis(target.count(ARRIVES_MS, ARRIVES_MS / 10)));
                client.set(BIG, &vec![b'w'; if ahead == 1 { VALUE_MAX } else { 0 }])?;
                while !stop.is_set() && client.revision()? < rev {
                    client.set(b"/attack/tick", b"")?;
                }
            }
            Ok::<(), Failure>(())
        };
        let bringing = scope.spawn(bring);
        swarm.run(target.door.addr, stop, |number, _, output| {
            let now = wave.load(Ordering::Acquire);
            if joined[number] < now {
                joined[number] = now;
                each(number, awaited.load(Ordering::Relaxed), output);
            }
        });
        bringing.join().unwrap_or_else(|_| Err(Failure::new("the attacker's thread panicked")))
    })
}

/// Sends bytes on one connection, as long as the server takes them.
fn push(stream: &mut TcpStream, bytes: &[u8], stop: &Stop) {
    let _outcome = stream.set_write_timeout(Some(Duration::from_millis(500)));
    for piece in bytes.chunks(64 << 10) {
        if stop.is_set() || stream.write_all(piece).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The figures are found by their names, and the page tells each attack.
    #[test]
    fn each_attack_has_a_name_and_a_sentence_and_is_on_the_page() {
        let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
        let names: std::collections::BTreeSet<&str> = ATTACKS.iter().map(|attack| attack.name).collect();
        assert_eq!(names.len(), ATTACKS.len());
        for attack in ATTACKS {
            assert!(!attack.name.is_empty() && attack.what.ends_with('.'), "{}", attack.name);
            assert!(page.contains(&format!("| `{}` |", attack.name)), "{} is not on the page", attack.name);
        }
    }

    #[test]
    fn each_intricate_glob_is_another() {
        let all: std::collections::BTreeSet<Vec<u8>> = (0..8192).map(intricate).collect();
        assert_eq!(all.len(), 8192);
        assert!(all.iter().all(|glob| glob.len() == 16 && glob.ends_with(b"zz")));
    }
}
