//! Kill -9 at any moment: every acknowledged write is there after the restart with its revision and value, nothing is half
//! applied, the history has no gap, and the revision never goes back.

use std::time::Duration;

use crate::common::load::{Ledger, Load};
use crate::common::process::Setup;
use crate::common::wire::*;
use crate::common::{Random, eventually};
use doozer::limits::{SEGMENT_MIN, SNAPSHOT_AFTER};
use doozer::wire::Verb;
use rustix::process::Signal;

/// Again and again on one directory, in the midst of writes, and now and then in the midst of starting.
#[test]
fn a_crash_loses_or_halves_a_write() {
    let setup = Setup::new();
    let mut random = Random(4);
    let mut ledger = Ledger::default();
    for round in 0..20 {
        if round % 3 == 2 {
            let starting = setup.spawn();
            std::thread::sleep(Duration::from_micros(random.next() % 300_000));
            starting.kill();
        }
        let server = setup.start();
        ledger.check(&mut server.connect());
        let load = Load::start(server.addr(), round, 3);
        load.reach(random.below(1_500));
        server.kill();
        ledger.add(load.join());
    }
    // Once more from the beginning, all of it.
    let server = setup.start();
    ledger.again();
    ledger.check(&mut server.connect());
    let stopped = server.stop();
    assert_eq!(stopped.status, Some(0), "{}", stopped.stderr);
    assert!(stopped.stderr.contains(&format!("revision {}", ledger.checked)), "{}", stopped.stderr);
}

/// A server that is told to stop under load ends what is in the log, and acknowledges nothing that is not.
#[test]
fn an_orderly_stop_loses_a_write() {
    let setup = Setup::new();
    let mut ledger = Ledger::default();
    for (round, signal) in [Signal::TERM, Signal::INT, Signal::TERM, Signal::INT].into_iter().enumerate() {
        let server = setup.start();
        ledger.check(&mut server.connect());
        let load = Load::start(server.addr(), round, 4);
        load.reach(500);
        server.signal(signal);
        let stopped = server.exited();
        assert_eq!(stopped.status, Some(0), "{}", stopped.stderr);
        ledger.add(load.join());
    }
    ledger.check(&mut setup.start().connect());
}

/// A node that is killed while it is founded is founded at the next start, whatever there is of it.
#[test]
fn a_crash_at_the_first_start_leaves_a_directory_that_nothing_starts_on() {
    let mut random = Random(5);
    for round in 0..12 {
        let setup = Setup::new();
        for _ in 0..=round % 3 {
            let founding = setup.spawn();
            std::thread::sleep(Duration::from_micros(random.next() % 250_000));
            founding.kill();
        }
        let server = setup.start();
        let mut c = server.connect();
        assert_eq!(c.ask(&get("/ctl/name")), "rev=1 value=\"local\"");
        assert!(c.put("/x", b"") > 1);
        // The segment to come may still be in the making.
        eventually("files in the making are gone", || setup.files(".tmp").is_empty().then_some(()));
    }
}

const FILES: usize = 300;
const VALUE: usize = 64 << 10;

/// The value of a file's n-th write: large, cheap to make, and unlike every other.
fn large(file: usize, n: usize) -> Vec<u8> {
    let mut value = vec![u8::try_from((file + n) % 251).unwrap(); VALUE];
    value[..16].copy_from_slice(format!("{file:07} {n:08}").as_bytes());
    value[VALUE - 16..].copy_from_slice(format!("{n:08} {file:07}").as_bytes());
    value
}

/// Overwrites large files until the server dies; returns for each file the number of writes acknowledged, and of those
/// sent. `from` is where the last time ended.
fn overwrite(mut c: Client, mut sent: Vec<usize>) -> (Vec<usize>, Vec<usize>) {
    let mut acknowledged = sent.clone();
    let (mut ahead, mut behind) = (0, 0);
    loop {
        while ahead < behind + 16 {
            let file = ahead % FILES;
            let n = sent[file];
            sent[file] += 1;
            if !c.try_raw(&framed(&set(&format!("/large/{file:03}"), -1, &large(file, n)))) {
                while c.try_next().is_some() {
                    acknowledged[behind % FILES] += 1;
                    behind += 1;
                }
                return (acknowledged, sent);
            }
            ahead += 1;
        }
        match c.try_next() {
            Some(reply) => assert!(reply.revision() > 0),
            None => return (acknowledged, sent),
        }
        acknowledged[behind % FILES] += 1;
        behind += 1;
    }
}

/// Which write of its file a value is of.
#[track_caller]
fn which(file: usize, value: &[u8]) -> usize {
    let n = String::from_utf8_lossy(&value[8..16]).parse().unwrap();
    assert!(value == large(file, n), "file {file} holds what nobody wrote");
    n
}

/// Snapshots are taken, segments sealed and used again while the server writes; it is killed in the midst of a snapshot.
/// What was acknowledged is there, from the snapshot and the log behind it; what is readable of the past stays so.
#[test]
fn a_crash_in_a_snapshot_loses_a_write() {
    const HISTORY: i64 = 100;
    let setup = Setup::new().flags(["-hist", &HISTORY.to_string()]);
    let mut written = vec![0; FILES];
    let mut last = 0;
    for round in 0..5 {
        let server = setup.start();
        let mut c = server.connect();
        let now = c.rev();
        assert!(now > last, "the revision went back from {last} to {now}");
        for (file, written) in written.iter().enumerate() {
            let said = c.call(&get(&format!("/large/{file:03}")));
            let value = said.value.unwrap();
            if *written > 0 {
                let n = which(file, &value);
                assert!(n + 1 >= *written, "file {file}: {written} writes were acknowledged, the last there is {n}");
            }
        }
        // The history: at least as long as it was asked for (a snapshot holds on to what it needs), and whole.
        if round > 0 {
            for rev in now - HISTORY + 1..=now {
                let event = c.call(&wait("/**", rev));
                assert_eq!(event.rev, Some(rev));
                let path = event.path();
                let Some(file) = path.strip_prefix("/large/").map(|file| file.parse().unwrap()) else { continue };
                which(file, event.value.as_ref().unwrap());
                let then = c.call(&get(&path).at(rev));
                assert!(then.rev == Some(rev) && then.value == event.value, "{then}");
                let before = c.call(&get(&path).at(rev - 1));
                assert!(rev - 1 <= now - HISTORY || before.rev < Some(rev), "{before}");
            }
        }
        // The log is not kept for ever: what makes a snapshot due, what is written meanwhile, two to come.
        assert!(setup.files(".log").len() <= 9, "{:?}", setup.files(".log"));
        assert!(setup.files(".snap").len() <= 2, "{:?}", setup.files(".snap"));
        let sent = written.clone();
        let writer = std::thread::spawn(move || overwrite(c, sent));
        let before = setup.files(".snap");
        if round % 2 == 0 {
            eventually("a snapshot is begun", || setup.files(".snap.tmp").pop());
            // Somewhere in the midst of it.
            std::thread::sleep(Duration::from_millis(17 * round));
        } else {
            eventually("a snapshot is taken", || (setup.files(".snap") > before).then_some(()));
        }
        last = server.connect().rev();
        server.kill();
        let (acknowledged, sent) = writer.join().unwrap();
        assert!(acknowledged.iter().zip(&sent).all(|(a, s)| a <= s));
        // A write that was sent may be there or not. The next round goes on behind it.
        written = sent;
        let server = setup.start();
        let mut c = server.connect();
        for (file, acknowledged) in acknowledged.iter().enumerate() {
            if *acknowledged > 0 {
                let n = which(file, &c.call(&get(&format!("/large/{file:03}"))).value.unwrap());
                assert!(
                    (*acknowledged..=written[file]).contains(&(n + 1)),
                    "file {file}: {n}, acknowledged {acknowledged}"
                );
                written[file] = n + 1;
            }
        }
        let stopped = server.stop();
        assert_eq!(stopped.status, Some(0), "{}", stopped.stderr);
    }
    // In the end there is one snapshot, nothing in the making, and just the history that was asked for.
    let server = setup.start();
    let mut c = server.connect();
    eventually("files in the making are gone", || setup.files(".tmp").is_empty().then_some(()));
    eventually("the older snapshot is gone", || (setup.files(".snap").len() == 1).then_some(()));
    eventually("the history is trimmed", || {
        let now = c.put("/trim", b"");
        assert!(c.call(&get("/trim").at(now - HISTORY + 1)).err_code.is_none());
        (c.ask(&get("/trim").at(now - HISTORY)) == "TOO_LATE").then_some(())
    });
    let all = std::fs::read_dir(&setup.dir).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len());
    let all: u64 = all.sum();
    assert!(all < 2 * SNAPSHOT_AFTER * SEGMENT_MIN + 4 * (FILES * VALUE) as u64, "{} MiB on the disk", all >> 20);
}

/// A snapshot holds the whole history: after a crash while it is taken, and after one behind it, every revision since the
/// first is there, as the writers remember it.
#[test]
fn a_snapshot_leaves_a_gap_in_the_history() {
    let setup = Setup::new();
    let mut ledger = Ledger::default();
    for (round, end) in [".snap.tmp", ".snap", ".log"].into_iter().enumerate() {
        let server = setup.start();
        ledger.again();
        ledger.check(&mut server.connect());
        let load = Load::start(server.addr(), round, 4);
        eventually("the load gets so far", || setup.files(end).pop());
        load.reach(200);
        server.kill();
        ledger.add(load.join());
    }
    let server = setup.start();
    let said = server.says("recovered");
    assert!(!said.contains(" 0 records of a snapshot"), "{said}");
    ledger.again();
    ledger.check(&mut server.connect());
}

/// Past revisions stay readable over a stop and over a crash; waits go on from where they were, and a different `-hist` is
/// heeded from the next start on.
#[test]
fn a_restart_forgets_the_past() {
    let setup = Setup::new();
    let server = setup.start();
    let mut c = server.connect();
    let made: Vec<i64> = (0..300).map(|i| c.put("/past", format!("{i}").as_bytes())).collect();
    assert_eq!(c.ask(&del("/past", -1)), "ok");
    let gone = c.rev();
    let mut history = Vec::new();
    for rev in 1..=gone {
        history.push((c.ask(&get("/past").at(rev)), c.ask(&stat("/").at(rev)), c.ask(&wait("/**", rev))));
    }
    let check = |c: &mut Client, from: i64| {
        for (rev, (read, root, event)) in (1..).zip(&history) {
            if rev < from {
                assert_eq!(c.ask(&get("/past").at(rev)), "TOO_LATE", "revision {rev}");
                assert_eq!(c.ask(&wait("/**", rev)), "TOO_LATE", "revision {rev}");
            } else {
                assert_eq!(c.ask(&get("/past").at(rev)), *read, "revision {rev}");
                assert_eq!(c.ask(&stat("/").at(rev)), *root, "revision {rev}");
                assert_eq!(c.ask(&wait("/**", rev)), *event, "revision {rev}");
            }
        }
        // A watcher that had seen the tenth write goes on with the next.
        if from == 1 {
            let next = c.call(&wait("/past", made[10] + 1));
            assert_eq!((next.rev, next.value), (Some(made[11]), Some(b"11".to_vec())));
            assert_eq!(c.call(&wait("/past", made[299] + 1)).flags, Some(8));
        }
    };
    check(&mut c, 1);
    assert_eq!(server.stop().status, Some(0));
    let server = setup.start();
    check(&mut server.connect(), 1);
    server.kill();
    let server = setup.start();
    check(&mut server.connect(), 1);
    server.kill();
    let server = setup.clone().flags(["-hist", "150"]).start();
    let mut c = server.connect();
    let first = c.rev() - 150 + 1;
    check(&mut c, first);
    server.kill();
    let server = setup.start();
    let mut c = server.connect();
    assert_eq!(c.ask(&get("/past")), "rev=0 value=\"\"");
    let made = c.put("/past", b"again");
    assert!(made > gone);
    assert_eq!(c.ask(&get("/past").at(gone - 1)), format!("rev={} value=\"299\"", gone - 1));
}

/// Every kind of mutation, each alone and acknowledged before the kill.
#[test]
fn the_last_acknowledged_write_is_lost() {
    let setup = Setup::new();
    let mut now = 0;
    for round in 0..6 {
        let server = setup.start();
        let mut c = server.connect();
        assert!(c.rev() >= now);
        let path = format!("/last/{}", round / 2);
        let expected = match round % 3 {
            0 => format!("rev={} value=\"x\"", c.put(&path, b"x")),
            1 => {
                assert_eq!(c.ask(&del(&path, -1)), "ok");
                "rev=0 value=\"\"".into()
            }
            _ => {
                assert_eq!(c.ask(&bare(Verb::Nop)), "ok");
                c.ask(&get(&path))
            }
        };
        now = c.rev();
        server.kill();
        let server = setup.start();
        let mut c = server.connect();
        assert_eq!(c.ask(&get(&path)), expected);
        assert!(c.rev() >= now);
        if round % 3 == 2 {
            assert_eq!(c.ask(&wait("/", now)), format!("flags=0 rev={now} path=\"/\" value=\"\""));
        }
        now = c.rev();
    }
}
