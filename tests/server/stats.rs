//! What a server tells of itself: whether it is what has happened.

use std::net::SocketAddr;
use std::process::{Command, Output};

use crate::common::cluster::{Cluster, together};
use crate::common::process::Setup;
use crate::common::wire::*;
use doozer::stats::Stats;
use doozer::wire::{Request, Verb};

const STAGES: [&str; 6] = ["gather", "submit", "write", "replicate", "apply", "answer"];

fn stats(c: &mut Client) -> Stats {
    let told = c.call(&Request::new(Verb::Stats));
    Stats::decode(std::str::from_utf8(told.value.as_deref().unwrap()).unwrap()).unwrap()
}

fn count(stats: &Stats, stage: &str) -> u64 {
    stats.histogram(&format!("commit_{stage}_ns")).unwrap().count()
}

fn mean(stats: &Stats, stage: &str) -> f64 {
    stats.histogram(&format!("commit_{stage}_ns")).unwrap().mean()
}

fn doozer(addr: SocketAddr, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_doozer")).args(["-a", &format!("doozer:?ca={addr}")]).args(words).output().unwrap()
}

/// Who looks where the time goes must find all of it, and of every write.
#[test]
fn a_stage_of_some_writes_is_not_counted() {
    let server = Setup::new().start();
    let mut c = server.connect();
    let before = stats(&mut c);
    for n in 0..50 {
        c.put("/x", format!("{n}").as_bytes());
    }
    let now = stats(&mut c);
    let since = now.since(&before);
    assert_eq!(now.figure("revision"), before.figure("revision").map(|rev| rev + 50));
    for stage in STAGES {
        assert_eq!(count(&since, stage), 50, "{stage}: {}", since.encode());
    }
    assert_eq!((count(&since, "total"), count(&since, "forward")), (50, 0));
    let (sum, total) = (STAGES.iter().map(|stage| mean(&since, stage)).sum::<f64>(), mean(&since, "total"));
    assert!((sum / total - 1.0).abs() < 0.05, "the stages make {sum}, and all of it is {total}: {}", since.encode());
    assert!(mean(&since, "write") > 1_000.0, "no disk is written to in a microsecond: {}", since.encode());
    let commands = since.histogram("batch_commands").unwrap();
    assert_eq!((commands.count(), commands.max()), (50, 1));
}

/// At a follower the time is that of its way to the leader and back.
#[test]
fn what_is_forwarded_is_counted_as_if_it_were_not() {
    let _guard = together();
    let cluster = Cluster::new(3).up(3);
    let leader = cluster.leader();
    let follower = cluster.others(&[leader])[0];
    let mut c = cluster.connect(follower);
    let before = stats(&mut c);
    for _ in 0..20 {
        c.put("/x", b"");
    }
    let now = stats(&mut c);
    assert_eq!((now.figure("members"), now.figure("writable")), (Some(3), Some(1)));
    assert_ne!(now.figure("leader_raft_id"), now.figure("raft_id"));
    // The leader may have become another one meanwhile.
    if now.figure("term") == before.figure("term") {
        let since = now.since(&before);
        for stage in ["gather", "forward", "answer", "total"] {
            assert_eq!(count(&since, stage), 20, "{stage}: {}", since.encode());
        }
        assert_eq!(count(&since, "write"), 0);
    }
}

/// A server that was killed and started again while someone waited for the second look has been up for longer than the first was, by
/// then: what it has counted is all its own.
#[test]
fn a_server_that_was_started_again_is_taken_for_the_same() {
    let setup = Setup::new();
    let look = |puts| {
        let server = setup.clone().start();
        let mut c = server.connect();
        for _ in 0..puts {
            c.put("/x", b"");
        }
        let told = stats(&mut c);
        server.kill();
        told
    };
    let (first, second) = (look(5), look(3));
    assert_eq!(first.figure("raft_id"), second.figure("raft_id"));
    assert!(first.figure("boot_epoch") < second.figure("boot_epoch"));
    // As it would be a while later.
    let figures =
        second.figures.iter().map(|(name, n)| (name.clone(), if name == "uptime_ms" { n + 60_000 } else { *n }));
    let second = Stats { figures: figures.collect(), ..second };
    assert_eq!(second.since(&first).histograms, second.histograms);
    assert!(count(&second, "total") >= 3);
}

/// The command tells the same, to people and to programs, since the start or for a while.
#[test]
fn the_command_tells_something_else() {
    let server = Setup::new().start();
    let mut c = server.connect();
    for _ in 0..30 {
        c.put("/x", b"");
    }
    let count = stats(&mut c).histogram("commit_total_ns").unwrap().count();
    let table = String::from_utf8(doozer(server.addr(), &["stats"]).stdout).unwrap();
    let line = table.lines().find(|line| line.starts_with("commit_total_us")).unwrap();
    assert_eq!(line.split_whitespace().nth(1).unwrap(), count.to_string(), "{table}");
    let json = String::from_utf8(doozer(server.addr(), &["stats", "-json"]).stdout).unwrap();
    assert!(json.contains(&format!(r#""commit_total_ns":{{"count":{count},"#)), "{json}");
    let json = String::from_utf8(doozer(server.addr(), &["stats", "-json", "-i", "10ms"]).stdout).unwrap();
    assert!(json.contains(r#""commit_total_ns":{"count":0,"#), "nothing happened meanwhile: {json}");
    for wrong in [&["stats", "-i", "0s"][..], &["rev", "-json"], &["stats", "x"]] {
        assert_eq!(doozer(server.addr(), wrong).status.code(), Some(127), "{wrong:?}");
    }
}
